"""Images of the student's batch, normalised as the teacher's preprocessor would have; sizes that images are padded to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def _normalization(preprocessor: nn.Module, like: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return mean, deviation and whether channels are swapped, as (1, C, 1, 1) tensors."""
    channels = like.shape[1]
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if not getattr(preprocessor, "_enable_normalize", mean is not None):
        mean = std = None
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and value.numel() not in (1, channels) and channels > 1:
            raise ValueError(
                f"data_preprocessor.{name} must have 1 or {channels} numbers for images of {channels} channels, got "
                f"{value.numel()}; student and teacher must take images of as many channels"
            )
    one = like.new_ones(1, channels, 1, 1)
    mean = one * 0 if mean is None else one * mean.to(like).reshape(1, -1, 1, 1)
    std = one if std is None else one * std.to(like).reshape(1, -1, 1, 1)
    swapped = bool(getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False)))
    swapped = swapped and channels == 3  # MMEngine's preprocessors leave other images as they are
    return mean, std, swapped


def describe(preprocessor: nn.Module) -> str:
    """Describe a preprocessor's normalisation for a message.

    >>> describe(nn.Module())
    'mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0], channels kept, padding 0'
    """
    mean, std, swapped = _normalization(preprocessor, torch.zeros(1, 3, 1, 1))
    words = f"mean {mean.flatten().tolist()}, std {std.flatten().tolist()}, channels {'swapped' if swapped else 'kept'}"
    return f"{words}, padding {_padding(preprocessor):g}"


def _padding(preprocessor: nn.Module) -> float:
    value = getattr(preprocessor, "pad_value", getattr(preprocessor, "pad_val", 0))
    if not isinstance(value, (int, float)):
        raise ValueError(f"data_preprocessor must pad with one number, got {value!r}; set its pad_value or pad_val")
    return float(value)


def differ(student: nn.Module, teacher: nn.Module) -> bool:
    """Whether two preprocessors normalise differently.

    >>> a, b = nn.Module(), nn.Module()
    >>> a.mean, a.std, b.mean, b.std = torch.zeros(3), torch.ones(3), torch.ones(3), torch.ones(3)
    >>> differ(a, a), differ(a, b)
    (False, True)
    """
    return describe(student) != describe(teacher)


def renormalize(inputs: Tensor, data_samples: Sequence[Any] | None, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Turn images normalised for the student into images normalised for the teacher.

    x_t = (x_s * std_s + mean_s - mean_t) / std_t, channels swapped where one of the two swaps them; the padding, which
    both preprocessors add after they normalise, is filled with the teacher's pad value. Whatever the student's
    preprocessor did to the batch besides is shared.

    Args:
        inputs: (N, C, H, W), as the student's preprocessor gave them.
        data_samples: their samples, whose `img_shape` says where the padding begins; None: no padding.
        student: the student's data preprocessor.
        teacher: the teacher's data preprocessor.

    >>> student, teacher = nn.Module(), nn.Module()
    >>> teacher.mean, teacher.std = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 2.0])
    >>> renormalize(torch.full((1, 3, 1, 1), 5.0), None, student, teacher).flatten()
    tensor([2., 2., 2.])
    """
    mean_s, std_s, swap_s = _normalization(student, inputs)
    mean_t, std_t, swap_t = _normalization(teacher, inputs)
    raw = inputs * std_s + mean_s
    if swap_s != swap_t:
        raw = raw.flip(1)
    out = (raw - mean_t) / std_t
    pad = _padding(teacher)
    for image, sample in zip(out, data_samples or (), strict=False):
        height, width = sample.metainfo.get("img_shape", image.shape[-2:])[:2]
        image[:, height:], image[:, :, width:] = pad, pad
    return out


def to_rgb(inputs: Tensor, preprocessor: nn.Module) -> Any:
    """Undo a normalisation for a picture: (N, C, H, W) inputs to (N, H, W, 3) RGB bytes as a numpy array.

    >>> to_rgb(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), nn.Module()).tolist()
    [[[[3, 2, 1]]]]
    """
    mean, std, swapped = _normalization(preprocessor, inputs)
    pixels = (inputs * std + mean).clamp(0, 255).byte()
    if not swapped:
        # OpenCV reads blue first; a preprocessor that does not swap leaves it so.
        pixels = pixels.flip(1)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _least_size(preprocessor: nn.Module) -> tuple[int, int]:
    """Return the size that images are padded to at least; (0, 0) where there is none.

    Raises:
        ValueError: the images of a batch are changed together, by something else than padding to one fixed size.
    """
    size = getattr(preprocessor, "size", None)
    augments = getattr(preprocessor, "batch_augments", None) or ()
    for augment in [augments] if callable(augments) and not isinstance(augments, nn.ModuleList) else augments:
        if type(augment).__name__ != "BatchFixedSizePad":
            raise ValueError(
                f"data_preprocessor.batch_augments must be BatchFixedSizePad alone where the teacher is cached, got "
                f"{type(augment).__name__}, which changes a view with the rest of its batch; do it in the pipeline"
            )
        size = augment.size
    return (0, 0) if size is None else (int(size[-2]), int(size[-1]))


def padding_rule(preprocessor: nn.Module) -> str:
    """Describe the sizes that a preprocessor pads images to.

    >>> padding_rule(nn.Module())
    'multiples of 1'
    """
    least = _least_size(preprocessor)
    words = f"multiples of {size_divisor(preprocessor)}"
    return f"{words}, at least {least[0]}x{least[1]}" if any(least) else words


def size_divisor(preprocessor: nn.Module) -> int:
    """Return what the padded sizes are multiples of, by mmdet's name or by mmseg's."""
    names = ("pad_size_divisor", "size_divisor")
    return next((int(value) for name in names if (value := getattr(preprocessor, name, None))), 1)


def padded_size(preprocessor: nn.Module, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the size that an image (height, width) is padded to when it is alone in its batch.

    >>> preprocessor = nn.Module()
    >>> preprocessor.pad_size_divisor = 32
    >>> padded_size(preprocessor, (64, 65))
    (64, 96)
    """
    divisor = size_divisor(preprocessor)
    height, width = (-(-extent // divisor) * divisor for extent in shape)
    least = _least_size(preprocessor)
    return max(height, least[0]), max(width, least[1])
