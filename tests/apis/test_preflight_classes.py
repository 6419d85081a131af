"""The classes of teacher, data and heads are compared by name and order before a run."""

import json
import logging
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from freqkd.apis.preflight import check_data, check_model, resolve_shared_classes
from freqkd.apis.preflight.classes import check_classes, data_classes
from freqkd.models import PromptTuner
from freqkd.utils.checkpoints import read_checkpoint, write_atomic

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cell", "Traffic light", "dog")
FOCAL = dict(type="freqkd.LogitLoss", divergence="quality_focal", activation="sigmoid")
MSE = dict(type="freqkd.MSELoss")
LOGITS = dict(student_tap="bbox_head.retina_cls", adapter=dict(type="freqkd.DenseLogits"), loss=FOCAL)
NECK = dict(student_tap="backbone", student_levels=(0,), loss=MSE)


@pytest.fixture
def data(tmp_path):
    """Return `data(names, categories=names, wrapped=False)`: a config whose training data have these classes."""

    def make(names=NAMES, categories=None, wrapped=False):
        content = dict(images=[], annotations=[])
        content["categories"] = [dict(id=7 * index, name=name) for index, name in enumerate(categories or names)]
        path = tmp_path / "train.json"
        path.write_text(json.dumps(content))
        dataset = dict(type="CocoDataset", ann_file=str(path), metainfo=dict(classes=names), pipeline=[])
        if wrapped:
            dataset = dict(
                type="RepeatDataset", times=2, dataset=dict(type="ConcatDataset", datasets=[dataset, dataset])
            )
        return Config(dict(default_scope="mmdet", train_dataloader=dict(dataset=dataset)))

    return make


@pytest.fixture
def taught(teachers, tmp_path):
    """Return `taught(meta, task)`: the teacher of a task, whose checkpoint has this `meta`."""

    def make(meta, task="detection"):
        held = teachers(task)
        write_atomic(
            dict(state_dict=read_checkpoint(held["checkpoint"])["state_dict"], meta=meta), tmp_path / "teacher.pth"
        )
        return dict(held, checkpoint=str(tmp_path / "teacher.pth"))

    return make


def named(*names):
    return dict(dataset_meta=dict(classes=names))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (
            named("cell", "dog", "Traffic light"),
            r"class 1 is 'Traffic light' in the data and 'dog' in the teacher's checkpoint",
        ),
        (named("cell", "Traffic light", "cat"), r"class 2 is 'dog' in the data and 'cat' in .* \(3 and 3 classes\)"),
        (named("cell", "Traffic light"), r"class 2 is 'dog' in the data and none in .* \(3 and 2 classes\)"),
        (named(*NAMES, "cat"), r"class 3 is none in the data and 'cat' in .* \(3 and 4 classes\)"),
        (dict(CLASSES=("dog", "cell", "Traffic light")), "class 0 is 'cell' in the data and 'dog'"),
        (dict(dataset_meta=dict(CLASSES=["dog", "cell", "Traffic light"])), "class 0 is 'cell' in the data and 'dog'"),
        (named(*NAMES), ""),
        (named("Cell", "traffic_light", "DOG"), ""),
        (dict(CLASSES=NAMES), ""),
        (dict(epoch=12), ""),
        (dict(dataset_meta=dict(classes="cell")), ""),
    ],
)
def test_names_and_order_are_compared(distill, taught, data, capsys, monkeypatch, meta, words):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of a logger that an earlier test's console has left
    model = distill("detection", terms=dict(loss_kd=LOGITS), teacher=taught(meta))
    if words:
        with pytest.raises(
            ValueError, match=rf"for terms\.loss_kd, .*{words}.*classes='shared'.*model\.teacher\.classes="
        ):
            check_classes(model, data())
    else:
        check_classes(model, data())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("term", "is_error"),
    [
        (LOGITS, True),
        (dict(student_tap="bbox_head.retina_cls", loss=MSE), True),
        (dict(student_tap="bbox_head", loss=MSE), True),
        (
            dict(
                student_tap="neck",
                adapter=dict(type="freqkd.CrossHead", index=0, cls="retina_cls", reg=None),
                loss=FOCAL,
            ),
            True,
        ),
        (NECK, False),
        (dict(student_tap="bbox_head.cls_convs.0", loss=MSE), False),
        (
            dict(
                NECK,
                adapter=dict(type="freqkd.GroundTruthBoxes"),
                loss=dict(type="freqkd.FGDLoss", channels=8, num_levels=1),
            ),
            False,
        ),
        (
            dict(NECK, adapter=dict(type="freqkd.ScoreMaps", head="bbox_head.retina_cls", num_classes=3), loss=MSE),
            False,
        ),
    ],
)
def test_a_difference_is_an_error_for_class_logits_and_a_warning_for_features(
    distill, taught, data, capsys, term, is_error
):
    model = distill("detection", terms=dict(loss_kd=term), teacher=taught(named("dog", "cell", "Traffic light")))
    if is_error:
        with pytest.raises(ValueError, match="same classes in the same order"):
            check_classes(model, data())
        return
    check_classes(model, data())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: student and teacher have other classes: class 0 is 'cell' in the data and 'dog'")
    assert line.endswith("terms.loss_kd distils features across them")


def test_a_head_that_is_inherited_is_named(distill, small, taught, data, capsys):
    held = taught(named("dog", "cell", "Traffic light"))
    options = dict(student=small.config("detection", 8), inherit=["bbox_head"])
    check_classes(distill("detection", terms=dict(loss_kd=NECK), teacher=held, **options), data())
    assert "'bbox_head', which is inherited, starts with the teacher's" in capsys.readouterr().err


