"""Predictions of learners that combine others, for cases that no stacker was fitted on: new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from casewise.errors import RunError
from casewise.predictions.distances import with_mean_distances
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.stacking import combine
from casewise.predictions.stacking_classes import combine_classes
from casewise.predictions.table import SAMPLE_KEY, probability_columns, with_decisions
from casewise.targets import by_form

# The coefficients of the combined learners, by learner and target, as `stackers.json` holds them.
Coefficients = Mapping[str, Mapping[str, Mapping[str, Any]]]


def with_combined(rows: pd.DataFrame, coefficients: Coefficients, nested: str = "") -> pd.DataFrame:
    """Rows of single learners, each case, region, image and target once, with those of the combined learners.

    Args:
        rows: rows of the predictions table of one stage, of one fold or means over the folds.
        coefficients: of the stackers; their predictions are those that the run would have made of a test case.
        nested: the network that nested cross-validation chose for new cases; empty without nested cross-validation.

    Raises:
        RunError: a stacker combines a learner that is not in `rows`.
    """
    tables = [rows]
    for learner, by_target in coefficients.items():
        tables += [_combined(rows, learner, target, entry) for target, entry in by_target.items()]
    if nested:
        tables.append(rows[rows["model"] == nested].assign(model=NESTED))
    return pd.concat(tables, ignore_index=True)


def _combined(rows: pd.DataFrame, learner: str, target: str, entry: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one stacker and target."""
    names = list(entry.get("weights") or entry["learners"])
    single = rows[(rows["target"] == target) & rows["model"].isin(names)]
    if lacking := [name for name in names if name not in set(single["model"])]:
        raise RunError(f"{learner} combines {lacking[0]}, which has no predictions of {target}.")
    key = list(SAMPLE_KEY)
    first = single[single["model"] == names[0]].reset_index(drop=True)
    index = pd.MultiIndex.from_frame(first[key])
    kind = str(first["kind"].iloc[0])
    columns = by_form(kind, {"number": ["y_pred"], "classes": _present(first)})
    if not columns:  # the first learner gave no number
        return first.assign(model=learner)
    # (N, learners, K)
    values = np.stack(
        [
            single[single["model"] == name].set_index(key)[columns].reindex(index).to_numpy(dtype=float)
            for name in names
        ],
        axis=1,
    )
    combined = first.assign(model=learner)
    combined[columns] = by_form(
        kind,
        {
            "number": lambda: combine(entry, values[:, :, 0])[:, None],
            "classes": lambda: combine_classes(entry, values),
        },
    )()
    return with_mean_distances(with_decisions(combined), single)


def _present(rows: pd.DataFrame) -> list[str]:
    return [column for column in probability_columns(rows) if rows[column].notna().any()]
