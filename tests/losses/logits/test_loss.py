"""LogitLoss: every combination of softening, divergence and regions, and what counts in the mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.logits import methods
from freqkd.losses.logits.divergence import DIVERGENCES, KLDivergence
from freqkd.losses.logits.loss import LogitLoss, flatten_positions
from freqkd.losses.logits.softening import SOFTENINGS, FixedTemperature, Softening

torch.set_num_threads(1)
REGIONS = [None, {"scales": (1, 2, 4)}, {"scales": (1, 2), "rule": "prediction"}]
SHAPES = {
    "classification": (6, 5),
    "segmentation": (2, 5, 9, 12),
    "sequence": (2, 5, 30),
    "detection": [(2, 5, 8, 8), (2, 5, 4, 4), (2, 5, 2, 3)],
}


def _case(
    shape: Any, dtype: torch.dtype = torch.float32, background: int = 0, seed: int = 0
) -> tuple[Any, Any, Any, list[Tensor]]:
    """Return student, teacher and target of a shape (or of a list of shapes), and the student's leaves."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shape if isinstance(shape, list) else [shape]
    leaves = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    teachers = [(2 * torch.randn(s, generator=generator)).to(dtype) for s in shapes]
    targets = [torch.randint(s[1] + background, (s[0], *s[2:]), generator=generator) for s in shapes]
    for target in targets:
        target.view(-1)[::4] = 255
    if isinstance(shape, list):
        return leaves, teachers, targets, leaves
    return leaves[0], teachers[0], targets[0], leaves


def _refused(softening: str, divergence: str, activation: str) -> str | None:
    """Say which combinations make no sense, and a word of the reason."""
    if activation not in DIVERGENCES[divergence].activations:
        return "compares distributions" if activation == "sigmoid" else "a yes or no of its own"
    if activation == "sigmoid" and softening == "standardized":
        return "removes the mean over the classes"
    if softening == "learned" and divergence == "mse":
        return "drops out"
    return None


GRID = [(s, d, a) for s in SOFTENINGS for d in DIVERGENCES for a in ("softmax", "sigmoid")]


@pytest.mark.parametrize(("softening", "divergence", "activation"), [g for g in GRID if _refused(*g) is None])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_combination_that_makes_sense(softening: str, divergence: str, activation: str, shape: str) -> None:
    for regions in REGIONS:
        student, teacher, target, leaves = _case(SHAPES[shape], background=activation == "sigmoid")
        loss = LogitLoss(softening, divergence, regions, activation, ignore_index=255)
        if regions is not None and shape in ("classification", "sequence"):
            with pytest.raises(ValueError, match="regions need a map"):
                loss(student, teacher, target)
            continue
        value = loss(student, teacher, target)
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0
        value.backward()
        for leaf in leaves:
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().sum() > 0
        for parameter in loss.parameters():
            assert parameter.grad is not None
            assert parameter.grad != 0


@pytest.mark.parametrize(("softening", "divergence", "activation"), [g for g in GRID if _refused(*g)])
def test_every_other_combination_is_refused_with_its_reason(softening: str, divergence: str, activation: str) -> None:
    reason = _refused(softening, divergence, activation)
    with pytest.raises(ValueError, match=f"does not go with .*{reason}"):
        LogitLoss(softening, divergence, activation=activation)


def test_learned_and_standardized_is_for_softmax() -> None:
    with pytest.raises(ValueError, match="removes the mean"):
        LogitLoss({"type": "learned", "standardize": True}, "binary_kl", activation="sigmoid")


@pytest.mark.parametrize("words", [("fixed", "dkd"), ("dynamic", "kl"), ("standardized", "kl"), ("fixed", "dist")])
@pytest.mark.parametrize("regions", REGIONS)
def test_autocast_and_half_precision_agree_with_float32(words: tuple[str, str], regions: Any) -> None:
    student, teacher, target, _ = _case((2, 5, 8, 8), torch.bfloat16)
    loss = LogitLoss(*words, regions, ignore_index=255)
    expected = loss(student.float(), teacher.float(), target)
    torch.testing.assert_close(loss(student, teacher, target), expected)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, target)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_ignored_positions_are_dropped_first() -> None:
    student, teacher, target, _ = _case((2, 5, 6, 6))
    keep = target.view(-1) != 255
    rows = [flatten_positions(x)[keep] for x in (student, teacher)]
    for words in (("fixed", "kl"), ("normalized", "dkd"), ("fixed", "dist"), ("dynamic", "nkd")):
        loss = LogitLoss(*words, ignore_index=255)
        torch.testing.assert_close(loss(student, teacher, target), LogitLoss(*words)(*rows, target.view(-1)[keep]))


