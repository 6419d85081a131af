"""A training step of the cached sample configs: teacher read from the cache, running, held in memory, and none.

"teacher in memory" is what a cache can reach at best: the student's step and the loss, with the teacher's maps there already.
Real samples in the configs' own batches, made before the clock starts, since loading them costs all rows the same; prompts are
fresh, and the term's weight is a number. Every view is in the cache, whose files the system keeps in memory unless a row says
otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from measure import device, interleave, save
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from term_selection import FOLDER, PAIR

from freqkd.compat import read_config
from freqkd.datasets.views import VIEW
from freqkd.distillers.entries import count_entries, entry_path, used_bytes
from freqkd.registry import MODELS

CACHED, COLD, RUNNING = "teacher cached", "teacher cached, files only on the disk", "teacher runs"
HELD, ALONE = "teacher in memory", "student alone"
RATIOS = {f"{CACHED} / {HELD}": (CACHED, HELD), f"{RUNNING} / {CACHED}": (RUNNING, CACHED)}
Maps = dict[str, list[torch.Tensor]]


class Steps:
    """One student and what it can learn from, for one task.

    Args:
        task: `"detection"` or `"segmentation"`.
        folder: where the cache goes.
        batches: how many batches are taken in turn.
    """

    def __init__(self, task: str, folder: Path, batches: int) -> None:
        config = read_config(f"{FOLDER[task]}/freekd-cached_neck_{PAIR[task]}.py")
        config.model.teacher.cache.dir = str(folder)
        config.model.monitor = 0  # as a share that is measured, it costs a second backward
        config.model.terms.loss_freekd.update(prompts="untrained", weight=1.0)
        config.optim_wrapper.optimizer.lr = 1e-6  # every row meets the same student
        init_default_scope(config.default_scope)
        torch.manual_seed(0)
        self.distiller = MODELS.build(config.model).to(device()).train()
        self.distiller.init_weights()
        self.distiller.to(memory_format=torch.channels_last)  # as the configs' hook does
        self.teacher, self.folder = self.distiller.teacher, folder
        self.cache, self.recall = self.teacher.cache, self.teacher.recall
        models = (self.distiller, self.distiller.student)
        self.optimizers = {model: build_optim_wrapper(model, config.optim_wrapper) for model in models}
        loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        self.batches = [self.distiller.data_preprocessor(batch, True) for batch in islice(loader, batches)]
        self.held = [self._remember(batch) for batch in self.batches]
        self._flush()

    def _remember(self, batch: Any) -> Maps:
        """Store a batch in the cache, and return the maps that it gives."""
        self.distiller.remember(**batch)
        paths = [path for term in self.distiller.terms.values() for path in term.teacher_paths]
        return self.recall(batch["inputs"], batch["data_samples"], paths, self.distiller.data_preprocessor)()

    def _flush(self) -> None:
        for file in (self.folder / "maps").glob("*/*.half"):
            with open(file, "rb+") as handle:
                os.fsync(handle)

    def _forget_files(self, place: int) -> None:
        """Let the system drop a batch's files from memory; they must be on the disk already."""
        for sample in self.batches[place]["data_samples"]:
            view = sample.metainfo[VIEW]
            with open(entry_path(self.folder, view.image, view.view), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def use(self, row: str, place: int) -> None:
        """Let the teacher answer as a row says."""
        self.teacher.cache = self.cache if row in (CACHED, COLD) else None
        self.teacher.recall = (lambda *_: lambda: self.held[place]) if row == HELD else self.recall

    def losses(self, row: str, place: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Run forward on one of the batches: the loss and what it consists of."""
        self.use(row, place)
        model = self.distiller.student if row == ALONE else self.distiller
        return model.parse_losses(model(**self.batches[place], mode="loss"))

    def row(self, name: str) -> Callable[[], None]:
        """Return a training step that takes the batches in turn."""
        places = cycle(range(len(self.batches)))
        optimizer = self.optimizers[self.distiller.student if name == ALONE else self.distiller]

        def step() -> None:
            place = next(places)
            if name == COLD:
                self._forget_files(place)
            optimizer.update_params(self.losses(name, place)[0])

        return step

    def check(self) -> None:
        """Stop unless the rows learn the same, and the teacher runs in the row that says so alone."""
        ran: list[str] = []
        hook = self.teacher.model.backbone.register_forward_pre_hook(lambda *_: ran.append(row))
        for place in range(len(self.batches)):
            found = {}
            for row in (CACHED, HELD, RUNNING, CACHED):
                found[row] = self.losses(row, place)[1]["distill.loss_freekd"].item()
            if found[CACHED] != found[HELD] or abs(found[CACHED] / found[RUNNING] - 1) > 2e-3:
                raise SystemExit(f"batch {place}: the rows do not learn the same: {found}")
        hook.remove()
        if ran != [RUNNING] * len(self.batches):
            raise SystemExit(f"the teacher ran in these rows: {ran}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--task", nargs="+", choices=sorted(FOLDER), default=sorted(FOLDER))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=4, help="different batches, taken in turn")
    options = parser.parse_args(arguments)
    os.chdir(Path(__file__).resolve().parent.parent)
    os.makedirs("work_dirs", exist_ok=True)
    MMLogger.get_instance("cached_step", log_level="WARNING")
    torch.set_num_threads(options.threads)
    rows: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    for task in options.task:
        with tempfile.TemporaryDirectory(dir="work_dirs") as folder:
            steps = Steps(task, Path(folder), options.batches)
            steps.check()
            # What is compared follows on its like: a step leaves the allocator as the next one finds it.
            names = (COLD, HELD, CACHED, RUNNING, ALONE)
            rows[task] = interleave({name: steps.row(name) for name in names}, options.repeats)
            views, each = steps.cache.views, used_bytes(steps.folder) / count_entries(steps.folder)
        sizes[task] = dict(
            view=round(each), views=views, image=round(each * views), batch=len(steps.held[0]["neck"][0])
        )
        medians = {name: found["median"] for name, found in rows[task].items()}
        ratios[task] = {name: medians[over] / medians[under] for name, (over, under) in RATIOS.items()}
        for name, median in medians.items():
            print(f"{task:14}{name:42}{median:9.1f} ms")
        for name, ratio in ratios[task].items():
            print(f"{task:14}{name:42}{ratio:9.3f}")
        print(f"{task:14}{'bytes for an image':42}{sizes[task]['image']:9} ({views} views of {sizes[task]['view']})")
    command = f"python benchmarks/cached_step.py --repeats {options.repeats} --task {' '.join(options.task)}"
    save("cached_step", rows, f"{command} --threads {options.threads}", ratios=ratios, bytes=sizes)


if __name__ == "__main__":
    sys.exit(main())
