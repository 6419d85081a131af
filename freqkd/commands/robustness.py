"""Compare networks on corrupted images: `freqkd robustness CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]`.

Every network is evaluated on the test split of its config, clean and under 15 kinds of corruption at 5 severities. All of them
see the same corrupted images. Stopped and started again, it continues: finished evaluations are not repeated.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.apis.export import check_weights, is_distillation, student_config
from freqkd.apis.preflight import check_data, check_parts
from freqkd.apis.robustness import CLEAN, Cell, Record, corrupted_loader, evaluate_cells, identity_of, summarise
from freqkd.datasets.corrupt import GROUPS, KINDS, SEVEREST, import_corrupt
from freqkd.studies.quick import METRICS
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.checks import check_choice, check_whole
from freqkd.utils.errors import EPILOG, in_slot
from freqkd.utils.files import check_writable, write_whole
from freqkd.utils.loading import keep_student
from freqkd.utils.processes import agreed
from freqkd.utils.program import program

QUICK_KINDS, QUICK_SEVERITIES = ("gaussian_noise", "motion_blur", "fog", "jpeg_compression"), (3,)


def read_pairs(models: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return config and checkpoint of each network by its name; without names, those of the configs.

    Raises:
        ValueError: a checkpoint is missing, or names are too few, too many, equal or not fit for a file name.

    >>> read_pairs(["configs/small.py", "small.pth"], [])
    {'small': ('configs/small.py', 'small.pth')}
    """
    if len(models) % 2:
        raise ValueError(f"CONFIG CHECKPOINT must be pairs, got {len(models)} names: {' '.join(models)}")
    pairs = list(zip(models[::2], models[1::2]))
    named = list(names) or [Path(config.split("::")[-1]).stem for config, _ in pairs]
    if len(named) != len(pairs) or len(set(named)) < len(named):
        raise ValueError(f"--names must be {len(pairs)} different names, one for each network, got {' '.join(named)}")
    for name in named:
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(f"--names must be made of letters, digits, '_', '.', '+' and '-', got {name!r}")
    return dict(zip(named, pairs))


def metric_of(config: Config, given: str) -> str:
    """Return the key of the metric: the given one, else COCO's box AP or the mean IoU.

    Raises:
        ValueError: none is given, and the evaluator is another one.
    """
    evaluator = config.get("test_evaluator") or {}
    kind = str((evaluator[0] if isinstance(evaluator, (list, tuple)) else evaluator).get("type"))
    if not given and kind not in METRICS:
        raise ValueError(
            f"--metric must name the metric where the evaluator is not one of {', '.join(METRICS)}, got {kind}"
        )
    return given or METRICS[kind].key


@dataclass(frozen=True)
class Network:
    """A network to evaluate: its config with the checkpoint, its results so far, the key of its metric."""

    name: str
    config: Config
    record: Record
    key: str


def prepare(options: argparse.Namespace, name: str, cells: Sequence[Cell]) -> Network:
    """Check everything that the evaluation of a network needs, before the first one begins.

    Args:
        options: of the command line, with the network's `config` and `checkpoint`.
        name: of the network.
        cells: to be evaluated.
    """
    config = load_run_config(options)
    with agreed():
        with in_slot("argument checkpoint"):
            loaded = read_checkpoint(options.checkpoint, options.trust_checkpoint)
        check_data(config, ("test",), options.trust_checkpoint)
        check_parts(config, "test")
        check_weights(config, loaded, options.checkpoint)
        if is_distillation(config):
            launcher, config = config.launcher, student_config(config)
            config.launcher = launcher
        for cell in cells:
            corrupted_loader(config, cell)
        key = metric_of(config, options.metric)
        record = Record(Path(options.work_dir, name, "metrics.json"), identity_of(config, loaded))
    keep_student(options.checkpoint, loaded)
    config.work_dir, config.load_from, config.resume = str(Path(options.work_dir, name)), options.checkpoint, False
    config.log_level, config.experiment_name = "WARNING", f"{name}_{time.time_ns()}"
    if config.get("visualizer"):
        config.visualizer.name = config.experiment_name  # MMEngine keeps visualizers by name
    return Network(name, config, record, key)


