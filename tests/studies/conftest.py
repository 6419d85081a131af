"""A tiny study for the tests of this folder."""

from small_networks import small, teachers  # noqa: F401
from toy_study import forked, toy_data, toy_study  # noqa: F401
