"""Checks of the environment, each with the fix of the fault that it finds.

`collect` gathers the `Facts` (it imports packages and writes one temporary file), the `check_*` functions judge them: a test
provokes every fault without breaking an environment. Only the standard library is imported before `collect` runs, since torch
or mmcv may not import; mmengine's `collect_env` needs an mmengine that imports, and lists versions without judging them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from freqkd import __version__

PYTHONS = ((3, 10), (3, 13))
LEAST_TORCH = (2, 4)
TESTED_SET = "install what the message names, or the versions in requirements.txt, which are tested together"
NO_CUDA = "not available"  # the word of mmcv's get_compiling_cuda_version
# import name -> distribution names: the maintained family, the original one
FAMILIES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}
OPENCV = ("opencv-python", "opencv-python-headless")
NEEDED = ("safetensors", "matplotlib", "rich")  # imported by the plugins, by their own names
OTHERS = ("torch", "numpy", "setuptools", *OPENCV, "pytorch-wavelets", "PyWavelets", "mmcv-lite", *NEEDED)
# Modules to import, in this order, and those that must import before: a fault is reported once, not by all that depend on it.
IMPORTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("torch", "cv2", "pkg_resources", *NEEDED), ()),
    "pytorch_wavelets": ("torch", "pkg_resources"),
    "mmengine": ("torch", "cv2"),
    "mmcv": ("torch", "cv2", "mmengine"),
    "mmcv._ext": ("torch", "cv2", "mmengine", "mmcv"),
    **dict.fromkeys(("mmdet.apis", "mmseg.apis"), ("torch", "cv2", "mmengine", "mmcv", "mmcv._ext")),
}


@dataclass(frozen=True)
class Facts:
    """Versions of distributions, errors of imports by module, the machine, the GPU's name, the error of the work dir."""

    python: tuple[int, int, int]
    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    freqkd: str = "unknown"
    machine: str = "unknown"
    torch_cuda: str | None = None
    gpu: str | None = None
    ops_cuda: str = NO_CUDA
    work_dir: Path = Path("work_dirs")
    work_dir_error: str | None = None

    def package(self, module: str) -> str | None:
        """Return the installed distribution of an OpenMMLab module, the maintained one first."""
        return next((package for package in FAMILIES[module] if package in self.versions), None)

    def missing(self, module: str) -> str | None:
        """Return the first module that `module` needs and that did not import."""
        return next((need for need in IMPORTS[module] if need in self.errors), None)


@dataclass(frozen=True)
class Finding:
    """The result of a check; `status` is ok, fault, info, or waits (for the fix of another fault)."""

    name: str
    status: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.status:<5}  {self.name:<10} {self.text}{'; fix: ' * bool(self.fix)}{self.fix}"


def check_freqkd(facts: Facts) -> Finding:
    """Report the version of this package and where it is."""
    return Finding("freqkd", "info", facts.freqkd)


def check_machine(facts: Facts) -> Finding:
    """Report the operating system and the CPU."""
    return Finding("machine", "info", facts.machine)


def check_python(facts: Facts) -> Finding:
    """Check that the version of Python is supported."""
    version = ".".join(map(str, facts.python))
    if PYTHONS[0] <= facts.python[:2] <= PYTHONS[1]:
        return Finding("python", "ok", version)
    text = f"{version} is outside 3.10 to 3.13; 3.11 is tested"
    return Finding("python", "fault", text, "create the environment with another one: make setup PYTHON=python3.11")


def check_torch(facts: Facts) -> Finding:
    """Check that torch imports and is new enough."""
    fault = partial(Finding, "torch", "fault")
    version, error = facts.versions.get("torch"), facts.errors.get("torch")
    if version is None:
        return fault(f"not installed ({error})", "make setup, or pip install torch (for a GPU see pytorch.org)")
    if error:
        return fault(f"{version} does not import: {error}", f"pip install --force-reinstall torch=={version}")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        fix = f"pip install 'torch>={least}', then build mmcv again, whose operators fit one torch only"
        return fault(f"{version} is too old, at least {least} is needed", fix)
    numpy = facts.versions.get("numpy")
    return Finding(
        "torch", "ok", f"{version}, {f'CUDA {facts.torch_cuda}' if facts.torch_cuda else 'no CUDA'}, numpy {numpy}"
    )


