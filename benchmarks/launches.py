"""How many kernels a GPU would be asked to start for one loss, forward and backward, counted without one.

Every operation that makes or changes numbers counts once; views and empty memory do not. The walk goes in one tile, as it does
on an accelerator. Operations that start several kernels count once all the same, so these are lower bounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from loss_speed import CHANNELS, freekd, pyramid, step
from measure import save
from released import PlainFreeKD
from torch.utils._python_dispatch import TorchDispatchMode

from freqkd import relation
from freqkd.losses import MSELoss, haar_distance

QUIET = ("empty", "new_empty", "detach", "_local_scalar_dense", "lift_fresh")


class Count(TorchDispatchMode):
    """Counts the operations that would be launched."""

    launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__
        if not function.is_view and not name.startswith(QUIET):
            self.launches += 1
        return function(*args, **(kwargs or {}))


def count(call: Callable[[], None]) -> int:
    call()
    with Count() as mode:
        call()
    return mode.launches


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    haar_distance.TILE = relation.TILE = 2**40
    students, teachers = (pyramid(True) for _ in "st")
    for student in students:
        student.requires_grad_()
    losses = {
        "released form, T = 6": PlainFreeKD(CHANNELS, 5, 6),
        "official, T = 6": freekd(6, "official"),
        "paper without relation, T = 2": freekd(2, "paper", relation="none"),
        "paper, T = 2": freekd(2, "paper"),
        "MSE": MSELoss(),
    }
    rows = {name: count(step(loss, students, teachers)) for name, loss in losses.items()}
    for name, launches in rows.items():
        print(f"{name:42}{launches:6} launches")
    save("launches", rows, "python benchmarks/launches.py")


if __name__ == "__main__":
    sys.exit(main())
