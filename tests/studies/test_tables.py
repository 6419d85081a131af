"""Tables and numbers of pages, from made-up runs with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_runs import GAINS, STUDENT, STUDY, made_up, run

from freqkd.studies.answer import markdown, summarise
from freqkd.studies.statistics import difference, seeds_needed
from freqkd.studies.tables import beside, between, classes, gains, number, premises, summary, trials

EXPLORED = STUDY | {"study": "forms", "metric_name": "box AP, selection part"}


def rows(table):
    """Return the cells of a table's rows below its head, by the first of them."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {first: rest for first, *rest in lines}


class TestPremises:
    STUDY = STUDY | {"teacher": {"metric": 0.54, "by_class": dict(zip("abcde", [0.9, 0.0099, 0.01, None, 0.0]))}}

    def test_one_seed_has_no_row(self):
        with pytest.raises(ValueError, match="premises needs a study with two seeds"):
            premises([summarise(STUDY, made_up({"student": [0.0], "mse": [0.1]}))])

    def test_a_row_for_each_length_with_several_seeds(self):
        few = [run(method, 0, 0.5, steps=600) for method in ("student", "mse")]  # one seed has no deviation
        chosen = {key: GAINS[key] for key in ("student", "mse", "unclear")}
        explored = self.STUDY | {"study": "forms", "metric_name": "box AP, selection part"}
        answers = [summarise(study, made_up(chosen) + few) for study in (self.STUDY, explored)]
        _, _, *rows = premises(answers).splitlines()
        final, deviations = np.mean(STUDENT) - 0.01, [np.std(chosen[key], ddof=1) for key in ("mse", "unclear")]
        deviation, least = np.sqrt(np.mean(np.square(deviations))), answers[0]["lengths"][0]["worthwhile"]
        expected = ["cells, 300 steps", "box AP", "0.5400", "2 of 4", f"{0.54 - np.mean(STUDENT):.4f}",
                    f"{0.05 * final:+.4f}", f"{np.std(STUDENT, ddof=1):.4f}",
                    f"{deviation:.4f}", str(len(STUDENT)), str(seeds_needed(least, deviation, 0.025))]  # fmt: skip
        assert rows == [f"| {' | '.join(expected)} |"]


def test_a_method_over_studies():
    answers = [summarise(study, made_up()) for study in (STUDY, EXPLORED)]
    table = rows(summary(answers, "details"))
    assert table.keys() == {"cells, 300 steps"}
    metric, seeds, student, details, teacher, over_student, over_mse, over_pkd = table["cells, 300 steps"]
    assert (metric, seeds, student, details, teacher, over_pkd) == ("box AP", "5", "0.4000", "0.4700", "0.5400", "-")
    assert over_student.startswith("+0.0700, +0.0")
    assert over_student.endswith(": helps")
    assert over_mse.startswith("+0.0300, ")


def test_gains_of_methods_over_studies():
    answers = [summarise(STUDY, made_up()), summarise(STUDY | {"study": "b"}, made_up({"student": [0.0] * 2}))]
    table = rows(gains([*answers, summarise(EXPLORED, made_up())], ["low", "mse"]))
    found = difference(dict(enumerate(np.add(STUDENT, GAINS["mse"]))), dict(enumerate(STUDENT)))
    assert table["cells, 300 steps"][:3] == ["box AP", "5", "0.400"]
    assert table["cells, 300 steps"][4:] == [f"**+0.040, {found.low:+.3f} to {found.high:+.3f}**", "0.540"]
    assert table["b, 300 steps"] == ["box AP", "2", "0.410", "-", "-", "0.540"]
    assert len(table) == 2
    with pytest.raises(ValueError, match="gains must name methods of the studies, got 'cwd', which is in none"):
        gains(answers, ["mse", "cwd"])
    with pytest.raises(ValueError, match="gains must have a word in the name of a study that has run, got 'roads'"):
        gains([], ["mse"], "roads")
    fewer = [one for one in made_up() if one["method"] != "unclear" or one["seed"] < 2]
    cell = rows(gains([summarise(STUDY, fewer)], ["unclear"]))["cells, 300 steps"][3]
    assert cell.endswith(", 2 seeds")
    assert "**" not in cell


