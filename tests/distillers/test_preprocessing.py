"""What the teacher is shown equals what its own preprocessor makes of the same raw images."""

import copy

import pytest
import torch

from freqkd.distillers.preprocessing import describe, differ, renormalize, to_rgb

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
    ours, theirs = preprocessor(task, **student), preprocessor(task, **teacher)
    raw = small.raw(task, SIZES)
    data = ours(copy.deepcopy(raw), True)
    expected = theirs(copy.deepcopy(raw), True)["inputs"]
    kept = data["inputs"].clone()
    shown = renormalize(data["inputs"], data["data_samples"], ours, theirs)
    assert expected.shape == (2, 3, 64, 96)
    torch.testing.assert_close(shown, expected, rtol=1e-5, atol=2e-4)
    assert torch.equal(data["inputs"], kept)
    pad = teacher.get("pad_value", 0)
    assert torch.all(shown[0, :, 50:] == pad)
    assert torch.all(shown[1, :, :, 70:] == pad)


def test_a_preprocessor_that_normalises_nothing_is_understood(small):
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
def test_differ_tells_whether_images_must_be_made_anew(change, expected):
    assert (
        differ(preprocessor("detection", **IMAGENET), preprocessor("detection", **{**IMAGENET, **change})) is expected
    )


def test_describe_words_it():
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
    ours, theirs = torch.nn.Module(), torch.nn.Module()
    ours.pad_value, theirs.pad_value = 0, 7
    assert differ(ours, theirs)
    assert not differ(ours, ours)
