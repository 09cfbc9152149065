"""Whole slides read with OpenSlide: their metadata, and their pixels with bounded memory.

Pixels are addressed in whole pixels of a level. Areas that were not scanned are transparent in the file and white here.

Defects of files are determined without reading them whole.

In most formats a slide is one file; in some the main file refers to others with the pixels. .mrxs: the folder of the
same name. .vms and .vmu: the files that it names. DICOM: every other file of the folder with the same suffix, because
only reading all of them shows which belong to the same series.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from PIL import Image, ImageCms

from casewise.cohort.folder_layout import SLIDES
from casewise.errors import CasewiseError, ImageError
from casewise.files import json_hash
from casewise.modalities.store.file_check import name_content, size_of

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOGRAPH_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
# Slides that begin like photographs or text: with a JPEG preview, or with a list of file names.
INDEX_FILES = {".mrxs", ".vms", ".vmu"}
SLIDE_FILES = set(SLIDES)
HEAD = 512
# More directories than any slide has; the limit ends a file whose directories form a circle.
MOST_DIRECTORIES = 1000
# An index is a short text; a larger file is not an index.
LONGEST_INDEX = 2**20
# The position of the DICOM mark, and the class of slides (VL Whole Slide Microscopy Image Storage).
DICOM_HEAD, PREAMBLE = 2048, 128
DICOM, WHOLE_SLIDE = b"DICM", b"1.2.840.10008.5.1.4.1.1.77.1.6"
DICOM_FILES = {".dcm", ".dicom", ""}


def checked_size(path: Path) -> int:
    """Return the size in bytes of a file that should be a slide.

    Raises:
        ImageError: it is missing, empty, a folder, or may not be read.
    """
    return size_of(path, "Name a slide.")


def _name_no_slide(path: Path) -> str:
    """A clause and a remedy on the content of a file that OpenSlide does not read."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.startswith(TIFF_HEADS):
        if missing := _cut_short(path):
            return f"the slide is cut short ({missing}). Copy it again from its source."
        return "this TIFF is not a slide (it is not tiled, or its kind is unknown). Save it as a pyramidal, tiled TIFF."
    if path.suffix.lower() in INDEX_FILES:
        return f"the files next to this {path.suffix} are missing. Copy it again from its source, with its folder."
    if head.startswith(PHOTOGRAPH_HEADS):
        return (
            "this is a JPEG, PNG or WebP, not a slide. Name the slide it was made from. To use this picture as a "
            "whole, correct the suffix of its name."
        )
    return (
        f"this is {name_content(head)}, not a slide that can be read (.svs, .ndpi, tiled .tiff and the other "
        "formats of OpenSlide). Copy it again from its source, or leave it out of the table."
    )


def is_cut_tiff(path: Path) -> bool:
    """Whether this is a TIFF that ends before the last of its directories.

    Raises:
        ImageError: the file is empty, or may not be read.
    """
    checked_size(path)
    with open(path, "rb") as file:
        head = file.read(4)
    return head.startswith(TIFF_HEADS) and bool(_cut_short(path))


def _cut_short(path: Path) -> str:
    """A clause on the directory of a TIFF that lies beyond the end of the file; empty if there is none."""
    with open(path, "rb") as file:
        head = file.read(4)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        big = 43 in head
        # Bytes of an offset, of the count of a directory, and of one entry.
        word, count, entry = (8, 8, 20) if big else (4, 2, 12)
        end, at = file.seek(0, os.SEEK_END), 8 if big else 4
        for number in range(1, MOST_DIRECTORIES):
            file.seek(at)
            offset = int.from_bytes(file.read(word), order)
            if offset == 0:
                break
            # Offsets of a damaged file may be arbitrary; nothing is read beyond the end.
            file.seek(min(offset, end))
            at = offset + count + entry * int.from_bytes(file.read(count), order)
            if at + word > end:
                return f"it ends at byte {end:,}, but its directory {number} is at byte {offset:,}"
    return ""


