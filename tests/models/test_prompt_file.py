"""Prompt files say what made them; a distillation that names one need not repeat it, and must not contradict it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from freqkd.hooks.prompts import PromptFileHook
from freqkd.losses import FreeKDLoss
from freqkd.losses.freekd.relation import KANGate
from freqkd.models.prompt_file import read_prompts, write_prompts
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.models.term import DistillTerm
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint, write_atomic

PROMPTS = dict(channels=4, num_levels=3, depth=1)
TEACHER = SimpleNamespace(hash="ab" * 32, checkpoint="teacher.pth")
LOSS = dict(type="freqkd.FreeKDLoss")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Return `stage(prompts=PROMPTS, **options)`: the file of a prompt stage of no steps."""
    monkeypatch.setattr(PromptTuner, "prepare", lambda self: None)

    def write(prompts=PROMPTS, **options):
        tuner = PromptTuner(dict(config="x.py", checkpoint="teacher.pth"), prompts, **options)
        tuner.teacher._hash, tuner.teacher._model = TEACHER.hash, torch.nn.Module()
        with torch.no_grad():
            for prompt in tuner.prompts:
                prompt.tokens.fill_(0.5)
        logger = SimpleNamespace(info=lambda text: None)
        PromptFileHook().after_train(SimpleNamespace(model=tuner, work_dir=str(tmp_path), logger=logger))
        return str(tmp_path / "prompts.pth")

    return write


def test_a_term_needs_nothing_but_the_file(stage):
    path = stage(
        dict(channels=[4, 6], num_levels=2, num_prompts=3, preset="official", depth=2, score="magnitude"),
        tap="decode_head.bottleneck",
        levels=[3, 1],
    )
    term = DistillTerm(dict(LOSS, preset="official"), prompts=path)
    assert (term.student_tap, term.teacher_tap) == ("decode_head.bottleneck", "decode_head.bottleneck")
    assert (term.student_levels, term.teacher_levels) == ((3, 1), (3, 1))
    assert term.loss.channels == [4, 6]
    assert [tuple(prompt.tokens.shape) for prompt in term.loss.prompts] == [(3, 3, 4), (3, 3, 6)]
    assert term.loss.options["depth"] == 2
    assert {prompt.score for prompt in term.loss.prompts} == {"magnitude"}
    assert all(torch.all(prompt.tokens == 0.5) for prompt in term.loss.prompts)
    assert not [name for name, parameter in term.named_parameters() if parameter.requires_grad]


def test_gates_come_with_the_file(stage):
    path = stage(gate=True)
    assert len(DistillTerm(LOSS, prompts=path).loss.gates) == 3
    assert len(DistillTerm(dict(LOSS, relation="gate"), prompts=path).loss.gates) == 3
    with pytest.raises(CheckpointError, match=r"gate=True, but is used with gate=False: .* the loss's relation="):
        DistillTerm(dict(LOSS, relation="attention"), prompts=path)
    with pytest.raises(CheckpointError, match="gate=False, but is used with gate=True"):
        DistillTerm(dict(LOSS, relation="gate"), prompts=stage())


def test_gates_of_kan_layers_come_with_the_file(stage):
    path = stage(gate="kan")
    for loss in (LOSS, dict(LOSS, relation="kan-gate")):
        gates = DistillTerm(loss, prompts=path).loss.gates
        assert [type(gate) for gate in gates] == [KANGate] * 3
        assert not any(parameter.requires_grad for parameter in gates.parameters())
    with pytest.raises(CheckpointError, match=r"gate='kan', but is used with gate=True: .* the loss's relation="):
        DistillTerm(dict(LOSS, relation="gate"), prompts=path)
    with pytest.raises(ValueError, match="gate must be True, False or 'kan', got 'mlp'"):
        stage(gate="mlp")


@pytest.mark.parametrize(
    ("made", "used"),
    [
        (dict(), dict(student_levels=(0, 1, 2))),
        (dict(levels=[0, 1, 2]), dict(teacher_levels=[0, 1, 2], student_levels=[1, 2, 3])),
        (dict(), dict(student_tap="backbone", teacher_tap="neck")),
        (dict(), dict(student_tap="backbone")),
        (dict(), dict(loss=dict(LOSS, channels=4, num_levels=3, num_prompts=2, depth=1))),
        (dict(), dict(loss=dict(LOSS, channels=(4, 4, 4), tokens_per="subband", score="signed"))),
        (dict(prompts=dict(PROMPTS, wavelet="db1")), dict(loss=dict(LOSS, wavelet="haar"))),
        (dict(prompts=dict(PROMPTS, overlap="dice", normalize=False)), dict(loss=dict(LOSS, norm="l2"))),
        (dict(prompts=dict(PROMPTS, preset="official")), dict(loss=dict(LOSS, preset="official"))),
        (dict(prompts=dict(PROMPTS, preset="official")), dict(loss=dict(LOSS, preset="paper", tokens_per="scale"))),
        (dict(), dict(loss=FreeKDLoss(channels=4, num_levels=3, depth=1))),
    ],
)
def test_what_agrees_may_be_stated(stage, made, used):
    term = DistillTerm(**{"loss": LOSS, **used}, prompts=stage(**made))
    assert term.teacher_tap == "neck"
    assert term.loss.prompts[0].tokens[0, 0, 0] == 0.5


