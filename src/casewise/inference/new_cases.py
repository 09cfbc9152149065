"""New cases for a trained model, read and prepared in chunks by the code of the training; there are no labels."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.cohort.altered_names import alterations
from casewise.cohort.checks import ROLES, WITHOUT_PATHS, columns_from_training, find_columns
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.companions import listed_companions
from casewise.cohort.folder_layout import ENDINGS, begins_as_image, stated_pattern
from casewise.cohort.identity import AS_WRITTEN, alike
from casewise.cohort.table import Problems, read_text_table
from casewise.console import Silent
from casewise.errors import CasewiseError, CohortError, counted, nearest, nearest_folder, none_of
from casewise.files import PICTURES, make_folder
from casewise.inference.case_sizes import CaseSizes, check_people
from casewise.inference.joined_tables import joined_table
from casewise.inference.name_doubts import doubts_on_names
from casewise.inference.table_paths import with_image_files
from casewise.inference.visits import check_visits, with_one_form
from casewise.modalities.base import ImageFolder, ImageStore
from casewise.modalities.registry import modality_of
from casewise.names import one_form

if TYPE_CHECKING:
    from PIL import Image

    from casewise.inference.bundle import Bundle
    from casewise.study.schema import Study

log = logging.getLogger("casewise")

# An image: a file, or in memory, (H, W) or (H, W, 3) uint8.
OneImage: TypeAlias = "Path | str | NDArray[np.uint8] | Image.Image"
# A table, an image, a folder of images, several of them, or lists of the images of one case each.
NewInput: TypeAlias = "OneImage | Sequence[OneImage | Sequence[OneImage]] | pd.DataFrame"

# What the errors of a study advise: a line of the study file, which says nothing to a person with new cases.
IN_STUDY = re.compile(r"(, or|; if these are the real names,) write `[^`]*` (with all of them )?in the study")
NO_COLUMN = re.compile(
    r"columns: (\w+) is [^\n]*, which is not a column of the table\.(?: Did you mean '([^'\n]*)'\?)?"
)
COLUMN_SETTING = re.compile(r"\b([Ww]rite|unused:) `columns: \{(\w+): ([^`}]*)\}`(?: in the study)?")

_ROOT = re.compile(
    r"If it is a path of another computer, write [^.]* in the study, and paths in the table from there\."
)

_LEAVE = "Leave it out."
# The folder of images that were given in memory, next to the table that was written for them.
_IN_MEMORY = "images"
# Rows of a table that nobody wrote.
ROWS_OF_CASE = re.compile(r"\brows? [\d,… -]+: (?=case )")


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
        reading: how files and folders were read as cases, with an example; empty for a table.
        joined: the images of its rows were found in a folder, so that row numbers are not those of the user's table.
        not_joined: why they were not, where no column names them.
        modalities: the DICOM modalities of the training images; empty if they stated none.
    """

    study: Study
    own: bool
    reading: str = ""
    modalities: tuple[str, ...] = ()
    joined: bool = False
    not_joined: str = ""

    def corrected(self, error: CasewiseError) -> CasewiseError:
        """An error of reading the cases, without what only a study file or a temporary file could explain."""
        text, table = str(error), self.study.cohort
        text = IN_STUDY.sub("", COLUMN_SETTING.sub(_column_option, text))
        text = NO_COLUMN.sub(_column_remedy, text)
        if self.own:
            if self.not_joined and "column path: is missing" in text:
                reason = f"\n  Its rows were not joined to the images below {self.study.root}: {self.not_joined}"
                text = text.replace(WITHOUT_PATHS, "") + reason.replace("--images", "--root")
            text = text.replace("--table TABLE", f"--table {shlex.quote(str(table))}")
            if self.study.root not in (None, table.parent):
                folder = shlex.quote(str(self.study.root))
                text = text.replace("--images FOLDER", f"--images {folder}").replace("MODEL FOLDER", f"MODEL {folder}")
        text = _ROOT.sub("If it is a path of another computer, name the folder of the images (`root`, `--root`).", text)
        if not self.own:
            text = self.without_folder(text).replace(str(table), "cases").replace(table.name, "cases")
            text = ROWS_OF_CASE.sub("", text)
        return type(error)(text)

    def without_folder(self, text: str) -> str:
        """A path or message, in which images in memory have their names without a temporary folder."""
        return text if self.own else text.replace(f"{self.study.cohort.parent / _IN_MEMORY}{os.sep}", "")

    def cells(self) -> pd.DataFrame:
        """Every row of the table, after the checks of its headings; doubts about names and numbers are logged.

        Raises:
            CohortError: the file is not a table, or lacks a column that every case needs.
        """
        try:
            problems = Problems()
            cells, _ = read_text_table(self.study.cohort, problems)
            columns = find_columns(self.study, cells.columns.tolist(), problems)
            if not (self.reading or predicts_single_images(self.study)):
                check_visits(self.study, cells, columns)
            names = self.study.subject_names
            stated = [] if isinstance(names, str) else [name for group in names for name in group]
            # if the study states that names of this form are real, so are others
            are_real = bool(alterations(pd.Series(stated, dtype="str"), "subject", AS_WRITTEN))
            for role in ("subject", "visit") if not (self.reading or self.joined) else ():
                for alteration in alterations(cells[columns[role]], role, names) if role in columns else ():
                    if alteration.certain and not are_real:
                        problems.add(f"{role} altered", f"{alteration.text}.", alteration.rows, columns[role])
                    else:
                        problems.doubts.append(alteration.sentence(columns[role]))
            if not self.reading and "subject" in columns:
                problems.doubts += doubts_on_names(self.study, cells, columns)
            problems.raise_any(self.study.cohort)
            for name in modality_of(self.study).columns(self.study):
                if name not in cells and name != "path":
                    raise CohortError(
                        f"{self.study.cohort}: there is no column {name!r}, which the cases need."
                        f"{nearest(name, cells.columns.tolist())}"
                    )
        except CasewiseError as error:
            raise self.corrected(error) from error
        for doubt in problems.doubts:
            log.warning("%s", IN_STUDY.sub("", doubt))
        if "visit" in columns and not self.reading:
            cells = with_one_form(cells, columns["visit"])
        return with_image_files(cells, self.study)

    def prepared(self, folder: Path, cells: pd.DataFrame | None = None) -> NewCases:
        """Read the table, or these rows of it, without labels, and prepare the images in `folder`.

        Raises:
            CohortError: with every problem of the table.
            ImageError: with every image that cannot be read.
        """
        study, modality, image_folder = self.study, modality_of(self.study), ImageFolder(folder)
        try:
            cohort = read_cohort(study, to_learn=False, labelled=False, cells=cells)
            cohort = modality.read(study, cohort, image_folder, Silent())
            return NewCases(cohort, modality.prepare(study, cohort, image_folder, Silent()), image_folder)
        except CasewiseError as error:
            raise self.corrected(error) from error


