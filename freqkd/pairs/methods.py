"""Methods that a config can be written for: what they compare, their loss, their weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freqkd.adapters.heads import HeadKind
from freqkd.utils.checks import check_choice

FEATURES, SCORES, DISTRIBUTIONS = "feature maps", "class scores", "box distributions"
Options = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A method of distillation.

    Attributes:
        words: what it is, in a comment.
        places: what it compares, the best first: `FEATURES`, `SCORES` or `DISTRIBUTIONS`.
        loss: its loss on features or distributions.
        ratios: weight of a term on feature maps, as a ratio to the task's gradient, by task; 1.0 elsewhere.
        widths: whether its loss takes channels and levels.
        prompts: whether it has a first stage, which trains prompts.
        aligned: whether maps need the same channels.
        adapter: its adapter, where it is not that of the head's scores.
    """

    words: str
    places: tuple[str, ...] = (FEATURES,)
    loss: Options = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    widths: bool = False
    prompts: bool = False
    aligned: bool = True
    adapter: str = ""


# Ratios: those of the samples' configs, which most searches of docs/comparison.md chose, too.
_CHOSEN = dict(detection=8.0, segmentation=2.0)
METHODS = {
    "details": Method(
        "details of the wavelet transform", loss=dict(type="freqkd.FreeKDLoss", preset="details"), ratios=_CHOSEN
    ),
    "whitened": Method(
        "details of the wavelet transform, each band over what the teacher has in it",
        loss=dict(type="freqkd.FreeKDLoss", preset="whitened"),
        ratios=_CHOSEN,
    ),
    "freekd": Method("FreeKD, arXiv 2311.12079", loss=dict(type="freqkd.FreeKDLoss", preset="paper"), prompts=True),
    "mse": Method("mean squared error of the maps", loss=dict(type="freqkd.MSELoss"), ratios=_CHOSEN),
    "pkd": Method("PKD, arXiv 2207.02039: correlation of the maps", loss=dict(type="freqkd.PKDLoss"), ratios=_CHOSEN),
    "at": Method("attention transfer, arXiv 1612.03928", loss=dict(type="freqkd.ATLoss"), aligned=False),
    "mgd": Method("MGD, arXiv 2205.01529: masked generation", loss=dict(type="freqkd.MGDLoss"), widths=True),
    "fgd": Method(
        "FGD, arXiv 2111.11837: foreground and background",
        loss=dict(type="freqkd.FGDLoss"),
        widths=True,
        adapter="GroundTruthBoxes",
    ),
    "cwd": Method(
        "CWD, arXiv 2011.13256: softmax over positions", (SCORES, FEATURES), loss=dict(type="freqkd.CWDLoss", tau=1.0)
    ),
    "kd": Method("KD, arXiv 1503.02531", (SCORES,)),
    "dkd": Method("DKD, arXiv 2203.08679", (SCORES,)),
    "dist": Method("DIST, arXiv 2205.10536", (SCORES,)),
    "quality-focal-kd": Method("classes of BCKD and CrossKD, arXiv 2308.14286", (SCORES,)),
    "ld": Method("LD, arXiv 2102.12252", (DISTRIBUTIONS,), loss=dict(type="freqkd.LDLoss"), adapter="LDTargets"),
    "bckd": Method(
        "BCKD, arXiv 2308.14286", (DISTRIBUTIONS,), loss=dict(type="freqkd.BCKDLoss"), adapter="BCKDTargets"
    ),
}


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        ValueError: there is none.

    >>> find_method("mse").words
    'mean squared error of the maps'
    """
    check_choice("--method", name, tuple(METHODS))
    return METHODS[name]


def score_loss(name: str, head: HeadKind) -> Options:
    """Return the loss of a method for the class scores of a head.

    Args:
        name: the method.
        head: the student's head.

    Raises:
        ValueError: the method is not for this kind of head.

    >>> score_loss("kd", HeadKind("RetinaHead", "dense", "sigmoid", 80, 80, (9,)))["divergence"]
    'binary_kl'
    """
    sigmoid = head.activation == "sigmoid"
    loss: Options = dict(type="freqkd.LogitLoss", divergence="kl")
    if name == "cwd":
        return dict(type="freqkd.CWDLoss", tau=4.0)
    if name == "dist":
        return {**loss, "divergence": "dist"}
    if name == "quality-focal-kd" and not sigmoid:
        raise ValueError(
            f"--method quality-focal-kd must have classes that are independent (sigmoid), and {head.name} has a softmax "
            "over them; use kd"
        )
    if name == "quality-focal-kd":
        return {**loss, "divergence": "quality_focal"}
    if name == "dkd" and sigmoid:
        raise ValueError(
            f"--method dkd must have one class out of several (softmax), and {head.name} has independent ones (sigmoid); "
            "use kd or quality-focal-kd"
        )
    rows = head.family in ("proposals", "queries")
    if name == "dkd":
        loss["divergence"] = dict(type="dkd", alpha=1.0, beta=0.25 if rows else 8.0)
    if sigmoid:
        return {**loss, "divergence": "binary_kl"}
    return {**loss, "softening": dict(type="fixed", tau=1.0 if rows else 4.0)}
