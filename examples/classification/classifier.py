"""A plain image classifier: a `BaseModel` of MMEngine that knows nothing of mmdet, mmseg or freqkd."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn, stack
from torch.nn.functional import cross_entropy


class Stages(nn.Module):
    """Four convolutions of stride 2; the maps of the last two, at strides 8 and 16, are the output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, two, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(two), nn.ReLU())
            for one, two in pairwise(widths)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return two maps, (N, 2 * width, H / 8, W / 8) and (N, 4 * width, H / 16, W / 16)."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[-2:])


@MODELS.register_module()
class PlainClassifier(BaseModel):
    """Convolutions, the mean over the positions, and a linear layer.

    Args:
        width: channels of the first convolution.
        num_classes: number of classes.
        data_preprocessor: its config, e.g. `dict(type='ImgDataPreprocessor', mean=..., std=...)`.
    """

    def __init__(self, width: int, num_classes: int, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = Stages(width)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> Any:
        """Return logits (N, classes); in `loss` mode the losses by name, in `predict` mode the samples with `pred_label`."""
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == "tensor":
            return logits
        samples = list(data_samples or ())
        if mode == "loss":
            return dict(loss_cls=cross_entropy(logits, stack([sample.gt_label for sample in samples])))
        for sample, label in zip(samples, logits.argmax(1), strict=True):
            sample.pred_label = label
        return samples
