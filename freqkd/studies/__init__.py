"""Comparison studies: methods, seeds and budgets against a student trained alone."""
