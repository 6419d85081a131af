"""Shared parts of the benchmarks: options, inputs, timing, peak memory, the machine, and result files."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.losses import FreeKDLoss

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SIZES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))  # P3 to P7 of an 800x1344 image
CHANNELS = 256
Call = Callable[[], object]
Maps = list[Tensor]


def read_options(about: str | None, repeats: int = 15, threads: int = 1, **flags: Any) -> argparse.Namespace:
    """Read `--repeats`, `--threads` and the given flags, as `name=dict(arguments of add_argument)`; set the threads."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats, help="measured rounds, after two that are not")
    parser.add_argument("--threads", type=int, default=threads)
    for name, arguments in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **arguments)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pyramid(
    *,
    trained: bool,
    last: bool = True,
    batch: int = 1,
    sizes: Sequence[tuple[int, int]] = SIZES,
    channels: int = CHANNELS,
) -> Maps:
    """Return random maps, channels last or contiguous; trained ones require gradients."""
    order = torch.channels_last if last else torch.contiguous_format
    maps = [torch.randn(batch, channels, *size, device=device()).contiguous(memory_format=order) for size in sizes]
    return [x.requires_grad_(trained) for x in maps]


def freekd(preset: str, num_prompts: int = 2, **options: Any) -> nn.Module:
    """Return a FreeKD loss for `pyramid`, with random prompts."""
    loss = FreeKDLoss(CHANNELS, len(SIZES), num_prompts, preset, **options)
    for prompt in loss.prompts:
        prompt.tokens.data.normal_(std=0.1)
    return loss.to(device())


def step(loss: Callable[..., Tensor], students: Maps, teachers: Maps, **options: object) -> Call:
    """Return a call of forward and backward to the students' maps; its `reset` frees the gradients."""

    def reset() -> None:
        for student in students:
            student.grad = None

    def call() -> None:
        reset()
        loss(students, teachers, **options).backward()

    call.reset = reset  # type: ignore[attr-defined]
    return call


def keep_memory() -> None:
    """Start this program again with an allocator (glibc's) that keeps what it has been given.

    By default it returns large blocks to the system at once and gets them again page by page, so that the time of a row
    depends on what ran before. An allocator with a cache, as on an accelerator, does not do that.
    """
    wanted = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def finish() -> None:
    """Wait for the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(calls: Mapping[str, Call], repeats: int, warm: int = 2) -> dict[str, dict[str, float]]:
    """Time every call in turn, round after round, so that a busy moment affects all of them: milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(warm + repeats):
        for name, call in calls.items():
            finish()
            start = time.perf_counter()
            call()
            finish()
            if round_ >= warm:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: dict(median=statistics.median(row), low=min(row), high=max(row)) for name, row in times.items()}


def peak_bytes(call: Any) -> int:
    """Return the most bytes that `call` held at once beyond what was there before; `call.reset()` frees an earlier call's."""
    call()
    call.reset()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def bandwidth() -> dict[str, float]:
    """Return bytes per second of reading a large tensor, and of copying one (reads and writes counted)."""
    source = torch.ones(2**24, device=device())
    target = torch.empty_like(source)
    times = interleave({"read": source.sum, "copy": lambda: target.copy_(source)}, repeats=9)
    size = source.numel() * source.element_size()
    return {"read": size / times["read"]["low"] * 1e3, "copy": 2 * size / times["copy"]["low"] * 1e3}


def machine() -> dict[str, Any]:
    """Return where and with what the numbers were taken."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return dict(
        date=date.today().isoformat(),
        processor=model,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        torch=torch.__version__,
        bandwidth=bandwidth(),
    )


def save(name: str, rows: Mapping[str, Any], **more: Any) -> None:
    """Print the rows and write them to a result file, one for each kind of device."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    content = dict(command=command, commit=git.stdout.strip() or None, machine=machine(), rows=rows, **more)
    path = RESULTS / f"{name}_{device().type}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    show(rows)
    print(f"written: {path}")


def show(rows: Mapping[str, Any], group: str = "") -> None:
    """Print times or counts, line by line."""
    for name, row in rows.items():
        if isinstance(row, Mapping) and "median" not in row:
            show(row, f"{name}: ")
        else:
            print(f"{group + name:64}" + (f"{row['median']:9.1f} ms" if isinstance(row, Mapping) else f"{row:6}"))


def load(name: str) -> Any:
    """Return what a result file holds; `[]` where there is none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []
