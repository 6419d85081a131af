"""Study files, their refusals, and the part of the training split that is held out."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from freqkd.studies.answer import read_study as read_results
from freqkd.studies.answer import summarise
from freqkd.studies.compare import main
from freqkd.studies.other_images import redirect
from freqkd.studies.page import fill
from freqkd.studies.plan import Plan, _pad_to_one_size
from freqkd.studies.run import make_config
from freqkd.studies.split import Selection, hold_out, training_images
from freqkd.studies.study import Budget, read_study
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
CELLS = "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
ROADS = "configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py"

WRONG = {
    "names = 'toy'": "'names'; did you mean 'name'",
    "name = 'a/b'": "name must be made of letters, digits.* got 'a/b'",
    "student = 'nowhere.py'": "config not found: nowhere.py",
    "teacher = dict(config='x.py')": "teacher must be dict.*checkpoint=.*steps=",
    "teacher['checkpoint'] = 'nowhere.pth'": "checkpoint not found: nowhere.pth",
    "teacher['cache'] = dict(dir='x', views=1)": "teacher.cache must be left out",
    "metric = dict(key='mIoU', scale=0)": "metric.scale must be above 0, got 0",
    "metric = dict(name='mIoU')": "metric needs key=",
    "metric = dict(key='val/mIoU', scale=1.0)": "metric.scale must be 100 for 'val/mIoU', which is in percent, got 1.0",
    "selection = dict(fraction=0.9)": "selection.fraction must be at most 0.5, got 0.9",
    "selection = dict(fraction=0.01)": "selection.fraction must leave a group of images on either side, got 0.01 of 12",
    "methods['student'] = methods['mse']": "methods.student must have another name",
    "methods['mse']['term'] = 1": "methods.mse takes terms, prompts, head, options, data, got 'term'",
    "methods['mse']['data'] = dict(sampler={})": r"methods.mse.data must be dict\(sampler=.*hooks=",
    "methods['mse']['data'] = dict(sampler=dict(type='freqkd.CondensedSampler'), hooks=[])": "methods.mse: .*CondensationHook",
    "methods['mse']['terms'] = {}": "methods.mse.terms must hold a term, got none",
    "methods['mse']['prompts'] = 'x.py'": "methods.mse must have prompts=CONFIG .* or neither, got prompts='x.py' and 0",
    "methods['mse']['head'] = 'x.py'": "methods.mse must have head=CONFIG .* or neither, got head='x.py' and 0",
    "methods['mse']['terms']['loss_mse']['adapter'] = dict(head=True)": ".*have head=CONFIG .* got head=None and 1",
    "methods['mse']['terms']['loss_mse'].update(prompts=True, adapter=dict(head=True)); "
    "methods['mse'].update(prompts='x.py', head='y.py')": "methods.mse must have one first stage, got .*'x.py' and .*'y.py'",
    "methods['mse']['terms']['loss_mse']['weight'] = 1.0": "methods.mse must have a term without weight.* got no such term",
    "methods['mse']['terms']['loss_mse']['student_tap'] = 'nek'": "methods.mse: terms.loss_mse.student_tap: .*'nek'",
    "methods['mse']['terms']['loss_mse'].pop('align')": "methods.mse: .*add an align",
    "search['methods'].append(dict(ratio=9.0))": r"as many trials for methods as for student, at least one, got \[3, 2\]",
    "search['student'][0] = dict(ratio=1.0)": "search.student must be one of 'lr', 'length', got 'ratio'",
    "search['student'][0] = dict(length=2.0)": r"search.student\[0\].length must be at most 1, got 2.0",
    "search['student'][1] = search['student'][0]": "search.student must name every trial once, got .* twice",
    "seeds = 0": "seeds must be at least 1, got 0",
    "pilot = 1": "pilot must be at least 2, got 1",
    "seeds, pilot = 3, 3": "pilot must be below seeds, .*got 3 and 3; name more with --seeds, or 0 for no pilot",
    "views = -1": "views must be at least 0, got -1",
    "budget = '5 minutes'": "budget must be a number of steps, or of seconds such as '300s', got '5 minutes'",
    "budget = 2": "budget must be at least 5, got 2",
    "methods['mse']['data'] = ['a']": r"methods.mse.data must be dict.*got \['a'\]",
    "methods['mse']['data'] = dict(sampler={}, hooks=dict(type='x'))": "methods.mse.data must be dict.*hooks=",
    "amp = 'half'": "amp must be one of 'bfloat16', 'float16', got 'half'",
    "model = dict(type='RetinaNet')": "is the config of a training, not a study; .* freqkd compare --quick .*study.py",
    "metrik = 1": "study .*study.py, beside term and control, takes name, .* got 'metrik'; did you mean 'metric'",
    "control = 'mes'": "control must be one of 'mse', got 'mes'; did you mean 'mse'",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_study_is_refused_before_anything_is_written(line, toy_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = toy_study(tmp_path, more=line)
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=WRONG[line]):
        main([study])
    assert set(tmp_path.iterdir()) == before


def test_options_of_the_command_line_take_the_place_of_the_files(toy_study, tmp_path):
    path = toy_study(tmp_path, more="control = 'mse'\nmethods['pkd'] = dict(terms=dict(methods['mse']['terms']))")
    assert list(read_study(path).methods) == ["student", "mse", "pkd", "mse-random-teacher"]
    study = read_study(path, ["pkd"], seeds=7, budget="90s", views=0)
    assert (list(study.methods), study.seeds, study.budget, study.views) == (
        ["student", "pkd"],
        7,
        Budget(seconds=90.0),
        0,
    )
    assert list(read_study(path, ["mse"]).methods) == ["student", "mse"]  # a control runs where it is named
    assert list(read_study(path, ["mse-random-teacher"]).methods) == ["student", "mse-random-teacher"]
    with pytest.raises(ValueError, match=r"--methods must be one of 'mse', 'pkd', .*got 'pdk'"):
        read_study(path, ["pdk"])


def test_a_method_draws_images_its_own_way(toy_study, tmp_path):
    data = dict(sampler=dict(type="freqkd.CondensedSampler"), hooks=[dict(type="freqkd.CondensationHook", tap="x")])
    study = read_study(toy_study(tmp_path, more=f"methods['kcd'] = dict(methods['mse'], data={data})"))
    plan = Plan(study, tmp_path / "results", tmp_path / "work")
    plain, drawn = (plan.training(name, dict(ratio=1.0), 0, KNOWN).config for name in ("mse", "kcd"))
    assert plain.train_dataloader.sampler.type == "InfiniteSampler"
    assert drawn.train_dataloader.sampler == data["sampler"]
    assert data["hooks"][0] in drawn.custom_hooks
    assert data["hooks"][0] not in plain.custom_hooks
    assert plan.fingerprints["mse"] != plan.fingerprints["kcd"]


KNOWN = dict(seconds_per_step=dict(student=1.0), other_seconds=dict(student=1.0))


def plan_of(folder, study):
    return Plan(read_study(study), folder / "results", folder / "work")


def made_of(plan, name="mse"):
    """What a final run of a method is made of, and what its teacher's evaluation is."""
    final, teacher = plan.training(name, dict(ratio=1.0), 0, KNOWN), plan.evaluation()
    return final.config.study_run.made_of, teacher.config.study_run.made_of


