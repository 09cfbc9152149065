"""The psoriasis phantom: a cohort of synthetic subjects under treatment, photographed and graded at every visit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from casewise.errors import CasewiseError, nearest
from casewise.plugins.phantoms.draws import stream
from casewise.plugins.phantoms.folder import CohortFolder, Labels, PhantomKind, Progress, Row, check_settings, encoded
from casewise.plugins.phantoms.psoriasis.photograph import Photograph, draw
from casewise.plugins.phantoms.psoriasis.poses import PHOTOGRAPHS
from casewise.plugins.phantoms.psoriasis.severity import (
    WEEKS_BETWEEN_VISITS,
    DiseaseCourse,
    Grades,
    course,
    weighted_score,
)
from casewise.plugins.phantoms.psoriasis.subjects import Subject, anatomy, subject

JPEG_QUALITY = 90
COLUMNS = (
    *("path", "subject", "visit", "day", "region", "erythema", "induration", "scaling", "area"),
    *("skin_tone", "site", "synthetic"),
)
CONTENTS = """\
visits.csv    one row for each photograph; severities 0-4 and area 0-6 as a physician would score them, with some noise
phantom.json  the settings, the seed, and the truth: continuous severities and the covered share of the skin
images/       <subject>/<visit>/<region>_<n>.jpg, each marked as synthetic in its EXIF data and its JPEG comment
"""


PSORIASIS = PhantomKind(
    "psoriasis", COLUMNS, "photograph", "photographed", CONTENTS, "photographs", (24, 4928), table="visits.csv"
)


@dataclass(frozen=True)
class PsoriasisSettings:
    """Everything that determines the bytes of the cohort.

    `size` is width and height in pixels. `labels="shuffled"` makes a negative control: every subject receives the label
    sequence of another one, with the visits in another order. Without the second step the improvement that nearly all
    subjects share could be learned.
    """

    subjects: int = 30
    visits: int = 6
    size: tuple[int, int] = (492, 326)
    seed: int = 0
    labels: Labels = "true"

    @property
    def photographs(self) -> list[tuple[str, int]]:
        """The photographs of a visit, in the order of the table: the region and the number, which starts at 1."""
        return [(region, number) for region, count in PHOTOGRAPHS.items() for number in range(1, count + 1)]


def make_psoriasis(
    folder: Path, *, processes: int | None = None, progress: Progress | None = None, **settings: Any
) -> Path:
    """Draw a phantom cohort into `folder` and return the path of its `visits.csv`.

    A visit has eight photographs (upper 4, trunk 2, lower 2) and takes place every four weeks; one subject in six
    misses a visit, never the first. Three quarters of the subjects respond. The same settings give the same bytes with
    any number of `processes` (default: one for each core); a subject's pixels do not depend on the number of subjects.

    Args:
        settings: the fields of `PsoriasisSettings`.
        progress: receives the numbers of finished photographs and of all photographs.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not a phantom.
    """
    from joblib import cpu_count

    options = PsoriasisSettings(**settings)
    check_settings(options, PSORIASIS)
    if processes is not None and processes < 1:
        raise CasewiseError(f"The phantom's processes must be 1 or more; found {processes}.")
    courses = [
        course(options.seed, number, visits=options.visits, regions=tuple(PHOTOGRAPHS))
        for number in range(options.subjects)
    ]
    total, done = sum(len(disease.attended) for disease in courses) * len(options.photographs), 0
    cohort = CohortFolder(folder, PSORIASIS, options, total, None)
    for count in _draw_all(cohort, processes or cpu_count()):
        done += count
        if progress is not None:
            progress(done, total)
    return _write_table(cohort, courses)


def draw_photograph(
    subject_number: int, visit: int, region: str, number: int = 1, *, seed: int = 0, size: tuple[int, int] = (492, 326)
) -> Photograph:
    """Return one photograph of the cohort with its masks: subject and visit count from 0, photographs from 1.

    Raises:
        CasewiseError: no such region or photograph.

    >>> shot = draw_photograph(0, 0, "trunk", size=(96, 64))
    >>> shot.picture.shape, bool((shot.plaque <= shot.skin).all())
    ((64, 96, 3), True)
    """
    if not 1 <= number <= PHOTOGRAPHS.get(region, 0):
        available = ", ".join(f"{name} 1-{count}" for name, count in PHOTOGRAPHS.items())
        raise CasewiseError(
            f"The phantom has no photograph {region} {number}; it has {available}.{nearest(region, PHOTOGRAPHS)}"
        )
    patient = subject(seed, subject_number)
    severity = course(seed, subject_number, visits=visit + 1, regions=(region,)).truth[visit][region]
    body = anatomy(seed, patient, region, number)
    return draw(seed, patient, body, key=(patient.name, visit, region, number), severity=severity, size=size)


def labels_of(settings: PsoriasisSettings, courses: list[DiseaseCourse]) -> list[tuple[dict[str, Grades], ...]]:
    """Return each subject's labels by visit and region: true ones, or another subject's in another order."""
    if settings.labels == "true":
        return [disease.physician for disease in courses]
    random = stream(settings.seed, "shuffled labels", settings.subjects)
    ring = random.permutation(settings.subjects)
    labels: dict[int, tuple[dict[str, Grades], ...]] = {}
    for position, number in enumerate(ring):
        # The next subject in a random ring is always a different one.
        donor = courses[ring[(position + 1) % len(ring)]].physician
        labels[int(number)] = tuple(donor[visit] for visit in random.permutation(settings.visits))
    return [labels[number] for number in range(settings.subjects)]


def _draw_all(cohort: CohortFolder, processes: int) -> Iterator[int]:
    """Draw all photographs; yield the number of photographs of each finished series."""
    series = [(number, *shot) for number in range(cohort.settings.subjects) for shot in cohort.settings.photographs]
    draw_series = partial(_draw_series, cohort)
    if processes == 1:
        yield from map(draw_series, series)
        return
    from joblib import Parallel, delayed

    # A fork of a parent that has loaded torch, and therefore has threads, can deadlock; other new processes execute
    # the script that calls this function once more, but those of loky do not.
    workers = Parallel(
        n_jobs=min(processes, len(series)),
        backend="loky",
        return_as="generator",
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    yield from workers(delayed(draw_series)(photograph) for photograph in series)


def _draw_series(cohort: CohortFolder, photograph: tuple[int, str, int]) -> int:
    """Draw one of a subject's photographs at all visits, which share the anatomy; return the number of visits."""
    settings, (subject_number, region, number) = cohort.settings, photograph
    patient = subject(settings.seed, subject_number)
    body = anatomy(settings.seed, patient, region, number)
    disease = course(settings.seed, subject_number, visits=settings.visits, regions=tuple(PHOTOGRAPHS))
    for visit in disease.attended:
        key, severity = (patient.name, visit, region, number), disease.truth[visit][region]
        shot = draw(settings.seed, patient, body, key=key, severity=severity, size=settings.size)
        path = _photograph_path(patient, visit, region, number)
        cohort.save(path, encoded(shot.picture, ".jpg", quality=JPEG_QUALITY))
    return len(disease.attended)


