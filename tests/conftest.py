"""Fixtures shared by the tests: numbers made by the authors' own programs (vectors/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # maps are tiny: threads would only wait for one another
# Fixtures that train, start processes, or build whole networks: what asks for one is left out of `make test-fast`.
SLOW_FIXTURES = {
    *("own_networks", "tool", "trained", "child", "teachers", "small", "toy"),
    *("other_processes", "compiler", "whole_networks", "many_draws"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by the fixtures that it asks for."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def other_processes() -> None:
    """Stands for the seconds that Python and torch take to start in a process of their own."""


@pytest.fixture(scope="session")
def compiler() -> None:
    """Stands for the seconds that torch.compile takes."""


@pytest.fixture(scope="session")
def whole_networks() -> None:
    """Stands for the seconds in which mmdet and mmseg build and run their networks."""


@pytest.fixture(scope="session")
def many_draws() -> None:
    """Stands for the seconds of hundreds of random cases: fuzzing, simulations."""


VECTORS = Path(__file__).parent / "vectors"


@lru_cache
def _archive(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(VECTORS / f"{name}.npz") as archive:
        assert json.loads(str(archive["meta"]))["commit"]
        return {key: archive[key] for key in archive.files if key != "meta"}


@dataclass(frozen=True)
class FeatureCase:
    """One seed of a file of feature vectors, whose keys are `s<seed>.<name>` and `s<seed>.l<level>.<name>`."""

    name: str
    seed: int

    def number(self, key: str) -> float:
        return float(_archive(self.name)[f"s{self.seed}.{key}"])

    def array(self, key: str, level: int) -> torch.Tensor:
        return torch.from_numpy(_archive(self.name)[f"s{self.seed}.l{level}.{key}"]).double()

    def levels(self) -> range:
        return range(int(self.number("n_levels")))

    def pyramids(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The student's maps, which require a gradient, and the teacher's."""
        students = [self.array("y_s", level).requires_grad_() for level in self.levels()]
        return students, [self.array("y_t", level) for level in self.levels()]


@pytest.fixture(scope="session")
def feature_case() -> Callable[[str, int], FeatureCase]:
    """Return `feature_case(file, seed)`."""
    return FeatureCase


@pytest.fixture(scope="session")
def saved_sizes() -> Callable[[Callable[[], object]], list[int]]:
    """Return `saved_sizes(call)`: the number of elements of every tensor that `call()` keeps for its backward."""

    def measure(call: Callable[[], object]) -> list[int]:
        sizes: list[int] = []

        def note(x: torch.Tensor) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            call()
        return sizes

    return measure


# ---- runs of the tools ----------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent
CHAINS = {
    "detection": {
        "teacher": "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py",
        "student": "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py",
        "prompts": "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        "distill": "configs/freekd/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
        "weights": "data/teachers/blood-cells_retinanet-r18w48.pth",
        "steps": "train_cfg = dict(max_epochs=1, val_interval=1)",
        "data": "train_dataloader = dict(batch_size=2, dataset=dict(indices={images}))",
        "network": "test_cfg=dict(score_thr=0.0, max_per_img=20)",
    },
    "segmentation": {
        "teacher": "configs/baselines/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
        "student": "configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py",
        "prompts": "configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
        "distill": "configs/freekd/freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
        "weights": "data/teachers/road-scenes_semantic-fpn-r18w48.pth",
        "steps": "train_cfg = dict(max_iters={iterations}, val_interval=100)",
        "data": "train_dataloader = dict(batch_size=2)",
        "network": "test_cfg=dict(mode='whole')",
    },
}
TINY = """
_base_ = [{base!r}]
{data}
val_dataloader = dict(batch_size=2, dataset=dict(indices=2))
test_dataloader = dict(batch_size=1, dataset=dict(indices=4))
{steps}
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=9))
{more}
"""


def _forget_runs() -> None:
    """Drop what MMEngine keeps of earlier runs in this process: loggers, hubs, visualizers, scopes."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    kinds: list[Any] = [MessageHub, MMLogger, DefaultScope, Visualizer]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


@pytest.fixture
def fresh() -> None:
    """Start as if no Runner had ever been in this process."""
    _forget_runs()


@pytest.fixture(scope="session")
def tool() -> Iterator[Callable[..., int]]:
    """Return `tool(name, *arguments)`: the exit code of tools/NAME.py, run in this process from the repository's root."""
    import importlib.util
    import os

    from yapf.yapflib import yapf_api

    from freqkd.apis.arguments import run_tool

    # A Runner formats its config eight times, which takes longer than the few steps of a test.
    format_code, formatted = yapf_api.FormatCode, {}

    def format_once(text: str, **options: Any) -> Any:
        if text not in formatted:
            formatted[text] = format_code(text, **options)
        return formatted[text]

    yapf_api.FormatCode = format_once

    def run(name: str, *arguments: object) -> int:
        spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _forget_runs()
        before = os.getcwd()
        os.chdir(ROOT)
        try:
            return run_tool(module.main, [str(argument) for argument in arguments])
        finally:
            os.chdir(before)

    yield run
    yapf_api.FormatCode = format_code


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Path]:
    """Return `tiny_config(path, task, kind, more="", iterations=10)`: a shipped config of the samples, cut to a few steps."""

    def write(path: Path, task: str, kind: str, more: str = "", iterations: int = 10) -> Path:
        chain = CHAINS[task]
        steps = chain["steps"].format(iterations=iterations)
        data = chain["data"].format(images=2 * iterations)
        interval = 1 if task == "detection" else 5
        base = str(ROOT / chain[kind])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TINY.format(base=base, data=data, steps=steps, interval=interval, more=more))
        return path

    return write


@dataclass(frozen=True)
class Trained:
    """A chain of the samples after a few steps of either stage."""

    task: str
    prompts_config: Path
    prompts: Path
    config: Path
    work_dir: Path
    checkpoint: Path
    predictions: Path


@pytest.fixture(scope="session")
def trained(
    tool: Callable[..., int], tiny_config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    """Return `trained(task)`: 4 steps of the prompt stage, 10 of the distillation, and its predictions, made once."""

    @lru_cache
    def make(task: str) -> Trained:
        folder = tmp_path_factory.mktemp(task)
        first = tiny_config(folder / "prompts.py", task, "prompts", iterations=4)
        assert tool("train", first, "--work-dir", folder / "prompts") == 0
        prompts = folder / "prompts" / "prompts.pth"
        more = (
            f"model = dict(student=dict({CHAINS[task]['network']}), terms=dict(loss_freekd=dict(prompts={str(prompts)!r}, "
            "weight=dict(ratio=0.5, iters=4))))"
        )
        second = tiny_config(folder / "distill.py", task, "distill", more)
        assert tool("train", second, "--work-dir", folder / "distill") == 0
        checkpoint = folder / "distill" / ("epoch_1.pth" if task == "detection" else "iter_10.pth")
        predictions = folder / "predictions.pkl"
        assert tool("test", second, checkpoint, "--work-dir", folder / "test", "--out", predictions) == 0
        return Trained(task, first, prompts, second, folder / "distill", checkpoint, predictions)

    return make
