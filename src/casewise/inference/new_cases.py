"""New cases read and prepared for a trained model, by the same code as in training; there are no labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.checks import find_columns
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.folder_layout import ENDINGS
from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError, CohortError, nearest
from casewise.files import PICTURES
from casewise.modalities.base import ImageFolder, ImageStore
from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from casewise.console import Show
    from casewise.inference.bundle import Bundle
    from casewise.study.schema import Study

# What the errors of a study say of its columns, and what is said in place of it where a table is predicted.
COLUMN_HINTS = {
    re.compile(r", or write `[^`]*columns: \{(\w+): ([^`}]*)\}+` in the study"): (
        r', or give `columns={"\1": "\2"}` (`--column \1=\2`)'
    ),
    re.compile(r"columns: (\w+) is (.*?), which is not a column of the table\."): (
        r'columns: \1 is \2, which is not a column of the table. If it has another name there, give `columns={"\1": '
        r'"NAME"}` (`--column \1=NAME`).'
    ),
}
IN_STUDY = re.compile(r", or write `[^`]*` in the study")


@dataclass(frozen=True)
class NewCases:
    """Cases that were read, and their prepared images, which are in `folder`."""

    cohort: Cohort
    store: ImageStore
    folder: ImageFolder


@dataclass(frozen=True)
class NewTable:
    """The table of new cases, with the study that reads it.

    Attributes:
        own: whether the table is a file of the user; otherwise it was written from a data frame or a folder.
    """

    study: Study
    own: bool

    def corrected(self, error: CasewiseError) -> CasewiseError:
        """An error of reading the cases, without what only a study file or a temporary file could explain."""
        text, table = str(error), self.study.cohort
        for pattern, hint in COLUMN_HINTS.items():
            text = pattern.sub(hint, text)
        text = IN_STUDY.sub("", text)
        if not self.own:
            text = text.replace(str(table), "cases").replace(table.name, "cases")
        return type(error)(text)

    def cells(self) -> pd.DataFrame:
        """Every row of the table, after the checks of its headings.

        Raises:
            CohortError: the file is no table, or lacks a column that every case needs.
        """
        try:
            problems = Problems()
            cells, _ = read_text_table(self.study.cohort, problems)
            find_columns(self.study, cells.columns.tolist(), problems)
            problems.raise_any(self.study.cohort)
            for name in modality_of(self.study).columns(self.study):
                if name not in cells and name != "path":
                    raise CohortError(
                        f"{self.study.cohort}: there is no column {name!r}, which the cases need."
                        f"{nearest(name, cells.columns.tolist())}"
                    )
        except CasewiseError as error:
            raise self.corrected(error) from error
        return cells

    def prepared(self, folder: Path, show: Show, cells: pd.DataFrame | None = None) -> NewCases:
        """Read the table, or these rows of it, without labels, and prepare the images in `folder`.

        Raises:
            CohortError: with every problem of the table.
            ImageError: with every image that cannot be read.
        """
        study, modality, image_folder = self.study, modality_of(self.study), ImageFolder(folder)
        try:
            cohort = read_cohort(study, to_learn=False, labelled=False, cells=cells)
            cohort = modality.read(study, cohort, image_folder, show)
            return NewCases(cohort, modality.prepare(study, cohort, image_folder, show), image_folder)
        except CasewiseError as error:
            raise self.corrected(error) from error


def new_table(
    cases: Path | str | Sequence[Path | str] | pd.DataFrame,
    bundle: Bundle,
    folder: Path,
    *,
    columns: Mapping[str, str],
    root: Path | str | None,
) -> NewTable:
    """The table of new cases; that of a data frame or of image files is written into `folder`.

    Args:
        bundle: the network by whose settings they are read.
        columns: standard name -> the table's column, where it has another name than in the study.
        root: the folder that paths are relative to; by default the table's own, and for a data frame the working
            directory.

    Raises:
        CasewiseError: a path does not exist, or a folder cannot be read as cases.
    """
    import pandas as pd

    own_columns = {**bundle.settings["columns"], **columns}
    bundle = replace(bundle, settings={**bundle.settings, "columns": own_columns})
    written = folder / "new-cases.csv"
    if isinstance(cases, pd.DataFrame):
        table = cases
    else:
        paths = _paths(cases)
        if len(paths) == 1 and paths[0].is_file() and not _is_image(paths[0]):
            return NewTable(bundle.study(paths[0], Path(root).absolute() if root else paths[0].parent), own=True)
        if tables := [path for path in paths if not (path.is_dir() or _is_image(path))]:
            raise CasewiseError(
                f"cases: {tables[0]} is no image. Give one table alone, or images and folders of images."
            )
        reader = bundle.study(written)
        table = modality_of(reader).new_table(reader, paths)
        # image files state no other columns than these
        stated = {role: name for role, name in own_columns.items() if role in ("path", "subject") or name in table}
        bundle = replace(bundle, settings={**bundle.settings, "columns": dict.fromkeys(own_columns, "") | stated})
    table.to_csv(written, index=False)
    return NewTable(bundle.study(written, Path(root or Path.cwd()).absolute()), own=False)


def _paths(cases: object) -> list[Path]:
    """Absolute paths, each of which exists."""
    several = [cases] if isinstance(cases, (str, Path)) else cases
    if not isinstance(several, (list, tuple)) or not several or not all(isinstance(c, (str, Path)) for c in several):
        raise CasewiseError(
            "cases: must be the path of a table, of an image or of a folder of images, a list of such paths, or a data "
            f"frame, not a {type(cases).__name__}."
        )
    paths = [Path(path).absolute() for path in several]
    for path in paths:
        if not path.exists():
            raise CasewiseError(f"cases: {path} is neither a table nor an image nor a folder of images: it is missing.")
    return paths


def _is_image(path: Path) -> bool:
    return path.name.casefold().endswith((*ENDINGS, *PICTURES))
