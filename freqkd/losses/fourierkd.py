"""FourierKD: phases of the Fourier transform, compared on the Riemann sphere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from freqkd.align import Maps, check_level_maps, per_level
from freqkd.losses.cosine import unit_vectors
from freqkd.utils.checks import WIDEST, as_maps, check_at_least, check_flag, check_same_shape, check_whole, upcast

__all__ = ["AmplitudeMixer", "FourierKDLoss", "fourierkd_loss"]

Mix = Callable[[Tensor, Tensor], Tensor]
FAINT = 1e-5  # of a channel's largest coefficient: below it, a phase is rounding noise
EPS = 1e-5  # of batch normalisation, added to the variance


def fourierkd_loss(
    student: Maps,
    teacher: Maps,
    mix: Mix | Sequence[Mix],
    *,
    randomize: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the squared distance of the maps' Fourier coefficients on the Riemann sphere, added over the levels.

    With the orthonormal transforms S and T of the maps s and t:

    .. math::
        \tilde S = u \cdot mix(|S|, |T|) \cdot S / |S|, \qquad
        p(z) = \Bigl( \frac{2 \Re z}{|z|^2 + 1}, \frac{2 \Im z}{|z|^2 + 1}, \frac{|z|^2 - 1}{|z|^2 + 1} \Bigr)

    .. math:: L = \sum_l \tfrac{1}{2} \sum_{k=1}^{3} \mathrm{mean}\;
              (1 - \cos(s_c, t_c)) \, \bigl( \overline{p_k(\tilde S)} - \overline{p_k(T)} \bigr)^2

    The student keeps its phase; its amplitude is mixed with the teacher's and multiplied by a uniform random number u in
    [0, 1) for every coefficient. So what is taught is the phase, for the most part. The bar is batch normalisation without
    affine parameters, by the statistics of the batch; the cosine is that of a channel of an image over its positions.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        mix: from the amplitudes of student and teacher, each (N, C, H, W), to the student's new one; one for all levels, or
            one per level. See `AmplitudeMixer`.
        randomize: whether u is drawn; False: it is 1.
        generator: source of the random numbers, on the maps' device; None: torch's own.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or of `mix`, or shapes, differ.

    References:
        FourierKD (IEEE Signal Processing Letters, 2024) and its released program, which differs in four points. There, the zero
        frequency is moved to the centre along all four axes, batch and channels included, so that the cosines weigh the
        maps of other images and channels; here nothing is moved, as no step depends on the order of the frequencies.
        There, only the last of several maps counts; here, all do. A phase of a coefficient below 1e-5 of its channel's
        largest, which is rounding, counts as 0 instead of having a gradient without bound. The 1 x 1 convolution of the
        student's map is the term's align, and its output enters the cosines, too. The gradient goes through the cosines, as
        there.

    Example:
        >>> feat = torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]])
        >>> own = lambda student, teacher: student
        >>> round(fourierkd_loss(feat, 3 * feat, own, randomize=False).item(), 4)  # the same phase and direction
        0.0
        >>> round(fourierkd_loss(-feat, feat, own, randomize=False).item(), 1)  # the real part turned over: (2 / 2) * 2^2
        4.0
    """
    pairs = as_maps(student, teacher)
    mixers = list(mix) if isinstance(mix, Sequence) else [mix] * len(pairs)
    if len(mixers) != len(pairs):
        raise ValueError(f"mix must have one entry for each of the {len(pairs)} maps, got {len(mixers)}")
    losses = []
    for level, ((student_feat, teacher_feat), mixer) in enumerate(zip(pairs, mixers)):
        check_same_shape(student_feat, teacher_feat, f"features of level {level}")
        with torch.autocast(student_feat.device.type, enabled=False):
            s, t = upcast(student_feat), upcast(teacher_feat.detach())
            ours, theirs = (unit_vectors(x.flatten(2).mT) for x in (s, t))  # a channel of zeros has no gradient
            weight = 1 - (ours * theirs).sum(1)
            freq_s, freq_t = (torch.fft.fft2(x, norm="ortho") for x in (s, t))
            amplitude = upcast(mixer(freq_s.abs(), freq_t.abs()))
            check_same_shape(amplitude, t, f"amplitudes of level {level}, mixed,")
            if randomize:
                shape, device = amplitude.shape, amplitude.device
                amplitude = amplitude * torch.rand(shape, generator=generator, device=device, dtype=amplitude.dtype)
            squares = [
                (_normalized(ours) - _normalized(theirs)).square()
                for ours, theirs in zip(_on_sphere(amplitude * _phase(freq_s)), _on_sphere(freq_t))
            ]
            losses.append((weight[:, :, None, None] * sum(squares)).mean() / 2)
    return torch.stack(losses).sum()


