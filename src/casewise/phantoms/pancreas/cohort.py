"""The pancreas phantom: T1 and T2 volumes of synthetic abdomens, with cysts by grade and nothing else that tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from casewise.errors import CasewiseError, nearest
from casewise.phantoms.pancreas.anatomy import abdomen
from casewise.phantoms.pancreas.lesions import GRADES, Findings, Lesion, findings
from casewise.phantoms.pancreas.records import PancreasSettings, check, claim_folder, write_cohort, write_volume
from casewise.phantoms.pancreas.scan import MACHINES, SEQUENCES, Scan, Volume, draw, scans
from casewise.phantoms.psoriasis.records import Labels
from casewise.phantoms.streams import stream

__all__ = ["GRADES", "MACHINES", "SEQUENCES", "Volume", "draw_volume", "make_pancreas"]

SITES = tuple(MACHINES)


def make_pancreas(
    folder: Path,
    *,
    subjects: int = 60,
    classes: tuple[str, ...] = GRADES,
    size: tuple[int, int] = (96, 96),
    slices: tuple[int, int] = (18, 40),
    seed: int = 0,
    labels: Labels = "true",
    missing: float = 0.0,
    lesion: Lesion = "cysts",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw abdomens as NIfTI into `folder` and return the path of its `cohort.csv`, one row a scan (T1 or T2).

    Grades are as equal as they can be: normal; low, one or two small cysts with a thin wall; high, a large cyst with a
    thick wall and a nodule, and a wide duct (the classes of 004_c22792b4e9a56ae8.txt, Dataset). Sites are equal within
    every grade, and neither sex, age, site, orientation, spacing, number of slices nor the level of intensities has
    anything to do with it. Both sequences show the same anatomy in millimetres, on grids of their own that differ in
    place, spacing, number of slices and the direction of their axes; each has its own bias field, noise and scale.
    A scan has `size` (width, height) pixels in plane and `slices` (least, most) slices of 3-6 mm. Its field of view
    holds the body, so that pixels are 3.3-4.9 mm wide at 96x96, 1.2-1.8 mm at 256x256 and 0.8-1.2 mm at 384x384.

    Masks lie on the grid of T1 (of T2 where T1 lacks): the pancreas with its cysts, and the cysts with their walls. A
    share `missing` of the subjects has only one sequence, either of them. `lesion="planted"` leaves the pancreas
    normal and draws one bright ball, small (low) or large (high), anywhere around it: nothing but the ball tells the
    class, and the mask of the pancreas does not hold it. `labels="shuffled"` hands the labels round between subjects
    after all is drawn; masks still show what is there.

    The same arguments give the same bytes, and a subject's volumes do not depend on how many others there are.
    `progress` is called with the scans done and their number.

    Raises:
        CasewiseError: a setting is out of range, the folder holds something that is not a pancreas phantom, or the
            package that writes volumes is not installed.
    """
    settings = PancreasSettings(
        subjects,
        tuple(classes),
        (int(size[0]), int(size[1])),
        (int(slices[0]), int(slices[1])),
        seed,
        labels,
        float(missing),
        lesion,
    )
    check(settings)
    claim_folder(folder, settings)
    grades = [grade_of(seed, number, settings.classes) for number in range(subjects)]
    given = _given(settings, grades)
    lacking = [lacking_of(seed, number, settings.missing) for number in range(subjects)]
    scans_in_all = 2 * subjects - sum(one is not None for one in lacking)
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for number, (grade, label) in enumerate(zip(grades, given, strict=True)):
        who, site = abdomen(seed, number), site_of(seed, number, settings.classes)
        found = findings(seed, who, grade, lesion)
        person = {"grade": label, "site": site, "scanner": MACHINES[site].scanner, "sex": who.sex, "age": who.age}
        taken = scans(seed, who, site, size=settings.size, slices=settings.slices)
        known: dict[str, Any] = {"subject": who.name, "finding": grade, "label": label, "site": site}
        known |= {"lacking": lacking[number], "duct_mm": round(2 * max(found.duct.radii), 2), "scans": []}
        masks = {"mask": f"masks/{who.name}/pancreas.nii.gz", "lesion": ""}
        for scan in taken:
            if scan.sequence == lacking[number]:
                continue
            volume = draw(seed, who, found, scan)
            path = f"images/{who.name}/{scan.sequence}.nii.gz"
            if not known["scans"]:
                # Masks are those of the first scan there is.
                if grade != "normal":
                    masks["lesion"] = f"masks/{who.name}/lesion.nii.gz"
                    write_volume(folder / masks["lesion"], volume.lesion, volume.affine, scan.codes)
                write_volume(folder / masks["mask"], volume.pancreas, volume.affine, scan.codes)
                known |= _measures(found, volume)
            write_volume(folder / path, volume.voxels, volume.affine, scan.codes)
            known["scans"].append(_taken(scan))
            facts = {"path": path, "subject": who.name, "visit": 1, "sequence": scan.sequence}
            rows.append({**facts, **masks, **person, "synthetic": 1})
            if progress is not None:
                progress(len(rows), scans_in_all)
        truth.append(known)
    return write_cohort(folder, settings, rows, truth)


