"""Other patients: the drop on an external cohort, and the metrics of each source that was left out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.caveats import Caveat
from casewise.evaluation.intervals import difference
from casewise.evaluation.judges import judge_of
from casewise.predictions.table import final_rows


def drop(
    predictions: pd.DataFrame,
    target: str,
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The difference of each learner between the external cohort and the study: learner -> metric -> values.

    `difference` is the external value minus the internal one (of the test set, else out of fold), `low` and `high` its
    interval, from those of the two values, because the two sets of subjects are different people; without one, `reason`
    states why.
    """
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["y_true"].notna()]
    inside = next((stage for stage in ("test", "oof") if (rows["stage"] == stage).any()), None)
    if inside is None or not (rows["stage"] == "external").any():
        return {}
    drops: dict[str, dict[str, dict[str, Any]]] = {}
    judge = judge_of(rows, classes, positive)
    for learner, learner_rows in rows.groupby("model", sort=False):
        sides = [learner_rows[learner_rows["stage"] == stage] for stage in (inside, "external")]
        if any(side.empty for side in sides):
            continue
        inner, outer = (judge.judge(side, plan, whole=False).metrics[str(learner)] for side in sides)
        drops[str(learner)] = {}
        for name in judge.names("drop"):
            internal, external = inner[name], outer[name]
            if internal.value is None or external.value is None:
                continue
            low, high = difference(external, internal) or (None, None)
            drops[str(learner)][name] = {
                "internal": internal.value,
                "external": external.value,
                "difference": external.value - internal.value,
                "low": low,
                "high": high,
                "internal_stage": inside,
                "rough": internal.rough or external.rough,
            }
            if why := external.reason or internal.reason:
                drops[str(learner)][name]["reason"] = why
    return drops


def by_source(
    predictions: pd.DataFrame,
    target: str,
    sources: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The metrics of each source by learners that were not trained on it: source -> learner -> metric -> estimate.

    `sources` is the source of each subject and gives the order of sources. The rows of a fitted stacker for a source
    come from a stacker fitted on the other sources, whose rows networks trained on this source may have predicted.
    """
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["y_true"].notna() & (rows["stage"] == "oof")]
    figures_by_source: dict[str, dict[str, dict[str, Any]]] = {}
    if rows.empty:
        return figures_by_source
    judge = judge_of(rows, classes, positive)
    source_of = rows["subject"].map(dict(sources))
    for source in dict.fromkeys(sources.values()):
        source_rows = rows[source_of == source]
        if source_rows.empty:
            continue
        metrics_by_learner = judge.judge(source_rows, plan, whole=False).metrics
        figures_by_source[str(source)] = {
            learner: {
                name: estimate.as_json() for name, estimate in figures.items() if not name.endswith("_calibrated")
            }
            for learner, figures in metrics_by_learner.items()
        }
    return figures_by_source


def one_class_by_source(left_out: Mapping[str, Mapping[str, Mapping[str, Any]]], unit: str) -> list[Caveat]:
    """The learners that predict one of two classes for all cases of a source.

    >>> figures = {"recall[a]": {"value": 1.0}, "recall[b]": {"value": 0.0}}
    >>> one_class_by_source({"north": {"net": figures}}, "image")
    [{'code': 'one_class_of_source', 'source': 'north', 'learner': 'net', 'unit': 'image', 'label': 'a'}]
    """
    caveats = []
    for source, by_learner in left_out.items():
        for learner, figures in by_learner.items():
            recall = {name[7:-1]: f["value"] for name, f in figures.items() if name.startswith("recall[")}
            if len(recall) == 2 and set(recall.values()) == {0.0, 1.0}:
                label = max(recall, key=lambda name: recall[name])
                caveats.append(Caveat("one_class_of_source", source=source, learner=learner, unit=unit, label=label))
    return caveats


def within_sources(left_out: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Each learner's metrics averaged over the sources: learner -> metric -> {value, sources, undefined}.

    Every source has the same weight; sources without the metric are listed as undefined.

    >>> within_sources({"a": {"m": {"auroc": {"value": 0.5}}}, "b": {"m": {"auroc": {"value": None}}}})
    {'m': {'auroc': {'value': 0.5, 'sources': ['a'], 'undefined': ['b']}}}
    """
    learners = dict.fromkeys(learner for by_learner in left_out.values() for learner in by_learner)
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for learner in learners:
        figures = {source: by_learner.get(learner) or {} for source, by_learner in left_out.items()}
        names = dict.fromkeys(name for source_figures in figures.values() for name in source_figures if "[" not in name)
        means[learner] = {}
        for name in names:
            values = {
                source: (source_figures.get(name) or {}).get("value") for source, source_figures in figures.items()
            }
            defined = {source: value for source, value in values.items() if value is not None}
            means[learner][name] = {
                "value": float(np.mean(list(defined.values()))) if defined else None,
                "sources": list(defined),
                "undefined": [source for source in values if source not in defined],
            }
    return means
