"""Filling of a teacher's cache before a training."""

from __future__ import annotations

import copy

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, DefaultScope

from freqkd.apis import preflight
from freqkd.teacher.fill import fill_cache
from freqkd.utils.processes import agreed


def cache_teacher(config: Config, trust: bool = False) -> int:
    """Fill the cache of a config's teacher with all views of its training data; return for how many the teacher ran.

    Raises:
        ValueError: the teacher has no cache, or the training data no fixed views.
    """
    with agreed():
        preflight.check_data(config, ("train",), trust)
        preflight.check_parts(config, "train")
        preflight.check_cache(config)
    views = preflight.find_fixed_views(config)
    if views is None or not config.model.get("teacher", {}).get("cache"):
        raise ValueError(
            "the config must have a cached teacher, teacher=dict(..., cache=dict(dir=..., views=...)), and fixed views of its "
            "training data (freqkd.FixedViews)"
        )
    loader = config.train_dataloader
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        preflight.check_model(config)
        model = MODELS.build(config.model).to(get_device())
        dataset = DATASETS.build(copy.deepcopy(views))
        return fill_cache(model, dataset, loader.batch_size, loader.get("num_workers", 0))