def test_levels_are_one_set_of_samples() -> None:
    students, teachers, targets, _ = _case(SHAPES["detection"])
    rows = [torch.cat([flatten_positions(x) for x in maps]) for maps in (students, teachers)]
    target = torch.cat([x.view(-1) for x in targets])
    for divergence in ("kl", "dkd", "dist"):
        loss = LogitLoss("fixed", divergence, ignore_index=255)
        torch.testing.assert_close(loss(students, teachers, targets), loss(*rows, target))


def test_regions_take_each_level_apart() -> None:
    students, teachers, targets, _ = _case([(2, 5, 8, 8), (2, 5, 4, 4)])
    loss = LogitLoss("fixed", "kl", {"scales": (1, 2)})
    targets = [t % 5 for t in targets]
    each = [loss(s, t, y) for s, t, y in zip(students, teachers, targets)]
    torch.testing.assert_close(loss(students, teachers, targets), (each[0] + each[1]) / 2)


def test_class_weights_as_in_cross_entropy() -> None:
    """NKD with gamma 0 and a certain teacher is the cross entropy of the labels."""
    student, _, target, _ = _case((2, 5, 6, 6))
    certain = 1e3 * F.one_hot(target.clamp(max=4), 5).movedim(-1, 1).float()
    weights = [0.5, 1.0, 2.0, 4.0, 0.1]
    loss = LogitLoss("fixed", {"type": "nkd", "gamma": 0.0}, ignore_index=255, class_weight=weights)
    expected = F.cross_entropy(student, target, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(loss(student, certain, target), expected)
    assert not loss.state_dict()
    with pytest.raises(ValueError, match="class_weight must have 5 entries"):
        LogitLoss("fixed", "kl", ignore_index=255, class_weight=[1.0])(student, certain, target)


def test_weights_of_positions_and_the_average_factor() -> None:
    student, teacher, _, _ = _case((2, 5, 6, 6))
    weight = (torch.arange(72.0) % 3).view(2, 6, 6)
    loss = LogitLoss("fixed", "quality_focal", activation="sigmoid")
    each = [
        LogitLoss("fixed", "quality_focal", activation="sigmoid")(s[None], t[None]) for s, t in _rows(student, teacher)
    ]
    total = (torch.stack(each) * weight.view(-1)).sum()
    torch.testing.assert_close(loss(student, teacher, weight=weight), total / weight.sum())
    torch.testing.assert_close(loss(student, teacher, weight=weight, avg_factor=7.0), total / 7)
    torch.testing.assert_close(loss(student, teacher, weight=weight, avg_factor=torch.tensor(0)), total)
    assert loss(student, teacher, weight=torch.zeros(2, 6, 6)) == 0
    target = (torch.arange(72) % 5 - 1).view(2, 6, 6)
    ignoring = LogitLoss("fixed", "quality_focal", activation="sigmoid", ignore_index=-1)
    expected = loss(student, teacher, weight=weight * (target >= 0))
    torch.testing.assert_close(ignoring(student, teacher, target, weight=weight), expected)
    torch.testing.assert_close(
        LogitLoss("fixed", "kl", loss_weight=3.0)(student, teacher), 3 * methods.kd_loss(student, teacher)
    )


def _rows(student: Tensor, teacher: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(flatten_positions(student), flatten_positions(teacher)))


def test_the_teacher_gets_no_gradient() -> None:
    for softening, divergence, activation in GRID:
        if _refused(softening, divergence, activation) is None:
            student, teacher, target, _ = _case((4, 5))
            teacher.requires_grad_()
            LogitLoss(softening, divergence, activation=activation, ignore_index=255)(
                student, teacher, target
            ).backward()
            assert teacher.grad is None


@pytest.mark.parametrize(
    "words", [("fixed", "kl"), ("normalized", "dkd"), ("dynamic", "kl"), ("standardized", "nkd"), ("fixed", "dist")]
)
def test_gradcheck(words: tuple[str, str]) -> None:
    student, teacher, target, _ = _case((2, 3, 4, 4), torch.float64)
    loss = LogitLoss(*words, {"scales": (1, 2)}, ignore_index=255)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, target % 3), (student,))


def test_annealing_drops_the_teacher_after_its_epochs() -> None:
    student, teacher, _, _ = _case((4, 5))
    loss = LogitLoss({"type": "annealed", "tau_max": 2, "epochs": 4}, "mse")
    torch.testing.assert_close(loss(student, teacher), F.mse_loss(student, teacher / 2))
    loss.set_progress(2)
    torch.testing.assert_close(loss(student, teacher), F.mse_loss(student, teacher))
    loss.set_progress(4)
    loss(student, teacher * float("inf")).backward()
    assert student.grad is not None
    assert (student.grad == 0).all()


