"""Twins planted into a phantom: slightly altered copies of its images, with new subjects."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casewise.errors import CasewiseError
from casewise.files import write_atomic
from casewise.plugins.phantoms.draws import Random, stream
from casewise.plugins.phantoms.folder import Row, check_choice, encoded, read_note, write_rows

Pixels = NDArray[np.uint8]


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
        altered = ALTERED[kind](random, [_pixels(folder / path) for path in copies])
        quality = {"quality": int(random.integers(30, 61))} if kind == "recompressed" else {}
        contents = [encoded(altered[0], suffix, **quality), *(encoded(mask, ".png") for mask in altered[1:])]
    for path, content in zip(copies.values(), contents, strict=True):
        write_atomic(folder / path, content, durable=False)
    return row


def _pixels(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def _each(images: list[Pixels], alter: Callable[[Pixels], Any]) -> list[Pixels]:
    return [np.ascontiguousarray(alter(image)).astype(np.uint8, copy=False) for image in images]


def _cut(images: list[Pixels], top: int, bottom: int, left: int, right: int) -> list[Pixels]:
    """The images without these numbers of rows and columns at their edges."""
    height, width = images[0].shape[:2]
    return _each(images, lambda image: image[top : height - bottom, left : width - right])


def _resized(random: Random, images: list[Pixels]) -> list[Pixels]:
    height, width = images[0].shape[:2]
    share = random.uniform(0.6, 0.9)
    size = (max(round(width * share), 1), max(round(height * share), 1))
    return _each(images[:1], lambda image: cv2.resize(image, size, interpolation=cv2.INTER_AREA)) + _each(
        images[1:], lambda mask: cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    )


def _cropped(random: Random, images: list[Pixels]) -> list[Pixels]:
    height, width = images[0].shape[:2]
    left, right, top, bottom = random.uniform(0.02, 0.06, 4)
    return _cut(images, round(top * height), round(bottom * height), round(left * width), round(right * width))


def _brightness(random: Random, images: list[Pixels]) -> list[Pixels]:
    contrast, brightness = 1 + random.uniform(0.15, 0.25, 2) * random.choice((-1, 1), 2)
    middle = float(images[0].mean())
    changed = ((images[0] - middle) * contrast + middle) * brightness
    return [np.clip(np.rint(changed), 0, 255).astype(np.uint8), *images[1:]]


def _turned(random: Random, images: list[Pixels]) -> list[Pixels]:
    quarters = int(random.integers(1, 4))
    return _each(images, lambda image: np.rot90(image, quarters))


def _tilted(random: Random, images: list[Pixels]) -> list[Pixels]:
    height, width = images[0].shape[:2]
    angle = random.uniform(8, 12) * random.choice((-1, 1))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    return _each(
        images[:1], lambda image: cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR)
    ) + _each(images[1:], lambda mask: cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_NEAREST))


def _zoomed(random: Random, images: list[Pixels]) -> list[Pixels]:
    rows, columns = (round(side / 8) for side in images[0].shape[:2])
    return _cut(images, rows, rows, columns, columns)


def _off_centre(random: Random, images: list[Pixels]) -> list[Pixels]:
    shares, are_first = random.uniform(0.12, 0.22, 2), random.random(2) < 0.5
    edges: list[int] = []
    for side, share, first in zip(images[0].shape[:2], shares, are_first, strict=True):
        edges += [round(side * share), 0] if first else [0, side - round(side * (1 - share))]
    return _cut(images, *edges)


def _framed(random: Random, images: list[Pixels]) -> list[Pixels]:
    height, width = images[0].shape[:2]
    shares, grey = random.uniform(0.04, 0.10, 4), int(random.choice((0, 128, 255)))
    top, bottom, left, right = (round(s * side) for s, side in zip(shares, (height, height, width, width), strict=True))
    colours = [(grey,) * 3] + [(0,) * 3] * (len(images) - 1)
    return [
        cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour).astype(
            np.uint8, copy=False
        )
        for image, colour in zip(images, colours, strict=True)
    ]


ALTERED: dict[str, Callable[[Random, list[Pixels]], list[Pixels]]] = {
    "exact": lambda random, images: images,
    "resized": _resized,
    "recompressed": lambda random, images: images,
    "cropped": _cropped,
    "flipped": lambda random, images: _each(images, lambda image: image[:, ::-1]),
    "brightness": _brightness,
    "turned": _turned,
    "negative": lambda random, images: [255 - images[0], *images[1:]],
    "tilted": _tilted,
    "zoomed": _zoomed,
    "off-centre": _off_centre,
    "framed": _framed,
}
TWIN_KINDS = tuple(ALTERED)
