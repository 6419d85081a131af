"""A checkpoint that is not of the config's network is refused before it is tested or exported."""

from pathlib import Path

import pytest
import torch

from freqkd.apis.export import check_weights
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "detection": "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py",
    "segmentation": "configs/baselines/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
    "student": "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py",
    "distill": "configs/freekd/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    "prompts": "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
}
WEIGHTS = {
    "detection": "data/teachers/blood-cells_retinanet-r18w48.pth",
    "segmentation": "data/teachers/road-scenes_semantic-fpn-r18w48.pth",
}


@pytest.fixture(params=["test", "export_student"])
def refused(request, tool, tmp_path, capsys):
    """Return `refused(config, checkpoint, *words)`: what either tool must refuse, in these words, writing nothing."""

    def check(config, checkpoint, *words):
        option = "--work-dir" if request.param == "test" else "--out-dir"
        assert tool(request.param, config, checkpoint, option, tmp_path / "out") == 1
        text = capsys.readouterr().err
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, text
        for word in words:
            assert word in lines[0], lines[0]
        assert not (tmp_path / "out").exists()

    return check


@pytest.fixture
def prompts(tmp_path):
    """A file as the prompt stage writes it."""
    state = {"teacher_hash": torch.zeros(32, dtype=torch.uint8), "prompts.0.tokens": torch.zeros(10, 2, 64)}
    torch.save(dict(state_dict=state, meta={}), tmp_path / "prompts.pth")
    return tmp_path / "prompts.pth"


@pytest.mark.parametrize("config", ["detection", "student", "distill"])
def test_the_checkpoint_of_another_task_is_refused(refused, config):
    words = ("missing, first ['bbox_head.", "unknown, first [", "name the config that it was trained with")
    refused(CONFIGS[config], WEIGHTS["segmentation"], WEIGHTS["segmentation"], Path(CONFIGS[config]).name, *words)


@pytest.mark.parametrize("config", ["detection", "distill"])
def test_a_prompt_file_is_refused(refused, prompts, config):
    refused(CONFIGS[config], prompts, "prompts.pth does not fit the RetinaNet", "2 unknown, first ['prompts.0.tokens'")


@pytest.mark.parametrize("config", ["student", "distill"])
def test_a_network_of_another_width_is_refused(refused, config):
    words = ("does not fit the RetinaNet", "backbone.bn1.bias: (48,) in the file, (16,) in the model")
    refused(CONFIGS[config], WEIGHTS["detection"], *words)


def test_a_prompt_stage_is_not_exported(tool, prompts, tmp_path, capsys):
    assert tool("export_student", CONFIGS["prompts"], prompts, "--out-dir", tmp_path / "out") == 1
    text = capsys.readouterr().err
    assert "error: the config of an export must be" in text
    assert "got model.type='freqkd.PromptTuner'" in text
    assert "name the config of a distillation" in text
    assert not (tmp_path / "out").exists()


def test_other_prompts_are_not_tested_with_a_prompt_stage(tool, prompts, tmp_path, capsys):
    assert tool("test", CONFIGS["prompts"], prompts, "--work-dir", tmp_path / "out") == 1
    assert "prompts.pth does not fit the PromptTuner" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", list(WEIGHTS))
@pytest.mark.parametrize("half", [False, True])
def test_a_plain_network_with_its_own_weights_is_exported_and_its_export_again(tool, tmp_path, task, half):
    options = ["--half"] if half else []
    assert tool("export_student", CONFIGS[task], WEIGHTS[task], "--out-dir", tmp_path / "one", *options) == 0
    written = tmp_path / "one" / "student_config.py", tmp_path / "one" / "student.pth"
    assert tool("export_student", *written, "--out-dir", tmp_path / "two", *options) == 0
    first, second = (torch.load(tmp_path / name / "student.pth")["state_dict"] for name in ("one", "two"))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_looking_at_a_checkpoint_costs_no_random_number(monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_weights(read_config(CONFIGS["detection"]), read_checkpoint(WEIGHTS["detection"]), "weights")
    assert torch.equal(torch.rand(1), expected)


def test_the_prompts_of_a_prompt_stage_are_tested_with_it(trained, tool, tmp_path):
    run = trained("detection")
    assert tool("test", run.prompts_config, run.prompts, "--work-dir", tmp_path / "run") == 0


@pytest.mark.parametrize("kind", ["student", "distill"])
def test_a_students_checkpoint_of_any_kind_fits_the_student(trained, tiny_config, tmp_path, kind):
    run = trained("detection")
    config = read_config(str(tiny_config(tmp_path / "config.py", "detection", kind)))
    loaded = read_checkpoint(run.checkpoint)
    check_weights(config, loaded, "distilled")
    averaged = {f"module.{key}": value for key, value in loaded["state_dict"].items()}
    check_weights(config, dict(state_dict=averaged), "of a wrapper")
