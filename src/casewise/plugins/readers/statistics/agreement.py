"""Agreement of readers: between readers, of a reader with himself, and in pairs; bias, drift, and how many are needed.

Intervals come from leaving out one subject at a time. They hold for these readers: other readers may agree better or
worse. Of readers who scored different cases, each figure uses the cases that it can, and its `n_cases` counts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from casewise.evaluation.agreement import by_key, group_agreement
from casewise.evaluation.bootstrap import PLAN, Plan, mean_by_subject, with_intervals
from casewise.evaluation.figures import ByMetric, Estimate
from casewise.evaluation.intervals import Basis, groups_of
from casewise.evaluation.record import Record
from casewise.plugins.readers.statistics.coefficients import (
    CLASSES,
    GRADES,
    NUMBERS,
    fleiss,
    krippendorff,
    limits,
    mean_squares,
    reliability,
)
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.plugins.readers.form import FormField

Statistic: TypeAlias = Callable[[np.ndarray], Mapping[str, float]]

# Figures beyond the registry of metrics, by the registered metric whose interval suits them; an ICC's interval allows
# for skewed values.
ICC_AGREEMENT, ICC_CONSISTENCY = "icc[2,1]", "icc[3,1]"
FLEISS, KRIPPENDORFF = "kappa[fleiss]", "icc[krippendorff]"
FEWEST_SUBJECTS = 3
SHOWN_COUNTS = (1, 2, 3, 4, 5)
UNIT = ["case", "image", "region", "subject"]


@dataclass(frozen=True)
class _Ratings:
    """The readings of one target by N cases (or regions of cases) and R readers, NaN where there is none.

    Attributes:
        readers: their names, R.
        units: (N,) the case, image, region and subject of each row.
        first, second: (N, R) values at the first reading, and at the repeated one.
        position, position_again: (N, R) the number of each reading in its reader's session.
    """

    readers: tuple[str, ...]
    units: pd.MultiIndex
    first: np.ndarray
    second: np.ndarray
    position: np.ndarray
    position_again: np.ndarray

    @property
    def subjects(self) -> np.ndarray:
        """(N,) the subject of each row."""
        return self.units.get_level_values("subject").to_numpy()


def mean_of_others(values: np.ndarray) -> np.ndarray:
    """(N, R) the mean of the other readers of each case; NaN where there are none.

    >>> mean_of_others(np.array([[1.0, 2.0, 6.0]])).tolist()
    [[4.0, 3.5, 1.5]]
    """
    present = ~np.isnan(values)
    count = present.sum(axis=1, keepdims=True) - present
    total = np.nansum(values, axis=1, keepdims=True) - np.where(present, values, 0.0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def ratings_of(rows: pd.DataFrame) -> _Ratings:
    """The ratings in a readings table of one target; of several sessions of a reader, a case's earliest counts.

    Positions go on from one session of a reader to the next.
    """
    # clocks can be set back, the numbers of entries only grow
    ordered = rows.sort_values("entry" if "entry" in rows else "at", kind="stable")
    sessions = ordered.groupby(["reader", "session"], sort=False)["position"].max()
    before = sessions.groupby("reader", sort=False).cumsum() - sessions
    offset = ordered.join(before.rename("before"), ["reader", "session"])["before"]
    ordered = ordered.assign(position=ordered["position"] + offset)
    ordered = ordered.drop_duplicates([*UNIT, "reader", "occurrence"])
    readers = sorted(ordered["reader"].astype(str).unique())
    units = pd.MultiIndex.from_frame(ordered[UNIT].drop_duplicates())

    def wide(occurrence: int, column: str) -> np.ndarray:
        of_occurrence = ordered[ordered["occurrence"] == occurrence]
        table = of_occurrence.pivot(index=UNIT, columns="reader", values=column)
        return table.reindex(index=units, columns=readers).to_numpy(dtype=float)

    columns = [(n, column) for column in ("value", "position") for n in (1, 2)]
    return _Ratings(tuple(readers), units, *(wide(*column) for column in columns))


# --------------------------------------------------------------------------------------------------------- intervals


def leaving_out(statistic: Statistic, subjects: np.ndarray, plan: Plan = PLAN, reason: str = "") -> ByMetric:
    """Figures with intervals from leaving out one subject at a time.

    Args:
        statistic: takes the numbers (n,) of the rows that count; figures are named after registered metrics, optionally
            with a suffix in brackets; other names are means.
        subjects: (N,) the subject of each row.
        reason: why a figure is undefined where it is.
    """
    names, codes = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    points = {name: np.array([value]) for name, value in statistic(np.arange(len(codes))).items()}
    groups = groups_of(len(names), plan.seed)[codes]
    rest = [statistic(np.flatnonzero(groups != group)) for group in np.unique(groups)]
    left_out = {name: np.array([[figures[name]] for figures in rest]) for name in points}
    rests_on = {name: np.array([len(names)]) for name in points}
    basis = Basis(left_out, np.ones((len(rest), 1, 1), dtype=bool), rests_on, plan.confidence, plan.scale)
    numbers = {"n_subjects": len(names), "n_cases": len(codes)}
    return with_intervals(points, {}, lambda *_: reason, plan, basis=basis, **numbers)[0]


def undefined(reason: str, subjects: Sequence[str] | np.ndarray = ()) -> Estimate:
    """A figure that has no value, and why."""
    return Estimate(None, None, None, len(np.unique(np.asarray(subjects, dtype=str))), len(subjects), True, reason)


def _few(subjects: np.ndarray) -> str:
    """Why so few subjects give no figure; empty if they are enough."""
    count = len(np.unique(np.asarray(subjects, dtype=str)))
    return f"{count} subjects with these readings; {FEWEST_SUBJECTS} are needed" if count < FEWEST_SUBJECTS else ""


def without_few(readings: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """A readings table without readers who scored too few subjects of a target, and these by target.

    One case of a reader would leave little that all readers scored. If all readers scored few, all stay.
    """
    scored = readings[readings["value"].notna()].groupby(["target", "reader"])["subject"].nunique()
    counts = readings.join(scored.rename("count"), ["target", "reader"])["count"].fillna(0)
    few = (counts < FEWEST_SUBJECTS) & (counts.groupby(readings["target"]).transform("max") >= FEWEST_SUBJECTS)
    left_out = readings[few].groupby("target", sort=False)["reader"].unique()
    return readings[~few], {str(name): sorted(map(str, readers)) for name, readers in left_out.items()}


# ------------------------------------------------------------------------------------------------ groups of readings

# By kind, the figures from all readings, and the figures from cases with a reading in every column.
PAIRWISE = {
    NUMBERS: ("mae", KRIPPENDORFF),
    GRADES: ("mae", "agreement", KRIPPENDORFF),
    CLASSES: ("agreement", KRIPPENDORFF),
}
COMPLETE = {
    NUMBERS: (ICC_AGREEMENT, ICC_CONSISTENCY),
    GRADES: (ICC_AGREEMENT, ICC_CONSISTENCY, FLEISS),
    CLASSES: (FLEISS,),
}
CONSTANT = "a reader gave every case the same value"


def _pairwise(values: np.ndarray, kind: str, rows: np.ndarray) -> dict[str, float]:
    x = values[rows]
    first, second = (list(numbers) for numbers in zip(*itertools.combinations(range(x.shape[1]), 2), strict=True))
    apart = np.abs(x[:, first] - x[:, second])
    apart = apart[~np.isnan(apart)]
    figures = {"mae": apart.mean(), "agreement": (apart == 0).mean(), KRIPPENDORFF: krippendorff(x, kind)}
    return {name: float(figures[name]) for name in PAIRWISE[kind]}


def _complete(values: np.ndarray, kind: str, rows: np.ndarray) -> dict[str, float]:
    x = values[rows]
    if kind == CLASSES:
        return {FLEISS: fleiss(x)}
    squares = mean_squares(x)
    figures = {ICC_AGREEMENT: squares.agreement, ICC_CONSISTENCY: squares.consistency}
    return figures if kind == NUMBERS else figures | {FLEISS: fleiss(x)}


def between(values: np.ndarray, subjects: np.ndarray, kind: str, plan: Plan = PLAN) -> ByMetric:
    """The agreement of k columns of readings (N, k), of several readers or of several times.

    `mae` is the mean absolute difference, and `agreement` the share of equal values, of two readings of a case.
    """
    count = (~np.isnan(values)).sum(axis=1)
    figures: ByMetric = {}
    for names, statistic, fewest in ((PAIRWISE, _pairwise, 2), (COMPLETE, _complete, values.shape[1])):
        x, of_subjects = values[count >= fewest], subjects[count >= fewest]
        if why := _few(of_subjects):
            figures |= {name: undefined(why, of_subjects) for name in names[kind]}
        else:
            figures |= leaving_out(partial(statistic, x, kind), of_subjects, plan, "all values are the same")
            if names is COMPLETE and kind != CLASSES and (np.ptp(x, axis=0) == 0).any():
                figures |= dict.fromkeys((ICC_AGREEMENT, ICC_CONSISTENCY), undefined(CONSTANT, of_subjects))
    return figures


def pair(
    first: np.ndarray, second: np.ndarray, subjects: np.ndarray, kind: str, n_classes: int = 0, *, plan: Plan = PLAN
) -> ByMetric:
    """The agreement of two columns of readings, (N,) each; `bias` is the second minus the first."""
    both = ~(np.isnan(first) | np.isnan(second))
    x, y, of_subjects = first[both], second[both], subjects[both]
    figures = between(np.stack([x, y], axis=1), of_subjects, kind, plan)
    figures.pop(FLEISS, None)
    few = _few(of_subjects)
    if kind != NUMBERS:
        name = "kappa_quadratic" if kind == GRADES else "kappa"
        one_sided = len(x) and min(len(np.unique(x)), len(np.unique(y))) < 2
        why = few or (CONSTANT if one_sided else "")
        if why:
            figures[name] = undefined(why, of_subjects)
        else:
            compared = group_agreement(x, y, of_subjects, plan, n_groups=max(n_classes, int(max(x.max(), y.max())) + 1))
            figures |= {name: getattr(compared, name), "agreement": compared.agreement}
    if kind != CLASSES:
        names = ("bias", "loa_low", "loa_high")

        def statistic(rows: np.ndarray) -> dict[str, float]:
            return dict(zip(names, limits((y - x)[rows], of_subjects[rows]), strict=True))

        figures |= (
            {name: undefined(few, of_subjects) for name in names} if few else leaving_out(statistic, of_subjects, plan)
        )
    return figures


# --------------------------------------------------------------------------------------------------------- readers


class _ReaderFigures(Record):
    """One reader.

    Attributes:
        n_cases: first readings with a value; `unreadable` those without.
        bias: mean of the reader minus the mean of the others.
        drift: the change of that difference from the first to the last case of the session.
        again: the agreement of the repeated readings with the first.
    """

    n_cases: int
    unreadable: int
    bias: Estimate
    drift: Estimate
    again: ByMetric


class MeanOfReaders(Record):
    """The mean of several readers: its reliability, and its distance from the mean of all readers (95 %, ±)."""

    readers: int
    reliability: Estimate
    half_width: float


class Agreement(Record):
    """The agreement on one target key; `pairs` by 'first | second', `means` of several readers (numbers and grades)."""

    kind: str
    n_subjects: int
    n_cases: int
    between: ByMetric
    pairs: dict[str, ByMetric]
    readers: dict[str, _ReaderFigures]
    means: list[MeanOfReaders]


def agreement(rows: pd.DataFrame, kind: str, n_classes: int = 0, plan: Plan = PLAN) -> Agreement:
    """The agreement on one target key.

    Args:
        rows: of the readings table.
        kind: `regression`, `ordinal` or `classification`.
        n_classes: the number of grades or classes; two classes have a bias and a drift, as shares of the second.
    """
    ratings = ratings_of(rows)
    first, subjects = ratings.first, ratings.subjects
    read = ~np.isnan(first).all(axis=1)
    pairs = {
        f"{ratings.readers[i]} | {ratings.readers[j]}": pair(
            first[:, i], first[:, j], subjects, kind, n_classes, plan=plan
        )
        for i, j in itertools.combinations(range(len(ratings.readers)), 2)
    }
    of_all = between(first, subjects, kind, plan) if pairs else {}
    return Agreement(
        kind,
        len(np.unique(subjects[read])),
        int(read.sum()),
        of_all,
        pairs,
        {name: _reader(ratings, number, kind, n_classes, plan) for number, name in enumerate(ratings.readers)},
        _means(first, of_all.get(ICC_AGREEMENT)),
    )


def agreements(readings: pd.DataFrame, fields: Sequence[FormField], plan: Plan = PLAN) -> dict[str, Agreement]:
    """The agreement by target key: each target over all its regions, then each of several regions."""
    of_target = {field.target: field for field in fields}
    result = {}
    for key, rows in by_key(readings[readings["target"].isin(of_target)]):
        field = of_target[str(rows["target"].iloc[0])]
        if "[" in key and readings.loc[readings["target"] == field.target, "region"].nunique() < 2:
            continue
        result[key] = agreement(rows, kind_named(field.kind).metrics_of, len(field.options), plan)
    return result


def _reader(ratings: _Ratings, number: int, kind: str, n_classes: int, plan: Plan) -> _ReaderFigures:
    first, second = ratings.first[:, number], ratings.second[:, number]
    position = ratings.position[:, number]
    values, positions = np.append(first, second), np.append(position, ratings.position_again[:, number])
    differences, subjects = values - np.tile(mean_of_others(ratings.first)[:, number], 2), np.tile(ratings.subjects, 2)
    scored = ~np.isnan(differences)
    once = scored & (np.arange(len(values)) < len(first))
    why = _few(subjects[once])
    if len(ratings.readers) < 2:
        why = "one reader"
    elif kind == CLASSES and n_classes != 2:
        why = "classes have no direction"
    repeated = not np.isnan(first + second).all()
    return _ReaderFigures(
        int((~np.isnan(first)).sum()),
        int((np.isnan(first) & ~np.isnan(position)).sum()),
        undefined(why) if why else mean_by_subject(differences[once], subjects[once], plan, name="bias"),
        undefined(why) if why else drift(differences[scored], positions[scored], subjects[scored], plan),
        pair(first, second, ratings.subjects, kind, n_classes, plan=plan) if repeated else {},
    )


def drift(differences: np.ndarray, positions: np.ndarray, subjects: np.ndarray, plan: Plan = PLAN) -> Estimate:
    """The change of the differences (N,) from the first to the last position, by the least-squares line."""
    if np.isnan(positions).any():
        return undefined("the order of reading is not known", subjects)
    span = np.ptp(positions) if len(positions) else 0.0
    if not span > 0:
        return undefined("all cases have the same position", subjects)

    def change(rows: np.ndarray) -> dict[str, float]:
        centred = positions[rows] - positions[rows].mean()
        squares = float((centred**2).sum())
        return {"drift": float((centred * differences[rows]).sum()) / squares * span if squares > 0 else np.nan}

    return leaving_out(change, subjects, plan)["drift"]


# ----------------------------------------------------------------------------------------------------- how many readers


def _means(values: np.ndarray, icc: Estimate | None) -> list[MeanOfReaders]:
    if icc is None or icc.value is None:
        return []
    error = np.sqrt(mean_squares(values[~np.isnan(values).any(axis=1)]).error_variance)
    means = []
    for count in SHOWN_COUNTS:
        low, high = (None if end is None else reliability(end, count) for end in (icc.low, icc.high))
        means.append(
            MeanOfReaders(
                count, Estimate(reliability(icc.value, count), low, high), float(1.96 * error / np.sqrt(count))
            )
        )
    return means