OTHER = {  # a line more in a study, and whether the run and the evaluation of the teacher are others then
    "": (False, False),
    "budget = 7": (True, False),
    "methods['mse']['terms']['loss_mse']['loss'] = dict(type='freqkd.PKDLoss')": (True, False),
    "metric['key'] = 'mAcc'": (True, True),
    "metric['larger'] = False": (True, True),
    "metric['name'] = 'a name'": (False, False),
    "selection['fraction'] = 0.4": (True, True),
}


@pytest.fixture(scope="module")
def plain(toy_study, tmp_path_factory):
    """The plan of the toy study, and what a run and the evaluation of the teacher are made of."""
    folder = tmp_path_factory.mktemp("plain")
    plan = plan_of(folder, toy_study(folder, reads="reads"))
    return plan, made_of(plan)


@pytest.mark.parametrize("line", OTHER)
def test_a_run_is_named_after_what_it_is_made_of(line, toy_study, tmp_path, plain):
    plan = plan_of(tmp_path, toy_study(tmp_path, line, reads="reads"))
    run, evaluation = (one != other for one, other in zip(made_of(plan), plain[1]))
    assert (run, evaluation) == OTHER[line]
    # A run's length is no part of the fingerprint, but of the file's name.
    assert (plan.fingerprints != plain[0].fingerprints) == (run and line != "budget = 7")


