"""Writing files durably: a reader sees the old file or the new one, never half of one, also after a power failure."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import RunError, shortened

if TYPE_CHECKING:
    import pandas as pd

# Prefix of temporary files, so that leftovers of a killed process can be deleted.
TEMPORARY = ".casewise-writing-"
# Seconds without a change after which a temporary file or folder counts as left behind.
ABANDONED = 24 * 3600
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(
    path: Path,
    *,
    durable: bool = True,
    before_replacing: Callable[[Path], None] | None = None,
    unlocked_folder: bool = False,
) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`; when the block ends, it replaces `path` in one step.

    Permissions follow the process's umask, however the block writes the file.

    Args:
        durable: bring the file and its folder to the disk before returning.
        before_replacing: called with the complete temporary file before it is moved.
        unlocked_folder: the folder is any that a user named, so that no lock and no later run cleans it: what killed
            processes left of `path` is removed first (see `_remove_unfinished`).

    Raises:
        RunError: the disk is full or the folder cannot be written; `path` is unchanged and nothing is left behind.
    """
    temporary = _temporary_beside(path)
    try:
        make_folder(path.parent)
        if unlocked_folder:
            _remove_unfinished(path)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            os.chmod(temporary, mode)
        if durable:
            _sync(temporary, os.O_RDWR | NO_FOLLOW)
        if before_replacing:
            before_replacing(temporary)
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        # not the temporary file, but another that the block needed, such as a picture
        other = isinstance(error.filename, str) and Path(error.filename).parent not in (path.parent, Path())
        raise RunError(storage_message(error, Path(error.filename) if other else path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of the folder `path`, for files that will appear there together.

    It is next to `path`, or in it if a disk is mounted there. It is removed with its contents when the block ends;
    a folder that a killed process left is removed at a later call.

    Raises:
        OSError: no folder can be made there.
    """
    if not path.name or path.is_mount():
        path = path / "files"
    make_folder(path.parent)
    _remove_unfinished(path)
    folder = _temporary_beside(path)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True) -> Path:
    """Write `content` to `path` in one step.

    Raises:
        RunError: as `replacing`.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: Path, value: Any, *, durable: bool = True) -> Path:
    """Write `value` as readable JSON in one step; NaN is not allowed in it."""
    return write_atomic(path, json_text(value), durable=durable)


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, never of a pipe, which could block, or of a device, which could be endless.

    Raises:
        OSError: the file is missing, is not a regular file, is larger than `limit` bytes, or cannot be read;
            `strerror` is the reason in words.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, "its path has a character that no path can have") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file but a folder, a pipe or a device")
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, and at most {limit:,} are read")
        # no more memory than needed is reserved, and a file may have grown
        data = file.read(status.st_size + 1)
        data += file.read(limit + 1 - len(data)) if len(data) > status.st_size else b""
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes, and no more are read")
    return data


# How names of tables and of pictures end, for messages on a file of another kind.
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet", ".txt")
PICTURES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".heic", ".dcm", ".dicom", ".nii", ".nii.gz"),
    *(".svs", ".ndpi", ".mrxs"),
)


# How cells begin that a spreadsheet runs as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(cell: str) -> str:
    """A cell of a table for people, with an apostrophe where a spreadsheet would run it; numbers stay as they are.

    `unguarded` is the inverse, and is applied to every text table that is read.

    >>> [guarded(cell) for cell in ("=1+1", "-2.5", "@home", "a=b")]
    ["'=1+1", '-2.5', "'@home", 'a=b']
    """
    # a cell that begins with apostrophes gets one more, so that none of its own is lost when it is read
    return f"'{cell}" if cell.lstrip("'").startswith(FORMULA) and not PLAIN_NUMBER.fullmatch(cell) else cell


def unguarded(cell: str) -> str:
    """A cell without the apostrophe of `guarded`.

    >>> unguarded("'=1+1"), unguarded("'a'"), unguarded(guarded("'=a.jpg"))
    ('=1+1', "'a'", "'=a.jpg")
    """
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(FORMULA) else cell


def csv_text(table: pd.DataFrame) -> str:
    """A table for people as CSV, whose headings and texts no spreadsheet runs.

    >>> import pandas as pd
    >>> csv_text(pd.DataFrame({"n": [1, None], "text": ["=A1", "a"]}, dtype=object))
    "n,text\\n1,'=A1\\n,a\\n"
    """

    import pandas as pd

    def guard(value: Any) -> Any:
        return guarded(value) if isinstance(value, str) else value

    texts = table.copy()
    for column, kind in enumerate(table.dtypes):
        if kind.kind == "O":  # assigned as objects, because `map` makes 1.0 of a whole number beside a gap
            cells = [guard(cell) for cell in table.iloc[:, column]]
            texts.isetitem(column, pd.Series(cells, index=table.index, dtype=object))
    return texts.rename(columns=guard).to_csv(index=False, lineterminator="\n")


