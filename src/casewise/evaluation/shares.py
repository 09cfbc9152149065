"""Shares and means over rows with an interval by resampling subjects, also where all rows are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, draw, percentiles
from casewise.evaluation.intervals import ROUGH_BELOW

Ratios = Mapping[str, tuple[np.ndarray, np.ndarray]]


def mean_by_subject(values: Any, subjects: Any, plan: Plan, *, share: bool = False) -> dict[str, Any]:
    """The mean of `values` (N,) with its interval: value, low, high, n_subjects, n_cases (rows), rough.

    Args:
        share: values are 0 or 1; see `with_open_end`.

    >>> round(mean_by_subject([0, 0, 0], ["a", "b", "c"], Plan(100), share=True)["high"], 4)
    0.7076
    """
    values = np.asarray(values, dtype=float)
    sums, _ = subject_sums({"mean": (values, np.ones(len(values)))}, subjects)
    estimate, _ = ratios(sums, plan)["mean"]
    n_subjects = len(sums["mean"])
    estimate = with_open_end(estimate, n_subjects, plan) if share else estimate
    return {**estimate, "n_subjects": n_subjects, "n_cases": len(values), "rough": n_subjects < ROUGH_BELOW}


def with_open_end(estimate: dict[str, Any], n_subjects: int, plan: Plan) -> dict[str, Any]:
    """A share of 0 or 1, which all resamples equal, with the exact binomial interval for one value a subject.

    The interval is that of Clopper and Pearson (1934); other shares keep theirs.
    """
    if not n_subjects or estimate["value"] not in (0.0, 1.0):
        return estimate
    open_end = 1 - ((1 - plan.confidence) / 2) ** (1 / n_subjects)
    low, high = (0.0, open_end) if estimate["value"] == 0 else (1 - open_end, 1.0)
    return {**estimate, "low": low, "high": high}


def subject_sums(columns: Ratios, subjects: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """For each ratio of two sums over rows, (subjects, 2) numerators and denominators; and the subjects' names."""
    names, codes = np.unique(np.asarray(pd.Series(subjects).astype(str), dtype=str), return_inverse=True)
    sums = {
        name: np.stack([np.bincount(codes, part, minlength=len(names)) for part in pair], axis=1)
        for name, pair in columns.items()
    }
    return sums, names.tolist()


def ratios(sums: Mapping[str, np.ndarray], plan: Plan) -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """For each ratio, {value, low, high} and its value in every resample; all from the same resamples.

    Nothing is defined where the denominator is 0, and there is no interval for one subject.
    """
    results = {}
    for name, pairs in sums.items():
        samples = _ratio(draw(len(pairs), plan) @ pairs) if len(pairs) else np.full(1, np.nan)
        value = _ratio(pairs.sum(axis=0, keepdims=True))[0]
        results[name] = ({"value": defined(value), **interval(samples, plan, len(pairs))}, samples)
    return results


def interval(samples: np.ndarray, plan: Plan, n_subjects: int) -> dict[str, float | None]:
    """The ends of the interval over resamples; None where it is undefined, nothing varies, or there is one subject."""
    low, high = (float(end[0]) for end in percentiles(samples[:, None], plan.confidence))
    known = n_subjects > 1 and high > low
    return {"low": defined(low), "high": defined(high)} if known else {"low": None, "high": None}


def defined(value: float) -> float | None:
    """The value as a plain number; None for NaN."""
    return None if np.isnan(value) else float(value)


def _ratio(pairs: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs[:, 1] > 0, pairs[:, 0] / pairs[:, 1], np.nan)
