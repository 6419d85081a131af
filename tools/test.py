"""Evaluate a checkpoint with the student's own network; the teacher is not needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from freqkd.checkpoints import read_checkpoint
from freqkd.cli import add_run_arguments, build_runner, load_run_config, run_tool
from freqkd.data_checks import check_data
from freqkd.errors import EPILOG
from freqkd.export import check_weights, is_distillation, student_config
from freqkd.loading import keep_checkpoint
from freqkd.processes import agreed
from freqkd.runner_checks import check_parts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config of a distillation or of a plain network")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions")
    parser.add_argument("--show-dir", metavar="DIR", help="paint the predictions to DIR (inside the run's folder)")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds a shown image stays")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation, where the config has one")
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    config = load_run_config(options)
    with agreed():
        loaded = read_checkpoint(options.checkpoint, options.trust_checkpoint)
        check_data(config, ("test",), options.trust_checkpoint)
        check_parts(config, "test")
        check_weights(config, loaded, options.checkpoint)
    keep_checkpoint(options.checkpoint, loaded)
    if is_distillation(config):
        work_dir, launcher = config.work_dir, config.launcher
        config = student_config(config)
        config.work_dir, config.launcher = work_dir, launcher
    config.load_from, config.resume = options.checkpoint, False
    if options.show or options.show_dir:
        kind = "DetVisualizationHook" if config.get("default_scope") == "mmdet" else "SegVisualizationHook"
        shown = dict(type=kind, draw=True, interval=1, show=options.show, wait_time=options.wait_time)
        if kind == "DetVisualizationHook":
            shown["test_out_dir"] = options.show_dir
            shown.pop("interval")
        elif options.show_dir:
            config.visualizer.save_dir = options.show_dir
        config.default_hooks.visualization = shown
    if options.out:
        if not options.out.endswith((".pkl", ".pickle")):
            raise ValueError(f"--out must end in .pkl or .pickle, got {options.out}")
        evaluators = config.test_evaluator if isinstance(config.test_evaluator, list) else [config.test_evaluator]
        config.test_evaluator = [*evaluators, dict(type="mmengine.DumpResults", out_file_path=options.out)]
    if options.tta:
        if "tta_model" not in config or "tta_pipeline" not in config:
            raise ValueError("--tta needs tta_model and tta_pipeline in the config, and this one lacks them")
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
        config.model = dict(**config.tta_model, module=config.model)
    build_runner(config).test()


if __name__ == "__main__":
    sys.exit(run_tool(main))
