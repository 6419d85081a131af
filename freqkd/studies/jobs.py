"""Processes of a study: some at a time, with a line for each that ends, and the time left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.studies.run import CONFIG_FILE, CONSOLE, HEAD_FILE, MADE_OF, RUN, is_finished, write_run
from freqkd.utils.checks import check_whole
from freqkd.utils.errors import HINT

KEPT = ("student.pth", "student_config.py", "prompts.pth", HEAD_FILE)  # of a finished run


@dataclass(frozen=True)
class Job:
    """A run: its name on the console, its config, and the seconds that it should take; 0: it only prepares others."""

    name: str
    config: Config
    seconds: float = 0.0

    @property
    def result(self) -> Path:
        """The file that it writes at its end."""
        return Path(self.config[RUN].result)

    @property
    def folder(self) -> Path:
        """Its work dir."""
        return Path(self.config.work_dir)

    @property
    def is_finished(self) -> bool:
        """Whether the result is there, and made of what the run would be made of now."""
        return is_finished(self.result, self.config[RUN].get(MADE_OF))


def launch(config: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run on one thread; its output goes to a file."""
    command = [sys.executable, "-m", "freqkd.studies.run", str(config), "--parent", str(os.getpid())]
    with open(log, "w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})


def in_words(seconds: float) -> str:
    """Return a duration in the unit it is read in: seconds with two digits up to two minutes, then minutes."""
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


class Jobs:
    """Runs jobs, and knows how many of a study's runs are finished.

    Args:
        count: processes at once.
        keep: whether work dirs of finished runs are kept whole.

    Raises:
        ValueError: `count` is not a number from 1 on.
    """

    def __init__(self, count: int = 1, keep: bool = False) -> None:
        check_whole("--jobs", count, 1)
        self.count, self.keep = count, keep
        self.running: set[subprocess.Popen[bytes]] = set()
        self.total = self.done = 0  # runs of the plan
        self.left = 0.0  # seconds that those to come should take, one after the other
        self.spent, self.expected = 1e-9, 1e-9  # of those that ended here
        self.deadline = float("inf")  # when the last run should end

    def plan(self, jobs: Iterable[Job]) -> None:
        """Count runs that are to come."""
        for job in jobs:
            self.total += 1
            self.left += job.seconds

    @property
    def time_left(self) -> float:
        """Seconds until all planned runs are finished, judged by those that ended here."""
        return self.left * min(max(self.spent / self.expected, 0.2), 5.0) / self.count

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Run what is not finished; yield every job with its result, finished ones first.

        Raises:
            ValueError: one fails; the others are stopped, and resume at the next start.
        """
        waiting = []
        for job in jobs:
            if job.is_finished:
                self._end(job)
                yield job, json.loads(job.result.read_text("utf-8"))
            else:
                waiting.append(job)
        with ThreadPoolExecutor(self.count) as pool:
            futures = {pool.submit(self._run, job): job for job in waiting}
            try:
                for future in as_completed(futures):
                    job, seconds = futures[future], future.result()
                    if seconds is not None:
                        self._end(job, seconds)
                        result = json.loads(job.result.read_text("utf-8"))
                        self._say(job, result.get("metric"), seconds)
                        yield job, result
            except BaseException:
                self._stop()
                raise

    def _stop(self) -> None:
        self.deadline = 0.0  # nothing starts any more
        for process in list(self.running):
            process.terminate()

    def _run(self, job: Job) -> float | None:
        start = time.monotonic()
        if start + job.seconds > self.deadline:
            return None
        log = job.folder / CONSOLE
        write_run(job.config, job.folder / CONFIG_FILE)
        process = launch(job.folder / CONFIG_FILE, log)
        self.running.add(process)
        try:
            process.wait()
        finally:
            self.running.discard(process)
        if process.returncode or not job.is_finished:
            self._stop()
            lines = log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"]
            error = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
            code, error = process.returncode, error.removeprefix("error: ").removesuffix(HINT)
            raise ValueError(f"{job.name} ended with exit code {code}: {error} [its output: {log}]")
        return time.monotonic() - start

    def _end(self, job: Job, seconds: float = 0.0) -> None:
        if job.seconds:
            self.done, self.left = self.done + 1, max(self.left - job.seconds, 0.0)
        if job.seconds and seconds:
            self.spent, self.expected = self.spent + seconds, self.expected + job.seconds
        if not self.keep and job.folder.exists():
            for entry in job.folder.iterdir():
                if entry.name not in KEPT:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _say(self, job: Job, metric: float | None, seconds: float) -> None:
        line = job.name + (f": {metric:.4f}" if metric is not None else "") + f", {seconds:.0f} s"
        if job.seconds:
            line = f"run {self.done} of {self.total}: {line}; {in_words(self.time_left)} left"
        print(line, flush=True)