class TestBetween:
    def test_differences_are_paired_over_the_seeds_that_both_have(self):
        runs = [one for one in made_up() if (one["method"], one["seed"]) != ("mse", 4)]
        table = rows(between([summarise(STUDY, runs), summarise(EXPLORED, runs)], "details", "mse"))
        values = {name: {s: STUDENT[s] + GAINS[name][s] for s in range(4)} for name in ("details", "mse")}
        found = difference(values["details"], values["mse"])
        assert table["cells, 300 steps"][1] == "4"
        assert table["cells, 300 steps"][2:4] == [
            f"{np.mean([*values[name].values()]):.4f}" for name in ("details", "mse")
        ]
        assert table["cells, 300 steps"][-1] == f"{found.mean:+.4f}, {found.low:+.4f} to {found.high:+.4f}"
        assert table.keys() == {"cells, 300 steps"}  # not of the study that explores

    def test_a_length_with_one_of_them_is_left_out_and_none_is_an_error(self):
        answers = [summarise(STUDY, made_up() + made_up({"student": [0.0], "mse": [0.1]}, steps=600))]
        assert rows(between(answers, "details", "mse")).keys() == {"cells, 300 steps"}
        with pytest.raises(
            ValueError, match=r"between must name two methods, 'A and B', that .*, got 'details' and 'cwd'"
        ):
            between(answers, "details", "cwd")


class TestTrials:
    ANSWER = summarise(STUDY, made_up({"student": [0.0], "mse": [0.1]}, options={"ratio": 2.0}))

    def trial(self, method, metric, **options):
        return run(method, 1000, 0.5) | {"metric": metric, "options": options}

    def test_the_chosen_one_is_bold_and_options_are_in_order(self):
        found = [
            self.trial("mse", 0.25, ratio=8.0),
            self.trial("mse", None, ratio=2.0, lr=2.0),
            self.trial("mse", 0.25, ratio=2.0),  # of equal ones the study's first
            self.trial("student", 0.125, lr=2.0),
            self.trial("student", 0.0625, lr=0.5),
        ]
        table = rows(trials(self.ANSWER, self.ANSWER["lengths"][0], found))
        assert [*table.items()] == [
            ("student", ["lr 0.5: 0.0625; lr 2: 0.1250"]),
            ("mse", ["ratio 2: **0.2500**; ratio 2, lr 2: not finite; ratio 8: 0.2500"]),
        ]

    def test_another_length_is_an_error(self):
        length = self.ANSWER["lengths"][0] | {"length": "600 steps"}
        with pytest.raises(ValueError, match="trials must name a length of cells with a search, got '600 steps'"):
            trials(self.ANSWER, length, [self.trial("mse", 0.25, ratio=8.0)])


