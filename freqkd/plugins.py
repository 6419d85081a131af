"""Everything a config may name as `freqkd.X`. The mathematics knows nothing of registries, so it is entered here."""

from __future__ import annotations

from freqkd.adapters.boxes import GroundTruthBoxes
from freqkd.adapters.cross_head import CrossHead
from freqkd.adapters.dense import DenseLogits
from freqkd.adapters.distribution import BCKDTargets, LDTargets
from freqkd.adapters.proposals import ProposalLogits
from freqkd.adapters.queries import QueryLogits
from freqkd.adapters.segmentation import SegLogits
from freqkd.align import ConvAlign, IdentityAlign, ResizeAlign
from freqkd.datasets.views import FixedViews
from freqkd.distillers.distiller import Distiller
from freqkd.distillers.prompt_tuner import PromptTuner
from freqkd.distillers.terms import DistillTerm
from freqkd.hooks.checkpoint import CheckpointHook
from freqkd.hooks.masks import MaskHook
from freqkd.hooks.memory_format import ChannelsLastHook
from freqkd.hooks.non_finite import NonFiniteHook
from freqkd.hooks.progress import ProgressHook
from freqkd.hooks.prompts import PromptFileHook, PromptStatisticsHook
from freqkd.losses import (
    ATLoss,
    BCKDLoss,
    CrossKDBoxLoss,
    CrossKDLoss,
    CWDLoss,
    FGDLoss,
    FreeKDLoss,
    L2Loss,
    LDLoss,
    LogitLoss,
    MGDLoss,
    MLKDLoss,
    MSELoss,
    PKDLoss,
)
from freqkd.registry import DATASETS, HOOKS, MODELS

ADAPTERS = (SegLogits, DenseLogits, LDTargets, BCKDTargets, CrossHead, ProposalLogits, QueryLogits, GroundTruthBoxes)
MODEL_PARTS = (Distiller, PromptTuner, DistillTerm, ConvAlign, IdentityAlign, ResizeAlign)
LOSSES = (
    FreeKDLoss,
    MSELoss,
    L2Loss,
    PKDLoss,
    CWDLoss,
    LogitLoss,
    LDLoss,
    BCKDLoss,
    CrossKDLoss,
    CrossKDBoxLoss,
    MLKDLoss,
    ATLoss,
    MGDLoss,
    FGDLoss,
)
for part in (*MODEL_PARTS, *ADAPTERS, *LOSSES):
    MODELS.register_module(module=part)
for hook in (
    ChannelsLastHook,
    CheckpointHook,
    MaskHook,
    NonFiniteHook,
    ProgressHook,
    PromptFileHook,
    PromptStatisticsHook,
):
    HOOKS.register_module(module=hook)
DATASETS.register_module(module=FixedViews)
