"""Wrong input to the tools ends in one line and exit code 1, and leaves no unfinished file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freqkd.utils.checkpoints import read_checkpoint, write_atomic

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "data/teachers/blood-cells_retinanet-r18w48.pth"
SAMPLES = ROOT / "data/samples/blood_cells"


@pytest.fixture(scope="module")
def prompts(trained):
    """A prompt file that fits the shipped detection teacher."""
    return trained("detection").prompts


@pytest.fixture
def refused(tool, tiny_config, prompts, tmp_path, capsys):
    """Return `refused(*words, kind=..., more=..., arguments=())`: a training that must fail; its one line names `words`."""

    def check(*words, task="detection", kind="distill", more="", arguments=(), config=None):
        good = term(prompts) if kind == "distill" else ""
        base = tiny_config(tmp_path / "base.py", task, kind, good)
        path = config or tmp_path / "config.py"
        if config is None:
            path.write_text(f"_base_ = [{str(base)!r}]\n{more}\n")
        capsys.readouterr()
        assert tool("train", path, "--work-dir", tmp_path / "run", *arguments) == 1
        text = capsys.readouterr().err
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, text
        assert "Traceback" not in text
        assert text.rstrip().endswith(lines[0])
        for word in words:
            assert word in lines[0], lines[0]
        assert not (tmp_path / "run").exists()
        return lines[0]

    return check


def term(prompts, **changes):
    """The text of a config's model whose FreeKD term has some arguments changed."""
    inner = "".join(f", {key}={value}" for key, value in changes.items())
    return f"model = dict(terms=dict(loss_freekd=dict(prompts={str(prompts)!r}{inner})))"


def test_a_config_that_is_not_there(refused, tmp_path):
    refused("error: argument config: config not found", "nowhere.py", config=tmp_path / "nowhere.py")


def test_a_config_that_the_installed_package_does_not_have(refused):
    refused(
        "error: argument config: config 'mmdet::retinanet/nowhere.py' not found", config="mmdet::retinanet/nowhere.py"
    )
    near = "retinanet/retinanet_r50_fpn_1x_coco.py"
    refused(f"did you mean {near!r}?", config="mmdet::retinanet/retinanet_r50_fpn_1x_cocoo.py")


def test_a_base_config_that_is_not_there(refused, tmp_path):
    (tmp_path / "config.py").write_text("_base_ = ['./nowhere.py']")
    refused("nowhere.py", config=tmp_path / "config.py")


def test_a_config_that_is_no_python(refused, tmp_path):
    (tmp_path / "config.py").write_text("model = dict(")
    refused("config.py", config=tmp_path / "config.py")


def test_an_unknown_tap_in_the_student(refused, prompts):
    words = ("terms.loss_freekd.student_tap: no module 'nekc' in RetinaNet", "'neck'")
    refused(*words, more=term(prompts, student_tap="'nekc'"))


def test_an_unknown_tap_in_the_teacher(refused):
    words = ("terms.loss_mse.teacher_tap: no module 'bbox_head.retina_clss'", "'bbox_head.retina_cls'")
    options = "type='freqkd.DistillTerm', teacher_tap='bbox_head.retina_clss', loss=dict(type='freqkd.MSELoss')"
    refused(*words, more=f"model = dict(terms=dict(loss_mse=dict({options})))")


def test_an_unknown_tap_of_the_prompt_stage(refused):
    refused("no module 'nekc'", "'neck'", kind="prompts", more="model = dict(tap='nekc')")


def test_channels_that_differ_without_an_align(refused, prompts):
    refused("terms.loss_freekd", "32", "64", "ConvAlign(", more=term(prompts, align=None))


def test_an_align_for_other_channels(refused, prompts):
    refused("32 channels", "student_channels=16", more=term(prompts, align="dict(student_channels=16)"))


def test_prompts_for_other_channels(refused):
    refused("32 channels", "64", kind="prompts", more="model = dict(prompts=dict(channels=32))")


def test_another_number_of_maps_than_prompted(refused):
    refused("num_levels", "5", "3", kind="prompts", more="model = dict(levels=None)")


