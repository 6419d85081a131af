"""Two processes against one with the same images in all: which terms are the same, and which look at a process's own batch."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.model.wrappers import MMFullyShardedDataParallel
from small_networks import distill, freekd_term, small, teachers  # noqa: F401
from torch import Tensor
from torch.distributed.fsdp import FullStateDictConfig, StateDictType

from freqkd.models.state_dict import to_student_keys
from freqkd.teacher.teacher import freeze_statistics

pytestmark = pytest.mark.usefixtures("fresh")
SIZES = ((64, 96),) * 4
LOGITS = dict(student_tap="decode_head.conv_seg", adapter=dict(type="freqkd.SegLogits"))
ALIGN = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=4)


def feature(loss: str, **options: Any) -> dict[str, Any]:
    return dict(student_tap="neck", align=ALIGN, loss=dict(type=f"freqkd.{loss}", **options))


# Means over images, of what each image gives by itself.
SAME = dict(
    loss_paper=dict(feature("FreeKDLoss", channels=16, num_levels=4, depth=1), prompts="untrained"),
    loss_details=feature("FreeKDLoss", preset="details", depth=1),
    loss_mse=feature("MSELoss"),
    loss_cwd=dict(LOGITS, loss=dict(type="freqkd.CWDLoss", tau=1.0)),
    loss_kd=dict(LOGITS, loss=dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=4.0))),
)
# Statistics over the process's own batch.
LOCAL = dict(
    loss_pkd=feature("PKDLoss"),
    loss_dist=dict(LOGITS, loss=dict(type="freqkd.LogitLoss", divergence="dist")),
    loss_whitened=feature("FreeKDLoss", preset="whitened", depth=1),
    loss_standardized=feature("FreeKDLoss", preset="details", depth=1, standardize="both"),
    loss_valid=dict(LOGITS, loss=dict(type="freqkd.LogitLoss", ignore_index=255)),
)


def in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work(rank)` returns in two processes that are joined by gloo; they are copies of this one and cost no start."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = dist.FileStore(str(folder / "store"), 2)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
                torch.save(work(rank), folder / f"{rank}.pth")
                dist.barrier()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


def step(model: Any, inputs: Tensor, samples: Any) -> dict[str, dict[str, Any]]:
    """The terms of a batch, their gradients at the tapped maps by image, and the gradients of the sum of all losses."""
    network = model.module if isinstance(model, MMDistributedDataParallel) else model
    taken: dict[str, list[Tensor]] = {}
    network.watch = lambda name, maps: taken.update({name: [one for each in maps.values() for one in each]})
    losses = model(inputs, copy.deepcopy(samples), mode="loss")
    terms = {name: losses[f"distill.{name}"] for name in network.terms}
    maps = {
        name: torch.cat([one.flatten(1) for one in torch.autograd.grad(term, taken[name], retain_graph=True)], 1)
        for name, term in terms.items()
    }
    network.parse_losses(losses)[0].backward()
    return dict(
        terms={name: term.detach() for name, term in terms.items()},
        maps=maps,
        parameters={name: one.grad for name, one in network.named_parameters() if one.grad is not None},
    )


def compare(model: Any, raw: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """How far two processes of two images are from one of four, relative to the latter."""
    data = model.data_preprocessor(raw, True)
    inputs, samples = data["inputs"], data["data_samples"]

    def work(rank: int) -> Any:
        wrapped = MMDistributedDataParallel(module=model, device_ids=None, broadcast_buffers=False)
        return step(wrapped, inputs[2 * rank : 2 * rank + 2], samples[2 * rank : 2 * rank + 2])

    two = in_two_processes(work, folder)
    one = step(model, inputs, samples)
    joined = dict(
        terms={name: (two[0]["terms"][name] + two[1]["terms"][name]) / 2 for name in one["terms"]},
        # DistributedDataParallel takes the mean of what the processes have.
        maps={name: torch.cat([two[0]["maps"][name], two[1]["maps"][name]]) / 2 for name in one["maps"]},
        parameters=two[0]["parameters"],
    )
    assert all(torch.equal(two[1]["parameters"][name], value) for name, value in two[0]["parameters"].items())
    assert set(joined["parameters"]) == set(one["parameters"])
    assert all(float(value.norm()) > 0 for value in one["maps"].values())
    return {
        what: {name: float((joined[what][name] - value).norm() / value.norm()) for name, value in one[what].items()}
        for what in one
    }


def ready(model: Any) -> Any:
    """A distiller with weights and tokens, in training; batch norm and dropout, another matter in each process, are frozen."""
    model.init_weights()
    freeze_statistics(model.train())
    for term in model.terms.values():
        for prompt in getattr(term.loss, "prompts", ()):
            torch.nn.init.normal_(prompt.tokens)
    return model


def test_terms_that_are_means_over_images_are_the_same(distill: Any, small: Any, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    found = compare(ready(distill("segmentation", terms=SAME)), small.raw("segmentation", SIZES), tmp_path)
    assert set(found["maps"]) == set(SAME)
    assert max(found["maps"].values()) < 1e-5, found["maps"]
    assert max(found["terms"].values()) < 1e-5, found["terms"]
    assert max(found["parameters"].values()) < 1e-4, found["parameters"]
    assert len(found["parameters"]) > 60


def test_terms_with_statistics_of_a_batch_are_each_processs_own(distill: Any, small: Any, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    raw = small.raw("segmentation", SIZES)
    raw["data_samples"][0].gt_sem_seg.data[:, :48] = 255  # the processes have other numbers of valid positions
    found = compare(ready(distill("segmentation", terms=LOCAL)), raw, tmp_path)
    assert set(found["maps"]) == set(LOCAL)
    assert min(found["maps"].values()) > 1e-3, found["maps"]


def test_a_sharded_distiller_takes_the_step_of_a_whole_one(distill: Any, small: Any, tmp_path: Path) -> None:  # noqa: F811
    """FSDP as MMEngine wraps it: the terms, taps and gradients of the model inside, and the student's keys."""
    torch.manual_seed(0)
    model = ready(distill("segmentation", terms=SAME))
    data = model.data_preprocessor(small.raw("segmentation", SIZES), True)
    inputs, samples = data["inputs"], data["data_samples"]

    def train(network: Any, inputs: Tensor, samples: Any) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        losses = network(inputs, copy.deepcopy(samples), mode="loss")
        model.parse_losses(losses)[0].backward()
        optimizer.step()

    def work(rank: int) -> Any:
        network = MMFullyShardedDataParallel(module=model, device_id="cpu")
        whole = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
        network.set_state_dict_type(network, StateDictType.FULL_STATE_DICT, whole)
        train(network, inputs[2 * rank : 2 * rank + 2], samples[2 * rank : 2 * rank + 2])
        trained = network.state_dict()
        to_student_keys(model, trained, "", None)
        network.load_state_dict(copy.deepcopy(before))
        loaded = network.state_dict()
        to_student_keys(model, loaded, "", None)
        return dict(trained=dict(trained), loaded=dict(loaded))

    before = copy.deepcopy(model.state_dict())
    two = in_two_processes(work, tmp_path)
    train(model, inputs, samples)
    after = model.state_dict()
    for found in two:
        assert list(found["trained"]) == list(found["loaded"]) == list(after)
        for name, value in after.items():
            torch.testing.assert_close(found["trained"][name], value, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(found["loaded"][name], before[name]), name
    name = "neck.lateral_convs.0.conv.weight"
    assert not torch.equal(after[name], before[name])