def companion_files(path: Path) -> list[Path]:
    """The other files of a slide, by name; empty if the slide is one file or they cannot be listed.

    >>> companion_files(Path("a.svs"))
    []
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".mrxs":
            folder = path.with_suffix("")
            return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        if suffix in {".vms", ".vmu"}:
            return sorted(path.parent / name for name in _names_in_index(path) if (path.parent / name).is_file())
        if suffix in DICOM_FILES and _is_dicom_slide(path):
            same_suffix = (file for file in path.parent.iterdir() if file.suffix.lower() == suffix and file != path)
            return sorted(file for file in same_suffix if file.is_file())
    except OSError:
        # Opening the slide raises the error.
        return []
    return []


def companions_hash(path: Path) -> str:
    """A hash of name, size and time of the other files of a slide; empty if the slide is one file."""
    stamps = []
    for file in companion_files(path):
        try:
            status = os.stat(file)
        except OSError:
            continue
        stamps.append([file.name, status.st_size, status.st_mtime_ns])
    return json_hash(stamps)[:12] if stamps else ""


def _names_in_index(path: Path) -> set[str]:
    """The values in an index, which include names of files."""
    with open(path, "rb") as file:
        text = file.read(LONGEST_INDEX).decode("utf-8", errors="replace")
    values = (line.split("=", 1)[1].strip() for line in text.splitlines() if "=" in line)
    # An index never refers to files outside its folder.
    return {value for value in values if value and "\0" not in value and Path(value).name == value} - {path.name}


def _is_dicom_slide(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(DICOM_HEAD)
    return head[PREAMBLE : PREAMBLE + len(DICOM)] == DICOM and WHOLE_SLIDE in head


# A 1x objective gives about 10 µm a pixel; a TIFF saved at 72 dpi states 353, which is a setting for printing.
COARSEST_MPP = 10.0
UNEVEN = 0.05
# The factor by which a level may be coarser than requested and still be used.
SAME_LEVEL = 1.02
# The largest side of a read in pixels; a larger region is read and reduced block by block.
BLOCK = 2048
# Bytes of decoded tiles that are kept for neighbouring reads: two rows of tiles, within these limits.
LEAST_CACHE, MOST_CACHE = 32 * 2**20, 160 * 2**20


@dataclass(frozen=True)
class SlideFacts:
    """The metadata of a slide, read without decoding pixels.

    `levels` holds width, height and downsample of each level, finest first. `mpp`: microns per pixel of level 0.
    `magnification`: the objective's power. Either is None if the file does not state it. `notes`: sentences on anything
    unusual.
    """

    width: int
    height: int
    levels: tuple[tuple[int, int, float], ...]
    mpp: float | None
    magnification: float | None
    vendor: str
    bytes: int
    notes: tuple[str, ...] = ()

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is no coarser than `downsample`, up to 2 %.

        >>> facts = SlideFacts(800, 800, ((800, 800, 1.0), (200, 200, 4.0), (50, 50, 16.0)), None, None, "", 0)
        >>> [facts.level_for(downsample) for downsample in (0.5, 1, 3.9, 3.99, 8, 99)]
        [0, 0, 0, 1, 1, 2]
        """
        return max((n for n, level in enumerate(self.levels) if level[2] <= downsample * SAME_LEVEL), default=0)


