"""Inner folds: the training subjects of an outer fold divided once more, to choose by without those who are tested."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.labels import panel_values
from casewise.errors import SplitError
from casewise.splits.grouped import Splits, greedy, panel_records
from casewise.splits.predefined import TEST

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


def inner_folds(panels: pd.DataFrame, study: Study, splits: Splits, fold: int, *, count: int) -> list[list[str]]:
    """`count` inner folds of an outer fold's training subjects, balanced as the split is; all networks have the same.

    Nothing of the subjects held out by `fold` has a part in it.

    Raises:
        SplitError: a class has fewer subjects there than inner folds, or stands in one inner fold only; a target or
            an inner fold would be without any recorded value.
    """
    training = splits.training(fold)
    where = f"nested_cv: the {len(training)} training subjects of fold {fold + 1}"
    remedy = "Lower tune.folds or split.folds, join the class to another, or add subjects."
    if len(training) < count:
        raise SplitError(f"{where} cannot fill {count} inner folds. Lower tune.folds or add subjects.")
    holders = {
        (name, label): set(panels["subject"][panel_values(panels, study, name) == code].astype(str)) & set(training)
        for name in study.outputs
        for code, label in enumerate(study.classes_of(name))
    }
    for (name, label), who in holders.items():
        if len(who) < count:
            raise SplitError(
                f"{name}: the class {label!r} has {len(who)} of {where.removeprefix('nested_cv: ')}, fewer than the "
                f"{count} "
                f"inner folds. {remedy}"
            )
    seed = int.from_bytes(hashlib.sha256(f"{study.seed} inner folds of {fold}".encode()).digest()[:7], "big")
    found, _ = greedy(panel_records(panels, study, training), [1 / count] * count, restarts=100, seed=seed)
    folds = [[s for s, side in zip(training, found, strict=True) if side == k] for k in range(count)]
    recorded = {
        name: set(panels["subject"][~np.isnan(panel_values(panels, study, name))].astype(str)) for name in study.outputs
    }
    for k, part in enumerate(folds):
        rest = set(training) - set(part)
        if not any(who & set(part) for who in recorded.values()):
            raise SplitError(f"{where}: nobody of inner fold {k + 1} has a recorded target. Lower tune.folds.")
        for name, who in recorded.items():
            if not who & rest:
                raise SplitError(f"{where}: {name} is recorded in inner fold {k + 1} alone. Lower tune.folds.")
        for (name, label), who in holders.items():
            if not who & rest:
                raise SplitError(
                    f"{where}: all {len(who)} with {name} {label!r} stand in inner fold {k + 1}, so that nobody is "
                    f"left to learn it from. {remedy}"
                )
    return folds


def check_tuned(splits: Splits, panels: pd.DataFrame, study: Study) -> None:
    """Stop, before anything is trained, where outer or inner folds would lack a class.

    Raises:
        SplitError: naming the class, how many subjects have it, and how many folds there are.
    """
    if not study.nested_cv:
        return
    tested = set(splits.subjects(TEST))
    for name in study.outputs:
        values = panel_values(panels, study, name)
        for code, label in enumerate(study.classes_of(name)):
            who = set(panels["subject"][values == code].astype(str)) - tested
            # a source that is left out may lack a class
            if len(who) < splits.folds and not splits.record.get("left_out"):
                outside = " outside the test set" if tested else ""
                raise SplitError(
                    f"{name}: the class {label!r} has {len(who)} subjects{outside}, fewer than the {splits.folds} "
                    "outer folds, so that some folds would be judged without it. Lower split.folds, join the class to "
                    "another, or add subjects."
                )
    for fold in range(splits.folds):
        inner_folds(panels, study, splits, fold, count=study.nested_cv.folds)
