"""Aligns: channels and sizes of student maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from freqkd.align import ConvAlign, LevelAlign, ResizeAlign


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_convolution_of_every_level() -> None:
    align = ConvAlign(student_channels=[2, 3], teacher_channels=4, num_levels=2)
    students = [torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)]
    teachers = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    aligned, kept = align(students, teachers)
    for index in range(2):
        weight, bias = align.layers[index].weight, align.layers[index].bias
        expected = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], students[index]) + bias[:, None, None]
        torch.testing.assert_close(aligned[index], expected)
        assert kept[index] is teachers[index]
    sum(x.sum() for x in aligned).backward()
    assert all(p.grad is not None for p in align.parameters())
    wide = ConvAlign(2, 4, kernel_size=3)
    assert wide(students[0], teachers[0])[0][0].shape == teachers[0].shape


@pytest.mark.parametrize("resize", ["teacher", "student"])
def test_sizes(resize: str) -> None:
    small, large = torch.randn(1, 2, 5, 7), torch.randn(1, 2, 10, 13)
    for student, teacher in ((small, large), (large, small), (small, small + 1)):
        students, teachers = ResizeAlign(resize)([student], [teacher])
        size = (teacher if resize == "teacher" else student).shape[-2:]
        torch.testing.assert_close(students[0], F.interpolate(student, size, mode="bilinear", align_corners=False))
        torch.testing.assert_close(teachers[0], F.interpolate(teacher, size, mode="bilinear", align_corners=False))
    students, teachers = ConvAlign(2, 4, resize=resize)(small, torch.randn(1, 4, 10, 13))
    assert students[0].shape == teachers[0].shape == ((1, 4, 10, 13) if resize == "teacher" else (1, 4, 5, 7))


def test_keys_of_a_plain_convolution() -> None:
    assert set(ConvAlign(2, 4).state_dict()) == {"layers.0.weight", "layers.0.bias"}
    assert set(ConvAlign(2, 4, num_convs=2).state_dict()) == {
        f"layers.0.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")
    }


def test_convolutions_with_a_relu_between() -> None:
    align, student = ConvAlign(2, 4, num_convs=2), torch.randn(1, 2, 5, 6)
    first, _, second = align.layers[0]
    expected = second(first(student).clamp(min=0))
    torch.testing.assert_close(align(student, torch.randn(1, 4, 5, 6))[0][0], expected)
    assert (first.out_channels, second.in_channels, second.out_channels) == (4, 4, 4)
    kernels = [layer.kernel_size for layer in ConvAlign(2, 4, kernel_size=3, num_convs=3).layers[0][::2]]
    assert kernels == [(3, 3)] * 3


@pytest.mark.parametrize("num_convs", [1, 2])
def test_batch_norm_after_every_convolution(num_convs: int) -> None:
    align = ConvAlign(2, 4, num_convs=num_convs, batch_norm=True)
    student = torch.randn(2, 2, 5, 6) * 9 + 1
    aligned = align(student, torch.randn(2, 4, 5, 6))[0][0]
    x = student
    for index in range(num_convs):
        weight = align.layers[0][3 * index].weight
        x = F.batch_norm(F.conv2d(x.clamp(min=0) if index else x, weight), None, None, training=True)
    torch.testing.assert_close(aligned, x)
    assert len(align.layers[0]) == 3 * num_convs - 1
    assert all(layer.bias is None for layer in align.layers[0][::3])


def test_batch_norm_of_a_single_position() -> None:
    """Pyramids of small images end in one position; a batch of one has no deviation there."""
    align, student = ConvAlign(2, 4, batch_norm=True), torch.randn(1, 2, 1, 1, requires_grad=True)
    before = {name: value.clone() for name, value in align.state_dict().items()}
    aligned = align(student, torch.randn(1, 4, 1, 1))[0][0]
    aligned.sum().backward()
    assert aligned.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in align.state_dict().items())
    align.eval()
    torch.testing.assert_close(align(student, aligned)[0][0], aligned)


def test_any_layer_may_align() -> None:
    student, teacher = torch.randn(1, 2, 8, 8), torch.randn(1, 8, 4, 4)
    students, teachers = LevelAlign([torch.nn.PixelUnshuffle(2)])([student], [teacher])
    assert torch.equal(students[0], F.pixel_unshuffle(student, 2))
    assert teachers[0] is teacher


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    align = ConvAlign(2, 4, resize="teacher")
    with torch.autocast("cpu", dtype=dtype):
        students, _ = align(torch.randn(1, 2, 4, 4), torch.randn(1, 4, 9, 9).to(dtype))
    students[0].float().sum().backward()
    assert align.layers[0].weight.grad.isfinite().all()


def test_errors_name_both_numbers() -> None:
    align = ConvAlign(student_channels=2, teacher_channels=4, num_levels=2)
    good = [torch.ones(1, 2, 4, 4)] * 2, [torch.ones(1, 4, 4, 4)] * 2
    with pytest.raises(ValueError, match=r"student_feats\[1\] has 3 channels where student_channels=2"):
        align([good[0][0], torch.ones(1, 3, 4, 4)], good[1])
    with pytest.raises(ValueError, match=r"teacher_feats\[0\] has 5 channels where teacher_channels=4"):
        align(good[0], [torch.ones(1, 5, 4, 4), good[1][1]])
    with pytest.raises(ValueError, match="ConvAlign has num_levels=2, got 1 student_feats"):
        align(good[0][:1], good[1][:1])
    with pytest.raises(ValueError, match="same number of maps, at least one, got 2 and 1"):
        align(good[0], good[1][:1])
    with pytest.raises(ValueError, match=r"level 0, aligned, .*\(1, 4, 4, 4\) and \(1, 4, 8, 8\).*ResizeAlign"):
        ConvAlign(2, 4)(good[0][0], torch.ones(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"ConvAlign\(student_channels=2, teacher_channels=4\)"):
        ResizeAlign()(good[0], good[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd.* got 2"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
        ({"num_convs": 0}, "num_convs must be at least 1, got 0"),
        ({"batch_norm": 1}, "batch_norm must be True or False, got 1"),
        ({"num_levels": 0}, "num_levels must be at least 1, got 0"),
        ({"resize": "techer"}, "resize must be one of 'teacher', 'student', got 'techer'; did you mean 'teacher'"),
        (
            {"student_channels": [2, 2, 2], "num_levels": 2},
            "student_channels must be a number or one per level, 2 of .* got 3",
        ),
        ({"teacher_channels": 0}, "teacher_channels must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConvAlign(**{"student_channels": 2, "teacher_channels": 4, **options})
