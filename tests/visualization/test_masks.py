"""tools/visualize_masks.py draws the masks of prompts, of either stage, and refuses what it cannot draw."""

import cv2
import pytest


def draw(tool, folder, *arguments):
    assert tool("visualize_masks", *arguments, "--out-dir", folder, "--num", 1) == 0
    return {path.name: cv2.imread(str(path)) for path in folder.glob("*.png")}


def test_both_stages_give_the_same_pictures_of_the_same_prompts(tool, trained, tmp_path):
    run = trained("detection")
    first = draw(tool, tmp_path / "first", run.prompts_config, "--prompts", run.prompts)
    second = draw(tool, tmp_path / "second", run.config)
    assert sorted(first) == [f"image0_prompts_level{level}.png" for level in range(3)]
    assert sorted(second) == [f"image0_loss_freekd_level{level}.png" for level in range(3)]
    for level in range(3):
        tuner, distiller = first[f"image0_prompts_level{level}.png"], second[f"image0_loss_freekd_level{level}.png"]
        assert tuner.std() > 10
        below_the_title = slice(60, None)
        assert abs(tuner[below_the_title].astype(int) - distiller[below_the_title]).mean() < 1


def test_one_level_can_be_chosen(tool, trained, tmp_path):
    assert list(draw(tool, tmp_path, trained("detection").config, "--level", 2)) == ["image0_loss_freekd_level2.png"]


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("prompts_config", (), "--prompts is needed with the config of a prompt stage"),
        ("prompts_config", ("--prompts", "nowhere.pth"), "--prompts: prompt checkpoint not found: nowhere.pth"),
        ("config", ("--num", 0), "--num must be at least 1, got 0"),
        (
            "config",
            ("--level", 9),
            "--level must be from 0 to 2, a pyramid level with prompts (loss_freekd has 3), got 9",
        ),
        ("config", ("--level", -1), "--level must be from 0 to 2"),
    ],
)
def test_what_cannot_be_drawn_is_said(tool, trained, tmp_path, capsys, kind, arguments, words):
    run = trained("detection")
    assert tool("visualize_masks", getattr(run, kind), "--out-dir", tmp_path / "out", *arguments) == 1
    assert f"error: {words}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_of_another_use_are_not_drawn(tool, trained, tmp_path, capsys):
    run = trained("detection")
    other = ("--cfg-options", "model.levels=[2,1,0]")
    arguments = (run.prompts_config, "--prompts", run.prompts, "--out-dir", tmp_path / "out", *other)
    assert tool("visualize_masks", *arguments) == 1
    assert "was trained with levels=[0, 1, 2], but is used with levels=[2, 1, 0]" in capsys.readouterr().err


def test_pictures_need_images_for_validation(tool, tiny_config, tmp_path, capsys):
    none = "\n".join(f"val_{slot} = None" for slot in ("dataloader", "cfg", "evaluator"))
    config = tiny_config(tmp_path / "config.py", "detection", "prompts", none)
    assert tool("visualize_masks", config, "--out-dir", tmp_path / "out") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert line.startswith(
        "error: val_dataloader must be given, because the pictures are of its images, got none; add it"
    )
    assert not (tmp_path / "out").exists()


def test_a_plain_network_has_no_prompts(tool, tiny_config, tmp_path, capsys):
    config = tiny_config(tmp_path / "student.py", "detection", "student")
    assert tool("visualize_masks", config, "--out-dir", tmp_path / "out") == 1
    assert "error: the model must have frequency prompts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_distillation_without_prompts_has_none_to_draw(tool, tiny_config, tmp_path, capsys):
    loss = "loss=dict(_delete_=True, type='freqkd.FreeKDLoss', preset='details')"
    more = f"model = dict(terms=dict(loss_freekd=dict(prompts=None, {loss})))"
    config = tiny_config(tmp_path / "details.py", "detection", "distill", more)
    assert tool("visualize_masks", config, "--out-dir", tmp_path / "out") == 1
    words = "has prompts (the presets 'details' and 'whitened' have none), got Distiller with the terms loss_freekd"
    assert words in capsys.readouterr().err


def test_terms_that_are_no_dict_are_said(tool, tiny_config, tmp_path, capsys):
    config = tiny_config(tmp_path / "list.py", "detection", "distill", "model = dict(terms=[1])")
    assert tool("visualize_masks", config, "--prompts", "prompts.pth", "--out-dir", tmp_path / "out") == 1
    assert "terms must be a dict of terms by name" in capsys.readouterr().err
