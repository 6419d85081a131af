"""Losses: one method, one file."""
