"""Prompt stage: frequency prompts trained inside a frozen teacher by the teacher's own task loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

from freqkd.losses.freekd.loss import check_finite
from freqkd.losses.freekd.prompts import FrequencyPrompt, build_prompts, mask_deviation
from freqkd.losses.freekd.relation import ChannelGate, channel_relation
from freqkd.models.options import check_options
from freqkd.models.rehearsal import first_iteration, part_of_rehearsal, take_image
from freqkd.models.tap_shapes import MapShape, map_shape
from freqkd.taps import FeatureEdit, FeatureTap, find_tap
from freqkd.teacher import CachedTeacher, Teacher, build_teacher
from freqkd.teacher.teacher import blank_image, rehearsal
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.checks import check_at_least, check_flag, check_levels
from freqkd.utils.warning_log import WarningLog

_PLACEHOLDER = dict(type="BaseDataPreprocessor")


class PromptTuner(BaseModel):
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
        gate: train a `ChannelGate` for every level, too, for distillations with relation="gate".
        overlap_weight: lambda; the paper uses 1.

    Raises:
        ValueError: the tap does not exist, its maps do not fit the prompts, or they are not all that the heads take and the
            teacher has a cache.
        CheckpointError: the teacher cannot be loaded, on `init_weights` or the first batch.
    """

    def __init__(
        self,
        teacher: Teacher | CachedTeacher | Mapping[str, Any],
        prompts: Mapping[str, Any],
        tap: str = "neck",
        levels: Sequence[int] | None = None,
        gate: bool = False,
        overlap_weight: float = 1.0,
        data_preprocessor: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=_PLACEHOLDER)
        check_at_least("overlap_weight", overlap_weight, 0)
        check_levels(levels)
        check_flag("gate", gate)
        if not (isinstance(tap, str) and tap):
            raise ValueError(f"tap must be the path of a module, e.g. 'neck', got {tap!r}")
        if not isinstance(prompts, Mapping):
            raise ValueError(f"prompts must be dict(channels=..., num_levels=..., ...), got {prompts!r}")
        check_options("prompts", build_prompts, prompts)
        try:
            self.prompts = build_prompts(**prompts)
        except ValueError as error:
            raise ValueError(f"prompts: {error}") from None
        self.teacher = build_teacher(teacher, with_losses=True)
        widths = [cast(FrequencyPrompt, prompt).channels for prompt in self.prompts]
        self.gates = nn.ModuleList(ChannelGate(width) for width in widths if gate)
        self.tap = tap
        self.levels = None if levels is None else tuple(levels)
        self.overlap_weight = overlap_weight
        self._prepared = False
        self._warnings = WarningLog()

    @property
    def data_preprocessor(self) -> nn.Module:
        """The teacher's preprocessor; the teacher is built when someone first asks for it."""
        self.prepare()
        return cast(nn.Module, self.teacher.model.data_preprocessor)

    def _apply(self, fn: Any, recurse: bool = True) -> PromptTuner:
        self.teacher.apply(fn)
        return super()._apply(fn, recurse)

    def init_weights(self) -> None:
        """Bring in the teacher; the tokens were drawn when they were made."""
        self.prepare()

    def prepare(self) -> None:
        """Build the teacher, once."""
        if self._prepared:
            return
        self.teacher.to(self._device)
        try:
            find_tap(self.teacher.model, self.tap)
        except ValueError as error:
            raise ValueError(f"tap: {error}") from None
        self.teacher.prepare([self.tap], self.teacher.model.data_preprocessor)
        if isinstance(self.teacher, CachedTeacher):
            self._check_cache()
        self._prepared = True

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _check_cache(self) -> None:
        """Check that what the heads take is what the tap gives, so that cached maps can stand for the whole way to them."""
        model = self.teacher.model
        last = "neck" if getattr(model, "with_neck", False) else "backbone"
        if self.tap == last and hasattr(model, "extract_feat"):
            with torch.no_grad(), rehearsal(), FeatureTap(model, [self.tap]) as tap:
                taken = model.extract_feat(blank_image(model))
                maps = tap.maps(self.tap)
            if isinstance(taken, (tuple, list)) and list(map(id, taken)) == list(map(id, maps)):
                return
        raise ValueError(
            f"tap must be {last!r}, all that the heads of {type(model).__name__} take, where teacher.cache is set, got "
            f"{self.tap!r}; leave out the cache in the prompt stage"
        )

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

    def identity(self) -> dict[str, str]:
        """Return the hash of what a resumed training must find unchanged: the teacher."""
        self.prepare()
        return {"model.teacher": self.teacher.hash}

    def rehearse(
        self, sample: Mapping[str, Any] | None = None, size: tuple[int, int] = (64, 96)
    ) -> dict[str, dict[str, list[MapShape]]]:
        """Run the tapped part once on one image: raises what the first iteration would.

        Args:
            sample: what the pipeline of the training data gives for an image; None: a blank image.
            size: height and width of the blank image.

        Returns:
            The shapes of what was tapped in the "teacher", by path.

        Raises:
            ValueError: the tapped maps do not fit the prompts.
            RehearsalError: a part fails for a reason that no check foresaw.
        """
        self.prepare()
        with torch.no_grad(), rehearsal(), first_iteration():
            image = take_image(self.teacher.model, sample, size)
            with part_of_rehearsal("the teacher", image):
                maps = self.teacher.extract(image.inputs, image.samples, [self.tap])[self.tap]
            with part_of_rehearsal("the prompts", image):
                self.edit(maps)
        return {"teacher": {self.tap: [map_shape(one, image.inputs.shape) for one in maps]}}

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
        self.prepare()
        if mode != "loss":
            with FeatureEdit(self.teacher.model.eval(), self.tap, self.edit):
                return self.teacher.model(inputs, data_samples, mode=mode)
        with self.teacher.computing_losses() as network:
            if isinstance(self.teacher, CachedTeacher):
                maps = self.teacher.start(inputs, data_samples)()[self.tap]
                with _extracting(network, tuple(self.edit(maps))):
                    losses = dict(network(inputs, data_samples, mode=mode))
            else:
                with FeatureEdit(network, self.tap, self.edit):
                    losses = dict(network(inputs, data_samples, mode=mode))
        MessageHub.get_current_instance().update_scalar("train/overlap", float(self._overlap.detach()))
        return {**losses, "loss_overlap": self._overlap * self.overlap_weight}


@contextmanager
def _extracting(model: Any, maps: tuple[Tensor, ...]) -> Iterator[None]:
    """Let a network's heads take these maps: backbone and neck do not run."""
    model.extract_feat = lambda *args, **kwargs: maps
    try:
        yield
    finally:
        del model.extract_feat
