"""The course of the primary outcome over the visits of a request, with percent change and response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.response import percent_change, responds
from casewise.plugins.serve.submission import SUBJECT


def trajectory(visits: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of the primary outcome in the order of time; None for one visit, or an outcome without one number.

    Without days, visits are in the order of the request, and `day` is None.

    Where the study defines a response, each visit has `change` (percent from the baseline, negative when better) and
    `response`, by threshold; a baseline of zero gives None.
    """
    outcome = description["primary_outcome"]
    values = [_value(visit, outcome) for visit in visits]
    if len(visits) < 2 or any(value is None for value in values):
        return None
    results = [value for value in values if value is not None]
    days = [visit["day"] for visit in visits]
    dated = all(day is not None for day in days)
    rows = pd.DataFrame(
        {
            "subject": SUBJECT,
            "visit": [str(visit["visit"]) for visit in visits],
            "day": days if dated else [float(n) for n in range(len(visits))],
            "y_pred": [result["prediction"] for result in results],
            "low": [result["prediction_low"] for result in results],
            "high": [result["prediction_high"] for result in results],
            "number": range(len(visits)),
        }
    ).assign(y_true=lambda table: table["y_pred"])
    rule = description["response"]
    named = (rule or {}).get("baseline", "first")
    baseline = named if named != "first" and (rows["visit"] == named).sum() == 1 else "first"
    changed = percent_change(rows, baseline=baseline)
    responses: list[dict[str, bool]] = [{} for _ in range(len(changed))]
    if rule:
        for threshold in rule["thresholds"]:
            responded = responds(
                changed["predicted_change"].to_numpy(),
                changed["y_pred"].to_numpy(),
                threshold,
                clear_at=rule["clear_at"],
            )
            for entry, yes in zip(responses, responded.tolist(), strict=True):
                entry[f"{threshold:g}"] = yes
    entries = [
        _entry(row, response, with_change=rule is not None) | ({} if dated else {"day": None})
        for row, response in zip(changed.to_dict("records"), responses, strict=True)
    ]
    start = next((entry["visit"] for entry in entries if entry["is_baseline"]), None)
    return {
        "target": outcome,
        "title": description["titles"].get(outcome, outcome),
        "baseline": start,
        "clear_at": rule["clear_at"] if rule else None,
        "visits": entries,
    }


def _value(visit: Mapping[str, Any], outcome: str) -> Mapping[str, Any] | None:
    """The result of the primary outcome at a visit, if there is one and it is a number."""
    results = [result for result in visit["results"] if result["target"] == outcome]
    single = len(results) == 1 and isinstance(results[0]["prediction"], float)
    return results[0] if single else None


def _entry(row: Mapping[Any, Any], response: Mapping[str, bool], *, with_change: bool) -> dict[str, Any]:
    since = row["since"]
    after = since is not pd.NA and since > 0
    change = row["predicted_change"]
    entry = {
        "visit": row["visit"],
        "number": int(row["number"]) + 1,
        "day": float(row["day"]),
        "value": float(row["y_pred"]),
        "low": None if row["low"] is None or np.isnan(row["low"]) else float(row["low"]),
        "high": None if row["high"] is None or np.isnan(row["high"]) else float(row["high"]),
        "is_baseline": since is not pd.NA and since == 0,
        "change": None,
        "response": {},
    }
    if with_change and after and not np.isnan(change):
        entry |= {"change": float(change), "response": dict(response)}
    return entry
