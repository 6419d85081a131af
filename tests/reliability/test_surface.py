"""Random values in every slot of a config, and random prompt files, are refused by this package or accepted whole.

`FREQKD_FUZZ_SECONDS` sets how long the tests marked `long` run; the quick ones take a few seconds and are the same each time.
"""

from __future__ import annotations

import copy
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mmengine.config import Config

from freqkd.apis.train import check_training
from freqkd.losses import FreeKDLoss
from freqkd.models.prompt_file import describe_prompts
from freqkd.models.term import DistillTerm
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.errors import is_user_error, one_line, place_of
from freqkd.utils.loading import guarded_loading
from freqkd.utils.slots import check_slots

ROOT = Path(__file__).resolve().parents[2]
BASES = {
    "detection": "configs/freekd/freekd-mse-binary-kd_neck-logits_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    "segmentation": "configs/freekd/"
    "freekd-cwd_neck-logits_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
    "prompts": "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
}
SECONDS = float(os.environ.get("FREQKD_FUZZ_SECONDS", "60"))
OPTIONS = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def repeat(check, seconds):
    """Run a property with one seed after the other until the time is over."""
    end, start = time.monotonic() + seconds, time.time_ns() % 2**32
    while time.monotonic() < end:
        seed(start)(check)()
        start += 1


# ---- configs ----------------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        "",
        "neck",
        "backbone",
        "backbone.layer1",
        "bbox_head.retina_cls",
        "MSELoss",
        "freqkd.MSELoss",
        "mmdet",
        "none",
        "1",
        "\n",
    ]
)
# Small numbers only: a width or a depth of billions takes all memory or all day, here as anywhere.
NUMBERS = st.one_of(st.integers(-3, 40), st.sampled_from([0.0, 0.5, -1.0, 1e-30, 1e30, float("nan"), float("inf")]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
KEYS = st.sampled_from(["type", "_delete_", "ratio", "dir", "x", "student", "0"])
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=4
)


def read(name):
    """Read a base config, with untrained prompts."""
    config = Config.fromfile(str(ROOT / BASES[name]))
    for term in config.model.get("terms", {}).values():
        if "prompts" in term:
            term.prompts = "untrained"
            term.loss.update(channels=64, num_levels=3 if name == "detection" else 4)
            term.loss.update(channels=term.align.teacher_channels, num_levels=term.align.num_levels)
    config.work_dir = "/tmp/freqkd-surface-is-never-made"
    return config.to_dict()


def slots(config, path=()):
    """List the paths of all values of a config."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    found = [] if not path else [path]
    for key, value in pairs:
        if key not in ("custom_imports", "work_dir", "env_cfg"):
            found += slots(value, (*path, key))
    return found


def changed(config, path, value):
    config = copy.deepcopy(config)
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = copy.deepcopy(value)
    return config


def refusal(call, *kinds):
    """Return the error of these kinds that a call ends with; None where it ends well."""
    try:
        call()
    except kinds as error:
        return error
    return None


def is_refused_config(config):
    """Check a config; return whether it was refused, which must be by an error that this package raised."""

    def check():
        with guarded_loading():
            whole = Config(config)
            check_slots(whole)
            check_training(whole)

    error = refusal(check, Exception)
    if error is None:
        return False
    if not is_user_error(error):
        raise error
    place = place_of(error)
    machine = isinstance(error, (OSError, MemoryError))
    assert machine or (isinstance(error, ValueError) and place is not None and place.is_package), one_line(error)
    return bool(one_line(error).strip())


def surface(name, count, tally, same=False):
    base = read(name)
    places = st.sampled_from(slots(base))
    pool = st.one_of(VALUES, places.map(lambda path: _at(base, path)))  # also values of other slots, of a right kind

    @settings(OPTIONS, max_examples=count, derandomize=same)
    @given(places, pool)
    def check(path, value):
        tally[is_refused_config(changed(base, path, value))] += 1

    return check


def _at(config, path):
    for key in path:
        config = config[key]
    return config


@pytest.fixture
def at_root(monkeypatch, fresh):
    """Work in the repository's root, for the paths of the shipped configs."""
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("many_draws")
def test_random_values_in_a_config_are_refused_by_this_package(at_root, capsys):
    tally = [0, 0]
    surface("detection", 10, tally, same=True)()
    assert tally[True] >= 3
    assert is_refused_config(read("detection")) is False


@pytest.mark.long
def test_random_values_in_all_configs_for_long(at_root, capsys, record_property):
    tally = [0, 0]
    for name in BASES:
        repeat(surface(name, 20, tally), SECONDS / len(BASES))
    record_property("examples", sum(tally))
    with capsys.disabled():
        print(f"\n{sum(tally)} configs in {SECONDS:.0f} s: {tally[True]} refused, {tally[False]} accepted")
    assert tally[True] > tally[False] / 10


# ---- prompt files ---------------------------------------------------------------------------------------------------------

TEACHER = SimpleNamespace(hash=bytes(range(32)).hex(), checkpoint="teacher.pth")


def good():
    """What a prompt stage writes."""
    loss = FreeKDLoss(channels=4, num_levels=2, num_prompts=2)
    made = describe_prompts(loss.prompts, loss.gates)
    made.update(tap="neck", levels=[0, 1], teacher=TEACHER.checkpoint, teacher_hash=TEACHER.hash)
    return dict(state_dict={key: value.clone() for key, value in loss.state_dict().items()}, meta=made)


def packed(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def is_refused(path):
    """Build a term from a file; return whether it refused the file. What it accepts must be whole and finite."""

    def build():
        term = DistillTerm(loss=dict(type="freqkd.FreeKDLoss"), prompts=str(path))
        term.check_teacher(TEACHER)
        taken.update(term.loss.state_dict())

    taken: dict[str, torch.Tensor] = {}
    error = refusal(build, CheckpointError)
    if error is not None:
        assert 0 < len(one_line(error)) < 2000
        return True
    assert {key: (value.shape, value.dtype) for key, value in taken.items()} == SHAPES
    assert all(bool(torch.isfinite(value).all()) for value in taken.values())
    return False


def tensor(kind, shape):
    shape = tuple(shape)
    if kind == "sparse":
        return torch.ones(shape).to_sparse() if shape else torch.ones(2).to_sparse()
    if kind == "quantized":
        return torch.quantize_per_tensor(torch.ones(shape), 0.1, 0, torch.quint8)
    if kind == "meta":
        return torch.ones(shape, device="meta")
    if kind == "nan":
        return torch.full(shape, float("nan"))
    return torch.ones(shape, dtype=getattr(torch, kind))


KINDS = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "uint8",
    "bool",
    "complex64",
    "sparse",
    "quantized",
    "meta",
    "nan",
]
TENSORS = st.builds(tensor, st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=4))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=5), st.binary(max_size=5), TENSORS
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
)
WHOLE = good()
SHAPES = {key: (value.shape, value.dtype) for key, value in WHOLE["state_dict"].items()}
NAMES = sorted(WHOLE["state_dict"])


