"""New cases in chunks of bounded size; a case that cannot be read has a reason and stops no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.console import Silent
from casewise.errors import CasewiseError, CohortError, ImageError

if TYPE_CHECKING:
    from casewise.inference.new_cases import NewCases, NewTable
    from casewise.study.schema import Study

# Rows of the table, such as images, that are prepared together; the rows of a subject are never divided.
ROWS = 64
LEFT_OUT = "The case was left out when it was read, because it lacks what the networks need."


@dataclass(frozen=True)
class RawCase:
    """A case as its rows of the table name it.

    Attributes:
        rows: the numbers of its rows.
        problem: why it cannot be read; empty if nothing is known against it.
    """

    name: str
    subject: str
    visit: str
    rows: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True)
class Settled:
    """Cases that were prepared together, and the reasons why others were not."""

    prepared: list[NewCases]
    problems: list[tuple[RawCase, str]]


@dataclass(frozen=True)
class PredictedChunk:
    """Predictions of some cases.

    Attributes:
        table: the rows of `TrainedModel.predict_in_chunks`.
        sources: by case the files of its images, or the folders of its scans, as the table names them.
        has_visits: whether the table names visits.
    """

    table: pd.DataFrame
    sources: Mapping[str, tuple[Path, ...]]
    has_visits: bool


def sources_of(cases: Sequence[RawCase], cells: pd.DataFrame, study: Study) -> dict[str, tuple[Path, ...]]:
    """By case the paths that its rows name, each once; they are not checked."""
    folder, column = (study.root or study.cohort.parent).absolute(), study.columns.get("path") or "path"
    if column not in cells:
        return {}
    rows = [row for case in cases for row in case.rows]
    texts = dict(zip(rows, cells.loc[rows, column].str.strip(), strict=True))
    sources: dict[str, tuple[Path, ...]] = {}
    for case in cases:
        named = [texts[row] for row in case.rows if texts[row]]
        paths = [os.path.join(folder, text) for text in named]
        paths = [path if os.path.exists(path) else path.replace("\\", "/") for path in paths]
        sources[case.name] = tuple(map(Path, dict.fromkeys(paths)))
    return sources


def names_visits(cells: pd.DataFrame, study: Study) -> bool:
    """Whether some row of a table names a visit."""
    column = study.columns.get("visit", "visit")
    return column in cells and bool((cells[column].str.strip() != "").any())


def ignores_visits(cells: pd.DataFrame, study: Study) -> bool:
    """Whether a table or folder has several visits of a subject, and the study no column of visits."""
    subject = study.columns.get("subject") or "subject"
    if study.columns.get("visit", "visit") or not {"visit", subject} <= set(cells):
        return False
    return bool((cells.groupby(subject)["visit"].nunique() > 1).any())


def cases_of(cells: pd.DataFrame, study: Study) -> list[RawCase]:
    """The cases of a table in the order of their first rows; a row without subject is a case of its own."""
    blank = pd.Series("", index=cells.index, dtype="str")
    subjects = cells[study.columns.get("subject") or "subject"].str.strip()
    column = study.columns.get("visit", "visit")
    visits = cells[column].str.strip() if column in cells else blank
    has_visits = bool((visits != "").any())
    visits = visits if has_visits else blank + "1"
    grouped: dict[tuple[str, str, int], list[int]] = {}
    for row, subject, visit in zip(cells.index.tolist(), subjects, visits, strict=True):
        grouped.setdefault((subject, visit, 0 if subject and visit else row), []).append(row)
    cases = []
    for (subject, visit, _), rows in grouped.items():
        problem = ""
        if not subject:
            problem = f"row {rows[0]}, subject: is empty. Fill in who is on the image."
        elif not visit:
            problem = f"row {rows[0]}, visit: is empty, and other rows have a visit. Fill it in."
        cases.append(RawCase(f"{subject}/{visit}" if subject else "", subject, visit, tuple(rows), problem))
    return cases


def in_chunks(cases: Sequence[RawCase], size: int = ROWS) -> Iterator[list[RawCase]]:
    """The cases in chunks of about `size` rows, all cases of a subject in one.

    >>> [len(chunk) for chunk in in_chunks([RawCase(n, n, "1", (1, 2)) for n in "abcab"], 8)]
    [4, 1]
    """
    by_subject: dict[tuple[str, int], list[RawCase]] = {}
    for number, case in enumerate(cases):
        by_subject.setdefault((case.subject, -1 if case.subject else number), []).append(case)
    chunk: list[RawCase] = []
    rows = 0
    for subject_cases in by_subject.values():
        more = sum(len(case.rows) for case in subject_cases)
        if chunk and rows + more > size:
            yield chunk
            chunk, rows = [], 0
        chunk += subject_cases
        rows += more
    if chunk:
        yield chunk


def settle(table: NewTable, cells: pd.DataFrame, cases: Sequence[RawCase], folder: Path) -> Settled:
    """Prepare the cases together in `folder`; where that fails, without those that fail alone."""
    problems = [(case, case.problem) for case in cases if case.problem]
    good = [case for case in cases if not case.problem]
    if not good:
        return Settled([], problems)
    try:
        return Settled([_prepared(table, cells, good, folder / "all")], problems)
    except (CohortError, ImageError) as error:
        if len(good) == 1:
            return Settled([], [*problems, (good[0], reason_of(error))])
    single, readable = folder / "single", []
    for case in good:
        try:
            _prepared(table, cells, [case], single)
            readable.append(case)
        except (CohortError, ImageError) as error:
            problems.append((case, reason_of(error)))
        shutil.rmtree(single, ignore_errors=True)
    if not readable:
        return Settled([], problems)
    try:
        return Settled([_prepared(table, cells, readable, folder / "readable")], problems)
    except (CohortError, ImageError):  # cases that can be read, but not together
        each = [_prepared(table, cells, [case], folder / f"case{n}") for n, case in enumerate(readable)]
        return Settled(each, problems)


def _prepared(table: NewTable, cells: pd.DataFrame, cases: Sequence[RawCase], folder: Path) -> NewCases:
    rows = {row for case in cases for row in case.rows}
    return table.prepared(folder, Silent(), cells[cells.index.isin(rows)])


def reason_of(error: CasewiseError) -> str:
    """The message of an error on one case as one line, without the count of cases in its first line."""
    first, *lines = str(error).split("\n")
    return " ".join(line.strip() for line in lines if line.strip()) or first
