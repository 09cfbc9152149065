"""A file of a run folder: written in one step, with a checksum that is verified whenever the file is read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import DamagedError, RunError
from casewise.files import checksum, json_text, parquet_bytes, replacing, sync_folder, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("casewise")

# In every folder of a run: from a file's name to the checksums that it may have.
CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Artefact:
    """A file of a run folder; `remedy` ends the message about a missing or damaged one."""

    path: Path
    remedy: str = "Run the study again."

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """Yield a temporary file that takes the artefact's place, with its checksum, when the block ends.

        The checksum is recorded before the file is moved, and that of the present file stays until the next time: a
        process killed between the two leaves a folder in which every file fits.
        """
        with replacing(self.path, before_replacing=self._record) as temporary:
            yield temporary

    def verify(self) -> None:
        """Check the file against its recorded checksum; a file without one (of an older version) is accepted.

        Raises:
            RunError: the file is missing.
            DamagedError: it is not what was written.
        """
        if not self.path.is_file():
            raise RunError(f"{self.path} is missing. {self.remedy}")
        for _ in range(2):  # once more, in case that it was just being replaced
            allowed = _checksums(self.path.parent).get(self.path.name, [])
            try:
                if not allowed or checksum(self.path) in allowed:
                    return
            except OSError as error:
                raise RunError(f"{self.path} cannot be read: {error.strerror or error}. {self.remedy}") from error
        raise DamagedError(f"{self.path} was changed or damaged after it was written. {self.remedy}")

    def set_aside(self) -> Path:
        """Rename the file to `*.damaged-N`, so that it can be looked into and is not used again."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        os.replace(self.path, aside)
        sync_folder(self.path.parent)
        return aside

    def intact(self) -> bool:
        """Whether the file is there and as it was written; a damaged one is set aside, and a warning says so."""
        if not self.exists():
            return False
        try:
            self.verify()
        except DamagedError as error:
            self.report_damage(error)
            return False
        return True

    def report_damage(self, error: DamagedError) -> None:
        """Set the file aside and say so."""
        reason = str(error).removesuffix(self.remedy).strip()
        log.warning("%s It is kept as %s and made again.", reason, self.set_aside().name)

    def remove(self) -> None:
        """Remove the file if it is there."""
        self.path.unlink(missing_ok=True)

    def _record(self, temporary: Path) -> None:
        folder, name = self.path.parent, self.path.name
        recorded = _checksums(folder)
        present = checksum(self.path) if self.path.is_file() else ""
        if present and present not in recorded.get(name, [present]):
            self.report_damage(DamagedError(f"{self.path} was changed or damaged after it was written."))
        allowed = dict.fromkeys([checksum(temporary), *(c for c in recorded.get(name, []) if c == present)])
        # An entry whose file was removed is forgotten here.
        recorded = {key: value for key, value in recorded.items() if (folder / key).is_file()}
        write_json(folder / CHECKSUMS, recorded | {name: list(allowed)})


@dataclass(frozen=True)
class JsonFile(Artefact):
    """A JSON object; `required` are keys without which it is damaged."""

    required: tuple[str, ...] = ()

    def write(self, value: dict[str, Any]) -> Path:
        """Write the object; NaN is not allowed in it."""
        with self.replacing() as temporary:
            temporary.write_text(json_text(value), encoding="utf-8")
        return self.path

    def read(self) -> dict[str, Any]:
        """Read and verify the object.

        Raises:
            RunError: the file is missing.
            DamagedError: it is not what was written, or not such an object.
        """
        self.verify()
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DamagedError(f"{self.path} cannot be read as JSON ({error}). {self.remedy}") from error
        if not isinstance(value, dict) or not set(self.required) <= set(value):
            raise DamagedError(f"{self.path} does not hold {', '.join(self.required) or 'an object'}. {self.remedy}")
        return value

    def read_or_none(self) -> dict[str, Any] | None:
        """The object; None where the file is missing or damaged (it is then set aside, and a warning says so)."""
        try:
            return self.read() if self.exists() else None
        except DamagedError as error:
            self.report_damage(error)
            return None

    def peek(self) -> dict[str, Any] | None:
        """The object without verification, for a look while another process may be writing it."""
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) and set(self.required) <= set(value) else None


@dataclass(frozen=True)
class TableFile(Artefact):
    """A table in Parquet."""

    def write(self, table: pd.DataFrame) -> Path:
        """Write the table, without its index."""
        with self.replacing() as temporary:
            temporary.write_bytes(parquet_bytes(table))
        return self.path

    def read(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Read and verify the table.

        Raises:
            RunError: the file is missing.
            DamagedError: it is not what was written, or no Parquet table.
        """
        import pandas as pd

        self.verify()
        try:
            return pd.read_parquet(self.path, columns=columns)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{self.path} cannot be read as a Parquet table ({error}). {self.remedy}") from error


@dataclass(frozen=True)
class TextFile(Artefact):
    """A text in UTF-8."""

    def write(self, text: str) -> Path:
        """Write the text."""
        with self.replacing() as temporary:
            temporary.write_text(text, encoding="utf-8")
        return self.path

    def read_or_none(self) -> str | None:
        """The text; None where the file is missing or damaged."""
        return self.path.read_text(encoding="utf-8", errors="replace") if self.intact() else None


@dataclass(frozen=True)
class WeightsFile(Artefact):
    """Weights in safetensors: written with `casewise.training.checkpoint.write_tensors`, read from `verified`."""

    def verified(self) -> Path:
        """The path, after verification.

        Raises:
            RunError: the file is missing.
            DamagedError: it is empty or not what was written.
        """
        self.verify()
        if not self.path.stat().st_size:
            raise DamagedError(f"{self.path} is empty. {self.remedy}")
        return self.path

    def intact(self) -> bool:
        """As `Artefact.intact`; an empty file is damaged, too."""
        try:
            self.verified()
        except DamagedError as error:
            self.report_damage(error)
            return False
        except RunError:
            return False
        return True


def _checksums(folder: Path) -> dict[str, list[str]]:
    """The recorded checksums of a folder; none where an older version made it or the record is damaged."""
    path = folder / CHECKSUMS
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): [str(value) for value in values] for name, values in recorded.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        if path.is_file():
            aside = Artefact(path).set_aside()
            log.warning("%s is damaged and kept as %s. Files there cannot be verified.", path, aside.name)
        return {}
