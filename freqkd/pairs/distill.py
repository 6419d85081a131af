"""Distillation from two names in one go: `freqkd distill STUDENT TEACHER --checkpoint FILE --out DIR`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.apis.arguments import KeyValueAction
from freqkd.apis.complexity import compare, format_table, image_size
from freqkd.apis.export import build_student, check_weights, count_parameters, export_student, student_config
from freqkd.apis.test import evaluate
from freqkd.apis.train import train
from freqkd.pairs.configs import Written
from freqkd.pairs.new_config import add_arguments, commands, write_from
from freqkd.pairs.taps import align_columns
from freqkd.studies.jobs import in_words
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.compat import read_config
from freqkd.utils.errors import EPILOG, worded
from freqkd.utils.loading import trust_checkpoints
from freqkd.utils.program import program
from freqkd.utils.slots import check_slots

METRICS = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "pascal_voc/mAP")  # shown, if there; else whatever there is


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the configs, run them, test and export the student, and print one table."""
    parser = argparse.ArgumentParser(
        prog=program("distill"),
        description="Distil in one go: configs, prompt stage where the method has one, training, test, export. Killed and "
        "started again, it continues; configs that you changed since then are kept.",
        epilog=EPILOG,
    )
    add_arguments(parser)
    parser.add_argument("--student-checkpoint", metavar="FILE", help="of the student trained alone, tested beside")
    parser.add_argument("--test-teacher", action="store_true", help="test the teacher, too")
    parser.add_argument("--no-rehearsal", action="store_true", help="leave out the rehearsal before each training")
    parser.add_argument("--dry-run", action="store_true", help="stop after the configs")
    parser.add_argument("--cfg-options", nargs="+", action=KeyValueAction, help="changes to all runs: key=value")
    options = parser.parse_args(arguments)
    trust_checkpoints(options.trust_checkpoint)
    written = write_from(options, keep=True)
    if options.dry_run:
        print("\n".join(commands(written)))
        return
    if options.test_teacher and options.data and written.teacher is None:
        raise ValueError(
            "--test-teacher needs a teacher of the classes of --data, got one of other classes; leave it out"
        )
    started = time.monotonic()
    run = _Run(written, options.cfg_options or {}, options.trust_checkpoint, not options.no_rehearsal)
    if options.student_checkpoint:  # before the training, which takes longer to find out
        alone = run.read(written.student)
        check_weights(alone, read_checkpoint(options.student_checkpoint, run.trust), options.student_checkpoint)
    checkpoint = run.train()
    spent = time.monotonic() - started
    distilled, rows = run.read(written.distillation), []
    exported = export_student(distilled, checkpoint, str(options.out / "student"), trust=run.trust)
    if options.test_teacher:
        rows.append(run.test("teacher", run.read(distilled.model.teacher.config), options.checkpoint))
    if options.student_checkpoint:
        rows.append(run.test("student alone", run.read(written.student), options.student_checkpoint))
    rows.append(run.test("distilled student", student_config(distilled), str(exported)))
    print(f"\n{results_table(rows)}\n")
    network = build_student(distilled).eval()
    size = image_size(distilled, network)
    print(f"{format_table(compare(distilled, network, size), size)}\n")
    print(f"Trained in {in_words(spent)}. The student: {exported}, with {exported.parent / 'student_config.py'}.")


class _Run:
    """Runs the configs of a distillation in this process.

    Args:
        written: the configs.
        changes: of `--cfg-options`.
        trust: read checkpoints that can run code.
        rehearsal: run the model on an image before each training.
    """

    def __init__(self, written: Written, changes: Mapping[str, Any], trust: bool, rehearsal: bool = True) -> None:
        self.written, self.changes, self.trust, self.rehearsal = written, dict(changes), trust, rehearsal

    def read(self, path: Any) -> Config:
        """Read a config with the changes; those of `model.student` are `model` in the config of the student alone."""
        config, changes = read_config(path), {}
        for key, value in self.changes.items():
            if not key.startswith("model.") or path == self.written.distillation:
                changes[key] = value
            elif path == self.written.student and key.startswith("model.student."):
                changes[key.replace("model.student.", "model.", 1)] = value
            elif path == self.written.prompts and key.startswith("model.teacher."):
                changes[key] = value
        with worded("--cfg-options"):
            config.merge_from_dict(changes)
            check_slots(config)
        config.launcher = "none"
        if self.trust and "teacher" in config.get("model", {}):
            config.model.teacher.trust_checkpoint = True
        return config

    def train(self) -> str:
        """Train what is not trained yet; return the checkpoint of the distilled student."""
        if self.written.prompts is not None:
            config = self.read(self.written.prompts)
            if not (Path(config.work_dir) / "prompts.pth").is_file():
                self._train(config)
        config = self.read(self.written.distillation)
        self._train(config)
        return (Path(config.work_dir) / "last_checkpoint").read_text("utf-8").strip()

    def _train(self, config: Config) -> None:
        config.resume = (Path(config.work_dir) / "last_checkpoint").is_file()
        train(config, self.trust, self.rehearsal)

    def test(self, name: str, config: Config, checkpoint: str) -> tuple[str, int, dict[str, float]]:
        """Return a row of the table: name, parameters, metrics."""
        folder = self.written.distillation.parent / "runs" / f"test_{name.replace(' ', '_')}"
        return name, count_parameters(config), evaluate(config, checkpoint, str(folder))


def results_table(rows: Sequence[tuple[str, int, Mapping[str, float]]]) -> str:
    """Return the table of what was tested: network, parameters, metrics.

    >>> print(results_table([("student alone", 810_000, {"mIoU": 49.6}), ("distilled student", 810_000, {"mIoU": 50.7})]))
    network            parameters  mIoU
    student alone      0.81 M      49.6
    distilled student  0.81 M      50.7
    """
    found = {key for _, _, metrics in rows for key in metrics}
    shown = [key for key in METRICS if key in found] or sorted(found)
    body = [
        [name, f"{count / 1e6:.2f} M", *(f"{metrics[key]:.4g}" if key in metrics else "-" for key in shown)]
        for name, count, metrics in rows
    ]
    return align_columns([["network", "parameters", *shown], *body])