def evaluate(network: Network, cells: Sequence[Cell]) -> None:
    """Evaluate the cells that have no result yet, and print a line for each."""
    left = network.record.left(cells)
    start = time.monotonic()
    for count, (cell, metrics) in enumerate(evaluate_cells(network.config, left), 1):
        network.record.add(cell, metrics)
        if is_main_process():
            value, seconds = network.record.metric(cell, network.key), (time.monotonic() - start) / count
            print(f"{network.name}, {cell}: {value:.3f} ({count} of {len(left)}, {seconds:.0f} s each)", flush=True)


def report(results: Mapping[str, Mapping[str, Any]], key: str, severities: Sequence[int]) -> str:
    """Return the tables: P, mPC and rPC of each network, and its mean metric under each kind of corruption."""
    kinds = list(next(iter(results.values()))["kinds"])
    levels = f"severit{'y' if len(severities) == 1 else 'ies'} {', '.join(map(str, severities))}"
    lines = [
        f"Metric {key}; mPC is its mean over {len(kinds)} of {len(KINDS)} kinds of corruption at {levels}; rPC = mPC / P.",
        "",
        "| network | clean (P) | mPC | rPC |",
        "|---|---|---|---|",
    ]
    for name, found in results.items():
        ratio = "-" if found["rPC"] is None else f"{found['rPC']:.1%}"
        lines.append(f"| {name} | {found['clean']:.3f} | {found['mPC']:.3f} | {ratio} |")
    lines += ["", f"| kind | {' | '.join(results)} |", "|---" * (1 + len(results)) + "|"]
    for kind in kinds:
        group = next(group for group, members in GROUPS.items() if kind in members)
        means = [f"{found['kinds'][kind]:.3f}" for found in results.values()]
        lines.append(f"| {kind} ({group}) | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog=program("robustness"), description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("models", nargs="+", metavar="CONFIG CHECKPOINT", help="a network, or a distillation, whose student is taken")
    add("--names", nargs="+", default=[], metavar="NAME", help="of the networks (default: of their configs)")
    add("--kinds", nargs="+", metavar="KIND", help=f"of corruption (default: all: {', '.join(KINDS)})")
    add("--severities", nargs="+", type=int, metavar="N", help="from 1 to 5 (default: all)")
    add(
        "--quick",
        action="store_true",
        help=f"only {', '.join(QUICK_KINDS)} at severity {', '.join(map(str, QUICK_SEVERITIES))}",
    )
    add("--metric", default="", help="key of the metric, larger is better (default: COCO's box AP, or the mean IoU)")
    add_run_arguments(parser, "work_dirs/robustness")
    options = parser.parse_args(arguments)
    pairs = read_pairs(options.models, options.names)
    kinds = options.kinds or (QUICK_KINDS if options.quick else KINDS)
    severities = options.severities or (QUICK_SEVERITIES if options.quick else range(1, SEVEREST + 1))
    for kind in kinds:
        check_choice("--kinds", kind, KINDS)
    for severity in severities:
        check_whole("--severities", severity, 1, SEVEREST)
    kinds, severities = sorted(set(kinds), key=KINDS.index), sorted(set(severities))
    import_corrupt()
    check_writable("work dir", options.work_dir, "--work-dir")
    cells = [CLEAN, *(Cell(kind, severity) for kind in kinds for severity in severities)]
    networks = [
        prepare(argparse.Namespace(**vars(options), config=config, checkpoint=checkpoint), name, cells)
        for name, (config, checkpoint) in pairs.items()
    ]
    keys = sorted({network.key for network in networks})
    if len(keys) > 1:
        raise ValueError(f"--metric must be the same for all networks, got {', '.join(keys)}; evaluate them apart")
    for network in networks:
        evaluate(network, cells)
    if is_main_process():
        results = {network.name: summarise(network.record, keys[0], kinds, severities) for network in networks}
        text = report(results, keys[0], severities)
        with write_whole(Path(options.work_dir, "robustness.json")) as numbers:
            told = dict(metric=keys[0], severities=severities, networks=results)
            numbers.write(f"{json.dumps(told, indent=1)}\n".encode())
        with write_whole(Path(options.work_dir, "robustness.md")) as page:
            page.write(text.encode())
        print(f"\n{text}\n{options.work_dir}/robustness.md")
