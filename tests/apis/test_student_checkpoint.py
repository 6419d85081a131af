"""Every checkpoint written here is a student checkpoint: plain mmdet and mmseg load it, and it starts the next run."""

import os
import pickle
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

from freqkd.teacher.teacher import Teacher
from freqkd.utils.checkpoints import hash_weights, read_checkpoint, weights_of

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = {
    "detection": "data/teachers/blood-cells_retinanet-r18w48.pth",
    "segmentation": "data/teachers/road-scenes_semantic-fpn-r18w48.pth",
}
TASKS = tuple(TEACHERS)
PLAIN = """
import pickle, sys
import torch
request, answer = sys.argv[1:]
answers = {}
for name, (task, config, checkpoint, images) in pickle.load(open(request, 'rb')).items():
    if task == 'detection':
        from mmdet.apis import inference_detector as infer, init_detector as init
    else:
        from mmseg.apis import inference_model as infer, init_model as init
    model = init(config, checkpoint, device='cpu')
    stored = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    own = model.state_dict()
    found = [infer(model, image).to_dict() for image in images]
    answers[name] = dict(
        missing=sorted(set(own) - set(stored)), classes=model.dataset_meta['classes'],
        changed=[key for key in own if not torch.equal(own[key], stored[key])],
        found=[one['pred_instances' if task == 'detection' else 'seg_logits'] for one in found])
assert not [name for name in sys.modules if name.split('.')[0] == 'freqkd'], 'freqkd was imported'
torch.save(answers, answer)
"""


