"""Annealing KD in one run: first the teacher alone, then the labels alone."""

from pathlib import Path

from freqkd.utils.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "annealing-kd_logits_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py"
CONFIG = """
_base_ = [{base!r}]
train_cfg = dict(max_iters=4, val_interval=10**6)
param_scheduler = []
train_dataloader = dict(batch_size=2)
default_hooks = dict(checkpoint=dict(interval=4))
model = dict(
    monitor=0, task_schedule=dict(begin=2, by_epoch=False),
    terms=dict(loss_logit=dict(loss=dict(softening=dict(tau_max=2, epochs=2)))))
"""


def test_the_teacher_goes_when_the_labels_come(tool, tmp_path):
    config = tmp_path / "annealing.py"
    config.write_text(CONFIG.format(base=str(ROOT / "configs/annealing-kd" / NAME)))
    assert tool("train", config, "--work-dir", tmp_path / "work") == 0
    scalars = read_checkpoint(tmp_path / "work" / "iter_4.pth")["message_hub"]["log_scalars"]
    task, teacher = (scalars[f"train/{name}"].data[0] for name in ("decode.loss_ce", "distill.loss_logit"))
    assert [value > 0 for value in teacher] == [True, True, False, False]
    assert [value > 0 for value in task] == [False, False, True, True]
    assert list(teacher[2:]) == [0.0, 0.0]
