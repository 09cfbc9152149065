"""Reference values: their distribution on every side of the split, and the sources that classes come from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from casewise.audit import metadata
from casewise.audit.columns import columns_with_gaps, is_filled
from casewise.audit.metadata import RARE
from casewise.cohort.table import natural
from casewise.predictions.conformal import number_of_band, thirds
from casewise.report import blocks as doc
from casewise.report.context import ReportContext, terms_of
from casewise.report.figures import cohort as draw
from casewise.report.formatting import capital, counted, display_name, number, percent, plain, shortened
from casewise.report.sections.agreement import range_name

MOST_LABELS, MOST_SOURCES, MOST_SIDES = 12, 15, 60
SIDES = (
    "{outcome}: {noun}s by side of the split. Where their shares differ greatly between the sides, figures of one side"
    " say little about the other."
)
SOURCES = (
    "{noun}s by {column}. Whatever distinguishes one {column} from another also predicts a class that comes from one"
    " alone, whether or not it is the disease."
)
DISTRIBUTIONS = "Share of the values."
OF_SEVERAL_CLASSES = " A case with images of several classes is in each of them."
OF_SEVERAL_NUMBERS = " Of a case with several values, their mean counts."
GAPS = (
    "{noun}s in which a column is empty, of all with a reference value of {outcome}: columns without a value for at"
    " least {few} {unit}s and with one for as many, without outcomes that the study names for the audit. Shares may"
    " differ by chance. Where they truly do, what was recorded depends on the outcome, and a model that reads the"
    " column can use that."
)
OF_TEST = (
    " Blue: training; orange: test; dash: all together. Where blue and orange differ greatly, the test cases are not"
    " comparable to the training cases."
)
CORRECTIONS = {
    "none": "no correction in training",
    "weights": "weighted in training, so that all classes have the same total weight",
    "sampling": "drawn more often in training, so that all classes are drawn equally often",
    "within_sources": "weighted in training, so that the classes of a source weigh the same in it",
}


def section(context: ReportContext) -> doc.Section:
    """How each target is distributed, in training and test."""
    blocks: list[doc.Block] = _class_blocks(context) if context.classes else []
    tested = "test" in context.splits.get("subjects", {}).values()
    shown = doc.Plots(_distributions(context), DISTRIBUTIONS + OF_TEST * tested, layout="multiples")
    blocks.append(doc.Fold("Distributions of the targets that are numbers", [shown]))
    blocks.append(doc.Fold("Missing values by outcome", _missing_values(context)))
    return doc.Section("labels", "Reference classes" if context.classes else "Reference scores", blocks)


def _distributions(context: ReportContext) -> list[doc.Plot]:
    """The distribution of each target that is a number, the primary outcome first."""
    study, sides = context.study, context.splits.get("subjects", {})
    names = dict.fromkeys([context.outcome, *study.scores, *study.targets])
    plots: list[doc.Plot] = []
    for i, name in enumerate([name for name in names if not study.classes_of(name)][:MOST_LABELS]):
        table = _truths(context, name)
        if table is None or table.empty:
            continue
        table = table.assign(side=["test" if sides.get(s) == "test" else "train" for s in table["subject"].astype(str)])
        title, values = display_name(study, name), table["value"]
        drawing = draw.distribution(table, "value", scale=context.range_of(name), title=title, name=f"labels{i}")
        spread = f"median {number(values.median(), 1)}, {number(values.min(), 1)} to {number(values.max(), 1)}"
        plots.append(doc.Plot(drawing, f"Distribution of {title}: {counted(len(values), 'value')}, {spread}."))
    return plots


def _missing_values(context: ReportContext) -> list[doc.Table]:
    """How often each column with gaps is empty, by class or grade, or by third of a number."""
    study, images, truths = context.study, context.cohort_images, _truths(context, context.outcome)
    if truths is None or truths.empty:
        return []
    groups = cases_by_outcome(truths, context.classes)
    if len(groups) < 2:
        return []
    targets = [name for name in study.targets if name != context.outcome and name in images]
    rows = []
    for name in [*targets, *columns_with_gaps(study, images)]:
        filled = pd.Series(is_filled(images[name]), index=images["case"].astype(str)).groupby(level=0).any()
        gaps = [~filled.reindex(cases).fillna(False).astype(bool) for cases in groups.values()]
        if any(missing.any() for missing in gaps):
            cells = [f"{missing.sum():,} of {len(missing):,} ({percent(missing.mean())})" for missing in gaps]
            rows.append(doc.Row(shortened(plain(name.removeprefix("table_")), 30), cells))
    caption = GAPS.format(
        noun=capital(terms_of(context).case), outcome=terms_of(context).heading, few=RARE, unit=study.unit
    )
    if truths.groupby("case")["value"].nunique().max() > 1:
        caption += OF_SEVERAL_CLASSES if context.classes else OF_SEVERAL_NUMBERS
    return [doc.Table(["Column", *groups], rows, caption, wide=True)]


def cases_by_outcome(truths: pd.DataFrame, classes: Sequence[str]) -> dict[str, pd.Index]:
    """The cases of each class, or of each third of a number; of two thirds with the same values, the higher ones.

    A case of several classes is in each of them; of several numbers of a case, the mean counts.

    Args:
        truths: reference values with their `case` and `value`.
        classes: the names of the values 0, 1, …; empty if they are numbers.

    >>> truths = pd.DataFrame({"case": ["a", "a", "b"], "value": [0, 1, 1]})
    >>> {name: list(cases) for name, cases in cases_by_outcome(truths, ["well", "ill"]).items()}
    {'well': ['a'], 'ill': ['a', 'b']}
    >>> {name: list(cases) for name, cases in cases_by_outcome(truths, []).items()}
    {'below 1.0': ['a'], '1.0 or more': ['b']}
    """
    truths = truths.assign(case=truths["case"].astype(str), value=truths["value"].astype(float))
    if classes:
        values = truths.drop_duplicates(["case", "value"]).set_index("case")["value"]
        return {plain(name): own for i, name in enumerate(classes) if len(own := values.index[values == i])}
    values = truths.groupby("case", sort=False)["value"].mean()
    bounds = thirds(values.to_numpy(float))
    if max(bounds) <= values.min():  # most are the lowest value
        bounds = sorted(set(values))[1:2]
    group = number_of_band(values.to_numpy(float), bounds)
    names = [range_name(*pair) for pair in pairwise([None, *(number(bound, 1) for bound in bounds), None])]
    return {name: own for i, name in enumerate(names) if len(own := values.index[group == i])}


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


# ---------------------------------------------------------------------------------------------------------- classes


def _class_blocks(context: ReportContext) -> list[doc.Block]:
    """The primary outcome's classes by side of the split and by source; empty without a reference value."""
    table, terms, column = _reference_classes(context), terms_of(context), _source_column(context)
    if table.empty:
        return []
    caption = SIDES.format(outcome=terms.heading, noun=terms.noun)
    inner: list[doc.Block] = [doc.Matrix(_by_side(context, table), caption, "side", same=False, tight=True)]
    facts = doc.Facts([("Rare classes", CORRECTIONS[context.study.recipe.balance])])
    if column is None:
        return [facts, doc.Fold("Counts by side of the split", inner)]
    name = plain(column)
    caption = SOURCES.format(noun=capital(terms.noun), column=name)
    inner.append(doc.Matrix(_by_source(context, table, column), caption, name, same=False, tight=True))
    return [facts, doc.Fold(f"Counts by side of the split and by {name}", inner)]


