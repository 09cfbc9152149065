"""Twins planted into a phantom, a synthetic cohort: slightly altered copies of its images, with new subjects."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from casewise.errors import CasewiseError
from casewise.files import write_atomic
from casewise.plugins.phantoms.cohort import Row, check_choice, encoded, read_note, write_rows
from casewise.plugins.phantoms.scene import Array, Random, stream


def plant_twins(table: Path, *, kinds: Sequence[str] | None = None, each: int = 10, seed: int = 0) -> Path:
    """Add `each` twins of each of `kinds` to a phantom's table, and return the table's path.

    A twin is a copy of a randomly chosen image under a new subject, 'twin-0001' and so on, with the label of the
    original; the column `twin_of` holds the path of the original and `twin_kind` the change:

        exact         none: the same bytes
        resized       60-90 % of the size
        recompressed  a JPEG of quality 30-60
        cropped       2-6 % removed from each side
        flipped       mirrored left to right
        brightness    brightness and contrast each 15-25 % higher or lower
        turned        by 90, 180 or 270 degrees
        negative      black and white exchanged
        tilted        by 8-12 degrees, with black corners
        zoomed        the central 75 % of each side
        off-centre    12-22 % removed from one side and from the top or bottom
        framed        a uniform frame of 4-10 % added on each side

    No image is copied twice while unused ones remain, and none twice in the same way. A mask (`lung_mask`) is altered
    like its image.

    Raises:
        CasewiseError: the table is missing, does not belong to a phantom, or has too few images.
    """
    kinds = tuple(TWIN_KINDS if kinds is None else kinds)
    columns, rows = _read(table, kinds, each)
    originals = [row for row in rows if not row.get("twin_of")]
    if each > len(originals):
        raise CasewiseError(
            f"{table} has {len(originals):,} images to copy; {each:,} twins of each kind were requested."
        )
    random = stream(seed, "twins", len(rows))
    number = 1 + sum(bool(row.get("twin_of")) for row in rows)
    planted: list[Row] = []
    waiting: list[int] = []
    for kind in kinds:
        if len(waiting) < each:
            waiting += [index for index in random.permutation(len(originals)).tolist() if index not in waiting]
        for index in waiting[:each]:
            name = f"twin-{number + len(planted):04d}"
            planted.append(_plant(table.parent, originals[index], kind, name, seed))
        waiting = waiting[each:]
    added = [name for name in ("twin_of", "twin_kind") if name not in columns]
    return write_rows(table, [*columns, *added], [*rows, *planted])


def _read(table: Path, kinds: tuple[str, ...], count: int) -> tuple[list[str], list[dict[str, str]]]:
    for kind in kinds:
        check_choice("A twin's kind", kind, TWIN_KINDS)
    if count < 1:
        raise CasewiseError(f"There must be 1 or more twins of each kind; found {count}.")
    if not table.is_file():
        raise CasewiseError(f"There is no table {table}.")
    if not read_note(table.parent):
        # Invented subjects in a table of real ones could never be separated again.
        raise CasewiseError(f"{table} does not belong to a phantom; twins are planted into phantoms only.")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def _plant(folder: Path, original: dict[str, str], kind: str, name: str, seed: int) -> Row:
    """Write a twin's files and return its row."""
    suffix = ".jpg" if kind == "recompressed" else Path(original["path"]).suffix
    random = stream(seed, "twin", kind, original["path"])
    row: Row = original | {"subject": name, "path": f"images/{name}/1{suffix}"}
    row |= {"twin_of": original["path"], "twin_kind": kind}
    if original.get("visit", "").isdigit():
        row["visit"] = "1"
    copies = {original["path"]: row["path"]}
    if original.get("lung_mask"):
        row["lung_mask"] = f"masks/{name}/1.png"
        copies[original["lung_mask"]] = row["lung_mask"]
    if kind == "exact":
        contents = [(folder / path).read_bytes() for path in copies]
    else:
        altered = _ALTERED[kind](random, [_pixels(folder / path) for path in copies])
        quality = {"quality": int(random.integers(30, 61))} if kind == "recompressed" else {}
        contents = [encoded(altered[0], suffix, **quality), *(encoded(mask, ".png") for mask in altered[1:])]
    for path, content in zip(copies.values(), contents, strict=True):
        write_atomic(folder / path, content, durable=False)
    return row


