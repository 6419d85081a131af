"""Maps of two networks that belong together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from freqkd.models.tap_shapes import MapShape
from freqkd.pairs.matching import match_features, match_taps
from freqkd.pairs.methods import find_method
from freqkd.pairs.terms import Term, _add_align


def pyramid(*sizes, channels=8):
    """Maps of an image of 256 pixels."""
    return [MapShape((1, channels, size, size), 256 // size) for size in sizes]


def side(owner, **shapes):
    """A network that gives maps at paths, the first one preferred, and these maps."""
    return SimpleNamespace(owner=owner, features=tuple(shapes)), shapes


def test_pyramids_that_begin_at_other_strides_are_paired_by_stride():
    found = match_taps("neck", pyramid(64, 32, 16, 8, 4), "neck", pyramid(32, 16, 8, 4, 2, channels=16))
    assert (found.student_levels, found.teacher_levels) == ((1, 2, 3, 4), (0, 1, 2, 3))
    assert (found.student_channels, found.teacher_channels) == ([8] * 4, [16] * 4)


def test_an_order_from_coarse_to_fine_is_paired_too():
    found = match_taps("neck", pyramid(8, 16, 32), "neck", pyramid(32, 16, 8))
    assert [(a.stride, b.stride) for a, b in zip(found.student_maps, found.teacher_maps)] == [
        (32, 32),
        (16, 16),
        (8, 8),
    ]
    assert (found.student_levels, found.teacher_levels) == (None, (2, 1, 0))


def test_of_several_maps_of_a_size_the_deepest_is_taken():
    found = match_taps("backbone", pyramid(64, 32, 32, 32), "backbone", pyramid(32))
    assert (found.student_levels, found.teacher_levels) == ((3,), None)


def test_the_first_taps_that_fit_are_taken():
    student = side("student", **{"backbone.bga": pyramid(32), "backbone": pyramid(64, 32)})
    teacher = side("teacher", **{"decode_head.bottleneck": pyramid(32), "backbone": pyramid(64, 32)})
    found = match_features(*student, *teacher)
    assert (found.student_tap, found.teacher_tap) == ("backbone.bga", "decode_head.bottleneck")


def test_a_later_tap_is_taken_where_the_first_has_another_stride():
    student = side("student", **{"neck": pyramid(64, 32)})
    teacher = side("teacher", **{"decode_head.head": pyramid(128), "neck": pyramid(32, 16)})
    found = match_features(*student, *teacher)
    assert (found.teacher_tap, found.student_levels, found.teacher_levels, found.resize) == ("neck", (1,), (0,), None)


def test_maps_of_twice_the_size_are_resized():
    found = match_features(*side("student", neck=pyramid(32)), *side("teacher", backbone=pyramid(16)))
    assert (found.resize, found.student_levels, found.teacher_levels) == ("student", None, None)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_decoder_is_not_compared_with_the_edges_of_a_backbone(swapped):
    """SegFormer beside PSPNet: the decoders have strides 4 and 8, the backbones all of them."""
    one = {"decode_head.fusion_conv": pyramid(64), "backbone": pyramid(64, 32, 16, 8)}
    two = {"decode_head.bottleneck": pyramid(32), "backbone": pyramid(64, 32, 32, 32)}
    one, two = (two, one) if swapped else (one, two)
    found = match_features(*side("student", **one), *side("teacher", **two))
    assert {found.student_tap, found.teacher_tap} == {"decode_head.fusion_conv", "decode_head.bottleneck"}
    assert found.resize == "student"


def test_a_decoder_is_compared_with_the_last_map_of_a_network_that_has_no_other():
    decoder, backbone = {"decode_head.up": pyramid(64)}, {"backbone": pyramid(64, 32, 16)}
    with pytest.raises(ValueError, match="no feature maps of student and teacher belong together"):
        match_features(*side("student", **decoder), *side("teacher", **backbone))
    found = match_features(*side("student", **{"decode_head.up": pyramid(32)}), *side("teacher", **backbone))
    assert (found.teacher_levels, found.resize) == ((2,), "student")
    found = match_features(*side("student", **{"decode_head.up": pyramid(16)}), *side("teacher", **backbone))
    assert (found.teacher_levels, found.resize) == ((2,), None)


def test_attention_of_other_channels_and_strides_is_resized_by_a_convolution():
    match = match_features(*side("student", neck=pyramid(32)), *side("teacher", neck=pyramid(16, channels=9)))
    term = Term("loss_at", "", {})
    _add_align(term, match, find_method("at"))
    assert term.options["align"] == dict(
        type="freqkd.ConvAlign", student_channels=8, teacher_channels=9, num_levels=1, resize="student"
    )


def test_maps_that_are_too_different_are_an_error_with_both_sides():
    sides = "the student has 'neck' with 8 channels at strides 4, 8; the teacher has 'up' with 8 channels at stride 32;"
    with pytest.raises(ValueError, match=sides):
        match_features(*side("student", neck=pyramid(64, 32)), *side("teacher", up=pyramid(8)))
