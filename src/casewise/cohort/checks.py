"""Checks of the columns of a cohort table: names, files, days. Each check collects its problems."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.dates import natural, read_dates
from casewise.cohort.identity import Declared, alike, groups_alike, groups_of_one
from casewise.cohort.table import Problems, each, names_text, rows_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import counted, cut, nearest, nearest_folder, shortened
from casewise.files import PLAIN_NUMBER
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.participants import Flow

ROLES = ("path", "subject", "visit", "day", "date", "region")
STORED = ("image", "path", "subject", "visit", "case", "day", "region", "panel", "tiles")
_OTHER_NAMES = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "photo"),
    "subject": ("patient", "patient_id", "patientid", "subject_id", "subjectid", "participant", "participant_id", "id"),
    "region": ("body_region", "site", "location", "area", "zone", "anatomy"),
}
# characters of a path in a message, and components of an absolute path that are looked up
_PATH, _PIECES = 200, 20


def closest(name: str, options: list[str]) -> str:
    """A hint at the option most similar to `name`, whatever its case.

    >>> closest("PATH", ["path", "day"])
    " Did you mean 'path'?"
    """
    plain = alike(name)
    for option in options:
        if option != name and alike(option) == plain:
            return f" Did you mean {cut(option)}?"
    return nearest(name, options)


def number(text: str) -> float | None:
    """Read a plain decimal number; 'nan', 'inf' and anything else is None.

    >>> number("3.5"), number("nan"), number("1,5")
    (3.5, None, None)
    """
    return float(text) if PLAIN_NUMBER.fullmatch(text) else None


def find_columns(study: Study, headers: list[str], problems: Problems) -> dict[str, str]:
    """The column of each standard name that the table has; a name mapped to '' is left unused."""
    names = [*ROLES, *study.targets]
    files = study.columns.get("path", "path")
    for name, header in study.columns.items():
        if name not in names:
            problems.add("columns", f"columns: there is no standard name {cut(name)}.{closest(name, names)}")
        elif header and header not in headers:
            problems.add(
                "columns",
                f"columns: {name} is {cut(header)}, which is not a column of the table."
                f"{closest(header, [other for other in headers if name == 'path' or other != files])}",
            )
        elif name in study.targets and study.targets[name].column is not None:
            problems.add("columns", f"columns: the column of {name} is stated in targets as well. State it once.")
    for name in STORED:
        if name in study.targets:
            problems.add("columns", f"targets: {cut(name)} is a reserved name. Choose another.")
    if study.columns.get("day") and study.columns.get("date"):
        problems.add("columns", "columns: both day and date are given. Keep the correct one.")
    columns = {role: study.columns.get(role, role) for role in ROLES if study.columns.get(role, role) in headers}
    if "day" in columns and "date" in columns:
        del columns["date" if study.columns.get("day") or not study.columns.get("date") else "day"]
    if study.subjects_known and "path" in columns and columns.get("subject") == columns["path"]:
        text = f"columns: subject and path are both {cut(columns['path'])}, so that every image would be a "
        text += "person. Name the column that identifies people; if they are not known, write `subjects_known: false`."
        problems.add("columns", text)
    if not study.regions:
        # the study has no regions, so a column of this name has another meaning
        columns.pop("region", None)
    needed = ["path", "subject", *(["region"] if study.regions else [])]
    for role in needed:
        if role not in columns and not study.columns.get(role):
            hint = next((h for h in headers if h.casefold() in _OTHER_NAMES[role]), "")
            likely = f" Did you mean {cut(hint)}?" if hint else closest(role, headers)
            stated = problems.setting(f"columns: {{{role}: {hint or 'NAME'}}}")
            remedy = f"Add it, or write {stated} in the study."
            text = f"column {role}: is missing.{likely} {remedy} There are: {names_text(headers, 12)}."
            problems.add("columns", text)
    if study.split.column and study.split.column not in headers:
        problems.add(
            "columns", f"split.column: {cut(study.split.column)} is not a column.{closest(study.split.column, headers)}"
        )
    elif study.split.column in STORED and study.split.column not in columns.values():
        problems.add("columns", f"split.column: {cut(study.split.column)} is a reserved name. Rename the column.")
    return columns


def keep_rows(cells: pd.DataFrame, study: Study, problems: Problems, notes: list[str], flow: Flow) -> pd.DataFrame:
    """The rows that `where` keeps and `where_not` does not drop; cells are compared as text without outer spaces."""
    import pandas as pd

    selected = pd.Series(True, index=cells.index)
    for key, conditions in (("where", study.where), ("where_not", study.where_not)):
        for column, values in conditions.items():
            paths = column == study.columns.get("path", "path")
            root = (study.root or study.cohort.parent).absolute() if paths else None
            matches = _matching(cells, key, column, values, problems, root)
            if matches is not None:
                selected &= matches if key == "where" else ~matches
                flow.leave_out(key, selected, column=column, values=[values] if isinstance(values, str) else values)
    if not problems.by_kind and not selected.any():
        problems.add("where", f"where: none of the {len(cells):,} rows meets all conditions. Remove some of them.")
    if not selected.all():
        named = " and ".join(name for name in ("where", "where_not") if getattr(study, name))
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
    values = cells[column].str.strip()
    options = [accepted] if isinstance(accepted, str) else list(accepted)
    if root is not None:
        whole = {text: os.path.abspath(os.path.join(root, text.replace("\\", "/"))) for text in values if text}
        named = {os.path.abspath(os.path.join(root, option.strip())) for option in options if option.strip()}
        options = list(dict.fromkeys([*(text for text, path in whole.items() if path in named), *options]))
        listed = set(whole.values())
        options = [o for o in options if o in whole or os.path.abspath(os.path.join(root, o.strip())) not in listed]
    for option in options:
        if not (values == option.strip()).any():
            present = sorted(values.unique().tolist(), key=natural)
            values_text = names_text([repr(value) for value in present], 6)
            text = f"{key}: no row has {column} {cut(option)}.{closest(option, present)} There are: {values_text}."
            problems.add("where", text)
    return values.isin([option.strip() for option in options])


def read_names(raw: pd.Series, field: str, problems: Problems, notes: list[str]) -> pd.Series:
    """Names without outer spaces; empty names and words for a missing value are problems."""
    text = raw.str.strip()
    fill = {"subject": "who is on the image", "visit": "the visit", "region": "the region shown"}[field]
    for row, value in each(text[(text == "") | text.str.casefold().isin(NO_VALUE)]):
        defect = "is empty" if not value else f"{cut(value)} means no value"
        hint = " Where subjects are not known, give each image a separate name and say `subjects_known: false`."
        unused = problems.setting('columns: {visit: ""}')
        if field == "visit":
            hint = f" To leave the column unused, so that every subject is one case, write {unused} in the study."
        problems.add(
            f"{field} empty",
            f"row {row}, {field}: {defect}. Fill in {fill}, or leave the row out with `where_not`."
            + (hint if field == "visit" or (field == "subject" and value) else ""),
            row=row,
        )
    trimmed = int((raw != text).sum())
    if trimmed:
        notes.append(f"Spaces around {field} were removed in {counted(trimmed, 'row')}.")
    return text


def check_alike(
    raw: pd.Series, field: str, problems: Problems, *, within: pd.Series | None = None, people: Declared | None = None
) -> None:
    """Names that differ only in case or spaces are a problem; `within` restricts the comparison to its groups.

    With `people`, what the study states on its subjects' names, they are compared by `casewise.cohort.identity`.
    """
    import pandas as pd

    groups = pd.Series("", index=raw.index) if within is None else within
    pairs = pd.DataFrame({"group": groups, "name": raw})
    for group, names in pairs.drop_duplicates().groupby("group", sort=False)["name"]:
        for same in groups_of_one(names, people) if people is not None else groups_alike(names):
            rows = [pairs.index[(pairs["group"] == group) & (pairs["name"] == name)].tolist() for name in same]
            named = " and ".join(f"{cut(n)} ({rows_text(r, 3)})" for n, r in zip(same, rows, strict=True))
            of = f" of subject {group}" if within is not None else ""
            text = (
                f"{field}{of}: {named} look alike. Write the same name in all rows, or names that differ more clearly."
            )
            if people is not None:
                listed = ", ".join(f'"{name.strip()}"' for name in same)
                text += f" If they are different people, state `subject_names: [[{listed}]]` in the study"
                # names that differ only in case or spaces are alike also as they are written
                differ = len({alike(name) for name in same}) == len(same)
                text += "; `subject_names: as_written` states it of all such names." if differ else "."
            problems.add(f"{field} alike", text, row=min(rows[0]))


def check_files(raw: pd.Series, study: Study, problems: Problems, notes: list[str]) -> tuple[pd.Series, pd.Series]:
    """Absolute paths, and an identity of each file that does not depend on its path ('' if there is no such file)."""
    import pandas as pd

    folder = (study.root or study.cohort.parent).absolute()
    paths: dict[int, str] = {}
    marks: dict[int, str] = {}
    corrected = 0
    moved: dict[int, tuple[str, ...]] = {}
    reachable = os.path.isdir(folder)
    if not reachable:
        key = f"{problems.section}.root" if problems.section else "root"
        problems.add("root", f"{key}: there is no folder {shortened(str(folder), _PATH)}.{nearest_folder(folder)}")
    for row, text in each(raw):
        paths[row], marks[row] = os.path.abspath(os.path.join(folder, text)), ""
        if not text.strip():
            problems.add(
                "path empty", f"row {row}, path: is empty. Fill in the image file, or delete the row.", row=row
            )
            continue
        if not reachable:
            continue
        status, why = _stat(paths[row])
        if not status and is_absolute(text) and study.root and (relocated := _ending_in(folder, text)):
            paths[row], moved[row] = relocated
            status = _stat(paths[row])[0]
        for other in () if status else (text.strip(), text.replace("\\", "/").strip()):
            if other != text and (status := _stat(path := os.path.abspath(os.path.join(folder, other)))[0]):
                paths[row], corrected = path, corrected + 1
                break
        if not status:
            hint = _file_hint(folder, text, study, problems) if problems.wants_detail("path missing") else ""
            shown = shortened(text, _PATH)
            defect = f"{shown} cannot be reached ({why})" if why else f"there is no file {shown} in {folder}"
            if is_absolute(text) and not why:
                end = f", nor one with the end of this path in {folder}" if study.root else ""
                defect = f"there is no file {shown}{end}"
            problems.add("path missing", f"row {row}, path: {defect}.{hint}", row=row)
        elif study.folders_allowed and stat.S_ISDIR(status.st_mode):
            marks[row] = f"{status.st_dev}:{status.st_ino}"  # a DICOM series
        elif not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            problems.add(
                "path kind",
                f"row {row}, path: {shortened(text, _PATH)} is {kind}. Name one image file in each row.",
                row=row,
            )
        else:
            # links and './' lead to the same inode
            marks[row] = f"{status.st_dev}:{status.st_ino}"
    if moved:
        _check_beginnings(raw, paths, moved, problems)
        first = next(iter(moved))
        notes.append(
            f"{counted(len(moved), 'absolute path does', 'absolute paths do')} not exist here, and the end was "
            f"looked up in {folder}: {shortened(raw[first])} is read as {shortened(paths[first], 200)}."
        )
    if corrected:
        notes.append(f"In {counted(corrected, 'path')}, spaces at the ends were removed or \\ was read as /.")
    return pd.Series(paths, dtype="str"), pd.Series(marks, dtype="str")


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


def _ending_in(folder: Path, text: str) -> tuple[str, tuple[str, ...]] | None:
    """The file below `folder` whose path is the longest end of an absolute path, and the folders before this end."""
    pieces = tuple(piece for piece in re.split(r"[\\/]+", text.strip()) if piece not in ("", ".", ".."))
    starts = range(max(0, len(pieces) - _PIECES), len(pieces))
    ends = ((os.path.join(folder, *pieces[start:]), pieces[:start]) for start in starts)
    return next(((path, before) for path, before in ends if _stat(path)[0]), None)


def _check_beginnings(
    raw: pd.Series, paths: dict[int, str], moved: dict[int, tuple[str, ...]], problems: Problems
) -> None:
    """Refuse paths whose own folder is not here while that of other paths beside it is: the file is another one.

    With `/data/a/1.jpg` as `a/1.jpg`, `/data/b/1.jpg` is not `1.jpg`.
    """
    beginnings = set(moved.values())
    for row, before in moved.items():
        if any(before[:count] in beginnings for count in range(len(before))):
            problems.add(
                "path elsewhere",
                f"row {row}, path: {shortened(raw[row], _PATH)} has its end in {shortened(paths[row], _PATH)}, but its "
                f"folder {cut(before[-1])} is not there, while folders of other rows beside it are. Copy this folder "
                "too, or write the path from `root`.",
                row=row,
            )


def _file_hint(folder: Path, text: str, study: Study, problems: Problems) -> str:
    key = f"{problems.section}.root" if problems.section else "root"
    if is_absolute(text):
        example = problems.setting("root: FOLDER")
        return (
            f" If it is a path of another computer, state where the images are here, {example}: the end of each path "
            "is then looked up in that folder."
        )
    missing_path = folder / text
    try:
        if missing_path.parent.is_dir() and (
            hint := closest(missing_path.name, os.listdir(missing_path.parent)[:5_000])
        ):
            return hint
        inside = [folder / name for name in sorted(os.listdir(folder))[:50]]
        for start in (*inside, *list(folder.parents)[:3]):
            if (start / text).is_file():
                return f" It is there from {start}: say {problems.setting(f'root: {start}')} in the study."
    except (OSError, ValueError):
        return ""
    return "" if study.root else f" Paths start at the table's folder; `{key}` in the study sets another."


def check_same(cells: pd.DataFrame, images: pd.DataFrame, marks: pd.Series, problems: Problems) -> None:
    """Duplicate rows, and files that occur twice: in a case, at two visits, or under two subjects."""
    doubled = cells.duplicated(keep=False)
    if doubled.any():
        for _, same in cells[doubled].groupby(cells.columns.tolist(), sort=False):
            rows = same.index.tolist()
            text = f"{rows_text(rows)}: are identical in every column. Delete all but one."
            problems.add("row doubled", text, row=rows[0])
    unique_files = images[~cells.duplicated(keep="first") & (marks != "")]
    keys = marks[unique_files.index]
    repeated = keys.duplicated(keep=False)
    for _, same in unique_files[repeated].groupby(keys[repeated], sort=False):
        where = rows_text(same.index)
        file = " = ".join(dict.fromkeys(same["path"].map(str).tolist()))
        subjects, visits = list(dict.fromkeys(same["subject"])), list(dict.fromkeys(same["visit"]))
        if len(subjects) > 1:
            text = f"the same file is under subjects {names_text(subjects)}: {file}. One image shows one subject."
        elif len(visits) > 1:
            text = f"the same file is at visits {names_text(visits)} of subject {subjects[0]}: {file}."
        else:
            text = f"the same file is twice in case {subjects[0]}/{visits[0]}: {file}. Delete all but one row."
        problems.add(f"file again {min(len(subjects), 2)}{min(len(visits), 2)}", f"{where}: {text}", row=same.index[0])


def read_days(raw: pd.Series, subjects: pd.Series, role: str, column: str, problems: Problems) -> pd.Series:
    """Days as numbers; dates become days since the first date of the subject. Empty cells are NaN."""
    import pandas as pd

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
        problems.add(f"{role} bad", f"row {row}, {column}: {cut(value)} is not {allowed}.{hint}", row=row)
    days = pd.to_numeric(text.map(values), errors="coerce").astype(float)
    return days if role == "day" else days - days.groupby(subjects).transform("min")