def _pixels(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(image)


# An alteration takes an image and its mask, if it has one; the mask follows changes of position only.
_Alter = Callable[[Random, list[Array]], list[Array]]


def _moved(alter: Callable[[Array], Array]) -> _Alter:
    """An alteration of positions, the same for image and mask."""
    return lambda random, images: [np.ascontiguousarray(alter(image)) for image in images]


def _cut(shares: Callable[[Random], Any]) -> _Alter:
    """Remove the shares of the sides that are drawn: left, right, top, bottom."""

    def cut(random: Random, images: list[Array]) -> list[Array]:
        height, width = images[0].shape[:2]
        left, right, top, bottom = shares(random)
        rows = slice(round(top * height), height - round(bottom * height))
        columns = slice(round(left * width), width - round(right * width))
        return [np.ascontiguousarray(image[rows, columns]) for image in images]

    return cut


def _off_centre(random: Random) -> Any:
    (down, across), (top, left) = random.uniform(0.12, 0.22, 2), random.random(2) < 0.5
    return (across * left, across * (not left), down * top, down * (not top))


def _resized(random: Random, images: list[Array]) -> list[Array]:
    height, width = images[0].shape[:2]
    share = random.uniform(0.6, 0.9)
    size = (max(round(width * share), 1), max(round(height * share), 1))
    ways = (cv2.INTER_AREA, cv2.INTER_NEAREST)
    return [cv2.resize(image, size, interpolation=way) for image, way in zip(images, ways, strict=False)]


def _brightness(random: Random, images: list[Array]) -> list[Array]:
    contrast, brightness = 1 + random.uniform(0.15, 0.25, 2) * random.choice((-1, 1), 2)
    middle = float(images[0].mean())
    changed = ((images[0] - middle) * contrast + middle) * brightness
    return [np.clip(np.rint(changed), 0, 255).astype(np.uint8), *images[1:]]


def _tilted(random: Random, images: list[Array]) -> list[Array]:
    height, width = images[0].shape[:2]
    angle = random.uniform(8, 12) * random.choice((-1, 1))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    ways = (cv2.INTER_LINEAR, cv2.INTER_NEAREST)
    return [cv2.warpAffine(image, turn, (width, height), flags=way) for image, way in zip(images, ways, strict=False)]


def _framed(random: Random, images: list[Array]) -> list[Array]:
    height, width = images[0].shape[:2]
    shares, grey = random.uniform(0.04, 0.10, 4), int(random.choice((0, 128, 255)))
    top, bottom, left, right = (round(s * side) for s, side in zip(shares, (height, height, width, width), strict=True))
    colours = ((grey,) * 3, (0,) * 3)
    return [
        cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)
        for image, colour in zip(images, colours, strict=False)
    ]


_ALTERED: dict[str, _Alter] = {
    "exact": lambda random, images: images,
    "resized": _resized,
    "recompressed": lambda random, images: images,
    "cropped": _cut(lambda random: random.uniform(0.02, 0.06, 4)),
    "flipped": _moved(lambda image: image[:, ::-1]),
    "brightness": _brightness,
    "turned": lambda random, images: _moved(partial(np.rot90, k=int(random.integers(1, 4))))(random, images),
    "negative": lambda random, images: [255 - images[0], *images[1:]],
    "tilted": _tilted,
    "zoomed": _cut(lambda random: (1 / 8,) * 4),
    "off-centre": _cut(_off_centre),
    "framed": _framed,
}
TWIN_KINDS = tuple(_ALTERED)
