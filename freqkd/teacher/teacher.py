"""Frozen teacher kept outside the module tree, run only up to the deepest tapped module."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from freqkd.taps import FeatureTap
from freqkd.teacher.acceleration import Acceleration
from freqkd.teacher.preprocessing import describe, differ, renormalize
from freqkd.utils.checkpoints import CheckpointError, classes_of, hash_weights, load_network, read_checkpoint
from freqkd.utils.checks import check_flag
from freqkd.utils.compat import read_config
from freqkd.utils.errors import in_slot, worded
from freqkd.utils.randomness import forked_randomness
from freqkd.utils.slots import check_changes

HEADS = ("decode_head", "auxiliary_head", "bbox_head", "rpn_head", "semantic_head", "panoptic_head")
_UNHOOKED = ("decode_head", "auxiliary_head")  # whose loss calls `forward`, unless they take samples
_DROPOUTS = ("DropPath", "DropBlock", "StochasticDepth")
Maps = dict[str, list[Tensor]]  # by tapped path


@contextmanager
def rehearsal() -> Iterator[None]:
    """Preserve the random state, and suppress warnings: the run repeats those of a real image, a blank one has its own."""
    with forked_randomness(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def blank_image(network: nn.Module, size: tuple[int, int] = (64, 96)) -> Tensor:
    """Return an image (1, C, H, W) of zeros with as many channels as a network's first convolution takes, else 3.

    >>> blank_image(nn.Sequential(nn.Conv2d(4, 8, 3))).shape
    torch.Size([1, 4, 64, 96])
    """
    channels = next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), 3)
    if any(type(part).__name__ == "Focus" for part in network.modules()):
        channels //= 4  # YOLOX puts four pixels side by side before its first convolution
    return torch.zeros(1, channels, *size, device=next(network.parameters()).device)


def _without_initialization(config: Any) -> Any:
    """Drop what would download or draw weights: all weights come from a checkpoint."""
    if isinstance(config, Mapping):
        return {
            key: None if key == "pretrained" else _without_initialization(value)
            for key, value in config.items()
            if key != "init_cfg"
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_without_initialization(item) for item in config)
    return config


def build_network(config: Mapping[str, Any], scope: str | None) -> nn.Module:
    """Build the `model` of a config under its own scope, without initial weights."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(copy.deepcopy(_without_initialization(config))))


def freeze_statistics(module: nn.Module) -> None:
    """Put normalisation, dropout and stochastic depth in eval mode, the rest left as it is."""
    for part in module.modules():
        normalizes = hasattr(part, "running_mean")
        # Attention applies its dropout as a function, by its own mode.
        drops = isinstance(part, (nn.modules.dropout._DropoutNd, nn.MultiheadAttention))
        if normalizes or drops or type(part).__name__ in _DROPOUTS:
            part.eval()


def runs_on_features(model: Any, paths: Sequence[str]) -> bool:
    """Whether backbone, neck and the heads that take their maps reach all of `paths`.

    A RoI head needs proposals, and the `bbox_head` of a detector with a transformer takes its queries.

    >>> runs_on_features(nn.Module(), ["neck", "bbox_head.gfl_cls"])
    True
    >>> runs_on_features(nn.Module(), ["roi_head.bbox_head"])
    False
    """
    roots = {path.split(".")[0] for path in paths}
    if hasattr(model, "forward_transformer"):
        return roots <= {"backbone", "neck"}
    return roots <= {"backbone", "neck", *HEADS}


def takes_samples(head: nn.Module) -> bool:
    """Whether the forward of a head takes the samples beside the maps, as those of MaskFormer and Mask2Former do.

    >>> takes_samples(nn.Conv2d(1, 1, 1))
    False
    """
    return "batch_data_samples" in inspect.signature(head.forward).parameters


def sized_samples(inputs: Tensor, data_samples: Sequence[Any] | None) -> list[Any]:
    """Return copies of samples, without what they hold, that name the batch's size; whole images where there are none.

    mmdet's preprocessor writes `batch_input_shape` into the samples, that of mmseg does not.
    """
    size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    known = [dict(sample.metainfo) for sample in data_samples or []] or [{}] * len(inputs)
    return [BaseDataElement(metainfo={"img_shape": size, "batch_input_shape": size, **metainfo}) for metainfo in known]


def _heads_to(model: Any, name: str, paths: Sequence[str]) -> list[Any]:
    """Return a head as a list; of a list of heads, those up to the last one that a path leads into."""
    head = getattr(model, name)
    if not isinstance(head, nn.ModuleList):
        return [head]
    inside = [path.split(".")[1:2] for path in paths if path.split(".")[0] == name]
    return list(head) if [] in inside else list(head)[: max(int(index) for [index] in inside) + 1]


