"""The guides do what they say: their files are added to a copy of the repository and tested there, their code is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "CONTRIBUTING.md"
OWN_DATA = ROOT / "docs" / "own-data.md"
PAGES = [GUIDE, ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COPIED = (
    "freqkd",
    "configs",
    "docs",
    "tests",
    "tools",
    "pyproject.toml",
    "CONTRIBUTING.md",
    "studies",
    "examples",
    "model-index.yml",
)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def section(title):
    """The text of a section of the guide."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.M | re.S)[1]


def steps(title):
    """The file that each step of a section adds or extends, and the code that it gives for it."""
    return dict(re.findall(r"^\*\*\d\. `([^`]+)`\*\*.*?^```\w+\n(.*?)```", section(title), re.M | re.S))


def names_of_tests(files):
    """The names by which pytest reports the tests in a guide's files."""
    return [f"{name}::{test}" for name, code in files.items() for test in re.findall(r"^def (test_\w+)", code, re.M)]


# ---- the guides to new files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contributed(tmp_path_factory, other_processes):
    """The tests that pass in a copy of the repository with the files of both guides and no other change."""
    copy = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    (copy / "data").symlink_to(ROOT / "data")
    files = [*steps("Add a loss").items(), *steps("Add a head adapter").items()]
    for name, code in files:
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".yml":
            key, row = code.split("\n", 1)
            path.write_text(path.read_text().replace(f"\n{key}\n", f"\n{key}\n{row}"))
        else:
            path.write_text(path.read_text() + code if path.suffix == ".md" else code)
    commands = re.search(r"^```\n(python tools.*?)```", section("Add a loss"), re.M | re.S)[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(commands, shell=True, cwd=copy, env=environment, check=True, capture_output=True)
    assert "largest_neck" in (copy / "tests/first_losses.json").read_text()
    given = [name for name, _ in files if name.startswith(("freqkd", "tests"))]
    given += ["tests/test_configs.py", "tests/adapters/test_sample_configs.py", "tests/test_contributing.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rp", "-k", "largest or objectness or has_a_row or are_found", *given],
        cwd=copy,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^PASSED (\S+)", done.stdout, re.M)


def test_a_loss_is_three_files_and_three_rows(contributed):
    files = steps("Add a loss")
    loss, test, config, *pages = files
    trained = f"tests/adapters/test_sample_configs.py::test_a_sample_config_trains[{Path(config).stem}]"
    assert {f"{loss}::freqkd.losses.largest.largest_loss", trained, *names_of_tests(files)} <= set(contributed)
    assert len(names_of_tests({test: files[test]})) == 2
    assert [page for page in pages if (ROOT / page).exists()] == [
        "docs/methods.md",
        "configs/heads.yml",
        "configs/papers.yml",
    ]


def test_a_head_adapter_is_three_files(contributed):
    files = steps("Add a head adapter")
    adapter, test, page = files
    assert set(names_of_tests(files)) <= set(contributed)
    assert len(names_of_tests({test: files[test]})) == 2
    assert adapter.startswith("freqkd/adapters/")
    assert (ROOT / page).exists()


def test_every_loss_and_adapter_has_a_row():
    from torch import nn

    from freqkd import adapters, losses
    from freqkd.plugins import classes_of

    names = {kind.__name__ for kind in classes_of(losses, nn.Module) if kind.__name__.endswith("Loss")}
    names |= {kind.__name__ for kind in classes_of(adapters, adapters.HeadAdapter)}
    pages = "\n".join((ROOT / "docs" / page).read_text() for page in ("methods.md", "logit-methods.md"))
    in_rows = {name for row in re.findall(r"^\|.*", pages, re.M) for name in re.findall(r"`(\w+)", row)}
    assert len(names) >= 20
    assert not names - in_rows


def test_the_table_of_methods_and_heads_is_the_one_that_the_script_writes():
    script = ROOT / "tools/write_methods_table.py"
    run = subprocess.run([sys.executable, str(script), "--check"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}run python tools/write_methods_table.py"
    text = (ROOT / "docs/methods.md").read_text()
    rows = re.findall(r"^\| .* \|$", text[text.index("<!-- Written by") : text.index("<!-- end -->")], re.M)[1:]
    cells = [cell.strip() for row in rows for cell in row.split("|")[2:12]]
    with_configs = [cell for cell in cells if cell.startswith("[")]
    assert len(with_configs) == int(re.search(r"^(\d+) cells are configs", text, re.M)[1]) >= 60
    assert all((ROOT / "docs" / path).exists() for cell in with_configs for path in re.findall(r"\((.+?)\)", cell))
    assert len(cells) == 10 * len(rows)
    reasons = set(re.findall(r"^- ([=a-z]): ", text, re.M))
    assert all(cell[0] in "[`" or cell.split(" (")[0] in reasons for cell in cells)


def test_the_table_of_packages_is_the_order_of_the_import_rules():
    rules = re.search(r'type = "layers"\nlayers = \[(.*?)\n\]', (ROOT / "pyproject.toml").read_text(), re.S)[1]
    modules = re.findall(r"freqkd[\w.]*", rules)
    paths = [path for row in re.findall(r"^\| (`freqkd.*?) \|", GUIDE.read_text(), re.M) for path in row.split(", ")]
    shown = [path.strip("`/").removesuffix(".py").replace("/", ".") for path in paths]
    inner = [module for module in modules if module not in shown]  # layers inside freqkd/utils/
    assert [module for module in modules if module in shown] == [name for name in shown if name != "freqkd.utils"]
    assert all(module.startswith("freqkd.utils.") for module in inner)
    homes = {path.name for path in (ROOT / "freqkd").iterdir() if (path / "__init__.py").exists()}
    assert homes == {name.split(".")[1] for name in shown if (ROOT / name.replace(".", "/")).is_dir()}


# ---- the other guides -----------------------------------------------------------------------------------------------


def test_the_softening_is_one_class_and_changes_what_it_says():
    from freqkd.losses import kd_loss

    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", section("Add a softening"), re.S)
    exec(compile(block, str(GUIDE), "exec"), names)
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    expected = kd_loss(student, 2 * teacher, tau=2.0)
    torch.testing.assert_close(names["sharp"](student, teacher), expected)
    assert not torch.isclose(expected, kd_loss(student, teacher, tau=2.0))


def test_the_changes_of_freekds_formula_are_one_line_each():
    """Both diffs are applied to the file, which then has the norm and the combination."""
    file = ROOT / "freqkd/losses/freekd/loss.py"
    text = file.read_text()
    diffs = re.findall(r"```diff\n(.*?)```", section("Change FreeKD's formula"), re.S)
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


# ---- docs/own-data.md -----------------------------------------------------------------------------------------------


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """The teacher and student that docs/own-data.md speaks of, small and untrained, in the current folder."""
    from freqkd.teacher.teacher import build_network
    from freqkd.utils.compat import read_config

    shipped = ROOT / "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
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
    weights = build_network(read_config("my_teacher.py").model, "mmdet").state_dict()
    torch.save(dict(state_dict=weights), "my_teacher.pth")


def test_the_configs_of_own_data_fit_one_another(own_networks):
    from mmengine.registry import DefaultScope

    from freqkd.apis.preflight import check_model
    from freqkd.models.prompt_file import write_prompts
    from freqkd.registry import MODELS
    from freqkd.utils.compat import read_config

    configs = [block for block in blocks(OWN_DATA) if "_base_" in block]
    for stage, config in zip(("prompts", "freekd"), configs, strict=True):
        Path(f"my_{stage}.py").write_text(config)
    prompts = read_config("my_prompts.py")
    check_model(prompts)
    with DefaultScope.overwrite_default_scope("mmdet"):
        tuner = MODELS.build(prompts.model)
    write_prompts(tuner, "work_dirs/my_prompts/prompts.pth")
    check_model(read_config("my_freekd.py"))  # prompts of this teacher, taps, channels
    (reader,) = (block for block in blocks(OWN_DATA) if "read_prompts" in block)
    names = {}
    exec(compile(reader, str(OWN_DATA), "exec"), names)
    for prompt, trained in zip(names["distance"].prompts, tuner.prompts, strict=True):
        torch.testing.assert_close(prompt.tokens, trained.tokens, rtol=0, atol=0)


def test_the_listing_of_own_data_shows_what_runs(own_networks, capsys, fresh):
    from freqkd.__main__ import main

    (listing,) = re.findall(r"^freqkd (taps .*?) *#", OWN_DATA.read_text(), re.M)
    assert main(listing.split()) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["neck", "1", *(f"128x{size}x{size}" for size in (32, 16, 8, 4, 2))] in [line[:7] for line in shown]
    assert [line[1] for line in shown if line[0] == "bbox_head.retina_cls"] == ["5"]


def test_the_plain_loop_of_own_data_brings_the_student_nearer():
    (loop,) = (block for block in blocks(OWN_DATA) if "optimizer.step()" in block)
    values = []
    for text in (loop.replace("range(20)", "range(1)"), loop):
        names = {}
        torch.manual_seed(0)
        exec(compile(text, str(OWN_DATA), "exec"), names)
        values.append(names["loss"].item())
    assert values[1] < 0.7 * values[0]


# ---- names and links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_what_exists(page):
    import freqkd.plugins
    from freqkd import align, losses, registry

    text, added = page.read_text(), {**steps("Add a loss"), **steps("Add a head adapter")}
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    paths = set(re.findall(r"`((?:freqkd|tests|docs|tools|configs|data|benchmarks|examples)/[\w/.*-]+)`", prose)) - set(
        added
    )
    wrong = [path for path in paths if "METHOD" not in path and not list(ROOT.glob(path))]
    wrong += [link for link in re.findall(r"\]\(([\w/.-]+)\)", prose) if not (page.parent / link).exists()]
    registries = (registry.MODELS, registry.HOOKS, registry.DATASETS, registry.DATA_SAMPLERS)
    registries += (registry.OPTIM_WRAPPERS, registry.TRANSFORMS)
    known = {*dir(losses), *dir(align), *(name for one in registries for name in one.module_dict)}
    known |= set(re.findall(r"^(?:class|def) (\w+)", "\n".join(added.values()), re.M))
    named = re.findall(r"\bfreqkd\.([A-Z]\w*[a-z]\w*)|`(\w+(?:_loss|Loss|Align))\b", text)
    wrong += sorted({name for pair in named for name in pair if name} - known)
    assert freqkd.plugins
    assert not wrong
