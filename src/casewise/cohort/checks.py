"""Checks on the columns of a cohort table: names, files, days. Each adds its problems and goes on."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.natural_sort import PLAIN_NUMBER, natural
from casewise.cohort.table import Problems, each, names_text, rows_text
from casewise.errors import nearest
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("path", "subject", "visit", "day", "date", "region")
STORED = ("image", "path", "subject", "visit", "case", "day", "region", "panel", "tiles")
_OTHER_NAMES = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "photo"),
    "subject": ("patient", "patient_id", "patientid", "subject_id", "subjectid", "participant", "participant_id", "id"),
    "region": ("body_region", "site", "location", "area", "zone", "anatomy"),
}
_NO_VALUE = {"na", "n/a", "#n/a", "nan", "none", "null", "nil", "?", "-", "unknown", "missing"}


def alike(text: str) -> str:
    """What is left of a name without case and spaces: names with the same rest are taken for one by a reader.

    >>> alike("s 01") == alike("S01 ")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")


def closest(name: str, options: list[str]) -> str:
    """A hint at the option most like `name`, looking through case.

    >>> closest("PATH", ["path", "day"])
    " Did you mean 'path'?"
    """
    plain = alike(name)
    for option in options:
        if option != name and alike(option) == plain:
            return f" Did you mean {option!r}?"
    return nearest(name, options)


def number(text: str) -> float | None:
    """Read a plain decimal number; 'nan', 'inf' and anything else is None.

    >>> number("3.5"), number("nan"), number("1,5")
    (3.5, None, None)
    """
    return float(text) if PLAIN_NUMBER.fullmatch(text) else None


def find_columns(study: Study, headers: list[str], problems: Problems) -> dict[str, str]:
    """The table's column for each standard name that it has; a name mapped to '' is left unused."""
    known = [*ROLES, *study.targets]
    for name, header in study.columns.items():
        if name not in known:
            problems.add("columns", f"columns: there is no standard name {name!r}.{closest(name, known)}")
        elif header and header not in headers:
            problems.add(
                "columns", f"columns: {name} is to be {header!r}, which is no column.{closest(header, headers)}"
            )
        elif name in study.targets and study.targets[name].column is not None:
            problems.add("columns", f"columns: the column of {name} is given in targets as well. Say it once.")
    for name in STORED:
        if name in study.targets:
            problems.add("columns", f"targets: {name!r} is a name of casewise's own. Choose another.")
    if study.columns.get("day") and study.columns.get("date"):
        problems.add("columns", "columns: both day and date are given. Keep the one that is right.")
    found = {role: study.columns.get(role, role) for role in ROLES if study.columns.get(role, role) in headers}
    if "day" in found and "date" in found:
        del found["date" if study.columns.get("day") or not study.columns.get("date") else "day"]
    if not study.regions:
        # A column of that name is about something else: targets and scores of this study stand in no region.
        found.pop("region", None)
    needed = ["path", "subject", *(["region"] if study.regions else [])]
    for role in needed:
        if role not in found and not study.columns.get(role):
            hint = next((h for h in headers if h.casefold() in _OTHER_NAMES[role]), "")
            likely = f" Did you mean {hint!r}?" if hint else closest(role, headers)
            stated = problems.setting(f"columns: {{{role}: {hint or 'NAME'}}}")
            remedy = f"Add it, or say {stated} in the study."
            text = f"column {role}: is missing.{likely} {remedy} There are: {names_text(headers, 12)}."
            problems.add("columns", text)
    if study.split.column and study.split.column not in headers:
        problems.add(
            "columns", f"split.column: {study.split.column!r} is no column.{closest(study.split.column, headers)}"
        )
    elif study.split.column in STORED and study.split.column not in found.values():
        problems.add("columns", f"split.column: {study.split.column!r} is a name of casewise's own. Rename the column.")
    return found


def keep_rows(cells: pd.DataFrame, study: Study, problems: Problems, notes: list[str]) -> pd.DataFrame:
    """The rows that `where` keeps and `where_not` does not drop; cells are compared as text, without spaces around."""
    import pandas as pd

    kept = pd.Series(True, index=cells.index)
    for place, conditions in (("where", study.where), ("where_not", study.where_not)):
        for column, wanted in conditions.items():
            paths = column == study.columns.get("path", "path")
            root = (study.root or study.cohort.parent).absolute() if paths else None
            found = _holding(cells, place, column, wanted, problems, root)
            if found is not None:
                kept &= found if place == "where" else ~found
    if not problems.found and not kept.any():
        problems.add("where", f"where: none of the {len(cells):,} rows has all of it. Ask for less.")
    if not kept.all():
        named = " and ".join(name for name in ("where", "where_not") if getattr(study, name))
        notes.append(f"{(~kept).sum():,} of {len(cells):,} rows were left out by `{named}`.")
    return cells[kept]


