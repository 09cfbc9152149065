"""The files of a slide: in most formats one file; in some the main file refers to others with the pixels.

.mrxs: the folder of the same name. .vms and .vmu: the files that it names. DICOM: every other file of the folder with
the same suffix, because only reading all of them shows which belong to the same series.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

__all__ = ["files_beside", "mark_of"]

# An index is a short text; a larger file is not an index.
LONGEST_INDEX = 2**20
# The position of the DICOM mark, and the class of slides (VL Whole Slide Microscopy Image Storage).
HEAD, PREAMBLE = 2048, 128
DICOM, WHOLE_SLIDE = b"DICM", b"1.2.840.10008.5.1.4.1.1.77.1.6"
DICOM_FILES = {".dcm", ".dicom", ""}


def files_beside(path: Path) -> list[Path]:
    """The other files of a slide, by name; empty if the slide is one file or they cannot be listed.

    >>> files_beside(Path("a.svs"))
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


def mark_of(path: Path) -> str:
    """A hash of name, size and time of the other files of a slide; empty if the slide is one file."""
    stamps = []
    for file in files_beside(path):
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
        head = file.read(HEAD)
    return head[PREAMBLE : PREAMBLE + len(DICOM)] == DICOM and WHOLE_SLIDE in head
