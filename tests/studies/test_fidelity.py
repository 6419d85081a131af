"""Agreement of predictions, of known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from freqkd.studies.fidelity import fidelity, predictions


def boxes(*places, score=0.9, label=0):
    """Detections of 20 x 20 pixels at these corners."""
    return np.array([[x, y, x + 20, y + 20, score, label] for x, y in places], np.float32).reshape(-1, 6)


FOUR = [(0, 0), (40, 0), (0, 40), (40, 40)]


class TestDetections:
    def test_half_of_the_objects(self):
        teacher = [boxes(*FOUR), boxes()]
        assert fidelity([boxes(*FOUR[:2]), boxes()], teacher) == pytest.approx(51 / 101)  # recalls of 0 to 0.5

    def test_overlaps_count_as_in_coco(self):
        shifted = [(x + 4, y) for x, y in FOUR]  # IoU 16 / 24: 0.5 to 0.65 of ten thresholds
        assert fidelity([boxes(*shifted)], [boxes(*FOUR)]) == pytest.approx(0.4)

    def test_detections_on_another_image_or_of_another_class_are_wrong(self):
        assert fidelity([boxes(), boxes(*FOUR)], [boxes(*FOUR), boxes()]) == 0
        assert fidelity([boxes(*FOUR, label=1)], [boxes(*FOUR)]) == 0

    def test_classes_count_alike_and_those_without_objects_do_not(self):
        teacher = np.concatenate([boxes(*FOUR, label=1), boxes((0, 0), label=3)])
        student = np.concatenate([boxes(*FOUR, label=1), boxes((80, 80), label=2)])
        assert fidelity([student], [teacher]) == pytest.approx(1 / 2)

    def test_the_teachers_unsure_detections_are_no_objects(self):
        unsure = boxes((80, 80), score=0.29)
        assert fidelity([boxes(*FOUR)], [np.concatenate([boxes(*FOUR, score=0.3), unsure])]) == pytest.approx(1)
        assert fidelity([boxes(*FOUR)], [unsure]) is None

    def test_the_students_unsure_detections_count(self):
        assert fidelity([boxes(*FOUR, score=0.05)], [boxes(*FOUR)]) == pytest.approx(1)

    def test_nothing_is_printed(self, capsys):
        fidelity([boxes(*FOUR)], [boxes(*FOUR)])
        assert capsys.readouterr().out == ""


class TestLabels:
    def test_pixels_of_large_images_count_more(self):
        small, large = np.zeros((2, 2), np.uint16), np.zeros((4, 4), np.uint16)
        assert fidelity([small + 1, large], [small, large]) == 16 / 20

    def test_no_images(self):
        assert fidelity([], []) is None

    def test_as_many_images_of_both(self):
        with pytest.raises(ValueError, match="zip"):
            fidelity([np.zeros((2, 2), np.uint16)], [])


class TestPredictions:
    def test_of_a_detector(self):
        found = InstanceData(
            bboxes=torch.tensor([[1.0, 2, 3, 4]]), scores=torch.tensor([0.5]), labels=torch.tensor([7])
        )
        in_a_class = InstanceData(bboxes=HorizontalBoxes(found.bboxes), scores=found.scores, labels=found.labels)
        samples = [DetDataSample(pred_instances=given) for given in (found, in_a_class, found[:0])]
        first, second, empty = predictions(samples)
        assert first.tolist() == second.tolist() == [[1, 2, 3, 4, 0.5, 7]]
        assert empty.shape == (0, 6)

    def test_of_a_segmenter(self):
        sample = SegDataSample(pred_sem_seg=PixelData(data=torch.tensor([[[0, 300]]])))
        (labels,) = predictions([sample])
        assert (labels.tolist(), labels.dtype) == ([[0, 300]], np.uint16)

    def test_of_neither(self):
        assert predictions([DetDataSample(), SegDataSample()]) == []
