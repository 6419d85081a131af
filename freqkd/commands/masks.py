"""Draw the masks that frequency prompts make of validation images."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.apis.export import is_distillation
from freqkd.apis.preflight import check_data, check_parts
from freqkd.models.options import build_part
from freqkd.models.prompt_file import describe_prompts, read_prompts
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.utils.checkpoints import load_strict
from freqkd.utils.errors import EPILOG, in_slot
from freqkd.utils.program import program
from freqkd.visualization.masks import check_level, mask_pictures, prompted_terms
from freqkd.visualization.plotting import save_png


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the masks of the prompts that the arguments name."""
    parser = argparse.ArgumentParser(prog=program("masks"), description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config of a prompt stage, or of a distillation with a FreeKD term")
    parser.add_argument(
        "--prompts", help="prompt file; default the one a distillation names; needed for a prompt stage"
    )
    parser.add_argument("--out-dir", required=True, help="folder for the pictures")
    parser.add_argument("--num", type=int, default=2, help="number of validation images")
    parser.add_argument("--level", type=int, help="only this pyramid level")
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    config = load_run_config(options)
    if options.num < 1:
        raise ValueError(f"--num must be at least 1, got {options.num}")
    if config.get("val_dataloader") is None:
        raise ValueError(
            "val_dataloader must be given, because the pictures are of its images, got none; add it, with val_cfg and "
            "val_evaluator, to the config"
        )
    check_data(config, ("val",), options.trust_checkpoint)
    check_parts(config, "val")
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        if options.prompts and is_distillation(config):
            terms = config.model.get("terms")
            for term in terms.values() if isinstance(terms, Mapping) else ():
                if isinstance(term, Mapping) and term.get("prompts"):
                    term["prompts"] = options.prompts  # type: ignore[index]
        model = build_part("model", config.model).eval()
        prompted_terms(model)
        if options.level is not None:
            check_level("--level", options.level, model)
        model.prepare()
        if isinstance(model, PromptTuner):
            if not options.prompts:
                raise ValueError("--prompts is needed with the config of a prompt stage: name the prompts.pth it wrote")
            with in_slot("--prompts"):
                file = read_prompts(options.prompts)
            levels = list(range(len(model.prompts)) if model.levels is None else model.levels)
            file.compare(dict(describe_prompts(model.prompts, model.gates), tap=model.tap, levels=levels))
            file.check_teacher(model.teacher)
            load_strict(model, file.tensors, options.prompts)
        dataset = DATASETS.build(copy.deepcopy(config.val_dataloader.dataset))
        for index in range(min(options.num, len(dataset))):
            data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
            pictures = mask_pictures(model, data["inputs"], data["data_samples"], options.level)
            for name, picture in pictures.items():
                path = Path(options.out_dir) / f"image{index}_{name.replace('/', '_')}.png"
                save_png(path, picture)
                print(f"Wrote {path}")