def test_a_run_is_made_of_the_images_and_of_the_teachers_weights(toy_study, tmp_path):
    study = toy_study(tmp_path)
    before = plan_of(tmp_path, study)
    root = Path(before.study.student.train_dataloader.dataset.data_root)
    teacher = tmp_path / "teacher.pth"
    weights = torch.load(before.checkpoint)
    next(iter(weights["state_dict"].values())).view(-1)[0] += 1
    torch.save(weights, teacher)
    line = f"teacher['checkpoint'] = {str(teacher)!r}"
    other = plan_of(tmp_path, toy_study(tmp_path, line))
    assert all(one != two for one, two in zip(made_of(before), made_of(other)))
    assert before.fingerprints != other.fingerprints
    shutil.copytree(root, tmp_path / "more")
    for kind in ("img", "ann"):
        shutil.copy(root / kind / "train/00.png", tmp_path / "more" / kind / "train/99.png")
    (tmp_path / "student.py").write_text(
        (tmp_path / "student.py").read_text().replace(str(root), str(tmp_path / "more"))
    )
    assert plan_of(tmp_path, study).fingerprints != other.fingerprints
    for kind in ("img", "ann"):
        (tmp_path / "more" / kind / "train/99.png").unlink()
    assert plan_of(tmp_path, study).fingerprints == other.fingerprints  # the same images in another folder


def test_a_run_is_not_named_after_where_its_files_lie(toy_study, tmp_path, monkeypatch, plain):
    study = toy_study(tmp_path, reads="reads")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "results", str(tmp_path)):  # of "." a single word is left, which means other things, too
        assert Plan(read_study(study), folder, folder).fingerprints == plain[0].fingerprints


def test_seconds_become_steps_by_one_calibration_on_one_device(toy_study, tmp_path):
    plan, nothing = plan_of(tmp_path, toy_study(tmp_path, "budget = '5s'")), dict(seconds_per_step={}, other_seconds={})
    measured = [dict(seconds_per_step={name: 0.1}, other_seconds={name: 1.0}) for name in ("student", "mse")]
    plan.about(calibration=measured[0])  # for the time left of a budget in steps, on another day
    plan.begin_calibration("a CPU")
    assert plan.about()["calibration"] == nothing | dict(together=True, device="a CPU")
    plan.about(calibration=measured[0])
    assert plan.to_measure() == ["mse", "mse"]  # nothing says how often the student was: that will do
    plan.about(calibration=dict(measured=dict(student=[0.1])))
    assert plan.to_measure() == ["mse", "mse", "student"]
    plan.begin_calibration("a CPU")  # stopped and started again
    assert plan.about()["calibration"]["seconds_per_step"] == {"student": 0.1}
    plan.begin_calibration("a GPU")
    assert plan.about()["calibration"] == nothing | dict(together=True, device="a GPU")
    plan.about(calibration=measured[0])
    run = plan.training("student", {}, 0, plan.about()["calibration"])
    run.result.write_text(json.dumps(run.config.study_run.record))
    plan.begin_calibration("a GPU")  # which mse is still to be measured on
    with pytest.raises(
        ValueError, match=r"budget must be a number of steps for mse beside .*became steps on a GPU; or give"
    ):
        plan.begin_calibration("a CPU")
    plan.about(calibration=measured[1])
    before = plan.about()
    plan.begin_calibration("a CPU")  # the steps of all are known
    assert plan.about() == before


def test_a_first_stage_is_named_after_its_content(toy_study, tmp_path):
    (tmp_path / "prompts.py").write_text("model = dict(type='freqkd.PromptTuner', teacher=dict())\nlr = 1\n")
    more = "methods['mse'].update(prompts='prompts.py')\nmethods['mse']['terms']['loss_mse']['prompts'] = True"
    study = toy_study(tmp_path, more)
    before = plan_of(tmp_path, study)
    (tmp_path / "prompts.py").write_text("model = dict(type='freqkd.PromptTuner', teacher=dict())\nlr = 2\n")
    after = plan_of(tmp_path, study)
    assert before._stage("mse") != after._stage("mse")
    assert before.fingerprints["mse"] != after.fingerprints["mse"]
    assert before.fingerprints["student"] == after.fingerprints["student"]


