"""Whole slides read with OpenSlide: their metadata, and their pixels with bounded memory.

Pixels are addressed in whole pixels of a level. Areas that were not scanned are transparent in the file and white here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageCms

from casewise.errors import CasewiseError, ImageError
from casewise.plugins.slides.files import (
    HEAD,
    INDEX_FILES,
    PHOTOGRAPH_HEADS,
    SLIDE_FILES,
    TIFF_HEADS,
    checked_size,
    cut_short,
    name_no_slide,
)

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

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
    return path.suffix.lower() in SLIDE_FILES and head.startswith(TIFF_HEADS) and bool(cut_short(path))


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
            raise ImageError(f"{self.path}: {name_no_slide(self.path)}") from error
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