@st.composite
def files(draw):
    """Draw the bytes of a prompt file: noise, one that was cut, one with flipped bits, one that holds something else."""
    kind = draw(st.sampled_from(["noise", "cut", "flipped", "tree", "top", "state", "meta", "like"]))
    whole = packed(WHOLE)
    if kind == "noise":
        return draw(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02"])) + draw(st.binary(max_size=300))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    if kind == "flipped":
        data = bytearray(whole)
        for at in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=5)):
            data[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    value = copy.deepcopy(WHOLE)
    if kind == "tree":
        value = draw(TREES)
    elif kind == "top":
        value[draw(st.sampled_from(["state_dict", "meta"]))] = draw(TREES)
    elif kind == "state":
        value["state_dict"][draw(st.sampled_from(NAMES) | st.text(max_size=5))] = draw(LEAVES)
    elif kind == "meta":
        value["meta"][draw(st.sampled_from(sorted(value["meta"])))] = draw(TREES)
    else:  # a tensor of another kind in the right shape
        name = draw(st.sampled_from(NAMES))
        value["state_dict"][name] = tensor(draw(st.sampled_from(KINDS)), value["state_dict"][name].shape)
    return packed(value)


def prompt_files(path, count, tally, same=False):
    @settings(OPTIONS, max_examples=count, derandomize=same)
    @given(files())
    def check(data):
        path.write_bytes(data)
        tally[is_refused(path)] += 1

    return check


@pytest.mark.usefixtures("many_draws")
def test_random_prompt_files_are_refused_or_whole(tmp_path):
    path, tally = tmp_path / "prompts.pth", [0, 0]
    path.write_bytes(packed(WHOLE))
    assert is_refused(path) is False
    prompt_files(path, 300, tally, same=True)()
    assert tally[True] >= 100


@pytest.mark.long
def test_random_prompt_files_for_long(tmp_path, capsys, record_property):
    path, tally = tmp_path / "prompts.pth", [0, 0]
    repeat(prompt_files(path, 200, tally), SECONDS)
    record_property("examples", sum(tally))
    with capsys.disabled():
        print(f"\n{sum(tally)} prompt files in {SECONDS:.0f} s: {tally[True]} refused, {tally[False]} accepted")
    assert tally[True] > tally[False]