def draw_volume(
    subject_number: int,
    *,
    grade: str,
    sequence: str = "T2",
    seed: int = 0,
    size: tuple[int, int] = (96, 96),
    slices: tuple[int, int] = (18, 40),
    lesion: Lesion = "cysts",
    site: str = SITES[0],
) -> Volume:
    """Return one scan of a subject with any grade, at any site; nothing but the findings differs between grades.

    Raises:
        CasewiseError: no such grade, sequence or site.

    >>> volume = draw_volume(0, grade="high", size=(48, 40), slices=(9, 12))
    >>> volume.voxels.shape, bool(volume.lesion.any())
    ((48, 40, 12), True)
    """
    for name, word, allowed in (
        ("grade", grade, GRADES),
        ("sequence", sequence, SEQUENCES),
        ("site", site, SITES),
    ):
        if word not in allowed:
            raise CasewiseError(
                f"The {name} must be one of {', '.join(allowed)}; found {word!r}.{nearest(word, allowed)}"
            )
    who = abdomen(seed, subject_number)
    scan = scans(seed, who, site, size=size, slices=slices)[SEQUENCES.index(sequence)]
    return draw(seed, who, findings(seed, who, grade, lesion), scan)


def grade_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return what subject `number` has: every block of as many subjects as there are classes has each class once.

    >>> sorted(grade_of(7, number, ("normal", "low", "high")) for number in (3, 4, 5))
    ['high', 'low', 'normal']
    """
    block, place = divmod(number, len(classes))
    return classes[int(stream(seed, "pancreas classes", len(classes), block).permutation(len(classes))[place])]


def site_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return where subject `number` is scanned: in three blocks of subjects every class is once at every site.

    >>> classes = ("normal", "low", "high")
    >>> len({(grade_of(7, number, classes), site_of(7, number, classes)) for number in range(9)})
    9
    """
    block = number // len(classes)
    turn, place = divmod(block, len(SITES))
    first = int(stream(seed, "sites", turn).permutation(len(SITES))[place])
    return SITES[(first + classes.index(grade_of(seed, number, classes))) % len(SITES)]


def lacking_of(seed: int, number: int, missing: float) -> str | None:
    """Return the sequence that subject `number` lacks: of the first n subjects a share of `missing`, to within one.

    >>> sum(lacking_of(7, number, 0.1) is not None for number in range(60))
    6
    """
    first = float(stream(seed, "missing").random())
    if np.floor(missing * (number + 1) + first) == np.floor(missing * number + first):
        return None
    return SEQUENCES[int(stream(seed, "lacking", number).random() < 0.5)]


def _given(settings: PancreasSettings, grades: list[str]) -> list[str]:
    if settings.labels == "true":
        return list(grades)
    # Subjects with one grade get all labels in equal parts, so that nothing is left to be learned by chance.
    given = list(grades)
    order = stream(settings.seed, "shuffled labels", settings.subjects).permutation(settings.subjects)
    for place, number in enumerate(sorted(order, key=lambda number: grades[number])):
        given[number] = grades[place]
    return given


def _taken(scan: Scan) -> dict[str, Any]:
    """Return how a scan was taken, as it stands in `phantom.json`."""
    return {
        "sequence": scan.sequence,
        "orientation": scan.codes,
        "pixels": list(scan.shape[:2]),
        "slices": scan.shape[2],
        "spacing_mm": list(scan.spacing),
        "scale": scan.scale,
        "offset": scan.offset,
        "noise": scan.noise,
    }


def _measures(found: Findings, volume: Volume) -> dict[str, Any]:
    """Return what can be measured of pancreas and lesion, in mm and RAS."""
    voxel = float(np.prod(volume.scan.spacing)) / 1000
    balls = [found.planted] if found.planted is not None else [cyst.fluid for cyst in found.cysts]
    measures: dict[str, Any] = {
        "pancreas_ml": round(float(volume.pancreas.sum()) * voxel, 2),
        "lesion_ml": round(float(volume.lesion.sum()) * voxel, 2),
        "diameters_mm": [round(float(np.mean(ball.radii)) * 2, 1) for ball in balls],
        "nodule": any(cyst.nodule is not None for cyst in found.cysts),
    }
    if volume.lesion.any():
        middle = volume.affine[:3, :3] @ np.argwhere(volume.lesion).mean(axis=0) + volume.affine[:3, 3]
        measures["lesion_middle_mm"] = [round(float(value), 1) for value in middle]
    return measures
