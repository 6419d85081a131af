"""Class scores of positions that the queries of MaskFormer and Mask2Former give together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from freqkd.adapters.base import Batch
from freqkd.adapters.segmentation import SegLogits
from freqkd.utils.checks import upcast

LEAST = 1e-6  # of a score, so that its logarithm is finite


class QueryMaskLogits(SegLogits):
    r"""Hand class logits of positions, made of queries' classes and masks, and the ground truth to a logit loss.

    A mask classifier has no logit map: each query q has class logits :math:`z_q`, "no object" the last of them, and a mask
    with logits :math:`m_q`. It predicts, and so this adapter compares,

    .. math:: y_c(x) = \log \bigl( \sum_q \mathrm{softmax}(z_q)_c \, \mathrm{sigmoid}(m_q(x)) + 10^{-6} \bigr)

    of the last layer. The sum does not depend on the order or number of queries, so that nothing has to be matched: the
    student's queries learn, classes and masks together, through the positions that they explain. It also lets a classifier of
    pixels learn from a mask classifier, and the other way round: a network whose tap gives one map is taken at its logits.

    Tap the whole head, `decode_head`, of a mask classifier. Arguments, labels and sizes: see `SegLogits`.

    Raises:
        ValueError: see `SegLogits`; on use, outputs that are not those of a mask classifier.

    References:
        Cheng et al., arXiv 2107.06278, section 3.4 (semantic inference).

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='decode_head', adapter=dict(type='freqkd.QueryMaskLogits'),
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='kl'))
    """

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (N, C, h, w) and `target` (N, h, w)."""
        student = position_logits(student_feats, "student")
        with torch.no_grad():
            teacher = position_logits(teacher_feats, "teacher")
        return super().__call__([student], [teacher], batch)


def position_logits(maps: list[Tensor], owner: str) -> Tensor:
    """Return the class logits (N, C, h, w) of a head's outputs; one map is returned as it is.

    Args:
        maps: class logits (N, Q, C + 1) of every layer, then mask logits (N, Q, h, w) of every layer (Mask2Former); or both
            stacked (MaskFormer).
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: they are something else.

    >>> certain = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]]])  # one query for each of two classes
    >>> masks = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
    >>> position_logits([certain, masks], "student").argmax(1)
    tensor([[[0, 1]]])
    """
    if len(maps) == 1 and maps[0].dim() == 4:
        return maps[0]
    half = len(maps) // 2
    last = [maps[half - 1], maps[-1]] if half and len(maps) == 2 * half else []
    if last and (last[0].dim(), last[1].dim()) == (4, 5):  # all layers stacked
        last = [stacked[-1] for stacked in last]
    if not last or (last[0].dim(), last[1].dim()) != (3, 4) or last[0].shape[:2] != last[1].shape[:2]:
        raise ValueError(
            f"the {owner}'s tap must give class logits (N, Q, C + 1) and masks (N, Q, h, w) of queries, layer by layer, or one "
            f"logit map, got {[tuple(x.shape) for x in maps]}; tap the whole head of a MaskFormer or Mask2Former, "
            "'decode_head', or the classifier of another segmenter, 'decode_head.conv_seg'"
        )
    with torch.autocast(last[0].device.type, enabled=False):
        classes, masks = (upcast(one) for one in last)
        scores = torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :-1], masks.sigmoid())
        return (scores + LEAST).log()
