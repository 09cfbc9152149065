"""The psoriasis phantom: a cohort of synthetic subjects under treatment, photographed and scored at every visit."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import cv2
from PIL import Image

from casewise.errors import CasewiseError, nearest
from casewise.phantoms.psoriasis.photograph import Photograph, draw
from casewise.phantoms.psoriasis.poses import PHOTOGRAPHS
from casewise.phantoms.psoriasis.records import (
    MARK,
    Labels,
    PhantomSettings,
    claim_folder,
    photograph_path,
    write_table,
)
from casewise.phantoms.psoriasis.severity import course
from casewise.phantoms.psoriasis.subjects import anatomy, subject
from casewise.phantoms.saving import save

SMALLEST, LARGEST = 24, 4928
JPEG_QUALITY = 90
EXIF_IMAGE_DESCRIPTION, EXIF_SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True)
class _Sitting:
    """All visits of one of a subject's photographs: drawn together, since the anatomy behind them is the same."""

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
    The same arguments give the same bytes in any number of `processes` (default: one for each core); a subject's pixels
    do not depend on how many others there are. `progress` is called with the photographs done and their number.

    `labels="shuffled"` makes a negative control: every subject gets the label sequence of another one, in another order
    of visits. Without the second step the improvement that nearly all subjects share would stay learnable.

    Raises:
        CasewiseError: a setting is out of range, or the folder holds something that is not a phantom.
    """
    settings = PhantomSettings(subjects, visits, (int(size[0]), int(size[1])), seed, head, labels)
    _check(settings, processes)
    claim_folder(folder, settings)
    courses = [course(seed, number, visits=visits, regions=settings.regions) for number in range(subjects)]
    sittings = [
        _Sitting(number, region, n, courses[number].attended)
        for number in range(subjects)
        for region in settings.regions
        for n in range(1, PHOTOGRAPHS[region] + 1)
    ]
    total, done = sum(len(sitting.visits) for sitting in sittings), 0
    for drawn in _draw_all(folder, settings, sittings, processes or _cores()):
        done += drawn
        if progress is not None:
            progress(done, total)
    return write_table(folder, settings, courses)


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
        known = ", ".join(f"{name} 1-{count}" for name, count in PHOTOGRAPHS.items())
        raise CasewiseError(
            f"The phantom has no photograph {region} {number}; it has {known}.{nearest(region, PHOTOGRAPHS)}"
        )
    who = subject(seed, subject_number)
    sick = course(seed, subject_number, visits=visit + 1, regions=(region,)).truth[visit][region]
    body = anatomy(seed, who, region, number)
    return draw(seed, who, body, key=(who.name, visit, region, number), severity=sick, size=size)


def _check(settings: PhantomSettings, processes: int | None) -> None:
    for name, value, low in (
        ("subjects", settings.subjects, 1),
        ("visits", settings.visits, 1),
        ("seed", settings.seed, 0),
        ("processes", processes or 1, 1),
    ):
        if value < low:
            raise CasewiseError(f"The phantom's {name} must be {low} or more; found {value}.")
    if not all(SMALLEST <= side <= LARGEST for side in settings.size):
        raise CasewiseError(
            f"The phantom's size must be {SMALLEST} to {LARGEST} pixels a side; "
            f"found {settings.size[0]}x{settings.size[1]}."
        )
    if settings.labels not in get_args(Labels):
        raise CasewiseError(
            f"The phantom's labels must be one of {', '.join(get_args(Labels))}; found "
            f"{settings.labels!r}.{nearest(settings.labels, get_args(Labels))}"
        )
    if settings.labels == "shuffled" and settings.subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw_all(folder: Path, settings: PhantomSettings, sittings: list[_Sitting], processes: int) -> Iterator[int]:
    """Draw the sittings and yield how many photographs each finished one had."""
    if processes == 1 or len(sittings) == 1:
        for sitting in sittings:
            yield _draw_sitting(folder, settings, sitting)
        return
    # Not forked: a parent that has loaded torch has threads, and a fork of those can stand still.
    pool = ProcessPoolExecutor(
        min(processes, len(sittings)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    try:
        queue = iter(sittings)
        waiting = {pool.submit(_draw_sitting, folder, settings, sitting) for sitting in islice(queue, 4 * processes)}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            more = islice(queue, len(finished))
            waiting |= {pool.submit(_draw_sitting, folder, settings, sitting) for sitting in more}
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw_sitting(folder: Path, settings: PhantomSettings, sitting: _Sitting) -> int:
    who = subject(settings.seed, sitting.subject)
    body = anatomy(settings.seed, who, sitting.region, sitting.number)
    regions = settings.regions
    truth = course(settings.seed, sitting.subject, visits=settings.visits, regions=regions).truth
    for visit in sitting.visits:
        shot = draw(
            settings.seed,
            who,
            body,
            key=(who.name, visit, sitting.region, sitting.number),
            severity=truth[visit][sitting.region],
            size=settings.size,
        )
        save(folder / photograph_path(who, visit, sitting.region, sitting.number), jpeg(shot))
    return len(sitting.visits)


def jpeg(shot: Photograph) -> bytes:
    """Return the photograph as a JPEG that says in its EXIF data and its comment that it is synthetic."""
    exif = Image.Exif()
    exif[EXIF_IMAGE_DESCRIPTION] = MARK
    exif[EXIF_SOFTWARE] = "casewise phantom"
    buffer = io.BytesIO()
    Image.fromarray(shot.picture).save(buffer, "JPEG", quality=JPEG_QUALITY, exif=exif, comment=MARK.encode())
    return buffer.getvalue()
