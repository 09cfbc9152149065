"""The folder of a synthetic cohort: its marks, its images and its table, and the settings that are refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from casewise.errors import CasewiseError, nearest
from casewise.files import write_atomic, write_json

Labels = Literal["true", "shuffled"]

MARK = "synthetic phantom - not a patient"
SOFTWARE = "casewise phantom"
JPEG_QUALITY = 92
EXIF_IMAGE_DESCRIPTION, EXIF_SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True)
class CohortFolder:
    """Where a cohort is written. `settings` is a dataclass with a `seed`; `contents` describes the files."""

    path: Path
    kind: str
    settings: Any
    columns: tuple[str, ...]
    contents: str
    table: str = "cases.csv"

    def claim(self) -> None:
        """Write the marks first, so that even an incomplete cohort states that it is synthetic.

        Raises:
            CasewiseError: the folder is a file, or holds something that is not a phantom of this kind.
        """
        folder = self.path
        if folder.exists() and not folder.is_dir():
            raise CasewiseError(f"{folder} is a file; the phantom needs a folder.")
        if folder.is_dir() and any(folder.iterdir()) and read_note(folder).get("kind") != self.kind:
            raise CasewiseError(
                f"{folder} already holds files that are not a {self.kind} phantom; choose an empty or a new folder."
            )
        # An older table must not describe images that are being replaced.
        (folder / self.table).unlink(missing_ok=True)
        write_json(folder / "phantom.json", self._note(complete=False))
        write_atomic(folder / "README.txt", f"Synthetic phantom cohort: {MARK}.\n\n{self.contents}")

    def finish(self, unit: str, rows: Sequence[Mapping[str, Any]], subjects: Sequence[Mapping[str, Any]]) -> Path:
        """Write the true state of the subjects and the number of images (as `unit`) into `phantom.json`, and the table.

        Returns the path of the table.
        """
        note = self._note(complete=True) | {unit: len(rows), "subjects": list(subjects)}
        write_json(self.path / "phantom.json", note)
        return write_rows(self.path / self.table, self.columns, rows)

    def save(self, name: str, content: bytes) -> None:
        """Write a file of the folder in one step.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        # Not flushed to the disk, which would take a third of the time: a lost image can be drawn again.
        write_atomic(self.path / name, content, durable=False)

    def _note(self, *, complete: bool) -> dict[str, Any]:
        marks = {"synthetic": True, "kind": self.kind, "mark": MARK}
        return marks | {"settings": asdict(self.settings), "seed": self.settings.seed, "complete": complete}


def read_note(folder: Path) -> dict[str, Any]:
    """Return the content of `phantom.json`; empty if the folder holds no phantom."""
    try:
        note = json.loads((folder / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("synthetic") else {}


def write_rows(table: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table as CSV in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomic(table, text.getvalue())


def encoded(pixels: NDArray[np.uint8], suffix: str, *, quality: int = JPEG_QUALITY) -> bytes:
    """Return an image `(H, W)` or `(H, W, 3)` as a PNG or JPEG file whose metadata state that it is synthetic."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if suffix == ".png":
        text = PngInfo()
        text.add_text("Description", MARK)
        text.add_text("Software", SOFTWARE)
        image.save(buffer, "PNG", pnginfo=text, compress_level=3)
    else:
        exif = Image.Exif()
        exif[EXIF_IMAGE_DESCRIPTION], exif[EXIF_SOFTWARE] = MARK, SOFTWARE
        image.save(buffer, "JPEG", quality=quality, exif=exif, comment=MARK.encode())
    return buffer.getvalue()


def check_minimum(values: Iterable[tuple[str, int, int]]) -> None:
    """Refuse a number (name, value, minimum) that is too small.

    Raises:
        CasewiseError: naming it.
    """
    for name, value, minimum in values:
        if value < minimum:
            raise CasewiseError(f"The phantom's {name} must be {minimum} or more; found {value}.")


def check_choice(subject: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed.

    Raises:
        CasewiseError: naming the nearest allowed word.
    """
    if value not in allowed:
        raise CasewiseError(f"{subject} must be one of {', '.join(allowed)}; found {value!r}.{nearest(value, allowed)}")


def check_classes(classes: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse classes that are unknown, repeated, or fewer than two.

    Raises:
        CasewiseError: naming them.
    """
    for name in classes:
        check_choice("The phantom's classes", name, allowed)
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise CasewiseError(f"The phantom's classes must be two or more; found {', '.join(classes) or 'none'}.")


def check_common(labels: str, subjects: int, size: tuple[int, int], limits: tuple[int, int]) -> None:
    """Refuse labels, a number of subjects or a size in pixels that no phantom can have.

    Raises:
        CasewiseError: naming the setting.
    """
    if not all(limits[0] <= side <= limits[1] for side in size):
        raise CasewiseError(
            f"The phantom's size must be {limits[0]} to {limits[1]} pixels a side; found {size[0]}x{size[1]}."
        )
    check_choice("The phantom's labels", labels, get_args(Labels))
    if labels == "shuffled" and subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")