def _by_side(context: ReportContext, table: pd.DataFrame) -> doc.Counts:
    """The classes by side of the split, with the source that is held out in it where each fold is one, and of all."""
    names: dict[object, str] = {"test": "test", "train": "training", "validation": "validation", None: "not split"}
    names |= {n: f"fold {n} ({name})" for n, name in enumerate(context.splits.get("left_out") or [], start=1)}
    sides = [context.splits.get("subjects", {}).get(subject) for subject in table["subject"].astype(str)]
    return _counts(context, table, [names.get(side, f"fold {side}") for side in sides], MOST_SIDES, total=True)


def _by_source(context: ReportContext, table: pd.DataFrame, column: str) -> doc.Counts:
    """The classes by source; the smallest of many sources share a line."""
    return _counts(context, table, table[column].astype(str).tolist(), MOST_SOURCES)


def _reference_classes(context: ReportContext) -> pd.DataFrame:
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


def _source_column(context: ReportContext) -> str | None:
    """The column with the source of an image: the one left out fold by fold, else the audit's."""
    images = context.cohort_images
    varying = [str(column) for column in images if images[column].nunique() > 1]
    left_out = context.study.split.leave_out
    return left_out if left_out in varying else metadata.source_column(varying)


def _counts(
    context: ReportContext, table: pd.DataFrame, lines: list[str], most: int, *, total: bool = False
) -> doc.Counts:
    """The classes of each line; lines beyond `most`, the smallest ones, are counted together; `total`: all lines."""
    counts = pd.crosstab(np.array(lines), table["value"].to_numpy(int)).reindex(
        columns=range(len(context.classes)), fill_value=0
    )
    largest = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
    rows = [doc.counts_line(shortened(n or "unknown", 30), counts.loc[n]) for n in sorted(largest[:most], key=natural)]
    if others := len(largest) - most if len(largest) > most else 0:
        rows.append(doc.counts_line(f"{others} others", counts.loc[largest[most:]].sum()))
    if total:
        rows.append(doc.counts_line("all", counts.sum()))
    return doc.Counts([plain(name) for name in context.classes], rows)
