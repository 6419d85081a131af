"""Divergence of the similarities between positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from freqkd.losses import similarity_kl_loss
from freqkd.losses.similarity_kl import SimilarityKLLoss


def softmax_of_others(vectors: Tensor, i: int, tau: float) -> dict[int, float]:
    """The distribution of position i of (C, P) over the others, by the definition."""
    own, others = vectors[:, i], [j for j in range(vectors.shape[1]) if j != i]
    cosines = {j: (own @ vectors[:, j] / (own.norm() * vectors[:, j].norm())).item() for j in others}
    total = sum(math.exp(cosine / tau) for cosine in cosines.values())
    return {j: math.exp(cosine / tau) / total for j, cosine in cosines.items()}


def slowly(student: Tensor, teacher: Tensor, tau: float) -> float:
    """The loss of (N, C, P), position by position."""
    values = []
    for s, t in zip(student.double(), teacher.double()):
        for i in range(s.shape[1]):
            p, q = softmax_of_others(s, i, tau), softmax_of_others(t, i, tau)
            values.append(sum(q[j] * math.log(q[j] / p[j]) for j in q))
    return sum(values) / len(values)


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_it_is_the_mean_divergence_without_the_diagonal(tau: float) -> None:
    student, teacher = torch.randn(2, 3, 2, 4).double(), torch.randn(2, 5, 2, 4).double()  # of other channels
    expected = slowly(student.flatten(2), teacher.flatten(2), tau)
    assert similarity_kl_loss(student, teacher, tau=tau).item() == pytest.approx(expected, rel=1e-9)


def test_it_says_which_positions_are_alike_and_not_what_they_look_like() -> None:
    student = torch.randn(2, 4, 3, 5)
    turned = torch.einsum("oc,nchw->nohw", torch.linalg.qr(torch.randn(6, 4))[0], student)
    longer = turned * (torch.rand(2, 1, 3, 5) * 9 + 1)
    assert similarity_kl_loss(student, longer, tau=0.5).item() == pytest.approx(0, abs=1e-5)


def test_the_same_positions_of_both_networks() -> None:
    student, teacher = torch.randn(2, 3, 9, 9), torch.randn(2, 5, 9, 9)
    chosen = torch.randperm(81, generator=torch.Generator().manual_seed(7))[:16]
    expected = slowly(student.flatten(2)[..., chosen], teacher.flatten(2)[..., chosen], 0.07)
    value = similarity_kl_loss(student, teacher, num_positions=16, generator=torch.Generator().manual_seed(7))
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert similarity_kl_loss(student, teacher, positions=[chosen]).item() == pytest.approx(expected, rel=1e-4)
    whole = similarity_kl_loss(student, teacher, num_positions=81)
    torch.testing.assert_close(similarity_kl_loss(student, teacher, positions=[torch.arange(81)]), whole)


def test_the_draw_is_part_of_the_random_state_of_the_cpu() -> None:
    student, teacher = torch.randn(1, 3, 20, 20, requires_grad=True), torch.randn(1, 3, 20, 20)
    loss = SimilarityKLLoss(num_positions=16)
    state = torch.get_rng_state()
    first, second = loss(student, teacher), loss(student, teacher)
    assert first != second
    torch.set_rng_state(state)
    assert loss(student, teacher) == first
    assert loss(student, teacher) == second
    before = torch.get_rng_state()
    SimilarityKLLoss(num_positions=400)(student, teacher)  # all positions: nothing is drawn
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_does_not_grow_with_the_map() -> None:
    def largest(size: int) -> int:
        kept = [0]

        def pack(tensor: Tensor) -> Tensor:
            kept[0] = max(kept[0], tensor.numel())
            return tensor

        student = torch.randn(2, 3, size, size, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            SimilarityKLLoss(num_positions=32)(student, torch.randn(2, 3, size, size))
        return kept[0]

    assert largest(8) == largest(24) == 2 * 32 * 31  # the similarities of two images


def test_one_and_two_positions_have_nothing_to_compare() -> None:
    for width in (1, 2):
        student = torch.randn(2, 3, 1, width, requires_grad=True)
        value = similarity_kl_loss(student, torch.randn(2, 3, 1, width))
        value.backward()
        assert value.item() == 0
        assert student.grad.abs().max() == 0


def test_wrong_input() -> None:
    feat = torch.randn(1, 3, 4, 4)
    with pytest.raises(ValueError, match="positions must have one entry for each of the 1 maps, got 2"):
        similarity_kl_loss(feat, feat, positions=[None, None])
    with pytest.raises(ValueError, match="tau must be above 0"):
        SimilarityKLLoss(tau=0.0)
    with pytest.raises(ValueError, match="num_positions must be at least 2, got 1"):
        SimilarityKLLoss(num_positions=1)