def _phase(freq: Tensor) -> Tensor:
    """Return z / |z|; 0, without a gradient, where |z| is a tiny part of the channel's largest, and for a channel of zeros."""
    size = freq.abs()
    least = (FAINT * size.detach().amax((-2, -1), keepdim=True)).clamp(min=torch.finfo(size.dtype).tiny ** 0.5)
    return torch.where(size > least, freq / torch.maximum(size, least), 0)


def _on_sphere(freq: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three coordinates of complex numbers on the Riemann sphere; the last in a form that never divides inf by inf.

    >>> [round(x.item(), 2) for x in _on_sphere(torch.tensor(3 + 4j))]  # |z|^2 = 25
    [0.23, 0.31, 0.92]
    """
    size = freq.real.square() + freq.imag.square() + 1
    return 2 * freq.real / size, 2 * freq.imag / size, 1 - 2 / size


def _normalized(x: Tensor) -> Tensor:
    """Return batch normalisation without affine parameters; a single position gives 0."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + EPS).sqrt()


class AmplitudeMixer(nn.Module):
    r"""Mix the amplitudes of student and teacher by a learnt weight for each channel.

    .. math:: \sigma(a_c) \, conv_s(A_s) + (1 - \sigma(a_c)) \, conv_t(A_t)

    with two 1 x 1 convolutions. The weights start at 1/2.

    Args:
        channels: C of both.

    Attributes:
        balance: Parameter (C,), a.

    Shape:
        student, teacher: (N, C, H, W). Output: likewise.

    >>> AmplitudeMixer(4)(torch.ones(1, 4, 5, 7), torch.ones(1, 4, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("channels", channels, 1, most=WIDEST)
        self.balance = nn.Parameter(torch.zeros(channels))
        self.student, self.teacher = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mixed amplitude, in the precision of the weights."""
        share, dtype = self.balance.sigmoid()[:, None, None], self.balance.dtype
        return cast(Tensor, share * self.student(student.to(dtype)) + (1 - share) * self.teacher(teacher.to(dtype)))


class FourierKDLoss(nn.Module):
    """`fourierkd_loss` with an `AmplitudeMixer` per level, times `loss_weight`.

    The mixers are trained with the student and dropped with the teacher.

    Args:
        channels: of the maps, a number or one per level; where the student's differ, add a `ConvAlign`. The paper has one,
            a 1 x 1 convolution, in any case.
        num_levels: pyramid levels.
        randomize: see `fourierkd_loss`.
        loss_weight: factor on the result. The authors take 7 for an FPN, 41 for the last stage of a backbone of a segmenter.

    Attributes:
        mixers: ModuleList, an `AmplitudeMixer` per level.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, channels, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range; maps that are not num_levels, or do not fit.

    References:
        FourierKD (IEEE Signal Processing Letters, 2024). Its term on the detector's scores is not part of this loss.

    Config::

        dict(type='freqkd.FourierKDLoss', channels=256, num_levels=5, loss_weight=7.0)

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss, (student, teacher) = FourierKDLoss(channels=4, num_levels=1), torch.randn(2, 1, 4, 8, 8)
        >>> f"{loss(student, teacher, generator=torch.Generator().manual_seed(0)).item():.1f}"
        '2.9'
    """

    def __init__(
        self, channels: int | Sequence[int], num_levels: int, randomize: bool = True, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_flag("randomize", randomize)
        check_at_least("loss_weight", loss_weight, 0)
        self.channels = per_level("channels", channels, num_levels)
        self.mixers = nn.ModuleList(AmplitudeMixer(width) for width in self.channels)
        self.randomize, self.loss_weight = randomize, loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the weighted loss; `generator` as in `fourierkd_loss`."""
        check_level_maps(student_feats, teacher_feats, self.channels)
        mixers = [cast(AmplitudeMixer, mixer) for mixer in self.mixers]
        loss = fourierkd_loss(student_feats, teacher_feats, mixers, randomize=self.randomize, generator=generator)
        return self.loss_weight * loss
