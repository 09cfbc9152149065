"""Subgroups: the headline's figures of each group of subjects, and whether they differ between the groups.

Each group's figure is compared with the mean of the other groups' figures, weighted by their subjects. Groups are
resampled separately, by subject. A comparison is its difference divided by the standard deviation of its resamples,
brought to the normal scale from Student's t with the fewest subjects of a group (for a figure of single classes: of a
class in a group). A p-value is the share of resamples in which the largest comparison, centred on its mean, is as
large: over the groups of one column and figure, and, adjusted, over all columns and figures (single-step max-T;
Westfall and Young 1993). The intervals of the differences invert the test of their column and figure: they hold for all
its groups at once, and one of them excludes 0 exactly where the p-value before the adjustment is at most 0.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np
import pandas as pd

from casewise.cohort.groups import Group, Grouping
from casewise.evaluation import results as stored
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import Estimate
from casewise.evaluation.intervals import FEWEST, matching_quantile
from casewise.evaluation.judges import Judge, Judged, judge_of, shared_truth
from casewise.metrics.classes import Classes
from casewise.metrics.registry import metric_of
from casewise.predictions.table import final_rows

# Below this many subjects a group is not tested and is called small; for a figure of single classes, this many of each.
FEW_SUBJECTS, FEW_OF_CLASS = 10, 30
LEAST_DEFINED = 0.9
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class _GroupFigures:
    """The figures of a group, and the resamples (R,) of those that may be tested.

    `fewest` is the number of subjects behind each of these figures: of the rarest class that it is about.
    """

    values: stored.Subgroup
    drawn: dict[str, np.ndarray] = field(default_factory=dict)
    fewest: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One figure over the groups of a column: which groups, the largest statistic, and its resamples (R,)."""

    groups: list[int]
    statistic: float
    null: np.ndarray


def headline_rows(predictions: pd.DataFrame, main: stored.Headline) -> pd.DataFrame:
    """The scored rows of the headline: its target, stage and learner."""
    rows = final_rows(predictions[predictions["target"] == main.target])
    rows = shared_truth(rows[rows["stage"] == main.stage])
    return rows[(rows["model"] == main.learner) & rows["y_true"].notna() & rows["y_pred"].notna()]


def subgroups(
    rows: pd.DataFrame, main: stored.Headline, groupings: Iterable[tuple[Grouping, pd.Series]], **judged: Unpack[Judged]
) -> stored.Subgroups:
    """The figures of each group with their intervals, and a test of each column and figure.

    Args:
        rows: the scored rows of one learner, stage and target, as of `headline_rows`.
        main: the headline whose rows they are.
        groupings: each column with the unit of each of the rows, which its groups are of.
    """
    judge, plan = judge_of(rows, judged.get("classes"), judged.get("positive")), judged["plan"]
    names = judge.names("subgroups")
    columns: list[stored.SubgroupColumn] = []
    compared: list[tuple[dict[str, stored.SubgroupTest], str, Comparison]] = []
    for grouping, units in groupings:
        numbers = units.map(grouping.of_units).to_numpy()
        groups = []
        for number, group in enumerate(grouping.groups):
            # another seed for each group, as the groups are other people
            seed = int(np.random.SeedSequence([plan.seed, len(columns), number]).generate_state(1)[0])
            groups.append(_figures(rows[numbers == number], group, judge, names, replace(plan, seed=seed)))
        tests = {name: stored.SubgroupTest(None, None, [], "too_few") for name in names}
        for name in names:
            if (comparison := _compare(groups, name, plan)) is not None:
                compared.append((tests, name, comparison))
        present = [figures.values for figures in groups if figures.values.n_subjects]
        columns.append(stored.SubgroupColumn(grouping.column, tests, present))
    largest = np.max([comparison.null for *_, comparison in compared], axis=0) if compared else np.zeros(0)
    for tests, name, comparison in compared:
        nulls = (comparison.null, largest)
        p, adjusted = (float((1 + (null >= comparison.statistic).sum()) / (len(null) + 1)) for null in nulls)
        tests[name] = stored.SubgroupTest(p, adjusted, comparison.groups)
    return stored.Subgroups(main.target, str(main.stage), str(main.learner), names, columns)


