"""What was planned of each slide, kept in a folder: as long as slide and plan are the same, no slide is read again.

Of each slide there is a small picture, `<name>.jpg`, and what was planned, `<name>.npz`. The name is a hash over the
slide's path, size and time, those of its other files where it is several, and the plan; the latter file is written
last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casewise.files import write_atomic
from casewise.modalities.slides.companion_files import mark_of
from casewise.modalities.slides.tiles import PlannedSlide, TilePlan

__all__ = ["KeptSlide", "find", "keep", "name_of", "sweep"]

# Raised whenever tissue is found or tiles are laid in another way: slides are then planned anew.
RULES = 2
QUALITY = 88


@dataclass(frozen=True, eq=False)
class KeptSlide:
    """A slide's tiles and what it says about itself, as `PlannedSlide` and `SlideFacts` have them.

    `boxes`: (N, 3) `int64`. `shares`: (N,) `float64`. `mask`: (h, w) `bool`; a pixel of it is `downsample` level-0
    pixels wide. `picture`: the file of the small picture. `size`: width and height of level 0. `bytes`: of its file.
    """

    path: Path
    picture: Path
    boxes: np.ndarray
    shares: np.ndarray
    mask: np.ndarray
    downsample: float
    candidates: int
    size: tuple[int, int]
    mpp: float | None
    magnification: float | None
    vendor: str
    bytes: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.boxes)

    def read_picture(self) -> np.ndarray:
        """The slide as a small picture, (h, w, 3) `uint8`."""
        with Image.open(self.picture) as image:
            return np.array(image.convert("RGB"))


def name_of(path: Path, plan: TilePlan) -> str:
    """Under which name this slide, as it is now, is kept; empty if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    identity = [RULES, str(path), status.st_size, status.st_mtime_ns, mark_of(path), asdict(plan)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def find(path: Path, plan: TilePlan, folder: Path) -> KeptSlide | None:
    """What is kept of this slide and this plan; None if nothing is, or if it cannot be read."""
    return _read(path, folder, name_of(path, plan))


def _read(path: Path, folder: Path, name: str) -> KeptSlide | None:
    """What is kept of this slide under this name."""
    file, picture = folder / f"{name}.npz", folder / f"{name}.jpg"
    if not name or not file.is_file() or not picture.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            height, width = about.pop("shape")
            mask = np.unpackbits(archive["mask"], count=height * width).reshape(height, width).astype(bool)
            values = {"boxes": archive["boxes"], "shares": archive["shares"], "mask": mask}
        return KeptSlide(
            path=path,
            picture=picture,
            size=(int(about.pop("width")), int(about.pop("height"))),
            notes=tuple(about.pop("notes")),
            **values,
            **about,
        )
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        # Damaged, or of another version: it is planned anew.
        return None


def keep(planned: PlannedSlide, folder: Path, name: str) -> KeptSlide | None:
    """Write down what was planned of a slide, and return it; None if it cannot be read back.

    `name`: its `name_of` from before it was read. A slide that is replaced meanwhile has another one by now, and is
    planned anew the next time.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    facts = planned.facts
    picture = io.BytesIO()
    Image.fromarray(planned.picture).save(picture, "JPEG", quality=QUALITY)
    about: dict[str, Any] = {
        "shape": planned.mask.shape,
        "downsample": planned.downsample,
        "candidates": planned.candidates,
        "width": facts.width,
        "height": facts.height,
        "mpp": facts.mpp,
        "magnification": facts.magnification,
        "vendor": facts.vendor,
        "bytes": facts.bytes,
        "notes": planned.notes,
    }
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        about=np.array(json.dumps(about)),
        boxes=planned.boxes,
        shares=planned.shares,
        mask=np.packbits(planned.mask),
    )
    write_atomic(folder / f"{name}.jpg", picture.getvalue())
    write_atomic(folder / f"{name}.npz", packed.getvalue())
    return _read(planned.path, folder, name)


def sweep(folder: Path, names: set[str]) -> None:
    """Remove what is kept of other slides and other plans than these names stand for."""
    for path in [*folder.glob("*.npz"), *folder.glob("*.jpg")]:
        if path.stem not in names:
            path.unlink(missing_ok=True)
