"""The cases of a table of new cases, prepared and predicted in chunks, so that one that fails costs no other one."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.cohort.checks import LACKS
from casewise.cohort.table import names_text, natural
from casewise.cohort.visit_order import visit_order
from casewise.errors import CasewiseError, CohortError, ImageError
from casewise.inference.drift import Batch, Drift
from casewise.inference.new_cases import NewCases, NewTable, predicts_single_images
from casewise.inference.stated import UNSPECIFIC, days_problem, modality_problem, people_problem, stated_by, unspecific
from casewise.inference.visits import names_visits

if TYPE_CHECKING:
    from casewise.study.schema import Study

log = logging.getLogger("casewise")

# Rows of the table, such as images, that are prepared together; the rows of a subject are never divided.
ROWS = 64
LEFT_OUT = "The case was left out when it was read, because it lacks what the networks need."


@dataclass(frozen=True)
class RawCase:
    """A case as its rows of the table name it.

    Attributes:
        rows: the numbers of its rows.
        image: of a single image (see `cases_of`), its path.
        problem: why it cannot be read; empty if nothing is known against it.
    """

    name: str
    subject: str
    visit: str
    rows: tuple[int, ...]
    problem: str = ""
    image: str = ""


@dataclass(frozen=True, eq=False)
class CasePicture:
    """A picture of a case for people: the image, and the image under its saliency map, if there is one.

    Attributes:
        image: (H, W, 3) `uint8`.
        overlay: (H, W, 3) `uint8`, or None.
    """

    title: str
    image: NDArray[np.uint8]
    overlay: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PredictedChunk:
    """Predictions of some cases.

    Attributes:
        table: the rows of `TrainedModel.predict_in_chunks`.
        sources: by case the files of its images, or the folders of its scans, as the table names them.
        has_visits: whether the table names visits.
        batch: tables of the numbers of the images of these cases and of those before them (`casewise.inference.drift`).
        drift: the test of all cases together.
        pictures: by case what is shown beside its predictions; empty where no saliency maps were computed.
    """

    table: pd.DataFrame
    sources: Mapping[str, tuple[Path, ...]]
    has_visits: bool
    batch: Batch = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)
    pictures: Mapping[str, Sequence[CasePicture]] = field(default_factory=dict)


def sources_of(cases: Sequence[RawCase], cells: pd.DataFrame, study: Study) -> dict[str, tuple[Path, ...]]:
    """By case the paths that its rows name, each once; they are not checked."""
    folder, column = (study.root or study.cohort.parent).absolute(), study.columns.get("path") or "path"
    if column not in cells:
        return {}
    rows = [row for case in cases for row in case.rows]
    texts = dict(zip(rows, cells.loc[rows, column].str.strip(), strict=True))
    sources: dict[str, tuple[Path, ...]] = {}
    for case in cases:
        paths = [os.path.join(folder, texts[row]) for row in case.rows if texts[row]]
        paths = [path if os.path.exists(path) else path.replace("\\", "/") for path in paths]
        sources[case.name] = tuple(dict.fromkeys((*sources.get(case.name, ()), *map(Path, paths))))
    return sources


def cases_of(cells: pd.DataFrame, study: Study, *, single: bool = False) -> list[RawCase]:
    """The cases of a table, by subject and visit, however its rows are ordered; a row without subject is a case.

    Args:
        single: whether each image stands for itself, so that one that cannot be read costs no other one.
    """
    folder, path = (study.root or study.cohort.parent).absolute(), study.columns.get("path") or "path"
    subjects = cells[study.columns.get("subject") or "subject"].str.strip()
    column = study.columns.get("visit", "visit")
    has_visits = names_visits(cells, study)
    visits = cells[column].str.strip() if has_visits else pd.Series("1", index=cells.index, dtype="str")
    grouped: dict[tuple[str, str, int], list[int]] = {}
    units_of: dict[str, set[tuple[str, str]]] = {}
    files = [_mark(os.path.join(folder, text)) if text else "" for text in _texts(cells, path)]
    for row, subject, visit, file in zip(cells.index.tolist(), subjects, visits, files, strict=True):
        grouped.setdefault((subject, visit, 0 if subject and visit and not single else row), []).append(row)
        if file and subject and visit:
            units_of.setdefault(file, set()).add((subject, visit))
    file_of = dict(zip(cells.index.tolist(), files, strict=True))
    cases = []
    for (subject, visit, _), rows in grouped.items():
        problem = ""
        if not subject:
            problem = f"row {rows[0]}, subject: is empty. Fill in who is on the image."
        elif not visit:
            problem = f"row {rows[0]}, visit: is empty, and other rows have a visit. Fill it in."
        elif lacks := next(filter(None, cells.loc[rows, LACKS].str.strip()), "") if LACKS in cells else "":
            problem = lacks
        elif path in cells and not any(cells.loc[rows, path].str.strip()):
            problem = "no row of this case has an image."
        elif (shared := next((row for row in rows if len(units_of.get(file_of[row], ())) > 1), None)) is not None:
            # without the other case, whose name must not stand in an answer about this one
            file = cells.loc[shared, path].strip()
            problem = f"the same file is also in another case: {file}. One image shows one subject at one visit."
        image = os.path.join(folder, str(cells.loc[rows[0], path]).strip()) if single and path in cells else ""
        cases.append(RawCase(f"{subject}/{visit}" if subject else "", subject, visit, tuple(rows), problem, image))
    return sorted(cases, key=lambda case: (natural(case.subject), visit_order(case.visit)))


def _mark(path: str) -> str:
    """An identity of a file that does not depend on its path; empty if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # no path can have such a character
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def _texts(cells: pd.DataFrame, column: str) -> list[str]:
    return cells[column].str.strip().tolist() if column in cells else [""] * len(cells)


