"""Growth of the loss with resolution, batch, prompts, depth of the transform and number of terms: one varies at a time."""

from __future__ import annotations

import sys

import torch
from measure import Call, freekd, interleave, keep_memory, pyramid, read_options, save, step
from torch import Tensor


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes of P3 to P7 of an image."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(3, 8)]


def case(
    num_prompts: int = 2,
    batch: int = 1,
    image: tuple[int, int] = (512, 512),
    terms: int = 1,
    depth: int = 3,
    preset: str = "paper",
) -> tuple[Call, int]:
    """Return forward and backward of `terms` losses, and the number of positions of the pyramid."""
    students, teachers = (pyramid(trained=trained, batch=batch, sizes=sizes(*image)) for trained in (True, False))
    losses = [freekd(preset, num_prompts, relation="none", depth=depth) for _ in range(terms)]

    def total(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        return torch.stack([loss(students, teachers) for loss in losses]).sum()

    return step(total, students, teachers), sum(x.shape[0] * x.shape[2] * x.shape[3] for x in students)


def main() -> None:
    options = read_options(__doc__)
    keep_memory()
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
    save("scaling", {name: dict(times[name], positions=cases[name][1]) for name in cases})


if __name__ == "__main__":
    sys.exit(main())
