"""Plain sentences on what a reader of a stage's figures must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import ROUGH_BELOW
from casewise.metrics.classes import Classes

STAGE_NAMES = {"oof": "out of fold", "test": "the test set", "external": "the external set"}


def stage_notes(
    part: pd.DataFrame, scored: pd.DataFrame, stage: str, wanted: Sequence[str], classed: Mapping[str, Classes]
) -> list[str]:
    """Say of one stage, whose rows are `part` and those with a truth `scored`, what is rough, lacking or left out."""
    where = _where(stage)
    notes = []
    n_subjects = scored["subject"].nunique()
    if n_subjects < ROUGH_BELOW:
        notes.append(f"{where} has {n_subjects} scored subjects: its intervals are rough.")
    for target in wanted:
        rows = part[part["target"] == target].drop_duplicates(["case", "region", "image"])
        n_unscored = int(rows["y_true"].isna().sum())
        if n_unscored:
            notes.append(f"{where}: {n_unscored} of {len(rows)} predictions of {target} have no truth.")
        known = rows["y_true"].dropna().to_numpy(dtype=int) if target in classed else np.zeros(0, dtype=int)
        if len(known):
            missing = [name for number, name in enumerate(classed[target].names) if number not in known]
            if missing:
                notes.append(
                    f"{where}: no case of {target} is truly {' or '.join(missing)}; figures over all classes need "
                    "every class and are left out."
                )
        sizes = scored[scored["target"] == target].groupby("model").size()
        if len(sizes) and sizes.min() < sizes.max():
            notes.append(
                f"{where}: the learners did not all predict the same cases of {target}; "
                "they are compared on those that all predicted."
            )
    return notes


def reader_notes(compared: bool, shared: bool, stage: str) -> list[str]:
    """Say why readers and learners are not compared at a stage: no case in common, or no common level."""
    if not shared:
        return [f"{_where(stage)} has no case that a reader scored."]
    if compared:
        return []
    return [
        f"{_where(stage)}: no reader's value stands at the level of a prediction (case, region or image), so that "
        "readers and learners are not compared."
    ]


def response_notes(told: Mapping[str, Any], stage: str) -> list[str]:
    """Say whom the response over time leaves out; the physician's side is the same for every learner."""
    where, undefined = _where(stage), told["undefined"]
    notes = [f"{where}: no subject has a scored visit after the baseline."] if not told["n_visits"] else []
    for key, why in (
        ("physician_baseline_zero", "a baseline of zero, from which no percent change is defined"),
        ("baseline_not_scored", "a baseline without a truth"),
        ("no_baseline", "no scored baseline visit"),
    ):
        if undefined[key]:
            notes.append(f"{where}: response leaves out subjects with {why}: {', '.join(undefined[key])}.")
    return notes


def apart_note(metrics: Mapping[str, Any], main: str, learner: str | None, merit: str, title: str) -> list[str]:
    """Say so where the headline's learner does worse on the test set than out of fold by more than chance explains.

    The two are of different subjects, so the interval of the difference is that of independent figures.
    """
    found = [metrics.get(stage, {}).get(learner, {}).get(main, {}).get(merit) for stage in ("oof", "test")]
    if not all(one and one.value is not None and one.low is not None and one.high is not None for one in found):
        return []
    inside, tested = found
    fall = inside.value - tested.value
    if fall <= float(np.hypot(inside.value - inside.low, tested.high - tested.value)):
        return []
    told = [f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in found]
    return [
        f"{learner} falls from a {title} of {told[0]} out of fold to {told[1]} on the test set, more than chance "
        "explains. "
        "The folds may share what the test set does not have with them: persons who are not known to be the same, or a "
        "way of taking the pictures. The lower figure is the one to expect of new subjects."
    ]


def _where(stage: str) -> str:
    name = STAGE_NAMES[stage]
    return name[0].upper() + name[1:]
