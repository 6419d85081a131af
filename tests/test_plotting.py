"""Panels hold the right colours at the right pixels, and a picture is saved whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from freqkd import plotting
from freqkd.canvas import CAPTION, GAP, MARGIN, TITLE, Page, rectangle
from freqkd.plotting import Boxes, band_names, class_colors, detection_panel, mask_panel, save_png, segmentation_panel

GRAY = np.full((60, 80, 3), 100, np.uint8)
# Colours of OpenCV's inferno at 0 and 1, over a grey of 100: 0.7 * colour + 0.3 * 100.
COLD = (30, 30, 33)
HOT = (206, 208, 145)
NAMES = ["LL1", "LH1", "HL1", "HH1"]
WIDTH = 16 + 16 + 60 + 4 * 8 + 5 * 80  # margins, colour bar, gaps, and five cells of the image's own size
FIRST = MARGIN + 80 + GAP  # left edge of the first mask of a panel with one prompt


def constant(*values, shape=(3, 4)):
    return np.stack([np.full(shape, value) for value in values])


def test_band_names():
    assert band_names(1) == NAMES
    assert band_names(3) == ["LL3", "LH1", "HL1", "HH1", "LH2", "HL2", "HH2", "LH3", "HL3", "HH3"]


def test_mask_of_ones_is_hot_and_of_zeros_cold():
    panel = mask_panel(GRAY, [constant(1), constant(0), constant(1), constant(0)], NAMES, width=WIDTH)
    top = MARGIN + CAPTION
    assert panel.dtype == np.uint8
    assert panel.shape[1] == WIDTH
    assert (panel[top : top + 60, MARGIN : MARGIN + 80] == 100).all()
    for column, color in enumerate([HOT, COLD, HOT, COLD]):
        left = FIRST + column * (80 + GAP)
        assert (panel[top : top + 60, left : left + 80] == color).all()
        assert (panel[top : top + 60, left + 80 : left + 80 + GAP] == 255).all()


def test_rows_are_prompts_and_positions_are_kept():
    """The second prompt's mask has its upper left quarter on: the picture shows it there, edges at the exact pixel."""
    quarter = np.zeros((2, 2, 2))
    quarter[1, 0, 0] = 1
    panel = mask_panel(GRAY, [quarter] * 4, NAMES, "title", width=WIDTH + 80)
    top = MARGIN + TITLE + CAPTION
    left = MARGIN + 2 * 80 + GAP  # with two prompts the image is two cells wide
    first, second = (panel[top + row * (60 + CAPTION) :, left : left + 80][:60] for row in range(2))
    assert (first == COLD).all()
    expected = np.full((60, 80, 3), COLD)
    expected[:30, :40] = HOT
    np.testing.assert_array_equal(second, expected)


def test_uneven_mask_covers_the_whole_cell():
    ramp = np.linspace(0, 1, 7)[None, None, :]
    overlay = plotting.mask_overlay(GRAY, ramp[0])
    edges = np.flatnonzero((overlay[0, 1:] != overlay[0, :-1]).any(-1)) + 1
    np.testing.assert_array_equal(edges, [12, 23, 35, 46, 58, 69])  # ceil(80 k / 7)


def test_limits_stretch_the_colours():
    panel = mask_panel(GRAY, [constant(0.6)] * 4, NAMES, limits=(0.4, 0.6), width=WIDTH)
    assert tuple(panel[MARGIN + CAPTION + 30, FIRST + 40]) == HOT


def test_colour_bar_runs_from_hot_to_cold():
    panel = mask_panel(np.full((60, 80, 3), 110, np.uint8), [constant(1)] * 4, NAMES, width=WIDTH)
    column = panel[MARGIN + CAPTION : MARGIN + CAPTION + 60, FIRST + 4 * (80 + GAP) + GAP]
    hot = panel[MARGIN + CAPTION, FIRST]
    np.testing.assert_array_equal(column[0], hot)
    assert tuple(column[-1]) == (33, 33, 36)  # 0.7 * (0, 0, 4) + 0.3 * 110
    assert (np.diff(column.astype(int).sum(-1)) <= 2).all()


