"""A head itself can be tapped where the framework calls it as a module; where it does not, that is said."""

import copy

import pytest
import torch

from freqkd.teacher.teacher import Teacher

MSE = dict(loss=dict(type="freqkd.MSELoss"))


def losses_of(model, raw):
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


def test_the_whole_head_of_a_detector_is_tapped_in_both_networks(distill, small):
    torch.manual_seed(0)
    model = distill("detection", terms=dict(loss_mse=dict(MSE, student_tap="bbox_head", student_levels=(0, 7)))).train()
    model.rehearse()
    raw = small.raw("detection")
    loss = losses_of(model, raw)["distill.loss_mse"]
    assert float(loss) > 0
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    with torch.no_grad():
        taught = model.teacher.model.bbox_head(model.teacher.model.extract_feat(data["inputs"]))
        ours = model.student.bbox_head(model.student.extract_feat(data["inputs"]))
    expected = sum(torch.nn.functional.mse_loss(ours[i][j], taught[i][j]) for i, j in ((0, 0), (1, 2)))
    torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.parametrize(
    ("task", "path", "count"), [("detection", "bbox_head", 10), ("segmentation", "decode_head", 1)]
)
def test_a_teacher_runs_its_heads_with_their_hooks(teachers, task, path, count):
    maps = Teacher(**teachers(task)).extract(torch.zeros(1, 3, 64, 96), None, [path])[path]
    assert len(maps) == count


def test_a_head_that_trains_past_its_hooks_is_refused_before_training(distill):
    model = distill("segmentation", terms=dict(loss_mse=dict(MSE, student_tap="decode_head")))
    with pytest.raises(
        ValueError, match=r"terms.loss_mse: student module 'decode_head' did not run as a module.*mmseg"
    ):
        model.rehearse()


def test_such_a_head_of_the_teacher_serves(distill, small):
    terms = dict(loss_mse=dict(MSE, student_tap="decode_head.conv_seg", teacher_tap="decode_head"))
    model = distill("segmentation", terms=terms).train()
    model.rehearse()
    assert float(losses_of(model, small.raw("segmentation"))["distill.loss_mse"]) > 0
