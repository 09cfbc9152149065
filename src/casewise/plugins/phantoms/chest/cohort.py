"""The chest phantom: synthetic films with signs inside the lungs, and shortcuts only where they are requested."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.chest.anatomy import Chest, chest
from casewise.plugins.phantoms.chest.film import FINDINGS, Film, draw, sign
from casewise.plugins.phantoms.draws import Random, balanced_class, stream
from casewise.plugins.phantoms.folder import CohortFolder, Labels, PhantomKind, Progress, Row, check_choice

SMALLEST, LARGEST = 48, 1024
# The hospital of all films.
SOURCE = "north"
# The letter in the corner of each class; the second class has none.
LETTERS = ("L", "", "R")
# The kinds of watermarks, each two lines, and the share of films with one.
WATERMARKS = (("NORTH", "ward 3"), ("SOUTH", "clinic"))
WATERMARKED = 0.8
FIRST_DAY, DAYS = date(2020, 1, 6), 700
COLUMNS = ("path", "subject", "visit", "view", "label", "source", "sex", "age", "date", "lung_mask", "synthetic")
CONTENTS = """\
cases.csv     one row for each film
phantom.json  the settings, the seed, and the truth: which sign was drawn into each subject's films
images/       <subject>/<visit>.jpg or .png, each marked as synthetic in its comment
masks/        <subject>/<visit>.png, 255 inside the lungs
"""


CHEST = PhantomKind("chest", COLUMNS, "film", "X-rayed", CONTENTS, "films", (SMALLEST, LARGEST), FINDINGS)


@dataclass(frozen=True)
class ChestSettings:
    """Everything that determines the bytes of the cohort.

    Every subject has `images` films. A film has about `size` (width, height) pixels. `marker="corner"` burns a letter
    that follows the class into one corner. `watermark` draws one of two faint marks into the lower left of most films,
    the first of them on the first class only (`class`), or by `chance` for each subject. `labels="shuffled"` permutes
    the labels between subjects after the films are drawn, so that nothing can be learned.
    """

    subjects: int = 60
    images: int = 1
    classes: tuple[str, ...] = FINDINGS
    size: tuple[int, int] = (320, 320)
    seed: int = 0
    labels: Labels = "true"
    marker: Literal["corner", None] = None
    watermark: Literal["class", "chance", None] = None


def make_chest(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw a chest phantom into `folder` and return the path of its `cases.csv`, one row a film.

    A subject's films are taken on different days, each a visit: the same anatomy with slightly different exposure and
    position. Classes are as equal in number as possible and independent of anatomy, sex, age, date and file format.
    The size of a film varies by 8 %; every film has a mask of its lungs. The same settings give the same bytes, and a
    subject's films do not depend on the number of subjects.

    Signs of disease are drawn inside the lungs only and leave the mean brightness of any eighth of the film unchanged,
    so nothing else reveals the class unless `marker` or `watermark` request it.

    Args:
        settings: the fields of `ChestSettings`.
        progress: receives the numbers of finished films and of all films.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not a chest phantom.
    """
    options = ChestSettings(**settings)
    seed = options.seed
    cohort = CohortFolder(folder, CHEST, options, options.subjects * options.images, progress)
    findings = [finding_of(seed, number, options.classes) for number in range(options.subjects)]
    labels = findings
    if options.labels == "shuffled":
        order = stream(seed, "shuffled labels", options.subjects).permutation(options.subjects)
        labels = [findings[other] for other in order]
    truth: list[Row] = []
    for number, (finding, label) in enumerate(zip(findings, labels, strict=True)):
        patient = chest(seed, number)
        truth.append({"subject": patient.name, "finding": finding, "label": label, "source": SOURCE})
        person: Row = {"subject": patient.name, "label": label, "source": SOURCE, "view": "PA"}
        person |= {"sex": patient.sex, "age": patient.age}
        for image, day in enumerate(_days(seed, number, options.images)):
            film = _draw(options, patient, image, finding)
            suffix = ".png" if stream(seed, "format", number, image).random() < 0.5 else ".jpg"
            path, mask = f"images/{patient.name}/{image + 1}{suffix}", f"masks/{patient.name}/{image + 1}.png"
            cohort.save_image(path, film.picture)
            cohort.save_image(mask, film.lungs.astype(np.uint8) * np.uint8(255))
            cohort.add(path=path, visit=image + 1, date=day.isoformat(), lung_mask=mask, **person)
    return cohort.finish(truth)


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
    patient = chest(seed, subject_number)
    return draw(seed, patient, image=image, ill=sign(seed, patient, finding), size=size)


def finding_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the finding of subject `number`; each block of `len(classes)` subjects has each class once."""
    return balanced_class(seed, "classes", number, classes)


def _days(seed: int, number: int, images: int) -> list[date]:
    random = stream(seed, "days", number)
    days = [FIRST_DAY + timedelta(days=int(random.integers(DAYS)))]
    while len(days) < images:
        days.append(days[-1] + timedelta(days=int(random.integers(1, 15))))
    return days


def _draw(settings: ChestSettings, patient: Chest, image: int, finding: str) -> Film:
    seed, number = settings.seed, patient.number
    random = stream(seed, "native size", number, image)
    width, height = (max(round(side * random.uniform(0.92, 1.08)), SMALLEST) for side in settings.size)
    film = draw(seed, patient, image=image, ill=sign(seed, patient, finding), size=(width, height))
    if settings.marker is not None:
        letter = LETTERS[settings.classes.index(finding)]
        _burn_in(film.picture, letter, stream(seed, "marker", number, image))
    if settings.watermark is not None:
        random = stream(seed, "watermark", number)
        chance, kind = random.random(), int(random.integers(2))
        if chance < WATERMARKED:
            kind = int(finding != settings.classes[0]) if settings.watermark == "class" else kind
            _watermark(film.picture, kind, min(settings.size) // 16)
    return film


def _burn_in(picture: NDArray[np.uint8], letter: str, random: Random) -> None:
    """Write a letter into the upper left corner in place, at a slightly varying position."""
    unit = min(picture.shape)
    size = max(0.075 * unit, 6.0)
    left, top = (round(float(value)) for value in 0.025 * unit + random.uniform(0, 0.02 * unit, 2))
    # A letter of this font is 21 pixels high at a scale of 1, and is positioned by its lower left corner.
    corner = (left, top + round(size))
    thickness = max(round(size / 7), 1)
    cv2.putText(picture, letter, corner, cv2.FONT_HERSHEY_SIMPLEX, size / 21, 250, thickness, cv2.LINE_AA)


def _watermark(picture: NDArray[np.uint8], kind: int, unit: int) -> None:
    """Lighten a picture in place by two lines of text, `unit` pixels from its lower left corner."""
    ink = np.zeros(picture.shape, np.uint8)
    for number, text in enumerate(reversed(WATERMARKS[kind])):
        corner = (unit, len(picture) - unit - 2 * unit * number)
        cv2.putText(ink, text, corner, cv2.FONT_HERSHEY_SIMPLEX, unit / 16, 60, max(unit // 10, 1), cv2.LINE_AA)
    picture[:] = cv2.add(picture, ink)
