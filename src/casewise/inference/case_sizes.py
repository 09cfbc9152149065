"""How many images a case has: a record of the training, by which folders of several people are recognised in new cases.

The images of a case are predicted together. A folder of a source, a batch or a day has films of many people, and looks
like the folder of one person.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.folder_layout import are_batches, batches_text, looks_like_visit
from casewise.cohort.table import names_text, read_dates
from casewise.errors import CasewiseError, counted
from casewise.names import one_form

if TYPE_CHECKING:
    from casewise.study.schema import Study

log = logging.getLogger("casewise")
# A new case may have this many times the images of the largest training case, if that has several.
_TIMES = 2


@dataclass(frozen=True)
class CaseSizes:
    """Numbers of images of training cases; of one region or sequence, where a study has several.

    Attributes:
        most: of the largest case.
        usual: the median.
    """

    most: int
    usual: int

    @classmethod
    def of(cls, images: pd.DataFrame, study: Study) -> CaseSizes | None:
        """Of a cohort's table of images; None if it is empty."""
        counts = image_counts(images, slots=slots_of(study))
        return cls(int(counts.max()), int(counts.median())) if len(counts) else None

    @property
    def limit(self) -> int:
        """A case with more images is unlike the training cases."""
        return self.most if self.most == 1 else _TIMES * self.most

    @property
    def limit_alone(self) -> int:
        """The limit of a folder that is the only case: it may contain the images of all people."""
        return 1 if self.usual == 1 else self.most

    @property
    def reason(self) -> str:
        """The message about a case above the limit."""
        return f"more images than cases of the training, which had at most {self.most:,}"


def slots_of(study: Study) -> tuple[str, ...]:
    """The columns of a cohort's images by which their number is counted: `sequence` is one of scans alone."""
    return ("region", "sequence") if study.fusions else ("region",)


def image_counts(
    images: pd.DataFrame, unit: Sequence[str] = ("case",), *, slots: Sequence[str], path: str = "path"
) -> pd.Series:
    """The number of files of each case in a table of images, the largest over its regions or sequences.

    Args:
        unit: the columns that name a case.
        slots: the columns of the region and the sequence.
    """
    keys = [*unit, *(name for name in slots if name in images)]
    counts = images.groupby(keys, sort=False, dropna=False)[path].nunique()
    return counts.groupby(level=list(unit), sort=False, dropna=False).max()


def check_people(
    table: pd.DataFrame, study: Study, paths: Sequence[Path], sizes: CaseSizes | None, *, slot: str, together: bool
) -> None:
    """Check that subjects named by folders are not several people, by their names and numbers of images.

    Args:
        table: of the images in the files and folders `paths`, as `Modality.new_table` reads them without a pattern.
        sizes: of the training; None for a model without a record.
        slot: the column of the region or sequence; empty without one.
        together: whether the images of a case are predicted together; otherwise names are warned of only.

    Raises:
        CasewiseError: a subject may be several people; the message states how to say what is right.
    """
    path, subject = (study.columns.get(role) or role for role in ("path", "subject"))
    visit = study.columns.get("visit", "visit")
    unit = [subject, *([visit] if visit in table else [])]
    counts = image_counts(table, unit, slots=[slot] if slot else [], path=path)
    several, alone = counts[counts > 1], len(counts) == 1
    files = {one_form(Path(str(file)).name) for file in table[path]}
    of_subject = counts.groupby(level=0, sort=False).sum()
    of_folder = of_subject[[str(name) not in files for name in of_subject.index]]
    named = len(of_folder) and are_batches(of_folder.index.astype(str))
    if named:
        doubtful, reason = of_folder[of_folder > 1], f"{batches_text(of_folder.index.astype(str))}."
    elif sizes:
        doubtful = several[several > (sizes.limit_alone if alone else sizes.limit)]
        usual = ", and usually 1" if 1 == sizes.usual < sizes.most else ""
        reason = f"Cases of the training had at most {sizes.most:,}{usual}."
    else:
        doubtful, reason = several[:0], "The model does not state how many images cases of its training had."
    if together and len(doubtful):
        text = f"{_described(doubtful)} would be taken as one person's, but may be of several. {reason}"
        raise CasewiseError(f"cases: {text}\n  {_remedies(table, study, paths, doubtful)}")
    if len(doubtful):
        text = f"{_described(doubtful)} have the name of one person each, but may be of several. {reason}"
        log.warning("%s %s", text, _remedies(table, study, paths, doubtful))
    elif named:
        log.warning("%s", reason)
    elif together and len(several) and (alone or not sizes):
        text = f"{_described(several)} are predicted together, as of one person."
        log.warning("%s %s If they are of several people, give the files or a table.", text, reason)


