"""The results of an answer: flags, the course of the primary outcome, and saliency maps as pictures for the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.evaluation.response import percent_change, responds
from casewise.inference.explainer import Explainer
from casewise.inference.flag_reasons import SEPARATOR, UNCONFIRMED
from casewise.inference.resident import pictured
from casewise.plugins.serve.submission import NEUTRAL, SUBJECT, Submission
from casewise.predictions.table import FAR
from casewise.web.settings import Json

JPEG_QUALITY = 88
WITHHELD = "Probability, interval and set are withheld until somebody confirms that the model may be used for it."


def explained_class(rows: pd.DataFrame, target: str, level: str, shown: Mapping[str, Any]) -> str:
    """The class that a map is about, which was predicted for its case, region or image; empty if none was.

    Args:
        rows: of the output table; none for a number.
        shown: the visit, region and stored file of the map (see `map_picture`).
    """
    if rows.empty:
        return ""
    own = rows[(rows["target"] == target) & (rows["visit"].astype(str) == f"visit {shown['visit']}")]
    if level in ("region", "image") and (own["region"] != "").any():
        own = own[own["region"] == shown["region"]]
    if level == "image":
        own = own[[Path(str(name)).name == shown["stored"] for name in own["image"]]]
    values = own["prediction"].dropna()
    return "" if values.empty else str(values.iloc[0])


def plain(cell: Any) -> Any:
    """A cell of a table as JSON has it: None instead of NaN and NA.

    >>> plain(np.float64(1.5)), plain(float("nan")), plain(pd.NA), plain(np.True_)
    (1.5, None, None, True)
    """
    if cell is None or cell is pd.NA or (isinstance(cell, float) and not math.isfinite(cell)):
        return None
    return cell.item() if isinstance(cell, np.generic) else cell


def flags_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Caveats on the results of a visit, each a code and a sentence."""
    flags = []
    distances = [result["distance"] for result in results if result["beyond"]]
    if distances:
        far = f"distance {max(distances):.2f}; at most one in twenty held-out cases of the study exceeds {FAR:g}"
        message = f"The images are far from those that the model was trained on ({far}). The results may not apply."
        flags.append({"code": "beyond", "message": message})
    unlike = dict.fromkeys(reason for result in results for reason in result["flags"])
    if UNCONFIRMED in unlike:
        del unlike[UNCONFIRMED]
        flags.append({"code": "unconfirmed", "message": f"{UNCONFIRMED[0].upper()}{UNCONFIRMED[1:]}. {WITHHELD}"})
    if unlike:
        message = f"The results may not apply. Unlike the training cases: {SEPARATOR.join(unlike)}"
        flags.append({"code": "unlike", "message": message})
    problems = dict.fromkeys(result["problem"] for result in results if result["problem"])
    return flags + [{"code": "problem", "message": problem} for problem in problems]


def trajectory(visits: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> Json | None:
    """The values of the primary outcome in the order of time; None for one visit, or an outcome without one number.

    Without days, visits are in the order of the request, and `day` is None.

    A visit is `flagged` if its images are unlike the training, or of a source that nobody has confirmed.

    Where the study defines a response, each visit has `change` (percent from the baseline, negative when better) and
    `response`, by threshold; a baseline of zero gives None.
    """
    outcome, rule = description["primary_outcome"], description["response"] or {}
    results = [[result for result in visit["results"] if result["target"] == outcome] for visit in visits]
    if len(visits) < 2 or not all(len(own) == 1 and isinstance(own[0]["prediction"], float) for own in results):
        return None
    days = [visit["day"] for visit in visits]
    dated = None not in days
    rows = pd.DataFrame([own[0] for own in results])[["prediction", "prediction_low", "prediction_high"]].astype(float)
    rows = rows.set_axis(["y_pred", "low", "high"], axis=1)
    rows = rows.assign(
        subject=SUBJECT, visit=[str(visit["visit"]) for visit in visits], y_true=rows["y_pred"], number=rows.index + 1
    ).assign(day=days if dated else rows.index.astype(float))
    named = rule.get("baseline", "first")
    changed = percent_change(rows, baseline=named if (rows["visit"] == named).sum() == 1 else "first")
    change, values = changed["predicted_change"].to_numpy(), changed["y_pred"].to_numpy()
    responded = {f"{t:g}": responds(change, values, t, clear_at=rule["clear_at"]) for t in rule.get("thresholds", [])}
    entries = []
    for position, row in enumerate(changed.to_dict("records")):
        since = -1 if row["since"] is pd.NA else row["since"]
        entry = {name: plain(row[name]) for name in ("visit", "number", "low", "high")}
        entry |= {"day": float(row["day"]) if dated else None, "value": row["y_pred"], "is_baseline": since == 0}
        entry["flagged"] = any(flag["code"] != "problem" for flag in visits[row["number"] - 1]["flags"])
        has_change = bool(rule) and since > 0 and not np.isnan(row["predicted_change"])
        entry["change"] = float(row["predicted_change"]) if has_change else None
        entry["response"] = {name: bool(yes[position]) for name, yes in responded.items()} if has_change else {}
        entries.append(entry)
    return {
        "target": outcome,
        "title": description["titles"].get(outcome, outcome),
        "baseline": next((entry["visit"] for entry in entries if entry["is_baseline"]), None),
        "clear_at": rule.get("clear_at"),
        "visits": entries,
    }


def map_picture(explainer: Explainer, shown: Any, submission: Submission) -> Json:
    """A map of `Explainer.explain_new` and its original as data URLs, with the names that the client knows."""
    number = NEUTRAL.search(shown.native.name)
    file = submission.files[int(number[1])] if number else None
    visit = int(shown.case.rpartition(" ")[2])
    picture, values, note = pictured(shown.native)
    return {
        "visit": visit,
        "file": file.name if file else "",
        "stored": file.stored if file else "",
        "region": file.slot if file else shown.channel,
        "method": shown.method,
        "signed": shown.signed,
        "empty": shown.native.empty,
        "flat": shown.flat,
        "note": note,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "original": _data_url(picture),
        "overlay": _data_url(explainer.overlay(picture, values, signed=shown.signed)),
    }


def _data_url(picture: NDArray[np.uint8]) -> str:
    """(h, w) or (h, w, 3) `uint8` as a data URL of a JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
