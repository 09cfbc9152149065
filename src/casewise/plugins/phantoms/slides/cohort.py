"""The skin phantom: synthetic biopsies with known truth, as pyramidal slides or as regions of interest.

Writing pyramidal TIFFs of JPEG tiles, the generic format of slide readers, while the picture is being drawn.

Pillow cannot write tiled TIFFs, so the container is written here (TIFF revision 6.0, Adobe 1992, sections 2, 15 and
22). Every tile is a separate JPEG. The directories are at the end, as in the files of scanners.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from casewise.errors import CasewiseError
from casewise.files import replacing
from casewise.plugins.phantoms.draws import balanced_class, shuffled_labels, stream
from casewise.plugins.phantoms.folder import MARK, CohortFolder, Labels, PhantomKind, Progress, Row, check_choice
from casewise.plugins.phantoms.slides.skin import STAGES, Section, Skin, skin

Paint = Callable[[int, int, int, int], NDArray[np.uint8]]

TILE, QUALITY = 256, 85
# Between levels.
STEP = 4
# Offsets in a classic TIFF have 32 bits.
LARGEST_FILE = 2**32 - 2**20
ASCII, SHORT, LONG, RATIONAL = 2, 3, 4, 5


class _Level:
    """A level: its size, and the offsets of its tiles in the file, in raster order."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.across = -(-width // TILE)
        self.offsets, self.counts = ([0] * (self.across * -(-height // TILE)) for _ in range(2))


def write_pyramid(
    path: Path,
    size: tuple[int, int],
    paint: Paint,
    *,
    mpp: float | None,
    levels: int = 3,
    description: str = MARK,
    quality: int = QUALITY,
) -> None:
    """Write a slide of `size` (width, height) pixels with `levels` levels, each a quarter as wide as the previous one.

    `paint` (left, top, width, height) returns that region of level 0, (height, width, 3) `uint8`; it is called once for
    every tile, from left to right and downwards. `mpp`, microns per pixel, is written to the resolution tags. The
    smaller levels are averages. An incomplete file is never left.

    Raises:
        RunError: the disk is full or the folder cannot be written.
        CasewiseError: the file would exceed the 4 GB of a classic TIFF.
    """
    with replacing(path, durable=False) as temporary, temporary.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 0))
        _write(file, size, paint, mpp, levels, description, quality)


def _write(
    file: BinaryIO, size: tuple[int, int], paint: Paint, mpp: float | None, levels: int, description: str, quality: int
) -> None:
    first = _Level(*size)
    smaller = Image.new("RGB", (-(-size[0] // STEP), -(-size[1] // STEP)), "white")
    for top in range(0, first.height, TILE):
        for left in range(0, first.width, TILE):
            block = Image.fromarray(paint(left, top, min(TILE, first.width - left), min(TILE, first.height - top)))
            _put(file, first, block, (left, top), quality)
            if levels > 1:
                smaller.paste(block.reduce(STEP), (left // STEP, top // STEP))
    written = [first]
    while len(written) < levels:
        written.append(_Level(*smaller.size))
        _put(file, written[-1], smaller, (0, 0), quality)
        smaller = smaller.reduce(STEP)
    link = 4
    for number, level in enumerate(written):
        link = _directory(file, link, level, number, mpp and mpp * STEP**number, description)


def _put(file: BinaryIO, level: _Level, picture: Image.Image, corner: tuple[int, int], quality: int) -> None:
    """Write a picture that begins at a tile's corner, tile by tile; tiles are white beyond the edge."""
    for y in range(0, picture.height, TILE):
        for x in range(0, picture.width, TILE):
            tile = Image.new("RGB", (TILE, TILE), "white")
            tile.paste(picture.crop((x, y, min(x + TILE, picture.width), min(y + TILE, picture.height))))
            buffer = io.BytesIO()
            tile.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
            index = (corner[1] + y) // TILE * level.across + (corner[0] + x) // TILE
            level.offsets[index], level.counts[index] = file.tell(), buffer.tell()
            file.write(buffer.getvalue())
            if file.tell() > LARGEST_FILE:
                raise CasewiseError(f"A phantom slide of {level.width} x {level.height} pixels exceeds 4 GB.")


def _directory(file: BinaryIO, link: int, level: _Level, number: int, mpp: float | None, description: str) -> int:
    """Append a directory and set the pointer of the previous one; return the offset of its own pointer."""
    entries: list[tuple[int, int, Any]] = [
        *[(254, LONG, int(number > 0)), (256, LONG, level.width), (257, LONG, level.height), (258, SHORT, (8, 8, 8))],
        *[(259, SHORT, 7), (262, SHORT, 6), (270, ASCII, description), (277, SHORT, 3), (284, SHORT, 1)],
        *[(305, ASCII, "casewise phantom"), (322, SHORT, TILE), (323, SHORT, TILE)],
        *[(324, LONG, tuple(level.offsets)), (325, LONG, tuple(level.counts)), (530, SHORT, (2, 2))],
    ]
    if mpp:
        # Pixels per centimetre.
        ratio = IFDRational(round(10_000 / mpp * 1000), 1000)
        entries += [(282, RATIONAL, ratio), (283, RATIONAL, ratio), (296, SHORT, 3)]
    directory = ImageFileDirectory_v2(b"II*\0" + bytes(4))
    for tag, kind, value in entries:
        directory.tagtype[tag] = kind
        directory[tag] = value
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(directory.tobytes(start))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(end)
    return start + 2 + 12 * len(entries)


# The smallest side of a slide in microns.
SMALLEST_MICRONS = 600.0
# One pixel of a slide's mask covers this many pixels of the slide along each axis.
MASK_STEP = 16
# Regions are cut from sections of this width and height in microns.
FRAME = (3072.0, 2304.0)
# The least share of tissue in a region.
REGION_TISSUE = 0.9
REGIONS_PER_SECTION = 3
COLUMNS = ("path", "subject", "visit", "label", "disease", "section", "source", "sex", "age", "mpp", "synthetic")
CONTENTS = """\
cases.csv     one row for each slide or region; `disease` is normal or ssc, `label` is normal, early or late
phantom.json  the settings, the seed, and the truth: collagen bundles and other properties of every subject
images/       <subject>/<section>.tiff (slides) or <subject>/<n>.png (regions), each marked as synthetic in the file
masks/        slides, <subject>/<section>.png: 255 where there is skin, one pixel for 16 of the slide; regions,
              <subject>/<n>.png, the column `collagen_mask`: 255 in bundles of collagen, empty for every fourth region
"""


SLIDES = PhantomKind("skin", COLUMNS, "biopsy", "biopsied", CONTENTS, "images", (256, 40_000), tuple(STAGES))
REGIONS = replace(SLIDES, sides=(32, 40_000), columns=(*COLUMNS, "collagen_mask"))


@dataclass(frozen=True)
class SkinSettings:
    """Everything that determines the bytes of the cohort.

    Every subject has `images` slides or regions of `size` (width, height) pixels; `mpp` is microns per pixel.
    `stains="own"` gives every subject a recognisable stain, and `labels="shuffled"` permutes the labels between
    subjects after drawing: together they make images that identify subjects but not classes.
    """

    form: Literal["slides", "regions"] = "slides"
    subjects: int = 40
    images: int = 1
    classes: tuple[str, ...] = tuple(STAGES)
    size: tuple[int, int] = (2048, 1536)
    mpp: float = 1.0
    seed: int = 0
    labels: Labels = "true"
    stains: Literal["alike", "own"] = "alike"


@dataclass(frozen=True)
class RegionSettings(SkinSettings):
    """The settings of a cohort of regions, which are square."""

    form: Literal["slides", "regions"] = "regions"
    images: int = 6
    size: tuple[int, int] = (512, 512)
    mpp: float = 0.5


def make_slide_phantom(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw biopsies as pyramidal TIFFs into `folder` and return the path of its `cases.csv`, one row a slide.

    Half of the subjects are normal, as in the publication that the preset `ssc-skin` follows; the others
    are early and late in equal numbers. A subject has one visit; its slides are sections of the same skin. Every slide
    has a mask of its tissue, and its tags state the microns per pixel.

    Classes differ in the collagen of the dermis (thicker, denser bundles), the epidermis (thinner, with flat ridges),
    glands and follicles (fewer) and inflammatory cells (most when early), as `STAGES` states; subjects vary within a
    class. Stain, surface, sex and age are independent of the class. The same settings give the same bytes, and a
    subject's slides do not depend on the number of subjects.

    Args:
        settings: the fields of `SkinSettings`.
        progress: receives the numbers of finished slides and of all slides.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not such a phantom.
    """
    return _make(folder, SLIDES, SkinSettings(**settings), progress)


def make_regions(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw regions of interest as PNG into `folder` and return the path of its `cases.csv`, one row a region.

    They are cut at random from sections as `make_slide_phantom` draws them, three from each, with little glass.

    Args:
        settings: the fields of `RegionSettings`.
        progress: receives the numbers of finished regions and of all regions.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not such a phantom.
    """
    return _make(folder, REGIONS, RegionSettings(**settings), progress)


def draw_region(
    subject_number: int, *, finding: str, number: int = 0, seed: int = 0, size: int = 512, mpp: float = 0.5
) -> NDArray[np.uint8]:
    """Return one region of a subject's skin with any finding, (size, size, 3); subjects and regions count from 0.

    Raises:
        CasewiseError: no such finding.

    >>> draw_region(0, finding="late", size=64).shape
    (64, 64, 3)
    """
    check_choice("The finding", finding, tuple(STAGES))
    return _region(skin(seed, subject_number, finding), number, size, mpp)[0]


def finding_of(seed: int, number: int, classes: Sequence[str]) -> str:
    """Return the finding of subject `number`: the first class is as common as all the others together.

    >>> sorted(finding_of(7, number, ("normal", "early", "late")) for number in range(4, 8))
    ['early', 'late', 'normal', 'normal']
    """
    return balanced_class(seed, "skin classes", number, [classes[0]] * (len(classes) - 1) + list(classes[1:]))


def _save_slide(cohort: CohortFolder, patient: Skin, number: int) -> Row:
    """Write one section as a slide, and the mask of its tissue; return its part of the row."""
    settings, name, step = cohort.settings, f"{patient.name}/{number + 1}", MASK_STEP
    section = Section(patient, number, size=settings.size, mpp=settings.mpp)
    mask = np.zeros([-(-side // step) for side in reversed(settings.size)], np.uint8)

    def paint(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        picture, tissue = section.paint(left, top, width, height)
        sampled = tissue[step // 2 :: step, step // 2 :: step]
        mask[top // step :, left // step :][: sampled.shape[0], : sampled.shape[1]] = sampled
        return picture

    write_pyramid(cohort.path / f"images/{name}.tiff", settings.size, paint, mpp=settings.mpp)
    cohort.save_image(f"masks/{name}.png", mask * np.uint8(255))
    return {"path": f"images/{name}.tiff", "section": number + 1}


def _save_region(cohort: CohortFolder, patient: Skin, number: int) -> Row:
    """Write one region, and of three in four the mask of its collagen; return its part of the row."""
    name = f"{patient.name}/{number + 1}.png"
    picture, collagen = _region(patient, number, cohort.settings.size[0], cohort.settings.mpp)
    cohort.save_image(f"images/{name}", picture)
    mask = "" if number % 4 == 3 else f"masks/{name}"
    if mask:
        cohort.save_image(mask, collagen * np.uint8(255))
    return {"path": f"images/{name}", "section": number // REGIONS_PER_SECTION + 1, "collagen_mask": mask}


def _region(patient: Skin, number: int, size: int, mpp: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a square at a position of its section with enough tissue, and its collagen."""
    frame = round(FRAME[0] / mpp), round(FRAME[1] / mpp)
    section = Section(patient, number // REGIONS_PER_SECTION, size=frame, mpp=mpp)
    random = stream(patient.seed, "region", patient.number, number)
    left, top = (max(side - size, 0) // 2 for side in frame)
    picture, tissue = _window(section, left, top, size)
    drawn = left, top
    # The centre and the corners reveal most windows of glass without drawing them.
    far, near, middle = size - size // 8, size // 8, size // 2
    probes = ((middle, middle), (near, near), (far, near), (near, far), (far, far))
    for _ in range(20):
        left, top = (int(random.integers(max(side - size, 1))) for side in frame)
        if not all(section.paint(left + x, top + y, 1, 1)[1].all() for x, y in probes):
            continue
        picture, tissue = _window(section, left, top, size)
        drawn = left, top
        if tissue.mean() >= REGION_TISSUE:
            break
    return picture, section.collagen(*drawn, size, size)


def _window(section: Section, left: int, top: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    picture, tissue = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            tile = np.s_[y : y + TILE, x : x + TILE]
            picture[tile], tissue[tile] = section.paint(left + x, top + y, min(TILE, size - x), min(TILE, size - y))
    return picture, tissue


def _make(folder: Path, kind: PhantomKind, settings: SkinSettings, progress: Progress | None) -> Path:
    (width, height), is_slide = settings.size, settings.form == "slides"
    microns = min(width, height) * settings.mpp
    refused = {
        f"Regions of the phantom are square; found a size of {width}x{height}.": not is_slide and width != height,
        f"The phantom's mpp must be 0.1 to 8 microns a pixel; found {settings.mpp}.": not 0.1 <= settings.mpp <= 8,
        f"The phantom's slides must be {SMALLEST_MICRONS:g} microns a side or more; found {microns:g}.": is_slide
        and microns < SMALLEST_MICRONS,
    }
    for message, is_so in refused.items():
        if is_so:
            raise CasewiseError(message)
    cohort = CohortFolder(folder, kind, settings, settings.subjects * settings.images, progress)
    findings = [finding_of(settings.seed, number, settings.classes) for number in range(settings.subjects)]
    labels = shuffled_labels(settings.seed, findings) if settings.labels == "shuffled" else findings
    truth: list[Row] = []
    for number, (finding, label) in enumerate(zip(findings, labels, strict=True)):
        patient = skin(settings.seed, number, finding, settings.stains)
        random = stream(settings.seed, "person", number)
        person: Row = {"subject": patient.name, "visit": 1, "label": label}
        person |= {"disease": "normal" if label == "normal" else "ssc", "source": "phantom", "mpp": settings.mpp}
        person |= {"sex": "FM"[int(random.random() < 0.3)], "age": int(random.integers(24, 78))}
        measures = {name: round(value, 4) for name, value in asdict(patient.stage).items()}
        truth.append({"subject": patient.name, "finding": finding, "label": label, **measures})
        for image in range(settings.images):
            cohort.add(**(_save_slide if is_slide else _save_region)(cohort, patient, image), **person)
    return cohort.finish(truth)
