"""The psoriasis phantom: a cohort of synthetic subjects under treatment, photographed and graded at every visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from casewise.errors import CasewiseError, nearest
from casewise.plugins.phantoms.draws import stream
from casewise.plugins.phantoms.folder import CohortFolder, Labels, PhantomKind, Progress, Row, check_settings, encoded
from casewise.plugins.phantoms.psoriasis.bodies import PHOTOGRAPHS
from casewise.plugins.phantoms.psoriasis.photograph import Photograph, draw
from casewise.plugins.phantoms.psoriasis.subjects import (
    WEEKS_BETWEEN_VISITS,
    DiseaseCourse,
    Grades,
    Subject,
    anatomy,
    course,
    subject,
    weighted_score,
)

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


# The photographs of a visit, in the order of the table: the region and the number, which starts at 1.
SHOTS = [(region, number) for region, count in PHOTOGRAPHS.items() for number in range(1, count + 1)]


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
    from joblib import Parallel, cpu_count, delayed

    options = PsoriasisSettings(**settings)
    check_settings(options, PSORIASIS)
    seed, regions = options.seed, tuple(PHOTOGRAPHS)
    courses = [course(seed, number, visits=options.visits, regions=regions) for number in range(options.subjects)]
    total, done = sum(len(disease.attended) for disease in courses) * len(SHOTS), 0
    cohort = CohortFolder(folder, PSORIASIS, options, total, None)
    series = [(number, *shot) for number in range(options.subjects) for shot in SHOTS]
    # A fork of a parent that has loaded torch, and therefore has threads, can deadlock; other new processes execute
    # the script that calls this function again, but loky's processes do not.
    own: Mapping[str, object] = {"initializer": cv2.setNumThreads, "initargs": (1,)}
    jobs = min(processes or cpu_count(), len(series))
    workers = Parallel(n_jobs=jobs, backend="loky", return_as="generator", **own)
    for count in workers(delayed(_draw_series)(cohort, courses[shot[0]], *shot) for shot in series):
        done += count
        if progress is not None:
            progress(done, total)
    truth: list[Row] = []
    for number, (disease, labels) in enumerate(zip(courses, labels_of(options, courses), strict=True)):
        patient = subject(seed, number)
        person = {"skin_tone": patient.skin_tone, "site": patient.site}
        visits = [_true_state(disease, visit) for visit in disease.attended]
        truth.append({"subject": patient.name, "response": disease.response, **person, "visits": visits})
        for visit in disease.attended:
            for region, n in SHOTS:
                grades, path = asdict(labels[visit][region]), _path(patient, visit, region, n)
                cohort.add(path=path, subject=patient.name, region=region, **_when(visit), **grades, **person)
    return cohort.finish(truth)


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
    body, key = anatomy(seed, patient, region, number), (patient.name, visit, region, number)
    return draw(seed, patient, body, key=key, severity=severity, size=size)


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


def _draw_series(cohort: CohortFolder, disease: DiseaseCourse, number: int, region: str, shot: int) -> int:
    """Draw one of a subject's photographs at all visits, which share the anatomy; return the number of visits."""
    settings, patient = cohort.settings, subject(cohort.settings.seed, number)
    body = anatomy(settings.seed, patient, region, shot)
    for visit in disease.attended:
        key, severity = (patient.name, visit, region, shot), disease.truth[visit][region]
        drawn = draw(settings.seed, patient, body, key=key, severity=severity, size=settings.size)
        cohort.save(_path(patient, visit, region, shot), encoded(drawn.picture, ".jpg", quality=JPEG_QUALITY))
    return len(disease.attended)


def _when(visit: int) -> Row:
    return {"visit": f"week{visit * WEEKS_BETWEEN_VISITS}", "day": visit * WEEKS_BETWEEN_VISITS * 7}


def _path(patient: Subject, visit: int, region: str, number: int) -> str:
    return f"images/{patient.name}/{_when(visit)['visit']}/{region}_{number}.jpg"


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
    return {**_when(visit), "score": score, "regions": regions}
