"""The images below a folder, and which column of a table names them, however their paths are written."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from casewise.cohort.clinical_words import plain_words
from casewise.cohort.companions import Companion, companions, companions_text, names_masks
from casewise.cohort.folder_layout import DICOM_SUFFIXES, ENDINGS, VOLUME_FILES, stem_of, walk
from casewise.cohort.table import names_text, natural, rows_text
from casewise.errors import CasewiseError, counted
from casewise.modalities.store.dicom_file import damage, quiet_pydicom, text_of
from casewise.names import name_key, one_form, stand_ins

# DICOM modalities whose files are single pictures; all others are slices of a scan.
PLANAR = ("CR", "DX", "DR", "MG", "RG", "IO", "PX", "XC", "OP", "ES", "GM", "SM", "DMS")
# Pictures whose colours are looked at.
_SAMPLE = 20


@dataclass(frozen=True)
class ImageFiles:
    """The images below `folder`: paths relative to it with `/`, in natural order, and the files that are none.

    `scans`: the paths are volumes, NIfTI files or folders of DICOM slices; else they are image files. `companions` are
    masks and other files that belong to an image, by path; `unclear` are images that have the name of one.
    """

    folder: Path
    paths: list[str]
    skipped: list[str]
    scans: bool
    companions: dict[str, Companion] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        return "scan" if self.scans else "image"


def find_images(folder: Path) -> ImageFiles:
    """Find the images below a folder; if there are scans and image files, the more frequent kind counts.

    Raises:
        CasewiseError: the folder is missing, cannot be read, or contains no images.
    """
    images: list[str] = []
    scans: list[str] = []
    others: list[str] = []
    for here, paths, hidden in walk(folder):
        others += hidden
        slices = [path for path in paths if path.casefold().endswith(DICOM_SUFFIXES)]
        for path in paths:
            name = path.rpartition("/")[2].casefold()
            if name.endswith(VOLUME_FILES):
                scans.append(path)
            elif not name.endswith(DICOM_SUFFIXES):
                (images if name.endswith(ENDINGS) else others).append(path)
        # slices of scans, by the modality of the first file and their number
        if len(slices) > 2 and _dicom_value(folder / slices[0], "Modality") not in PLANAR:
            scans.append(here)
        else:
            images += slices
    if not images and not scans:
        names = f" It contains {counted(len(others), 'other file')}, such as {others[0]}." if others else ""
        raise CasewiseError(
            f"{folder} contains no images ({', '.join(dict.fromkeys([*ENDINGS, *VOLUME_FILES]))}).{names}"
        )
    belonging, unclear = companions(folder, [*images, *scans])
    images, scans = ([path for path in paths if path not in belonging] for paths in (images, scans))
    volumes = len(scans) > len(images)
    paths, rest = (scans, images) if volumes else (images, scans)
    return ImageFiles(folder, sorted(paths, key=natural), sorted([*others, *rest]), volumes, belonging, unclear)


def words_of(text: str) -> list[str]:
    """The letters and digits between other characters.

    >>> words_of("t1-mask_2")
    ['t1', 'mask', '2']
    """
    return "".join(c if c.isalnum() else " " for c in text).split()


def _dicom_value(path: Path, tag: str) -> str:
    """A value of the header of a DICOM file; empty if there is none or the file is damaged."""
    try:
        pydicom = quiet_pydicom()
    except ImportError:
        raise CasewiseError(
            f"{path} is a DICOM file, and the package that reads it is missing: pip install 'casewise[volumes]'."
        ) from None
    try:
        return text_of(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[tag], force=True), tag)
    except damage():
        # `validate` names damaged files; here only their kind matters.
        return ""


def are_grey(images: ImageFiles) -> tuple[bool, list[str]]:
    """Whether the readable files in a sample of the images have no colours, as their headers state.

    Also returns the files of the sample that cannot be read.
    """
    from PIL import Image

    if images.scans:
        return False, []
    grey: list[bool] = []
    damaged: list[str] = []
    for path in images.paths[:: max(1, len(images.paths) // _SAMPLE)]:
        if path.casefold().endswith(DICOM_SUFFIXES):
            if samples := _dicom_value(images.folder / path, "SamplesPerPixel"):
                grey.append(samples == "1")
            else:
                damaged.append(path)
            continue
        try:
            with Image.open(images.folder / path) as picture:
                grey.append(picture.mode in ("L", "1", "I;16", "I;16B", "I", "LA"))
        except OSError:
            damaged.append(path)
    return bool(grey) and all(grey), damaged


def skipped_text(images: ImageFiles) -> str:
    """Clauses on the files that are not images, or belong to images; empty if there are none."""
    text = ""
    if images.companions:
        text = f"; left out, because they belong to other images: {companions_text(images.companions.values())}"
    if images.skipped:
        names = names_text([path.rpartition("/")[2] for path in images.skipped], 3)
        text += f"; {counted(len(images.skipped), 'other file')} not used ({names})"
    return text


# Headings of the first and the last of several images, and the stem of a file with its last number.
_FIRST, _LAST = r"(.+ )?(from|von|ab|desde|depuis)( .+)?", r"(.+ )?(to|until|bis|hasta|jusqua)( .+)?"
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")
# The fraction of the filled cells of a column that must name files for the column to be one of file names.
_ENOUGH = 0.5
_AMBIGUOUS_SHOWN = 5


@dataclass(frozen=True)
class FileColumn:
    """A column that names files: the path of each cell ('' if there is no such file).

    `rivals` are columns that name files as well as this one does, but other ones in the same rows.
    """

    name: str
    paths: list[str]
    rivals: tuple[str, ...] = ()


class FileIndex:
    """The images of a folder by every ending of their paths, with and without the ending of the file.

    `companions` are named where no image has the name.
    """

    def __init__(self, paths: Sequence[str], companions: Collection[str] = ()) -> None:
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._companions = frozenset(companions)
        for path in [*paths, *companions]:
            parts = list(map(name_key, path.split("/")))
            for start in range(len(parts)):
                key = "/".join(parts[start:])
                for form in {key, stem_of(key)}:
                    self._by_key[form].append(path)

    def find(self, cell: str) -> list[str]:
        """The files that a cell may name: by as much of its path as possible; a path of the same case wins.

        >>> FileIndex(["a/1.jpg", "b/1.jpg", "b/2.PNG"]).find("C:\\\\data\\\\b\\\\1.jpg")
        ['b/1.jpg']
        >>> FileIndex(["a/1.jpg", "b/1.jpg", "b/2.PNG"]).find("2"), FileIndex(["a/1.jpg", "b/1.jpg"]).find("1.jpg")
        (['b/2.PNG'], ['a/1.jpg', 'b/1.jpg'])
        """
        keys = ["/".join(_parts(cell)[start:]) for start in range(len(_parts(cell)))]
        for key in (*keys, *map(stem_of, keys)):
            if paths := self._by_key.get(key):
                paths = [path for path in paths if path not in self._companions] or paths
                same = [path for path in paths if one_form(path).endswith(one_form(file_name(cell.rstrip("\\/"))))]
                return same if len(same) == 1 else paths
        return []


def file_name(cell: str) -> str:
    """The last part of a path, also of Windows."""
    return cell.replace("\\", "/").rpartition("/")[2]


def _parts(cell: str) -> list[str]:
    return [name for name in map(name_key, cell.replace("\\", "/").split("/")) if name not in ("", ".", "..")]


def file_columns(
    cells: Mapping[str, Sequence[str]], images: ImageFiles, rows: Sequence[int], subject: str = ""
) -> list[FileColumn]:
    """The columns that name the images: the best one, and others that name further files in the same rows.

    The column of the `subject` names files only where each name belongs to one.

    Raises:
        CasewiseError: cells of such a column may name several files, or name other folders than those of the files.
    """
    index = FileIndex(images.paths, images.companions)
    disagreeing: tuple[str, str, str, str] | None = None
    candidates: list[tuple[tuple[int, bool, int], FileColumn, dict[int, list[str]]]] = []
    few: dict[str, tuple[list[str], dict[int, list[str]]]] = {}
    for position, (name, values) in enumerate(cells.items()):
        if names_masks(name):
            continue
        others = {name_key(value) for other in cells if other != name for value in set(cells[other])} - {""}
        named = {value: index.find(value) for value in dict.fromkeys(values)}
        options = _agreeing(named, images.folder, others)
        paths = [options[value][0] if options[value] else "" for value in values]
        matched, different = sum(map(bool, paths)), len(set(paths) - {""})
        lost = [value for value in named if named[value] and not options[value] and "/" in value.replace("\\", "/")]
        if lost and not matched and len(lost) >= _ENOUGH * sum(map(bool, named)):
            disagreeing = disagreeing or (name, lost[0], named[lost[0]][0], _beginnings({v: named[v] for v in lost}))
        unclear = {row: options[value] for row, value in zip(rows, values, strict=True) if len(options[value]) > 1}
        # a number that happens to be the stem of a file names it only if it names many different ones
        if not matched or matched < _ENOUGH * sum(map(bool, values)) or different < 0.5 * matched:
            few[name] = paths, unclear
            continue
        has_ending = any(stem_of(value) != value or "/" in value for value in values)
        if unclear and name == subject and not has_ending:
            continue
        candidates.append(((matched - len(unclear), has_ending, -position), FileColumn(name, paths), unclear))
    if disagreeing and not candidates:
        name, cell, path, beginnings = disagreeing
        raise CasewiseError(
            f"{name}: the paths of the table and the images of {images.folder} agree in names of files alone, or in "
            f"several ways, such as {cell[:80]!r} and {path!r}, which may be different {images.noun}s. Name the folder "
            f"with --images to which the paths lead, or correct them.{beginnings}"
        )
    candidates.sort(key=lambda candidate: candidate[0], reverse=True)
    # a column of masks, whatever its name, next to one of images
    of_images = [each for each in candidates if not set(each[1].paths) - {""} <= set(images.companions)]
    candidates = of_images or candidates
    columns: list[FileColumn] = []
    for rank, column, unclear in candidates:
        if columns and set(column.paths) - {""} & {path for other in columns for path in other.paths}:
            if rank[:2] == candidates[0][0][:2] and column.paths != columns[0].paths:
                columns[0] = replace(columns[0], rivals=(*columns[0].rivals, column.name))
            continue
        if unclear:
            raise _ambiguous(column.name, unclear, images, dict(zip(rows, cells[column.name], strict=True)))
        columns.append(column)
    # `Foto 3` beside `Foto 1`, with few files that exist, or none
    for name, (paths, unclear) in few.items():
        used = {path for column in columns for path in column.paths} - {""}
        if any(_are_numbered(name, column.name, cells) for column in columns) and not used & set(paths):
            if unclear:
                raise _ambiguous(name, unclear, images, dict(zip(rows, cells[name], strict=True)))
            columns.append(FileColumn(name, paths))
    return columns


def _are_numbered(name: str, other: str, cells: Mapping[str, Sequence[str]]) -> bool:
    """Whether two headings differ in their numbers alone, and some cells have the same form.

    >>> _are_numbered("Foto 2", "Foto 1", {"Foto 1": ["IMG_1.JPG"], "Foto 2": ["", "IMG_07.JPG"]})
    True
    """
    heads = [[word for word in plain_words(each) if not word.isdecimal()] for each in (name, other)]
    forms = [{re.sub(r"\d+", "0", file_name(cell)) for cell in cells[each]} - {""} for each in (name, other)]
    return bool(heads[0]) and heads[0] == heads[1] and bool(forms[0] & forms[1])


def images_of_ranges(
    files: Sequence[FileColumn], images: ImageFiles, rows: Sequence[int], missing: Collection[int] = ()
) -> list[list[str]]:
    """The images of each row where one column names the first and another the last one of a series; [] if none do.

    Args:
        missing: positions of rows that name a file that does not exist: their images are not known.

    Raises:
        CasewiseError: a range begins and ends in different series, or contains an image of another row.
    """
    ends = [[re.fullmatch(each, " ".join(plain_words(file.name))) for file in files] for each in (_FIRST, _LAST)]
    firsts, lasts = ([number for number, match in enumerate(each) if match] for each in ends)
    if len(files) != 2 or len(firsts) != 1 or len(lasts) != 1 or firsts == lasts:
        return []
    first, last = files[firsts[0]], files[lasts[0]]
    series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for path in images.paths:
        if match := _NUMBERED.fullmatch(stem_of(path)):
            series[match[1], match[3]].append((int(match[2]), path))
    owner: dict[str, int] = {}
    of_rows = []
    for position, (row, start, end) in enumerate(zip(rows, first.paths, last.paths, strict=True)):
        of_series = [_NUMBERED.fullmatch(stem_of(path)) for path in (start, end or start)]
        begin, stop = of_series if all(of_series) else (None, None)
        if (not start and not end) or position in missing:
            of_rows.append([""])
            continue
        if not begin or not stop or begin.group(1, 3) != stop.group(1, 3) or int(begin[2]) > int(stop[2]):
            raise CasewiseError(
                f"row {row}, {first.name} and {last.name}: {start or 'no file'} to {end or 'no file'} is no range of "
                "numbered files. Correct the cells, or name every image in a row of its own."
            )
        numbers = range(int(begin[2]), int(stop[2]) + 1)
        own = [path for number, path in series[begin[1], begin[3]] if number in numbers]
        if other := next((path for path in own if owner.setdefault(path, row) != row), ""):
            raise CasewiseError(
                f"rows {owner[other]} and {row}, {first.name} and {last.name}: {other} is in the ranges of both. "
                "Correct the cells."
            )
        of_rows.append(own)
    return of_rows


def _agreeing(options: Mapping[str, list[str]], folder: Path, values: Collection[str]) -> dict[str, list[str]]:
    """The files that cells may mean, without those of which a cell names another folder (`stand_ins`).

    If all files are in one folder, they have no other to disagree with.

    >>> cells = ["D:/S/P1/a.jpg", "D:/S/P3/a.jpg"]
    >>> list(_agreeing({cell: ["S/P1/a.jpg"] for cell in cells}, Path("in"), []).values())
    [['S/P1/a.jpg'], []]
    """
    pairs = [(cell, path) for cell, paths in options.items() for path in paths]
    differing = {pair: _differing(_parts(pair[0]), _parts(pair[1])) for pair in pairs}
    accepted = stand_ins(differing.values(), folder, values)
    if all("/" not in path for _, path in pairs):
        accepted = set(differing.values())
    kept = {
        cell: [path for path in paths if not differing[cell, path][0] or differing[cell, path] in accepted]
        for cell, paths in options.items()
    }
    # a file that cells with different folders mean is nobody's
    folders: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for cell, paths in kept.items():
        for path in paths:
            folders[path].add(tuple(_parts(cell)[:-1]))
    return {cell: [path for path in paths if not _contradict(folders[path])] for cell, paths in kept.items()}


def _beginnings(named: Mapping[str, list[str]]) -> str:
    """A sentence on paths that lead to files here, but begin in several ways; '' if they begin in one."""
    beginnings: dict[str, None] = {}
    for cell, (path, *_) in named.items():
        if not _differing(_parts(cell), _parts(path))[1]:
            tail = re.split(r"[\\/]", cell)[-len(_parts(path)) :]
            beginnings[cell[: -len("/".join(tail)) - 1]] = None
    shown = names_text(list(beginnings), 2)
    text = f" They begin in several ways, such as {shown}: if these are one folder, write one of them."
    return text if len(beginnings) > 1 else ""


def _differing(cell: list[str], file: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders of a cell and of a file without those at their ends that are equal; the names of both are equal."""
    common = 1
    while common < min(len(cell), len(file)) and cell[-common - 1] == file[-common - 1]:
        common += 1
    return tuple(cell[:-common]), tuple(file[:-common])