def test_prompts_and_bands_are_captioned():
    panel = mask_panel(GRAY, [constant(1)] * 4, NAMES, width=WIDTH)
    top = MARGIN + CAPTION
    header, note = panel[MARGIN:top, FIRST : FIRST + 80], panel[top + 60 : top + 60 + CAPTION - 4, FIRST : FIRST + 80]
    assert (header < 100).any()
    assert (note < 100).any()
    assert (panel[MARGIN:top, FIRST + 60 : FIRST + 88] == 255).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": NAMES[:3]}, "names must hold one name for each band, got 3 for 4 bands"),
        ({"masks_by_band": []}, "got 4 for 0 bands"),
        ({"masks_by_band": [constant(1)] * 3 + [constant(1, 1)]}, r"mask of HH1 must be \(T, h, w\)"),
        ({"masks_by_band": [constant(1)[None]] * 4}, "take one image of the batch"),
        ({"masks_by_band": [constant(1.5)] * 4}, "mask of LL1 must be from 0 to 1"),
        ({"masks_by_band": [constant(np.nan)] * 4}, "mask of LL1 must be from 0 to 1"),
        ({"image": GRAY / 255}, "image must be RGB uint8"),
        ({"limits": (1.0, 1.0)}, "limits must rise"),
        ({"width": 100}, "width must leave 16 pixels for each of 5 columns, got 100"),
    ],
)
def test_mask_panel_refuses(change, message):
    arguments = {"image": GRAY, "masks_by_band": [constant(1)] * 4, "names": NAMES} | change
    with pytest.raises(ValueError, match=message):
        mask_panel(**arguments)


def columns_width(count, cell=80):
    return 2 * MARGIN + count * cell + (count - 1) * GAP


def test_rectangle_is_drawn_inside_its_box():
    picture = GRAY.copy()
    rectangle(picture, (20, 10, 50, 40), (1, 2, 3))
    line = [tuple(pixel) for pixel in picture[25, 17:24]]
    gray, dark, color = (100,) * 3, (20,) * 3, (1, 2, 3)
    assert line == [gray, gray, dark, color, color, gray, gray]
    assert [tuple(pixel) for pixel in picture[7:13, 35]] == [gray, gray, dark, color, color, gray]
    assert tuple(picture[40, 50]) == color
    assert tuple(picture[41, 51]) == dark


def test_boxes_are_drawn_where_they_lie():
    truth = Boxes([[20, 10, 50, 40]], [1])
    weak = Boxes([[20, 10, 50, 40], [5, 5, 15, 15]], [1, 0], [0.9, 0.2])
    panel = detection_panel(GRAY, {"ground truth": truth, "alone": weak}, ["a", "b"], width=columns_width(2))
    colors = class_colors(2)
    top = MARGIN + CAPTION
    for column in range(2):
        cell = panel[top : top + 60, MARGIN + column * (80 + GAP) :][:, :80]
        inked = np.argwhere((cell == colors[1]).all(-1))
        np.testing.assert_array_equal([inked.min(0), inked.max(0)], [[10, 20], [40, 50]])
        assert not (cell == colors[0]).all(-1).any()  # 0.2 is below the threshold
    lower = detection_panel(GRAY, {"alone": weak}, ["a", "b"], score_threshold=0.1, width=columns_width(1))
    inked = np.argwhere((lower[top : top + 60, MARGIN : MARGIN + 80] == colors[0]).all(-1))
    np.testing.assert_array_equal([inked.min(0), inked.max(0)], [[5, 5], [15, 15]])


def test_boxes_scale_with_the_picture():
    panel = detection_panel(GRAY, {"x": Boxes([[20, 10, 50, 40]], [0])}, ["a"], width=columns_width(1, 160))
    cell = panel[MARGIN + CAPTION :][:120, MARGIN : MARGIN + 160]
    inked = np.argwhere((cell == class_colors(1)[0]).all(-1))
    np.testing.assert_array_equal([inked.min(0), inked.max(0)], [[20, 40], [80, 100]])


def test_legend_names_the_classes_that_occur():
    boxes = Boxes([[20, 10, 50, 40]], [2])
    panel = detection_panel(GRAY, {"x": boxes}, ["a", "b", "c"], width=columns_width(4))
    legend = panel[panel.shape[0] - MARGIN - 24 :]
    colors = class_colors(3)
    assert (legend == colors[2]).all(-1).sum() == 14 * 14
    assert not (legend == colors[0]).all(-1).any()
    empty = detection_panel(GRAY, {"x": Boxes([], [], [])}, ["a"], width=columns_width(1))
    assert empty.shape[0] == MARGIN + CAPTION + 60 + MARGIN
    assert (empty[MARGIN + CAPTION : -MARGIN, MARGIN:-MARGIN] == 100).all()


