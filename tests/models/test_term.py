"""One term: what it taps, what it needs, what it refuses."""

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from freqkd.adapters.base import HeadAdapter
from freqkd.losses.mse import MSELoss
from freqkd.models.term import DistillTerm


def feats(channels, value):
    return [torch.full((1, channels, 4, 4), value), torch.full((1, channels, 2, 2), value)]


def test_it_is_the_loss_of_the_aligned_maps():
    align = nn.Conv2d(2, 3, 1, bias=False)
    nn.init.constant_(align.weight, 2.0)
    wrapped = dict(type="freqkd.ConvAlign", student_channels=2, teacher_channels=3, num_levels=2)
    term = DistillTerm(loss=dict(type="freqkd.MSELoss"), align=wrapped)
    with torch.no_grad():
        for layer in term.align.layers:
            layer.weight.fill_(2.0)
            layer.bias.zero_()
    expected = MSELoss()(feats(3, 4.0), feats(3, 1.0))
    assert float(expected) > 0
    torch.testing.assert_close(term(feats(2, 1.0), feats(3, 1.0)), expected)


def test_the_teachers_path_is_the_students_unless_named():
    assert DistillTerm(loss=MSELoss(), student_tap="backbone").teacher_tap == "backbone"
    term = DistillTerm(loss=MSELoss(), student_tap="neck", teacher_tap="decode_head.bottleneck")
    assert (term.student_paths, term.teacher_paths) == (("neck",), ("decode_head.bottleneck",))


def test_levels_choose_maps_in_their_order():
    term = DistillTerm(loss=MSELoss(), student_levels=(2, 0))
    maps = [torch.tensor(float(index)) for index in range(3)]
    assert [float(x) for x in term.select(maps, "student")] == [2.0, 0.0]
    assert [float(x) for x in term.select(maps, "teacher")] == [2.0, 0.0]
    assert DistillTerm(loss=MSELoss()).select(maps, "student") == maps
    words = r"teacher_levels must be below 2, the number of maps of teacher 'neck', got \(2, 0\)"
    with pytest.raises(ValueError, match=words):
        term.select(maps[:2], "teacher")


def test_levels_of_the_teacher_may_be_others():
    term = DistillTerm(loss=MSELoss(), student_levels=(0, 1), teacher_levels=(1, 2))
    maps = [torch.tensor(float(index)) for index in range(3)]
    assert [float(x) for x in term.select(maps, "student")] == [0.0, 1.0]
    assert [float(x) for x in term.select(maps, "teacher")] == [1.0, 2.0]
    assert DistillTerm(loss=MSELoss(), teacher_levels=[2]).student_levels == (2,)


def test_a_module_that_did_not_run_gets_a_hint():
    with pytest.raises(ValueError, match=r"student module 'bbox_head' did not run.*tap a module inside it"):
        DistillTerm(loss=MSELoss(), student_tap="bbox_head").select([], "student")


def test_a_loss_with_prompts_needs_them():
    with pytest.raises(ValueError, match=r"FreeKDLoss needs trained prompts: add prompts='...'.*prompts='untrained'"):
        DistillTerm(loss=dict(type="freqkd.FreeKDLoss", channels=4, num_levels=1))
    assert not DistillTerm(loss=MSELoss()).needs_prompts


def test_an_adapter_chooses_what_the_loss_sees():
    class Adapter(HeadAdapter):
        student_taps, teacher_taps = ("backbone",), ("backbone.layer4",)

        def __call__(self, student_feats, teacher_feats, batch):
            return dict(student_feats=[x * batch for x in student_feats], teacher_feats=teacher_feats)

    term = DistillTerm(loss=MSELoss(), adapter=Adapter())
    assert term.student_paths == ("neck", "backbone")
    assert term.teacher_paths == ("neck", "backbone.layer4")
    assert float(term(feats(2, 1.0), feats(2, 3.0), 3.0)) == 0.0
    with pytest.raises(ValueError, match="batch must be given"):
        term(feats(2, 1.0), feats(2, 3.0))


@pytest.mark.parametrize(("progress", "expected"), [("epoch", 3), ("iter", 70)])
def test_a_loss_that_changes_is_told_how_far_the_training_is(fresh, progress, expected):
    class Changing(nn.Module):
        done = None

        def set_progress(self, step):
            self.done = step

    term = DistillTerm(loss=Changing(), progress=progress)
    term.advance()
    assert term.loss.done is None
    MessageHub.get_instance("run").update_info_dict(dict(epoch=3, iter=70))
    term.advance()
    assert term.loss.done == expected
    with pytest.raises(ValueError, match="progress must be one of 'epoch', 'iter', got 'epochs'"):
        DistillTerm(loss=Changing(), progress="epochs")


@pytest.mark.parametrize("levels", [(), (-1,), (0, -2)])
@pytest.mark.parametrize("name", ["student_levels", "teacher_levels"])
def test_levels_that_name_no_map_are_refused(name, levels):
    with pytest.raises(ValueError, match=f"{name} must be indices"):
        DistillTerm(loss=MSELoss(), **{name: levels})
