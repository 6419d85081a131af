"""Wrong input ends in one clear line and exit code 1, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from freqkd.checkpoints import write_atomic
from freqkd.cli import run_tool
from freqkd.compat import read_config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
PROMPTS = "configs/blood_cells/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py"
DISTILL = "configs/blood_cells/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
SEGMENT = "configs/road_scenes/freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def untrained():
    """The detection distillation, without the prompts that a first stage would have made."""
    config = read_config(DISTILL)
    config.model.terms.loss_freekd.prompts = "untrained"
    return config


@pytest.fixture
def refuse(tmp_path, capsys):
    """Run train.py on a config; return its one line of complaint."""
    from train import main

    def run(config, *options):
        path = tmp_path / "config.py"
        config.dump(path)
        work_dir = tmp_path / "work"
        before = sorted(p.name for p in tmp_path.iterdir())
        code = run_tool(main, [str(path), "--work-dir", str(work_dir), *options])
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 1
        assert not work_dir.exists(), "something half-written was left behind"
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        complaint = [line for line in said if line.startswith("error: ")]
        assert len(complaint) == 1
        assert "Traceback" not in "\n".join(said)
        return complaint[0]

    return run


def test_config_not_found_in_a_real_process():
    command = [sys.executable, "tools/train.py", "configs/no_such.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: config not found: configs/no_such.py")
    assert "Traceback" not in done.stderr


def test_unknown_tap_lists_the_nearest_names(untrained, refuse):
    untrained.model.terms.loss_freekd.student = "nekc"
    message = refuse(untrained)
    assert "no module 'nekc'" in message
    assert "'neck'" in message


def test_unknown_tap_in_the_teacher(untrained, refuse):
    untrained.model.terms.loss_freekd.teacher = "bbox_head.retina_clss"
    assert "'bbox_head.retina_cls'" in refuse(untrained)


def test_channel_mismatch_names_both_numbers_and_the_align(untrained, refuse):
    untrained.model.terms.loss_freekd.align = None
    message = refuse(untrained)
    assert "terms.loss_freekd" in message
    assert "ConvAlign(student_channels=32, teacher_channels=64)" in message


def test_teacher_checkpoint_missing(untrained, refuse):
    untrained.model.teacher.checkpoint = "nowhere/teacher.pth"
    assert "checkpoint not found: nowhere/teacher.pth" in refuse(untrained)


def test_teacher_checkpoint_truncated(untrained, refuse, tmp_path):
    whole = Path(untrained.model.teacher.checkpoint).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    untrained.model.teacher.checkpoint = str(tmp_path / "cut.pth")
    message = refuse(untrained)
    assert "truncated" in message
    assert "cut.pth" in message


def test_teacher_checkpoint_of_another_architecture_names_the_first_keys(untrained, refuse):
    untrained.model.teacher.checkpoint = "data/teachers/road-scenes_semantic-fpn-r18w48.pth"
    message = refuse(untrained)
    assert "not of this architecture" in message
    assert "bbox_head" in message
    assert "unknown, first" in message


def test_teacher_checkpoint_of_another_width_names_both_shapes(untrained, refuse):
    untrained.model.teacher.config = "configs/blood_cells/retinanet_r18w16_b8-12e_blood-cells.py"
    message = refuse(untrained)
    assert "of another shape" in message
    assert "(48,) in the file, (16,) in the model" in message


def prompt_file(path, teacher_hash, num_prompts=2, num_levels=3):
    state = {f"prompts.{i}.tokens": torch.zeros(10, num_prompts, 64) for i in range(num_levels)}
    state["teacher_hash"] = torch.tensor(list(bytes.fromhex(teacher_hash)), dtype=torch.uint8)
    write_atomic(dict(state_dict=state), path)
    return str(path)


@pytest.fixture
def hash_of_the_teacher():
    return json.loads(Path("data/teachers/blood-cells_retinanet-r18w48.json").read_text())["weights_hash"]


def test_prompts_of_another_teacher(untrained, refuse, tmp_path):
    untrained.model.terms.loss_freekd.prompts = prompt_file(tmp_path / "p.pth", "ab" * 32)
    message = refuse(untrained)
    assert "another teacher" in message
    assert "abababababab" in message


def test_prompts_of_another_number(untrained, refuse, tmp_path, hash_of_the_teacher):
    untrained.model.terms.loss_freekd.prompts = prompt_file(tmp_path / "p.pth", hash_of_the_teacher, num_prompts=6)
    message = refuse(untrained)
    assert "6 prompts per band" in message
    assert "not 2" in message


def test_prompts_not_trained_yet(untrained, refuse):
    untrained.model.terms.loss_freekd.prompts = "nowhere/prompts.pth"
    assert "train the prompts first" in refuse(untrained)


def test_data_folder_missing_and_empty(untrained, refuse, tmp_path):
    untrained.train_dataloader.dataset.data_root = str(tmp_path / "absent")
    assert "data folder not found" in refuse(untrained)
    (tmp_path / "bare" / "annotations").mkdir(parents=True)
    (tmp_path / "bare" / "images" / "train").mkdir(parents=True)
    untrained.train_dataloader.dataset.data_root = str(tmp_path / "bare")
    assert "data folder is empty" in refuse(untrained)


def test_an_empty_split(untrained, refuse, tmp_path):
    shutil.copytree("data/samples/blood_cells", tmp_path / "cells")
    annotations = tmp_path / "cells/annotations/instances_train.json"
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps({**content, "images": [], "annotations": []}))
    untrained.train_dataloader.dataset.data_root = str(tmp_path / "cells")
    assert "the split is empty" in refuse(untrained)


def test_an_empty_segmentation_split(refuse, tmp_path):
    config = read_config(SEGMENT)
    config.model.terms.loss_freekd.prompts = "untrained"
    shutil.copytree("data/samples/road_scenes", tmp_path / "roads")
    shutil.rmtree(tmp_path / "roads/img_dir/train")
    (tmp_path / "roads/img_dir/train").mkdir()
    config.train_dataloader.dataset.data_root = str(tmp_path / "roads")
    assert "data folder is empty" in refuse(config)


def test_a_term_that_is_not_named_loss(untrained, refuse):
    untrained.model.terms = Config(dict(freekd=untrained.model.terms.loss_freekd.to_dict()))._cfg_dict
    message = refuse(untrained)
    assert "must start with 'loss_'" in message
    assert "'loss_freekd'" in message


def test_amp_without_an_accelerator(untrained, refuse):
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    assert "--amp needs an accelerator" in refuse(untrained, "--amp")


def test_an_unsafe_checkpoint_to_start_from(untrained, refuse, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.getcwd, ()

    torch.save(dict(state_dict={}, extra=Payload()), tmp_path / "unsafe.pth")
    message = refuse(untrained, "--cfg-options", f"load_from={tmp_path / 'unsafe.pth'}")
    assert "--trust-checkpoint" in message
    assert "getcwd" in message


def test_a_weight_that_is_neither_number_nor_share(untrained, refuse):
    untrained.model.terms.loss_freekd.weight = dict(portion=0.5)
    assert "weight must be a number or dict(share=..." in refuse(untrained)


def test_preprocessors_that_differ_are_handled_and_said(untrained, monkeypatch):
    from mmengine.registry import MODELS, DefaultScope

    untrained.model.student.data_preprocessor.mean = [0.0, 0.0, 0.0]
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(untrained.model)
    said = []
    monkeypatch.setattr("freqkd.distillers.teacher.print_log", lambda text, *_: said.append(text))
    model.rehearse()
    model.rehearse()
    assert len(said) == 1
    assert "normalise images differently" in said[0]
