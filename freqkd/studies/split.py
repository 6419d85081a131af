"""Selection part of a training split: drawn by file names, held out of every training of a study."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from freqkd.utils.checks import check_at_least, check_whole
from freqkd.utils.errors import worded
from freqkd.utils.files import write_whole
from freqkd.utils.paths import where_to_put


@dataclass(frozen=True)
class Selection:
    """Which part of the training split is held out, for the search and the curves.

    Args:
        fraction: of the groups of images, above 0 and at most 0.5.
        seed: of the draw.
        together: images that are never parted: a number of neighbours in the order of file names, such as frames of a video,
            or a pattern: images whose file names are equal without it, e.g. `r"_\\d$"` for two crops of a photograph.
    """

    fraction: float = 0.2
    seed: int = 0
    together: int | str = 1

    def __post_init__(self) -> None:
        check_at_least("selection.fraction", self.fraction, 0, exclusive=True, most=0.5)
        check_whole("selection.seed", self.seed, 0)
        if not isinstance(self.together, str):
            check_whole("selection.together", self.together, 1)

    def draw(self, names: Iterable[str]) -> set[str]:
        """Return the file names that are held out.

        Raises:
            ValueError: there are too few groups.

        >>> sorted(Selection(0.5, together=2).draw(["a", "b", "c", "d"])) in (["a", "b"], ["c", "d"])
        True
        """
        groups: dict[str, list[str]] = {}
        for place, name in enumerate(sorted(names)):
            if isinstance(self.together, str):
                key = re.sub(self.together, "", os.path.splitext(name)[0])
            else:
                key = f"{place // self.together:09}"
            groups.setdefault(key, []).append(name)
        count = round(self.fraction * len(groups))
        if not 0 < count < len(groups):
            raise ValueError(
                f"selection.fraction must leave a group of images on either side, got {self.fraction} of {len(groups)} groups; "
                "change fraction or together"
            )
        return {name for key in random.Random(self.seed).sample(sorted(groups), count) for name in groups[key]}


def innermost(dataset: Any) -> Any:
    """Return the data set inside wrappers that have one `dataset`.

    Raises:
        ValueError: it is not one data set.
    """
    while isinstance(dataset, Mapping) and isinstance(dataset.get("dataset"), Mapping):
        dataset = dataset["dataset"]
    if not isinstance(dataset, Mapping) or "type" not in dataset or "datasets" in dataset:
        raise ValueError(f"train_dataloader.dataset must be one data set, to be parted, got {dataset!r}")
    return dataset


def training_images(config: Config) -> tuple[list[str], Any]:
    """Return the file names that a config trains on, relative to `data_root`, and the data set in this order."""
    options = innermost(config.train_dataloader.dataset)
    if options.get("indices") is not None:
        raise ValueError(f"train_dataloader.dataset must have no indices, to be parted, got {options['indices']!r}")
    if (root := options.get("data_root")) and not os.path.isdir(root):
        raise ValueError(f"train_dataloader.dataset: data folder not found: {root}; {where_to_put(root)}")
    scope = DefaultScope.overwrite_default_scope(config.get("default_scope"))
    with worded("train_dataloader.dataset"), scope, contextlib.redirect_stdout(io.StringIO()):
        dataset = DATASETS.build(copy.deepcopy(options))
        files = [dataset.get_data_info(place)["img_path"] for place in range(len(dataset))]
    return [os.path.relpath(file, options.get("data_root") or ".") for file in files], dataset


def hold_out(config: Config, held: Collection[str], folder: Path) -> None:
    """Change a config so that it trains without the held-out images, validates on them, and tests on the reported split.

    Args:
        config: of a network and its data; its test split, or else its validation split, is the reported one.
        held: file names as `training_images` has them.
        folder: for the two parts of annotation files in COCO's format; other data sets are parted by `indices`.
    """
    names, dataset = training_images(config)
    if not set(held) & set(names):
        raise ValueError(
            "train_dataloader of the teacher must hold the student's images, got none that the study holds out; name them "
            "alike below data_root"
        )
    split = "test" if config.get("test_dataloader") else "val"
    reported, evaluators = config[f"{split}_dataloader"], config[f"{split}_evaluator"]
    training = innermost(config.train_dataloader.dataset)
    selection = dict(copy.deepcopy(training), pipeline=copy.deepcopy(innermost(reported.dataset).pipeline))
    judges = copy.deepcopy(evaluators)
    for part, is_held in ((training, False), (selection, True)):
        places = [place for place, name in enumerate(names) if (name in held) == is_held]
        if not hasattr(type(dataset), "COCOAPI"):
            part["indices"] = places
            continue
        content = json.loads(Path(dataset.ann_file).read_text("utf-8"))
        ids = {dataset.get_data_info(place)["img_id"] for place in places}
        images = [image for image in content["images"] if image["id"] in ids]
        boxes = [box for box in content["annotations"] if box["image_id"] in ids]
        path = (folder / ("selection.json" if is_held else "training.json")).resolve()
        with write_whole(path) as file:
            file.write(json.dumps(dict(content, images=images, annotations=boxes)).encode())
        part.update(ann_file=str(path), **(dict(test_mode=True) if is_held else {}))
        for judge in judges if isinstance(judges, list) else [judges]:
            if judge.get("ann_file"):
                judge["ann_file"] = str(path)  # at last that of the selection part
    config.test_dataloader, config.test_evaluator = reported, evaluators
    config.test_cfg = config.get("test_cfg") or dict(type="TestLoop")
    config.val_dataloader, config.val_cfg = dict(copy.deepcopy(reported), dataset=selection), dict(type="ValLoop")
    config.val_evaluator = judges
