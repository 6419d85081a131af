"""One term: what it taps, what it needs, what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from freqkd.checkpoints import CheckpointError, write_atomic
from freqkd.distillers.teacher import Teacher
from freqkd.distillers.terms import DistillTerm, read_prompts
from freqkd.losses.frequency import FreeKDLoss
from freqkd.losses.imitation import MSELoss


def feats(channels, value):
    return [torch.full((1, channels, 4, 4), value), torch.full((1, channels, 2, 2), value)]


@pytest.fixture
def prompt_file(tmp_path):
    """Return `prompt_file(stamp, **changes)`: a file of prompts made for the teacher of a hash."""

    def write(stamp, channels=4, num_levels=1, **options):
        loss = FreeKDLoss(channels=channels, num_levels=num_levels, depth=1, **options)
        with torch.no_grad():
            for prompt in loss.prompts:
                prompt.tokens.fill_(0.5)
        state = dict(loss.state_dict())
        if stamp:
            state["teacher_hash"] = torch.tensor(list(bytes.fromhex(stamp)), dtype=torch.uint8)
        write_atomic(dict(state_dict=state), tmp_path / "prompts.pth")
        return str(tmp_path / "prompts.pth")

    return write


@pytest.fixture
def held():
    return SimpleNamespace(hash="ab" * 32, checkpoint="teacher.pth")


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
    assert DistillTerm(loss=MSELoss(), student="backbone").teacher_path == "backbone"
    term = DistillTerm(loss=MSELoss(), student="neck", teacher="decode_head.bottleneck")
    assert (term.student_paths, term.teacher_paths) == (("neck",), ("decode_head.bottleneck",))


def test_levels_choose_maps_in_their_order():
    term = DistillTerm(loss=MSELoss(), levels=(2, 0))
    maps = [torch.tensor(float(index)) for index in range(3)]
    assert [float(x) for x in term.select(maps, "neck", "student")] == [2.0, 0.0]
    assert DistillTerm(loss=MSELoss()).select(maps, "neck", "student") == maps
    with pytest.raises(ValueError, match=r"levels must be below 2, the number of maps of teacher 'neck', got \(2, 0\)"):
        term.select(maps[:2], "neck", "teacher")


def test_a_module_that_did_not_run_gets_a_hint():
    with pytest.raises(ValueError, match=r"student module 'bbox_head' did not run.*tap a module inside it"):
        DistillTerm(loss=MSELoss(), student="bbox_head").select([], "bbox_head", "student")


def test_a_loss_with_prompts_needs_them():
    with pytest.raises(ValueError, match=r"FreeKDLoss needs trained prompts: add prompts='...'.*prompts='untrained'"):
        DistillTerm(loss=dict(type="freqkd.FreeKDLoss", channels=4, num_levels=1))
    assert not DistillTerm(loss=MSELoss()).needs_prompts


def test_preparing_loads_the_prompts_and_leaves_them_frozen(prompt_file, held):
    loss = dict(type="freqkd.FreeKDLoss", channels=4, num_levels=1, depth=1)
    term = DistillTerm(loss=loss, prompts=prompt_file(held.hash))
    assert float(term.loss.prompts[0].tokens.detach().abs().max()) < 0.5
    term.prepare(held)
    assert torch.all(term.loss.prompts[0].tokens == 0.5)
    assert not [name for name, parameter in term.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            dict(stamp="cd" * 32),
            r"made for another teacher \(weights cdcdcdcdcdcd, this teacher abababababab, teacher.pth\)",
        ),
        (dict(stamp=None), "is no prompt checkpoint: it names no teacher"),
        (dict(stamp="ab" * 32, num_prompts=3), r"has 3 prompts per band \(num_prompts\), not 2"),
        (dict(stamp="ab" * 32, channels=8), "has 8 channels, not 4"),
        (dict(stamp="ab" * 32, num_levels=2), "for 2 pyramid levels where num_levels=1"),
        (dict(stamp="ab" * 32, relation="gate"), "they have gates, which relation='gate' alone has"),
        (dict(stamp="ab" * 32, preset="official"), "bands"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt_file, held, made, words):
    loss = dict(type="freqkd.FreeKDLoss", channels=4, num_levels=1, depth=1)
    with pytest.raises(CheckpointError, match=words):
        DistillTerm(loss=loss, prompts=prompt_file(**made)).prepare(held)


def test_prompts_that_are_not_there_are_refused(held):
    with pytest.raises(CheckpointError, match=r"prompt checkpoint not found: nowhere.pth; train the prompts first"):
        read_prompts("nowhere.pth", held)


def test_the_hash_that_prompts_name_is_the_teachers(teachers, prompt_file):
    teacher = Teacher(**teachers("detection"))
    state = read_prompts(prompt_file(teacher.hash), teacher)
    assert list(state) == ["prompts.0.tokens"]


def test_an_adapter_chooses_what_the_loss_sees():
    class Adapter:
        student_taps, teacher_taps, asks_teacher = ("backbone",), ("backbone.layer4",), False

        def __call__(self, student, teacher, batch):
            return dict(student_feats=[x * batch for x in student], teacher_feats=teacher)

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
def test_levels_that_name_no_map_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be indices"):
        DistillTerm(loss=MSELoss(), levels=levels)
