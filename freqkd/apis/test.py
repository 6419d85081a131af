"""Evaluation of a checkpoint."""

from __future__ import annotations

import copy
import time

from mmengine.config import Config

from freqkd.apis.export import is_distillation
from freqkd.apis.train import build_runner
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.loading import guarded_loading, keep_student


def evaluate(config: Config, checkpoint: str, work_dir: str) -> dict[str, float]:
    """Return the metrics of a checkpoint on the config's test split."""
    config = Config(copy.deepcopy(config.to_dict()))
    config.work_dir, config.load_from, config.resume = work_dir, checkpoint, False
    config.experiment_name = f"evaluate_{time.time_ns()}"
    with guarded_loading():
        if not is_distillation(config):
            keep_student(checkpoint, read_checkpoint(checkpoint))
        return {key: float(value) for key, value in build_runner(config).test().items()}
