"""Checks that find before a run what would stop it later."""

from freqkd.apis.preflight.cache import check_cache as check_cache
from freqkd.apis.preflight.cache import find_fixed_views as find_fixed_views
from freqkd.apis.preflight.checkpoint import check_checkpoint as check_checkpoint
from freqkd.apis.preflight.checkpoint import check_initial_weights as check_initial_weights
from freqkd.apis.preflight.checkpoint import warn_of_frozen_parts as warn_of_frozen_parts
from freqkd.apis.preflight.classes import resolve_shared_classes as resolve_shared_classes
from freqkd.apis.preflight.data import check_data as check_data
from freqkd.apis.preflight.hooks import hooks_of as hooks_of
from freqkd.apis.preflight.model import check_model as check_model
from freqkd.apis.preflight.runner import check_parts as check_parts
