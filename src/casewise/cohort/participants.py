"""Participants: every step that leaves rows out, with its reason, and the characteristics of those who remain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.checks import STORED
from casewise.cohort.clinical_words import PEOPLE, unaccented
from casewise.cohort.groups import NOT_RECORDED, grouping, is_quantity, numbers_in, recorded, table_column
from casewise.study.schema import Study


class Flow:
    """The steps from the rows of the table to the cohort, collected where rows are left out.

    A step has a `code`, the numbers of `rows` and `subjects` that it leaves out (a subject counts if none of its rows
    remains), and those that are `left`. The first step, `read`, leaves nothing out.

    >>> import pandas as pd
    >>> flow = Flow(pd.Series(["A", "A", "B"], index=[2, 3, 4]))
    >>> flow.leave_out("where", pd.Series([True, False, False], index=[2, 3, 4]), column="view")
    >>> flow.steps[-1]
    {'code': 'where', 'column': 'view', 'rows': 2, 'subjects': 1, 'left': {'rows': 1, 'subjects': 1}}
    """

    def __init__(self, subjects: pd.Series) -> None:
        self._subjects = subjects
        self.steps: list[dict[str, Any]] = [{"code": "read", "rows": 0, "subjects": 0, "left": self._left()}]

    @classmethod
    def of(cls, cells: pd.DataFrame, study: Study) -> Flow:
        """The flow of a table that was just read."""
        column = study.columns.get("subject", "subject")
        return cls(cells[column].str.strip() if column in cells else pd.Series("", index=cells.index))

    def leave_out(self, code: str, kept: pd.Series, **reason: object) -> None:
        """Add a step; `kept` marks the rows that remain, by row number, and may still contain rows left out before."""
        self._subjects = self._subjects[kept.reindex(self._subjects.index, fill_value=False)]
        before, left = self.steps[-1]["left"], self._left()
        lost = {name: before[name] - left[name] for name in ("rows", "subjects")}
        if lost["rows"]:
            self.steps.append({"code": code, **reason, **lost, "left": left})

    def _left(self) -> dict[str, int]:
        return {"rows": len(self._subjects), "subjects": int(self._subjects[self._subjects != ""].nunique())}


def cases_step(code: str, before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, object]]:
    """A step that leaves out whole cases, from the tables of cases before and after it; none if nothing changed."""
    lost = before[~before["case"].isin(after["case"])]
    if lost.empty:
        return []
    left = {"cases": len(after), "subjects": int(after["subject"].nunique())}
    subjects = int(before["subject"].nunique()) - left["subjects"]
    return [{"code": code, "cases": len(lost), "subjects": subjects, "left": left}]


# By `plain_name`: columns that name what took the images, and all that describe participants or where and how images
# were taken.
DEVICES = ("device", "manufacturer", "camera", "scanner", "gerat", "geraet", "hersteller", "kamera")
COMMON = (
    *PEOPLE,
    *("country", "land", "site", "centre", "center", "hospital", "institution", "clinic", "source", "dataset"),
    *("standort", "zentrum", "klinik", "krankenhaus", "quelle", "datensatz"),
    *DEVICES,
)
SUBJECT, CASE = "subject", "case"


def described_columns(study: Study, images: pd.DataFrame) -> dict[str, str]:
    """The columns of the table to describe, with their names in the cohort's images.

    Columns of subgroups come first, then columns that the study names for the audit, then common ones.
    """
    audited = [column for column in study.audit.columns or [] if table_column(study, images, column) not in STORED]
    named = {
        column: stored
        for column in dict.fromkeys([*filter(None, [study.evaluation.arm]), *study.evaluation.subgroup_cuts, *audited])
        if (stored := table_column(study, images, column))
    }
    others = [str(column) for column in images if column not in STORED and column not in study.targets]
    common = {column: column for column in others if plain_name(column) in COMMON and column not in named.values()}
    return named | common


def plain_name(column: str) -> str:
    """The name of a column without case, accents, spaces and a prefix.

    >>> plain_name("Patient Sex"), plain_name("skin_tone"), plain_name("Âge")
    ('sex', 'skintone', 'age')
    """
    plain = re.sub(r"[\W\d_]", "", unaccented(column.removeprefix("table_")))
    return re.sub("^(patient|subject)", "", plain)


def characteristics(
    study: Study, images: pd.DataFrame, columns: Mapping[str, str], sides: Mapping[str, pd.Series]
) -> list[dict[str, Any]]:
    """One entry for each described column and target, with its values on each side.

    Args:
        images: the cohort's images, with the external cohort's if there is one.
        columns: name -> column of `images`, as of `described_columns`.
        sides: name -> which images are on this side, (N,) booleans.

    Returns:
        `name`, `what` (`column` or `target`), `unit` (a level; each unit counts once) and `kind`. Of
        `numbers`, each side has `n`, `missing`, `mean`, `sd`, `median`, and the quartiles `low` and `high`; of
        `categories`, `missing` and `counts` by `levels`. A column is described by subject unless a subject has several
        values, then by case.
    """
    entries = []
    for name, column in columns.items():
        text = recorded(images[column])
        several = text[text != ""].groupby(images["subject"]).nunique()
        unit = SUBJECT if (several <= 1).all() else CASE
        values = numbers_in(text)
        entry: dict[str, object] = {"name": name, "what": "column", "unit": unit}
        if values is not None and (study.evaluation.subgroup_cuts.get(name) or is_quantity(values, images["subject"])):
            entries.append(entry | _numbers(values.groupby(images[unit]).transform("mean"), images[unit], sides))
        else:
            groups = grouping(text, images[unit], images["subject"], name)
            levels = [{"name": g.name, "code": g.code} for g in groups.groups if g.code != NOT_RECORDED]
            entries.append(entry | _categories(images[unit].map(groups.of_units), levels, images[unit], sides))
    for name in study.targets:
        level = study.level_of(name)
        units = units_of(images, level)
        entry = {"name": name, "what": "target", "unit": level}
        classes = study.classes_of(name)
        if classes:
            levels = [{"name": label, "code": "value"} for label in classes]
            entries.append(entry | _categories(images[name].fillna(len(classes)), levels, units, sides))
        else:
            entries.append(entry | _numbers(images[name], units, sides))
    return entries


def units_of(rows: pd.DataFrame, level: str) -> pd.Series:
    """The unit of a level that each row belongs to: the rows have `case`, `subject`, `region` and `path`.

    >>> import pandas as pd
    >>> units_of(pd.DataFrame({"case": ["A/1"], "subject": ["A"], "region": ["trunk"]}), "region").tolist()
    ['A/1 trunk']
    """
    if level == "region":
        return rows["case"].astype(str) + " " + rows["region"].astype(str)
    return rows["path" if level == "image" else level].astype(str)


def _numbers(values: pd.Series, units: pd.Series, sides: Mapping[str, pd.Series]) -> dict[str, object]:
    described: dict[str, dict[str, object]] = {}
    for side, rows in sides.items():
        of_side = values[rows][~units[rows].duplicated()]
        present = of_side.dropna().to_numpy(dtype=float)
        described[side] = {"n": len(present), "missing": int(of_side.isna().sum())}
        if len(present):
            low, median, high = np.quantile(present, [0.25, 0.5, 0.75])
            spread = float(present.std(ddof=1)) if len(present) > 1 else None
            described[side] |= {"mean": float(present.mean()), "median": float(median)}
            described[side] |= {} if spread is None else {"sd": spread}
            described[side] |= {"low": float(low), "high": float(high)}
    return {"kind": "numbers", "sides": described}


def _categories(
    numbers: pd.Series, levels: Sequence[Mapping[str, str]], units: pd.Series, sides: Mapping[str, pd.Series]
) -> dict[str, object]:
    """`numbers` are positions in `levels`; others are missing."""
    described = {}
    for side, rows in sides.items():
        of_side = numbers[rows][~units[rows].duplicated()].astype(int)
        counts = [int((of_side == number).sum()) for number in range(len(levels))]
        described[side] = {"counts": counts, "missing": len(of_side) - sum(counts)}
    return {"kind": "categories", "levels": list(levels), "sides": described}
