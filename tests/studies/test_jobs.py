"""Processes of a study: failures, time left, a lock on each folder, and what an evaluation found."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from freqkd.studies import jobs, run
from freqkd.studies.evaluation import StudyHook, match_boxes
from freqkd.studies.jobs import Job, Jobs, in_words
from freqkd.studies.run import RUN, set_purpose, write_run
from freqkd.studies.statistics import resample
from freqkd.studies.study import Metric


def job(folder, name, seconds=10.0):
    work, result = folder / name, folder / f"{name}.json"
    return Job(name, Config({RUN: dict(kind="fill", result=str(result)), "work_dir": str(work)}), seconds)


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = int(code)

    def wait(self):
        return self.returncode


@pytest.fixture
def launched(monkeypatch):
    """Replace processes: each run writes its result at once, unless it is called "wrong"."""
    names = []

    def launch(config, log):
        names.append(config.parent.name)
        log.write_text(
            "a line\nerror: data folder not found: x (set FREQKD_TRACEBACK=1 to see where it came from)\nlast\n"
        )
        if "wrong" not in config.parent.name:
            (config.parent / "iter_5.pth").touch()
            (config.parent / "student.pth").touch()
            config.parent.with_suffix(".json").write_text('{"metric": 0.5}')
        return Ended("wrong" in config.parent.name)

    monkeypatch.setattr(jobs, "launch", launch)
    return names


def test_finished_runs_are_not_repeated_and_their_folders_are_tidied(launched, tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"metric": 0.25}')
    (tmp_path / "a" / "vis").mkdir(parents=True)
    planned = [job(tmp_path, name) for name in "abc"]
    pool = Jobs(count=1)
    pool.plan(planned)
    assert len(list(pool.run([job(tmp_path, "calibration", 0)]))) == 1
    assert pool.time_left == 30
    assert [found["metric"] for _, found in pool.run(planned)] == [0.25, 0.5, 0.5]
    assert launched == ["calibration", "b", "c"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["student.pth"]
    assert list((tmp_path / "a").iterdir()) == []
    assert pool.left == 0
    _, *printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("run 2 of 3: b: 0.5000, 0 s; ")
    assert printed[1].endswith("; 0 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.034, "0.034 s"), (7.25, "7.2 s"), (99.6, "100 s"), (120, "2 min"), (3599, "60 min")],
)
def test_a_duration_is_said_in_the_unit_it_is_read_in(seconds, words):
    assert in_words(seconds) == words


def test_a_failed_run_stops_the_others_and_says_why(launched, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"^wrong ended with exit code 1: data folder not found: x \[its output: .*wrong/console.txt\]$",
    ):
        list(Jobs(count=1).run([job(tmp_path, "wrong"), job(tmp_path, "b")]))
    assert launched == ["wrong"]


def test_no_run_starts_that_would_end_too_late(launched, tmp_path):
    pool = Jobs(count=1)
    pool.deadline = jobs.time.monotonic() + 25
    list(pool.run([job(tmp_path, "a", 10), job(tmp_path, "b", 60), job(tmp_path, "c", 10)]))
    assert launched == ["a", "c"]


def test_a_second_process_waits_and_does_not_repeat_the_run(tmp_path):
    config = job(tmp_path, "a").config
    write_run(config, tmp_path / "a" / "run.py")
    waiting = threading.Thread(target=run.main, args=([str(tmp_path / "a" / "run.py")],))
    with open(tmp_path / "a" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        (tmp_path / "a.json").write_text('{"metric": 1.0}')
    waiting.join(20)
    assert not waiting.is_alive()
    assert json.loads((tmp_path / "a.json").read_text()) == {"metric": 1.0}


@pytest.mark.parametrize("made", ["this", "other"])
def test_a_folder_of_another_run_of_the_name_is_emptied(made, tmp_path, monkeypatch):
    found = []
    monkeypatch.setitem(
        run.KINDS, "fill", lambda config, run: found.extend(Path(config.work_dir).iterdir()) or dict(a=1)
    )
    (tmp_path / "a" / "vis").mkdir(parents=True)
    (tmp_path / "a/iter_4.pth").touch()
    (tmp_path / "a/made_of").write_text(made)
    (tmp_path / "a.json").write_text(json.dumps(dict(a=0, made_of="other")))  # a finished one, made of something else
    one = job(tmp_path, "a")
    one.config[RUN]["made_of"] = "this"
    assert not one.is_finished
    for _ in range(2):  # the second time it is finished
        write_run(one.config, tmp_path / "a/run.py")
        run.main([str(tmp_path / "a/run.py")])
    kept = {"iter_4.pth", "vis"} if made == "this" else set()
    assert {path.name for path in found} == {".lock", "run.py", "made_of"} | kept
    assert json.loads((tmp_path / "a.json").read_text()) == dict(a=1, made_of="this")
    assert one.is_finished


@pytest.mark.parametrize("resumed", [True, False])
def test_a_run_starts_from_the_weights_that_a_config_names(resumed, tmp_path, monkeypatch):
    def stop(config):
        raise KeyboardInterrupt((config.load_from, config.resume))

    monkeypatch.setattr(run, "train", stop)
    monkeypatch.setattr(run, "find_resumable", lambda config: ("iter_4.pth", {}) if resumed else None)
    config = set_purpose(Config(dict(load_from="start.pth")), "final", tmp_path, tmp_path / "a.json", Metric("mIoU"))
    with pytest.raises(KeyboardInterrupt) as found:
        run._train(config, config.pop(RUN))
    assert found.value.args[0] == ((None, True) if resumed else ("start.pth", False))


@pytest.mark.usefixtures("other_processes")
def test_a_run_ends_with_the_comparison_that_started_it():
    alive, end = os.pipe()
    parent = os.fork()
    if parent == 0:
        own = os.getpid()
        if os.fork() == 0:
            os.close(alive)
            run._end_with(own)
        os.close(end)
        signal.pause()
    os.close(end)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(alive, 1) == b""  # the last one that could write has ended


# ---- what an evaluation found ------------------------------------------------------------------------------------------


def boxes(crowd=0, copies=1):
    """COCO's evaluation of random boxes near random objects, three images and two classes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    noise, truth, found = np.random.default_rng(0), [], []
    for image in range(1, 4):
        for _ in range(6):
            box, category = [*noise.uniform(0, 60, 2), *noise.uniform(10, 40, 2)], int(noise.integers(1, 3))
            truth.append(
                dict(
                    id=len(truth) + 1,
                    image_id=image,
                    category_id=category,
                    bbox=box,
                    iscrowd=crowd,
                    area=box[2] * box[3],
                )
            )
            for _ in range(copies):
                shifted = [value + noise.normal(0, 2) for value in box]
                found.append(dict(image_id=image, category_id=category, bbox=shifted, score=noise.uniform()))
    api = COCO()
    api.dataset = dict(
        images=[dict(id=image) for image in range(1, 5)],
        annotations=truth,
        categories=[dict(id=1, name="red"), dict(id=2, name="white")],
        info={},
    )
    api.createIndex()
    return COCOeval(api, api.loadRes(found), "bbox")


