"""Fixtures of detectors: a batch, and what an adapter hands to its loss."""

import pytest
import torch
from small_networks import distill, freekd_term, small, teachers  # noqa: F401


@pytest.fixture
def batch():
    """Two images of 64 x 96 with two objects each."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _ in range(2):
        meta = dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96), batch_input_shape=(64, 96))
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1, 1)))
        boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    torch.manual_seed(2)
    return torch.randn(2, 3, 64, 96), samples


@pytest.fixture
def watch(monkeypatch):
    """Return `watch(kind)`: what a kind of adapter handed to the loss, call by call, with the batch it read."""

    def start(kind):
        calls, original = [], kind.__call__

        def watched(self, student_feats, teacher_feats, batch):
            calls.append((original(self, student_feats, teacher_feats, batch), batch))
            return calls[-1][0]

        monkeypatch.setattr(kind, "__call__", watched)
        return calls

    return start
