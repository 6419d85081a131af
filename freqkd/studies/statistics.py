"""Statistics of a comparison study: paired differences, intervals, power, corrections and verdicts.

The records of a study are JSON files in one folder, read by `freqkd.studies.answer`. Metrics are finite, higher is
better, and they are not rounded (mmdet's printed AP has three decimals: two seeds then often differ by the same amount).

**One file for the study** (it is recognised by `metric_name`):

==================== =====================================================================================
``study``            str, the study's name
``metric_name``      str, for example ``"box AP"``
``teacher``          object; ``metric`` is the teacher's, on the reported split; optional ``by_class``, as that of a run
``calibration``      object; ``seconds_per_step`` and whatever turned seconds into steps; copied to the answer
``worthwhile``       float, optional: smallest gain worth having, in the metric's unit, fixed before the runs; default:
                     a tenth of the gap between the teacher and the student alone
``pilot``            object, optional: for each length, the number of first ``seeds`` and what `pilot` found in them
``scale``            float, optional: 100 where the metric is in percent; default 1
==================== =====================================================================================

**One file for each final run** (it is recognised by `method`; trials of the search lie elsewhere):

==================== =====================================================================================
``study``            str, the same
``method``           str; `STUDENT` is the student alone, `MSE` and `PKD` are the losses of these names, and a method's
                     name followed by `CONTROL` is that method with a teacher of random weights
``seed``             int; methods with the same seed share data order and first student weights
``budget``           ``{"steps": int}``; where it was given in seconds also ``"seconds"``. Runs of the same
                     seconds are compared with each other, else runs of the same steps
``options``          object: what the search chose, for example ``{"ratio": 8.0}``
``metric``           float, final, on the reported split
``curve``            ``[[step, metric on the selection part], ...]``, in order of steps, the last one at the end
``seconds_per_step`` float
``train_seconds``    float
``device``           str, optional: the GPU or processor; seconds on other devices than the student's are not compared
``peak_memory_mb``   float
``by_class``         object or null, optional: the metric of each class on the reported split by its name, from 0 to 1;
                     null for a class that no image has
``fidelity``         float or null: agreement with the teacher's predictions on the reported split, see `fidelity.fidelity`
``images``           file name of an ``.npz`` beside the record, or null; its layout is that of `resample`
``trials``           int: trials in the search
==================== =====================================================================================
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, stats

STUDENT, MSE, PKD, CONTROL = "student", "mse", "pkd", "-random-teacher"
LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 1000  # a study that needs more is reported as out of reach

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """A mean difference between two methods, and how well it is known.

    Attributes:
        mean: method - reference, in the metric's unit.
        seeds: number of pairs, or the smaller number of runs where they are not paired.
        paired: whether runs of the same seed were subtracted.
        left_out: seeds that only one of the two has.
        low, high: ends of the 95 % interval; None where the deviation is not known.
        deviation: standard deviation of one pair's difference (of a run and a run, for Welch); None likewise.
        error: standard error of the mean; None likewise.
        freedom: degrees of freedom of the interval; None likewise.
        p: two-sided p-value of "no difference"; None likewise.
    """

    mean: float
    seeds: int
    paired: bool
    left_out: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    error: float | None = None
    freedom: float | None = None
    p: float | None = None


def difference(method: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    r"""Return the mean difference of two methods with a 95 % t interval, paired over the seeds that both have.

    .. math:: \bar d \pm t_{0.975, n-1}\, s_d / \sqrt n,\quad d_i = a_i - b_i

    Fewer than two common seeds, and two runs or more each: Welch's interval for unequal variances,

    .. math:: \bar a - \bar b \pm t_{0.975, \nu} \sqrt{s_a^2 / n_a + s_b^2 / n_b}

    Otherwise there is no interval. Neither is there one where all paired differences are equal but not zero: metrics
    rounded to few digits do this by chance, and a deviation of zero would make any difference certain. Differences that
    are all exactly zero, from two seeds or more, give the interval from 0 to 0: the method changes nothing.

    Args:
        method, reference: the metric of each seed.

    Raises:
        ValueError: one of them is empty.

    References:
        Student 1908, Biometrika 6, 1-25; Welch 1947, doi 10.1093/biomet/34.1-2.28.

    Example:
        >>> found = difference({0: 0.52, 1: 0.53, 2: 0.57}, {0: 0.50, 1: 0.50, 2: 0.53, 3: 0.60})
        >>> found.seeds, found.left_out
        (3, (3,))
        >>> round(found.mean, 4), round(found.low, 4), round(found.high, 4)
        (0.03, 0.0052, 0.0548)
    """
    if not method or not reference:
        raise ValueError("difference needs at least one run of the method and one of the reference")
    common = sorted(method.keys() & reference.keys())
    left_out = tuple(sorted(method.keys() ^ reference.keys()))
    paired = len(common) >= 2 or (len(common) == 1 and min(len(method), len(reference)) == 1)
    a, b = (np.array([runs[seed] for seed in (common if paired else runs)]) for runs in (method, reference))
    found = Difference(float(a.mean() - b.mean()), min(len(a), len(b)), paired, left_out)
    if found.seeds == 1:
        return found
    deviation = float(np.std(a - b, ddof=1) if paired else np.hypot(a.std(ddof=1), b.std(ddof=1)))
    if deviation <= 1e-9 * max(np.abs(a).max(), np.abs(b).max()):
        same = paired and not (a - b).any()
        return replace(found, low=0, high=0, deviation=0, error=0, freedom=found.seeds - 1, p=1) if same else found
    test = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    p, freedom, low, high = (float(x) for x in (test.pvalue, test.df, *test.confidence_interval(1 - LEVEL)))
    error = (high - low) / 2 / float(stats.t.isf(LEVEL / 2, freedom))
    return replace(found, low=low, high=high, deviation=deviation, error=error, freedom=freedom, p=p)


def share_of_gap(method: Mapping[int, float], student: Mapping[int, float], teacher: float) -> list[float | None]:
    r"""Return the share of the gap between teacher and student alone that a method wins back, and its 95 % interval.

    .. math:: \theta = \bar d / \bar g,\quad d_i = m_i - s_i,\quad g_i = T - s_i

    Fieller's interval of a ratio: every :math:`\theta` that a paired t test of :math:`d_i - \theta g_i` does not reject.
    The teacher is one network, so its metric counts as fixed. The share is None where the teacher is not above the
    student; the ends are None where the gap itself may be zero, or `difference` has no paired interval.

    References:
        Fieller 1954, Some problems in interval estimation, J. R. Statist. Soc. B 16, 175-185.

    >>> share, low, high = share_of_gap({0: 0.45, 1: 0.47, 2: 0.46}, {0: 0.40, 1: 0.41, 2: 0.42}, 0.51)
    >>> round(share, 3), round(low, 3), round(high, 3)
    (0.5, 0.278, 0.722)
    """
    found = difference(method, student)
    common = sorted(method.keys() & student.keys()) if found.paired else [*student]
    g = np.array([teacher - student[seed] for seed in common])
    gap = float(g.mean())
    if gap <= 0:
        return [None, None, None]
    if found.paired and found.error is not None:
        d = np.array([method[seed] - student[seed] for seed in common])
        covariance = np.cov(d, g) * stats.t.isf(LEVEL / 2, len(d) - 1) ** 2 / len(d)
        square = gap**2 - covariance[1, 1]
        middle, rest = gap * found.mean - covariance[0, 1], found.mean**2 - covariance[0, 0]
        root = np.sqrt(max(middle**2 - square * rest, 0.0))
        if square > 0:
            return [found.mean / gap, float((middle - root) / square), float((middle + root) / square)]
    return [found.mean / gap, None, None]


def power(difference: float, deviation: float, seeds: int, level: float = LEVEL) -> float:
    r"""Return the chance that a paired t test over some seeds finds a true difference, with the right sign.

    .. math:: P(T > t_{1 - \alpha/2,\, n-1}),\quad T \sim t_{n-1}(|\delta| \sqrt n / \sigma)

    where T follows the noncentral t distribution.

    >>> round(power(1.0, 1.0, 10), 3)
    0.803
    """
    freedom, shift = seeds - 1, abs(difference) * np.sqrt(seeds) / deviation
    return float(stats.nct.sf(stats.t.isf(level / 2, freedom), freedom, shift))


def smallest_difference(deviation: float, seeds: int, level: float = LEVEL) -> float:
    """Return the smallest true difference that a study of so many pairs finds with a chance of 80 %.

    >>> round(smallest_difference(1.0, 10), 3), round(smallest_difference(1.0, 2), 1)
    (0.996, 11.5)
    """
    far = 4 * stats.t.isf(level / 2, seeds - 1) + 10
    shift = optimize.brentq(lambda x: power(x, np.sqrt(seeds), seeds, level) - POWER, 0.0, far)
    return float(shift * deviation / np.sqrt(seeds))


def seeds_needed(difference: float, deviation: float, level: float = LEVEL) -> int | None:
    """Return the number of pairs that finds a true difference with a chance of 80 %; None above `MOST_SEEDS`.

    >>> seeds_needed(1.0, 1.0), seeds_needed(0.0, 1.0)
    (10, None)
    """
    if not difference or not deviation:
        return None
    counts = range(2, MOST_SEEDS + 1)
    seeds = 2 + bisect_left(counts, POWER, key=lambda seeds: power(difference, deviation, seeds, level))
    return seeds if seeds in counts else None


def pilot(
    methods: Mapping[str, Mapping[int, float]], student: Mapping[int, float], worthwhile: float
) -> dict[str, Any]:
    r"""Return what the first runs of a study say about its number of seeds.

    .. math:: s = \sqrt{\textstyle\sum_m s_m^2 / M}

    with the deviation :math:`s_m` of paired differences of each of M methods to the student alone. The number is what
    `seeds_needed` gives for the smallest gain worth having at the level 5 % / M.

    The rule reads deviations and not gains, so that the first runs may count among the final ones. (Where the gain worth having
    is a tenth of the teacher's lead, it reads the student's mean, too.) In simulations of methods without effect, three first
    seeds and at most ten or twenty, 4 to 5 % of the studies of four or six methods had a false verdict, as they should; of two
    methods, whose deviation three seeds know less well, up to 7 %, of a single one up to 9 %. A true gain of that size is found
    with a chance of 70 to 80 %, where the number is not cut.

    Args:
        methods: the metric of each seed, of each method.
        student: the same of the student alone.
        worthwhile: the smallest gain worth having, in the metric's unit.

    Returns:
        `deviation`, s, or None where no method has one; `needed`, the number, or None above `MOST_SEEDS` and without s;
        `worthwhile`.

    References:
        Wittes and Brittain 1990, The role of internal pilot studies in increasing the efficiency of clinical trials,
        Statist. Med. 9, 65-72, which has one method.

    >>> found = pilot({"a": {0: 0.3, 1: 0.5, 2: 0.4}}, {0: 0.2, 1: 0.2, 2: 0.2}, 0.1)
    >>> found["needed"], round(found["deviation"], 3)
    (10, 0.1)
    """
    deviations = [one for runs in methods.values() if (one := difference(runs, student).deviation)]
    if not deviations:
        return dict(deviation=None, needed=None, worthwhile=worthwhile)
    deviation = float(np.sqrt(np.mean(np.square(deviations))))
    needed = seeds_needed(worthwhile, deviation, LEVEL / len(methods))
    return dict(deviation=deviation, needed=needed, worthwhile=worthwhile)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Return Holm's adjusted p-values: all that are at most 5 % may be called found, with one error in 20 such families.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    It holds for tests that depend on each other, as all comparisons to the same student do.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 65-70.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        adjusted[index] = highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """What a comparison may be called.

    Attributes:
        verdict: ``"helps"``, ``"does not help"``, ``"hurts"`` or ``"cannot tell"``.
        more_seeds: further seeds that would settle it with a chance of 80 %, if mean and deviation are as found; None where
            it is settled, no deviation is known, or `MOST_SEEDS` are too few.
        p_holm: Holm's adjusted p-value of "no difference"; None where no deviation is known.
    """

    verdict: str
    more_seeds: int | None
    p_holm: float | None

    def __str__(self) -> str:
        """Return the verdict in words.

        >>> print(Verdict("cannot tell", 7, 0.3))
        cannot tell yet, 7 more seeds would
        """
        if self.verdict != "cannot tell":
            return self.verdict
        if self.more_seeds:
            return f"cannot tell yet, {self.more_seeds} more seed{'s' * (self.more_seeds > 1)} would"
        if self.p_holm is None:
            return "cannot tell yet, the deviation over seeds is not known: run 2 more seeds"
        return f"cannot tell, even {MOST_SEEDS} seeds would not"


def verdicts(differences: Mapping[str, Difference], worthwhile: float) -> dict[str, Verdict]:
    r"""Return the verdict on every method that is compared to one reference.

    - helps, hurts: Holm's adjusted p-value of "no difference" is at most 5 %.
    - does not help: none of these, and the test of "the gain is at least `worthwhile`" rejects it (one-sided at 2.5 %,
      adjusted by Holm likewise): for a single method, the 95 % interval ends below `worthwhile`.
    - cannot tell: otherwise. The further seeds are what `seeds_needed` gives for the mean difference, or for its distance
      from `worthwhile` where that is settled sooner, at the level 5 % / number of methods, which always passes Holm's.

    The number of further seeds is a plan made from a deviation that few seeds know badly. Testing after every further
    seed until something is found makes false verdicts likelier than 5 % (12 % in a simulation of up to four looks at one
    method without effect): run the planned number, then test once.

    Args:
        differences: of every method to the reference. Those without a deviation are not tested and not counted.
        worthwhile: the smallest gain worth having, in the metric's unit.

    >>> runs = {0: 0.50, 1: 0.51, 2: 0.49}
    >>> found = difference({0: 0.55, 1: 0.57, 2: 0.54}, runs)
    >>> print(verdicts({"details": found}, 0.01)["details"])
    helps
    """
    tested = {name: found for name, found in differences.items() if found.p is not None}
    far = [stats.t.cdf((d.mean - worthwhile) / max(d.error or 0.0, 1e-300), d.freedom) for d in tested.values()]
    equal = dict(zip(tested, holm([d.p for d in tested.values() if d.p is not None])))
    small = dict(zip(tested, holm([min(1.0, 2 * p) for p in far])))
    answers = {name: Verdict("cannot tell", None, None) for name in differences}
    for name, found in tested.items():
        verdict, gaps = "cannot tell", [abs(found.mean), max(worthwhile - found.mean, 0.0)]
        if equal[name] <= LEVEL:
            verdict, gaps = "helps" if found.mean > 0 else "hurts", []
        elif small[name] <= LEVEL:
            verdict, gaps = "does not help", []
        needed = [seeds_needed(gap, found.deviation or 0.0, LEVEL / len(tested)) for gap in gaps]
        more = min((max(seeds - found.seeds, 1) for seeds in needed if seeds), default=None)
        answers[name] = Verdict(verdict, more, equal[name])
    return answers


def resample(images: Mapping[str, Array], draws: int = 1000, seed: int = 0) -> Array:
    r"""Return the metric (1 + draws,), from 0 to 1, of all images once, and then of as many drawn with replacement.

    The same number of images, draws and seed give the same samples, so that the metrics of two runs can be subtracted.

    Three layouts of `images`, for N images, C classes, D detections and T overlaps:

    - ``values`` (N,): the mean.
    - ``intersection``, ``union`` (N, C), pixels of each class: the mean IoU, over the classes that a sample has.
    - ``match`` (D, T) of true positives, ``score``, ``image``, ``category`` (D,) and ``objects`` (N, C): COCO's AP over
      101 recalls, T overlaps, and the classes that a sample has objects of. Detections are in order of images, at most
      100 an image; there are no crowd boxes.

    Raises:
        ValueError: the layout is none of these.

    >>> resample({"intersection": np.array([[3, 1], [1, 0]]), "union": np.array([[4, 2], [4, 0]])}, 5).shape
    (6,)
    """
    key = next((key for key in ("values", "union", "objects") if key in images), None)
    if key is None:
        raise ValueError(f"arrays of images must have 'values', 'union' or 'objects', got {sorted(images)}")
    number = len(images[key])
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), draws)
    counts = np.vstack([np.ones((1, number), int), drawn])
    weighted = counts @ images[key]  # of each sample
    if key == "values":
        return np.asarray(weighted / number)
    if key == "union":
        ratio = counts @ images["intersection"] / np.where(weighted > 0, weighted, np.nan)
        return np.asarray(np.nanmean(ratio, 1))
    order = np.argsort(-images["score"], kind="stable")
    of_class = [order[images["category"][order] == category] for category in range(weighted.shape[1])]
    classes = [(images["image"][at], np.ascontiguousarray(images["match"][at].T)) for at in of_class]
    return np.array([_average_precision(classes, *sample) for sample in zip(counts, weighted)])


def by_class(images: Mapping[str, Array]) -> list[float | None]:
    """Return the metric of each class, from 0 to 1, over all images; None where no image has the class.

    Args:
        images: in the second or third layout of `resample`.

    >>> by_class({"intersection": np.array([[3, 0, 0]]), "union": np.array([[4, 2, 0]])})
    [0.75, 0.0, None]
    """
    if "union" in images:
        pairs = zip(images["intersection"].sum(0), images["union"].sum(0))
        return [float(shared / either) if either else None for shared, either in pairs]
    found: list[float | None] = []
    for category, present in enumerate(images["objects"].sum(0)):
        of_class = images["category"] == category
        alone = {key: images[key][of_class] for key in ("match", "score", "image")}
        one = dict(alone, category=np.zeros(of_class.sum(), int), objects=images["objects"][:, [category]])
        found.append(float(resample(one, 0)[0]) if present else None)
    return found


def _average_precision(classes: list[tuple[Array, Array]], counts: Array, objects: Array) -> float:
    recalls, found = np.linspace(0, 1, 101), []
    for (image, match), present in zip(classes, objects):
        if present:
            weight = counts[image]
            true = np.cumsum(weight * match, 1)  # (T, detections of the class, best first)
            precision = true / np.maximum(np.cumsum(weight), 1)
            best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # at this recall or a higher one
            found += [np.append(b, 0)[np.searchsorted(t / present, recalls)] for t, b in zip(true, best)]
    return float(np.mean(found)) if found else np.nan


def image_interval(method: Sequence[Array], reference: Sequence[Array]) -> list[float]:
    """Return the 95 % bootstrap interval (percentiles) of a mean difference over images, for the networks at hand.

    It says how the difference varies with the images of the reported split, and nothing of other seeds.

    Args:
        method, reference: what `resample` gives for the runs, in the same order of seeds.

    References:
        Efron 1979, Bootstrap methods: another look at the jackknife, Ann. Statist. 7, 1-26.
    """
    draws = np.mean([a[1:] - b[1:] for a, b in zip(method, reference, strict=True)], axis=0)
    # Weibull's quantiles leave 2.5 % of further draws beyond each end, on average; numpy's own leave more.
    return [float(end) for end in np.nanquantile(draws, [LEVEL / 2, 1 - LEVEL / 2], method="weibull")]


def mean_curve(curves: Iterable[Iterable[Any]]) -> list[tuple[float, float]]:
    """Return the mean over runs of (step, metric), at the steps that all runs have.

    >>> mean_curve([[[1, 0.25], [2, 0.5]], [[1, 0.75], [2, 0.5], [3, 1.0]]])
    [(1, 0.5), (2, 0.5)]
    """
    tables = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return [(step, float(np.mean([table[step] for table in tables]))) for step in steps]


def seconds_to(target: float, curve: Sequence[Sequence[float]], seconds_per_step: float) -> float | None:
    """Return the seconds of training after which a curve is first at a metric or above it; None where it never is.

    >>> seconds_to(0.3, [[100, 0.2], [200, 0.35], [300, 0.3]], 0.5), seconds_to(0.4, [[100, 0.2]], 0.5)
    (100.0, None)
    """
    return next((step * seconds_per_step for step, metric in curve if metric >= target), None)
