"""Corruption robustness: a network's metric on clean and on corrupted images of its test split."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from freqkd.apis.preflight.datasets import leaf_datasets
from freqkd.apis.train import build_runner
from freqkd.datasets.corrupt import PACKAGE, import_corrupt
from freqkd.datasets.fixed_views import canonical
from freqkd.utils.checkpoints import hash_weights, weights_of
from freqkd.utils.files import write_whole

Metrics = dict[str, float]


class Cell(NamedTuple):
    """A kind of corruption at a severity; severity 0 is the clean image.

    >>> str(Cell("fog", 3)), str(CLEAN)
    ('fog 3', 'clean')
    """

    kind: str
    severity: int

    def __str__(self) -> str:
        return f"{self.kind} {self.severity}" if self.severity else self.kind


CLEAN = Cell("clean", 0)


def corrupted_loader(config: Config, cell: Cell) -> Any:
    """Return a config's `test_dataloader` with the corruption of a cell right after the loading of an image.

    Raises:
        ValueError: the pipeline of a data set does not load an image by a transform `LoadImage...`.
    """
    loader = copy.deepcopy(config.test_dataloader)
    if cell == CLEAN:
        return loader
    for dataset, _ in leaf_datasets(loader.dataset):
        steps: Any = dataset
        pipeline = list(steps.get("pipeline") or ())
        loading = [place for place, step in enumerate(pipeline) if "LoadImage" in str(step.get("type"))]
        if not loading:
            raise ValueError(
                "test_dataloader.dataset.pipeline must load an image by LoadImageFromFile or the like, because the corruption "
                f"comes right after it, got {[step.get('type') for step in pipeline]}"
            )
        pipeline.insert(loading[-1] + 1, dict(type="freqkd.Corrupt", kind=cell.kind, severity=cell.severity))
        steps["pipeline"] = pipeline
    return loader


def evaluate_cells(config: Config, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Metrics]]:
    """Yield all metrics of each cell, in their order, for the checkpoint `load_from` of a network's config."""
    runner: Runner | None = None
    for cell in cells:
        with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
            is_first = runner is None
            runner = runner or build_runner(config)
            loop: Any = runner.test_loop
            loop.dataloader = runner.build_dataloader(corrupted_loader(config, cell))
            found = runner.test() if is_first else loop.run()  # `test` loads the checkpoint, and lets hooks begin
        yield cell, {key: float(value) for key, value in found.items() if math.isfinite(value)}


def identity_of(config: Config, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return what the metrics of a network depend on: hashes of its weights and of its config, and the package's version."""
    loader = config.test_dataloader
    told = dict(
        model=config.model, dataset=loader.dataset, batch_size=loader.get("batch_size"), evaluator=config.test_evaluator
    )
    return dict(
        weights=hash_weights(weights_of(checkpoint)),
        config=f"{zlib.crc32(canonical(told).encode()):08x}",
        corruptions=f"{PACKAGE} {import_corrupt()[1]}",
    )


class Record:
    """The finished cells of a network, in a file that is written whole after each of them.

    Args:
        path: the file; one that exists is read.
        identity: see `identity_of`.

    Raises:
        ValueError: the file holds the cells of another network, or of other data.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self.path, self.identity = path, dict(identity)
        self.cells: dict[str, Metrics] = {}
        if path.exists():
            stored = json.loads(path.read_text("utf-8"))
            other = [key for key, value in self.identity.items() if stored["identity"].get(key) != value]
            if other:
                raise ValueError(
                    f"{path} must hold results of this network and its data, but its {' and '.join(other)} differ; name "
                    "another --work-dir or --names, or delete the file"
                )
            self.cells = stored["cells"]

    def left(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return the cells that have no result yet."""
        return [cell for cell in cells if str(cell) not in self.cells]

    def add(self, cell: Cell, metrics: Metrics) -> None:
        """Keep the metrics of a cell."""
        self.cells[str(cell)] = metrics
        if is_main_process():
            with write_whole(self.path) as file:
                file.write(f"{json.dumps(dict(identity=self.identity, cells=self.cells), indent=1)}\n".encode())

    def metric(self, cell: Cell, key: str) -> float:
        """Return one metric of a finished cell.

        A detector that has found nothing on any image has no metrics by `CocoMetric`: its metric is 0.

        Raises:
            ValueError: the evaluator has no such metric.
        """
        found = self.cells[str(cell)]
        if found and key not in found:
            raise ValueError(f"--metric must be one of {', '.join(sorted(found))}, got {key!r}")
        return found.get(key, 0.0)


def summarise(record: Record, key: str, kinds: Sequence[str], severities: Sequence[int]) -> dict[str, Any]:
    r"""Return P, mPC and rPC of a network, and its mean metric under each kind of corruption.

    .. math:: \mathrm{mPC} = \frac{1}{N_c} \sum_c \frac{1}{N_s} \sum_s P_{c,s}, \quad \mathrm{rPC} = \mathrm{mPC} / P

    Args:
        record: of the network, in which these cells are finished.
        key: the metric; larger is better.
        kinds: the corruptions c.
        severities: s.

    Returns:
        `clean` (P), `mPC`, `rPC` (None where P is not above 0), and `kinds`: the mean over the severities of each.

    References:
        Michaelis et al., Benchmarking Robustness in Object Detection, arXiv 1907.07484.
    """
    clean = record.metric(CLEAN, key)
    means = {
        kind: sum(record.metric(Cell(kind, severity), key) for severity in severities) / len(severities)
        for kind in kinds
    }
    mean = sum(means.values()) / len(means)
    return dict(clean=clean, mPC=mean, rPC=mean / clean if clean > 0 else None, kinds=means)