def json_text(value: Any) -> str:
    """Readable JSON without NaN, ending in a newline."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


# In a text without any of these every number is finite; looking at every value takes as long as reading it.
MAYBE_NOT_FINITE = re.compile(r"NaN|Infinity|[eE]\+?0*[1-9]\d\d|\d{100}")


def parsed_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or a field is NaN, infinite or too large for a number (1e999).
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        value = json.loads(text)
        if MAYBE_NOT_FINITE.search(text) and (field := next(_not_finite(value, ""), None)):
            raise ValueError(f"the field {shortened(field)} is not a finite number")
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _not_finite(value: Any, field: str) -> Iterator[str]:
    """The fields of a JSON value that are NaN, infinite or too large for a float, such as `metrics.mae.0`."""
    if isinstance(value, (float, int)) and not abs(value) <= sys.float_info.max:
        yield field or "of the whole text"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, (float, int, dict, list)):
            yield from _not_finite(inner, f"{field}.{key}" if field else str(key))


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """A table as Parquet, without its index."""
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def read_parquet(source: Path | bytes, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table as `pandas.read_parquet` does, in this thread alone.

    A thread of pyarrow that still holds bytes of Python when the interpreter ends aborts the process, after everything
    was done (apache/arrow, issue 34314).

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet table, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = source if isinstance(source, bytes) else source.read_bytes()  # files are read by other threads
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        if absent := sorted(set(columns or ()) - set(file.schema_arrow.names)):
            raise ValueError(f"it lacks the column {absent[0]!r}")
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    rows: pd.DataFrame = table.to_pandas(use_threads=False)
    return rows


# What a person can do about a failure of the disk, by its number; the folder is put in.
_ERRORS = {
    "Make room on the disk of {folder}": "ENOSPC EDQUOT",
    "Lift the limit on the size of a file, of this process (`ulimit -f`) or of the disk of {folder}": "EFBIG",
    "Make {folder} writable": "EROFS",
    "Bring {folder} back, such as by mounting its disk or network share again": (
        "ENOENT ENOTDIR ESTALE ENOTCONN ENODEV ENXIO ENOMEDIUM EREMOTEIO EIO ESHUTDOWN EHOSTDOWN EHOSTUNREACH "
        "ENETUNREACH ETIMEDOUT"
    ),
    "Check the permissions of {folder}": "EACCES EPERM",
}
REMEDIES = {
    getattr(errno, name): text for text, names in _ERRORS.items() for name in names.split() if hasattr(errno, name)
}


def storage_message(error: OSError, path: Path) -> str:
    """A sentence on a failure of the disk: the file, the reason, and what to do with its folder.

    >>> storage_message(OSError(errno.ENOSPC, "No space left on device"), Path("run/a.json"))[:57]
    'run/a.json could not be written: No space left on device.'
    """
    remedy = REMEDIES.get(error.errno or 0, "Check {folder}").format(folder=path.parent)
    if error.errno == errno.ENOENT and path.parent.is_dir():  # such as /proc, which takes no files
        remedy = f"{path.parent} takes no new files: choose another folder"
    reason = f"{path} could not be written: {error.strerror or error}."
    return f"{reason} {remedy}, then give the same command again; what is finished is kept."


@contextmanager
def storage_failures(folder: Path) -> Iterator[None]:
    """Report a failure of the disk in the block as a `RunError`, whoever meets it; other errors are left as they are.

    A missing file counts only if its folder is missing, too: else it may be a fault of casewise.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else folder / "."
        if error.errno == errno.ENOENT and path.parent.is_dir():
            raise
        raise RunError(storage_message(error, path)) from error


def make_folder(folder: Path) -> Path:
    """Make a folder with its parents and bring the new entries to the disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    return missing[0] if missing else folder


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the system can do so."""
    with suppress(OSError):  # Windows and some network file systems cannot
        _sync(folder, os.O_RDONLY)


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_hash(value: Any) -> str:
    """The SHA-256 of a value as JSON, whatever the order of its keys."""
    return text_hash(json.dumps(value, sort_keys=True))


def sweep(folder: Path) -> None:
    """Remove temporary files that killed processes left below `folder`; the caller holds the folder's lock."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of `path`, a file or folder: what nobody has written to for a day."""
    for temporary in path.parent.glob(f"{TEMPORARY}{'[0-9a-f]' * 16}-{glob.escape(_end(path.name))}"):
        with suppress(OSError):
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                remove = shutil.rmtree if temporary.is_dir() else os.unlink
                remove(temporary)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{_end(path.name)}")


def _end(name: str) -> str:
    """The end of a name, so that a longer one made with it is no longer than the 255 bytes that disks allow."""
    return name.encode(errors="ignore")[-200:].decode(errors="ignore")


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """The folder for what casewise learned about this machine; it may be removed at any time."""
    root = os.environ.get("CASEWISE_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "casewise"


# How long, in seconds, a process waits for a lock that another one may hold just to look.
MOMENT = 0.5


def check_folder(path: Path, own: Collection[str], purpose: str) -> None:
    """Check that a folder is new, empty (hidden files aside), or has a file or folder named in `own`.

    Raises:
        RunError: it has only other files, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, and {purpose} is a folder. Choose another one with --output.")
    if not path.is_dir() or any((path / name).exists() for name in own):
        return
    if other := min((entry.name for entry in path.iterdir() if not entry.name.startswith(".")), default=None):
        raise RunError(
            f"{path} holds other files, such as {other}, and {purpose} is a new or empty folder, or one of the same "
            "kind. Choose another folder with --output."
        )


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of this path; None if it cannot be told, because the file is read-only.

    The lock is held for a moment to find out.
    """
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        return None
    lock.release()
    return False
