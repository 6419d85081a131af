"""Number of kernels that a GPU would start for forward and backward of one loss, counted on a CPU.

Every operation that makes or changes numbers counts once; views and empty memory do not count. Maps are worked on in one tile,
as on an accelerator. An operation may start several kernels, so these are lower bounds.
"""

from __future__ import annotations

import sys
from typing import Any

from measure import CHANNELS, SIZES, Call, freekd, pyramid, read_options, save, step
from released import ReleasedFreeKD
from torch.utils._python_dispatch import TorchDispatchMode

from freqkd.losses import MSELoss
from freqkd.losses.freekd.fused import distance, relation

NOT_LAUNCHED = ("empty", "new_empty", "detach", "_local_scalar_dense", "lift_fresh")


class Count(TorchDispatchMode):
    """Counts the operations that would be launched."""

    launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.launches += not (function.is_view or function.__name__.startswith(NOT_LAUNCHED))
        return function(*args, **(kwargs or {}))


def count(call: Call) -> int:
    call()
    with Count() as mode:
        call()
    return mode.launches


def main() -> None:
    read_options(__doc__)
    distance.TILE = relation.TILE = 2**40
    losses = {
        "released form, T = 6": ReleasedFreeKD(CHANNELS, len(SIZES), 6),
        "FreeKD official, T = 6": freekd("official", 6),
        "FreeKD official, T = 6 (plain)": freekd("official", 6, fused=False),
        "FreeKD paper without relation, T = 2": freekd("paper", relation="none"),
        "FreeKD paper, T = 2": freekd("paper"),
        "FreeKD paper, T = 2 (plain)": freekd("paper", fused=False),
        "FreeKD details": freekd("details"),
        "FreeKD details (plain)": freekd("details", fused=False),
        "MSE": MSELoss(),
    }
    maps = pyramid(trained=True), pyramid(trained=False)
    save("launches", {name: count(step(loss, *maps)) for name, loss in losses.items()})


if __name__ == "__main__":
    sys.exit(main())
