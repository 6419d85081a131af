"""Report of a comparison study, from made-up runs with known answers."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from made_up_runs import GAINS, OFFERED, STUDENT, STUDY, made_up, row_of, run

from freqkd.studies import answer as module
from freqkd.studies.answer import markdown, read_study, summarise, words, write_answer
from freqkd.studies.statistics import LEVEL, difference, resample, share_of_gap, smallest_difference
from freqkd.studies.tables import methods_at


@pytest.fixture
def folder(tmp_path):
    """A finished study, with arrays of images for the student alone and `details`."""
    return save(tmp_path, STUDY, made_up())


def save(folder, study, runs):
    (folder / "study.json").write_text(json.dumps(study))
    for one in runs:
        name = f"{one['method']}-{one['budget']['steps']}-{one['seed']}"
        if one["method"] in ("student", "details"):
            values = np.random.default_rng(one["seed"]).normal(0, 0.1, 60)  # images that are hard for both
            values = values - values.mean() + one["metric"] / study.get("scale", 1)
            np.savez(folder / f"{name}.npz", values=values + (one["method"] == "details") * np.linspace(-0.1, 0.1, 60))
            one["images"] = f"{name}.npz"
        (folder / f"{name}.json").write_text(json.dumps(one))
    return folder


def test_the_teachers_classes_that_it_has_not_learnt():
    study = STUDY | {"teacher": {"metric": 0.54, "by_class": dict(zip("abcde", [0.9, 0.0099, 0.01, None, 0.0]))}}
    assert "\nTeacher: 0.5400; below 1 % in 2 of 4 classes.\n" in markdown(summarise(study, made_up()))
    assert "\nTeacher: 0.5400.\n" in markdown(summarise(STUDY, made_up()))


class TestNumbers:
    def test_of_a_method(self):
        answer = summarise(STUDY, made_up())
        row = row_of(answer, "details")
        student, details = dict(enumerate(STUDENT)), dict(enumerate(np.add(STUDENT, GAINS["details"])))
        found = difference(details, student)
        assert row["metric"] == pytest.approx(0.47)
        assert row["deviation"] == pytest.approx(np.std([*details.values()], ddof=1))
        assert (row["to_student"]["mean"], row["to_student"]["low"]) == pytest.approx((0.07, found.low))
        assert row["to_mse"]["mean"] == pytest.approx(0.03)
        assert row["to_control"]["mean"] == pytest.approx(0.068)
        assert row["share"] == pytest.approx(share_of_gap(details, student, 0.54))
        assert row["share"][0] == pytest.approx(0.5)
        assert row["could_see"] == pytest.approx(smallest_difference(found.deviation, 5, LEVEL / OFFERED))
        assert (row["peak_memory_mb"], row["fidelity"], row["trials"]) == (800, 0.75, 4)
        assert (row["options"], row["seconds_per_step"], row["train_seconds"]) == ([{"ratio": 8.0}], 0.5, 150)

    @pytest.mark.parametrize(
        ("method", "verdict"),
        [
            ("details", "helps"),
            ("mse", "helps"),
            ("low", "hurts"),
            ("nothing", "does not help"),
            ("unclear", "cannot tell"),
        ],
    )
    def test_verdict(self, method, verdict):
        assert row_of(summarise(STUDY, made_up()), method)["to_student"]["verdict"] == verdict

    def test_controls_and_the_student_get_no_verdict_and_are_not_counted(self):
        answer = summarise(STUDY, made_up())
        assert row_of(answer, "student")["to_student"] is None
        assert "verdict" not in row_of(answer, "student")["to_mse"]
        assert "verdict" not in row_of(answer, "details-random-teacher")["to_student"]
        without = summarise(STUDY, [one for one in made_up() if "random" not in one["method"]])
        p_holm = [row_of(a, "unclear")["to_student"]["p_holm"] for a in (answer, without)]
        assert p_holm[0] == p_holm[1]

    def test_time_to_the_final_metric_of_the_student(self):
        answer = summarise(STUDY, made_up())
        assert answer["lengths"][0]["target"] == pytest.approx(0.39)
        times = {name: row_of(answer, name)["seconds_to_student"] for name in GAINS}
        # 0.46 * 0.95 is above 0.39 after 200 steps of half a second; 0.43 * 0.95 likewise; the low band never is.
        assert (times["student"], times["details"], times["mse"], times["low"]) == (150, 100, 100, None)

    def test_seconds_of_another_device_are_not_compared(self):
        runs = made_up(device="a GPU")
        assert summarise(STUDY, runs)["lengths"][0]["rows"][1]["seconds_to_student"] is not None
        for one in runs[-5:]:  # "unclear", which reaches the metric
            one["device"] = "a CPU"
        answer = summarise(STUDY, runs)
        (length,) = answer["lengths"]
        assert row_of(answer, "unclear")["devices"] == ["a CPU"]
        runs[-1]["device"] = "a GPU"  # a mean over both says nothing
        mixed = row_of(summarise(STUDY, runs), "unclear")
        assert {
            mixed[key] for key in ("seconds_per_step", "train_seconds", "peak_memory_mb", "seconds_to_student")
        } == {None}
        assert mixed["metric"] == pytest.approx(row_of(answer, "unclear")["metric"])
        runs[-1]["device"] = "a CPU"
        times = {row["method"]: row["seconds_to_student"] for row in length["rows"]}
        assert times == {**times, "student": 150, "details": 100, "unclear": None}
        for text in (markdown(answer), methods_at(answer, length)):
            cells = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
            assert (" | - | " in cells["unclear"], " | never | " in cells["unclear"]) == (True, False)
            assert " | never | " in cells["low"]
        labels = [module._draw(one).axes[0].get_xlabel() for one in (answer, summarise(STUDY, made_up()))]
        assert labels == ["steps", "minutes of training"]
        assert max(module._draw(answer).axes[0].lines[0].get_xdata()) == 300

    def test_worthwhile_is_a_tenth_of_the_gap_unless_the_study_says_otherwise(self):
        assert summarise(STUDY, made_up())["lengths"][0]["worthwhile"] == pytest.approx(0.014)
        answer = summarise(STUDY | {"worthwhile": 0.0001}, made_up())
        assert answer["lengths"][0]["worthwhile"] == 0.0001
        assert row_of(answer, "nothing")["to_student"]["verdict"] == "cannot tell"

    def test_a_missing_seed(self):
        runs = [one for one in made_up() if (one["method"], one["seed"]) != ("details", 3)]
        row = row_of(summarise(STUDY, runs), "details")
        assert (row["to_student"]["seeds"], row["to_student"]["left_out"]) == (4, (3,))
        assert row["to_student"]["mean"] == pytest.approx(0.07 + 0.003 / 4)
        text = markdown(summarise(STUDY, runs))
        assert "| details | ratio 8.0 | 4 | 4 |" in text
        assert "| mse | ratio 8.0 | 5 | 5 |" in text

    def test_lengths_are_compared_apart_and_in_order(self):
        long = made_up({"student": [0.05] * 5, "details": [0.06, 0.05, 0.07, 0.06, 0.06]}, steps=1200)
        answer = summarise(STUDY, long + made_up())
        assert [at["length"] for at in answer["lengths"]] == ["300 steps", "1200 steps"]
        assert row_of(answer, "details", 1)["to_student"]["mean"] == pytest.approx(0.01)

    def test_budgets_of_equal_seconds_are_compared_whatever_their_steps(self):
        runs = [one | {"budget": {"seconds": 600, "steps": 1000 + len(one["method"])}} for one in made_up()]
        assert [at["length"] for at in summarise(STUDY, runs)["lengths"]] == ["600 s"]

    def test_times_of_equal_seconds_are_those_that_gave_the_steps(self):
        runs = made_up({name: GAINS[name] for name in ("student", "details")})
        for one in runs:  # the student's machine was busy, and the other run elsewhere
            alone = one["method"] == "student"
            one |= {
                "budget": {"seconds": 60.0, "steps": 300 if alone else 150},
                "seconds_per_step": 0.5 if alone else 0.1,
            }
            one["curve"] = [[step if alone else step // 2, metric] for step, metric in one["curve"]]
            one["device"] = "a" if alone else "b"
        answer = summarise(STUDY, runs)
        details = row_of(answer, "details")
        assert (details["pace"], details["seconds_to_student"]) == pytest.approx((0.4, 40.0))  # 100 of 150 steps
        assert details["time_to_student"] == pytest.approx(2 / 3)
        assert row_of(answer, "student")["time_to_student"] == pytest.approx(1.0)

    def test_a_length_without_the_student_alone_waits(self):
        started = made_up({"details": [0.0] * 5}, steps=900)
        assert len(summarise(STUDY, made_up() + started)["lengths"]) == 1
        with pytest.raises(ValueError, match="no run of the method 'student'"):
            summarise(STUDY, started)

    def test_options_that_differ_by_seed_are_all_named(self):
        runs = [one | {"options": {"ratio": float(one["seed"] // 3)}} for one in made_up()]
        assert "| ratio 0.0; ratio 1.0 |" in markdown(summarise(STUDY, runs))


def test_pkd_has_a_column_where_it_is_a_method():
    renamed = [run | {"method": {"unclear": "pkd"}.get(run["method"], run["method"])} for run in made_up()]
    answer = summarise(STUDY, renamed)
    assert row_of(answer, "details")["to_pkd"]["mean"] == pytest.approx(0.07 - 0.012)
    assert "| to MSE | to PKD |" in markdown(answer)
    assert "to PKD" not in markdown(summarise(STUDY, made_up()))


class TestWords:
    @staticmethod
    def of(runs, study=STUDY):
        answer = summarise(study, runs)
        text = words(answer, answer["lengths"][0])
        first, second = text.split(". They do not support ")
        assert len(re.findall(r"\.(?= |$)", text)) == 2, "two sentences"
        return first, second

    def test_say_what_is_supported_and_what_is_not(self):
        first, second = self.of(made_up())
        assert first.startswith("For cells at 300 steps the data support that ")
        number = r"\([+-]0\.\d{4}, [+-]0\.\d{4} to [+-]0\.\d{4}\)"
        claims = re.sub(number, "(#)", first.split("support that ")[1]).split("; ")
        assert claims == [
            "`details` (#) and `mse` (#) help",
            "`low` (#) hurts",
            "`nothing` (#) does not help by 0.0140 or more",
            "`details` (#) helps compared with MSE",
            "`details` (#) helps compared with its random-teacher control",
        ]
        assert "`details` (+0.0700, " in first
        assert "`details` (+0.0300, " in first
        assert "`details` (+0.0680, " in first
        assert re.search(
            r"a verdict on `unclear` \(\+0\.0120, -0\.\d+ to 0?\+?0\.\d+: cannot tell yet, \d+ more seeds? would\)",
            second,
        )
        assert "`details`" not in second
        assert second.endswith("or a claim about other data, networks or budgets.")

    def test_unsettled_comparisons_are_named_once(self):
        gains = {name: GAINS[name] for name in ("student", "mse", "details")}
        gains |= {"pkd": [x + 0.001 for x in GAINS["mse"]], "other": [x - 0.001 for x in GAINS["mse"]]}
        _, second = self.of(made_up(gains))
        assert second.startswith(
            "a verdict on `other` and `pkd` compared with MSE; `mse` and `other` compared with PKD, or a"
        )

    def test_no_effect(self):
        first, second = self.of(made_up({name: GAINS[name] for name in ("student", "nothing")}))
        assert first.endswith("`nothing` (+0.0000, -0.0014 to +0.0014) does not help by 0.0140 or more")
        assert second == "a claim about other data, networks or budgets."

    def test_what_could_have_been_missed(self):
        answer = summarise(STUDY, made_up())
        missed = row_of(answer, "unclear")["could_see"]
        line = next(line for line in markdown(answer).splitlines() if line.startswith("| unclear |"))
        assert f" | {missed:.4f} | cannot tell yet, " in line

    def test_after_a_pilot_no_further_seeds_are_asked_for(self):
        study = STUDY | {"pilot": {"300 steps": dict(seeds=3, most=5, deviation=0.02, needed=34, worthwhile=0.014)}}
        _, second = self.of(made_up(), study)
        assert ": cannot tell), or a claim" in second
        assert "In a pilot of 3 seeds" in markdown(summarise(study, made_up()))
        assert "a gain of 0.0140 needs 34 seeds; 5 were allowed." in markdown(summarise(study, made_up()))
        assert ": cannot tell yet, " in self.of(made_up(steps=600), study)[1]  # the pilot was of another length

    @pytest.mark.parametrize(("spread", "doubt"), [(0.5, True), (0.05, False)])
    def test_a_gain_that_other_images_may_not_show(self, spread, doubt):
        images = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 1001) @ np.linspace(-1, 1, 60) / 60
        runs = [
            one | {"draws": one["metric"] + spread * images * (one["method"] == "details")}
            for one in made_up({name: GAINS[name] for name in ("student", "details")})
        ]
        first, second = self.of(runs)
        assert re.search(r"`details` \([^)]*\) helps", first)
        assert bool(re.search(r"a verdict on `details` \(\+0\.0700, -0[^)]*\) on other images", second)) == doubt
        assert ("other images" in second) == doubt

    def test_one_seed_supports_nothing(self):
        first, second = self.of([one for one in made_up() if one["seed"] == 0])
        assert first.endswith("the data support no claim about a method")
        assert "a verdict on 5 methods of one seed (run 2 more), or a claim" in second

    def test_a_gain_that_a_random_teacher_gives_too(self):
        gains = GAINS | {"details-random-teacher": [0.070 + x for x in (0.02, -0.03, 0.01, 0.03, -0.02)]}
        first, second = self.of(made_up(gains))
        assert re.search(r"that `details` \([^)]*\) and `mse` \([^)]*\) help;", first)
        assert "; `details` compared with its random-teacher control, " in second


class TestTables:
    def test_hold_every_method_with_its_numbers(self):
        text = markdown(summarise(STUDY, made_up()))
        gains, costs = (part.splitlines() for part in text.split("| method |")[1:])
        assert [line.split("|")[1].strip() for line in gains[2:9]] == [
            line.split("|")[1].strip() for line in costs[2:9]
        ]
        assert {line.split("|")[1].strip() for line in gains[2:9]} == set(GAINS)
        details = next(line for line in gains if line.startswith("| details |"))
        for cell in ("0.4700", "+0.0700, +0.06", "+0.0300, ", "+0.0680, ", "50%, ", "helps"):
            assert cell in details
        cost = next(line for line in costs if line.startswith("| details |"))
        assert cost == "| details | 4 | 0.5 | 150 | 100 | 800 | 0.750 |"
        assert next(line for line in costs if line.startswith("| low |")).split(" | ")[4] == "never"

    def test_have_as_many_cells_in_every_line(self):
        lines = [line for line in markdown(summarise(STUDY, made_up())).splitlines() if line.startswith("|")]
        assert {line.count("|") for line in lines} == {15, 8}

    def test_percent(self):
        runs = [one | {"metric": 100 * one["metric"]} for one in made_up()]
        study = STUDY | {"scale": 100, "teacher": {"metric": 54.0}}
        assert "| 47.00 |" in markdown(summarise(study, runs))

    def test_unknown_numbers_are_dashes(self):
        runs = [run("student", 0, 0.4, fidelity=None), run("x|y", 0, 0.4, fidelity=None, options={})]
        text = markdown(summarise(STUDY, runs))
        assert "| x/y | - | 1 | 1 | 0.4000 | - | +0.0000 | - | - | - | - | 0% | - | cannot tell yet, " in text
        assert not re.search(r"None|nan", text)


class TestFiles:
    def test_all_three_are_written(self, folder):
        answer = write_answer(folder)
        assert json.loads((folder / "answer.json").read_text()) == answer
        assert (folder / "answer.md").read_text() == markdown(answer)
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "curves.png").stat().st_size < 100_000

    def test_of_many_methods_the_references_and_the_best_are_drawn(self):
        many = {"student": [0.1], "mse": [0.0], **{f"form-{i}": [0.01 * i] for i in range(20)}}
        figure = module._draw(summarise(STUDY, made_up(many)))
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        best = [f"form-{i}" for i in range(19, 9, -1)]
        assert sorted(names) == sorted(["student", "mse", *best])

    def test_curves_of_a_method_look_alike_at_every_length(self, folder):
        figure = module._draw(summarise(STUDY, made_up() + made_up({"student": [0.05], "unclear": [0.06]}, steps=1200)))
        short, long = figure.axes
        colors = dict(
            zip(sorted(GAINS, key=lambda name: (name != "student", name)), (x.get_color() for x in short.lines))
        )
        assert colors["student"] == "black"
        assert [line.get_color() for line in long.lines[:2]] == [colors["student"], colors["unclear"]]
        assert {text.get_text() for text in figure.legends[0].get_texts()} == set(GAINS)
        assert long.lines[1].get_xdata()[-1] == pytest.approx(1200 * 0.5 / 60)

    def test_leave_no_drafts(self, folder):
        write_answer(folder)
        assert not [*folder.glob(".*")]

    def test_numbers_have_six_digits(self, folder):
        low = row_of(write_answer(folder), "details")["to_student"]["low"]
        exact = row_of(summarise(*read_study(folder)), "details")["to_student"]["low"]
        assert low == float(f"{exact:.6g}") != exact

    def test_twice_gives_the_same(self, folder):
        first = read(folder, write_answer(folder))
        assert read(folder, write_answer(folder)) == first

    def test_order_of_the_files_does_not_matter(self, folder, tmp_path):
        first = read(folder, write_answer(folder))
        for i, path in enumerate(sorted(folder.glob("*-*.json"), reverse=True)):
            path.rename(folder / f"{i:03}.json")
        assert read(folder, write_answer(folder)) == first

    @pytest.mark.parametrize("broken", ["markdown", "_draw"])
    def test_an_error_keeps_the_old_files(self, folder, monkeypatch, broken):
        old = read(folder, write_answer(folder))
        (folder / "late.json").write_text(json.dumps(run("late", 0, 0.5)))
        monkeypatch.setattr(module, broken, lambda answer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_answer(folder)
        assert read(folder) == old
        assert not [*folder.glob(".*")]
        monkeypatch.undo()
        write_answer(folder)
        assert all(new != before for new, before in zip(read(folder), old))

    def test_nothing_is_written_where_there_was_nothing(self, folder, monkeypatch):
        monkeypatch.setattr(module, "_draw", lambda answer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_answer(folder)
        assert not {path.name for path in folder.iterdir()} & {"answer.json", "answer.md", "curves.png"}

    def test_records_are_not_changed(self, folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        write_answer(folder)
        assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()


def read(folder, _=None):
    return [(folder / name).read_bytes() for name in ("answer.json", "answer.md", "curves.png")]


class TestImages:
    def test_interval_is_paired_over_images_and_seeds(self, folder):
        row = row_of(write_answer(folder), "details")
        low, high = row["to_student"]["over_images"]
        reach = 1.96 * np.linspace(-0.1, 0.1, 60).std() / np.sqrt(60)
        assert (low, high) == pytest.approx((0.07 - reach, 0.07 + reach), abs=0.002)
        assert row["to_mse"]["over_images"] is None
        assert row_of(json.loads((folder / "answer.json").read_text()), "mse")["to_student"]["over_images"] is None

    def test_of_a_metric_in_percent(self, tmp_path):
        runs = [one | {"metric": 100 * one["metric"]} for one in made_up()]
        save(tmp_path, STUDY | {"scale": 100, "teacher": {"metric": 54.0}}, runs)
        low, high = row_of(write_answer(tmp_path), "details")["to_student"]["over_images"]
        assert 4 < low < 7 < high < 10

    def test_is_kept_where_the_arrays_are_gone(self, folder):
        first = read(folder, write_answer(folder))
        for path in folder.glob("*.npz"):
            path.unlink()
        assert read(folder, write_answer(folder)) == first

    @pytest.mark.parametrize("changed", ["student", "details"])
    def test_is_dropped_where_the_arrays_are_gone_and_a_run_is_another(self, folder, changed):
        write_answer(folder)
        for path in folder.glob("*.npz"):
            path.unlink()
        path = folder / f"{changed}-300-2.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": 0.46}))
        assert row_of(write_answer(folder), "details")["to_student"]["over_images"] is None

    def test_needs_the_arrays_of_all_pairs(self, folder):
        (folder / "details-300-1.npz").unlink()
        assert row_of(write_answer(folder), "details")["to_student"]["over_images"] is None

    def test_arrays_of_another_run_are_an_error(self, folder):
        shutil.copy(folder / "details-300-0.npz", folder / "student-300-0.npz")
        with pytest.raises(ValueError, match=r"student-300-0\.npz gives 0\.47.*metric is 0\.4"):
            write_answer(folder)

    def test_draws_are_those_of_the_statistics(self, folder):
        with np.load(folder / "details-300-0.npz") as arrays:
            assert resample(dict(arrays))[0] == pytest.approx(STUDENT[0] + GAINS["details"][0])


class TestRecords:
    def test_are_read(self, folder):
        write_answer(folder)  # its JSON is not a record
        study, runs = read_study(folder)
        assert study == STUDY
        assert len(runs) == 35

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.json", "[1]", "a.json must be an object with 'method'"),
            ("a.json", "{}", "a.json must be an object with 'method'"),
            (
                "a.json",
                json.dumps({"method": "x", **dict.fromkeys(module.RUN - {"curve", "seed"})}),
                "misses curve, seed",
            ),
            ("a.json", json.dumps(run("x", 0, float("nan"))), "metric must be a finite number, got nan"),
            (
                "a.json",
                json.dumps(run("x", 0, 0.4, train_seconds=None)),
                "train_seconds must be a finite number, got None",
            ),
            ("zz.json", json.dumps(run("mse", 0, 0.4)), "'mse', 0\\) is there twice"),
            ("zz.json", json.dumps(STUDY), "the study is there twice"),
            ("a.json", json.dumps(run("x", 0, 0.4, study="roads")), "runs of roads beside the study cells"),
        ],
    )
    def test_that_are_wrong(self, folder, name, content, message):
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            write_answer(folder)
        assert not (folder / "answer.md").exists()

    def test_without_the_study(self, folder):
        (folder / "study.json").unlink()
        with pytest.raises(ValueError, match="must hold the study's record"):
            read_study(folder)