def test_a_term_whose_name_mmengine_would_not_sum(refused):
    more = "model = dict(terms=dict(mimic=dict(type='freqkd.DistillTerm', loss=dict(type='freqkd.MSELoss'))))"
    refused("'mimic'", "loss_", "'loss_mimic'", more=more)


def test_an_unknown_type(refused, prompts):
    refused("freqkd.FreeKDLos", more=term(prompts, loss="dict(type='freqkd.FreeKDLos')"))


@pytest.mark.parametrize("kind", ["distill", "prompts"])
def test_a_missing_teacher(refused, kind):
    more = "model = dict(teacher=dict(checkpoint='nowhere.pth'))"
    refused("error: model.teacher.checkpoint: checkpoint not found: nowhere.pth", kind=kind, more=more)


def test_a_truncated_teacher(refused, tmp_path):
    (tmp_path / "half.pth").write_bytes(WEIGHTS.read_bytes()[:1_000_000])
    refused(
        "half.pth",
        "truncated",
        more=f"model = dict(teacher=dict(checkpoint={str(tmp_path / 'half.pth')!r}))",
    )


def test_a_teacher_of_another_architecture(refused, trained):
    other = trained("detection").checkpoint
    refused(
        "not of this architecture",
        "backbone.bn1",
        "shape",
        more=f"model = dict(teacher=dict(checkpoint={str(other)!r}))",
    )


def test_a_teacher_with_other_keys(refused, tmp_path):
    weights = read_checkpoint(WEIGHTS)["state_dict"]
    weights["bbox_head.extra.weight"] = weights.pop("bbox_head.retina_cls.weight")
    write_atomic(dict(state_dict=weights), tmp_path / "other.pth")
    more = f"model = dict(teacher=dict(checkpoint={str(tmp_path / 'other.pth')!r}))"
    refused("1 missing", "bbox_head.retina_cls.weight", "1 unknown", "bbox_head.extra.weight", more=more)


@pytest.fixture
def other_order(tmp_path):
    """The shipped teacher, whose checkpoint says another order of its classes."""
    loaded = read_checkpoint(WEIGHTS)
    meta = dict(dataset_meta=dict(classes=("WBC", "RBC", "Platelets")))
    write_atomic(dict(state_dict=loaded["state_dict"], meta=meta), tmp_path / "other.pth")
    return f"teacher=dict(checkpoint={str(tmp_path / 'other.pth')!r})"


def test_a_teacher_with_classes_of_another_order(refused, other_order):
    options = (
        "type='freqkd.DistillTerm', student_tap='bbox_head.retina_cls', adapter=dict(type='freqkd.DenseLogits'), "
        "loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid')"
    )
    terms = f"terms=dict(_delete_=True, loss_kd=dict({options}))"
    words = ("terms.loss_kd", "class 0 is 'RBC' in the data and 'WBC'", "(3 and 3 classes)", "classes='shared'")
    refused(*words, more=f"model = dict({other_order}, {terms})")


def test_a_prompt_stage_on_classes_of_another_order(refused, other_order):
    words = ("first stage", "class 0 is 'RBC' in the data and 'WBC'", "model.teacher.classes=")
    refused(*words, kind="prompts", more=f"model = dict({other_order})")


def test_a_learned_align_before_class_logits(refused):
    align = "dict(type='freqkd.ConvAlign', student_channels=27, teacher_channels=27, num_levels=5)"
    options = f"type='freqkd.DistillTerm', student_tap='bbox_head.retina_cls', align={align}, loss=dict(type='freqkd.MSELoss')"
    more = f"model = dict(terms=dict(_delete_=True, loss_mse=dict({options})))"
    refused("terms.loss_mse", "align must be left out", "ConvAlign", "mix the classes", more=more)


def test_prompts_that_are_not_there(refused):
    refused("prompt checkpoint not found: nowhere.pth", "freqkd train", more=term("nowhere.pth"))


