"""One command from two names to an exported student."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
import torch
from mmengine.runner import CheckpointLoader
from network_pairs import write_random_weights

from freqkd.__main__ import main
from freqkd.pairs.distill import _Run

TEACHER = "data/teachers/blood-cells_retinanet-r18w48.pth"
TINY = [
    *("--cfg-options", "train_dataloader.dataset.indices=4", "train_dataloader.batch_size=2", "train_cfg.max_epochs=1"),
    "model.student.bbox_head.loss_bbox.loss_weight=1.5",
    *("val_dataloader.dataset.indices=1", "test_dataloader.dataset.indices=1"),
]


@pytest.fixture
def arguments(tool, baseline, coco, tmp_path):
    """The arguments of a distillation on a folder of images; runs are quick with the fixture `tool`."""
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    path, images = coco(10)
    data = ["--data", path, "--images", images, "--out", str(tmp_path / "out")]
    return ["distill", student, teacher, "--checkpoint", TEACHER, *data]


@pytest.mark.parametrize("trust", [False, True])
def test_trust_holds_for_teacher_and_tests(trust, arguments, tmp_path, monkeypatch, capsys):
    weights = torch.load(TEACHER)
    weights["meta"] = dict(path=PurePosixPath("x"))  # which tensors and plain data do not need
    torch.save(weights, tmp_path / "own.pth")
    seen = []

    def train(run):
        config = run.read(run.written.distillation)
        seen.append(config.model.teacher.get("trust_checkpoint", False))
        raise ValueError(f"loaded {len(CheckpointLoader.load_checkpoint(str(tmp_path / 'own.pth')))} parts")

    monkeypatch.setattr(_Run, "train", train)
    arguments = [str(tmp_path / "own.pth") if one == TEACHER else one for one in arguments]
    assert main([*arguments, *["--trust-checkpoint"] * trust]) != 0
    assert seen == [True] * trust
    assert ("loaded 2 parts" in capsys.readouterr().err) == trust


def test_a_dry_run_stops_after_the_configs(arguments, tmp_path, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"freqkd train {tmp_path}/out/distillation.py"
    assert not (tmp_path / "out/runs").exists()


def test_changes_by_hand_are_kept_by_the_same_command_and_said(arguments, tmp_path, capsys):
    path, student = tmp_path / "out/distillation.py", tmp_path / "out/student.py"
    assert main([*arguments, "--dry-run"]) == 0
    written = path.read_text()
    changed = written.replace("ratio=8.0", "ratio=2.0")
    path.write_text(changed)
    student.unlink()
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert f"{path} was changed since it was written: kept; --overwrite writes it anew." in capsys.readouterr().out
    assert path.read_text() == changed
    assert student.is_file()
    assert main([*arguments, "--dry-run", "--method", "mse"]) == 1  # which would not be what is trained
    assert "pass --overwrite" in capsys.readouterr().err
    assert path.read_text() == changed
    assert main([*arguments, "--dry-run", "--overwrite"]) == 0
    assert path.read_text() == written
    (tmp_path / "out/train.json").write_text("{}")  # a list of images states no checksum: what it was is not known
    assert main([*arguments, "--dry-run"]) == 1
    assert f"{tmp_path}/out/train.json (its line 1 is '{{}}', and would be '{{" in capsys.readouterr().err


def test_a_distillation_of_a_folder_of_images_in_one_go(arguments, tmp_path, capsys):
    alone = write_random_weights(arguments[1], tmp_path / "alone.pth")
    assert main([*arguments, "--test-teacher", "--student-checkpoint", str(alone), *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("network "))
    assert lines[start].split() == ["network", "parameters", "coco/bbox_mAP"]
    names = ["teacher            6.70 M", "student alone      0.81 M", "distilled student  0.81 M"]
    assert [line[:25] for line in lines[start + 1 : start + 4]] == names
    assert any(line.startswith("one image of") for line in lines[start + 4 :])
    assert any("latency" in line for line in lines[start + 4 :])
    weights = torch.load(tmp_path / "out/student/student.pth", weights_only=True)["state_dict"]
    assert not [key for key in weights if key.startswith("distiller")]


def test_an_address_goes_as_far_as_the_download(arguments, monkeypatch, tmp_path, capsys):
    asked = []

    def refuse(address, *others, **options):
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    arguments[4] = "https://example.org/teacher.pth"
    assert main(arguments) == 1
    assert asked == ["https://example.org/teacher.pth"]
    assert "cannot download https://example.org/teacher.pth" in capsys.readouterr().err


@pytest.mark.long
def test_started_again_it_finds_prompts_and_training_done(arguments, tmp_path, capsys):
    command = [*arguments, "--method", "freekd", *TINY]
    assert main(command) == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*.pth")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*.pth")} == made
