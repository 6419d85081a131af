"""A distillation without the student's own losses: images alone train it, and a training with labels starts from there."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.apis.export import student_config
from freqkd.utils.checkpoints import read_checkpoint, weights_of
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
(SAMPLE,) = ROOT.glob("configs/mse/mse-unlabelled_neck_*.py")
STARTS = []
SHORT = """
_base_ = [{base!r}]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=10)
train_dataloader = dict(batch_size=2, dataset=dict({data}))
val_dataloader = val_cfg = val_evaluator = None
param_scheduler = []
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
{more}
"""


@HOOKS.register_module(name="NoteStart", force=True)
class NoteStart(Hook):
    """Notes the weights that a training starts from."""

    def before_train(self, runner):
        STARTS.append({key: value.clone() for key, value in runner.model.state_dict().items()})


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_student_runs_to_its_taps_and_no_label_is_looked_at(distill, freekd_term, small, task):
    terms = dict(loss_freekd=freekd_term(task))
    model, other = (distill(task, terms=terms, own_losses=own_losses).train() for own_losses in (False, True))
    other.load_state_dict(model.state_dict())
    calls = []
    head = model.student.bbox_head if task == "detection" else model.student.decode_head
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    head.loss = None
    data = model.data_preprocessor(small.raw(task), True)
    expected = other(**data, mode="loss")["distill.loss_freekd"]
    for sample in data["data_samples"]:
        for name in list(sample.keys()):
            delattr(sample, name)
    model.rehearse()
    losses = model(**data, mode="loss")
    assert list(losses) == ["distill.loss_freekd"]
    torch.testing.assert_close(losses["distill.loss_freekd"], expected)
    total, _ = model.parse_losses(losses)
    total.backward()
    reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert reached == {"backbone", "neck", "distiller"}
    assert calls == []


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        (dict(own_losses=0), {}, "own_losses must be True or False"),
        (dict(monitor=5), {}, "monitor must be 0 with own_losses=False"),
        (dict(task_schedule=dict(begin=1)), {}, "task_schedule must be None with own_losses=False"),
        (
            {},
            dict(student_tap="data_preprocessor", teacher_tap="neck"),
            "terms.loss_freekd.student_tap must lie in backbone, neck or a dense head with own_losses=False",
        ),
        ({}, dict(weight=dict(ratio=1.0)), "terms.loss_freekd.weight must be a number with own_losses=False"),
        (
            {},
            dict(adapter=dict(type="freqkd.DenseLogits", num_classes=3), align=None),
            "terms.loss_freekd.adapter must be None with own_losses=False, got DenseLogits",
        ),
    ],
)
def test_what_needs_a_task_is_refused(distill, freekd_term, options, changes, words):
    terms = dict(loss_freekd=freekd_term("detection", **changes))
    with pytest.raises(ValueError, match=words):
        distill("detection", terms=terms, **dict(dict(own_losses=False), **options))


def test_the_sample_config_trains_on_a_folder_of_images_and_a_training_with_labels_starts_from_it(
    tool, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    photos = sorted((ROOT / "data/samples/blood_cells/images/train").glob("*"))[:4]
    for index, path in enumerate(photos):
        shutil.copy(path, tmp_path / "photos" / ("more" if index % 2 else "") / path.name)
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    data = f"data_root={str(tmp_path / 'photos')!r}, data_prefix=dict(img='')"
    first.write_text(SHORT.format(base=str(SAMPLE), data=data, more=""))
    assert tool("train", first, "--work-dir", tmp_path / "first") == 0
    saved = weights_of(read_checkpoint(tmp_path / "first" / "iter_2.pth"))
    assert "type" not in str(read_config(tmp_path / "first" / "student_config.py").get("train_dataloader"))

    more = f"load_from = {str(tmp_path / 'first' / 'iter_2.pth')!r}\ncustom_hooks = [dict(type='mmengine.NoteStart')]"
    base = ROOT / "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
    second.write_text(SHORT.format(base=str(base), data="indices=4", more=more))
    STARTS.clear()
    assert tool("train", second, "--work-dir", tmp_path / "second") == 0
    (start,) = STARTS
    assert set(start) == set(saved)
    assert all(torch.equal(start[key], saved[key]) for key in saved)


def test_the_students_own_config_has_no_training_on_the_images_without_labels():
    alone = student_config(read_config(SAMPLE))
    assert alone.model.type == "RetinaNet"
    assert not {"train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"} & set(alone)
