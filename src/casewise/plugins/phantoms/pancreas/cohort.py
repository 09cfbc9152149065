"""The pancreas phantom: T1 and T2 volumes of synthetic abdomens that differ by grade in their cysts only."""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.draws import balanced_class, shuffled_labels, stream
from casewise.plugins.phantoms.folder import MARK, CohortFolder, Labels, PhantomKind, Progress, Row
from casewise.plugins.phantoms.pancreas.anatomy import GRADES, Findings, Lesion, abdomen, findings
from casewise.plugins.phantoms.pancreas.scan import MACHINES, SEQUENCES, Scan, Volume, draw, scans

SITES = tuple(MACHINES)
# Fewer slices would not cover the pancreas; no abdomen has more.
FEWEST, MOST = 9, 200
COLUMNS = (
    *("path", "subject", "visit", "sequence", "mask", "lesion"),
    *("grade", "site", "scanner", "sex", "age", "synthetic"),
)
CONTENTS = """\
cohort.csv    one row for each scan: T1 or T2 of a subject
phantom.json  the settings, the seed, and the truth: cysts and duct of every subject, and how each scan was taken
images/       <subject>/<sequence>.nii.gz, each marked as synthetic in its header
masks/        <subject>/pancreas.nii.gz and lesion.nii.gz, 1 inside, on the grid of T1
"""


PANCREAS = PhantomKind(
    "pancreas", COLUMNS, "volume", "scanned", CONTENTS, "scans", (32, 512), GRADES, table="cohort.csv"
)


@dataclass(frozen=True)
class PancreasSettings:
    """Everything that determines the bytes of the cohort.

    A scan has `size` (width, height) pixels in plane and `slices` (least, most) slices of 3-6 mm. `lesion="planted"`
    leaves the pancreas normal and draws one bright ball, small (low) or large (high), at a random position around it:
    only the ball reveals the class, and the mask of the pancreas does not contain it. `labels="shuffled"` permutes the
    labels between subjects after drawing; masks still show the true lesions.
    """

    subjects: int = 60
    classes: tuple[str, ...] = GRADES
    size: tuple[int, int] = (96, 96)
    slices: tuple[int, int] = (18, 40)
    seed: int = 0
    labels: Labels = "true"
    lesion: Lesion = "cysts"


