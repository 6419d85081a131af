"""Registration of everything that a config may name as `freqkd.X`.

A class is registered by where it stands: every `...Loss` of `freqkd.losses`, every align, every adapter, hook and data set of
their packages, the models, the transforms and the optimizer wrapper. The mathematics itself knows no registry.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from torch import nn
from torch.utils.data import Dataset, Sampler

from freqkd import adapters, align, backbones, datasets, hooks, losses, models
from freqkd.apis import mixed_precision
from freqkd.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS, TRANSFORMS


def classes_of(package: ModuleType, kind: type) -> Iterator[type]:
    """Yield the public subclasses of `kind` that a module, or the modules of a package, define.

    >>> [one.__name__ for one in classes_of(align, nn.Module)]
    ['ConvAlign', 'KANAlign', 'ResizeAlign']
    """
    modules = [package]
    if hasattr(package, "__path__"):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        modules = [importlib.import_module(module.name) for module in found]
    for module in modules:
        for name in getattr(module, "__all__", vars(module)):
            one = getattr(module, name)
            own = (
                inspect.isclass(one) and issubclass(one, kind) and one is not kind and one.__module__ == module.__name__
            )
            if own and not name.startswith("_"):
                yield one


def register(registry: Registry, package: ModuleType, kind: type, ending: str = "") -> None:
    """Enter the classes of a package in a registry, those whose names end so."""
    for one in classes_of(package, kind):
        if one.__name__.endswith(ending):
            registry.register_module(module=one)


register(MODELS, losses, nn.Module, "Loss")
register(MODELS, align, nn.Module)
register(MODELS, backbones, BaseModule)
for model in (models.Distiller, models.PromptTuner, models.BandHeadTuner, models.DistillTerm):
    MODELS.register_module(module=model)
register(MODELS, adapters, adapters.HeadAdapter)
register(HOOKS, hooks, Hook)
register(DATASETS, datasets, Dataset)
register(DATA_SAMPLERS, datasets, Sampler)
register(OPTIM_WRAPPERS, mixed_precision, OptimWrapper)
for transform in (datasets.Corrupt, datasets.PadToScale):
    TRANSFORMS.register_module(module=transform)