def run_to(
    model: Any, inputs: Tensor, data_samples: Any, paths: Sequence[str], *, as_in_training: bool = False
) -> None:
    """Run a detector or segmenter up to the deepest of `paths`.

    Backbone paths run the backbone, neck paths backbone and neck, head paths those heads as well; a path elsewhere (a
    RoI head, a transformer or the head behind it) runs the model's whole tensor mode. A head runs with its hooks, so that
    it can be tapped itself; `as_in_training` leaves them out where the head's own loss does, as that of mmseg.

    Args:
        model: the network.
        inputs: images (N, C, H, W), normalised.
        data_samples: their samples; None: heads that take samples get those of whole images.
        paths: modules of the network.
        as_in_training: call the heads as the network's own loss does.
    """
    roots = {path.split(".")[0] for path in paths}
    if roots <= {"backbone"}:
        model.backbone(inputs)
        return
    if not runs_on_features(model, paths):
        model(inputs, data_samples, mode="tensor")
        return
    feats = model.extract_feat(inputs)
    for name in HEADS:
        if name in roots:
            previous = None
            for part in _heads_to(model, name, paths):
                if takes_samples(part):
                    part(feats, sized_samples(inputs, data_samples))
                    continue
                # A cascade's later heads refine the output of the one before.
                cascaded = name == "decode_head" and previous is not None
                call = part.forward if as_in_training and name in _UNHOOKED else part
                previous = call(feats, previous) if cascaded else call(feats)


