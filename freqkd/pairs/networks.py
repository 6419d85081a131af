"""Networks of configs, built without weights, and what their modules return for one image."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import Tensor, nn

from freqkd.models.tap_shapes import MapShape, call_shapes
from freqkd.pairs.families import Family, family_of, taps_of
from freqkd.teacher.teacher import blank_image, build_network
from freqkd.utils.compat import read_config
from freqkd.utils.errors import worded
from freqkd.utils.randomness import forked_randomness

TASKS = {"mmdet": "detection", "mmseg": "segmentation"}
SIDE = 256  # pixels: a multiple of every stride, and small


@dataclass
class Network:
    """A network built from a config, without weights.

    Attributes:
        name: the config's name or file.
        owner: "student" or "teacher", for messages.
        config: the config.
        model: the network.
        task: "detection" or "segmentation".
        family: what is known of networks with its head.
        features: paths of its feature maps, the best first.
        scores: path of its class scores; empty where it has none.
    """

    name: str
    owner: str
    config: Config
    model: Any
    task: str
    family: Family
    features: tuple[str, ...]
    scores: str

    @property
    def scope(self) -> str:
        """The package that the config's types are looked up in."""
        return str(self.config.default_scope)


def read_network(name: str, owner: str, options: Mapping[str, Any] | None = None) -> Network:
    """Read a config, and build its network without weights; nothing is downloaded.

    Args:
        name: a config file, `mmdet::NAME` or `mmseg::NAME`.
        owner: "student" or "teacher", for messages.
        options: changes to the config, as `--cfg-options` would make them.

    Raises:
        ValueError: the config cannot be read, is not of mmdet or mmseg, or has no model of its own.
    """
    config = read_config(name)
    config.merge_from_dict(dict(options or {}))
    scope = config.get("default_scope")
    if scope not in TASKS:
        raise ValueError(
            f"{owner} must be a config of mmdet or mmseg, with default_scope='mmdet' or 'mmseg', got {scope!r} in {name}"
        )
    kind = str((config.get("model") or {}).get("type", ""))
    if kind.split(".")[-1] in ("Distiller", "PromptTuner", "BandHeadTuner"):
        raise ValueError(f"{owner} must be the config of a network, got {name}, whose model is a {kind}")
    with forked_randomness(), worded(f"{owner} {name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mmseg's heads about their losses
        model = revert_sync_batchnorm(build_network(config.model, scope))
    with torch.no_grad():
        for parameter in model.parameters():  # some have no value before they are initialised
            parameter.nan_to_num_(0.0, 0.0, 0.0).clamp_(-1.0, 1.0)
    family = family_of(model, TASKS[scope])
    return Network(name, owner, config, model, TASKS[scope], family, *taps_of(model, family))


def image_size(config: Config) -> tuple[int, int]:
    """Return the height and width of the one image that a network is run on: its own where it takes no other.

    >>> image_size(Config(dict(train_pipeline=[dict(type="Resize", scale=(300, 200), keep_ratio=False)])))
    (200, 300)
    >>> image_size(Config(dict(train_pipeline=[dict(type="Resize", scale=(1333, 800), keep_ratio=True)])))
    (256, 256)
    """
    for part in _parts(config.get("train_dataloader") or config.get("train_pipeline")):
        if part.get("type") == "Resize" and part.get("keep_ratio") is False and isinstance(part.get("scale"), tuple):
            width, height = part["scale"]
            return int(height), int(width)
    return SIDE, SIDE


def one_image(network: Network, size: tuple[int, int]) -> tuple[Tensor, Any]:
    """Return a random image with invented labels, as the network's own preprocessor hands it over.

    Args:
        network: whose packing and normalisation are used; its model needs no weights.
        size: height and width.

    Returns:
        Images (1, C, height, width), padded where the network wants it, and their samples.
    """
    with DefaultScope.overwrite_default_scope(network.scope), worded(f"{network.owner} {network.name}"):
        batch = network.model.data_preprocessor(pseudo_collate([invented_sample(network, size)]), False)
    return batch["inputs"], batch["data_samples"]


def invented_sample(network: Network, size: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    """Return a random image with two boxes, their masks, or two classes side by side, as a data set would.

    Args:
        network: for whose task and number of channels it is.
        size: height and width.
        seed: of the random pixels.
    """
    height, width = size
    channels = len(getattr(network.model.data_preprocessor, "mean", ())) or blank_image(network.model).shape[1]
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    results: dict[str, Any] = dict(
        img=image, img_shape=size, ori_shape=size, img_id=0, img_path="", height=height, width=width
    )
    results.update(scale_factor=(1.0, 1.0), flip=False, flip_direction=None)
    if network.task == "detection":
        results["instances"] = [_instance(index, height, width) for index in range(2)]
        masks = "mask_head" in str(network.config.model) or "with_mask=True" in str(
            network.config.get("train_pipeline")
        )
        steps = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=masks), dict(type="mmdet.PackDetInputs")]
    else:
        steps = [dict(type="mmseg.PackSegInputs")]
    results["gt_seg_map"] = np.zeros(size, np.uint8)
    results["gt_seg_map"][:, width // 2 :] = 1
    with DefaultScope.overwrite_default_scope(network.scope):
        for step in steps:
            results = TRANSFORMS.build(step).transform(results)
    return results


def _instance(index: int, height: int, width: int) -> dict[str, Any]:
    """Return an annotation of a box around the middle, with its mask."""
    left, top = width * (1 + index) / 8, height * (1 + index) / 8
    right, bottom = width - left, height - top
    polygon = [left, top, right, top, right, bottom, left, bottom]
    return dict(bbox=[left, top, right, bottom], bbox_label=0, ignore_flag=0, mask=[polygon])


def run_once(network: Network, inputs: Tensor, samples: Any) -> dict[str, list[list[MapShape]]]:
    """Run a network on one image, as far as it goes; see `call_shapes`.

    Where its losses cannot be computed on the image, backbone, neck and heads are run alone.

    Raises:
        ValueError: the network does not run on the image.
    """
    with DefaultScope.overwrite_default_scope(network.scope), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call_shapes(network.model, inputs, samples)
        except Exception:  # whatever a head may refuse in an invented image
            with worded(f"{network.owner} {network.name}, on one image of {tuple(inputs.shape)}"):
                return call_shapes(network.model, inputs)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no parts.

    >>> is_leaf(nn.Conv2d(1, 1, 1)), is_leaf(nn.Sequential(nn.ReLU()))
    (True, False)
    """
    return next(module.children(), None) is None


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dicts in a nest of dicts and lists."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
