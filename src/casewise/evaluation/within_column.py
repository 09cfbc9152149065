"""The AUROC within each value of a column of the table, such as the source of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.judges import judge_of

__all__ = ["within_column"]


def within_column(
    rows: pd.DataFrame,
    group_of: pd.Series,
    groups: Sequence[str],
    *,
    classes: Sequence[str],
    positive: str | None = None,
    plan: Plan,
) -> dict[str, Any]:
    """The AUROC, also of each class against the others, of one learner within each group of cases, and its means.

    A mean is over the groups in which the AUROC has an interval, because it says nothing about one or two subjects.

    Args:
        rows: the scored rows of one learner, stage and target.
        group_of: the group of each row.

    Returns:
        `groups`: name -> `n_subjects`, `n_cases`, `classes` (label -> `n_subjects` and `n_cases` with this reference
        class) and `metrics`; `means`: metric -> `value`, the groups that it is over
        (`groups`), and the others (`undefined`). Every group has the same weight.
    """
    judge, names = judge_of(rows, classes, positive), ["auroc", *(f"auroc[{label}]" for label in classes)]
    by_group: dict[str, Any] = {}
    for group in groups:
        group_rows = rows[group_of == group]
        if group_rows.empty:
            continue
        (figures,) = judge.judge(group_rows, plan, whole=False).metrics.values()
        by_group[group] = {
            **_counts(group_rows),
            "classes": {label: _counts(group_rows[group_rows["y_true"] == n]) for n, label in enumerate(classes)},
            "metrics": {name: figures[name].as_json() for name in names if name in figures},
        }
    means = {}
    for name in names:
        estimates = {group: entry["metrics"].get(name) or {} for group, entry in by_group.items()}
        defined = {group: entry["value"] for group, entry in estimates.items() if entry.get("low") is not None}
        means[name] = {
            "value": float(np.mean(list(defined.values()))) if defined else None,
            "groups": list(defined),
            "undefined": [group for group in estimates if group not in defined],
        }
    return {"groups": by_group, "means": means}


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {"n_subjects": int(rows["subject"].nunique()), "n_cases": int(rows["case"].nunique())}
