"""A finished run's predictions for cases that it did not learn from, in the terms of the readers' values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.errors import CasewiseError, none_of
from casewise.files import checksum
from casewise.plugins.readers.form import Form, FormField
from casewise.plugins.readers.rating.sessions import Item, Shown
from casewise.predictions.table import CHOOSING
from casewise.report.formatting import digits_of, number

if TYPE_CHECKING:
    from casewise.analysis.run import Run

# Stages of cases on which no network was trained; of a case that is in both, the first counts.
HELD_OUT = ("test", "oof")


def source_of(run: Run, count: int = 0) -> str:
    """The source of a session that shows a run's predictions, or reads `count` doubtful cases of the run."""
    return f"{checksum(run.files.predictions.path)}{f' {count}' if count else ''}"


def held_out_rows(run: Run, *, to_compare: bool = False) -> pd.DataFrame:
    """The rows of `Run.predictions` of the reported learner for cases that no network was trained on.

    Args:
        to_compare: leave out the cases on which the learner was chosen among several.

    Raises:
        CasewiseError: the run has no such cases.
    """
    rows, main = run.predictions, run.results.main
    stages = [str(main.stage)] if to_compare and main.chosen_on in CHOOSING else HELD_OUT
    rows = rows[(rows["learner"] == main.learner) & rows["stage"].isin(stages)]
    if rows.empty:
        raise CasewiseError(f"{run.folder}: the run has no predictions of cases that it did not learn from.")
    order = rows["stage"].map(HELD_OUT.index)
    keys = ["case", "image", "target", "region"]
    return rows.loc[order.sort_values(kind="stable").index].drop_duplicates(keys).sort_index()


def model_values(run: Run, form: Form, *, to_compare: bool = False) -> pd.DataFrame:
    """The predictions in the terms of a form, one row for each case or image and field.

    Columns: case, image, subject, target, region, `value` (a number, or the code of a class or grade), `truth` (the
    recorded label, NaN without one), `prediction` (as text), low, high (of the prediction interval of a number), and
    `p0`, `p1`, … (of classes, in their order).

    Raises:
        CasewiseError: the run predicts none of the fields, or classes that the study does not have.
    """
    rows = held_out_rows(run, to_compare=to_compare)
    tables = []
    for field in form.fields:
        own = rows[(rows["target"] == field.target) & (rows["region"].fillna("") == field.region)]
        if own.empty:
            continue
        options = [option.value for option in field.options]
        if options and (other := sorted({str(v) for v in own["prediction"].dropna()} - set(options))):
            raise CasewiseError(f"{run.folder}: the run predicts {field.target} as {none_of(other[0], options)}")
        codes, truth = (own[name].map(lambda value: _code(value, field)) for name in ("prediction", "reference"))  # noqa: B023
        columns = {name: own[name] for name in ("case", "image", "subject", "target", "region")}
        digits = digits_of(field.low, field.high)
        texts = own["prediction"].map(lambda value: number(value, digits) if isinstance(value, float) else str(value))  # noqa: B023
        columns |= {"value": codes.astype(float), "truth": truth.astype(float), "prediction": texts}
        columns |= {name: own[name] if name in own else float("nan") for name in ("low", "high")}
        stated = [f"probability of {name}" for name in options]
        if set(stated) <= set(own.columns):
            columns |= {f"p{number}": own[name] for number, name in enumerate(stated)}
        tables.append(pd.DataFrame(columns).fillna({"region": "", "image": ""}))
    if not tables:
        names = ", ".join(dict.fromkeys(field.target for field in form.fields))
        raise CasewiseError(f"{run.folder}: the run predicts none of {names}.")
    return pd.concat(tables, ignore_index=True)


def shown_values(values: pd.DataFrame, form: Form, items: Mapping[str, Item]) -> dict[str, Shown]:
    """The model's values by the keys of the form, which an aided session shows with each predicted item."""
    fields = {(field.target, field.region): field for field in form.fields}
    of_item: dict[tuple[str, str], Shown] = {}
    for row in values.to_dict("records"):
        field = fields[row["target"], row["region"]]
        text = f"Model: {row['prediction']}"
        if row["low"] == row["low"]:
            low, high = (number(row[name], digits_of(field.low, field.high)) for name in ("low", "high"))
            text += f" ({low} to {high})"
        if (share := row.get(f"p{int(row['value'])}")) is not None and field.options and share == share:
            text += f" (probability {share:.2f})"
        of_item.setdefault((row["case"], row["image"]), {})[field.key] = [text]
    # of a run whose images are elsewhere, by their names, where these tell the images of a case apart
    by_name: dict[tuple[str, str], list[Shown]] = {}
    for (case, image), lines in of_item.items():
        by_name.setdefault((case, Path(image).name), []).append(lines)
    shown = {}
    for name, item in items.items():
        same_name = by_name.get((item.case, Path(item.image).name), [])
        if own := of_item.get((item.case, item.image)) or (same_name[0] if len(same_name) == 1 else None):
            shown[name] = own
    return shown


def _code(value: object, field: FormField) -> float:
    """A prediction or label as a number; NaN without one."""
    return float("nan") if value is None or value != value else field.code(str(value))
