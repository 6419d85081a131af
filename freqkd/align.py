"""Aligns: layers that bring student maps to the teacher's channels, and both to one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.kan import KANConv2d
from freqkd.utils.checks import (
    WIDEST,
    as_maps,
    check_choice,
    check_flag,
    check_map,
    check_same_shape,
    check_whole,
    upcast,
)

__all__ = ["ConvAlign", "KANAlign", "ResizeAlign"]

RESIZE_CHOICES = ("teacher", "student")
DEEPEST = 2**6  # pyramid levels

Maps = Tensor | Sequence[Tensor]


def resize_pair(student: Tensor, teacher: Tensor, resize: str | None) -> tuple[Tensor, Tensor]:
    """Resize one map to the size of the other: bilinear, pixel centres aligned.

    Args:
        student: (N, C, H, W).
        teacher: (N, C', H', W').
        resize: whose size both end with, "teacher" or "student"; None leaves them as they are.

    Raises:
        ValueError: `resize` is unknown.

    Example:
        >>> import torch
        >>> small, large = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)
        >>> [tuple(x.shape) for x in resize_pair(small, large, "student")]
        [(1, 1, 2, 2), (1, 1, 2, 2)]
    """
    if resize is not None:
        check_choice("resize", resize, RESIZE_CHOICES)
    if resize == "teacher":
        student = _resize(student, teacher)
    elif resize == "student":
        teacher = _resize(teacher, student)
    return student, teacher


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(upcast(x), size=like.shape[-2:], mode="bilinear", align_corners=False)


class LevelAlign(nn.Module):
    """Run one layer per level over the student's maps, then resize; the base of every align with weights.

    Args:
        layers: a module per level, from the student's channels to the teacher's.
        resize: see `resize_pair`; None demands equal sizes.

    Shape:
        student_feats, teacher_feats: a map (N, C, H, W) per layer, or one map. Output: two lists of maps.

    Raises:
        ValueError: a number of maps other than the number of layers, or maps that do not fit afterwards.
    """

    def __init__(self, layers: Iterable[nn.Module], resize: str | None = None) -> None:
        super().__init__()
        if resize is not None:
            check_choice("resize", resize, RESIZE_CHOICES)
        self.layers = nn.ModuleList(layers)
        self.resize = resize

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Return the aligned student maps and the teacher maps they compare with."""
        pairs = as_maps(student_feats, teacher_feats)
        if len(pairs) != len(self.layers):
            raise ValueError(f"{type(self).__name__} has num_levels={len(self.layers)}, got {len(pairs)} student_feats")
        aligned = []
        for index, (layer, (student, teacher)) in enumerate(zip(self.layers, pairs)):
            self.check_level(index, student, teacher)
            student, teacher = resize_pair(layer(student), teacher, self.resize)
            check_same_shape(student, teacher, f"features of level {index}, aligned,")
            aligned.append((student, teacher))
        return [student for student, _ in aligned], [teacher for _, teacher in aligned]

    def check_level(self, index: int, student: Tensor, teacher: Tensor) -> None:
        """Raise ValueError where the maps of a level do not suit its layer; here they always do."""


class ChannelAlign(LevelAlign):
    """A layer per level from the student's channels to the teacher's; the base of the aligns that know both.

    Args:
        make: from the channels of the student and of the teacher to the layer of a level.
        student_channels: a number, or one per level.
        teacher_channels: a number, or one per level.
        num_levels: pyramid levels.
        resize: see `resize_pair`; None demands equal sizes.

    Raises:
        ValueError: an argument out of range, or maps of other channels.
    """

    def __init__(
        self,
        make: Callable[[int, int], nn.Module],
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int = 1,
        resize: str | None = None,
    ) -> None:
        student_widths = per_level("student_channels", student_channels, num_levels)
        teacher_widths = per_level("teacher_channels", teacher_channels, num_levels)
        super().__init__((make(a, b) for a, b in zip(student_widths, teacher_widths)), resize)
        self.channels = list(zip(student_widths, teacher_widths))

    def check_level(self, index: int, student: Tensor, teacher: Tensor) -> None:
        """Raise ValueError where the maps of a level have other channels than the layer."""
        for name, feat, want in zip(("student", "teacher"), (student, teacher), self.channels[index]):
            if feat.shape[1] != want:
                raise ValueError(
                    f"{name}_feats[{index}] has {feat.shape[1]} channels where {name}_channels={want} "
                    f"(shape {tuple(feat.shape)})"
                )


