"""Panels of masks, boxes, label maps and values of images, drawn by matplotlib.

Panels are RGB uint8 arrays (H, W, 3), as the images they take; `save_png` writes one. matplotlib is imported on use, and
draws with its Agg backend: no display is needed, and the caller's backend stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from freqkd.utils.files import write_whole

Image = NDArray[np.uint8]
Palette = Sequence[Sequence[int]]

WIDTH, DPI = 15.0, 100  # of a panel, in inches and in pixels per inch
FOOTER = "One row for each prompt; below each mask its mean ± standard deviation over the positions."
MIN_SCORE = 0.3
IGNORE_INDEX, IGNORED = 255, (150, 150, 150)
OPACITY = 0.65  # of label maps over their image
KEPT, LEFT_OUT = (40, 100, 180), (230, 140, 50)  # colours of images of a condensed data set


def band_names(depth: int, tokens_per: str = "subband") -> list[str]:
    """Name what has masks of its own: the low band, then the details from fine to coarse, by subband or by scale.

    >>> band_names(2)
    ['LL2', 'LH1', 'HL1', 'HH1', 'LH2', 'HL2', 'HH2']
    >>> band_names(2, "scale")
    ['LL2', 'scale 1', 'scale 2']
    """
    kinds = ("LH", "HL", "HH") if tokens_per == "subband" else ("scale ",)
    return [f"LL{depth}", *(f"{kind}{scale}" for scale in range(1, depth + 1) for kind in kinds)]


def mask_panel(image: ArrayLike, masks_by_band: Sequence[ArrayLike], names: Sequence[str], title: str = "") -> Image:
    """Show the masks of one pyramid level: the image, then a column for each band and a row for each prompt.

    All masks share one colour scale, from 0 to 1.

    Args:
        image: RGB uint8 (H, W, 3).
        masks_by_band: for each band the sigmoid masks (T, h, w) of one image.
        names: the bands' names, see `band_names`.
        title: a line above the panel.

    Raises:
        ValueError: the image is not RGB uint8, names and masks differ in number, or a mask is not (T, h, w) with one T
            and values from 0 to 1.
    """
    photo, masks = check_image("image", image), [np.asarray(mask, np.float64) for mask in masks_by_band]
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
    prompts, span = len(masks[0]), min(len(masks[0]), 2)  # the image spans one or two rows and columns
    aspect = photo.shape[0] / photo.shape[1]
    figure = _figure(prompts * (aspect * WIDTH / (len(masks) + span + 1) + 0.35) + 0.6, title)
    grid = figure.add_gridspec(prompts, span + len(masks))
    _show(figure.add_subplot(grid[:span, :span]), photo, "image")
    for column, (name, mask) in enumerate(zip(names, masks, strict=True), span):
        for row, values in enumerate(mask):
            axes = figure.add_subplot(grid[row, column], xticks=[], yticks=[], box_aspect=aspect)
            shown = axes.imshow(values, "inferno", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            axes.set_xlabel(f"{values.mean():.2f} ± {values.std():.2f}", fontsize=8)
            axes.set_title(name if row == 0 else "", loc="left", fontsize=10)
    figure.colorbar(shown, ax=figure.axes, ticks=[0, 0.5, 1], pad=0.01).ax.tick_params(labelsize=8)
    figure.supxlabel(FOOTER, x=0.003, ha="left", fontsize=8)
    return _render(figure)


def detection_panel(
    image: ArrayLike, columns: Mapping[str, Any], palette: Palette, class_names: Sequence[str], title: str = ""
) -> Image:
    """Show boxes side by side, e.g. of ground truth, teacher, student alone, student distilled.

    Each column is headed by its name and number of boxes, the panel by `title` and the threshold.

    Args:
        image: RGB uint8 (H, W, 3).
        columns: instances by name, with `bboxes` (n, 4) as x1, y1, x2, y2, `labels` (n,) and, where they have any, `scores`
            (n,), as mmdet's samples hold them; boxes with a score below 0.3 are left out.
        palette: RGB colours of the classes.
        class_names: the classes that labels count.
        title: a line above the panel.

    Raises:
        ValueError: the image is not RGB uint8, there is no column, a label is outside `class_names`, or there are fewer
            colours than classes.
    """
    from matplotlib.patches import Rectangle

    photo, colors = check_image("image", image), _check_palette(palette, class_names)
    figure, cells = _columns(photo, len(columns), f"{title}, boxes with a score of {MIN_SCORE} or more")
    seen: set[int] = set()
    for axes, (name, found) in zip(cells, columns.items(), strict=True):
        labels = _check_labels(name, found.labels, len(class_names))
        boxes = np.asarray(getattr(found.bboxes, "tensor", found.bboxes))  # mmdet's HorizontalBoxes hold a tensor
        kept = np.asarray(getattr(found, "scores", np.ones(len(labels)))) >= MIN_SCORE
        _show(axes, photo, f"{name}: {kept.sum()}")
        for (left, top, right, bottom), label in zip(boxes[kept], labels[kept], strict=True):
            line = dict(fill=False, linewidth=1.5, edgecolor=colors[label] / 255)
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, **line))
        seen |= set(labels[kept].tolist())
    return _render(figure, {class_names[label]: colors[label] for label in sorted(seen)})


def segmentation_panel(
    image: ArrayLike, columns: Mapping[str, ArrayLike], palette: Palette, class_names: Sequence[str], title: str = ""
) -> Image:
    """Show the image, then label maps over it, e.g. of ground truth, teacher, student alone, student distilled.

    Args:
        image: RGB uint8 (H, W, 3).
        columns: label maps (H, W) by name; positions labelled 255 are ignored ones, drawn grey.
        palette: RGB colours of the classes.
        class_names: the classes that labels count.
        title: a line above the panel.

    Raises:
        ValueError: the image is not RGB uint8, there is no column, a map differs in size from the image, a label is
            neither a class nor 255, or there are fewer colours than classes.
    """
    photo, count = check_image("image", image), len(class_names)
    colors, names = np.array([*_check_palette(palette, class_names), IGNORED]), [*class_names, "ignored"]
    figure, cells = _columns(photo, len(columns) and len(columns) + 1, title)
    _show(cells[0], photo, "image")
    seen: set[int] = set()
    for axes, (name, found) in zip(cells[1:], columns.items(), strict=True):
        labels = _check_labels(name, found, count, IGNORE_INDEX)
        if labels.shape != photo.shape[:2]:
            raise ValueError(f"{name!r} must have the image's size {photo.shape[:2]}, got {labels.shape}")
        labels = np.where(labels == IGNORE_INDEX, count, labels)
        _show(axes, np.rint(OPACITY * colors[labels] + (1 - OPACITY) * photo).astype(np.uint8), name)
        seen |= set(np.unique(labels).tolist())
    return _render(figure, {names[label]: colors[label] for label in sorted(seen)})


def condensation_panel(
    values: ArrayLike, kept: int, photos: Mapping[str, Sequence[tuple[str, ArrayLike]]], title: str = ""
) -> Image:
    """Show which images of a data set are kept: the values of all, then a row of images for each kind.

    Args:
        values: of all images (n,), in the order of the ranking.
        kept: how many of them are kept.
        photos: for each kind its images, RGB uint8 (H, W, 3), each with a line about it; rows may
            differ in length, or be empty.
        title: a line above the panel.

    Raises:
        ValueError: `values` is not one list of numbers, `kept` is not among them, or an image is not RGB uint8.
    """
    ranked, rows = np.asarray(values, np.float64), {name: row for name, row in photos.items() if row}
    if ranked.ndim != 1 or not 1 <= kept <= len(ranked):
        raise ValueError(f"kept must be from 1 to the number of values, got {kept} of shape {ranked.shape}")
    across = max((len(row) for row in rows.values()), default=1)
    figure = _figure(3 + len(rows) * (0.75 * WIDTH / across + 0.4), title)
    grid = figure.add_gridspec(1 + len(rows), across, height_ratios=[3, *[0.75 * WIDTH / across] * len(rows)])
    axes = figure.add_subplot(grid[0, :], xlim=(0, len(ranked)), xlabel="rank", ylabel="mean entropy")
    for name, begin, end, color in (("kept", 0, kept, KEPT), ("left out", kept, len(ranked), LEFT_OUT)):
        ranks, shade = np.arange(begin, end) + 0.5, np.array(color) / 255
        axes.plot(ranks, ranked[begin:end], "s", markersize=5, color=shade, label=f"{name}: {end - begin}")
    axes.legend(loc="upper right")
    for number, (kind, row) in enumerate(rows.items(), 1):
        for column, (line, photo) in enumerate(row):
            name = f"{kind}\n{line}" if column == 0 else f"\n{line}"
            _show(figure.add_subplot(grid[number, column]), check_image("photo", photo), name)
    return _render(figure)


def save_png(path: str | os.PathLike[str], array: ArrayLike) -> Path:
    """Write an RGB array as a PNG file, whole or not at all; folders on the way are made.

    Raises:
        ValueError: the array is not an RGB uint8 picture, or the name does not end in .png.
        OSError: the file cannot be written; nothing half-written is left behind.
    """
    from matplotlib.image import imsave

    target, picture = Path(path), check_image("array", array)
    if target.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    with write_whole(target) as file:
        imsave(cast(BinaryIO, file), picture, format="png")
    return target


def check_image(name: str, value: ArrayLike) -> Image:
    """Return `value` as an array, or raise ValueError where it is not an RGB uint8 picture (H, W, 3).

    >>> check_image("image", np.zeros((4, 6), np.uint8))
    Traceback (most recent call last):
    ...
    ValueError: image must be RGB uint8 (H, W, 3), got uint8 of shape (4, 6)
    """
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{name} must be RGB uint8 (H, W, 3), got {array.dtype} of shape {array.shape}")
    return array


def _check_palette(palette: Palette, class_names: Sequence[str]) -> NDArray[np.int64]:
    if len(palette) < len(class_names):
        raise ValueError(f"palette must have a colour for each of {len(class_names)} classes, got {len(palette)}")
    return np.array(palette[: len(class_names)], np.int64)


def _check_labels(name: str, value: ArrayLike, count: int, ignore_index: int | None = None) -> NDArray[np.int64]:
    labels = np.asarray(value, np.int64)
    wrong = labels[((labels < 0) | (labels >= count)) & (labels != ignore_index)]
    if wrong.size:
        other = "" if ignore_index is None else f", or {ignore_index} (ignored)"
        raise ValueError(f"{name!r} must hold labels from 0 to {count - 1}{other}, got {wrong[0]}")
    return labels


def _figure(height: float, title: str) -> Any:
    """Return a figure `WIDTH` inches wide, which leaves its labels room."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.003, ha="left", fontweight="bold")
    return figure


def _columns(photo: Image, count: int, title: str) -> tuple[Any, list[Any]]:
    """Return a figure and `count` axes for pictures of the photo's size, in two rows beyond five."""
    if count < 1:
        raise ValueError("columns must name at least one picture, got none")
    rows = 1 if count <= 5 else 2
    across = -(-count // rows)
    figure = _figure(rows * (WIDTH / across * photo.shape[0] / photo.shape[1] + 0.3) + 0.7, title)
    return figure, [figure.add_subplot(rows, across, index + 1) for index in range(count)]


def _show(axes: Any, picture: Image, name: str) -> None:
    """Show a picture whose pixel (x, y) reaches from x to x + 1 and from y to y + 1, as boxes count."""
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_anchor("N")
    axes.set_axis_off()


def _render(figure: Any, legend: Mapping[str, NDArray[np.int64]] | None = None) -> Image:
    """Return a figure's pixels, with a legend of names and colours below its pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Patch

    if legend:
        handles = [Patch(facecolor=color / 255, edgecolor="black", label=name) for name, color in legend.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=8, frameon=False)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
