"""The chest phantom: synthetic films with signs inside the lungs, and shortcuts only where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.errors import CasewiseError, nearest
from casewise.phantoms.chest.anatomy import Chest, chest
from casewise.phantoms.chest.film import MACHINES, Film, draw
from casewise.phantoms.chest.records import ChestSettings, claim_folder, encoded, write_cohort
from casewise.phantoms.chest.signs import FINDINGS, sign
from casewise.phantoms.chest.twins import TWIN_KINDS, plant_twins
from casewise.phantoms.folders import check_classes, check_least
from casewise.phantoms.psoriasis.records import Labels
from casewise.phantoms.saving import save
from casewise.phantoms.streams import stream

__all__ = ["FINDINGS", "SOURCES", "TWIN_KINDS", "Film", "draw_film", "make_chest", "plant_twins"]

Marker = Literal["corner"]

SMALLEST, LARGEST = 48, 4096
SOURCES = ("north", "south")
# Of ten subjects of the first class, and of ten of any other, so many are from the north, where there are two sources.
FROM_NORTH = (9, 2)
# What is burnt into the corner, by class: the second class has none.
LETTERS = ("L", "", "R")
FIRST_DAY, DAYS = date(2020, 1, 6), 700


def make_chest(
    folder: Path,
    *,
    subjects: int = 60,
    images: int = 1,
    classes: tuple[str, ...] = FINDINGS,
    size: tuple[int, int] = (320, 320),
    seed: int = 0,
    labels: Labels = "true",
    marker: Marker | None = None,
    sources: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a chest phantom into `folder` and return the path of its `cases.csv`, one row a film.

    Every subject has `images` films on different days, each a visit: the same anatomy, exposed and placed a little
    differently. Classes are as equal as they can be, and have nothing to do with anatomy, sex, age, date, or file
    format. A film has about `size` (width, height) pixels, which vary by 8 %; with it goes a mask of its lungs. The
    same arguments give the same bytes, and a subject's films do not depend on how many others there are.

    Signs of disease are drawn into the lungs alone and leave the brightness of any eighth of the film as it is. So
    nothing else tells the class, unless it is asked for: `marker="corner"` burns a letter into one corner that follows
    the class, and two `sources` are two hospitals with exposures and film sizes of their own, of which the first has
    nine tenths of the first class and a fifth of the others. `labels="shuffled"` hands the labels round between
    subjects after the films are drawn, so that nothing can be learned. `progress` is called with the films done and
    their number.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not a chest phantom.
    """
    settings = ChestSettings(
        subjects, images, tuple(classes), (int(size[0]), int(size[1])), seed, labels, marker, sources
    )
    _check(settings)
    claim_folder(folder, settings)
    findings = [finding_of(seed, number, settings.classes) for number in range(subjects)]
    given = list(findings)
    if labels == "shuffled":
        order = stream(seed, "shuffled labels", subjects).permutation(subjects)
        given = [findings[place] for place in order]
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, finding in enumerate(findings):
        source = _source(settings, number, finding)
        who = chest(seed, number)
        truth.append({"subject": who.name, "finding": finding, "label": given[number], "source": source})
        days = _days(seed, number, images)
        for image in range(images):
            film = _draw(settings, who, image, finding, source)
            paths = _save(folder, settings, who, image, film)
            rows.append(
                {
                    "path": paths[0],
                    "subject": who.name,
                    "visit": image + 1,
                    "view": "PA",
                    "label": given[number],
                    "source": source,
                    "sex": who.sex,
                    "age": who.age,
                    "date": days[image].isoformat(),
                    "lung_mask": paths[1],
                    "synthetic": 1,
                }
            )
            if progress is not None:
                progress(len(rows), subjects * images)
    return write_cohort(folder, settings, rows, truth)


def draw_film(
    subject_number: int, *, finding: str, image: int = 0, seed: int = 0, size: tuple[int, int] = (320, 320)
) -> Film:
    """Return one film of a subject with any finding, with its lungs and what the sign added; all count from 0.

    Raises:
        CasewiseError: no such finding.

    >>> film = draw_film(0, finding="pneumonia", size=(96, 80))
    >>> film.picture.shape, bool((film.sign[~film.lungs] == 0).all())
    ((80, 96), True)
    """
    if finding not in FINDINGS:
        raise CasewiseError(
            f"The finding must be one of {', '.join(FINDINGS)}; found {finding!r}.{nearest(finding, FINDINGS)}"
        )
    who = chest(seed, subject_number)
    return draw(seed, who, image=image, ill=sign(seed, who, finding), size=size)


