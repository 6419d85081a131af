"""Description of a head: its activation, classes, anchors and ignored label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from freqkd.losses.logits.divergence import DIVERGENCES
from freqkd.losses.logits.loss import LogitLoss
from freqkd.taps import find_module

# Of detection heads, of mmseg's heads, of panoptic's semantic head.
CLASS_LOSSES = ("loss_cls", "loss_decode", "loss_seg")
ROWS = {  # heads whose rows of logits are not those of another network: what the rows are, and the adapter for them
    "proposals": ("sampled proposals", "ProposalLogits"),
    "queries": ("queries", "QueryLogits"),
    "mask_queries": ("queries", "QueryMaskLogits"),
}


@dataclass(frozen=True)
class HeadKind:
    """What a head says about its class logits.

    Attributes:
        name: its class, for messages.
        family: "dense" (anchors or points), "proposals" (a box head), "queries" (DETR), "mask_queries" (MaskFormer) or
            "segmentation".
        activation: "sigmoid" or "softmax"; None where it does not say, or its losses disagree.
        num_classes: C, without background; None where it does not say.
        channels: class logits of one anchor, proposal, query or position: C, C + 1 with a background class, or 1 of a binary
            segmenter; None where it does not say.
        anchors: anchors of a position, one number, or one for each level; none where the family is not "dense".
        ignore_index: label that its loss leaves out; None without one.
    """

    name: str
    family: str
    activation: str | None
    num_classes: int | None
    channels: int | None
    anchors: tuple[int, ...] = ()
    ignore_index: int | None = None

    @property
    def layout(self) -> str:
        """The channels of its class map in words, e.g. "9 anchors x 3 classes"."""
        return f"{' or '.join(map(str, sorted(set(self.anchors))))} anchors x {self.channels} classes"

    @property
    def binary(self) -> bool:
        """Whether one channel tells foreground (label 1) from background (label 0)."""
        return self.family == "segmentation" and self.channels == 1


def find_head(network: nn.Module, path: str) -> nn.Module | None:
    """Return the outermost module on a tap's path that has a class loss, None without one.

    >>> head = nn.ModuleDict(dict(loss_cls=nn.Identity(), conv=nn.Identity()))
    >>> find_head(nn.ModuleDict(dict(bbox_head=head)), "bbox_head.conv") is head
    True
    """
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        module = find_module(network, ".".join(parts[:length]))
        if any(hasattr(module, name) for name in (*CLASS_LOSSES, "use_sigmoid_cls")):
            return module
    return None


def describe_head(network: nn.Module, path: str) -> HeadKind | None:
    """Describe the head that a path leads into, None where there is none on it.

    Args:
        network: the student or the teacher.
        path: a module's path in it, e.g. "bbox_head.retina_cls" or "decode_head.conv_seg".

    >>> head = nn.ModuleDict(dict(loss_cls=nn.Identity(), retina_cls=nn.Conv2d(1, 27, 1)))
    >>> head.use_sigmoid_cls, head.num_classes, head.cls_out_channels, head.num_base_priors = True, 3, 3, 9
    >>> kind = describe_head(nn.ModuleDict(dict(bbox_head=head)), "bbox_head.retina_cls")
    >>> kind.family, kind.activation, kind.channels, kind.anchors
    ('dense', 'sigmoid', 3, (9,))
    """
    head: Any = find_head(network, path)
    if head is None:
        return None
    family = _family(network, head, path)
    classes = getattr(head, "num_classes", None)
    if family == "segmentation":
        channels = getattr(head, "out_channels", classes)
    elif family == "dense":
        channels = getattr(head, "cls_out_channels", classes)
    elif family == "proposals":
        channels = getattr(getattr(head, "fc_cls", None), "out_features", None)
    else:
        channels = getattr(head, "cls_out_channels", None)
    priors = getattr(head, "num_base_priors", 1)
    return HeadKind(
        name=type(head).__name__,
        family=family,
        activation=activation_of(head),
        num_classes=classes,
        channels=channels,
        anchors=() if family != "dense" else tuple(priors) if isinstance(priors, (list, tuple)) else (priors,),
        ignore_index=getattr(head, "ignore_index", getattr(getattr(head, "loss_seg", None), "ignore_index", None)),
    )


def _family(network: nn.Module, head: nn.Module, path: str) -> str:
    if hasattr(head, "loss_decode") or hasattr(head, "loss_seg"):
        return "segmentation"
    if path.split(".")[0] == "roi_head":
        return "proposals"
    if hasattr(head, "num_queries") and hasattr(head, "loss_mask"):
        return "mask_queries"
    return "queries" if hasattr(network, "forward_transformer") else "dense"


def activation_of(head: Any) -> str | None:
    """Return "sigmoid" or "softmax" of a head, None where it does not say, or where its losses disagree.

    >>> activation_of(nn.ModuleDict(dict(loss_cls=nn.CrossEntropyLoss())))
    """
    if getattr(head, "out_channels", None) == 1 and hasattr(head, "loss_decode"):
        return "sigmoid"
    said = {getattr(head, "use_sigmoid_cls", None)} - {None}
    if not said:
        losses = next((getattr(head, name) for name in CLASS_LOSSES if hasattr(head, name)), None)
        each = losses if isinstance(losses, nn.ModuleList) else [losses]
        said = {getattr(loss, "use_sigmoid", None) for loss in each} - {None}
    return None if len(said) != 1 else "sigmoid" if said.pop() else "softmax"


def check_activation(head: Any, loss: Any, owner: str) -> None:
    """Check that a logit loss has the activation of a head: sigmoid for independent classes, softmax for one of all.

    A loss that leaves its activation open takes the head's.

    Args:
        head: a head; one that does not say its activation is not checked, nor is None.
        loss: a loss; one that is no `LogitLoss` is not checked.
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: they differ.
    """
    wanted = activation_of(head)
    if wanted is not None:
        says = "out_channels=1" if getattr(head, "out_channels", None) == 1 else f"use_sigmoid={wanted == 'sigmoid'}"
        check_loss(loss, wanted, f"the {owner}'s {type(head).__name__} has {says}")


def check_loss(loss: Any, wanted: str, reason: str) -> None:
    """Check that a logit loss has an activation, which one that leaves it open takes.

    Args:
        loss: a loss; one that is no `LogitLoss` is not checked.
        wanted: "sigmoid" or "softmax".
        reason: why, for the message.

    Raises:
        ValueError: it has the other one.
    """
    if not isinstance(loss, LogitLoss):
        return
    loss.take_activation(wanted)
    if loss.activation != wanted:
        words = [word for word, kind in DIVERGENCES.items() if wanted in kind.activations]
        raise ValueError(
            f"the loss's activation must be {wanted!r}, as {reason}, got {loss.activation!r}; set activation={wanted!r}, "
            f"with a divergence for it: {', '.join(words)}"
        )


def check_num_classes(stated: int | None, kind: HeadKind | None, owner: str) -> None:
    """Check a number of classes that an adapter was given against a head's own.

    Args:
        stated: what the adapter was given; None is the head's own.
        kind: the head; None where there is none.
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: they differ, or neither says.
    """
    own = None if kind is None else kind.num_classes
    if stated is None and own is None:
        named = "has no head there" if kind is None else f"{kind.name} does not say it"
        raise ValueError(f"num_classes must be given, as the {owner}'s {named}; set it to the number of classes")
    if kind is not None and stated is not None and own not in (None, stated):
        raise ValueError(
            f"num_classes must be {own}, as in the {owner}'s {kind.name}, got {stated}; leave it out, and the head's is taken"
        )


def check_bare_tap(network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
    """Check that a logit loss without an adapter can read what a tap gives.

    The rows of a box head or of queries are other boxes in either network, and the class map of a dense head holds several
    anchors. Only an adapter can tell what belongs together.

    Args:
        network: the student or the teacher.
        path: the term's tap in it.
        loss: the term's loss; one that is no `LogitLoss` is not checked.
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: it needs an adapter, which the message names; or it has another activation than the head.
    """
    kind = describe_head(network, path) if isinstance(loss, LogitLoss) else None
    if kind is None:
        return
    where = f"LogitLoss at {path!r} of the {owner}'s {kind.name}"
    if kind.family == "dense" and kind.anchors != (1,):
        raise ValueError(
            f"adapter must be given for {where}, whose channels are {kind.layout}, not one distribution; "
            "add adapter=dict(type='freqkd.DenseLogits') and tap the class predictor, e.g. 'bbox_head.retina_cls'"
        )
    if kind.family in ROWS:
        rows, adapter = ROWS[kind.family]
        raise ValueError(
            f"adapter must be given for {where}, whose rows are the {owner}'s own {rows}, which are not the other network's; "
            f"add adapter=dict(type='freqkd.{adapter}'), which compares like with like"
        )
    check_activation(find_head(network, path), loss, owner)
