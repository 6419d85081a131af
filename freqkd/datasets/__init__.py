"""Data sets: fixed views of every image, and images without labels; condensation; padding to one size; corruption."""

from freqkd.datasets.condensed_sampler import CondensedSampler as CondensedSampler
from freqkd.datasets.corrupt import Corrupt as Corrupt
from freqkd.datasets.fixed_views import FixedViews as FixedViews
from freqkd.datasets.fixed_views import View as View
from freqkd.datasets.image_folder import ImageFolder as ImageFolder
from freqkd.datasets.pad import PadToScale as PadToScale
