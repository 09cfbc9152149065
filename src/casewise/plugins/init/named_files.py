"""The images that columns of a table name, and the named ones that were not found."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from casewise.cohort.checks import FOUND
from casewise.cohort.companions import names_masks
from casewise.cohort.folder_layout import ENDINGS, VOLUME_FILES
from casewise.cohort.table import names_text
from casewise.errors import counted, nearest
from casewise.names import name_key
from casewise.plugins.init import image_files
from casewise.plugins.init.image_files import FileColumn, FileIndex, ImageFiles, stem_of
from casewise.plugins.init.image_rows import ImageRows
from casewise.plugins.init.no_value import EMPTY
from casewise.plugins.init.source import Source

KEPT_ROWS = f"They are kept in cohort.csv with `{FOUND}: no`; the study leaves them out and counts them."
KEPT_IMAGES = (
    f"Each is a row of cohort.csv with `{FOUND}: no`, which the study leaves out and counts; its case is used with its "
    "other images."
)
_SHOWN, _LONGEST = 5, 70
# Between the names of several files in one cell; commas only where every part has the ending of an image.
_BETWEEN, _COMMA = re.compile(r"\s*[;|\r\n]\s*"), re.compile(r"\s*[,;|\r\n]\s*")
# The share of the filled cells of a column that end as image files, for the column to be one of file names.
_MOSTLY_FILES = 0.5


class Missing(NamedTuple):
    """A cell that names an image that was not found; `column` is '' for a row whose cells name none."""

    row: int
    column: str = ""
    cell: str = ""


def with_single_files(source: Source, images: ImageFiles) -> Source:
    """The table with a column for each file where cells name several, such as `a.jpg; b.jpg`.

    A cell is divided if each part ends as an image file does, or exists and has letters and digits, so that it is no
    code of a finding.
    """
    index = FileIndex(images.paths, images.companions)
    cells, notes = dict[str, list[str]](), list[str]()
    for name, values in source.cells.items():
        parts = [_parts(value, index) for value in values]
        most = max(map(len, parts), default=0)
        headings = [name, *(f"{name} ({number})" for number in range(2, most + 1))]
        if most < 2 or set(headings[1:]) & set(source.cells):
            # a separator behind the only name is no part of it
            cells[name] = [own[0] for own in parts] if most < 2 else values
            continue
        cells |= {
            heading: [own[number] if number < len(own) else "" for own in parts]
            for number, heading in enumerate(headings)
        }
        row = next(number for number, own in zip(source.numbers, parts, strict=True) if len(own) > 1)
        notes.append(
            f"Cells of {name} name up to {most} files, such as row {row}; they became the columns "
            f"{names_text(headings, 4)}."
        )
    return replace(source, cells=cells, notes=[*source.notes, *notes], changed=source.changed or bool(notes))


def _parts(cell: str, index: FileIndex) -> list[str]:
    """The files that a cell names; the cell itself if they may be one."""
    for between in (_BETWEEN, _COMMA):
        parts = [name for name in between.split(cell.strip()) if name]
        # a file may have such a mark in its name
        if not parts or parts == [cell] or (between.search(image_files.file_name(cell)) and index.find(cell)):
            continue
        if all(map(_ends_as_image, parts)) or (between is _BETWEEN and all(_is_like_a_file(p, index) for p in parts)):
            return parts
    return [cell]


def _is_like_a_file(part: str, index: FileIndex) -> bool:
    return bool(re.search(r"[^\W\d_]", part) and re.search(r"\d", part) and index.find(part))


def _ends_as_image(cell: str) -> bool:
    return cell.casefold().endswith((*ENDINGS, *VOLUME_FILES))


def named_files(source: Source, files: list[FileColumn], images: ImageFiles) -> tuple[ImageRows, list[Missing]]:
    """The images that columns name, with a row without path for each one that was not found; and these.

    Rows whose cells name no file have one row without path.
    """
    cells, count, noun = source.cells, len(source.numbers), images.noun
    missing = [
        Missing(row, column.name, cell)
        for column in files
        for row in _rows_that_name_files(column, cells[column.name])
        if not column.paths[row]
        for cell in [cells[column.name][row]]
    ]
    named = [(row, column.paths[row], column.name) for row in range(count) for column in files if column.paths[row]]
    ranges = image_files.images_of_ranges(files, images, source.numbers, {each.row for each in missing})
    if ranges:
        named = [(row, path, "") for row, paths in enumerate(ranges) for path in paths if path]
    with_names = {row for row, *_ in named} | {each.row for each in missing}
    missing = sorted([*missing, *map(Missing, set(range(count)) - with_names)])
    named = sorted([*named, *((each.row, "", each.column) for each in missing)], key=lambda image: image[0])
    changed = source.changed or bool(ranges)
    rows = ImageRows([image[0] for image in named], [image[1] for image in named], files=files, changed=changed)
    if len(files) > 1 and not ranges:
        rows.others["view"] = [image[2] for image in named]
    cell_of = {(each.row, each.column): each.cell for each in missing}
    rows.problems = [
        f"row {source.numbers[row]}, {column}: {_end(cell_of[row, column])!r} is not in {images.folder}. Correct the "
        f"cell, or empty it if there is no such {noun}."
        if not path and column
        else ""
        for row, path, column in named
    ]
    names = " and ".join(repr(column.name) for column in files)
    of_ranges = ", which name the first and the last image of each row" * bool(ranges)
    rows.understood.append(f"Images: the column{'s' * (len(files) > 1)} {names} of the table{of_ranges}.")
    if rivals := files[0].rivals:
        rows.doubts.append(
            f"WHICH COLUMN NAMES THE {noun.upper()}S? {files[0].name!r} was taken; {names_text(rivals, 3)} "
            f"would give the rows other {noun}s. Write the names with their endings into the right one."
        )
    rows.doubts += _gaps(ranges, source, noun) if ranges else []
    if in_others := [pair for column in files for pair in image_files.in_other_folders(column, cells[column.name])]:
        rows.doubts.append(_other_folders(in_others, images))
    return rows, missing


def _rows_that_name_files(column: FileColumn, cells: Sequence[str]) -> list[int]:
    """The rows whose cell is a name and no remark such as `no photograph 2021`.

    A name ends as an image. Others have the form of one that was found, without its ending: letters, marks and numbers
    in the same order.

    >>> cells = ["1.jpg", "2.jpg", "none taken", "n/a", "0"]
    >>> _rows_that_name_files(FileColumn("Foto", ["1.jpg", "", "", "", ""]), cells)
    [0, 1]
    >>> _rows_that_name_files(FileColumn("Foto", ["IMG_1.jpg", "", ""]), ["IMG_1", "IMG_22", "none 2021"])
    [0, 1]
    >>> _rows_that_name_files(FileColumn("Foto", ["p1/IMG_1.jpg", "", ""]), ["p1\\\\IMG_1.jpg", "p2\\\\IMG_2", "2021"])
    [0, 1]
    """
    with_file = [own for own, path in zip(cells, column.paths, strict=True) if path]
    without = [own for own in with_file if not _ends_as_image(own)]
    forms = {_form(own) for own in without} if 2 * len(without) > len(with_file) else set()
    # of names with an ending, those that cannot be a number or a remark
    stems = {_form(stem_of(own)) for own in with_file if _ends_as_image(own)}
    forms |= {form for form in stems if "0" in form and re.search(r"[^\W\d_]", form)}
    words = bool(with_file) and not any(re.search(r"[\d\\/.]", own) for own in with_file)
    return [
        row
        for row, cell in enumerate(cells)
        if cell and cell.casefold() not in EMPTY and (words or _ends_as_image(cell) or _form(cell) in forms)
    ]


def _form(cell: str) -> str:
    return re.sub(r"\d+", "0", image_files.file_name(cell))


def _gaps(ranges: Sequence[Sequence[str]], source: Source, noun: str) -> list[str]:
    """A doubt if ranges of numbered files contain numbers without a file."""
    shown = []
    for number, paths in zip(source.numbers, ranges, strict=True):
        ends = [re.findall(r"\d+", stem_of(path)) for path in (*paths[:1], *paths[-1:])]
        size = int(ends[1][-1]) - int(ends[0][-1]) + 1 if all(ends) else len(paths)
        if size > len(paths) > 1:
            shown.append(f"row {number} has {len(paths)} of {size}")
    head = f"Ranges with numbers that have no {noun}: {len(shown):,} ({_listed(shown)})."
    return [f"{head} The other {noun}s are used."] if shown else []


def _other_folders(pairs: Sequence[tuple[str, str]], images: ImageFiles) -> str:
    """A doubt on cells that name other folders than their files, with what agrees and what does not."""
    cell, path = pairs[0]
    of_cell, of_path = (re.split(r"[\\/]+", text.strip()) for text in (cell, path))
    same = 0
    while name_key(of_cell[-same - 1]) == name_key(of_path[-same - 1]):
        same += 1
        if same == min(len(of_cell), len(of_path)):
            break
    same = max(same, 1)  # a name without its ending
    begin, here = "/".join(of_cell[:-same]), "/".join(of_path[:-same])
    agrees = "only the names of the files agree"
    if same > 1:
        agrees = f"{'/'.join(of_path[-same:])} agrees, and the folders before it do not"
    heads = {"/".join(re.split(r"[\\/]+", p)[: len(of_path) - same]) for _, p in pairs}
    remedy = (
        f" If they are, name the folder: --images {shlex.quote(str(images.folder / here))}."
        if same > 1 and len(heads) == 1
        else ""
    )
    return (
        f"CELLS THAT NAME ANOTHER FOLDER than the folder of their {images.noun}: {len(pairs):,}, such as "
        f"{_end(cell)} for {_end(path)}: {agrees} ({begin!r} in the table, {here!r} on the disk). Check that they are "
        f"the same {images.noun}s.{remedy}"
    )


def missing_doubts(
    rows: ImageRows, missing: Sequence[Missing], source: Source, images: ImageFiles, unused: Sequence[str], who: str
) -> list[str]:
    """Doubts on rows without any image, and on named images that were not found although their row has others.

    Args:
        who: the column of the subjects; '' without one, or if it names people.
    """
    noun, folder = images.noun, images.folder.resolve().name
    present = {rows.sources[position] for position in rows.present}
    alone = [each for each in missing if each.row not in present]
    beside = [each for each in missing if each.row in present]

    def named(each: Missing) -> str:
        subject = f" ({source.cells[who][each.row][:40]})" if who and source.cells[who][each.row] else ""
        cell = f", {each.column}: {_end(each.cell)!r}" if each.column else f": no {noun} is named"
        return f"row {source.numbers[each.row]}{subject}{cell}"

    doubts = []
    if beside:
        count = len({each.row for each in beside})
        doubts.append(
            f"NAMED {noun.upper()}S THAT WERE NOT FOUND in {folder}: {len(beside):,}, in {counted(count, 'row')} with "
            f"other {noun}s ({_listed(list(map(named, beside)))}).{_similar(beside, unused)} Correct these cells, or "
            f"empty them if there are no such {noun}s. {KEPT_IMAGES}"
        )
    if alone:
        first = {each.row: named(each) for each in reversed(alone)}
        doubts.append(
            f"Rows without {noun} in {folder}: {len(first):,} ({_listed([*first.values()][::-1])})."
            f"{_similar(alone, unused)} {KEPT_ROWS}"
        )
    return doubts


def _similar(missing: Sequence[Missing], unused: Sequence[str]) -> str:
    """A hint at a file that no row names and a cell may mean; '' if there is none.

    A name with other numbers is a file of another person or visit, unless it is in the folder that the cell names.
    """
    names = {image_files.file_name(path): path for path in unused}
    for each in missing[:_SHOWN] if unused else ():
        own = image_files.file_name(each.cell)
        options = [name for name in names if _numbers(name) == _numbers(own) and name_key(name) != name_key(own)]
        if own and (hint := nearest(own, options)):
            return hint
        folders = _keys(each.cell)[:-1]
        beside = [p for p in unused if folders and _keys(p)[:-1][-len(folders) :] == folders[-len(_keys(p)[:-1]) :]]
        beside = [path for path in beside if "/" in path]
        if 0 < len(beside) <= 3:
            return f" The folder of {own!r} has {names_text(list(map(image_files.file_name, beside)), 3)}, in no row."
    return ""


def _keys(path: str) -> list[str]:
    return [name_key(name) for name in re.split(r"[\\/]+", path) if name not in ("", ".", "..")]


def _numbers(name: str) -> list[int]:
    return list(map(int, re.findall("[0-9]+", stem_of(name))))


def unread_columns(source: Source, files: Sequence[FileColumn], images: ImageFiles) -> list[str]:
    """A doubt on each column that names image files and is not used, because few of them exist."""
    index, doubts = FileIndex(images.paths, images.companions), []
    used = {column.name for column in files}
    for name, values in source.cells.items():
        filled = [value for value in values if value and value.casefold() not in EMPTY]
        named = sum(map(_ends_as_image, filled))
        if name in used or names_masks(name) or not filled or named < _MOSTLY_FILES * len(filled):
            continue
        found = sum(bool(index.find(value)) for value in filled)
        if found < _MOSTLY_FILES * len(filled):
            lost = next(
                (number, value)
                for number, value in zip(source.numbers, values, strict=True)
                if value and value.casefold() not in EMPTY and not index.find(value)
            )
            doubts.append(
                f"A COLUMN OF {images.noun.upper()}S IS NOT USED: {name!r} names files, and {found:,} of "
                f"{len(filled):,} are in {images.folder.resolve().name} (not so row {lost[0]}: {_end(lost[1])!r}). "
                "Correct its cells if these images belong to the cases."
            )
    return doubts


def _end(path: str) -> str:
    """A path from the last folders that fit into a message."""
    path = " ".join(path.split())
    return path if len(path) <= _LONGEST else f"…{path[-_LONGEST:].lstrip(' ')}"


def _listed(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
