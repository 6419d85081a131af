"""Search of a study: the same number of trials for every method, decided by the metric on the selection part."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from freqkd.utils.checks import check_at_least, check_choice, check_positive

SEED = 1000  # of every trial; reported seeds lie below
MEASURED = 50  # iterations over which a ratio is measured
_OPTIONS = dict(methods=("ratio", "lr", "length"), student=("lr", "length"))

Options = Mapping[str, Any]


def check_search(search: Any, methods: Mapping[str, Mapping[str, Options]]) -> None:
    """Check that every method has as many trials as the student alone, and that a ratio has a term to act on.

    Args:
        search: `dict(methods=[dict(ratio=...), ...], student=[dict(lr=...), ...])`; further options of a trial are `lr`, a
            factor on the config's learning rate, and `length`, a share of the budget. Empty: no search.
        methods: the terms of each method.

    Raises:
        ValueError: a part is wrong.
    """
    if not isinstance(search, Mapping) or (search and set(search) != set(_OPTIONS)):
        raise ValueError(
            f"search must be dict(methods=[dict(ratio=...), ...], student=[dict(lr=...), ...]), got {search!r}"
        )
    for part, trials in search.items():
        if not isinstance(trials, (list, tuple)) or not all(isinstance(trial, Mapping) for trial in trials):
            raise ValueError(f"search.{part} must be a list of dicts, got {trials!r}")
        for place, trial in enumerate(trials):
            for key, value in trial.items():
                check_choice(f"an option in search.{part}", key, _OPTIONS[part])
                check_positive(f"search.{part}[{place}].{key}", value)
            check_at_least(f"search.{part}[{place}].length", trial.get("length", 1), 0, most=1)
            if trial in trials[:place]:
                raise ValueError(f"search.{part} must name every trial once, got {dict(trial)} twice; remove one")
    counts = [len(search.get(part, ())) for part in _OPTIONS]
    if counts[0] != counts[1] or (search and not counts[0]):
        raise ValueError(f"search must have as many trials for methods as for student, at least one, got {counts}")
    ratios = ["ratio" in trial for trial in search.get("methods", ())]
    for name, terms in methods.items():
        is_open = any("weight" not in term for term in terms.values())
        if is_open != bool(ratios and all(ratios)) or (any(ratios) and not all(ratios)):
            raise ValueError(
                f"methods.{name} must have a term without weight, and every trial of search.methods a ratio for it, or "
                f"neither, got {'such a term' if is_open else 'no such term'} and {sum(ratios)} ratios in {len(ratios)} trials"
            )


def apply_trial(terms: Mapping[str, Options], options: Options) -> dict[str, dict[str, Any]]:
    """Return the terms of a method, those without a weight with the ratio of a trial.

    >>> apply_trial({"loss_a": {"weight": 1.0}, "loss_b": {}}, {"ratio": 2.0})["loss_b"]
    {'weight': {'ratio': 2.0, 'iters': 50}}
    """
    changed = {name: dict(copy.deepcopy(term)) for name, term in terms.items()}
    for term in changed.values():
        if "ratio" in options:
            term.setdefault("weight", dict(ratio=options["ratio"], iters=MEASURED))
    return changed


def name_trial(options: Options) -> str:
    """Return the name of a trial, for its file and its line.

    >>> name_trial({"lr": 2.0, "length": 0.5}), name_trial({})
    ('lr2-length0.5', 'as-given')
    """
    return "-".join(f"{key}{value:g}" for key, value in options.items()) or "as-given"


def choose(trials: Sequence[Options]) -> dict[str, Any]:
    """Return the options of the trial with the highest metric on the selection part, the first of equal ones.

    Args:
        trials: their records, in the order of the study; the metric is None where a loss was not finite.

    Raises:
        ValueError: no trial has a metric.

    >>> choose([dict(options=dict(ratio=1.0), metric=0.3), dict(options=dict(ratio=4.0), metric=0.4)])
    {'ratio': 4.0}
    """
    found = [trial for trial in trials if trial["metric"] is not None]
    if not found:
        raise ValueError("search must hold a trial whose loss stays finite, but none did; change its values")
    return dict(max(found, key=lambda trial: trial["metric"])["options"])
