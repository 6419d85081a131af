"""Cheaper forward passes of a frozen network: half precision, channels last, folded batch norms, compilation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from freqkd.utils.checks import check_choice, check_flag

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED = ("backbone", "neck")


@dataclass(frozen=True)
class Acceleration:
    """How a teacher runs.

    Args:
        autocast: "bfloat16" or "float16": matrix products and convolutions in half precision where features are extracted;
            None: full precision. The prompt stage, which trains through the heads, runs in the precision of its training
            (`--amp`).
        channels_last: weights and images channels last; convolutions are faster so on a CPU and in half precision.
        fuse_norm: batch norm of backbone and neck becomes part of the convolution before it. Checked on a random image.
        compile: compile backbone and neck. Nothing inside them can be tapped then, only they themselves.

    Raises:
        ValueError: `autocast` is not a half precision; a switch is neither True nor False; `fuse_norm` changes the features of
            this network.

    >>> Acceleration(compile=True).check_paths(["neck"])
    """

    autocast: str | None = None
    channels_last: bool = False
    fuse_norm: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.autocast is not None:
            check_choice("teacher.autocast", self.autocast, PRECISIONS)
        for name in ("channels_last", "fuse_norm", "compile"):
            check_flag(f"teacher.{name}", getattr(self, name))

    def prepare(self, model: nn.Module) -> None:
        """Change a frozen network in eval mode, in place."""
        if self.fuse_norm:
            fuse_checked(model)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            for part in _frozen_parts(model):
                # Its forward alone: the hooks of the taps stay outside.
                part.forward = torch.compile(part.forward)

    def check_paths(self, paths: Sequence[str]) -> None:
        """Raise ValueError where a tap lies inside what is compiled."""
        inside = [path for path in paths if self.compile and path.split(".")[0] in COMPILED and "." in path]
        if inside:
            raise ValueError(
                f"teacher.compile=True leaves nothing to tap inside {' and '.join(COMPILED)}, got the tap {inside[0]!r}; "
                f"tap {inside[0].split('.')[0]!r} with levels=, or leave compile out"
            )

    def lay_out(self, images: Tensor) -> Tensor:
        """Return the images in the memory layout of the weights."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    @contextlib.contextmanager
    def context(self, device: torch.device) -> Iterator[None]:
        """Run the body in the chosen precision."""
        if self.autocast is None:
            yield
            return
        with torch.autocast(device.type, dtype=PRECISIONS[self.autocast]):
            yield

    def restore(self, maps: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Return tapped maps in the precision of the images: adapters run heads on them without autocast."""
        if self.autocast is None:
            return maps
        return [x.to(dtype) if x.is_floating_point() else x for x in maps]


@torch.no_grad()
def fuse_checked(model: Any) -> None:
    """Fold the batch norms of backbone and neck into convolutions, and check the features on a random image.

    Raises:
        ValueError: a feature changes by more than a thousandth of its largest value.
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 3, 96, 96, generator=generator).to(parameter)
    before = _features(model, probe)
    for part in _frozen_parts(model):
        fuse(part)
    for was, is_now in zip(before, _features(model, probe)):
        error = float((was - is_now).abs().max() / was.abs().max().clamp(min=1e-12))
        if not error < 1e-3:
            raise ValueError(
                f"teacher.fuse_norm=True changes the features of this network (by {error:.1e} of the largest): its norms do "
                "not follow the convolution they are listed after; leave fuse_norm out"
            )


def fuse(module: nn.Module) -> None:
    """Fold each `BatchNorm2d` into the `Conv2d` listed directly before it among its parent's children, recursively.

    >>> block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> fuse(block)
    >>> block[1]
    Identity()
    """
    last: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and last is not None:
            if child.num_features == last[1].out_channels and child.running_mean is not None:
                fused = fuse_conv_bn_eval(last[1], child)
                setattr(module, last[0], fused.requires_grad_(False))
                setattr(module, name, nn.Identity())
            last = None
        elif isinstance(child, nn.Conv2d):
            last = (name, child)
        else:
            if any(True for _ in child.children()):
                last = None
            fuse(child)


def _frozen_parts(model: Any) -> list[nn.Module]:
    return [getattr(model, name) for name in COMPILED if getattr(model, name, None) is not None]


def _features(model: Any, images: Tensor) -> list[Tensor]:
    feats = model.extract_feat(images)
    return [feats] if isinstance(feats, Tensor) else list(feats)