def test_two_comparisons_add_to_one_file(toy_study, tmp_path):
    study = toy_study(tmp_path)
    one, two = plan_of(tmp_path, study), plan_of(tmp_path, study)
    one.about(calibration=dict(seconds_per_step={}, other_seconds={}))
    one.about(calibration=dict(seconds_per_step=dict(mse=1.0)), teacher=dict(metric=2.0))
    two.about(calibration=dict(seconds_per_step=dict(pkd=3.0)), teacher=dict(weights="ab"))
    found = one.about()
    assert found["calibration"]["seconds_per_step"] == dict(mse=1.0, pkd=3.0)
    assert found["teacher"] == dict(metric=2.0, weights="ab")


def test_the_metric_is_shown_as_the_study_says_it_now(toy_study, tmp_path):
    plan_of(tmp_path, toy_study(tmp_path, "metric.update(worthwhile=2.0)")).about(teacher=dict(metric=2.0))
    plan_of(tmp_path, toy_study(tmp_path, "metric.update(name='IoU')")).renew()
    path = tmp_path / "results/toy/STUDY.json"
    assert json.loads(path.read_text()) == dict(study="toy", metric_name="IoU", scale=100.0, teacher=dict(metric=2.0))
    (tmp_path / "results/toy/mse_6-steps_seed0.json").touch()
    with pytest.raises(ValueError, match=r"metric\.worthwhile must be None, as before the runs in .*, got 1\.0"):
        plan_of(tmp_path, toy_study(tmp_path, "metric.update(worthwhile=1.0)")).renew()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (dict(data_root="{own}", ann_file="ann/val", data_prefix=dict(img="img/val/")), "img/test"),
        (dict(data_root="{own}/", ann_file="{own}/ann/val", data_prefix=dict(img="{own}/img/val")), "img/test"),
        (dict(data_root="{own}", ann_file="ann/val"), None),
        (dict(ann_file="{own}/ann/val", data_prefix=dict(img="{own}/img/val")), "lie below data_root"),
        (dict(data_root="{own}", ann_file="{own}2/ann/val"), "lie below data_root"),
    ],
)
def test_the_reported_split_is_found_in_another_folder(options, found, tmp_path):
    own, other = tmp_path / "val", tmp_path / "other"
    for folder in (own / "img/val", own / "ann/val", other / "img/test", other / "ann/test"):
        folder.mkdir(parents=True)
    dataset = json.loads(json.dumps(dict(options, type="X")).replace("{own}", str(own)))
    config = Config(
        dict(test_dataloader=dict(dataset=dataset), test_evaluator=dict(type="Y", ann_file=f"{own}/ann/val"))
    )
    if found and "root" in found:
        with pytest.raises(ValueError, match=found):
            redirect(config, str(other), "test")
        return
    redirect(config, str(other), "test")
    made = config.test_dataloader.dataset
    assert (made.data_root, made.ann_file) == (str(other), "ann/test")
    assert (made.get("data_prefix") or dict(img=None))["img"] == found
    assert config.test_evaluator.ann_file == str(other / "ann/test")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the precision is for accelerators")
def test_a_precision_that_the_machine_lacks_is_refused_before_the_teacher_is_trained(toy_study, tmp_path):
    with pytest.raises(ValueError, match="amp must be 'bfloat16' on a machine without an accelerator, got 'float16'"):
        main([toy_study(tmp_path, more="amp = 'float16'")])


def test_students_train_in_the_precision_of_the_study(toy_study, tmp_path):
    plain, half = (
        Plan(read_study(toy_study(tmp_path, more=more)), tmp_path / "results", tmp_path / "work")
        for more in ("", "amp = 'bfloat16'")
    )
    assert half.training("mse", dict(ratio=1.0), 0, KNOWN).config.optim_wrapper.type == "freqkd.Bfloat16OptimWrapper"
    assert plain.training("mse", dict(ratio=1.0), 0, KNOWN).config.optim_wrapper.type == "OptimWrapper"
    assert plain.fingerprints["mse"] != half.fingerprints["mse"]


