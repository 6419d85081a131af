"""Dependencies point down: the mathematics runs where nothing but torch is installed, and losses know no taps."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MATHEMATICS = ("checks", "wavelets", "prompts", "relation", "taps", "align", "losses")
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked}:
            raise ImportError(f'{{name}} is blocked in this test')
sys.meta_path.insert(0, Block())
"""


def run(code, blocked):
    code = BLOCK.format(blocked=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_the_mathematics_needs_torch_alone():
    imports = "\n".join(f"import freqkd.{name}" for name in MATHEMATICS)
    compute = """
import torch
from freqkd import FreeKDLoss
torch.manual_seed(0)
s, t = torch.randn(1, 4, 16, 16, requires_grad=True), torch.randn(1, 4, 16, 16)
FreeKDLoss(4, 1)(s, t).backward()
assert s.grad.abs().sum() > 0
"""
    done = run(imports + compute, ["mmengine", "mmcv", "mmdet", "mmseg", "cv2", "matplotlib", "pywt", "pytorch_wavelets"])
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    done = run("import mmengine", ["mmengine"])
    assert done.returncode != 0
    assert "blocked in this test" in done.stderr


def test_importing_the_package_imports_nothing_heavy():
    done = run("import freqkd; assert 'torch' not in sys.modules; print(freqkd.__version__)", ["torch", "mmengine"])
    assert done.returncode == 0, done.stderr


def test_plugins_name_mmdet_and_mmseg_in_configs_only():
    done = run("import freqkd.plugins", ["mmdet", "mmseg"])
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists():
    import freqkd

    for name in freqkd.__all__:
        assert getattr(freqkd, name) is not None
    with pytest.raises(AttributeError, match="no_such_loss"):
        freqkd.no_such_loss


def test_no_file_is_longer_than_300_lines():
    files = [path for folder in ("freqkd", "tools", "configs") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    long = {str(path.relative_to(ROOT)): count for path in files if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}
