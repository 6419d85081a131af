"""Logits of a segmentation head are compared with the labels of their positions."""

from types import SimpleNamespace

import pytest
import torch

from freqkd.adapters.base import Batch
from freqkd.adapters.segmentation import SegLogits, segmentation_labels
from freqkd.losses import LogitLoss, kd_loss
from freqkd.models import DistillTerm


def sample(labels):
    return SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels[None]))


def batch_of(labels):
    samples = [sample(one) for one in labels]
    inputs = torch.zeros(len(labels), 3, *labels.shape[-2:])
    return Batch(inputs, inputs, samples, torch.nn.Identity(), None, {}, {})


@pytest.fixture
def quadrants():
    """8 x 8 labels: a class per quadrant, one of them ignored."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4, 4:], labels[:, 4:, :4], labels[:, 4:, 4:] = 1, 2, 255
    return labels


def test_labels_come_down_to_the_logits(quadrants):
    logits = torch.randn(1, 3, 2, 2)
    options = SegLogits()([logits], [logits], batch_of(quadrants))
    assert options["target"].tolist() == [[[0, 1], [2, 255]]]


def test_logits_go_up_to_the_labels(quadrants):
    logits = torch.randn(1, 3, 2, 2)
    options = SegLogits(resize="logits")([logits], [torch.randn(1, 3, 4, 4)], batch_of(quadrants))
    student = options["student"]
    assert student.shape == options["teacher"].shape == (1, 3, 8, 8)
    torch.testing.assert_close(options["target"], quadrants)
    torch.testing.assert_close(student[..., 0, 0], logits[..., 0, 0])


def test_a_term_compares_the_valid_positions_alone(quadrants):
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 2, 2, requires_grad=True), torch.randn(1, 3, 2, 2)
    term = DistillTerm(LogitLoss("fixed", "kl", ignore_index=255), "decode_head.conv_seg", adapter=SegLogits())
    loss = term([student], [teacher], batch_of(quadrants))
    rows = [(0, 0), (0, 1), (1, 0)]
    by_hand = [kd_loss(student[..., i, j], teacher[..., i, j], tau=4.0) for i, j in rows]
    torch.testing.assert_close(loss, sum(by_hand) / 3)
    loss.backward()
    assert student.grad[..., 1, 1].abs().sum() == 0
    assert student.grad[..., 0, 0].abs().sum() > 0


def test_labels_go_only_to_losses_that_read_them(quadrants):
    logits = torch.randn(1, 3, 2, 2)  # a loss that read the label 255 would raise
    term = DistillTerm(LogitLoss("fixed", "kl"), "decode_head.conv_seg", adapter=SegLogits())
    assert term([logits], [logits], batch_of(quadrants)).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="255"):
        DistillTerm(LogitLoss("fixed", "dkd"), "x", adapter=SegLogits())([logits], [logits], batch_of(quadrants))


def test_an_image_without_labels_is_ignored_throughout():
    labels = segmentation_labels([sample(torch.ones(2, 2, dtype=torch.uint8)), object()], 255, torch.zeros(2, 3, 2, 2))
    assert labels.unique().tolist() == [1, 255]
    assert labels[1].unique().tolist() == [255]


def test_more_than_one_map_and_another_word_are_refused(quadrants):
    logits = torch.randn(1, 3, 2, 2)
    with pytest.raises(ValueError, match="got 2 student and 1 teacher"):
        SegLogits()([logits, logits], [logits], batch_of(quadrants))
    with pytest.raises(ValueError, match="resize must be one of"):
        SegLogits(resize="label")