def _figures(rows: pd.DataFrame, group: Group, judge: Judge, names: Sequence[str], plan: Plan) -> _GroupFigures:
    n_subjects, counts = int(rows["subject"].nunique()), None
    if judge.classes is not None:
        of_class = rows.groupby(rows["y_true"].astype(int))["subject"].nunique()
        counts = {label: int(of_class.get(number, 0)) for number, label in enumerate(judge.classes.names)}
    values = stored.Subgroup(group.name, group.code, n_subjects, int(rows["case"].nunique()), {}, [], {}, counts)
    if not n_subjects:
        return _GroupFigures(values)
    (figures,) = judge.judge(rows, plan, whole=False).metrics.values()
    fewest_of_class = {name: _fewest_of_class(name, judge.classes, counts) for name in names}
    fewest = {name: int(min(n_subjects, fewest_of_class[name])) for name in names}
    small = [name for name in names if n_subjects < FEW_SUBJECTS or fewest_of_class[name] < FEW_OF_CLASS]
    tested = [name for name in names if fewest[name] >= FEW_SUBJECTS]
    resamples = judge.resampled(rows, plan)[1] if tested else {}
    drawn = {name: np.asarray(resamples[name], dtype=float) for name in tested}
    return _GroupFigures(replace(values, metrics={name: figures[name] for name in names}, small=small), drawn, fewest)


def _fewest_of_class(name: str, classes: Classes | None, counts: Mapping[str, int] | None) -> float:
    """The fewest subjects of the classes that a figure is about; infinite where it is not about single classes."""
    if classes is None or counts is None:
        return np.inf
    subjects = list(counts.values())
    if name in ("sensitivity", "specificity") and classes.positive is not None:
        return subjects[classes.positive if name == "sensitivity" else 1 - classes.positive]
    return min(subjects) if metric_of(name).by_class else np.inf


def _compare(groups: Sequence[_GroupFigures], name: str, plan: Plan) -> Comparison | None:
    """Compare the groups that can be, and set their differences; None if fewer than two can be."""
    tested = [
        number
        for number, figures in enumerate(groups)
        if figures.values.code == "value"
        and name in figures.drawn
        and figures.values.metrics[name].value is not None
        and np.isfinite(figures.drawn[name]).mean() >= LEAST_DEFINED
    ]
    if len(tested) < 2:
        return None
    of_tested = [groups[number] for number in tested]
    points = np.array([figures.values.metrics[name].value for figures in of_tested], dtype=float)
    drawn = np.stack([figures.drawn[name] for figures in of_tested], axis=1)
    contrasts = _contrast_weights(np.array([figures.values.n_subjects for figures in of_tested], dtype=float))
    differences, resampled = contrasts @ points, drawn @ contrasts.T
    with np.errstate(all="ignore"):
        spread = np.nanstd(resampled, axis=0, ddof=1)
        fewest = min(figures.fewest[name] for figures in of_tested)
        # resamples of n subjects vary by (n - 1) / n of the variance
        errors = spread * np.sqrt(fewest / (fewest - 1))
        statistics = _on_normal_scale(np.abs(differences) / errors, fewest - 1)
        null = np.nan_to_num(np.abs(resampled - np.nanmean(resampled, axis=0)) / spread).max(axis=1)
    defined = bool((spread > 0).all())
    halves = errors * _from_normal_scale(matching_quantile(null, plan.confidence), fewest - 1)
    for figures, difference, half in zip(of_tested, differences, halves, strict=True):
        ends = (float(difference - half), float(difference + half)) if defined and np.isfinite(half) else (None, None)
        figures.values.differences[name] = Estimate(float(difference), *ends)
    return Comparison(tested, float(statistics.max()), null) if defined else None


def _contrast_weights(sizes: np.ndarray) -> np.ndarray:
    """(G, G) weights of the difference of each group from the mean of the others, weighted by their sizes.

    >>> _contrast_weights(np.array([10.0, 20.0, 60.0])).round(2).tolist()
    [[1.0, -0.25, -0.75], [-0.14, 1.0, -0.86], [-0.33, -0.67, 1.0]]
    """
    others = np.tile(sizes, (len(sizes), 1))
    np.fill_diagonal(others, 0.0)
    return np.asarray(np.eye(len(sizes)) - others / others.sum(axis=1, keepdims=True))


