"""Where the model fails: the range of scores, the single case, the region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import display_name, number
from casewise.report.sections.tables import split_key
from casewise.report.sections.terminology import Words, place_of

LEAST_IN_PART = 3
WORSE = 1.3
TILTED = 0.25


@dataclass(frozen=True)
class Part:
    """Cases of one range of the physician's score, and how far off the model is there."""

    name: str
    count: int
    error: float
    bias: float


def parts_of(material: ReportContext) -> list[Part]:
    """The model's error in each severity band, or in thirds of the physician's scores where there are no bands."""
    rows, study = material.chosen, material.study
    if rows.empty:
        return []
    truth = rows["y_true"].to_numpy(float)
    if study.evaluation.bands:
        names, edges = zip(*sorted(study.evaluation.bands.items(), key=lambda band: band[1]), strict=True)
        place = np.clip(np.searchsorted(np.array(edges) - 1e-9, truth, side="right") - 1, 0, None)
    else:
        digits = Words(material).digits
        edges = tuple(dict.fromkeys(np.quantile(truth, [1 / 3, 2 / 3], method="higher").tolist()))
        place = np.searchsorted(edges, truth, side="right")
        shown = [number(edge, digits) for edge in edges]
        between = [f"{shown[i]} to below {shown[i + 1]}" for i in range(len(edges) - 1)]
        names = (f"below {shown[0]}", *between, f"{shown[-1]} or more")
    difference = (rows["y_pred"] - rows["y_true"]).to_numpy(float)
    found = [(name, difference[place == i]) for i, name in enumerate(names)]
    return [Part(str(n), len(d), float(np.abs(d).mean()), float(d.mean())) for n, d in found if len(d)]


def failures(material: ReportContext) -> str:
    """The range with the largest errors, the worst single case, and the region that agrees least."""
    rows, words = material.chosen, Words(material)
    if rows.empty:
        return ""
    error = (rows["y_pred"] - rows["y_true"]).abs()
    row = rows.loc[error.idxmax()].to_dict()
    single = (
        f"The largest single error is {words.points(float(error.max()))}: {place_of(row)}, "
        f"{number(row['y_pred'], words.digits)} by the model, {number(row['y_true'], words.digits)} by the physician."
    )
    return " ".join(text for text in (_range(material, words), single, weakest_region(material)) if text)


def _range(material: ReportContext, words: Words) -> str:
    parts = [part for part in parts_of(material) if part.count >= LEAST_IN_PART]
    if len(parts) < 2:
        return ""
    worst, best = max(parts, key=lambda p: p.error), min(parts, key=lambda p: p.error)
    tilt = _tilt(parts, words)
    if worst.error < WORSE * best.error:
        but = f", but {tilt}" if tilt else ""
        return f"Errors are of much the same size over the whole range of scores{but}."
    way = "too high" if worst.bias > 0 else "too low"
    lean = f", on average {number(abs(worst.bias), words.digits)} {way}" if abs(worst.bias) > worst.error / 3 else ""
    if tilt:
        lean, tilt = "", f" {tilt[0].upper()}{tilt[1:]}."
    where = "in the physician’s band" if material.study.evaluation.bands else "where the physician scored"
    return (
        f"Errors are largest {where} {worst.name}: {words.points(worst.error)}{lean}, "
        f"against {number(best.error, words.digits)} for {best.name}.{tilt}"
    )


def _tilt(parts: list[Part], words: Words) -> str:
    """Whether the two ends of the scale err in opposite ways, such as a pull to the middle; empty where they do not."""
    low, high = parts[0], parts[-1]
    mean = sum(part.error * part.count for part in parts) / sum(part.count for part in parts)
    if low.bias * high.bias >= 0 or min(abs(low.bias), abs(high.bias)) <= TILTED * mean:
        return ""
    ways = ("overrated", "underrated") if low.bias > 0 else ("underrated", "overrated")
    return (
        f"low scores are {ways[0]} by {words.points(abs(low.bias))} on average, "
        f"high ones {ways[1]} by {number(abs(high.bias), words.digits)}"
    )


def weakest_region(material: ReportContext) -> str:
    """The region where the last regional score (or first regional target) agrees least, unless that may be chance."""
    study = material.study
    figures = material.metrics.get("metrics", {}).get(material.stage, {}).get(material.learner, {})
    for target in [*reversed(list(study.scores)), *study.targets]:
        regional = {
            split_key(key)[1]: found.get("ccc") for key, found in figures.items() if split_key(key)[0] == target
        }
        known = {region: f for region, f in regional.items() if region and f and is_number(f.get("value"))}
        if len(known) < 2:
            continue
        worst = min(known, key=lambda region: known[region]["value"])
        high = known[worst].get("high")
        others = [f for region, f in known.items() if region != worst]
        sure = is_number(high) and all(is_number(f.get("low")) and high < f["low"] for f in others)
        lowest, *rest = (number(value, 2) for value in sorted(f["value"] for f in known.values()))
        name = display_name(study, target)
        rough = any(f.get("rough") for f in known.values())
        if sure and not rough and lowest != rest[0]:
            return f"Of the regions, {worst} agrees least (CCC of the {name} {lowest} against {rest[0]} or more)."
        why = "fewer than ten subjects" if rough else "hardly any difference" if sure else "intervals overlap"
        values = f"CCC of the {name} {lowest} to {rest[-1]}"
        return f"No region is shown to agree worse than the others ({values}, {why})."
    return ""
