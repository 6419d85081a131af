"""Parameters, multiply-adds and latency: against counts made by hand, and where something cannot be measured."""

import time

import pytest
import torch
from mmengine.config import Config
from small_networks import small, teachers  # noqa: F401
from torch import nn

from freqkd.apis.complexity import compare, format_table, image_size, latency, measure, random_image
from freqkd.apis.export import build_student
from freqkd.utils.compat import read_config

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def three_passes(monkeypatch):
    monkeypatch.setattr("freqkd.apis.complexity.MOST_SECONDS", 0.0)


@pytest.fixture
def distillation(small, teachers):  # noqa: F811
    """Return `distillation(task, **teacher)`: the config of one."""

    def make(task, **teacher):
        scope = dict(detection="mmdet", segmentation="mmseg")[task]
        model = dict(type="freqkd.Distiller", student=small.config(task, 4), teacher={**teachers(task), **teacher})
        return Config(dict(default_scope=scope, model=dict(model, terms={})))

    return make


def count_by_hand(network, images):
    """Multiply-adds of the convolutions."""
    found = []

    def note(module, inputs, output):
        kernel = module.weight[0].numel()  # of one output channel: inputs / groups * height * width
        found.append(output.numel() * kernel)

    handles = [one.register_forward_hook(note) for one in network.modules() if isinstance(one, nn.Conv2d)]
    with torch.no_grad():
        network.eval()(images)
    for handle in handles:
        handle.remove()
    return sum(found)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_teacher_and_student_are_counted(distillation, small, task):  # noqa: F811
    config = distillation(task)
    student = build_student(config)
    measured = compare(config, student, SIZE)
    for one, network in zip(measured, (small.build(small.config(task, 8), task), student), strict=True):
        assert one.parameters == sum(parameter.numel() for parameter in network.parameters())
        by_hand = count_by_hand(network, random_image(network, SIZE))
        assert by_hand < one.multiply_adds < 1.1 * by_hand  # norms and interpolations are the rest
        assert 0 < one.seconds < 10
        assert one.fault == ""
    names = dict(detection="RetinaNet", segmentation="EncoderDecoder")
    assert [one.name for one in measured] == [f"teacher {names[task]}", f"student {names[task]}"]


def test_a_teacher_of_a_function_is_counted_at_its_own_size(distillation):
    config = distillation("detection")
    config.model.teacher = dict(
        module="toy_transformer:make_transformer", mean=[127.5] * 3, std=[127.5] * 3, tokens=dict(patch=14, skip=1)
    )
    teacher, _ = compare(config, build_student(config), SIZE)
    assert teacher.name == "teacher ToyTransformer"
    assert teacher.multiply_adds > 5 * 7 * 3 * 14 * 14 * 16  # the patches of 70x98


def test_a_teacher_that_is_not_here_does_not_stop_the_table(distillation):
    config = distillation("detection", config="nowhere.py")
    measured = compare(config, build_student(config), SIZE)
    assert measured[0].fault.startswith("it cannot be built here: model.teacher.config: config not found: nowhere.py")
    assert measured[1].multiply_adds > 0
    lines = format_table(measured, SIZE).splitlines()
    assert lines[1].split() == ["teacher", "-", "-", "-"]
    assert lines[-1].startswith("teacher: it cannot be built here")


def test_a_network_that_needs_more_than_images_keeps_its_parameters():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, images, words):
            return self.layer(images)

    found = measure("network", Picky(), torch.zeros(1, 3, 4, 2))
    assert (found.parameters, found.multiply_adds, found.seconds) == (9, None, None)
    assert found.fault.startswith("it does not run on images alone: TypeError")


def test_the_first_pass_does_not_count():
    pauses = iter([0.3, *[0.01] * 1000])
    found = latency(lambda: time.sleep(next(pauses)), torch.device("cpu"))
    assert 0.01 <= found < 0.1


def test_measuring_draws_no_random_numbers_and_trains_nothing(distillation):
    config = distillation("segmentation")
    student = build_student(config)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    state = torch.get_rng_state()
    compare(config, student, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py", (256, 320)),
        ("configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py", (240, 320)),
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", (800, 1344)),
        ("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", (1024, 2048)),
    ],
)
def test_the_size_is_that_of_the_tests_images(name, size, whole_networks, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    config = read_config(name)
    assert image_size(config, build_student(config)) == size
    assert image_size(Config(dict(model=config.model)), nn.Module()) == (512, 512)


def test_the_tool_prints_the_table(tool, tmp_path, capsys):
    config = "configs/mse/mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
    torch.save(dict(state_dict=build_student(read_config(config)).state_dict()), tmp_path / "random.pth")
    arguments = (config, tmp_path / "random.pth", "--out-dir", tmp_path / "out")
    assert tool("export_student", *arguments, "--shape", 64, 96) == 0
    lines = capsys.readouterr().out.splitlines()
    (start,) = (index for index, line in enumerate(lines) if line.startswith("one image of 64x96"))
    teacher, student = lines[start + 1 : start + 3]
    assert teacher.split()[:4] == ["teacher", "RetinaNet", "6.70", "M"]
    assert student.split()[:4] == ["student", "RetinaNet", "811", "k"]
    assert tool("export_student", *arguments, "--shape", 0, 96) == 1
    assert "--shape must be height and width, at least 1, got [0, 96]" in capsys.readouterr().err
