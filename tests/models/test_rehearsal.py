"""A rehearsal runs one image of the data through both networks and every term, says what fails, and leaves no trace."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

from freqkd.apis.preflight import check_model
from freqkd.apis.preflight.first_step import try_steps
from freqkd.losses.mse import MSELoss
from freqkd.models.distiller import Distiller
from freqkd.models.rehearsal import RehearsalError, first_iteration, rehearsing, take_image

KD = dict(
    loss=dict(type="freqkd.LogitLoss", divergence="binary_kl", activation="sigmoid"),
    student_tap="bbox_head.retina_cls",
    adapter=dict(type="freqkd.DenseLogits"),
)


@MODELS.register_module(force=True)
class BreaksLoss(MSELoss):
    """Fails as code of another package would, for one of the reasons that nobody foresees."""

    def forward(self, student, teacher):
        raise RuntimeError("shape of the moon")


@pytest.fixture
def sample(small):
    """Return `sample(task, channels=3)`: what a pipeline gives for one image."""

    def make(task="detection", channels=3):
        raw = small.raw(task, ((64, 96),))
        image = raw["inputs"][0]
        return dict(inputs=image.repeat(2, 1, 1)[:channels], data_samples=raw["data_samples"][0])

    return make


def test_it_returns_shapes_and_strides_of_both_sides(distill, sample):
    shapes = distill("detection").rehearse(sample())
    assert [one.shape for one in shapes["student"]["neck"]][:2] == [(1, 8, 8, 12), (1, 8, 4, 6)]
    assert [one.shape[1] for one in shapes["teacher"]["neck"]] == [16] * 5
    assert [one.stride for one in shapes["student"]["neck"]][:3] == [8, 16, 32]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_it_leaves_weights_statistics_modes_random_numbers_and_the_sample_as_they_were(distill, sample, task):
    model, given = distill(task).train(), sample(task)
    model.init_weights()
    state, random, before = copy.deepcopy(model.state_dict()), torch.get_rng_state(), copy.deepcopy(given)
    modes = [module.training for module in model.modules()]
    model.rehearse(given)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(given["inputs"], before["inputs"])
    assert given["data_samples"].metainfo == before["data_samples"].metainfo
    assert "iter" not in MessageHub.get_current_instance().runtime_info


def test_a_cache_neither_looks_for_the_image_nor_stores_it(cached, sample):
    model = cached()
    model.rehearse(sample())
    assert not model.teacher.dir.exists()


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_than_three_channels(small, sample, teachers, freekd_term, tmp_path, channels):
    plain = dict(backbone__in_channels=channels, data_preprocessor__mean=None, data_preprocessor__std=None)
    plain["data_preprocessor__bgr_to_rgb"] = False
    network = small.config("detection", 8, **plain)
    built = small.build(network, "detection")
    torch.save(dict(state_dict=built.state_dict()), tmp_path / "teacher.pth")
    teacher = dict(config=dict(model=network, default_scope="mmdet"), checkpoint=str(tmp_path / "teacher.pth"))
    terms = dict(loss_freekd=freekd_term("detection"))
    model = Distiller(small.build(small.config("detection", 4, **plain), "detection"), teacher, terms)
    for given in (None, sample(channels=channels)):
        assert model.rehearse(given)["teacher"]["neck"][0].shape[1] == 16
    images = take_image(model, sample(channels=channels), (64, 96)).inputs
    assert images.shape == (1, channels, 64, 96)


def test_a_buffer_that_shares_its_memory_is_left_alone():
    network = torch.nn.BatchNorm2d(2)
    network.register_buffer("shared", torch.zeros(1).expand(4))
    with rehearsing(network):
        network.running_mean += 1
    assert network.running_mean.tolist() == [0, 0]


def test_terms_with_an_adapter_are_run_on_an_image_of_the_data_alone(distill, sample, small):
    other = small.config("detection", 4, bbox_head__num_classes=7)
    model = distill("detection", terms=dict(loss_kd=KD), student=other)
    model.rehearse()
    words = r"^terms.loss_kd: .*\(in a rehearsal of terms.loss_kd on an image of the training data, input \(1, 3, 64, 96\)\)$"
    with pytest.raises(ValueError, match=words):
        model.rehearse(sample())


def test_an_error_of_ours_says_that_it_was_a_rehearsal_and_of_what(distill, freekd_term, sample):
    model = distill("detection", terms=dict(loss_freekd=freekd_term("detection", align=None)))
    for given, image in ((None, "a blank image"), (sample(), "an image of the training data")):
        words = rf"same shape.* \(in a rehearsal of terms.loss_freekd on {image}, input \(1, 3, 64, 96\)\)$"
        with pytest.raises(ValueError, match=words):
            model.rehearse(given)


def test_a_failure_that_nobody_foresaw_names_the_part(distill, sample):
    where = r"failed in a rehearsal on an image of the training data, input \(1, 3, 64, 96\): "
    model = distill("detection", terms=dict(loss_mse=dict(loss=dict(type="mmengine.BreaksLoss"))))
    with pytest.raises(RehearsalError, match=rf"^terms.loss_mse {where}RuntimeError: shape of the moon"):
        model.rehearse(sample())
    for part, network in (("teacher", model.teacher.model), ("student", model.student)):
        handle = network.backbone.register_forward_pre_hook(lambda *_: {}["nothing"])
        with pytest.raises(RehearsalError, match=rf"^the {part} {where}KeyError: nothing"):
            model.rehearse(sample())
        handle.remove()
    with pytest.raises(
        RehearsalError, match=r"^the data preprocessor failed in a rehearsal on an image of the training"
    ):
        model.rehearse(dict(inputs="no image"))


@pytest.fixture
def fails(monkeypatch, small, teachers, freekd_term):
    """Return `fails(error)`: a config of a distillation whose rehearsal fails so."""

    def make(error):
        def rehearse(*_):
            raise error

        monkeypatch.setattr(Distiller, "rehearse", rehearse)
        term = dict(freekd_term("detection"), type="freqkd.DistillTerm")
        model = dict(type="freqkd.Distiller", student=small.config("detection", 4), terms=dict(loss_freekd=term))
        return Config(dict(model=dict(model, teacher=teachers("detection")), default_scope="mmdet"))

    return make


def test_the_training_starts_after_such_a_failure_with_one_warning(fails, capsys):
    assert check_model(fails(RehearsalError("the student failed in a rehearsal: no reason"))) == {}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "rehears" in line]
    assert line.startswith("warning: the student failed in a rehearsal: no reason; the training starts all the same;")
    assert "--no-rehearsal" in line


def test_it_does_not_start_after_an_error_of_ours_but_without_rehearsal(fails):
    config = fails(ValueError("it does not fit"))
    with pytest.raises(ValueError, match="it does not fit"):
        check_model(config)
    assert check_model(config, rehearsal=False) == {}


def test_a_step_that_fails_too_is_told_alone(fails, monkeypatch, capsys):
    config = fails(RehearsalError("the student failed in a rehearsal"))
    monkeypatch.setattr("freqkd.apis.preflight.model.try_steps", lambda *_: int("a"))
    with pytest.raises(ValueError, match="invalid literal"):
        check_model(config)
    assert "rehears" not in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "expected"), [((), True), (("--no-rehearsal",), False)])
def test_the_tool_has_a_switch(monkeypatch, tool, tiny_config, tmp_path, arguments, expected):
    given = []
    monkeypatch.setattr("freqkd.commands.train.train", lambda *_, rehearsal: given.append(rehearsal))
    assert tool("train", tiny_config(tmp_path / "config.py", "detection", "distill"), *arguments) == 0
    assert given == [expected]


def test_the_first_iteration_is_told_where_no_runner_does():
    info = MessageHub.get_current_instance().runtime_info
    with first_iteration():
        assert (info["iter"], info["epoch"]) == (0, 0)
    info["iter"] = 7
    with first_iteration():
        assert (info["iter"], info["epoch"]) == (7, 0)
    assert (info.pop("iter"), "epoch" in info) == (7, False)


class GroupNorms(torch.nn.Module):
    """What torch says of a group norm whose groups have one value each."""

    def train_step(self, data, optimizers):
        self.images = len(data["inputs"])
        torch.nn.functional.group_norm(torch.zeros(self.images, 4, 1, 1), 4)


def test_a_norm_that_refuses_a_batch_of_one_gets_two():
    model = GroupNorms()
    try_steps(model, object(), dict(train=dict(inputs=torch.zeros(3, 4, 4))))
    assert model.images == 2
