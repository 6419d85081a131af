"""KAN layers: the numbers of the authors' programs, gradients, memory and precision."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd import kan
from freqkd.align import KANAlign
from freqkd.kan import KANConv2d, KANLinear, spline_bases

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def case(file: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(VECTORS / f"{file}.npz") as archive:
        arrays = {key.split(".")[1]: torch.tensor(archive[key]) for key in archive.files if key.startswith(f"{name}.")}
        return arrays, json.loads(str(archive["meta"]))["cases"][name]["hyper"]


def grid_of(hyper: dict[str, Any]) -> dict[str, Any]:
    return dict(grid_size=hyper["grid_size"], spline_order=hyper["spline_order"], grid_range=hyper["grid_range"][1])


def set_weights(layer: torch.nn.Module, **weights: Tensor | None) -> None:
    with torch.no_grad():
        for name, value in weights.items():
            if value is not None:
                getattr(layer, name).copy_(value.reshape(getattr(layer, name).shape))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["s0", "s1", "s2"])
def test_the_linear_layer_equals_efficient_kan(name: str) -> None:
    arrays, hyper = case("kan_linear", name)
    x = arrays["x"].requires_grad_()
    scale = hyper["standalone_scale"]
    layer = KANLinear(
        x.shape[-1], len(arrays["base_weight"]), base=hyper["base"], scale=scale, **grid_of(hyper)
    ).double()
    names = {"base_weight": "base_weight", "spline_weight": "spline_weight", "spline_scale": "spline_scaler"}
    set_weights(layer, **{own: arrays.get(other) for own, other in names.items()})
    y = layer(x)
    close(y, arrays["y"])
    (y * arrays["upstream"]).sum().backward()
    close(x.grad, arrays["grad_x"])
    for own, other in names.items():
        if other in arrays:
            close(getattr(layer, own).grad, arrays[f"grad_{other}"])
    close(spline_bases(x.detach().reshape(-1, x.shape[-1]), **grid_of(hyper)), arrays["bases"])


@pytest.mark.parametrize("name", ["s0_a", "s2_a_pad", "s1_b"])
def test_the_convolution_equals_both_programs(name: str) -> None:
    arrays, hyper = case("kan_conv", name)
    x = arrays["x"].requires_grad_()
    grid = grid_of(hyper)
    options = dict(stride=hyper["stride"], padding=hyper["padding"], dilation=hyper["dilation"], base=hyper["base"])
    if hyper["impl"] == "Convolutional-KANs":
        layer = KANConv2d(x.shape[1], len(arrays["base_weight"]), hyper["kernel"], **options, **grid).double()
        weights = dict(base_weight=arrays["base_weight"], spline_weight=arrays["spline_weight"])
        set_weights(layer, **weights, spline_scale=arrays["spline_scaler"])
        y = layer(x)
    else:
        base, splines = arrays["base_conv_weight"][0], arrays["spline_conv_weight"][0]
        options.update(scale=False, pad="functions")
        layer = KANConv2d(x.shape[1], len(base), hyper["kernel"], **options, **grid).double()
        splines = splines.unflatten(1, (x.shape[1], -1)).permute(0, 1, 3, 4, 2)  # the splines last
        set_weights(layer, base_weight=base, spline_weight=splines)
        y = F.prelu(F.instance_norm(layer(x), eps=hyper["norm_eps"]), torch.tensor([hyper["prelu"]]).double())
    close(y, arrays["y"])
    (y * arrays["upstream"]).sum().backward()
    close(x.grad, arrays["grad_x"])


def cox_de_boor(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """The recursion as it stands in textbooks."""
    x = x.unsqueeze(-1)
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for p in range(1, order + 1):
        left = (x - knots[: -p - 1]) / (knots[p:-1] - knots[: -p - 1]) * bases[..., :-1]
        right = (knots[p + 1 :] - x) / (knots[p + 1 :] - knots[1:-p]) * bases[..., 1:]
        bases = left + right
    return bases


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_the_splines_are_those_of_the_recursion(order: int) -> None:
    x = torch.cat([torch.linspace(-4, 4, 301), torch.tensor([-1e30, 1e30, -1.5, 0.0, 1.5])]).double()
    knots = (torch.arange(-order, 4 + order + 1) * (2 * 1.5 / 4) - 1.5).double()
    bases = spline_bases(x, grid_size=4, spline_order=order, grid_range=1.5)
    torch.testing.assert_close(bases, cox_de_boor(x, knots, order), rtol=0, atol=1e-12)
    torch.testing.assert_close(bases[x.abs() <= 1.5].sum(1), torch.ones(int((x.abs() <= 1.5).sum())).double())
    assert bases[x.abs() > 1.5 * (1 + 2 * order / 4)].abs().max() == 0


@pytest.mark.parametrize("options", [{}, dict(spline_order=2, base="gelu"), dict(spline_order=4, scale=False)])
def test_gradients(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kan, "TILE", 1)
    monkeypatch.setattr(kan, "NARROWEST", 4)  # several tiles, the last one smaller
    layer = KANConv2d(2, 3, 2, padding=1, grid_size=2, **options).double()
    x = torch.randn(2, 2, 3, 2).double().mul(2).requires_grad_()
    names, weights = zip(*layer.named_parameters())

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights))


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = KANConv2d(3, 4).double(), torch.randn(2, 3, 5, 7).double().requires_grad_()
    whole = layer(x)
    grads = torch.autograd.grad(whole.square().sum(), [x, *layer.parameters()])
    monkeypatch.setattr(kan, "TILE", 1)
    monkeypatch.setattr(kan, "NARROWEST", 6)
    parts = layer(x)
    close(parts, whole)
    for part, grad in zip(torch.autograd.grad(parts.square().sum(), [x, *layer.parameters()]), grads):
        close(part, grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_in_float32_under_autocast_and_in_half_precision(dtype: torch.dtype) -> None:
    layer, x = KANLinear(3, 4), torch.randn(5, 3)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(layer(x), expected)
        found = layer(x.to(dtype).requires_grad_())
        found.sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(x.to(dtype).float()))
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())
    assert layer.to(dtype)(x.to(dtype)).isfinite().all()


def test_what_is_kept_for_the_backward_pass_is_the_input() -> None:
    layer, x = KANConv2d(16, 16), torch.randn(2, 16, 40, 40, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x).sum()
    weights = sum(weight.numel() * 4 for weight in layer.parameters())
    assert sum(kept.values()) <= 2 * x.numel() * 4 + 2 * weights  # the splines alone are 8 times the input


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="in_features=3 as its last size, got shape"):
        KANLinear(3, 2)(torch.ones(2, 4))
    assert KANLinear(3, 2)(torch.ones(0, 3)).shape == (0, 2)
    with pytest.raises(ValueError, match="x must have 3 channels, got 4"):
        KANConv2d(3, 2)(torch.ones(1, 4, 5, 5))
    with pytest.raises(
        ValueError, match=r"x must be 3 pixels high and wide at least.*kernel_size=5, padding=1.*2, 9\)"
    ):
        KANConv2d(3, 2, kernel_size=5, padding=1)(torch.ones(1, 3, 2, 9))
    for options, words in (
        (dict(spline_order=1), "spline_order must be at least 2, got 1"),
        (dict(grid_size=0), "grid_size must be at least 1, got 0"),
        (dict(base="relu"), "base must be one of 'silu', 'gelu', got 'relu'"),
        (dict(grid_range=0.0), "grid_range must be above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            KANLinear(3, 2, **options)
    with pytest.raises(ValueError, match="pad must be one of 'input', 'functions'"):
        KANConv2d(3, 2, pad="zeros")


def test_memory_formats_of_maps_do_not_matter() -> None:
    layer, x = KANConv2d(2, 3, 3, padding=1), torch.randn(2, 2, 4, 5)
    expected = layer(x)
    layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), expected)


# ---- the align ------------------------------------------------------------------------------------------------------


def test_the_align_is_a_layer_per_level() -> None:
    align = KANAlign([2, 3], 4, num_levels=2, resize="teacher")
    students = [torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)]
    aligned, _ = align(students, [torch.randn(1, 4, 9, 9), torch.randn(1, 4, 4, 4)])
    assert aligned[0].shape == (1, 4, 9, 9)
    layer = align.layers[1]
    rows = KANLinear(3, 4, grid_range=3.0)
    set_weights(rows, base_weight=layer.base_weight, spline_weight=layer.spline_weight, spline_scale=layer.spline_scale)
    torch.testing.assert_close(aligned[1], rows(students[1].movedim(1, -1)).movedim(-1, 1))
    with pytest.raises(ValueError, match=r"student_feats\[0\] has 3 channels where student_channels=2"):
        align(students[::-1], students)


def test_the_align_learns_what_no_convolution_can() -> None:
    """The teacher's channel is a parabola of the student's."""
    x = torch.rand(1, 1, 16, 16) * 4 - 2
    align = KANAlign(1, 1)
    optimizer = torch.optim.Adam(align.parameters(), lr=0.05)
    for _ in range(150):
        loss = F.mse_loss(align(x, x.square())[0][0], x.square())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * x.square().var().item()


@pytest.mark.long
def test_it_takes_at_most_about_fifteen_times_as_long_as_a_convolution() -> None:
    """Measured: 12 to 13 times (14 with maps of 40 x 40, 15 of 20 x 20); the bound leaves room for a busy machine."""
    x = torch.randn(2, 64, 100, 160, requires_grad=True)
    upstream = torch.randn_like(x)
    layers = [torch.nn.Conv2d(64, 64, 1), KANConv2d(64, 64)]
    times: list[list[float]] = [[], []]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(7):
        for layer, taken in zip(layers, times):
            start = time.process_time()
            layer(x).backward(upstream)
            taken.append(time.process_time() - start)
    torch.set_num_threads(threads)
    assert min(times[1]) < 25 * min(times[0])
