"""The mathematics runs where nothing but torch is installed; `make lint` checks the rules of imports in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = (
    *("mmengine", "mmdet", "mmseg", "mmcv", "cv2", "matplotlib", "rich", "safetensors"),
    *("pywt", "pytorch_wavelets", "pycocotools"),
)
ALONE = """
import importlib, pkgutil, sys
blocked = sys.argv[1].split(',')
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in blocked:
            raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Block())
import torch
import freqkd, freqkd.losses
names = ['freqkd.utils.checks', 'freqkd.taps', 'freqkd.kan', 'freqkd.align']
names += [module.name for module in pkgutil.walk_packages(freqkd.losses.__path__, 'freqkd.losses.')]
for name in names:
    importlib.import_module(name)
from freqkd.losses import FreeKDLoss
torch.manual_seed(0)
student = torch.randn(1, 4, 16, 16, requires_grad=True)
loss = FreeKDLoss(channels=4, num_levels=1)(student, torch.randn(1, 4, 16, 16))
loss.backward()
print(len(names), float(loss) > 0, float(student.grad.abs().sum()) > 0)
"""


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.usefixtures("other_processes")
def test_the_mathematics_works_with_torch_alone():
    done = run(sys.executable, "-c", ALONE, ",".join(BLOCKED))
    assert done.returncode == 0, done.stderr
    count, *answers = done.stdout.split()
    assert int(count) >= 20
    assert answers == ["True", "True"]


@pytest.mark.usefixtures("other_processes")
@pytest.mark.parametrize("name", ["mmengine", "mmdet", "torch"])
def test_the_package_itself_imports_nothing_heavy(name):
    done = run(sys.executable, "-c", f"import sys, freqkd; print({name!r} in sys.modules, freqkd.__version__)")
    assert done.stdout.split()[0] == "False", done.stderr
