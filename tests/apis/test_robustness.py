"""Corruption robustness: P, mPC and rPC by hand, cells that are kept, and the command on both tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from freqkd.apis import robustness
from freqkd.apis.robustness import CLEAN, Cell, Record, corrupted_loader, summarise
from freqkd.commands import robustness as command
from freqkd.datasets.corrupt import KINDS
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ROOT / "configs" / "baselines"
CONFIGS = {
    "detection": BASELINES / "retinanet_r18w48_b8-36e_blood-cells.py",
    "segmentation": BASELINES / "semantic-fpn_r18w48_b8-1200i_road-scenes.py",
}
IDENTITY = dict(weights="a", config="b", corruptions="c")


def filled(path, cells):
    record = Record(path, IDENTITY)
    for cell, value in cells.items():
        record.add(cell, {} if value is None else {"AP": value, "AP_50": 0.9})
    return record


def test_the_means_by_hand(tmp_path):
    cells = {CLEAN: 0.5, Cell("fog", 1): 0.4, Cell("fog", 3): 0.2, Cell("snow", 1): 0.3, Cell("snow", 3): None}
    record = filled(tmp_path / "a.json", cells)
    found = summarise(record, "AP", ["fog", "snow"], [1, 3])
    assert found.pop("kinds") == pytest.approx({"fog": 0.3, "snow": 0.15})
    assert found == pytest.approx(dict(clean=0.5, mPC=0.225, rPC=0.45))
    assert summarise(record, "AP", ["fog"], [1])["rPC"] == pytest.approx(0.8)


def test_a_network_that_finds_nothing_has_no_ratio(tmp_path):
    record = filled(tmp_path / "a.json", {CLEAN: None, Cell("fog", 1): None})
    assert summarise(record, "AP", ["fog"], [1]) == dict(clean=0.0, mPC=0.0, rPC=None, kinds={"fog": 0.0})


def test_finished_cells_are_kept_for_the_same_network_only(tmp_path):
    filled(tmp_path / "a.json", {CLEAN: 0.5, Cell("fog", 1): 0.4})
    again = Record(tmp_path / "a.json", IDENTITY)
    assert again.left([CLEAN, Cell("fog", 1), Cell("fog", 2)]) == [Cell("fog", 2)]
    assert again.metric(Cell("fog", 1), "AP") == 0.4
    with pytest.raises(ValueError, match=r"^--metric must be one of AP, AP_50, got 'mIoU'$"):
        again.metric(CLEAN, "mIoU")
    with pytest.raises(ValueError, match=r"a\.json must hold .* but its weights differ; name another --work-dir or"):
        Record(tmp_path / "a.json", dict(IDENTITY, weights="other"))


@pytest.mark.parametrize("task", CONFIGS)
def test_the_corruption_comes_right_after_the_loading(task):
    config = read_config(CONFIGS[task])
    steps = corrupted_loader(config, Cell("fog", 2)).dataset.pipeline
    assert steps[:2] == [dict(type="LoadImageFromFile"), dict(type="freqkd.Corrupt", kind="fog", severity=2)]
    assert steps[2:] == config.test_dataloader.dataset.pipeline[1:]
    assert corrupted_loader(config, CLEAN) == config.test_dataloader


def test_every_data_set_of_a_wrapper_is_corrupted():
    inner = dict(type="CocoDataset", pipeline=[dict(type="mmdet.LoadImageFromFile"), dict(type="PackDetInputs")])
    wrapped = dict(type="ConcatDataset", datasets=[inner, inner])
    loader = corrupted_loader(Config(dict(test_dataloader=dict(dataset=wrapped))), Cell("fog", 2))
    assert [data.pipeline[1].type for data in loader.dataset.datasets] == ["freqkd.Corrupt"] * 2


def test_a_pipeline_that_loads_no_image_is_refused():
    config = Config(dict(test_dataloader=dict(dataset=dict(type="Own", pipeline=[dict(type="Draw")]))))
    with pytest.raises(ValueError, match=r"pipeline must load an image by LoadImageFromFile .*, got \['Draw'\]$"):
        corrupted_loader(config, Cell("fog", 2))


def test_names_are_those_of_the_configs_or_given():
    pairs = ["configs/a.py", "x.pth", "mmdet::b/c.py", "y.pth"]
    assert list(command.read_pairs(pairs, [])) == ["a", "c"]
    assert command.read_pairs(pairs, ["alone", "teacher"])["teacher"] == ("mmdet::b/c.py", "y.pth")
    for names in (["one"], ["one", "one"], ["one", "../two"]):
        with pytest.raises(ValueError, match=r"^--names must be "):
            command.read_pairs(pairs, names)
    with pytest.raises(ValueError, match=r"^CONFIG CHECKPOINT must be pairs, got 3 names"):
        command.read_pairs(pairs[:3], [])


def test_a_metric_is_asked_for_where_none_is_usual():
    assert command.metric_of(read_config(CONFIGS["detection"]), "") == "coco/bbox_mAP"
    assert command.metric_of(read_config(CONFIGS["segmentation"]), "") == "mIoU"
    other = Config(dict(test_evaluator=[dict(type="VOCMetric")]))
    assert command.metric_of(other, "pascal_voc/mAP") == "pascal_voc/mAP"
    with pytest.raises(ValueError, match=r"^--metric must name the metric .* got VOCMetric$"):
        command.metric_of(other, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kinds", "rain"], "--kinds must be one of 'gaussian_noise'"),
        (["--severities", "7"], "--severities must be at most 5, got 7"),
    ],
)
def test_kinds_and_severities_are_checked_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        command.main(["no_config.py", "no.pth", *options])


def test_quick_takes_a_kind_of_every_group():
    assert [sum(kind in command.QUICK_KINDS for kind in group) for group in command.GROUPS.values()] == [1, 1, 1, 1]
    assert set(command.QUICK_KINDS) <= set(KINDS)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(whole_networks, fresh, tiny_config, tmp_path, monkeypatch):
    """Return `run(task, *options)`: the results of the command for the shipped teacher on a few images."""
    pytest.importorskip("imagecorruptions")
    weights = dict(detection="blood-cells_retinanet-r18w48.pth", segmentation="road-scenes_semantic-fpn-r18w48.pth")
    monkeypatch.chdir(ROOT)
    # A Runner formats its config several times, which takes longer than four images.
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **options: (text, True))

    def call(task, *options):
        config = tiny_config(tmp_path / "small.py", task, "teacher")
        work_dir = ["--work-dir", str(tmp_path / "out")]
        command.main([str(config), f"data/teachers/{weights[task]}", *options, *work_dir])
        return json.loads((tmp_path / "out" / "robustness.json").read_text())

    return call


def test_corruption_costs_a_detector_some_of_its_metric(run, capsys):
    found = run("detection", "--kinds", "contrast", "--severities", "1", "5", "--names", "teacher")
    result, output = found["networks"]["teacher"], capsys.readouterr().out
    assert (found["metric"], found["severities"]) == ("coco/bbox_mAP", [1, 5])
    assert 0 <= result["mPC"] < result["clean"]
    assert result["rPC"] == pytest.approx(result["mPC"] / result["clean"])
    assert f"| teacher | {result['clean']:.3f} | {result['mPC']:.3f} | {result['rPC']:.1%} |" in output
    assert f"| contrast (digital) | {result['kinds']['contrast']:.3f} |" in output


def test_a_stopped_command_goes_on_where_it_was(run, monkeypatch):
    done, stop_at = [], Cell("contrast", 3)
    corrupted = robustness.corrupted_loader

    def note(config, cell):
        if cell == stop_at:
            raise KeyboardInterrupt
        done.append(cell)
        return corrupted(config, cell)

    options = ["segmentation", "--kinds", "contrast", "fog", "--severities", "3"]
    monkeypatch.setattr(robustness, "corrupted_loader", note)
    with pytest.raises(KeyboardInterrupt):
        run(*options)
    assert done == [CLEAN, Cell("fog", 3)]
    stop_at = None
    found = run(*options)
    assert done == [CLEAN, Cell("fog", 3), Cell("contrast", 3)]
    result = found["networks"]["small"]
    assert (found["metric"], list(result["kinds"])) == ("mIoU", ["fog", "contrast"])
    assert max(result["kinds"].values()) < result["clean"]
    assert run(*options) == found
    assert len(done) == 3
