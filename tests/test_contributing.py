"""The guides' code runs as it stands, and does what the guides say."""

import copy
import doctest
import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "CONTRIBUTING.md"
OWN_DATA = ROOT / "docs" / "own-data.md"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """Make the loss's file of the first block, import it, and run the other blocks on its names."""
    from freqkd.registry import MODELS

    first, *others = blocks(GUIDE)
    file = tmp_path_factory.mktemp("losses") / "cosine.py"
    file.write_text(first)
    spec = importlib.util.spec_from_file_location("guide_cosine", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = dict(vars(module), module=module)
    for block in others:
        exec(compile(block, str(GUIDE), "exec"), names)
    yield names
    MODELS.module_dict.pop("CosineLoss", None)


def test_the_guides_doctest_and_test_pass(guide):
    found = doctest.testmod(guide["module"])
    assert (found.attempted, found.failed) == (2, 0)
    guide["test_cosine_by_hand"]()


def test_the_guides_loss_trains_as_a_term_of_a_config(guide):
    from freqkd.registry import MODELS

    term = MODELS.build(copy.deepcopy(guide["term"]))
    for layer in term.align.layers:  # the student's channels twice over
        torch.nn.init.zeros_(layer.bias)
        layer.weight.data.copy_(torch.eye(8).repeat(2, 1)[:, :, None, None])
    torch.manual_seed(0)
    student = [torch.randn(2, 8, 5, 7, requires_grad=True), torch.randn(2, 8, 3, 4, requires_grad=True)]
    doubled = [feature.detach().repeat(1, 2, 1, 1) for feature in student]
    assert term(student, [3 * feature for feature in doubled]).item() == pytest.approx(0, abs=1e-5)
    loss = term(student, [-doubled[0], torch.cat((doubled[1][:, :8], -doubled[1][:, 8:]), 1)])
    assert loss.item() == pytest.approx(2 + 1, abs=1e-5)  # opposite on the first level, orthogonal on the second
    loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in term.align.layers[1:])
    assert term.weight.share == 0.5
    twice = MODELS.build(dict(type="freqkd.CosineLoss", loss_weight=2.0))
    assert twice(doubled, [-feature for feature in doubled]).item() == pytest.approx(8, abs=1e-5)


def test_the_guides_loss_names_what_does_not_fit(guide):
    with pytest.raises(ValueError, match="add an align"):
        guide["cosine_loss"](torch.ones(1, 2, 3, 3), torch.ones(1, 4, 3, 3))


def test_the_guides_changes_of_the_formula_are_one_line_each():
    """Both diffs are applied to the file, which then has the norm and the combination."""
    file = ROOT / "freqkd/losses/frequency.py"
    text = file.read_text()
    diffs = re.findall(r"```diff\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(diffs) == 2
    for diff in diffs:
        lines = diff.splitlines()[2:]
        added = [line for line in lines if line.startswith("+")]
        assert len(added) == 1
        before, after = ("\n".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" ", " +"))
        assert text.count(before) == 1
        text = text.replace(before, after)
    names = {"__name__": "freqkd.losses.changed"}
    exec(compile(text, str(file), "exec", dont_inherit=True), names)
    student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # bands 5, -2, -1, 0
    smooth = names["freekd_loss"](student, teacher, norm="charbonnier", knee=2.0, depth=1)
    assert smooth.item() == pytest.approx(sum((x * x + 4) ** 0.5 - 2 for x in (5, 2, 1, 0)), rel=1e-6)
    masks = [torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)] * 4
    assert names["freekd_loss"](student, teacher, masks, combine="product", depth=1).item() == pytest.approx(8 / 8)
    loss = names["FreeKDLoss"](1, 1, norm="charbonnier", combine="product", depth=1, relation="none")
    loss.load_prompts({"prompts.0.tokens": torch.zeros(4, 2, 1)})  # both masks 1/2, their product 1/4
    expected = sum((x * x / 16 + 1) ** 0.5 - 1 for x in (5, 2, 1, 0))
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_the_guides_softening_is_one_class_and_changes_what_it_says(guide):
    from freqkd.losses import kd_loss

    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    expected = kd_loss(student, 2 * teacher, tau=2.0)
    torch.testing.assert_close(guide["sharp"](student, teacher), expected)
    assert not torch.isclose(expected, kd_loss(student, teacher, tau=2.0))


