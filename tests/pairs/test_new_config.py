"""Configs written for two networks: they train, say each number once, and say what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from network_pairs import CASES, row_of, three_steps, write_random_weights

from freqkd.__main__ import main
from freqkd.models.options import build_part
from freqkd.models.prompt_file import write_prompts
from freqkd.pairs.families import FAMILIES, family_of
from freqkd.pairs.networks import read_network
from freqkd.pairs.new_config import new_config
from freqkd.utils.compat import read_config

CELLS = "data/teachers/blood-cells_retinanet-r18w48.pth"
SMALL = (64, 96)  # height and width of the images of a quick test
NARROW = """
_base_ = ['{base}']
default_scope = '{scope}'
model = {model}
"""


@pytest.fixture
def narrow(tmp_path):
    """Return `narrow(name, base, model, scope)`: the file of a config of mmdet or mmseg with changes to its model."""

    def write(name, base, model, scope="mmdet"):
        path = tmp_path / f"{name}.py"
        path.write_text(NARROW.format(base=base, model=model, scope=scope))
        return str(path)

    return write


def faster(width):
    """Changes that make Faster R-CNN narrow."""
    backbone = dict(depth=18, base_channels=width, norm_eval=False)
    neck = dict(in_channels=[width * 2**level for level in range(4)], out_channels=2 * width)
    box_head = dict(in_channels=2 * width, fc_out_channels=16, num_classes=3)
    extractor = dict(out_channels=2 * width)
    rpn = dict(in_channels=2 * width, feat_channels=2 * width)
    return dict(
        backbone=backbone, neck=neck, rpn_head=rpn, roi_head=dict(bbox_roi_extractor=extractor, bbox_head=box_head)
    )


def pspnet(width):
    """Changes that make PSPNet narrow."""
    backbone = dict(base_channels=width, stem_channels=width)
    head = dict(in_channels=8 * width, channels=2 * width)
    return dict(backbone=backbone, decode_head=head, auxiliary_head=dict(in_channels=4 * width, channels=width))


def test_a_narrow_detector_trains_on_maps_and_scores(baseline, tmp_path):
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    written = new_config(student, teacher, CELLS, tmp_path / "out", ("details", "kd", "mgd"))
    lines = [line for line in written.distillation.read_text().splitlines() if not line.strip().startswith("#")]
    assert [line for line in lines if "64" in line] == ["teacher_channels = 64"]
    assert [line for line in lines if "3" in line and "num_levels" in line] == ["num_levels = 3"]
    assert lines.count("            student_levels=(0, 1, 2),") == 2  # details and mgd, without maps of 4x5 and 2x3
    steps = three_steps(written.distillation, read_network(student, "student"), SMALL)
    assert steps.is_sound
    assert set(steps.losses) == {"loss_details", "loss_kd", "loss_mgd"}


def test_gfl_heads_train_with_ld(baseline, tmp_path):
    student = baseline("gfl_r18w16")
    weights = write_random_weights(student, tmp_path / "teacher.pth")
    written = new_config(student, student, str(weights), tmp_path / "out", ("ld",), inherit=True)
    assert "inherit=('neck', 'bbox_head')" in written.distillation.read_text()
    assert three_steps(written.distillation, read_network(student, "student"), SMALL).is_sound


def test_two_stage_detectors_train_on_proposals(narrow, tmp_path):
    base = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    student, teacher = narrow("student", base, faster(4)), narrow("teacher", base, faster(8))
    weights = write_random_weights(teacher, tmp_path / "teacher.pth")
    written = new_config(student, teacher, str(weights), tmp_path / "out", ("kd", "dkd"))
    assert read_config(written.distillation).model.terms.loss_dkd.student_tap == "roi_head.bbox_head.fc_cls"
    assert three_steps(written.distillation, read_network(student, "student"), SMALL).is_sound


def test_segmenters_without_a_neck_train_on_bottleneck_and_logits(narrow, tmp_path):
    base = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"
    student, teacher = (narrow(name, base, pspnet(width), "mmseg") for name, width in (("student", 4), ("teacher", 8)))
    weights = write_random_weights(teacher, tmp_path / "teacher.pth")
    written = new_config(student, teacher, str(weights), tmp_path / "out", ("details", "cwd"))
    terms = read_config(written.distillation).model.terms
    assert (terms.loss_details.student_tap, terms.loss_cwd.student_tap) == (
        "decode_head.bottleneck",
        "decode_head.conv_seg",
    )
    assert three_steps(written.distillation, read_network(student, "student"), SMALL).is_sound


def test_a_method_with_prompts_has_a_first_stage_that_says_the_channels(baseline, tmp_path):
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    written = new_config(student, teacher, CELLS, tmp_path / "out", ("freekd",))
    first, second = read_config(written.prompts), read_config(written.distillation)
    assert first.model.prompts.channels == 64
    assert (first.model.prompts.num_levels, first.model.levels) == (3, (0, 1, 2))  # the others are small
    assert set(second.model.terms.loss_freekd.align) == {"type", "student_channels"}
    assert second.model.terms.loss_freekd.prompts == f"{first.work_dir}/prompts.pth"
    assert first.model.teacher == second.model.teacher
    assert Path(first.model.teacher.checkpoint).samefile(CELLS)
    with DefaultScope.overwrite_default_scope("mmdet"):
        Path(first.work_dir).mkdir(parents=True)
        write_prompts(build_part("model", first.model), second.model.terms.loss_freekd.prompts)
    assert three_steps(written.distillation, read_network(student, "student"), SMALL).is_sound


def test_the_folder_of_configs_can_be_moved(baseline, tmp_path):
    weights = tmp_path / "teacher.pth"
    shutil.copy(CELLS, weights)
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    new_config(student, teacher, str(weights), tmp_path / "a/out")
    (tmp_path / "a").rename(tmp_path / "b")
    config = read_config(tmp_path / "b/out/distillation.py")
    assert Path(config.model.teacher.checkpoint).samefile(weights)
    assert config.work_dir == str(tmp_path / "b/out/runs/distillation")


def test_pkd_and_whitened_details_are_written_together_as_in_the_shipped_configs(baseline, tmp_path):
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    written = new_config(student, teacher, CELLS, tmp_path / "out", ("pkd", "whitened"))
    terms = read_config(written.distillation).model.terms
    shipped = read_config(next(Path("configs/freekd").glob("freekd-whitened-pkd_neck_*_blood-cells.py"))).model.terms
    for ours, theirs in (("loss_whitened", "loss_feature"), ("loss_pkd", "loss_pkd")):
        assert (terms[ours].loss, terms[ours].weight) == (shipped[theirs].loss, shipped[theirs].weight)
        assert terms[ours].student_levels == shipped[theirs].student_levels


def test_sizes_far_from_the_teachers_are_said(baseline, tmp_path, capsys):
    student, teacher = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", tmp_path / "small.py"
    teacher.write_text(
        f"_base_ = [{student!r}]\nval_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(320, 240))]))\n"
    )
    arguments = ["--checkpoint", "https://example.org/a.pth", "--out", str(tmp_path / "out")]
    assert main(["new-config", student, str(teacher), *arguments]) == 0
    words = "WARNING: the student's images are of 1067x800, the teacher's of 320x240"
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "out/student.py").read_text()
    assert main(["new-config", student, student, *arguments]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_a_config_that_was_changed_by_hand_is_not_overwritten(baseline, tmp_path, capsys):
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    command = ["new-config", student, teacher, "--checkpoint", CELLS, "--out", str(tmp_path / "out"), "--method"]
    path = tmp_path / "out/distillation.py"
    assert main([*command, "details"]) == 0
    assert main([*command, "mse"]) == 0  # nobody changed anything
    written = path.read_text()
    assert "loss_mse" in written
    path.write_text(written.replace("ratio=8.0", "ratio=2.0"))
    (tmp_path / "out/student.py").unlink()
    same = "is 'weight=dict(ratio=2.0, iters=50))))', and would be 'weight=dict(ratio=8.0, iters=50))))'"
    for method, words in (("mse", same), ("details", "'loss_mse: mean squared error of the maps.', and would be")):
        assert main([*command, method]) == 1
        error = capsys.readouterr().err
        assert f"got {path} (its line " in error
        assert words in error
        assert "pass --overwrite" in error
        assert error.count("\n") == 1
        assert path.read_text() != written
        assert not (tmp_path / "out/student.py").exists()
    assert main([*command, "mse", "--overwrite"]) == 0
    assert path.read_text() == written


def test_an_address_is_written_and_not_fetched(baseline, tmp_path, capsys):
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    address = "https://example.org/teacher.pth"
    arguments = ["new-config", student, teacher, "--checkpoint", address, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert read_config(tmp_path / "out/distillation.py").model.teacher.checkpoint == address
    assert f"freqkd train {tmp_path}/out/distillation.py" in capsys.readouterr().out
    assert "--cfg-options optim_wrapper.optimizer.lr=..." in (tmp_path / "out/distillation.py").read_text()


@pytest.mark.parametrize(
    ("student", "teacher", "method", "words"),
    [
        (
            "retinanet",
            "gfl",
            "kd",
            "the same anchors in both networks: the student (RetinaNet) has RetinaHead, 9 anchors x 3",
        ),
        (
            "retinanet",
            "gfl",
            "kd",
            "--method details works: it compares 'neck' of the student with 'neck' of the teacher",
        ),
        ("retinanet", "retinanet", "dkd", "use kd or quality-focal-kd"),
        ("retinanet", "retinanet", "ld", "GFL heads in both networks"),
        ("retinanet", "retinanet", "magic", "--method must be one of"),
        ("semantic-fpn", "semantic-fpn", "fgd", "must have boxes"),
        ("semantic-fpn", "semantic-fpn", "quality-focal-kd", "has a softmax over them; use kd"),
        ("retinanet", "semantic-fpn", "details", "must do the same task"),
    ],
)
def test_what_does_not_fit_is_said(baseline, tmp_path, capsys, student, teacher, method, words):
    configs = dict(
        retinanet=baseline("retinanet_r18w16_b8-12e_blood"),
        gfl=baseline("gfl_r18w16"),
        **{"semantic-fpn": baseline("semantic-fpn_r18w16_b8-300i")},
    )
    arguments = ["--checkpoint", "https://example.org/a.pth", "--method", method, "--out", str(tmp_path / "out")]
    assert main(["new-config", configs[student], configs[teacher], *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_network_is_refused(baseline, tmp_path, capsys):
    student = baseline("retinanet_r18w16_b8-12e_blood")
    assert main(["new-config", student, student, "--checkpoint", CELLS, "--out", str(tmp_path / "out")]) == 1
    assert "does not fit the RetinaNet of the config" in capsys.readouterr().err


def test_families_stand_before_those_that_they_derive_from():
    from mmdet.registry import MODELS as DETECTORS
    from mmseg.registry import MODELS as SEGMENTERS

    registries = dict(detection=DETECTORS, segmentation=SEGMENTERS)
    for family in FAMILIES:
        for name in family.heads:
            model = torch.nn.Module()
            model.decode_head = torch.nn.Module.__new__(registries[family.task].get(name))
            torch.nn.Module.__init__(model.decode_head)
            assert family_of(model, family.task) is family


def test_the_docs_print_the_table_of_families_and_a_row_for_every_pair(capsys):
    page = Path("docs/new-config.md").read_text()
    assert main(["taps", "--families"]) == 0
    assert capsys.readouterr().out in page
    starts = [f"| {case.name} | {', '.join(case.methods)} | " for case in CASES]
    rows = [[line for line in page.splitlines() if line.startswith(start)] for start in starts]
    assert [len(found) for found in rows] == [1] * 25
    assert sum(row.endswith(" | yes |") for (row,) in rows) >= 21


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_published_pairs_train_three_steps_as_the_docs_say(case, tmp_path):
    assert row_of(case, tmp_path) in Path("docs/new-config.md").read_text().splitlines()
