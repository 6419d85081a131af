"""Small networks for the tests of this folder."""

import pytest
import torch
from small_networks import cached, distill, freekd_term, photos, small, step, teachers  # noqa: F401


@pytest.fixture(autouse=True)
def _alone(fresh: None) -> None:
    torch.manual_seed(0)
