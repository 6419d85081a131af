"""States of the random number generators of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """Return the state of all generators of this process as tensors and plain data.

    >>> state = get_random_state()
    >>> drawn = random.random(), np.random.rand(), torch.rand(())
    >>> set_random_state(state)
    >>> drawn == (random.random(), np.random.rand(), torch.rand(()))
    True
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            keys=torch.tensor(np.asarray(keys, np.int64)), position=position, has_gauss=has_gauss, cached=cached
        ),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `get_random_state` returned; an accelerator's state where there is an accelerator."""
    python, array = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = array["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, array["position"], array["has_gauss"], array["cached"]))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def forked_randomness() -> Iterator[None]:
    """Restore all random number generators after the block, so that it does not change the training's random numbers."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
