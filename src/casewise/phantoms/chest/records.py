"""What a chest phantom's folder holds: marked images, its notes, and the table of its films."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from casewise.files import write_atomic, write_json
from casewise.phantoms.folders import claim
from casewise.phantoms.psoriasis.records import MARK

KIND = "chest"
JPEG_QUALITY = 92
EXIF_IMAGE_DESCRIPTION, EXIF_SOFTWARE = 0x010E, 0x0131
COLUMNS = (
    "path",
    "subject",
    "visit",
    "view",
    "label",
    "source",
    "sex",
    "age",
    "date",
    "lung_mask",
    "synthetic",
)
README = f"""Synthetic phantom cohort: {MARK}.

Every film in this folder was drawn by casewise from random numbers. No person was X-rayed, and nothing here may be used
to judge how well a model does on patients.

cases.csv     one row a film
phantom.json  the settings, the seed, and the truth: which sign was drawn into each subject's films
images/       <subject>/<visit>.jpg or .png, each marked as synthetic in its comment
masks/        <subject>/<visit>.png, 255 where the lungs are seen
"""


@dataclass(frozen=True)
class ChestSettings:
    """What decides every byte of the cohort."""

    subjects: int
    images: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    seed: int
    labels: str
    marker: str | None
    sources: int


def claim_folder(folder: Path, settings: ChestSettings) -> None:
    """Write the folder's marks first, so that even half a phantom says what it is; refuse what is not one.

    Raises:
        CasewiseError: the folder is a file, or holds something that is not a chest phantom.
    """
    claim(folder, _note(settings, complete=False), README)


def write_cohort(
    folder: Path, settings: ChestSettings, rows: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
) -> Path:
    """Write the truth into `phantom.json` and the films into `cases.csv`; return the latter."""
    write_json(folder / "phantom.json", _note(settings, complete=True) | {"films": len(rows), "subjects": list(truth)})
    return write_rows(folder / "cases.csv", COLUMNS, rows)


def write_rows(table: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Path:
    """Write a table as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomic(table, text.getvalue())


def _note(settings: ChestSettings, *, complete: bool) -> dict[str, Any]:
    marks = {"synthetic": True, "kind": KIND, "mark": MARK}
    return marks | {"settings": asdict(settings), "seed": settings.seed, "complete": complete}


def encoded(pixels: NDArray[np.uint8], suffix: str, *, quality: int = JPEG_QUALITY) -> bytes:
    """Return an image, `(H, W)` or `(H, W, 3)`, as a PNG or JPEG file that says in itself that it is synthetic."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if suffix == ".png":
        text = PngInfo()
        text.add_text("Description", MARK)
        text.add_text("Software", "casewise phantom")
        image.save(buffer, "PNG", pnginfo=text, compress_level=3)
    else:
        exif = Image.Exif()
        exif[EXIF_IMAGE_DESCRIPTION], exif[EXIF_SOFTWARE] = MARK, "casewise phantom"
        image.save(buffer, "JPEG", quality=quality, exif=exif, comment=MARK.encode())
    return buffer.getvalue()