def check_cv2(facts: Facts) -> Finding:
    """Check that OpenCV imports: servers often lack libGL."""
    fault = partial(Finding, "cv2", "fault")
    version = next((facts.versions[name] for name in OPENCV if name in facts.versions), None)
    error = facts.errors.get("cv2")
    if not error:
        return Finding("cv2", "ok", version or "installed outside pip")
    if version is None:
        return fault(f"not installed ({error})", "pip install 'opencv-python-headless<5'")
    fix = f"pip install --force-reinstall --no-deps opencv-python-headless=={version}"
    if re.search(r"lib[\w.+-]*\.so", error):
        library = "or install the library (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0)"
        return fault(f"{version} cannot load a system library: {error}", f"{fix}, {library}")
    return fault(f"{version} does not import: {error}", f"{fix}, with a numpy that it supports")


def check_pkg_resources(facts: Facts) -> Finding:
    """Check for `pkg_resources`, which pytorch_wavelets imports and setuptools 82 removed."""
    version = facts.versions.get("setuptools")
    if "pkg_resources" not in facts.errors:
        return Finding("setuptools", "ok", f"{version}, with pkg_resources")
    text = f"{version or 'not installed:'} has no pkg_resources, which pytorch_wavelets imports"
    return Finding("setuptools", "fault", text, "pip install 'setuptools>=80,<82'")


def check_wavelets(facts: Facts) -> Finding:
    """Check pytorch_wavelets where it is installed; the Haar wavelet does not need it."""
    version, error = facts.versions.get("pytorch-wavelets"), facts.errors.get("pytorch_wavelets")
    if version is None:
        return Finding("wavelets", "info", "Haar only; for other wavelets pip install pytorch-wavelets PyWavelets")
    if missing := facts.missing("pytorch_wavelets"):
        return Finding("wavelets", "waits", f"not checked until {missing} imports")
    if error:
        text = f"pytorch-wavelets {version} does not import: {error}"
        return Finding("wavelets", "fault", text, "pip install PyWavelets")
    return Finding("wavelets", "ok", f"pytorch-wavelets {version}, PyWavelets {facts.versions.get('PyWavelets')}")


def check_needed(facts: Facts) -> Finding:
    """Check the small packages that the plugins import."""
    broken = [name for name in NEEDED if name in facts.errors]
    if broken:
        text = f"{broken[0]} does not import: {facts.errors[broken[0]]}"
        return Finding("others", "fault", text, f"pip install {' '.join(broken)}")
    return Finding("others", "ok", ", ".join(f"{name} {facts.versions.get(name, '')}".strip() for name in NEEDED))


def check_families(facts: Facts) -> Finding:
    """Check that mmengine and mmcv are installed, and no package from both families, which share their folders."""
    fault, versions = partial(Finding, "OpenMMLab", "fault"), facts.versions
    both = [pair for pair in FAMILIES.values() if all(package in versions for package in pair)]
    if both:
        pairs, packages = ", ".join(map(" and ".join, both)), " ".join(map(" ".join, both))
        text = f"both families are installed over each other: {pairs} (to remove one alone deletes the other's files)"
        return fault(
            text, f"pip uninstall -y {packages}; then make setup, or pip install {' '.join(p[0] for p in both)}"
        )
    found = [package for module in FAMILIES if (package := facts.package(module))]
    missing = [module for module in ("mmengine", "mmcv") if not facts.package(module)]
    if missing:
        fix = "make setup, or after torch pip install the extra of one family: freqkd[maintained] or freqkd[original]"
        fix += "; mmcv-lite has no operators: uninstall it first" * ("mmcv-lite" in versions)
        return fault(f"{' and '.join(missing)} not installed" if found else "neither family is installed", fix)
    if error := facts.errors.get("mmengine"):
        return fault(f"{facts.package('mmengine')} does not import: {error}", TESTED_SET)
    mixed = len({package.startswith("onedl-") for package in found}) == 2
    text = ", ".join(f"{package} {versions[package]}" for package in found)
    return Finding("OpenMMLab", "ok", text + "; packages of both families together are not tested" * mixed)


def check_ops(facts: Facts) -> Finding:
    """Check that mmcv has its compiled operators: a build that finds no torch omits them silently."""
    package = facts.package("mmcv")
    missing = facts.missing("mmcv") if package else "mmcv"
    if package is None or missing:
        return Finding("mmcv ops", "waits", f"not checked until {missing} {'imports' if package else 'is installed'}")
    version = facts.versions[package]
    error = facts.errors.get("mmcv") or facts.errors.get("mmcv._ext")
    if not error:
        return Finding("mmcv ops", "ok", f"compiled, {package} {version}")
    cause = "operators that were built for another torch" if re.search(r"symbol|\.so", error) else "no operators"
    text = "does not import" if "mmcv" in facts.errors else f"has {cause}"
    fix = "make setup, or MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation "
    fix += f"--no-binary {package} {package}=={version}"
    return Finding("mmcv ops", "fault", f"{package} {version} {text}: {error}", fix)


