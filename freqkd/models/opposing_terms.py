"""Notice of terms whose gradient points against the task's."""

from __future__ import annotations

import math
from collections import deque

COUNT = 10  # measurements whose mean is judged: single batches differ
AGAINST = -0.1  # mean cosine from which a term is told


class OpposingTerms:
    """Look at the cosines between the gradients of terms and task, and say once of each that its own points against the task's.

    >>> opposing = OpposingTerms()
    >>> [bool(opposing.notice("loss_logit", -0.2, 0.5)) for _ in range(12)].index(True)
    9
    """

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[float, float]]] = {}
        self._said: set[str] = set()

    def notice(self, name: str, cosine: float, ratio: float) -> str:
        """Return a sentence on a term that pulls against the task, "" where nothing is to be said.

        Args:
            name: the term's.
            cosine: between its gradient and the task's, at the tap in this iteration.
            ratio: of its weighted gradient to the task's; where it is 0, the term does not pull.
        """
        if name in self._said or not (math.isfinite(cosine) and math.isfinite(ratio) and ratio > 0):
            return ""
        recent = self._recent.setdefault(name, deque(maxlen=COUNT))
        recent.append((cosine, ratio))
        mean = sum(cosine for cosine, _ in recent) / len(recent)
        if len(recent) < COUNT or mean > AGAINST:
            return ""
        self._said.add(name)
        lost = -sum(cosine * ratio for cosine, ratio in recent) / len(recent)
        return (
            f"terms.{name} pulls against the task: the cosine between their gradients at the tap is {mean:.2f} in the mean of "
            f"the last {COUNT} measured iterations, which takes away {100 * lost:.2g} % of the task's gradient; where the "
            "student ends no better than alone, give the term a smaller weight, or let it end earlier (schedule)"
        )
