"""Refuse what would go wrong silently."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from freqkd.checkpoints import check_resumable


class ResumeGuard(Hook):
    """Refuse to resume from a checkpoint without the prompts, aligns and measured shares of this distillation.

    The Runner loads what it finds and only warns about the rest, so training would go on with fresh ones.
    Starting from such a checkpoint (`load_from`) is fine: a plain student has none of them.
    """

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compare keys before the weights are loaded.

        Raises:
            CheckpointError: on resume, a key under `distiller.` or a prompt is missing.
        """
        if not getattr(runner, "_resume", False):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_resumable(model, checkpoint.get("state_dict", {}))
