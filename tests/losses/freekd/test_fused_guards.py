"""Private functions of torch: where a version lacks one, the fall-back gives the same numbers."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses.freekd.fused import guards, resizing
from freqkd.losses.freekd.loss import freekd_loss
from freqkd.losses.freekd.relation import channel_relation

AUTOGRAD = "_get_current_graph_task_keep_graph"
WRAPPED = ("is_functorch_wrapped_tensor", "is_batchedtensor", "is_legacy_batchedtensor")


def _gradients(student: torch.Tensor, teacher: torch.Tensor) -> list[torch.Tensor]:
    """Return gradients of the l1 and l2 forms: kept, again and scaled, and of a batch of upstream gradients."""
    found = []
    for options in ({}, *(dict(norm="l2", band_weights=bands) for bands in ("details", "whitened"))):
        loss = freekd_loss(student, teacher, **options)
        found.append(torch.autograd.grad(loss, student, retain_graph=True)[0].clone())
        found.append(torch.autograd.grad(3 * loss, student)[0])
        loss, scales = freekd_loss(student, teacher, **options), torch.tensor([1.0, 2.0])
        found.append(torch.autograd.grad(loss, student, scales, is_grads_batched=True)[0])
    return found


@pytest.mark.parametrize("lacking", [AUTOGRAD, *WRAPPED])
def test_gradients_without_a_question_to_torch(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    student, teacher = torch.randn(1, 3, 9, 10, requires_grad=True), torch.randn(1, 3, 9, 10)
    expected = _gradients(student, teacher)
    monkeypatch.delattr(torch._C._autograd if lacking == AUTOGRAD else torch._C._functorch, lacking)
    for found, wanted in zip(_gradients(student, teacher), expected):
        torch.testing.assert_close(found, wanted)


def test_a_missing_answer_is_the_safe_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph may be kept and a tensor may be wrapped: then nothing is changed in place and nothing is stored."""
    asked = []

    class Ask(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, upstream):
            asked.append(guards.keeps_graph())
            return upstream

    x = torch.ones(1, requires_grad=True)
    Ask.apply(x).backward()
    Ask.apply(x).backward(retain_graph=True)
    assert asked == [False, True]
    assert not guards.is_wrapped(x)
    torch.func.vmap(lambda row: asked.append(guards.is_wrapped(row)) or row)(torch.ones(2, 1))
    assert asked.pop() is True
    monkeypatch.delattr(torch._C._autograd, AUTOGRAD)
    monkeypatch.delattr(torch._C._functorch, WRAPPED[0])
    assert guards.keeps_graph()
    assert guards.is_wrapped(x)


def test_relations_without_the_gradient_of_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    feat, deeper = torch.randn(2, 4, 9, 11, dtype=torch.float64), torch.randn(2, 5, 5, 6, dtype=torch.float64)
    assert guards.bilinear_backward() is not None
    expected = channel_relation(feat, deeper)
    made, matrix = [], resizing.resize_matrix
    monkeypatch.setattr(guards.torch.ops, "aten", object())
    monkeypatch.setattr(resizing, "resize_matrix", lambda *sizes: made.append(sizes) or matrix(*sizes))
    torch.testing.assert_close(channel_relation(feat, deeper), expected, rtol=1e-10, atol=0)
    assert len(made) == 2


def test_what_may_be_wrapped_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_kept", {})
    feat, deeper = torch.randn(1, 2, 9, 11, dtype=torch.float64), torch.randn(1, 2, 5, 6, dtype=torch.float64)
    expected = channel_relation(feat, deeper)
    assert len(resizing._kept) == 1
    resizing._kept.clear()
    monkeypatch.delattr(torch._C._functorch, WRAPPED[0])
    torch.testing.assert_close(channel_relation(feat, deeper), expected, rtol=1e-12, atol=0)
    assert not resizing._kept
