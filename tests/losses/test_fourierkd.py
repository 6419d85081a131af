"""FourierKD: Fourier coefficients on the Riemann sphere."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from freqkd.losses import AmplitudeMixer, FourierKDLoss, fourierkd_loss


def transform(x: Tensor) -> list[complex]:
    """The orthonormal discrete Fourier transform of a map (H, W), coefficient by coefficient."""
    height, width = x.shape
    found = []
    for u in range(height):
        for v in range(width):
            total = 0j
            for i in range(height):
                for j in range(width):
                    total += x[i, j].item() * cmath.exp(-2j * math.pi * (u * i / height + v * j / width))
            found.append(total / math.sqrt(height * width))
    return found


def sphere(z: complex) -> tuple[float, float, float]:
    size = abs(z) ** 2
    return 2 * z.real / (size + 1), 2 * z.imag / (size + 1), (size - 1) / (size + 1)


def by_hand(student: Tensor, teacher: Tensor, mixer: AmplitudeMixer, noise: Tensor) -> float:
    """The loss of one level, channel by channel and coefficient by coefficient."""
    batch, channels, height, width = student.shape
    coefficients = [[[transform(one) for one in image] for image in x] for x in (student, teacher)]
    sizes = [[[[abs(z) for z in one] for one in image] for image in x] for x in coefficients]
    amplitudes = torch.tensor(sizes, dtype=torch.float64)
    share = mixer.balance.double().sigmoid()
    convolved = [
        torch.einsum("dc,nck->ndk", conv.weight.double()[..., 0, 0], amplitude) + conv.bias.double()[:, None]
        for conv, amplitude in zip((mixer.student, mixer.teacher), amplitudes)
    ]
    mixed = (share[:, None] * convolved[0] + (1 - share[:, None]) * convolved[1]) * noise.flatten(2)
    points = torch.zeros(2, 3, batch, channels, height * width, dtype=torch.float64)
    for n in range(batch):
        for c in range(channels):
            for k in range(height * width):
                phase = cmath.exp(1j * cmath.phase(coefficients[0][n][c][k]))
                points[0, :, n, c, k] = torch.tensor(sphere(mixed[n, c, k].item() * phase), dtype=torch.float64)
                points[1, :, n, c, k] = torch.tensor(sphere(coefficients[1][n][c][k]), dtype=torch.float64)
    total = 0.0
    for k in range(3):
        for c in range(channels):
            ours, theirs = (
                (x - x.mean()) / math.sqrt(x.var(correction=0).item() + 1e-5) for x in points[:, k, :, c].unbind(0)
            )
            for n in range(batch):
                a, b = student[n, c].flatten(), teacher[n, c].flatten()
                weight = 1 - (a @ b / (a.norm() * b.norm())).item()
                total += weight * (ours[n] - theirs[n]).square().sum().item() / 2
    return total / student.numel()


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 4)])
def test_it_is_what_plain_loops_give(size: tuple[int, int]) -> None:
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    loss = FourierKDLoss(3, 1, loss_weight=2.0).double()
    torch.nn.init.normal_(loss.mixers[0].balance)
    found = loss(student, teacher, generator=torch.Generator().manual_seed(0))
    expected = by_hand(student, teacher, loss.mixers[0], drawn((2, 3, *size)))
    assert found.item() == pytest.approx(2 * expected, rel=1e-9)


def test_the_cosines_weigh_their_own_image_and_channel() -> None:
    """The released program rolls images and channels: there, a channel that is right is charged with another's weight."""
    student, teacher = torch.randn(2, 2, 4, 6, 6, dtype=torch.float64)
    student[0], student[1, 1:] = teacher[0], teacher[1, 1:]  # only one channel of one image is wrong

    def value(which: slice) -> float:
        options = dict(mix=lambda ours, theirs: ours, randomize=False)
        return fourierkd_loss(student[:, which], teacher[:, which], **options).item() * (which.stop - which.start)

    assert value(slice(1, 4)) == pytest.approx(0, abs=1e-12)
    assert value(slice(0, 4)) == pytest.approx(value(slice(0, 1)))
    assert value(slice(0, 1)) > 0.1


