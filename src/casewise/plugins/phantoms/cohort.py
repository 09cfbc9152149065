"""The cohort of a phantom: its kind and settings, the folder with its marks, images and table, and the draw loop."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from casewise.errors import CasewiseError, nearest
from casewise.files import write_atomic, write_json
from casewise.plugins.phantoms.scene import Array, stream

Labels = Literal["true", "shuffled"]
Progress = Callable[[int, int], None]
# A row of a table, or the truth about a subject.
Row: TypeAlias = dict[str, Any]

MARK = "synthetic phantom - not a patient"
SOFTWARE = "casewise phantom"
_README = """\
Synthetic phantom cohort: {mark}.

Every {kind.picture} in this folder was drawn by casewise from random numbers. No person was {kind.taken}, and nothing
here may be used to judge how well a model does on patients.

{kind.contents}"""
_EXIF_IMAGE_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True)
class Kind:
    """What a kind of phantom declares.

    `picture` is the noun of an image, and `taken` what was done to no person for it; `contents` describes the files;
    `unit` is the plural noun for a row of the table; `sides` are the smallest and the largest width and height.
    `classes_key` seeds the order of the classes; `half_first` makes the first class as common as all others together.
    """

    name: str
    columns: tuple[str, ...]
    picture: str
    taken: str
    contents: str
    unit: str
    sides: tuple[int, int]
    classes: tuple[str, ...] = ()
    table: str = "cases.csv"
    classes_key: str = "classes"
    half_first: bool = False

    def finding(self, seed: int, number: int, classes: Sequence[str]) -> str:
        """Return the class of subject `number`: each block of subjects has each class once, or half of the first."""
        block = [classes[0]] * (len(classes) - 2 if self.half_first else 0) + list(classes)
        turn, position = divmod(number, len(block))
        return block[int(stream(seed, self.classes_key, len(block), turn).permutation(len(block))[position])]


class CohortFolder:
    """The folder of a cohort while it is being written.

    Args:
        settings: a dataclass with `subjects`, `size`, `labels` and `seed`; it determines all bytes of the cohort.
        total: the number of rows that the table will have.
        progress: receives the number of finished rows and `total`.

    Raises:
        CasewiseError: a setting is out of range, the folder is a file, or it contains something other than a phantom of
            this kind.
    """

    def __init__(self, path: Path, kind: Kind, settings: Any, total: int, progress: Progress | None) -> None:
        """Write the marks first, so that even an incomplete cohort states that it is synthetic."""
        check_settings(settings, kind)
        self.path, self.kind, self.settings, self.total, self.progress = path, kind, settings, total, progress
        self.rows: list[Row] = []
        if path.exists() and not path.is_dir():
            raise CasewiseError(f"{path} is a file; the phantom needs a folder.")
        if path.is_dir() and any(path.iterdir()) and read_note(path).get("kind") != kind.name:
            raise CasewiseError(
                f"{path} already contains files that are not a {kind.name} phantom; choose an empty or a new folder."
            )
        # An older table must not describe images that are being replaced.
        (path / kind.table).unlink(missing_ok=True)
        write_json(path / "phantom.json", self._note(complete=False))
        write_atomic(path / "README.txt", _README.format(mark=MARK, kind=kind))

    def draw(self, subject: Callable[[CohortFolder, int, str, str], Row]) -> Path:
        """Draw all subjects, write the table and the truth, and return the path of the table.

        `subject` writes the images and adds the rows of subject `number`, given its finding and its label, and returns
        the truth about it. Shuffled labels are the findings in another order, in which subjects of one class receive
        all labels in equal shares: a plain permutation can leave an association by chance.
        """
        seed, count = self.settings.seed, self.settings.subjects
        findings = [self.kind.finding(seed, number, self.settings.classes) for number in range(count)]
        labels = list(findings)
        if self.settings.labels == "shuffled":
            order = stream(seed, "shuffled labels", count).permutation(count)
            for position, number in enumerate(sorted(order, key=lambda number: findings[number])):
                labels[number] = findings[position]
        pairs = zip(findings, labels, strict=True)
        return self.finish([subject(self, number, *pair) for number, pair in enumerate(pairs)])

    def add(self, **row: Any) -> None:
        """Add a row to the table and report the progress."""
        self.rows.append(row | {"synthetic": 1})
        if self.progress is not None:
            self.progress(len(self.rows), self.total)

    def finish(self, subjects: Sequence[Mapping[str, Any]]) -> Path:
        """Write the true state of the subjects into `phantom.json`, and the table; return the path of the table."""
        note = self._note(complete=True) | {self.kind.unit: len(self.rows), "subjects": list(subjects)}
        write_json(self.path / "phantom.json", note)
        return write_rows(self.path / self.kind.table, self.kind.columns, self.rows)

    def save(self, name: str, content: bytes) -> None:
        """Write a file of the folder in one step.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        # Flushing to the disk would take a third of the time, and a lost image can be drawn again.
        write_atomic(self.path / name, content, durable=False)

    def save_image(self, name: str, pixels: Array) -> None:
        """Write an image of the folder, or a mask, in the format of its name."""
        self.save(name, encoded(pixels * np.uint8(255) if pixels.dtype == bool else pixels, Path(name).suffix))

    def _note(self, *, complete: bool) -> Row:
        marks = {"synthetic": True, "kind": self.kind.name, "mark": MARK}
        return marks | {"settings": asdict(self.settings), "seed": self.settings.seed, "complete": complete}


