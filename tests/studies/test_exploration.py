"""A study that explores: its reported split is never read, and the teacher that it trained is kept in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from freqkd.studies.compare import main
from freqkd.studies.plan import Plan
from freqkd.studies.study import read_study

EXPLORES = """
report = False
seeds = 1
search = {}
_term['align']['teacher_channels'] = 8
methods = dict(mse=dict(terms=dict(loss_mse=dict(loss=dict(type='freqkd.MSELoss')))))
term = dict(_term, weight=dict(ratio=1.0, iters=2))
"""


@pytest.fixture
def study(toy_study, tmp_path, forked):
    """A study file whose teacher is trained by the study, and written to `kept.pth`."""
    teacher = dict(config=str(tmp_path / "student.py"), checkpoint=str(tmp_path / "kept.pth"), steps=6)
    return toy_study(tmp_path, EXPLORES, teacher=teacher)


def run(folder: Path, study: str) -> dict:
    main([study, "--results-dir", str(folder / "results"), "--work-dir", str(folder / "work")])
    return json.loads((folder / "results/toy/answer.json").read_text())


@pytest.mark.long
def test_an_exploration_never_reads_the_reported_split_and_keeps_its_teacher(study, tmp_path):
    answer = run(tmp_path, study)
    assert "/val/" not in (tmp_path / "reads").read_text()
    assert answer["metric_name"] == "mIoU, selection part"
    for name in ("student", "mse"):
        record = json.loads((tmp_path / f"results/toy/{name}_6-steps_seed0.json").read_text())
        assert record["metric"] == record["curve"][-1][1]
        assert record["images"] is None

    card, weights = json.loads((tmp_path / "kept.json").read_text()), torch.load(tmp_path / "kept.pth")["state_dict"]
    assert card["steps"] == 6
    assert card["selection"] == {"fraction": 0.3, "seed": 0, "together": 1}
    assert all(value.dtype in (torch.half, torch.long) for value in weights.values())
    # The kept file is the teacher of the study when it is continued elsewhere, without a training.
    other = tmp_path / "elsewhere"
    again = run(other, study)
    assert not (other / "work/toy/teacher").exists()
    assert again["teacher"] == answer["teacher"]
    assert card["metric_on_selection_part"] == pytest.approx(answer["teacher"]["metric"], abs=1.0)  # half precision
    assert [row["metrics"] for row in again["lengths"][0]["rows"]] == [
        row["metrics"] for row in answer["lengths"][0]["rows"]
    ]


def test_a_teacher_that_may_have_seen_the_selection_part_is_refused(study, tmp_path):
    plan = Plan(read_study(study), tmp_path / "results", tmp_path / "work")
    (tmp_path / "kept.pth").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"teacher\.checkpoint must be a .* but .*kept\.json, which says how, is missing"
    ):
        plan.check()
    (tmp_path / "kept.json").write_text(
        json.dumps(plan.recipe | dict(selection=dict(fraction=0.2, seed=0, together=1)))
    )
    with pytest.raises(ValueError, match=r"kept\.json says selection .*0\.2.* for .*0\.3"):
        plan.check()