def _column_option(match: re.Match[str]) -> str:
    """A line of the study file about a column as the option that states the same."""
    begin, role, column = match[1], match[2], match[3].strip("\"'")
    begin = {"Write": "Give", "write": "give"}.get(begin, begin)
    return f'{begin} `columns={{"{role}": "{column}"}}` (`--column {shlex.quote(f"{role}={column}")}`)'


def _column_remedy(match: re.Match[str]) -> str:
    """The message about a column that the table lacks, with the option that names another one or, if it may, none."""
    role, column = match[1], match[2] or "NAME"
    text = f'{match[0]} Give `columns={{"{role}": "{column}"}}` (`--column {shlex.quote(f"{role}={column}")}`).'
    none = f' If there is none, give `columns={{"{role}": ""}}` (`--column {role}=`).'
    return text if role in ("path", "subject", "region") else text + none


def new_table(
    cases: NewInput,
    bundle: Bundle,
    folder: Path,
    *,
    columns: Mapping[str, str],
    root: Path | str | None,
    pattern: str = "",
    sizes: CaseSizes | None = None,
) -> NewTable:
    """The table of new cases; for a data frame or image files, it is written into `folder`.

    Args:
        bundle: the network whose settings decide how they are read.
        columns: standard name -> the table's column, where it has another name than in the study.
        root: the folder that paths are relative to; by default the table's own, and for a data frame the working
            directory.
        pattern: what the paths below a folder state, such as `{subject}/{visit}/{file}`; by default one of the layouts
            of `read_new_layout`.
        sizes: numbers of images of training cases, by which folders of several people are recognised.

    Raises:
        CasewiseError: a path does not exist or is given twice, two folders are named alike and each is a subject, or a
            folder cannot be read as cases, or rather holds several people than one.
    """
    by_pattern = stated_pattern(pattern, of_cases=True) if pattern else None
    training = {
        role: name for role, name in bundle.settings["columns"].items() if role not in bundle.settings["targets"]
    }
    own_columns = {**training, **{role: one_form(name) for role, name in columns.items()}}
    bundle = replace(bundle, settings={**bundle.settings, "columns": own_columns})
    written, reading = folder / "new-cases.csv", ""
    if isinstance(cases, pd.DataFrame):
        if by_pattern:
            raise CasewiseError(
                "--pattern is about the paths below a folder, and cases are a data frame. Leave it out."
            )
        table, bundle = cases, _with_own_columns(bundle, cases, stated=columns)
    else:
        cases = _written_images(cases, folder / _IN_MEMORY)
        groups = _groups(cases)
        paths = [path for group in groups for path in group]
        if _is_table(paths, pattern):
            start = Path(root).absolute() if root else paths[0].parent
            with suppress(CohortError):  # whoever reads the table next says what is wrong with it
                bundle = _with_own_columns(bundle, paths[0], stated=columns)
                study = bundle.study(paths[0], start)
                if _names_no_images(bundle, paths[0]):
                    headings = {**_columns_of_training(bundle, paths[0]), **columns}
                    try:
                        return _joined(bundle, joined_table(paths[0], start, study, headings, pattern), written, start)
                    except CasewiseError as error:
                        return NewTable(study, own=True, not_joined=str(error))
            if pattern:
                raise CasewiseError(f"--pattern: {paths[0]} names its images, and their paths say no more. {_LEAVE}")
            return NewTable(bundle.study(paths[0], start), own=True)
        reader = bundle.study(written)
        if _is_grouped(cases):
            table = _grouped(reader, groups)
            for doubt in listed_companions(path for path in paths if not path.is_dir()):
                log.warning("%s", doubt.removeprefix("WARNING: ").replace("Rows of the table", "The lists"))
        else:
            table = modality_of(reader).new_table(reader, paths, by_pattern)
            if reader.unit == "image" and not (by_pattern or slot_column(reader)):
                table = _one_by_one(table, reader)
        _check_given_once(table, reader, paths)
        if not (by_pattern or _is_grouped(cases)):
            together = not predicts_single_images(reader)
            check_people(table, reader, paths, sizes, slot=slot_column(reader), together=together)
        reading = _reading(table, reader, paths)
        # image files state no other columns than these
        stated = {role: name for role, name in own_columns.items() if role in ("path", "subject") or name in table}
        bundle = replace(bundle, settings={**bundle.settings, "columns": dict.fromkeys(own_columns, "") | stated})
    table.to_csv(written, index=False)
    return NewTable(bundle.study(written, Path(root or Path.cwd()).absolute()), own=False, reading=reading)


