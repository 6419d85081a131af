"""Numbers that are not finite or not in range are refused by every argument, prompt file and cache file."""

from __future__ import annotations

import copy
import inspect
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import freqkd.losses
import freqkd.plugins
from freqkd.kan import KANConv2d, KANLinear
from freqkd.losses import FreeKDLoss, MSELoss, freekd_loss
from freqkd.losses.fgd import GlobalContext
from freqkd.losses.fourierkd import AmplitudeMixer
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.relation import ChannelGate, KANGate
from freqkd.losses.freekd.wavelets import wavedec2
from freqkd.losses.logits.divergence import DIVERGENCES
from freqkd.losses.logits.regions import REGIONS
from freqkd.losses.logits.softening import SOFTENINGS
from freqkd.losses.mgd import GenerationBlock
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.models.schedule import TermSchedule
from freqkd.models.weight import FixedWeight, HeldRatioWeight, RatioWeight
from freqkd.registry import DATASETS, HOOKS, MODELS
from freqkd.teacher.acceleration import Acceleration
from freqkd.teacher.cache import CachedTeacher
from freqkd.teacher.entries import read_entry, write_entry
from freqkd.teacher.teacher import Teacher
from freqkd.utils.checkpoints import CheckpointError

PARTS = (FrequencyPrompt, ChannelGate, GenerationBlock, GlobalContext, AmplitudeMixer)
PARTS += (KANConv2d, KANGate, KANLinear)
PARTS += (FixedWeight, HeldRatioWeight, RatioWeight, TermSchedule, Teacher)
NAMED = {**MODELS.module_dict, **HOOKS.module_dict, **DATASETS.module_dict, **SOFTENINGS, **DIVERGENCES, **REGIONS}
CLASSES = {kind.__name__: kind for kind in (*NAMED.values(), *PARTS, CachedTeacher, Acceleration)}
CLASSES = {
    name: kind for name, kind in CLASSES.items() if "__init__" in vars(kind)
}  # others take what their base takes
CLASSES = {name: kind for name, kind in CLASSES.items() if kind.__module__.startswith("freqkd.")}
NEEDED = dict(channels=4, num_levels=1, student_channels=4, teacher_channels=4, num_classes=3, ratio=0.5, weight=1.0)
NEEDED.update(in_features=4, out_features=4, in_channels=4, out_channels=4)
NEEDED.update(dir="cache", views=2, config="config.py", checkpoint="net.pth", head="a", loss=MSELoss(), dataset={})  # type: ignore[arg-type]
NEEDED.update(tap="neck", student={}, teacher={}, terms={}, prompts=dict(channels=4, num_levels=1))  # type: ignore[arg-type]
BAD = {
    "number": (math.nan, math.inf, -math.inf, True, "1", -1e9, 1e30),
    "whole number": (math.nan, math.inf, -math.inf, True, "1", 2.5, 2.0, -(10**30), 10**30),
    "flag": (0, 1, "no", math.nan),
}


def kind_of(annotation: str) -> str | None:
    """What an argument takes, by its annotation."""
    words = re.findall(r"\w+", annotation)
    found = [kind for word, kind in (("float", "number"), ("int", "whole number"), ("bool", "flag")) if word in words]
    return found[0] if found else None


def rows() -> list[Any]:
    """Every numeric argument of every class that a config can name, and of their parts, with every bad value."""
    found = []
    for name, kind in sorted(CLASSES.items()):
        for argument in inspect.signature(kind).parameters.values():
            what = kind_of(str(argument.annotation))
            for value in BAD[what] if what else ():
                if not str(argument.annotation).startswith("Sequence"):
                    found.append(pytest.param(kind, argument.name, value, id=f"{name}-{argument.name}-{value}"))
                if "Sequence" in str(argument.annotation):
                    found.append(pytest.param(kind, argument.name, [value], id=f"{name}-{argument.name}-[{value}]"))
    return found