def in_chunks(cases: Sequence[RawCase], size: int = ROWS) -> Iterator[list[RawCase]]:
    """The cases in chunks of about `size` rows, all cases of a subject in one.

    >>> [len(chunk) for chunk in in_chunks([RawCase(n, n, "1", (1, 2)) for n in "abcab"], 8)]
    [4, 1]
    """
    by_subject: dict[str | int, list[RawCase]] = {}
    for number, case in enumerate(cases):
        by_subject.setdefault(case.subject or number, []).append(case)
    chunk: list[RawCase] = []
    for subject_cases in by_subject.values():
        if chunk and sum(len(case.rows) for case in (*chunk, *subject_cases)) > size:
            yield chunk
            chunk = []
        chunk = [*chunk, *subject_cases]
    if chunk:
        yield chunk


def prepare_together(
    table: NewTable, cells: pd.DataFrame, cases: Sequence[RawCase], folder: Path
) -> tuple[list[NewCases], list[tuple[RawCase, str]]]:
    """Prepare cases in `folder` together; if that fails, without the cases that fail by themselves.

    Returns:
        the prepared cases, and the others with the reason.
    """

    def prepared(cases: Sequence[RawCase], name: str) -> NewCases:
        rows = {row for case in cases for row in case.rows}
        return table.prepared(folder / name, cells[cells.index.isin(rows)])

    cases = list(_checked(cases, cells, table.study, table.modalities))
    problems = [(case, case.problem) for case in cases if case.problem]
    good = [case for case in cases if not case.problem]
    if not good:
        return [], problems
    with suppress(CohortError, ImageError):
        return [prepared(good, "all")], problems
    readable = []
    for case in good:
        try:
            prepared([case], "single")
            readable.append(case)
        except (CohortError, ImageError) as error:
            problems.append((case, reason_of(error)))
        shutil.rmtree(folder / "single", ignore_errors=True)
    if not readable:
        return [], problems
    with suppress(CohortError, ImageError):
        return [prepared(readable, "readable")], problems
    # cases that can be read, but not together
    return [prepared([case], f"case{n}") for n, case in enumerate(readable)], problems


def _checked(
    cases: Sequence[RawCase], cells: pd.DataFrame, study: Study, modalities: Sequence[str]
) -> Iterator[RawCase]:
    """The cases, with a problem if images state several subjects or days, or a modality other than the training's."""
    subject_of, problems = {case.name: case.subject for case in cases}, dict[str, str]()
    several_days = predicts_single_images(study) or names_visits(cells, study)
    remedy = "Name the visits in a column `visit` or by `--pattern`."
    if not study.columns.get("visit", "visit"):
        remedy = "Predict them one by one."
    sources = sources_of([case for case in cases if case.name], cells, study)
    stated_of = {name: list(stated_by(paths)) for name, paths in sources.items()}
    people = {(image.person[0], subject_of[name]) for name, images in stated_of.items() for image in images}
    # an identifier that several subjects share, as in anonymised images, identifies nobody
    telling = {number for number, times in Counter(number for number, _ in people).items() if number and times == 1}
    if telling:
        telling &= set(_texts(cells, study.columns.get("subject") or "subject"))
    for name, stated in stated_of.items():
        problems[name] = people_problem(stated, subject_of[name], telling)
        problems[name] = problems[name] or modality_problem(stated, modalities)
        if not several_days and (text := days_problem(stated)):
            problems[name] = problems[name] or f"{text} {remedy}"
    if names := unspecific(chain.from_iterable(stated_of.values()), modalities):
        log.warning(
            "The modality %s tells nothing, and the images of the training stated %s. Check what these show: %s.",
            " or ".join(UNSPECIFIC),
            " or ".join(modalities),
            names_text(names, 3),
        )
    for case in cases:
        yield replace(case, problem=case.problem or problems.get(case.name, ""))


def reason_of(error: CasewiseError) -> str:
    """The message of an error on one case as one line, without the count of cases in its first line."""
    first, *lines = str(error).split("\n")
    return " ".join(line.strip() for line in lines if line.strip()) or first
