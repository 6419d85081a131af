"""Backbones: networks from images to feature maps that mmdet and mmseg do not have."""

from freqkd.backbones.efficientnet_lite import EfficientNetLite as EfficientNetLite
