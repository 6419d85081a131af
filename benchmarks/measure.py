"""How the benchmarks measure: interleaved repeats, medians, peak of the allocator, and what machine it was."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
Call = Callable[[], object]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def keep_memory() -> None:
    """Start this program again with an allocator (glibc's) that keeps what it has been given.

    By default it hands large blocks back to the system at once and gets them again page by page, which costs a row more or
    less by what ran before it. An allocator with a cache, as on an accelerator, never does that.
    """
    wanted = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def interleave(calls: Mapping[str, Call], repeats: int, warm: int = 2) -> dict[str, dict[str, float]]:
    """Time every call in turn, round after round, so that a busy moment hits all of them: milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(warm + repeats):
        for name, call in calls.items():
            _finish()
            start = time.perf_counter()
            call()
            _finish()
            if round_ >= warm:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: dict(median=statistics.median(found), low=min(found), high=max(found)) for name, found in times.items()
    }


def peak_bytes(call: Call) -> int:
    """Return the most bytes that `call` held at once beyond what was there before.

    `call.reset()` lets go of what an earlier call left.
    """
    call()
    call.reset()  # type: ignore[attr-defined]
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
    """Bytes per second of reading a large tensor, and of copying one (reads and writes counted)."""
    source = torch.ones(2**24, device=device())
    target = torch.empty_like(source)
    times = interleave({"read": source.sum, "copy": lambda: target.copy_(source)}, repeats=9)
    size = source.numel() * source.element_size()
    return {"read": size / times["read"]["low"] * 1e3, "copy": 2 * size / times["copy"]["low"] * 1e3}


def machine() -> dict[str, Any]:
    """Say where and with what the numbers were taken."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(
        date=date.today().isoformat(),
        processor=model,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        accelerator=accelerator,
        torch=torch.__version__,
        bandwidth=bandwidth(),
    )


def save(name: str, rows: Any, command: str, **more: Any) -> None:
    """Write a result file, one for each kind of device."""
    RESULTS.mkdir(exist_ok=True)
    content = dict(command=command, commit=_commit(), machine=machine(), rows=rows, **more)
    path = RESULTS / f"{name}_{device().type}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {path}")


def _commit() -> str | None:
    try:
        answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
