"""Naming what is wrong with a file that should be a slide, without reading the whole of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from casewise.errors import ImageError, nearest
from casewise.images.content import name_content

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOGRAPH_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
HEAD = 512
# More directories than any slide has: a file that goes round in circles ends here.
MOST_DIRECTORIES = 1000


def checked_size(path: Path) -> int:
    """Return the file's bytes.

    Raises:
        ImageError: it is missing, empty, a folder, or may not be read.
    """
    try:
        if path.is_dir():
            raise ImageError(f"{path}: this is a folder. Name a slide in it.")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: this is a device or a pipe. Name a slide.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise ImageError(f"{path}: there is no such file. The folder {path.parent} does not exist.") from error
        hint = nearest(path.name, sorted(os.listdir(path.parent)))
        raise ImageError(f"{path}: there is no such file.{hint}") from error
    except PermissionError as error:
        raise ImageError(f"{path}: you have no permission to read it. Allow reading, for example: chmod +r.") from error
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
    if not size:
        raise ImageError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    return size


def name_no_slide(path: Path) -> str:
    """Say what a file is that OpenSlide does not read, and what to do."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.startswith(TIFF_HEADS):
        if missing := cut_short(path):
            return f"the slide is cut short ({missing}). Copy it again from its source."
        return "this TIFF is no slide (not of tiles, or of an unknown kind). Save it as a pyramidal, tiled TIFF."
    found = "a JPEG, PNG or WebP" if head.startswith(PHOTOGRAPH_HEADS) else name_content(head)
    return f"this is {found}, not a slide that can be read (.svs, .ndpi, tiled .tiff and what else OpenSlide reads)."


def cut_short(path: Path) -> str:
    """Say which directory of a TIFF lies beyond its end; empty if all are there."""
    with open(path, "rb") as file:
        head = file.read(4)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        big = 43 in head
        # Bytes of an offset, of the count of a directory, and of one entry.
        word, count, entry = (8, 8, 20) if big else (4, 2, 12)
        end, at = file.seek(0, os.SEEK_END), 8 if big else 4
        for number in range(1, MOST_DIRECTORIES):
            file.seek(at)
            place = int.from_bytes(file.read(word), order)
            if place == 0:
                break
            # The file may be damaged, too, and point anywhere; beyond the end nothing is read.
            file.seek(min(place, end))
            at = place + count + entry * int.from_bytes(file.read(count), order)
            if at + word > end:
                return f"it ends at byte {end:,}, its directory {number} lies at byte {place:,}"
    return ""
