"""What makes a checkpoint one of a network, and what one part of a student needs to start from a teacher's."""

import pytest
import torch
from torch import nn

from freqkd.utils.checkpoints import CheckpointError, check_fit, check_inheritable


def net(width=2):
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


class Renamed(nn.Module):
    """A module that knows what it was called in its first version, as some of mmdet and mmcv do."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.fresh = nn.Linear(2, 2)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 1) < 2:
            for key in [key for key in state_dict if key.startswith(f"{prefix}stale.")]:
                state_dict[key.replace("stale.", "fresh.")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def fits(network, state):
    check_fit(network, dict(state_dict=state), "file.pth", "the config a.py")


def test_a_state_of_the_network_fits_in_any_precision_and_from_any_wrapper():
    state = net().state_dict()
    fits(net(), state)
    fits(net(), {key: value.half() for key, value in state.items()})
    fits(net(), {f"module.{key}": value for key, value in state.items()})
    check_fit(net(), state, "bare.pth", "the config")


def test_what_a_distillation_older_versions_and_averages_add_or_lack_does_not_matter():
    state = {key: value for key, value in net().state_dict().items() if "num_batches" not in key}
    extra = ("distiller.loss.align.weight", "data_preprocessor.mean", "ema_0_weight")
    fits(net(), {**state, **{key: torch.ones(3) for key in extra}})
    network = net()
    network.add_module("data_preprocessor", nn.BatchNorm1d(3))
    fits(network, state)


def test_the_first_differences_are_named_with_checkpoint_config_and_cure():
    state = dict(net().state_dict())
    state["2.weight"] = state.pop("0.bias")
    state["0.weight"] = torch.ones(4, 1, 1, 1)
    with pytest.raises(CheckpointError) as error:
        fits(net(), state)
    assert str(error.value) == (
        "checkpoint file.pth does not fit the Sequential of the config a.py: 1 missing, first ['0.bias']; 1 unknown, first "
        "['2.weight']; 1 of another shape, first 0.weight: (4, 1, 1, 1) in the file, (2, 1, 1, 1) in the model; name the "
        "config that it was trained with, or a checkpoint of a training with this config"
    )


@pytest.mark.parametrize("state", [{}, {**net().state_dict(), "2.weight": torch.ones(1)}, net(3).state_dict()])
def test_too_little_too_much_and_other_shapes_are_refused(state):
    with pytest.raises(CheckpointError, match="does not fit the Sequential"):
        fits(net(), state)


def test_names_of_an_older_version_fit_where_the_module_knows_them():
    old = {key.replace("fresh", "stale"): value for key, value in Renamed().state_dict().items()}
    fits(Renamed(), old)
    with pytest.raises(CheckpointError, match=r"2 missing, first \['fresh.bias', 'fresh.weight'\]"):
        fits(Renamed(), {**old, "stale.weight": torch.ones(3, 3)})
    state = Renamed().state_dict()  # it says which version wrote it
    for key in list(state):
        state[key.replace("fresh", "stale")] = state.pop(key)
    with pytest.raises(CheckpointError, match="unknown"):
        fits(Renamed(), state)


def test_a_part_of_equal_shapes_can_be_inherited():
    check_inheritable("neck", net(), net())


def test_a_part_of_other_shapes_cannot_be_inherited_and_the_cure_is_said():
    with pytest.raises(ValueError) as error:
        check_inheritable("neck", net(2), net(3))
    assert str(error.value) == (
        "inherit: 'neck' must have equal shapes in student and teacher, got 6 that differ, first 0.weight: (2, 1, 1, 1) in the "
        "student, (3, 1, 1, 1) in the teacher; 0.bias: (2,) in the student, (3,) in the teacher; 1.weight: (2,) in the "
        "student, (3,) in the teacher; take 'neck' out of inherit, or name a student whose 'neck' has the shapes of the "
        "teacher's"
    )


def test_a_part_with_other_keys_cannot_be_inherited():
    with pytest.raises(
        ValueError, match=r"1.weight: \(2,\) in the student, nothing in the teacher.*; leave out teacher.fuse"
    ):
        check_inheritable("neck", net(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity()), is_folded=True)
    with pytest.raises(ValueError, match=r"0.bias: nothing in the student, \(2,\) in the teacher; take 'neck' out"):
        check_inheritable("neck", nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)), nn.Sequential(nn.Conv2d(1, 2, 1)))
