"""Statistics of a comparison study, on made-up runs with known answers and against simulation."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from scipy import stats

from freqkd.studies.statistics import (
    MOST_SEEDS,
    Difference,
    by_class,
    difference,
    holm,
    image_interval,
    mean_curve,
    pilot,
    power,
    resample,
    seconds_to,
    seeds_needed,
    share_of_gap,
    smallest_difference,
    verdicts,
)


def runs(values, first=0):
    return dict(enumerate(map(float, values), first))


def inside(simulate, truth, repeats=1000):
    """Return the share of simulated intervals that hold the truth."""
    ends = [simulate(np.random.default_rng(seed)) for seed in range(repeats)]
    return np.mean([low <= truth <= high for low, high in ends])


class TestDifference:
    def test_is_the_paired_t_interval(self):
        # differences 1, 2, 3, 4: mean 2.5, deviation 1.29099, t(0.975, 3) = 3.18245
        found = difference(runs([11, 22, 33, 44]), runs([10, 20, 30, 40]))
        reach = 3.182446305 * 1.290994449 / 2
        assert (found.mean, found.low, found.high) == pytest.approx((2.5, 2.5 - reach, 2.5 + reach))
        assert (found.deviation, found.error, found.freedom) == pytest.approx((1.290994449, 0.6454972244, 3))
        assert found.p == pytest.approx(2 * stats.t.sf(2.5 / 0.6454972244, 3))
        assert (found.seeds, found.paired, found.left_out) == (4, True, ())

    def test_order_of_the_seeds_does_not_matter(self):
        one, other = runs([0.3, 0.5, 0.45]), runs([0.2, 0.45, 0.3])
        assert difference(dict(reversed(one.items())), other) == difference(one, other)

    def test_the_other_way_round_changes_the_sign_only(self):
        there, back = (difference(*pair) for pair in ((A, B), (B, A)))
        assert (back.mean, back.low, back.high, back.p) == pytest.approx(
            (-there.mean, -there.high, -there.low, there.p)
        )

    def test_a_missing_seed_leaves_the_other_pairs(self):
        whole, missing = runs([1, 5, 2, 9]), {0: 2.0, 2: 5.0, 3: 11.0, 7: 100.0}
        found = difference(missing, whole)
        pairs = difference(runs([2, 5, 11]), runs([1, 2, 9]))
        assert (found.mean, found.low, found.seeds, found.left_out) == (pairs.mean, pairs.low, 3, (1, 7))

    def test_seeds_that_differ_give_welch(self):
        a, b = [0.50, 0.54, 0.58, 0.47], [0.30, 0.31, 0.29]
        found, test = difference(runs(a), runs(b, first=10)), stats.ttest_ind(a, b, equal_var=False)
        assert (found.p, found.freedom) == pytest.approx((test.pvalue, test.df))
        assert found.error == pytest.approx(np.sqrt(np.var(a, ddof=1) / 4 + np.var(b, ddof=1) / 3))
        assert found.deviation == pytest.approx(np.sqrt(np.var(a, ddof=1) + np.var(b, ddof=1)))
        assert (found.seeds, found.paired, found.left_out) == (3, False, (0, 1, 2, 3, 10, 11, 12))

    def test_one_common_seed_gives_welch_too(self):
        found = difference({0: 0.5, 1: 0.6}, {1: 0.4, 2: 0.35})
        assert (found.paired, found.seeds, found.left_out) == (False, 2, (0, 2))
        assert found.p == pytest.approx(stats.ttest_ind([0.5, 0.6], [0.4, 0.35], equal_var=False).pvalue)

    @pytest.mark.parametrize(
        ("one", "other", "mean", "paired"),
        [
            ({0: 0.5}, {0: 0.4}, 0.1, True),
            ({0: 0.5}, {0: 0.4, 1: 0.6}, 0.1, True),
            ({0: 0.5}, {1: 0.4, 2: 0.2}, 0.2, False),
        ],
    )
    def test_one_seed_has_no_interval(self, one, other, mean, paired):
        found = difference(one, other)
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high, found.deviation, found.p, found.seeds, found.paired) == (*[None] * 4, 1, paired)

    def test_no_run_is_an_error(self):
        with pytest.raises(ValueError, match="at least one run"):
            difference({}, {0: 1.0})

    def test_equal_runs_differ_by_nothing(self):
        found = difference(A, A)
        assert (found.mean, found.low, found.high, found.deviation, found.p) == (0, 0, 0, 0, 1)

    @pytest.mark.parametrize("other", [runs([0.354, 0.361, 0.297]), runs([0.352] * 3, first=5)])
    def test_differences_that_are_equal_by_rounding_are_not_certain(self, other):
        one = runs([0.356, 0.363, 0.299]) if 0 in other else runs([0.356] * 3)
        found = difference(one, other)
        assert found.mean > 0
        assert (found.low, found.high, found.deviation, found.p) == (None, None, None, None)

    @pytest.mark.usefixtures("many_draws")
    def test_paired_intervals_hold_the_truth_as_often_as_they_say(self):
        def simulate(rng):
            shared = rng.normal(0, 5, 4)  # what seeds have in common, far larger than what they do not
            found = difference(runs(shared + 0.3 + rng.normal(0, 1, 4)), runs(shared + rng.normal(0, 0.5, 4)))
            return found.low, found.high

        assert inside(simulate, 0.3) == pytest.approx(0.95, abs=0.02)

    @pytest.mark.usefixtures("many_draws")
    def test_welch_intervals_hold_the_truth_where_variances_and_numbers_differ(self):
        def draw(rng):
            return rng.normal(0.3, 5, 4), rng.normal(0, 1, 12)

        def welch(rng):
            a, b = draw(rng)
            found = difference(runs(a), runs(b, first=100))
            return found.low, found.high

        def pooled(rng):
            return stats.ttest_ind(*draw(rng)).confidence_interval()

        assert inside(welch, 0.3) == pytest.approx(0.95, abs=0.02)
        assert inside(pooled, 0.3) < 0.85  # what equal variances would have claimed


A, B = runs([0.45, 0.47, 0.46, 0.49]), runs([0.40, 0.41, 0.42, 0.43])


class TestShareOfGap:
    def test_ends_are_those_that_a_paired_t_test_just_rejects(self):
        share, low, high = share_of_gap(A, B, 0.51)
        assert share == pytest.approx(0.0525 / 0.095)
        d, g = np.subtract([*A.values()], [*B.values()]), 0.51 - np.array([*B.values()])
        for end in (low, high):
            assert stats.ttest_1samp(d - end * g, 0).pvalue == pytest.approx(0.05)

    @pytest.mark.usefixtures("many_draws")
    def test_intervals_hold_the_truth_as_often_as_they_say(self):
        def simulate(rng):
            student = rng.normal(0.40, 0.02, 5)
            method = student + 0.05 + rng.normal(0, 0.02, 5)
            return share_of_gap(runs(method), runs(student), 0.50)[1:]

        assert inside(simulate, 0.5) == pytest.approx(0.95, abs=0.02)

    def test_no_share_where_the_teacher_is_not_better(self):
        assert share_of_gap(A, B, 0.415) == [None, None, None]

    def test_no_ends_where_the_gap_may_be_zero_or_seeds_are_too_few(self):
        assert share_of_gap(A, B, 0.42)[1:] == [None, None]
        assert share_of_gap({0: 0.45}, {0: 0.40}, 0.50) == [pytest.approx(0.5), None, None]

    def test_without_common_seeds_means_are_compared(self):
        assert share_of_gap(runs([0.46, 0.44], first=9), runs([0.41, 0.39]), 0.5) == [pytest.approx(0.5), None, None]


class TestPower:
    @pytest.mark.parametrize(("effect", "seeds", "level"), [(1.0, 5, 0.05), (2.0, 3, 0.05), (1.5, 6, 0.01)])
    def test_agrees_with_simulation(self, effect, seeds, level):
        d = np.random.default_rng(0).normal(effect, 1, (20000, seeds))
        test = stats.ttest_1samp(d, 0, axis=1)
        found = np.mean((test.pvalue < level) & (test.statistic > 0))
        assert power(effect, 1.0, seeds, level) == pytest.approx(found, abs=0.01)

    @pytest.mark.parametrize("seeds", [2, 3, 5, 20, 500])
    def test_smallest_difference_is_found_four_times_in_five(self, seeds):
        smallest = smallest_difference(0.013, seeds)
        assert power(smallest, 0.013, seeds, 0.05) == pytest.approx(0.8, abs=1e-6)

    @pytest.mark.parametrize("effect", [5.0, 1.0, 0.2])
    def test_seeds_needed_is_the_smallest_number_that_suffices(self, effect):
        needed = seeds_needed(effect, 1.0)
        assert power(effect, 1.0, needed) >= 0.8
        assert needed == 2 or power(effect, 1.0, needed - 1) < 0.8

    def test_too_many_seeds_are_none(self):
        assert seeds_needed(1e-4, 1.0) is None
        edge = smallest_difference(1.0, MOST_SEEDS)
        assert seeds_needed(1.0001 * edge, 1.0) == MOST_SEEDS
        assert seeds_needed(0.9999 * edge, 1.0) is None


def test_holm_adjusts_as_in_the_paper():
    # Ranked 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_without_any_effect_one_family_in_twenty_errs():
    """Eight methods against one student, all alike: 0.046 in 200 000 families; a deviation here of 0.002."""
    rng = np.random.default_rng(0)
    d = rng.normal(0, 1, (10000, 8, 5)) - rng.normal(0, 1, (10000, 1, 5))
    p_values = stats.ttest_1samp(d, 0, axis=2).pvalue
    assert 0.035 < np.mean([min(holm(row)) <= 0.05 for row in p_values]) < 0.055
    assert np.mean(p_values.min(1) <= 0.05) > 0.15  # without the correction


class TestPilot:
    def test_number_is_that_of_the_mean_square_deviation_at_a_level_for_all_methods(self):
        student = runs([0.3, 0.31, 0.29])
        methods = {"a": runs([0.33, 0.30, 0.30]), "b": runs([0.4, 0.43, 0.40]), "one seed": {0: 0.5}}
        deviations = [difference(methods[name], student).deviation for name in "ab"]
        found = pilot(methods, student, 0.02)
        assert found["deviation"] == pytest.approx(np.sqrt(np.square(deviations).mean()))
        assert found["needed"] == seeds_needed(0.02, found["deviation"], 0.05 / 3)  # one of three has no deviation yet
        assert pilot(methods, student, 0.01)["needed"] > found["needed"]
        shifted = {name: {seed: value + 0.05 for seed, value in one.items()} for name, one in methods.items()}
        assert pilot(shifted, student, 0.02)["needed"] == found["needed"]  # it does not read the gains

    def test_without_a_deviation_there_is_no_number(self):
        found = pilot({"a": {0: 0.4}}, {0: 0.3}, 0.02)
        assert found == dict(deviation=None, needed=None, worthwhile=0.02)

    def test_out_of_reach(self):
        assert pilot({"a": runs([0.4, 0.2, 0.3])}, runs([0.3, 0.3, 0.3]), 1e-4)["needed"] is None

    @pytest.mark.parametrize(("methods", "low", "high"), [(4, 0.04, 0.06), (1, 0.06, 0.10)])
    def test_false_verdicts_are_as_frequent_as_the_docstring_says(self, methods, low, high):
        """Methods without effect beside one student, three first seeds and at most ten; as it is coded, on arrays."""
        rng, studies, worthwhile, level = np.random.default_rng(0), 20000, 1.25, 0.05 / methods
        d = (rng.normal(0, 1, (studies, methods, 10)) - rng.normal(0, 1, (studies, 1, 10))) / 2**0.5
        deviation = np.sqrt(d[..., :3].var(2, ddof=1).mean(1))
        grid = np.geomspace(0.02, 10, 200)
        numbers = np.array([seeds_needed(worthwhile, x, level) or MOST_SEEDS for x in grid]).clip(3, 10)
        number = numbers[np.searchsorted(grid, deviation)]
        first = {str(i): runs(row) for i, row in enumerate(d[0, :, :3])}
        found = pilot(first, runs([0.0] * 3), worthwhile)  # which is what the arrays say of the first study
        assert found["deviation"] == pytest.approx(deviation[0])
        assert np.clip(found["needed"], 3, 10) == pytest.approx(number[0], abs=1)
        p_values = np.ones((studies, methods))
        for seeds in range(3, 11):
            p_values[number == seeds] = stats.ttest_1samp(d[number == seeds, :, :seeds], 0, axis=2).pvalue
        assert low < np.mean(p_values.min(1) <= level) < high  # Holm's first step


class TestVerdicts:
    @staticmethod
    def of(values, worthwhile=0.01, others=0):
        student = runs([0.40, 0.42, 0.38, 0.41, 0.39][: len(values)])
        noise = np.random.default_rng(1).normal(0, 0.01, (others, 5))
        methods = {"x": values} | {f"other {i}": row for i, row in enumerate(noise)}
        found = {name: difference(runs(np.add([*student.values()], d)), student) for name, d in methods.items()}
        return verdicts(found, worthwhile)["x"]

    @pytest.mark.parametrize(
        ("values", "word"),
        [
            ([0.050, 0.060, 0.040, 0.055, 0.045], "helps"),
            ([-0.050, -0.060, -0.040, -0.055, -0.045], "hurts"),
            ([0.001, -0.001, 0.002, -0.002, 0.000], "does not help"),
            ([0.03, -0.02, 0.04, -0.01, 0.02], "cannot tell yet, "),
            ([0.0] * 5, "does not help"),
        ],
    )
    def test_word(self, values, word):
        assert str(self.of(values)).startswith(word)

    def test_p_values_are_corrected_over_the_methods(self):
        student = runs([0.40, 0.42, 0.38, 0.41])
        noise = np.random.default_rng(2).normal([[0.02], [0.01], [0.0], [-0.03]], 0.01, (4, 4))
        found = {str(i): difference(runs(np.add([*student.values()], d)), student) for i, d in enumerate(noise)}
        given = verdicts(found, 0.01)
        assert [v.p_holm for v in given.values()] == holm([d.p for d in found.values()])
        for name, verdict in given.items():
            assert (verdict.verdict in ("helps", "hurts")) == (verdict.p_holm <= 0.05), name
        assert {v.verdict in ("helps", "hurts") for v in given.values()} == {True, False}

    def test_methods_without_a_deviation_are_not_counted(self):
        one, single = difference(A, B), difference({0: 0.5}, {0: 0.4})
        assert verdicts({"a": one, "b": single}, 0.01)["a"] == verdicts({"a": one}, 0.01)["a"]

    def test_one_seed_cannot_tell(self):
        found = self.of([0.2])
        assert (found.verdict, found.more_seeds, found.p_holm) == ("cannot tell", None, None)
        assert str(found).startswith("cannot tell yet")
        assert "run 2 more seeds" in str(found)

    def test_equal_differences_cannot_tell(self):
        assert self.of([0.2] * 5).verdict == "cannot tell"

    def test_many_methods_need_more_evidence(self):
        values = [0.010, 0.030, 0.015, 0.025, 0.004]
        assert self.of(values).verdict == "helps"
        assert self.of(values, others=20).verdict == "cannot tell"

    def test_does_not_help_where_the_interval_ends_below_what_is_worthwhile(self):
        values = [0.004, -0.003, 0.002, -0.002, 0.000]
        high = difference(runs(values), runs([0.0] * 5)).high
        assert self.of(values, worthwhile=high * 1.001).verdict == "does not help"
        assert self.of(values, worthwhile=high * 0.999).verdict == "cannot tell"

    def test_more_seeds_is_the_smaller_of_both_plans(self):
        values = [0.03, -0.02, 0.04, -0.01, 0.02]  # mean 0.012, deviation 0.0259
        found = difference(runs(values), runs([0.0] * 5))
        assert self.of(values, worthwhile=0.0).more_seeds == seeds_needed(found.mean, found.deviation) - 5
        assert self.of(values, worthwhile=0.5).verdict == "does not help"
        assert self.of(values, worthwhile=0.04).more_seeds == seeds_needed(0.04 - found.mean, found.deviation) - 5

    def test_out_of_reach(self):
        found = self.of([0.0201, -0.02, 0.02, -0.02, 0.0], worthwhile=0.0)
        assert (found.more_seeds, str(found)) == (None, "cannot tell, even 1000 seeds would not")

    @pytest.mark.usefixtures("many_draws")
    def test_further_seeds_settle_it_four_times_in_five(self):
        """A true difference as large as the one found, at the number of seeds that the verdict asks for."""
        wanted = self.of([0.03, -0.02, 0.04, -0.01, 0.02], worthwhile=0.0, others=2)
        d = difference(runs([0.03, -0.02, 0.04, -0.01, 0.02]), runs([0.0] * 5))
        rng, settled = np.random.default_rng(0), 0
        for _ in range(300):
            values = rng.normal(d.mean, d.deviation, 5 + wanted.more_seeds)
            found = {"x": difference(runs(values), runs(0 * values))}
            found |= {str(i): Difference(0, 5, True, (), -1, 1, 1, 1, 4, 1.0) for i in range(2)}
            settled += verdicts(found, 0.0)["x"].verdict == "helps"
        assert settled / 300 == pytest.approx(0.8, abs=0.06)

    @pytest.mark.usefixtures("many_draws")
    def test_a_worthwhile_gain_is_seldom_denied(self):
        denied = 0
        for seed in range(500):
            values = np.random.default_rng(seed).normal(0.5, 1, 5)
            denied += verdicts({"x": difference(runs(values), runs(0 * values))}, 0.5)["x"].verdict == "does not help"
        assert denied / 500 <= 0.04  # 2.5 %


class TestImages:
    def test_mean_of_values(self):
        images = {"values": np.arange(10.0)}
        drawn = resample(images, draws=500)
        assert drawn.shape == (501,)
        assert drawn[0] == 4.5
        assert drawn[1:].std() == pytest.approx(np.arange(10).std() / np.sqrt(10), rel=0.1)

    def test_same_seed_draws_the_same_samples(self):
        one, other = {"values": np.arange(10.0)}, {"values": np.arange(10.0) + 2}
        assert np.array_equal(resample(one), resample(one))
        assert np.allclose(resample(other) - resample(one), 2)
        assert not np.array_equal(resample(one), resample(one, seed=1))

    def test_interval_is_the_analytic_one_for_a_mean_and_paired(self):
        rng = np.random.default_rng(0)
        hard = rng.normal(0, 5, 200)  # how hard an image is for both
        a, b = ({"values": hard + rng.normal(shift, 1, 200)} for shift in (0.4, 0.0))
        low, high = image_interval([resample(a, 4000)], [resample(b, 4000)])
        d = a["values"] - b["values"]
        reach = 1.96 * d.std() / np.sqrt(200)
        assert (low, high) == pytest.approx((d.mean() - reach, d.mean() + reach), abs=0.015)
        theirs = stats.bootstrap((d,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)

    @pytest.mark.usefixtures("many_draws")
    def test_interval_holds_the_truth_as_often_as_it_says(self):
        """For 100 images, theory gives 0.946: the deviation of a sample is a little small, and normal ends are not t."""
        sets = np.random.default_rng(0).normal(0.2, 1, (100, 5000))
        drawn = resample({"values": sets})  # of all sets at once: the mean is over the first axis
        ends = np.array([image_interval([column], [0 * column]) for column in drawn.T])
        assert np.mean((ends[:, 0] <= 0.2) & (ends[:, 1] >= 0.2)) == pytest.approx(0.946, abs=0.012)

    def test_runs_are_averaged_before_the_interval_is_taken(self):
        up, zero = {"values": np.array([1.0, 0.0])}, resample({"values": np.zeros(2)})
        down = {"values": np.array([-1.0, 0.0])}
        assert image_interval([resample(up), resample(down)], [zero, zero]) == [0, 0]

    def test_ends_leave_a_fortieth_of_further_draws_beyond(self):
        assert image_interval([np.arange(1000.0)], [np.zeros(1000)]) == [25, 975]  # 999 draws, 1 to 999

    def test_all_images_once_are_not_one_of_the_draws(self):
        one, other = np.array([1e9, 1.0, 1.0]), np.zeros(3)
        assert image_interval([one], [other]) == [1, 1]

    def test_mean_iou_adds_pixels_before_it_divides(self):
        images = {"intersection": np.array([[1, 0], [8, 0]]), "union": np.array([[10, 0], [10, 0]])}
        assert resample(images, 1)[0] == pytest.approx(9 / 20)  # class 1 does not occur
        assert by_class(images) == [9 / 20, None]

    def test_mean_iou_of_samples(self):
        rng = np.random.default_rng(0)
        union = rng.integers(1, 9, (4, 3))
        images = {"intersection": union - 1, "union": union}
        counts = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), 20)
        for drawn, count in zip(resample(images, 20)[1:], counts):
            again = {key: np.repeat(value, count, axis=0) for key, value in images.items()}
            assert drawn == pytest.approx(resample(again, 1)[0])

    def test_another_layout_is_an_error(self):
        with pytest.raises(ValueError, match="got \\['numbers'\\]"):
            resample({"numbers": np.zeros(3)})


class TestAveragePrecision:
    """Against pycocotools, which is also where the arrays come from."""

    @staticmethod
    def evaluate(objects, detections, number):
        """Return pycocotools' AP and the arrays of `resample`."""
        coco = pytest.importorskip("pycocotools.coco")
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco.COCO()
            boxes = [dict(id=i + 1, iscrowd=0, area=o["bbox"][2] * o["bbox"][3], **o) for i, o in enumerate(objects)]
            truth.dataset = dict(info={}, images=[dict(id=i) for i in range(number)], annotations=boxes,
                                 categories=[dict(id=c) for c in range(3)])  # fmt: skip
            truth.createIndex()
            found = COCOeval(truth, truth.loadRes(detections), "bbox")
            found.evaluate()
            found.accumulate()
            found.summarize()
        cells = [cell for cell in found.evalImgs if cell and cell["aRng"] == [0, 1e10]]
        cells.sort(key=lambda cell: cell["image_id"])
        arrays = {key: np.concatenate([np.full(len(cell["dtScores"]), cell[name]) for cell in cells])
                  for key, name in (("image", "image_id"), ("category", "category_id"))}  # fmt: skip
        arrays["score"] = np.concatenate([cell["dtScores"] for cell in cells])
        arrays["match"] = np.concatenate([cell["dtMatches"].T > 0 for cell in cells])
        arrays["objects"] = np.zeros((number, 3), int)
        for one in objects:
            arrays["objects"][one["image_id"], one["category_id"]] += 1
        return found.stats[0], arrays

    @staticmethod
    def scene(number=6):
        rng = np.random.default_rng(3)
        objects, detections = [], []
        for image in range(number):
            for _ in range(rng.integers(1, 9)):
                category, box = (
                    int(rng.integers(0, 2 if image else 3)),
                    [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)],
                )
                objects.append(dict(image_id=image, category_id=category, bbox=box))
                for _ in range(rng.integers(0, 4)):
                    near = [float(v) for v in np.add(box, rng.normal(0, 2, 4))]
                    detections.append(dict(image_id=image, category_id=category, bbox=near, score=float(rng.uniform())))
            stray = dict(image_id=image, category_id=1, bbox=[0.0, 0.0, 5.0, 5.0], score=float(rng.uniform()))
            detections.append(stray)
        return objects, detections

    def test_of_all_images(self):
        expected, arrays = self.evaluate(*self.scene(), 6)
        assert 0.1 < expected < 0.9
        assert resample(arrays, 1)[0] == pytest.approx(expected, abs=1e-9)

    def test_of_each_class(self):
        objects, detections = self.scene()
        of = {category: [[one for one in part if one["category_id"] == category] for part in (objects, detections)]
              for category in (0, 1)}  # fmt: skip
        for category in (0, 1):
            alone, _ = self.evaluate(*of[category], 6)
            assert by_class(self.evaluate(objects, detections, 6)[1])[category] == pytest.approx(alone, abs=1e-9)
        missed = [one for one in detections if one["category_id"] != 0]
        values = by_class(self.evaluate(objects, missed, 6)[1])
        assert values[0] == 0
        absent = self.evaluate([one for one in objects if one["category_id"] != 2], detections, 6)[1]
        assert by_class(absent)[2] is None

    def test_of_samples_with_repeated_images(self):
        objects, detections = self.scene()
        _, arrays = self.evaluate(objects, detections, 6)
        counts = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), 12)
        assert any(count[0] == 0 for count in counts)  # class 2 is in image 0 only
        for drawn, count in zip(resample(arrays, 12)[1:], counts):
            order = np.repeat(np.arange(6), count)
            copies = [[dict(one, image_id=i) for i, j in enumerate(order) for one in part if one["image_id"] == j]
                      for part in (objects, detections)]  # fmt: skip
            assert drawn == pytest.approx(self.evaluate(*copies, 6)[0], abs=1e-9)


class TestCurves:
    def test_mean_over_the_steps_that_all_have(self):
        assert mean_curve([[[2, 1.0], [1, 0.0]], [[1, 1.0], [2, 2.0], [3, 9.0]]]) == [(1, 0.5), (2, 1.5)]

    def test_first_time_at_the_target(self):
        curve = [[10, 0.1], [20, 0.3], [30, 0.2], [40, 0.5]]
        assert seconds_to(0.3, curve, 2.0) == 40
        assert seconds_to(0.31, curve, 2.0) == 80
        assert seconds_to(0.51, curve, 2.0) is None
