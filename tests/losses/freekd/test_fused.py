"""The fused forms of FreeKD against the plain one, over everything that they take, and None for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from freqkd.losses.freekd.fused import fused_freekd_loss
from freqkd.losses.freekd.loss import BAND_WEIGHTS, COMBINE, NORMS, FreeKDLoss, freekd_loss
from freqkd.losses.freekd.prompts import FrequencyPrompt

TOLERANCES = {
    torch.float64: dict(rtol=1e-9, atol=1e-12),
    torch.float32: dict(rtol=1e-5, atol=1e-6),
    torch.float16: dict(rtol=2e-3, atol=1e-6),
    torch.bfloat16: dict(rtol=2e-2, atol=1e-6),
}
DTYPES = st.sampled_from(list(TOLERANCES))
ORDERS = st.sampled_from([torch.contiguous_format, torch.channels_last])
FACTORS = st.sampled_from([0.0, 0.25, 1.0, 3.0])


@dataclass
class Case:
    """Arguments of `fused_freekd_loss`."""

    students: list[Tensor]
    teachers: list[Tensor]
    masks: list[Any]
    omegas: list[Tensor | None]
    options: dict[str, Any]


def _options(**given: Any) -> dict[str, Any]:
    return dict(dict(norm="l1", knee=1.0, combine="mean", band_weights="mean", depth=3, wavelet="haar"), **given)


def _coarse(*size: int) -> Tensor:
    """Return multiples of 1/16, which are added without rounding: a coefficient that is 0 is 0, without sign, in both forms."""
    return (16 * torch.randn(size)).round() / 16


def _masks(kind: str, teacher: Tensor, depth: int, count: int, alone: bool) -> Any:
    """Return no masks, tensors for every band or scale, or a prompt, whose tokens need not be in the teacher's precision."""
    if kind == "none":
        return None
    tokens_per = "subband" if "subband" in kind else "scale"
    if "prompt" in kind:
        prompt = FrequencyPrompt(teacher.shape[1], count, depth, tokens_per)
        prompt.tokens.data.normal_()
        prompt._warned = True
        return prompt.to(torch.float64 if teacher.dtype == torch.float64 else torch.float32)
    levels = [depth, *(level for level in range(1, depth + 1) for _ in range(3 if tokens_per == "subband" else 1))]
    sizes = [[-(-side // 2**level) for side in teacher.shape[2:]] for level in levels]
    return [torch.rand(1 if alone else len(teacher), count, *size).to(teacher.dtype) for size in sizes]


@st.composite
def cases(draw: st.DrawFn, squares: bool) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    batch, channels, depth = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sides = st.tuples(st.integers(1, 21), st.integers(1, 21))
    students, teachers = [], []
    for size in draw(st.lists(sides, min_size=1, max_size=3)):
        for maps in (students, teachers):
            maps.append(_coarse(batch, channels, *size).to(draw(DTYPES)).contiguous(memory_format=draw(ORDERS)))
        students[-1].requires_grad_()
    none: list[Any] = [None] * len(students)
    if squares:
        combine = draw(st.sampled_from(["mean", "none"]))
        options = _options(
            norm="l2", band_weights=draw(st.sampled_from(["flat", "details"])), combine=combine, depth=depth
        )
        return Case(students, teachers, none, none, options)
    kind = draw(st.sampled_from(["none", "subband", "scale", "subband prompt", "scale prompt"]))
    count, alone = draw(st.integers(1, 3)), draw(st.booleans())
    masks = [_masks(kind, teacher, depth, count, alone) for teacher in teachers]
    rows = draw(st.sampled_from([0, 1, batch]))
    omegas = [_coarse(rows, channels) for _ in students] if rows else none  # a negative weight counts by its size
    lists = st.lists(FACTORS, min_size=1 + depth, max_size=1 + depth)
    band_weights = draw(st.one_of(st.sampled_from(["mean", "orientation-mean"]), lists))
    combine = draw(st.sampled_from(["mean", "mean", "none"]))
    return Case(students, teachers, masks, omegas, _options(combine=combine, band_weights=band_weights, depth=depth))


def _check(case: Case) -> None:
    loss = fused_freekd_loss(case.students, case.teachers, case.masks, case.omegas, **case.options)
    assert loss is not None
    pairs = list(zip(case.students, case.teachers, case.masks, case.omegas))
    plain = torch.stack([freekd_loss(*pair, fused=False, **case.options) for pair in pairs]).sum()
    precise = all(x.dtype == torch.float64 for x in (*case.students, *case.teachers))
    least = torch.float64 if precise else torch.float32
    torch.testing.assert_close(loss, plain, check_dtype=False, **TOLERANCES[least])
    gradients = [torch.autograd.grad(one, case.students, retain_graph=True) for one in (loss, plain)]
    for student, found, expected in zip(case.students, *gradients):
        assert found.dtype == student.dtype
        torch.testing.assert_close(
            found, expected, **TOLERANCES[least if student.dtype == torch.float64 else student.dtype]
        )


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(cases(squares=False))
def test_the_l1_form_is_the_plain_one(case: Case) -> None:
    _check(case)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(cases(squares=True))
def test_the_l2_form_is_the_plain_one(case: Case) -> None:
    _check(case)


def _random_masks(count: int) -> list[Tensor]:
    return [torch.rand(1, 2, 4, 4) for _ in range(count)]


SQUARES = dict(norm="l2", band_weights="details")
NOT_TAKEN = {
    **{f"norm {norm}": (None, None, dict(norm=norm)) for norm in sorted(set(NORMS) - {"l1", "l2"})},
    **{f"l1, {words}": (None, None, dict(band_weights=words)) for words in ("flat", "details")},
    **{f"l2, {words}": (None, None, dict(norm="l2", band_weights=words)) for words in ("mean", "orientation-mean")},
    **{f"{how} of masks": (_random_masks(4), None, dict(combine=how)) for how in sorted(set(COMBINE) - {"mean"})},
    "weights of orientations": (None, None, dict(band_weights=[1.0, 2.0, 3.0, 4.0])),
    "l2 with masks": (_random_masks(4), None, SQUARES),
    "l2 with a prompt": (FrequencyPrompt(3, depth=1), None, SQUARES),
    "l2 with channel weights": (None, torch.rand(1, 3), SQUARES),
    "magnitudes": (FrequencyPrompt(3, depth=1, score="magnitude"), None, {}),
    "a weight map": (None, None, dict(weight_map=torch.rand(1, 1, 8, 8))),
    "another wavelet": (None, None, dict(wavelet="db2")),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_everything_else_is_left_to_the_plain_form(name: str) -> None:
    masks, omega, given = NOT_TAKEN[name]
    student, teacher = torch.randn(2, 1, 3, 8, 8)
    options = _options(depth=1, **given)
    assert fused_freekd_loss([student], [teacher], [masks], [omega], **options) is None
    both = [freekd_loss(student, teacher, masks, omega, fused=fused, **options) for fused in (True, False)]
    assert both[0] == both[1]
    assert both[0] > 0


def test_pyramids_whose_maps_differ_in_kind_are_left_to_the_plain_form() -> None:
    maps, prompt, omega = [torch.randn(1, 3, 8, 8)] * 2, FrequencyPrompt(3, depth=1), torch.rand(1, 3)
    options = _options(depth=1)
    assert fused_freekd_loss(maps, maps, [prompt, None], [None, None], **options) is None
    assert fused_freekd_loss(maps, maps, [prompt, prompt], [omega, None], **options) is None
    assert fused_freekd_loss(maps, maps, [None, _random_masks(4)], [omega, None], **options) == 0


@pytest.mark.parametrize("preset", ["paper", "official", "details"])
@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("band_weights", BAND_WEIGHTS)
def test_a_module_gives_the_same_with_either_form(preset: str, norm: str, band_weights: str) -> None:
    torch.manual_seed(0)
    options = dict(channels=4, num_levels=3, num_prompts=3, preset=preset, norm=norm, band_weights=band_weights)
    losses = [FreeKDLoss(**options, fused=fused).double() for fused in (True, False)]
    state = {name: torch.randn_like(value) for name, value in losses[0].state_dict().items()}
    maps = [[torch.randn(2, 4, *size, dtype=torch.float64) for size in ((17, 12), (9, 6), (9, 6))] for _ in range(2)]
    for student in maps[0]:
        student.requires_grad_()
    found = []
    for loss in losses:
        loss.load_prompts(state)
        found.append((loss(*maps), *torch.autograd.grad(loss(*maps), maps[0])))
    for fused, plain in zip(*found):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("preset", ["paper", "details"])
def test_under_a_compiler_the_plain_form_is_traced_without_a_break(preset: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    loss = FreeKDLoss(4, 2, preset=preset, depth=1)
    loss.load_prompts({name: torch.randn_like(value) for name, value in loss.state_dict().items()})
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    students = [torch.randn(1, 4, *size, requires_grad=True) for size in ((16, 24), (13, 9))]
    teachers = [torch.randn(1, 4, *size) for size in ((16, 24), (13, 9))]
    expected, actual = loss(students, teachers), compiled(students, teachers)
    torch.testing.assert_close(actual, expected)
    for found, wanted in zip(torch.autograd.grad(actual, students), torch.autograd.grad(expected, students)):
        torch.testing.assert_close(found, wanted)
