"""The set-up of an environment with either family of OpenMMLab packages, without installing anything."""

import importlib.util
import sys
from pathlib import Path

import pytest

from freqkd.utils.environment import FAMILIES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def setup_env():
    spec = importlib.util.spec_from_file_location("tools_setup_env", ROOT / "tools/setup_env.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_families_differ_in_the_openmmlab_packages_alone(setup_env, tmp_path):
    maintained, original = (
        setup_env.Environment(tmp_path, family).requirements() for family in ("maintained", "original")
    )
    assert set(maintained) - set(original) == {pair[0] for pair in FAMILIES.values()}
    assert set(original) - set(maintained) == {pair[1] for pair in FAMILIES.values()} | {"ftfy", "regex"}
    assert all(maintained[name] == original[name] for name in set(maintained) & set(original))


@pytest.mark.parametrize(("family", "package"), [("maintained", "onedl-mmcv"), ("original", "mmcv")])
def test_mmcv_is_built_from_the_source_of_its_family(setup_env, tmp_path, family, package):
    venv = setup_env.Environment(tmp_path, family)
    assert venv.mmcv == package
    assert venv.requirements()[package].startswith(f"{package}==")


def test_another_family_is_set_up_again(setup_env, tmp_path):
    first, second = (setup_env.Environment(tmp_path, family).fingerprint() for family in ("maintained", "original"))
    assert first != second


@pytest.mark.parametrize(
    ("family", "installed"), [("maintained", "mmengine"), ("original", "onedl-mmengine"), ("original", None)]
)
def test_a_folder_with_the_other_family_is_refused(setup_env, tmp_path, monkeypatch, family, installed):
    venv = setup_env.Environment(tmp_path, family)
    monkeypatch.setattr(setup_env.Environment, "works", lambda self, code: f"version({installed!r})" in code)
    if installed is None:
        setup_env.check_family(venv)
        return
    with pytest.raises(setup_env.SetupError, match=f"holds {installed}, of the other family: .*--venv"):
        setup_env.check_family(venv)
