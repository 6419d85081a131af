"""Maps are paired level by level; other strides, and whatever else warns inside a term, are logged with the term's name."""

import copy
import warnings

import pytest
import torch

from freqkd.models.strides import compare_strides
from freqkd.utils import warning_log


@pytest.fixture
def logged(monkeypatch):
    """The lines that are logged of warnings."""
    lines = []
    monkeypatch.setattr(warning_log, "print_log", lambda text, *_: lines.append(text))
    return lines


def losses_of(model, raw):
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


def term(count, **levels):
    align = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=count, resize="teacher")
    return dict(student_tap="neck", align=align, loss=dict(type="freqkd.MSELoss"), **levels)


def test_p2_to_p6_pair_with_p3_to_p7_level_by_level(distill, small, logged):
    """A student whose pyramid begins at stride 4 learns from one that begins at stride 8, stride by stride."""
    student = small.config("detection", 4, neck__start_level=0, neck__add_extra_convs="on_input")
    student["bbox_head"]["anchor_generator"]["strides"] = [4, 8, 16, 32, 64]
    pairs = term(4, student_levels=(1, 2, 3, 4), teacher_levels=(0, 1, 2, 3))
    model = distill("detection", terms=dict(loss_mse=pairs), student=student).train()
    seen = []
    model.terms["loss_mse"].loss.register_forward_pre_hook(lambda _, maps: seen.append(maps))
    model.terms["loss_mse"].align.register_forward_pre_hook(lambda _, maps: seen.append(maps))
    loss = losses_of(model, small.raw("detection"))["distill.loss_mse"]
    assert float(loss) > 0
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    for maps in seen:  # before the align and after it: nothing is resized
        assert [[tuple(one.shape[-2:]) for one in own] for own in maps] == [sizes, sizes]
    assert logged == []


def test_other_strides_are_told_once_in_training_with_the_levels_that_would_fit(distill, small, logged):
    model = distill(
        "detection", terms=dict(loss_mse=term(3, student_levels=(0, 1, 2), teacher_levels=(1, 2, 3)))
    ).train()
    model.rehearse()
    assert logged == []  # a rehearsal is silent
    for _ in range(2):
        losses_of(model, small.raw("detection"))
    (line,) = logged
    assert line.startswith(
        "terms.loss_mse: a student's map of stride 8 is compared with a teacher's of stride 16 (pair 0)"
    )
    assert "32 with 64 (pair 2); student_levels=(0, 1, 2), teacher_levels=(0, 1, 2) would pair equal" in line


def test_rounded_sizes_are_no_other_strides():
    maps = [[torch.zeros(1, 1, *size) for size in sizes] for sizes in (((13, 10), (7, 5)), ((12, 10), (6, 5)))]
    assert compare_strides(*maps, (1, 3, 100, 80)) == ""
    assert "stride 8" in compare_strides(maps[0], maps[1][1:], (1, 3, 100, 80))


def test_what_has_no_stride_is_not_compared():
    assert compare_strides([torch.zeros(2, 100, 4)], [torch.zeros(2, 300, 4)], (2, 3, 64, 96)) == ""
    assert compare_strides([torch.zeros(32, 8, 7, 7)], [torch.zeros(100, 8, 14, 14)], (2, 3, 64, 96)) == ""


def test_a_map_too_small_for_the_depth_names_term_and_level_once(distill, freekd_term, small, logged):
    loss = dict(type="freqkd.FreeKDLoss", channels=16, num_levels=5, depth=2)
    model = distill("detection", terms=dict(loss_freekd=freekd_term("detection", loss=loss))).train()
    for _ in range(2):
        losses_of(model, small.raw("detection"))
    small_ones = ((2, "2x3", "fit"), (3, "1x2", "fit better"), (4, "1x1", "fit better"))
    assert logged == [
        f"terms.loss_freekd: the map of level {level} of {size} positions is too small for depth=2: its coarsest bands are "
        f"mostly padding; depth=1 would {words}"
        for level, size, words in small_ones
    ]


def test_a_warning_of_other_code_names_the_term_also_where_it_fails(logged):
    log = warning_log.WarningLog()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="size"), log.named("terms.loss_mse"):
            torch.nn.functional.mse_loss(torch.zeros(1, 2), torch.zeros(1, 3))
    (line,) = logged
    assert line.startswith("terms.loss_mse: Using a target size")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with log.named("terms.loss_other"):
            warnings.warn("filtered out", stacklevel=1)
    assert logged == [line]
