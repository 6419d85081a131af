"""Values of images, stages and the sampler of a condensed data set, against the numbers of the authors' program."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from freqkd.datasets import CondensedSampler
from freqkd.datasets.condensation import ImageValues, blend, condense, kept_counts, prediction_entropy
from freqkd.utils.checkpoints import CheckpointError

VECTORS = "tests/vectors/kcd.npz"


@pytest.fixture(scope="module")
def vectors(request):
    with np.load(request.config.rootpath / VECTORS) as archive:
        return {key: archive[key] for key in archive.files}


def cases(vectors):
    return json.loads(str(vectors["meta"]))["cases"]


def test_the_entropy_is_the_authors(vectors):
    logits, expected = (torch.from_numpy(vectors[f"s0_entropy.{name}"]) for name in ("student", "entropy"))
    torch.testing.assert_close(prediction_entropy(logits, "softmax"), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("case", ["s0_V3", "s1_V2", "s2_V3_full"])
def test_the_stages_are_the_authors(case, vectors):
    """Every stage keeps, drops and pairs the same images in the same order, and the blended images are the same."""
    known = cases(vectors)[case]["hyper"]
    counts = kept_counts(known["n"], known["keep_ratio"], known["stages_total"])
    values, store = ImageValues(known["n"]), torch.from_numpy(vectors[f"{case}.data0"]).movedim(-1, 1).clone()
    done = 0
    for number in range(known["stages_run"]):
        begin = f"{case}.stage{number}_"
        found = {key.removeprefix(begin): vectors[key] for key in vectors if key.startswith(begin)}
        record = found["entropy_record"]  # -1 where an image was not trained in an epoch
        for epoch in record[:, done:].T:
            values.update((index, value) for index, value in enumerate(epoch.tolist()) if value > 0)
        done = record.shape[1]
        assert counts[number] == len(found["remain_before"])
        stage = condense(values.scores(known["alpha"]), counts[number], counts[number + 1])
        assert stage.kept.tolist() == found["remain"].tolist()
        if "lost" in found:
            pairs = stage.summary(known["eps_m"])
            assert stage.dropped.tolist() == found["lost"].tolist()
            assert list(pairs) == found["augmented_ids"].tolist()
            written = torch.from_numpy(found["data"]).movedim(-1, 1)
            for image, (other, rate) in pairs.items():
                difference = (blend(store[image], store[other], rate).int() - written[image].int()).abs()
                exact = rate * store[image].double() + (1 - rate) * store[other].double()
                is_whole = (exact - exact.round()).abs() < 1e-9  # where the last bit says which way it is cut
                assert difference.max() <= is_whole.max()
                assert not difference[~is_whole].any()
            unchanged = [image for image in range(known["n"]) if image not in pairs]
            assert torch.equal(store[unchanged], written[unchanged])
            store = written.clone()  # the authors' program keeps the blends
    assert values.mean.numpy() == pytest.approx(np.where(record > 0, record, 0).sum(1) / (record > 0).sum(1), rel=1e-12)


def test_what_the_released_program_fails_on():
    values = ImageValues(4)
    values.update([(0, 0.0), (2, 0.5), (3, 0.2)])  # an entropy of 0 is a value; image 1 was never seen
    stage = condense(values.scores(0.03), before=4, keep=4)
    assert stage.kept.tolist() == [2, 3, 0, 1]
    assert stage.summary(0.3) == {}  # nothing is dropped
    certain = torch.tensor([[1e4, 0.0, -1e4]], dtype=torch.float32)
    for activation in ("softmax", "sigmoid"):
        assert torch.isfinite(prediction_entropy(certain, activation)).all()
    assert prediction_entropy(certain, "softmax").item() == 0


def test_a_binary_entropy_by_hand():
    p = torch.tensor([[0.25, 0.9]], dtype=torch.float64)
    expected = -sum(x * np.log(x) + (1 - x) * np.log(1 - x) for x in (0.25, 0.9))
    assert prediction_entropy(p.logit(), "sigmoid").item() == pytest.approx(expected, rel=1e-12)


def test_a_probability_of_0_or_1_adds_nothing():
    inf = torch.inf
    assert prediction_entropy(torch.tensor([[0.0, 0.0, -inf]]), "softmax").item() == pytest.approx(np.log(2))
    assert prediction_entropy(torch.tensor([[0.0, inf, -inf]]), "sigmoid").item() == pytest.approx(np.log(2))


def test_a_share_is_kept_to_the_image():
    assert kept_counts(205, 0.7, 5) == [205, 193, 181, 169, 157, 144]
    assert kept_counts(3, 0.01, 2) == [3, 2, 1]
    assert kept_counts(7, 1.0, 3) == [7] * 4


# ---- the sampler ----------------------------------------------------------------------------------------------------


def sampler(count=10, **options):
    made = CondensedSampler(range(count), **{"keep": 0.4, "stages": 2, "seed": 3, **options})
    made.values.update((index, float(index)) for index in range(count))
    return made


def test_an_epoch_goes_over_what_is_kept():
    one = sampler()
    assert len(one) == 10  # before a loop has planned, as MMEngine asks
    assert one.plan(passes=6) == ""
    drawn = []
    for epoch in range(6):
        one.set_epoch(epoch)
        drawn.append(list(one))
        assert len(one) == len(drawn[-1])
    kept = [range(10), range(10), range(3, 10), range(3, 10), range(6, 10), range(6, 10)]
    assert [sorted(indices) for indices in drawn] == [list(indices) for indices in kept]
    assert drawn[0] != drawn[1] != sorted(drawn[1])


def test_an_image_comes_back_when_others_are_worth_less():
    one = sampler(interval=1)
    one.plan(passes=3)
    assert one.stage(1).kept.tolist() == [9, 8, 7, 6, 5, 4, 3]
    one.values.update((index, -100.0) for index in range(3, 10))
    assert one.stage(2).kept.tolist() == [2, 1, 0, 9]


def test_a_stage_that_drops_nothing_changes_nothing():
    one = sampler(count=10, keep=0.8, stages=5, interval=1)
    one.plan(passes=6)
    assert one.counts == [10, 10, 10, 9, 9, 8]
    kept = one.stage(3).kept
    one.values.update([(1, -100.0)])
    assert one.stage(4).kept.tolist() == kept.tolist()
    assert 1 not in one.stage(5).kept


def test_an_endless_sampler_goes_on_and_skips_to_the_same_place():
    one, other = sampler(), sampler()
    for each in (one, other):
        assert each.plan(passes=None, samples=42) == ""
        assert each.interval == 2  # 2 * (10 + 7 + 4) samples
    whole = list(islice(one, 60))
    assert sorted(whole[20:27]) == list(range(3, 10))
    assert set(whole[34:]) == {6, 7, 8, 9}
    for begin in (0, 5, 10, 20, 26, 27, 41):
        other.skip(begin)
        assert list(islice(other, 60 - begin)) == whole[begin:]


def test_a_training_that_is_too_short_is_said():
    assert "the training ends before stage 2" in sampler().plan(passes=2)
    assert "its 3 passes over the data: fewer than 60%" in sampler(interval=3).plan(passes=8)
    assert sampler(interval=3).plan(passes=9) == ""


def test_a_sampler_without_its_hook_is_said():
    one = sampler(interval=1)
    with pytest.raises(ValueError, match="custom_hooks must have a"):
        one.set_epoch(1) or len(one)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(keep=0), "keep must be above 0"),
        (dict(keep=1.5), "keep must be at most 1"),
        (dict(stages=0), "stages must be at least 1"),
        (dict(interval=0.5), "interval must be a whole number"),
        (dict(alpha=-1), "alpha must be at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        sampler(**options)


def test_values_and_stages_are_saved():
    one, other = sampler(), sampler(seed=4)
    one.plan(passes=6)
    one.stage(1)
    other.load_state_dict(one.state_dict())
    other.plan(passes=6)
    other.values.update([(0, 1e9)])
    for each in (one, other):
        each.set_epoch(3)
    assert list(one) == list(other)  # decided before
    with pytest.raises(CheckpointError, match=r"CondensedSampler.keep must be 0.4, as in the checkpoint, got 0.5"):
        sampler(keep=0.5).load_state_dict(one.state_dict())
    with pytest.raises(CheckpointError, match="the number of images must be 10"):
        sampler(11).load_state_dict(one.state_dict())
