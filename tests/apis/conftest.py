"""Small networks for the tests of this folder."""

from small_networks import distill, freekd_term, small, teachers  # noqa: F401
