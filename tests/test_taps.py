"""Observing and replacing what modules return."""

import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

from freqkd.taps import FeatureEdit, FeatureTap, InputTap, find_module, find_tap, flatten_maps

Pair = namedtuple("Pair", "left right")


class Nest(nn.Module):
    """Returns a nest of tensors and other things."""

    def forward(self, x):
        return {"maps": (x, [x + 1, Pair(x + 2, x + 3)]), "name": "nest", "none": None}


class Shared(nn.Module):
    """One head for three levels, as detectors have."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.head.weight)
        self.idle = nn.Identity()

    def forward(self, x):
        return [self.head(x * scale) for scale in (1, 2, 3)]


X = torch.ones(1, 2)


def test_a_shared_module_gives_one_output_per_call():
    model = Shared()
    with FeatureTap(model, ["head", "idle"]) as tap:
        outputs = model(X)
    assert [float(output[0, 0]) for output in tap["head"]] == [1.0, 2.0, 3.0]
    assert all(tapped is output for tapped, output in zip(tap["head"], outputs, strict=True))
    assert tap["idle"] == ()


def test_outputs_keep_their_graph():
    model = Shared()
    with FeatureTap(model, ["head"]) as tap:
        model(X)
    sum(output.sum() for output in tap["head"]).backward()
    assert torch.equal(model.head.weight.grad, torch.full((2, 2), 6.0))


def test_nothing_is_recorded_outside_the_block():
    model = Shared()
    tap = FeatureTap(model, ["head"])
    model(X)
    assert tap["head"] == ()
    with tap:
        model(X)
    model(X)
    assert len(tap["head"]) == 3
    assert not model.head._forward_hooks


def test_entering_again_forgets_the_first_block():
    model = Shared()
    tap = FeatureTap(model, ["head"])
    for scale in (1, 5):
        with tap:
            model(scale * X)
    assert [float(output[0, 0]) for output in tap["head"]] == [5.0, 10.0, 15.0]


@pytest.mark.parametrize("kind", [FeatureTap, FeatureEdit])
def test_an_error_inside_the_block_takes_the_hooks_away(kind):
    model = Shared()
    watcher = FeatureTap(model, ["head"]) if kind is FeatureTap else FeatureEdit(model, "head", list)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), watcher:
        model(torch.ones(1, 3))
    assert not model.head._forward_hooks


def test_what_was_recorded_can_be_forgotten():
    model = Shared()
    with FeatureTap(model, ["head"]) as tap:
        model(X)
        tap.clear()
    assert tap["head"] == ()


@pytest.mark.parametrize(
    ("path", "names"),
    [("haed", "'head'"), ("head.weight", "'head'"), ("", "'head', 'idle'"), ("zzz", "'head', 'idle'")],
)
@pytest.mark.parametrize("make", [find_module, lambda model, path: FeatureTap(model, ["head", path])])
def test_an_unknown_path_lists_the_nearest_names(make, path, names):
    with pytest.raises(ValueError, match=f"no module '{path}' in Shared; the nearest names are {names}"):
        make(Shared(), path)


@pytest.mark.parametrize(
    "make",
    [
        find_tap,
        lambda model, path: FeatureTap(model, [path]),
        lambda model, path: InputTap(model, [path]),
        lambda model, path: FeatureEdit(model, path, list),
    ],
)
def test_a_list_of_modules_never_runs_and_names_what_does(make):
    levels = nn.ModuleList(nn.ModuleList([nn.ReLU()]) for _ in range(5))
    model = nn.ModuleDict(dict(head=nn.Sequential()))
    model["head"].add_module("convs", levels)
    words = (
        "'head.convs.3' is a ModuleList, which never runs as a module, so there is nothing to tap; tap 'head', with "
        "student_levels and teacher_levels for those of its maps that count, or one of its modules, 'head.convs.3.0'$"
    )
    with pytest.raises(ValueError, match=words):
        make(model, "head.convs.3")
    with pytest.raises(
        ValueError, match=r"one of its modules, 'head.convs.0', 'head.convs.1', 'head.convs.2' to 'head.convs.4'$"
    ):
        make(model, "head.convs")
    with pytest.raises(ValueError, match=r"'head' is a ModuleDict.*; tap one of its modules, of which it has none$"):
        make(nn.ModuleDict(dict(head=nn.ModuleDict())), "head")


def test_reading_what_is_not_tapped_lists_what_is():
    with pytest.raises(ValueError, match="'idle' is not tapped; tapped are 'head'"):
        FeatureTap(Shared(), ["head"])["idle"]


def test_a_change_in_place_is_detected():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with FeatureTap(model, ["0", "1"]) as tap:
        model(torch.tensor([-1.0]).clone())
    assert float(tap["1"][0]) == 0.0
    with pytest.raises(ValueError, match="the output of '0' must stay as it was, but a later module"):
        tap["0"]


def test_maps_come_flat_call_after_call():
    with FeatureTap(nn.Sequential(Nest()), ["0"]) as tap:
        tap._modules["0"](X)
        tap._modules["0"](10 * X)
    assert [float(x[0, 0]) for x in tap.maps("0")] == [1, 2, 3, 4, 10, 11, 12, 13]


def test_an_edit_replaces_every_tensor_of_a_nest_and_nothing_else():
    model = nn.Sequential(Nest())
    with FeatureEdit(model, "0", lambda maps: [10 * x for x in maps]):
        out = model(X)
    low, (high, pair) = out["maps"]
    assert [float(x[0, 0]) for x in (low, high, *pair)] == [10, 20, 30, 40]
    assert isinstance(pair, Pair)
    assert (out["name"], out["none"]) == ("nest", None)
    assert [float(x[0, 0]) for x in flatten_maps(model(X))] == [1, 2, 3, 4]


def test_an_edit_acts_on_every_call_and_keeps_the_gradient():
    model, scale = Shared(), torch.tensor(3.0, requires_grad=True)
    with FeatureEdit(model, "head", lambda maps: [scale * x for x in maps]):
        outputs = model(X)
    assert [float(output[0, 0].detach()) for output in outputs] == [3.0, 6.0, 9.0]
    sum(output.sum() for output in outputs).backward()
    assert float(scale.grad) == 12.0


def test_an_edit_must_return_as_many_tensors():
    with FeatureEdit(nn.Sequential(model := Nest()), "0", lambda maps: maps[:1]):
        with pytest.raises(ValueError, match="the edit of '0' must return 4 tensors, got 1"):
            model(X)


def test_a_copy_of_the_model_is_free_of_the_tap():
    model = Shared()
    with FeatureTap(model, ["head"]) as tap:
        model(X)
        before = len(tap["head"])
    other = copy.deepcopy(model)
    with FeatureTap(other, ["head"]) as second:
        other(2 * X)
    assert before == len(tap["head"]) == len(second["head"]) == 3
    assert not other.head._forward_hooks
    assert torch.equal(other.head.weight, model.head.weight)