class ConvAlign(ChannelAlign):
    """A convolution per level from the student's channels to the teacher's, or a few with ReLUs between.

    Args:
        student_channels: a number, or one per level.
        teacher_channels: a number, or one per level.
        num_levels: pyramid levels.
        kernel_size: odd; the map keeps its size.
        resize: whose size both end with, "teacher" or "student"; None demands equal sizes.
        num_convs: convolutions of a level. All but the first go from the teacher's channels to the teacher's.
        batch_norm: follow every convolution by a batch norm, which takes the place of its bias.

    Shape:
        student_feats: maps (N, student_channels, H, W); teacher_feats: maps (N, teacher_channels, H', W').

    Raises:
        ValueError: an argument out of range, or maps of other channels.

    References:
        FitNets, arXiv 1412.6550 (a convolutional regressor on the student); FreeKD, arXiv 2311.12079, uses 1 x 1.
        `num_convs=2` is the projector of Ultralytics' detectors, as its guide describes it. With a batch norm: Miles and
        Mikolajczyk, arXiv 2303.11098, who find that a projector helps at equal channels, too.

    Config::

        dict(type='freqkd.ConvAlign', student_channels=128, teacher_channels=256, num_levels=5)

    Example:
        >>> import torch
        >>> align = ConvAlign(student_channels=2, teacher_channels=4, num_levels=1, resize="teacher")
        >>> students, teachers = align([torch.ones(1, 2, 4, 4)], [torch.ones(1, 4, 8, 8)])
        >>> students[0].shape, teachers[0].shape
        (torch.Size([1, 4, 8, 8]), torch.Size([1, 4, 8, 8]))
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int = 1,
        kernel_size: int = 1,
        resize: str | None = None,
        num_convs: int = 1,
        batch_norm: bool = False,
    ) -> None:
        check_whole("kernel_size", kernel_size, 1, most=99)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that maps keep their size, got {kernel_size}")
        check_whole("num_convs", num_convs, 1, most=99)
        check_flag("batch_norm", batch_norm)

        def make(own: int, other: int) -> nn.Module:
            layers: list[nn.Module] = []
            for index in range(num_convs):
                width = own if index == 0 else other
                layers += [nn.ReLU()] if index else []
                layers.append(nn.Conv2d(width, other, kernel_size, padding=kernel_size // 2, bias=not batch_norm))
                layers += [_BatchNorm(other)] if batch_norm else []
            return layers[0] if len(layers) == 1 else nn.Sequential(*layers)

        super().__init__(make, student_channels, teacher_channels, num_levels, resize)


class _BatchNorm(nn.BatchNorm2d):
    """A batch norm that takes its running statistics where a batch has one number a channel, which has no deviation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class KANAlign(ChannelAlign):
    """A KAN layer per level: every channel of the teacher is a sum of learned functions of the student's channels.

    It runs in float32 under autocast, too, and takes 12 to 15 times as long as a 1 x 1 convolution at 64 channels.

    Args:
        student_channels: a number, or one per level.
        teacher_channels: a number, or one per level.
        num_levels: pyramid levels.
        resize: whose size both end with, "teacher" or "student"; None demands equal sizes.
        grid_size: intervals of the splines, see `KANConv2d`.
        spline_order: their degree, 2 to 5.
        grid_range: the splines reach a little beyond numbers of this size; larger ones have the base function alone.

    Shape:
        student_feats: maps (N, student_channels, H, W); teacher_feats: maps (N, teacher_channels, H', W').

    Raises:
        ValueError: an argument out of range, or maps of other channels.

    References:
        Liu et al., arXiv 2404.19756; nothing is published on it in dense distillation. Differs in the range, 3 for 1: maps of
        networks are not confined to numbers below 1.

    Config::

        dict(type='freqkd.KANAlign', student_channels=128, teacher_channels=256, num_levels=5)

    Example:
        >>> import torch
        >>> students, _ = KANAlign(2, 4)(torch.ones(1, 2, 5, 7), torch.ones(1, 4, 5, 7))
        >>> students[0].shape
        torch.Size([1, 4, 5, 7])
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int = 1,
        resize: str | None = None,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: float = 3.0,
    ) -> None:
        def make(own: int, other: int) -> nn.Module:
            return KANConv2d(own, other, grid_size=grid_size, spline_order=spline_order, grid_range=grid_range)

        super().__init__(make, student_channels, teacher_channels, num_levels, resize)


class ResizeAlign(nn.Module):
    """Resize each pair of maps to one size; no weights.

    Args:
        resize: whose size both end with, "teacher" or "student".

    Shape:
        student_feats, teacher_feats: maps (N, C, H, W) of equal channels, or one map. Output: two lists of maps.

    Raises:
        ValueError: `resize` is unknown, or maps differ in channels or batch size.

    Config::

        dict(type='freqkd.ResizeAlign', resize='teacher')

    Example:
        >>> import torch
        >>> students, _ = ResizeAlign()([torch.ones(1, 2, 4, 4)], [torch.ones(1, 2, 8, 8)])
        >>> students[0].shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(self, resize: str = "teacher") -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE_CHOICES)
        self.resize = resize

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Return both lists, every pair of one size."""
        pairs = [resize_pair(*pair, self.resize) for pair in as_maps(student_feats, teacher_feats)]
        for index, (student, teacher) in enumerate(pairs):
            check_same_shape(student, teacher, f"features of level {index}, resized,")
        return [student for student, _ in pairs], [teacher for _, teacher in pairs]


def per_level(name: str, value: int | Sequence[int], num_levels: int) -> list[int]:
    """Return one number of channels per level from a number or a sequence.

    Raises:
        ValueError: a number below 1, one that is not whole, or a sequence of another length.

    Example:
        >>> per_level("channels", 256, 2)
        [256, 256]
    """
    check_whole("num_levels", num_levels, 1, most=DEEPEST)
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * num_levels
    if len(numbers) != num_levels:
        raise ValueError(f"{name} must be a number or one per level, {num_levels} of them, got {len(numbers)}")
    for number in numbers:
        check_whole(name, number, 1, most=WIDEST)
    return numbers


def check_level_maps(student_feats: Maps, teacher_feats: Maps, channels: Sequence[int]) -> None:
    """Raise ValueError unless there is a pair of maps for each of `channels`, of one shape and of so many channels."""
    pairs = as_maps(student_feats, teacher_feats)
    if len(pairs) != len(channels):
        raise ValueError(f"student_feats must have num_levels={len(channels)} maps, got {len(pairs)}")
    for level, ((student, teacher), width) in enumerate(zip(pairs, channels)):
        check_same_shape(student, teacher, f"features of level {level}")
        check_map(f"student_feats[{level}]", student, width)
