"""When a term counts."""

import math
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub

from freqkd.models.schedule import TermSchedule, check_reach


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), [1, 1, 1, 1, 1, 1]),
        (dict(begin=2), [0, 0, 1, 1, 1, 1]),
        (dict(begin=1, warmup=2), [0, 0.5, 1, 1, 1, 1]),
        (dict(end=3), [1, 1, 1, 0, 0, 0]),
        (dict(decay="cosine"), [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]),
        (dict(begin=1, warmup=1, end=4, decay="cosine"), [0, 1, 1, 0.5, 0, 0]),
    ],
)
def test_its_factor(options, expected):
    schedule = TermSchedule(**options)
    assert [schedule.factor(step, 6) for step in range(6)] == pytest.approx(expected)


def test_it_reads_the_epoch_or_the_iteration_of_the_running_training(fresh):
    hub = MessageHub.get_instance("run")
    hub.update_info_dict(dict(epoch=1, max_epochs=4, iter=30, max_iters=40))
    assert TermSchedule(begin=2)() == 0.0
    assert TermSchedule(warmup=4)() == 0.5
    assert TermSchedule(begin=30, by_epoch=False)() == 1.0
    assert TermSchedule(warmup=62, by_epoch=False)() == 0.5


def test_outside_a_training_the_term_counts(fresh):
    assert TermSchedule(begin=5)() == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(begin=-1), "schedule.begin must be at least 0"),
        (dict(warmup=-1), "schedule.warmup must be at least 0"),
        (dict(begin=3, end=3), "schedule.end must be above 3"),
        (dict(decay="cosin"), "did you mean 'cosine'"),
    ],
)
def test_nonsense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TermSchedule(**options)


def reach(loop, term=None, task=None):
    """The warnings about a distiller with these schedules in a training of this loop."""
    made = SimpleNamespace(schedule=None if term is None else TermSchedule(**term))
    task_schedule = None if task is None else TermSchedule(**task)
    return check_reach(
        SimpleNamespace(terms=dict(loss_a=made), task_schedule=task_schedule), Config(dict(train_cfg=loop))
    )


def test_a_term_must_begin_in_the_training():
    for loop, options in (
        (dict(max_epochs=5), dict(begin=5)),
        (dict(max_iters=100), dict(begin=100, by_epoch=False)),
    ):
        with pytest.raises(
            ValueError, match=r"^terms\.loss_a\.schedule\.begin must lie before the end .* leave out the term$"
        ):
            reach(loop, options)
        assert reach(loop, dict(options, begin=options["begin"] - 1)) == []
    assert reach(dict(max_epochs=5), dict(begin=100, by_epoch=False)) == []  # how long an epoch is, is not known


def test_what_does_not_reach_its_weight_is_a_warning():
    assert reach(dict(max_epochs=5), dict(begin=1, warmup=4)) == []
    (warning,) = reach(dict(max_epochs=5), dict(begin=1, warmup=5))
    assert warning == (
        "terms.loss_a.schedule.warmup must end within the training for the full weight, got 1 + 5 of 5 epochs; lower it"
    )
    (warning,) = reach(dict(max_iters=10), task=dict(begin=20, by_epoch=False))
    assert warning.startswith("task_schedule.begin must lie before the end of the training, got 20 of 10 iterations")
    assert reach(dict(max_epochs=5)) == []
