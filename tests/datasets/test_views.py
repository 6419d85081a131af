"""A view is the same at every visit, whoever asks, and costs no other random number."""

import copy
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS, DefaultScope
from torch.utils.data import DataLoader, Dataset

import freqkd.registry  # noqa: F401
from freqkd.datasets.fixed_views import VIEW, FixedViews, seeded

ROOT = Path(__file__).resolve().parent.parent.parent
SETS = {"mmdet": "blood_cells", "mmseg": "road_scenes"}


class Sample(SimpleNamespace):
    """A data sample as mmengine's, with nothing but metainfo."""

    def set_metainfo(self, metainfo):
        self.metainfo = metainfo


class Noise(Dataset):
    """Images that the three generators draw: anything left unseeded would show."""

    metainfo = dict(classes=("a",))
    pipeline = SimpleNamespace(transforms=["Noise()"])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        numbers = [random.random(), np.random.rand(), float(torch.rand(())), index]
        return dict(inputs=torch.tensor(numbers).reshape(1, 2, 2), data_samples=Sample())


def states():
    name, numbers, *rest = np.random.get_state()
    return random.getstate(), (name, numbers.tolist(), *rest), torch.get_rng_state().tolist()


def test_a_view_is_the_same_at_every_call_and_every_view_another():
    views = FixedViews(Noise(), 4)
    found = {}
    for index in range(3):
        for view in range(4):
            image = views.get_view(index, view)["inputs"]
            random.seed(view), np.random.seed(index), torch.manual_seed(view)
            assert torch.equal(views.get_view(index, view)["inputs"], image)
            found[index, view] = tuple(image.flatten()[:3].tolist())
    for generator in range(3):
        assert len({numbers[generator] for numbers in found.values()}) == 12
    other = FixedViews(Noise(), 4, seed=1).get_view(0, 0)["inputs"]
    assert not set(other.flatten()[:3].tolist()) & set(found[0, 0])


def test_it_costs_one_number_of_numpys_and_no_other():
    views = FixedViews(Noise(), 4)
    before = states()
    views.get_view(1, 2)
    assert states() == before
    kept = np.random.get_state()
    views[1]
    after = states()
    assert after != before
    np.random.set_state(kept)
    np.random.randint(4)
    assert states() == after


def test_generators_are_put_back_after_an_error():
    before = states()

    def fail():
        with seeded(1):
            random.random(), np.random.rand(), torch.rand(2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert states() == before


def test_the_ordinary_randomness_draws_the_view():
    views = FixedViews(Noise(), 3)
    np.random.seed(0)
    drawn = [views[-1]["data_samples"].metainfo[VIEW] for _ in range(30)]
    assert {identity.view for identity in drawn} == {0, 1, 2}
    assert {identity.image for identity in drawn} == {2}
    np.random.seed(0)
    assert [views[-1]["data_samples"].metainfo[VIEW] for _ in range(30)] == drawn


def test_a_sample_says_which_view_it_is():
    views = FixedViews(Noise(), 2, seed=7)
    one, other = (views.get_view(0, view)["data_samples"].metainfo[VIEW] for view in range(2))
    assert (one.image, one.view, one.shape) == (0, 0, (2, 2))
    assert (one.source.images, one.source.views, one.source.seed) == (3, 2, 7)
    assert one.source == other.source
    assert one.pixels != other.pixels


def test_workers_give_the_views_that_the_process_gives():
    views = FixedViews(Noise(), 5)
    for item in DataLoader(views, batch_size=None, num_workers=2, collate_fn=lambda item: item):
        identity = item["data_samples"].metainfo[VIEW]
        assert torch.equal(views.get_view(identity.image, identity.view)["inputs"], item["inputs"])


@pytest.fixture(params=sorted(SETS))
def real(request):
    """A shipped data set with its training pipeline, in fixed views, built by its config under its own scope."""
    dataset = Config.fromfile(ROOT / f"configs/_base_/datasets/{SETS[request.param]}.py").train_dataloader.dataset
    dataset.update(data_root=f"{ROOT}/{dataset.data_root}", indices=3)
    config = ConfigDict(type="freqkd.FixedViews", views=6, dataset=dataset)
    with DefaultScope.overwrite_default_scope(request.param):
        yield SimpleNamespace(config=config, views=DATASETS.build(copy.deepcopy(config)), scope=request.param)


def test_any_pipeline_can_sit_in_it(real):
    real.views.full_init()
    assert len(real.views) == 3
    items = [real.views.get_view(1, view) for view in range(6)]
    again = DATASETS.build(copy.deepcopy(real.config))
    for view, item in enumerate(items):
        same = again.get_view(1, view)
        assert torch.equal(same["inputs"], item["inputs"])
        assert same["data_samples"].metainfo[VIEW] == item["data_samples"].metainfo[VIEW]
    assert len({item["data_samples"].metainfo[VIEW].pixels for item in items}) > 2


def test_it_has_what_runners_and_samplers_ask_for(real):
    views, inner = real.views, real.views.dataset
    assert views.metainfo == inner.metainfo
    assert views.get_data_info(2) == inner.get_data_info(2)
    assert views.pipeline is inner.pipeline
    assert views.test_mode is False
    assert pickle.loads(pickle.dumps(views)).source == views.source
    if real.scope == "mmdet":
        assert views.get_cat_ids(0) == inner.get_cat_ids(0)
        sampler = dict(type="AspectRatioBatchSampler", sampler=DefaultSampler(views, shuffle=False), batch_size=2)
        assert list(DATA_SAMPLERS.build(sampler)) == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda config: config.dataset.pipeline.pop(1), "pipeline"),
        (lambda config: config.dataset.update(indices=2), "data"),
        (lambda config: config.update(seed=1), "seed"),
        (lambda config: config.update(views=5), "views"),
        (lambda config: config.dataset.update(serialize_data=False), None),
    ],
)
def test_its_source_names_what_the_views_depend_on(real, change, part):
    change(real.config)
    source = DATASETS.build(real.config).source
    differing = {name for name in source._fields if getattr(source, name) != getattr(real.views.source, name)}
    assert differing - {"images"} == ({part} if part else set())