@pytest.mark.parametrize(
    ("made", "used", "words"),
    [
        (dict(), dict(student_levels=[2, 3, 4]), r"levels=\[0, 1, 2\], but is used with levels=\[2, 3, 4\]"),
        (dict(), dict(teacher_levels=[2, 1, 0]), r"levels=\[0, 1, 2\], but is used with levels=\[2, 1, 0\]"),
        (
            dict(),
            dict(teacher_tap="backbone"),
            "tap='neck', but is used with tap='backbone': .* the term's teacher_tap=",
        ),
        (dict(), dict(loss=dict(LOSS, wavelet="db2")), "wavelet='haar', but .* wavelet='db2': .* the loss's wavelet="),
        (dict(), dict(loss=dict(LOSS, num_prompts=3)), "num_prompts=2, but is used with num_prompts=3"),
        (dict(), dict(loss=dict(LOSS, channels=8)), r"channels=\[4, 4, 4\], but is used with channels=\[8, 8, 8\]"),
        (
            dict(),
            dict(loss=dict(LOSS, num_levels=2, depth=3)),
            "num_levels=3, depth=1, but is used with num_levels=2, depth=3",
        ),
        (dict(), dict(loss=dict(LOSS, preset="official")), "tokens_per='subband', but is used with tokens_per='scale'"),
        (dict(), dict(loss=FreeKDLoss(channels=4, num_levels=3, depth=2)), "depth=1, but is used with depth=2"),
    ],
)
def test_what_contradicts_the_file_is_refused(stage, made, used, words):
    path = stage(**made)
    with pytest.raises(CheckpointError, match=f"prompts.pth was trained with .*{words}.*or train prompts for this use"):
        DistillTerm(**{"loss": LOSS, **used}, prompts=path)


def test_prompts_of_another_teacher_are_refused(stage):
    term = DistillTerm(LOSS, prompts=stage())
    term.check_teacher(TEACHER)
    words = r"made for another teacher \(weights abababababab, this teacher cdcdcdcdcdcd, other.pth\)"
    with pytest.raises(CheckpointError, match=words):
        term.check_teacher(SimpleNamespace(hash="cd" * 32, checkpoint="other.pth"))


def test_prompts_that_are_not_there_are_refused():
    with pytest.raises(CheckpointError, match=r"prompt checkpoint not found: nowhere\.pth; train the prompts first"):
        DistillTerm(LOSS, prompts="nowhere.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.pop("meta"), "is not a prompt file: it does not say tap, teacher,"),
        (lambda file: file["meta"].pop("depth"), "is not a prompt file: it does not say depth"),
        (lambda file: file["meta"].update(depth="1"), "is not a prompt file: it does not say depth"),
        (lambda file: file["meta"].update(depth=2), "is damaged"),
        (lambda file: file["meta"].update(channels=[4, 4]), "is damaged"),
        (lambda file: file["state_dict"].pop("prompts.1.tokens"), "is damaged"),
        (
            lambda file: file["state_dict"]["prompts.1.tokens"].fill_(float("nan")),
            "must be a dense tensor of finite numbers",
        ),
        (lambda file: file["meta"].update(levels=[0, -1, 2]), "levels"),
    ],
)
def test_a_damaged_file_is_refused(stage, tmp_path, change, words):
    content = read_checkpoint(stage())
    change(content)
    write_atomic(content, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=words):
        DistillTerm(LOSS, prompts=str(tmp_path / "damaged.pth"))


def test_a_file_names_its_teacher_in_one_place(stage):
    content = read_checkpoint(stage())
    assert set(content) == {"state_dict", "meta"}
    assert {name.split(".")[0] for name in content["state_dict"]} == {"prompts"}
    assert (content["meta"]["teacher"], content["meta"]["teacher_hash"]) == ("teacher.pth", TEACHER.hash)
    assert read_prompts(stage()).made["wavelet"] == "haar"


def test_a_file_is_written_whole_or_not_at_all(stage, tmp_path, monkeypatch):
    path = stage()
    before = Path(path).read_bytes()

    def broken(*_, **__):
        raise OSError("disk full")

    tuner = PromptTuner(dict(config="x.py", checkpoint="teacher.pth"), PROMPTS)
    tuner.teacher._hash, tuner.teacher._model = TEACHER.hash, torch.nn.Module()
    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        write_prompts(tuner, path)
    assert Path(path).read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["prompts.pth"]
