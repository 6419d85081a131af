"""How the loss grows with resolution, batch, prompts, levels of the transform and number of terms: one varies at a time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from loss_speed import CHANNELS, freekd, pyramid, step
from measure import interleave, keep_memory, save


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """P3 to P7 of an image."""
    found = [(height // 8, width // 8)]
    for _ in range(4):
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


def case(
    num_prompts: int = 2,
    batch: int = 1,
    image: tuple[int, int] = (512, 512),
    terms: int = 1,
    depth: int = 3,
    preset: str = "paper",
) -> tuple[Callable[[], None], int]:
    """One forward and backward of `terms` losses, and the number of positions of the pyramid."""
    students, teachers = (pyramid(True, batch, sizes=sizes(*image)) for _ in "st")
    for student in students:
        student.requires_grad_()
    losses = [freekd(num_prompts, preset, relation="none", depth=depth) for _ in range(terms)]

    def total(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([loss(ours, theirs) for loss in losses]).sum()

    return step(total, students, teachers), sum(x.shape[0] * x.shape[2] * x.shape[3] for x in students)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cases = {
        **{f"image {h}x{w}": case(image=(h, w)) for h, w in ((256, 256), (512, 512), (512, 1024), (1024, 1024))},
        **{f"batch {n}": case(batch=n) for n in (1, 2, 4)},
        **{
            f"{preset}, T = {t}": case(num_prompts=t, image=(800, 1344), preset=preset)
            for preset in ("paper", "official")
            for t in (1, 2, 4, 6, 12)
        },
        **{f"depth {j}": case(depth=j) for j in (1, 2, 3, 4)},
        **{f"terms {n}": case(terms=n) for n in (1, 2, 3)},
    }
    times = interleave({name: call for name, (call, _) in cases.items()}, options.repeats)
    rows = {name: dict(times[name], positions=cases[name][1]) for name in cases}
    for name, row in rows.items():
        print(f"{name:20}{row['median']:8.1f} ms {1e6 * row['median'] / row['positions']:8.0f} ns per position")
    save("scaling", rows, f"python benchmarks/scaling.py --repeats {options.repeats}", channels=CHANNELS)


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())