def test_the_box_ap_is_kept_without_rounding_and_per_image():
    hook = StudyHook(dict(key="coco/bbox_mAP", larger=True), "curve.json")
    evaluation = boxes()

    def compute(results):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return {"coco/bbox_mAP": round(evaluation.stats[0], 3)}

    rounded = hook._note_boxes(compute, [], "coco", ["white", "red"])
    hook._read(rounded)
    assert hook.value == evaluation.stats[0] != rounded["coco/bbox_mAP"]
    assert resample(hook.images, 0)[0] == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert hook.images["objects"].sum() == 18
    of_classes = evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    assert hook.by_class() == pytest.approx(dict(red=of_classes[0], white=of_classes[1]), abs=1e-12)


def test_the_first_hundred_detections_of_an_image_and_a_class_count():
    evaluation = boxes(copies=60)
    evaluation.params.maxDets = [100, 300, 1000]  # as mmdet sets them
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    arrays = match_boxes(evaluation)
    counts = np.unique(np.stack([arrays["image"], arrays["category"]]), axis=1, return_counts=True)[1]
    assert counts.max() == 100
    assert evaluation.stats[0] > 0
    assert resample(arrays, 0)[0] == pytest.approx(evaluation.stats[0], abs=1e-12)


def test_arrays_per_image_are_kept_for_their_own_metric_alone():
    for metric in (dict(key="mAcc", larger=True), dict(key="mIoU", larger=False)):
        hook = StudyHook(metric, "curve.json")
        areas = [(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]), None, None)] * 2
        hook._read(hook._note_areas(lambda results: {"mIoU": 50.0, "mAcc": 60.0}, areas, "", ["sky", "road"]))
        assert hook.images == {}
        assert hook.by_class() is None


