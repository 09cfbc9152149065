"""Metrics: one record each, as pure functions of weighted cases, independent of studies and tables."""

from casewise.metrics.registry import Metric, metric_of, metrics_of, register_metric

__all__ = ["Metric", "metric_of", "metrics_of", "register_metric"]
