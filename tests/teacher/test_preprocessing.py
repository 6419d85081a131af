"""Renormalised images equal what the teacher's own preprocessor makes of the same raw images."""

import copy

import pytest
import torch

from freqkd.teacher.preprocessing import describe, differ, padded_size, renormalize, to_rgb

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
UNIT = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True)
SIZES = ((50, 90), (64, 70))


def preprocessor(task, **options):
    if task == "detection":
        from mmdet.models import DetDataPreprocessor

        return DetDataPreprocessor(pad_size_divisor=32, **options)
    from mmseg.models import SegDataPreProcessor

    if "pad_value" in options:
        options["pad_val"] = options.pop("pad_value")
    return SegDataPreProcessor(size=(64, 96), **options)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("teacher", [CAFFE, UNIT, dict(IMAGENET, pad_value=7)], ids=["caffe", "unit", "padding"])
@pytest.mark.parametrize("student", [IMAGENET, dict(CAFFE, pad_value=5)], ids=["imagenet", "caffe"])
def test_it_equals_the_teachers_own_preprocessor(small, task, student, teacher):
    of_student, of_teacher = preprocessor(task, **student), preprocessor(task, **teacher)
    raw = small.raw(task, SIZES)
    data = of_student(copy.deepcopy(raw), True)
    expected = of_teacher(copy.deepcopy(raw), True)["inputs"]
    before = data["inputs"].clone()
    shown = renormalize(data["inputs"], data["data_samples"], of_student, of_teacher)
    assert expected.shape == (2, 3, 64, 96)
    torch.testing.assert_close(shown, expected, rtol=1e-5, atol=2e-4)
    assert torch.equal(data["inputs"], before)
    pad = teacher.get("pad_value", 0)
    assert torch.all(shown[0, :, 50:] == pad)
    assert torch.all(shown[1, :, :, 70:] == pad)


def test_channels_are_swapped_where_the_teachers_own_preprocessor_does():
    images = torch.rand(1, 4, 2, 2)
    student, teacher = torch.nn.Module(), torch.nn.Module()
    teacher.channel_conversion = True
    assert torch.equal(renormalize(images, None, student, teacher), images)
    assert torch.equal(renormalize(images[:, :3], None, student, teacher), images[:, :3].flip(1))


def test_images_of_other_channels_than_the_teachers_are_refused():
    student, teacher = torch.nn.Module(), preprocessor("segmentation", **IMAGENET)
    with pytest.raises(
        ValueError, match=r"^data_preprocessor.mean must have 1 or 4 numbers for images of 4 channels, got 3"
    ):
        renormalize(torch.rand(1, 4, 2, 2), None, student, teacher)
    assert renormalize(torch.rand(1, 1, 2, 2), None, student, teacher).shape == (1, 3, 2, 2)


def test_a_preprocessor_without_normalisation(small):
    plain = preprocessor("detection")
    data = preprocessor("detection", **IMAGENET)(small.raw("detection", SIZES), True)
    expected = plain(small.raw("detection", SIZES), True)["inputs"]
    shown = renormalize(data["inputs"], data["data_samples"], preprocessor("detection", **IMAGENET), plain)
    torch.testing.assert_close(shown, expected.float(), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dict(), False),
        (dict(bgr_to_rgb=False), True),
        (dict(mean=[0.0, 0.0, 0.0]), True),
        (dict(std=[1.0, 1.0, 1.0]), True),
    ],
)
def test_differ_tells_whether_images_must_be_renormalised(change, expected):
    assert (
        differ(preprocessor("detection", **IMAGENET), preprocessor("detection", **{**IMAGENET, **change})) is expected
    )


def test_describe():
    assert describe(preprocessor("detection", **UNIT)) == (
        "mean [0.0, 0.0, 0.0], std [255.0, 255.0, 255.0], channels swapped, padding 0"
    )


@pytest.mark.parametrize("options", [IMAGENET, CAFFE], ids=["swapped", "kept"])
def test_pictures_get_their_red_first(small, options):
    raw = small.raw("detection")
    module = preprocessor("detection", **options)
    inputs = module(copy.deepcopy(raw), False)["inputs"] + 1e-4
    blue_first = torch.stack(raw["inputs"])
    assert (
        torch.from_numpy(to_rgb(inputs, module)).int() - blue_first.flip(1).permute(0, 2, 3, 1).int()
    ).abs().max() <= 1


def test_another_padding_is_another_preprocessor():
    student, teacher = torch.nn.Module(), torch.nn.Module()
    student.pad_value, teacher.pad_value = 0, 7
    assert differ(student, teacher)
    assert not differ(student, student)


@pytest.mark.parametrize("size", [(50, 90), (64, 96), (33, 70)])
def test_the_padded_size_is_what_the_preprocessors_pad_to(small, size):
    from mmdet.models import DetDataPreprocessor
    from mmseg.models import SegDataPreProcessor

    known = dict(
        detection=(DetDataPreprocessor(pad_size_divisor=32), DetDataPreprocessor(pad_size_divisor=1)),
        segmentation=(SegDataPreProcessor(size_divisor=32), SegDataPreProcessor(size=(64, 96))),
    )
    for task, preprocessors in known.items():
        for one in preprocessors:
            padded = one(small.raw(task, (size,)), True)["inputs"].shape[-2:]
            assert padded_size(one, size) == tuple(padded)
