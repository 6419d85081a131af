"""The environment check: every fault is provoked through injected facts, and the command runs on this environment."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import freqkd
from freqkd.__main__ import main
from freqkd.utils import environment

MAINTAINED = {
    "torch": "2.13.0",
    "numpy": "2.4.1",
    "setuptools": "81.0.0",
    "opencv-python": "4.12.0.88",
    "pytorch-wavelets": "1.3.0",
    "PyWavelets": "1.9.0",
    "safetensors": "0.8.0",
    "matplotlib": "3.10.0",
    "rich": "14.0.0",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "onedl-mmsegmentation": "1.4.2",
}
GOOD = environment.Facts((3, 11, 7), MAINTAINED)
SYMBOL = "_ext.cpython-311.so: undefined symbol: _ZN3c1010ValueErrorD1Ev"


def without(*names):
    return {name: version for name, version in MAINTAINED.items() if name not in names}


def run_all(facts):
    return {finding.name: finding for finding in (check(facts) for check in environment.CHECKS)}


def faults(facts):
    return {name for name, finding in run_all(facts).items() if finding.status == "fault"}


def test_good_environment_has_no_fault():
    findings = run_all(GOOD)
    assert {finding.status for finding in findings.values()} == {"ok", "info"}
    assert findings["torch"].text == "2.13.0, no CUDA, numpy 2.4.1"
    assert findings["gpu"].text == "no: everything runs on the CPU"
    assert len(findings) == len(environment.CHECKS)


@pytest.mark.parametrize(
    ("change", "name", "text", "fix"),
    [
        ({"python": (3, 9, 1)}, "python", "3.9.1 is outside 3.10 to 3.13", "PYTHON=python3.11"),
        ({"python": (3, 14, 0)}, "python", "3.14.0 is outside", "PYTHON=python3.11"),
        (
            {"versions": without("torch"), "errors": {"torch": "No module named 'torch'"}},
            "torch",
            "not installed (No module named 'torch')",
            "make setup",
        ),
        ({"errors": {"torch": "libcudart.so.13 missing"}}, "torch", "does not import: libcudart", "--force-reinstall"),
        ({"versions": {**MAINTAINED, "torch": "2.3.1"}}, "torch", "2.3.1 is too old, at least 2.4", "'torch>=2.4'"),
        (
            {"errors": {"cv2": "libGL.so.1: cannot open shared object file: No such file or directory"}},
            "cv2",
            "4.12.0.88 cannot load a system library: libGL.so.1",
            "opencv-python-headless==4.12.0.88",
        ),
        (
            {"versions": without("opencv-python"), "errors": {"cv2": "No module named 'cv2'"}},
            "cv2",
            "not installed",
            "pip install 'opencv-python-headless<5'",
        ),
        (
            {"errors": {"cv2": "numpy.core.multiarray failed to import"}},
            "cv2",
            "does not import: numpy",
            "a numpy that",
        ),
        (
            {"versions": {**MAINTAINED, "setuptools": "82.0.1"}, "errors": {"pkg_resources": "No module named"}},
            "setuptools",
            "82.0.1 has no pkg_resources",
            "'setuptools>=80,<82'",
        ),
        (
            {"errors": {"pytorch_wavelets": "No module named 'pywt'"}},
            "wavelets",
            "No module named 'pywt'",
            "PyWavelets",
        ),
        (
            {"versions": without("safetensors"), "errors": {"safetensors": "No module named 'safetensors'"}},
            "others",
            "safetensors does not import: No module named 'safetensors'",
            "pip install safetensors",
        ),
        (
            {"errors": {"mmcv._ext": "No module named 'mmcv._ext'"}},
            "mmcv ops",
            "onedl-mmcv 2.3.6 has no operators: No module",
            "--no-build-isolation --no-binary onedl-mmcv onedl-mmcv==2.3.6",
        ),
        ({"errors": {"mmcv._ext": SYMBOL}}, "mmcv ops", "built for another torch", "--no-cache-dir"),
        ({"errors": {"mmcv": "broken"}}, "mmcv ops", "onedl-mmcv 2.3.6 does not import: broken", "make setup"),
        ({"errors": {"mmengine": "broken"}}, "OpenMMLab", "onedl-mmengine does not import", "requirements.txt"),
        ({"errors": {"mmdet.apis": "MMCV==9 is incompatible"}}, "mmdet", "MMCV==9 is incompatible", "requirements.txt"),
        ({"errors": {"mmseg.apis": "No module named 'ftfy'"}}, "mmseg", "No module named 'ftfy'", "the message names"),
        (
            {"work_dir": Path("/sealed"), "work_dir_error": "/: Read-only file system"},
            "work dir",
            "/sealed cannot be written: /: Read-only file system",
            "--work-dir FOLDER",
        ),
    ],
)
def test_one_cause_gives_one_fault_with_its_fix(change, name, text, fix):
    facts = replace(GOOD, **change)
    finding = run_all(facts)[name]
    assert (finding.status, faults(facts)) == ("fault", {name})
    assert text in finding.text
    assert fix in finding.fix
    assert str(finding).startswith(f"fault  {name:<10} ")
    assert "\n" not in str(finding)


@pytest.mark.parametrize(
    ("original", "maintained"),
    [
        ("mmengine", "onedl-mmengine"),
        ("mmcv", "onedl-mmcv"),
        ("mmdet", "onedl-mmdetection"),
        ("mmsegmentation", "onedl-mmsegmentation"),
    ],
)
def test_both_families_at_once(original, maintained):
    finding = environment.check_families(replace(GOOD, versions={**MAINTAINED, original: "1.0"}))
    assert finding.status == "fault"
    assert f"{maintained} and {original}" in finding.text
    assert finding.fix == f"pip uninstall -y {maintained} {original}; then make setup, or pip install {maintained}"


def test_original_family_alone_is_fine():
    names = {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0", "mmsegmentation": "1.2.2"}
    versions = without("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation") | names
    assert faults(replace(GOOD, versions=versions)) == set()
    bare = environment.check_ops(replace(GOOD, versions=versions, errors={"mmcv._ext": "No module named 'mmcv._ext'"}))
    assert bare.fix.endswith("--no-binary mmcv mmcv==2.1.0")


def test_neither_family_installed():
    names = ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation")
    facts = replace(GOOD, versions=without(*names), errors={"mmengine": "No module named 'mmengine'"})
    findings = run_all(facts)
    assert findings["OpenMMLab"].text == "neither family is installed"
    assert "freqkd[maintained]" in findings["OpenMMLab"].fix
    assert findings["mmcv ops"].status == "waits"
    assert faults(facts) == {"OpenMMLab", "mmdet", "mmseg"}


def test_mmcv_lite_is_named():
    facts = replace(GOOD, versions={**without("onedl-mmcv"), "mmcv-lite": "2.1.0"})
    finding = environment.check_families(facts)
    assert finding.text == "mmcv not installed"
    assert "mmcv-lite has no operators" in finding.fix


def test_one_task_may_be_left_out():
    facts = replace(GOOD, versions=without("onedl-mmsegmentation"), errors={"mmseg.apis": "No module named 'mmseg'"})
    finding = run_all(facts)["mmseg"]
    assert (finding.status, faults(facts)) == ("info", set())
    assert "no segmentation" in finding.text


def test_mixed_families_are_reported_but_not_a_fault():
    facts = replace(GOOD, versions={**without("onedl-mmdetection"), "mmdet": "3.3.0"})
    finding = environment.check_families(facts)
    assert finding.status == "ok"
    assert "not tested" in finding.text


def test_gpu_line():
    facts = replace(GOOD, gpu="Some GPU", torch_cuda="13.0")
    assert environment.check_torch(facts).text == "2.13.0, CUDA 13.0, numpy 2.4.1"
    assert "build mmcv again" in environment.check_gpu(facts).text
    assert environment.check_gpu(replace(facts, ops_cuda="12.8")).text == "yes, Some GPU"


def test_collect_tries_nothing_that_stands_on_a_fault(tmp_path):
    tried = []

    def importer(module):
        tried.append(module)
        if module == "cv2":
            raise ImportError("libGL.so.1: cannot open\nshared object file")
        gpu = SimpleNamespace(is_available=lambda: True, get_device_name=lambda index: f"GPU {index}")
        return SimpleNamespace(__version__="2.13.0", cuda=gpu, version=SimpleNamespace(cuda="13.0"))

    facts = environment.collect(tmp_path, importer)
    assert facts.errors == {"cv2": "libGL.so.1: cannot open shared object file"}
    assert tried == ["torch", "cv2", "pkg_resources", *environment.NEEDED, "pytorch_wavelets", "torch"]
    assert (facts.gpu, facts.torch_cuda) == ("GPU 0", "13.0")
    assert facts.versions["setuptools"] == metadata.version("setuptools")
    assert faults(facts) == {"cv2"}


def test_a_report_says_what_a_maintainer_asks_for(tmp_path):
    facts = environment.collect(
        tmp_path,
        importer=lambda module: SimpleNamespace(
            __version__="2.13.0", cuda=SimpleNamespace(is_available=lambda: False), version=SimpleNamespace(cuda=None)
        ),
    )
    first, second = environment.check_freqkd(facts), environment.check_machine(facts)
    assert str(first) == f"info   freqkd     {freqkd.__version__} in {Path(freqkd.__file__).parent}"
    assert second.text.startswith(platform.platform())
    assert re.search(r", \S.*, [1-9]\d* cores$", second.text)


def test_probe_keeps_an_error_to_one_short_line(capsys):
    def importer(module):
        print("noise")
        raise OSError("x" * 500)

    assert environment.probe("torch", importer) == "x" * 197 + "..."
    assert capsys.readouterr().out == ""


def test_work_dir_that_exists_or_can_be_made(tmp_path):
    assert environment.probe_folder(tmp_path) is None
    assert environment.probe_folder(tmp_path / "new" / "run") is None
    assert list(tmp_path.iterdir()) == []


def test_work_dir_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert environment.probe_folder(tmp_path / "file" / "run") == f"{tmp_path / 'file'}: Not a directory"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_work_dir_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert environment.probe_folder(tmp_path) == f"{tmp_path}: Permission denied"


def test_main_reports_every_check_and_exits_1_on_a_fault(monkeypatch, capsys):
    broken = replace(GOOD, errors={"mmcv._ext": SYMBOL}, work_dir_error="/: Read-only file system")
    monkeypatch.setattr(environment, "collect", lambda work_dir: replace(broken, work_dir=work_dir))
    assert main(["check", "--work-dir", "somewhere"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(environment.CHECKS) + 1
    assert lines[2] == "ok     python     3.11.7"
    assert lines[12].startswith("fault  work dir   somewhere cannot be written")
    assert lines[-1] == "2 faults found, each with its fix."
    monkeypatch.setattr(environment, "collect", lambda work_dir: GOOD)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "No fault found."


@pytest.mark.usefixtures("other_processes")
def test_command_on_an_environment_without_operators():
    """A blocked module in a real process: the command must end well before anything heavy stands on it."""
    code = "import sys; sys.modules['mmcv._ext'] = sys.modules['pkg_resources'] = None; import runpy; " + (
        "sys.argv = ['freqkd', 'check']; runpy.run_module('freqkd', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert [line.split()[1] for line in found] == ["setuptools", "mmcv"]
    assert all("; fix: " in line for line in found)


@pytest.mark.usefixtures("other_processes")
def test_command_on_this_environment():
    done = subprocess.run([sys.executable, "-m", "freqkd", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"torch      {metadata.version('torch')}" in done.stdout


def test_package_imports_nothing_heavy():
    code = "import sys, freqkd.utils.environment, freqkd.__main__; print({'torch', 'numpy', 'mmengine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
