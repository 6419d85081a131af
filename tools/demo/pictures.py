"""The demo's pictures: masks of the prompts, and predictions beside the ground truth."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope

from freqkd.teacher.teacher import build_network
from freqkd.utils.checkpoints import load_strict, read_checkpoint, weights_of
from freqkd.utils.compat import read_config
from freqkd.visualization.masks import mask_pictures
from freqkd.visualization.plotting import detection_panel, save_png, segmentation_panel


def validation_set(config: Config) -> Any:
    """Build the validation set of a config."""
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return DATASETS.build(copy.deepcopy(config.val_dataloader.dataset))


def draw_masks(task: Any, results: dict[str, Any], folder: Path) -> None:
    """Draw the trained masks of every pyramid level on the first chosen validation image."""
    config = read_config(task.prompts)
    dataset = validation_set(config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model).eval()
        load_strict(model, weights_of(read_checkpoint(results["prompts"]["checkpoint"])), "prompts")
        data = model.data_preprocessor(pseudo_collate([dataset[task.pictures[0]]]), False)
        for name, picture in mask_pictures(model, data["inputs"], data["data_samples"]).items():
            save_png(folder.parent / f"{folder.name}_masks_{name.split('/')[-1]}.png", picture)


@torch.no_grad()
def predict(config: Config, checkpoint: str, samples: list[Any]) -> list[Any]:
    """Return the predictions of a checkpoint for data set samples."""
    model = build_network(config.model, config.default_scope)
    load_strict(model, weights_of(read_checkpoint(checkpoint)), checkpoint)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return [model.eval().test_step(pseudo_collate([copy.deepcopy(sample)]))[0] for sample in samples]


def draw_predictions(name: str, task: Any, results: dict[str, Any], root: Path) -> None:
    """Draw ground truth, teacher, student alone and distilled students side by side on the chosen images."""
    config = read_config(task.alone)
    dataset = validation_set(config)
    samples = [dataset[index] for index in task.pictures]
    columns: dict[str, list[Any]] = {}
    titles = dict(teacher="teacher", alone="student alone", distilled=task.feature_terms)
    titles["combined"] = f"{task.feature_terms} + {task.logit_term}"
    for stage, title in titles.items():
        network = read_config(task.teacher if stage == "teacher" else task.alone)
        columns[title] = predict(network, results[stage]["checkpoint"], samples)
    palette, classes = dataset.metainfo["palette"], dataset.metainfo["classes"]
    for index, sample in enumerate(samples):
        image = np.ascontiguousarray(sample["inputs"].permute(1, 2, 0).numpy()[..., ::-1])
        title = f"{name}: validation image {task.pictures[index]}"
        shown = {"ground truth": sample["data_samples"], **{stage: found[index] for stage, found in columns.items()}}
        if name == "detection":
            boxes = {stage: found.get("pred_instances", found.gt_instances) for stage, found in shown.items()}
            picture = detection_panel(image, boxes, palette, classes, title)
        else:
            maps = {stage: found.get("pred_sem_seg", found.gt_sem_seg).data[0] for stage, found in shown.items()}
            picture = segmentation_panel(image, maps, palette, classes, title)
        save_png(root / f"{name}_predictions_{task.pictures[index]}.png", picture)
