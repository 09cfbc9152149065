"""The files of slides: their defects, determined without reading them whole, and which files belong together.

In most formats a slide is one file; in some the main file refers to others with the pixels. .mrxs: the folder of the
same name. .vms and .vmu: the files that it names. DICOM: every other file of the folder with the same suffix, because
only reading all of them shows which belong to the same series.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from casewise.cohort.folder_layout import SLIDES
from casewise.modalities.store.file_check import name_content, size_of

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOGRAPH_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
# Slides that begin like photographs or text: with a JPEG preview, or with a list of file names.
INDEX_FILES = {".mrxs", ".vms", ".vmu"}
SLIDE_FILES = set(SLIDES)
HEAD = 512
# More directories than any slide has; the limit ends a file whose directories form a circle.
MOST_DIRECTORIES = 1000
# An index is a short text; a larger file is not an index.
LONGEST_INDEX = 2**20
# The position of the DICOM mark, and the class of slides (VL Whole Slide Microscopy Image Storage).
DICOM_HEAD, PREAMBLE = 2048, 128
DICOM, WHOLE_SLIDE = b"DICM", b"1.2.840.10008.5.1.4.1.1.77.1.6"
DICOM_FILES = {".dcm", ".dicom", ""}


def checked_size(path: Path) -> int:
    """Return the size in bytes of a file that should be a slide.

    Raises:
        ImageError: it is missing, empty, a folder, or may not be read.
    """
    return size_of(path, "Name a slide.")


def name_no_slide(path: Path) -> str:
    """A clause and a remedy on the content of a file that OpenSlide does not read."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.startswith(TIFF_HEADS):
        if missing := cut_short(path):
            return f"the slide is cut short ({missing}). Copy it again from its source."
        return "this TIFF is not a slide (it is not tiled, or its kind is unknown). Save it as a pyramidal, tiled TIFF."
    if path.suffix.lower() in INDEX_FILES:
        return f"the files next to this {path.suffix} are missing. Copy it again from its source, with its folder."
    if head.startswith(PHOTOGRAPH_HEADS):
        return (
            "this is a JPEG, PNG or WebP, not a slide. Name the slide it was made from. To use this picture as a "
            "whole, correct the suffix of its name."
        )
    return (
        f"this is {name_content(head)}, not a slide that can be read (.svs, .ndpi, tiled .tiff and the other "
        "formats of OpenSlide). Copy it again from its source, or leave it out of the table."
    )


def is_cut_tiff(path: Path) -> bool:
    """Whether this is a TIFF that ends before the last of its directories.

    Raises:
        ImageError: the file is empty, or may not be read.
    """
    checked_size(path)
    with open(path, "rb") as file:
        head = file.read(4)
    return head.startswith(TIFF_HEADS) and bool(cut_short(path))


def cut_short(path: Path) -> str:
    """A clause on the directory of a TIFF that lies beyond the end of the file; empty if there is none."""
    with open(path, "rb") as file:
        head = file.read(4)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        big = 43 in head
        # Bytes of an offset, of the count of a directory, and of one entry.
        word, count, entry = (8, 8, 20) if big else (4, 2, 12)
        end, at = file.seek(0, os.SEEK_END), 8 if big else 4
        for number in range(1, MOST_DIRECTORIES):
            file.seek(at)
            offset = int.from_bytes(file.read(word), order)
            if offset == 0:
                break
            # Offsets of a damaged file may be arbitrary; nothing is read beyond the end.
            file.seek(min(offset, end))
            at = offset + count + entry * int.from_bytes(file.read(count), order)
            if at + word > end:
                return f"it ends at byte {end:,}, but its directory {number} is at byte {offset:,}"
    return ""


def companion_files(path: Path) -> list[Path]:
    """The other files of a slide, by name; empty if the slide is one file or they cannot be listed.

    >>> companion_files(Path("a.svs"))
    []
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".mrxs":
            folder = path.with_suffix("")
            return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        if suffix in {".vms", ".vmu"}:
            return sorted(path.parent / name for name in _named(path) if (path.parent / name).is_file())
        if suffix in DICOM_FILES and _is_dicom_slide(path):
            alike = (file for file in path.parent.iterdir() if file.suffix.lower() == suffix and file != path)
            return sorted(file for file in alike if file.is_file())
    except OSError:
        # Opening the slide raises the error.
        return []
    return []


def companions_hash(path: Path) -> str:
    """A hash of name, size and time of the other files of a slide; empty if the slide is one file."""
    stamps = []
    for file in companion_files(path):
        try:
            status = os.stat(file)
        except OSError:
            continue
        stamps.append([file.name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:12] if stamps else ""


def _named(path: Path) -> set[str]:
    """The values in an index, which include names of files."""
    with open(path, "rb") as file:
        text = file.read(LONGEST_INDEX).decode("utf-8", errors="replace")
    values = (line.split("=", 1)[1].strip() for line in text.splitlines() if "=" in line)
    # An index never refers to files outside its folder.
    return {value for value in values if value and "\0" not in value and Path(value).name == value} - {path.name}


def _is_dicom_slide(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(DICOM_HEAD)
    return head[PREAMBLE : PREAMBLE + len(DICOM)] == DICOM and WHOLE_SLIDE in head
