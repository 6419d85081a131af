"""Checks of arguments, checkpoints, files, processes and error messages."""
