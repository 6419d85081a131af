"""Data set wrappers."""

from freqkd.datasets.fixed_views import FixedViews as FixedViews
from freqkd.datasets.fixed_views import View as View
