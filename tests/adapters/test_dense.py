"""Class logits of dense heads: every anchor of every position is a sample."""

from types import SimpleNamespace

import pytest
import torch

from freqkd.adapters.base import Batch
from freqkd.adapters.dense import DenseLogits, unfold_anchors
from freqkd.losses import LogitLoss
from freqkd.models import DistillTerm


def batch_of(*boxes):
    samples = [SimpleNamespace(gt_instances=[None] * count) for count in boxes]
    return Batch(torch.zeros(len(boxes), 3, 8, 8), torch.zeros(1), samples, torch.nn.Identity(), None, {}, {})


def quality_focal_by_hand(student, teacher, classes):
    """A loop over images, positions, anchors and classes, as mmdet numbers them."""
    total, count = 0.0, 0
    for s_level, t_level in zip(student, teacher):
        images, channels, height, width = s_level.shape
        for n in range(images):
            for y in range(height):
                for x in range(width):
                    for a in range(channels // classes):
                        count += 1
                        for c in range(classes):
                            s, t = s_level[n, a * classes + c, y, x], t_level[n, a * classes + c, y, x].sigmoid()
                            entropy = torch.nn.functional.binary_cross_entropy_with_logits(s, t)
                            total = total + entropy * (t - s.sigmoid()).abs()
    return total, count


@pytest.fixture
def levels():
    torch.manual_seed(0)
    shapes = [(2, 6, 2, 3), (2, 6, 1, 2)]
    student = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return student, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def term(normalizer):
    loss = LogitLoss("fixed", "quality_focal", activation="sigmoid")
    loss.softening.tau = 1.0
    adapter = DenseLogits(num_classes=3, normalizer=normalizer)
    return DistillTerm(loss, "bbox_head.retina_cls", adapter=adapter)


def test_a_term_is_the_mean_over_all_anchors_of_all_levels(levels):
    student, teacher = levels
    total, count = quality_focal_by_hand(student, teacher, 3)
    assert count == 2 * 2 * (6 + 2)
    torch.testing.assert_close(term("samples")(student, teacher, batch_of(3, 1)), total / count)


def test_or_a_sum_divided_by_the_boxes_and_never_by_zero(levels):
    student, teacher = levels
    total, _ = quality_focal_by_hand(student, teacher, 3)
    torch.testing.assert_close(term("boxes")(student, teacher, batch_of(3, 1)), total / 4)
    torch.testing.assert_close(term("boxes")(student, teacher, batch_of(0, 0)), total)


def test_the_unfolded_map_is_what_mmdet_reads():
    logits = torch.arange(2 * 6 * 2 * 2.0).reshape(2, 6, 2, 2)
    as_mmdet = logits.permute(0, 2, 3, 1).reshape(2, -1, 3)  # (N, H * W * A, C), as its heads flatten it
    unfolded = unfold_anchors(logits, 3).permute(0, 3, 4, 2, 1).reshape(2, -1, 3)
    torch.testing.assert_close(unfolded, as_mmdet)


def test_channels_that_do_not_divide_name_both_numbers():
    with pytest.raises(ValueError, match="multiple of num_classes=80, got 36"):
        unfold_anchors(torch.zeros(1, 36, 2, 2), 80)


def test_other_anchors_are_told_from_other_sizes():
    student, teacher = [torch.zeros(2, 27, 8, 12)], [torch.zeros(2, 3, 8, 12)]
    with pytest.raises(
        ValueError, match="the same anchors at a position, got 9 and 1, which no align changes; give both"
    ):
        DenseLogits(num_classes=3)(student, teacher, batch_of(1, 1))
