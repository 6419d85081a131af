"""The demo's own words and judgements; the demo itself is `make demo`."""

import copy
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(ROOT / "tools" / "demo"))
    import report
    import tasks

    yield type("Demo", (), dict(report=report, tasks=tasks))
    sys.path.remove(str(ROOT / "tools" / "demo"))


@pytest.fixture
def results():
    masks = dict(
        before=dict(overlap=0.99, deviation=0.001, mean_deviation=0.0),
        after=dict(overlap=0.7, deviation=0.2, mean_deviation=0.05),
    )
    found = dict(params=1e6, metric=0.4, seconds=70.0, config="c.py", checkpoint="s.pth")
    return dict(
        teacher=dict(params=7e6, metric=0.5, seconds=None),
        prompts=dict(params=6e3, metric=0.49, seconds=30.0, masks=masks),
        alone=found,
        distilled=dict(found, metric=0.45, terms=dict(loss_freekd=dict(gradient_ratio=0.5))),
        combined=dict(
            found, metric=0.46, terms=dict(loss_freekd=dict(gradient_ratio=0.5), loss_logit=dict(gradient_ratio=0.4))
        ),
    )


def test_a_good_run_passes_its_own_check(demo, results):
    demo.report.check_shown("detection", results)


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("prompts", "masks", "after", "overlap"), 0.99, "overlap"),
        (("prompts", "masks", "after", "deviation"), 0.002, "flat"),
        (("distilled", "terms", "loss_freekd", "gradient_ratio"), 0.05, "ratio"),
        (("distilled", "terms", "loss_freekd", "gradient_ratio"), None, "ratio"),
        (("combined", "terms", "loss_logit", "gradient_ratio"), 0.05, "loss_logit"),
    ],
)
def test_a_run_that_shows_nothing_fails(demo, results, path, value, word):
    broken = copy.deepcopy(results)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=word):
        demo.report.check_shown("detection", broken)


def test_the_table_has_every_network_its_metric_and_its_time(demo, results):
    lines = demo.report.table(dict(detection=results, segmentation=results)).splitlines()
    assert len(lines) == 2 + 10
    assert "0.450 box AP" in lines[5]
    assert "70 s" in lines[5]
    assert "shipped" in lines[2]
    assert "FreeKD + MSE + binary KD" in lines[6]
    assert "0.460" in lines[6]
    assert "mIoU" in lines[7]


def test_the_summary_holds_no_nan_and_is_whole_or_absent(demo, tmp_path):
    target = tmp_path / "summary.json"
    demo.report.write_json(dict(metric=None), target)
    assert json.loads(target.read_text()) == {"metric": None}
    with pytest.raises(ValueError, match="JSON"):
        demo.report.write_json(dict(metric=math.nan), target)
    assert json.loads(target.read_text()) == {"metric": None}


def test_the_announced_steps_are_those_of_the_configs(demo, monkeypatch):
    monkeypatch.chdir(ROOT)
    detection, segmentation = demo.tasks.TASKS["detection"], demo.tasks.TASKS["segmentation"]
    assert demo.tasks.steps_of(detection.config("alone")) == 12 * 26
    assert demo.tasks.steps_of(detection.config("prompts")) == 4 * 26
    assert demo.tasks.steps_of(segmentation.config("distilled")) == 300
    for task in (detection, segmentation):
        for stage in ("distilled", "combined"):
            assert demo.tasks.steps_of(task.config("alone")) == demo.tasks.steps_of(task.config(stage))
