"""The teacher is outside the module tree, frozen, and runs up to the deepest tapped module."""

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from freqkd.models import BandHeadTuner, PromptTuner
from freqkd.teacher import Teacher, build_teacher
from freqkd.teacher.teacher import freeze_statistics, run_to
from freqkd.utils.checkpoints import CheckpointError

TASKS = ("detection", "segmentation")
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher(teachers):
    return lambda task: Teacher(**teachers(task))


@pytest.fixture
def calls():
    """Return `calls(module, method="forward")`: a list that grows with every call, hooks or none."""

    def count(module, method="forward"):
        found, original = [], getattr(module, method)
        setattr(module, method, lambda *args, **kwargs: found.append(1) or original(*args, **kwargs))
        return found

    return count


def test_the_head_is_not_called_when_only_the_neck_is_tapped(teacher, calls):
    held = teacher("detection")
    head, leaf, neck = (calls(held.model.bbox_head), calls(held.model.bbox_head.retina_cls), calls(held.model.neck))
    loss = calls(held.model.bbox_head, "loss")
    maps = held.extract(IMAGES, None, ["neck"])["neck"]
    assert [len(maps), len(neck), len(head), len(leaf), len(loss)] == [5, 1, 0, 0, 0]
    with torch.no_grad():
        for tapped, plain in zip(maps, held.model.extract_feat(IMAGES), strict=True):
            assert torch.equal(tapped, plain)


def test_the_neck_is_not_called_when_only_the_backbone_is_tapped(teacher, calls):
    held = teacher("detection")
    neck, head = calls(held.model.neck), calls(held.model.bbox_head)
    maps = held.extract(IMAGES, None, ["backbone.layer4"])["backbone.layer4"]
    assert [len(neck), len(head)] == [0, 0]
    assert maps[0].shape == (2, 64, 2, 3)


def test_a_tap_in_a_shared_head_gives_a_map_per_level_and_no_assigner_runs(teacher, calls):
    held = teacher("detection")
    loss = calls(held.model.bbox_head, "loss_by_feat")
    found = held.extract(IMAGES, None, ["bbox_head.retina_cls", "neck"])
    assert [tuple(x.shape[-2:]) for x in found["bbox_head.retina_cls"]] == [tuple(x.shape[-2:]) for x in found["neck"]]
    assert loss == []
    scores, _ = held.model.bbox_head(tuple(found["neck"]))
    for tapped, plain in zip(found["bbox_head.retina_cls"], scores, strict=True):
        torch.testing.assert_close(tapped, plain)


def test_only_the_head_that_is_tapped_runs_auxiliary_heads_too(teacher, calls):
    held = teacher("segmentation")
    main, auxiliary = calls(held.model.decode_head), calls(held.model.auxiliary_head)
    found = held.extract(IMAGES, None, ["auxiliary_head.conv_seg"])["auxiliary_head.conv_seg"]
    assert [len(main), len(auxiliary), len(found)] == [0, 1, 1]
    held.extract(IMAGES, None, ["decode_head.conv_seg"])
    assert [len(main), len(auxiliary)] == [1, 1]


def test_every_head_of_a_list_runs(teacher):
    model = teacher("segmentation").model
    model.auxiliary_head = nn.ModuleList([model.auxiliary_head, copy.deepcopy(model.auxiliary_head)])
    seen = []
    for head in model.auxiliary_head:
        head.conv_seg.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run_to(model, IMAGES, None, ["auxiliary_head.1.conv_seg"])
    assert len(seen) == 2
    run_to(model, IMAGES, None, ["auxiliary_head.0.conv_seg"])
    assert len(seen) == 3  # and no further than the deepest one that is tapped


@pytest.mark.parametrize("task", TASKS)
def test_the_model_that_holds_it_does_not_contain_it(distill, task):
    model = distill(task)
    names = set(dict(model.named_modules())) | set(model.state_dict()) | set(dict(model.named_parameters()))
    count = sum(1 for _ in model.modules())
    model.prepare()
    assert model.teacher.is_built
    assert sum(1 for _ in model.modules()) == count
    assert set(dict(model.named_modules())) | set(model.state_dict()) | set(dict(model.named_parameters())) == names
    of_teacher = {id(parameter) for parameter in model.teacher.model.parameters()}
    assert not of_teacher & {id(parameter) for parameter in model.parameters()}
    assert copy.deepcopy(model).teacher is model.teacher


def test_it_follows_the_model_that_holds_it(distill):
    model = distill("detection")
    model.prepare()
    model.double()
    assert model.teacher.model.backbone.conv1.weight.dtype == torch.float64
    assert model.student.backbone.conv1.weight.dtype == torch.float64


@pytest.mark.parametrize("kind", ["distiller", "prompts", "band head"])
def test_images_are_sent_to_the_device_that_the_model_was_moved_to(distill, teachers, kind):
    with DefaultScope.overwrite_default_scope("mmdet"):
        stages = dict(
            prompts=lambda: PromptTuner(teachers("detection"), dict(channels=16, num_levels=5, depth=1)),
            **{"band head": lambda: BandHeadTuner(teachers("detection"))},
        )
        model = distill("detection") if kind == "distiller" else stages[kind]()
    model.prepare()
    model.to("meta")
    preprocessors = [model.data_preprocessor, model.teacher.model.data_preprocessor]
    assert [(one.device.type, one.mean.device.type) for one in preprocessors] == [("meta", "meta")] * 2


