"""Pictures from arrays: the prompts' masks over an image, and predictions side by side.

Every function takes and returns RGB uint8 arrays (H, W, 3); `save_png` writes one. OpenCV and matplotlib are imported
on use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from freqkd.canvas import CAPTION, GAP, MARGIN, TITLE, Color, Columns, Image, Page, check_image, rectangle, resize
from freqkd.files import write_whole

WIDTH = 1500
FOOTER = "One row for each prompt; below each mask its mean ± standard deviation over the positions."
OVERLAY = 0.7  # how much of the mask's colour lies over the dimmed image
IGNORED: Color = (150, 150, 150)
# Bright, far apart, and told apart by most colour-blind readers; more classes than these get hues of their own.
COLORS: tuple[Color, ...] = (
    *((0, 90, 200), (0, 190, 120), (240, 130, 0), (200, 30, 160), (90, 200, 240), (235, 215, 30)),
    *((140, 80, 20), (120, 120, 255), (0, 110, 70), (230, 60, 60)),
)


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: `boxes` (n, 4) as x1, y1, x2, y2 in its pixels, `labels` (n,), `scores` (n,) or None."""

    boxes: ArrayLike
    labels: ArrayLike
    scores: ArrayLike | None = None

    def arrays(self, name: str, classes: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """Return boxes, labels and scores as arrays.

        Raises:
            ValueError: they do not match each other, or a label is outside the classes.
        """
        labels = np.asarray(self.labels, np.int64).reshape(-1)
        boxes = np.asarray(self.boxes, np.float64)
        scores = None if self.scores is None else np.asarray(self.scores, np.float64)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        shapes = (boxes.shape, None if scores is None else scores.shape)
        if shapes not in (((len(labels), 4), None), ((len(labels), 4), (len(labels),))):
            raise ValueError(
                f"{name!r} must have boxes (n, 4), labels (n,) and scores (n,) or None, got {len(labels)} labels, "
                f"boxes of shape {shapes[0]} and scores of shape {shapes[1]}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"{name!r} must have labels from 0 to {classes - 1}, the indices of class_names, "
                f"got {labels.min()} to {labels.max()}"
            )
        return boxes, labels, scores


def band_names(level: int) -> list[str]:
    """Name the bands of a decomposition: the low band, then the details from fine to coarse.

    >>> band_names(2)
    ['LL2', 'LH1', 'HL1', 'HH1', 'LH2', 'HL2', 'HH2']
    """
    return [f"LL{level}", *(f"{band}{depth}" for depth in range(1, level + 1) for band in ("LH", "HL", "HH"))]


def class_colors(count: int) -> list[Color]:
    """Return `count` colours, the same for the same class in every picture.

    >>> class_colors(2)
    [(0, 90, 200), (0, 190, 120)]
    """
    from colorsys import hsv_to_rgb

    colors = list(COLORS[:count])
    for index in range(len(colors), count):
        hue, saturation, value = index * 0.618 % 1, (1.0, 0.55)[index % 2], (0.95, 0.6, 0.8)[index % 3]
        red, green, blue = (round(255 * part) for part in hsv_to_rgb(hue, saturation, value))
        colors.append((red, green, blue))
    return colors


def mask_overlay(image: Image, mask: NDArray[Any], limits: tuple[float, float] = (0.0, 1.0)) -> Image:
    """Paint a mask (h, w), enlarged by nearest neighbour, over the dimmed image, from dark to bright between `limits`.

    >>> mask_overlay(np.zeros((2, 4, 3), np.uint8), np.array([[0.0, 1.0]]))[0, :, 0]
    array([  0,   0, 176, 176], dtype=uint8)
    """
    import cv2

    height, width = image.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    scaled = (np.asarray(mask, np.float64)[rows][:, columns] - limits[0]) / (limits[1] - limits[0])
    hot = cv2.applyColorMap(np.rint(255 * scaled.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.array(np.rint(OVERLAY * hot + (1 - OVERLAY) * gray), np.uint8)


def _check_masks(masks_by_band: Sequence[ArrayLike], names: Sequence[str]) -> list[NDArray[Any]]:
    masks = [np.asarray(mask, np.float64) for mask in masks_by_band]
    if not masks or len(masks) != len(names):
        raise ValueError(f"names must hold one name for each band, got {len(names)} for {len(masks)} bands")
    for name, mask in zip(names, masks, strict=True):
        if mask.ndim != 3 or mask.size == 0 or len(mask) != len(masks[0]):
            raise ValueError(
                f"the mask of {name} must be (T, h, w) with the same T in every band, got {mask.shape}; "
                "take one image of the batch: masks[band][0]"
            )
        if not (mask.min() >= 0 and mask.max() <= 1):  # written so that NaN fails too
            raise ValueError(f"the mask of {name} must be from 0 to 1 (a sigmoid), got {mask.min()} to {mask.max()}")
    return masks


def mask_panel(
    image: ArrayLike,
    masks_by_band: Sequence[ArrayLike],
    names: Sequence[str],
    title: str = "",
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    width: int = WIDTH,
) -> Image:
    """Show the masks of one pyramid level: the image, then a column for each band and a row for each prompt.

    Args:
        image: RGB uint8 (H, W, 3).
        masks_by_band: for each band the sigmoid masks (T, h, w) of one image.
        names: the bands' names, see `band_names`.
        title: a line above the panel.
        limits: the mask values at the two ends of the colour bar, which all masks share.
        width: of the panel, in pixels.

    Raises:
        ValueError: the image is not RGB, names and masks differ in number, a mask is not (T, h, w) with one T and
            values from 0 to 1, the limits do not rise, or the width is too small.
    """
    if not limits[0] < limits[1]:
        raise ValueError(f"limits must rise, got {limits}")
    photo, masks = check_image("image", image), _check_masks(masks_by_band, names)
    prompts, bands = len(masks[0]), len(masks)
    span, bar = min(prompts, 2), 60  # the image is as large as one or two cells
    cell = (width - 2 * MARGIN - bar - bands * GAP) // (bands + span)
    if cell < 16:
        raise ValueError(f"width must leave 16 pixels for each of {bands + span} columns, got {width}; widen it")
    cell_height = max(round(cell * photo.shape[0] / photo.shape[1]), 16)
    row, top = cell_height + CAPTION, MARGIN + (TITLE if title else 0) + CAPTION
    page = Page(width, top + prompts * row + CAPTION)
    page.write(MARGIN, MARGIN, title, width - 2 * MARGIN, size=13, bold=True)
    page.write(MARGIN, top - CAPTION + 3, "image", span * cell)
    page.paste(MARGIN, top, resize(photo, span * cell, span * cell_height))
    small = resize(photo, cell, cell_height)
    left = MARGIN + span * cell + GAP
    for name, mask in zip(names, masks, strict=True):
        page.write(left, top - CAPTION + 3, name, cell)
        for prompt in range(prompts):
            page.paste(left, top + prompt * row, mask_overlay(small, mask[prompt], limits))
            note = f"{mask[prompt].mean():.2f} ± {mask[prompt].std():.2f}"
            page.write(left, top + prompt * row + cell_height + 3, note, cell + GAP, size=8)
        left += cell + GAP
    page.write(MARGIN, top + prompts * row, FOOTER, width - 2 * MARGIN, size=8)
    scale = np.linspace(limits[1], limits[0], prompts * row - CAPTION)[:, None]
    page.paste(left + GAP, top, mask_overlay(np.full((len(scale), 14, 3), 110, np.uint8), scale, limits))
    for part in (0.0, 0.5, 1.0):
        value = limits[1] + part * (limits[0] - limits[1])
        page.write(left + GAP + 19, top + round(part * (len(scale) - 13)), f"{value:.2g}", 40, size=8)
    return page.render()


def detection_panel(
    image: ArrayLike,
    columns: Mapping[str, Boxes],
    class_names: Sequence[str],
    title: str = "",
    *,
    score_threshold: float = 0.3,
    width: int = WIDTH,
) -> Image:
    """Show boxes side by side, e.g. of ground truth, teacher, alone, distilled; boxes without scores are all drawn.

    Each column is headed by its name and number of boxes, the picture by `title` and the threshold.

    Raises:
        ValueError: the image is not RGB, there is no column, the arrays of one do not match each other, or a label is
            outside `class_names`.
    """
    photo, colors = check_image("image", image), class_colors(len(class_names))
    if title and any(found.scores is not None for found in columns.values()):
        title = f"{title}, boxes with a score of {score_threshold:g} or more"
    layout = Columns(photo, len(columns), title, width)
    scale = np.array([layout.cell[0] / photo.shape[1], layout.cell[1] / photo.shape[0]] * 2)
    cells, seen = [], set()
    for name, found in columns.items():
        boxes, labels, scores = found.arrays(name, len(class_names))
        kept = np.ones(len(boxes), bool) if scores is None else scores >= score_threshold
        picture = resize(photo, *layout.cell)
        for box, label in zip(boxes[kept] * scale, labels[kept], strict=True):
            rectangle(picture, box, colors[label])
        seen |= set(labels[kept].tolist())
        cells.append((f"{name}: {int(kept.sum())}", picture))
    return layout.compose(cells, [(class_names[label], colors[label]) for label in sorted(seen)])


def segmentation_panel(
    image: ArrayLike,
    columns: Mapping[str, ArrayLike],
    palette: Sequence[Sequence[int]],
    class_names: Sequence[str],
    title: str = "",
    *,
    ignore_index: int = 255,
    opacity: float = 0.65,
    width: int = WIDTH,
) -> Image:
    """Show the image, then label maps (H, W) over it, e.g. of ground truth, teacher, alone, distilled.

    Raises:
        ValueError: the image is not RGB, there is no column, a map differs in size from the image, a label is neither a
            class nor `ignore_index`, or palette and names differ in number.
    """
    photo, last = check_image("image", image), len(class_names) - 1
    if len(palette) != len(class_names):
        raise ValueError(f"palette must have one colour for each of {len(class_names)} classes, got {len(palette)}")
    layout = Columns(photo, len(columns) and len(columns) + 1, title, width)
    base = resize(photo, *layout.cell)
    table = np.array([*palette, IGNORED], np.uint8)
    cells, seen = [("image", base)], set()
    for name, found in columns.items():
        labels = np.asarray(found)
        if labels.shape != photo.shape[:2]:
            raise ValueError(f"{name!r} must have the image's size {photo.shape[:2]}, got {labels.shape}")
        ignored = labels == ignore_index
        wrong = labels[~ignored & ((labels < 0) | (labels > last))]
        if wrong.size:
            raise ValueError(f"{name!r} must hold labels from 0 to {last}, or {ignore_index} (ignored), got {wrong[0]}")
        labels = np.where(ignored, last + 1, labels)
        seen |= set(np.unique(labels).tolist())
        painted = resize(table[labels], *layout.cell, nearest=True)
        cells.append((name, np.rint(opacity * painted + (1 - opacity) * base).astype(np.uint8)))
    legend: list[tuple[str, Color]] = []
    for label in sorted(seen):
        red, green, blue = (int(part) for part in table[label])
        legend.append((class_names[label] if label <= last else "ignored", (red, green, blue)))
    return layout.compose(cells, legend)


def save_png(path: str | os.PathLike[str], array: ArrayLike) -> Path:
    """Write an RGB array as a PNG file, whole or not at all; folders on the way are made.

    Raises:
        ValueError: the array is no RGB uint8 picture, or the name does not end in .png.
        OSError: the file cannot be written; nothing half-written is left behind.
    """
    import cv2

    target, picture = Path(path), check_image("array", array)
    if target.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
    with write_whole(target) as file:
        file.write(data)
    return target
