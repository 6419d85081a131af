"""CWD against the formula, its invariances, and what breaks the released program."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from freqkd.losses.cwd import CWDLoss, cwd_loss

torch.set_num_threads(1)


def _maps(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return student.requires_grad_(), 2 * teacher


def _formula(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    p, q = ((x.flatten(2) / tau).softmax(2) for x in (teacher, student))
    return tau**2 * (p * (p / q).log()).sum() / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_formula(tau: float) -> None:
    student, teacher = _maps(2, 3, 4, 5)
    torch.testing.assert_close(cwd_loss(student, teacher, tau=tau), _formula(student, teacher, tau))
    torch.testing.assert_close(CWDLoss(tau, loss_weight=3.0)(student, teacher), 3 * _formula(student, teacher, tau))


def test_gradcheck() -> None:
    student, teacher = _maps(2, 3, 3, 2)
    target = torch.tensor([[[0, 255], [0, 0], [0, 0]], [[255, 255]] * 3])
    assert torch.autograd.gradcheck(lambda s: cwd_loss(s, teacher), (student,))
    assert torch.autograd.gradcheck(lambda s: cwd_loss(s, teacher, target, ignore_index=255), (student,))


def test_shift_of_a_channel_and_equality() -> None:
    student, teacher = _maps(2, 3, 4, 5)
    shift = torch.tensor([5.0, -3.0, 100.0]).double().view(1, 3, 1, 1)
    torch.testing.assert_close(cwd_loss(student + shift, teacher), cwd_loss(student, teacher))
    assert cwd_loss(teacher + shift, teacher).abs() < 1e-12
    assert cwd_loss(student, teacher) > 0


def test_ignored_positions_are_left_out_of_the_softmax() -> None:
    student, teacher = _maps(2, 3, 4, 4)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[:, 3] = 255
    expected = cwd_loss(student[:, :, :3], teacher[:, :, :3])
    with torch.no_grad():
        student[:, :, 3] = float("nan")
    value = cwd_loss(student, teacher, target, ignore_index=255)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad is not None
    assert (student.grad[:, :, 3] == 0).all()
    assert student.grad.isfinite().all()


def test_images_without_a_valid_position_do_not_count() -> None:
    student, teacher = _maps(2, 3, 4, 4)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[1] = 255
    expected = cwd_loss(student[:1], teacher[:1])
    torch.testing.assert_close(cwd_loss(student, teacher, target, ignore_index=255), expected)
    loss = CWDLoss(ignore_index=255)(student, teacher, torch.full_like(target, 255))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_levels_count_by_their_channels() -> None:
    first, second = _maps(2, 3, 4, 4), _maps(1, 3, 2, 2)
    each = [cwd_loss(s, t) for s, t in (first, second)]
    both = cwd_loss([first[0], second[0]], [first[1], second[1]])
    torch.testing.assert_close(both, (2 * each[0] + each[1]) / 3)


def test_each_level_has_labels_of_its_own_shape() -> None:
    first, second = _maps(2, 3, 4, 6), _maps(2, 3, 2, 3)
    targets = [torch.zeros(2, 4, 6, dtype=torch.long), torch.zeros(2, 2, 3, dtype=torch.long)]
    for target in targets:
        target[:, :, -1] = 255
    both = cwd_loss([first[0], second[0]], [first[1], second[1]], targets, ignore_index=255)
    each = [cwd_loss(s[..., :-1], t[..., :-1]) for s, t in (first, second)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_finite(dtype: torch.dtype, scale: float) -> None:
    student, teacher = _maps(2, 3, 4, 4, dtype=dtype)
    leaf = (student.detach().sign() * scale).requires_grad_()
    loss = cwd_loss(leaf, teacher.sign() * -scale)
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_one_position_is_zero() -> None:
    assert cwd_loss(*_maps(2, 3, 1, 1)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: cwd_loss(s, t, tau=0.0), "tau must be above 0"),
        (lambda s, t: CWDLoss(tau=-1.0), "tau must be above 0"),
        (lambda s, t: cwd_loss(s, t[:, :2]), "must have the same shape"),
        (lambda s, t: cwd_loss(s[0], t[0]), r"\(N, C, H, W\)"),
        (lambda s, t: cwd_loss(s, t, ignore_index=255), "target must be given"),
        (lambda s, t: cwd_loss(s, t, torch.zeros(2, 3, 3), ignore_index=0), "target must have the shape"),
        (
            lambda s, t: cwd_loss(s[..., :3], t[..., :3], torch.zeros(2, 3, 4), ignore_index=0),
            r"the shape \(N, H, W\) of the maps, \(2, 4, 3\), got \(2, 3, 4\)",
        ),
        (
            lambda s, t: cwd_loss([s, s[..., :2]], [t, t[..., :2]], torch.zeros(2, 4, 4), ignore_index=0),
            r"of the maps, \(2, 4, 2\), got \(2, 4, 4\)",
        ),
        (lambda s, t: cwd_loss([s, s], [t, t], [torch.zeros(2, 4, 4)], ignore_index=0), "each of the 2 maps"),
    ],
)
def test_errors_name_the_argument(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*_maps(2, 3, 4, 4))