def test_seconds_become_steps_of_each_method():
    pace = {"student": 0.25, "mse": 0.4, "slow": 100.0}
    budget = Budget.read("30s")
    assert [budget.of(name, pace)["steps"] for name in pace] == [120, 75, 5]
    assert budget.of("mse", pace)["seconds"] == 30
    assert Budget.read(80).of("mse", pace) == {"steps": 80}
    assert Budget(steps=50, like="mse").of("student", pace) == {"steps": 80, "seconds": 20.0}


def test_images_that_belong_together_are_not_parted():
    frames = [f"{number:03}.jpg" for number in range(80)]
    held = Selection(0.2, seed=3, together=8).draw(reversed(frames))
    assert len(held) == 16
    assert {int(name[:3]) // 8 for name in held} == {int(name[:3]) // 8 for name in held if int(name[:3]) % 8 == 5}
    crops = [f"{photograph}_{crop}.jpg" for photograph in "abcdefghij" for crop in range(1 + (photograph > "d"))]
    held = Selection(0.3, together=r"_\d$").draw(crops)
    assert len({name[0] for name in held}) == 3
    assert held == {name for name in crops if name[0] in {one[0] for one in held}}
    assert held != Selection(0.3, seed=1, together=r"_\d$").draw(crops)


def used(config, part):
    """Return the images of a part, relative to the data's root."""
    options = config[f"{part}_dataloader"].dataset
    with DefaultScope.overwrite_default_scope(config.default_scope):
        dataset = DATASETS.build(options)
    return {os.path.relpath(dataset.get_data_info(i)["img_path"], options.data_root) for i in range(len(dataset))}


@pytest.mark.parametrize("path", [CELLS, ROADS])
def test_the_parts_of_a_training_split(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_config(path)
    names, _ = training_images(config)
    reported = config.test_dataloader.to_dict()
    held = Selection(0.25).draw(names)
    hold_out(config, held, tmp_path)
    assert used(config, "train") == set(names) - held
    assert used(config, "val") == held
    assert config.test_dataloader.to_dict() == reported
    assert [step["type"] for step in config.val_dataloader.dataset.pipeline] == [
        step["type"] for step in reported["dataset"]["pipeline"]
    ]
    if path is CELLS:
        content = json.loads(Path(config.val_evaluator.ann_file).read_text())
        assert {f"images/train/{image['file_name']}" for image in content["images"]} == held
        assert {box["image_id"] for box in content["annotations"]} <= {image["id"] for image in content["images"]}
        assert "val" in config.test_evaluator.ann_file


@pytest.mark.parametrize(
    ("step", "padded"),
    [
        (dict(type="Resize", scale=(1333, 800), keep_ratio=True), True),
        (dict(type="mmdet.Resize", scale=(320, 320), keep_ratio=True), True),
        (dict(type="Resize", scale=(320, 240)), False),
        (dict(type="RandomCrop", crop_size=(256, 256)), False),
        (dict(type="Pad", size_divisor=32), False),
    ],
)
def test_images_of_several_sizes_are_padded_to_one(step, padded):
    first, last = dict(type="Resize", scale=(640, 640), keep_ratio=True), dict(type="PackDetInputs")
    inner = dict(type="CocoDataset", pipeline=[first, step, dict(type="RandomFlip", prob=0.5), last])
    loader = Config(dict(dataset=dict(type="RepeatDataset", times=2, dataset=inner)))
    _pad_to_one_size(loader, dict(mean=[123.7, 116.3, 103.5], bgr_to_rgb=True))
    found = loader.dataset.dataset.pipeline
    assert ([name.type for name in found][-2] == "freqkd.PadToScale") == padded
    assert found[-1].type == "PackDetInputs"
    assert len(found) == 4 + padded
    if padded:
        assert (found[-2].scale, found[-2].pad_val) == (step["scale"], (104, 116, 124))
    assert ("batch_sampler" in loader) == (step.get("scale") == (1333, 800))


def test_the_schedule_of_every_run(toy_data, tmp_path):
    from mmengine.registry import PARAM_SCHEDULERS

    config = read_config(toy_data(tmp_path))
    hold_out(config, Selection(0.3).draw(training_images(config)[0]), tmp_path)
    made = make_config(config, steps=200, seed=4, lr=0.5)
    assert made.optim_wrapper.optimizer.lr == 0.5 * config.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build(dict(one, optimizer=optimizer)) for one in made.param_scheduler]
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])  # 5 % of the steps
    assert rates[105] == pytest.approx(0.5, abs=0.01)  # half of the cosine
    assert rates[-1] < 1e-4
    assert max(rates) == pytest.approx(1.0)
    assert (made.train_cfg.val_interval, made.randomness.seed, made.train_dataloader.num_workers) == (40, 4, 0)
    hooks = [made.default_hooks, make_config(Config(config.to_dict() | dict(default_hooks={})), 200, 4).default_hooks]
    assert [one.checkpoint.interval for one in hooks] == [20, 20]
    assert {one.checkpoint.type for one in hooks} == {"freqkd.CheckpointHook"}