class TestClasses:
    LEARNT = {
        "student": [[0.5, 0.0, None], [0.25, 0.02, None]],
        "mse": [[0.5, 0.25, None]] * 2,
    }

    def answer(self, scale=1.0, teacher=(0.75, 0.0, None)):
        study = STUDY | {"scale": scale, "teacher": {"metric": 60.0, "by_class": dict(zip("abc", teacher))}}
        runs = [
            run(method, seed, 0.5, by_class=dict(zip("abc", values)))
            for method, learnt in self.LEARNT.items()
            for seed, values in enumerate(learnt)
        ]
        return summarise(study, [*runs, run("low", 0, 0.5, by_class=None), run("pkd", 0, 0.5)])

    def test_means_over_runs_and_in_how_many_a_class_is_learnt(self):
        for answer, values in (
            (self.answer(), ("0.3750", "0.0100", "0.5000", "0.2500", "0.7500", "0.0000")),
            (self.answer(100.0), ("37.50", "1.00", "50.00", "25.00", "75.00", "0.00")),
        ):
            table = classes(answer, answer["lengths"][0])
            assert table.splitlines()[0] == "| method | a | b | c |"
            assert [*rows(table).items()] == [
                ("student", [values[0], f"{values[1]} (in 1 of 2 runs)", "-"]),
                ("mse", [*values[2:4], "-"]),
                ("teacher", [*values[4:], "-"]),
            ]

    def test_runs_without_classes_have_no_table(self):
        answer = summarise(STUDY, made_up())
        with pytest.raises(
            ValueError, match="classes must name a length whose runs have by_class, got cells 300 steps"
        ):
            classes(answer, answer["lengths"][0])
        assert "of each class" not in markdown(answer)
        assert "\nbox AP of each class:\n\n| method | a | b | c |\n" in markdown(self.answer())


def test_explorations_side_by_side_are_ordered_by_their_share_of_the_gap():
    one = summarise(STUDY, made_up({"student": [0.0], "mse": [0.014], "low": [-0.07]}))  # the gap is 0.14
    other = summarise(EXPLORED | {"scale": 100.0, "teacher": {"metric": 50.4}}, [
        run(name, 0, metric) for name, metric in (("student", 50.0), ("mse", 50.1), ("details", 50.3), ("low", 50.16))
    ])  # fmt: skip
    table = beside([(answer, answer["lengths"][0]) for answer in (one, other)])
    assert table.splitlines()[0] == (
        "| form | cells, 300 steps, 1 seed: box AP | forms, 300 steps, 1 seed: box AP, selection part |"
    )
    assert [*rows(table).items()] == [
        ("details", ["-", "50.30 (+75%)"]),
        ("mse", ["0.4140 (+10%)", "50.10 (+25%)"]),
        ("student", ["0.4000 (+0%)", "50.00 (+0%)"]),
        ("low", ["0.3300 (-50%)", "50.16 (+40%)"]),
    ]


class TestNumber:
    ANSWER = summarise(STUDY, made_up())

    def of(self, *about):
        return number(self.ANSWER, self.ANSWER["lengths"][0], *about)

    def test_kinds(self):
        values = {name: {s: STUDENT[s] + GAINS[name][s] for s in range(5)} for name in ("details", "mse")}
        found = difference(values["details"], values["mse"])
        assert self.of("gain", "details", "mse") == f"0.030 ({found.low:.3f} to {found.high:.3f})"
        assert self.of("gain", "mse", "details").startswith("-0.030 (")
        assert self.of("metric", "details") == "0.470"
        assert self.of("share", "details") == "50 %"
        assert self.of("time", "details") == "67 %"  # its curve is there after two of three points
        with pytest.raises(ValueError, match="a time of cells, 300 steps, must be known, but that of low is not"):
            self.of("time", "low")

    def test_in_percent(self):
        answer = summarise(STUDY | {"scale": 100.0}, [run(m, 0, v) for m, v in (("student", 50.0), ("mse", 51.26))])
        assert number(answer, answer["lengths"][0], "gain", "mse", "student") == "1.3"  # one seed has no interval

    def test_a_teacher_below_the_student_alone_has_no_gap(self):
        answer = summarise(STUDY | {"teacher": {"metric": 0.1}}, made_up())
        with pytest.raises(ValueError, match="a share of cells, 300 steps, must be known"):
            number(answer, answer["lengths"][0], "share", "mse")
        with pytest.raises(ValueError, match="beside needs a teacher above the student alone"):
            beside([(answer, answer["lengths"][0])])

    def test_a_method_that_did_not_run(self):
        with pytest.raises(ValueError, match=r"a number of cells, 300 steps, must be of details, .*, got 'cwd'"):
            self.of("gain", "cwd", "mse")
