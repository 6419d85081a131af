"""Panels show values by one colour scale, boxes and classes where they are; a picture is saved whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from matplotlib import colormaps

from freqkd.visualization.plotting import (
    KEPT,
    LEFT_OUT,
    band_names,
    condensation_panel,
    detection_panel,
    mask_panel,
    save_png,
    segmentation_panel,
)

GRAY = np.full((60, 80, 3), 100, np.uint8)
NAMES = ["LL1", "LH1", "HL1", "HH1"]
PALETTE, CLASSES = [(220, 60, 60), (70, 90, 220), (20, 200, 120)], ["a", "b", "c"]


def constant(*values, shape=(3, 4)):
    return np.stack([np.full(shape, value) for value in values])


def found(boxes, labels, **scores):
    return SimpleNamespace(bboxes=np.reshape(boxes, (-1, 4)), labels=np.array(labels, int), **scores)


def color(value):
    """Return the colour of a mask's value."""
    return colormaps["inferno"](float(value), bytes=True)[:3]


def where(panel, color, least=1):
    """Return the rows and columns of a colour that hold at least so many pixels of it."""
    same = (panel == np.array(color)).all(-1)
    return [np.flatnonzero(same.sum(axis) >= least) for axis in (1, 0)]


def area(panel, color):
    return int((panel == np.array(color)).all(-1).sum())


def test_band_names():
    assert band_names(1) == NAMES
    assert band_names(3) == ["LL3", "LH1", "HL1", "HH1", "LH2", "HL2", "HH2", "LH3", "HL3", "HH3"]
    assert band_names(2, "scale") == ["LL2", "scale 1", "scale 2"]


def test_masks_share_one_colour_scale_from_0_to_1():
    """Constant masks keep their colours, which a scale of each mask's own would make alike."""
    panel = mask_panel(GRAY, [constant(value) for value in (0.25, 0.5, 0.75, 0.5)], NAMES)
    assert panel.dtype == np.uint8
    assert panel.shape[1] == 1500
    quarter, half, rest = (area(panel, color(value)) for value in (0.25, 0.5, 0.75))
    assert quarter > 1000
    assert half == pytest.approx(2 * quarter, rel=0.05)
    assert rest == pytest.approx(quarter, rel=0.05)
    assert area(panel, GRAY[0, 0]) > 1000  # the image itself


def test_columns_are_bands_rows_are_prompts_and_positions_are_kept():
    """The second prompt's mask of the third band has its upper left quarter on: the panel shows it there."""
    quarter = constant(0.1, 0.1, shape=(2, 2))
    quarter[1, 0, 0] = 0.9
    masks = [constant(0.3, 0.4), constant(0.5, 0.6), quarter, constant(0.7, 0.8)]
    panel = mask_panel(GRAY, masks, NAMES, "title")
    rows, columns = where(panel, color(0.9), least=10)
    second, third = where(panel, color(0.6), least=10)[0], where(panel, color(0.1), least=10)[1]
    assert rows[0] == pytest.approx(second[0], abs=1)
    assert len(rows) == pytest.approx(len(second) / 2, abs=2)
    assert columns[0] == pytest.approx(third[0], abs=1)
    assert len(columns) == pytest.approx(len(third) / 2, abs=2)
    first = where(panel, color(0.5), least=10)[0]
    assert first[-1] < second[0]
    lefts = [where(panel, color(value), least=10)[1][0] for value in (0.3, 0.5, 0.1, 0.7)]
    assert lefts == sorted(lefts)


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
    ],
)
def test_mask_panel_refuses(change, message):
    arguments = {"image": GRAY, "masks_by_band": [constant(1)] * 4, "names": NAMES} | change
    with pytest.raises(ValueError, match=message):
        mask_panel(**arguments)


def test_boxes_are_drawn_where_they_are_and_weak_ones_left_out():
    """The box spans columns 20 to 60 of 80 and rows 15 to 45 of 60: the middle half of the picture."""
    instances = found([[20, 15, 60, 45], [5, 5, 15, 15]], [1, 0], scores=np.array([0.9, 0.2]))
    panel = detection_panel(GRAY, {"student": instances}, PALETTE, CLASSES)
    rows, columns = where(panel, PALETTE[1], least=100)  # the legend's patch is smaller
    picture_rows, picture_columns = where(panel, GRAY[0, 0], least=100)
    for drawn, picture in ((rows, picture_rows), (columns, picture_columns)):
        length = picture[-1] - picture[0] + 1
        np.testing.assert_allclose(
            (drawn[0] - picture[0], drawn[-1] - picture[0]), (length / 4, 3 * length / 4), atol=3
        )
    assert area(panel, PALETTE[0]) == 0
    without_scores = found(instances.bboxes, instances.labels)
    assert area(detection_panel(GRAY, {"truth": without_scores}, PALETTE, CLASSES), PALETTE[0]) > 100