def finding_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return what subject `number` has: every block of as many subjects as there are classes has each class once.

    >>> sorted(finding_of(7, number, ("covid", "no_finding")) for number in (2, 3))
    ['covid', 'no_finding']
    """
    block, place = divmod(number, len(classes))
    return classes[int(stream(seed, "classes", len(classes), block).permutation(len(classes))[place])]


def _check(settings: ChestSettings) -> None:
    check_least([("subjects", settings.subjects, 1), ("images", settings.images, 1), ("seed", settings.seed, 0)])
    check_classes(settings.classes, FINDINGS)
    if not all(SMALLEST <= side <= LARGEST for side in settings.size):
        found = f"{settings.size[0]}x{settings.size[1]}"
        raise CasewiseError(f"The phantom's size must be {SMALLEST} to {LARGEST} pixels a side; found {found}.")
    for name, word, allowed in (
        ("labels", settings.labels, get_args(Labels)),
        ("marker", settings.marker or "corner", get_args(Marker)),
    ):
        if word not in allowed:
            raise CasewiseError(
                f"The phantom's {name} must be one of {', '.join(allowed)}; found {word!r}.{nearest(word, allowed)}"
            )
    if settings.sources not in (1, 2):
        raise CasewiseError(f"The phantom's sources must be 1 or 2; found {settings.sources}.")
    if settings.labels == "shuffled" and settings.subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")


def _source(settings: ChestSettings, number: int, finding: str) -> str:
    """Return the hospital of a subject: exact shares of every ten subjects of a class, so that none is all from one."""
    if settings.sources == 1:
        return SOURCES[0]
    ten, place = divmod(number // len(settings.classes), 10)
    rank = int(stream(settings.seed, "source", finding, ten).permutation(10)[place])
    return SOURCES[0 if rank < FROM_NORTH[finding != settings.classes[0]] else 1]


def _days(seed: int, number: int, images: int) -> list[date]:
    random = stream(seed, "days", number)
    days = [FIRST_DAY + timedelta(days=int(random.integers(DAYS)))]
    while len(days) < images:
        days.append(days[-1] + timedelta(days=int(random.integers(1, 15))))
    return days


def _draw(settings: ChestSettings, who: Chest, image: int, finding: str, source: str) -> Film:
    machine = MACHINES["any" if settings.sources == 1 else source]
    random = stream(settings.seed, "native size", who.number, image)
    width, height = (max(round(side * random.uniform(*machine.enlarged)), SMALLEST) for side in settings.size)
    ill = sign(settings.seed, who, finding)
    film = draw(settings.seed, who, image=image, ill=ill, size=(width, height), machine=machine)
    if settings.marker is not None:
        _burn_in(
            film.picture, LETTERS[settings.classes.index(finding)], stream(settings.seed, "marker", who.number, image)
        )
    return film


def _burn_in(picture: NDArray[np.uint8], letter: str, random: np.random.Generator) -> None:
    """Write a letter into the upper left corner in place, a few pixels here or there."""
    unit = min(picture.shape)
    size = max(0.075 * unit, 6.0)
    left, top = (round(float(value)) for value in 0.025 * unit + random.uniform(0, 0.02 * unit, 2))
    thick = max(round(size / 7), 1)
    # A letter of this font is 21 pixels high at a scale of 1, and is placed by its lower left corner.
    place = (left, top + round(size))
    cv2.putText(picture, letter, place, cv2.FONT_HERSHEY_SIMPLEX, size / 21, 250, thick, cv2.LINE_AA)


def _save(folder: Path, settings: ChestSettings, who: Chest, image: int, film: Film) -> tuple[str, str]:
    """Write a film and its mask; return where they lie, relative to the folder."""
    suffix = ".png" if stream(settings.seed, "format", who.number, image).random() < 0.5 else ".jpg"
    path, mask = f"images/{who.name}/{image + 1}{suffix}", f"masks/{who.name}/{image + 1}.png"
    save(folder / path, encoded(film.picture, suffix))
    save(folder / mask, encoded(film.lungs.astype(np.uint8) * np.uint8(255), ".png"))
    return path, mask