@pytest.mark.parametrize(
    "path",
    [
        # The methods and taps of the others are those of these two.
        pytest.param(path.name, marks=[] if path.stem in ("blood_cells", "road_scenes") else [pytest.mark.long])
        for path in sorted(ROOT.glob("studies/*.py"))
    ],
)
def test_the_shipped_studies_fit_their_networks(path, monkeypatch, tmp_path, small):
    monkeypatch.chdir(ROOT)
    study = read_study(f"studies/{path}")
    assert {"student", "mse", "details"} <= study.methods.keys()
    root = Path(study.student.train_dataloader.dataset.data_root)
    if not root.exists():
        pytest.skip(f"{root} is not there: data/README.md says where to get it")
    some = list(study.methods)[:: 1 if study.report else 6]  # of the many forms of one loss
    study = replace(study, methods={name: study.methods[name] for name in some})
    Plan(study, tmp_path / "results", tmp_path / "work").check()
    assert list(tmp_path.iterdir()) == []


def test_a_band_head_stage_gives_the_method_its_head(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    study = read_study("studies/blood_cells_forms.py", ["ds2d2-details"])
    plan = Plan(study, tmp_path / "results", tmp_path / "work")
    (stage,) = (job for job in plan.preparations() if job.config.study_run.kind == "stage")
    assert stage.config.model.type == "freqkd.BandHeadTuner"
    assert stage.config.model.teacher.checkpoint == plan.checkpoint
    term = plan.distil(plan.base, "ds2d2-details", {}).model.terms.loss_form
    assert Path(term.adapter.head) == stage.folder / stage.config.study_run.keep
    assert study.methods["ds2d2-details"].terms["loss_form"]["adapter"]["head"] is True


@pytest.mark.parametrize("path", sorted(path.name for path in ROOT.glob("studies/*.py")))
def test_the_results_in_the_repository_are_those_of_the_studies(path, monkeypatch):
    """No run was made with other options than the study says now, and the numbers in the pages are those of the runs."""
    monkeypatch.chdir(ROOT)
    study = read_study(f"studies/{path}")
    folder = ROOT / "studies/results" / study.name
    if not folder.exists():
        pytest.skip("it has no results yet")
    about, runs = read_results(folder)
    trials = [json.loads(path.read_text()) for path in folder.glob("search/*.json")]
    assert runs or trials
    if runs:
        assert summarise(about, runs)["study"] == study.name
    if not Path(study.student.train_dataloader.dataset.data_root).exists():
        pytest.skip("its data are not there: fingerprints cannot be made")
    prints = Plan(study, folder.parent, "work_dirs/studies").fingerprints
    assert {run["method"] for run in runs + trials} <= prints.keys()
    assert all(run["fingerprint"] == prints[run["method"]] for run in runs + trials)


@pytest.mark.parametrize("page", ["docs/comparison.md", "README.md"])
def test_the_pages_hold_the_numbers_of_the_results(page):
    text = (ROOT / page).read_text()
    assert fill(text, ROOT / "studies/results") == text
