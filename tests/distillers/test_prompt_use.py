"""Prompts serve what they were trained for: the tap, the levels and the wavelet, which shapes do not tell."""

from types import SimpleNamespace

import pytest
import torch

from freqkd.checkpoints import CheckpointError, write_atomic
from freqkd.distillers.prompt_files import describe_use
from freqkd.distillers.prompt_tuner import PromptTuner
from freqkd.distillers.terms import DistillTerm
from freqkd.hooks.prompts import PromptFileHook
from freqkd.losses import FreeKDLoss

LOSS = dict(type="freqkd.FreeKDLoss", channels=4, num_levels=3, depth=1)
HELD = SimpleNamespace(hash="ab" * 32, checkpoint="teacher.pth")


@pytest.fixture
def stage(tmp_path):
    """Return `stage(loss=LOSS, **options)`: the file that `PromptFileHook` writes for a prompt stage."""

    def write(loss=LOSS, **options):
        tuner = PromptTuner(dict(config="x.py", checkpoint="teacher.pth"), loss, **options)
        tuner.teacher_hash.fill_(0xAB)
        logger = SimpleNamespace(info=lambda text: None)
        PromptFileHook().after_train(SimpleNamespace(model=tuner, work_dir=str(tmp_path), logger=logger))
        return str(tmp_path / "prompts.pth")

    return write


def prepare(path, loss=LOSS, **options):
    DistillTerm(loss, prompts=path, **options).prepare(HELD)


@pytest.mark.parametrize(
    ("made", "used"),
    [
        (dict(), dict()),
        (dict(levels=[0, 1, 2]), dict()),
        (dict(), dict(levels=(0, 1, 2))),
        (dict(tap="decode_head.bottleneck"), dict(student="neck", teacher="decode_head.bottleneck")),
        (dict(loss=dict(LOSS, wavelet="db1")), dict(loss=dict(LOSS, wavelet="haar"))),
        # What only one stage looks at may differ.
        (
            dict(loss=dict(LOSS, overlap="dice", normalize=False)),
            dict(loss=dict(LOSS, band_weights="orientation-mean")),
        ),
    ],
)
def test_prompts_of_the_same_use_are_taken(stage, made, used):
    prepare(stage(**made), **used)


@pytest.mark.parametrize(
    ("made", "used", "words"),
    [
        (dict(levels=[0, 1, 2]), dict(levels=[2, 3, 4]), r"levels=\[0, 1, 2\], but is used with levels=\[2, 3, 4\]"),
        (dict(levels=[0, 1, 2]), dict(levels=[2, 1, 0]), r"levels=\[0, 1, 2\], but is used with levels=\[2, 1, 0\]"),
        (dict(), dict(levels=[1, 2, 3]), r"levels=\[0, 1, 2\], but .*\[1, 2, 3\]"),
        (
            dict(),
            dict(student="backbone"),
            "tap='neck', but is used with tap='backbone': .* change the term's teacher=",
        ),
        (dict(tap="backbone"), dict(), "tap='backbone', but is used with tap='neck'"),
        (dict(), dict(loss=dict(LOSS, wavelet="db2")), "wavelet='haar', but .* wavelet='db2': .* the loss's wavelet="),
        # Four token sets each.
        (
            dict(loss=dict(LOSS, bands="level", depth=3)),
            dict(),
            "bands='level', depth=3, but is used with bands='subband', depth=1: these must agree",
        ),
    ],
)
def test_prompts_of_another_use_are_refused(stage, made, used, words):
    with pytest.raises(CheckpointError, match=f"prompts.pth was trained with .*{words}.*or train prompts for this use"):
        prepare(stage(**made), **used)


@pytest.mark.parametrize("meta", [None, dict(), dict(teacher="teacher.pth", epoch=3), dict(tap="neck")])
def test_older_files_are_taken_for_what_they_say(tmp_path, meta):
    state = dict(FreeKDLoss(**{key: value for key, value in LOSS.items() if key != "type"}).state_dict())
    state["teacher_hash"] = torch.full((32,), 0xAB, dtype=torch.uint8)
    write_atomic(dict(state_dict=state, **({} if meta is None else dict(meta=meta))), tmp_path / "old.pth")
    prepare(str(tmp_path / "old.pth"), levels=[2, 3, 4])
    if meta and "tap" in meta:
        with pytest.raises(CheckpointError, match="tap='neck'"):
            prepare(str(tmp_path / "old.pth"), student="backbone")


def test_a_use_is_plain_data_in_one_spelling():
    prompts = FreeKDLoss(4, 2, preset="official", wavelet="db1").prompts
    assert describe_use(prompts, "neck", (3, 1)) == dict(
        tap="neck", levels=[3, 1], wavelet="haar", bands="level", depth=3, score="signed"
    )