@pytest.fixture(scope="module")
def plain_answers(trained, tool, tmp_path_factory):
    """What plain mmdet and mmseg make of both forms of both students, in a process that never imports this package."""
    folder = tmp_path_factory.mktemp("plain")
    request = {}
    for task in TASKS:
        run = trained(task)
        images = [sample["img_path"] for sample in pickle.loads(run.predictions.read_bytes())]
        written = str(run.work_dir / "student_config.py"), str(run.checkpoint)
        request[f"{task} train"] = (task, *written, images)
        assert tool("export_student", run.config, run.checkpoint, "--out-dir", folder / task) == 0
        exported = str(folder / task / "student_config.py"), str(folder / task / "student.pth")
        request[f"{task} export"] = (task, *exported, images)
    (folder / "request.pkl").write_bytes(pickle.dumps(request))
    arguments = [sys.executable, "-c", PLAIN, str(folder / "request.pkl"), str(folder / "answers.pth")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if any(found.name == "mmengine" for found in distributions()):
        # The original MMEngine leaves `weights_only` to torch, which refuses the log buffers in any training checkpoint.
        env["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "answers.pth", weights_only=False)


@pytest.mark.parametrize("writer", ["train", "export"])
@pytest.mark.parametrize("task", TASKS)
def test_plain_packages_load_the_student_without_a_missing_key(plain_answers, trained, task, writer):
    answer = plain_answers[f"{task} {writer}"]
    assert answer["missing"] == []
    assert answer["changed"] == []
    assert list(answer["classes"]) == list(read_checkpoint(trained(task).checkpoint)["meta"]["dataset_meta"]["classes"])


@pytest.mark.parametrize("writer", ["train", "export"])
def test_plain_mmdet_predicts_what_the_test_tool_predicts(plain_answers, trained, writer):
    expected = pickle.loads(trained("detection").predictions.read_bytes())
    for own, plain in zip(expected, plain_answers[f"detection {writer}"]["found"], strict=True):
        assert len(own["pred_instances"]["scores"]) == 20
        for key in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(own["pred_instances"][key], plain[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("writer", ["train", "export"])
def test_plain_mmseg_predicts_what_the_test_tool_predicts(plain_answers, trained, writer):
    expected = pickle.loads(trained("segmentation").predictions.read_bytes())
    for own, plain in zip(expected, plain_answers[f"segmentation {writer}"]["found"], strict=True):
        torch.testing.assert_close(own["seg_logits"]["data"], plain["data"], rtol=1e-4, atol=1e-4)
        assert own["seg_logits"]["data"].std() > 0.01


@pytest.mark.parametrize("task", TASKS)
def test_the_checkpoint_holds_the_students_keys_the_terms_and_nothing_of_the_teacher(trained, task):
    run = trained(task)
    checkpoint = read_checkpoint(run.checkpoint)
    keys = set(checkpoint["state_dict"])
    roots = {key.split(".")[0] for key in keys}
    head = "bbox_head" if task == "detection" else "decode_head"
    assert roots == {"backbone", "neck", head, "distiller"}
    taught = weights_of(torch.load(ROOT / TEACHERS[task], weights_only=True))
    sizes = {tuple(value.shape) for value in weights_of(checkpoint).values()}
    wide = [value for key, value in taught.items() if key.startswith("backbone.layer4") and value.dim() == 4]
    assert all(tuple(value.shape) not in sizes for value in wide)
    extra = sum(value.numel() for key, value in checkpoint["state_dict"].items() if key.startswith("distiller."))
    assert extra < 30_000


@pytest.mark.parametrize("task", TASKS)
def test_resume_goes_on_with_the_teacher_rebuilt_and_the_share_kept(trained, tool, tmp_path, task):
    run = trained(task)
    shutil.copytree(run.work_dir, tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / run.checkpoint.name))
    longer, last = ("train_cfg.max_epochs=2", "epoch_2.pth")
    if task == "segmentation":
        longer, last = ("train_cfg.max_iters=15", "iter_15.pth")
    assert tool("train", run.config, "--work-dir", tmp_path / "run", "--resume", "--cfg-options", longer) == 0
    before, after = read_checkpoint(run.checkpoint), read_checkpoint(tmp_path / "run" / last)
    assert after["meta"]["iter"] == (20 if task == "detection" else 15)
    steps = {float(state["step"]) for state in after["optimizer"]["state"].values()}
    assert steps == {float(after["meta"]["iter"])}
    for key in ("task_sum", "term_sum", "count"):
        name = f"distiller.loss_freekd.weight.{key}"
        assert torch.equal(before["state_dict"][name], after["state_dict"][name])
    tokens = "distiller.loss_freekd.loss.prompts.0.tokens"
    assert torch.equal(after["state_dict"][tokens], read_checkpoint(run.prompts)["state_dict"]["prompts.0.tokens"])
    moved = "distiller.loss_freekd.align.layers.0.weight"
    assert not torch.equal(before["state_dict"][moved], after["state_dict"][moved])
    scalars = after["message_hub"]["log_scalars"]["train/distill.loss_freekd"].data[0]
    assert len(scalars) == after["meta"]["iter"]
    assert all(scalars > 0)


@pytest.mark.parametrize("task", TASKS)
def test_a_student_made_here_is_the_teacher_of_the_next_run(trained, tool, tiny_config, tmp_path, task):
    run = trained(task)
    more = (
        f"model = dict(teacher=dict(config={str(run.config)!r}, checkpoint={str(run.checkpoint)!r}), terms=dict("
        "_delete_=True, loss_mse=dict(type='freqkd.DistillTerm', loss=dict(type='freqkd.MSELoss'))))"
    )
    config = tiny_config(tmp_path / "next.py", task, "distill", more, iterations=2)
    assert tool("train", config, "--work-dir", tmp_path / "next") == 0
    checkpoint = read_checkpoint((tmp_path / "next" / "last_checkpoint").read_text())
    losses = checkpoint["message_hub"]["log_scalars"]["train/distill.loss_mse"].data[0]
    assert len(losses) == 2
    assert all(losses > 0)


def test_the_teacher_of_the_next_run_is_that_student(trained, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = trained("detection")
    teacher = Teacher(str(run.config), str(run.checkpoint))
    assert teacher.hash == hash_weights(weights_of(read_checkpoint(run.checkpoint)))


def test_a_student_is_exported_in_half_precision_on_request(trained, tool, tmp_path):
    run = trained("segmentation")
    assert tool("export_student", run.config, run.checkpoint, "--out-dir", tmp_path, "--half") == 0
    stored = torch.load(tmp_path / "student.pth", weights_only=True)
    assert set(stored) == {"state_dict", "meta"}
    for key, value in weights_of(read_checkpoint(run.checkpoint)).items():
        assert stored["state_dict"][key].dtype == (torch.float16 if value.is_floating_point() else torch.int64)
        assert torch.equal(stored["state_dict"][key], value.half() if value.is_floating_point() else value)


def test_testing_a_distillation_is_silent_about_what_was_trained_beside_the_student(trained, tool, tmp_path, capfd):
    run = trained("detection")
    assert any(key.startswith("distiller.") for key in read_checkpoint(run.checkpoint)["state_dict"])
    for config in (run.config, run.work_dir / "student_config.py"):
        assert tool("test", config, run.checkpoint, "--work-dir", tmp_path / "run") == 0
        out, err = capfd.readouterr()
        assert "do not match exactly" not in out + err
