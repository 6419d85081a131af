"""Position-aware relations and the channel weights made from them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from freqkd.losses.freekd.fused import relation as module
from freqkd.losses.freekd.fused.resizing import resize, resize_back, resize_matrix, resizing, squares_of_resized
from freqkd.losses.freekd.relation import ChannelGate, KANGate, attention_weights, channel_relation, relation_weights


def test_relation_by_hand() -> None:
    # Channels 0 and 1 correlate fully, channel 2 is their opposite.
    feat = torch.tensor([[[[0.0, 1.0]], [[5.0, 9.0]], [[1.0, 0.0]]]])
    one, other = math.e**2, math.e**-2
    near, far = one / (2 * one + other), other / (2 * one + other)
    opposed = [other / (one + 2 * other)] * 2 + [one / (one + 2 * other)]
    relation = channel_relation(feat, temperature=0.5)[0]
    torch.testing.assert_close(relation, torch.tensor([[near, near, far], [near, near, far], opposed]))
    weights = attention_weights(relation[None])[0]
    assert weights.tolist() == pytest.approx([2 * near + opposed[0]] * 2 + [2 * far + opposed[2]])


@pytest.mark.parametrize("fused", [True, False])
def test_the_deeper_level_is_resized_and_gives_the_rows(fused: bool) -> None:
    feat, deeper = torch.randn(2, 5, 8, 12), torch.randn(2, 5, 4, 6)
    resized = F.interpolate(deeper, size=(8, 12), mode="bilinear", align_corners=False)
    expected = torch.stack(
        [torch.corrcoef(torch.cat([g.flatten(1), f.flatten(1)]))[:5, 5:] for g, f in zip(resized, feat)]
    )
    torch.testing.assert_close(channel_relation(feat, deeper, 0.25, fused=fused), (expected / 0.25).softmax(-1))
    torch.testing.assert_close(channel_relation(feat, fused=fused), channel_relation(feat, feat, fused=fused))
    fewer = channel_relation(feat, deeper[:, :3], fused=fused)
    torch.testing.assert_close(fewer, channel_relation(feat, deeper, fused=fused)[:, :3])


FORMS = [
    ((9, 11), (5, 6), 4),
    ((8, 12), (4, 6), 5),
    ((7, 7), (1, 1), 2),
    ((4, 5), (9, 9), 3),
    ((1, 1), (1, 1), 3),
    ((16, 10), (8, 5), 7),
    ((12, 9), None, 6),
    ((3, 2), None, 4),
]


@pytest.mark.parametrize(("size", "deeper_size", "deeper_channels"), FORMS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_fused_relation_is_the_plain_one(
    size, deeper_size, deeper_channels: int, constant: bool, layout, dtype: torch.dtype
) -> None:
    feat = torch.randn(2, 5, *size, dtype=dtype)
    deeper = None if deeper_size is None else torch.randn(2, deeper_channels, *deeper_size, dtype=dtype)
    if constant:
        feat[:, 1], feat[0, 2] = 0.0, 3.25
        if deeper is not None:
            deeper[:, 0], deeper[1, 1] = -7.5, 0.0
    maps = [x.contiguous(memory_format=layout).requires_grad_() for x in (feat, deeper) if x is not None]
    noisy = constant or deeper_size == (1, 1)  # a constant channel leaves rounding noise, divided by 1e-5
    found = []
    for fused in (True, False):
        relation = channel_relation(*maps, fused=fused)
        weight = torch.arange(relation[0].numel(), dtype=dtype).view_as(relation[0]).sin()
        found.append((relation, *(() if noisy else torch.autograd.grad((weight * relation).sum(), maps))))
    error = 1e-10 if dtype == torch.float64 else 2e-3 if noisy else 1e-5
    for actual, expected in zip(*found):
        torch.testing.assert_close(actual, expected, rtol=0, atol=error * expected.abs().max().item())


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("deeper_size", [None, (5, 6), (4, 4)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_fused_weights_are_the_plain_ones(gated: bool, deeper_size, dtype: torch.dtype, error: float) -> None:
    gate = ChannelGate(5).to(dtype)
    torch.nn.init.normal_(gate.mlp[-1].weight)
    maps = [torch.randn(2, 5, 9, 11, dtype=dtype) for _ in range(2)]
    if deeper_size is not None:
        maps += [torch.randn(2, 5, *deeper_size, dtype=dtype) for _ in range(2)]
    weights = [relation_weights(*maps, gate=gate if gated else None, fused=fused) for fused in (True, False)]
    torch.testing.assert_close(*weights, rtol=error, atol=error)
    assert weights[0].std() > 1e-4


def test_shift_and_scale_of_a_channel_do_not_matter() -> None:
    feat, deeper = torch.randn(2, 5, 8, 12, dtype=torch.float64), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    scale, shift = torch.rand(1, 5, 1, 1) * 99 + 0.01, torch.randn(1, 5, 1, 1) * 9
    torch.testing.assert_close(
        channel_relation(feat * scale + shift, deeper * scale - shift), channel_relation(feat, deeper)
    )


@pytest.mark.parametrize("size", [(4, 5), (300, 400)])
def test_does_not_saturate(size: tuple[int, int]) -> None:
    """The weights of one scene keep their spread, whatever the number of positions and the magnitude."""
    scene = torch.randn(4, 4, 5)
    mixing = torch.randn(2, 16, 4)
    small = torch.einsum("mcr,rhw->mchw", mixing, scene)
    feat, deeper = F.interpolate(small, size=size, mode="nearest").unsqueeze(1) * 100
    relation = channel_relation(feat, deeper)
    entropy = -(relation * relation.log()).sum(-1)
    assert 0.3 * math.log(16) < entropy.min()
    assert entropy.max() < math.log(16)
    assert relation.max() < 0.6
    torch.testing.assert_close(relation, channel_relation(small[:1], small[1:]), rtol=2e-2, atol=2e-3)


def test_flat_channels_and_single_positions_relate_evenly() -> None:
    feat = torch.randn(1, 4, 6, 6)
    feat[:, 1] = 1000.1
    relation = channel_relation(feat)
    torch.testing.assert_close(relation[0, 1], torch.full((4,), 0.25), rtol=0, atol=1e-4)
    assert relation.isfinite().all()
    single = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(relation_weights(single, single), torch.ones(2, 4))


def test_channels_that_are_zero_relate_evenly() -> None:
    feat, deeper = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    feat[:, 1] = deeper[:, 2] = 0
    for other in (None, deeper):
        relation = channel_relation(feat, other)
        assert relation.isfinite().all()
    torch.testing.assert_close(relation[0, 2], torch.full((4,), 0.25))


def test_weights_are_the_normalised_product() -> None:
    student, teacher, deeper = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8), torch.randn(2, 2, 6, 4, 4)
    weights = relation_weights(student, teacher, *deeper)
    product = attention_weights(channel_relation(teacher, deeper[1])) * attention_weights(
        channel_relation(student, deeper[0])
    )
    torch.testing.assert_close(weights, product / product.mean(1, keepdim=True))
    torch.testing.assert_close(weights.mean(1), torch.ones(2))
    assert weights.min() > 0
    assert weights.std() > 0


def test_a_channel_others_follow_weighs_most() -> None:
    teacher = torch.randn(1, 8, 16, 16)
    teacher[:, :4] = 0.5 * teacher[:, :4] + torch.randn(1, 1, 16, 16)  # four channels that share a pattern
    weights = relation_weights(teacher + 0.1 * torch.randn_like(teacher), teacher)[0]
    assert weights[:4].min() > weights[4:].max()


def test_no_gradient() -> None:
    maps = [torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1, 4, 8, 8, requires_grad=True)]
    assert not relation_weights(*maps).requires_grad
    assert not relation_weights(*maps, gate=ChannelGate(4)).requires_grad


@pytest.mark.parametrize("kind", [ChannelGate, KANGate])
def test_gate(kind: type[ChannelGate | KANGate]) -> None:
    gate = kind(6)
    relation = channel_relation(torch.randn(2, 6, 5, 5))
    torch.testing.assert_close(gate(relation), torch.ones(2, 6))  # so that the prompt stage starts from the teacher
    target = torch.rand(6) + 0.5
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append((gate(relation) - target).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert gate(relation).min() > 0
    assert gate(relation).max() < 2
    student, teacher = torch.randn(2, 2, 6, 5, 5)
    product = gate(channel_relation(teacher)) * gate(channel_relation(student))
    expected = (product / product.mean(1, keepdim=True)).detach()
    torch.testing.assert_close(relation_weights(student, teacher, gate=gate), expected)


@pytest.mark.parametrize("kind", [ChannelGate, KANGate])
def test_gate_reads_the_column_of_its_channel(kind: type[ChannelGate | KANGate]) -> None:
    """A channel's weight depends on how it is attended to, as in `attention_weights`."""
    gate = kind(6)
    last = gate.mlp[-1].weight if isinstance(gate, ChannelGate) else gate.kan.spline_weight
    torch.nn.init.normal_(last)
    relation = channel_relation(torch.randn(1, 6, 5, 5))
    other = relation.clone()
    other[0, :, 2] = 0.5
    assert (gate(other) != gate(relation))[0].tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(1, 4, 8, 8).mul(300).to(dtype) for _ in range(2))
    expected = relation_weights(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=dtype):
        weights = relation_weights(student, teacher)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, expected)


