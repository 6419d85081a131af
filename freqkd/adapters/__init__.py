"""Adapters: from the tapped maps of a kind of head to the arguments of a loss."""

from freqkd.adapters.base import Batch as Batch
from freqkd.adapters.base import HeadAdapter as HeadAdapter
