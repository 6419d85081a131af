"""Sampler of a condensed data set, which draws the images that are of value to the student (KCD)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from freqkd.datasets.condensation import ImageValues, Stage, condense, kept_counts
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.checks import check_at_least, check_whole


class CondensedSampler(Sampler[int]):
    """Draw fewer and fewer images, those of which the student is least certain (knowledge condensation, KCD).

    The first passes go over all images. Then, stage by stage, the images are ranked by their values (`ImageValues`) and
    the last ones left out, until the share `keep` is left. Each pass is shuffled. The values are measured by
    `freqkd.CondensationHook`, which must be among `custom_hooks`.

    With an `EpochBasedTrainLoop` a pass is an epoch, which becomes shorter; the hook keeps the schedules right. With an
    `IterBasedTrainLoop` the sampler goes on from pass to pass, and the number of iterations stays. All processes draw one
    set: the hook gives every process the values of all.

    Where this differs from the released program:

    - images that were never seen come last, not first; an entropy of 0 is a value, not a sign of not having been seen;
    - the last stage begins while there are passes left: the released one comes after the training;
    - the last stage keeps the share `keep` to the image, where rounding leaves more in the released program;
    - a stage that drops nothing changes nothing, where the released one fails.

    As there, a dropped image keeps its value and may come back.

    Args:
        dataset: the data set.
        keep: share of the images that is left after the last stage, above 0, up to 1.
        stages: number of times that images are dropped.
        interval: passes between two stages; None: stages divide the training into equal numbers of passes.
        alpha: exponent of the number of times an image was seen, in the ranking.
        seed: of the shuffling; None: drawn, the same in all processes.

    Raises:
        ValueError: an argument out of range; on use, the hook is missing.

    Config::

        train_dataloader = dict(sampler=dict(_delete_=True, type='freqkd.CondensedSampler', keep=0.7, stages=5))
        custom_hooks = [dict(type='freqkd.CondensationHook', tap='bbox_head.retina_cls')]

    References:
        Li et al., arXiv 2207.05409 (ECCV 2022): keep 0.7, 6 stages, alpha 0.03, values by entropy.
    """

    def __init__(
        self,
        dataset: Sized,
        keep: float = 0.7,
        stages: int = 5,
        interval: int | None = None,
        alpha: float = 0.03,
        seed: int | None = None,
    ) -> None:
        check_at_least("keep", keep, 0, exclusive=True, most=1)
        check_whole("stages", stages, 1)
        check_at_least("alpha", alpha, 0)
        if interval is not None:
            check_whole("interval", interval, 1)
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.keep, self.stages, self.alpha = dataset, keep, stages, alpha
        self.interval = interval
        self.seed = sync_random_seed() if seed is None else seed
        self.counts = kept_counts(len(dataset), keep, stages)
        self.values = ImageValues(len(dataset))
        self.found = [
            Stage(torch.arange(len(dataset)), torch.arange(0))
        ]  # what each stage keeps, as far as it is known
        self.endless = False
        self._planned = False
        self._pass, self._offset = 0, 0  # where it begins

    def plan(self, passes: int | None, samples: int = 0) -> str:
        """Divide the training into stages.

        Args:
            passes: their number; None: the sampler is endless.
            samples: of an endless sampler, number of images that all processes draw together.

        Returns:
            A warning where the training ends before the last stage; else nothing.
        """
        self.endless, self._planned = passes is None, True
        longest = samples // sum(self.counts) if passes is None else passes // (self.stages + 1)
        self.interval = self.interval or max(longest, 1)
        if longest >= self.interval:
            return ""
        return (
            f"the training ends before stage {self.stages} of CondensedSampler has had its {self.interval} "
            f"pass{'es' * (self.interval > 1)} over the data: fewer than {1 - self.keep:.0%} of the images may be dropped; "
            "lower stages or interval, or train longer"
        )

    def stage_of(self, number: int) -> int:
        """Return the stage of a pass; 0 before the first one."""
        if number == 0:
            return 0
        if not self._planned or self.interval is None:
            raise ValueError(
                "custom_hooks must have a freqkd.CondensationHook beside a freqkd.CondensedSampler, which reads the values "
                "that the hook measures, got none; add dict(type='freqkd.CondensationHook', tap='bbox_head.retina_cls')"
            )
        return min(number // self.interval, self.stages)

    def stage(self, number: int) -> Stage:
        """Return what a stage keeps; it is decided, by the values until now, when someone first asks."""
        while len(self.found) <= number:
            before, keep = self.counts[len(self.found) - 1], self.counts[len(self.found)]
            same = Stage(self.found[-1].kept, torch.arange(0))  # where nothing is to be dropped
            self.found.append(same if keep == before else condense(self.values.scores(self.alpha), before, keep))
        return self.found[number]

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that is drawn next."""
        self._pass, self._offset = epoch, 0

    def skip(self, num_samples: int) -> None:
        """Let an endless sampler begin behind the first images that this process drew before."""
        self._pass = 0
        while num_samples >= self._length(self._pass):
            num_samples -= self._length(self._pass)
            self._pass += 1
        self._offset = num_samples

    def __iter__(self) -> Iterator[int]:
        number, offset = self._pass, self._offset
        yield from self._indices(number)[offset:]
        while self.endless:
            number += 1
            yield from self._indices(number)

    def __len__(self) -> int:
        """Return the number of images that this process draws in the pass."""
        return self._length(self._pass)

    def _length(self, number: int) -> int:
        return -(-self.counts[self.stage_of(number)] // self.world_size)

    def _indices(self, number: int) -> list[int]:
        """Return the indices of a pass for this process; the first ones come again where processes would get fewer."""
        kept = self.stage(self.stage_of(number)).kept.sort().values
        generator = torch.Generator().manual_seed(self.seed + number)
        order: list[int] = kept[torch.randperm(len(kept), generator=generator)].tolist()
        total = self._length(number) * self.world_size
        return [order[place % len(order)] for place in range(self.rank, total, self.world_size)]

    def _settings(self) -> dict[str, Any]:
        names = ("keep", "stages", "interval", "alpha")
        return {"images": len(self.dataset), **{name: getattr(self, name) for name in names}}

    def state_dict(self) -> dict[str, Any]:
        """Return values, stages and settings, as tensors and plain data."""
        return dict(
            settings=self._settings(),
            seed=self.seed,
            mean=self.values.mean.clone(),
            seen=self.values.seen.clone(),
            stages=[dict(kept=one.kept, dropped=one.dropped) for one in self.found],
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take on what `state_dict` returned.

        Raises:
            CheckpointError: it is of another data set, or of a sampler with other arguments.
        """
        for name, value in self._settings().items():
            saved = state["settings"][name]
            if saved != value and not (name == "interval" and value is None):
                raise CheckpointError(
                    f"cannot resume: {'the number of images' if name == 'images' else f'CondensedSampler.{name}'} must be "
                    f"{saved}, as in the checkpoint, got {value}"
                )
        self.interval, self.seed = state["settings"]["interval"], state["seed"]
        self.values.mean, self.values.seen = state["mean"].clone(), state["seen"].clone()
        self.found = [Stage(one["kept"], one["dropped"]) for one in state["stages"]]


def find_condensed_sampler(loader: Any) -> CondensedSampler | None:
    """Return the sampler of a data loader, also inside a batch sampler, if it is a `CondensedSampler`."""
    for one in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(one, CondensedSampler):
            return one
    return None