def test_the_legend_names_the_classes_that_occur():
    drawn = detection_panel(GRAY, {"x": found([[20, 10, 50, 40]], [2])}, PALETTE, CLASSES)
    below = where(drawn, GRAY[0, 0], least=100)[0][-1] + 1
    assert area(drawn[below:], PALETTE[2]) > 100
    assert area(drawn[below:], PALETTE[0]) == 0
    empty = detection_panel(GRAY, {"x": found([], [])}, PALETTE, CLASSES)
    assert all(area(empty, color) == 0 for color in PALETTE)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (5, 1), (6, 2), (9, 2)])
def test_more_than_five_pictures_are_in_two_rows(count, rows):
    panel = detection_panel(GRAY, {str(index): found([], []) for index in range(count)}, PALETTE, CLASSES)
    inked = where(panel, GRAY[0, 0], least=100)[0]
    assert 1 + (np.diff(inked) > 1).sum() == rows


def test_label_maps_are_painted_over_the_image():
    labels = np.zeros((60, 80), np.int64)
    labels[:30], labels[:, :20] = 1, 255
    panel = segmentation_panel(GRAY, {"truth": labels}, PALETTE, CLASSES)
    blended = [tuple(round(0.65 * part + 35) for part in one) for one in (*PALETTE, (150, 150, 150))]
    image, upper, lower, ignored = (area(panel, one) for one in (GRAY[0, 0], blended[1], blended[0], blended[3]))
    assert upper == pytest.approx(3 / 8 * image, rel=0.02)
    assert lower == pytest.approx(3 / 8 * image, rel=0.02)
    assert ignored == pytest.approx(1 / 4 * image, rel=0.02)
    assert where(panel, blended[1])[0][-1] < where(panel, blended[0])[0][0]
    assert [area(panel, one) > 100 for one in (*PALETTE, (150, 150, 150))] == [True, True, False, True]  # the legend


@pytest.mark.parametrize(
    ("panel", "columns", "palette", "message"),
    [
        (detection_panel, {"x": found([[1, 2, 3, 4]], [3])}, PALETTE, "'x' must hold labels from 0 to 2, got 3"),
        (detection_panel, {}, PALETTE, "at least one picture"),
        (detection_panel, {"x": found([], [])}, PALETTE[:2], "palette must have a colour for each of 3 classes, got 2"),
        (segmentation_panel, {}, PALETTE, "at least one picture"),
        (
            segmentation_panel,
            {"x": np.zeros((3, 3), int)},
            PALETTE,
            "'x' must have the image's size .60, 80., got .3, 3.",
        ),
        (segmentation_panel, {"x": np.full((60, 80), 3)}, PALETTE, "labels from 0 to 2, or 255 .ignored., got 3"),
        (segmentation_panel, {"x": np.full((60, 80), -1)}, PALETTE, "got -1$"),
    ],
)
def test_panels_of_predictions_refuse(panel, columns, palette, message):
    with pytest.raises(ValueError, match=message):
        panel(GRAY, columns, palette, CLASSES)


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


@pytest.mark.usefixtures("other_processes")
def test_libraries_are_imported_on_use_and_the_callers_backend_is_kept():
    code = """
import sys, freqkd.visualization.plotting as plotting, numpy as np
print({'cv2', 'matplotlib', 'torch', 'mmengine', 'mmcv'} & set(sys.modules))
import matplotlib
matplotlib.use('svg')
plotting.mask_panel(np.zeros((4, 4, 3), np.uint8), [np.ones((1, 2, 2))], ['LL1'])
print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "svg False"]


def test_values_are_shown_in_their_order_with_what_is_kept():
    bright = np.full((60, 80, 3), 201, np.uint8)
    photos = {"most valuable": [("0.9", GRAY), ("0.8", GRAY)], "none": [], "left out": [("0.1", bright)]}
    panel = condensation_panel(np.linspace(0.9, 0.1, 20), 12, photos)
    (rows, columns), (low, right) = where(panel, KEPT), where(panel, LEFT_OUT)
    assert rows.min() < low.min()  # higher values
    points = columns[columns < right.min()]
    assert points.max() < right.min()
    assert area(panel, GRAY[0, 0]) > 1.5 * area(panel, bright[0, 0]) > 1000
    with pytest.raises(ValueError, match="kept must be from 1 to the number of values, got 21"):
        condensation_panel(np.ones(20), 21, photos)