def test_prompts_of_another_teacher(refused, prompts, tmp_path):
    state, made = (read_checkpoint(prompts)[part] for part in ("state_dict", "meta"))
    made["teacher_hash"] = made["teacher_hash"][::-1]
    write_atomic(dict(state_dict=state, meta=made), tmp_path / "other.pth")
    refused("another teacher", WEIGHTS.name, more=term(tmp_path / "other.pth"))


def test_prompts_of_another_number(refused, prompts):
    refused("num_prompts", "2", "4", more=term(prompts, loss="dict(num_prompts=4)"))


def test_a_file_that_holds_no_prompts(refused):
    refused("is not a prompt file", more=term(WEIGHTS))


def test_no_prompts_at_all(refused, prompts):
    refused("needs trained prompts", "prompts=", more="model = dict(terms=dict(loss_freekd=dict(prompts=None)))")


def test_a_data_folder_that_is_not_there(refused):
    refused(
        "data folder not found: data/nowhere",
        "data/README.md",
        more="train_dataloader = dict(dataset=dict(data_root='data/nowhere'))",
    )


def test_a_data_folder_that_is_empty(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("data folder is empty", more=f"val_dataloader = dict(dataset=dict(data_root={str(tmp_path / 'empty')!r}))")


def test_an_annotation_file_that_is_not_there(refused):
    refused(
        "annotation file not found",
        "nowhere.json",
        more="train_dataloader = dict(dataset=dict(ann_file='nowhere.json'))",
    )


@pytest.mark.parametrize("lacking", ["images", "annotations"])
def test_a_split_that_is_empty(refused, tmp_path, lacking):
    content = json.loads((SAMPLES / "annotations/instances_train.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({**content, lacking: []}))
    refused(
        "split is empty",
        "split.json",
        more=f"train_dataloader = dict(dataset=dict(ann_file={str(tmp_path / 'split.json')!r}))",
    )


def test_a_segmentation_split_that_is_empty(refused, tmp_path):
    for folder in ("img_dir/train", "ann_dir/train"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    more = f"train_dataloader = dict(dataset=dict(data_root={str(tmp_path / 'data')!r}))"
    refused("empty", "img_dir/train", task="segmentation", kind="student", more=more)


def test_a_segmentation_folder_without_images_of_its_suffix(refused, tmp_path):
    for folder in ("img_dir/train", "ann_dir/train"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.txt").write_text("no image")
    more = f"train_dataloader = dict(dataset=dict(data_root={str(tmp_path / 'data')!r}))"
    refused("img_dir/train", ".jpg", task="segmentation", kind="student", more=more)


def test_a_checkpoint_to_resume_that_is_not_there(refused):
    refused("error: --resume: checkpoint not found: nowhere.pth", kind="student", arguments=("--resume", "nowhere.pth"))
    refused("error: load_from: checkpoint not found: nowhere.pth", kind="student", more="load_from = 'nowhere.pth'")


def test_resuming_from_a_plain_student(refused, trained, tmp_path):
    state = read_checkpoint(trained("detection").checkpoint)
    state["state_dict"] = {key: value for key, value in state["state_dict"].items() if not key.startswith("distiller.")}
    torch.save(state, tmp_path / "plain.pth")
    refused("cannot resume", "distiller.loss_freekd", arguments=("--resume", tmp_path / "plain.pth"))


def test_resuming_from_weights_alone(refused):
    refused("cannot resume", WEIGHTS.name, "load_from=", kind="teacher", arguments=("--resume", WEIGHTS))


def test_resuming_from_another_network(refused, trained):
    more = "model = dict(bbox_head=dict(num_classes=4))"
    arguments = ("--resume", trained("detection").checkpoint)
    refused("of another network", "size mismatch for bbox_head", kind="student", more=more, arguments=arguments)


def test_mixed_precision_without_an_accelerator(refused, monkeypatch):
    monkeypatch.setattr("freqkd.apis.mixed_precision.get_device", lambda: "cpu")
    refused("--amp", "accelerator", "--amp bfloat16", arguments=("--amp",))
    refused("--amp float16", "accelerator", arguments=("--amp", "float16"))


def test_learning_rate_scaling_without_a_base(refused):
    refused("--auto-scale-lr", "base_batch_size", kind="student", arguments=("--auto-scale-lr",))


def test_a_work_dir_that_is_a_file(tool, tiny_config, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    config = tiny_config(tmp_path / "config.py", "detection", "student")
    assert tool("train", config, "--work-dir", tmp_path / "file" / "run") == 1
    assert "not writable" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_class_list_that_no_annotation_has(refused):
    more = "train_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True, classes=('cat',))))"
    refused("empty", "cat", kind="student", more=more)


@pytest.mark.parametrize("name", ["train", "export_student"])
def test_the_program_itself_says_one_line_and_exits_with_1(trained, tmp_path, name):
    shutil.copy(WEIGHTS, tmp_path / "half.pth")
    os.truncate(tmp_path / "half.pth", 1000)
    run = trained("detection")
    arguments = ["--work-dir", tmp_path / "run", "--cfg-options", f"model.teacher.checkpoint={tmp_path / 'half.pth'}"]
    if name == "export_student":
        arguments = [tmp_path / "half.pth", "--out-dir", tmp_path / "run"]
    command = [sys.executable, ROOT / "tools" / f"{name}.py", run.config, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "error" in line.lower()] == [done.stderr.splitlines()[-1]]
    assert "half.pth is truncated" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


def test_the_test_tool_needs_a_checkpoint(tool, trained, tmp_path, capsys):
    config = trained("detection").config
    assert tool("test", config, "nowhere.pth", "--work-dir", tmp_path / "run") == 1
    assert capsys.readouterr().err.startswith("error: argument checkpoint: checkpoint not found: nowhere.pth")
    assert not (tmp_path / "run").exists()


def test_preprocessors_that_differ_are_handled_and_said(tool, tiny_config, prompts, tmp_path, capfd):
    more = (
        "model = dict(student=dict(data_preprocessor=dict("
        "mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=False)), "
        f"terms=dict(loss_freekd=dict(prompts={str(prompts)!r})))"
    )
    config = tiny_config(tmp_path / "config.py", "detection", "distill", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    logs = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.log"))
    assert "normalise images differently" in logs
    assert "std [255.0, 255.0, 255.0], channels kept" in logs


DETAILS = "loss=dict(_delete_=True, type='freqkd.FreeKDLoss', preset='details')"


@pytest.mark.parametrize("name", ["PromptFileHook", "PromptStatisticsHook"])
@pytest.mark.parametrize("kind", ["distill", "student"])
def test_a_hook_of_the_prompt_stage_in_another_training(refused, name, kind):
    got = "Distiller" if kind == "distill" else "RetinaNet"
    words = (f"custom_hooks[0]: {name} belongs to a prompt stage", f"got {got}; leave it out")
    refused(*words, kind=kind, more=f"custom_hooks = [dict(type='freqkd.{name}')]")


def test_a_picture_of_masks_that_are_not_there(refused):
    hook = "custom_hooks = [dict(type='freqkd.MaskHook')]"
    words = (
        "custom_hooks[0]: the model must have frequency prompts",
        "'details' and 'whitened' have none",
        "loss_freekd",
    )
    refused(*words, more=f"model = dict(terms=dict(loss_freekd=dict(prompts=None, {DETAILS})))\n{hook}")
    refused("custom_hooks[0]: the model must have frequency prompts", "got RetinaNet", kind="student", more=hook)


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("type='freqkd.NonFiniteHook', action='stopp'", "custom_hooks[0]: action must be one of"),
        ("type='freqkd.ProgressHook', every=-1", "custom_hooks[0]: every must be at least 0, got -1"),
        ("type='freqkd.MaskHook', interval=0", "custom_hooks[0]: interval must be at least 1, got 0"),
        ("type='freqkd.PromptFileHook', name=3", "custom_hooks[0]: name must be a file's name inside the work dir"),
    ],
)
def test_a_hook_with_an_option_out_of_range(refused, hook, words):
    refused(words, kind="prompts", more=f"custom_hooks = [dict({hook})]")


def test_a_misspelt_slot(refused):
    refused("the config has custom_hook", "did you mean 'custom_hooks'?", kind="prompts", more="custom_hook = []")
    for change, name in (("trian_cfg.max_epochs=2", "train_cfg"), ("optim_wraper.optimizer.lr=1", "optim_wrapper")):
        words = f"--cfg-options: the config has no {change.split('.')[0]}; did you mean {name!r}?"
        refused(words, kind="student", arguments=("--cfg-options", change))
    options = "cfg_options={'modle.backbone.depth': 34}"
    words = "model.teacher.cfg_options: the config has no modle; did you mean 'model'?"
    refused(words, more=f"model = dict(teacher=dict({options}))")


def test_a_misspelt_preset(refused):
    changes = "_delete_=True, type='freqkd.FreeKDLoss', preset='detail'"
    words = ("terms.loss_freekd: ", "preset must be one of", "got 'detail'; did you mean 'details'?")
    refused(*words, more=f"model = dict(terms=dict(loss_freekd=dict(prompts=None, loss=dict({changes}))))")


def test_a_loss_without_a_type(refused):
    words = ("terms.loss_a: loss must be a dict with a type, got {'preset': 'details'}",)
    refused(
        *words, more="model = dict(terms=dict(loss_a=dict(type='freqkd.DistillTerm', loss=dict(preset='details'))))"
    )


def test_a_misspelt_ratio(refused, prompts):
    words = ("terms.loss_freekd", "got 'rato'; did you mean 'ratio'?")
    assert "iters=" not in refused(*words, more=term(prompts, weight="dict(rato=2)")).partition("got ")[2]


def test_a_term_that_begins_after_the_end(refused, prompts):
    words = "terms.loss_freekd.schedule.begin must lie before the end of the training, got 5 of 1 epochs"
    refused(words, "or leave out the term", more=term(prompts, schedule="dict(begin=5)"))


def test_initial_weights_of_a_package_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr("freqkd.apis.preflight.checkpoint.is_installed", lambda name: name != "torchvision")
    start = "init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')"
    slot = "model.student.backbone"
    words = (f"{slot}.init_cfg.checkpoint: torchvision://resnet18 needs the package torchvision", torch.__version__)
    more = f"model = dict(student=dict(backbone=dict({start})))\n"
    refused(*words, f"{slot}.init_cfg=None", f"{slot}.frozen_stages=-1", more=more)


def test_initial_weights_that_are_not_there(refused):
    words = "error: model.backbone.init_cfg.checkpoint: checkpoint not found: nowhere.pth"
    start = "init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth')"
    refused(words, kind="student", more=f"model = dict(backbone=dict({start}))")
    refused(
        "model.backbone.init_cfg must be a dict, a list of dicts or None, got 'x'",
        kind="student",
        more="model = dict(backbone=dict(init_cfg='x'))",
    )


def test_data_outside_the_repository_that_are_not_there(refused, monkeypatch):
    monkeypatch.setenv("FREQKD_DATA", "/no/such/data")
    words = (
        "data folder not found: /no/such/data/fish/",
        "data/README.md",
        "set FREQKD_DATA to the folder that has fish/",
    )
    refused(*words, kind="student", more="train_dataloader = dict(dataset=dict(data_root='/no/such/data/fish/'))")


def test_a_checkpoint_of_the_prompt_stage_as_prompts(refused, trained):
    stage = next(trained("detection").prompts.parent.glob("epoch_*.pth"))
    refused("is not a prompt file", f"freqkd train PROMPT_CONFIG --resume {stage}", more=term(stage))


def test_nothing_but_the_error_is_printed(tool, tiny_config, tmp_path, capfd):
    config = tiny_config(
        tmp_path / "config.py", "detection", "student", "custom_hooks = [dict(type='freqkd.MaskHook')]"
    )
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert [line[:23] for line in err.splitlines()] == ["error: custom_hooks[0]: "[:23]]
