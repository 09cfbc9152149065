"""The skin phantom: synthetic biopsies with known truth, as pyramidal slides or as regions of interest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from casewise.errors import CasewiseError
from casewise.phantoms.draws import balanced_class, shuffled_labels, stream
from casewise.phantoms.folder import (
    CohortFolder,
    Labels,
    check_choice,
    check_classes,
    check_common,
    check_minimum,
    encoded,
)
from casewise.phantoms.slides.pyramid import TILE, write_pyramid
from casewise.phantoms.slides.skin import STAGES, Section, Skin, skin

Stains = Literal["alike", "own"]
Form = Literal["slides", "regions"]
Progress = Callable[[int, int], None]

# The smallest side of a slide and of a region, in pixels, and of a slide in microns.
SMALLEST = {"slides": 256, "regions": 32}
LARGEST = 40_000
SMALLEST_MICRONS = 600.0
# One pixel of a slide's mask covers so many pixels of the slide along each axis.
MASK_STEP = 16
# Regions are cut from sections of this width and height in microns.
FRAME = (3072.0, 2304.0)
# The least share of tissue in a region.
REGION_TISSUE = 0.9
REGIONS_PER_SECTION = 3
COLUMNS = ("path", "subject", "visit", "label", "disease", "section", "source", "sex", "age", "mpp", "synthetic")
CONTENTS = """\
Every biopsy in this folder was drawn by casewise from random numbers. No person was biopsied, and nothing here may be
used to judge how well a model does on patients.

