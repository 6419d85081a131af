"""Logits of images with the labels of their samples, for losses that read labels."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement

from freqkd.adapters.images import ImageLogits
from freqkd.losses import dkd_loss


def batch(*labels):
    return SimpleNamespace(data_samples=[BaseDataElement(gt_label=torch.tensor(label)) for label in labels])


def test_logits_go_with_the_labels_of_their_images():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    options = ImageLogits()([student], [teacher], batch(3, [0], 2))
    assert options["student"] is student
    assert options["teacher"] is teacher
    assert options["target"].tolist() == [3, 0, 2]
    swapped = ImageLogits()([student], [teacher], batch(0, 3, 2))
    losses = [dkd_loss(**one, tau=4.0, beta=8.0).item() for one in (options, swapped)]
    expected = dkd_loss(student, teacher, torch.tensor([3, 0, 2]), tau=4.0, beta=8.0).item()
    assert losses[0] == expected != losses[1]


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (
            [torch.zeros(1, 3, 2, 2)],
            [torch.zeros(1, 3)],
            r"got \[\(1, 3, 2, 2\)\] from the student; tap the last linear",
        ),
        ([torch.zeros(1, 3)], [torch.zeros(1, 3)] * 2, r"got \[\(1, 3\), \(1, 3\)\] from the teacher"),
    ],
)
def test_maps_are_no_logits_of_images(student, teacher, words):
    with pytest.raises(ValueError, match=words):
        ImageLogits()(student, teacher, batch(0))


@pytest.mark.parametrize("sample", [BaseDataElement(), BaseDataElement(gt_label=torch.tensor([1, 0]))])
def test_an_image_has_one_label(sample):
    logits = [torch.zeros(1, 3)]
    with pytest.raises(ValueError, match=r"data_samples must have one label each, .* for ImageLogits, got"):
        ImageLogits()(logits, logits, SimpleNamespace(data_samples=[sample]))
