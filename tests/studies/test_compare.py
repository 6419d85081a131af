"""A whole comparison of a tiny study: the same twice, and where it is killed; the reported split is read once a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.optim import OptimWrapper
from mmengine.runner import ValLoop
from toy_study import Fork

from freqkd.studies import jobs
from freqkd.studies.compare import main
from freqkd.studies.jobs import Jobs
from freqkd.studies.page import fill
from freqkd.studies.plan import Plan
from freqkd.studies.statistics import seeds_needed
from freqkd.studies.study import read_study
from freqkd.utils.checkpoints import CheckpointError

VAL_IMAGES, FINAL_RUNS, TRIALS = 6, 4, 4


def records(folder, pattern="*.json"):
    """Finished runs by file name, without what differs: seconds, memory, and the folder in the fingerprint."""
    measured = {"seconds_per_step", "train_seconds", "peak_memory_mb", "fingerprint"}
    found = {path.name: json.loads(path.read_text()) for path in Path(folder, "results", "toy").glob(pattern)}
    return {
        name: {key: value for key, value in record.items() if key not in measured}
        for name, record in found.items()
        if "method" in record
    }


def run(folder, study, *options):
    main([study, "--results-dir", str(folder / "results"), "--work-dir", str(folder / "work"), *options])


def reads(folder):
    """How often an image of the reported split was read."""
    return sum("/val/" in line for line in (folder / "reads").read_text().splitlines())


@pytest.fixture(scope="module")
def finished(toy_study, tmp_path_factory):
    """A folder with a finished comparison, and how often the reported split was read before its final runs."""
    folder = tmp_path_factory.mktemp("finished")
    before = []
    with pytest.MonkeyPatch.context() as patch:
        evaluation = Plan.evaluation
        patch.setattr(jobs, "launch", Fork)
        patch.setattr(Plan, "evaluation", lambda self: before.append(reads(folder)) or evaluation(self))
        run(folder, toy_study(folder))
    return folder, before


def test_the_reported_split_is_read_once_a_final_run_and_not_in_the_search(finished):
    folder, before = finished
    assert before == [0]
    assert reads(folder) == VAL_IMAGES * (FINAL_RUNS + 1)  # and once for the teacher


def test_each_method_has_as_many_trials_and_the_selection_metric_decides(finished):
    folder, _ = finished
    trials, runs = records(folder, "search/*.json"), records(folder)
    assert len(trials) == TRIALS
    assert len(runs) == FINAL_RUNS
    for method in ("student", "mse"):
        tried = [trial for trial in trials.values() if trial["method"] == method]
        assert len(tried) == 2
        assert all(trial["metric"] == trial["curve"][-1][1] for trial in tried)
        best = max(tried, key=lambda trial: trial["metric"])
        chosen = [one for one in runs.values() if one["method"] == method]
        assert [one["options"] for one in chosen] == [best["options"]] * 2
        assert {one["seed"] for one in chosen} == {0, 1}
        assert best["seed"] not in (0, 1)


def test_what_is_recorded_and_what_is_kept(finished):
    folder, _ = finished
    record = records(folder)["mse_6-steps_seed1.json"]
    assert [step for step, _ in record["curve"]] == [2, 4, 6]
    assert record["budget"] == {"steps": 6}
    assert 0 < record["fidelity"] < 1
    assert record["metric"] != record["curve"][-1][1]
    assert 100 * np.mean([*record["by_class"].values()]) == pytest.approx(record["metric"])
    own = json.loads((folder / "results/toy/STUDY.json").read_text())
    assert own["teacher"]["by_class"].keys() == record["by_class"].keys()
    assert own["calibration"]["seconds_per_step"].keys() == {"student"}  # the budget is steps
    assert own["teacher"]["metric"] > 0
    kept = {path.name for path in (folder / "work/toy/final/mse_6-steps_seed1").iterdir()}
    assert kept == {"student.pth", "student_config.py"}
    assert not list((folder / "work/toy/trial").glob("*/*.pth"))
    assert (folder / "results/toy/answer.md").exists()


class Dying(Fork):
    """Forks that kill themselves, by the name of their folder: (owner, method, which call)."""

    places = {
        "mse_6-steps_trial-ratio1": (OptimWrapper, "step", 4),
        "mse_6-steps_seed0": (ValLoop, "run_iter", 4),  # in the first validation, after the checkpoint of its step
    }

    def prepare(self, config):
        if config.parent.name not in self.places:
            return
        owner, name, last = self.places[config.parent.name]
        call, calls = getattr(owner, name), [0]

        def counted(*arguments, **options):
            calls[0] += 1
            if calls[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        setattr(owner, name, counted)


def test_killed_and_started_again_it_ends_with_the_same_numbers(finished, toy_study, tmp_path, monkeypatch):
    study = toy_study(tmp_path)
    monkeypatch.setattr(jobs, "launch", Dying)
    parent = os.fork()  # the comparison itself dies when the second trial has ended
    if parent == 0:
        ended = []

        def end(self, job, seconds=0.0, before=Jobs._end):
            ended.extend([job] * bool(job.seconds))
            os.kill(os.getpid(), signal.SIGKILL * (len(ended) == 2))
            before(self, job, seconds)

        Jobs._end = end
        jobs.launch = Fork
        try:
            run(tmp_path, study)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "results/toy/search").glob("*.json")}
    assert len(first) == 2
    for place in list(Dying.places):
        with pytest.raises(ValueError, match="ended with exit code -9"):
            run(tmp_path, study)
        # It goes on from a checkpoint, unless the comparison that died had started it, and it ended before it knew.
        ended = list(tmp_path.glob(f"results/toy/**/{place}.json"))
        assert ended or list((tmp_path / "work/toy").glob(f"*/{place}/iter_*.pth"))
        Dying.places.pop(place)
    run(tmp_path, study)
    assert records(tmp_path) == records(finished[0])
    assert records(tmp_path, "search/*.json") == records(finished[0], "search/*.json")
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_a_finished_study_needs_only_its_results(finished, toy_study, tmp_path, monkeypatch):
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    (tmp_path / "results/toy/answer.json").unlink()
    monkeypatch.setattr(jobs, "launch", None)
    study = toy_study(tmp_path, reads=str(finished[0] / "reads"))
    run(tmp_path, study)
    answers = [json.loads((folder / "results/toy/answer.json").read_text()) for folder in (tmp_path, finished[0])]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("gains", "number"), [((0.0, 2.0), 4), ((10.0, 11.0), 3)])
def test_a_pilot_sets_the_number_of_seeds(finished, toy_study, tmp_path, capsys, forked, gains, number):
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    study = toy_study(tmp_path, "pilot, seeds = 2, 4\nmetric['worthwhile'] = 3.0")
    metrics = {"student": (20.0, 20.0), "mse": tuple(20.0 + gain for gain in gains)}
    about = tmp_path / "results/toy/STUDY.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "worthwhile": 3.0}))
    prints = Plan(read_study(study), tmp_path / "results", tmp_path / "work").fingerprints
    for path in tmp_path.glob("results/toy/**/*_6-steps_*.json"):
        record = json.loads(path.read_text())
        record["fingerprint"] = prints[record["method"]]
        if record["seed"] < 2:
            record |= dict(metric=metrics[record["method"]][record["seed"]], images=None)
        path.write_text(json.dumps(record))
    run(tmp_path, study)
    deviation = abs(gains[1] - gains[0]) / 2**0.5
    needed = seeds_needed(3.0, deviation)
    assert min(needed, 4) == number
    assert f"deviate by {deviation:.2f}, so that a gain of 3.00 needs {needed} seeds" in capsys.readouterr().out
    seeds = [record["seed"] for record in records(tmp_path).values() if record["method"] == "mse"]
    assert sorted(seeds) == list(range(number))
    assert "In a pilot of 2 seeds" in (tmp_path / "results/toy/answer.md").read_text()
    known = json.loads(about.read_text())["pilot"]
    run(tmp_path, study)  # the number stays
    assert json.loads(about.read_text())["pilot"] == known
    assert len(records(tmp_path)) == 2 * number
    assert known["6 steps"]["methods"].keys() == {"student", "mse"}
    plan = Plan(read_study(study), tmp_path / "results", tmp_path / "work")
    more = Plan(read_study(study), tmp_path / "results", tmp_path / "work")
    more.study.methods["pkd"] = more.study.methods["mse"]  # which the pilot has not seen
    larger = Plan(read_study(study, pilot=3), tmp_path / "results", tmp_path / "work")
    assert [one.is_pilot for one in (plan, more, larger)] == [False, True, True]
    assert [list(one.seeds) for one in (plan, more, larger)] == [[*range(number)], [0, 1], [0, 1, 2]]
    assert not more.is_finished


def test_a_search_may_grow(finished, toy_study, tmp_path, monkeypatch):
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    monkeypatch.setattr(jobs, "launch", None)
    more = "search['methods'].append(dict(ratio=0.5))\nsearch['student'].append(dict(lr=0.5))"
    study, before = toy_study(tmp_path, more, reads=str(finished[0] / "reads")), records(tmp_path)
    plan = Plan(read_study(study), tmp_path / "results", tmp_path / "work")
    assert not plan.is_finished
    for method, known, new in (("mse", "ratio1", "ratio0.5"), ("student", "lr1", "lr0.5")):  # as if they had run
        trial = tmp_path / f"results/toy/search/{method}_6-steps_trial-{known}.json"
        options = {new.rstrip("0.5"): 0.5}
        record = json.loads(trial.read_text()) | dict(metric=0.0, options=options)
        trial.with_stem(trial.stem.replace(known, new)).write_text(json.dumps(record))
    assert plan.is_finished
    run(tmp_path, study)  # the new trials are not chosen
    assert records(tmp_path) == before
    rows = json.loads((tmp_path / "results/toy/answer.json").read_text())["lengths"][0]["rows"]
    assert {row["trials"] for row in rows} == {3}
    for name in ("mse_6-steps_trial-ratio0.5.json", "student_6-steps_trial-lr0.5.json"):
        trial = tmp_path / "results/toy/search" / name
        trial.write_text(json.dumps(json.loads(trial.read_text()) | dict(metric=99.0)))
    with pytest.raises(ValueError, match=r"search chooses .* now, but") as error:
        run(tmp_path, study)
    for changed in (
        r"lr0\.5 for student now, but \S*student_6-steps_seed0\.json was made with (?!lr0\.5)\S+;",
        r"ratio0\.5 for mse now, but \S*mse_6-steps_seed0\.json was made with ratio[14];",
        r"; delete \S*/results/toy/student_6-steps_seed\*\.json, \S*/results/toy/mse_6-steps_seed\*\.json, or give",
    ):
        assert re.search(changed, str(error.value)), error.value
    assert records(tmp_path) == before


def test_a_changed_method_is_refused(finished, toy_study, tmp_path):
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    study = read_study(toy_study(tmp_path, "methods['mse']['terms']['loss_mse']['loss'] = dict(type='freqkd.PKDLoss')"))
    with pytest.raises(ValueError, match=r"methods\.mse must be as it was when .*mse_6-steps_seed0\.json was made"):
        Plan(study, tmp_path / "results", tmp_path / "work").check()


@pytest.mark.parametrize("owner", ["student", "teacher"])
def test_missing_first_weights_are_found_before_anything_is_written(toy_study, tmp_path, monkeypatch, owner):
    monkeypatch.setattr(jobs, "launch", None)
    config = tmp_path / "missing.py"
    value = dict(student=str(config), teacher=dict(config=str(config), steps=5))[owner]
    width = 16 if owner == "student" else 8  # of a neck
    study = toy_study(tmp_path, f"{owner} = {value!r}\n_term['align']['teacher_channels'] = {width}")
    lost = dict(
        student="model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='no/such.pth')",
        teacher="load_from = 'no/such.pth'",
    )[owner]
    config.write_text(f"{(tmp_path / 'student.py').read_text()}\n{lost}\n")
    with pytest.raises(CheckpointError, match=r"no/such\.pth"):
        run(tmp_path, study)
    assert not [path for path in (*tmp_path.glob("results/**/*"), *tmp_path.glob("work/**/*")) if path.is_file()]


@pytest.mark.long
def test_its_students_are_judged_on_other_images(finished, toy_study, tmp_path, forked):
    folder, _ = finished
    study = toy_study(tmp_path, reads=str(tmp_path / "reads"))
    shutil.copytree(folder / "results", tmp_path / "results")
    shutil.copytree(folder / "work", tmp_path / "work")
    root = Path(read_study(study).student.train_dataloader.dataset.data_root)
    for kind in ("img", "ann"):  # the reported images under another name: the same numbers
        shutil.copytree(root / kind / "val", tmp_path / "theirs" / kind / "test")
    run(tmp_path, study, "--evaluate", str(tmp_path / "theirs"))
    own, other = (
        json.loads((tmp_path / "results/toy" / name).read_text()) for name in ("answer.json", "test/answer.json")
    )
    assert other["metric_name"] == "mIoU, test split"
    assert other["teacher"]["metric"] == pytest.approx(own["teacher"]["metric"])
    for mine, theirs in zip(own["lengths"][0]["rows"], other["lengths"][0]["rows"]):
        assert theirs["method"] == mine["method"]
        assert theirs["metrics"] == pytest.approx(mine["metrics"], rel=1e-5)  # answer.json has six digits
    assert not any(str(root / "img/val") in line for line in (tmp_path / "reads").read_text().splitlines())
    assert (tmp_path / "results/toy/test/answer.md").read_text().startswith("# toy: mIoU, test split")

    for path in (tmp_path / "theirs/ann/test").iterdir():  # other labels in the same folder: nothing old is kept
        cv2.imwrite(str(path), np.zeros((64, 96), np.uint8))
    run(tmp_path, study, "--evaluate", str(tmp_path / "theirs"))
    again = json.loads((tmp_path / "results/toy/test/answer.json").read_text())
    assert again["teacher"]["metric"] != pytest.approx(other["teacher"]["metric"])

    with pytest.raises(ValueError, match=r"--evaluate must be a folder with img/held, as .* img/val"):
        run(tmp_path, study, "--evaluate", str(tmp_path / "theirs"), "--split", "held")
    shutil.rmtree(tmp_path / "work/toy/final/mse_6-steps_seed1")
    shutil.rmtree(tmp_path / "work/toy/done/evaluate")
    with pytest.raises(ValueError, match=r"mse_6-steps_seed1/student\.pth must be there"):
        run(tmp_path, study, "--evaluate", str(tmp_path / "theirs"))


def test_numbers_in_a_page_are_those_of_the_results(finished, tmp_path):
    folder, _ = finished
    answer = json.loads((folder / "results/toy/answer.json").read_text())
    text = "# Page\n<!-- words toy 6 steps -->\nold\n<!-- end -->\nkept\n<!-- repeated toy 6 steps -->\n<!-- end -->\n"
    page = fill(text, folder / "results")
    assert fill(page, folder / "results") == page
    assert "old" not in page
    assert page.startswith("# Page\n<!-- words toy 6 steps -->\nFor toy at 6 steps the data support")
    assert "\nkept\n<!-- repeated toy 6 steps -->\n| method | runs | mIoU |" in page
    means = {row["method"]: row["metric"] for row in answer["lengths"][0]["rows"]}
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| student", "| mse"))]
    assert [row[0][2:] for row in rows] == sorted(means, key=means.get, reverse=True)
    assert [row[2].split(" ± ")[0] for row in rows] == [
        f"{value:.2f}" for value in sorted(means.values(), reverse=True)
    ]
    sentence = "From <!-- metric toy 6 steps: student -->?<!-- end --> to <!-- metric toy 6 steps: mse --><!-- end -->."
    filled = fill(sentence, folder / "results")
    assert re.sub("<!--.*?-->", "", filled) == f"From {means['student']:.1f} to {means['mse']:.1f}."
    with pytest.raises(
        ValueError, match="beside needs a teacher above the student alone, but that of toy, 6 steps, 2 seeds"
    ):
        fill("<!-- beside toy 6 steps, toy 6 steps -->\n<!-- end -->", folder / "results")
    for wrong, message in {
        "gain toy 6 steps: mse": "must name two methods for a gain",
        "metric toy 6 steps: pkd": "a number of toy, 6 steps, must be of mse, student, got 'pkd'",
        "share toy 9 steps: mse": "must name a length of toy: 6 steps",
        "gian toy 6 steps: mse over student": r"line 2: '<!-- gian toy .* -->' must be a kind that .*--help lists",
        "metric toy 6 steps:mse": "line 2: .* must be a kind",
        "metric toy 6 steps: mse --><!-- metric toy 6 steps: mse": "line 2: .* followed by its <!-- end -->",
    }.items():
        with pytest.raises(ValueError, match=message):
            fill(f"first\n<!-- {wrong} -->?<!-- end --> last", folder / "results")
    with pytest.raises(ValueError, match=r"line 1: .* followed by its <!-- end -->"):  # nothing of the page is lost
        fill("<!-- words toy 6 steps -->\nold\n\nkept <!-- metric toy 6 steps: mse --><!-- end -->", folder / "results")
    trials = fill("<!-- trials toy 6 steps -->\n<!-- end -->", folder / "results")
    assert trials.count("**") == 2 * 2
    shutil.copytree(folder / "results", tmp_path / "once")
    (tmp_path / "once/toy/student_6-steps_seed1.json").unlink()
    with pytest.raises(
        ValueError, match=r"<!-- repeated toy 6 steps --> must name a length at which .* with 2 or more seeds"
    ):
        fill("<!-- repeated toy 6 steps -->\n<!-- end -->", tmp_path / "once")
    with pytest.raises(ValueError, match="<!-- table toy 9 steps --> must name a length of toy: 6 steps"):
        fill("<!-- table toy 9 steps -->\n<!-- end -->", folder / "results")
    (line,) = [
        line for line in fill("<!-- summary mse -->\n<!-- end -->", folder / "results").splitlines() if "toy" in line
    ]
    (gain,) = [row["to_student"]["mean"] for row in answer["lengths"][0]["rows"] if row["method"] == "mse"]
    assert line.split(" | ")[0] == "| toy, 6 steps"
    assert line.split(" | ")[3:5] == [f"{means['student']:.2f}", f"{means['mse']:.2f}"]
    assert line.split(" | ")[6].startswith(f"{gain:+.2f}")
    (line_of_premises,) = [
        line for line in fill("<!-- premises -->\n<!-- end -->", folder / "results").splitlines() if "toy" in line
    ]
    classes = json.loads((folder / "results/toy/STUDY.json").read_text())["teacher"]["by_class"].values()
    assert np.mean([100 * value for value in classes if value is not None]) == pytest.approx(
        answer["teacher"]["metric"]
    )
    unknown, known = (sum(value is not None and value < least for value in classes) for least in (0.01, 2))
    assert line_of_premises.split(" | ")[3] == f"{unknown} of {known}"
    shutil.copytree(folder / "results", tmp_path / "results")
    (tmp_path / "results/begun").mkdir()  # a study of which only the search has run
    shutil.copy(folder / "results/toy/STUDY.json", tmp_path / "results/begun")
    assert line in fill("<!-- summary mse -->\n<!-- end -->", tmp_path / "results")
    with pytest.raises(ValueError, match="the summary's method must be in a study, got 'cwd', which is in none"):
        fill("<!-- summary cwd -->\n<!-- end -->", folder / "results")
