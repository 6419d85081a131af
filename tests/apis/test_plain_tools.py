"""The tools that mmdet and mmseg ship run configs that name parts of this package."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import traceback
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from yapf.yapflib import yapf_api

from freqkd.utils.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
DETAILS = "configs/freekd/freekd-details_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
SEGMENTER = """
_base_ = {bases}
model = dict(
    pretrained=None, data_preprocessor=dict(size=(192, 256), type='SegDataPreProcessor'),
    backbone=dict(depth=18, base_channels=4, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=8, num_classes=5, norm_cfg=dict(type='BN')))
train_dataloader = dict(batch_size=2, dataset=dict(indices=4))
train_cfg = dict(max_iters=1)
val_dataloader = val_cfg = val_evaluator = None
"""
# Runs a script with its arguments after this package, so that MMEngine finds `mmseg::` in either family.
CURE = "import freqkd.registry, runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"


def script(package: str) -> str:
    """The train.py inside an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / ".mim" / "tools" / "train.py")


def test_mmdets_own_script_trains_a_distillation(fresh: None, other_processes: None, tmp_path: Path) -> None:
    """A shipped config as it is, for three steps; in a copy of this process, which costs no start."""
    changes = ("train_dataloader.batch_size=2", "train_dataloader.dataset.indices=6", "train_cfg.max_epochs=1")
    changes += ("val_dataloader.dataset.indices=2", "train_cfg.val_interval=9", "default_hooks.logger.interval=1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(ROOT)
            yapf_api.FormatCode = lambda text, **options: (text, True)  # takes longer than the steps
            sys.argv = [script("mmdet"), DETAILS, "--work-dir", str(tmp_path), "--cfg-options", *changes]
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    (log,) = tmp_path.glob("*/vis_data/scalars.json")
    steps = [json.loads(line) for line in log.read_text().splitlines() if "loss_cls" in line]
    assert len(steps) == 3
    assert all(step["distill.loss_feature"] > 0 for step in steps)
    saved = read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]
    assert {key.split(".")[0] for key in saved} == {"backbone", "neck", "bbox_head", "distiller"}


@pytest.mark.long
def test_the_line_that_lets_mmsegs_own_script_read_its_configs(tmp_path: Path) -> None:
    """Bases are read before anything is imported: in the maintained family, MMEngine does not find them by itself."""
    bases = ["mmseg::_base_/models/fpn_r50.py"]
    bases += [str(ROOT / "configs/_base_" / name) for name in ("datasets/road_scenes.py", "schedules/adamw_iters.py")]
    bases += [str(ROOT / "configs/_base_/runtime_mmseg.py")]

    def run(name: str, words: list[str], bases: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / f"{name}.py").write_text(SEGMENTER.format(bases=bases))
        command = [sys.executable, *words, script("mmseg"), str(tmp_path / f"{name}.py")]
        command += ["--work-dir", str(tmp_path / name)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    try:
        distribution("mmsegmentation")
        original = True
    except PackageNotFoundError:
        original = False
    plain = run("plain", [], str(bases))
    assert (plain.returncode == 0) is original
    assert original or "mmsegmentation is not installed" in plain.stderr
    for name, words, given in (
        ("cured", ["-c", CURE], str(bases)),
        ("inside", [], f"__import__('freqkd.registry') and {bases}"),
    ):
        found = run(name, words, given)
        assert found.returncode == 0, found.stderr[-3000:]
        assert (tmp_path / name / "iter_1.pth").exists()
