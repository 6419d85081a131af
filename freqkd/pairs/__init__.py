"""Configs of a distillation from the names of two networks: what can be tapped, which maps belong together, which loss fits."""
