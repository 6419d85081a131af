"""Options without effect, wrong containers, and steps that no loop counts are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from freqkd.losses import FreeKDLoss, LogitLoss, MSELoss
from freqkd.models.distiller import Distiller
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.models.schedule import TermSchedule, check_length, check_progress
from freqkd.models.term import DistillTerm

TEACHER = dict(config="teacher.py", checkpoint="teacher.pth")
PROMPTS = dict(channels=4, num_levels=1, depth=1)


# ---- prompts without a use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", ["prompts.pth", "untrained", ""])
def test_prompts_for_a_loss_without_prompts_are_refused(prompts: str) -> None:
    with pytest.raises(ValueError, match=f"prompts must be left out: MSELoss has no prompts to load, got {prompts!r}"):
        DistillTerm(loss=MSELoss(), prompts=prompts)
    assert DistillTerm(loss=MSELoss()).prompt_file is None
    assert DistillTerm(loss=FreeKDLoss(channels=4, num_levels=1), prompts="untrained").needs_prompts


# ---- containers and kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("loss", "freqkd.MSELoss", "loss must be dict(type='freqkd.NAME', ...), got 'freqkd.MSELoss'"),
        ("loss", None, "loss must be dict(type='freqkd.NAME', ...), got None"),
        ("align", 8, "align must be dict(type='freqkd.NAME', ...), got 8"),
        (
            "adapter",
            "freqkd.SegLogits",
            "adapter must be dict(type='freqkd.NAME', ...) of an adapter, got 'freqkd.SegLogits'",
        ),
        ("student_tap", ["neck"], "student_tap must be the path of a module, e.g. 'neck', got ['neck']"),
        ("student_tap", "", "student_tap must be the path of a module, e.g. 'neck', got ''"),
        ("teacher_tap", 3, "teacher_tap must be the path of a module, e.g. 'neck', got 3"),
        ("weight", [1.0], "weight must be a number or dict(ratio=..., iters=50), got [1.0]"),
        ("student_levels", 2, "student_levels must be a list of indices of tapped maps, got 2"),
        ("teacher_levels", "012", "teacher_levels must be a list of indices of tapped maps, got '012'"),
        ("schedule", 5, "schedule must be a dict of options, got 5"),
        ("prompts", ["a.pth"], "prompts must be a file or 'untrained', got ['a.pth']"),
    ],
)
def test_an_option_of_a_term_names_what_it_takes(option: str, value: Any, words: str) -> None:
    loss = FreeKDLoss(channels=4, num_levels=1) if option == "prompts" else MSELoss()
    with pytest.raises(ValueError, match=re.escape(words)):
        DistillTerm(**{"loss": loss, option: value})


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (
            "terms",
            [dict(type="freqkd.DistillTerm")],
            "terms must be a dict of terms by name, dict(loss_freekd=dict(...)), got list",
        ),
        (
            "terms",
            dict(loss_a="freqkd.DistillTerm"),
            "terms.loss_a must be dict(type='freqkd.DistillTerm', ...), got 'freqkd",
        ),
        ("terms", {1: dict(type="freqkd.DistillTerm")}, "a term's name must start with 'loss_', got 1"),
        (
            "student",
            "mmdet::retinanet",
            "student must be the config of a network, dict(type=...), got 'mmdet::retinanet'",
        ),
        ("inherit", "neck", "inherit must be a list of paths of student modules, got 'neck'"),
        ("task_schedule", [1], "task_schedule must be a dict of options, got [1]"),
        ("teacher", "teacher.py", "teacher must be dict(config=..., checkpoint=...), got 'teacher.py'"),
        ("teacher", dict(TEACHER, checkpoint=5), "teacher.checkpoint must be a file or an https address, got 5"),
        (
            "teacher",
            dict(TEACHER, config=["a"]),
            "teacher.config must be a config file, 'mmdet::...', 'mmseg::...' or a config",
        ),
        (
            "teacher",
            dict(TEACHER, cfg_options=["a=1"]),
            "teacher.cfg_options must be a dict of changes by their keys, got",
        ),
        ("teacher", dict(TEACHER, cache="folder"), "teacher.cache must be dict(dir=..., views=...), got 'folder'"),
    ],
)
def test_an_option_of_a_distiller_names_what_it_takes(option: str, value: Any, words: str) -> None:
    options = dict(student=Student(), teacher=TEACHER, terms=dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss"))))
    with pytest.raises(ValueError, match=re.escape(words)):
        Distiller(**{**options, option: value})


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("prompts", "prompts.pth", "prompts must be dict(channels=..., num_levels=..., ...), got 'prompts.pth'"),
        ("tap", ["neck"], "tap must be the path of a module, e.g. 'neck', got ['neck']"),
        ("levels", 1, "levels must be a list of indices of tapped maps, got 1"),
    ],
)
def test_an_option_of_a_prompt_tuner_names_what_it_takes(option: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        PromptTuner(**{"teacher": TEACHER, "prompts": PROMPTS, option: value})


# ---- steps that the training's loop does not count ------------------------------------------------------------------


class Student(nn.Module):
    """A network with what a distiller needs to be built."""

    data_preprocessor = None

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Conv2d(1, 1, 1)


class Changing(nn.Module):
    """A loss of another package that follows the progress of the training."""

    def set_progress(self, step: int) -> None:
        """Do nothing."""


@LOOPS.register_module(name="OwnIterLoop", force=True)
class OwnIterLoop(IterBasedTrainLoop):
    """A loop of another package."""


def distiller(task_schedule: Any = None, **term: Any) -> Distiller:
    return Distiller(
        Student(), TEACHER, dict(loss_a=DistillTerm(**{"loss": MSELoss(), **term})), task_schedule=task_schedule
    )


ITERATIONS = [
    dict(type="IterBasedTrainLoop", max_iters=100),
    dict(type=IterBasedTrainLoop, max_iters=100),
    dict(type="mmengine.OwnIterLoop", max_iters=100),
    dict(by_epoch=False, max_iters=100),
]
EPOCHS = [
    dict(type="EpochBasedTrainLoop", max_epochs=10),
    dict(type=EpochBasedTrainLoop, max_epochs=10),
    dict(by_epoch=True, max_epochs=10),
]
ANNEALED = dict(type="annealed", tau_max=2, epochs=4)


@pytest.mark.parametrize("loop", range(len(ITERATIONS)))
@pytest.mark.parametrize("options", [dict(begin=2), dict(warmup=2), dict(end=5), dict(decay="cosine")])
def test_a_schedule_by_epoch_is_refused_where_the_loop_counts_iterations(loop: int, options: Any) -> None:
    config = Config(dict(train_cfg=ITERATIONS[loop], default_scope="mmseg"))
    with pytest.raises(ValueError, match=r"^terms.loss_a.schedule counts epochs, .* with by_epoch=False$"):
        check_progress(distiller(schedule=options), config)
    with pytest.raises(ValueError, match=r"^task_schedule counts epochs, .* with by_epoch=False$"):
        check_progress(distiller(task_schedule=options), config)
    check_progress(distiller(schedule=dict(by_epoch=False, **options)), config)
    check_progress(distiller(schedule=options, task_schedule=options), Config(dict(train_cfg=EPOCHS[min(loop, 2)])))


def test_a_schedule_that_changes_nothing_is_accepted() -> None:
    for options in (dict(), dict(warmup=1)):
        assert not TermSchedule(**options).changes
        check_progress(distiller(schedule=options), Config(dict(train_cfg=ITERATIONS[0])))


@pytest.mark.parametrize(
    ("loss", "follows"),
    [
        (lambda: LogitLoss(ANNEALED, "mse"), True),
        (lambda: LogitLoss("learned"), True),
        (lambda: LogitLoss("fixed"), False),
        (Changing, True),
        (MSELoss, False),
    ],
    ids=["annealed", "learned", "fixed", "another", "none"],
)
def test_a_loss_that_follows_the_epoch_is_refused_there(loss: Any, follows: bool) -> None:
    config = Config(dict(train_cfg=ITERATIONS[0]))
    if follows:
        with pytest.raises(
            ValueError, match=r"^terms.loss_a: the loss changes from epoch to epoch, .* set progress='iter'"
        ):
            check_progress(distiller(loss=loss()), config)
    else:
        check_progress(distiller(loss=loss()), config)
    check_progress(distiller(loss=loss(), progress="iter"), config)
    check_progress(distiller(loss=loss()), Config(dict(train_cfg=EPOCHS[0])))


def test_other_models_have_no_schedules() -> None:
    check_progress(Student(), Config(dict(train_cfg=ITERATIONS[0])))
    check_progress(PromptTuner(TEACHER, PROMPTS), Config(dict(train_cfg=ITERATIONS[0])))


@pytest.mark.parametrize("value", [0, -5, True, 2.5, float("nan"), float("inf"), "100"])
@pytest.mark.parametrize("name", ["max_iters", "max_epochs"])
def test_a_training_that_trains_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"train_cfg.{name} must be .*, got {value!r}"):
        check_length(Config(dict(train_cfg={"by_epoch": name == "max_epochs", name: value})))
    check_length(Config(dict(train_cfg={"by_epoch": name == "max_epochs", name: 1})))


# ---- the same through the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("train_cfg = dict(max_iters=0)", "train_cfg.max_iters must be at least 1, got 0"),
        ("model = dict(terms=dict(loss_freekd=dict(schedule=dict(warmup=2))))", "terms.loss_freekd.schedule counts epochs"),
        ("model = dict(terms=dict(loss_freekd=dict(prompts='no.pth', loss=dict(_delete_=True, type='freqkd.MSELoss'))))",
         "terms.loss_freekd: prompts must be left out: MSELoss has no prompts"),
    ],
)  # fmt: skip
def test_train_refuses_it_in_one_line_and_writes_nothing(
    tool: Any, tiny_config: Any, tmp_path: Any, capsys: Any, more: str, words: str
) -> None:
    good = "model = dict(terms=dict(loss_freekd=dict(prompts='untrained', loss=dict(channels=64, num_levels=4))))"
    base = tiny_config(tmp_path / "good.py", "segmentation", "distill", good, iterations=2)
    path = tmp_path / "bad.py"
    path.write_text(f"_base_ = [{str(base)!r}]\n{more}\n")
    capsys.readouterr()
    assert tool("train", path, "--work-dir", tmp_path / "run") == 1
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()