def test_levels_add_up_and_the_module_is_the_function() -> None:
    students = [torch.randn(2, 4, 5, 7), torch.randn(2, 6, 3, 4)]
    teachers = [torch.randn_like(x) for x in students]
    loss = FourierKDLoss([4, 6], 2, randomize=False, loss_weight=0.5)
    each = [fourierkd_loss(s, t, m, randomize=False) for s, t, m in zip(students, teachers, loss.mixers)]
    torch.testing.assert_close(loss(students, teachers), 0.5 * sum(each))


def test_a_generator_repeats_the_noise() -> None:
    student, teacher = torch.randn(2, 1, 4, 7, 9)
    loss = FourierKDLoss(4, 1)
    values = [loss(student, teacher, generator=torch.Generator().manual_seed(seed)).item() for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]
    torch.manual_seed(5)
    first = loss(student, teacher)
    torch.manual_seed(5)
    assert loss(student, teacher).item() == first.item()  # torch's own state, which a checkpoint holds


def test_gradients() -> None:
    student, teacher = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64)
    mixer = AmplitudeMixer(2).double()
    teacher.requires_grad_()

    def loss(s: Tensor) -> Tensor:
        return fourierkd_loss(s, teacher, mixer, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(loss, student.requires_grad_())
    loss(student).backward()
    assert teacher.grad is None
    assert all(parameter.grad.norm() > 0 for parameter in mixer.parameters())


@pytest.mark.parametrize(
    "maps", [torch.full((2, 3, 5, 6), 7.3), torch.zeros(2, 3, 4, 4), torch.randn(1, 3, 1, 1), torch.randn(3, 3, 1, 1)]
)
def test_constant_maps_and_one_position_are_finite(maps: Tensor) -> None:
    """The phases of a constant map are rounding, and have no gradient without bound."""
    for student, teacher in ((maps.clone(), torch.randn_like(maps)), (torch.randn_like(maps), maps)):
        loss = FourierKDLoss(3, 1)
        value = loss(student.requires_grad_(), teacher)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(x.grad).all() for x in (student, *loss.parameters()))
        if student.any():  # the cosine of zeros is divided by torch's 1e-8
            assert student.grad.abs().max() < 1e5
    if maps.numel() == 3:
        assert value.item() == 0  # a batch of one number has no deviation


def test_huge_maps_are_finite() -> None:
    student, teacher = 1e25 * torch.randn(2, 1, 3, 4, 4)
    value = FourierKDLoss(3, 1)(student.requires_grad_(), teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (torch.randn(2, 4, 7, 9).mul(300).to(dtype) for _ in range(2))
    loss = FourierKDLoss(4, 1, randomize=False)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = loss(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()))
    value.backward()
    assert all(x.grad.isfinite().all() and x.grad.norm() > 0 for x in (student, *loss.parameters()))


def test_wrong_input() -> None:
    feat, loss = torch.randn(1, 3, 4, 4), FourierKDLoss(3, 2)
    with pytest.raises(ValueError, match="must have num_levels=2 maps, got 1"):
        loss(feat, feat)
    with pytest.raises(ValueError, match=r"level 0 .*ConvAlign\(student_channels=2, teacher_channels=3\)"):
        loss([feat[:, :2], feat], [feat, feat])
    with pytest.raises(ValueError, match="mix must have one entry for each of the 1 maps, got 2"):
        fourierkd_loss(feat, feat, list(loss.mixers))
    with pytest.raises(ValueError, match="amplitudes of level 0, mixed, must have the same shape"):
        fourierkd_loss(feat, feat, lambda ours, theirs: ours[:, :2])
    with pytest.raises(ValueError, match="randomize must be True or False, got 1"):
        FourierKDLoss(3, 1, randomize=1)
