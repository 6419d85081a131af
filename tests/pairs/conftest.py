"""Networks of the shipped samples, and folders of them as a user would have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CELLS = ROOT / "data/samples/blood_cells"
ROADS = ROOT / "data/samples/road_scenes"


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch, whole_networks: None) -> None:
    """Configs name their data from the root of the repository."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def baseline() -> Callable[[str], str]:
    """Return `baseline(start)`: the shipped config of a network whose name starts so."""

    def find(start: str) -> str:
        return str(next(ROOT.glob(f"configs/baselines/{start}*.py")))

    return find


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Return `coco(images=5, **changes)`: a file of annotations of the first images, and the folder of the images."""

    def make(images: int = 5, **changes: Any) -> tuple[str, str]:
        content = json.loads((CELLS / "annotations/instances_train.json").read_text())
        content["images"] = content["images"][:images]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] in ids]
        path = tmp_path / "cells.json"
        path.write_text(json.dumps({**content, **changes}))
        return str(path), str(CELLS / "images/train")

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of five road scenes with `images/` and `labels/`."""
    root = tmp_path / "roads"
    for ours, theirs in (("images", "img_dir/train"), ("labels", "ann_dir/train")):
        (root / ours).mkdir(parents=True)
        for path in sorted((ROADS / theirs).iterdir())[:5]:
            shutil.copy(path, root / ours)
    return root
