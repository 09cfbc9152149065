"""The registry of metrics, which the study file, evaluation, report, pages and docs read.

`register_metric(Metric(...))` adds a metric. This module imports no numerical library, so that study files are read
quickly.
"""

from __future__ import annotations

from casewise.metrics.records import BUILT_IN, CALIBRATED, TABLES, Metric
from casewise.targets import kind_named

_REGISTRY: dict[str, Metric] = {}


def register_metric(metric: Metric) -> Metric:
    """Add a metric to the registry; every table follows the order of registration.

    Raises:
        ValueError: the name is taken, or cannot be one.
    """
    if metric.name in _REGISTRY:
        raise ValueError(f"A metric named {metric.name!r} is registered already.")
    if not metric.name.isidentifier() or metric.name.endswith(CALIBRATED):
        raise ValueError(f"{metric.name!r} is not a name for a metric: letters, digits and _, not ending {CALIBRATED}.")
    if unknown := set(metric.tables) - set(TABLES):
        raise ValueError(f"Metric {metric.name!r}: {sorted(unknown)} are not among the tables {', '.join(TABLES)}.")
    _REGISTRY[metric.name] = metric
    return metric


def added_metrics() -> list[Metric]:
    """The registered metrics that are not built in: another process has to register them again."""
    return [metric for metric in _REGISTRY.values() if metric not in BUILT_IN]


def metric_names() -> list[str]:
    """The names of all metrics, in the order of the registry."""
    return list(_REGISTRY)


def metrics_of(kind: str, n_classes: int | None = None) -> list[Metric]:
    """The metrics of a kind of target, in order: its own, and the metrics it shares with another kind.

    Args:
        kind: the name of the kind, such as `regression`, `classification` or `ordinal`.
        n_classes: leaves out metrics that do not suit this number of classes.

    Examples:
        >>> [metric.name for metric in metrics_of("regression")][:4]
        ['mae', 'mse', 'pcc', 'ccc']
        >>> "sensitivity" in [metric.name for metric in metrics_of("classification", 3)]
        False
    """
    names = {kind, kind_named(kind).metrics_of}
    return [
        metric
        for metric in _REGISTRY.values()
        if names & set(metric.kinds)
        and (n_classes is None or metric.n_classes[0] <= n_classes <= (metric.n_classes[1] or n_classes))
    ]


def metric_of(key: str) -> Metric:
    """The metric of a key in metrics.json: of one class (`recall[covid]`) or after temperature scaling as well.

    Raises:
        KeyError: no such metric is registered.

    Examples:
        >>> metric_of("recall[no_finding]").title, metric_of("ece_calibrated").larger_is_better
        ('Recall', False)
    """
    return _REGISTRY[key.split("[")[0].removesuffix(CALIBRATED)]


def columns(table: str, kind: str, n_classes: int | None = None, *, stage: str = "oof") -> list[str]:
    """The names of the metrics that a table shows for a kind of target, at a stage.

    >>> columns("folds", "regression"), columns("folds", "ordinal")
    (['mae', 'pcc'], ['mae', 'accuracy', 'precision', 'recall'])
    """
    metrics = [metric for metric in metrics_of(kind, n_classes) if table in metric.tables]
    return [metric.name for metric in metrics if stage == "oof" or metric.across_folds != "pooled"]


for _metric in BUILT_IN:
    register_metric(_metric)