def test_wrong_input() -> None:
    feat = torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        channel_relation(feat, temperature=0)
    with pytest.raises(ValueError, match="deeper must have the batch size of feat, 2, got 1"):
        channel_relation(feat, feat[:1])
    with pytest.raises(ValueError, match="deeper must be a map"):
        channel_relation(feat, feat[0])
    with pytest.raises(ValueError, match="student_deeper must have the batch size of student_feat, 2, got 1"):
        relation_weights(feat, feat, feat[:1], feat[:1])
    with pytest.raises(ValueError, match="teacher_deeper must be a map"):
        relation_weights(feat, feat, feat, feat[0])
    with pytest.raises(ValueError, match="temperature must be above 0, got -1"):
        relation_weights(feat, feat, temperature=-1)
    with pytest.raises(ValueError, match=r"same shape.*ConvAlign\(student_channels=3, teacher_channels=4\)"):
        relation_weights(feat[:, :3], feat)
    with pytest.raises(ValueError, match=r"relation must be \(N, 4, 4\), got shape \(2, 3, 3\)"):
        ChannelGate(4)(torch.rand(2, 3, 3))
    with pytest.raises(ValueError, match=r"relation must be \(N, 4, 4\)"):
        KANGate(4)(torch.rand(2, 3, 3))


