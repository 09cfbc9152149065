"""Checks of the columns of a cohort table: names, files, days. Each check collects its problems."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.altered_names import alterations
from casewise.cohort.decisions import absolute, left_out
from casewise.cohort.identity import AS_WRITTEN, Declared, alike, groups_of_one, look_equal
from casewise.cohort.table import Problems, each, names_text, natural, read_dates, rows_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import CasewiseError, counted, cut, nearest, nearest_folder, shortened
from casewise.files import PLAIN_NUMBER
from casewise.names import FileNames, as_codes, one_form
from casewise.study.schema import Study
from casewise.study.yaml_text import mapping

if TYPE_CHECKING:
    from casewise.cohort.participants import Flow

ROLES = ("path", "subject", "visit", "day", "date", "region")
STORED = ("image", "path", "subject", "visit", "case", "day", "region", "panel", "tiles")
_OTHER_NAMES = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "photo"),
    "subject": ("patient", "patient_id", "patientid", "subject_id", "subjectid", "participant", "participant_id", "id"),
    "region": ("body_region", "site", "location", "area", "zone", "anatomy"),
}
# The column of a table that `casewise init` wrote, which says whether the row has an image.
FOUND = "image_found"
# A column of a table of new cases that was joined to its images: which image a row names that was not found.
LACKS = "casewise: image lacking"
# characters of a path in a message
_PATH = 200

# What makes a table with paths of one without.
WITHOUT_PATHS = (
    " If the paths of the images state who is on them and when, `casewise init --table TABLE --images FOLDER` (with a "
    "preset: `casewise init PRESET`) writes a table that names them; `casewise predict MODEL FOLDER` reads the folder "
    "without a table."
)


def closest(name: str, options: list[str]) -> str:
    """A hint at the option most similar to `name`, whatever its case.

    >>> closest("PATH", ["path", "day"])
    " Did you mean 'path'?"
    """
    if equal := next((option for option in options if option != name and look_equal([option, name])), None):
        return f" Did you mean {cut(equal)} = {equal!a}, not {name!a}?"
    same = next((option for option in options if option != name and alike(option) == alike(name)), None)
    return nearest(name, options) if same is None else f" Did you mean {cut(same)}?"


def add_unknown_column(key: str, column: str, headers: list[str], problems: Problems) -> None:
    """Add that the setting `key` names a column that the table does not have."""
    there = names_text(headers, 12)
    problems.add("columns", f"{key}: {cut(column)} is not a column.{closest(column, headers)} There are: {there}.")


def number(text: str) -> float | None:
    """Read a plain decimal number; 'nan', 'inf', what is too large for a number and anything else is None.

    >>> number("3.5"), number("1e999"), number("1,5")
    (3.5, None, None)
    """
    return float(text) if PLAIN_NUMBER.fullmatch(text) and isfinite(float(text)) else None


def find_columns(study: Study, headers: list[str], problems: Problems) -> dict[str, str]:
    """The column of each standard name that the table has; a name mapped to '' is left unused."""
    names, stated = [*ROLES, *study.targets], study.columns
    files = stated.get("path", "path")

    def add(text: str) -> None:
        problems.add("columns", text)

    for name, header in stated.items():
        if name not in names:
            add(f"columns: there is no standard name {cut(name)}.{closest(name, names)}")
        elif header and header not in headers:
            hint = closest(header, [other for other in headers if name == "path" or other != files])
            likely = "" if hint else _likely(name, headers)
            hint = hint or (f" Did you mean {cut(likely)}?" if likely else f" There are: {names_text(headers, 12)}.")
            add(f"columns: {name} is {cut(header)}, which is not a column of the table.{hint}")
        elif name in study.targets and study.targets[name].column is not None:
            add(f"columns: the column of {name} is stated in targets as well. State it once.")
    for name in (name for name in STORED if name in study.targets):
        add(f"targets: {cut(name)} is a reserved name. Choose another.")
    if stated.get("day") and stated.get("date"):
        add("columns: both day and date are given. Keep the correct one.")
    columns = {role: stated.get(role, role) for role in ROLES if stated.get(role, role) in headers}
    if "day" in columns and "date" in columns:
        del columns["date" if stated.get("day") or not stated.get("date") else "day"]
    if study.subjects_known and "path" in columns and columns.get("subject") == columns["path"]:
        add(
            f"columns: subject and path are both {cut(columns['path'])}, so that every image would be a person. Name "
            "the column that identifies people; if they are not known, write `subjects_known: false`."
        )
    if not study.regions:
        # the study has no regions, so a column of this name has another meaning
        columns.pop("region", None)
    for role in ("path", "subject", *(["region"] if study.regions else [])):
        if role not in columns and not stated.get(role):
            likely = _likely(role, headers)
            words = {header: re.split(r"[\W_]+", header.casefold()) for header in headers}
            near = likely or next((header for header in headers if role in words[header]), "")
            near = near or next(iter(difflib.get_close_matches(role, headers, 1, 0.75)), "")
            hint = f" Did you mean {cut(near)}?" if near else ""
            setting = problems.setting(f"columns: {{{role}: {likely or 'NAME'}}}")
            add(
                f"column {role}: is missing.{hint} Add it, or write {setting} in the study. There are: "
                f"{names_text(headers, 12)}." + WITHOUT_PATHS * (role == "path" and not near)
            )
    column = study.split.column
    if column and column not in headers:
        add_unknown_column("split.column", column, headers, problems)
    elif column in STORED and column not in columns.values():
        add(f"split.column: {cut(column)} is a reserved name. Rename the column.")
    return columns


def _likely(role: str, headers: Sequence[str]) -> str:
    """The heading that is the role itself or another usual name of it; empty if there is none."""
    return next((header for header in headers if header.casefold() in (role, *_OTHER_NAMES.get(role, ()))), "")


def columns_from_training(
    stated: Mapping[str, str], training: Mapping[str, str], headers: Collection[str]
) -> dict[str, str]:
    """The stated columns, and the training's columns where the table has these and no column of the standard name.

    A heading in other letters, such as BEFUND for Befund, is the training's column if no other heading is that. A
    heading that is stated for another role is no visit or date as well.

    >>> columns_from_training({"visit": "Termin"}, {"path": "Bild", "visit": "Datum"}, ["BILD", "Datum"])
    {'visit': 'Termin', 'path': 'BILD'}
    """
    used = {*stated, *headers}
    used |= {"day", "date"} if used & {"day", "date"} else set()
    spelled = Counter(header.casefold() for header in headers)
    alone = {header.casefold(): header for header in headers if spelled[header.casefold()] == 1}
    heading_of = {role: name if name in headers else alone.get(name.casefold()) for role, name in training.items()}
    used |= {role for role in ("visit", "day", "date") if heading_of.get(role) in stated.values()}
    return {**stated, **{role: header for role, header in heading_of.items() if header and role not in used}}


def keep_rows(cells: pd.DataFrame, study: Study, problems: Problems, notes: list[str], flow: Flow) -> pd.DataFrame:
    """The rows that `where` keeps and `where_not` does not drop; cells are compared as text without outer spaces."""
    selected = pd.Series(True, index=cells.index)
    for key, conditions in (("where", study.where), ("where_not", study.where_not)):
        for column, values in conditions.items():
            paths = column == study.columns.get("path", "path")
            root = (study.root or study.cohort.parent).absolute() if paths else None
            matches = _matching(cells, key, column, values, problems, root)
            if matches is not None:
                selected &= matches if key == "where" else ~matches
                flow.leave_out(key, selected, column=column, values=[values] if isinstance(values, str) else values)
    column = study.columns.get("path", "path")
    file, decided = study.audit.decisions, False
    if file and (unwanted := left_out(file)):
        root = (study.root or study.cohort.parent).absolute()
        matches = _matching(cells, str(file), column, unwanted, problems, root)
        if matches is not None:
            selected, decided = selected & ~matches, True
            flow.leave_out("decisions", selected, column=file.name, values=[])
    if FOUND in cells and not any(FOUND in conditions for conditions in (study.where, study.where_not)):
        # a row of a table of `casewise init` that met no image
        lacks = cells[FOUND].str.strip().eq("no") & cells.get(study.columns.get("path", "path"), "").eq("")
        selected &= ~lacks
        flow.leave_out("where", selected, column=FOUND, values=["yes"])
        if lacks.any():
            notes.append(f"{counted(int(lacks.sum()), 'row')} without an image ({FOUND}: no) left out.")
    if not problems.by_kind and not selected.any():
        problems.add("where", f"where: none of the {len(cells):,} rows meets all conditions. Remove some of them.")
    if not selected.all():
        names = [name for name in ("where", "where_not") if getattr(study, name)]
        named = " and ".join([*names, *(["audit.decisions"] if decided else [])])
        verb = "was" if (~selected).sum() == 1 else "were"
        notes.append(f"{(~selected).sum():,} of {len(cells):,} rows {verb} left out by `{named}`.")
    return cells[selected]


def _matching(
    cells: pd.DataFrame, key: str, column: str, accepted: str | list[str], problems: Problems, root: Path | None
) -> pd.Series | None:
    """A mask of the rows with one of the accepted values in a column; a missing column or value is a problem.

    With `root` the column contains paths from there, and a file matches however its path is written.
    """
    if column not in cells:
        names = cells.columns.tolist()
        hint = closest(column, names) or f" The table has the columns {names_text(names, 12)}."
        problems.add("where", f"{key}: {cut(column)} is not a column.{hint}")
        return None

    def file_or_text(text: str) -> str:
        text = one_form(text).strip()
        return absolute(text, root) if root and text else text

    values = cells[column].str.strip()
    keys, options = values.map(file_or_text), [accepted] if isinstance(accepted, str) else accepted
    for option in options:
        if not (keys == file_or_text(option)).any():
            present = sorted(values.unique().tolist(), key=natural)
            listed = names_text([repr(value) for value in present], 6)
            hint = closest(option, present)
            problems.add("where", f"{key}: no row has {column} {cut(option)}.{hint} There are: {listed}.")
    return keys.isin([file_or_text(option) for option in options])


def read_names(
    raw: pd.Series, field: str, problems: Problems, notes: list[str], declared: Declared | None = None
) -> pd.Series:
    """Names without outer spaces; empty names, words for a missing value and rounded numbers are problems.

    So are dates that a spreadsheet made of names, unless `declared` is `as_written`. None: the names of regions, and of
    some rows of a table that was checked as a whole, are not looked at.
    """
    text = raw.str.strip()
    unused = problems.setting('columns: {visit: ""}')
    remedy = {
        "subject": "Fill in who is on the image, or leave the row out with `where_not`. Where subjects are not known, "
        "give each image a separate name and say `subjects_known: false`.",
        "visit": "Fill in the visit, or leave the row out with `where_not`. To leave the column unused, so that every "
        f"subject is one case, write {unused} in the study.",
        "region": "Fill in the region shown, or leave the row out with `where_not`.",
    }[field]
    for row, value in each(text[(text == "") | text.str.casefold().isin(NO_VALUE)]):
        defect = f"{cut(value)} means no value" if value else "is empty"
        problems.add(f"{field} empty", f"{defect}. {remedy}", [row], field)
    for alteration in alterations(text, field, declared) if declared is not None else ():
        if alteration.certain:
            problems.add(f"{field} altered", f"{alteration.text}.", alteration.rows, str(raw.name or field))
        else:
            notes.append(alteration.sentence(str(raw.name or field)))
    trimmed = int((raw != text).sum())
    if trimmed:
        notes.append(f"Spaces around {field} were removed in {counted(trimmed, 'row')}.")
    return text


def check_alike(
    raw: pd.Series, field: str, problems: Problems, *, within: pd.Series | None = None, people: Declared = AS_WRITTEN
) -> None:
    """Names that differ only in case or spaces are a problem; `within` restricts the comparison to its groups.

    `people` is what the study states on its subjects' names, which are then compared by `casewise.cohort.identity`.
    """
    groups = pd.Series("", index=raw.index) if within is None else within
    pairs = pd.DataFrame({"group": groups, "name": raw})
    for group, names in pairs.drop_duplicates().groupby("group", sort=False)["name"]:
        for same in groups_of_one(names, people):
            rows = [pairs.index[(pairs["group"] == group) & (pairs["name"] == name)].tolist() for name in same]
            codes = [f" = {name!a}" * (look_equal(same) and not name.isascii()) for name in same]
            parts = zip(same, codes, rows, strict=True)
            named = " and ".join(f"{cut(name)}{code} ({rows_text(numbers, 3)})" for name, code, numbers in parts)
            of = f" of subject {group}" if within is not None else ""
            text = (
                f"{field}{of}: {named} look alike. Write the same name in all rows, or names that differ more clearly."
            )
            stated = dict.fromkeys(name.strip() for name in same)
            if people != AS_WRITTEN and len(stated) > 1:
                listed = ", ".join(f'"{name}"' for name in stated)
                text += f" If they are different people, state `subject_names: [[{listed}]]` in the study"
                # names that differ only in case or spaces are alike also as they are written
                differ = len({alike(name) for name in same}) == len(same)
                text += "; `subject_names: as_written` states it of all such names." if differ else "."
            problems.by_kind.setdefault(f"{field} alike", []).append((min(rows[0]), text))


def check_files(raw: pd.Series, study: Study, problems: Problems, notes: list[str]) -> tuple[pd.Series, pd.Series]:
    """Absolute paths, and an identity of each file that does not depend on its path ('' if there is no such file)."""
    folder = (study.root or study.cohort.parent).absolute()
    reachable = os.path.isdir(folder)
    if not reachable:
        problems.add("root", f"{_root_key(problems)}: there is no folder {folder}.{nearest_folder(folder)}")
    paths: dict[int, str] = {}
    marks: dict[int, str] = {}
    names, corrected = FileNames(), 0
    for row, text in each(raw):
        paths[row], marks[row] = os.path.abspath(os.path.join(folder, text)), ""
        shown = shortened(text, _PATH)
        if not text.strip():
            problems.add("path empty", "is empty. Fill in the image file, or delete the row.", [row], "path")
            continue
        matches = names.below(folder, text) if reachable else []
        if len(matches) > 1:
            listed = as_codes(map(os.path.basename, matches))
            problems.add("path ambiguous", f"{shown} may be one of {listed}. Rename or remove one file.", [row], "path")
            continue
        if matches:
            corrected += one_form(matches[0]) != one_form(paths[row])
            paths[row] = matches[0]
        status, why = _stat(paths[row]) if reachable else (None, None)
        if status and (stat.S_ISREG(status.st_mode) or (study.folders_allowed and stat.S_ISDIR(status.st_mode))):
            # links and './' lead to the same inode
            marks[row] = f"{status.st_dev}:{status.st_ino}"
        elif status:
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            problems.add("path kind", f"{shown} is {kind}. Name one image file in each row.", [row], "path")
        elif reachable:
            hint = _file_hint(folder, text, study, problems) if problems.wants_detail("path missing") else ""
            within = "" if is_absolute(text) else f" in {folder}"
            defect = f"{shown} cannot be reached ({why})" if why else f"there is no file {shown}{within}"
            problems.add("path missing", f"{defect}.{hint}", [row], "path")
    if corrected:
        notes.append(
            f"In {counted(corrected, 'path')}, spaces at the ends were removed, \\ was read as /, or capitals differ "
            "from the file."
        )
    return pd.Series(paths, dtype="str"), pd.Series(marks, dtype="str")


def mask_files(raw: pd.Series, study: Study, field: str, problems: Problems) -> pd.Series:
    """A column of masks with the names as the disk spells them; cells without a file stay as they are."""
    folder, names = (study.root or study.cohort.parent).absolute(), FileNames()
    cells: dict[int, str] = {}
    for row, text in each(raw):
        matches = names.below(folder, text) if text.strip() else []
        if len(matches) > 1:
            text_of_both = as_codes(map(os.path.basename, matches))
            problems.add("mask ambiguous", f"may be one of {text_of_both}. Rename or remove one file.", [row], field)
        cells[row] = matches[0] if len(matches) == 1 and matches[0] != os.path.abspath(folder / text) else text
    return pd.Series(cells, dtype="str")


def _root_key(problems: Problems) -> str:
    return f"{problems.section}.root" if problems.section else "root"


def _stat(path: str) -> tuple[os.stat_result | None, str | None]:
    try:
        return os.stat(path), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except (OSError, ValueError) as error:
        return None, getattr(error, "strerror", None) or str(error)


def is_absolute(path: str) -> bool:
    """Whether a path is absolute on any system.

    >>> [is_absolute(path) for path in ("/data/a.jpg", "C:/data/a.jpg", "//server/a.jpg", "a/b.jpg")]
    [True, True, True, False]
    """
    return bool(re.match(r"[A-Za-z]:[\\/]|\\\\|/", path.strip()))


def _file_hint(folder: Path, text: str, study: Study, problems: Problems) -> str:
    if is_absolute(text):
        setting = problems.setting("root: FOLDER")
        return f" If it is a path of another computer, write {setting} in the study, and paths in the table from there."
    missing = folder / text
    try:
        hint = closest(missing.name, os.listdir(missing.parent)[:5_000]) if missing.parent.is_dir() else ""
    except (OSError, ValueError):
        hint = ""
    if hint or study.root:
        return hint
    if root := _root_beside(study.cohort):
        return f" The study beside this table has its images in {root}: write {problems.setting(f'root: {root}')}."
    return f" Paths start at the table's folder; `{_root_key(problems)}` in the study sets another."


def _root_beside(table: Path) -> str:
    """The folder of the images of a table by the study that `casewise init` wrote beside it; '' if there is none."""
    file = table.parent / "study.yaml"
    try:
        stated = mapping(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else {}
    except (CasewiseError, OSError, ValueError):
        return ""
    root = table.parent / str(stated.get("root", ""))
    return str(root.resolve()) if stated.get("cohort") == table.name and stated.get("root") and root.is_dir() else ""


def check_same(
    cells: pd.DataFrame, images: pd.DataFrame, marks: pd.Series, labels: Sequence[str], problems: Problems
) -> None:
    """Duplicate rows, and files that occur twice: in a case, at two visits, or under two subjects.

    Args:
        labels: the columns of the targets, whose different values for one file are named.
    """
    doubled = cells.duplicated(keep=False)
    if doubled.any():
        for _, same in cells[doubled].groupby(cells.columns.tolist(), sort=False):
            problems.add("row doubled", "are identical in every column. Delete all but one.", same.index)
    unique_files = images[~cells.duplicated(keep="first") & (marks != "")]
    keys = marks[unique_files.index]
    repeated = keys.duplicated(keep=False)
    for _, same in unique_files[repeated].groupby(keys[repeated], sort=False):
        file = " = ".join(dict.fromkeys(same["path"].map(str).tolist()))
        subjects, visits = list(dict.fromkeys(same["subject"])), list(dict.fromkeys(same["visit"]))
        if len(subjects) > 1:
            text = f"the same file is under subjects {names_text(subjects)}: {file}. One image shows one subject."
        elif len(visits) > 1:
            text = f"the same file is at visits {names_text(visits)} of subject {subjects[0]}: {file}."
        else:
            text = f"the same file is twice in case {subjects[0]}/{visits[0]}: {file}. Delete all but one row."
        for column in labels:
            values = dict.fromkeys(cells.loc[same.index, column].str.strip().tolist())
            if len(values) > 1:
                both = " and ".join(cut(value) if value else "none" for value in values)
                text += f" It is listed with both labels {both} ({column}): find out which is true."
        problems.add(f"file again {min(len(subjects), 2)}{min(len(visits), 2)}", text, same.index)


def read_days(raw: pd.Series, subjects: pd.Series, role: str, column: str, problems: Problems) -> pd.Series:
    """Days as numbers; dates become days since the first date of the subject. Empty cells are NaN."""
    text = raw.str.strip()
    written = text.unique().tolist()
    parsed = read_dates(written) if role == "date" else {value: number(value) for value in written}
    # a number of 400 digits reads as infinite
    values = {value: float(day) for value, day in parsed.items() if day is not None and abs(day) < 1e6}
    values[""] = float("nan")
    allowed = "a number of days" if role == "day" else "a date such as 2020-01-31"
    for row, value in each(text[~text.isin(list(values))]):
        hint = " Write year-month-day." if role == "date" else ""
        unused = problems.setting(f'columns: {{{role}: ""}}')
        hint += f" To leave the column unused, write {unused} in the study."
        problems.add(f"{role} bad", f"{cut(value)} is not {allowed}.{hint}", [row], column)
    days = pd.to_numeric(text.map(values), errors="coerce").astype(float)
    return days if role == "day" else days - days.groupby(subjects).transform("min")
