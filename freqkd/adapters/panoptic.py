"""Semantic labels of panoptic detectors, as their semantic head learns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def label_map(truth: Any) -> Tensor:
    """Return the labels of a sample's `gt_sem_seg`: `sem_seg` in mmdet, `data` in mmseg."""
    labels: Tensor = truth.sem_seg if hasattr(truth, "sem_seg") else truth.data
    return labels


def head_labels(network: nn.Module, labels: Tensor) -> Tensor:
    """Return semantic labels as the head of a network numbers them.

    The data name T things, then S stuff classes. A `PanopticFPNHead` has the S stuff classes first, and one class, S, for all
    things. Other heads have the data's own numbers.

    Args:
        network: the network whose head learns them.
        labels: of the data, any shape; labels beyond T + S, and negative ones, are ignored and stay as they are.

    >>> network = nn.Module()
    >>> network.semantic_head = nn.Module()
    >>> network.semantic_head.num_things_classes, network.semantic_head.num_stuff_classes = 2, 3
    >>> head_labels(network, torch.tensor([0, 1, 2, 4, 255]))
    tensor([  3,   3,   0,   2, 255])
    """
    head: Any = getattr(network, "semantic_head", None)
    if not hasattr(head, "num_things_classes"):
        return labels
    things, stuff = head.num_things_classes, head.num_stuff_classes
    moved = torch.where((labels >= things) & (labels < things + stuff), labels - things, labels)
    return torch.where((labels >= 0) & (labels < things), stuff, moved)
