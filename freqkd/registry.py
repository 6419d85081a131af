"""Registries of scope `freqkd`, children of MMEngine's; `freqkd.plugins` fills them when a config first asks."""

from __future__ import annotations

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from freqkd.utils.compat import patch_config_scopes

patch_config_scopes()
MODELS = Registry("model", parent=MMENGINE_MODELS, scope="freqkd", locations=["freqkd.plugins"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="freqkd", locations=["freqkd.plugins"])
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="freqkd", locations=["freqkd.plugins"])
DATA_SAMPLERS = Registry("data sampler", parent=MMENGINE_DATA_SAMPLERS, scope="freqkd", locations=["freqkd.plugins"])
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope="freqkd", locations=["freqkd.plugins"]
)
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="freqkd", locations=["freqkd.plugins"])
