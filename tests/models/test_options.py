"""What a config says about a term is checked before anything is built of it."""

import pytest
from torch import nn

from freqkd.losses import MSELoss
from freqkd.models.options import build_part, check_options, check_type, make
from freqkd.models.schedule import TermSchedule
from freqkd.models.term import DistillTerm


class Plain(nn.Module):
    """Takes anything, needs one thing."""

    def __init__(self, width, **options):
        super().__init__()


@pytest.mark.parametrize(
    "given", [None, DistillTerm, "DistillTerm", "freqkd.DistillTerm", "freqkd.models.term.DistillTerm"]
)
def test_every_spelling_of_the_one_type_is_taken(given):
    check_type("terms.loss_x.type", given, DistillTerm, "")


@pytest.mark.parametrize("given", ["freqkd.MSELoss", "Term", MSELoss, 3])
def test_another_type_is_refused(given):
    with pytest.raises(ValueError, match=r"terms.loss_x.type must be 'freqkd.DistillTerm', got .*; use loss="):
        check_type("terms.loss_x.type", given, DistillTerm, "use loss=")


def test_options_are_those_of_the_signature():
    check_options("x", Plain, ["width", "anything"])
    with pytest.raises(ValueError, match="x needs width=, got anything"):
        check_options("x", Plain, ["anything"])
    with pytest.raises(ValueError, match="x needs width=, got none"):
        check_options("x", Plain, [])
    assert make("schedule", TermSchedule, None) is None
    assert make("schedule", TermSchedule, dict(warmup=2)).warmup == 2
    with pytest.raises(ValueError, match=r"schedule takes begin, .*, got 'warm_up'; did you mean 'warmup'\?"):
        make("schedule", TermSchedule, dict(warm_up=2))


def test_a_part_is_built_of_its_config_and_an_instance_is_itself():
    loss = MSELoss()
    assert build_part("loss", loss) is loss
    assert build_part("align", None) is None
    assert isinstance(build_part("loss", dict(type="freqkd.MSELoss")), MSELoss)
    assert isinstance(build_part("loss", dict(type=MSELoss)), MSELoss)
    with pytest.raises(
        ValueError, match=r"loss.type must be a registered model, got 'freqkd\.MSELos'.*'freqkd\.MSELoss'"
    ):
        build_part("loss", dict(type="freqkd.MSELos"))
    with pytest.raises(ValueError, match="channels and num_levels must both be given"):
        build_part("loss", dict(type="freqkd.FreeKDLoss", channels=4))
    with pytest.raises(ValueError, match=r"loss=dict\(type='freqkd.FGDLoss', ...\) needs num_levels=, got channels"):
        build_part("loss", dict(type="freqkd.FGDLoss", channels=4))
    with pytest.raises(ValueError, match=r"loss=dict\(type='MSELoss', ...\) takes .*got 'wieght'"):
        build_part("loss", dict(type=MSELoss, wieght=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(type="freqkd.Nonsense"), "terms.loss_freekd.type must be 'freqkd.DistillTerm', got 'freqkd.Nonsense'"),
        (dict(wieght=3), "terms.loss_freekd takes loss, student_tap, .*, got 'wieght'; did you mean 'weight'?"),
        (dict(schedule=dict(warm_up=2)), "terms.loss_freekd: schedule takes .*'warmup'"),
        (dict(weight=-1), "terms.loss_freekd: weight must be at least 0, got -1"),
        (
            dict(student_tap="nekc"),
            "terms.loss_freekd.student_tap: no module 'nekc' in RetinaNet; the nearest names are 'neck'",
        ),
        (
            dict(teacher_tap="nekc"),
            "terms.loss_freekd.teacher_tap: no module 'nekc' in RetinaNet; the nearest names are 'neck'",
        ),
        (
            dict(align=None, adapter=dict(type="freqkd.LDTargets")),
            "terms.loss_freekd.adapter, in the student: no module 'bbox_head.gfl",
        ),
        (
            dict(adapter=dict(type="freqkd.SegLogits", resise="x")),
            "adapter=dict.*takes resize, ignore_index, classes, got 'resise'",
        ),
    ],
)
def test_an_error_of_a_term_names_it(distill, freekd_term, changes, words):
    with pytest.raises(ValueError, match=words):
        distill("detection", terms=dict(loss_freekd=freekd_term("detection", **changes))).prepare()


def test_a_path_that_only_the_student_has_says_how_to_name_the_teachers(distill, small):
    student = small.config("detection", 4)
    student["bbox_head"]["stacked_convs"] = 2
    terms = dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss"), student_tap="bbox_head.cls_convs.1"))
    with pytest.raises(
        ValueError, match=r"terms.loss_mse.teacher_tap: no module .*; where its path .*teacher_tap='...'"
    ):
        distill("detection", terms=terms, student=student).prepare()