def _columns_of_training(bundle: Bundle, table: Path) -> dict[str, str]:
    """The columns of people and visits of a training table with several columns of images, if this table has them."""
    headings = {one_form(str(name)).strip() for name in read_text_table(table, Problems())[0].columns}
    original = bundle.settings.get("original_columns", {})
    roles = () if "path" in original else ("subject", "visit")
    return {role: original[role] for role in roles if original.get(role) in headings}


def _names_no_images(bundle: Bundle, table: Path) -> bool:
    """Whether a table has no column of paths for this bundle."""
    heading = bundle.settings["columns"].get("path") or "path"
    return heading not in {one_form(str(name)).strip() for name in read_text_table(table, Problems())[0].columns}


def _joined(bundle: Bundle, table: pd.DataFrame, written: Path, root: Path) -> NewTable:
    """A table whose images were found in a folder, with its columns by their standard names."""
    unused = {role: "" for role in ("day", "date") if role not in table}
    bundle = replace(bundle, settings={**bundle.settings, "columns": unused})
    study = bundle.study(written, root)
    if (slot := slot_column(study)) and slot not in table:
        table = table.rename(columns={"sequence": slot})
    table.to_csv(written, index=False)
    return NewTable(study, own=False, joined=True)


def _with_own_columns(bundle: Bundle, table: Path | pd.DataFrame, *, stated: Mapping[str, str]) -> Bundle:
    """The bundle reading the columns that a table has.

    A role is read from what is stated, the training's column, its column in the table from which that was made, or
    the standard name, and at last from one of these in other letters.

    Raises:
        CohortError: the file is no table.
    """
    settings, own = bundle.settings, bundle.settings["columns"]
    columns = (read_text_table(table, Problems())[0] if isinstance(table, Path) else table).columns
    headings = {one_form(str(name)).strip() for name in columns}
    original = {role: name for role, name in settings.get("original_columns", {}).items() if role in ROLES}
    heading_of = {role: name for role, name in own.items() if role in stated or not name or name in headings}
    heading_of |= {role: original[role] for role in own if role not in heading_of and original.get(role) in headings}
    standard = {role: role for role in ("path", "subject", "visit", "region")}
    for training in (own, original, standard):
        heading_of = columns_from_training(heading_of, training, headings)
    # a column that the table lacks, and has no other column for, is an error
    lacking = {role: name for role, name in own.items() if role not in {*heading_of, *headings}}
    return replace(bundle, settings={**settings, "columns": {**lacking, **heading_of}})