def test_building_it_costs_no_random_number(teacher):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert teacher("detection").model is not None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_terms_cost_the_student_no_random_number(distill, small):
    torch.manual_seed(3)
    plain = small.build(small.config("detection", 4), "detection")
    plain.init_weights()
    end = torch.get_rng_state()
    torch.manual_seed(3)
    model = distill("detection")
    model.init_weights()
    assert torch.equal(torch.get_rng_state(), end)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())


def test_it_is_built_when_first_needed(distill, small):
    model = distill("detection", teacher=dict(config="nowhere.py", checkpoint="nowhere.pth"))
    data = model.data_preprocessor(small.raw("detection"), False)
    assert len(model.eval().predict(data["inputs"], data["data_samples"])) == 2
    assert not model.teacher.is_built
    with pytest.raises(ValueError, match=r"config not found: nowhere.py"):
        model.prepare()


@pytest.mark.parametrize(
    ("task", "path"), [("detection", "bbox_head.retina_cls"), ("segmentation", "decode_head.conv_seg")]
)
def test_use_in_training_leaves_it_as_it_was_loaded(distill, small, freekd_term, task, path):
    mse = dict(loss=dict(type="freqkd.MSELoss"), student_tap=path)
    model = distill(task, terms=dict(loss_freekd=freekd_term(task), loss_mse=mse)).train()
    model.prepare()
    loaded = {key: value.clone() for key, value in model.teacher.model.state_dict().items()}
    for _ in range(2):
        data = model.data_preprocessor(small.raw(task), True)
        model.parse_losses(model(data["inputs"], data["data_samples"], mode="loss"))[0].backward()
        model.train()
    state = model.teacher.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in loaded.items())
    assert not [name for name, parameter in model.teacher.model.named_parameters() if parameter.requires_grad]
    assert not [
        name for name, part in model.teacher.model.named_modules() if isinstance(part, nn.BatchNorm2d) and part.training
    ]


def test_its_heads_run_as_in_training_with_dropout_off(teacher):
    held = teacher("segmentation")
    first, second = (held.extract(IMAGES, None, ["decode_head.conv_seg"])["decode_head.conv_seg"][0] for _ in range(2))
    assert held.model.decode_head.training
    assert held.model.decode_head.dropout is not None
    assert torch.equal(first, second)
    assert not held.model.backbone.training


@pytest.mark.parametrize(
    "module", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.MultiheadAttention(4, 2, dropout=0.5), nn.BatchNorm1d(4)]
)
def test_frozen_modules_give_in_training_what_they_give_in_evaluation(module):
    x = torch.randn(6, 4)
    run = (lambda: module(x, x, x)[0]) if isinstance(module, nn.MultiheadAttention) else (lambda: module(x))
    with torch.no_grad():
        module.eval()
        expected = run()
        holder = nn.Sequential(module).train()
        freeze_statistics(holder)
        torch.testing.assert_close(run(), expected)
    assert holder.training


def test_images_are_normalised_as_its_own_preprocessor_does(distill, small, teachers):
    student = small.config("detection", 4, data_preprocessor__std=[1.0, 1.0, 1.0], data_preprocessor__bgr_to_rgb=False)
    model = distill("detection", student=student)
    raw = small.raw("detection")
    inputs = model.data_preprocessor(copy.deepcopy(raw), False)["inputs"]
    data = Teacher(**teachers("detection")).model.data_preprocessor(copy.deepcopy(raw), False)
    model.prepare()
    shown = model.teacher.normalize(inputs, data["data_samples"])
    torch.testing.assert_close(shown, data["inputs"], rtol=1e-4, atol=1e-4)
    assert (shown - inputs).abs().max() > 10


def test_equal_preprocessors_share_the_very_tensor(distill, small):
    model = distill("detection")
    inputs = model.data_preprocessor(small.raw("detection"), False)["inputs"]
    model.prepare()
    assert model.teacher.normalize(inputs, None) is inputs


def test_options_change_its_config(teachers):
    held = Teacher(**teachers("detection"), cfg_options={"model.test_cfg.score_thr": 0.7})
    assert held.model.test_cfg.score_thr == 0.7


def test_a_checkpoint_must_be_named_and_fit(teachers, tmp_path):
    with pytest.raises(CheckpointError, match=r"teacher.checkpoint must name trained weights"):
        Teacher(teachers("detection")["config"], "")
    other = Teacher(teachers("detection")["config"], teachers("segmentation")["checkpoint"])
    with pytest.raises(CheckpointError, match=r"missing, first .*bbox_head.*unknown, first .*auxiliary_head"):
        other.model


def test_a_misspelt_option_is_named(teachers):
    with pytest.raises(ValueError, match=r"teacher must be dict\(config=..., checkpoint=...\).*'chekpoint'"):
        build_teacher(dict(config="a.py", chekpoint="b.pth"))