def read_note(folder: Path) -> Row:
    """Return the content of `phantom.json`; empty if the folder contains no phantom."""
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


def encoded(pixels: Array, suffix: str, *, quality: int = 92) -> bytes:
    """Return an image `(H, W)` or `(H, W, 3)` as a PNG or JPEG file whose metadata state that it is synthetic."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if suffix == ".png":
        text = PngInfo()
        text.add_text("Description", MARK)
        text.add_text("Software", SOFTWARE)
        image.save(buffer, "PNG", pnginfo=text, compress_level=3)
    else:
        exif = Image.Exif()
        exif[_EXIF_IMAGE_DESCRIPTION], exif[_EXIF_SOFTWARE] = MARK, SOFTWARE
        image.save(buffer, "JPEG", quality=quality, exif=exif, comment=MARK.encode())
    return buffer.getvalue()


def check_choice(subject: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed, naming the nearest allowed word."""
    if value not in allowed:
        raise CasewiseError(f"{subject} must be one of {', '.join(allowed)}; found {value!r}.{nearest(value, allowed)}")


def check_settings(settings: Any, kind: Kind) -> None:
    """Refuse a number, size, word or list of classes that the phantom cannot have, naming the setting."""
    for name, smallest in (("subjects", 1), ("visits", 1), ("images", 1), ("seed", 0)):
        value = getattr(settings, name, smallest)
        if value < smallest:
            raise CasewiseError(f"The phantom's {name} must be {smallest} or more; found {value}.")
    smallest, largest = kind.sides
    if not all(smallest <= side <= largest for side in settings.size):
        size = "x".join(map(str, settings.size))
        raise CasewiseError(f"The phantom's size must be {smallest} to {largest} pixels a side; found {size}.")
    for name, choices in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(choices) is Literal and value not in get_args(choices):
            check_choice(f"The phantom's {name}", str(value), [str(choice) for choice in get_args(choices)])
    if settings.labels == "shuffled" and settings.subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")
    if kind.classes:
        for name in settings.classes:
            check_choice("The phantom's classes", name, kind.classes)
        if len(set(settings.classes)) != len(settings.classes) or len(settings.classes) < 2:
            names = ", ".join(settings.classes) or "none"
            raise CasewiseError(f"The phantom's classes must be two or more; found {names}.")