def test_crowds_have_no_arrays_per_image():
    evaluation = boxes(crowd=1)
    evaluation.evaluate()
    assert match_boxes(evaluation) == {}


@pytest.mark.parametrize("key", ["coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP"])
def test_a_detector_that_finds_nothing_has_an_ap_of_zero(key):
    hook = StudyHook(dict(key=key, larger=True), "curve.json")
    hook._read(hook._note_boxes(lambda results: {}, [], "coco", []))
    assert hook.value == 0


def test_evaluators_of_one_kind_are_told_apart_by_their_prefix():
    areas = [[(torch.tensor([1.0, 2.0]), torch.tensor([3.0, part]), None, None)] for part in (4.0, 2.0)]
    kinds = [
        type("IoU", (), dict(prefix=x, dataset_meta=None, compute_metrics=lambda self, results: {"mIoU": 0.0}))
        for x in "ab"
    ]
    metrics = [kind() for kind in kinds]
    for key, value in (("a/mIoU", 100 * (1 / 3 + 1 / 2) / 2), ("b/mIoU", 100 * (1 / 3 + 1) / 2)):
        hook = StudyHook(dict(key=key, larger=True), "curve.json")
        hook._watch(SimpleNamespace(metrics=metrics))
        for metric, results in zip(metrics, areas):
            metric.compute_metrics(results)
        hook._read({})
        assert hook.value == pytest.approx(value)
        assert 100 * resample(hook.images, 0)[0] == pytest.approx(value)
        with pytest.raises(ValueError, match="must be one of , got 'mIoU'"):
            StudyHook(dict(key="mIoU", larger=True), "curve.json")._read({})


def test_the_mean_iou_is_kept_without_rounding_and_per_image():
    hook = StudyHook(dict(key="mIoU", larger=True), "curve.json")
    areas = [(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 3.0, 0.0]), None, None)] * 2
    hook._read(hook._note_areas(lambda results: {"mIoU": 50.0, "aAcc": 1.0}, areas, "", ["sky", "road", "cow"]))
    assert hook.value == pytest.approx(100 * (1 / 3 + 2 / 3) / 2)
    assert 100 * resample(hook.images, 0)[0] == pytest.approx(hook.value)
    assert hook.images["union"].shape == (2, 3)
    assert hook.by_class() == {"sky": pytest.approx(1 / 3), "road": pytest.approx(2 / 3), "cow": None}


def test_an_unknown_metric_and_a_smaller_one_that_is_better():
    with pytest.raises(ValueError, match=r"metric.key \(--metric\) must be one of loss, got 'mIoU'"):
        StudyHook(dict(key="mIoU", larger=True), "curve.json")._read({"loss": 1.0})
    hook = StudyHook(dict(key="loss", larger=False), "curve.json")
    hook._read({"loss": 1.0})
    assert hook.value == -1
    with pytest.raises(ValueError, match="must have finite values, got nan"):
        hook._read({"loss": float("nan")})
