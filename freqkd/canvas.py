"""The sheet that `plotting` composes its panels on: pictures go to exact pixels, lettering is laid over by matplotlib.

RGB uint8 arrays throughout. OpenCV and matplotlib are imported on use; no display and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

MARGIN, GAP = 16, 8
TITLE, CAPTION, LINE = 34, 26, 24  # heights in pixels
DPI = 100
INK = "#222222"


def check_image(name: str, value: ArrayLike) -> Image:
    """Return `value` as an array, or raise ValueError where it is no RGB uint8 picture (H, W, 3).

    >>> check_image("image", np.zeros((4, 6), np.uint8))
    Traceback (most recent call last):
    ...
    ValueError: image must be RGB uint8 (H, W, 3), got uint8 of shape (4, 6)
    """
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{name} must be RGB uint8 (H, W, 3), got {array.dtype} of shape {array.shape}")
    return array


def resize(image: Image, width: int, height: int, *, nearest: bool = False) -> Image:
    """Return a copy of the picture in another size."""
    import cv2

    shrinks = width < image.shape[1] and height < image.shape[0]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.array(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def rectangle(image: Image, box: Sequence[float] | NDArray[Any], color: Color) -> None:
    """Draw a box x1, y1, x2, y2 into the picture: two pixels of its colour inside, a dark line around."""
    import cv2

    left, top, right, bottom = (round(float(value)) for value in box)
    cv2.rectangle(image, (left - 1, top - 1), (right + 1, bottom + 1), (20, 20, 20), 1)
    cv2.rectangle(image, (left, top), (right, bottom), color, 1)
    cv2.rectangle(image, (left + 1, top + 1), (right - 1, bottom - 1), color, 1)


def text_width(text: str, size: float) -> int:
    """Estimate the width of a line of text in pixels, a little high."""
    return round(len(text) * size * DPI / 72 * 0.58)


@dataclass
class Page:
    """A white sheet: `paste` pictures and `write` text, then `render`."""

    width: int
    height: int
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.canvas: Image = np.full((self.height, self.width, 3), 255, np.uint8)

    def paste(self, left: int, top: int, picture: Image) -> None:
        """Put a picture with its upper left corner at a pixel."""
        self.canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture

    def write(self, left: int, top: int, text: str, width: int, size: float = 10, *, bold: bool = False) -> None:
        """Write one line of text below and right of a pixel, cut to `width`."""
        room = max(int(width / text_width("x" * 100, size) * 100), 2)
        short = text if len(text) <= room else text[: room - 1] + "…"
        weight = "bold" if bold else "normal"
        self.lines.append({"x": left, "y": top, "s": short, "fontsize": size, "fontweight": weight})

    def render(self) -> Image:
        """Return the sheet with its text."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # Half a pixel more, or rounding down loses one.
        figure = Figure(figsize=((self.width + 0.5) / DPI, (self.height + 0.5) / DPI), dpi=DPI, facecolor="none")
        sheet: Any = FigureCanvasAgg(figure)
        for line in self.lines:
            flipped = {**line, "y": self.height - line["y"]}
            figure.text(**flipped, transform=None, va="top", color=INK, parse_math=False)
        sheet.draw()
        letters = np.asarray(sheet.buffer_rgba())
        alpha = letters[..., 3:] / 255.0
        return np.array(np.rint(alpha * letters[..., :3] + (1 - alpha) * self.canvas), np.uint8)


class Columns:
    """Pictures of one size side by side, each under its caption, in two rows beyond five, a colour legend below."""

    def __init__(self, image: Image, count: int, title: str, width: int) -> None:
        if count < 1:
            raise ValueError("columns must name at least one picture, got none")
        self.title, self.width = title, width
        self.per_row = count if count <= 5 else -(-count // 2)
        across = (width - 2 * MARGIN - (self.per_row - 1) * GAP) // self.per_row
        if across < 16:
            raise ValueError(f"width must leave 16 pixels for each of {self.per_row} pictures, got {width}; widen it")
        self.cell = (across, max(round(across * image.shape[0] / image.shape[1]), 1))

    def place(self, index: int) -> tuple[int, int]:
        """Return the upper left pixel of a picture."""
        top = MARGIN + (TITLE if self.title else 0) + CAPTION
        row, column = divmod(index, self.per_row)
        return MARGIN + column * (self.cell[0] + GAP), top + row * (self.cell[1] + CAPTION + GAP)

    def compose(self, cells: Sequence[tuple[str, Image]], legend: Sequence[tuple[str, Color]]) -> Image:
        """Return the panel of captioned pictures, and the legend's names with their colours."""
        spots, left, line = [], MARGIN, 0
        for name, _ in legend:
            needed = 46 + text_width(name, 10)
            if left > MARGIN and left + needed > self.width - MARGIN:
                left, line = MARGIN, line + 1
            spots.append((left, line))
            left += needed
        bottom = self.place(len(cells) - 1)[1] + self.cell[1]
        page = Page(self.width, bottom + MARGIN + (GAP + (line + 1) * LINE if legend else 0))
        page.write(MARGIN, MARGIN, self.title, self.width - 2 * MARGIN, size=13, bold=True)
        for index, (caption, picture) in enumerate(cells):
            x, y = self.place(index)
            page.write(x, y - CAPTION + 3, caption, self.cell[0], size=11)
            page.paste(x, y, picture)
        for (name, color), (x, line) in zip(legend, spots, strict=True):
            y = bottom + GAP + 6 + line * LINE
            page.paste(x, y, np.full((16, 16, 3), (60, 60, 60), np.uint8))
            page.paste(x + 1, y + 1, np.full((14, 14, 3), color, np.uint8))
            page.write(x + 22, y, name, 10_000)
        return page.render()
