"""Compare distillation methods with the student alone: `freqkd compare STUDY.py`.

Methods have the same first student weights, data order and schedule, and the same number of trials in a search. Stopped at any
moment and started again, a comparison continues: finished runs are never repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from freqkd.apis.arguments import run_tool
from freqkd.studies.answer import words, write_answer
from freqkd.studies.jobs import Jobs, in_words
from freqkd.studies.other_images import evaluate_students
from freqkd.studies.plan import CALIBRATION, Plan
from freqkd.studies.quick import quick_study, verdict
from freqkd.studies.run import device_name
from freqkd.studies.search import choose
from freqkd.studies.statistics import CONTROL, STUDENT
from freqkd.studies.study import POINTS, read_study
from freqkd.utils.checkpoints import hash_weights, read_checkpoint, weights_of
from freqkd.utils.errors import EPILOG
from freqkd.utils.program import program

LATE = 1.25, 60.0  # factor on the announced time and seconds beyond it, after which a quick comparison starts no run


def prepare(plan: Plan, jobs: Jobs) -> None:
    """Train teacher and prompts, and fill the caches; measure the seconds of a step of each method.

    Raises:
        ValueError: the teacher is another one than that of the results.
        CheckpointError: weights that a network starts from are missing or damaged.
    """
    plan.check_initial_weights()
    if any(name.endswith(CONTROL) for name in plan.study.methods):
        plan.random_teacher(plan.work / "random-teacher.pth")
    for job in plan.preparations():
        list(jobs.run([job]))
    weights, teacher = hash_weights(weights_of(read_checkpoint(plan.checkpoint))), plan.about().get("teacher", {})
    if teacher.get("weights", weights) != weights:
        raise ValueError(
            f"teacher must be the one of the results in {plan.results}, but that was deleted, and training it again gave "
            "other weights; give the study another name, or delete its results"
        )
    plan.about(teacher=dict(weights=weights))
    plan.begin_calibration(device_name())
    for name in plan.to_measure():
        job, start = plan.calibration(name), time.monotonic()
        job.result.unlink(missing_ok=True)
        ((_, found),) = jobs.run([job])
        other = time.monotonic() - start - found["train_seconds"] + POINTS * found["validation_seconds"]
        paces = [*plan.about()["calibration"].get("measured", {}).get(name, ()), found["seconds_per_step"]]
        plan.about(
            calibration=dict(measured={name: paces}, seconds_per_step={name: min(paces)}, other_seconds={name: other})
        )


def compare(plan: Plan, jobs: Jobs, stop_late: bool = False) -> dict[str, Any] | None:
    """Do what is not done yet of a study: teacher, calibration, search, final runs, answer.

    Args:
        plan: of the study.
        jobs: runs them.
        stop_late: whether runs are left out that would end long after the announced time.

    Returns:
        The answer; None before the student alone has a finished run.
    """
    study = plan.study
    plan.check()
    plan.renew()
    if not (is_finished := plan.is_finished):
        print(
            f"{study.name}: caches and {CALIBRATION} steps of {', '.join(plan.timed)} show how long it takes",
            flush=True,
        )
        prepare(plan, jobs)
    known, is_pilot, seeds = plan.about()["calibration"], plan.is_pilot, plan.seeds
    trials = plan.trials(known)
    planned = [*trials, *(plan.training(name, {}, seed, known) for seed in seeds for name in study.methods)]
    jobs.plan(planned)
    left = sum(job.seconds for job in planned if not job.result.exists()) / jobs.count
    finished = sum(job.result.exists() for job in planned)
    print(
        f"{study.name}: {len(planned)} runs of {plan.length}, {finished} finished; about {in_words(left)} left"
        + f", and then up to {study.seeds - len(seeds)} seeds that the pilot may ask for" * is_pilot,
        flush=True,
    )
    jobs.deadline = time.monotonic() + LATE[0] * left + LATE[1] if stop_late else jobs.deadline
    try:
        found = {job.result: record for job, record in jobs.run(trials)}
        tried = [found[job.result] for job in trials]  # in the order of the study
        chosen = {
            name: choose([record for record in tried if record["method"] == name]) if study.search else {}
            for name in study.methods
        }
        if not is_finished or "metric" not in plan.about()["teacher"]:
            ((_, report),) = jobs.run([plan.evaluation()])
            plan.about(teacher=dict(metric=report["metric"], by_class=report.get("by_class")))
        list(jobs.run(plan.final(chosen, seeds, known)))
        if is_pilot:
            words_of_pilot = plan.end_pilot()
            final = plan.final(chosen, [seed for seed in plan.seeds if seed not in seeds], known)
            jobs.plan(final)
            planned += final
            print(
                f"{study.name}: {words_of_pilot} {len(final)} more; about {in_words(jobs.time_left)} left", flush=True
            )
            list(jobs.run(final))
    finally:
        ready = "metric" in plan.about()["teacher"] and any(plan.results.glob(f"{STUDENT}_*.json"))
        answer = write_answer(plan.results) if ready else None
    if jobs.done < len(planned):
        print(
            f"stopped at the announced time: {jobs.done} of {len(planned)} runs are finished; start again for the rest"
        )
    return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog=program("compare"), description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("study", help="study file; with --quick, the config of a distillation")
    add(
        "--quick",
        action="store_true",
        help="compare a config, the student alone, MSE and details on a tenth of its length",
    )
    add("--seeds", type=int, help="final runs of each method, with --pilot at most (default: of the study)")
    add("--pilot", type=int, help="first seeds whose deviation sets the number of runs (default: of the study)")
    add("--budget", help="length of a run: steps, or seconds such as 300s (default: of the study)")
    add(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these, beside the student alone; a control is METHOD-random-teacher",
    )
    add("--jobs", type=int, default=1, help="runs at once, each on one thread (default: %(default)s)")
    add("--no-cached", action="store_true", help="let the teacher run in every step, on ordinary augmentation")
    add("--keep", action="store_true", help="keep checkpoints and logs of finished runs")
    add(
        "--lr",
        type=float,
        nargs="+",
        default=[],
        metavar="FACTOR",
        help="with --quick: factors on the learning rate, a trial each, among which every method and the student alone choose",
    )
    add("--metric", default="", help="with --quick: key of the metric (default: COCO's box AP, or the mean IoU)")
    add("--evaluate", metavar="FOLDER", help="of a finished study: its students on other images, laid out as its own")
    add("--split", default="test", help="with --evaluate: what paths there say in place of val (default: %(default)s)")
    add("--results-dir", help="default: studies/results; with --quick, results/ in the work dir")
    add("--work-dir", default="work_dirs/studies", help="folder of runs and caches (default: %(default)s)")
    options = parser.parse_args(arguments)
    changes = dict(
        seeds=options.seeds, pilot=options.pilot, budget=options.budget, views=0 if options.no_cached else None
    )
    if options.quick and options.pilot:
        raise ValueError(f"--pilot must be left out with --quick, which keeps to its time, got {options.pilot}")
    if options.lr and not options.quick:
        raise ValueError(f"--lr must be left out without --quick, because a study file has search=, got {options.lr}")
    if options.quick:
        study = quick_study(options.study, options.metric, options.lr, **changes)
    else:
        study = read_study(options.study, options.methods, **changes)
    results = options.results_dir or (f"{options.work_dir}/results" if options.quick else "studies/results")
    plan = Plan(study, results, options.work_dir)
    jobs = Jobs(options.jobs, options.keep)
    if options.evaluate:
        judged = evaluate_students(plan, jobs, options.evaluate, options.split)
        print("\n".join(words(judged, length) for length in judged["lengths"]))
        print(f"{plan.results}/{options.split}/answer.md")
        return
    answer = compare(plan, jobs, stop_late=options.quick)
    if answer is not None:
        lengths = [words(answer, length) for length in answer["lengths"]]
        quick = [verdict(options.study, answer, plan.length)] if options.quick else []
        print("\n".join(quick or lengths), f"\n{plan.results}/answer.md")


if __name__ == "__main__":
    sys.exit(run_tool(main))
