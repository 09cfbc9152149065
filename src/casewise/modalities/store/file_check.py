"""Checks of a file before a library reads it: its size, the kind of its content, and errors with a remedy."""

from __future__ import annotations

import errno
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

from casewise.errors import ImageError, nearest

# The most names of files that are compared with a missing one.
_COMPARED = 5_000
# The errors of NumPy on damaged files, determined by damaging files at random.
ARRAY_DAMAGE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, SyntaxError, OverflowError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def raise_if_memory(error: Exception) -> None:
    """Raise `MemoryError` if mapping a file failed for lack of memory, since the file is then not damaged.

    Raises:
        MemoryError: the error is such a limit.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        raise MemoryError(str(error)) from error


def size_of(path: Path, remedy: str) -> int:
    """Return the size of the file in bytes.

    Args:
        remedy: the end of the message if the path is a folder, a device or a pipe.

    Raises:
        ImageError: it is missing, empty, not a file, or may not be read.
    """
    try:
        if path.is_dir():
            raise ImageError(f"{path}: this is a folder. {remedy}")
        if path.exists() and not path.is_file():
            # Opening a pipe would block.
            raise ImageError(f"{path}: this is a device or a pipe. {remedy}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.{_similar(path)}") from error
    except PermissionError as error:
        raise ImageError(f"{path}: you have no permission to read it. Allow reading, for example: chmod +r.") from error
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
    if not size:
        raise ImageError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    return size


def _similar(path: Path) -> str:
    """A hint for a missing file: a similar name (capitals, ending, a few letters), or a missing folder."""
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist."
    try:
        names = sorted(os.listdir(path.parent))
    except PermissionError:
        return ""
    stem = path.stem.casefold()
    same = next((name for name in names if Path(name).stem.casefold() == stem), None)
    if same:
        return f" Did you mean {same!r}?"
    # a name with other digits is usually another person's
    return nearest(path.name, [name for name in names[:_COMPARED] if _digits(name) == _digits(path.name)])


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


_BEGINNINGS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"%PDF", "a PDF"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive (a volume such as .nii.gz?)"),
)


def name_content(head: bytes) -> str:
    r"""Return the kind of content that a file's first bytes indicate, with an article.

    >>> name_content(b"GIF89a..."), name_content(b"path,subject\n"), name_content(bytes(64))
    ('a GIF', 'a text file', 'a file of zero bytes (an interrupted copy?)')
    """
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[4:8] == b"ftyp":
        return "an AVIF" if head[8:12] in {b"avif", b"avis"} else "a video"
    if not any(head):
        return "a file of zero bytes (an interrupted copy?)"
    # A multi-byte character may be cut off at the end of the head.
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) >= len(head) - 3 and all(sign.isprintable() or sign in "\r\n\t\f\ufeff" for sign in text):
        return "a text file"
    return f"a file of unknown content (it begins with {head[:8].hex(' ')})"
