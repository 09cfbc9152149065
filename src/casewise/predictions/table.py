"""The long table of predictions, with one row for each case, region, target and network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, nearest
from casewise.targets import DEFAULT, kind_named, kind_names

if TYPE_CHECKING:
    from casewise.study.schema import Study


COLUMNS = (
    *("case", "subject", "visit", "day", "region", "image", "model", "stage"),
    *("outer_fold", "inner_fold", "target", "y_true", "y_pred", "kind"),
)
STAGES = ("oof", "test", "validation", "training", "external")
# Stages of cases on which no network was fitted, the first reported first; and those on which learners are compared
# and chosen: the folds, or the validation set of a hold-out design.
INTERNAL, CHOOSING = ("test", "oof", "validation"), ("oof", "validation")
# A distance from the training features above this is far: at most one in twenty held-out cases of the study exceed it.
FAR = 1.0
SAMPLE_KEY = ("case", "region", "image", "target")
KEY = ("model", "stage", "outer_fold", "inner_fold", *SAMPLE_KEY)

_TEXT = ("case", "subject", "visit", "region", "image", "model", "stage", "target", "kind")
_MAY_BE_EMPTY = ("visit", "region", "image")
_NUMBERS = ("day", "y_true", "y_pred", "distance")
_FOLDS = ("outer_fold", "inner_fold")
_PROBLEMS = {
    "no shares of one": "the probabilities p0, p1, … do not add up to 1",
    "y_true is no class": "'y_true' is not the number of a class",
    "y_pred is no class": "'y_pred' is not the number of a class",
}


def check(table: pd.DataFrame) -> pd.DataFrame:
    """Check the table and return it with the standard columns first and in their types.

    Columns: `case, subject, visit, region, image, model, stage, target` are text (`region` is '' at case level, `image`
    is '' unless a prediction belongs to one image); `day` is a float, days since the start, NaN if unknown;
    `outer_fold` and `inner_fold` are Int64, NA for a mean over the folds' networks; `y_true` is a float, NaN where not
    scored; `y_pred` is a float. `kind` is 'regression', 'classification' or 'ordinal'; for the latter two `y_true` and
    `y_pred` are numbers of classes, from 0 in the study's order, and the columns `p0`, `p1`, … hold the probability of
    each class, NaN beyond the target's last class. `distance`, which a table may lack, is a float, NaN where it is
    unknown. Further columns are kept. A table without `kind` is of numbers.

    Raises:
        CasewiseError: a column is missing or of the wrong kind; a value is missing, infinite or not allowed; two rows
            share one key; a case has two subjects, visits or days; two rows disagree about the same truth.
    """
    if "kind" not in table.columns:
        table = table.assign(kind=DEFAULT)
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent:
        hint = nearest(absent[0], [str(c) for c in table.columns if c not in COLUMNS])
        raise CasewiseError(f"The predictions lack the column(s) {', '.join(absent)}.{hint}")
    table = table[[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)]].reset_index(drop=True)
    for name in _TEXT:
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
        if name not in _MAY_BE_EMPTY:
            _refuse(table, table[name] == "", f"'{name}' is empty")
    for name in (name for name in (*_NUMBERS, *_FOLDS) if name in table):
        numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
        _refuse(table, numbers.isna() & table[name].notna(), f"'{name}' is not a number")
        _refuse(table, numbers.abs() == np.inf, f"'{name}' is infinite")
        if name in _FOLDS:
            _refuse(table, numbers.notna() & (numbers != numbers.round()), f"'{name}' is not a whole number")
        table[name] = numbers.astype("Int64") if name in _FOLDS else numbers
    _refuse(table, table["y_pred"].isna(), "'y_pred' is missing")
    for name, options in (("stage", STAGES), ("kind", kind_names())):
        for wrong in sorted(set(table[name]) - set(options)):
            _refuse(table, table[name] == wrong, f"'{name}' is '{wrong}', not one of {', '.join(options)}")
    _check_probabilities(table)
    _refuse(table, table.duplicated(list(KEY)), "this case, region, image, target, model, stage and fold occur twice")
    cases = table[["case", "subject", "visit", "day"]].drop_duplicates()
    for name in ("subject", "visit", "day"):
        several = cases[["case", name]].drop_duplicates().loc[lambda c: c["case"].duplicated(), "case"]
        if len(several):
            values = ", ".join(sorted(map(repr, cases.loc[cases["case"] == several.iloc[0], name].unique())))
            raise CasewiseError(f"Predictions: case '{several.iloc[0]}' has more than one {name}: {values}.")
    spread = table.groupby(list(SAMPLE_KEY), sort=False)["y_true"].agg(["min", "max"])
    # reference values in single precision may differ in their last digits
    conflicting = spread[(spread["max"] - spread["min"]) > 1e-5 * np.maximum(1.0, spread["max"].abs())]
    if len(conflicting):
        case, region, _, target = conflicting.index[0]
        where = f"{target}[{region}]" if region else target
        low, high = conflicting.iloc[0]
        raise CasewiseError(f"Predictions: the reference of {where} of case '{case}' is both {low:g} and {high:g}.")
    return table


def probability_columns(table: pd.DataFrame) -> list[str]:
    """The columns of class probabilities, `p0` first.

    >>> probability_columns(pd.DataFrame(columns=["case", "p1", "p0", "p10"]))
    ['p0', 'p1', 'p10']
    """
    return sorted((str(c) for c in table.columns if re.fullmatch(r"p\d+", str(c))), key=lambda name: int(name[1:]))


def _check_probabilities(table: pd.DataFrame) -> None:
    columns = probability_columns(table)
    for name, rows in table.groupby("kind", sort=False):
        kind = kind_named(str(name))
        if kind.form == "classes" and len(columns) < 2:
            raise CasewiseError(
                "Predictions of classes need the columns p0, p1 and so on, the probability of each class."
            )
        for code, bad in kind.check_probabilities(rows, rows[columns].to_numpy(dtype=float)):
            _refuse(table, pd.Series(bad, index=rows.index).reindex(table.index, fill_value=False), _PROBLEMS[code])


def mean_over_folds(test_rows: pd.DataFrame) -> pd.DataFrame:
    """The mean of the folds' networks for each learner, case, region, image and target; NaN if one gave no number.

    Takes rows of other stages than 'oof'; rows that are means already (no outer fold) are ignored. The result
    has no outer and no inner fold.

    Raises:
        CasewiseError: there is an out-of-fold row, or a network of a learner lacks some of its rows.
    """
    if (test_rows["stage"] == "oof").any():
        raise CasewiseError("Out-of-fold rows have one network each, so there is no mean over networks.")
    rows = test_rows[test_rows["outer_fold"].notna()]
    return _mean_over_networks(rows)


def final_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows to evaluate: one for each learner, stage, case, region, image and target.

    Out of fold this is the row of the network that was not trained on the subject; otherwise the mean over the folds'
    networks, which is the row without a fold if there is one.
    """
    is_final = table["inner_fold"].isna() & ((table["stage"] == "oof") | table["outer_fold"].isna())
    complete = is_final.groupby([table[name] for name in ("model", "stage", "target")], sort=False).transform("any")
    open_rows, rows = table[~is_final & ~complete], table[is_final].reset_index(drop=True)
    if len(open_rows):
        rows = pd.concat([rows, _mean_over_networks(open_rows)], ignore_index=True)
    doubled = rows.duplicated(["model", "stage", *SAMPLE_KEY])
    if doubled.any():
        row = rows[doubled].iloc[0]
        raise CasewiseError(
            f"Predictions: case '{row['case']}' has several rows of {row['model']} for {row['target']} "
            f"at stage '{row['stage']}'; a case is predicted once, in its own fold."
        )
    return rows