def test_what_would_change_a_view_is_refused(real):
    with pytest.raises(ValueError, match=r"pipeline in freqkd.FixedViews must stay as it is.*PipelineSwitchHook"):
        real.views.pipeline = None
    with pytest.raises(ValueError, match="must stay as it is"):
        real.views.update_skip_type_keys(("Mosaic",))
    real.config.dataset.pipeline.insert(2, dict(type="mmdet.CachedMosaic"))
    with pytest.raises(ValueError, match="got a pipeline with CachedMosaic, which mixes in images of earlier visits"):
        DATASETS.build(real.config)


def test_transforms_that_mix_images_give_the_same_views_in_any_order():
    inner = Config.fromfile(ROOT / f"configs/_base_/datasets/{SETS['mmdet']}.py").train_dataloader.dataset.to_dict()
    load, pack = inner["pipeline"][:2], inner["pipeline"][-1]
    inner.update(data_root=f"{ROOT}/{inner['data_root']}", indices=6, pipeline=load)
    mixing = [
        dict(type="Mosaic", img_scale=(96, 128)),
        dict(type="RandomAffine", scaling_ratio_range=(0.5, 1.5), border=(-48, -64)),
        dict(type="MixUp", img_scale=(96, 128)),
    ]
    mixed = dict(type="MultiImageMixDataset", dataset=inner, pipeline=[*mixing, pack])
    config = ConfigDict(type="freqkd.FixedViews", views=2, dataset=mixed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        views, again = (DATASETS.build(copy.deepcopy(config)) for _ in range(2))
        found = {(index, view): views.get_view(index, view) for index in range(3) for view in range(2)}
        again[5]
        for place in reversed(found):
            for source in (again, views):
                item, same = found[place], source.get_view(*place)
                assert torch.equal(same["inputs"], item["inputs"])
                truth, other = (one["data_samples"].gt_instances for one in (item, same))
                assert torch.equal(truth.bboxes.tensor, other.bboxes.tensor)
                assert torch.equal(truth.labels, other.labels)
                assert same["data_samples"].metainfo[VIEW] == item["data_samples"].metainfo[VIEW]
    assert len({item["data_samples"].metainfo[VIEW].pixels for item in found.values()}) == 6


class Bare(Noise):
    def __getitem__(self, index):
        return dict(img=index)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FixedViews(Noise(), 0), "views must be at least 1, got 0"),
        (lambda: FixedViews(Noise(), 2).get_view(0, 2), r"view must lie in \[0, 2\), got 2"),
        (lambda: FixedViews(Bare(), 2)[0], r"must end in PackDetInputs.*got a result with \['img'\]"),
    ],
)
def test_wrong_use_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_index_out_of_range_ends_an_iteration():
    with pytest.raises(IndexError):
        FixedViews(Noise(), 2)[3]
    with pytest.raises(AttributeError, match="no_such"):
        FixedViews(Noise(), 2).no_such


def test_a_transform_without_a_name_of_its_own_is_the_same_in_every_process():
    class Plain:
        pass

    def views():
        inner = Noise()
        inner.pipeline = SimpleNamespace(transforms=[Plain()])  # its repr is an address
        return FixedViews(inner, views=2)

    kept = views()
    assert kept.source == views().source


def test_a_path_may_be_called_cached():
    inner = dict(
        type="CocoDataset",
        data_root="data/samples/blood_cells/",
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="images/val/"),
        metainfo=dict(classes=("RBC", "CachedCells")),
        lazy_init=True,
        pipeline=[],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        assert FixedViews(inner, views=1).views == 1