def _written_images(cases: Any, folder: Path, number: Iterator[int] | None = None) -> Any:
    """Cases with files instead of images in memory; the images are written into a folder without loss.

    An image is named by its number among all images of the list, whether they are files or in memory.

    Raises:
        CasewiseError: an array is not an image.
    """
    number = number or count(1)
    if isinstance(cases, (list, tuple)):
        return [_written_images(each, folder, number) for each in cases]
    own = next(number)
    if isinstance(cases, np.ndarray):
        if cases.dtype != np.uint8 or cases.ndim not in (2, 3) or cases.shape[2:] not in ((), (3,)) or not cases.size:
            stated = f"{cases.shape} {cases.dtype}"
            raise CasewiseError(f"cases: an array must be an image, (H, W) or (H, W, 3) uint8, and one is {stated}.")
    elif not hasattr(cases, "getbands"):  # an image of Pillow has them
        return cases
    from PIL import Image

    image = Image.fromarray(cases) if isinstance(cases, np.ndarray) else cases
    image = image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image
    path = make_folder(folder) / f"image-{own}.png"
    image.save(path)
    return path


def check_input(cases: Sequence[Path], columns: Mapping[str, str], root: Path | None, pattern: str) -> None:
    """Check new cases before a model is loaded; arguments as of `new_table`.

    Raises:
        CasewiseError: one does not exist, they are neither one table nor images, the table cannot be read or lacks a
            column, or an option is about other input.
    """
    paths = [path for group in _groups(cases) for path in group]
    if root is not None and not root.is_dir():
        raise CasewiseError(f"--root: there is no folder {root}.{nearest_folder(root)}")
    if not _is_table(paths, pattern):
        if unused := "--column" if columns else "--root" if root else "":
            raise CasewiseError(f"{unused} is about a table of cases, and {paths[0]} is none. Leave it out.")
        return
    problems = Problems()
    headings = read_text_table(paths[0], problems)[0].columns.tolist()
    problems.raise_any(paths[0])
    for name, heading in columns.items():
        if heading and one_form(heading) not in headings:
            raise CasewiseError(f"--column {name}: in {paths[0]}, {none_of(heading, headings)}")


def _is_table(paths: Sequence[Path], pattern: str) -> bool:
    """Whether these are one table; otherwise they are checked to be images and folders."""
    files = [path for path in paths if not path.is_dir()]
    others = [path for path in files if not _is_image(path)]
    if others and len(paths) > 1:
        raise CasewiseError(
            f"cases: {others[0]} is not an image. Give a single table, or images and folders of images."
        )
    if pattern and files and not others:
        raise CasewiseError(f"--pattern is about the paths below a folder, and {files[0]} is a file. {_LEAVE}")
    return bool(others)


def _groups(cases: object) -> list[list[Path]]:
    """Absolute paths, all existing; a list within a list is one group."""
    several = [cases] if isinstance(cases, (str, Path)) else cases
    each = several if isinstance(several, (list, tuple)) else []
    lists = [list(case) if isinstance(case, (list, tuple)) else [case] for case in each]
    if not lists or not all(group and all(isinstance(path, (str, Path)) for path in group) for group in lists):
        given = f"a {type(cases).__name__}" if each or not isinstance(cases, (list, tuple)) else "an empty list"
        raise CasewiseError(
            "cases: must be the path of a table, of an image or of a folder of images, a list of such paths or of "
            f"lists of the images of one case each, an image in memory, or a data frame, not {given}."
        )
    groups = [[Path(path).absolute() for path in group] for group in lists]
    for path in [path for group in groups for path in group]:
        if not path.exists():
            hint = nearest_folder(path, or_file=True)
            raise CasewiseError(f"cases: there is no table, image or folder {path}.{hint}")
    return groups


