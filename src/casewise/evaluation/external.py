"""Other patients: the drop on an external cohort, and the metrics of each source, left out of training or external."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np
import pandas as pd

from casewise.cohort.groups import MOST_GROUPS, grouping, is_quantity, numbers_in, recorded
from casewise.cohort.table import natural
from casewise.evaluation.bootstrap import Plan, percentiles
from casewise.evaluation.figures import LEFT_OUT, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.intervals import FEWEST, RANGES, difference, scheme_of
from casewise.evaluation.judges import Judge, Judged, judge_of
from casewise.metrics.records import CALIBRATED
from casewise.metrics.registry import metric_of
from casewise.predictions.table import INTERNAL, final_rows

# The group of cases without a value in the column of groups.
NOT_RECORDED = "not recorded"
# The group of the rarest of many values.
OTHER_VALUES = "other values"


def drop(predictions: pd.DataFrame, target: str, **judged: Unpack[Judged]) -> Figures:
    """The difference of each learner between the external cohort and the study, whose stage is the group.

    It is the external value minus the internal one (of the test set, otherwise out of fold). Its interval follows from
    the intervals of the two values, because the two sets of subjects are different people. Metrics by class have the
    class in their name (`recall[covid]`).
    """
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["y_true"].notna()]
    inside = next((stage for stage in INTERNAL if (rows["stage"] == stage).any()), None)
    if inside is None or not (rows["stage"] == "external").any():
        return Figures()
    judge = judge_of(rows, judged.get("classes"), judged.get("positive"))
    names = judge.names("drop")
    labels = judge.classes.names if judge.classes else ()
    names += [f"{name}[{label}]" for name in names if metric_of(name).by_class for label in labels]
    cells: dict[Cell, ByMetric] = {}
    for learner, own in rows.groupby("model", sort=False):
        by_stage = [own[own["stage"] == stage] for stage in (inside, "external")]
        if any(rows.empty for rows in by_stage):
            continue
        ((inner,), (outer,)) = (judge.judge(rows, judged["plan"], whole=False).metrics.values() for rows in by_stage)
        drops = cells[Cell("external", str(learner), target, group=inside, contrast="internal")] = {}
        for name in names:
            internal, external = inner[name], outer[name]
            if internal.value is not None and external.value is not None:
                low, high = difference(external, internal) or (None, None)
                rough, reason = internal.rough or external.rough, external.reason or internal.reason or None
                drops[name] = Estimate(external.value - internal.value, low, high, rough=rough, reason=reason)
    return Figures(cells)


def by_source(predictions: pd.DataFrame, target: str, sources: Mapping[str, str], **judged: Unpack[Judged]) -> Figures:
    """The metrics of each source by learners that were not trained on it; the group is the source.

    `sources` is the source of each subject and gives the order of sources. The rows of a fitted stacker for a source
    come from a stacker fitted on the other sources, whose rows networks trained on this source may have predicted.
    """
    rows = _scored(predictions, target, "oof")
    if rows.empty:
        return Figures()
    source_of, names = rows["subject"].map(dict(sources)), list(dict.fromkeys(sources.values()))
    return _by_group(rows, source_of, names, LEFT_OUT, judged)


def by_column(
    predictions: pd.DataFrame, target: str, images: pd.DataFrame, column: str, **judged: Unpack[Judged]
) -> Figures:
    """The metrics on each group of external cases, by a column of their table.

    `images` are the rows of the table with `case`, `subject`, `path` and the column; for the groups see
    `groups_of_rows`.
    """
    rows = _scored(predictions, target, "external")
    if rows.empty:
        return Figures()
    group_of, groups = groups_of_rows(rows, images, column)
    return _by_group(rows, group_of, groups, f"by {column}", judged)


def groups_of_rows(rows: pd.DataFrame, images: pd.DataFrame, column: str) -> tuple[pd.Series, list[str]]:
    """The group of each row of predictions by a column of the table, and the groups in order.

    If the column is a quantity, such as age, groups are its bands, thirds of the subjects. Otherwise, a case whose
    images have several values is in a group of its own (`north + south`); beyond twelve groups, the groups with the
    fewest cases are merged into `OTHER_VALUES`. A case without a value is in the last group, `NOT_RECORDED`.
    """
    text, subjects, order = recorded(images[column]), images["subject"].astype(str), dict[str, int]()
    numbers = numbers_in(text)
    named: dict[str, pd.Series] = {}
    for key in ("case", "path"):
        units = images[key].astype(str)
        if numbers is not None and is_quantity(numbers, subjects):
            bands = grouping(text, units, subjects, "")
            names = [group.name or NOT_RECORDED for group in bands.groups]
            named[key] = bands.of_units.map(dict(enumerate(names)))
            order |= {name: position for position, name in enumerate(names)} if key == "case" else {}
        else:
            values = text.replace({"": NOT_RECORDED}).groupby(units)
            named[key] = values.agg(lambda texts: " + ".join(sorted(set(texts), key=natural)))
    group_of = rows["image"].map(named["path"]).where(rows["image"] != "", rows["case"].map(named["case"]))
    common = group_of[group_of != NOT_RECORDED].value_counts()
    if len(common) > MOST_GROUPS:
        group_of = group_of.where(~group_of.isin(common.index[MOST_GROUPS - 1 :]), OTHER_VALUES)
    last = {OTHER_VALUES: 1, NOT_RECORDED: 2}
    groups = group_of.dropna().unique()
    return group_of, sorted(groups, key=lambda name: (last.get(name, 0), order.get(name, 0), natural(name)))


def _scored(predictions: pd.DataFrame, target: str, stage: str) -> pd.DataFrame:
    rows = final_rows(predictions[predictions["target"] == target])
    return rows[rows["y_true"].notna() & (rows["stage"] == stage)]


def _by_group(
    rows: pd.DataFrame, group_of: pd.Series, groups: Sequence[str], population: str, judged: Judged
) -> Figures:
    """The figures of each group."""
    judge = judge_of(rows, judged.get("classes"), judged.get("positive"))
    stage, target = (str(rows[column].iloc[0]) for column in ("stage", "target"))
    return Figures(
        (
            Cell(stage, learner, target, population, str(group)),
            {name: estimate for name, estimate in figures.items() if not name.endswith(CALIBRATED)},
        )
        for group in groups
        if len(group_rows := rows[group_of == group])
        for learner, figures in judge.judge(group_rows, judged["plan"], whole=False).metrics.items()
    )


def source_means(
    by_site: Figures,
    predictions: pd.DataFrame,
    target: str,
    sources: Mapping[str, str],
    **judged: Unpack[Judged],
) -> Figures:
    """Each learner's metrics of `by_source` averaged over the sources in which they are defined, with intervals.

    Subjects are resampled within each source: the interval says how much the mean over these sources varies with their
    subjects, and nothing on further sources. Without it a `reason` states why. A mean is rough if the metric rests on
    too few subjects in one of its sources.
    """
    rows = _scored(predictions, target, "oof")
    if rows.empty:
        return Figures()
    judge, plan = judge_of(rows, judged.get("classes"), judged.get("positive")), judged["plan"]
    cells: dict[Cell, ByMetric] = {}
    for learner, learner_rows in rows.groupby("model", sort=False):
        of_learner = by_site.select(learner=str(learner)).cells.values()
        samples, fewest = _resampled_means(judge, learner_rows, sources, plan)
        means = cells[Cell("oof", str(learner), target, LEFT_OUT, contrast="mean")] = {}
        for name in dict.fromkeys(name for own in of_learner for name in own if "[" not in name):
            defined = [own[name] for own in of_learner if name in own and own[name].value is not None]
            value = float(np.mean([figure.value for figure in defined])) if defined else None
            means[name] = Estimate(
                value,
                *(_ends(name, value, samples[name], plan, fewest) if value is not None else (None, None)),
                rough=any(figure.rough for figure in defined),
                reason=_why_not(name, samples[name], plan, fewest) if value is not None else None,
            )
    return Figures(cells)


def _resampled_means(
    judge: Judge, rows: pd.DataFrame, sources: Mapping[str, str], plan: Plan
) -> tuple[dict[str, np.ndarray], int]:
    """The means over the sources of one learner's metrics in every resample (R,), and the fewest subjects of a source.

    Subjects are resampled within each source. A metric is averaged over the sources in which it is defined.
    """
    source_of, results = rows["subject"].map(dict(sources)), []
    for number, source in enumerate(dict.fromkeys(sources.values())):
        if len(source_rows := rows[source_of == source]):
            results.append(judge.resampled(source_rows, replace(plan, seed=plan.seed + 2 + number)))
    samples = {}
    for name, first in results[0][1].items():
        defined = [drawn[name] for at, drawn, _ in results if not np.isnan(at[name])]
        samples[name] = np.mean(defined, axis=0) if defined else first
    return samples, min(n for *_, n in results)


def _why_not(name: str, samples: np.ndarray, plan: Plan, fewest: int) -> str | None:
    """Why a mean over sources has no interval; `fewest` is the number of subjects of the smallest source."""
    if scheme_of(name) is None:
        return "biased upwards by chance: no interval"
    if fewest < FEWEST:
        return f"{('no', 'one', 'two')[fewest]} {plan.unit}{'s' * (fewest == 2)} in a source: no interval"
    undefined = np.isnan(percentiles(samples[:, None], plan.confidence)[0][0])
    return "too many resamples are undefined: no interval" if undefined else None


def _ends(name: str, value: float, samples: np.ndarray, plan: Plan, fewest: int) -> tuple[float | None, float | None]:
    """The interval of a mean over sources from its resamples (R,), within the range of the metric.

    The bias of a metric in resamples of small sources does not average out in the mean over them, so the interval is
    shifted by twice the distance between their median and the value; it always contains the value. In simulations of
    the CCC in 3 to 5 sources of 10 to 30 subjects, 95 to 96 % of such intervals held the true value, and 69 to 88 % of
    those without the shift.
    """
    if _why_not(name, samples, plan, fewest):
        return None, None
    low, high = (float(end[0]) for end in percentiles(samples[:, None], plan.confidence))
    shift = 2 * (float(percentiles(samples[:, None], 0.0)[0][0]) - value)
    least, most = RANGES.get(str(scheme_of(name)), (-np.inf, np.inf))
    return max(min(low - shift, value), least), min(max(high - shift, value), most)
