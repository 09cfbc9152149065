"""The psoriasis phantom: a cohort of synthetic subjects under treatment, photographed and graded at every visit."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from casewise.errors import CasewiseError, nearest
from casewise.phantoms.draws import stream
from casewise.phantoms.folder import CohortFolder, Labels, check_common, check_minimum, encoded
from casewise.phantoms.psoriasis.photograph import Photograph, draw
from casewise.phantoms.psoriasis.poses import PHOTOGRAPHS
from casewise.phantoms.psoriasis.severity import WEEKS_BETWEEN_VISITS, DiseaseCourse, Grades, course, weighted_score
from casewise.phantoms.psoriasis.subjects import Subject, anatomy, subject

SMALLEST, LARGEST = 24, 4928
JPEG_QUALITY = 90
COLUMNS = (
    *("path", "subject", "visit", "day", "region", "erythema", "induration", "scaling", "area"),
    *("skin_tone", "site", "synthetic"),
)
CONTENTS = """\
Every photograph in this folder was drawn by casewise from random numbers. No person was photographed, and nothing here
may be used to judge how well a model does on patients.

visits.csv    one row a photograph; severities 0-4 and area 0-6 as a physician with a little noise would read them
phantom.json  the settings, the seed, and the truth: continuous severities and the covered share of the skin
images/       <subject>/<visit>/<region>_<n>.jpg, each marked as synthetic in its EXIF data and its JPEG comment
"""


@dataclass(frozen=True)
class PsoriasisSettings:
    """Everything that determines the bytes of the cohort."""

    subjects: int
    visits: int
    size: tuple[int, int]
    seed: int
    head: bool
    labels: Labels

    @property
    def regions(self) -> tuple[str, ...]:
        """The photographed regions, in the order of the table."""
        return ("upper", "trunk", "lower", "head") if self.head else ("upper", "trunk", "lower")


@dataclass(frozen=True)
class _Series:
    """All visits of one of a subject's photographs, drawn together because they share the anatomy."""

    subject: int
    region: str
    number: int
    visits: tuple[int, ...]


def make_psoriasis(
    folder: Path,
    *,
    subjects: int = 30,
    visits: int = 6,
    size: tuple[int, int] = (492, 326),
    seed: int = 0,
    head: bool = False,
    labels: Labels = "true",
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a phantom cohort into `folder` and return the path of its `visits.csv`.

    Eight photographs a visit (upper 4, trunk 2, lower 2; with `head` one more) of `size` (width, height) pixels, a
    visit every four weeks; one subject in six misses a visit, never the first. Three quarters of the subjects respond.
    The same arguments give the same bytes with any number of `processes` (default: one for each core); a subject's
    pixels do not depend on the number of subjects. `progress` receives the numbers of finished and of all photographs.

    `labels="shuffled"` makes a negative control: every subject receives the label sequence of another one, with the
    visits in another order. Without the second step the improvement that nearly all subjects share could be learned.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not a phantom.
    """
    settings = PsoriasisSettings(subjects, visits, (int(size[0]), int(size[1])), seed, head, labels)
    check_minimum(
        [("subjects", subjects, 1), ("visits", visits, 1), ("seed", seed, 0), ("processes", processes or 1, 1)]
    )
    check_common(labels, subjects, settings.size, (SMALLEST, LARGEST))
    cohort = CohortFolder(folder, "psoriasis", settings, COLUMNS, CONTENTS, table="visits.csv")
    cohort.claim()
    courses = [course(seed, number, visits=visits, regions=settings.regions) for number in range(subjects)]
    series = [
        _Series(number, region, n, courses[number].attended)
        for number in range(subjects)
        for region in settings.regions
        for n in range(1, PHOTOGRAPHS[region] + 1)
    ]
    total, done = sum(len(photographs.visits) for photographs in series), 0
    for count in _draw_all(cohort, series, processes or _cores()):
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
    who = subject(seed, subject_number)
    severity = course(seed, subject_number, visits=visit + 1, regions=(region,)).truth[visit][region]
    body = anatomy(seed, who, region, number)
    return draw(seed, who, body, key=(who.name, visit, region, number), severity=severity, size=size)


def labels_of(settings: PsoriasisSettings, courses: list[DiseaseCourse]) -> list[tuple[dict[str, Grades], ...]]:
    """Return each subject's labels by visit and region: its own, or another subject's in another order."""
    if settings.labels == "true":
        return [disease.physician for disease in courses]
    random = stream(settings.seed, "shuffled labels", settings.subjects)
    ring = random.permutation(settings.subjects)
    labels: dict[int, tuple[dict[str, Grades], ...]] = {}
    for position, number in enumerate(ring):
        # The next subject in a random ring is always another one.
        donor = courses[ring[(position + 1) % len(ring)]].physician
        labels[int(number)] = tuple(donor[visit] for visit in random.permutation(settings.visits))
    return [labels[number] for number in range(settings.subjects)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw_all(cohort: CohortFolder, series: list[_Series], processes: int) -> Iterator[int]:
    """Draw the series and yield the number of photographs of each finished one."""
    if processes == 1 or len(series) == 1:
        for photographs in series:
            yield _draw_series(cohort, photographs)
        return
    # Not forked: a parent that has loaded torch has threads, and its fork can deadlock.
    pool = ProcessPoolExecutor(
        min(processes, len(series)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    try:
        queue = iter(series)
        waiting = {pool.submit(_draw_series, cohort, photographs) for photographs in islice(queue, 4 * processes)}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            waiting |= {pool.submit(_draw_series, cohort, more) for more in islice(queue, len(finished))}
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw_series(cohort: CohortFolder, series: _Series) -> int:
    settings: PsoriasisSettings = cohort.settings
    who = subject(settings.seed, series.subject)
    body = anatomy(settings.seed, who, series.region, series.number)
    truth = course(settings.seed, series.subject, visits=settings.visits, regions=settings.regions).truth
    for visit in series.visits:
        key, severity = (who.name, visit, series.region, series.number), truth[visit][series.region]
        shot = draw(settings.seed, who, body, key=key, severity=severity, size=settings.size)
        path = _photograph_path(who, visit, series.region, series.number)
        cohort.save(path, encoded(shot.picture, ".jpg", quality=JPEG_QUALITY))
    return len(series.visits)


def _visit_name(visit: int) -> str:
    return f"week{visit * WEEKS_BETWEEN_VISITS}"


def _photograph_path(who: Subject, visit: int, region: str, number: int) -> str:
    return f"images/{who.name}/{_visit_name(visit)}/{region}_{number}.jpg"


def _write_table(cohort: CohortFolder, courses: list[DiseaseCourse]) -> Path:
    settings: PsoriasisSettings = cohort.settings
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, (disease, labels) in enumerate(zip(courses, labels_of(settings, courses), strict=True)):
        who = subject(settings.seed, number)
        person = {"skin_tone": who.skin_tone, "site": who.site}
        visits = [_true_state(disease, visit) for visit in disease.attended]
        truth.append({"subject": who.name, "response": disease.response, **person, "visits": visits})
        rows += [
            {
                "path": _photograph_path(who, visit, region, n),
                "subject": who.name,
                "visit": _visit_name(visit),
                "day": visit * WEEKS_BETWEEN_VISITS * 7,
                "region": region,
                **asdict(labels[visit][region]),
                **person,
                "synthetic": 1,
            }
            for visit in disease.attended
            for region in settings.regions
            for n in range(1, PHOTOGRAPHS[region] + 1)
        ]
    return cohort.finish("photographs", rows, truth)


def _true_state(disease: DiseaseCourse, visit: int) -> dict[str, Any]:
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
