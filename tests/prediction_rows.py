"""Rows of the predictions table for tests: one learner, one target, one stage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.metrics.numbers import moments, number_metrics


def prediction_rows(
    subjects: Sequence[Any] | np.ndarray,
    truth: Sequence[float] | np.ndarray,
    values: np.ndarray,
    *,
    folds: Sequence[int] | np.ndarray | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """Rows of predicted numbers, `values` (N,), or probabilities of classes, (N, C); without `folds` of a test set."""
    n, values = len(truth), np.asarray(values, dtype=float)
    frame = pd.DataFrame({"subject": [str(subject) for subject in subjects], "y_true": np.asarray(truth, dtype=float)})
    facts: dict[str, Any] = {"case": [f"{subject}/{number}" for number, subject in enumerate(frame["subject"])]}
    facts |= {"visit": "1", "day": 0.0, "region": "", "image": "", "model": "net", "target": "outcome"}
    facts |= {"stage": "test" if folds is None else "oof", "inner_fold": pd.array([pd.NA] * n, dtype="Int64")}
    facts |= {"outer_fold": pd.array([pd.NA] * n if folds is None else folds, dtype="Int64")}
    facts |= {"kind": "regression" if values.ndim == 1 else "classification"}
    facts |= {"y_pred": values if values.ndim == 1 else values.argmax(axis=1).astype(float)}
    probabilities = {f"p{number}": p for number, p in enumerate(values.T if values.ndim > 1 else ())}
    return frame.assign(**facts | probabilities).assign(**columns)


def metric_value(name: str, truth: np.ndarray, predicted: np.ndarray) -> float | None:
    """One metric of two arrays, or None where it is undefined."""
    present = truth[~np.isnan(truth)]
    terms = moments(truth, predicted, centre=float(present.mean()) if present.size else 0.0)
    result = float(number_metrics(terms.sum(axis=0))[name])
    return None if np.isnan(result) else result