def _is_grouped(cases: object) -> bool:
    return isinstance(cases, (list, tuple)) and any(isinstance(case, (list, tuple)) for case in cases)


def _grouped(study: Study, groups: Sequence[Sequence[Path]]) -> pd.DataFrame:
    """The table of lists of files, each of one case, whose subject has the name of the first file.

    Raises:
        CasewiseError: a folder is listed that is not one scan.
    """
    modality, subject = modality_of(study), study.columns.get("subject") or "subject"
    firsts = [group[0].name for group in groups]
    tables = []
    for group in groups:
        rows = [modality.new_table(study, [path]) for path in group]
        if folders := [path for path, own in zip(group, rows, strict=True) if path.is_dir() and len(own) != 1]:
            raise CasewiseError(
                f"cases: {folders[0]} is a folder within a list of the files of one case. List its files."
            )
        name = group[0].name if firsts.count(group[0].name) == 1 else str(group[0])
        tables.append(pd.concat(rows, ignore_index=True).assign(**{subject: name}))
    return pd.concat(tables, ignore_index=True).fillna("")


def slot_column(study: Study) -> str:
    """The heading of the region or sequence in a table of new cases; empty where images have neither."""
    return "region" if study.regions else str(getattr(study.modality_settings, "column", ""))


def _one_by_one(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The table of files for a model whose training knew no subjects: every image is a case, whatever its folder."""
    path, subject, visit = (study.columns.get(role) or role for role in ("path", "subject", "visit"))
    names = table[path].map(lambda file: Path(file).name)
    names = names.mask(names.duplicated(keep=False), table[path].map(str))
    return table.drop(columns=visit, errors="ignore").assign(**{subject: names})


def _check_given_once(table: pd.DataFrame, study: Study, paths: Sequence[Path]) -> None:
    """Check the table of the given files and folders.

    Raises:
        CasewiseError: a file is given twice, or two folders of one name are subjects of that name.
    """
    path, subject = (study.columns.get(role) or role for role in ("path", "subject"))
    files = table[path].map(os.path.abspath)
    if twice := files[files.duplicated()].tolist():
        raise CasewiseError(f"cases: {twice[0]} is given twice. Give each file once.")
    folder_of: dict[str, Path] = {}
    for folder in filter(Path.is_dir, paths):
        below = table.loc[[Path(file).is_relative_to(folder) for file in table[path]], subject]
        for name in {folder.name, folder.resolve().name} & set(below):
            other = folder_of.setdefault(alike(name), folder)
            if other != folder:
                raise CasewiseError(
                    f"cases: the folders {other} and {folder} would both be the subject {name}. Predict them one by "
                    "one, rename one, or give a table."
                )


def _reading(table: pd.DataFrame, study: Study, paths: Sequence[Path]) -> str:
    """How files and folders were read as cases: their numbers, and what the first path states."""
    roles = {role: study.columns.get(role) or role for role in ("subject", "visit", "region")}
    stated = {role: heading for role, heading in roles.items() if heading in table}
    unit = [heading for role, heading in stated.items() if role != "region"]
    subjects, cases = table[stated["subject"]].nunique(), len(table[unit].drop_duplicates())
    counts = [counted(subjects, "subject"), counted(cases, "case")]
    images = modality_of(study).noun(study).counted(len(table))
    first = table.iloc[0]
    path = Path(str(first[study.columns.get("path") or "path"]))
    folder = next((folder for folder in paths if folder.is_dir() and path.is_relative_to(folder)), path.parent)
    own = ", ".join(f"{role} {first[heading]}" for role, heading in stated.items() if first[heading])
    visits = "" if "visit" in stated else ", without visits"
    return f"{', '.join(counts)}{visits}, {images}; such as {path.relative_to(folder).as_posix()}: {own}"


def predicts_single_images(study: Study) -> bool:
    """Whether everything is predicted for single images, so that one says nothing about the others of its case."""
    names = (*study.outputs, *study.scores)
    return study.panels.by == "image" and not study.covariates and all(study.level_of(n) == "image" for n in names)


def _is_image(path: Path) -> bool:
    return path.name.casefold().endswith((*ENDINGS, *PICTURES)) or begins_as_image(path)
