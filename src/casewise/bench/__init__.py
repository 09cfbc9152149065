"""Measures the effect of each fast path of training on the present machine."""
