"""Where the files that configs name are looked for, and how shipped configs are named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config, hub

from freqkd.__main__ import main
from freqkd.apis.preflight import check_model
from freqkd.models.prompt_file import read_prompts
from freqkd.studies.plan import Plan
from freqkd.studies.study import read_study
from freqkd.teacher import Teacher
from freqkd.utils import compat
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint
from freqkd.utils.compat import patch_config_scopes, read_config

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = "freekd/freekd-details_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
NETWORK = "baselines/retinanet_r18w16_b8-12e_blood-cells.py"
NAMED = """
load_from = 'start.pth'
model = dict(
    type='freqkd.Distiller', teacher=dict(config='teacher.py', checkpoint='weights/teacher.pth'),
    student=dict(type='B', backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='backbone.pth'), pretrained='old.pth')),
    terms=dict(loss_freekd=dict(prompts='prompts.pth')))
"""


def names_of(config):
    model = config.model
    backbone, term = model.student.backbone, model.terms.loss_freekd
    named = (model.teacher.config, model.teacher.checkpoint, backbone.init_cfg.checkpoint, backbone.pretrained)
    return [config.load_from, *named, term.prompts]


FILES = ["start.pth", "teacher.py", "weights/teacher.pth", "backbone.pth", "old.pth", "prompts.pth"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with a config, and the working directory, which is another one."""
    for name in ("configs", "here"):
        (tmp_path / name / "weights").mkdir(parents=True)
    (tmp_path / "configs" / "config.py").write_text(NAMED)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "configs", tmp_path / "here"


def test_files_beside_the_config_go_before_those_of_the_working_directory(folders):
    beside, here = folders
    for name in FILES:
        (here / name).touch()
    config = read_config(beside / "config.py")
    assert names_of(config) == FILES  # from the working directory, as the config names them
    for name in FILES:
        (beside / name).touch()
    config = read_config("../configs/config.py")
    assert names_of(config) == [str(beside / name) for name in FILES]
    config.dump(str(here / "copy.py"))  # as MMEngine does into the work dir
    assert names_of(read_config("copy.py")) == [str(beside / name) for name in FILES]


def test_names_stay_where_the_config_lies_in_the_working_directory(folders, monkeypatch):
    beside, _ = folders
    for name in FILES:
        (beside / name).touch()
    monkeypatch.chdir(beside)
    assert names_of(read_config("config.py")) == FILES
    assert names_of(read_config(beside / "config.py")) == FILES


def test_a_copy_in_a_work_dir_finds_what_it_found(folders, monkeypatch):
    beside, here = folders
    for name in FILES:
        (here / name).touch()
    (here / "runs").mkdir()
    (here / "runs" / "config.py").write_text((beside / "config.py").read_text())
    assert names_of(read_config("runs/config.py")) == FILES


def test_addresses_and_absolute_paths_stay(folders):
    beside, _ = folders
    given = ["https://a.org/net.pth", "/no/such/net.pth", "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"]
    for name in given:
        (beside / "config.py").write_text(
            f"model = dict(type='A', teacher=dict(config={name!r}, checkpoint={name!r}))\n"
        )
        teacher = read_config(beside / "config.py").model.teacher
        assert (teacher.config, teacher.checkpoint) == (name, name)


def test_messages_say_where_a_file_was_looked_for(folders):
    beside, here = folders
    teacher = read_config(beside / "config.py").model.teacher
    looked = rf"\(looked in {beside}, {here}\)"
    with pytest.raises(ValueError, match=rf"^config not found: teacher.py; check the path {looked}$"):
        read_config(teacher.config)
    with pytest.raises(CheckpointError, match=rf"weights/teacher.pth; check the path {looked}, or train it first$"):
        read_checkpoint(teacher.checkpoint)
    with pytest.raises(CheckpointError, match=rf"prompts.pth; train the prompts first .*, or check the path {looked}$"):
        read_prompts("prompts.pth")
    with pytest.raises(CheckpointError, match=rf"data/nowhere.pth; check the path \(looked in {here}, {ROOT}\), or"):
        read_checkpoint("data/nowhere.pth")
    with pytest.raises(CheckpointError, match=r"/nowhere.pth; check the path, or train it first$"):
        read_checkpoint("/nowhere.pth")


def test_output_of_runs_is_not_looked_for_beside_the_shipped_configs(folders):
    inside = os.path.relpath(ROOT / "tests" / "conftest.py", ROOT)
    with pytest.raises(
        ValueError, match=r"config not found: tests/conftest.py; check the path \(looked in [^,]*here\)"
    ):
        read_config(inside)


@pytest.mark.usefixtures("whole_networks")
def test_a_shipped_distillation_is_built_in_any_folder(folders):
    config = read_config(f"freqkd::{SAMPLE}")
    assert config.model.teacher.config == "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py"
    config.train_dataloader.dataset.data_root = str(ROOT / config.train_dataloader.dataset.data_root)
    shapes = check_model(config)
    assert shapes  # both networks ran


