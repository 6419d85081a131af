"""A config whose types are classes is trained, tested, exported and resumed as one that names them."""

import re
from pathlib import Path

import mmengine.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry

from freqkd.apis.export import is_distillation
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/mse/mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
LEFT_OUT = (  # what this package adds, and what a run of two steps does without
    *("custom_imports", "neck_term", "teacher", "resume", "load_from", "val_cfg", "val_dataloader", "val_evaluator"),
    *("metainfo", "train_pipeline", "test_pipeline", "vis_backends"),
)
DISTILL = """
from mmengine.config import read_base

with read_base():
    from .student import *

from freqkd.align import ConvAlign
from freqkd.losses import MSELoss
from freqkd.models import Distiller, DistillTerm

model = dict(
    type=Distiller, student=model,
    teacher=dict(
        config='configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py',
        checkpoint='data/teachers/blood-cells_retinanet-r18w48.pth'),
    terms=dict(loss_feature=dict(
        type=DistillTerm, student_tap='neck', student_levels=(0, 1, 2), loss=dict(type=MSELoss),
        align=dict(type=ConvAlign, student_channels=32, teacher_channels=64, num_levels=3))))
"""


def kind_named(word):
    """The class that a type names in mmdet's registries or MMEngine's, None where no registry has it."""
    roots = [one for one in vars(mmengine.registry).values() if isinstance(one, Registry)]
    for registry in (*(root.children["mmdet"] for root in roots if "mmdet" in root.children), *roots):
        if word in registry.module_dict:
            return registry.module_dict[word]
    return None


def as_source(value, imports, key=None):
    """Python source of a config's value, with a class for each type; `imports` collects what it needs."""
    kind = kind_named(value) if key == "type" else None
    if kind is not None:
        imports.add(f"from {kind.__module__} import {kind.__name__}")
        return kind.__name__
    if isinstance(value, dict):
        return "dict(" + ", ".join(f"{name}={as_source(item, imports, name)}" for name, item in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        inside = "".join(f"{as_source(item, imports)}, " for item in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value)


@pytest.fixture(scope="module")
def distillation(tmp_path_factory):
    """A distillation of two steps, written with classes; its base is the student alone."""
    plain = read_config(CONFIG)
    plain.model = plain.model.student
    for name in LEFT_OUT:
        plain.pop(name, None)
    plain.default_hooks.pop("channels_last")
    plain.default_hooks.checkpoint.type = "CheckpointHook"
    plain.train_cfg.update(max_epochs=1)
    plain.train_dataloader.update(batch_size=2)
    plain.train_dataloader.dataset.indices = 4
    plain.test_dataloader.dataset.indices = 1
    import mmdet.datasets
    import mmdet.evaluation
    import mmdet.models
    import mmdet.visualization  # noqa: F401

    imports = set()
    lines = [f"{name} = {as_source(value, imports, name)}" for name, value in plain.to_dict().items()]
    folder = tmp_path_factory.mktemp("pure")
    text = "\n".join([*sorted(imports), *lines]).replace("(320, 240, )", "(96, 64, )")
    (folder / "student.py").write_text(text)
    (folder / "distill.py").write_text(DISTILL)
    assert len(imports) > 30
    return folder / "distill.py"


def test_its_types_are_the_names_that_a_config_of_names_has(distillation):
    found, named = read_config(distillation), read_config(CONFIG)
    assert is_distillation(found)
    assert found.model.terms.loss_feature.align.type == "freqkd.ConvAlign"
    assert found.default_hooks.checkpoint.type == "CheckpointHook"
    assert found.model.student.to_dict() == named.model.student.to_dict()
    assert found.test_dataloader.dataset.pipeline[2:] == named.test_dataloader.dataset.pipeline[2:]
    assert found.optim_wrapper == named.optim_wrapper
    assert not {"Distiller", "RetinaNet", "AdamW"} & set(found.keys())  # the imported names themselves
    assert read_config(found) is found


@pytest.fixture(scope="module")
def run(distillation, tool):
    assert tool("train", distillation, "--work-dir", distillation.parent / "work") == 0
    return distillation.parent / "work"


def test_it_leaves_the_students_config_and_its_checkpoint_is_taken(run, distillation, tool, tmp_path):
    student, checkpoint = run / "student_config.py", run / "epoch_1.pth"
    assert "freqkd" not in student.read_text()
    assert not re.search(r"<class|<function", student.read_text())
    assert Config.fromfile(student).model.type == "RetinaNet"
    assert tool("test", distillation, checkpoint, "--work-dir", tmp_path / "test") == 0
    assert tool("export_student", distillation, checkpoint, "--out-dir", tmp_path / "export") == 0
    exported = Config.fromfile(tmp_path / "export/student_config.py")
    assert exported.model == Config.fromfile(student).model
    assert exported.model == read_config(CONFIG).model.student


def test_it_is_resumed_and_another_teacher_is_refused(run, distillation, tool, tmp_path, capsys):
    assert tool("train", distillation, "--work-dir", run, "--resume", "--cfg-options", "train_cfg.max_epochs=2") == 0
    assert (run / "epoch_2.pth").exists()
    weights = torch.load(ROOT / "data/teachers/blood-cells_retinanet-r18w48.pth", weights_only=False)
    weights["state_dict"]["bbox_head.retina_cls.bias"] += 1
    torch.save(weights, tmp_path / "other.pth")
    changes = ("train_cfg.max_epochs=3", f"model.teacher.checkpoint={tmp_path / 'other.pth'}")
    assert tool("train", distillation, "--work-dir", run, "--resume", "--cfg-options", *changes) == 1
    assert "cannot resume: model.teacher must be what the checkpoint was trained with" in capsys.readouterr().err
