"""A file of a run folder: written in one step, with a checksum that is verified whenever the file is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from casewise.errors import DamagedError, RunError
from casewise.files import (
    checksum,
    json_text,
    parquet_bytes,
    parsed_json,
    read_parquet,
    replacing,
    sync_folder,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("casewise")

# In every folder of a run: by file name the checksums that it may have, and a hash of what each content was made from.
CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Artefact:
    """A file of a run folder.

    Attributes:
        remedy: the last sentence of the message about a missing or damaged file.
        portable: whether the file may be copied to a folder that has no record of checksums.
    """

    path: Path
    remedy: str = "Run the study again."
    portable: bool = False

    def exists(self) -> bool:
        """Whether the file exists.

        Raises:
            RunError: the folder cannot be searched.
        """
        with self._reading():
            return self.path.is_file()

    @contextmanager
    def replacing(self, made_from: str = "") -> Iterator[Path]:
        """Yield a temporary file that takes the artefact's place, with its checksum, when the block ends.

        The checksum is recorded before the file is moved, and the present file's checksum stays until the next time:
        after a kill between the two steps, every file still matches its record.

        Args:
            made_from: a hash of the inputs of the content, for `made_from`.
        """
        with replacing(self.path, before_replacing=partial(self._record, made_from=made_from)) as temporary:
            yield temporary

    def made_from(self) -> str:
        """The hash of the inputs that the file was made from; empty if it is missing, was changed or states none."""
        if not self.exists():
            return ""
        recorded = _checksums(self.path.parent).get(self.path.name)
        with self._reading():
            present = checksum(self.path)
        made_from = (recorded or {}).get(present, "")
        if made_from or (recorded and present not in recorded):
            return made_from
        # casewise 1.0 stored it in a file of its own, and no checksums of pages
        with suppress(DamagedError):
            return TextFile(self.path.with_name(f"{self.path.stem}-made-from")).read_if_exists() or ""
        return ""

    def verify(self) -> None:
        """Check the file against its recorded checksum.

        Raises:
            RunError: the file is missing or cannot be read.
            DamagedError: the file differs from what was written, or its checksum is not recorded.
        """
        if not self.exists():
            raise RunError(f"{self.path} is missing. {self.remedy}")
        if self.portable and not Artefact(self.path.with_name(CHECKSUMS)).exists():
            return
        for _ in range(2):  # a second time, in case another process is replacing the file
            allowed = _checksums(self.path.parent).get(self.path.name, {})
            if self.matches(allowed):
                return
        if not allowed:
            raise DamagedError(
                f"{self.path} has no recorded checksum in {CHECKSUMS}, so it cannot be verified. {self.remedy}"
            )
        raise DamagedError(
            f"{self.path} was changed or damaged after it was written: its checksum differs. {self.remedy}"
        )

    def matches(self, checksums: Collection[str]) -> bool:
        """Whether the file has one of these checksums.

        Raises:
            RunError: the file cannot be read.
        """
        with self._reading():
            return checksum(self.path) in checksums

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Report a file that cannot be read; it is neither missing nor damaged, and nothing is computed again."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{self.path} cannot be read: {reason}. Check the disk and the permissions.") from error

    def set_aside(self) -> Path:
        """Rename the file to `*.damaged-N`, so that it is kept but not used.

        Only for a process that holds the lock of the folder and recreates the file; readers raise the error instead.
        """
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        os.replace(self.path, target)
        sync_folder(self.path.parent)
        return target

    def intact(self, *, keep: bool = False) -> bool:
        """Whether the file exists and is intact; a damaged one is set aside with a warning, unless it is to be kept."""
        try:
            if not self.exists():
                return False
            self.verify()
        except DamagedError as error:
            if not keep:
                self.report_damage(error)
            return False
        return True

    def report_damage(self, error: DamagedError) -> None:
        """Set the file aside with a warning."""
        reason = str(error).removesuffix(self.remedy).strip()
        log.warning("%s It is kept as %s and made again.", reason, self.set_aside().name)

    def remove(self) -> None:
        """Remove the file if it exists, and its checksum, so that it does not count as missing."""
        self.path.unlink(missing_ok=True)
        recorded = _checksums(self.path.parent)
        if recorded.pop(self.path.name, None) is not None:
            if recorded:
                write_json(self.path.parent / CHECKSUMS, recorded)
            else:
                # an empty record counts as damaged
                (self.path.parent / CHECKSUMS).unlink()

    def _record(self, temporary: Path, made_from: str = "") -> None:
        folder, name = self.path.parent, self.path.name
        recorded = _checksums(folder, set_aside=True)
        present = checksum(self.path) if self.exists() else ""
        # earlier versions recorded no checksums of pages
        if present and not recorded.get(name) and self.path.suffix != ".html":
            self.report_damage(DamagedError(f"{self.path} has no recorded checksum."))
        elif present and present not in recorded.get(name, [present]):
            self.report_damage(DamagedError(f"{self.path} was changed or damaged after it was written."))
        earlier = {value: inputs for value, inputs in recorded.get(name, {}).items() if value == present}
        # Entries of removed files are dropped.
        recorded = {key: value for key, value in recorded.items() if (folder / key).is_file()}
        write_json(folder / CHECKSUMS, recorded | {name: earlier | {checksum(temporary): made_from}})


V = TypeVar("V")


@dataclass(frozen=True)
class _Value(Artefact, Generic[V]):
    """A file of one value."""

    def write(self, value: V, made_from: str = "") -> Path:
        """Write the value."""
        raise NotImplementedError

    def read(self) -> V:
        """Read and verify the value."""
        raise NotImplementedError

    def step(self, made_from: str, compute: Callable[[], V]) -> V:
        """The stored value if it is intact and was made from these inputs; otherwise `compute` makes it again."""
        if self.made_from() != made_from:
            self.write(compute(), made_from)
        return self.read()

    def read_if_exists(self) -> V | None:
        """The value; None if the file is missing.

        Raises:
            RunError: as `read`.
        """
        return self.read() if self.exists() else None

    def read_or_none(self) -> V | None:
        """The value; None if the file is missing or damaged (it is then set aside with a warning).

        Only the holder of the folder's lock may call it.
        """
        try:
            return self.read_if_exists()
        except DamagedError as error:
            self.report_damage(error)
            return None


@dataclass(frozen=True)
class JsonFile(_Value[dict[str, Any]]):
    """A JSON object; `required` are keys without which it is damaged."""

    required: tuple[str, ...] = ()

    def write(self, value: Mapping[str, object], made_from: str = "") -> Path:
        """Write the object; NaN is not allowed in it."""
        with self.replacing(made_from) as temporary:
            temporary.write_text(json_text(value), encoding="utf-8")
        return self.path

    def read(self) -> dict[str, Any]:
        """Read and verify the object.

        Raises:
            RunError: the file is missing or cannot be read.
            DamagedError: it has changed since it was written, or is not such an object.
        """
        self.verify()
        try:
            with self._reading():
                value = parsed_json(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DamagedError(f"{self.path} cannot be read as JSON ({error}). {self.remedy}") from error
        if not isinstance(value, dict) or not set(self.required) <= set(value):
            raise DamagedError(f"{self.path} does not hold {', '.join(self.required) or 'an object'}. {self.remedy}")
        return value

    def peek(self) -> dict[str, Any] | None:
        """The object without verification, for a file that another process is writing."""
        try:
            value = parsed_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) and set(self.required) <= set(value) else None


@dataclass(frozen=True)
class TableFile(_Value["pd.DataFrame"]):
    """A table in Parquet."""

    def write(self, table: pd.DataFrame, made_from: str = "") -> Path:
        """Write the table, without its index."""
        with self.replacing(made_from) as temporary:
            temporary.write_bytes(parquet_bytes(table))
        return self.path

    def read(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Read and verify the table.

        Raises:
            RunError: the file is missing or cannot be read.
            DamagedError: it has changed since it was written, or is not a Parquet table.
        """
        self.verify()
        try:
            with self._reading():
                return read_parquet(self.path, columns)
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # also of altered metadata of pandas
            raise DamagedError(f"{self.path} cannot be read as a Parquet table ({error}). {self.remedy}") from error


