"""The quick comparison of a user's config, and a study with everything: trained teacher, prompts, control, seconds."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from freqkd.studies.compare import main
from freqkd.studies.quick import quick_study, verdict
from freqkd.studies.run import device_name
from freqkd.studies.statistics import difference
from freqkd.studies.study import Budget
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
DISTILLATION = """
_base_ = ['student.py']
_align = dict(type='freqkd.ConvAlign', student_channels=8, teacher_channels=16, num_levels=4)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{{{_base_.model}}}}, teacher={teacher!r},
    terms=dict(loss_own=dict(type='freqkd.DistillTerm', align=_align, loss=dict(type='freqkd.MSELoss'), weight=0.0)))
"""


def test_the_methods_of_a_shipped_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = "configs/freekd/freekd-mse-binary-kd_neck-logits_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
    study = quick_study(path)
    assert study.name.startswith("quick-freekd-mse-binary-kd_neck-logits".replace("_", "-"))
    assert list(study.methods) == ["student", "config", "mse", "details"]
    assert study.budget == Budget(12 * -(-205 // 8) // 10, like="config")
    assert (study.metric.key, study.seeds, study.views, study.student.model.type) == (
        "coco/bbox_mAP",
        3,
        0,
        "RetinaNet",
    )
    assert study.selection.fraction == 0.2
    monkeypatch.setattr("freqkd.studies.quick.MOST_IMAGES", 41 / 2)  # as with thousands of images
    assert quick_study(path).selection.fraction == pytest.approx(0.1)
    own, (mse,) = study.methods["config"].terms, study.methods["mse"].terms.values()
    first = next(iter(own.values()))
    assert len(own) == 3
    assert mse["loss"] == {"type": "freqkd.MSELoss"}
    assert (mse["align"], mse["student_levels"], mse["weight"]) == (first["align"], (0, 1, 2), first["weight"])
    assert "prompts" not in mse
    config = read_config(path)
    config.model.terms.loss_mse.pop("weight")
    monkeypatch.setattr("freqkd.studies.quick.read_config", lambda path: config)
    assert quick_study(path).methods["config"].terms["loss_mse"]["weight"] == 1.0  # what a term has without one
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    assert (study.search, quick_study(path, lr=[1.0, 4.0]).search) == (
        {},
        {part: [{"lr": 1.0}, {"lr": 4.0}] for part in ("methods", "student")},
    )
    assert quick_study(path, lr=[1.0, 4.0]).name == f"{study.name}-lr"  # beside results without a search
    for lr, message in (([0.0], r"search\.methods\[0\]\.lr must be above 0, got 0"), ([2.0, 2.0], "every trial once")):
        with pytest.raises(ValueError, match=message):
            quick_study(path, lr=lr)
    with pytest.raises(ValueError, match=r"--lr must be left out without --quick, because a study file has search="):
        main(["studies/blood_cells.py", "--lr", "2"])
    with pytest.raises(ValueError, match=r"--quick takes the config of a distillation"):
        quick_study("configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py")


@pytest.mark.long
def test_a_term_of_weight_zero_is_the_student_alone(forked, toy_data, teachers, tmp_path, capsys):
    toy_data(tmp_path)
    path = tmp_path / "own.py"
    path.write_text(DISTILLATION.format(teacher=teachers("segmentation")))
    main(
        [
            str(path),
            "--quick",
            "--seeds",
            "1",
            "--budget",
            "6",
            "--lr",
            "1",
            "0.5",
            "--work-dir",
            str(tmp_path / "work"),
        ]
    )
    (folder,) = (tmp_path / "work/results").iterdir()
    runs = {record["method"]: record for record in map(_read, folder.glob("*_seed0.json"))}
    assert runs.keys() == {"student", "config", "mse", "details"}
    for key in ("metric", "curve", "options"):  # so first weights, data order and schedule are the same
        assert runs["config"][key] == runs["student"][key]
        assert key == "options" or runs["mse"][key] != runs["student"][key]
    tried = {(record["method"], record["options"]["lr"]) for record in map(_read, folder.glob("search/*.json"))}
    assert tried == {(method, lr) for method in runs for lr in (1, 0.5)}
    printed = capsys.readouterr().out
    announced = re.search(r"12 runs of 6 steps, 0 finished; about ([\d.]+) (s|min) left", printed)
    assert announced, printed
    assert float(announced[1]) > 0
    assert f"{path} cannot tell yet, the deviation" in printed


def _read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([0.02, 0.03, 0.04], "helps: box AP +0.0300 against the student alone, 95 % interval +0.0052 to +0.0548"),
        (
            [0.0, 0.001, 0.002],
            "does not help: box AP +0.0010 against the student alone, 95 % interval -0.0015 to +0.0035",
        ),
    ],
)
def test_the_sentence(gains, words):
    """Without a correction for MSE and details: of three methods, the first would not be called to help (p = 0.035)."""
    found = asdict(difference(dict(enumerate(gains)), dict.fromkeys(range(3), 0.0))) | {"words": "cannot tell"}
    other = dict(length="600 steps", rows=[dict(method="config", to_student=dict(found, mean=0.5))], worthwhile=0.01)
    rows = [dict(method=method, options=[{}]) for method in ("student", "mse", "config")]
    rows[2]["to_student"] = found
    own = dict(length="75 s", rows=rows, worthwhile=0.01)
    answer = dict(metric_name="box AP", lengths=[own, other, dict(length="9 s", rows=[dict(method="student")])])
    given = "all at the config's learning rate (--lr lets each choose)"
    assert verdict("own.py", answer, "75 s") == f"own.py {words}, 3 seeds, {given}"
    for row, factor in zip(rows, (1.0, 16.0, 0.5)):
        row["options"] = [dict(lr=factor)]
    chosen = "at 0.5 times the config's learning rate, the student alone at 1 times"
    assert verdict("own.py", answer, "75 s") == f"own.py {words}, 3 seeds, {chosen}"
    for length in ("9 s", "80 s"):
        assert verdict("own.py", answer, length).startswith(
            f"own.py: cannot tell yet, because it has no finished run of {length}"
        )


def changed(config, tmp_path, lines):
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = [{str(ROOT / config)!r}]\n{lines}\n")
    return str(path)


def test_the_method_draws_its_images_as_the_config_does(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = next(ROOT.glob("configs/kcd/*retinanet*.py"))
    study, config = quick_study(str(path)), read_config(str(path))
    assert study.methods["config"].data == dict(
        sampler=config.train_dataloader.sampler.to_dict(), hooks=[dict(config.custom_hooks[0])]
    )
    assert study.methods["config"].data["sampler"]["type"] == "freqkd.CondensedSampler"
    assert study.methods["mse"].data == {}
    assert study.student.train_dataloader.sampler.type == "DefaultSampler"


def test_what_else_a_config_says_is_kept_or_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    mse = "configs/mse/mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
    start = changed(mse, tmp_path, "load_from = 'start.pth'\nmodel = dict(monitor=7)")
    study = quick_study(start)
    assert study.student.load_from == "start.pth"
    assert study.methods["config"].options["monitor"] == 7
    assert study.methods["mse"].options == {}
    pipeline = [*read_config(mse).train_dataloader.dataset.pipeline]
    steps = [*pipeline[:-1], dict(type="freqkd.PadToScale", scale=(320, 240)), pipeline[-1]]
    views = "train_dataloader = dict(dataset=dict(_delete_=True, type='freqkd.FixedViews', views=4, dataset={inner!r}))"
    inner = dict(read_config(mse).train_dataloader.dataset.to_dict(), pipeline=[dict(step) for step in steps])
    study = quick_study(changed(mse, tmp_path, views.format(inner=inner)))
    assert [step.type for step in study.student.train_dataloader.dataset.pipeline][-2] == "freqkd.PadToScale"
    assert study.student.optim_wrapper == read_config(mse).optim_wrapper
    with pytest.raises(ValueError, match=r"the student alone, which model\.own_losses=False leaves without a loss"):
        quick_study(changed(mse, tmp_path, "model = dict(own_losses=False)"))
    with pytest.raises(ValueError, match=r"--pilot must be left out with --quick, which keeps to its time, got 3"):
        main([mse, "--quick", "--pilot", "3"])


PROMPTS = """
_base_ = ['student.py']
model = dict(_delete_=True, type='freqkd.PromptTuner', teacher=dict(config='x', checkpoint='x'),
             prompts=dict(channels=16, num_levels=4, num_prompts=2, preset='paper', depth=1), tap='neck')