@pytest.mark.usefixtures("whole_networks")
def test_configs_for_a_shipped_pair_are_written_in_any_folder(folders, capsys):
    teacher = [
        "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py",
        "data/teachers/blood-cells_retinanet-r18w48.pth",
    ]
    pair = [f"freqkd::{NETWORK}", teacher[0], "--checkpoint", teacher[1]]
    assert main(["new-config", *pair, "--out", "out"]) == 0
    assert "Run:\nfreqkd train out/distillation.py" in capsys.readouterr().out
    config = read_config("out/distillation.py")
    assert [os.path.realpath(config.model.teacher[key]) for key in ("config", "checkpoint")] == [
        str(ROOT / name) for name in teacher
    ]
    assert config.model.student == read_config(f"freqkd::{NETWORK}").model


def test_a_study_is_the_same_from_any_folder(folders, monkeypatch):
    _, here = folders
    monkeypatch.chdir(ROOT)
    prints = Plan(read_study("studies/road_scenes.py", ["details"]), here / "results", here / "runs").fingerprints
    monkeypatch.chdir(here)
    (here / "data").symlink_to(ROOT / "data")
    plan = Plan(read_study(str(ROOT / "studies/road_scenes.py"), ["details"]), here / "results", here / "runs")
    assert plan.fingerprints == prints
    assert plan.checkpoint == str(ROOT / "studies/teachers/road-scenes_semantic-fpn-lite2.pth")
    plan._check_recipe()


def test_a_study_finds_what_lies_beside_it(folders):
    beside, _ = folders
    (beside / "student.py").write_text(f"_base_ = ['freqkd::{NETWORK}']\n")
    (beside / "teacher.py").touch()
    (beside / "study.py").write_text(
        "name, budget, student = 'toy', 10, 'student.py'\nmetric = dict(key='mIoU')\n"
        "teacher = dict(config='teacher.py', checkpoint='gone.pth')\n"
        "methods = dict(mse=dict(terms=dict(loss_mse=dict(loss=dict(type='freqkd.MSELoss')))))\n"
        "search = dict(student=[dict(lr=1.0)], methods=[dict(ratio=1.0)])\n"
    )
    study = read_study(str(beside / "study.py"))
    assert study.student.model.type == "RetinaNet"
    assert study.teacher["config"] == str(beside / "teacher.py")
    assert study.teacher["checkpoint"] == "gone.pth"


# ---- names of shipped configs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["baselines", "standardized-kd"])  # MMEngine's own reader takes no hyphen
def test_shipped_configs_are_found_by_name(folder, folders):
    path = next(ROOT.glob(f"configs/{folder}/*.py"))
    name = f"freqkd::{folder}/{path.name}"
    assert read_config(name).to_dict() == read_config(path).to_dict()
    assert get_config(name).to_dict() == Config.fromfile(path).to_dict()


def test_an_editable_install_is_found_where_mmengine_looks_in_site_packages(monkeypatch):
    monkeypatch.setattr(compat, "get_installed_path", lambda package: f"/site-packages/{package}")  # the original one
    patch_config_scopes()
    assert hub.get_installed_path("freqkd") == str(ROOT / "freqkd")
    assert hub.get_installed_path("mmdet") == "/site-packages/mmdet"


def test_a_wrong_name_of_a_shipped_config_names_the_nearest():
    near = f"freqkd::{SAMPLE}".replace("blood-cells.py", "blood-cell.py")
    with pytest.raises(ValueError, match=rf"no file .*blood-cell.py in {ROOT}/configs; did you mean '{SAMPLE}'"):
        read_config(near)
    with pytest.raises(ValueError, match=rf"no file freekd/nofile.py in {ROOT}/configs\); check its name$"):
        read_config("freqkd::freekd/nofile.py")  # nothing is like it


def test_types_of_a_shipped_base_are_those_of_its_networks(folders):
    beside, _ = folders
    leaf = f"_base_ = ['freqkd::{SAMPLE}']\nalone = {{{{_base_.model.student}}}}\nterms = _base_.model.terms\n"
    (beside / "leaf.py").write_text(leaf)
    config = read_config(beside / "leaf.py")
    shipped = read_config(f"freqkd::{SAMPLE}")
    assert config.model.to_dict() == shipped.model.to_dict()
    assert config.alone.to_dict() == shipped.model.student.to_dict()
    assert "freqkd'" not in str([value for key, value in _pairs(config.to_dict()) if key == "_scope_"])
    (beside / "leaf.py").write_text("_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py']\n")
    assert read_config(beside / "leaf.py").model._scope_ == "mmdet"


def _pairs(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _pairs(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pairs(item)


def test_a_teacher_can_be_a_shipped_config():
    teacher = Teacher(f"freqkd::{SAMPLE}", "weights.pth")  # of a distillation, it is the student
    assert type(teacher.make_network()).__name__ == "RetinaNet"


PROGRAM = """
from mmengine.config import Config
try:
    Config.fromfile('leaf.py')
except AssertionError as error:
    print(error)
import freqkd.registry
print(Config.fromfile('leaf.py').model.student.type)
"""


@pytest.mark.usefixtures("other_processes")
def test_other_programs_read_shipped_bases_once_the_registry_is_imported(tmp_path):
    """`_base_` is read before `custom_imports`, so MMEngine alone does not know the name."""
    leaf = f"_base_ = ['freqkd::{SAMPLE}']\ncustom_imports = dict(imports=['freqkd.registry'])\n"
    (tmp_path / "leaf.py").write_text(leaf)
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["mmengine does not support to load freqkd config.", "RetinaNet"]
