"""The results of an answer: flags, the course of the primary outcome, and saliency maps as pictures for the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.evaluation.response import percent_change, responds
from casewise.inference.input_checks import SEPARATOR
from casewise.inference.output_table import FAR
from casewise.plugin import Explainer
from casewise.plugins.serve.settings import Json
from casewise.plugins.serve.submission import NEUTRAL, SUBJECT, Submission

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.modalities.base import NativeMap

JPEG_QUALITY = 88
# Grey values of a scan between these percentiles are shown from black to white.
WINDOW = (1.0, 99.0)


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
    """A cell of a table as JSON has it: None in place of NaN and NA.

    >>> plain(np.float64(1.5)), plain(float("nan")), plain(pd.NA), plain(np.True_)
    (1.5, None, None, True)
    """
    if cell is None or cell is pd.NA or (isinstance(cell, float) and not math.isfinite(cell)):
        return None
    return cell.item() if isinstance(cell, np.generic) else cell


def flags_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the results of a visit should be read with: a code, and a sentence."""
    flags = []
    distances = [result["distance"] for result in results if result["beyond"]]
    if distances:
        flags.append(
            {
                "code": "beyond",
                "message": "The images are far from those that the model was trained on (distance "
                f"{max(distances):.2f}; one in twenty held-out cases of the study exceeds {FAR:g}). The results may "
                "not apply.",
            }
        )
    unlike = dict.fromkeys(reason for result in results for reason in result["flags"])
    if unlike:
        message = f"Unlike the training cases: {SEPARATOR.join(unlike)}. The results may not apply."
        flags.append({"code": "unlike", "message": message})
    problems = dict.fromkeys(result["problem"] for result in results if result["problem"])
    return flags + [{"code": "problem", "message": problem} for problem in problems]


def trajectory(visits: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> Json | None:
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


def _entry(row: Mapping[Any, Any], response: Mapping[str, bool], *, with_change: bool) -> Json:
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


def map_picture(explainer: Explainer, shown: Any, submission: Submission) -> Json:
    """A map of `Explainer.explain_new` and its original as data URLs, with the names that the client knows."""
    number = NEUTRAL.search(shown.native.name)
    file = submission.files[int(number[1])] if number else None
    visit = int(shown.case.rpartition(" ")[2])
    picture, values, note = shown.native.picture, shown.native.values, ""
    if picture is None:
        picture, values, note = strongest_slice(shown.native)
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
        "original": data_url(picture),
        "overlay": data_url(explainer.overlay(picture, values, signed=shown.signed)),
    }


def strongest_slice(native: NativeMap) -> tuple[NDArray[np.uint8], NDArray[np.floating], str]:
    """The axial slice of a scan with the largest influence: its picture, its map, and a note on what it shows.

    The patient's front is up, and the patient's right is on the left, as radiologists view it.
    """
    import nibabel

    assert native.affine is not None
    assert native.voxels is not None
    turn = nibabel.orientations.io_orientation(native.affine)
    values, voxels = (nibabel.orientations.apply_orientation(a, turn) for a in (native.values, native.voxels))
    number = int(np.abs(values).sum(axis=(0, 1)).argmax())
    low, high = np.percentile(voxels, WINDOW)
    grey = np.clip((voxels[:, :, number] - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.ascontiguousarray(np.rint(grey).astype(np.uint8).T[::-1, ::-1])
    which = f"axial slice {number + 1} of {values.shape[2]}, the one with the largest influence"
    note = f"{which}; the right of the patient is on the left"
    return picture, np.ascontiguousarray(values[:, :, number].T[::-1, ::-1]), note


def data_url(picture: NDArray[np.uint8]) -> str:
    """(h, w) or (h, w, 3) `uint8` as a data URL of a JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
