"""Check that this environment can run freqkd, and name each fault with its cure.

`collect` looks (it imports packages and writes one temporary file), the `check_*` functions judge: each takes the
`Facts` and returns one `Finding`, so a test can provoke every fault without breaking an environment. Only the standard
library is imported before `collect` runs, for this module has to work where torch or mmcv does not.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

PYTHONS = ((3, 10), (3, 13))
LEAST_TORCH = (2, 4)
TESTED_SET = "install what the message names, or the versions in requirements.txt, which fit each other"
NO_CUDA = "not available"  # mmcv's own words
# import name -> distribution names: the maintained family, the original one
FAMILIES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}
OPENCV = ("opencv-python", "opencv-python-headless")
OTHERS = ("torch", "setuptools", *OPENCV, "pytorch-wavelets", "PyWavelets", "mmcv-lite")
# What is imported, in this order, and what must import first: a fault is told once, not again by all that stand on it.
IMPORTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("torch", "cv2", "pkg_resources"), ()),
    "pytorch_wavelets": ("torch", "pkg_resources"),
    "mmengine": ("torch", "cv2"),
    "mmcv": ("torch", "cv2", "mmengine"),
    "mmcv._ext": ("torch", "cv2", "mmengine", "mmcv"),
    **dict.fromkeys(("mmdet.apis", "mmseg.apis"), ("torch", "cv2", "mmengine", "mmcv", "mmcv._ext")),
}


@dataclass(frozen=True)
class Facts:
    """What was seen: versions of distributions, errors of imports (by module), the GPU, the work dir's error."""

    python: tuple[int, int, int]
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    gpu: str | None = None
    ops_cuda: str = NO_CUDA
    work_dir: Path = Path("work_dirs")
    work_dir_error: str | None = None

    def package(self, module: str) -> str | None:
        """Return the installed distribution that brings an OpenMMLab module, the maintained one first."""
        return next((package for package in FAMILIES[module] if package in self.versions), None)

    def missing(self, module: str) -> str | None:
        """Return the first thing `module` needs that did not import."""
        return next((need for need in IMPORTS[module] if need in self.errors), None)


@dataclass(frozen=True)
class Finding:
    """The result of one check; `status` is ok, fault, info, or waits (for the cure of a fault named elsewhere)."""

    name: str
    status: str
    text: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"; cure: {self.cure}" if self.cure else ""
        return f"{self.status:<5}  {self.name:<10} {self.text}{cure}"


