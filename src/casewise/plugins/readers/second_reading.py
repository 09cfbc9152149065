"""The results of a second reading of a blinded list of doubtful labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, counted
from casewise.evaluation.bootstrap import PLAN, Plan, estimates
from casewise.evaluation.figures import Estimate
from casewise.metrics.numbers import sum_by_subject
from casewise.plugins.readers.doubtful import blinded_of
from casewise.report.formatting import interval, percent

if TYPE_CHECKING:
    from casewise.analysis.run import Run
    from casewise.plugins.readers.form import Form
    from casewise.plugins.readers.rating.export import Labels


@dataclass(frozen=True)
class _SecondReading:
    """How many labels a second reading changed.

    Attributes:
        doubtful, undoubted: the shares of changed labels; undoubted labels are weighted by the cases that they stand
            for.
        overall: the share that a second reading is expected to change among all cases with the labels of the list. It
            includes the error of the second reading. All doubtful labels were read, but only a sample of the undoubted
            ones; the interval is due to this sample.
        unread: the cases of the list without a label of the second reading.
    """

    doubtful: Estimate
    undoubted: Estimate
    overall: Estimate
    unread: int


def second_reading(
    listed: pd.DataFrame, labels: pd.DataFrame, *, tolerance: float = 0.0, plan: Plan = PLAN
) -> _SecondReading:
    """Compare the labels of a second reading with the recorded ones.

    Args:
        listed: of `blinded_list`.
        labels: `case`, `image` ('' for a case), `target`, `region` and `value`, once each.
        tolerance: the largest difference of two numbers that does not count as a change.

    Raises:
        CasewiseError: none of the doubtful cases, or none of the others, has a label of the second reading.
    """
    level = ["case", "target", "region", *(["image"] if (labels["image"] != "").any() else [])]
    rows = listed.join(labels.set_index(level)["value"], on=level)
    read = rows.dropna(subset="value")
    changed = ((read["value"] - read["recorded"]).abs() > tolerance + 1e-9).astype(float)
    sides = []
    for doubtful in (True, False):
        side = read["doubtful"] == doubtful
        if not side.any():
            name = "doubtful" if doubtful else "undoubted"
            raise CasewiseError(f"None of the {name} cases of the list has a second reading. Read the list first.")
        sides.append(_share(changed[side], read.loc[side, "weight"], read.loc[side, "subject"], plan))
    count, rest = float(rows["doubtful"].sum()), float(rows.loc[~rows["doubtful"], "weight"].sum())

    def of_all(share: float | None) -> float | None:
        return None if share is None else (count * float(sides[0].value or 0.0) + rest * share) / (count + rest)

    undoubted = sides[1]
    ends = of_all(undoubted.value), of_all(undoubted.low), of_all(undoubted.high)
    subjects = int(read["subject"].nunique())
    overall = Estimate(*ends, subjects, len(read), undoubted.rough, undoubted.reason)
    return _SecondReading(sides[0], undoubted, overall, int(rows["value"].isna().sum()))


def _share(changed: pd.Series, weights: pd.Series, subjects: pd.Series, plan: Plan) -> Estimate:
    """The weighted share of changed labels with its interval by subject."""
    terms = np.stack([weights * changed, weights], axis=1)
    sums = sum_by_subject(terms, subjects.to_numpy())[:, None, :]

    def share(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"share": totals[..., 0] / totals[..., 1]}

    return estimates(sums, share, lambda *_: "no cases", plan, n_cases=len(changed))[0]["share"]


def second_reading_lines(run: Run, form: Form, count: int, labels: Labels) -> list[str]:
    """The changes by the exported labels of a second reading, in words."""
    doubts, listed = blinded_of(run, form, count)
    tolerance = labels.limits[doubts.target]
    reading = second_reading(listed, labels.values, tolerance=tolerance)
    by = f" by more than {tolerance:g}" if tolerance else ""
    sides = {"doubtful": reading.doubtful, "other": reading.undoubted}
    lines = [f"{n} labels of {doubts.target} changed{by}: {percent(e.value)} of {e.n_cases}" for n, e in sides.items()]
    ends = interval(reading.overall, 0, words=True, percent=True)
    lines.append(
        f"expected of all cases with such labels: {percent(reading.overall.value)}{f' ({ends})' if ends else ''}"
    )
    return lines + ([f"{counted(reading.unread, 'case')} of the list not read yet"] if reading.unread else [])
