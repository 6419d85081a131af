"""Checks of a model by building it, running its terms once, and taking its first step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.registry import DefaultScope
from torch import nn

from freqkd.apis.preflight.cache import check_manifest
from freqkd.apis.preflight.classes import check_classes
from freqkd.apis.preflight.condensation import check_condensation
from freqkd.apis.preflight.first_step import try_steps
from freqkd.apis.preflight.hooks import check_hooks
from freqkd.apis.preflight.runner import check_optimization
from freqkd.models.options import build_part
from freqkd.models.rehearsal import RehearsalError
from freqkd.models.schedule import check_progress, check_reach
from freqkd.utils.checkpoints import CheckpointError, check_resumable, check_start
from freqkd.utils.errors import worded
from freqkd.utils.randomness import forked_randomness


def check_model(
    config: Config,
    checkpoint: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    rehearsal: bool = True,
) -> dict[str, Any]:
    """Build a model of its own, run its terms once on one image, and take its first step; nothing of it is kept.

    Args:
        config: the config of a training.
        checkpoint: the checkpoint that it loads or resumes from.
        samples: what `check_data` returned; None: the image is blank, and no step is taken.
        rehearsal: run the model; False: only build it.

    Returns:
        The shapes of what the terms tap, see `Distiller.rehearse`; empty where they are not known.

    Raises:
        ValueError: an unknown tap or argument, features that do not fit, a term with a wrong name.
        CheckpointError: teacher, prompts, `checkpoint` or the teacher's cache cannot be used.
    """
    scope = config.get("default_scope")
    with forked_randomness(), DefaultScope.overwrite_default_scope(scope), torch.random.fork_rng(devices=[]):
        model = build_part("model", config.model)
        optimizers = check_optimization(config, model)
        check_progress(model, config)
        late = check_reach(model, config)
        for warning in late if get_rank() == 0 else ():
            print(f"warning: {warning}", file=sys.stderr)
        with worded("model"):
            check_classes(model, config)
        check_condensation(config)
        check_hooks(model, config)
        shapes, failure = _rehearse(model, samples or {}) if rehearsal else ({}, "")
        check_manifest(model, config)
        if checkpoint is not None:
            _check_state(model, config, checkpoint)
        if rehearsal:
            try_steps(model, optimizers, samples or {})
        if failure and get_rank() == 0:  # a step that failed as well has told more
            advice = "the training starts all the same; --no-rehearsal leaves the rehearsal out"
            print(f"warning: {failure}; {advice}", file=sys.stderr)
    return shapes


def _rehearse(model: Any, samples: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Rehearse a model that can; return the shapes of its taps, and what failed for a reason that no check foresaw."""
    with worded("model"):
        if not hasattr(model, "rehearse"):
            return {}, ""
        model.to(get_device())
        try:
            return model.rehearse(samples.get("train")), ""
        except RehearsalError as error:
            return {}, str(error)


def _check_state(model: nn.Module, config: Config, checkpoint: Mapping[str, Any]) -> None:
    """Compare the checkpoint that a run resumes or starts from with its model."""
    if config.get("resume"):
        check_resumable(model, checkpoint)
        _try_loading(model, checkpoint["state_dict"])
        return
    left = check_start(model, checkpoint, str(config.load_from))
    if left and get_rank() == 0:
        print(left, file=sys.stderr)


def _try_loading(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state, which MMEngine would do in part and with a warning where shapes differ."""
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise CheckpointError(
            f"cannot resume: the checkpoint is of another network ({first[0].strip()}); resume with the config that wrote it"
        ) from None