def _described(counts: pd.Series) -> str:
    """Numbers of images with the names of their cases."""
    names = ["/".join(map(str, filter(None, key))) if isinstance(key, tuple) else str(key) for key in counts.index]
    images = [counted(int(count), "image") for count in counts]
    return names_text([f"{of_case} of {name}" for name, of_case in zip(names, images, strict=True)], 3)


def _remedies(table: pd.DataFrame, study: Study, paths: Sequence[Path], doubtful: pd.Series) -> str:
    """How to say what the folder of the first doubtful case is."""
    roles = {role: study.columns.get(role) or role for role in ("path", "subject", "visit", "region")}
    first = doubtful.index[0]
    name = str(first[0] if isinstance(first, tuple) else first)
    row = table[table[roles["subject"]].astype(str) == name].iloc[0]
    file = Path(str(row[roles["path"]]))
    folder = next((each for each in paths if each.is_dir() and file.is_relative_to(each)), file.parent)
    stated = {
        str(row[roles[role]]): f"{{{role}}}"
        for role in ("visit", "subject")
        if roles[role] in table and row[roles[role]]
    }
    # folders of other meanings, such as `images` or `train`
    own = file.relative_to(folder).parts[:-1]
    paths_of = [Path(str(path)) for path in table[roles["path"]]]
    below = [path.relative_to(folder).parts[:-1] for path in paths_of if path.is_relative_to(folder)]
    people, is_certain = _level_of_people([parts for parts in below if len(parts) == len(own)])
    deeper = (
        ["*"] * people
        + ["{subject}"]
        + [
            "{visit}" if is_certain and level == people + 1 and study.columns.get("visit", "visit") else "*"
            for level in range(people + 1, len(own))
        ]
    )
    fields = [stated.get(one_form(directory), "*") for directory in own]
    if people and is_certain:
        fields = deeper
    if study.regions and fields and fields[-1] == "*" and "{subject}" in fields:
        fields[-1] = "{region}"
    pattern = "/".join([*fields, "{file}"])
    files = f"{shlex.quote(str(file.parent))}/*{file.suffix}"
    of_visits = ""
    if study.columns.get("visit", "visit") and "{visit}" not in pattern:
        by_file = "/".join([*fields, "{visit}"])
        of_visits = f", or --pattern '{by_file}' if every image is of another visit"
    these = "each of these is one person"
    if people and is_certain:
        these = f"the people are the folders such as {own[people]}"
    elif people:
        other = "/".join([*deeper, "{file}"])
        of_visits += f", or --pattern '{other}' if the people are the folders such as {own[people]}"
    return (
        f"If {these}, state --pattern '{pattern}'{of_visits}. If every image is a case of its own, "
        f"give the files: {files}. Otherwise give a table with the columns {roles['path']!r} and {roles['subject']!r}."
    )


def _level_of_people(folders: Sequence[Sequence[str]]) -> tuple[int, bool]:
    """The level of the folders that are people, from 0, and whether the folders below are certainly their visits.

    It is above folders of dates or visits, or below folders of hospitals, batches or devices; otherwise the first.

    >>> _level_of_people([("Nord", "P-1", "2021-04-10"), ("Nord", "P-2", "2021-05-11")])
    (1, True)
    >>> _level_of_people([("Klinik Nord", "P-1")]), _level_of_people([("P-1", "2021-04-10")]), _level_of_people([])
    ((1, False), (0, True), (0, False))
    """
    levels = [list(map(str, names)) for names in zip(*folders, strict=True)]
    for level, names in enumerate(levels[1:]):
        days = read_dates(names)
        if all(name in days or looks_like_visit(name) for name in names):
            return level, True
    return int(len(levels) > 1 and are_batches(levels[0])), False
