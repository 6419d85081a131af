"""Configs: names of types that stand as classes, and the modules that a config and its bases import."""

import subprocess
import sys

import pytest
from mmengine.config import Config

from freqkd.adapters.dense import DenseLogits
from freqkd.hooks.checkpoint import CheckpointHook
from freqkd.utils.compat import name_of, name_types, read_config

BASE = "custom_imports = dict(imports=['own_base'], allow_failed_imports=False)\nmodel = dict(type='A')\n"


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """Two modules of a user's own."""
    for name in ("own_base", "own_child"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("own_base", "own_child"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("child", "imports"),
    [
        ("custom_imports = dict(imports=['own_child'])", ["own_base", "own_child"]),
        ("custom_imports = dict(imports='own_child')", ["own_base", "own_child"]),
        ("custom_imports = dict(imports=['own_base', 'own_child'])", ["own_base", "own_child"]),
        ("custom_imports = dict(_delete_=True, imports=['own_child'])", ["own_child"]),
        ("custom_imports = dict(imports=[])", ["own_base"]),
        ("", ["own_base"]),
    ],
)
def test_a_config_keeps_what_its_bases_import(own_modules, tmp_path, child, imports):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "middle.py").write_text("_base_ = ['base.py']\n")
    (tmp_path / "child.py").write_text(f"_base_ = ['middle.py']\n{child}\n")
    merge = Config._merge_a_into_b
    config = read_config(tmp_path / "child.py")
    assert config.custom_imports.imports == imports
    assert set(imports) <= set(sys.modules)
    assert Config._merge_a_into_b is merge


def test_names_are_the_shortest_that_are_found():
    from mmcv.ops import RoIAlign, nms
    from mmdet.models import ResNet, RetinaNet
    from mmengine.dataset import pseudo_collate
    from mmengine.model.weight_init import PretrainedInit
    from torch.nn import BatchNorm2d, Embedding
    from torch.optim import SGD

    assert name_of(CheckpointHook) == "freqkd.CheckpointHook"
    assert name_of(DenseLogits) == "freqkd.DenseLogits"
    assert (name_of(RetinaNet), name_of(RetinaNet, "mmdet"), name_of(ResNet, "mmseg")) == (
        "mmdet.RetinaNet",
        "RetinaNet",
        "mmdet.ResNet",
    )
    assert (name_of(BatchNorm2d), name_of(SGD), name_of(PretrainedInit)) == ("BN", "SGD", "Pretrained")
    assert name_of(pseudo_collate) == "pseudo_collate"
    assert (name_of(nms), name_of(RoIAlign)) == ("nms", "RoIAlign")
    assert name_of(Embedding) == "torch.nn.modules.sparse.Embedding"


def test_what_has_no_name_or_is_no_type_stays():
    class Own:
        pass

    config = Config(dict(own=dict(type=Own), flag=dict(type=bool), kinds=(Own, dict(type=DenseLogits)), number=3))
    named = name_types(config)
    assert named.own.type is Own
    assert named.flag.type is bool
    assert named.kinds == (Own, dict(type="freqkd.DenseLogits"))
    assert named.number == 3
    plain = Config(dict(model=dict(type="RetinaNet")))
    assert name_types(plain) is plain


def test_each_part_has_its_own_scope():
    from mmdet.models import RetinaNet

    model = dict(type=RetinaNet)
    teacher = dict(config=dict(default_scope="mmseg", model=model))
    named = read_config(dict(default_scope="mmdet", model=dict(student=model, teacher=teacher)))
    assert named.model.student.type == "RetinaNet"
    assert named.model.teacher.config.model.type == "mmdet.RetinaNet"
    assert model["type"] is RetinaNet  # a dict that was given is not changed


def test_a_type_that_cannot_be_imported_is_one_line(tmp_path):
    (tmp_path / "config.py").write_text("from no_such_module import Network\nmodel = dict(type=Network)\n")
    with pytest.raises(ValueError, match=r"config .*config.py names a module that cannot be imported .*no_such_module"):
        read_config(tmp_path / "config.py")


@pytest.mark.usefixtures("other_processes")
def test_types_of_this_package_are_found_where_nothing_has_imported_it():
    code = (
        "from mmengine.registry import HOOKS, MODELS; MODELS.get('freqkd.MSELoss'), HOOKS.get('freqkd.PromptFileHook')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
