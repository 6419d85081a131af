"""Forward and backward of one loss at a time, at P3 to P7 of an 800x1344 image with 256 channels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from measure import device, interleave, keep_memory, peak_bytes, save
from released import PlainFreeKD
from torch import Tensor, nn

from freqkd.losses import ATLoss, CWDLoss, FGDLoss, FreeKDLoss, MGDLoss, MSELoss, PKDLoss

SIZES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
CHANNELS = 256
Maps = list[Tensor]


def pyramid(last: bool, batch: int = 1, channels: int = CHANNELS, sizes: Sequence[tuple[int, int]] = SIZES) -> Maps:
    """Random maps, channels last or contiguous."""
    order = torch.channels_last if last else torch.contiguous_format
    return [torch.randn(batch, channels, *size, device=device()).contiguous(memory_format=order) for size in sizes]


def freekd(num_prompts: int, preset: str, **options: object) -> nn.Module:
    loss = FreeKDLoss(CHANNELS, len(SIZES), num_prompts, preset, **options)
    for prompt in loss.prompts:
        prompt.tokens.data.normal_(std=0.1)
    return loss.to(device())


def step(loss: Callable[..., Tensor], students: Maps, teachers: Maps, **options: object) -> Callable[[], None]:
    """One forward and one backward to the students' maps."""

    def reset() -> None:
        for student in students:
            student.grad = None

    def call() -> None:
        reset()
        loss(students, teachers, **options).backward()

    call.reset = reset
    return call


def rows() -> dict[str, Callable[[], None]]:
    """Every row of the table: its name, and one forward and backward."""
    torch.manual_seed(0)
    students, teachers = pyramid(True), pyramid(True)
    plain_students, plain_teachers = pyramid(False), pyramid(False)
    for student in (*students, *plain_students):
        student.requires_grad_()
    last, plain = (students, teachers), (plain_students, plain_teachers)
    boxes = [torch.tensor([[100.0, 100.0, 600.0, 500.0], [700.0, 200.0, 1200.0, 700.0]], device=device())]
    wide = CWDLoss()
    calls = {
        "released form, T = 6": step(PlainFreeKD(CHANNELS, 5, 6).to(device()), *plain),
        "released form, T = 2": step(PlainFreeKD(CHANNELS, 5, 2).to(device()), *plain),
        "MSE": step(MSELoss(), *last),
        "MSE, compiled": step(torch.compile(MSELoss()), *last),
        "MSE, contiguous": step(MSELoss(), *plain),
        "F.mse_loss": step(lambda ours, theirs: sum(F.mse_loss(s, t) for s, t in zip(ours, theirs)), *last),
        "official, T = 6": step(freekd(6, "official"), *last),
        "official, T = 2": step(freekd(2, "official"), *last),
        "official, T = 6, compiled": step(freekd(6, "official", compiled=True), *last),
        "official, T = 2, compiled": step(freekd(2, "official", compiled=True), *last),
        "official, T = 6, compiled, contiguous": step(freekd(6, "official", compiled=True), *plain),
        "official, T = 6, contiguous": step(freekd(6, "official"), *plain),
        "paper without relation, T = 2": step(freekd(2, "paper", relation="none"), *last),
        "paper without relation, T = 6": step(freekd(6, "paper", relation="none"), *last),
        "paper without relation, T = 2, compiled": step(freekd(2, "paper", relation="none", compiled=True), *last),
        "paper, T = 2": step(freekd(2, "paper"), *last),
        "paper, T = 6": step(freekd(6, "paper"), *last),
        "paper, T = 2, compiled": step(freekd(2, "paper", compiled=True), *last),
        "paper, T = 2, contiguous": step(freekd(2, "paper"), *plain),
        "PKD": step(PKDLoss(), *last),
        "CWD": step(lambda ours, theirs: sum(wide(s, t) for s, t in zip(ours, theirs)), *last),
        "AT": step(ATLoss(), *last),
        "FGD": step(FGDLoss(CHANNELS, 5).to(device()), *last, boxes=boxes, image_sizes=[(800, 1344)]),
        "MGD": step(MGDLoss(CHANNELS, 5).to(device()), *last),
    }
    return calls


def products() -> Callable[[], None]:
    """The C x C products of the relation alone: student and teacher, every level at the size of the next."""
    maps = pyramid(True, sizes=(*SIZES[1:], SIZES[-1]))
    pixels = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]

    def call() -> None:
        for _ in "st":
            for x in pixels:
                x.transpose(1, 2) @ x

    call.reset = lambda: None
    return call


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-memory", action="store_true", help="with an allocator that never gives memory back")
    options = parser.parse_args(arguments)
    if options.keep_memory:
        keep_memory()
    torch.set_num_threads(options.threads)
    calls = {**rows(), "C x C products of the relation": products()}
    times = interleave(calls, options.repeats)
    found = {name: dict(times[name], peak=peak_bytes(call)) for name, call in calls.items()}
    for name, row in found.items():
        print(f"{name:42}{row['median']:9.1f} ms {row['peak'] / 2**20:8.1f} MiB")
    command = f"python benchmarks/loss_speed.py --repeats {options.repeats}"
    if options.keep_memory:
        save("loss_speed_kept", found, f"{command} --keep-memory")
    else:
        save("loss_speed", found, command)


if __name__ == "__main__":
    sys.exit(main())
