"""Memory, hooks and handles stay constant in a long training, and after an error in the middle of a step."""

import gc
import os
import threading
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

PAGE = os.sysconf("SC_PAGE_SIZE")
GUARD = dict(type="freqkd.NonFiniteHook")
MSE = dict(loss=dict(type="freqkd.MSELoss"), weight=dict(ratio=0.5, iters=5))
FREEKD = dict(
    align=dict(type="freqkd.ConvAlign", student_channels=4, teacher_channels=4, num_levels=2),
    loss=dict(type="freqkd.FreeKDLoss", channels=4, num_levels=2, depth=1),
    prompts="untrained",
)


def count_hooks(*networks):
    """Count the hooks of modules and parameters, and the methods that objects override."""
    found = 0
    for network in networks:
        found += sum(callable(value) and not isinstance(value, torch.nn.Module) for value in vars(network).values())
        for part in network.modules():
            found += sum(len(value) for key, value in vars(part).items() if key.endswith("_hooks"))
        for parameter in network.parameters():
            found += sum(
                len(getattr(parameter, name) or ()) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
            )
    return found


def count_all(runner):
    networks = [runner.model]
    if hasattr(type(runner.model), "prepare"):
        networks.append(runner.model.teacher.model)
    gc.collect()
    overridden = [name for name in vars(runner.optim_wrapper) if name in ("step", "backward")]
    return dict(hooks=count_hooks(*networks) + len(overridden), handles=len(os.listdir("/proc/self/fd")))


@HOOKS.register_module(name="Meter", force=True)
class Meter(Hook):
    """Measures this process every few steps, once it is warm."""

    priority = "LOWEST"

    def __init__(self, first, every):
        self.first, self.every, self.found = first, every, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        done = runner.iter + 1
        if done < self.first or (done - self.first) % self.every:
            return
        gc.collect()
        tensors = sum(isinstance(one, Tensor) for one in gc.get_objects())
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * PAGE
        # A cache starts its readers one by one, as they are needed, four at most.
        readers = [one for one in threading.enumerate() if one.name.startswith("teacher-cache")]
        threads = threading.active_count() - len(readers)
        self.found.append(dict(count_all(runner), threads=threads, tensors=tensors, memory=memory))
        assert len({one.name for one in readers}) <= 4

    def before_train(self, runner):
        gc.collect()
        gc.freeze()  # only what comes from here on is looked through


def network(toy, kind):
    """A model and its data: a student alone, either stage with the teacher and with its cache."""
    cache = dict(dir=str(toy.folder / f"cache of {kind}"), views=2) if "cached" in kind else None
    views = dict(type="freqkd.FixedViews", dataset=dict(type="freqkd.ToyData"), views=2)
    data = dict(data=dict(dataset=views)) if cache else {}
    if kind == "student alone":
        return dict(type="freqkd.Toy"), data
    model = toy.model(loss_mse=MSE, loss_freekd=FREEKD)
    if "prompts" in kind:
        prompts = dict(channels=4, num_levels=2, depth=1)
        model = dict(type="freqkd.PromptTuner", teacher=model["teacher"], prompts=prompts)
    if cache:
        model["teacher"]["cache"] = cache
    return model, data


KINDS = ["student alone", "distillation", "cached distillation", "prompts", "cached prompts"]


def check_load(toy, kind, steps):
    model, data = network(toy, kind)
    config = toy.config(model, iters=steps, **data)
    config.custom_hooks = [GUARD, dict(type="mmengine.Meter", first=steps // 4, every=steps // 4)]
    try:
        runner = toy.run(config)
    finally:
        gc.unfreeze()
    assert runner.error is None
    first, *later = next(hook for hook in runner.hooks if isinstance(hook, Meter)).found
    assert len(later) == 3
    for found in later:
        grown = found.pop("memory") / first["memory"]
        assert abs(grown - 1) < 0.01, f"memory grew by {100 * (grown - 1):.1f} %"
        assert found == {key: value for key, value in first.items() if key != "memory"}


@pytest.mark.parametrize("kind", ["cached distillation", "prompts"])
def test_two_hundred_steps_grow_nothing(toy, kind):
    check_load(toy, kind, 200)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_steps_grow_nothing(toy, kind):
    check_load(toy, kind, 2000)


@HOOKS.register_module(name="CountBefore", force=True)
class CountBefore(Hook):
    """Counts before the second step, when everything is built."""

    priority = "HIGHEST"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            runner.before = count_all(runner)


@pytest.mark.parametrize("place", ["student", "loss", "head of the masked teacher", "head on cached maps", "guard"])
def test_an_error_in_a_step_leaves_nothing_behind(toy, place):
    if "head" in place:
        model, data = network(toy, "prompts" if "masked" in place else "cached prompts")
        model["teacher"]["cfg_options"] = {"model.at": 3, "model.what": "raise"}
    else:
        model, data = network(toy, "cached distillation")
        bad = dict(type="freqkd.BadLoss", at=3, what="loss" if place == "guard" else "raise")
        if place == "student":
            model["student"].update(at=3, what="raise")
        else:
            model["terms"]["loss_bad"] = dict(type="freqkd.DistillTerm", student_tap="neck", loss=bad)
    runner = toy.run(toy.config(model, GUARD, dict(type="mmengine.CountBefore"), **data))
    assert ("is nan" if place == "guard" else "out of luck") in str(runner.error)
    assert len(runner.states) == 3
    until = time.monotonic() + 5  # a reader may just be at a file
    while count_all(runner) != runner.before and time.monotonic() < until:
        time.sleep(0.05)
    assert count_all(runner) == runner.before
