"""Caveats on the results of a run, as codes with numbers; the report turns them into sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import FEWEST_SUBJECTS, PLAN
from casewise.evaluation.figures import Figures, Metrics, Note, Response
from casewise.evaluation.intervals import ROUGH_BELOW
from casewise.metrics.classes import Classes
from casewise.predictions.table import probability_columns
from casewise.targets import by_form, kind_named
from casewise.targets.registry import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


# a larger difference between the AUROC within the folds and the pooled one is remarked on
POOLED_GAP = 0.05


def caveat(code: str, **facts: Any) -> Note:
    """The caveat with this code and the names and numbers of its sentence."""
    return Note(code, facts)


def stage_caveats(
    rows: pd.DataFrame, scored: pd.DataFrame, stage: str, targets: Sequence[str], classes: Mapping[str, Classes]
) -> list[Note]:
    """Caveats of one stage; `scored` are those of its `rows` that have a reference value."""
    caveats = []
    n_subjects = scored["subject"].nunique()
    if n_subjects < ROUGH_BELOW:
        caveats.append(caveat("few_subjects", stage=stage, subjects=n_subjects))
    for target in targets:
        target_rows = rows[rows["target"] == target].drop_duplicates(["case", "region", "image"])
        n_unscored = int(target_rows["y_true"].isna().sum())
        if n_unscored:
            caveats.append(
                caveat("without_truth", stage=stage, target=target, missing=n_unscored, total=len(target_rows))
            )
        present = set(target_rows["y_true"].dropna())
        names = classes[target].names if target in classes else ()
        missing = [name for number, name in enumerate(names) if number not in present]
        few = _few_subjects(scored[scored["target"] == target], names) if n_subjects >= ROUGH_BELOW else {}
        if few:
            caveats.append(caveat("few_of_class", stage=stage, target=target, subjects=few, rough_below=ROUGH_BELOW))
        if present and missing:
            caveats.append(caveat("class_missing", stage=stage, target=target, classes=missing))
        sizes = scored[scored["target"] == target].groupby("model").size()
        if len(sizes) and sizes.min() < sizes.max():
            caveats.append(caveat("different_cases", stage=stage, target=target))
    return caveats


def _few_subjects(scored: pd.DataFrame, names: Sequence[str]) -> dict[str, int]:
    """The number of subjects of each class that has some, but too few."""
    subjects = scored.groupby("y_true")["subject"].nunique()
    return {names[int(number)]: int(n) for number, n in subjects.items() if names and n < ROUGH_BELOW}


def reader_caveats(compared: bool, shared: bool, stage: str) -> list[Note]:
    """Why readers and learners are not compared at a stage: they share no case, or no level."""
    if not shared:
        return [caveat("no_reader_case", stage=stage)]
    return [] if compared else [caveat("readers_at_other_level", stage=stage)]


def response_caveats(response: Response, stage: str) -> list[Note]:
    """The subjects that the response over time leaves out; for the physician they are the same for every learner."""
    caveats = [caveat("no_later_visit", stage=stage)] if not response.n_visits else []
    for reason in ("physician_baseline_zero", "baseline_not_scored", "no_baseline"):
        if subjects := response.undefined[reason]:
            caveats.append(caveat("response_left_out", stage=stage, reason=reason, subjects=subjects))
    return caveats


def pooled_caveats(metrics: Mapping[str, Mapping[str, Figures]], targets: Sequence[str]) -> list[Note]:
    """Targets whose out-of-fold AUROC differs much between the value within the folds and the pooled one.

    `metrics` are those of the stage, by learner; the learner with the largest difference is named.
    """
    caveats = []
    for target in targets:
        values = {
            learner: (figures["auroc"].value, figures["auroc_pooled"].value)
            for learner, by_target in metrics.items()
            if (figures := by_target.get(target, {})) and "auroc_pooled" in figures
        }
        gaps = {
            learner: abs(within - pooled)
            for learner, (within, pooled) in values.items()
            if within is not None and pooled is not None
        }
        wide = [learner for learner, gap in gaps.items() if gap > POOLED_GAP]
        if wide:
            widest = max(wide, key=lambda learner: gaps[learner])
            within, pooled = values[widest]
            caveats.append(
                caveat(
                    "auroc_parts",
                    target=target,
                    learner=widest,
                    within=within,
                    pooled=pooled,
                    count=len(wide),
                    learners=len(gaps),
                    more_than=POOLED_GAP,
                )
            )
    return caveats


def lower_on_test(
    metrics: Metrics, main: str, learner: str | None, merit: str, *, confidence: float = PLAN.confidence
) -> list[Note]:
    """Whether the learner of the headline is worse on the test set than out of fold by more than chance explains.

    The subjects differ, so the interval of the difference is that of independent metrics. The learner may be chosen for
    its figure out of fold, so the lower half of that interval is widened to hold for all learners at once (Bonferroni).
    Of the test set's interval the larger half counts, because figures near their bound, such as a high CCC, vary more
    downwards than their intervals reach upwards. Nothing is stated below ten subjects.
    """
    inside, tested = (
        metrics.get(stage, {}).get(str(learner), {}).get(main, {}).get(merit) for stage in ("oof", "test")
    )
    if not (inside and tested) or min(inside.n_subjects, tested.n_subjects) < FEWEST_SUBJECTS:
        return []
    if inside.value is None or inside.low is None or tested.value is None or tested.low is None or tested.high is None:
        return []
    candidates = [by_target[main] for by_target in metrics["oof"].values() if main in by_target]
    tail = NormalDist().inv_cdf
    n_chosen_from = sum(figures[merit].value is not None for figures in candidates)
    widening = tail((1 - confidence) / 2 / n_chosen_from) / tail((1 - confidence) / 2)
    tested_half = max(tested.high - tested.value, tested.value - tested.low)
    chance = float(np.hypot(widening * (inside.value - inside.low), tested_half))
    if inside.value - tested.value <= chance:
        return []
    both = {stage: {"value": e.value, "low": e.low, "high": e.high} for stage, e in (("oof", inside), ("test", tested))}
    return [caveat("test_below_oof", learner=learner, metric=merit, **both)]


def guess(predictions: pd.DataFrame, target: str, classes: Sequence[str] = ()) -> list[Note]:
    """For comparison: the error of always predicting the mean of the training subjects' cases.

    For a target with classes it is the accuracy of always predicting the most common one; `classes` are their names.
    """
    rows = predictions[(predictions["target"] == target) & predictions["y_true"].notna()]
    rows = rows.drop_duplicates(["stage", "case", "region", "image"])
    oof = rows[rows["stage"] == "oof"]
    if oof["outer_fold"].nunique() < 2:
        return []
    kind = str(rows["kind"].iloc[0]) if "kind" in rows.columns else DEFAULT
    functions: dict[str, Callable[..., Note]] = {"number": _mean_error, "classes": partial(_commonest, classes=classes)}
    guess_one = by_form(kind, functions)
    stages = {stage: rows[rows["stage"] == stage] for stage in ("test", "oof")}
    return [guess_one(stage_rows, oof, stage, target) for stage, stage_rows in stages.items() if len(stage_rows)]


def _mean_error(rows: pd.DataFrame, oof: pd.DataFrame, stage: str, target: str) -> Note:
    """The mean error of predicting the training subjects' mean; out of fold, that of the other folds."""
    if stage == "test":
        error = (rows["y_true"] - oof["y_true"].mean()).abs()
    else:
        sums = oof.groupby("outer_fold")["y_true"].agg(["sum", "count"])
        others = (sums["sum"].sum() - sums["sum"]) / (sums["count"].sum() - sums["count"])
        error = (rows["y_true"] - rows["outer_fold"].map(others).astype(float)).abs()
    return caveat("guess_mean", stage=stage, target=target, error=float(error.mean()))


