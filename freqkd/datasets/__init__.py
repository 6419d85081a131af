"""Data set wrappers; they know no network."""

from freqkd.datasets.views import FixedViews as FixedViews
from freqkd.datasets.views import View as View
