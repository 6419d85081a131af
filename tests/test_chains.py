"""Both demo chains, ten iterations each: what they leave behind is the student, and plain mmdet and mmseg take it."""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from freqkd.checkpoints import read_checkpoint
from freqkd.cli import run_tool
from freqkd.compat import read_config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

CHAINS = {
    "detection": (
        "configs/blood_cells/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        "configs/blood_cells/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    ),
    "segmentation": (
        "configs/road_scenes/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
        "configs/road_scenes/freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
    ),
}

PLAIN = """
import pickle, sys
kind, config, checkpoint, image, out = sys.argv[1:]
import io, contextlib
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    if kind == 'detection':
        from mmdet.apis import init_detector as build, inference_detector as infer
    else:
        from mmseg.apis import init_model as build, inference_model as infer
    model = build(config, checkpoint, device='cpu')
    answer = infer(model, image)
assert 'missing keys' not in said.getvalue(), said.getvalue()
assert not any(name.split('.')[0] == 'freqkd' for name in sys.modules), 'freqkd was imported'
if kind == 'detection':
    found = answer.pred_instances
    result = dict(boxes=found.bboxes.numpy(), scores=found.scores.numpy(), labels=found.labels.numpy())
else:
    result = dict(labels=answer.pred_sem_seg.data.numpy())
pickle.dump(result, open(out, 'wb'))
"""


@dataclass
class Chain:
    """What ten iterations of one chain left."""

    kind: str
    config: Path
    work_dir: Path
    checkpoint: Path


def short(config: Config, iterations: int, work_dir: Path) -> Config:
    """Make a shipped config run a few iterations of two images and validate nothing."""
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=10**6)
    config.param_scheduler = []
    config.train_dataloader.batch_size = 2
    config.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=5, max_keep_ckpts=-1)
    config.log_processor.by_epoch = False
    config.work_dir = str(work_dir)
    config.experiment_name = f"chain_{time.time_ns()}"
    for loader in ("val_dataloader", "test_dataloader"):
        config[loader].dataset.indices = 4
    return config


def write(config: Config, path: Path) -> Path:
    config.dump(path)
    return path


@pytest.fixture(scope="module", params=sorted(CHAINS))
def chain(request, tmp_path_factory):
    os.chdir(ROOT)
    from train import main as train

    folder = tmp_path_factory.mktemp(request.param)
    prompts, distillation = CHAINS[request.param]
    stage1 = write(short(read_config(prompts), 2, folder / "prompts"), folder / "prompts.py")
    assert run_tool(train, [str(stage1), "--work-dir", str(folder / "prompts")]) == 0
    config = short(read_config(distillation), 10, folder / "distilled")
    config.model.terms.loss_freekd.prompts = str(folder / "prompts" / "prompts.pth")
    stage2 = write(config, folder / "distill.py")
    assert run_tool(train, [str(stage2), "--work-dir", str(folder / "distilled")]) == 0
    return Chain(request.param, stage2, folder / "distilled", folder / "distilled" / "iter_10.pth")


def test_the_checkpoint_holds_the_student_and_nothing_of_the_teacher(chain):
    from freqkd.distillers.teacher import build_network

    state = read_checkpoint(chain.checkpoint)["state_dict"]
    student = build_network(Config.fromfile(chain.work_dir / "student_config.py").model, None or scope(chain)).state_dict()
    extra = [key for key in state if not key.startswith("distiller.")]
    assert extra == list(student)
    assert not any("teacher" in key for key in state)
    assert chain.checkpoint.stat().st_size < 12e6  # the teacher alone has 27 MB of weights


def scope(chain):
    return {"detection": "mmdet", "segmentation": "mmseg"}[chain.kind]


def first_image(chain):
    folder = {"detection": "blood_cells/images/val", "segmentation": "road_scenes/img_dir/val"}[chain.kind]
    return sorted((ROOT / "data/samples" / folder).iterdir())[0]


def predict_plainly(chain, config, checkpoint, folder):
    out = folder / "plain.pkl"
    command = [sys.executable, "-c", PLAIN, chain.kind, str(config), str(checkpoint), str(first_image(chain)), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return pickle.loads(out.read_bytes())


def test_plain_packages_load_the_student_and_predict_as_our_test_tool_does(chain, tmp_path):
    from export_student import main as export
    from test import main as test  # tools/test.py

    assert run_tool(export, [str(chain.config), str(chain.checkpoint), "--out-dir", str(tmp_path / "student")]) == 0
    from_training = predict_plainly(chain, chain.work_dir / "student_config.py", chain.checkpoint, tmp_path)
    exported = tmp_path / "student"
    from_export = predict_plainly(chain, exported / "student_config.py", exported / "student.pth", tmp_path)
    for key, value in from_training.items():
        np.testing.assert_array_equal(value, from_export[key])
    dump = tmp_path / "dump.pkl"
    arguments = [str(chain.config), str(chain.checkpoint), "--work-dir", str(tmp_path / "test"), "--out", str(dump)]
    assert run_tool(test, arguments) == 0
    predicted = {Path(item["img_path"]).name: item for item in pickle.loads(dump.read_bytes())}
    ours = predicted[first_image(chain).name]
    if chain.kind == "detection":
        np.testing.assert_allclose(ours["pred_instances"]["scores"].numpy(), from_training["scores"], atol=1e-6)
        np.testing.assert_allclose(ours["pred_instances"]["bboxes"].numpy(), from_training["boxes"], atol=1e-3)
    else:
        np.testing.assert_array_equal(ours["pred_sem_seg"]["data"].numpy(), from_training["labels"])


def test_resume_goes_on_with_weights_shares_and_a_rebuilt_teacher(chain, tmp_path):
    from train import main as train

    arguments = [str(chain.config), "--work-dir", str(tmp_path), "--resume", str(chain.work_dir / "iter_5.pth")]
    assert run_tool(train, arguments) == 0
    resumed, straight = (read_checkpoint(folder / "iter_10.pth") for folder in (tmp_path, chain.work_dir))
    assert resumed["meta"]["iter"] == 10
    counts = {key: value for key, value in resumed["state_dict"].items() if key.endswith("weight.count")}
    assert counts
    for key, count in counts.items():
        assert int(count) == int(straight["state_dict"][key]) == 10
    before = read_checkpoint(chain.work_dir / "iter_5.pth")["state_dict"]
    key = next(key for key in before if key.endswith("weight.task_sum"))
    assert float(resumed["state_dict"][key]) > float(before[key]) > 0


def test_a_student_made_here_is_the_next_teacher(chain, tmp_path):
    from train import main as train

    config = read_config(CHAINS[chain.kind][0])
    config = short(config, 1, tmp_path)
    config.model.teacher = dict(config=str(chain.config), checkpoint=str(chain.checkpoint))
    config.model.loss.channels = 32
    path = write(config, tmp_path / "next.py")
    assert run_tool(train, [str(path), "--work-dir", str(tmp_path / "next")]) == 0
    assert (tmp_path / "next" / "prompts.pth").exists()


def test_the_teachers_hash_stands_in_the_prompt_file(chain):
    state = read_checkpoint(chain.work_dir.parent / "prompts" / "prompts.pth")["state_dict"]
    name = {"detection": "blood-cells_retinanet-r18w48", "segmentation": "road-scenes_semantic-fpn-r18w48"}[chain.kind]
    card = json.loads((ROOT / f"data/teachers/{name}.json").read_text())
    assert bytes(state["teacher_hash"].tolist()).hex() == card["weights_hash"]
    assert all(torch.isfinite(value.float()).all() for value in state.values())
