"""Logit distillation as a grid: a softening of the logits, a divergence, and regions of positions."""
