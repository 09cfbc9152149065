"""Metrics of a network on its own training subjects, which do not describe its performance on new patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


def right_on(rows: pd.DataFrame, study: Study) -> dict[str, Any] | None:
    """Accuracy, sensitivity, specificity, the number of units and their confusion matrix; None where it has no classes.

    Sensitivity and specificity are given for two classes only, and None where a class has no cases. Rows of the matrix
    are the reference classes.

    Args:
        rows: as `casewise.inference.to_table.prediction_rows` makes them, of one network; those of the main outcome
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
    metrics: dict[str, Any] = {
        "accuracy": float((recorded == predicted).mean()),
        "sensitivity": None,
        "specificity": None,
    }
    if (positive := study.positive_of(study.primary_outcome)) is not None:
        positive_code = names.index(positive)
        for name, line in (("sensitivity", positive_code), ("specificity", 1 - positive_code)):
            count = confusion[line].sum()
            metrics[name] = float(confusion[line, line] / count) if count else None
    return {**metrics, "n": len(labelled), "confusion": confusion.tolist()}
