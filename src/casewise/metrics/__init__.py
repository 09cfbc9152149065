"""Metrics: one record each, as pure functions of weighted cases, independent of studies and tables."""

from casewise.metrics.records import Metric
from casewise.metrics.registry import metric_of, metrics_of, register_metric

__all__ = ["Metric", "metric_of", "metrics_of", "register_metric"]