@pytest.mark.parametrize(("kind", "argument", "value"), rows())
def test_an_argument_refuses_wrong_numbers(kind: Any, argument: str, value: Any) -> None:
    needed = [one.name for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    needed += ["channels", "num_levels"] if issubclass(kind, FreeKDLoss) else []  # needed unless a prompt file has them
    options = {name: copy.copy(NEEDED[name]) for name in needed if name in NEEDED}
    inner = value[0] if isinstance(value, list) else value
    with pytest.raises(ValueError, match=rf"(^|\.){argument}\b.* must .*{re.escape(repr(inner))}"):
        kind(**{**options, argument: value})


def test_the_table_covers_what_it_should() -> None:
    pairs = {(row.values[0].__name__, row.values[1]) for row in rows()}
    losses = {
        kind.__name__ for name, kind in vars(freqkd.losses).items() if inspect.isclass(kind) and name.endswith("Loss")
    }
    assert {(name, "loss_weight") for name in losses} <= pairs
    others = (
        "RatioWeight ratio",
        "TermSchedule end",
        "Distiller monitor",
        "PromptTuner overlap_weight",
        "FixedViews views",
    )
    others += (
        "MaskHook interval",
        "Acceleration compile",
        "CachedTeacher views",
        "DistillTerm student_levels",
        "LearnedTemperature init",
    )
    assert {tuple(other.split()) for other in others} <= pairs
    assert len(rows()) > 700


@pytest.mark.parametrize("name", [name for name in vars(freqkd.losses.logits.methods) if name.endswith("_loss")])
def test_a_named_method_refuses_them_too(name: str) -> None:
    loss = getattr(freqkd.losses, name)
    logits, target = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    arguments = [one for one in inspect.signature(loss).parameters.values() if kind_of(str(one.annotation))]
    assert {"tau", "ignore_index"} <= {one.name for one in arguments}
    for argument in arguments:
        for value in (math.nan, True, "1", 1e30):
            given = [value] if "Sequence" in str(argument.annotation) else value
            with pytest.raises(ValueError, match=rf"{argument.name} must .*got {re.escape(repr(value))}"):
                loss(logits, logits, target, **{argument.name: given})


def test_the_bounds_themselves_are_accepted() -> None:
    assert RatioWeight(ratio=1e-6, iters=1).ratio == 1e-6
    assert FixedWeight(1e6).value() == 1e6
    assert FixedWeight(0).value() == 0.0
    assert TermSchedule(begin=10**9).begin == 10**9
    assert freqkd.losses.MGDLoss(4, 1, loss_weight=5e-7).loss_weight == 5e-7


# ---- a depth that no map has ----------------------------------------------------------------------------------------


def test_a_depth_beyond_any_map_is_refused_before_memory_is_asked_for() -> None:
    loss = FreeKDLoss(channels=4, num_levels=1, depth=10)
    feat = torch.zeros(1, 4, 8, 8)
    words = r"(\w+) must fit the map: blocks of 1024x1024 positions for \1=10, got a map of 8x8; \1=3 fits"
    for call in (
        lambda: loss(feat, feat),
        lambda: freekd_loss(feat, feat, depth=10),
        lambda: wavedec2(feat, level=10),
        lambda: FrequencyPrompt(4, depth=10)(feat),
        lambda: FrequencyPrompt(4, depth=10).decompose(feat),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.filterwarnings("ignore:a map of")
@pytest.mark.parametrize(("level", "size"), [(8, (1, 1)), (6, (2, 3)), (9, (64, 64))])
def test_a_depth_that_pads_a_small_map_is_accepted(level: int, size: tuple[int, int]) -> None:
    feat = torch.ones(1, 1, *size)
    assert float(FreeKDLoss(channels=1, num_levels=1, depth=level)(feat, feat)) == 0.0


# ---- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["prompts.1.tokens", "gates.0.mlp.0.bias"])
def test_prompts_with_such_a_number_are_refused_and_nothing_is_taken_over(value: float, key: str) -> None:
    options: dict[str, Any] = dict(channels=4, num_levels=2, depth=1, relation="gate")
    loss, state = FreeKDLoss(**options), FreeKDLoss(**options).state_dict()
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    state[key].view(-1)[1] = value
    with pytest.raises(ValueError, match=rf"{key} must hold finite numbers, got 1 of \d+ that are not"):
        loss.load_prompts(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.state_dict().items())


def test_the_prompt_stage_does_not_resume_with_them() -> None:
    teacher = SimpleNamespace(config="c.py", checkpoint="c.pth")
    options = dict(channels=4, num_levels=1, depth=1)
    tuner, other = (PromptTuner(dict(vars(teacher)), options) for _ in range(2))
    state = other.state_dict()
    tuner.load_state_dict(state)
    assert torch.equal(tuner.prompts[0].tokens, other.prompts[0].tokens)
    state["prompts.0.tokens"].view(-1)[0] = math.nan
    with pytest.raises(
        CheckpointError, match=r"cannot be trained further: prompts.0.tokens must hold finite numbers, got 1 of"
    ):
        tuner.load_state_dict(state)


# ---- files of a cache -----------------------------------------------------------------------------------------------


def test_an_entry_with_a_flipped_bit_is_refused_or_read_as_written(tmp_path: Any) -> None:
    path, row, expected = (
        tmp_path / "one.safetensors",
        torch.zeros(28, dtype=torch.float16),
        [1.0] * 4 + list(range(24)),
    )
    maps = {"neck": [torch.arange(24.0).reshape(2, 3, 4).half()], "head": [torch.ones(1, 2, 2).half()]}
    write_entry(path, (8, 8), 7, maps)
    entry = read_entry(path)
    assert entry is not None
    assert entry.read_into(row.numpy())
    assert row.tolist() == expected  # in the order of the taps' names
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        found = read_entry(path)
        if found is None or not found.read_into(row.numpy()):
            refused += 1
            continue
        assert row.tolist() == expected, place
        assert (found.size, found.pixels, found.shapes) == (entry.size, entry.pixels, entry.shapes), place
        assert place < len(whole) - 56, place  # not in the values
    assert refused > len(whole) / 2
