"""Features and logits of 1e4 in half precision: every loss and its gradient are finite, and about those of full precision."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import freqkd.losses
from freqkd.losses.logits.divergence import DIVERGENCES, build_divergence
from freqkd.losses.logits.loss import check_grid
from freqkd.losses.logits.softening import SOFTENINGS, build_softening

KINDS = {name: kind for name, kind in vars(freqkd.losses).items() if name.endswith("Loss") and inspect.isclass(kind)}
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def grid() -> Iterator[dict[str, Any]]:
    """Every softening with every divergence and activation that it goes with, and one with regions."""
    for softening in SOFTENINGS:
        for divergence in DIVERGENCES:
            for activation in ("softmax", "sigmoid"):
                options = dict(softening=softening, divergence=divergence, activation=activation)
                try:
                    check_grid(build_softening(softening), build_divergence(divergence), activation)
                except ValueError:
                    continue
                yield options
    yield dict(regions=dict(scales=(1, 2)))


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "FreeKDLoss": [
        dict(preset=preset, relation=relation) for preset in ("paper", "official") for relation in ("none", "gate")
    ]
    + [dict(wavelet="db2"), *(dict(preset="details", standardize=how) for how in ("none", "level", "both"))]
    + [dict(preset="details", relation="local", window=4), dict(preset="whitened")],
    "FreeKDPlusLoss": [dict(), dict(preset="details")],
    "SimilarityKLLoss": [dict(), dict(num_positions=64)],
    "L2Loss": [
        dict(normalize=normalize, reduction=word) for normalize in (True, False) for word in ("batch", "mean", "norm")
    ],
    "LogitLoss": list(grid()),
    "MLKDLoss": [dict(), dict(standardize=True)],
    "CrossKDBoxLoss": [dict(kind="giou"), dict(kind="iou")],
}
SHARED = dict(channels=8, num_levels=1)


def large(*shape: int) -> Tensor:
    """Random numbers of 1e4, at most 4e4: float16 ends at 65504."""
    return 1e4 * torch.randn(shape).clamp(-4, 4)


def arguments_of(name: str) -> dict[str, Any]:
    """What a loss takes, by name: its maps of 1e4, and labels, boxes and weights."""
    if name in ("LDLoss", "BCKDLoss", "CrossKDLoss", "CrossKDBoxLoss"):
        cross = "cross" if name.startswith("Cross") else ""
        cls, reg = ("cross_cls", "cross_reg") if cross else ("cls_student", "reg_student")
        found: dict[str, Any] = {cls: large(2, 3, 6, 8), "cls_teacher": large(2, 3, 6, 8)}
        if name == "CrossKDBoxLoss":
            for side in ("cross_boxes", "boxes_teacher"):
                corner, size = large(2, 2, 6, 8) / 4, large(2, 2, 6, 8).abs() / 4
                found[side] = torch.cat([corner, corner + size + 1], 1)
            found.update(cross_centerness=large(2, 1, 6, 8), centerness_teacher=large(2, 1, 6, 8))
            found.update(positive=torch.arange(96) % 2 == 0)
        else:
            found.update({reg: large(2, 20, 6, 8), "reg_teacher": large(2, 20, 6, 8)})
        labels = torch.arange(96).reshape(2, 48) % 4
        return {
            **found,
            **(dict(labels=labels, vlr_region=torch.rand(2, 48)) if name == "LDLoss" else dict(avg_factor=3.0)),
        }
    if name == "MLKDLoss":
        return {f"{side}_{view}": large(6, 8) for side in ("student", "teacher") for view in ("weak", "strong")}
    if name in ("LogitLoss", "CWDLoss"):
        return dict(
            student=large(2, 8, 12, 16), teacher=large(2, 8, 12, 16), target=torch.arange(384).reshape(2, 12, 16) % 8
        )
    found = dict(student_feats=large(2, 8, 12, 16), teacher_feats=large(2, 8, 12, 16))
    if name == "WeightedMSELoss":
        found.update(weight_maps=torch.rand(2, 1, 12, 16))
    if name == "FGDLoss":
        found.update(boxes=[torch.tensor([[2.0, 2.0, 60.0, 60.0]])] * 2, image_sizes=[(96, 128)] * 2)
    return found


def rows() -> list[Any]:
    """Every loss that there is, in every variant that has a way of its own."""
    found = []
    for name, kind in KINDS.items():
        for options in VARIANTS.get(name, [{}]):
            needed = {key: value for key, value in SHARED.items() if key in inspect.signature(kind).parameters}
            word = "-".join(str(value) for value in options.values() if not isinstance(value, dict)) or "plain"
            found.append(pytest.param(name, {**needed, **options}, id=f"{name}-{word}"))
    return found


def run(loss: Any, given: dict[str, Any], dtype: torch.dtype | None, autocast: torch.dtype | None = None) -> Any:
    """Return a loss and its gradients, by argument, in float32; `dtype` is that of all maps."""
    loss = copy.deepcopy(loss)
    maps = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()}
    maps = {
        key: value.detach().to(dtype or torch.float32, copy=True).requires_grad_()
        for key, value in maps.items()
        if key != "vlr_region"
    }
    torch.manual_seed(1)  # MGD's masks, FourierKD's amplitudes
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        value = loss(**{**given, **maps})
    value.backward()
    gradients = {key: x.grad.float() for key, x in maps.items() if x.grad is not None}
    gradients.update({name: one.grad.float() for name, one in loss.named_parameters() if one.grad is not None})
    return float(value), gradients


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("name", "options"), rows())
def test_it_is_finite_and_so_is_its_gradient(name: str, options: dict[str, Any], half: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = KINDS[name](**options)
        given = arguments_of(name)
        # What float32 gives for the very numbers that half precision holds.
        rounded = {
            key: value.to(HALVES[half]).float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in given.items()
        }
        expected, wanted = run(loss, rounded, None)
        for autocast in (None, HALVES[half]):
            value, gradients = run(loss, rounded, HALVES[half], autocast)
            assert abs(value) < float("inf")
            assert all(bool(torch.isfinite(one).all()) for one in gradients.values())
            assert list(gradients) == list(wanted)
            if autocast is None:
                assert value == pytest.approx(expected, rel=1e-4)
                for key, one in gradients.items():
                    least = (
                        2**-24 if half == "float16" else 0.0
                    )  # below the smallest number of float16, nothing is left
                    torch.testing.assert_close(
                        one, wanted[key], rtol=0.01, atol=max(0.01 * float(wanted[key].abs().max()), least)
                    )


@pytest.mark.parametrize(("name", "options"), rows())
def test_a_teacher_of_another_precision_gives_the_student_a_gradient_of_its_own(
    name: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss, given = KINDS[name](**options).double(), arguments_of(name)
        for key, value in given.items():
            if isinstance(value, Tensor) and value.is_floating_point() and "teacher" not in key and key != "vlr_region":
                given[key] = (value * 1e-4).double().requires_grad_()
            elif isinstance(value, Tensor) and value.is_floating_point():
                given[key] = value * 1e-4 if key != "vlr_region" else value
        loss(**given).backward()
    gradients = [x.grad for x in given.values() if isinstance(x, Tensor) and x.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(one).all()) and one.dtype == torch.float64 for one in gradients)


def test_every_loss_is_in_the_table() -> None:
    assert {row.values[0] for row in rows()} == set(KINDS)
    assert len(KINDS) == 24
    assert len(VARIANTS["LogitLoss"]) == 49
