"""Metrics of a network on its own training subjects, which do not describe its performance on new patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


@dataclass(frozen=True)
class TrainMetrics:
    """Accuracy, sensitivity and specificity on `n` units, and their confusion counts (rows are the reference).

    Sensitivity and specificity are those of two classes, and None where a class has no units.
    """

    accuracy: float
    sensitivity: float | None
    specificity: float | None
    n: int
    confusion: list[list[int]]


def right_on(rows: pd.DataFrame, study: Study) -> TrainMetrics | None:
    """The metrics of the primary outcome; None where it has no classes.

    Args:
        rows: as `casewise.inference.predictor.prediction_rows` makes them, of one network; those of the main outcome
            are judged.
    """
    names = study.classes_of(study.primary_outcome)
    if not names:
        return None
    labelled = rows[(rows["target"] == study.primary_outcome) & rows["y_true"].notna()]
    if labelled.empty:
        return None
    recorded, predicted = (labelled[column].to_numpy(int) for column in ("y_true", "y_pred"))
    confusion = np.bincount(recorded * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    shares: dict[str, float | None] = {"sensitivity": None, "specificity": None}
    if (positive := study.positive_of(study.primary_outcome)) is not None:
        positive_code = names.index(positive)
        for name, line in (("sensitivity", positive_code), ("specificity", 1 - positive_code)):
            count = confusion[line].sum()
            shares[name] = float(confusion[line, line] / count) if count else None
    accuracy = float((recorded == predicted).mean())
    return TrainMetrics(accuracy, shares["sensitivity"], shares["specificity"], len(labelled), confusion.tolist())