def test_more_than_five_pictures_go_in_two_rows():
    columns = {str(index): Boxes([[20, 10, 50, 40]], [0]) for index in range(6)}
    panel = detection_panel(GRAY, columns, ["a"], width=columns_width(3))
    inked = (panel == class_colors(1)[0]).all(-1)
    first, second = MARGIN + CAPTION + 10, MARGIN + CAPTION + 60 + CAPTION + GAP + 10
    assert inked[first].sum() == inked[second].sum() == 3 * 31


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Boxes([[1, 2, 3, 4]], [0, 1]), "'x' must have boxes .* got 2 labels, boxes of shape .1, 4."),
        (Boxes([[1, 2, 3]], [0]), "got 1 labels, boxes of shape .1, 3."),
        (Boxes([[1, 2, 3, 4]], [0], [0.5, 0.5]), "scores of shape .2,."),
        (Boxes([[1, 2, 3, 4]], [3]), "'x' must have labels from 0 to 1, the indices of class_names, got 3 to 3"),
    ],
)
def test_detection_panel_refuses(found, message):
    with pytest.raises(ValueError, match=message):
        detection_panel(GRAY, {"x": found}, ["a", "b"])
    with pytest.raises(ValueError, match="at least one picture"):
        detection_panel(GRAY, {}, ["a"])


def test_class_colours_differ_and_do_not_depend_on_the_count():
    colors = class_colors(80)
    assert colors[:5] == class_colors(5)
    assert len(set(colors)) == 80


def test_label_maps_are_painted_over_the_image():
    labels = np.zeros((60, 80), np.int64)
    labels[:30], labels[:, :10] = 1, 255
    palette = [(10, 20, 30), (200, 100, 0)]
    panel = segmentation_panel(GRAY, {"truth": labels}, palette, ["a", "b"], opacity=0.5, width=columns_width(2))
    top, left = MARGIN + CAPTION, MARGIN + 80 + GAP
    assert (panel[top : top + 60, MARGIN : MARGIN + 80] == 100).all()
    cell = panel[top : top + 60, left : left + 80]
    assert (cell[:, :10] == 125).all()  # ignored: half of 150, half of 100
    assert (cell[:30, 10:] == (150, 100, 50)).all()
    assert (cell[30:, 10:] == (55, 60, 65)).all()
    for color in (*palette, plotting.IGNORED):
        assert (panel[top + 60 :] == color).all(-1).sum() >= 14 * 14


def test_ignored_pixels_are_in_the_legend_only_where_they_occur():
    labels = np.zeros((60, 80), np.uint8)
    panel = segmentation_panel(GRAY, {"truth": labels}, [(10, 20, 30)], ["a"], width=columns_width(2))
    assert not (panel[MARGIN + CAPTION + 60 :, : MARGIN + 300] == plotting.IGNORED).all(-1).any()


@pytest.mark.parametrize(
    ("columns", "palette", "message"),
    [
        ({}, [(0, 0, 0), (1, 1, 1)], "at least one picture"),
        ({"x": np.zeros((3, 3), int)}, [(0, 0, 0), (1, 1, 1)], "'x' must have the image's size .60, 80., got .3, 3."),
        (
            {"x": np.full((60, 80), 2)},
            [(0, 0, 0), (1, 1, 1)],
            "'x' must hold labels from 0 to 1, or 255 .ignored., got 2",
        ),
        ({"x": np.full((60, 80), -1)}, [(0, 0, 0), (1, 1, 1)], "got -1$"),
        ({"x": np.zeros((60, 80), int)}, [(0, 0, 0)], "palette must have one colour for each of 2 classes, got 1"),
    ],
)
def test_segmentation_panel_refuses(columns, palette, message):
    with pytest.raises(ValueError, match=message):
        segmentation_panel(GRAY, columns, palette, ["a", "b"])


@pytest.mark.parametrize(("width", "height"), [(333, 77), (1400, 50), (999, 101)])
def test_page_keeps_every_pixel_without_text(width, height):
    page = Page(width, height)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    page.paste(0, 0, picture)
    np.testing.assert_array_equal(page.render(), picture)


def test_text_lies_below_and_right_of_its_point_and_is_cut():
    page = Page(400, 60)
    page.write(50, 20, "$x_1$ a long line that has no room" * 3, 100, size=10)
    ink = np.argwhere((page.render() < 128).all(-1))
    (top, left), (bottom, right) = ink.min(0), ink.max(0)
    assert top >= 20
    assert bottom < 36
    assert left >= 50
    assert right <= 150


def test_save_png_writes_what_it_is_given(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = save_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], picture)
    save_png(str(path), picture[:3])
    assert cv2.imread(str(path)).shape == (3, 7, 3)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = save_png(tmp_path / "a.png", GRAY)
    old = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        save_png(path, GRAY[:10])
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_save_png_refuses_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .png, got 'a.jpg'"):
        save_png("a.jpg", GRAY)
    with pytest.raises(ValueError, match=r"array must be RGB uint8 .* got float64 of shape"):
        save_png(tmp_path / "new" / "a.png", GRAY / 255)
    assert list(tmp_path.iterdir()) == []


def test_plotting_imports_nothing_it_may_not_need():
    code = "import sys, freqkd.plotting; print({'cv2', 'matplotlib', 'torch', 'mmengine', 'mmcv'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