def _holding(
    cells: pd.DataFrame, place: str, column: str, wanted: str | list[str], problems: Problems, root: Path | None
) -> pd.Series | None:
    """Which rows hold one of the values wanted in a column; a column or value that is not there is a problem.

    With `root` the column holds paths from there: a file is the same however its path is written.
    """
    if column not in cells:
        problems.add("where", f"{place}: {column!r} is no column.{closest(column, cells.columns.tolist())}")
        return None
    values = cells[column].str.strip()
    options = [wanted] if isinstance(wanted, str) else list(wanted)
    if root is not None:
        whole = {text: os.path.abspath(os.path.join(root, text.replace("\\", "/"))) for text in values if text}
        asked = {os.path.abspath(os.path.join(root, option.strip())) for option in options if option.strip()}
        options = list(dict.fromkeys([*(text for text, path in whole.items() if path in asked), *options]))
        there = set(whole.values())
        options = [o for o in options if o in whole or os.path.abspath(os.path.join(root, o.strip())) not in there]
    for option in options:
        if not (values == option.strip()).any():
            present = sorted(values.unique().tolist(), key=natural)
            listed = names_text([repr(value) for value in present], 6)
            text = f"{place}: no row has {column} {option!r}.{closest(option, present)} There are: {listed}."
            problems.add("where", text)
    return values.isin([option.strip() for option in options])


def read_names(raw: pd.Series, what: str, problems: Problems, notes: list[str]) -> pd.Series:
    """Names with the spaces around them taken off; empty ones and stand-ins for no value are problems."""
    text = raw.str.strip()
    fill = {"subject": "who is on the image", "visit": "the visit", "region": "the region shown"}[what]
    for row, value in each(text[(text == "") | text.str.casefold().isin(_NO_VALUE)]):
        found = "is empty" if not value else f"{value!r} stands for no value"
        hint = " Where subjects are not known, give each image a name of its own and say `subjects_known: false`."
        unused = problems.setting('columns: {visit: ""}')
        if what == "visit":
            hint = f" To leave the column unused, so that every subject is one case, say {unused} in the study."
        problems.add(
            f"{what} empty",
            f"row {row}, {what}: {found}. Fill in {fill}, or leave the row out with `where_not`."
            + (hint if what == "visit" or (what == "subject" and value) else ""),
            row=row,
        )
    trimmed = int((raw != text).sum())
    if trimmed:
        notes.append(f"Spaces around {what} were taken off in {trimmed:,} rows.")
    return text


def check_alike(raw: pd.Series, what: str, problems: Problems, *, within: pd.Series | None = None) -> None:
    """Names that differ in case or spaces only are a problem, looked for within each group of `within`."""
    import pandas as pd

    groups = pd.Series("", index=raw.index) if within is None else within
    pairs = pd.DataFrame({"group": groups, "name": raw})
    unique = pairs.drop_duplicates()
    unique = unique.assign(key=unique["name"].map({name: alike(name) for name in unique["name"].unique()}))
    unique = unique[unique.duplicated(["group", "key"], keep=False) & (unique["key"] != "")]
    for (group, _), same in unique.groupby(["group", "key"], sort=False):
        rows = [pairs.index[(pairs["group"] == group) & (pairs["name"] == name)].tolist() for name in same["name"]]
        named = " and ".join(f"{n!r} ({rows_text(r, 3)})" for n, r in zip(same["name"], rows, strict=True))
        of = f" of subject {group}" if within is not None else ""
        text = f"{what}{of}: {named} look alike. Write one and the same name, or names that differ in more."
        problems.add(f"{what} alike", text, row=min(rows[0]))


def check_files(raw: pd.Series, study: Study, problems: Problems, notes: list[str]) -> tuple[pd.Series, pd.Series]:
    """Absolute paths, and what tells one file from another however it is written ('' = no such file)."""
    import pandas as pd

    folder = (study.root or study.cohort.parent).absolute()
    paths: dict[int, str] = {}
    marks: dict[int, str] = {}
    mended = 0
    reachable = folder.is_dir()
    if not reachable:
        key = f"{problems.section}.root" if problems.section else "root"
        problems.add("root", f"{key}: there is no folder {folder}.")
    for row, text in each(raw):
        paths[row], marks[row] = os.path.abspath(os.path.join(folder, text)), ""
        if not text.strip():
            problems.add(
                "path empty", f"row {row}, path: is empty. Fill in the image file, or delete the row.", row=row
            )
            continue
        if not reachable:
            continue
        found, why = _stat(paths[row])
        for other in () if found else (text.strip(), text.replace("\\", "/").strip()):
            if other != text and (found := _stat(path := os.path.abspath(os.path.join(folder, other)))[0]):
                paths[row], mended = path, mended + 1
                break
        if not found:
            hint = _file_hint(folder, text, study, problems) if problems.wants_detail("path missing") else ""
            what = f"there is no file {text} in {folder}" if why is None else f"{text} cannot be reached ({why})"
            problems.add("path missing", f"row {row}, path: {what}.{hint}", row=row)
        elif study.folders_allowed and stat.S_ISDIR(found.st_mode):
            marks[row] = f"{found.st_dev}:{found.st_ino}"  # a DICOM series
        elif not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
            problems.add("path kind", f"row {row}, path: {text} is {kind}. Name one image file a row.", row=row)
        else:
            # Links and './' lead to one inode.
            marks[row] = f"{found.st_dev}:{found.st_ino}"
    if mended:
        notes.append(f"In {mended:,} paths, spaces at the ends were taken off or \\ was read as /.")
    return pd.Series(paths, dtype="str"), pd.Series(marks, dtype="str")


