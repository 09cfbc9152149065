"""What a skin phantom's folder holds: its notes, its settings, and the table of its slides or regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from casewise.errors import CasewiseError, nearest
from casewise.files import write_json
from casewise.phantoms.chest.records import write_rows
from casewise.phantoms.folders import check_classes, check_least, claim
from casewise.phantoms.psoriasis.records import MARK, Labels
from casewise.phantoms.slides.skin import STAGES

Stains = Literal["alike", "own"]
Form = Literal["slides", "regions"]

KIND = "skin"
# A side of a slide and of a region, in pixels, and of a slide in microns.
LEAST = {"slides": 256, "regions": 32}
LARGEST = 40_000
LEAST_MICRONS = 600.0
COLUMNS = ("path", "subject", "visit", "label", "disease", "section", "source", "sex", "age", "mpp", "synthetic")
README = f"""Synthetic phantom cohort: {MARK}.

Every biopsy in this folder was drawn by casewise from random numbers. No person was biopsied, and nothing here may be
used to judge how well a model does on patients.

cases.csv     one row a slide or region; `disease` is normal or ssc, `label` tells early from late as well
phantom.json  the settings, the seed, and the truth: thickness of the collagen bundles and more of every subject
images/       <subject>/<section>.tiff (slides) or <subject>/<n>.png (regions), each marked as synthetic in itself
masks/        <subject>/<section>.png, slides only: 255 where there is skin, one pixel for 16 of the slide
"""


@dataclass(frozen=True)
class SkinSettings:
    """What decides every byte of the cohort. `images`: slides or regions of a subject; `size` in pixels."""

    form: Form
    subjects: int
    images: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    mpp: float
    seed: int
    labels: Labels
    stains: Stains


def check(settings: SkinSettings) -> None:
    """Refuse settings that nothing can be drawn with.

    Raises:
        CasewiseError: a setting is out of range.
    """
    images = "slides_per_subject" if settings.form == "slides" else "regions_per_subject"
    check_least([("subjects", settings.subjects, 1), (images, settings.images, 1), ("seed", settings.seed, 0)])
    check_classes(settings.classes, list(STAGES))
    least = LEAST[settings.form]
    if not all(least <= side <= LARGEST for side in settings.size):
        found = f"{settings.size[0]}x{settings.size[1]}"
        raise CasewiseError(f"The phantom's size must be {least} to {LARGEST} pixels a side; found {found}.")
    if not 0.1 <= settings.mpp <= 8:
        raise CasewiseError(f"The phantom's mpp must be 0.1 to 8 microns a pixel; found {settings.mpp}.")
    if settings.form == "slides" and min(settings.size) * settings.mpp < LEAST_MICRONS:
        found = f"{min(settings.size) * settings.mpp:g}"
        raise CasewiseError(f"The phantom's slides must be {LEAST_MICRONS:g} microns a side or more; found {found}.")
    for name, word, allowed in (
        ("labels", settings.labels, get_args(Labels)),
        ("stains", settings.stains, get_args(Stains)),
    ):
        if word not in allowed:
            raise CasewiseError(
                f"The phantom's {name} must be one of {', '.join(allowed)}; found {word!r}.{nearest(word, allowed)}"
            )
    if settings.labels == "shuffled" and settings.subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")


def claim_folder(folder: Path, settings: SkinSettings) -> None:
    """Write the folder's marks first, so that even half a phantom says what it is; refuse what is not one.

    Raises:
        CasewiseError: the folder is a file, or holds something that is not a skin phantom.
    """
    claim(folder, _note(settings, complete=False), README)


def write_cohort(
    folder: Path, settings: SkinSettings, rows: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
) -> Path:
    """Write the truth into `phantom.json` and the images into `cases.csv`; return the latter."""
    write_json(folder / "phantom.json", _note(settings, complete=True) | {"images": len(rows), "subjects": list(truth)})
    return write_rows(folder / "cases.csv", COLUMNS, rows)


def _note(settings: SkinSettings, *, complete: bool) -> dict[str, Any]:
    marks = {"synthetic": True, "kind": KIND, "mark": MARK}
    return marks | {"settings": asdict(settings), "seed": settings.seed, "complete": complete}
