"""Everything a config may name as `freqkd.X`. The mathematics knows nothing of registries, so it is entered here."""

from __future__ import annotations

from freqkd.align import ConvAlign, ResizeAlign
from freqkd.distillers.distiller import Distiller
from freqkd.distillers.prompt_tuner import PromptTuner
from freqkd.distillers.terms import DistillTerm
from freqkd.hooks.guards import ResumeGuard
from freqkd.hooks.masks import MaskHook
from freqkd.hooks.progress import ProgressHook
from freqkd.hooks.prompts import PromptFileHook, PromptStatisticsHook
from freqkd.losses.frequency import FreeKDLoss
from freqkd.losses.imitation import MSELoss, PKDLoss
from freqkd.registry import HOOKS, MODELS

for part in (Distiller, PromptTuner, DistillTerm, ConvAlign, ResizeAlign, FreeKDLoss, MSELoss, PKDLoss):
    MODELS.register_module(module=part)
for hook in (MaskHook, ProgressHook, PromptFileHook, PromptStatisticsHook, ResumeGuard):
    HOOKS.register_module(module=hook)
