"""Checks before training that every class can be learned and evaluated in each fold, outer and inner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.table import names_text
from casewise.cohort.targets import panel_values
from casewise.errors import SplitError, StudyError, counted
from casewise.predictions.stacking import EITHER_SIGN
from casewise.splits.grouped import Splits, holders_by_class, inner_folds
from casewise.splits.predefined import TEST
from casewise.study.learners import combined_learners
from casewise.study.schema import Study


def missing_classes(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each class that folds or the test set lack, so that nothing is evaluated on it there.

    Args:
        record: of `Splits`, or the content of `splits.json`.

    >>> lacking = [{"side": f"fold {fold}", "target": "grade", "class": "2", "subjects": 8} for fold in (1, 3)]
    >>> missing_classes({"classes_lacking": lacking})
    ['grade: no 2 in fold 1, fold 3 (8 subjects in the cohort)']
    """
    sources = record.get("left_out") or []
    names = {"test": "the test set", "train": "the training set", "validation": "the validation set"}
    names |= {f"fold {fold + 1}": f"fold {fold + 1} ({s})" for fold, s in enumerate(sources)}
    sides: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for entry in record.get("classes_lacking", []):
        sides[entry["target"], entry["class"], entry["subjects"]].append(names.get(entry["side"], entry["side"]))
    return [
        f"{target}: no {label} in {names_text(lacking, 10)} ({counted(subjects, 'subject')} in the cohort)"
        for (target, label, subjects), lacking in sides.items()
    ]


def check_learnable(splits: Splits, panels: pd.DataFrame, study: Study) -> None:
    """Check that no network would lack a class, and that every stacker can be fitted and judged.

    Raises:
        SplitError: no training subject of a fold has a class; a target that the study stacks is recorded in fewer than
            two folds; a class has too few subjects for the folds of a nested cross-validation.
        StudyError: a stacker with weights of either sign has no test set, or its grades need out-of-fold predictions.
    """
    either_sign = [name for name in study.stack if name in EITHER_SIGN and len(combined_learners(study)) > 1]
    if either_sign and not splits.subjects(TEST):
        raise StudyError(
            f"stack: {either_sign[0]!r} has weights of either sign, which find signal out of fold where there is none. "
            "Use `weighted` or `mean`, or state a test set, such as `split: {test: 20%}`."
        )
    if either_sign and (tuned := next((name for name, rule in study.decisions.items() if rule == "kappa"), None)):
        raise StudyError(
            f"stack: {either_sign[0]!r} has no out-of-fold predictions, on which `decision: kappa` of {tuned!r} tunes "
            "its thresholds. Use `weighted` or `mean`, or the decision `median` or `mean`."
        )
    by_class, tested, nested = holders_by_class(panels, study), set(splits.subjects(TEST)), study.nested_cv
    for (name, label), holders in by_class.items() if nested else ():
        count = len(holders - tested)
        # a source that is left out may lack a class
        if count < splits.folds and not splits.record.get("left_out"):
            outside = " outside the test set" if tested else ""
            raise SplitError(
                f"{name}: the class {label!r} has {counted(count, 'subject')}{outside}, fewer than the {splits.folds} "
                "outer folds. Lower split.folds, merge the class with another, or add subjects."
            )
    for fold in range(splits.folds) if nested else ():
        inner_folds(panels, study, splits, fold, count=nested.folds if nested else 0)
    for (name, label), holders in by_class.items():
        for fold in range(splits.folds) if holders else ():
            if not holders & set(splits.training(fold)):
                raise SplitError(_not_learnable(splits, study, name, label, holders, fold))
    for name in study.outputs if study.stack and not splits.holdout else []:
        scored = panels["subject"][~np.isnan(panel_values(panels, study, name))]
        folds = {splits.side[subject] for subject in scored} - {TEST}
        if len(folds) < 2:
            text = f"{name!r} is recorded in {len(folds)} of {splits.folds} folds; a stacker needs two."
            raise SplitError(f"{text} Leave out `stack:` or the target.")


def _not_learnable(splits: Splits, study: Study, name: str, label: str, holders: set[str], fold: int) -> str:
    sources, column = splits.record.get("left_out"), study.split.column
    sides = sorted({splits.side[subject] for subject in holders}, reverse=True)
    if sources:
        where = f"all of them are {sources[fold]!r}"
        remedy = "Leave the class out of `classes`, or study without `split.leave_out`."
    else:
        names = {TEST: "the test set"} | ({0: "the validation set"} if splits.holdout else {})
        where = "all of them are in " + " or ".join(names.get(s, f"fold {s + 1}") for s in sides)
        remedy = f"Lower split.folds{', leave out `split.by`' * (study.split.by == 'number')} or add subjects."
        if column and (splits.record.get("numbered") or splits.holdout or sides == [TEST]):
            remedy = f"Change column {column!r}, so that they are on several sides, or add subjects."
    return (
        f"{name}: the class {label!r} has {counted(len(holders), 'subject')}, and {where}: networks that are evaluated "
        f"there could not learn it. {remedy}"
    )