def _commonest(rows: pd.DataFrame, oof: pd.DataFrame, stage: str, target: str, *, classes: Sequence[str]) -> Note:
    """The accuracy of predicting the training subjects' most common class; out of fold, that of the other folds."""
    if stage == "oof":
        counts = oof.groupby(["outer_fold", "y_true"]).size().unstack(fill_value=0)
        guesses = (counts.sum() - counts).idxmax(axis=1)
        guessed = rows["outer_fold"].map(guesses).astype(float)
    else:
        guessed = rows["y_true"] * 0 + oof["y_true"].value_counts().sort_index().idxmax()
    named = {float(number): name for number, name in enumerate(classes)}
    names = [named.get(number, f"{number:g}") for number in sorted(guessed.unique())]
    accuracy = float((guessed == rows["y_true"]).mean())
    return caveat("guess_commonest", stage=stage, target=target, classes=names, accuracy=accuracy)


def hopeless(study: Study, folder: RunFolder) -> list[Note]:
    """Networks whose validation loss never fell below that of a constant prediction.

    Validation cases are those that decide about early stopping, or those of the inner folds.
    """
    if study.recipe.early_stopping.monitor == "none" and not study.nested_cv:
        return []
    caveats = []
    for model in study.networks:
        records = folder.job_records([model])
        bad = sum(bool(no_better(record)) for record in records)
        if bad:
            judged_on = "inner_folds" if study.nested_cv else "early_stopping"
            guessed = kind_named(study.kind_of(study.primary_outcome)).guess
            values = {"network": model, "count": bad, "networks": len(records), "judged_on": judged_on}
            caveats.append(caveat("no_better_than_guessing", **values, guess=guessed))
    return caveats