def _visit_name(visit: int) -> str:
    return f"week{visit * WEEKS_BETWEEN_VISITS}"


def _photograph_path(patient: Subject, visit: int, region: str, number: int) -> str:
    return f"images/{patient.name}/{_visit_name(visit)}/{region}_{number}.jpg"


def _write_table(cohort: CohortFolder, courses: list[DiseaseCourse]) -> Path:
    settings: PsoriasisSettings = cohort.settings
    truth: list[Row] = []
    for number, (disease, labels) in enumerate(zip(courses, labels_of(settings, courses), strict=True)):
        patient = subject(settings.seed, number)
        person = {"skin_tone": patient.skin_tone, "site": patient.site}
        visits = [_true_state(disease, visit) for visit in disease.attended]
        truth.append({"subject": patient.name, "response": disease.response, **person, "visits": visits})
        for visit in disease.attended:
            when = {"visit": _visit_name(visit), "day": visit * WEEKS_BETWEEN_VISITS * 7}
            for region, n in settings.photographs:
                grades = asdict(labels[visit][region])
                path = _photograph_path(patient, visit, region, n)
                cohort.add(path=path, subject=patient.name, region=region, **when, **grades, **person)
    return cohort.finish(truth)


def _true_state(disease: DiseaseCourse, visit: int) -> Row:
    """Return the true state at a visit: continuous severities, covered share, noiseless grades and the physician's."""
    regions = {
        region: {
            "severity": {name: round(value, 4) for name, value in asdict(severity).items()},
            "covered_share": round(severity.share, 4),
            "grades": asdict(severity.grades),
            "physician": asdict(disease.physician[visit][region]),
        }
        for region, severity in disease.truth[visit].items()
    }
    score = weighted_score({region: severity.grades for region, severity in disease.truth[visit].items()})
    return {"visit": _visit_name(visit), "day": visit * WEEKS_BETWEEN_VISITS * 7, "score": score, "regions": regions}
