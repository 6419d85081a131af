"""Create `.venv` and install the tested set, with mmcv's compiled operators. Standard library only.

Run by `make setup`; safe to run again: every step looks first whether its result is there already. `--family original`
installs the original OpenMMLab packages in the place of the maintained ones, see docs/original-packages.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAINTAINED = "onedl-"  # how the names of the maintained family's packages begin
COMPILE_FLAGS = "-DNDEBUG -fwrapv -g0 -O2 -w"
BUILD_TOOLS = ("setuptools", "wheel", "ninja", "psutil")


class SetupError(RuntimeError):
    """A step failed; the message says which and what to do."""


def say(text: str) -> None:
    print(text, flush=True)


def read_requirements(name: str) -> dict[str, str]:
    """Read a requirements file as {name: full requirement}."""
    lines = (ROOT / name).read_text().splitlines()
    wanted = [line.strip() for line in lines if line.strip() and line.strip()[0] not in "#-"]
    return {re.split(r"[<>=!~\[ ]", line, maxsplit=1)[0]: line for line in wanted}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one family of OpenMMLab packages: "maintained" or "original"."""

    folder: Path
    family: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    @property
    def stamp(self) -> Path:
        return self.folder / "ready"

    @property
    def mmcv(self) -> str:
        return "mmcv" if self.family == "original" else f"{MAINTAINED}mmcv"

    def requirements(self) -> dict[str, str]:
        """Return {name: full requirement} of this family's set."""
        wanted = read_requirements("requirements.txt")
        if self.family == "original":
            others = {name: line for name, line in wanted.items() if not name.startswith(MAINTAINED)}
            return others | read_requirements("requirements-original.txt")
        return wanted

    def fingerprint(self) -> str:
        """What the finished environment was made from: a change of any sets it up again."""
        text = (ROOT / "requirements.txt").read_text()
        if self.family == "original":
            text += (ROOT / "requirements-original.txt").read_text()
        return text + f"python {sys.version_info[:2]}\n"

    def run(self, command: list[str], what: str, env: dict[str, str] | None = None) -> None:
        """Run a command into the log, with a sign of life every 20 seconds; raise SetupError with the log's end."""
        start = shown = time.monotonic()
        with self.log.open("a") as log:
            log.write(f"\n$ {shlex.join(command)}\n")
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
            while process.poll() is None:
                time.sleep(0.5)
                if time.monotonic() - shown > 20:
                    shown = time.monotonic()
                    files = re.findall(r"^\s*\[(\d+)/(\d+)\]", self.log.read_text(errors="replace")[begin:], re.M)
                    done = f", file {files[-1][0]} of {files[-1][1]}" if files else ""
                    say(f"    {what}: {shown - start:.0f} s{done}")
        if process.returncode:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise SetupError(f"{what} failed (exit code {process.returncode}). The end of {self.log}:\n{tail}")
        say(f"    {what}: done in {time.monotonic() - start:.0f} s")

    def pip(self, arguments: list[str], what: str, env: dict[str, str] | None = None) -> None:
        """Install with the user's own pip settings: options go on the command line, where they add to them."""
        self.run([str(self.python), "-m", "pip", "install", *arguments], what, env)

    def works(self, code: str) -> bool:
        """Whether the environment's Python runs `code` without an error."""
        command = [str(self.python), "-c", code]
        return self.python.exists() and subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0

    def answer(self, code: str) -> str:
        """What the environment's Python prints for `code`."""
        command = [str(self.python), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def check_host() -> None:
    """Raise where this machine cannot build, before anything is downloaded."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise SetupError(
            f"Python {sys.version.split()[0]} was found; 3.11 is tested, 3.10 to 3.13 are tried. "
            "Name another one: make setup PYTHON=python3.11"
        )
    if not shutil.which(os.environ.get("CXX", "g++")):
        raise SetupError("no C++ compiler was found: install g++ (Debian, Ubuntu: apt-get install g++), or set CXX")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        raise SetupError(
            "Python.h was not found: install Python's headers (Debian, Ubuntu: apt-get install python3-dev)"
        )
    if not os.access(ROOT, os.W_OK):
        raise SetupError(f"{ROOT} is not writable: clone the repository to a folder of your own")


def check_family(venv: Environment) -> None:
    """Raise where the folder holds packages of the other family, which have the same import names."""
    other = "mmengine" if venv.family == "maintained" else f"{MAINTAINED}mmengine"
    if venv.works(f"from importlib.metadata import version; version({other!r})"):
        raise SetupError(f"{venv.folder} holds {other}, of the other family: name another folder with --venv FOLDER")


def make_venv(venv: Environment) -> None:
    if not venv.works("import pip"):
        say(f"[1/5] virtual environment {venv.folder}, about 5 s")
        subprocess.run([sys.executable, "-m", "venv", str(venv.folder)], check=True)


def install_torch(venv: Environment, words: str | None) -> None:
    """Install torch as the user words it; keep one that already imports."""
    wanted = venv.requirements()
    if venv.works("import torch"):
        say("[2/5] torch is there: " + venv.answer("import torch; print(torch.__version__)"))
        venv.pip([wanted[name] for name in BUILD_TOOLS], "build tools")
        return
    say("[2/5] torch and build tools, about 25 s from a fast mirror (a CUDA build is several GB: see README, set-up)")
    venv.pip([*shlex.split(words or wanted["torch"]), *(wanted[name] for name in BUILD_TOOLS)], "torch")
    if not venv.works("import torch"):
        raise SetupError(f"torch was installed but does not import: run {venv.python} -c 'import torch' to see why")


def precompiled_header(venv: Environment, folder: Path) -> dict[str, str] | None:
    """Compile torch/types.h once, with the build's own flags: 78 files spend most of their time parsing it.

    gcc looks for `torch_types.h.gch` beside the header that `-include` names; a mismatch costs time, never correctness.
    Returns the environment of the build, or None where the compiler is not gcc or refuses.
    """
    compiler = os.environ.get("CXX", "g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        return None
    header = folder / "torch_types.h"
    header.write_text("#include <torch/types.h>\n")
    include = venv.answer(
        "import sysconfig; from torch.utils.cpp_extension import include_paths;"
        "print(*['-I' + p for p in [*include_paths(), sysconfig.get_paths()['include']]])"
    )
    command = f"{compiler} {COMPILE_FLAGS} -fPIC -std=c++17 -x c++-header {include} {header} -o {header}.gch"
    try:
        venv.run(shlex.split(command), "precompiled header")
    except SetupError as error:
        say(f"    no precompiled header, the build takes longer: {str(error).splitlines()[-1]}")
        return None
    return {"CFLAGS": f"{COMPILE_FLAGS} -include {header}"}


def build_mmcv(venv: Environment) -> None:
    """Build mmcv from source against this torch, so that its compiled operators exist."""
    if venv.works("import mmcv._ext"):
        say("[3/5] mmcv with its compiled operators is there")
        return
    cuda = shutil.which("nvcc") and venv.works("import torch; assert torch.version.cuda and torch.cuda.is_available()")
    env = {**os.environ, "MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count() or 1)), "MMCV_WITH_OPS": "1"}
    # psutil etc. come from the environment, for the build is not isolated: isolated, it finds no torch and skips its operators.
    arguments = ["-v", "--no-build-isolation", "--no-binary", venv.mmcv, venv.requirements()[venv.mmcv]]
    with tempfile.TemporaryDirectory(dir=venv.folder, prefix="header-") as folder:
        if cuda:
            env["FORCE_CUDA"] = "1"
            say("[3/5] mmcv's operators for CUDA, from source: 10 to 40 minutes, once")
        else:
            say(
                f"[3/5] mmcv's operators from source on {env['MAX_JOBS']} cores: 2 to 6 minutes, seconds if pip has them cached"
            )
            extra = precompiled_header(venv, Path(folder))
            env.update(extra or {"CFLAGS": COMPILE_FLAGS})
        venv.pip(arguments, "mmcv", env)
        if not venv.works("import mmcv._ext"):
            say("    the cached build does not fit this torch: building again")
            venv.pip(["--no-cache-dir", "--force-reinstall", "--no-deps", *arguments], "mmcv", env)
    if not venv.works("import mmcv._ext"):
        raise SetupError(f"mmcv was built without its compiled operators; {venv.log} tells why (search it for 'error')")


def install_rest(venv: Environment) -> None:
    say("[4/5] the rest, about 40 s")
    wanted = venv.requirements()
    rest = [line for name, line in wanted.items() if name not in ("torch", *BUILD_TOOLS)]
    installed = venv.answer("import torch; print('torch==' + torch.__version__)")
    with tempfile.TemporaryDirectory(dir=venv.folder, prefix="pip-") as folder:
        keep = Path(folder) / "keep.txt"
        keep.write_text(installed + "\n")
        venv.pip(["--prefer-binary", "--constraint", str(keep), *rest], "packages")
    venv.pip(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)], "freqkd")
    if not venv.works("import cv2"):
        version = venv.answer("from importlib.metadata import version; print(version('opencv-python'))")
        say("    cv2 cannot load a system library (libGL): opencv-python-headless of the same version goes over it")
        venv.pip(["--force-reinstall", "--no-deps", f"opencv-python-headless=={version}"], "headless OpenCV")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", help="your own words to pip for torch, e.g. 'torch==2.13.0 --index-url ADDRESS'")
    parser.add_argument("--family", choices=("maintained", "original"), default="maintained", help="OpenMMLab packages")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (default: .venv)")
    options = parser.parse_args()
    start = time.monotonic()
    venv = Environment(options.venv.absolute(), options.family)
    try:
        done = venv.stamp.exists() and venv.stamp.read_text() == venv.fingerprint() and venv.python.exists()
        if done and not options.torch:
            return 0
        check_host()
        check_family(venv)
        say(
            f"Setting up {venv.folder}: about 3 minutes on two quiet cores with a fast mirror, a few more on a busy machine."
        )
        make_venv(venv)
        venv.log.write_text("")
        install_torch(venv, options.torch)
        build_mmcv(venv)
        install_rest(venv)
        say("[5/5] self-check")
        if subprocess.run([str(venv.python), "-m", "freqkd", "check"], cwd=ROOT).returncode:
            raise SetupError("the self-check above found a fault; fix it and run the same command again")
        venv.stamp.write_text(venv.fingerprint())
    except SetupError as error:
        say(f"setup: {error}")
        return 1
    uses = "`make demo` and `make test` use it; so does " if venv.folder == ROOT / ".venv" else ""
    say(f"Ready after {time.monotonic() - start:.0f} s: {uses}`. {venv.folder}/bin/activate`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
