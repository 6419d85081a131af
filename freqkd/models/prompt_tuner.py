"""Prompt stage: frequency prompts trained inside a frozen teacher by the teacher's own task loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.losses.freekd.loss import check_finite
from freqkd.losses.freekd.prompts import FrequencyPrompt, build_prompts, mask_deviation
from freqkd.losses.freekd.relation import GATES, channel_relation
from freqkd.models.options import check_options
from freqkd.models.prompt_file import GATE_CHOICES
from freqkd.models.teacher_stage import TeacherStage
from freqkd.teacher import CachedTeacher, Teacher
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.checks import check_at_least, check_levels
from freqkd.utils.warning_log import WarningLog


class PromptTuner(TeacherStage):
    """A frozen teacher whose tapped features pass through frequency prompts; only the prompts are trained.

    loss = the teacher's task loss on the rebuilt features + `overlap_weight` * overlap of the masks. In `predict` mode
    this is the masked teacher, so validation tells how much of its metric the prompts keep. The checkpoint holds the
    tokens and gates: a few hundred kB.

    Args:
        teacher: `dict(config=..., checkpoint=...)`, see `Teacher`. With a cache, training reads the tapped maps and runs the
            heads alone; the tap must then be the whole neck, or the backbone of a teacher without one.
        prompts: arguments of `build_prompts`: channels, num_levels, num_prompts, preset ...
        tap: path of the tapped module in the teacher.
        levels: indices of the tapped maps that are masked; None: all.
        gate: True: train a `ChannelGate` for every level, too, for distillations with relation="gate"; "kan": a `KANGate`, for
            relation="kan-gate".
        overlap_weight: lambda; the paper uses 1.

    Raises:
        ValueError: the tap does not exist, its maps do not fit the prompts, or they are not all that the heads take and the
            teacher has a cache.
        CheckpointError: the teacher cannot be loaded, on `init_weights` or the first batch.
    """

    edited = "the prompts"

    def __init__(
        self,
        teacher: Teacher | CachedTeacher | Mapping[str, Any],
        prompts: Mapping[str, Any],
        tap: str = "neck",
        levels: Sequence[int] | None = None,
        gate: bool | str = False,
        overlap_weight: float = 1.0,
        data_preprocessor: Any = None,
    ) -> None:
        check_at_least("overlap_weight", overlap_weight, 0)
        check_levels(levels)
        if not isinstance(gate, bool) and not (isinstance(gate, str) and gate in GATE_CHOICES):
            raise ValueError(f"gate must be True, False or 'kan', got {gate!r}")
        if not isinstance(prompts, Mapping):
            raise ValueError(f"prompts must be dict(channels=..., num_levels=..., ...), got {prompts!r}")
        check_options("prompts", build_prompts, prompts)
        super().__init__(teacher, tap)
        try:
            self.prompts = build_prompts(**prompts)
        except ValueError as error:
            raise ValueError(f"prompts: {error}") from None
        widths = [cast(FrequencyPrompt, prompt).channels for prompt in self.prompts]
        self.gates = nn.ModuleList(GATES[GATE_CHOICES[gate]](width) for width in widths if gate)
        self.levels = None if levels is None else tuple(levels)
        self.overlap_weight = overlap_weight
        self._warnings = WarningLog()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse prompts that hold numbers that are not finite."""
        own = {
            key: value for key, value in state_dict.items() if key.startswith((f"{prefix}prompts.", f"{prefix}gates."))
        }
        try:
            check_finite(own)
        except ValueError as error:
            raise CheckpointError(f"these prompts cannot be trained further: {error}") from None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def edit(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps rebuilt from their masked bands; notes the overlap of the masks."""
        levels = self._choose(maps)
        chosen = [maps[level] for level in levels]
        rebuilt, overlaps = list(maps), []
        for index, level in enumerate(levels):
            prompt = cast(FrequencyPrompt, self.prompts[index])
            with self._warnings.named("prompts"):
                prompt.check_size(chosen[index], f"map {level} of {self.tap!r}")
            feature, overlap = prompt(chosen[index])
            if len(self.gates):
                deeper = chosen[index + 1] if index + 1 < len(chosen) else None
                gain = self.gates[index](channel_relation(chosen[index], deeper))
                feature = feature * gain[:, :, None, None]
            # Cropped to an odd size it is a view with gaps, which `view` in a transformer refuses.
            rebuilt[level] = feature.to(maps[level].dtype).contiguous()
            overlaps.append(overlap)
        self._overlap = torch.stack(overlaps).mean()
        return rebuilt

    def _choose(self, maps: Sequence[Tensor]) -> Sequence[int]:
        """Return the levels that are masked, or say which argument does not fit the tapped maps."""
        levels = range(len(maps)) if self.levels is None else self.levels
        if max(levels, default=0) >= len(maps):
            raise ValueError(f"levels must be below {len(maps)}, the number of maps of {self.tap!r}, got {self.levels}")
        if len(levels) != len(self.prompts):
            counted = f"maps of {self.tap!r}" if self.levels is None else f"levels={self.levels}"
            raise ValueError(
                f"prompts.num_levels must be {len(levels)}, the number of {counted}, got {len(self.prompts)}; "
                "change it, or name the maps that are masked: levels="
            )
        for level, part in zip(levels, self.prompts, strict=True):
            prompt, feature = cast(FrequencyPrompt, part), maps[level]
            if feature.dim() == 4 and feature.shape[1] != prompt.channels:
                raise ValueError(
                    f"prompts.channels must be {feature.shape[1]}, as many as map {level} of {self.tap!r} has, got "
                    f"{prompt.channels} channels"
                )
        return levels

    @torch.no_grad()
    def measure(self, inputs: Tensor, data_samples: Any = None) -> dict[str, float]:
        """Return the overlap of the masks and their deviation over space on a batch, means over the levels.

        `overlap` as the prompts measure it; `deviation` of each mask, `mean_deviation` of the mean of the T masks, which
        is what stage 2 weighs positions by.
        """
        self.prepare()
        maps = self.teacher.extract(inputs, data_samples, [self.tap])[self.tap]
        chosen = maps if self.levels is None else [maps[level] for level in self.levels]
        found: dict[str, list[float]] = {"overlap": [], "deviation": [], "mean_deviation": []}
        for feature, part in zip(chosen, self.prompts, strict=True):
            prompt = cast(FrequencyPrompt, part)
            masks = prompt.masks(prompt.decompose(feature))
            found["overlap"].append(float(prompt.measure_overlap(masks)))
            found["deviation"].append(float(mask_deviation(masks)))
            found["mean_deviation"].append(float(mask_deviation([mask.mean(1, keepdim=True) for mask in masks])))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run the masked teacher; in `loss` mode, with the overlap of its masks."""
        found = super().forward(inputs, data_samples, mode)
        if mode != "loss":
            return found
        MessageHub.get_current_instance().update_scalar("train/overlap", float(self._overlap.detach()))
        return {**found, "loss_overlap": self._overlap * self.overlap_weight}
