"""Reference values: their distribution on every side of the split, and the sources that classes come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.audit import metadata
from casewise.cohort.dates import natural
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import cohort as draw
from casewise.report.formatting import MISSING, display_name, plain, shortened
from casewise.report.tables import Cell, Counts, CountsLine, Row, counts_line

if TYPE_CHECKING:
    import pandas as pd

MOST_LABELS = 12
MOST_SOURCES = 15
MOST_SIDES = 60
NEARLY_ALL = 0.9


def section(context: ReportContext) -> dict[str, Any]:
    """How each target is distributed, training beside test, and how well the split balanced it."""
    study, sides = context.study, context.splits.get("subjects", {})
    names = list(dict.fromkeys([context.outcome, *study.scores, *study.targets]))
    names = [name for name in names if not study.classes_of(name)]
    figures: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        table = _truths(context, name)
        if table is None or table.empty or len(figures) == MOST_LABELS:
            continue
        table = table.assign(side=["test" if sides.get(s) == "test" else "train" for s in table["subject"].astype(str)])
        title, values = display_name(study, name), table["value"].to_numpy(float)
        drawing = draw.distribution(table, "value", scale=context.range_of(name), title=title, name=f"labels{i}")
        numbers = {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}
        figures.append({"title": title, "count": len(values), "drawing": drawing, **numbers})
    return {
        "figures": figures,
        "left_out": max(0, len(names) - MOST_LABELS),
        "tested": "test" in set(sides.values()),
        "imbalance": imbalance_rows(context),
        "sides": split_rows(context),
        "imported": imported_from(context),
        "balanced": balanced_on(context) is not None,
        "classes": class_counts(context) if context.classes else None,
        "assignment": context.splits.get("assignment") or {},
        "balance": display_name(study, str(context.splits.get("balance") or "")),
    }


def _truths(context: ReportContext, name: str) -> pd.DataFrame | None:
    """Reference values of a target: from the panels where they have it, else from the predictions."""
    if name in context.panels:
        table = context.panels[["subject", "case", name]].rename(columns={name: "value"}).dropna(subset=["value"])
        if context.study.level_of(name) in ("case", "subject"):
            table = table.drop_duplicates("case")
        if len(table):
            return table
    rows = context.final[context.final["target"] == name].dropna(subset=["y_true"])
    rows = rows.drop_duplicates(["case", "region", "image"])
    return rows[["subject", "case", "y_true"]].rename(columns={"y_true": "value"}) if len(rows) else None


def split_rows(context: ReportContext) -> list[Row]:
    """One line per side of the split: subjects, cases, panels."""
    sides = [(name, counts) for name, counts in context.splits.get("n", {}).items() if isinstance(counts, dict)]
    return [
        Row(name, [Cell(f"{counts.get(key, 0):,}") for key in ("subjects", "cases", "panels")])
        for name, counts in sides
        if counts.get("subjects")
    ]


def imported_from(context: ReportContext) -> str:
    """`column NAME` where the split was read from the cohort table, else nothing."""
    how = str(context.splits.get("how") or "")
    return how if how.startswith("column ") else ""


def balanced_on(context: ReportContext) -> str | None:
    """The target whose imbalance the split keeps small; None if the split was imported or each source left out once."""
    if imported_from(context) or context.splits.get("left_out"):
        return None
    return context.splits.get("balance")


def imbalance_rows(context: ReportContext) -> list[Row]:
    """One line per target: the gap in label shares between test and training, and between the folds."""
    imbalance = context.splits.get("imbalance", {})
    names = list(dict.fromkeys([*imbalance.get("test", {}), *imbalance.get("folds", {})]))
    guide = balanced_on(context)
    rows = []
    for name in names[:40]:
        shares = [imbalance.get(side, {}).get(name) for side in ("test", "folds")]
        cells = [Cell(f"{100 * share:.1f} %" if is_number(share) else MISSING) for share in shares]
        rows.append(Row(display_name(context.study, name), cells, mark=name == guide))
    return rows


# ---------------------------------------------------------------------------------------------------------- classes


def class_counts(context: ReportContext) -> dict[str, Any]:
    """The primary outcome's classes by side of the split and by source; `from_one` are classes of nearly one source."""
    table, names = reference_classes(context), [plain(name) for name in context.classes]
    sides = context.splits.get("subjects", {})
    sources = [str(name) for name in context.splits.get("left_out") or []]
    side = table["subject"].astype(str).map(lambda subject: _side_name(sides.get(subject), sources))
    column = source_column(context)
    by_source = _counts(table, table[column].astype(str), names, MOST_SOURCES) if column else None
    whole = _counts(table, side, names, MOST_SIDES)
    whole.rows.append(_line("all", table["value"].to_numpy(int).tolist(), len(names)))
    return {
        "sides": whole,
        "sources": by_source,
        "column": plain(column or ""),
        "from_one": from_one_source(by_source) if by_source else [],
        "left_out": max(0, table[column].nunique() - MOST_SOURCES) if column else 0,
    }


def reference_classes(context: ReportContext) -> pd.DataFrame:
    """One row per unit of the primary outcome with its class number in `value`, and the cohort's other columns."""
    images, outcome = context.cohort_images, context.outcome
    if outcome in images:
        table = images.dropna(subset=[outcome]).assign(value=lambda t: t[outcome])
        return table.drop_duplicates({"image": "image", "region": "panel"}.get(context.study.level_of(outcome), "case"))
    rows = context.final[context.final["target"] == outcome].dropna(subset=["y_true"])
    rows = rows[rows["stage"] != "external"].drop_duplicates(["case", "region", "image"])
    others = [c for c in images.columns if c not in rows.columns]
    joined = rows.merge(images.drop_duplicates("case")[["case", *others]], on="case", how="left")
    return joined.assign(value=joined["y_true"])


def source_column(context: ReportContext) -> str | None:
    """The column with the source of an image: the one left out fold by fold, else the audit's."""
    images = context.cohort_images
    varying = [str(column) for column in images if images[column].nunique() > 1]
    left_out = context.study.split.leave_out
    return left_out if left_out in varying else metadata.source_column(varying)


def from_one_source(counts: Counts) -> list[dict[str, Any]]:
    """The classes of which nearly all cases come from one source: class, share and source."""
    lone = []
    for k, name in enumerate(counts.names):
        by_source = {row[0]: row[2][k][0] for row in counts.rows}
        total, source = sum(by_source.values()), max(by_source, key=by_source.__getitem__)
        if total and by_source[source] / total >= NEARLY_ALL:
            lone.append({"name": name, "share": by_source[source] / total, "source": source})
    return lone


def _side_name(side: Any, sources: list[str]) -> str:
    """The side of the split, with the source that is held out in it where each fold is a source."""
    if side is None or side == "test":
        return "test" if side else "not split"
    name = f" ({sources[int(side) - 1]})" if int(side) <= len(sources) else ""
    return f"fold {side}{name}"


def _counts(table: pd.DataFrame, lines: pd.Series, names: list[str], most: int) -> Counts:
    groups = {str(name): rows["value"].to_numpy(int).tolist() for name, rows in table.groupby(lines.to_numpy())}
    largest = sorted(groups, key=lambda name: -len(groups[name]))[:most]
    return Counts(
        names, [_line(shortened(n or "unknown", 30), groups[n], len(names)) for n in sorted(largest, key=natural)]
    )


def _line(name: str, numbers: list[int], classes: int) -> CountsLine:
    return counts_line(name, [numbers.count(k) for k in range(classes)])
