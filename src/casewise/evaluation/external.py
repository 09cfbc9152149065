"""Other patients: the drop on an external cohort, and the metrics of each source, left out of training or external."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from casewise.cohort.dates import natural
from casewise.cohort.groups import MOST_GROUPS, grouping, is_quantity, numbers_in, recorded
from casewise.evaluation.bootstrap import Plan, percentiles
from casewise.evaluation.intervals import FEWEST, difference, scheme_of
from casewise.evaluation.judges import Judge, judge_of
from casewise.evaluation.results import Drop, Figures, SourceMean
from casewise.metrics.records import CALIBRATED
from casewise.metrics.registry import metric_of
from casewise.predictions.table import final_rows

# The group of cases without a value in the column of groups.
NOT_RECORDED = "not recorded"
# The group of the rarest of many values.
OTHER_VALUES = "other values"
# The range of the metrics of a scheme of intervals, where it is limited.
_RANGES = {
    "share": (0.0, 1.0),
    "area": (0.0, 1.0),
    "correlation": (-1.0, 1.0),
    "kappa": (-1.0, 1.0),
    "ratio": (0.0, None),
}


@dataclass(frozen=True)
class WithinSources:
    """One learner's metrics averaged over the sources, by metric: values, those of every resample (R,), and roughness.

    `rough`: the metric rests on too few subjects in one of its sources; `fewest`: the subjects of the smallest source.
    """

    points: dict[str, float]
    samples: dict[str, np.ndarray]
    rough: dict[str, bool]
    fewest: int


def drop(
    predictions: pd.DataFrame,
    target: str,
    *,
    sources: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, Drop]]:
    """The difference of each learner between the external cohort and the study, by learner and metric.

    It is the external value minus the internal one (of the test set, else out of fold), with the interval that follows
    from those of the two values, because the two sets of subjects are different people. With `sources`, the source of
    each subject where each was left out in turn, the internal value is the mean over the values within each source,
    `internal_stage` is `within`, and both sets of subjects are resampled. Metrics by class are those of the classes
    (`recall[covid]`).
    """
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["y_true"].notna()]
    inside = next((stage for stage in ("test", "oof") if (rows["stage"] == stage).any()), None)
    if inside is None or not (rows["stage"] == "external").any():
        return {}
    within = sources if inside == "oof" else None
    drops: dict[str, dict[str, Drop]] = {}
    judge = judge_of(rows, classes, positive)
    for learner, learner_rows in rows.groupby("model", sort=False):
        internal_rows, external_rows = (learner_rows[learner_rows["stage"] == stage] for stage in (inside, "external"))
        if internal_rows.empty or external_rows.empty:
            continue
        drops[str(learner)] = (
            _drop_within(judge, internal_rows, external_rows, within, plan)
            if within
            else _drop_between(judge, internal_rows, external_rows, plan)
        )
    return drops


def _drop_between(judge: Judge, inside: pd.DataFrame, outside: pd.DataFrame, plan: Plan) -> dict[str, Drop]:
    """The differences of one learner's metrics, each with the interval that follows from those of both values."""
    ((inner,), (outer,)) = (judge.judge(rows, plan, whole=False).metrics.values() for rows in (inside, outside))
    drops: dict[str, Drop] = {}
    for name in _drop_names(judge):
        internal, external = inner[name], outer[name]
        if internal.value is None or external.value is None:
            continue
        low, high = difference(external, internal) or (None, None)
        drops[name] = Drop(
            internal=internal.value,
            external=external.value,
            difference=external.value - internal.value,
            low=low,
            high=high,
            internal_stage=str(inside["stage"].iloc[0]),
            rough=internal.rough or external.rough,
            reason=external.reason or internal.reason or None,
        )
    return drops


def _drop_within(
    judge: Judge, inside: pd.DataFrame, outside: pd.DataFrame, sources: Mapping[str, str], plan: Plan
) -> dict[str, Drop]:
    """The differences of one learner's metrics from their means within sources; both sets of subjects are resampled."""
    own = _within(judge, inside, sources, plan)
    other, redrawn, n_other = judge.resampled(outside, replace(plan, seed=plan.seed + 1))
    (outer,) = judge.judge(outside, plan, whole=False).metrics.values()
    drops: dict[str, Drop] = {}
    for name in _drop_names(judge):
        gap = other[name] - own.points[name]
        if np.isnan(gap):
            continue
        samples, fewest = redrawn[name] - own.samples[name], min(own.fewest, n_other)
        low, high, reason = _interval(name, gap, samples, plan, fewest)
        rough = own.rough[name] or outer[name].rough
        drops[name] = Drop(own.points[name], other[name], gap, low, high, "within", rough, reason)
    return drops


