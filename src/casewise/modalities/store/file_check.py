"""The check of a file before a library reads it: its size, or an error that states what is wrong."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from pathlib import Path

from casewise.errors import ImageError, nearest

# The errors of NumPy on damaged files, determined by damaging files at random.
ARRAY_DAMAGE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, SyntaxError, OverflowError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def size_of(path: Path, *, folder: str, other: str) -> int:
    """Return the size of the file in bytes.

    Args:
        folder: the end of the message if the path is a folder.
        other: the end of the message if it is a device or a pipe.

    Raises:
        ImageError: it is missing, empty, not a file, or may not be read.
    """
    try:
        if path.is_dir():
            raise ImageError(f"{path}: {folder}")
        if path.exists() and not path.is_file():
            # Opening a pipe would block.
            raise ImageError(f"{path}: {other}")
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