@pytest.mark.parametrize("sizes", [((9, 11), (5, 6)), ((8, 12), (4, 6)), ((7, 7), (1, 1)), ((4, 5), (9, 9))])
def test_resizing_back_is_the_transpose(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    feat, deeper = (torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes)
    products = (resize(deeper, feat.shape) * feat).sum((2, 3))
    torch.testing.assert_close((deeper * resize_back(feat, deeper.shape)).sum((2, 3)), products)
    rows, columns = (resize_matrix(sizes[1][i], sizes[0][i], feat) for i in (0, 1))  # what replaces it on a GPU
    torch.testing.assert_close(rows.t() @ feat @ columns, resize_back(feat, deeper.shape))


def test_relation_is_differentiable() -> None:
    feat, deeper = torch.randn(1, 3, 6, 5, dtype=torch.float64), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(channel_relation, (feat.requires_grad_(), deeper.requires_grad_()))


@pytest.mark.parametrize(
    "sizes", [((9, 11), (5, 6)), ((8, 12), (4, 6)), ((7, 7), (1, 1)), ((6, 4), (6, 4)), ((5, 9), (4, 8))]
)
def test_squares_of_the_resized_map_without_it(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    feat, deeper = (torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes)
    share, factors = resizing(deeper, feat)
    resized = resize(deeper, feat.shape)
    torch.testing.assert_close((deeper * share).sum((2, 3)), resized.mean((2, 3)))
    middle = deeper.shape[2] // 2
    parts = [squares_of_resized(deeper, factors, *rows) for rows in ((0, middle), (middle, deeper.shape[2]))]
    torch.testing.assert_close(torch.cat(parts, 2).sum((2, 3)), resized.square().sum((2, 3)))


def test_a_smaller_finer_map_is_resized_as_it_is() -> None:
    feat, deeper = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 9, 9)
    assert resizing(deeper, feat)[1] is None
    resized = F.interpolate(deeper, size=(4, 5), mode="bilinear", align_corners=False)
    expected = torch.corrcoef(torch.cat([resized[0].flatten(1), feat[0].flatten(1)]))[:3, 3:]
    torch.testing.assert_close(channel_relation(feat, deeper, 1.0)[0], expected.softmax(-1))


def test_what_is_kept_outlives_inference() -> None:
    resizing_of = torch.randn(1, 2, 5, 3), torch.randn(1, 2, 10, 6)
    with torch.inference_mode():
        channel_relation(*reversed(resizing_of))
    feat = resizing_of[1].requires_grad_()
    channel_relation(feat, resizing_of[0]).square().sum().backward()
    assert feat.grad.abs().max() > 0


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_large_means_stay_accurate(offset: float) -> None:
    feat, deeper = torch.randn(1, 8, 50, 84), torch.randn(1, 8, 25, 42)
    feat, deeper = feat + offset, deeper - offset  # rounded here: both precisions see the same numbers
    expected = channel_relation(feat.double(), deeper.double())
    torch.testing.assert_close(channel_relation(feat, deeper).double(), expected, rtol=1e-5 + 1e-7 * offset, atol=0)


def test_tiles_and_batches_do_not_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, deeper = torch.randn(2, 6, 9, 8), torch.randn(2, 6, 9, 8), torch.randn(2, 2, 6, 5, 4)
    expected = relation_weights(student, teacher, *deeper)  # one tile, both networks in one batch
    monkeypatch.setattr(module, "TILE", 1)
    torch.testing.assert_close(relation_weights(student, teacher, *deeper), expected)


@pytest.mark.parametrize("sizes", [((25, 42), (13, 21)), ((37, 50), (9, 13)), ((9, 9), (20, 15))])
def test_sizes_that_are_not_doubled_round_no_more(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    feat, deeper = (torch.randn(1, 8, *size) + 1e3 for size in sizes)
    expected = channel_relation(feat.double(), deeper.double())
    torch.testing.assert_close(channel_relation(feat, deeper).double(), expected, rtol=1e-5, atol=0)
    feat[:, 1] = 1000.1  # a constant channel relates to all alike, as one of zeros
    other = feat.clone()
    other[:, 1] = 0
    torch.testing.assert_close(channel_relation(feat, deeper), channel_relation(other, deeper), rtol=2e-3, atol=0)


def test_what_is_kept_is_never_fake() -> None:
    feat, deeper = torch.randn(1, 2, 22, 14), torch.randn(1, 2, 11, 7)
    with FakeTensorMode(allow_non_fake_inputs=True):
        channel_relation(feat, deeper)
    assert type(channel_relation(feat, deeper)) is torch.Tensor


def test_the_gradient_of_constant_channels_is_finite() -> None:
    feat, deeper = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    feat[:, 1], feat[:, 2], deeper[:, 0], deeper[:, 3] = 3.0, 0.0, 0.0, 7.0
    maps = [feat.requires_grad_(), deeper.requires_grad_()]
    relation = channel_relation(*maps)
    for gradient in torch.autograd.grad((relation * torch.randn(4, 4)).sum(), maps):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_a_gate_takes_relations_of_any_precision() -> None:
    gate = ChannelGate(4)
    torch.nn.init.normal_(gate.mlp[-1].weight)
    relation = channel_relation(torch.randn(2, 4, 6, 6))
    torch.testing.assert_close(gate(relation.double()), gate(relation))
