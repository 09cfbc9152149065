"""Metrics: one record each, as pure functions of weighted cases, independent of studies and tables."""