def _on_normal_scale(statistics: np.ndarray, freedom: int) -> np.ndarray:
    """Statistics of Student's t as normal deviates with the same p-values.

    >>> _on_normal_scale(np.array([0.0, 2.262157]), 9).round(3).tolist()
    [0.0, 1.96]
    """
    from scipy.stats import norm, t

    return np.asarray(norm.isf(t.sf(statistics, freedom)))


def _from_normal_scale(statistic: float, freedom: int) -> float:
    """The statistic of Student's t with the p-value of a normal deviate: the inverse of `_on_normal_scale`.

    >>> round(_from_normal_scale(1.959964, 9), 3)
    2.262
    """
    from scipy.stats import norm, t

    return float(t.isf(norm.sf(statistic), freedom))


def within_column(
    rows: pd.DataFrame, group_of: pd.Series, groups: Sequence[str], set_holds: pd.Series, **judged: Unpack[Judged]
) -> tuple[dict[str, stored.ColumnGroup], dict[str, stored.GroupMean]]:
    """The AUROC, also of each class against the others, of one learner within each group of cases, and its means.

    A mean is over the groups in which the AUROC has an interval, and in which each of its classes and the others have
    three subjects or more, because it says nothing about one or two.

    Args:
        rows: the scored rows of one learner, stage and target.
        group_of: the group of each row.
        set_holds: whether the prediction set of each row holds its reference; empty where nothing was calibrated.

    Returns:
        The groups by name, and the means by metric. Every group has the same weight.
    """
    classes = judged["classes"]
    judge, names = judge_of(rows, classes, judged.get("positive")), ["auroc", *(f"auroc[{name}]" for name in classes)]
    by_group: dict[str, stored.ColumnGroup] = {}
    for group in groups:
        group_rows = rows[group_of == group]
        if group_rows.empty:
            continue
        (figures,) = judge.judge(group_rows, judged["plan"], whole=False).metrics.values()
        recorded = group_rows["y_true"].value_counts()
        by_group[group] = stored.ColumnGroup(
            **_counts(group_rows),
            rows=len(group_rows),
            right=int((group_rows["y_pred"] == group_rows["y_true"]).sum()),
            commonest=classes[int(recorded.idxmax())],
            of_commonest=int(recorded.max()),
            classes={label: _class_counts(group_rows, number, set_holds) for number, label in enumerate(classes)},
            metrics={name: figures[name] for name in names if name in figures},
        )
    means = {}
    for name in names:
        estimates = {group: entry.metrics.get(name) for group, entry in by_group.items()}
        defined = {
            group: entry.value
            for group, entry in estimates.items()
            if entry and entry.low is not None and not _few(name, rows[group_of == group], classes)
        }
        value = float(np.mean(list(defined.values()))) if defined else None
        means[name] = stored.GroupMean(value, list(defined), [group for group in estimates if group not in defined])
    return by_group, means


def _class_counts(rows: pd.DataFrame, number: int, set_holds: pd.Series) -> dict[str, int]:
    """Counts of a class: its rows, rows of it and of other classes predicted as it, and rows whose set holds it."""
    is_of, is_called = rows["y_true"] == number, rows["y_pred"] == number
    counts = {**_counts(rows[is_of]), "rows": int(is_of.sum())}
    counts |= {"found": int((is_of & is_called).sum()), "mistaken": int((~is_of & is_called).sum())}
    return counts | ({"held": int(set_holds[rows.index[is_of]].sum())} if len(set_holds) else {})


def _few(name: str, rows: pd.DataFrame, classes: Sequence[str]) -> bool:
    """Whether a class of this AUROC, or all the others, has too few subjects in these rows."""
    sides = [rows["y_true"] == n for n, label in enumerate(classes) if name in ("auroc", f"auroc[{label}]")]
    return any(rows.loc[own, "subject"].nunique() < FEWEST for side in sides for own in (side, ~side))


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {"n_subjects": int(rows["subject"].nunique()), "n_cases": int(rows["case"].nunique())}
