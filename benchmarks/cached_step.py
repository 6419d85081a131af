"""A training step of the cached sample configs: teacher read from the cache, running, held in memory, or absent.

"teacher in memory" is the least that a cached step can take: the student's step and the loss, with the teacher's maps there
already. "(plain)" is the cached step with `fused=False` in the loss. Batches are the configs' own, loaded before the clock
starts, since loading takes the same time in all rows; prompts are untrained, and the term's weight is a number. Every view is
in the cache, whose files the system keeps in memory unless a row says otherwise.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, Call, device, interleave, read_options, save
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from shipped import PAIR, prompt_stage, sample_config, write_untrained

from freqkd.datasets.fixed_views import VIEW
from freqkd.registry import MODELS
from freqkd.teacher.entries import count_entries, entry_path, used_bytes

CACHED, PLAIN, RUNNING = "teacher cached", "teacher cached (plain)", "teacher runs"
COLD, HELD, ALONE = "teacher cached, files only on the disk", "teacher in memory", "student alone"
# What is compared runs one after the other: a step leaves the allocator as the next one finds it.
ROWS = (COLD, HELD, CACHED, PLAIN, RUNNING, ALONE)
BATCHES = 4


class Steps:
    """The student of one task, and its steps.

    Args:
        task: `"detection"` or `"segmentation"`.
        folder: where prompts and cache go.
    """

    def __init__(self, task: str, folder: Path) -> None:
        config = sample_config(task, "freekd-cached_neck")
        init_default_scope(config.default_scope)
        torch.manual_seed(0)
        term, self.folder = config.model.terms.loss_freekd, folder / "cache"
        term.update(prompts=write_untrained(prompt_stage(term.prompts), folder / "prompts.pth"), weight=1.0)
        config.model.teacher.cache.dir = str(self.folder)
        config.model.monitor = 0  # measuring gradients takes a second backward pass
        config.optim_wrapper.optimizer.lr = 1e-6  # so that the student is the same in every row
        self.distiller = MODELS.build(config.model).to(device()).train()
        self.distiller.init_weights()
        self.distiller.to(memory_format=torch.channels_last)  # as the configs' hook does
        self.loss, self.cached = self.distiller.terms["loss_freekd"].loss, self.distiller.teacher
        models = (self.distiller, self.distiller.student)
        self.optimizers = {model: build_optim_wrapper(model, config.optim_wrapper) for model in models}
        loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        self.batches = [self.distiller.data_preprocessor(batch, True) for batch in islice(loader, BATCHES)]
        self.held = [self._fill(**batch) for batch in self.batches]
        for file in filter(Path.is_file, self.folder.rglob("*")):
            with open(file, "rb+") as handle:
                os.fsync(handle)

    def _fill(self, inputs: torch.Tensor, data_samples: Any) -> Callable[[], Any]:
        """Store a batch in the cache, and return what gives its maps."""
        maps = self.cached.start(self.cached.normalize(inputs, data_samples), data_samples)()
        return lambda: maps

    def forget_files(self, place: int) -> None:
        """Let the system drop a batch's files from memory; they must be on the disk already."""
        for sample in self.batches[place]["data_samples"]:
            view = sample.metainfo[VIEW]
            with open(entry_path(self.folder, view.image, view.view), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def losses(self, row: str, place: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Run forward on a batch, the teacher and the loss as the row says: the loss and what it consists of."""
        self.distiller.teacher = self.cached.teacher if row in (HELD, RUNNING) else self.cached
        self.loss.fused = row != PLAIN
        vars(self.cached.teacher).pop("start", None)
        if row == HELD:
            self.cached.teacher.start = lambda *_: self.held[place]
        model = self.distiller.student if row == ALONE else self.distiller
        return model.parse_losses(model(**self.batches[place], mode="loss"))

    def row(self, name: str) -> Call:
        """Return a training step that takes the batches in turn."""
        places = cycle(range(BATCHES))
        optimizer = self.optimizers[self.distiller.student if name == ALONE else self.distiller]

        def step() -> None:
            place = next(places)
            if name == COLD:
                self.forget_files(place)
            optimizer.update_params(self.losses(name, place)[0])

        return step

    def check(self) -> None:
        """Stop unless the rows learn the same, and the teacher runs only in the row that says so."""
        ran: list[str] = []
        hook = self.cached.model.backbone.register_forward_pre_hook(lambda *_: ran.append(row))
        for place in range(BATCHES):
            found = {}
            for row in (CACHED, HELD, RUNNING, PLAIN):
                found[row] = self.losses(row, place)[1]["distill.loss_freekd"].item()
            near = [abs(found[row] / found[CACHED] - 1) for row in (HELD, PLAIN, RUNNING)]
            if near[0] or near[1] > 1e-4 or near[2] > 2e-3:
                raise SystemExit(f"batch {place}: the rows do not learn the same: {found}")
        hook.remove()
        if ran != [RUNNING] * BATCHES:
            raise SystemExit(f"the teacher ran in these rows: {ran}")


def main() -> None:
    options = read_options(__doc__, task=dict(nargs="+", choices=sorted(PAIR), default=sorted(PAIR)))
    os.chdir(ROOT)
    os.makedirs("work_dirs", exist_ok=True)  # not in /tmp, which may be memory
    MMLogger.get_instance("cached_step", log_level="WARNING")
    rows: dict[str, Any] = {}
    sizes: dict[str, float] = {}
    for task in options.task:
        with tempfile.TemporaryDirectory(dir="work_dirs") as folder:
            steps = Steps(task, Path(folder))
            steps.check()
            rows[task] = interleave({name: steps.row(name) for name in ROWS}, options.repeats)
            sizes[task] = used_bytes(steps.folder) / count_entries(steps.folder)
    save("cached_step", rows, view_bytes=sizes)


if __name__ == "__main__":
    sys.exit(main())
