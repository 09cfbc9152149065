"""The chest phantom: synthetic films with signs inside the lungs, and shortcuts only where they are requested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.phantoms.chest.anatomy import Chest, chest
from casewise.phantoms.chest.film import MACHINES, Film, draw
from casewise.phantoms.chest.signs import FINDINGS, sign
from casewise.phantoms.draws import balanced_class, stream
from casewise.phantoms.folder import (
    CohortFolder,
    Labels,
    check_choice,
    check_classes,
    check_common,
    check_minimum,
    encoded,
)

Marker = Literal["corner"]

SMALLEST, LARGEST = 48, 4096
SOURCES = ("north", "south")
# With two sources: how many of ten subjects come from the north, in the first class and in the others.
FROM_NORTH = (9, 2)
# The letter in the corner of each class; the second class has none.
LETTERS = ("L", "", "R")
FIRST_DAY, DAYS = date(2020, 1, 6), 700
COLUMNS = ("path", "subject", "visit", "view", "label", "source", "sex", "age", "date", "lung_mask", "synthetic")
CONTENTS = """\
Every film in this folder was drawn by casewise from random numbers. No person was X-rayed, and nothing here may be used
to judge how well a model does on patients.

cases.csv     one row a film
phantom.json  the settings, the seed, and the truth: which sign was drawn into each subject's films
images/       <subject>/<visit>.jpg or .png, each marked as synthetic in its comment
masks/        <subject>/<visit>.png, 255 where the lungs are seen
"""


@dataclass(frozen=True)
class ChestSettings:
    """Everything that determines the bytes of the cohort."""

    subjects: int
    images: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    seed: int
    labels: Labels
    marker: Marker | None
    sources: int


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

    Every subject has `images` films on different days, each a visit: the same anatomy with slightly different exposure
    and position. Classes are as equal in number as possible and independent of anatomy, sex, age, date and file format.
    A film has about `size` (width, height) pixels, varying by 8 %, and a mask of its lungs. The same arguments give the
    same bytes, and a subject's films do not depend on the number of subjects.

    Signs of disease are drawn inside the lungs only and leave the mean brightness of any eighth of the film unchanged,
    so nothing else reveals the class unless it is requested: `marker="corner"` burns a letter that follows the class
    into one corner; two `sources` are two hospitals with exposures and film sizes of their own, of which the first has
    nine tenths of the first class and a fifth of the others. `labels="shuffled"` permutes the labels between subjects
    after the films are drawn, so that nothing can be learned. `progress` receives the number of finished films and the
    total.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not a chest phantom.
    """
    settings = ChestSettings(
        subjects, images, tuple(classes), (int(size[0]), int(size[1])), seed, labels, marker, sources
    )
    _check(settings)
    cohort = CohortFolder(folder, "chest", settings, COLUMNS, CONTENTS)
    cohort.claim()
    findings = [finding_of(seed, number, settings.classes) for number in range(subjects)]
    given = findings
    if labels == "shuffled":
        order = stream(seed, "shuffled labels", subjects).permutation(subjects)
        given = [findings[other] for other in order]
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, (finding, label) in enumerate(zip(findings, given, strict=True)):
        source = _source(settings, number, finding)
        who = chest(seed, number)
        truth.append({"subject": who.name, "finding": finding, "label": label, "source": source})
        days = _days(seed, number, images)
        for image in range(images):
            film = _draw(settings, who, image, finding, source)
            path, mask = _save(cohort, who, image, film)
            person = {"subject": who.name, "label": label, "source": source, "sex": who.sex, "age": who.age}
            facts = {"path": path, "visit": image + 1, "view": "PA", "date": days[image].isoformat()}
            rows.append(person | facts | {"lung_mask": mask, "synthetic": 1})
            if progress is not None:
                progress(len(rows), subjects * images)
    return cohort.finish("films", rows, truth)


def draw_film(
    subject_number: int, *, finding: str, image: int = 0, seed: int = 0, size: tuple[int, int] = (320, 320)
) -> Film:
    """Return one film of a subject with any finding, with its lungs and the contribution of the sign; counts from 0.

    Raises:
        CasewiseError: no such finding.

    >>> film = draw_film(0, finding="pneumonia", size=(96, 80))
    >>> film.picture.shape, bool((film.sign[~film.lungs] == 0).all())
    ((80, 96), True)
    """
    check_choice("The finding", finding, FINDINGS)
    who = chest(seed, subject_number)
    return draw(seed, who, image=image, ill=sign(seed, who, finding), size=size)


def finding_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the finding of subject `number`; each block of `len(classes)` subjects has each class once."""
    return balanced_class(seed, "classes", number, classes)


def _check(settings: ChestSettings) -> None:
    check_minimum([("subjects", settings.subjects, 1), ("images", settings.images, 1), ("seed", settings.seed, 0)])
    check_classes(settings.classes, FINDINGS)
    check_common(settings.labels, settings.subjects, settings.size, (SMALLEST, LARGEST))
    check_choice("The phantom's marker", settings.marker or "corner", get_args(Marker))
    check_choice("The phantom's sources", str(settings.sources), ("1", "2"))


def _source(settings: ChestSettings, number: int, finding: str) -> str:
    """Return the hospital of a subject: the shares hold exactly in every ten subjects of a class."""
    if settings.sources == 1:
        return SOURCES[0]
    ten, position = divmod(number // len(settings.classes), 10)
    rank = int(stream(settings.seed, "source", finding, ten).permutation(10)[position])
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
        random = stream(settings.seed, "marker", who.number, image)
        _burn_in(film.picture, LETTERS[settings.classes.index(finding)], random)
    return film


def _burn_in(picture: NDArray[np.uint8], letter: str, random: np.random.Generator) -> None:
    """Write a letter into the upper left corner in place, at a slightly varying position."""
    unit = min(picture.shape)
    size = max(0.075 * unit, 6.0)
    left, top = (round(float(value)) for value in 0.025 * unit + random.uniform(0, 0.02 * unit, 2))
    # A letter of this font is 21 pixels high at a scale of 1, and is positioned by its lower left corner.
    corner = (left, top + round(size))
    thickness = max(round(size / 7), 1)
    cv2.putText(picture, letter, corner, cv2.FONT_HERSHEY_SIMPLEX, size / 21, 250, thickness, cv2.LINE_AA)


def _save(cohort: CohortFolder, who: Chest, image: int, film: Film) -> tuple[str, str]:
    """Write a film and its mask; return their paths relative to the folder."""
    suffix = ".png" if stream(cohort.settings.seed, "format", who.number, image).random() < 0.5 else ".jpg"
    path, mask = f"images/{who.name}/{image + 1}{suffix}", f"masks/{who.name}/{image + 1}.png"
    cohort.save(path, encoded(film.picture, suffix))
    cohort.save(mask, encoded(film.lungs.astype(np.uint8) * np.uint8(255), ".png"))
    return path, mask
