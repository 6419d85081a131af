"""Families of detectors and segmenters: where their feature maps and class scores are tapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

LAST = "{last}"  # the index of the last decode head of a cascade


@dataclass(frozen=True)
class Family:
    """What is known of networks with a kind of head.

    Attributes:
        name: as the docs call it.
        task: "detection" or "segmentation".
        heads: classes of the head, or classes that it derives from.
        features: paths of modules with feature maps, the best first; those that a network lacks are passed over.
        scores: path of the class scores; empty where no adapter can compare them.
        adapter: the adapter for these scores.
        per_level: whether the path is a whole head, whose first maps, one for each level, are the class scores.
        note: what a reader should know.
    """

    name: str
    task: str
    heads: tuple[str, ...]
    features: tuple[str, ...] = ("neck", "backbone")
    scores: str = ""
    adapter: str = ""
    per_level: bool = False
    note: str = ""


def _dense(name: str, head: str, scores: str, **more: Any) -> Family:
    return Family(name, "detection", (head,), scores=scores, adapter="DenseLogits", **more)


def _segmenter(name: str, heads: tuple[str, ...], *features: str, note: str = "") -> Family:
    scores = f"decode_head.{LAST}conv_seg"
    return Family(name, "segmentation", heads, (*features, "neck", "backbone"), scores, "SegLogits", note=note)


_ROI = "class scores of the student's proposals, one row for each"
# The first family whose class is among the bases of a network's head is taken: derived classes stand first.
FAMILIES = (
    Family("Cascade R-CNN", "detection", ("CascadeRoIHead",), scores="roi_head.bbox_head.{last}fc_cls",
           adapter="ProposalLogits", note=f"{_ROI}; the last stage"),
    Family("Faster, Mask R-CNN", "detection", ("StandardRoIHead",), scores="roi_head.bbox_head.fc_cls",
           adapter="ProposalLogits", note=_ROI),
    Family("DETR, Conditional, DAB, Deformable DETR, DINO", "detection", ("DETRHead",), scores="bbox_head",
           adapter="QueryLogits", note="class scores of matched queries"),
    _dense("GFL", "GFLHead", "bbox_head.gfl_cls", note="`LDTargets` and `BCKDTargets` compare box distributions, too"),
    _dense("RTMDet", "RTMDetHead", "bbox_head", per_level=True,
           note="each level has a layer of its own: the whole head is tapped, whose first maps are the class scores"),
    Family("YOLOX", "detection", ("YOLOXHead",), scores="bbox_head", adapter="YOLOXLogits",
           note="classes count by the teacher's objectness; `part='objectness'` compares that itself"),
    _dense("ATSS", "ATSSHead", "bbox_head.atss_cls"),
    Family("YOLOv3", "detection", ("YOLOV3Head",), note="one layer gives boxes, objectness and classes: features only"),
    Family("SSD", "detection", ("SSDHead",), note="a layer of another number of anchors for each level: features only"),
    _dense("RepPoints", "RepPointsHead", "bbox_head.reppoints_cls_out"),
    _dense("RetinaNet", "RetinaHead", "bbox_head.retina_cls"),
    _dense("FCOS", "FCOSHead", "bbox_head.conv_cls"),
    Family("Mask2Former, MaskFormer of mmseg", "segmentation", ("Mask2FormerHead", "MaskFormerHead"),
           ("backbone",), "decode_head", "QueryMaskLogits",
           note="the class scores of pixels are put together from all queries"),
    _segmenter("PSPNet", ("PSPHead",), "decode_head.bottleneck"),
    _segmenter("DeepLabV3, DeepLabV3+", ("ASPPHead",), "decode_head.sep_bottleneck", "decode_head.bottleneck"),
    _segmenter("SegFormer", ("SegformerHead",), "decode_head.fusion_conv"),
    _segmenter("UPerNet, also with ViT, Swin or ConvNeXt", ("UPerHead",), "decode_head.fpn_bottleneck"),
    _segmenter("OCRNet", ("OCRHead",), f"decode_head.{LAST}bottleneck", note="the last of its two heads"),
    _segmenter("SETR", ("SETRUPHead", "SETRMLAHead"), "decode_head.up_convs.0",
               note="the backbone's maps are all of one stride, 16"),
    _segmenter("Semantic FPN", ("FPNHead",), note="the sum of its branches is no module: the neck is tapped"),
    _segmenter("Segmenter", ("SegmenterMaskTransformerHead",), note="a transformer decodes: the backbone is tapped"),
    _segmenter("BiSeNetV2, STDC and other networks with an FCN head", ("FCNHead",), "backbone.bga", "backbone.ffm",
               "decode_head.convs", note="`backbone.bga` of BiSeNetV2, `backbone.ffm` of STDC, where the branches meet"),
)  # fmt: skip
UNKNOWN = {
    "detection": Family("another detector", "detection", ()),
    "segmentation": Family(
        "another segmenter", "segmentation", (), ("neck", "backbone"), "decode_head.conv_seg", "SegLogits"
    ),
}


def main_head(network: Any) -> nn.Module | None:
    """Return the head whose predictions are the network's: of a cascade of decode heads the last one."""
    for name in ("roi_head", "bbox_head", "decode_head", "panoptic_head", "mask_head"):
        head = getattr(network, name, None)
        if isinstance(head, nn.ModuleList):
            return head[-1]
        if isinstance(head, nn.Module):
            return head
    return None


def family_of(network: nn.Module, task: str) -> Family:
    """Return what is known of a network.

    Args:
        network: a detector or segmenter.
        task: "detection" or "segmentation".
    """
    head = main_head(network)
    names = [kind.__name__ for kind in type(head).__mro__]
    found = (one for one in FAMILIES if one.task == task and set(one.heads) & set(names))
    return next(found, UNKNOWN[task])


def taps_of(network: Any, family: Family) -> tuple[tuple[str, ...], str]:
    """Return the paths of a network's feature maps, and that of its class scores, empty where it has none.

    Args:
        network: a detector or segmenter.
        family: what is known of it.
    """
    head = getattr(getattr(network, "roi_head", None), "bbox_head", None) or getattr(network, "decode_head", None)
    last = f"{len(head) - 1}." if isinstance(head, nn.ModuleList) else ""
    modules = dict(network.named_modules())
    features = [path.replace(LAST, last) for path in family.features]
    scores = family.scores.replace(LAST, last)
    return tuple(path for path in features if path in modules), scores if scores in modules else ""


def family_table() -> str:
    """Return the table of the docs: family, paths of feature maps, path of class scores with its adapter, note."""
    lines = ["| network | feature maps, the best first | class scores, adapter | note |", "|---|---|---|---|"]
    for one in FAMILIES:
        paths = ", ".join(f"`{path.replace(LAST, 'N.')}`" for path in one.features)
        scores = f"`{one.scores.replace(LAST, 'N.')}`, `{one.adapter}`" if one.scores else "none"
        lines.append(f"| {one.name} | {paths} | {scores} | {one.note} |")
    return "\n".join(lines)
