"""Length of the plain path: the functions between tapped features and the loss."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

import pytest
import torch

import freqkd
from freqkd.losses.freekd.loss import FreeKDLoss
from freqkd.utils import checks

PACKAGE = str(Path(freqkd.__file__).parent)


@pytest.mark.parametrize("preset", ["paper", "official", "details", "whitened"])
def test_at_most_twelve_functions_lie_on_the_plain_path(preset: str) -> None:
    """Checks are not counted, nor what they call, nor comprehensions and the one-line entries of tables."""
    loss = FreeKDLoss(4, 2, preset=preset, fused=False)
    maps = [[torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8)] for _ in range(2)]
    seen: set[CodeType] = set()

    def is_check(code: CodeType) -> bool:
        return code.co_filename == checks.__file__ or code.co_name.lstrip("_").startswith("check_")

    def note(frame: FrameType, event: str, value: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_name.startswith("<"):
            return
        while caller is not None and not is_check(caller.f_code):
            caller = caller.f_back
        if caller is None and not is_check(code):
            seen.add(code)

    sys.setprofile(note)
    try:
        loss(*maps)
    finally:
        sys.setprofile(None)
    names = sorted(code.co_qualname if hasattr(code, "co_qualname") else code.co_name for code in seen)
    assert "freekd_loss" in names
    assert len(names) <= 12, names
