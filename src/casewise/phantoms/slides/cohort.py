"""The skin phantom: synthetic biopsies as pyramidal slides, or as regions of interest, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casewise.errors import CasewiseError, nearest
from casewise.phantoms.chest.records import encoded
from casewise.phantoms.psoriasis.records import Labels
from casewise.phantoms.saving import save
from casewise.phantoms.slides.pyramid import TILE, write_pyramid
from casewise.phantoms.slides.records import SkinSettings, Stains, check, claim_folder, write_cohort
from casewise.phantoms.slides.skin import STAGES, Section, Skin, skin
from casewise.phantoms.streams import stream

__all__ = ["STAGES", "Stains", "draw_region", "make_regions", "make_slide_phantom"]

Progress = Callable[[int, int], None]

# The mask of a slide has one pixel for so many of the slide.
MASK_STEP = 16
# The frame regions are cut from, in microns: a section of about 2.5 by 1.6 mm.
FRAME = (3072.0, 2304.0)
# A region has at least so much tissue.
REGION_TISSUE = 0.9
# So many regions are cut from one section.
REGIONS_A_SECTION = 3


def make_slide_phantom(
    folder: Path,
    *,
    subjects: int = 40,
    slides_per_subject: int = 1,
    classes: tuple[str, ...] = tuple(STAGES),
    size: tuple[int, int] = (2048, 1536),
    mpp: float = 1.0,
    seed: int = 0,
    labels: Labels = "true",
    stains: Stains = "alike",
    progress: Progress | None = None,
) -> Path:
    """Draw biopsies as pyramidal TIFFs into `folder` and return the path of its `cases.csv`, one row a slide.

    Half the subjects are normal, as in the source (003_eab959a42de94a48.txt, Preprocessing Skin Images); the others are
    early and late in equal parts. A subject has one visit with `slides_per_subject` sections of the same skin. A slide
    has `size` (width, height) pixels of `mpp` microns, and says so in its tags; it comes with a mask of its tissue.

    Classes differ in the collagen of the dermis (bundles are thicker and lie closer), the epidermis (thinner, its
    ridges flat), glands and follicles (fewer) and inflammatory cells (most when early), as `STAGES` says; subjects of a
    class differ among themselves, and stain, surface, sex and age have nothing to do with it. `stains="own"` gives
    every subject a stain by which it can be recognised, and `labels="shuffled"` hands the labels round between subjects
    after all is drawn: together they make images whose subjects can be told and whose classes cannot.

    The same arguments give the same bytes, and a subject's slides do not depend on how many others there are.
    `progress` is called with the slides done and their number.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not such a phantom.
    """
    width, height = int(size[0]), int(size[1])
    settings = SkinSettings(
        "slides", subjects, slides_per_subject, tuple(classes), (width, height), float(mpp), seed, labels, stains
    )

    def draw(who: Skin, number: int) -> tuple[str, int]:
        path = f"images/{who.name}/{number + 1}.tiff"
        save_slide(folder / path, folder / f"masks/{who.name}/{number + 1}.png", who, number, settings)
        return path, number + 1

    return _make(folder, settings, draw, progress)


def make_regions(
    folder: Path,
    *,
    subjects: int = 40,
    regions_per_subject: int = 6,
    classes: tuple[str, ...] = tuple(STAGES),
    size: int = 512,
    mpp: float = 0.5,
    seed: int = 0,
    labels: Labels = "true",
    stains: Stains = "alike",
    progress: Progress | None = None,
) -> Path:
    """Draw regions of interest, PNG of `size` x `size` pixels, into `folder`; return its `cases.csv`, one row each.

    They are cut at random out of sections as `make_slide_phantom` draws them, three from each, with little glass.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not such a phantom.
    """
    side = int(size)
    settings = SkinSettings(
        "regions", subjects, regions_per_subject, tuple(classes), (side, side), float(mpp), seed, labels, stains
    )

    def draw(who: Skin, number: int) -> tuple[str, int]:
        path = f"images/{who.name}/{number + 1}.png"
        save(folder / path, encoded(_region(who, number, side, settings.mpp), ".png"))
        return path, number // REGIONS_A_SECTION + 1

    return _make(folder, settings, draw, progress)


def draw_region(
    subject_number: int, *, finding: str, number: int = 0, seed: int = 0, size: int = 512, mpp: float = 0.5
) -> NDArray[np.uint8]:
    """Return one region of a subject's skin with any finding, (size, size, 3); subjects and regions count from 0.

    Raises:
        CasewiseError: no such finding.

    >>> draw_region(0, finding="late", size=64).shape
    (64, 64, 3)
    """
    if finding not in STAGES:
        raise CasewiseError(
            f"The finding must be one of {', '.join(STAGES)}; found {finding!r}.{nearest(finding, STAGES)}"
        )
    return _region(skin(seed, subject_number, finding), number, size, mpp)


def finding_of(seed: int, number: int, classes: Sequence[str]) -> str:
    """Return what subject `number` has: the first class is as common as all the others together.

    >>> sorted(finding_of(7, number, ("normal", "early", "late")) for number in range(4, 8))
    ['early', 'late', 'normal', 'normal']
    """
    block = [classes[0]] * (len(classes) - 1) + list(classes[1:])
    turn, place = divmod(number, len(block))
    return block[int(stream(seed, "skin classes", len(block), turn).permutation(len(block))[place])]


def save_slide(path: Path, mask: Path, who: Skin, number: int, settings: SkinSettings) -> None:
    """Write one section as a slide, and the mask of its tissue."""
    section = Section(who, number, size=settings.size, mpp=settings.mpp)
    small = np.zeros([-(-side // MASK_STEP) for side in reversed(settings.size)], np.uint8)

    def paint(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        picture, tissue = section.paint(left, top, width, height)
        some = tissue[MASK_STEP // 2 :: MASK_STEP, MASK_STEP // 2 :: MASK_STEP]
        y, x = top // MASK_STEP, left // MASK_STEP
        small[y : y + some.shape[0], x : x + some.shape[1]] = some
        return picture

    write_pyramid(path, settings.size, paint, mpp=settings.mpp)
    save(mask, encoded(small * np.uint8(255), ".png"))


def _region(who: Skin, number: int, size: int, mpp: float) -> NDArray[np.uint8]:
    """Draw a square at a place of its section with enough tissue."""
    frame = round(FRAME[0] / mpp), round(FRAME[1] / mpp)
    section = Section(who, number // REGIONS_A_SECTION, size=frame, mpp=mpp)
    random = stream(who.seed, "region", who.number, number)
    picture, tissue = _window(section, max(frame[0] - size, 0) // 2, max(frame[1] - size, 0) // 2, size)
    for _ in range(20):
        left, top = (int(random.integers(max(side - size, 1))) for side in frame)
        # The middle and the corners tell most windows of glass without drawing them.
        if not all(section.paint(left + x, top + y, 1, 1)[1].all() for x, y in _corners(size)):
            continue
        picture, tissue = _window(section, left, top, size)
        if tissue.mean() >= REGION_TISSUE:
            break
    return picture


def _corners(size: int) -> tuple[tuple[int, int], ...]:
    far, near, middle = size - size // 8, size // 8, size // 2
    return (middle, middle), (near, near), (far, near), (near, far), (far, far)


def _window(section: Section, left: int, top: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    picture, tissue = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            part = np.s_[y : y + TILE, x : x + TILE]
            picture[part], tissue[part] = section.paint(left + x, top + y, min(TILE, size - x), min(TILE, size - y))
    return picture, tissue


def _make(
    folder: Path, settings: SkinSettings, draw: Callable[[Skin, int], tuple[str, int]], progress: Progress | None
) -> Path:
    check(settings)
    claim_folder(folder, settings)
    findings = [finding_of(settings.seed, number, settings.classes) for number in range(settings.subjects)]
    given = list(findings)
    if settings.labels == "shuffled":
        # Subjects with one finding get all labels in equal parts, so that nothing is left to be learned by chance.
        order = stream(settings.seed, "shuffled labels", settings.subjects).permutation(settings.subjects)
        for place, number in enumerate(sorted(order, key=lambda number: findings[number])):
            given[number] = findings[place]
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, (finding, label) in enumerate(zip(findings, given, strict=True)):
        who = skin(settings.seed, number, finding, settings.stains)
        random = stream(settings.seed, "person", number)
        person = {"sex": "FM"[int(random.random() < 0.3)], "age": int(random.integers(24, 78))}
        measures = {name: round(value, 4) for name, value in asdict(who.stage).items()}
        truth.append({"subject": who.name, "finding": finding, "label": label, **measures})
        for image in range(settings.images):
            path, section = draw(who, image)
            rows.append(
                {
                    "path": path,
                    "subject": who.name,
                    "visit": 1,
                    "label": label,
                    "disease": "normal" if label == "normal" else "ssc",
                    "section": section,
                    "source": "phantom",
                    **person,
                    "mpp": settings.mpp,
                    "synthetic": 1,
                }
            )
            if progress is not None:
                progress(len(rows), settings.subjects * settings.images)
    return write_cohort(folder, settings, rows, truth)