cases.csv     one row a slide or region; `disease` is normal or ssc, `label` tells early from late as well
phantom.json  the settings, the seed, and the truth: thickness of the collagen bundles and more of every subject
images/       <subject>/<section>.tiff (slides) or <subject>/<n>.png (regions), each marked as synthetic in itself
masks/        <subject>/<section>.png, slides only: 255 where there is skin, one pixel for 16 of the slide
"""


@dataclass(frozen=True)
class SkinSettings:
    """Everything that determines the bytes of the cohort. `images`: per subject; `size` in pixels."""

    form: Form
    subjects: int
    images: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    mpp: float
    seed: int
    labels: Labels
    stains: Stains


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
    early and late in equal numbers. A subject has one visit with `slides_per_subject` sections of the same skin. A
    slide has `size` (width, height) pixels of `mpp` microns, stated in its tags, and a mask of its tissue.

    Classes differ in the collagen of the dermis (thicker, denser bundles), the epidermis (thinner, with flat ridges),
    glands and follicles (fewer) and inflammatory cells (most when early), as `STAGES` states; subjects vary within a
    class, and stain, surface, sex and age are independent of it. `stains="own"` gives every subject a recognisable
    stain, and `labels="shuffled"` permutes the labels between subjects after drawing: together they make images that
    identify subjects but not classes.

    The same arguments give the same bytes, and a subject's slides do not depend on the number of subjects. `progress`
    receives the number of finished slides and the total.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not such a phantom.
    """
    pixels = int(size[0]), int(size[1])
    settings = SkinSettings(
        "slides", subjects, slides_per_subject, tuple(classes), pixels, float(mpp), seed, labels, stains
    )
    return _make(folder, settings, _save_slide, progress)


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

    They are cut at random from sections as `make_slide_phantom` draws them, three from each, with little glass.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not such a phantom.
    """
    pixels = int(size), int(size)
    settings = SkinSettings(
        "regions", subjects, regions_per_subject, tuple(classes), pixels, float(mpp), seed, labels, stains
    )
    return _make(folder, settings, _save_region, progress)


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
    return _region(skin(seed, subject_number, finding), number, size, mpp)


def finding_of(seed: int, number: int, classes: Sequence[str]) -> str:
    """Return the finding of subject `number`: the first class is as common as all the others together.

    >>> sorted(finding_of(7, number, ("normal", "early", "late")) for number in range(4, 8))
    ['early', 'late', 'normal', 'normal']
    """
    return balanced_class(seed, "skin classes", number, [classes[0]] * (len(classes) - 1) + list(classes[1:]))


def _check(settings: SkinSettings) -> None:
    images = f"{settings.form}_per_subject"
    check_minimum([("subjects", settings.subjects, 1), (images, settings.images, 1), ("seed", settings.seed, 0)])
    check_classes(settings.classes, tuple(STAGES))
    check_common(settings.labels, settings.subjects, settings.size, (SMALLEST[settings.form], LARGEST))
    check_choice("The phantom's stains", settings.stains, get_args(Stains))
    if not 0.1 <= settings.mpp <= 8:
        raise CasewiseError(f"The phantom's mpp must be 0.1 to 8 microns a pixel; found {settings.mpp}.")
    microns = min(settings.size) * settings.mpp
    if settings.form == "slides" and microns < SMALLEST_MICRONS:
        raise CasewiseError(
            f"The phantom's slides must be {SMALLEST_MICRONS:g} microns a side or more; found {microns:g}."
        )


def _save_slide(cohort: CohortFolder, who: Skin, number: int) -> tuple[str, int]:
    """Write one section as a slide, and the mask of its tissue; return the path and the number of the section."""
    settings, name = cohort.settings, f"{who.name}/{number + 1}"
    section = Section(who, number, size=settings.size, mpp=settings.mpp)
    mask = np.zeros([-(-side // MASK_STEP) for side in reversed(settings.size)], np.uint8)

    def paint(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        picture, tissue = section.paint(left, top, width, height)
        sampled = tissue[MASK_STEP // 2 :: MASK_STEP, MASK_STEP // 2 :: MASK_STEP]
        y, x = top // MASK_STEP, left // MASK_STEP
        mask[y : y + sampled.shape[0], x : x + sampled.shape[1]] = sampled
        return picture

    write_pyramid(cohort.path / f"images/{name}.tiff", settings.size, paint, mpp=settings.mpp)
    cohort.save(f"masks/{name}.png", encoded(mask * np.uint8(255), ".png"))
    return f"images/{name}.tiff", number + 1


def _save_region(cohort: CohortFolder, who: Skin, number: int) -> tuple[str, int]:
    """Write one region; return the path and the number of its section."""
    path = f"images/{who.name}/{number + 1}.png"
    cohort.save(path, encoded(_region(who, number, cohort.settings.size[0], cohort.settings.mpp), ".png"))
    return path, number // REGIONS_PER_SECTION + 1


def _region(who: Skin, number: int, size: int, mpp: float) -> NDArray[np.uint8]:
    """Draw a square at a position of its section with enough tissue."""
    frame = round(FRAME[0] / mpp), round(FRAME[1] / mpp)
    section = Section(who, number // REGIONS_PER_SECTION, size=frame, mpp=mpp)
    random = stream(who.seed, "region", who.number, number)
    picture, tissue = _window(section, max(frame[0] - size, 0) // 2, max(frame[1] - size, 0) // 2, size)
    # The centre and the corners reveal most windows of glass without drawing them.
    far, near, middle = size - size // 8, size // 8, size // 2
    probes = ((middle, middle), (near, near), (far, near), (near, far), (far, far))
    for _ in range(20):
        left, top = (int(random.integers(max(side - size, 1))) for side in frame)
        if not all(section.paint(left + x, top + y, 1, 1)[1].all() for x, y in probes):
            continue
        picture, tissue = _window(section, left, top, size)
        if tissue.mean() >= REGION_TISSUE:
            break
    return picture


def _window(section: Section, left: int, top: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    picture, tissue = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            tile = np.s_[y : y + TILE, x : x + TILE]
            picture[tile], tissue[tile] = section.paint(left + x, top + y, min(TILE, size - x), min(TILE, size - y))
    return picture, tissue


def _make(
    folder: Path,
    settings: SkinSettings,
    save_image: Callable[[CohortFolder, Skin, int], tuple[str, int]],
    progress: Progress | None,
) -> Path:
    _check(settings)
    cohort = CohortFolder(folder, "skin", settings, COLUMNS, CONTENTS)
    cohort.claim()
    findings = [finding_of(settings.seed, number, settings.classes) for number in range(settings.subjects)]
    labels = shuffled_labels(settings.seed, findings) if settings.labels == "shuffled" else findings
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, (finding, label) in enumerate(zip(findings, labels, strict=True)):
        who = skin(settings.seed, number, finding, settings.stains)
        random = stream(settings.seed, "person", number)
        person = {"subject": who.name, "visit": 1, "label": label, "disease": "normal" if label == "normal" else "ssc"}
        person |= {"sex": "FM"[int(random.random() < 0.3)], "age": int(random.integers(24, 78))}
        measures = {name: round(value, 4) for name, value in asdict(who.stage).items()}
        truth.append({"subject": who.name, "finding": finding, "label": label, **measures})
        for image in range(settings.images):
            path, section = save_image(cohort, who, image)
            facts = {"path": path, "section": section, "source": "phantom", "mpp": settings.mpp, "synthetic": 1}
            rows.append(person | facts)
            if progress is not None:
                progress(len(rows), settings.subjects * settings.images)
    return cohort.finish("images", rows, truth)
