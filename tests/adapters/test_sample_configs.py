"""Every shipped distillation of the samples trains: all terms finite, non-zero, their gradients measured."""

import math
import os
from pathlib import Path

import pytest
import torch

from freqkd.checkpoints import read_checkpoint
from freqkd.compat import read_config
from freqkd.distillers.teacher import build_network

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = int(os.environ.get("FREQKD_CONFIG_STEPS", "2"))
CONFIGS = [
    path
    for folder in ("blood_cells", "road_scenes")
    for path in sorted((ROOT / "configs" / folder).glob("*.py"))
    if "teacher" in read_config(path).model and not path.name.startswith("prompts_")
]
SHORT = """
_base_ = [{base!r}]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters={steps}, val_interval=10**6)
param_scheduler = []
train_dataloader = dict(batch_size=2)
val_dataloader = val_cfg = val_evaluator = None
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval={steps}))
log_processor = dict(by_epoch=False, window_size=1)
model = dict(monitor=1, terms=dict({terms}))
"""


@pytest.fixture(autouse=True)
def plain_dumps(monkeypatch):
    """Dump a Runner's config as it is: making it pretty takes longer than the two steps."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **options: (text, True))


def test_the_list_is_whole():
    names = [path.name.split("_")[0] for path in CONFIGS]
    logits = [
        "annealing-kd",
        "ctkd",
        "cwd",
        "dist",
        "dkd",
        "dtkd",
        "freekd",
        "freekd-cwd",
        "kd",
        "nkd",
        "normkd",
        "sdd",
    ]
    logits += ["standardized-dkd", "standardized-kd", "binary-kd", "quality-focal-kd", "freekd-mse-binary-kd"]
    logits += ["ld", "bckd", "crosskd", "mse", "freekd-mse"]
    assert set(logits) <= set(names)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name.split("_")[0] + " " + path.parent.name)
def test_a_sample_config_trains(path, tool, tmp_path):
    terms = read_config(path).model.terms
    changed = ", ".join(f"{name}=dict(prompts='untrained')" for name, term in terms.items() if term.get("prompts"))
    teacher = read_config(path).model.teacher
    if not Path(ROOT / teacher.checkpoint).exists():  # the GFL teacher is not shipped
        described = read_config(ROOT / teacher.config)
        torch.manual_seed(0)
        weights = build_network(described.model, described.default_scope).state_dict()
        torch.save(dict(state_dict=weights), tmp_path / "teacher.pth")
        changed += f"), teacher=dict(checkpoint={str(tmp_path / 'teacher.pth')!r}"
    if "cache" in teacher:
        changed += f"), teacher=dict(cache=dict(dir={str(tmp_path / 'cache')!r})"
    config = tmp_path / "short.py"
    config.write_text(SHORT.format(base=str(path), steps=STEPS, terms=changed))
    assert tool("train", config, "--work-dir", tmp_path / "work") == 0
    saved = read_checkpoint(tmp_path / "work" / f"iter_{STEPS}.pth")
    temperatures = [float(value) for key, value in saved["state_dict"].items() if key.endswith("softening.raw_tau")]
    assert len(temperatures) == path.name.startswith("ctkd_")
    assert 1.0 not in temperatures  # where they start
    scalars = saved["message_hub"]["log_scalars"]
    for name in terms:
        values, _ = scalars[f"train/distill.{name}"].data
        norms, _ = scalars[f"train/grad_norm/{name}"].data
        assert len(values) == len(norms) == STEPS
        assert all(math.isfinite(value) and value > 0 for value in values)
        assert all(math.isfinite(norm) and norm > 0 for norm in norms)