METHODS: dict[Callable[..., Tensor], tuple[Any, ...]] = {
    methods.kd_loss: ("fixed", "kl"),
    methods.dkd_loss: ("fixed", "dkd"),
    methods.nkd_loss: ({"type": "fixed", "tau": 1.0}, "nkd"),
    methods.dist_loss: ({"type": "fixed", "tau": 1.0}, "dist"),
    methods.normkd_loss: ("normalized", "kl"),
    methods.dtkd_loss: ("dynamic", "kl"),
    methods.standardized_kd_loss: ("standardized", "kl"),
    methods.sdd_loss: ("fixed", "kl", {"scales": (1, 2, 4)}),
}


@pytest.mark.parametrize("function", METHODS)
def test_functions_are_combinations_of_the_grid(function: Callable[..., Tensor]) -> None:
    student, teacher, target, _ = _case((2, 5, 8, 8))
    loss = LogitLoss(*METHODS[function], ignore_index=255)
    torch.testing.assert_close(function(student, teacher, target, ignore_index=255), loss(student, teacher, target))


def test_annealing_function_counts_down() -> None:
    student, teacher, _, _ = _case((4, 5))
    loss = LogitLoss({"type": "annealed", "tau_max": 10, "epochs": 10}, "mse")
    for epoch, tau in enumerate(range(10, 0, -1)):
        loss.set_progress(epoch)
        torch.testing.assert_close(methods.annealing_kd_loss(student, teacher, tau=tau), loss(student, teacher))
    with pytest.raises(ValueError, match="tau must be at most 10, got 11"):
        methods.annealing_kd_loss(student, teacher, tau=11)


def test_own_choices_are_accepted() -> None:
    class Doubled(Softening):
        def forward(self, student: Tensor, teacher: Tensor) -> Any:
            return FixedTemperature(0.5)(student, teacher)

    student, teacher, _, _ = _case((4, 5))
    expected = methods.kd_loss(student, teacher, tau=0.5)
    torch.testing.assert_close(LogitLoss(Doubled(), KLDivergence())(student, teacher), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t, y: LogitLoss(activation="tanh"), "activation must be one of"),
        (
            lambda s, t, y: LogitLoss()(s, t[:, :4]),
            r"student and teacher logits must have the same shape, got .*; both heads need the same classes \(or bins\)",
        ),
        (lambda s, t, y: LogitLoss()([s], [t, t]), "the same number of maps"),
        (lambda s, t, y: LogitLoss()(s.long(), t), "floating point logits"),
        (lambda s, t, y: LogitLoss()(s[0, 0, 0], t[0, 0, 0]), r"the shape \(N, C\) or \(N, C, \*S\)"),
        (lambda s, t, y: LogitLoss("fixed", "dkd")(s, t), "target must be given"),
        (lambda s, t, y: LogitLoss(ignore_index=255)(s, t), "target must be given"),
        (lambda s, t, y: LogitLoss(regions={})(s, t), "target must be given"),
        (lambda s, t, y: LogitLoss()(s, t, y.float()), "target must hold integer labels"),
        (lambda s, t, y: LogitLoss()(s, t, y[:, :4]), r"target must have the shape \(2, 8, 8\) for"),
        (lambda s, t, y: LogitLoss()(s, t, y[:, 0, 0]), r"target must have the shape \(2, 8, 8\) for"),
        (lambda s, t, y: LogitLoss(regions={})(s, t, y[:, 0]), r"\(2, 8, 8\) or \(2,\), the images' labels"),
        (lambda s, t, y: LogitLoss()(s, t, y), "labels in 0..4, got 255; .*ignore_index="),
        (lambda s, t, y: LogitLoss()([s, s], [t, t], y), "target must have one entry for each of the 2 maps"),
        (lambda s, t, y: LogitLoss()(s, t, weight=y[:, 0].float()), "weight must have the shape of target"),
        (lambda s, t, y: LogitLoss(regions={})(s, t, y % 5, weight=y.float()), "weight must be None with regions"),
        (lambda s, t, y: LogitLoss(divergence="dist")(s, t, avg_factor=2.0), "avg_factor must be None with dist"),
    ],
)
def test_errors_name_the_argument(call: Any, message: str) -> None:
    student, teacher, target, _ = _case((2, 5, 8, 8))
    with pytest.raises(ValueError, match=message):
        call(student, teacher, target)


@pytest.mark.parametrize("divergence", ["kl", "dkd", "nkd", "dist"])
@pytest.mark.parametrize("shape", [(6, 1), (2, 1, 4, 4)])
def test_a_softmax_over_one_channel_is_refused(divergence, shape):
    """Of a binary head: KL, DKD and NKD would be 0 and DIST constant, so that nothing is taught without a word."""
    student, teacher = torch.randn(2, *shape)
    target = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    with pytest.raises(ValueError, match=r"at least two classes for activation='softmax'.*set activation='sigmoid'"):
        LogitLoss("fixed", divergence)(student, teacher, target)
    assert LogitLoss("fixed", "binary_kl", activation="sigmoid")(student, teacher) > 0
    assert LogitLoss("fixed", "mse")(student, teacher) > 0  # of the logits themselves
