"""Class logits: which terms compare them, what an align may do to them, and the classes that two networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import HeadAdapter
from freqkd.adapters.heads import describe_head, find_head
from freqkd.losses.logits.loss import LogitLoss

SHARED = "shared"


class SharedClasses:
    """Reduce logits and labels to the classes that student and teacher share, by pairs of indices.

    Softmax or sigmoid then run over these classes, and over the background where a head has one, alone.

    Args:
        pairs: index of a class in the student and of the same class in the teacher, in the order in which they are compared.

    Raises:
        ValueError: they are no pairs of indices, or an index stands in two of them.

    >>> shared = SharedClasses([(0, 2), (3, 1)])
    >>> shared.select(torch.arange(5.0)[None], "student", background=True)
    tensor([[0., 3., 4.]])
    >>> shared.relabel(torch.tensor([0, 1, 2, 3, 4]), other=2)
    tensor([0, 2, 2, 1, 2])
    """

    def __init__(self, pairs: Sequence[Sequence[int]]) -> None:
        if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs or not all(map(_is_pair, pairs)):
            raise ValueError(
                f"classes must be None, {SHARED!r} or pairs of indices, [(student, teacher), ...], got {pairs!r}"
            )
        self.indices = {owner: [pair[place] for pair in pairs] for place, owner in enumerate(("student", "teacher"))}
        for owner, own in self.indices.items():
            if len(set(own)) < len(own):
                raise ValueError(f"classes must have each index of the {owner} once, got {own}")

    def __len__(self) -> int:
        return len(self.indices["student"])

    def select(self, logits: Tensor, owner: str, *, background: bool, dim: int = 1) -> Tensor:
        """Return the logits of the shared classes, and after them of the background.

        Args:
            logits: class logits, with the classes along `dim`.
            owner: "student" or "teacher".
            background: whether the last entry is the background.
            dim: the dimension of the classes.

        Raises:
            ValueError: there is no class of such an index.
        """
        own, count = self.indices[owner], logits.shape[dim]
        classes = count - 1 if background else count
        if max(own) >= classes:
            raise ValueError(
                f"classes must be indices below {classes}, the {owner}'s number of classes, got {max(own)}"
            )
        chosen = [*own, count - 1] if background else own
        return logits.index_select(dim, torch.tensor(chosen, device=logits.device))

    def relabel(self, target: Tensor, other: int) -> Tensor:
        """Return the student's labels as indices of the shared classes; all other labels become `other`."""
        own = self.indices["student"]
        rest = max(own) + 1
        table = torch.full((rest + 1,), other, dtype=target.dtype, device=target.device)
        table[torch.tensor(own, device=target.device)] = torch.arange(
            len(own), dtype=target.dtype, device=target.device
        )
        return table[torch.where((target < 0) | (target > rest), rest, target).long()]


def _is_pair(pair: Any) -> bool:
    whole = isinstance(pair, Sequence) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in pair)
    return whole and not isinstance(pair, str) and len(pair) == 2


def build_shared(classes: str | Sequence[Sequence[int]] | None) -> SharedClasses | None:
    """Build the `classes` of an adapter; None where student and teacher have the same ones.

    Raises:
        ValueError: it is neither None, "shared" nor pairs of indices.
    """
    if classes is None:
        return None
    return _Unresolved() if classes == SHARED else SharedClasses(classes)  # type: ignore[arg-type]


class _Unresolved(SharedClasses):
    """Classes that are shared by name, where nobody has looked up the names."""

    def __init__(self) -> None:
        self.indices = {"student": [], "teacher": []}

    def select(self, logits: Tensor, owner: str, *, background: bool, dim: int = 1) -> Tensor:
        """Raise ValueError."""
        raise ValueError(
            f"classes={SHARED!r} is looked up by freqkd train, in the data and in the teacher's checkpoint; name the pairs "
            "of indices where the model is built by hand: classes=[(student, teacher), ...]"
        )


def is_class_map(network: nn.Module, path: str) -> bool:
    """Whether a tap gives the class logits of a head: the head itself, or a layer with the channels of its classes.

    >>> head = nn.ModuleDict(dict(loss_cls=nn.Identity(), conv=nn.Conv2d(8, 8, 3), conv_cls=nn.Conv2d(8, 3, 1)))
    >>> head.num_classes = 3
    >>> network = nn.ModuleDict(dict(bbox_head=head))
    >>> [is_class_map(network, path) for path in ("bbox_head", "bbox_head.conv", "bbox_head.conv_cls")]
    [True, False, True]
    """
    kind, head = describe_head(network, path), find_head(network, path)
    if kind is None or head is None:
        return False
    module: Any = network.get_submodule(path)
    widths = {getattr(module, name, None) for name in ("out_channels", "out_features")} - {None}
    expected = {(kind.channels or 0) * count for count in kind.anchors or (1,)}
    return module is head or bool(widths & expected)


def compares_classes(adapter: HeadAdapter | None, loss: nn.Module, taps: Sequence[tuple[nn.Module, str]]) -> bool:
    """Whether a term compares class logits, so that both networks must have the same classes.

    Args:
        adapter: the term's adapter.
        loss: the term's loss.
        taps: both networks with the term's tap in each.
    """
    if adapter is not None:
        return adapter.compares_classes and adapter.shared is None
    return isinstance(loss, LogitLoss) or any(is_class_map(network, path) for network, path in taps)


def check_align(align: nn.Module | None, adapter: HeadAdapter | None, network: nn.Module, path: str) -> None:
    """Check that no learned align stands before class logits, whose channels are classes and not features.

    Args:
        align: the term's align.
        adapter: the term's adapter.
        network: the student.
        path: the term's tap in it.

    Raises:
        ValueError: one does.
    """
    if align is None or not any(True for _ in align.parameters()):
        return
    if adapter.reads_logits if adapter is not None else is_class_map(network, path):
        where = f"{path!r}, which gives class logits" if adapter is None else type(adapter).__name__
        raise ValueError(
            f"align must be left out before {where}, got {type(align).__name__}, whose weights would mix the classes; where "
            "the maps differ in size, use ResizeAlign; where the networks have other classes, an adapter of class logits "
            "takes classes='shared'"
        )
