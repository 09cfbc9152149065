"""The files that the paths in a table of new cases mean: as the disk spells them, with endings, or moved here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.checks import is_absolute
from casewise.cohort.folder_layout import ENDINGS, are_batches, walk
from casewise.cohort.identity import alike
from casewise.cohort.table import names_text
from casewise.names import FileNames, name_key, stand_ins

if TYPE_CHECKING:
    from casewise.study.schema import Study

log = logging.getLogger("casewise")


def with_image_files(cells: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The table with the names of files as the disk spells them, with their endings where one image has the name."""
    folder, column = (study.root or study.cohort.parent).absolute(), study.columns.get("path") or "path"
    if column not in cells:
        return cells
    files_of: dict[str, dict[str, list[str]]] = {}
    disk = FileNames()
    moved = _of_another_computer(cells, column, folder, disk)

    def completed(text: str) -> str:
        path = folder / text.strip().replace("\\", "/")
        if not text.strip():
            return text
        matches = [moved[text]] if text in moved else disk.below(folder, text)
        if len(matches) == 1 and not os.path.exists(folder / text):
            return matches[0] if os.path.isabs(text.strip()) else os.path.relpath(matches[0], folder)
        if matches or path.suffix.casefold() in ENDINGS:
            return text
        if str(path.parent) not in files_of:
            stems = files_of.setdefault(str(path.parent), {})
            for name in os.listdir(path.parent) if path.parent.is_dir() else ():
                if name.casefold().endswith(ENDINGS):
                    stems.setdefault(name_key(name.rpartition(".")[0]), []).append(name)
        names = files_of[str(path.parent)].get(name_key(path.name), [])
        return text.strip()[: -len(path.name)] + names[0] if len(names) == 1 else text

    cells = cells.assign(**{column: cells[column].map(completed)})
    names_of_case = [study.columns.get(role) or role for role in ("subject", "visit")]
    elsewhere = _in_subfolders(cells, column, names_of_case, folder)
    return cells.assign(**{column: cells[column].map(lambda text: elsewhere.get(text, text))})


def _may_be_of(path: str, names: Sequence[str]) -> bool:
    """Whether all folders of an image name its subject or visit, or are batches of files or dates."""
    own = [re.compile(rf"(?<![^\W_]){re.escape(alike(name))}(?![^\W_])") for name in names if name]
    day = re.compile(r"(19|20)\d\d([-_ ]?\d\d){0,2}")
    return all(
        are_batches({folder}) or day.fullmatch(folder) or any(name.search(folder) for name in own)
        for folder in map(alike, path.split("/")[:-1])
    )


def _in_subfolders(cells: pd.DataFrame, column: str, names_of_case: Sequence[str], folder: Path) -> dict[str, str]:
    """By name of a file that is not in the folder itself, the one image in its subfolders with this name.

    {} if one of them is missing or in several subfolders, or a folder may name another subject or visit.
    """
    names = [text for text in cells[column].unique() if text.strip() and not re.search(r"[\\/]", text)]
    names = [text for text in names if not os.path.exists(folder / text.strip())]
    if not names or not folder.is_dir():
        return {}
    images: dict[str, list[str]] = {}
    for _, paths, _ in walk(folder):
        for path in paths:
            if path.casefold().endswith(ENDINGS):
                name = path.rpartition("/")[2]
                for key in {name_key(name), name_key(name.rpartition(".")[0])}:
                    images.setdefault(key, []).append(path)
    images_of = {text: images.get(name_key(text.strip()), []) for text in names}
    are_single = all(len(paths) == 1 for paths in images_of.values())
    if not are_single or len({path for paths in images_of.values() for path in paths}) < len(names):
        return {}
    named = [cells[name].str.strip() for name in names_of_case if name in cells]
    for text, *own in zip(cells[column], *named, strict=True):
        if text in images_of and not _may_be_of(images_of[text][0], own):
            return {}
    pairs = names_text([f"{name} is {images_of[name][0]}" for name in names], 5)
    log.warning("Names of files are in subfolders of %s: %s. Check that these are the same images.", folder, pairs)
    return {text: paths[0] for text, paths in images_of.items()}


def _folders(text: str) -> list[str]:
    """The folders of a path, also of Windows, from the first one."""
    return [name for name in text.strip().replace("\\", "/").split("/") if name][:-1]


def _of_another_computer(cells: pd.DataFrame, column: str, folder: Path, disk: FileNames) -> dict[str, str]:
    """By absolute path of another computer the file below a folder that it means, with the same folders at its end.

    All paths must begin with the same folders, for which the folder stands (`stand_ins`); a warning names them.
    """
    file_of: dict[str, tuple[tuple[str, ...], str]] = {}
    for text in cells[column].unique():
        names = _folders(text)
        if not is_absolute(text) or disk.below(folder, text):
            continue
        for start in range(1, len(names) + 1):
            rest = "/".join([*names[start:], text.strip().replace("\\", "/").rpartition("/")[2]])
            if len(matches := disk.below(folder, rest)) == 1:
                file_of[text] = tuple(map(name_key, names[:start])), matches[0]
                break
    values = {name_key(value) for name in cells if name != column for value in cells[name].unique()} - {""}
    accepted = stand_ins({(beginning, ()) for beginning, _ in file_of.values()}, folder, values)
    for beginning, _ in accepted:
        if beginning[-1] != name_key(folder.name):
            log.warning(
                "%s of the table is read as %s. Check that these are the same images.", "/".join(beginning), folder
            )
    return {text: path for text, (beginning, path) in file_of.items() if (beginning, ()) in accepted}
