"""The teacher: a frozen network that is held, not owned, and runs only as far as it is asked."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError, hash_weights, load_strict, read_checkpoint, weights_of
from freqkd.checks import check_flag
from freqkd.compat import read_config
from freqkd.distillers.acceleration import Acceleration
from freqkd.distillers.cache import TeacherCache
from freqkd.distillers.preprocessing import describe, differ, renormalize
from freqkd.errors import worded
from freqkd.randomness import forked_randomness
from freqkd.taps import FeatureTap

HEADS = ("decode_head", "auxiliary_head", "bbox_head", "rpn_head")
_UNHOOKED = ("decode_head", "auxiliary_head")  # whose loss calls `forward`
_DROPOUTS = ("DropPath", "DropBlock", "StochasticDepth")


@contextmanager
def rehearsal() -> Iterator[None]:
    """Cost no random number and stay silent: a blank image of any size warns of what a real one would not."""
    with forked_randomness(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _without_initialization(config: Any) -> Any:
    """Drop what would download or draw weights: the teacher's all come from its checkpoint."""
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
    """Build the `model` of a config under its own scope, weights left to whoever loads them."""
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


def run_to(
    model: Any, inputs: Tensor, data_samples: Any, paths: Sequence[str], *, as_in_training: bool = False
) -> None:
    """Run a detector or segmenter no further than the deepest of `paths` needs.

    Backbone paths run the backbone, neck paths backbone and neck, head paths those heads on top; a path elsewhere (a
    RoI head, a transformer or the head behind it) runs the model's whole tensor mode. A head runs with its hooks, so that
    it can be tapped itself; `as_in_training` leaves them out where the head's own loss does, as that of mmseg.
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
            head = getattr(model, name)
            heads = head if isinstance(head, nn.ModuleList) else [head]
            previous = None
            for part in heads:
                # A cascade's later heads refine the answer of the one before.
                cascaded = name == "decode_head" and previous is not None
                call = part.forward if as_in_training and name in _UNHOOKED else part
                previous = call(feats, previous) if cascaded else call(feats)


class Teacher:
    """A frozen network built from a config and a checkpoint when it is first needed.

    It is no `nn.Module`, so it appears in no state dict, parameter list, DDP bucket or EMA copy of whoever holds it.

    Args:
        config: `"mmdet::..."`, `"mmseg::..."`, a config file, or a config.
        checkpoint: file or https address, loaded strictly; a student made here serves as well.
        cfg_options: changes to the config, as `--cfg-options` would make them.
        trust_checkpoint: allow a checkpoint that needs arbitrary unpickling.
        cache: arguments of `TeacherCache`, for a training on `freqkd.FixedViews`; None: the teacher runs at every step.
        acceleration: `autocast`, `channels_last`, `fuse_norm`, `compile`: see `Acceleration`.

    Raises:
        CheckpointError: on first use, the checkpoint is missing, damaged, or of another architecture.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        checkpoint: str,
        *,
        cfg_options: Mapping[str, Any] | None = None,
        trust_checkpoint: bool = False,
        cache: Mapping[str, Any] | None = None,
        **acceleration: Any,
    ) -> None:
        if not checkpoint:
            raise CheckpointError(
                "teacher.checkpoint must name trained weights, a file or an https address, got "
                f"{checkpoint!r}; an untrained teacher teaches nothing"
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
        self.config = config
        self.checkpoint = checkpoint
        self.cfg_options = dict(cfg_options or {})
        self.trust_checkpoint = trust_checkpoint
        self.cache = _build_cache(cache) if cache is not None else None
        self.acceleration = Acceleration(**acceleration)
        self.network: Mapping[str, Any] = {}
        self._model: Any = None
        self._hash: str | None = None
        self._said = False

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
        """The sha256 over the weights; prompts name their teacher by it."""
        assert self.model is not None  # building it takes the hash
        return str(self._hash)

    def _build(self) -> nn.Module:
        config = read_config(self.config)
        if self.cfg_options:
            config.merge_from_dict(self.cfg_options)
        weights = weights_of(read_checkpoint(self.checkpoint, self.trust_checkpoint))
        with forked_randomness(), worded("teacher"):
            network = config.model.get("student") or config.model
            model = build_network(network, config.get("default_scope"))
        self.network = Config(_without_initialization(network)).to_dict()
        load_strict(model, weights, str(self.checkpoint))
        if not (is_distributed() and torch.cuda.is_available()):
            model = revert_sync_batchnorm(model)
        model.requires_grad_(False).eval()
        self._hash = hash_weights(model.state_dict())  # of the weights as they were trained
        self.acceleration.prepare(model)
        return model

    def apply(self, function: Any) -> None:
        """Follow the holder's `.to()`, `.cuda()` and the like."""
        if self._model is not None:
            self._model._apply(function)

    def to(self, device: torch.device) -> None:
        """Build the network where needed and put it on a device."""
        model = self.model
        model.to(device)

    def ready_heads(self) -> None:
        """Let heads answer as in training, with statistics frozen: some answer otherwise in eval mode."""
        for name, child in self.model.named_children():
            if name not in ("backbone", "neck", "data_preprocessor"):
                child.train()
                freeze_statistics(child)

    def view(self, inputs: Tensor, data_samples: Sequence[Any] | None, student: nn.Module) -> Tensor:
        """Return the student's images as this teacher's preprocessor would have normalised them."""
        own = self.model.data_preprocessor
        if not differ(student, own):
            return inputs
        if not self._said:
            self._said = True
            print_log(
                f"student and teacher normalise images differently (student: {describe(student)}; teacher: "
                f"{describe(own)}); the teacher gets the same images, normalised its way",
                "current",
            )
        return renormalize(inputs, data_samples, student, own)

    @torch.no_grad()
    def extract(
        self, inputs: Tensor, data_samples: Sequence[Any] | None, paths: Sequence[str]
    ) -> dict[str, list[Tensor]]:
        """Return what the modules at `paths` give for a batch, without a graph, running no further than they need."""
        self.acceleration.check_paths(paths)
        if any(path.split(".")[0] not in ("backbone", "neck") for path in paths):
            self.ready_heads()
        with FeatureTap(self.model, paths) as tap, self.acceleration.context(inputs.device):
            run_to(self.model, self.acceleration.lay_out(inputs), data_samples, paths)
            return {path: self.acceleration.restore(tap.maps(path), inputs.dtype) for path in paths}

    def recall(
        self, inputs: Tensor, data_samples: Sequence[Any] | None, paths: Sequence[str], preprocessor: nn.Module
    ) -> Callable[[], dict[str, list[Tensor]]]:
        """Return a function that gives what `extract` would: of the cache, where there is one and the images are views.

        A rehearsal's blank image has no sample, and is no view.
        """
        if self.cache is not None and data_samples is not None and paths:
            return self.cache.recall(self, inputs, data_samples, paths, preprocessor)
        maps = self.extract(inputs, data_samples, paths) if paths else {}
        return lambda: maps

    def remember(
        self, inputs: Tensor, data_samples: Sequence[Any], paths: Sequence[str], preprocessor: nn.Module
    ) -> None:
        """Store what `extract` gives for views in the cache."""
        if self.cache is None:
            raise ValueError(
                "teacher.cache must be set to fill a cache: teacher=dict(..., cache=dict(dir=..., views=...))"
            )
        self.cache.fill(self, inputs, data_samples, paths, preprocessor)


def _build_cache(config: Mapping[str, Any]) -> TeacherCache:
    if not isinstance(config, Mapping):
        raise ValueError(f"teacher.cache must be dict(dir=..., views=...), got {config!r}")
    if set(config) != {"dir", "views"}:
        raise ValueError(f"teacher.cache must be dict(dir=..., views=...), got the keys {sorted(config)}")
    return TeacherCache(**config)


def build_teacher(config: Teacher | Mapping[str, Any]) -> Teacher:
    """Make a Teacher of its config."""
    if isinstance(config, Teacher):
        return config
    if not isinstance(config, Mapping):
        raise ValueError(f"teacher must be dict(config=..., checkpoint=...), got {config!r}")
    known = {"config", "checkpoint", "cfg_options", "trust_checkpoint", "cache", *Acceleration.__dataclass_fields__}
    extra = set(config) - known
    if extra or "config" not in config or "checkpoint" not in config:
        raise ValueError(
            f"teacher must be dict(config=..., checkpoint=...) with optional {sorted(known - {'config', 'checkpoint'})}"
            f", got the keys {sorted(config)}"
        )
    options = Config(dict(config)).to_dict()
    return Teacher(options.pop("config"), options.pop("checkpoint"), **options)
