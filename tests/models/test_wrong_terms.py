"""Wrong terms, prompts of another use and wrong options of the tools end in one clear line, and nothing is written."""

import pytest


@pytest.fixture(scope="module")
def prompts(trained):
    """A prompt file that fits the shipped detection teacher."""
    return trained("detection").prompts


@pytest.fixture
def refused(tool, tiny_config, tmp_path, capsys):
    """Return `refused(*words, kind=..., more=..., arguments=())`: a training that must fail; its one line names `words`."""

    def check(*words, kind="distill", more="", arguments=()):
        config = tiny_config(tmp_path / "config.py", "detection", kind, more)
        capsys.readouterr()
        assert tool("train", config, "--work-dir", tmp_path / "run", *arguments) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert [word for word in words if word not in lines[0]] == [], lines[0]
        assert not (tmp_path / "run").exists()

    return check


def term(prompts, **changes):
    """The text of a config's model whose FreeKD term has some arguments changed."""
    inner = "".join(f", {key}={value}" for key, value in changes.items())
    return f"model = dict(terms=dict(loss_freekd=dict(prompts={str(prompts)!r}{inner})))"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(wieght=1.0), ("terms.loss_freekd takes", "'wieght'", "did you mean 'weight'?")),
        (
            dict(loss="dict(num_promts=3)"),
            ("terms.loss_freekd: loss=dict(type='freqkd.FreeKDLoss', ...)", "'num_prompts'"),
        ),
        (dict(schedule="dict(warm_up=2)"), ("terms.loss_freekd: schedule takes", "'warm_up'", "'warmup'")),
        (
            dict(align="dict(num_level=2)"),
            ("terms.loss_freekd: align=dict(type='freqkd.ConvAlign', ...)", "'num_levels'"),
        ),
    ],
)
def test_a_misspelt_argument_of_a_term(refused, prompts, changes, words):
    refused(*words, more=term(prompts, **changes))


def test_a_term_of_another_type(refused, prompts):
    words = ("terms.loss_freekd.type must be 'freqkd.DistillTerm'", "'freqkd.Nonsense'")
    refused(*words, more=term(prompts, type="'freqkd.Nonsense'"))


def test_a_prompt_stage_of_another_preset(refused):
    words = ("prompts: preset must be one of 'paper', 'official'", "'details'")
    refused(*words, kind="prompts", more="model = dict(prompts=dict(preset='details'))")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(student_levels=[2, 3, 4]), ("levels=[0, 1, 2]", "levels=[2, 3, 4]")),
        (dict(teacher_levels=[2, 1, 0]), ("levels=[0, 1, 2]", "levels=[2, 1, 0]")),
        (dict(loss="dict(wavelet='db2')"), ("wavelet='haar'", "wavelet='db2'")),
        (dict(teacher_tap="'bbox_head.cls_convs.0'"), ("tap='neck'", "tap='bbox_head.cls_convs.0'")),
    ],
)
def test_prompts_of_another_use(refused, prompts, changes, words):
    refused("was trained with", "but is used with", "train prompts", *words, more=term(prompts, **changes))


@pytest.mark.parametrize(
    ("launcher", "words"),
    [("slurm", ("srun", "SLURM_PROCID")), ("pytorch", ("torchrun", "MASTER_ADDR")), ("mpi", ("mpirun", "OMPI_COMM"))],
)
def test_a_launcher_that_did_not_start_it(refused, launcher, words):
    refused(
        f"--launcher {launcher}", *words, "leave --launcher out", kind="student", arguments=("--launcher", launcher)
    )


@pytest.mark.parametrize("word", ["foo", "=3"])
def test_a_change_of_the_config_that_is_none(refused, word):
    refused("--cfg-options takes key=value", repr(word), kind="student", arguments=("--cfg-options", word))


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (
            "distill",
            "model = dict(monitr=3)",
            ("model=dict(type='freqkd.Distiller', ...) takes", "did you mean 'monitor'?"),
        ),
        (
            "prompts",
            "model = dict(levls=[0])",
            ("model=dict(type='freqkd.PromptTuner', ...)", "did you mean 'levels'?"),
        ),
        ("prompts", "model = dict(tap='nekc')", ("tap: no module 'nekc' in RetinaNet", "'neck'")),
    ],
)
def test_a_misspelt_argument_of_a_model(refused, prompts, kind, more, words):
    refused(*words, kind=kind, more=f"{term(prompts)}\n{more}" if kind == "distill" else more)
