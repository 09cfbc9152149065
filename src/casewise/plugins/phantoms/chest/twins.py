"""Twins planted into a phantom: slightly altered copies of its images, with new subjects."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from casewise.errors import CasewiseError, nearest
from casewise.files import write_atomic
from casewise.plugins.phantoms.draws import stream
from casewise.plugins.phantoms.folder import Row, check_choice, encoded, read_note, write_rows

Pixels = NDArray[np.uint8]

REQUIRED = ("path", "subject")


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
        CasewiseError: the table is missing, does not belong to a phantom, lacks a column, or has too few images.
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


def _read(table: Path, kinds: tuple[str, ...], each: int) -> tuple[list[str], list[dict[str, str]]]:
    for kind in kinds:
        check_choice("A twin's kind", kind, TWIN_KINDS)
    if each < 1:
        raise CasewiseError(f"There must be 1 or more twins of each kind; found {each}.")
    if not table.is_file():
        raise CasewiseError(f"There is no table {table}.")
    if not read_note(table.parent):
        # Invented subjects in a table of real ones could never be separated again.
        raise CasewiseError(f"{table} does not belong to a phantom; twins are planted into phantoms only.")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    for name in REQUIRED:
        if name not in columns:
            raise CasewiseError(f"{table} has no column {name}.{nearest(name, columns)}")
    return columns, rows


def _plant(folder: Path, original: dict[str, str], kind: str, name: str, seed: int) -> Row:
    """Write a twin's files and return its row."""
    suffix = ".jpg" if kind == "recompressed" else Path(original["path"]).suffix
    random = stream(seed, "twin", kind, original["path"])
    row: Row = original | {"subject": name, "path": f"images/{name}/1{suffix}"}
    row |= {"twin_of": original["path"], "twin_kind": kind}
    if "visit" in row:
        row["visit"] = "1" if original["visit"].isdigit() else original["visit"]
    copies = {original["path"]: row["path"]}
    if original.get("lung_mask"):
        row["lung_mask"] = f"masks/{name}/1.png"
        copies[original["lung_mask"]] = row["lung_mask"]
    if kind == "exact":
        contents = [_bytes(folder / path) for path in copies]
    else:
        altered = ALTERED[kind](random, [_pixels(folder / path) for path in copies])
        quality = {"quality": int(random.integers(30, 61))} if kind == "recompressed" else {}
        contents = [encoded(altered[0], suffix, **quality), *(encoded(mask, ".png") for mask in altered[1:])]
    for path, content in zip(copies.values(), contents, strict=True):
        write_atomic(folder / path, content, durable=False)
    return row


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CasewiseError(f"{path} cannot be read: {error.strerror or error}.") from error


def _pixels(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise CasewiseError(f"{path} cannot be read as an image: {error}.") from error


def _resized(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    share = random.uniform(0.6, 0.9)
    size = (max(round(width * share), 1), max(round(height * share), 1))
    small = [cv2.resize(pixels[0], size, interpolation=cv2.INTER_AREA)]
    small += [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in pixels[1:]]
    return [image.astype(np.uint8, copy=False) for image in small]


def _cropped(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    left, right, top, bottom = random.uniform(0.02, 0.06, 4)
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    return [np.ascontiguousarray(image[rows, columns]) for image in pixels]


def _flipped(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    return [np.ascontiguousarray(image[:, ::-1]) for image in pixels]


def _brightness(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    contrast, brightness = 1 + random.uniform(0.15, 0.25, 2) * random.choice((-1, 1), 2)
    middle = float(pixels[0].mean())
    changed = ((pixels[0] - middle) * contrast + middle) * brightness
    return [np.clip(np.rint(changed), 0, 255).astype(np.uint8), *pixels[1:]]


def _turned(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    quarters = int(random.integers(1, 4))
    return [np.ascontiguousarray(np.rot90(image, quarters)) for image in pixels]


def _negative(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    return [255 - pixels[0], *pixels[1:]]


def _tilted(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    angle = random.uniform(8, 12) * random.choice((-1, 1))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    methods = [cv2.INTER_LINEAR] + [cv2.INTER_NEAREST] * (len(pixels) - 1)
    return [
        cv2.warpAffine(image, turn, (width, height), flags=method).astype(np.uint8, copy=False)
        for image, method in zip(pixels, methods, strict=True)
    ]


def _zoomed(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    rows, columns = (slice(round(side / 8), side - round(side / 8)) for side in (height, width))
    return [np.ascontiguousarray(image[rows, columns]) for image in pixels]


def _off_centre(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    rows, columns = (
        slice(round(side * share), None) if first else slice(0, round(side * (1 - share)))
        for side, share, first in zip(
            (height, width), random.uniform(0.12, 0.22, 2), random.random(2) < 0.5, strict=True
        )
    )
    return [np.ascontiguousarray(image[rows, columns]) for image in pixels]


def _framed(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    height, width = pixels[0].shape[:2]
    shares, grey = random.uniform(0.04, 0.10, 4), int(random.choice((0, 128, 255)))
    top, bottom, left, right = (
        round(share * side) for share, side in zip(shares, (height, height, width, width), strict=True)
    )
    colours = [(grey,) * 3] + [(0,) * 3] * (len(pixels) - 1)
    return [
        cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour).astype(
            np.uint8, copy=False
        )
        for image, colour in zip(pixels, colours, strict=True)
    ]


def _unchanged(random: np.random.Generator, pixels: list[Pixels]) -> list[Pixels]:
    return pixels


ALTERED: dict[str, Callable[[np.random.Generator, list[Pixels]], list[Pixels]]] = {
    "exact": _unchanged,
    "resized": _resized,
    "recompressed": _unchanged,
    "cropped": _cropped,
    "flipped": _flipped,
    "brightness": _brightness,
    "turned": _turned,
    "negative": _negative,
    "tilted": _tilted,
    "zoomed": _zoomed,
    "off-centre": _off_centre,
    "framed": _framed,
}
TWIN_KINDS = tuple(ALTERED)