def _stat(path: str) -> tuple[os.stat_result | None, str | None]:
    try:
        return os.stat(path), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except (OSError, ValueError) as error:
        return None, getattr(error, "strerror", None) or str(error)


def _file_hint(folder: Path, text: str, study: Study, problems: Problems) -> str:
    wanted = folder / text
    try:
        if wanted.parent.is_dir() and (hint := closest(wanted.name, os.listdir(wanted.parent)[:5_000])):
            return hint
        inside = [folder / name for name in sorted(os.listdir(folder))[:50]]
        for start in (*inside, *list(folder.parents)[:3]):
            if (start / text).is_file():
                return f" It is there from {start}: say {problems.setting(f'root: {start}')} in the study."
    except (OSError, ValueError):
        return ""
    key = f"{problems.section}.root" if problems.section else "root"
    return "" if study.root else f" Paths start at the table's folder; `{key}` in the study sets another."


def check_same(cells: pd.DataFrame, parts: pd.DataFrame, marks: pd.Series, problems: Problems) -> None:
    """Doubled rows, and one file that stands twice: in a case, at two visits, or under two subjects."""
    doubled = cells.duplicated(keep=False)
    if doubled.any():
        for _, same in cells[doubled].groupby(cells.columns.tolist(), sort=False):
            rows = same.index.tolist()
            text = f"{rows_text(rows)}: are the same in every column. Delete all but one."
            problems.add("row doubled", text, row=rows[0])
    once = parts[~cells.duplicated(keep="first") & (marks != "")]
    keys = marks[once.index]
    again = keys.duplicated(keep=False)
    for _, same in once[again].groupby(keys[again], sort=False):
        where = rows_text(same.index)
        file = " = ".join(dict.fromkeys(same["path"].map(str).tolist()))
        subjects, visits = list(dict.fromkeys(same["subject"])), list(dict.fromkeys(same["visit"]))
        if len(subjects) > 1:
            text = f"the same file stands under subjects {names_text(subjects)}: {file}. One image shows one subject."
        elif len(visits) > 1:
            text = f"the same file stands at visits {names_text(visits)} of subject {subjects[0]}: {file}."
        else:
            text = f"the same file stands twice in case {subjects[0]}/{visits[0]}: {file}. Delete all but one row."
        problems.add(f"file again {min(len(subjects), 2)}{min(len(visits), 2)}", f"{where}: {text}", row=same.index[0])


def read_days(raw: pd.Series, subjects: pd.Series, role: str, column: str, problems: Problems) -> pd.Series:
    """Days as numbers; dates become days since the subject's first. Empty ones are NaN."""
    import pandas as pd

    text = raw.str.strip()
    values: dict[str, float] = {"": float("nan")}
    for value in text.unique():
        parsed = number(value) if role == "day" else iso_day(value)
        # A number of 400 digits reads as infinite.
        if parsed is not None and abs(parsed) < 1e6:
            values[value] = float(parsed)
    allowed = "a number of days" if role == "day" else "a date such as 2020-01-31"
    for row, value in each(text[~text.isin(list(values))]):
        hint = " Write year-month-day." if role == "date" else ""
        unused = problems.setting(f'columns: {{{role}: ""}}')
        hint += f" To leave the column unused, say {unused} in the study."
        problems.add(f"{role} bad", f"row {row}, {column}: {value!r} is not {allowed}.{hint}", row=row)
    days = pd.to_numeric(text.map(values), errors="coerce").astype(float)
    return days if role == "day" else days - days.groupby(subjects).transform("min")


def iso_day(text: str) -> int | None:
    """The day count of an ISO date, with or without a time behind it, from 1850 to 2199."""
    if not re.fullmatch(r"(18[5-9]|19\d|2[01]\d)\d-\d\d-\d\d([T ][\d:.]+(Z|[+-][\d:]+)?)?", text, re.ASCII):
        return None
    try:
        return date.fromisoformat(text[:10]).toordinal()
    except ValueError:
        return None
