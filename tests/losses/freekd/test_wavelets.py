"""The wavelet transforms: PyWavelets is the oracle."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freqkd.losses.freekd.wavelets import Subbands, wavedec2, waverec2

SIZES = [(16, 24), (13, 21), (7, 12), (2, 3), (1, 1)]
PYRAMID = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]  # P3 to P7 of an 800x1344 image

pytestmark = [
    pytest.mark.filterwarnings("ignore:Level value"),
    pytest.mark.filterwarnings("ignore:pkg_resources"),
]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_equals_pywavelets_and_rebuilds(wavelet: str, size: tuple[int, int], level: int) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    bands = wavedec2(x, wavelet, level)
    low, *details = pywt.wavedec2(x.numpy(), wavelet, mode="zero", level=level, axes=(-2, -1))
    np.testing.assert_allclose(bands.low.numpy(), low, rtol=0, atol=1e-12)
    assert len(bands.details) == level
    for actual, expected in zip(bands.details, reversed(details)):  # PyWavelets gives the coarsest first
        np.testing.assert_allclose(actual.numpy(), np.stack(expected, axis=2), rtol=0, atol=1e-12)
    rebuilt = waverec2(bands, wavelet, size)
    assert rebuilt.shape == x.shape
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-12)


def test_haar_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0, 10.0], [3.0, 5.0, 20.0], [7.0, 11.0, 40.0]]]])
    low, (detail,) = wavedec2(x, level=1)
    # halves of a+b+c+d, a+b-c-d, a-b+c-d, a-b-c+d, zeros beyond the edge
    assert low[0, 0].tolist() == [[5.5, 15.0], [9.0, 20.0]]
    assert detail[0, 0, 0].tolist() == [[-2.5, -5.0], [9.0, 20.0]]
    assert detail[0, 0, 1].tolist() == [[-1.5, 15.0], [-2.0, 20.0]]
    assert detail[0, 0, 2].tolist() == [[0.5, -5.0], [-2.0, 20.0]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_released_program(feature_case, seed: int) -> None:
    case = feature_case("freekd_official", seed)
    for level in case.levels():
        bands = wavedec2(case.array("y_t", level), level=3)
        expected = [case.array("dwt_LL", level)] + [case.array(f"dwt_sum_{j}", level) for j in (1, 2, 3)]
        for band, stored in zip([bands.low, *(d.sum(2) for d in bands.details)], expected, strict=True):
            torch.testing.assert_close(band, stored, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("size", PYRAMID)
def test_pyramid_of_a_detector_rebuilds_exactly(size: tuple[int, int], wavelet: str) -> None:
    x = torch.randn(1, 2, *size)
    rebuilt = waverec2(wavedec2(x, wavelet), wavelet, size)
    assert rebuilt.shape == x.shape
    assert rebuilt.dtype == torch.float32
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_haar_keeps_energy_and_is_linear(height: int, width: int, level: int) -> None:
    x, y = torch.randn(2, 1, 2, height, width, dtype=torch.float64)
    bands = wavedec2(x, level=level)
    energy = bands.low.square().sum() + sum(d.square().sum() for d in bands.details)
    torch.testing.assert_close(energy, x.square().sum())
    torch.testing.assert_close(waverec2(bands, size=(height, width)), x)
    for actual, a, b in zip(_flat(wavedec2(x - y, level=level)), _flat(bands), _flat(wavedec2(y, level=level))):
        torch.testing.assert_close(actual, a - b)


def _flat(bands: Subbands) -> list[torch.Tensor]:
    return [bands.low, *bands.details]


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_gradients(wavelet: str) -> None:
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(_flat(wavedec2(x, wavelet, 2))), x)
    bands = [b.detach().requires_grad_() for b in _flat(wavedec2(x, wavelet, 2))]
    assert torch.autograd.gradcheck(lambda low, *d: waverec2(Subbands(low, d), wavelet, (5, 7)), bands)
    if wavelet == "haar":
        assert torch.autograd.gradgradcheck(lambda x: tuple(_flat(wavedec2(x * x, level=2))), x)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_input", [False, True])
def test_computes_in_float32_under_autocast(wavelet: str, dtype: torch.dtype, half_input: bool) -> None:
    x = torch.randn(2, 3, 9, 14).to(dtype if half_input else torch.float32).requires_grad_()
    exact = wavedec2(x.detach().float(), wavelet)
    with torch.autocast("cpu", dtype=dtype):
        bands = wavedec2(x, wavelet)
        rebuilt = waverec2(bands, wavelet, (9, 14))
    for actual, expected in zip(_flat(bands), _flat(exact)):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(rebuilt, x.float(), rtol=0, atol=2e-6)
    rebuilt.square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    torch.testing.assert_close(x.grad.float(), 2 * x.detach().float(), rtol=2e-2, atol=2e-2)


def _there_and_back(x: torch.Tensor, level: int) -> torch.Tensor:
    low, details = wavedec2(x, level=level)
    return waverec2(Subbands(low * 2, details), size=(x.shape[-2], x.shape[-1]))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("level", [pytest.param(1, marks=pytest.mark.long), 3])
def test_haar_compiles_whole(level: int) -> None:
    torch.compiler.reset()
    compiled = torch.compile(_there_and_back, fullgraph=True, backend="aot_eager")
    # A second size makes sizes symbolic, as multi-scale training does; at level 1 only, for the sake of time.
    for size in [(12, 16), (7, 10)] if level == 1 else [(13, 21)]:
        x = torch.randn(1, 3, *size, requires_grad=True)
        expected, actual = _there_and_back(x, level), compiled(x, level)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
        torch.testing.assert_close(*gradients)


def test_haar_vectorises() -> None:
    x = torch.randn(4, 2, 3, 7, 10)
    low, details = torch.func.vmap(lambda x: wavedec2(x, level=2))(x)
    together = wavedec2(x.flatten(0, 1), level=2)
    torch.testing.assert_close(low.flatten(0, 1), together.low)
    torch.testing.assert_close(details[1].flatten(0, 1), together.details[1])
    back = torch.func.vmap(lambda low, *d: waverec2(Subbands(low, d), size=(7, 10)))(low, *details)
    torch.testing.assert_close(back, x)


def test_memory_format_does_not_matter() -> None:
    x = torch.randn(2, 3, 9, 14)
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        for actual, expected in zip(_flat(wavedec2(other)), _flat(wavedec2(x))):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (torch.ones(3, 4, 4), {}, r"x must be a map \(N, C, H, W\), got shape \(3, 4, 4\)"),
        (torch.ones(1, 1, 0, 4), {}, "x must not be empty"),
        (torch.ones(1, 1, 4, 4, dtype=torch.long), {}, "x must hold floating point numbers, got torch.int64"),
        (torch.ones(1, 1, 4, 4), {"level": 0}, "level must be at least 1, got 0"),
        (torch.ones(1, 1, 4, 4), {"wavelet": "harr"}, "wavelet must be .* got 'harr'"),
    ],
)
def test_wrong_input(x: torch.Tensor, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wavedec2(x, **options)


def test_wrong_bands() -> None:
    bands = wavedec2(torch.ones(1, 1, 8, 8), level=2)
    with pytest.raises(ValueError, match=r"size of 6x8 positions does not fit .* 8x8"):
        waverec2(bands, size=(6, 8))
    with pytest.raises(ValueError, match=r"details\[1\] of 4x4 positions"):
        waverec2(Subbands(bands.low, bands.details[::-1]))
    with pytest.raises(ValueError, match="at least one level"):
        waverec2(Subbands(bands.low, ()))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_wavelets", None)
    with pytest.raises(ImportError, match=r"need pytorch_wavelets.*freqkd\[wavelets\]"):
        wavedec2(torch.ones(1, 1, 8, 8), "sym5")
    wavedec2(torch.ones(1, 1, 8, 8))  # Haar needs none


def test_library_transform_made_in_inference_serves_training() -> None:
    with torch.inference_mode():
        wavedec2(torch.ones(1, 1, 8, 8), "bior2.2", 1)
    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    wavedec2(x, "bior2.2", 1).low.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
