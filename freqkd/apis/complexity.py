"""Parameters, multiply-adds and latency of teacher and student, and a table of them."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from torch import Tensor, nn

from freqkd.apis.export import is_distillation
from freqkd.taps import flatten_maps
from freqkd.teacher import CachedTeacher, ModuleTeacher, build_teacher
from freqkd.teacher.preprocessing import size_divisor
from freqkd.teacher.teacher import blank_image, sized_samples, takes_samples
from freqkd.utils.errors import one_line
from freqkd.utils.randomness import forked_randomness

MOST_PASSES, MOST_SECONDS = 20, 1.0  # of a latency, which is a median of at least 3
_FALLBACK = (512, 512)


@dataclass(frozen=True)
class Complexity:
    """What one image costs a network.

    Attributes:
        name: what it is, e.g. "student RetinaNet".
        parameters: their number.
        multiply_adds: of one image; None: not known.
        seconds: of one image; None: not known.
        fault: why something is not known.
    """

    name: str
    parameters: int | None = None
    multiply_adds: int | None = None
    seconds: float | None = None
    fault: str = ""


class RawOutputs(nn.Module):
    """A network of images alone, whose outputs are a tuple of tensors, before any post-processing.

    >>> [tuple(x.shape) for x in RawOutputs(nn.Conv2d(3, 8, 1))(torch.zeros(1, 3, 4, 4))]
    [(1, 8, 4, 4)]
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for images (N, C, H, W) as the data preprocessor gives them."""
        network: Any = self.network
        if not isinstance(network, BaseModel):
            return tuple(flatten_maps(network(images)))
        samples, head = sized_samples(images, None), getattr(network, "decode_head", None)
        if isinstance(head, nn.Module) and takes_samples(head):  # mmseg's tensor mode leaves them out
            return tuple(flatten_maps(head(network.extract_feat(images), samples)))
        return tuple(flatten_maps(network(images, samples, mode="tensor")))


def image_size(config: Config, network: nn.Module) -> tuple[int, int]:
    """Return height and width of the test images of a config: the scale that they are resized to, padded; else 512x512.

    >>> resize = dict(type="Resize", scale=(320, 240))
    >>> image_size(Config(dict(test_dataloader=dict(dataset=dict(pipeline=[resize])))), nn.Module())
    (240, 320)
    """
    divisor = size_divisor(getattr(network, "data_preprocessor", network))
    for split in ("test", "val", "train"):
        dataset = (config.get(f"{split}_dataloader") or {}).get("dataset")
        for step in _pipeline(dataset):
            scale = step.get("scale") if isinstance(step, Mapping) else None
            if isinstance(scale, (list, tuple)) and len(scale) == 2 and all(isinstance(one, int) for one in scale):
                height, width = (-(-extent // divisor) * divisor for extent in scale[::-1])
                return height, width
    return _FALLBACK


def _pipeline(dataset: Any) -> Sequence[Any]:
    while isinstance(dataset, Mapping):
        if dataset.get("pipeline"):
            return list(dataset["pipeline"])
        dataset = dataset.get("dataset")
    return ()


def random_image(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return an image (1, C, H, W) of normal numbers, the same every time, with the channels that a network takes.

    >>> random_image(nn.Conv2d(4, 8, 1), (2, 2)).shape
    torch.Size([1, 4, 2, 2])
    """
    return torch.randn(blank_image(network, size).shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep random numbers, and suppress what tracing warns of."""
    with torch.no_grad(), forked_randomness(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measure(name: str, network: nn.Module, images: Tensor) -> Complexity:
    """Count a network's parameters and multiply-adds, and measure its latency where `images` are.

    Multiply-adds are those that MMEngine's `FlopAnalyzer` counts, which calls them flops: of convolutions, matrix products,
    norms and interpolations, not of RoI pooling, NMS and other kernels of mmcv. Post-processing is not measured.

    >>> found = measure("network", nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 4, 4))
    >>> found.parameters, found.multiply_adds
    (32, 384)
    """
    network = network.to(images.device).eval()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    raw = RawOutputs(network)
    try:
        with _quietly():
            seconds = latency(lambda: raw(images), images.device)
    except Exception as error:  # networks of any kind: some take more than images
        return Complexity(name, parameters, fault=f"it does not run on images alone: {one_line(error)}")
    try:
        with _quietly():
            analyzer = FlopAnalyzer(raw, (images,))
            analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            return Complexity(name, parameters, int(analyzer.total()), seconds)
    except Exception as error:
        return Complexity(name, parameters, None, seconds, f"it cannot be traced: {one_line(error)}")


def latency(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call: the median of up to 20 within 1 s, of at least 3, after one that is not counted."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    passes: list[float] = []
    while len(passes) < 3 or (len(passes) < MOST_PASSES and sum(passes) < MOST_SECONDS):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        passes.append(time.perf_counter() - start)
    return statistics.median(passes)


def compare(config: Config, student: nn.Module, size: tuple[int, int]) -> list[Complexity]:
    """Measure the teacher of a config, where it has one, and the student.

    Args:
        config: the config of a distillation, or of a network.
        student: the student, built from it.
        size: height and width of the image.
    """
    device = torch.device(get_device())
    images = random_image(student, size).to(device)
    found = [measure(f"student {type(student).__name__}", student, images)]
    if not is_distillation(config):
        return found
    try:
        teacher = build_teacher(config.model.teacher)
        running = teacher.teacher if isinstance(teacher, CachedTeacher) else teacher
        network = running.make_network()
        if isinstance(running, ModuleTeacher):
            images = running.resize(images)
        return [measure(f"teacher {type(network).__name__}", network, images), *found]
    except Exception as error:  # its files may lie elsewhere, and the student does not need them
        return [Complexity("teacher", fault=f"it cannot be built here: {one_line(error)}"), *found]


def format_table(found: Sequence[Complexity], size: tuple[int, int]) -> str:
    """Write what was measured as a table.

    >>> print(format_table([Complexity("student Net", 1_500_000, 2_000_000_000, 0.012)], (240, 320)))
    one image of 240x320  parameters  multiply-adds  latency
    student Net               1.50 M         2.00 G  12.0 ms
    """
    header = (f"one image of {size[0]}x{size[1]}", "parameters", "multiply-adds", "latency")
    rows = [header] + [
        (
            one.name,
            _short(one.parameters),
            _short(one.multiply_adds),
            "-" if one.seconds is None else f"{1e3 * one.seconds:.1f} ms",
        )
        for one in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(lines + [f"{one.name}: {one.fault}" for one in found if one.fault])


def _short(number: int | None) -> str:
    """Write a number with three digits and a unit.

    >>> _short(811_000), _short(999), _short(None)
    ('811 k', '999', '-')
    """
    if number is None:
        return "-"
    value, units = float(number), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    digits = 0 if not units[0] or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[0]}".strip()
