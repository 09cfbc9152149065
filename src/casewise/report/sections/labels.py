"""Recorded classes: how many of each on every side of the split, and from which source they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.audit import metadata as facts
from casewise.cohort.natural_sort import natural
from casewise.report.context import ReportContext
from casewise.report.formatting import shortened
from casewise.report.sections.tables import Counts, CountsLine, counts_line

if TYPE_CHECKING:
    import pandas as pd

MOST_SOURCES = 15
TELLING = 0.9


def counted_classes(material: ReportContext) -> dict[str, Any]:
    """The main outcome's classes by side of the split and by source; `told` says how far the source tells the class."""
    study = material.study
    table = recorded(material)
    names = [name.replace("_", " ") for name in study.classes_of(study.primary_outcome)]
    sides = material.splits.get("subjects", {})
    held_out = [str(name) for name in material.splits.get("left_out") or []]
    side = table["subject"].astype(str).map(lambda s: _side_name(sides.get(s), held_out))
    column = source_column(material)
    by_source = _counts(table, table[column].astype(str), names, MOST_SOURCES) if column else None
    whole = _counts(table, side, names, 60)
    whole.rows.append(_line("all", table["value"].to_numpy(int).tolist(), len(names)))
    return {
        "sides": whole,
        "sources": by_source,
        "column": (column or "").replace("_", " "),
        "told": _told(by_source) if by_source else "",
        "left_out": max(0, table[column].nunique() - MOST_SOURCES) if column else 0,
    }


def recorded(material: ReportContext) -> pd.DataFrame:
    """One row a unit of the main outcome with its class number in `value`, subject, and the cohort's other columns."""
    study, images = material.study, material.cohort_images
    if study.primary_outcome in images:
        table = images.dropna(subset=[study.primary_outcome]).assign(value=lambda t: t[study.primary_outcome])
        unit = {"image": "image", "region": "panel"}.get(study.level_of(study.primary_outcome), "case")
        return table.drop_duplicates(unit)
    rows = material.final[material.final["target"] == study.primary_outcome].dropna(subset=["y_true"])
    rows = rows[rows["stage"] != "external"].drop_duplicates(["case", "region", "image"])
    others = [c for c in images.columns if c not in rows.columns]
    joined = rows.merge(images.drop_duplicates("case")[["case", *others]], on="case", how="left")
    return joined.assign(value=joined["y_true"])


def source_column(material: ReportContext) -> str | None:
    """The column that says where a picture comes from: the one left out fold by fold, else the audit's."""
    images = material.cohort_images
    several = [str(column) for column in images if images[column].nunique() > 1]
    left_out = material.study.split.leave_out
    return left_out if left_out in several else facts.source_column(several)


def _side_name(side: Any, held_out: list[str]) -> str:
    """The side of the split, with the source that is held out in it where each fold is a source."""
    if side is None or side == "test":
        return "test" if side else "not split"
    name = f" ({held_out[int(side) - 1]})" if int(side) <= len(held_out) else ""
    return f"fold {side}{name}"


def _counts(table: pd.DataFrame, lines: pd.Series, names: list[str], most: int) -> Counts:
    groups = {str(name): part["value"].to_numpy(int).tolist() for name, part in table.groupby(lines.to_numpy())}
    largest = sorted(groups, key=lambda name: -len(groups[name]))[:most]
    return Counts(
        names, [_line(shortened(n or "unknown", 30), groups[n], len(names)) for n in sorted(largest, key=natural)]
    )


def _line(name: str, numbers: list[int], classes: int) -> CountsLine:
    return counts_line(name, [numbers.count(k) for k in range(classes)])


def _told(found: Counts) -> str:
    """Which classes come nearly all from one source."""
    told = []
    for k, name in enumerate(found.names):
        counts = {row[0]: row[2][k][0] for row in found.rows}
        total, source = sum(counts.values()), max(counts, key=counts.__getitem__)
        if total and counts[source] / total >= TELLING:
            share = "all" if counts[source] == total else f"{100 * counts[source] / total:.0f} %"
            told.append(f"{share} of {name} {'comes' if share == 'all' else 'come'} from {source}")
    return "; ".join(told)
