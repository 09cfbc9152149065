"""Plain sentences and facts about a run: its headline, its error beside guessing, networks that learned nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

# by kind of the main outcome: the figures of the headline, and what they are called there
_HEADLINES = {
    "regression": {"mae": "MAE", "ccc": "CCC"},
    "classification": {"accuracy": "accuracy", "auroc": "AUROC"},
    "ordinal": {"kappa_quadratic": "quadratic kappa", "accuracy": "accuracy"},
}

_MOST_SOURCES = 6


def headline(study: Study, results: dict[str, Any]) -> str:
    """One sentence on the main outcome, for the learner that was chosen out of fold."""
    main = results["main"]
    stage, learner, figures = main["stage"], main["learner"], main["metrics"]
    if not figures:
        return ""
    parts = []
    for metric, name in _HEADLINES[main.get("kind", "regression")].items():
        f = figures.get(metric)
        if f and f["value"] is not None:
            parts.append(f"{name} {f['value']:z.2f}{_bounds(f)}")
    n = next(iter(figures.values()))
    block = results.get("classes", {}).get(stage, {}).get(learner, {}).get(study.primary_outcome)
    judged = f"{n['n_subjects']} subjects"
    if not block:
        judged = f"{n['n_cases']} cases of {judged}"
    elif (level := study.level_of(study.primary_outcome)) != "subject":
        judged = f"{sum(block['support'])} {level}s of {judged}"
    if stage == "oof" and results.get("within"):
        return f"{study.primary_outcome}, each {_source(study)} left out, {judged}, {learner}: " + (
            _within(main.get("kind", "regression"), learner, results)
        )
    where = {"test": "test set", "external": "external set"}.get(stage, "out of fold")
    return f"{study.primary_outcome}, {where}, {judged}, {learner}: {', '.join(parts)}"


def _bounds(figure: dict[str, Any]) -> str:
    rough = ", rough" if figure.get("rough") else ""
    return f" [{figure['low']:z.2f}, {figure['high']:z.2f}{rough}]" if figure["low"] is not None else ""


def _source(study: Study) -> str:
    return (study.split.leave_out or "source").replace("_", " ")


def _within(kind: str, learner: str, results: dict[str, Any]) -> str:
    """The headline's figures within each source that was left out, and what the pooled ones are not."""
    from casewise.evaluation.headline import mixed

    parts = []
    for metric, name in _HEADLINES[kind].items():
        found = results["within"].get(learner, {}).get(metric)
        if not found or found["value"] is None:
            continue
        each = {source: results["left_out"][source][learner][metric] for source in found["sources"]}
        told = [f"{source} {f['value']:z.2f}{_bounds(f)}" for source, f in each.items()]
        if len(told) > _MOST_SOURCES:
            values = [f["value"] for f in each.values()]
            told = [f"from {min(values):z.2f} to {max(values):z.2f}"]
        told += [f"undefined in {', '.join(found['undefined'])}"] if found["undefined"] else []
        parts.append(f"{name} {found['value']:z.2f} (mean of {len(each)}; {', '.join(told)})")
    return f"{', '.join(parts) or 'nothing is defined within one'}; {mixed(kind)}"


def guess(predictions: pd.DataFrame, target: str, classes: Sequence[str] = ()) -> list[str]:
    """For scale: the error of always guessing the mean of the training subjects' cases.

    Of a target with classes it is the accuracy of always guessing the commonest one; `classes` are their names.
    """
    rows = predictions[(predictions["target"] == target) & predictions["y_true"].notna()]
    rows = rows.drop_duplicates(["stage", "case", "region", "image"])
    oof = rows[rows["stage"] == "oof"]
    classed = "kind" in rows.columns and (rows["kind"] != "regression").any()
    told = []
    for stage, name in (("test", "On the test set"), ("oof", "Out of fold")):
        part = rows[rows["stage"] == stage]
        if not len(part) or oof["outer_fold"].nunique() < 2:
            continue
        if classed:
            told.append(f"{name}, {_commonest(part, oof, target, classes)}")
            continue
        if stage == "test":
            error = (part["y_true"] - oof["y_true"].mean()).abs()
        else:
            sums = oof.groupby("outer_fold")["y_true"].agg(["sum", "count"])
            others = (sums["sum"].sum() - sums["sum"]) / (sums["count"].sum() - sums["count"])
            error = (part["y_true"] - part["outer_fold"].map(others).astype(float)).abs()
        told.append(
            f"{name}, always guessing the training subjects' mean {target} gives a mean error of {error.mean():.2f}."
        )
    return told