train_cfg = dict(max_iters=4, val_interval=4)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2))
custom_hooks = [dict(type='freqkd.PromptFileHook')]
"""
EVERYTHING = """
methods = dict(freekd=dict(
    prompts={prompts!r},
    terms=dict(loss_freekd=dict(_term, prompts=True, loss=dict(type='freqkd.FreeKDLoss', preset='paper')))))
control = 'freekd'
seeds = 1
budget = '1s'
"""


@pytest.mark.long
def test_trained_teacher_prompts_control_and_seconds(forked, toy_study, small, tmp_path):
    (tmp_path / "prompts.py").write_text(PROMPTS)
    config = tmp_path / "teacher.py"
    study = toy_study(
        tmp_path,
        EVERYTHING.format(prompts=str(tmp_path / "prompts.py")),
        teacher=dict(config=str(config), steps=6),
    )
    network = small.config("segmentation", 8)
    config.write_text(f"_base_ = ['student.py']\nmodel = dict(_delete_=True, **{network!r})\n")
    options = ["--results-dir", str(tmp_path / "results"), "--work-dir", str(tmp_path / "work"), "--jobs", "2"]
    main([study, *options])
    folder = tmp_path / "results/toy"
    runs = {record["method"]: record for record in map(_read, folder.glob("*_1s_seed0.json"))}
    assert runs.keys() == {"student", "freekd", "freekd-random-teacher"}
    calibration = _read(folder / "STUDY.json")["calibration"]
    assert (calibration["together"], calibration["device"]) == (True, device_name())
    pace = calibration["seconds_per_step"]
    assert {name: (len(twice), min(twice)) for name, twice in calibration["measured"].items()} == {
        name: (2, one) for name, one in pace.items()
    }
    for name, record in runs.items():
        assert record["budget"] == {"steps": max(5, round(1 / pace[name])), "seconds": 1.0}
    assert runs["freekd"]["curve"] != runs["freekd-random-teacher"]["curve"]
    prompts = {path.read_bytes() for path in (tmp_path / "work/toy/stage").glob("prompts-*/prompts.pth")}
    assert len(prompts) == 2  # those of the control are its own
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*_1s_*.json")}
    main([study, *options, "--seeds", "1"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*_1s_*.json")} == before
