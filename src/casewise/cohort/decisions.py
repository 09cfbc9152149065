"""What was decided about single images: a table with a path, a decision and its reason, which a study names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CohortError, StudyError, cut, nearest
from casewise.files import csv_text, write_atomic
from casewise.names import one_form
from casewise.study.yaml_text import mapping

LEAVE_OUT, KEEP = "leave out", "keep"
COLUMNS = ("path", "decision", "reason")


def read_decisions(file: Path) -> pd.DataFrame:
    """The decisions, with the columns `COLUMNS` as text.

    Raises:
        CohortError: the table cannot be read, lacks a column, has another decision than `leave out` and `keep`, or two
            about one image.
    """
    if not file.exists():
        names = [each.name for each in file.parent.iterdir()] if file.parent.is_dir() else []
        raise CohortError(f"audit.decisions: there is no table {file}.{nearest(file.name, names)}")
    problems = Problems()
    table, _ = read_text_table(file, problems)
    problems.raise_any(file)
    if lacking := [name for name in COLUMNS if name not in table]:
        raise CohortError(f"{file}: column {lacking[0]}: is missing. Decisions have the columns {', '.join(COLUMNS)}.")
    table = table[list(COLUMNS)].apply(lambda column: column.str.strip())
    for row, decision in table["decision"].items():
        if decision not in (LEAVE_OUT, KEEP):
            raise CohortError(
                f"{file}, row {row}, decision: must be {LEAVE_OUT!r} or {KEEP!r}, found {cut(decision)}. Correct it."
            )
    twice = table[table["path"].duplicated(keep=False)]
    if not twice.empty:
        raise CohortError(
            f"{file}, rows {', '.join(map(str, twice.index[:4]))}: one image, decided twice. Keep one row."
        )
    return table


def left_out(file: Path) -> list[str]:
    """The paths of the images that are left out."""
    table = read_decisions(file)
    return table.loc[table["decision"] == LEAVE_OUT, "path"].tolist()


def add_decisions(file: Path, reasons: Mapping[str, str], root: Path) -> tuple[int, list[str]]:
    """Leave out images, by their paths with the reason of each; decisions that the file has stay as they are.

    Args:
        root: the folder from which relative paths lead; a file is the same however its path is written.

    Returns:
        How many images were added, and those that the file says to keep.
    """
    table = read_decisions(file) if file.exists() else pd.DataFrame(columns=list(COLUMNS), dtype=str)
    decided = {absolute(path, root): decision for path, decision in zip(table["path"], table["decision"], strict=True)}
    new = {path: reason for path, reason in reasons.items() if absolute(path, root) not in decided}
    rows = pd.DataFrame([(path, LEAVE_OUT, reason) for path, reason in new.items()], columns=list(COLUMNS))
    if new:
        write_atomic(file, csv_text(pd.concat([table, rows], ignore_index=True)))
    return len(new), [path for path in reasons if decided.get(absolute(path, root)) == KEEP]


def absolute(path: str, root: Path) -> str:
    """One form of the path of a file, absolute or from `root`, with either separator."""
    return one_form(os.path.abspath(os.path.join(root, one_form(path).strip().replace("\\", "/"))))


def name_in_study(study_file: Path, decisions: Path) -> bool:
    """Let a study file name its decisions: in its section `audit`, or in a line at its end.

    Returns:
        Whether it could: not where the file names other decisions, or is written so that nothing can be added.
    """
    text, entry = study_file.read_bytes().decode("utf-8"), f"decisions: {decisions.name}"
    line = "\r\n" if "\r\n" in text else "\n"
    section = re.search(r"^audit:[ \t]*(\{[ \t]*|(?:#[^\r\n]*)?\r?\n(?:[ \t]*\r?\n)*([ \t]+))", text, re.MULTILINE)
    if section is None:
        longer = f"{text.rstrip()}{line}audit: {{{entry}}}{line}"
    else:
        rest = text[section.end() :]
        separator = f"{line}{section[2]}" if section[2] else ", " * (not rest.startswith("}"))
        longer = f"{text[: section.end()]}{entry}{separator}{rest}"
    try:
        before, after = (mapping(each, str(study_file)) for each in (text, longer))
    except StudyError:
        return False
    stated = before.get("audit") or {}
    if not isinstance(stated, dict):
        return False
    if "decisions" in stated or after != {**before, "audit": {**stated, "decisions": decisions.name}}:
        return False
    write_atomic(study_file.resolve(), longer)
    return True