def make_pancreas(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw abdomens as NIfTI into `folder` and return the path of its `cohort.csv`, one row a scan (T1 or T2).

    Grades are as equal in number as possible: normal; low, one or two small cysts with a thin wall; high, a large cyst
    with a thick wall and a nodule, and a wide duct (the classes of the preset `ipmn-mri`). Sites are
    balanced within every grade; sex, age, site, orientation, spacing, number of slices and level of intensities are
    independent of it. Both sequences show the same anatomy in millimetres, on grids that differ in position, spacing,
    number of slices and direction of the axes; each has its own bias field, noise and scale. The field of view covers
    the body, so pixels are 3.3-4.9 mm wide at 96x96, 1.2-1.8 mm at 256x256 and 0.8-1.2 mm at 384x384.

    Masks have the grid of T1: the pancreas with its cysts, and the cysts with their walls. The
    same settings give the same bytes, and a subject's volumes do not depend on the number of subjects.

    Args:
        settings: the fields of `PancreasSettings`.
        progress: receives the numbers of finished scans and of all scans.

    Raises:
        CasewiseError: a setting is out of range, the folder contains something that is not a pancreas phantom, or the
            package that writes volumes is not installed.
    """
    options = PancreasSettings(**settings)
    _check(options)
    seed = options.seed
    cohort = CohortFolder(folder, PANCREAS, options, len(SEQUENCES) * options.subjects, progress)
    grades = [grade_of(seed, number, options.classes) for number in range(options.subjects)]
    labels = shuffled_labels(seed, grades) if options.labels == "shuffled" else grades
    truth: list[Row] = []
    for number, (grade, label) in enumerate(zip(grades, labels, strict=True)):
        patient, site = abdomen(seed, number), site_of(seed, number, options.classes)
        lesions = findings(seed, patient, grade, options.lesion)
        person: Row = {"subject": patient.name, "visit": 1, "grade": label, "site": site, "lesion": ""}
        person |= {"sex": patient.sex, "age": patient.age, "scanner": MACHINES[site].scanner}
        person |= {"mask": f"masks/{patient.name}/pancreas.nii.gz"}
        state: Row = {"subject": patient.name, "finding": grade, "label": label, "site": site}
        state |= {"duct_mm": round(2 * max(lesions.duct.radii), 2), "scans": []}
        for scan in scans(seed, patient, site, size=options.size, slices=options.slices):
            volume = draw(seed, patient, lesions, scan)
            path = f"images/{patient.name}/{scan.sequence}.nii.gz"
            if not state["scans"]:
                # Masks are those of the subject's first scan.
                if grade != "normal":
                    person["lesion"] = f"masks/{patient.name}/lesion.nii.gz"
                    cohort.save(person["lesion"], nifti_bytes(volume.lesion, scan))
                cohort.save(person["mask"], nifti_bytes(volume.pancreas, scan))
                state |= _measures(lesions, volume)
            cohort.save(path, nifti_bytes(volume.voxels, scan))
            state["scans"].append({name: value for name, value in asdict(scan).items() if name != "middle"})
            cohort.add(path=path, sequence=scan.sequence, **person)
        truth.append(state)
    return cohort.finish(truth)


def grade_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the grade of subject `number`; each block of `len(classes)` subjects has each class once."""
    return balanced_class(seed, "pancreas classes", number, classes)


def site_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the site of subject `number`: in three blocks of subjects every class occurs once at every site.

    >>> classes = ("normal", "low", "high")
    >>> len({(grade_of(7, number, classes), site_of(7, number, classes)) for number in range(9)})
    9
    """
    turn, position = divmod(number // len(classes), len(SITES))
    first = int(stream(seed, "sites", turn).permutation(len(SITES))[position])
    return SITES[(first + classes.index(grade_of(seed, number, classes))) % len(SITES)]


def nifti_bytes(voxels: NDArray[Any], scan: Scan) -> bytes:
    """Return a volume, (X, Y, Z) in the order of the scan's affine, as a .nii.gz file with its direction of axes."""
    nib, affine = _nibabel(), scan.affine
    image = nib.Nifti1Image(voxels.astype(np.uint8) if voxels.dtype == bool else voxels, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(scan.codes))
    )
    image = image.as_reoriented(turn)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = MARK.encode()
    # Without a time stamp, so that the same volume is the same file.
    return gzip.compress(image.to_bytes(), 4, mtime=0)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise CasewiseError(
            f"Volumes need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from None
    return nibabel


def _check(settings: PancreasSettings) -> None:
    least, most = settings.slices
    if not FEWEST <= least <= most <= MOST:
        raise CasewiseError(
            f"The phantom's slices must be the least and the most, {FEWEST} to {MOST}; found {least} and {most}."
        )
    _nibabel()


def _measures(lesions: Findings, volume: Volume) -> Row:
    """Return the measures of pancreas and lesion, in mm and RAS."""
    voxel = float(np.prod(volume.scan.spacing)) / 1000
    balls = [lesions.planted] if lesions.planted is not None else [cyst.fluid for cyst in lesions.cysts]
    measures: Row = {
        "pancreas_ml": round(float(volume.pancreas.sum()) * voxel, 2),
        "lesion_ml": round(float(volume.lesion.sum()) * voxel, 2),
        "diameters_mm": [round(float(np.mean(ball.radii)) * 2, 1) for ball in balls],
        "nodule": any(cyst.nodule is not None for cyst in lesions.cysts),
    }
    if volume.lesion.any():
        middle = volume.scan.affine[:3, :3] @ np.argwhere(volume.lesion).mean(axis=0) + volume.scan.affine[:3, 3]
        measures["lesion_middle_mm"] = [round(float(value), 1) for value in middle]
    return measures
