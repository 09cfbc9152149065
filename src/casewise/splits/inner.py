"""Inner folds: the training subjects of an outer fold, divided again for choices that must not use the outer fold."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.labels import panel_values
from casewise.errors import SplitError
from casewise.splits.assignment import greedy
from casewise.splits.grouped import Splits, panel_records

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


def inner_folds(panels: pd.DataFrame, study: Study, splits: Splits, fold: int, *, count: int) -> list[list[str]]:
    """Divide the training subjects of an outer fold into `count` inner folds, balanced like the split.

    All networks have the same inner folds. The subjects held out by `fold` do not affect them.

    Raises:
        SplitError: a class has fewer training subjects than inner folds, or is in one inner fold only; a target or an
            inner fold would be without any recorded value.
    """
    training = splits.training(fold)
    where = f"nested_cv: the {len(training)} training subjects of fold {fold + 1}"
    remedy = "Lower nested_cv.folds or split.folds, merge the class with another, or add subjects."
    if len(training) < count:
        raise SplitError(f"{where} cannot fill {count} inner folds. Lower nested_cv.folds or add subjects.")
    holders = {
        (name, label): set(panels["subject"][panel_values(panels, study, name) == code].astype(str)) & set(training)
        for name in study.outputs
        for code, label in enumerate(study.classes_of(name))
    }
    for (name, label), subjects in holders.items():
        if len(subjects) < count:
            raise SplitError(
                f"{name}: the class {label!r} has {len(subjects)} of {where.removeprefix('nested_cv: ')}, fewer than "
                f"the {count} inner folds. {remedy}"
            )
    seed = int.from_bytes(hashlib.sha256(f"{study.seed} inner folds of {fold}".encode()).digest()[:7], "big")
    sides, _ = greedy(panel_records(panels, study, training), [1 / count] * count, restarts=100, seed=seed)
    folds = [[s for s, side in zip(training, sides, strict=True) if side == k] for k in range(count)]
    recorded = {
        name: set(panels["subject"][~np.isnan(panel_values(panels, study, name))].astype(str)) for name in study.outputs
    }
    for k, inner in enumerate(folds):
        rest = set(training) - set(inner)
        if not any(subjects & set(inner) for subjects in recorded.values()):
            raise SplitError(f"{where}: no subject of inner fold {k + 1} has a recorded target. Lower nested_cv.folds.")
        for name, subjects in recorded.items():
            if not subjects & rest:
                raise SplitError(f"{where}: {name} is recorded only in inner fold {k + 1}. Lower nested_cv.folds.")
        for (name, label), subjects in holders.items():
            if not subjects & rest:
                raise SplitError(
                    f"{where}: all {len(subjects)} with {name} {label!r} are in inner fold {k + 1}, so that networks "
                    f"evaluated there could not learn it. {remedy}"
                )
    return folds