class Teacher:
    """A frozen network built from a config and a checkpoint when it is first needed.

    It is not an `nn.Module`, so it does not appear in any state dict, parameter list, DDP bucket or EMA copy of the model
    that holds it.

    Args:
        config: `"mmdet::..."`, `"mmseg::..."`, a config file, or a config.
        checkpoint: file or https address, loaded strictly; a student made here serves as well.
        cfg_options: changes to the config, as `--cfg-options` would make them.
        trust_checkpoint: allow a checkpoint that needs arbitrary unpickling.
        classes: names of its classes in the order of its class logits; None: as the checkpoint says, once it is built.
        acceleration: `autocast`, `channels_last`, `fuse_norm`, `compile`: see `Acceleration`.

    Raises:
        ValueError: an argument is wrong.
        CheckpointError: no checkpoint is named; on first use, it is missing, damaged, or of another architecture.

    >>> Teacher("mmdet::retinanet/retinanet_r101_fpn_2x_coco.py", "retinanet_r101.pth").is_built
    False
    """

    paths: tuple[str, ...]  # given by `prepare`
    preprocessor: nn.Module  # given by `prepare`
    classes: tuple[str, ...] | None = None  # their names, where they are known
    network: Mapping[str, Any] = {}  # what the network was built from, once it is
    _model: Any = None
    _hash: str | None = None
    _has_reported = False  # that the preprocessors differ

    def __init__(
        self,
        config: str | Mapping[str, Any],
        checkpoint: str,
        *,
        cfg_options: Mapping[str, Any] | None = None,
        trust_checkpoint: bool = False,
        classes: Sequence[str] | None = None,
        **acceleration: Any,
    ) -> None:
        if not checkpoint:
            raise CheckpointError(
                f"teacher.checkpoint must name trained weights, a file or an https address, got {checkpoint!r}"
            )
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise ValueError(f"teacher.checkpoint must be a file or an https address, got {checkpoint!r}")
        if not isinstance(config, (str, os.PathLike, Mapping)):
            raise ValueError(
                f"teacher.config must be a config file, 'mmdet::...', 'mmseg::...' or a config, got {config!r}"
            )
        if not isinstance(cfg_options or {}, Mapping):
            raise ValueError(f"teacher.cfg_options must be a dict of changes by their keys, got {cfg_options!r}")
        check_flag("teacher.trust_checkpoint", trust_checkpoint)
        named = isinstance(classes, (list, tuple)) and bool(classes) and all(isinstance(name, str) for name in classes)
        if classes is not None and not named:
            raise ValueError(f"teacher.classes must be a list of names, or None, got {classes!r}")
        self.config = config
        self.checkpoint = checkpoint
        self.cfg_options = dict(cfg_options or {})
        self.trust_checkpoint = trust_checkpoint
        self.classes = None if classes is None else tuple(classes)
        self.acceleration = Acceleration(**acceleration)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @property
    def is_built(self) -> bool:
        """Whether the network exists yet."""
        return self._model is not None

    @property
    def model(self) -> Any:
        """The network: frozen, in eval mode."""
        if self._model is None:
            self._model = self._build()
        return self._model

    @property
    def hash(self) -> str:
        """The sha256 of the weights as they were trained; prompts and caches name their teacher by it."""
        assert self.model is not None  # built with its hash
        return str(self._hash)

    def make_network(self) -> nn.Module:
        """Build the network, without the weights of the checkpoint."""
        config = read_config(self.config, "model.teacher.config")
        if self.cfg_options:
            check_changes(config, self.cfg_options, "model.teacher.cfg_options")
            config.merge_from_dict(self.cfg_options)
        with forked_randomness(), worded("teacher"):
            network = config.model.get("student") or config.model
            model = build_network(network, config.get("default_scope"))
        self.network = Config(_without_initialization(network)).to_dict()
        return model

    def _load(self) -> nn.Module:
        """Build the network and load its weights."""
        model = self.make_network()
        with in_slot("model.teacher.checkpoint"):
            checkpoint = read_checkpoint(self.checkpoint, self.trust_checkpoint)
        self.classes = self.classes or classes_of(checkpoint)
        if unused := load_network(model, checkpoint, str(self.checkpoint)):
            print_log(f"teacher: {unused}", logger="current")
        return model

    def _build(self) -> nn.Module:
        model = self._load()
        if not (is_distributed() and torch.cuda.is_available()):
            model = revert_sync_batchnorm(model)
        model.requires_grad_(False).eval()
        self._hash = hash_weights(model.state_dict())
        self.acceleration.prepare(model)
        return model

    def apply(self, function: Any) -> None:
        """Change the tensors as `nn.Module._apply` does, for `.to()`, `.cuda()` and the like of the model that holds it."""
        if self._model is None:
            return
        self._model._apply(function)
        parameter = next(self._model.parameters(), None)
        for part in self._model.modules():
            if isinstance(part, BaseDataPreprocessor) and parameter is not None:
                part.to(parameter.device)  # it sends images to the device of its own last `.to()`

    def to(self, device: torch.device) -> None:
        """Build the network where needed and put it on a device."""
        model = self.model
        model.to(device)

    def ready_heads(self) -> None:
        """Put the heads in train mode, statistics frozen: in eval mode, mmdet's VFNetHead returns two values, not three."""
        for name, child in self.model.named_children():
            if name not in ("backbone", "neck", "data_preprocessor"):
                child.train()
                freeze_statistics(child)

    @contextmanager
    def computing_losses(self) -> Iterator[Any]:
        """Give the network, ready to compute its own losses: its heads as `ready_heads` says, and itself in train mode.

        Detectors with a transformer ask for their own mode; DINO's loss fails without the denoising queries of training.
        """
        self.ready_heads()
        self.model.training = True
        try:
            yield self.model
        finally:
            self.model.training = False

    def prepare(self, paths: Sequence[str], preprocessor: nn.Module) -> None:
        """Set what is the same for all batches of a run.

        Args:
            paths: modules whose maps `start` returns.
            preprocessor: the data preprocessor that normalised and padded the images of the batches.

        Raises:
            ValueError: a path lies inside a compiled part.
        """
        self.acceleration.check_paths(paths)
        self.paths = tuple(paths)
        self.preprocessor = preprocessor

    def normalize(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Tensor:
        """Return the student's images (N, C, H, W) as the teacher's own preprocessor would have normalised them."""
        student, teacher = self.preprocessor, self.model.data_preprocessor
        if not differ(student, teacher):
            return inputs
        if not self._has_reported:
            self._has_reported = True
            print_log(
                f"student and teacher normalise images differently (student: {describe(student)}; teacher: "
                f"{describe(teacher)}); the teacher gets the same images, normalised its way",
                "current",
            )
        return renormalize(inputs, data_samples, student, teacher)

    @torch.no_grad()
    def extract(self, inputs: Tensor, data_samples: Sequence[Any] | None, paths: Sequence[str]) -> Maps:
        """Return the maps of the modules at `paths`, without a graph, and without running what they do not need.

        Args:
            inputs: images as `normalize` gives them, (N, C, H, W).
            data_samples: their samples; None where the path to the modules needs none.
            paths: modules of the network.

        Raises:
            ValueError: a path does not exist, or lies inside a compiled part.
        """
        self.acceleration.check_paths(paths)
        if any(path.split(".")[0] not in ("backbone", "neck") for path in paths):
            self.ready_heads()
        with FeatureTap(self.model, paths) as tap, self.acceleration.context(inputs.device):
            run_to(self.model, self.acceleration.lay_out(inputs), data_samples, paths)
            return {path: self.acceleration.restore(tap.maps(path), inputs.dtype) for path in paths}

    def start(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Callable[[], Maps]:
        """Return a function that returns the maps of the prepared paths: here, they are computed at once."""
        maps = self.extract(inputs, data_samples, self.paths) if self.paths else {}
        return lambda: maps
