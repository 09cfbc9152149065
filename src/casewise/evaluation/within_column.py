"""The AUROC within each value of a column of the table, such as the source of the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.judges import judge_of
from casewise.evaluation.results import ColumnGroup, GroupMean

__all__ = ["within_column"]


def within_column(
    rows: pd.DataFrame,
    group_of: pd.Series,
    groups: Sequence[str],
    *,
    classes: Sequence[str],
    positive: str | None = None,
    plan: Plan,
) -> tuple[dict[str, ColumnGroup], dict[str, GroupMean]]:
    """The AUROC, also of each class against the others, of one learner within each group of cases, and its means.

    A mean is over the groups in which the AUROC has an interval, because it says nothing about one or two subjects.

    Args:
        rows: the scored rows of one learner, stage and target.
        group_of: the group of each row.

    Returns:
        The groups by name, and the means by metric. Every group has the same weight.
    """
    judge, names = judge_of(rows, classes, positive), ["auroc", *(f"auroc[{label}]" for label in classes)]
    by_group: dict[str, ColumnGroup] = {}
    for group in groups:
        group_rows = rows[group_of == group]
        if group_rows.empty:
            continue
        (figures,) = judge.judge(group_rows, plan, whole=False).metrics.values()
        by_group[group] = ColumnGroup(
            **_counts(group_rows),
            classes={label: _counts(group_rows[group_rows["y_true"] == n]) for n, label in enumerate(classes)},
            metrics={name: figures[name] for name in names if name in figures},
        )
    means = {}
    for name in names:
        estimates = {group: entry.metrics.get(name) for group, entry in by_group.items()}
        defined = {
            group: entry.value
            for group, entry in estimates.items()
            if entry and entry.low is not None and entry.value is not None
        }
        means[name] = GroupMean(
            value=float(np.mean(list(defined.values()))) if defined else None,
            groups=list(defined),
            undefined=[group for group in estimates if group not in defined],
        )
    return by_group, means


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {"n_subjects": int(rows["subject"].nunique()), "n_cases": int(rows["case"].nunique())}
