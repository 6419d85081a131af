"""Teacher that is any torch network, made by a function of the user's, e.g. a vision transformer of another library."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from freqkd.taps import FeatureTap
from freqkd.teacher.acceleration import Acceleration
from freqkd.teacher.teacher import Maps, Teacher
from freqkd.utils.checks import check_flag, check_sequence, check_whole, did_you_mean
from freqkd.utils.errors import worded
from freqkd.utils.randomness import forked_randomness

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def find_function(name: str) -> Any:
    """Import the function that `package.module:function` names. This runs the module's code.

    Raises:
        ValueError: the name has another form, the module cannot be imported, or it has no such function.

    >>> find_function("torch.nn:Identity")
    <class 'torch.nn.modules.linear.Identity'>
    >>> find_function("torch.nn:Identiti")
    Traceback (most recent call last):
    ...
    ValueError: teacher.module: torch.nn has no function 'Identiti'; did you mean 'Identity'?
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"teacher.module must be 'package.module:function', got {name!r}")
    place, _, word = name.partition(":")
    with worded(f"teacher.module {name!r} cannot be imported", built=True):
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(
                f"teacher.module {name!r} cannot be imported ({error}); install it, set PYTHONPATH so that it is found, or "
                "correct the name"
            ) from error
    function = getattr(module, word, None)
    if not callable(function):
        hint = did_you_mean(word, [one for one in dir(module) if callable(getattr(module, one, None))])
        raise ValueError(f"teacher.module: {place} has no function {word!r}{hint}")
    return function


