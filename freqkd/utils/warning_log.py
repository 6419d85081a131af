"""Warnings of other code as lines of the log that name a part of the config."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log

from freqkd.utils.patches import replaced


class WarningLog:
    """Logs warnings under the name of what they are about, each text once.

    What warns inside a loss is told by Python with a line of torch, and does not reach the log file.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()

    @contextmanager
    def named(self, slot: str) -> Iterator[None]:
        """Log what warns in the block as `slot: text`; warnings that are filtered out stay so."""
        if torch.compiler.is_compiling():
            yield
            return
        found: list[str] = []
        # Not catch_warnings: it would make Python forget which warnings it has shown, in every step.
        shown = replaced(warnings, "showwarning", lambda message, *args, **options: found.append(str(message)))
        try:
            with shown:
                yield
        finally:
            for text in dict.fromkeys(f"{slot}: {one}" for one in found):
                if text not in self.said:
                    self.said.add(text)
                    print_log(text, "current", logging.WARNING)