def _contradict(folders: Collection[tuple[str, ...]]) -> bool:
    """Whether some folders are not the ends of others."""
    longest = max(folders, key=len)
    return any(each != longest[len(longest) - len(each) :] for each in folders)


def in_other_folders(column: FileColumn, cells: Sequence[str]) -> list[tuple[str, str]]:
    """The cells that name another folder than their file's, each with the file.

    >>> in_other_folders(FileColumn("file", ["b/1.jpg", "b/2.jpg", "b/3.jpg"]), ["a/1.jpg", "D:/b/2.jpg", "3"])
    [('a/1.jpg', 'b/1.jpg')]
    """
    contrary: list[tuple[str, str]] = []
    beginnings: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cell, path in zip(cells, column.paths, strict=True):
        rest, folders = _parts(cell)[:-1], _parts(path)[:-1]
        while rest and folders and rest[-1] == folders[-1]:
            rest, folders = rest[:-1], folders[:-1]
        if path and rest and folders:
            contrary.append((cell, path))
        elif path and rest:
            beginnings["/".join(rest)].append((cell, path))
    # files of several folders of the table that lie in one folder here
    return contrary + [pair for pairs in beginnings.values() for pair in pairs if len(beginnings) > 1]


def moved_beginning(column: FileColumn, cells: Sequence[str], folder: Path) -> str:
    """The folder of another computer as which the folder of the images is read; empty if it has the same name."""
    pairs = [_differing(_parts(cell), _parts(path)) for cell, path in zip(cells, column.paths, strict=True) if path]
    beginnings = {of_cell for of_cell, _ in pairs if of_cell}
    if len(beginnings) != 1 or next(iter(beginnings))[-1] == name_key(folder.resolve().name):
        return ""
    return "/".join(next(iter(beginnings)))


def mask_files(cells: Mapping[str, Sequence[str]], images: ImageFiles) -> set[str]:
    """The files that columns of masks name: by their headings, or because they name companions of images only."""
    index = FileIndex(images.paths, images.companions)
    named = {name: {path for v in set(column) for path in index.find(v)} for name, column in cells.items()}
    return set().union(*(p for name, p in named.items() if names_masks(name) or p <= set(images.companions)))


def _ambiguous(
    column: str, unclear: dict[int, list[str]], images: ImageFiles, cells: Mapping[int, str]
) -> CasewiseError:
    lines = [
        f"row {row}, {column}: {cells[row][:80]!r} may be {' or '.join(paths[:3])}"
        for row, paths in list(unclear.items())[:_AMBIGUOUS_SHOWN]
    ]
    if rest := list(unclear)[_AMBIGUOUS_SHOWN:]:
        lines.append(f"and {len(rest):,} more ({rows_text(rest)})")
    head = (
        f"{counted(len(unclear), 'cell')} of the table may name several files of {images.folder}. Write more of the "
        "path into the table, with the ending, or name a folder with one copy of each file."
    )
    return CasewiseError("\n  ".join([head, *lines]))