def _mean_over_networks(rows: pd.DataFrame) -> pd.DataFrame:
    group = ["model", "stage", *SAMPLE_KEY]
    grouped = rows.groupby(group, sort=False)
    networks = grouped["y_pred"].transform("size")
    expected = networks.groupby([rows["model"], rows["stage"]]).transform("max")
    short = rows[networks < expected]
    if len(short):
        row = short.iloc[0]
        raise CasewiseError(
            f"Predictions: {row['model']} has {expected[short.index[0]]} networks at stage '{row['stage']}', "
            f"but only {networks[short.index[0]]} of them predicted {row['target']} of case '{row['case']}'."
        )
    means = rows.drop_duplicates(group).copy()
    columns = ["y_pred", *probability_columns(rows)]
    complete = grouped[columns].count().eq(grouped.size(), axis=0)
    means[columns] = grouped[columns].mean().where(complete).to_numpy()
    if "distance" in rows:
        means["distance"] = grouped["distance"].mean().to_numpy()
    means = with_decisions(means)
    for name in _FOLDS:
        means[name] = pd.array([pd.NA] * len(means), dtype="Int64")
    return means.reset_index(drop=True)


def with_decisions(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `y_pred` decided from the values of each target's kind."""
    columns = probability_columns(rows)
    rows = rows.reset_index(drop=True)
    for (name, _), group in rows.groupby(["kind", "target"], sort=False):
        kind, present = kind_named(str(name)), [column for column in columns if group[column].notna().any()]
        values = group[kind.columns(len(present or columns))].to_numpy(dtype=float)
        rows.loc[group.index, "y_pred"] = kind.decide(values)
    return rows


def _refuse(table: pd.DataFrame, bad: pd.Series, defect: str) -> None:
    """Raise an error that names the first bad row and the number of bad rows."""
    bad = bad.fillna(False).astype(bool)
    if not bad.any():
        return
    number = int(np.flatnonzero(bad.to_numpy())[0])
    row = table.iloc[number]
    more = f" ({int(bad.sum())} rows in all)" if int(bad.sum()) > 1 else ""
    where = f"case '{row['case']}', target '{row['target']}', model '{row['model']}'"
    raise CasewiseError(f"Predictions, row {number} ({where}): {defect}{more}.")


def with_mean_distances(rows: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of a combined learner with the mean distance over the networks in `predictions`, where these have one."""
    if "distance" not in predictions or rows.empty:
        return rows
    key = ["stage", *SAMPLE_KEY]
    means = final_rows(predictions).groupby(key, sort=False)["distance"].mean()
    return rows.assign(distance=means.reindex(pd.MultiIndex.from_frame(rows[key])).to_numpy())


POSITION = ("path", "tile_x", "tile_y", "tile_side")


def gather_tiles(study: Study, tables: list[pd.DataFrame], images: pd.DataFrame) -> pd.DataFrame:
    """The predictions of single tiles: out of fold by the network not trained on the subject, else the mean.

    Columns: image (number), path, tile_x, tile_y, tile_side (−1 for whole images), case, subject, model, stage,
    outer_fold, target, and y_pred and p0, p1, … or, with attention, weight (the tile's share in its case, target '').

    Args:
        tables: one for each network with several panels for each case, with its `model` and `outer_fold` (from 1).
        images: the cohort's images, one row each.
    """
    table = pd.concat(tables, ignore_index=True)
    table["outer_fold"] = table["outer_fold"].astype("Int64")
    oof = table["stage"] == "oof"
    table = pd.concat([table[oof], _mean(study, table[~oof])], ignore_index=True)
    images = images.set_index("image")
    for name in (*POSITION, "subject"):
        table[name] = table["image"].map(images[name]) if name in images else -1
    first = ["image", *POSITION, "case", "subject", "model", "stage", "outer_fold", "target"]
    return table[[*first, *(c for c in table if c not in first)]]


def _mean(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The mean over the folds' networks, with the classes decided from the mean."""
    if table.empty:
        return table
    keys = ["model", "stage", "target", "image", "case"]
    numbers = [name for name in ("y_pred", "weight", *probability_columns(table)) if name in table]
    means = table.groupby(keys, sort=False, as_index=False)[numbers].mean()
    for name in study.outputs:
        rows = means["target"] == name
        if rows.any():
            kind = kind_named(study.kind_of(name))
            columns = kind.columns(len(study.classes_of(name)))
            means.loc[rows, "y_pred"] = kind.decide(means.loc[rows, columns].to_numpy(float))
    return means.astype(dict.fromkeys(numbers, np.float32)).assign(outer_fold=pd.array([pd.NA] * len(means), "Int64"))
