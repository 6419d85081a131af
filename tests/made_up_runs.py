"""Made-up runs of a comparison study with known answers: no effect, known effects, unequal variances, a control."""

STUDY = {
    "study": "cells",
    "metric_name": "box AP",
    "teacher": {"metric": 0.54},
    "calibration": {"seconds_per_step": 0.5},
}
OFFERED = 5  # methods of the made-up runs, without the student alone and the control
NOISE = [0.003, -0.001, 0.001, -0.003, 0.0]
STUDENT = [0.40, 0.42, 0.38, 0.41, 0.39]
GAINS = {
    "student": [0.0] * 5,
    "mse": [0.040 + x for x in NOISE[::-1]],
    "details": [0.070 + x for x in NOISE],
    "details-random-teacher": [0.002 - x for x in NOISE],
    "low": [-0.030 + x for x in NOISE],
    "nothing": [x / 2 for x in NOISE],
    "unclear": [0.03, -0.02, 0.04, -0.01, 0.02],
}


def run(method, seed, metric, steps=300, **other):
    final = metric - 0.01  # the selection part is a little harder
    curve = [[steps // 3, final * 0.5], [2 * steps // 3, final * 0.95], [steps, final]]
    record = dict(study="cells", method=method, seed=seed, budget={"steps": steps}, options={"ratio": 8.0}, metric=metric,
                  curve=curve, seconds_per_step=0.5, train_seconds=150.0, peak_memory_mb=800.0, fidelity=0.75,
                  images=None, trials=4)  # fmt: skip
    return record | other


def made_up(gains=GAINS, **other):
    return [run(m, s, STUDENT[s] + gain, **other) for m, row in gains.items() for s, gain in enumerate(row)]


def row_of(answer, method, length=0):
    return next(row for row in answer["lengths"][length]["rows"] if row["method"] == method)
