"""Planned tiles of slides stored in a folder, so that a slide is not read again while slide and plan are unchanged.

For each slide there are a thumbnail, `<name>.jpg`, and its tiles, `<name>.npz`, which is written last. The name is a
hash of the path, size and time of the slide, of its other files, and of the plan.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casewise.files import parsed_json, write_atomic
from casewise.modalities.store.file_check import ARRAY_DAMAGE
from casewise.plugins.slides.reader import SlideFacts, companions_hash
from casewise.plugins.slides.tiles import PlannedSlide, TilePlan

# Increased whenever the rules for tissue or tiles change: slides are then planned again.
RULES = 3
QUALITY = 88


def name_of(path: Path, plan: TilePlan) -> str:
    """The name under which the current version of a slide is stored; empty if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    identity = [RULES, str(path), status.st_size, status.st_mtime_ns, companions_hash(path), asdict(plan)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def is_planned(path: Path, plan: TilePlan, folder: Path) -> bool:
    """Whether tiles of this slide and this plan are stored; they are not read."""
    name = name_of(path, plan)
    return bool(name) and (folder / f"{name}.npz").is_file()


def find(path: Path, plan: TilePlan, folder: Path) -> PlannedSlide | None:
    """The stored tiles of this slide and this plan; None if there are none or they cannot be read."""
    return _read(path, folder, name_of(path, plan))


def _read(path: Path, folder: Path, name: str) -> PlannedSlide | None:
    """The stored tiles of this slide under this name."""
    file, picture = folder / f"{name}.npz", folder / f"{name}.jpg"
    if not name or not file.is_file() or not picture.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            about = parsed_json(str(archive["about"]))
            height, width = about.pop("shape")
            mask = np.unpackbits(archive["mask"], count=height * width).reshape(height, width).astype(bool)
            facts = SlideFacts(**{name: _tuples(value) for name, value in about.pop("facts").items()})
            boxes, shares, notes = archive["boxes"], archive["shares"], tuple(about.pop("notes"))
        return PlannedSlide(path, facts, boxes, shares, notes, mask, picture=picture, **about)
    except ARRAY_DAMAGE:
        # Damaged, or of another version: the slide is planned again.
        return None


def keep(planned: PlannedSlide, folder: Path, name: str) -> PlannedSlide | None:
    """Store the planned tiles of a slide and return them; None if they cannot be read back.

    `name`: its `name_of` before it was read. A slide that is replaced meanwhile has another name and is planned again
    the next time.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    picture = io.BytesIO()
    Image.fromarray(planned.read_picture()).save(picture, "JPEG", quality=QUALITY)
    record = {
        "shape": planned.mask.shape,
        "downsample": planned.downsample,
        "candidates": planned.candidates,
        "facts": asdict(planned.facts),
        "notes": planned.notes,
    }
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        about=np.array(json.dumps(record)),
        boxes=planned.boxes,
        shares=planned.shares,
        mask=np.packbits(planned.mask),
    )
    write_atomic(folder / f"{name}.jpg", picture.getvalue())
    write_atomic(folder / f"{name}.npz", packed.getvalue())
    return _read(planned.path, folder, name)


def sweep(folder: Path, names: set[str]) -> None:
    """Remove stored tiles of other slides and plans than those of these names."""
    for path in [*folder.glob("*.npz"), *folder.glob("*.jpg")]:
        if path.stem not in names:
            path.unlink(missing_ok=True)


def _tuples(value: Any) -> Any:
    """A value of JSON with tuples in place of lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