def test_heads_of_other_counts_are_compared_where_no_names_are_known(distill, teachers, small, data, capsys):
    student = small.config("detection", 4, bbox_head__num_classes=2)
    words = r"for terms\.loss_kd, .*the student's heads have 2 classes, the teacher's 3"
    with pytest.raises(ValueError, match=words):
        check_classes(distill("detection", terms=dict(loss_kd=LOGITS), student=student), data())
    capsys.readouterr()
    check_classes(distill("detection", terms=dict(loss_kd=NECK), student=student), data())
    assert "the student's heads have 2 classes, the teacher's 3; terms.loss_kd distils" in capsys.readouterr().err


def test_a_prompt_stage_needs_the_classes_of_its_teacher(taught, data):
    held = taught(named("dog", "cell", "Traffic light"))
    prompts = dict(channels=16, num_levels=5, depth=1)
    with DefaultScope.overwrite_default_scope("mmdet"):
        tuner = PromptTuner(held, prompts=prompts)
    with pytest.raises(
        ValueError, match=r"the data of a first stage must have the teacher's classes in their order.*'cell'"
    ):
        check_classes(tuner, data())
    check_classes(tuner, data(("dog", "cell", "Traffic light")))


def test_stated_names_replace_those_of_the_checkpoint(distill, taught, data):
    held = taught(named("dog", "cell", "Traffic light"))
    check_classes(distill("detection", terms=dict(loss_kd=LOGITS), teacher=dict(held, classes=list(NAMES))), data())
    with pytest.raises(ValueError, match=r"teacher\.classes must be a list of names, or None, got 'dog'"):
        distill("detection", terms=dict(loss_kd=LOGITS), teacher=dict(held, classes="dog"))


def test_the_labels_of_coco_are_numbered_by_its_file(distill, taught, data):
    """mmdet's CocoDataset ignores the order of metainfo.classes, and leaves out what the file does not have."""
    order = ("dog", "Traffic light", "cell")
    assert list(data_classes(data(NAMES, order))) == [order]
    assert list(data_classes(data(NAMES, ("cell", "dog")))) == [("cell", "dog")]
    assert list(data_classes(data(("dog",), NAMES, wrapped=True))) == [("dog",), ("dog",)]
    model = distill("detection", terms=dict(loss_kd=LOGITS), teacher=taught(named(*NAMES)))
    with pytest.raises(ValueError, match="class 0 is 'dog' in the data and 'cell'"):
        check_classes(model, data(NAMES, order))
    model = distill("detection", terms=dict(loss_kd=LOGITS), teacher=taught(named(*order)))
    check_classes(model, data(NAMES, order))


def test_an_order_that_mmdet_does_not_keep_is_said(cells_config, capsys):
    names = cells_config.train_dataloader.dataset.metainfo.classes
    cells_config.train_dataloader.dataset.metainfo = dict(classes=(names[1], names[0], names[2]))
    check_data(cells_config, ("train",))
    (line,) = capsys.readouterr().err.splitlines()
    assert "mmdet numbers the classes by their order in" in line
    assert f"where class 0 is {names[0]!r}, and metainfo.classes names {names[1]!r}" in line


@pytest.fixture
def cells_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return Config.fromfile("configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py")


# ---- classes that both have -----------------------------------------------------------------------------------------------


def shared_config(data, held, adapters):
    config = data()
    terms = {name: dict(LOGITS, adapter=adapter) for name, adapter in adapters.items()}
    config.model = dict(type="freqkd.Distiller", teacher=held, terms=terms)
    return config


def test_shared_classes_are_found_by_name(taught, data, capsys):
    shared, plain = (dict(type="freqkd.DenseLogits", **more) for more in (dict(classes="shared"), {}))
    config = shared_config(data, taught(named("cat", "dog", "traffic light")), dict(loss_kd=shared, loss_more=plain))
    resolve_shared_classes(config)
    assert [tuple(pair) for pair in config.model.terms.loss_kd.adapter.classes] == [(1, 2), (2, 1)]
    assert "classes" not in config.model.terms.loss_more.adapter
    assert capsys.readouterr().err.endswith("which student and teacher share: Traffic light, dog\n")


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (dict(epoch=1), "must be pairs of indices.*where the teacher's checkpoint does not name its classes"),
        (named("cat"), "needs a class that both have"),
    ],
)
def test_shared_classes_need_names_in_common(taught, data, meta, words):
    adapters = dict(loss_kd=dict(type="freqkd.DenseLogits", classes="shared"))
    with pytest.raises(ValueError, match=rf"terms\.loss_kd\.adapter\.classes.*{words}"):
        resolve_shared_classes(shared_config(data, taught(meta), adapters))


def test_a_term_on_shared_classes_takes_its_first_step(small, taught, cells_config, capsys):
    """A student of three classes and a teacher of three others, one of them shared."""
    held = taught(named("cat", "Platelets", "dog"))
    config = cells_config
    adapter = dict(type="freqkd.DenseLogits", classes="shared")
    term = dict(type="freqkd.DistillTerm", **dict(LOGITS, adapter=adapter), weight=dict(ratio=0.5))
    config.model = dict(
        type="freqkd.Distiller", student=small.config("detection", 4), teacher=held, terms=dict(loss_kd=term)
    )
    samples = check_data(config, ("train",))
    resolve_shared_classes(config)
    assert [tuple(pair) for pair in config.model.terms.loss_kd.adapter.classes] == [(2, 1)]
    check_model(config, samples=samples)
    del config.model.terms.loss_kd.adapter.classes
    with pytest.raises(ValueError, match="class 0 is 'RBC' in the data and 'cat' in the teacher's checkpoint"):
        check_model(config, samples=samples)