class ModuleTeacher(Teacher):
    """A frozen network that a function makes, e.g. one of timm, tapped and cached like a `Teacher` of mmdet or mmseg.

    It has no heads that mmdet or mmseg know, so terms compare maps. Naming a function runs its module's code, as
    `custom_imports` does; a checkpoint is read like every other, as tensors and plain data.

    The network runs on whole images. Where it needs another size, they are resized (bilinear), and the log says so; its maps
    still cover the whole image, so `ConvAlign(..., resize='teacher')` brings the student's to their size.

    Config::

        teacher=dict(
            module='timm:create_model', options=dict(model_name='vit_base_patch16_224', pretrained=True),
            mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], size=(224, 224), tokens=dict(patch=16, skip=1))

    Args:
        module: "package.module:function"; the function returns a `torch.nn.Module` that takes images (N, C, H, W).
        mean: of the pixel values, which go from 0 to 255: one number a channel, in the order that the network takes them.
        std: their standard deviation, likewise.
        options: keyword arguments of the function.
        bgr_to_rgb: whether the network takes red first; images of mmdet and mmseg have blue first.
        checkpoint: file or https address; None: the weights that the function has put in. They must be the same at every
            start, or prompts, caches and resumed trainings take it for another teacher.
        tokens: `dict(patch=P, skip=S)`: tapped tokens (N, S + H/P * W/P, C) become a map (N, C, H/P, W/P), without the first
            S (class and register tokens). None: only maps can be tapped.
        size: (height, width) that all images are resized to; None: their own.
        divisor: without `size`, heights and widths are resized to the nearest multiple of it; None: P, or 1 without tokens.
        trust_checkpoint: allow a checkpoint that needs arbitrary unpickling.
        autocast: see `Acceleration`.
        channels_last: see `Acceleration`.

    Raises:
        ValueError: an argument is wrong; on first use, the function cannot be imported or called, or returns no network.
        CheckpointError: on first use, the checkpoint is missing, damaged, or of another network.

    >>> ModuleTeacher("torch.nn:Identity", mean=[0], std=[255]).is_built
    False
    """

    def __init__(
        self,
        module: str,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        options: Mapping[str, Any] | None = None,
        bgr_to_rgb: bool = True,
        checkpoint: str | None = None,
        tokens: Mapping[str, Any] | None = None,
        size: Sequence[int] | None = None,
        divisor: int | None = None,
        trust_checkpoint: bool = False,
        autocast: str | None = None,
        channels_last: bool = False,
    ) -> None:
        if not isinstance(module, str) or not _NAME.fullmatch(module):
            raise ValueError(f"teacher.module must be 'package.module:function', got {module!r}")
        if not isinstance(options or {}, Mapping):
            raise ValueError(f"teacher.options must be a dict of the function's arguments, got {options!r}")
        if checkpoint is not None and not (checkpoint and isinstance(checkpoint, (str, os.PathLike))):
            raise ValueError(f"teacher.checkpoint must be a file, an https address or None, got {checkpoint!r}")
        check_flag("teacher.bgr_to_rgb", bgr_to_rgb)
        check_flag("teacher.trust_checkpoint", trust_checkpoint)
        self.module = module
        self.mean, self.std = _check_normalization(mean, std)
        self.options = dict(options or {})
        self.bgr_to_rgb = bgr_to_rgb
        self.checkpoint = checkpoint or f"the weights of {module}"
        self._has_file = checkpoint is not None
        self.patch, self.skip = _check_tokens(tokens)
        self.divisor = (self.patch or 1) if divisor is None else divisor
        self.size = _check_size(size, self.divisor)
        self.trust_checkpoint = trust_checkpoint
        self.acceleration = Acceleration(autocast=autocast, channels_last=channels_last)
        self._has_resized = False  # and said so

    def make_network(self) -> nn.Module:
        """Call the function, without the weights of the checkpoint."""
        function = find_function(self.module)
        with forked_randomness(), worded(f"teacher.module {self.module!r}", built=True):
            model = function(**self.options)
        if not isinstance(model, nn.Module):
            raise ValueError(f"teacher.module {self.module!r} must return a torch.nn.Module, got {model!r}")
        # Not as a submodule, which the forward of an nn.Sequential would call.
        vars(model)["data_preprocessor"] = ImgDataPreprocessor(self.mean, self.std, bgr_to_rgb=self.bgr_to_rgb)
        described = dict(module=self.module, options=self.options, patch=self.patch, skip=self.skip)
        self.network = Config(described | dict(size=self.size, divisor=self.divisor)).to_dict()
        return model

    def _load(self) -> nn.Module:
        return super()._load() if self._has_file else self.make_network()

    def ready_heads(self) -> None:
        """Refuse to run heads.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"a teacher of a function ({self.module}) has no heads of mmdet or mmseg; take terms that compare maps"
        )

    @torch.no_grad()
    def extract(self, inputs: Tensor, data_samples: Sequence[Any] | None, paths: Sequence[str]) -> Maps:
        """Return the maps of the modules at `paths`, without a graph; tokens as maps.

        Args:
            inputs: images as `normalize` gives them, (N, C, H, W).
            data_samples: not looked at.
            paths: modules of the network.

        Raises:
            ValueError: a path does not exist, or gives tokens that do not fit `tokens` and the size of the images.
        """
        images = self.resize(inputs)
        with FeatureTap(self.model, paths) as tap, self.acceleration.context(inputs.device):
            with worded(f"teacher {self.module!r} fails on images {tuple(images.shape)}", built=True):
                self.model(self.acceleration.lay_out(images))
            found = {path: [self._as_map(path, value, images) for value in tap.maps(path)] for path in paths}
        return {path: self.acceleration.restore(maps, inputs.dtype) for path, maps in found.items()}

    def resize(self, images: Tensor) -> Tensor:
        """Bring images (N, C, H, W) to a size that the network takes; the first change of a size is said."""
        height, width = (int(extent) for extent in images.shape[-2:])
        size = self.size or (_nearest_multiple(height, self.divisor), _nearest_multiple(width, self.divisor))
        if size == (height, width):
            return images
        if not self._has_resized:
            self._has_resized = True
            why = "its size" if self.size else f"multiples of {self.divisor}"
            print_log(
                f"teacher {self.module}: images are resized to {why}, such as {height}x{width} to {size[0]}x{size[1]}",
                "current",
            )
        return interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def _as_map(self, path: str, value: Tensor, images: Tensor) -> Tensor:
        """Return tokens (N, L, C) as a map (N, C, H, W), everything else as it is."""
        if value.dim() != 3:
            return value
        if not self.patch:
            raise ValueError(
                f"teacher module {path!r} must give maps (N, C, H, W), got shape {tuple(value.shape)}; if these are tokens "
                "(N, L, C), say so: teacher=dict(..., tokens=dict(patch=16, skip=1))"
            )
        rows, columns = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        if value.shape[1] != self.skip + rows * columns:
            raise ValueError(
                f"teacher module {path!r} must give {self.skip} + {rows}x{columns} tokens of images "
                f"{images.shape[-2]}x{images.shape[-1]} (skip={self.skip}, patch={self.patch}), got {value.shape[1]} (shape "
                f"{tuple(value.shape)}); correct teacher.tokens, or tap another module"
            )
        return value[:, self.skip :].transpose(1, 2).unflatten(2, (rows, columns)).contiguous()


def _nearest_multiple(extent: int, divisor: int) -> int:
    """Return the multiple of `divisor`, at least once, that is nearest to `extent`.

    >>> _nearest_multiple(240, 14), _nearest_multiple(3, 14)
    (238, 14)
    """
    return max(round(extent / divisor), 1) * divisor


def _check_normalization(mean: Any, std: Any) -> tuple[list[float], list[float]]:
    for name, value in (("mean", mean), ("std", std)):
        check_sequence(f"teacher.{name}", value, "numbers, one a channel")
        if len(value) not in (1, 3) or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in value):
            raise ValueError(f"teacher.{name} must be a list of 1 or 3 numbers, got {value!r}")
    if len(mean) != len(std):
        raise ValueError(f"teacher.mean and teacher.std must be as many numbers, got {mean!r} and {std!r}")
    if not min(std) > 0:
        raise ValueError(f"teacher.std must hold numbers above 0, got {std!r}")
    if max(std) < 1:
        raise ValueError(
            f"teacher.mean and teacher.std must be in units of pixel values, 0 to 255, got std={std!r}, which is for images "
            "from 0 to 1; multiply both by 255"
        )
    return [float(x) for x in mean], [float(x) for x in std]


def _check_tokens(tokens: Any) -> tuple[int, int]:
    """Return patch and skip; a patch of 0 where there are no tokens."""
    if tokens is None:
        return 0, 0
    if not isinstance(tokens, Mapping) or not {"patch"} <= set(tokens) <= {"patch", "skip"}:
        raise ValueError(f"teacher.tokens must be dict(patch=16, skip=1) or None, got {tokens!r}")
    check_whole("teacher.tokens.patch", tokens["patch"], 1)
    check_whole("teacher.tokens.skip", tokens.get("skip", 0), 0)
    return tokens["patch"], tokens.get("skip", 0)


def _check_size(size: Any, divisor: Any) -> tuple[int, int] | None:
    check_whole("teacher.divisor", divisor, 1)
    if size is None:
        return None
    check_sequence("teacher.size", size, "height and width")
    if len(size) != 2:
        raise ValueError(f"teacher.size must be (height, width), got {size!r}")
    for extent in size:
        check_whole("teacher.size", extent, 1)
    if size[0] % divisor or size[1] % divisor:
        raise ValueError(f"teacher.size must hold multiples of {divisor}, the patch or divisor, got {tuple(size)}")
    return size[0], size[1]