def _drop_names(judge: Judge) -> list[str]:
    names = judge.names("drop")
    labels = judge.classes.names if judge.classes else ()
    return [*names, *(f"{name}[{label}]" for name in names if metric_of(name).by_class for label in labels)]


def _interval(
    name: str, value: float, samples: np.ndarray, plan: Plan, fewest: int
) -> tuple[float | None, float | None, str | None]:
    """The interval of a mean over sources, or of a difference from it, from its resamples (R,); else the reason.

    `fewest` is the number of subjects of the smallest source.

    The bias of a metric in resamples of small sources does not average out in the mean over them, so the interval is
    shifted by twice the distance between their median and the value; it always contains the value. In simulations of
    the CCC in 3 to 5 sources of 10 to 30 subjects, 95 to 96 % of such intervals held the true value, and 69 to 88 % of
    those without the shift.
    """
    low, high = (float(end[0]) for end in percentiles(samples[:, None], plan.confidence))
    why = ""
    if scheme_of(name) is None:
        why = "biased upwards by chance: no interval"
    elif fewest < FEWEST:
        why = f"{('no subject', 'one subject', 'two subjects')[fewest]} in a source: no interval"
    elif np.isnan(low):
        why = "too many resamples are undefined: no interval"
    if why:
        return None, None, why
    shift = 2 * (float(percentiles(samples[:, None], 0.0)[0][0]) - value)
    return min(low - shift, value), max(high - shift, value), None


def _within(judge: Judge, rows: pd.DataFrame, sources: Mapping[str, str], plan: Plan) -> WithinSources:
    """One learner's metrics averaged over the sources.

    Subjects are resampled within each source. A metric is averaged over the sources in which it is defined.
    """
    source_of = rows["subject"].map(dict(sources))
    results, rough = [], dict[str, bool]()
    for number, source in enumerate(dict.fromkeys(sources.values())):
        source_rows = rows[source_of == source]
        if source_rows.empty:
            continue
        results.append(judge.resampled(source_rows, replace(plan, seed=plan.seed + 2 + number)))
        (figures,) = judge.judge(source_rows, plan, whole=False).metrics.values()
        for name, figure in figures.items():
            rough[name] = rough.get(name, False) or (figure.rough and figure.value is not None)
    points: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    for name in results[0][0]:
        defined = [(at[name], drawn[name]) for at, drawn, _ in results if not np.isnan(at[name])]
        points[name] = float(np.mean([at for at, _ in defined])) if defined else float("nan")
        samples[name] = np.mean([drawn for _, drawn in defined], axis=0) if defined else results[0][1][name]
    return WithinSources(points, samples, rough, min(n for *_, n in results))


def by_source(
    predictions: pd.DataFrame,
    target: str,
    sources: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, Figures]]:
    """The metrics of each source by learners that were not trained on it: source -> learner -> metric -> estimate.

    `sources` is the source of each subject and gives the order of sources. The rows of a fitted stacker for a source
    come from a stacker fitted on the other sources, whose rows networks trained on this source may have predicted.
    """
    rows = _scored(predictions, target, "oof")
    if rows.empty:
        return {}
    return _by_group(
        rows,
        rows["subject"].map(dict(sources)),
        list(dict.fromkeys(sources.values())),
        judge_of(rows, classes, positive),
        plan,
    )


def by_column(
    predictions: pd.DataFrame,
    target: str,
    images: pd.DataFrame,
    column: str,
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, Figures]]:
    """The metrics on each group of external cases, by a column of their table: group -> learner -> metric -> estimate.

    `images` are the rows of the table with `case`, `subject`, `path` and the column; for the groups see
    `groups_of_rows`.
    """
    rows = _scored(predictions, target, "external")
    if rows.empty:
        return {}
    group_of, groups = groups_of_rows(rows, images, column)
    return _by_group(rows, group_of, groups, judge_of(rows, classes, positive), plan)


