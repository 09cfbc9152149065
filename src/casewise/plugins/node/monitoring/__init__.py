"""Monitoring of a node: whether the studies that arrive, their predictions and their outcomes have changed."""
