"""Mean entropy of a head's predictions in each image, against sums over positions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from freqkd.adapters.entropy import ImageEntropy
from freqkd.taps import FeatureTap


def entropy_of(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def test_the_padding_of_a_batch_does_not_count():
    torch.manual_seed(0)
    network = nn.ModuleDict(dict(classifier=nn.Conv2d(3, 2, 1)))
    measure = ImageEntropy(network, "classifier", num_classes=2, activation="softmax")
    maps = [torch.randn(2, 2, 4, 6, dtype=torch.float64).float(), torch.randn(2, 2, 2, 3)]
    found = measure(maps, [(8, 12), (8, 8)], (8, 12))
    for image, widths in enumerate(((6, 3), (4, 2))):
        slow = [
            entropy_of(one[image, :, row, column].double().softmax(0).tolist())
            for one, width in zip(maps, widths, strict=True)
            for row in range(one.shape[2])
            for column in range(width)
        ]
        assert found[image].item() == pytest.approx(np.mean(slow), rel=1e-5)


def test_the_logits_of_whole_images_are_refused():
    network = nn.ModuleDict(dict(head=nn.Linear(4, 3)))
    measure = ImageEntropy(network, "head", num_classes=3, activation="softmax")
    with pytest.raises(
        ValueError, match=r"tap must lead to a head of pixels, anchors or proposals, got 'head'.*\(2, 3\)"
    ):
        measure([torch.randn(2, 3)], [(8, 8)] * 2, (8, 8))


@pytest.mark.parametrize(
    ("task", "tap"), [("detection", "bbox_head.retina_cls"), ("segmentation", "decode_head.conv_seg")]
)
def test_a_head_says_what_it_needs(task, tap, small):
    network = small.build(small.config(task, 4), task)
    measure = ImageEntropy(network, tap)
    data = network.data_preprocessor(small.raw(task), True)
    with FeatureTap(network, [tap]) as seen:
        network(data["inputs"], data["data_samples"], mode="loss")
    found = measure(seen.maps(tap), [(64, 96)] * 2, (64, 96))
    if task == "detection":
        assert (measure.activation, measure.kind.channels) == ("sigmoid", 3)
        levels = [one.unflatten(1, (9, 3)).sigmoid().double() for one in seen.maps(tap)]
        slow = [-(p * p.log() + (1 - p) * (1 - p).log()).sum(2).flatten(1) for p in levels]
    else:
        assert (measure.activation, measure.kind.channels) == ("softmax", 5)
        slow = [-(p * p.log()).sum(1).flatten(1) for p in [seen.maps(tap)[0].softmax(1).double()]]
    torch.testing.assert_close(found, torch.cat(slow, 1).mean(1), rtol=1e-5, atol=0)


def test_of_a_whole_head_the_class_maps_count(small):
    """Four classes: the channels of the boxes are those of the classes, too."""
    model = small.config("detection", 4)
    model["bbox_head"]["num_classes"] = 4
    network = small.build(model, "detection")
    data = network.data_preprocessor(small.raw("detection"), True)
    taps = ["bbox_head", "bbox_head.retina_cls"]
    with FeatureTap(network, taps) as seen:
        network(data["inputs"], data["data_samples"], mode="loss")
    whole, classes = (ImageEntropy(network, tap)(seen.maps(tap), [(64, 96)] * 2, (64, 96)) for tap in taps)
    assert len(seen.maps("bbox_head")) == 2 * len(seen.maps("bbox_head.retina_cls"))
    torch.testing.assert_close(whole, classes)


def test_proposals_count_for_their_image():
    heads = [nn.ModuleDict(dict(loss_cls=nn.Identity(), fc_cls=nn.Linear(2, 4))) for _ in range(2)]
    for head in heads:
        head.num_classes, head.loss_cls.use_sigmoid = 3, False
    network = nn.ModuleDict(dict(roi_head=nn.ModuleDict(dict(bbox_head=nn.ModuleList(heads)))))
    measure = ImageEntropy(network, "roi_head.bbox_head.1.fc_cls")
    assert measure.rois == "roi_head.bbox_roi_extractor.1"
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    rois = torch.zeros(5, 5)
    rois[:, 0] = torch.tensor([0, 0, 0, 2, 2])
    found = measure([logits], [(8, 8)] * 3, (8, 8), rois)
    slow = [entropy_of(row.double().softmax(0).tolist()) for row in logits]
    assert found[[0, 2]].tolist() == pytest.approx([np.mean(slow[:3]), np.mean(slow[3:])], rel=1e-5)
    assert found[1].isnan()  # and is left out
