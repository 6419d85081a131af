"""Evaluate a checkpoint of a student, without its teacher."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.apis.export import check_weights, is_distillation, student_config
from freqkd.apis.preflight import check_data, check_parts
from freqkd.apis.train import build_runner
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.errors import EPILOG, in_slot
from freqkd.utils.loading import keep_student
from freqkd.utils.processes import agreed
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the checkpoint that the arguments name."""
    parser = argparse.ArgumentParser(prog=program("test"), description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config of a distillation or of a network")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions")
    parser.add_argument("--show-dir", metavar="DIR", help="draw the predictions into DIR (inside the run's folder)")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds a shown image stays")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation, where the config has one")
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    config = load_run_config(options)
    with agreed():
        with in_slot("argument checkpoint"):
            loaded = read_checkpoint(options.checkpoint, options.trust_checkpoint)
        check_data(config, ("test",), options.trust_checkpoint)
        check_parts(config, "test")
        check_weights(config, loaded, options.checkpoint)
    keep_student(options.checkpoint, loaded)
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
            raise ValueError("--tta needs tta_model and tta_pipeline in the config, which has neither or only one")
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
        config.model = dict(**config.tta_model, module=config.model)
    build_runner(config).test()