def test_the_guide_has_four_steps_and_names_files_that_exist():
    text = GUIDE.read_text()
    assert [line[2:4] for line in text.splitlines() if re.match(r"\*\*\d\.", line)] == ["1.", "2.", "3.", "4."]
    named = [name for name in re.findall(r"`((?:freqkd|tests|docs)/[\w/.]+)`", text) if "cosine" not in name]
    assert {"freqkd/plugins.py", "freqkd/losses/__init__.py", "freqkd/losses/softening.py"} <= set(named)
    for name in [*named, "docs/methods.md", "CHANGELOG.md"]:
        assert (ROOT / name).exists(), name


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """The teacher and student that docs/own-data.md speaks of, small and untrained, in the current folder."""
    from freqkd.compat import read_config
    from freqkd.distillers.teacher import build_network

    shipped = ROOT / "configs/blood_cells/retinanet_r18w16_b8-12e_blood-cells.py"
    samples = ROOT / "data/samples/blood_cells"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/samples").mkdir(parents=True)
    (tmp_path / "data/samples/blood_cells").symlink_to(samples)
    for name, width in (("teacher", 256), ("student", 128)):
        parts = f"neck=dict(out_channels={width}), bbox_head=dict(in_channels={width})"
        Path(f"my_{name}.py").write_text(
            f"_base_ = [{str(shipped)!r}]\nmodel = dict({parts})\ntrain_dataloader = dict(batch_size=1)\n"
        )
    torch.manual_seed(0)
    torch.save(
        dict(state_dict=build_network(read_config("my_teacher.py").model, "mmdet").state_dict()), "my_teacher.pth"
    )


def test_the_configs_of_own_data_fit_one_another(own_networks):
    from mmengine.registry import DefaultScope

    from freqkd.checkpoints import write_atomic
    from freqkd.compat import read_config
    from freqkd.preflight import check_model
    from freqkd.registry import MODELS

    for stage, config in zip(
        ("prompts", "freekd"), [block for block in blocks(OWN_DATA) if "_base_" in block], strict=True
    ):
        Path(f"my_{stage}.py").write_text(config)
    prompts = read_config("my_prompts.py")
    check_model(prompts)
    with DefaultScope.overwrite_default_scope("mmdet"):
        tuner = MODELS.build(prompts.model)
        tuner.prepare()
    write_atomic(dict(state_dict=tuner.state_dict()), "work_dirs/my_prompts/prompts.pth")
    check_model(read_config("my_freekd.py"))  # prompts of this teacher, taps, channels


def test_the_listing_of_own_data_shows_what_fires(own_networks, capsys, fresh):
    listing = next(block for block in blocks(OWN_DATA) if "named_modules" in block)
    exec(compile(listing, str(OWN_DATA), "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert "neck [(1, 128, 32, 40), (1, 128, 16, 20), (1, 128, 8, 10), (1, 128, 4, 5), (1, 128, 2, 3)]" in shown
    assert sum(line.startswith("bbox_head.retina_cls ") for line in shown) == 5


def test_the_plain_loop_of_own_data_brings_the_student_nearer(tmp_path, monkeypatch):
    from freqkd import FrequencyPrompt

    monkeypatch.chdir(tmp_path)

    loop, reader = [block for block in blocks(OWN_DATA) if "distance" in block]
    torch.manual_seed(0)
    names = {}
    first = loop.replace("range(20)", "range(1)")
    exec(compile(first, str(OWN_DATA), "exec"), names)
    begin = names["loss"].item()
    torch.manual_seed(0)
    exec(compile(loop, str(OWN_DATA), "exec"), names)
    assert names["loss"].item() < 0.7 * begin
    exec(compile(reader, str(OWN_DATA), "exec"), names)
    tokens = FrequencyPrompt(16).tokens.data
    torch.save(dict(state_dict={"teacher_hash": torch.zeros(32), "prompts.0.tokens": tokens}), "prompts.pth")
    names["load_prompts"](names["distance"], "prompts.pth")
    torch.testing.assert_close(names["distance"].prompts[0].tokens.data, tokens)


@pytest.mark.parametrize("page", ["methods", "own-data", "design"])
def test_pages_name_what_exists(page):
    import freqkd
    from freqkd import losses

    text = (ROOT / "docs" / f"{page}.md").read_text()
    for pattern in re.findall(r"`(configs/[^`]+)`", text):
        assert list(ROOT.glob(pattern)), pattern
    for link in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    named = set(re.findall(r"`(\w+(?:_loss|Loss|Align))\b", text))
    assert not [name for name in named if not hasattr(losses, name) and not hasattr(freqkd.align, name)]
