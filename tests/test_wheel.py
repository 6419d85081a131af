"""The wheel: what is in it, and a distillation with nothing else of this repository than data."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from freqkd.utils.checkpoints import read_checkpoint, weights_of

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = "freekd/freekd-details_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py"
SHORT = (
    *("train_cfg.max_iters=3", "train_cfg.val_interval=3", "train_dataloader.batch_size=2"),
    *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0"),
    *("val_dataloader.persistent_workers=False", "val_dataloader.dataset.indices=2"),
    *("model.terms.loss_freekd.weight.iters=2", "default_hooks.checkpoint.interval=3"),
)
BUILD = "from setuptools import build_meta as build; print(build.build_{kind}({folder!r}))"
LEAF = f"_base_ = ['freqkd::{SAMPLE}']\n"
READ = "import freqkd.registry; from mmengine.hub import get_config; print(get_config('freqkd::{name}').model.type)"


def built(kind, source, folder):
    """The wheel or sdist of a source tree, built without a network."""
    code = BUILD.format(kind=kind, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(folder, done.stdout.split()[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, other_processes):
    """The wheel of this repository, built from a copy: a build leaves files in its folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "model-index.yml"):
        shutil.copy(ROOT / name, source)
    without = shutil.ignore_patterns("__pycache__")
    for name in ("freqkd", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=without)
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_its_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist() if ".dist-info/" not in entry.filename}
        scripts = next(name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert archive.read(scripts).decode().split() == ["[console_scripts]", "freqkd", "=", "freqkd.__main__:main"]
    files = {path for path in ROOT.glob("freqkd/**/*.py") if ".mim" not in path.parts}
    wanted = {str(path.relative_to(ROOT)) for path in files} | {"freqkd/py.typed", "freqkd/.mim/model-index.yml"}
    for path in ROOT.glob("configs/**/*"):
        if path.suffix in (".py", ".yml", ".md"):
            wanted.add(f"freqkd/.mim/{path.relative_to(ROOT)}")
    assert set(entries) == wanted
    assert f"freqkd/.mim/configs/{SAMPLE}" in wanted
    kinds = {entry.external_attr >> 28 for entry in entries.values()}
    assert kinds == {0o10}  # files, no links


@pytest.mark.long
def test_a_source_archive_makes_the_same_wheel(wheel, tmp_path):
    for name in ("pyproject.toml", "README.md", "model-index.yml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("freqkd", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.unpack_archive(built("sdist", tmp_path, tmp_path / "archive"), tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(built("wheel", source, tmp_path)) as again, zipfile.ZipFile(wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())


@pytest.mark.long
def test_a_distillation_from_the_wheel_in_a_folder_that_is_no_clone(wheel, tmp_path):
    """Install it into a new environment that sees the tested packages but not this clone; train, test and export there."""
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "tested.pth").write_text("\n".join({sysconfig.get_paths()[name] for name in ("purelib", "platlib")}))
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    folder.mkdir()
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "leaf.py").write_text(LEAF)
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run([*map(str, command)], cwd=folder, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    freqkd = environment / "bin" / "freqkd"
    place = run(python, "-c", "import freqkd; print(freqkd.__file__)").strip()
    assert Path(place).is_relative_to(environment)
    assert run(freqkd, "check").splitlines()[-1] == "No fault found."
    assert run(python, "-c", READ.format(name=SAMPLE)) == "freqkd.Distiller\n"
    run(freqkd, "train", f"freqkd::{SAMPLE}", "--work-dir", "runs/name", "--cfg-options", *SHORT)
    run(freqkd, "train", "leaf.py", "--work-dir", "runs/leaf", "--cfg-options", *SHORT)
    first, second = (weights_of(read_checkpoint(folder / "runs" / name / "iter_3.pth")) for name in ("name", "leaf"))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    run(
        freqkd,
        "test",
        f"freqkd::{SAMPLE}",
        "runs/name/iter_3.pth",
        "--cfg-options",
        "test_dataloader.dataset.indices=1",
    )
    run(freqkd, "export", f"freqkd::{SAMPLE}", "runs/name/iter_3.pth", "--out-dir", "student")
    assert {path.name for path in (folder / "student").iterdir()} == {"student.pth", "student_config.py"}
    # The names of the shipped configs work as well, and so does the copy that the training left in its work dir.
    run(freqkd, "export", f"configs/{SAMPLE}", "runs/name/iter_3.pth", "--out-dir", "again")
    run(freqkd, "export", f"runs/name/{Path(SAMPLE).name}", "runs/name/iter_3.pth", "--out-dir", "copied")
    assert (folder / "again/student_config.py").read_text() == (folder / "student/student_config.py").read_text()