def in_parts(networks: Sequence[str], folder: RunFolder) -> list[Note]:
    """Networks whose batches were computed in parts, because memory did not suffice for whole ones."""
    caveats = []
    for model in networks:
        parts = {record["fold"]: record["parts"] for record in folder.job_records([model]) if "parts" in record}
        if parts:
            caveats.append(caveat("batches_in_parts", network=model, folds=sorted(parts), parts=max(parts.values())))
    return caveats


# smaller differences of probabilities, or of predictions in standard deviations, do not matter
SAME = 0.005


def constant_folds(predictions: pd.DataFrame, target: str, learner: str) -> tuple[int, int]:
    """Numbers of folds with nearly the same prediction for every case, and of all folds examined.

    Probabilities are compared for classes; for numbers, predictions relative to the spread of the recorded values.
    """
    rows = predictions[(predictions["target"] == target) & (predictions["stage"] == "oof")]
    rows = rows[rows["model"] == learner]
    if rows.empty:
        return 0, 0
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    values = rows[columns] if columns else rows[["y_pred"]] / (rows["y_true"].std() or 1.0)
    spread = values.groupby(rows["outer_fold"]).std().max(axis=1)
    large = rows.groupby("outer_fold").size() > 2
    return int((spread[large] < SAME).sum()), int(large.sum())


def constant_predictions(predictions: pd.DataFrame, target: str, networks: Sequence[str]) -> list[Note]:
    """Networks that predict nearly the same for every case of a fold, so that they do not discriminate."""
    counts = {network: constant_folds(predictions, target, network) for network in networks}
    return [
        caveat("constant_predictions", network=network, folds=constant, of=folds)
        for network, (constant, folds) in counts.items()
        if constant
    ]


def no_better(record: Mapping[str, Any]) -> bool | None:
    """Whether a job's network, or its inner networks, did no better than a constant prediction; None if unknown."""
    inner = record.get("inner")
    if inner:
        guessed = inner["chosen"].get("guess_loss")
        return None if guessed is None else bool(inner["chosen"]["loss"] >= guessed)
    losses = [step["stop_loss"] for step in record.get("history") or [] if isinstance(step.get("stop_loss"), float)]
    return bool(min(losses) >= (record.get("guess_loss") or 1)) if losses else None
