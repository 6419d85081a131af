"""Trainings in processes of their own, which may be killed at a chosen place."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def die() -> None:
    """End this process as a power cut or the kernel would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(owner: Any, name: str, count: int, act: Callable[..., Any] | None = None, after: bool = False) -> None:
    """Let the `count`-th call of a function end this process, before it acts, after it, or after `act` in its place."""
    function, calls = getattr(owner, name), [0]

    def call(*args: Any, **options: Any) -> Any:
        if act is not None and not act(*args, ask=True):
            return function(*args, **options)
        calls[0] += 1
        if calls[0] < count:
            return function(*args, **options)
        if act is not None:
            act(*args)
        elif after:
            function(*args, **options)
        die()

    setattr(owner, name, call)


def arm(place: str, count: int) -> None:
    """Choose where this process ends: the `count`-th time that it comes to a place."""
    import mmengine.fileio
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner, ValLoop

    def half_a_checkpoint(backend: Any, content: Any, path: Any, ask: bool = False) -> bool:
        if not ask:
            Path(path).write_bytes(bytes(content)[: len(content) // 2])
        return ".pth" in Path(path).name

    def half_a_prompt_file(value: Any, file: Any, ask: bool = False) -> bool:
        if not ask:
            file.write(b"half")
            file.flush()
        return isinstance(file, io.BufferedWriter) and "prompts" in os.readlink(f"/proc/self/fd/{file.fileno()}")

    def moved(source: Any, target: Any, ask: bool = False) -> bool:
        if not ask:
            replace(source, target)
        return str(target).endswith(".pth")

    replace = os.replace
    if place == "start":
        dying(Runner, "load_or_resume", count)
    elif place == "step":  # gradients are there, the weights are as they were
        dying(OptimWrapper, "step", count)
    elif place == "validation":
        dying(ValLoop, "run_iter", count)
    elif place == "checkpoint":
        dying(mmengine.fileio.LocalBackend, "put", count, half_a_checkpoint)
    elif place == "moved":  # the checkpoint has its name, the one before is not yet deleted, `last_checkpoint` is old
        dying(os, "replace", count, moved)
    elif place == "prompt file":
        dying(torch, "save", count, half_a_prompt_file)
    else:
        raise ValueError(place)


@pytest.fixture(scope="session")
def child(tool: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Return `child(name, *arguments, kill=None)`: exit code (or minus the signal) and output of a tool in a child process.

    It has loaded everything already, so that it costs no start. Everything in it runs on one thread.
    """
    spec = importlib.util.find_spec("freqkd")
    assert spec is not None
    folder = tmp_path_factory.mktemp("children")

    def run(name: str, *arguments: object, kill: tuple[str, int] | None = None) -> tuple[int, str]:
        log = folder / "output"
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            code = 99
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                sys.stdout = os.fdopen(1, "w", buffering=1)
                sys.stderr = os.fdopen(2, "w", buffering=1)
                torch.set_num_threads(1)
                if kill is not None:
                    arm(*kill)
                code = tool(name, *arguments)
            finally:
                os._exit(code)
        _, status = os.waitpid(process, 0)
        return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")

    return run