def check_library(module: str, task: str, other: str, facts: Facts) -> Finding:
    """Check that mmdet or mmseg imports; one of the two may be left out."""
    package, (maintained, original) = facts.package(module), FAMILIES[module]
    if package is None:
        fix = f"pip install {maintained} (original family: {original})"
        if facts.package(other):
            return Finding(module, "info", f"not installed: no {task}; for it {fix}")
        return Finding(module, "fault", f"not installed, nor is {other}", f"make setup, or {fix}")
    if missing := facts.missing(f"{module}.apis"):
        return Finding(module, "waits", f"not checked until {missing} imports")
    named = f"{package} {facts.versions[package]}"
    if error := facts.errors.get(f"{module}.apis"):
        return Finding(module, "fault", f"{named} does not import: {error}", TESTED_SET)
    return Finding(module, "ok", named)


def check_work_dir(facts: Facts) -> Finding:
    """Check that results can be written."""
    if error := facts.work_dir_error:
        text = f"{facts.work_dir} cannot be written: {error}"
        return Finding("work dir", "fault", text, "name a folder that you may write to: --work-dir FOLDER")
    return Finding("work dir", "ok", f"{facts.work_dir} can be written")


def check_gpu(facts: Facts) -> Finding:
    """Report the GPU; without one everything runs on the CPU, which is not a fault."""
    if "torch" in facts.errors:
        return Finding("gpu", "info", "unknown without torch")
    if facts.gpu is None:
        return Finding("gpu", "info", "no: everything runs on the CPU")
    bare = facts.ops_cuda == NO_CUDA and "mmcv._ext" not in facts.errors
    note = "; mmcv's operators lack CUDA: build mmcv again where nvcc is found" * bare
    return Finding("gpu", "info", f"yes, {facts.gpu}{note}")


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    *(
        check_freqkd,
        check_machine,
        check_python,
        check_torch,
        check_cv2,
        check_pkg_resources,
        check_wavelets,
        check_needed,
    ),
    *(check_families, check_ops),
    partial(check_library, "mmdet", "detection", "mmseg"),
    partial(check_library, "mmseg", "segmentation", "mmdet"),
    *(check_work_dir, check_gpu),
)


def probe(module: str, importer: Callable[[str], Any] = importlib.import_module) -> str | None:
    """Import a module without its output; return the error in one line, or None.

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


def cpu_name() -> str:
    """Return the name of the processor, or what stands for it."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):  # Linux
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.MULTILINE)
        cpu = named[1] if named else cpu
    return cpu or "unknown CPU"


def describe_machine() -> str:
    """Return the operating system, the CPU's name and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.platform()}, {cpu_name()}, {cores} cores"


def collect(work_dir: Path, importer: Callable[[str], Any] = importlib.import_module) -> Facts:
    """Gather the facts of this environment; a module that depends on one that does not import is not imported."""
    versions: dict[str, str] = {}
    for name in (*OTHERS, *(package for pair in FAMILIES.values() for package in pair)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    errors: dict[str, str] = {}
    for module, needs in IMPORTS.items():
        if not any(need in errors for need in needs) and (error := probe(module, importer)):
            errors[module] = error
    gpu, torch_cuda, ops_cuda = None, None, NO_CUDA
    if "torch" not in errors:
        torch = importer("torch")
        versions.setdefault("torch", str(torch.__version__))  # one that was installed without pip
        torch_cuda = torch.version.cuda
        if torch.cuda.is_available():
            gpu = str(torch.cuda.get_device_name(0))
            if not any(module in errors for module in (*IMPORTS["mmcv._ext"], "mmcv._ext")):
                ops_cuda = str(importer("mmcv.ops").get_compiling_cuda_version())
    return Facts(
        sys.version_info[:3],
        versions,
        errors,
        f"{__version__} in {Path(__file__).resolve().parents[1]}",
        describe_machine(),
        torch_cuda,
        gpu,
        ops_cuda,
        work_dir,
        probe_folder(work_dir.absolute()),
    )


def inspect(work_dir: Path) -> list[Finding]:
    """Return the findings of all checks of this environment."""
    facts = collect(work_dir)
    return [check(facts) for check in CHECKS]
