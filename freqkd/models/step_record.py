"""Record of a training step: losses by name, gradients of terms at their taps, and what of them is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.utils.patches import replaced

TERMS = "distill."  # how the losses of terms begin
LOWERED = "lowered_terms"  # in the message hub, and so in checkpoints: {term: factor}
KINDS = ("data", "weight", "loss", "term", "gradient")  # the earlier explains the later


def lowered(term: str) -> float:
    """Return the factor to which a term was lowered in this training, 1 where it was not."""
    return float(MessageHub.get_current_instance().runtime_info.get(LOWERED, {}).get(term, 1.0))


def sum_up(gradient: Tensor) -> Tensor:
    """Return a number that is finite if all of a gradient is; a sum costs a fiftieth of a maximum on a CPU."""
    return gradient.detach().sum(dtype=None if gradient.dtype == torch.float64 else torch.float32)


@dataclass(frozen=True)
class Finding:
    """Something that is not finite.

    Attributes:
        kind: one of `KINDS`; "term" is the gradient that a term sends to the student's maps, "gradient" a parameter's.
        name: a loss, a parameter, or a part of the data.
        value: nan, inf or -inf.
        tap: where the term is measured in the student, for a term.
        levels: the maps there.
        others: how many more there are of a kind that is told by one example.
        rank: the process where it was found.

    >>> print(Finding("term", "distill.loss_freekd", math.nan, "neck", (0, 2)))
    the gradient of the loss 'distill.loss_freekd' is nan at 'neck', levels 0 and 2
    >>> print(Finding("gradient", "neck.conv.weight", math.inf, others=3))
    the gradient of 'neck.conv.weight' and 3 more is inf
    """

    kind: str
    name: str
    value: float = math.nan
    tap: str = ""
    levels: tuple[int, ...] = ()
    others: int = 0
    rank: int = 0

    def __str__(self) -> str:
        more = f" and {self.others} more" if self.others else ""
        if self.kind in ("data", "weight"):
            what = "the data are not finite" if self.kind == "data" else "the weights were not finite before the step"
            return f"{what}: {self.name}{more}"
        where = ""
        if self.tap:
            levels = " and ".join(map(str, self.levels))
            where = f" at {self.tap!r}"
            where += f", level{'s' * (len(self.levels) > 1)} {levels}" if self.levels else ""
        name = repr(self.name) if self.kind == "gradient" else f"the loss {self.name!r}"
        return f"{'' if self.kind == 'loss' else 'the gradient of '}{name}{more} is {self.value}{where}"

    def plain(self) -> dict[str, Any]:
        """Return a dict of plain data."""
        return {**asdict(self), "levels": list(self.levels)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Finding:
        """Make one of what `plain` returned."""
        return cls(**{**plain, "levels": tuple(plain["levels"])})


def main_findings(found: Sequence[Finding]) -> list[Finding]:
    """Return the findings that explain the others, bad data beside them: a loss that is nan has gradients that are nan.

    >>> [one.kind for one in main_findings([Finding("gradient", "a"), Finding("loss", "b"), Finding("loss", "c")])]
    ['loss', 'loss']
    """
    data = [one for one in found if one.kind == "data"]
    kinds = [kind for kind in KINDS[1:] if any(one.kind == kind for one in found)]
    return data + [one for one in found if kinds and one.kind == kinds[0]]


def terms_to_blame(found: Sequence[Finding]) -> list[str]:
    """Return the terms that alone explain the main findings; none where the task, the data or the weights do.

    >>> terms_to_blame([Finding("loss", "distill.loss_freekd")])
    ['loss_freekd']
    >>> terms_to_blame([Finding("loss", "distill.loss_freekd"), Finding("loss", "loss_cls")])
    []
    >>> terms_to_blame([Finding("gradient", "distiller.loss_freekd.align.convs.0.weight")])
    ['loss_freekd']
    """
    names = [_term_of(one) for one in found]
    return list(dict.fromkeys(names)) if all(names) else []


def _term_of(finding: Finding) -> str:
    if finding.kind in ("loss", "term") and finding.name.startswith(TERMS):
        return finding.name.removeprefix(TERMS)
    parts = finding.name.split(".")
    return parts[1] if finding.kind == "gradient" and parts[0] == "distiller" and not finding.others else ""


class StepRecord:
    """Notes the losses of a model and the gradients of its terms while a `with` block lasts.

    Nothing is read from an accelerator before `findings` is called.

    Args:
        model: any model of MMEngine; the terms of a `Distiller` are told apart.
        measure: makes a number of a gradient, which stays finite if the gradient is.
    """

    def __init__(self, model: nn.Module, measure: Callable[[Tensor], Tensor] = sum_up) -> None:
        self.model, self.measure = model, measure
        self.terms: Mapping[str, Any] = model.terms if hasattr(type(model), "watch") else {}  # type: ignore[assignment]
        self.losses: dict[str, Tensor] = {}
        self.gradients: dict[tuple[str, str, int], Tensor] = {}
        self._attached = ExitStack()
        self._noting = False

    def __enter__(self) -> StepRecord:
        parse: Any = self.model.parse_losses

        def parse_losses(losses: Any) -> Any:
            total, parts = parse(losses)
            # A distiller asks for the task's part first: the last call has everything.
            self.losses = {name: value.detach() for name, value in parts.items() if "loss" in name}
            return total, parts

        with ExitStack() as stack:
            stack.enter_context(replaced(self.model, "parse_losses", parse_losses))
            if self.terms:
                stack.enter_context(replaced(self.model, "watch", self._watch))
            self._attached = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._attached.close()

    def _watch(self, term: str, maps: Mapping[str, Sequence[Tensor]]) -> None:
        """Listen to the gradients that a term sends to maps of its own."""
        for path, found in maps.items():
            for level, feature in enumerate(found):
                if feature.requires_grad:
                    feature.register_hook(self._noter((term, path, level)))

    def _noter(self, key: tuple[str, str, int]) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            if self._noting:
                self.gradients[key] = self.measure(gradient)

        return note

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Note gradients in this block: that of the step, not those that a weight measures."""
        self.gradients.clear()
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def suspicion(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return a number that is finite if all losses and gradients are; it may overflow where they are huge."""
        gradients = [one.grad for one in parameters if one.grad is not None and one.grad.layout == torch.strided]
        norms = torch._foreach_norm(gradients) if gradients else []
        return torch.stack([value.float() for value in (*self.losses.values(), *norms)]).sum()

    def findings(self, parameters: Mapping[str, Tensor]) -> list[Finding]:
        """Return everything that is not finite among losses, gradients and weights.

        Args:
            parameters: those that are trained, by name.
        """
        found = []
        weights = [name for name, value in parameters.items() if not bool(torch.isfinite(value).all())]
        if weights:
            found.append(Finding("weight", weights[0], others=len(weights) - 1))
        bad = [name for name, value in self.losses.items() if not bool(torch.isfinite(value))]
        total = "loss"  # the sum, which tells nothing where one of its parts is there
        for name in bad if bad == [total] else [one for one in bad if one != total]:
            found.append(Finding("loss", name, float(self.losses[name]), *self._tap(name.removeprefix(TERMS))))
        gradients = {name: one.grad for name, one in parameters.items() if one.grad is not None}
        lost = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
        if lost:
            found += self._bad_terms()
            # The last one is nearest to the losses; one of a term's own tells which term.
            of_terms = [name for name in lost if name.startswith("distiller.")]
            told = of_terms[0] if of_terms == lost else [name for name in lost if name not in of_terms][-1]
            prefix = ".".join(told.split(".")[:2])
            alone = of_terms == lost and all(name.startswith(f"{prefix}.") for name in of_terms)
            found.append(Finding("gradient", told, float(gradients[told].sum()), others=0 if alone else len(lost) - 1))
        return found

    def _bad_terms(self) -> list[Finding]:
        places: dict[tuple[str, str], dict[int, float]] = {}
        for (term, path, level), value in self.gradients.items():
            if not bool(torch.isfinite(value)):
                places.setdefault((term, path), {})[level] = float(value)
        return [
            Finding("term", TERMS + term, next(iter(values.values())), path, tuple(sorted(values)))
            for (term, path), values in places.items()
        ]

    def _tap(self, term: str) -> tuple[str, tuple[int, ...]]:
        """Where a term is measured, and the levels where its gradient is not finite, or else all of its own."""
        if term not in self.terms:
            return "", ()
        path = self.terms[term].student_tap
        levels = [
            level
            for (one, at, level), value in self.gradients.items()
            if (one, at) == (term, path) and not bool(torch.isfinite(value))
        ]
        return path, tuple(sorted(levels)) or tuple(self.terms[term].student_levels or ())
