"""Forward and backward of one loss at a time, at P3 to P7 of an 800x1344 image with 256 channels."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from measure import (
    CHANNELS,
    SIZES,
    Call,
    device,
    freekd,
    interleave,
    keep_memory,
    peak_bytes,
    pyramid,
    read_options,
    save,
    step,
)
from released import ReleasedFreeKD

from freqkd.losses import ATLoss, CWDLoss, FGDLoss, MGDLoss, MSELoss, PKDLoss


def rows() -> dict[str, Call]:
    """Return every row of the table: its name, and one forward and backward."""
    torch.manual_seed(0)
    last, contiguous = (
        (pyramid(trained=True, last=order), pyramid(trained=False, last=order)) for order in (True, False)
    )
    boxes = [torch.tensor([[100.0, 100.0, 600.0, 500.0], [700.0, 200.0, 1200.0, 700.0]], device=device())]
    cwd = CWDLoss()
    losses = {
        "MSE": MSELoss(),
        "MSE, compiled": torch.compile(MSELoss()),
        "F.mse_loss": lambda students, teachers: sum(map(F.mse_loss, students, teachers)),
        "FreeKD official, T = 6": freekd("official", 6),
        "FreeKD official, T = 2": freekd("official"),
        "FreeKD official, T = 6 (plain)": freekd("official", 6, fused=False),
        "FreeKD paper without relation, T = 2": freekd("paper", relation="none"),
        "FreeKD paper without relation, T = 6": freekd("paper", 6, relation="none"),
        "FreeKD paper, T = 2": freekd("paper"),
        "FreeKD paper, T = 6": freekd("paper", 6),
        "FreeKD paper, T = 2 (plain)": freekd("paper", fused=False),
        "FreeKD details": freekd("details"),
        "FreeKD details (plain)": freekd("details", fused=False),
        "FreeKD whitened": freekd("whitened"),
        "FreeKD whitened (plain)": freekd("whitened", fused=False),
        "PKD": PKDLoss(),
        "CWD": lambda students, teachers: sum(map(cwd, students, teachers)),
        "AT": ATLoss(),
        "MGD": MGDLoss(CHANNELS, len(SIZES)).to(device()),
    }
    fgd = FGDLoss(CHANNELS, len(SIZES)).to(device())
    return {
        **{
            f"released form, T = {t}": step(ReleasedFreeKD(CHANNELS, len(SIZES), t).to(device()), *contiguous)
            for t in (6, 2)
        },
        **{name: step(loss, *last) for name, loss in losses.items()},
        **{
            f"{name}, contiguous": step(losses[name], *contiguous)
            for name in ("MSE", "FreeKD official, T = 6", "FreeKD paper, T = 2")
        },
        "FGD": step(fgd, *last, boxes=boxes, image_sizes=[(800, 1344)]),
        "C x C products of the relation": products(),
    }


def products() -> Call:
    """Return the C x C products of the relation alone: student and teacher, every level at the size of the next."""
    maps = pyramid(trained=False, sizes=(*SIZES[1:], SIZES[-1]))
    pixels = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]

    def call() -> None:
        for x in pixels * 2:
            x.transpose(1, 2) @ x

    call.reset = lambda: None  # type: ignore[attr-defined]
    return call


def main() -> None:
    flag = dict(action="store_true", help="with an allocator that keeps its memory")
    options = read_options(__doc__, keep_memory=flag)
    if options.keep_memory:
        keep_memory()
    calls = rows()
    times = interleave(calls, options.repeats)
    found = {name: dict(times[name], peak=peak_bytes(call)) for name, call in calls.items()}
    save("loss_speed_kept" if options.keep_memory else "loss_speed", found)


if __name__ == "__main__":
    sys.exit(main())
