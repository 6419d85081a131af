"""A distillation in half precision: its terms, its ratio weights and its gradients are about those of float32."""

import copy
from contextlib import nullcontext
from statistics import median

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

import freqkd.registry  # noqa: F401
from freqkd.apis import mixed_precision
from freqkd.apis.mixed_precision import Bfloat16OptimWrapper, set_precision

TASKS = dict(detection=("bbox_head.retina_cls", 5), segmentation=("decode_head.conv_seg", 4))
RATIO = dict(ratio=0.5, iters=3)
LIMITS = dict(bfloat16=(0.1, 0.95), float16=(0.02, 0.99))  # 8 and 11 bits: relative error, cosine of gradients


@pytest.fixture
def terms(freekd_term):
    """Return `terms(task)`: details and the paper's form on the neck, CWD on the logits."""

    def make(task):
        head, levels = TASKS[task]
        align = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=levels)
        details = dict(type="freqkd.FreeKDLoss", preset="details", depth=1)
        return dict(
            loss_details=dict(student_tap="neck", loss=details, align=align, weight=RATIO),
            loss_paper=freekd_term(task, weight=RATIO),
            loss_cwd=dict(student_tap=head, loss=dict(type="freqkd.CWDLoss", tau=1.0), weight=RATIO),
        )

    return make


def run(model, raw, context):
    """The losses of a step, its ratio weights, and the gradients of the terms at the neck and of the total everywhere."""
    torch.manual_seed(0)  # dropout
    model.zero_grad()
    taken = {}
    model.watch = lambda name, maps: taken.update({name: [one for each in maps.values() for one in each]})
    with context:
        data = model.data_preprocessor(copy.deepcopy(raw), True)
        losses = model(data["inputs"], data["data_samples"], mode="loss")
    at_taps = {
        name: torch.cat(
            [one.flatten().float() for one in torch.autograd.grad(losses[f"distill.{name}"], maps, retain_graph=True)]
        )
        for name, maps in taken.items()
    }
    total, logged = model.parse_losses(losses)
    total.backward()
    values = {name: value.item() for name, value in logged.items() if "loss" in name}
    return values, at_taps, {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def alike(one, other):
    """The cosine of two gradients."""
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def both_steps(distill, small, terms, task, half, seed):
    """How far a step in half precision is from one of float32: relative errors and cosines, by name."""
    full, model = (distill(task, terms=terms(task)).train() for _ in range(2))  # a copy would share what is measured
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in full.student.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    model.load_state_dict(full.state_dict())
    raw = small.raw(task)
    expected, at_taps, gradients = run(full, raw, nullcontext())
    if half == "bfloat16":
        context = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1)).optim_context(model)
    else:  # MMEngine has it for accelerators only
        context = torch.autocast("cpu", torch.float16)
    losses, found, again = run(model, raw, context)
    assert set(losses) == set(expected)
    assert set(again) == set(gradients)
    assert all(losses[f"distill.{name}"] > 0 for name in model.terms)
    assert all(term.weight.measured.count == 1 for term in model.terms.values())
    assert all(bool(torch.isfinite(one).all()) for one in (*found.values(), *again.values()))
    assert float(again["backbone.conv1.weight"].abs().sum()) > 0
    pairs = {name: (losses[name], expected[name]) for name in losses}
    pairs |= {
        f"{name}, weight": (one.weight.value(), full.terms[name].weight.value()) for name, one in model.terms.items()
    }
    pairs |= {f"{name}, gradient": (float(found[name].norm()), float(at_taps[name].norm())) for name in found}
    cosines = {name: alike(found[name], at_taps[name]) for name in found}
    name = "neck.lateral_convs.0.conv.weight"
    return (
        {key: abs(one / other - 1) for key, (one, other) in pairs.items()},
        cosines,
        {name: alike(again[name], gradients[name])},
    )


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_about_that_of_float32(distill, small, terms, task, half):
    """The median over five networks: one whose batch norms see nearly constant channels turns rounding into percents."""
    found = [both_steps(distill, small, terms, task, half, seed) for seed in range(5)]
    errors, cosines, total = (
        {name: median(one[part][name] for one in found) for name in found[0][part]} for part in range(3)
    )
    error, cosine = LIMITS[half]
    assert max(errors.values()) < error, errors
    assert min(cosines.values()) > cosine, cosines
    if half == "bfloat16":  # a loss that is not scaled loses the smallest gradients of float16
        assert min(total.values()) > 0.9, total


def test_the_maps_really_are_in_half_precision(distill, small, terms):
    model, kinds = distill("segmentation", terms=terms("segmentation")).train(), set()
    model.watch = lambda name, maps: kinds.update(one.dtype for each in maps.values() for one in each)
    wrapper = Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)))
    set_precision(wrapper, "bfloat16")
    built = build_optim_wrapper(model, wrapper.optim_wrapper)
    built.initialize_count_status(model, 0, 4)
    before = model.student.neck.lateral_convs[0].conv.weight.clone()
    for changed in (False, True):  # two batches make a step of the optimizer
        losses = model.train_step(small.raw("segmentation"), built)
        assert bool(torch.isfinite(losses["loss"]))
        assert torch.equal(model.student.neck.lateral_convs[0].conv.weight, before) is not changed
    assert kinds == {torch.bfloat16}


def test_what_amp_changes_in_a_config(monkeypatch):
    monkeypatch.setattr(mixed_precision, "get_device", lambda: "cuda")
    for precision, expected in (
        (None, dict(type="AmpOptimWrapper", loss_scale="dynamic")),
        ("float16", dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")),
        ("bfloat16", dict(type="freqkd.Bfloat16OptimWrapper")),
    ):
        config = Config(dict(optim_wrapper=dict(type="OptimWrapper")))
        set_precision(config, precision)
        assert config.optim_wrapper == expected
    with pytest.raises(ValueError, match=r"^--amp must be one of 'bfloat16', 'float16', got 'float64'"):
        set_precision(config, "float64")


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), "OptimWrapper"), (("--amp", "bfloat16"), "freqkd.Bfloat16OptimWrapper"), (("--amp",), "AmpOptimWrapper")],
)
def test_the_argument_of_train(monkeypatch, tmp_path, words, expected):
    import freqkd.commands.train as command

    monkeypatch.setattr(mixed_precision, "get_device", lambda: "cuda")
    taken = []
    monkeypatch.setattr(command, "train", lambda config, *_, **__: taken.append(config.optim_wrapper.type))
    (tmp_path / "config.py").write_text("optim_wrapper = dict(type='OptimWrapper')")
    command.main([str(tmp_path / "config.py"), *words])
    assert taken == [expected]