def version_tuple(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version.

    >>> version_tuple("2.13.0+cpu")
    (2, 13)
    """
    numbers = [int(number) for number in re.findall(r"\d+", version)] + [0, 0]
    return numbers[0], numbers[1]


def check_python(facts: Facts) -> Finding:
    """Check that Python is one of the versions that were tried."""
    version = ".".join(map(str, facts.python))
    if PYTHONS[0] <= facts.python[:2] <= PYTHONS[1]:
        return Finding("python", "ok", version)
    text = f"{version} is outside 3.10 to 3.13; 3.11 is tested"
    return Finding("python", "fault", text, "make the environment with another one: make setup PYTHON=python3.11")


def check_torch(facts: Facts) -> Finding:
    """Check that torch imports and is new enough."""
    version, error = facts.versions.get("torch"), facts.errors.get("torch")
    least = ".".join(map(str, LEAST_TORCH))
    if version is None:
        cure = "make setup, or pip install torch (pytorch.org has the words for a GPU)"
        return Finding("torch", "fault", f"not installed ({error})", cure)
    if error:
        cure = f"pip install --force-reinstall torch=={version}"
        return Finding("torch", "fault", f"{version} does not import: {error}", cure)
    if version_tuple(version) < LEAST_TORCH:
        cure = f"pip install 'torch>={least}', then build mmcv anew, for its operators fit one torch only"
        return Finding("torch", "fault", f"{version} is too old, at least {least} is needed", cure)
    return Finding("torch", "ok", version)


def check_cv2(facts: Facts) -> Finding:
    """Check that OpenCV imports: on a server it often lacks libGL."""
    version = next((facts.versions[name] for name in OPENCV if name in facts.versions), None)
    error = facts.errors.get("cv2")
    if not error:
        return Finding("cv2", "ok", version or "installed outside pip")
    if version is None:
        return Finding("cv2", "fault", f"not installed ({error})", "pip install 'opencv-python-headless<5'")
    cure = f"pip install --force-reinstall --no-deps opencv-python-headless=={version}"
    if re.search(r"lib[\w.+-]*\.so", error):
        cure += ", or install the library (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0)"
        return Finding("cv2", "fault", f"{version} cannot load a system library: {error}", cure)
    return Finding("cv2", "fault", f"{version} does not import: {error}", f"{cure}, with a numpy that it supports")


def check_pkg_resources(facts: Facts) -> Finding:
    """Check that `pkg_resources` is there: pytorch_wavelets imports it, and setuptools 82 dropped it."""
    version = facts.versions.get("setuptools")
    if "pkg_resources" not in facts.errors:
        return Finding("setuptools", "ok", f"{version}, with pkg_resources")
    text = f"{version or 'not installed:'} has no pkg_resources, which pytorch_wavelets imports"
    return Finding("setuptools", "fault", text, "pip install 'setuptools>=80,<82'")


def check_wavelets(facts: Facts) -> Finding:
    """Check pytorch_wavelets where it is installed; the Haar wavelet does without it."""
    version = facts.versions.get("pytorch-wavelets")
    if version is None:
        return Finding("wavelets", "info", "Haar only; for other wavelets pip install pytorch-wavelets PyWavelets")
    if missing := facts.missing("pytorch_wavelets"):
        return Finding("wavelets", "waits", f"not checked until {missing} imports")
    named = f"pytorch-wavelets {version}"
    if error := facts.errors.get("pytorch_wavelets"):
        return Finding("wavelets", "fault", f"{named} does not import: {error}", "pip install PyWavelets")
    return Finding("wavelets", "ok", f"{named}, PyWavelets {facts.versions.get('PyWavelets')}")


def check_families(facts: Facts) -> Finding:
    """Check that mmengine and mmcv are there, and no package from both families, which write to the same folders."""
    versions = facts.versions
    both = [pair for pair in FAMILIES.values() if all(package in versions for package in pair)]
    if both:
        text = "both families are installed over each other: " + ", ".join(" and ".join(pair) for pair in both)
        gone = " ".join(package for pair in both for package in pair)
        cure = f"pip uninstall -y {gone}; then make setup, or pip install {' '.join(pair[0] for pair in both)}"
        return Finding("OpenMMLab", "fault", f"{text} (to remove one alone deletes the other's files)", cure)
    found = [package for module in FAMILIES if (package := facts.package(module))]
    lacking = [module for module in ("mmengine", "mmcv") if not facts.package(module)]
    if lacking:
        text = f"{' and '.join(lacking)} not installed" if found else "neither family is installed"
        cure = "make setup, or after torch pip install one family's extra: freqkd[maintained] or freqkd[original]"
        lite = "; mmcv-lite has no operators: uninstall it first" if "mmcv-lite" in versions else ""
        return Finding("OpenMMLab", "fault", text, cure + lite)
    if error := facts.errors.get("mmengine"):
        text = f"{facts.package('mmengine')} does not import: {error}"
        return Finding("OpenMMLab", "fault", text, TESTED_SET)
    mixed = len({package.startswith("onedl-") for package in found}) == 2
    text = ", ".join(f"{package} {versions[package]}" for package in found)
    return Finding("OpenMMLab", "ok", text + ("; packages of both families together are not tested" if mixed else ""))


def check_ops(facts: Facts) -> Finding:
    """Check that mmcv has its compiled operators: a build that finds no torch leaves them out without a word."""
    package = facts.package("mmcv")
    if package is None:
        return Finding("mmcv ops", "waits", "not checked until mmcv is installed")
    if missing := facts.missing("mmcv"):
        return Finding("mmcv ops", "waits", f"not checked until {missing} imports")
    named = f"{package} {facts.versions[package]}"
    error = facts.errors.get("mmcv") or facts.errors.get("mmcv._ext")
    if not error:
        return Finding("mmcv ops", "ok", f"compiled, {named}")
    why = "were built for another torch" if re.search(r"symbol|\.so", error) else "are missing"
    text = f"{named} does not import: {error}" if "mmcv" in facts.errors else f"those of {named} {why}: {error}"
    cure = "make setup, or MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation "
    return Finding("mmcv ops", "fault", text, cure + f"--no-binary {package} {named.replace(' ', '==')}")


def _check_library(facts: Facts, module: str, task: str, other: str) -> Finding:
    """Check mmdet or mmseg: who needs only the other one may leave it out."""
    package, pair = facts.package(module), FAMILIES[module]
    if package is None:
        cure = f"pip install {pair[0]} (original family: {pair[1]})"
        if facts.package(other):
            return Finding(module, "info", f"not installed: no {task}; for it {cure}")
        return Finding(module, "fault", "not installed, nor is " + other, f"make setup, or {cure}")
    if missing := facts.missing(f"{module}.apis"):
        return Finding(module, "waits", f"not checked until {missing} imports")
    named = f"{package} {facts.versions[package]}"
    if error := facts.errors.get(f"{module}.apis"):
        return Finding(module, "fault", f"{named} does not import: {error}", TESTED_SET)
    return Finding(module, "ok", named)


def check_mmdet(facts: Facts) -> Finding:
    """Check that mmdet imports where it is installed."""
    return _check_library(facts, "mmdet", "detection", "mmseg")


def check_mmseg(facts: Facts) -> Finding:
    """Check that mmseg imports where it is installed."""
    return _check_library(facts, "mmseg", "segmentation", "mmdet")


def check_work_dir(facts: Facts) -> Finding:
    """Check that results can be written."""
    if error := facts.work_dir_error:
        text = f"{facts.work_dir} cannot be written: {error}"
        return Finding("work dir", "fault", text, "name a folder that you may write to: --work-dir FOLDER")
    return Finding("work dir", "ok", f"{facts.work_dir} can be written")


def check_gpu(facts: Facts) -> Finding:
    """Tell whether there is a GPU; without one everything runs on the CPU, so this is no fault."""
    if "torch" in facts.errors:
        return Finding("gpu", "info", "unknown without torch")
    if facts.gpu is None:
        return Finding("gpu", "info", "no: everything runs on the CPU")
    bare = facts.ops_cuda == NO_CUDA and "mmcv._ext" not in facts.errors
    note = "; mmcv's operators lack CUDA: build mmcv anew where nvcc is found" if bare else ""
    return Finding("gpu", "info", f"yes, {facts.gpu}{note}")


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    *(check_python, check_torch, check_cv2, check_pkg_resources, check_wavelets, check_families),
    *(check_ops, check_mmdet, check_mmseg, check_work_dir, check_gpu),
)


def probe(module: str, importer: Callable[[str], Any] = importlib.import_module) -> str | None:
    """Import a module in silence; return the error in one line, or None.

    >>> probe("no_such_module")
    "No module named 'no_such_module'"
    """
    noise = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")
            importer(module)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return text if len(text) <= 200 else text[:197] + "..."
    return None


def probe_folder(folder: Path) -> str | None:
    """Write a temporary file into `folder`, or into the nearest parent that exists; return the error or None."""
    try:
        while not folder.exists() and folder.parent != folder:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder, prefix=".freqkd-"):  # os.access says yes to root on a read-only disk
            return None
    except OSError as error:
        return f"{folder}: {error.strerror or error}"


def collect(work_dir: Path, importer: Callable[[str], Any] = importlib.import_module) -> Facts:
    """Look at this environment. What stands on a package that does not import is not tried."""
    versions: dict[str, str] = {}
    for name in (*OTHERS, *(package for pair in FAMILIES.values() for package in pair)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    errors: dict[str, str] = {}
    for module, needs in IMPORTS.items():
        if not any(need in errors for need in needs) and (error := probe(module, importer)):
            errors[module] = error
    gpu, ops_cuda = None, NO_CUDA
    if "torch" not in errors:
        torch = importer("torch")
        versions.setdefault("torch", str(torch.__version__))  # one that pip does not know of
        if torch.cuda.is_available():
            gpu = str(torch.cuda.get_device_name(0))
            if not any(module in errors for module in (*IMPORTS["mmcv._ext"], "mmcv._ext")):
                ops_cuda = str(importer("mmcv.ops").get_compiling_cuda_version())
    return Facts(sys.version_info[:3], versions, errors, gpu, ops_cuda, work_dir, probe_folder(work_dir.absolute()))


def inspect(work_dir: Path) -> list[Finding]:
    """Return the findings of every check on this environment."""
    facts = collect(work_dir)
    return [check(facts) for check in CHECKS]
