"""Detectors of the DETR family and segmenters of mask classification, made small."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from freqkd.utils.compat import read_config

SOURCES = {
    "detr": "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "deformable": "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "dino": "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
    "mask2former": "mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
    "maskformer": "mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py",
}


@lru_cache
def _read(name: str) -> Any:
    return read_config(name).model


def source(name: str) -> Any:
    """The model of an installed config, read once."""
    return copy.deepcopy(_read(name))


def detr(kind: str, queries: int = 6, layers: int = 2) -> Any:
    """A detector of mmdet's own config, made small: 3 classes, 32 channels, 2 decoder layers."""
    model = source(SOURCES[kind])
    model.num_queries = queries
    model.backbone.update(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None)
    channels = [8 * 2**i for i in model.backbone.out_indices]
    model.neck.update(in_channels=channels, out_channels=32)
    model.positional_encoding.num_feats = 16
    model.bbox_head.update(num_classes=3, embed_dims=32)
    for part in (model.encoder, model.decoder):
        part.num_layers = layers
        for key in ("self_attn_cfg", "cross_attn_cfg"):
            if key in part.layer_cfg:
                part.layer_cfg[key].update(embed_dims=32, dropout=0.0)
                part.layer_cfg[key].setdefault("num_heads", 8)
        part.layer_cfg.ffn_cfg.update(embed_dims=32, feedforward_channels=32, ffn_drop=0.0)
    model.test_cfg.max_per_img = queries
    return model


NARROW = dict(embed_dims=16, num_feats=8, feedforward_channels=16, feat_channels=16, out_channels=16, num_heads=2)


def mask_classifier(kind: str, queries: int = 6) -> Any:
    """A segmenter of mmseg's own config ("mask2former", "maskformer"), made small: 3 classes, 16 channels, 3 layers."""
    model = source(SOURCES[kind])
    model.data_preprocessor.size = (64, 96)
    model.backbone.update(depth=18, base_channels=4, norm_eval=False, init_cfg=None, norm_cfg=dict(type="BN"))
    head = model.decode_head
    _narrow(head)
    head.update(in_channels=[4, 8, 16, 32], num_classes=3, num_queries=queries)
    head.loss_cls.class_weight = [1.0] * 3 + [0.1]
    head.transformer_decoder.num_layers = 3
    if kind == "mask2former":
        head.pixel_decoder.encoder.num_layers = 1
        head.train_cfg.num_points = 64
    return model


def _narrow(part: Any) -> None:
    """Give a head 16 channels everywhere, groups of 4 channels and no dropout."""
    for key, value in part.items():
        if isinstance(value, dict):
            _narrow(value)
        elif key in NARROW:
            part[key] = NARROW[key]
        elif key in ("attn_drop", "proj_drop", "ffn_drop"):
            part[key] = 0.0
        elif key == "num_groups":
            part[key] = 4


def build(config: Any, scope: str = "mmdet") -> Any:
    """Build a network and draw its weights."""
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(copy.deepcopy(config)))
    model.init_weights()
    return model