def _commonest(part: pd.DataFrame, oof: pd.DataFrame, target: str, classes: Sequence[str]) -> str:
    """Say how often the training subjects' commonest class is right; out of fold, that of the other folds."""
    if (part["stage"] == "oof").all():
        counts = oof.groupby(["outer_fold", "y_true"]).size().unstack(fill_value=0)
        guesses = (counts.sum() - counts).idxmax(axis=1)
        guessed = part["outer_fold"].map(guesses).astype(float)
    else:
        guessed = part["y_true"] * 0 + oof["y_true"].value_counts().sort_index().idxmax()
    named = {float(number): name for number, name in enumerate(classes)}
    names = [named.get(number, f"{number:g}") for number in sorted(guessed.unique())]
    accuracy = (guessed == part["y_true"]).mean()
    return (
        f"always guessing the training subjects' commonest {target} ({' or '.join(names)}) gives an accuracy of "
        f"{accuracy:.2f}."
    )


def hopeless(study: Study, folder: RunFolder) -> list[str]:
    """Networks whose loss on who chooses never fell below that of guessing: the mean of numbers, the shares of classes.

    Those who choose decide when to stop, or are in the inner folds.
    """
    if study.recipe.early_stopping.monitor == "none" and not study.nested_cv:
        return []
    who = "in the inner folds" if study.nested_cv else "on the subjects that decide when to stop"
    told = []
    all_records = folder.job_records()
    guessed = "the shares of the classes" if study.classes_of(study.primary_outcome) else "the mean"
    for model in study.networks:
        records = [record for record in all_records if record["model"] == model]
        bad = sum(bool(no_better(record)) for record in records)
        if bad:
            told.append(
                f"{bad} of {len(records)} networks of {model} never did better {who} than guessing {guessed}: they "
                "learned nothing of use."
            )
    return told


# Probabilities, or predictions in shares of what was recorded, that differ by less are the same for a reader.
SAME = 0.005


def says_the_same(predictions: pd.DataFrame, target: str, networks: Sequence[str]) -> list[str]:
    """Networks that say the same of every case of a fold: they have not learned to tell cases apart.

    Of classes their probabilities are compared, of numbers what they predict, against the spread of what was recorded.
    """
    rows = predictions[(predictions["target"] == target) & (predictions["stage"] == "oof")]
    told = []
    for model in networks:
        mine = rows[rows["model"] == model]
        if mine.empty:
            continue
        columns = [name for name in mine if re.fullmatch(r"p\d+", str(name)) and mine[name].notna().any()]
        values = mine[columns] if columns else mine[["y_pred"]] / (mine["y_true"].std() or 1.0)
        spread = values.groupby(mine["outer_fold"]).std().max(axis=1)
        large = mine.groupby("outer_fold").size() > 2
        same = int((spread[large] < SAME).sum())
        if same:
            told.append(
                f"In {same} of {int(large.sum())} folds {model} says nearly the same of every case: it has not learned "
                "to tell cases apart, and its figures there mean nothing."
            )
    return told


def no_better(record: Mapping[str, Any]) -> bool | None:
    """Whether a job's network, or those trained to choose for it, did no better than guessing; None: not known."""
    inner = record.get("inner")
    if inner:
        guessed = inner["chosen"].get("guess_loss")
        return None if guessed is None else bool(inner["chosen"]["loss"] >= guessed)
    losses = [step["stop_loss"] for step in record.get("history") or [] if isinstance(step.get("stop_loss"), float)]
    return bool(min(losses) >= (record.get("guess_loss") or 1)) if losses else None
