"""Every shipped distillation of the samples trains: all terms finite, non-zero, their gradients measured."""

import math
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from first_stages import write_band_head
from mmengine.registry import MODELS, init_default_scope

import freqkd.plugins  # noqa: F401
from freqkd.models.prompt_file import write_prompts
from freqkd.teacher.teacher import build_network
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = int(os.environ.get("FREQKD_CONFIG_STEPS", "2"))
CONFIGS = [
    path
    for path in sorted(ROOT.glob("configs/[!_]*/*.py"))
    if path.stem.endswith(("_blood-cells", "_road-scenes"))
    and path.parent.name != "baselines"
    and not path.name.startswith(("prompts_", "ds2d2-head_"))
    and "-unlabelled_" not in path.name  # see tests/models/test_without_labels.py
]
# Losses and adapters that the config of the other task or stage, or tests of their own, run as well.
LONG = ("fourierkd_neck_semantic", "freekd-plus_neck_semantic", "relaxed-low_", "freekd-local_", "ds2d2_")
LONG += ("cosine_", "am-radio_", "instance-norm-mse_", "log-sum_", "projector_", "similarity-kl_")
LONG += ("weighted-mse_neck_semantic", "kan_neck_semantic")
CASES = [pytest.param(path, id=path.stem, marks=[pytest.mark.long] * path.name.startswith(LONG)) for path in CONFIGS]
SHORT = """
_base_ = [{base!r}]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters={steps}, val_interval=10**6)
param_scheduler = []
train_dataloader = dict(batch_size=2)
val_dataloader = val_cfg = val_evaluator = None
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval={steps}))
log_processor = dict(by_epoch=False, window_size=1)
model = dict(monitor=1, teacher={teacher}, terms={terms})
"""


@pytest.fixture(autouse=True)
def plain_dumps(monkeypatch):
    """Dump a Runner's config as it is: making it pretty takes longer than the two steps."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **options: (text, True))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Return `prompts(path)`: the prompts that the stage of a shipped prompt file starts from, made once."""

    @lru_cache
    def make(path):
        (stage,) = ROOT.glob(f"configs/*/{Path(path).parent.name}.py")
        config = read_config(stage)
        init_default_scope(config.default_scope)
        made = tmp_path_factory.mktemp("prompts") / "prompts.pth"
        write_prompts(MODELS.build(config.model), str(made))
        return str(made)

    return make


def test_the_configs_are_found():
    assert len(CONFIGS) >= 41


@pytest.mark.parametrize("path", CASES)
def test_a_sample_config_trains(path, tool, prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = read_config(path).model
    named = {name: term.prompts for name, term in model.terms.items() if term.get("prompts")}
    terms = {name: dict(prompts=prompts(file)) for name, file in named.items()}
    heads = {name: (term.get("adapter") or {}).get("head", "") for name, term in model.terms.items()}
    for name, head in heads.items():
        if head.endswith(".pth"):
            terms[name] = dict(adapter=dict(head=write_band_head(head, tmp_path / "head.pth")))
    teacher = {}
    if not Path(model.teacher.checkpoint).exists():  # the GFL teacher is not shipped
        described = read_config(model.teacher.config)
        torch.manual_seed(0)
        weights = build_network(described.model, described.default_scope).state_dict()
        torch.save(dict(state_dict=weights), tmp_path / "teacher.pth")
        teacher["checkpoint"] = str(tmp_path / "teacher.pth")
    if "cache" in model.teacher:
        teacher["cache"] = dict(dir=str(tmp_path / "cache"))
    config = tmp_path / "short.py"
    config.write_text(SHORT.format(base=str(path), steps=STEPS, teacher=teacher, terms=terms))
    assert tool("train", config, "--work-dir", tmp_path / "work") == 0
    saved = read_checkpoint(tmp_path / "work" / f"iter_{STEPS}.pth")
    temperatures = [float(value) for key, value in saved["state_dict"].items() if key.endswith("softening.raw_tau")]
    assert len(temperatures) == path.name.startswith("ctkd_")
    assert 1.0 not in temperatures  # where they start
    scalars = saved["message_hub"]["log_scalars"]
    for name in model.terms:
        values, _ = scalars[f"train/distill.{name}"].data
        norms, _ = scalars[f"train/grad_norm/{name}"].data
        assert len(values) == len(norms) == STEPS
        assert all(math.isfinite(value) and value > 0 for value in values)
        assert all(math.isfinite(norm) and norm > 0 for norm in norms)