def _openslide() -> ModuleType:
    """Import the optional package."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        # OSError: the Python package is installed, but not the library.
        raise CasewiseError(
            f"Slides need an optional part of casewise: pip install 'casewise[slides]' ({error})."
        ) from error
    module: ModuleType = openslide
    return module


def is_slide(path: Path) -> bool:
    """Whether this file is a slide by its content: OpenSlide reads it, or it is a slide that is cut short.

    Any tiled TIFF is a slide, also with a single level. Photographs are recognised without the optional package.

    Raises:
        CasewiseError: the file looks like a slide, and the package that reads slides is not installed.
    """
    path = Path(path)
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        # Opening it for reading raises an error with the reason.
        return False
    if head.startswith(PHOTOGRAPH_HEADS) and path.suffix.lower() not in INDEX_FILES:
        return False
    try:
        openslide = _openslide()
    except CasewiseError:
        if path.suffix.lower() in SLIDE_FILES or (head.startswith(TIFF_HEADS) and _tiled_pages(path) > 1):
            raise
        return False
    if openslide.OpenSlide.detect_format(path) is not None:
        return True
    # Reading it then raises an error with the reason; the content of other damaged TIFFs is unknown.
    return path.suffix.lower() in SLIDE_FILES and head.startswith(TIFF_HEADS) and bool(_cut_short(path))


def _tiled_pages(path: Path) -> int:
    """The number of images in a tiled TIFF; 0 if it is not tiled or cannot be opened."""
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) if 322 in getattr(image, "tag_v2", {}) else 0
    except (OSError, SyntaxError, ValueError):
        return 0


def slide_facts(path: Path) -> SlideFacts:
    """Return the metadata of a slide.

    Raises:
        ImageError: the file is missing, a folder, cut short, or not a slide.
        CasewiseError: the package that reads slides is not installed.
    """
    with Slide(path) as slide:
        return slide.facts


class Slide:
    """An open slide. Use it in a `with`; any number of threads may read from it.

    Raises:
        ImageError: the file is missing, a folder, cut short, or not a slide; while reading: a region is damaged.
        CasewiseError: the package that reads slides is not installed.
    """

    def __init__(self, path: Path) -> None:
        """Open the slide; nothing is decoded yet."""
        self.path = Path(path)
        self._closed = False
        self._module = _openslide()
        size = checked_size(self.path)
        try:
            self._slide: Any = self._module.OpenSlide(self.path)
        except self._module.OpenSlideUnsupportedFormatError as error:
            raise ImageError(f"{self.path}: {_name_no_slide(self.path)}") from error
        except self._module.OpenSlideError as error:
            raise ImageError(
                f"{self.path}: the slide is damaged ({error}). Copy it again from its source, with all its files."
            ) from error
        try:
            self.facts = _facts(self._slide, size)
            self.cache = self._cache_bytes()
            self._slide.set_cache(self._module.OpenSlideCache(self.cache))
        except BaseException:
            self._slide.close()
            raise

    def __enter__(self) -> Slide:
        """Return the slide itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the slide."""
        self.close()

    def close(self) -> None:
        """Release its memory; the slide cannot be read afterwards. A second call has no effect."""
        if not self._closed:
            self._closed = True
            self._slide.close()

    def _cache_bytes(self) -> int:
        """The size of two rows of decoded tiles, so that each tile is decoded about once in raster order."""
        width = self.facts.width
        height = int(self._slide.properties.get("openslide.level[0].tile-height", 256))
        return min(max(LEAST_CACHE, 8 * width * height), MOST_CACHE)

    @property
    def memory(self) -> int:
        """The approximate memory of reading in bytes: cached tiles, and one block in its stages."""
        return self.cache + 16 * BLOCK**2

    def region(self, level: int, box: tuple[int, int, int, int]) -> Image.Image:
        """Read (left, top, width, height), whole pixels of `level`, as RGBA; outside the slide it is transparent.

        Raises:
            ImageError: these pixels are damaged.
        """
        left, top, width, height = box
        downsample = self.facts.levels[level][2]
        try:
            origin = (round(left * downsample), round(top * downsample))
            image: Image.Image = self._slide.read_region(origin, level, (width, height))
        except self._module.OpenSlideError as error:
            raise ImageError(
                f"{self.path}: {width} x {height} pixels at x {left}, y {top} of level {level} cannot be decoded "
                f"({error}). The file is damaged there: copy it again from its source, or leave this slide out."
            ) from error
        return image

    def reduced(self, level: int, box: tuple[int, int, int, int], factor: int = 1) -> Image.Image:
        """Read a region of `level` as RGBA, each `factor` x `factor` pixels averaged to one; the last may be partial.

        However large the region is, only one block of it is in memory.

        Raises:
            ImageError: these pixels are damaged.
        """
        left, top, width, height = box
        step = max(BLOCK // factor, 1) * factor
        whole = Image.new("RGBA", (-(-width // factor), -(-height // factor)))
        for y in range(0, height, step):
            for x in range(0, width, step):
                block = self.region(level, (left + x, top + y, min(step, width - x), min(step, height - y)))
                whole.paste(block.reduce(factor) if factor > 1 else block, (x // factor, y // factor))
        return whole

    def in_srgb(self, image: Image.Image) -> Image.Image:
        """Apply the slide's colour profile to an RGB image of it; without one the values are assumed to be sRGB."""
        return ImageCms.applyTransform(image, self._transform) or image if self._transform else image

    @cached_property
    def _transform(self) -> ImageCms.ImageCmsTransform | None:
        """The transform of the slide's colours to sRGB; None if they need none."""
        try:
            profile = self._slide.color_profile
            if profile is None or "srgb" in ImageCms.getProfileDescription(profile).lower():
                return None
            return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        except (ImageCms.PyCMSError, OSError, UnicodeError):
            # As for photographs, a damaged profile is common and harmless.
            return None


def on_white(image: Image.Image) -> Image.Image:
    """Compose RGBA on white.

    >>> on_white(Image.new("RGBA", (1, 1), (90, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(image, mask=image.getchannel("A"))
    return opaque


def _facts(slide: Any, size: int) -> SlideFacts:
    """The metadata of an open slide; implausible values count as missing, with a note."""
    properties, notes = slide.properties, []
    both = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    mpps = [value for value in both if value]
    mpp = sum(mpps) / len(mpps) if mpps else None
    if len(mpps) == 2 and max(mpps) > min(mpps) * (1 + UNEVEN):
        notes.append(f"pixels are not square: {mpps[0]:.4g} µm wide, {mpps[1]:.4g} µm high; the mean is used")
    if mpp is not None and mpp > COARSEST_MPP:
        notes.append(f"the file states {mpp:.4g} µm per pixel, which is a print resolution and counts as missing")
        mpp = None
    levels = tuple(
        (width, height, float(down))
        for (width, height), down in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    )
    width, height = slide.dimensions
    vendor, power = properties.get("openslide.vendor", ""), _number(properties.get("openslide.objective-power"))
    return SlideFacts(width, height, levels, mpp, power, vendor, size, tuple(notes))


def _number(text: str | None) -> float | None:
    """The number if it is positive and finite, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