def groups_of_rows(rows: pd.DataFrame, images: pd.DataFrame, column: str) -> tuple[pd.Series, list[str]]:
    """The group of each row of predictions by a column of the table, and the groups in order.

    Where the column is a quantity, such as age, groups are its bands, thirds of the subjects. Else a case whose images
    have several values is in a group of its own (`north + south`); of more than twelve groups, those of fewest cases
    are one, `OTHER_VALUES`. A case without a value is in the last group, `NOT_RECORDED`.
    """
    text, subjects = recorded(images[column]), images["subject"].astype(str)
    numbers = numbers_in(text)
    by_unit = _bands_by_unit if numbers is not None and is_quantity(numbers, subjects) else _values_by_unit
    of_case, of_image = (by_unit(text, images[key].astype(str), subjects) for key in ("case", "path"))
    group_of = rows["image"].map(of_image.names).where(rows["image"] != "", rows["case"].map(of_case.names))
    common = group_of[group_of != NOT_RECORDED].value_counts()
    if len(common) > MOST_GROUPS:
        group_of = group_of.where(~group_of.isin(common.index[MOST_GROUPS - 1 :]), OTHER_VALUES)
    last = (OTHER_VALUES, NOT_RECORDED)
    order = {name: number for number, name in enumerate(of_case.order)}
    groups = sorted(
        group_of.dropna().unique(),
        key=lambda group: (last.index(group) + 1 if group in last else 0, order.get(group, 0), natural(group)),
    )
    return group_of, groups


class _Named(NamedTuple):
    """The name of the group of each unit, and the order of the groups; empty where it is that of their names."""

    names: pd.Series
    order: list[str]


def _values_by_unit(text: pd.Series, units: pd.Series, subjects: pd.Series) -> _Named:
    named = text.replace({"": NOT_RECORDED})
    return _Named(named.groupby(units).agg(lambda texts: " + ".join(sorted(set(texts), key=natural))), [])


def _bands_by_unit(text: pd.Series, units: pd.Series, subjects: pd.Series) -> _Named:
    bands = grouping(text, units, subjects, "")
    names = [group.name or NOT_RECORDED for group in bands.groups]
    return _Named(bands.of_units.map(dict(enumerate(names))), names)


def _scored(predictions: pd.DataFrame, target: str, stage: str) -> pd.DataFrame:
    rows = final_rows(predictions[predictions["target"] == target])
    return rows[rows["y_true"].notna() & (rows["stage"] == stage)]


def _by_group(
    rows: pd.DataFrame, group_of: pd.Series, groups: Sequence[str], judge: Judge, plan: Plan
) -> dict[str, dict[str, Figures]]:
    figures_by_group: dict[str, dict[str, Figures]] = {}
    for group in groups:
        group_rows = rows[group_of == group]
        if group_rows.empty:
            continue
        metrics_by_learner = judge.judge(group_rows, plan, whole=False).metrics
        figures_by_group[str(group)] = {
            learner: {name: estimate for name, estimate in figures.items() if not name.endswith(CALIBRATED)}
            for learner, figures in metrics_by_learner.items()
        }
    return figures_by_group


def within_sources(left_out: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, SourceMean]]:
    """Each learner's metrics averaged over the sources, by learner and metric, without intervals."""
    learners = dict.fromkeys(learner for by_learner in left_out.values() for learner in by_learner)
    means: dict[str, dict[str, SourceMean]] = {}
    for learner in learners:
        figures = {source: by_learner.get(learner) or {} for source, by_learner in left_out.items()}
        names = dict.fromkeys(name for source_figures in figures.values() for name in source_figures if "[" not in name)
        means[learner] = {}
        for name in names:
            values = {
                source: source_figures[name].value if name in source_figures else None
                for source, source_figures in figures.items()
            }
            defined = {source: value for source, value in values.items() if value is not None}
            means[learner][name] = SourceMean(
                value=float(np.mean(list(defined.values()))) if defined else None,
                sources=list(defined),
                undefined=[source for source in values if source not in defined],
                low=None,
                high=None,
            )
    return means


def mean_intervals(
    means: dict[str, dict[str, SourceMean]],
    predictions: pd.DataFrame,
    target: str,
    sources: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, SourceMean]]:
    """The means of `within_sources` with their intervals, and the subjects of the smallest source.

    Subjects are resampled within each source: the interval says how much the mean over these sources varies with their
    subjects, and nothing on further sources. Without it a `reason` states why.
    """
    rows = _scored(predictions, target, "oof")
    if rows.empty:
        return means
    judge = judge_of(rows, classes, positive)
    results: dict[str, dict[str, SourceMean]] = {}
    for learner, learner_rows in rows.groupby("model", sort=False):
        own = _within(judge, learner_rows, sources, plan)
        results[str(learner)] = {}
        for name, mean in means[str(learner)].items():
            mean = replace(mean, fewest_subjects=own.fewest, rough=own.rough[name])
            if mean.value is None:
                results[str(learner)][name] = mean
                continue
            low, high, reason = _interval(name, mean.value, own.samples[name], plan, own.fewest)
            least, most = _RANGES.get(str(scheme_of(name)), (None, None))
            low = max(low, least) if low is not None and least is not None else low
            high = min(high, most) if high is not None and most is not None else high
            results[str(learner)][name] = replace(mean, low=low, high=high, reason=reason)
    return results
