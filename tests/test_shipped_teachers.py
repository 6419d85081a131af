"""The shipped teachers score what their cards say, through tools/test.py."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest

from freqkd.utils.checkpoints import hash_weights, read_checkpoint, weights_of

ROOT = Path(__file__).resolve().parent.parent
CARDS = sorted((ROOT / "data/teachers").glob("*.json"))


def test_there_is_a_teacher_for_each_task_within_the_promised_size():
    assert [card.stem for card in CARDS] == ["blood-cells_retinanet-r18w48", "road-scenes_semantic-fpn-r18w48"]
    assert sum(card.with_suffix(".pth").stat().st_size for card in CARDS) < 30e6


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_teacher_is_the_file_its_card_describes(path):
    card = json.loads(path.read_text())
    file = path.with_suffix(".pth")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
    weights = weights_of(read_checkpoint(file))
    assert hash_weights(weights) == card["weights_hash"]
    assert abs(card["value"] - card["value_full_precision"]) < 0.002
    assert {"config", "seed", "command"} <= set(card)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.long if path.stem.startswith("road") else ()) for path in CARDS],
    ids=lambda path: path.stem,
)
def test_a_teacher_scores_what_its_card_says(path, tool, tmp_path, monkeypatch):
    from mmengine.runner import Runner

    card = json.loads(path.read_text())
    measured = {}
    run = Runner.test
    monkeypatch.setattr(Runner, "test", lambda self: measured.update(run(self)) or measured)
    assert tool("test", card["config"], path.with_suffix(".pth"), "--work-dir", tmp_path) == 0
    scale = 0.01 if card["metric"] == "mIoU" else 1.0
    assert abs(measured[card["metric"]] * scale - card["value"]) <= 0.002


def test_predictions_can_be_dumped(tool, tmp_path):
    card = json.loads(CARDS[0].read_text())
    out = tmp_path / "predictions.pkl"
    options = ["--cfg-options", "test_dataloader.dataset.indices=2", "--work-dir", tmp_path, "--out", out]
    assert tool("test", card["config"], CARDS[0].with_suffix(".pth"), *options) == 0
    assert len(pickle.loads(out.read_bytes())) == 2