@dataclass(frozen=True)
class TextFile(_Value[str]):
    """A text in UTF-8."""

    def write(self, text: str, made_from: str = "") -> Path:
        """Write the text."""
        with self.replacing(made_from) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return self.path

    def read(self) -> str:
        """Read and verify the text.

        Raises:
            RunError: the file is missing or cannot be read.
            DamagedError: it has changed since it was written.
        """
        self.verify()
        with self._reading():
            return self.path.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class WeightsFile(Artefact):
    """Weights in safetensors: written with `casewise.training.checkpoint.write_tensors`, read from `verified`."""

    def read_bytes(self) -> bytes:
        """The content, not verified: the caller compares it with a checksum.

        Raises:
            RunError: the file is missing or cannot be read.
        """
        if not self.exists():
            raise RunError(f"{self.path} is missing. {self.remedy}")
        with self._reading():
            return self.path.read_bytes()

    def verified(self) -> Path:
        """The path, after verification.

        Raises:
            RunError: the file is missing or cannot be read.
            DamagedError: it has changed since it was written.
        """
        self.verify()
        return self.path


A = TypeVar("A")


class Part(Generic[A]):
    """A file or folder that every folder of a class has: read from a folder, it is the artefact or path.

    Args:
        kind: makes it from its path.
        options: further fields of an artefact.
    """

    def __init__(self, kind: Callable[..., A], name: str, remedy: str = "", **options: Any) -> None:
        self._kind, self._name, self._options = kind, name, options | ({"remedy": remedy} if remedy else {})

    def __get__(self, folder: Any, owner: type) -> A:
        return self._kind(folder.path / self._name, **self._options)


def damaged_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder that are recorded and missing, and those that are not what was written.

    Without its record, which is then the missing or changed one, the others cannot be verified.

    Raises:
        RunError: a file cannot be read.
    """
    record = Artefact(folder / CHECKSUMS)
    if not (recorded := _checksums(folder)):
        return ([], [record.path]) if record.exists() else ([record.path], [])
    files = [(Artefact(folder / name), checksums) for name, checksums in recorded.items()]
    missing = [file.path for file, _ in files if not file.exists()]
    return missing, [file.path for file, checksums in files if file.exists() and not file.matches(checksums)]


def _checksums(folder: Path, *, set_aside: bool = False) -> dict[str, dict[str, str]]:
    """The recorded checksums of a folder, with the hashes of inputs; empty if the record is missing or damaged.

    Args:
        set_aside: set a damaged record aside; only for a caller that holds the folder's lock.
    """
    record = Artefact(folder / CHECKSUMS)
    try:
        with record._reading():
            if not record.exists():
                return {}
            recorded = parsed_json(record.path.read_text(encoding="utf-8"))
        # casewise 1.0 recorded lists of checksums
        return {name: dict.fromkeys(of, "") if isinstance(of, list) else dict(of) for name, of in recorded.items()}
    except (ValueError, AttributeError, TypeError):
        if set_aside:
            log.warning("%s is damaged and kept as %s.", record.path, record.set_aside().name)
        return {}
