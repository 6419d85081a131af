"""Mean entropy of a head's class probabilities in each image: over pixels, anchors or boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqkd.adapters.dense import class_maps, unfold_class_map
from freqkd.adapters.heads import check_num_classes, describe_head, find_head
from freqkd.adapters.roi_stages import stage_path
from freqkd.datasets.condensation import prediction_entropy
from freqkd.taps import find_module, find_tap
from freqkd.utils.checks import check_choice, check_whole


class ImageEntropy:
    """The mean entropy of what a network predicts on an image; see `prediction_entropy`.

    It is the mean over the pixels of a segmenter, the anchors of all levels of a dense head (also `rpn_head.rpn_cls`), or the
    sampled proposals of a box head (`roi_head.bbox_head.fc_cls`). What lies in the padding of a batch does not count.

    Args:
        network: a detector or segmenter.
        tap: path of its class predictor, e.g. "bbox_head.retina_cls", "decode_head.conv_seg"; a whole dense head, "bbox_head",
            where each level has a predictor of its own.
        num_classes: C; None: as the head says.
        activation: of the head: "sigmoid" or "softmax"; None: as the head says.

    Attributes:
        rois: path of the module whose arguments name the image of every proposal; empty for other heads.

    Raises:
        ValueError: no such module; a head of queries; classes or activation are not known, or not those of the head.
    """

    def __init__(
        self, network: nn.Module, tap: str, num_classes: int | None = None, activation: str | None = None
    ) -> None:
        find_tap(network, tap)
        kind = describe_head(network, tap)
        if num_classes is not None:
            check_whole("num_classes", num_classes, 1)
        if kind is not None and kind.family in ("queries", "mask_queries"):
            raise ValueError(
                f"tap must lead to a head of pixels, anchors or boxes, got {tap!r} of {kind.name}, which predicts for queries, "
                "most of which stand for nothing; its images cannot be ranked by their entropy"
            )
        check_num_classes(num_classes, kind, "student")
        own = None if kind is None else kind.activation
        if activation is not None:
            check_choice("activation", activation, ("sigmoid", "softmax"))
        if None not in (own, activation) and own != activation:
            raise ValueError(f"activation must be {own!r}, as in the student's head, got {activation!r}; leave it out")
        if own is None and activation is None:
            raise ValueError(
                f"activation must be given, as the head at {tap!r} does not say it; set it to 'sigmoid' or 'softmax'"
            )
        self.tap, self.kind, self.num_classes = tap, kind, num_classes
        self.is_head = find_head(network, tap) is find_module(network, tap)
        self.activation = activation or str(own)
        stage = tap.split(".")[2:3]
        self.rois = ""
        if kind is not None and kind.family == "proposals":
            self.rois = stage_path("bbox_roi_extractor", int(stage[0]) if stage and stage[0].isdigit() else None)

    @torch.no_grad()
    def __call__(
        self,
        maps: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        padded: tuple[int, int],
        rois: Tensor | None = None,
    ) -> Tensor:
        """Return the mean entropy (N,) of each image; NaN for one without a proposal.

        Args:
            maps: what the tapped module gave.
            sizes: height and width of each image in the batch.
            padded: height and width of the batch.
            rois: the boxes (R, 5) of a box head's rows, whose first column is the number of the image.

        Raises:
            ValueError: nothing was tapped, or the channels are not those of the head.
        """
        if not maps:
            raise ValueError(
                f"tap must be a module that runs in training, got {self.tap!r}, which gave nothing; name the class predictor, "
                "e.g. 'bbox_head.retina_cls'"
            )
        if rois is None and maps[0].dim() < 4:
            raise ValueError(
                f"tap must lead to a head of pixels, anchors or proposals, got {self.tap!r}, which gave a tensor of shape "
                f"{tuple(maps[0].shape)}; leave condensation to detectors and segmenters"
            )
        if rois is not None:
            entropies = prediction_entropy(maps[0].float(), self.activation).double()
            image = rois[:, 0].long()
            total = torch.zeros(len(sizes), dtype=torch.float64, device=image.device).index_add_(0, image, entropies)
            return total / torch.bincount(image, minlength=len(sizes))
        means, counts = [], []
        for level in class_maps(maps) if self.is_head else maps:
            logits = unfold_class_map(level.float(), self.kind, self.num_classes)
            entropies = prediction_entropy(logits, self.activation).double()
            parts = [
                one[:, : _part(height, padded[0], one.shape[1]), : _part(width, padded[1], one.shape[2])]
                for one, (height, width) in zip(entropies, sizes, strict=True)
            ]
            means.append(torch.stack([part.sum() for part in parts]))
            counts.append(torch.tensor([part.numel() for part in parts], device=level.device))
        return torch.stack(means).sum(0) / torch.stack(counts).sum(0)


def _part(size: int, padded: int, positions: int) -> int:
    """Return how many positions of a side begin inside an image that is padded at the end."""
    return max(1, math.ceil(positions * size / padded))
