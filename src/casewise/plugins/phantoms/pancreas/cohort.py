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
from casewise.plugins.phantoms.pancreas import anatomy

SEQUENCES = ("T1", "T2")
ORIENTATIONS = ("RAS", "LAS", "LPS", "RPI", "PSR", "ASL", "SRA")


@dataclass(frozen=True)
class _Machine:
    """The scanner of a site: level of intensities, standard deviation of noise, and unevenness of its coils."""

    scanner: str
    level: float
    noise: float
    uneven: float


MACHINES = {
    "site-1": _Machine("A 1.5T", 420.0, 0.030, 0.16),
    "site-2": _Machine("B 3T", 900.0, 0.020, 0.26),
    "site-3": _Machine("C 3T", 1600.0, 0.024, 0.22),
}


@dataclass(frozen=True)
class Scan:
    """The properties of one volume besides the anatomy; voxels and mm in the order right, front, up.

    `middle` is the centre of the grid, mm; `codes` are nibabel's axis codes of the file; a signal of 1 is stored as
    `offset + scale`.
    """

    sequence: str
    shape: tuple[int, int, int]
    spacing: anatomy.Point
    middle: anatomy.Point
    codes: str
    scale: float
    offset: float
    noise: float
    uneven: float

    @property
    def axes(self) -> anatomy.Axes:
        """The coordinates of the voxels' centres along each axis, mm."""
        x, y, z = (
            (middle + step * (np.arange(count) - (count - 1) / 2)).astype(np.float32)
            for count, step, middle in zip(self.shape, self.spacing, self.middle, strict=True)
        )
        return x, y, z

    @property
    def affine(self) -> NDArray[np.float64]:
        """From voxels in the order right, front, up to millimetres (RAS)."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = np.array(self.middle) - np.array(self.spacing) * (np.array(self.shape) - 1) / 2
        return affine


@dataclass(frozen=True)
class Volume:
    """One drawn volume: `voxels` int16, and where pancreas and lesion are, all (X, Y, Z) in the order of `affine`."""

    voxels: NDArray[np.int16]
    pancreas: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    scan: Scan


def scans(
    seed: int, patient: anatomy.Abdomen, site: str, *, size: tuple[int, int], slices: tuple[int, int]
) -> tuple[Scan, Scan]:
    """Return the properties of a subject's T1 and T2 scans, which do not depend on its grade.

    The field of view contains the body, so that `size` determines the width of pixels: 3.3-4.9 mm at 96, 1.2-1.8 at
    256. Slices are 3-6 mm thick; their number covers 105-165 mm, within `slices`.
    """
    machine = MACHINES[site]
    codes = stream(seed, "orientations", patient.number).permutation(len(ORIENTATIONS))[:2]
    middle = stream(seed, "table", patient.number).uniform((-6, -6, -2.5), (6, 6, 2.5))
    acquired = []
    for sequence, code in zip(SEQUENCES, codes, strict=True):
        random = stream(seed, "scan", patient.number, sequence)
        deep = patient.trunk.front + patient.trunk.back
        view = max(2 * patient.trunk.wide / size[0], deep / size[1]) * random.uniform(1.03, 1.32)
        step = float(random.uniform(3, 6))
        # Few slices are thick, so that they contain the pancreas.
        step = round(max(step, min(6.0, 60 / slices[1])), 2)
        count = int(np.clip(round(random.uniform(105, 165) / step), *slices))
        shift = random.uniform(-0.5, 0.5, 3) * np.array((view, view, step)) + random.uniform(-1.5, 1.5, 3)
        # The trunk reaches further to the back than to the front.
        x, y, z = middle + shift + np.array((0, (patient.trunk.front - patient.trunk.back) / 2, 0))
        noise, uneven = machine.noise * random.uniform(0.8, 1.3), machine.uneven * random.uniform(0.75, 1.25)
        scale, offset = machine.level * np.exp(random.normal(0, 0.25)), random.uniform(0, 0.12) * machine.level
        width = round(float(view), 4)
        shape, spacing = (size[0], size[1], count), (width, width, step)
        middle_mm = (round(float(x), 3), round(float(y), 3), round(float(z), 3))
        scale, offset = round(float(scale), 2), round(float(offset), 2)
        levels = (scale, offset, round(float(noise), 5), round(float(uneven), 4))
        acquired.append(Scan(sequence, shape, spacing, middle_mm, ORIENTATIONS[code], *levels))
    return acquired[0], acquired[1]


def draw(seed: int, patient: anatomy.Abdomen, lesions: anatomy.Findings, scan: Scan) -> Volume:
    """Draw one volume; noise, coils and organs do not depend on the lesions."""
    canvas, pancreas, lesion = _painted(seed, patient, lesions, scan)
    random = stream(seed, "noise", patient.number, scan.sequence)
    field = anatomy.smooth_noise(random, scan.axes, 190.0)
    # Coils in front and behind make the middle of the body darker.
    x, y, _ = (axis / np.float32(reach) for axis, reach in zip(scan.axes, (170.0, 110.0, 1.0), strict=True))
    rim = (x[:, None, None] ** 2 + y[None, :, None] ** 2) - np.float32(0.6)
    gain = np.exp(np.float32(scan.uneven) * np.clip(0.7 * field + 0.45 * rim, -1.8, 1.8))
    real, imaginary = random.standard_normal((2, *scan.shape), dtype=np.float32) * np.float32(scan.noise)
    magnitude = np.hypot(canvas.signal * gain + real, imaginary)
    voxels = np.clip(np.rint(scan.offset + scan.scale * magnitude), 0, 32767).astype(np.int16)
    return Volume(voxels, pancreas, lesion, scan)


def _painted(
    seed: int, patient: anatomy.Abdomen, lesions: anatomy.Findings, scan: Scan
) -> tuple[anatomy.Canvas, NDArray[np.bool_], NDArray[np.bool_]]:
    """Paint the anatomy; return the canvas and the masks of pancreas and lesion."""
    axes, column = scan.axes, SEQUENCES.index(scan.sequence)
    signal = {name: pair[column] for name, pair in patient.signals.items()}
    warp = [2.3 * anatomy.smooth_noise(stream(seed, "warp", patient.number, axis), axes, 46.0) for axis in range(3)]
    canvas = anatomy.Canvas(axes, warp, soft=scan.spacing[0])
    flesh, cavity = canvas.whole(patient.flesh), canvas.whole(patient.cavity)
    fine = anatomy.smooth_noise(stream(seed, "texture", patient.number), axes, 8.0)
    edges = {"": None, "cavity": cavity, "room": np.maximum(cavity + 2, -canvas.whole(anatomy.PORTA))}
    canvas.paint(patient.trunk, signal["skin"])
    skinless = canvas.whole(patient.trunk) + np.float32(2.2)
    # Thin septa run through the fat.
    fat = np.float32(signal["fat"]) * (1 - np.float32(0.07) * np.abs(fine))
    for distance, value in ((skinless, fat), (flesh, np.float32(signal["muscle"])), (cavity, fat)):
        share = np.clip(np.float32(0.5) - distance / canvas.soft, 0, 1)
        canvas.signal += share * (value - canvas.signal)
    for organ in patient.before:
        canvas.paint(organ.shape, signal[organ.name], within=edges[organ.inside])
    lobes = np.float32(1.5) * anatomy.smooth_noise(stream(seed, "lobes", patient.number), axes, 9.0)
    pancreas = np.zeros(scan.shape, bool)
    box, share = canvas.paint(patient.pancreas, signal["pancreas"], rough=lobes)
    pancreas[box] = share >= 0.5
    for organ in patient.after:
        canvas.paint(organ.shape, signal[organ.name])
    canvas.signal *= 1 + np.float32(0.05) * fine
    lesion = _paint_findings(canvas, lesions, signal)
    return canvas, pancreas | (lesion if lesions.cysts else False), lesion


def _paint_findings(canvas: anatomy.Canvas, lesions: anatomy.Findings, signal: dict[str, float]) -> NDArray[np.bool_]:
    """Paint duct, cysts and the planted lesion; return the mask of cysts and planted lesion."""
    # A duct thinner than a voxel fills a fraction of it.
    wide = float(np.mean(lesions.duct.radii))
    canvas.paint(lesions.duct, signal["fluid"], strength=min(1.0, np.pi * wide**2 / float(canvas.soft) ** 2))
    lesion = np.zeros(canvas.shape, bool)
    # each with the shapes inside of it
    painted = [(cyst.wall, "wall", (("fluid", cyst.fluid), ("nodule", cyst.nodule))) for cyst in lesions.cysts]
    for outer, tissue, inside in [*painted, (lesions.planted, "lesion", ())]:
        if outer is None:
            continue
        box, share = canvas.paint(outer, signal[tissue])
        for name, inner in inside:
            if inner is not None:
                canvas.paint(inner, signal[name])
        # voxels that are more than half filled, or the fullest where none is
        lesion[box] |= share >= min(0.5, float(share.max(initial=0.5)) or 0.5)
    return lesion


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
    "pancreas", COLUMNS, "volume", "scanned", CONTENTS, "scans", (32, 512), anatomy.GRADES, table="cohort.csv"
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
    classes: tuple[str, ...] = anatomy.GRADES
    size: tuple[int, int] = (96, 96)
    slices: tuple[int, int] = (18, 40)
    seed: int = 0
    labels: Labels = "true"
    lesion: anatomy.Lesion = "cysts"


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
    grades = [_grade_of(seed, number, options.classes) for number in range(options.subjects)]
    labels = shuffled_labels(seed, grades) if options.labels == "shuffled" else grades
    truth: list[Row] = []
    for number, (grade, label) in enumerate(zip(grades, labels, strict=True)):
        patient, site = anatomy.abdomen(seed, number), _site_of(seed, number, options.classes)
        lesions = anatomy.findings(seed, patient, grade, options.lesion)
        person: Row = {"subject": patient.name, "visit": 1, "grade": label, "site": site, "lesion": ""}
        person |= {"sex": patient.sex, "age": patient.age, "scanner": MACHINES[site].scanner}
        person |= {"mask": f"masks/{patient.name}/pancreas.nii.gz"}
        state: Row = {"subject": patient.name, "finding": grade, "label": label, "site": site}
        state |= {"duct_mm": round(2 * max(lesions.duct.radii), 2), "scans": []}
        for scan in scans(seed, patient, site, size=options.size, slices=options.slices):
            volume = draw(seed, patient, lesions, scan)
            path = f"images/{patient.name}/{scan.sequence}.nii.gz"
            if not state["scans"]:
                # Masks belong to the subject's first scan.
                if grade != "normal":
                    person["lesion"] = f"masks/{patient.name}/lesion.nii.gz"
                    cohort.save(person["lesion"], _nifti_bytes(volume.lesion, scan))
                cohort.save(person["mask"], _nifti_bytes(volume.pancreas, scan))
                state |= _measures(lesions, volume)
            cohort.save(path, _nifti_bytes(volume.voxels, scan))
            state["scans"].append({name: value for name, value in asdict(scan).items() if name != "middle"})
            cohort.add(path=path, sequence=scan.sequence, **person)
        truth.append(state)
    return cohort.finish(truth)


def _grade_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the grade of subject `number`; each block of `len(classes)` subjects has each class once."""
    return balanced_class(seed, "pancreas classes", number, classes)


def _site_of(seed: int, number: int, classes: tuple[str, ...]) -> str:
    """Return the site of subject `number`: in three blocks of subjects every class occurs once at every site.

    >>> classes = ("normal", "low", "high")
    >>> len({(_grade_of(7, number, classes), _site_of(7, number, classes)) for number in range(9)})
    9
    """
    turn, position = divmod(number // len(classes), len(SITES))
    first = int(stream(seed, "sites", turn).permutation(len(SITES))[position])
    return SITES[(first + classes.index(_grade_of(seed, number, classes))) % len(SITES)]


def _nifti_bytes(voxels: NDArray[Any], scan: Scan) -> bytes:
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


def _measures(lesions: anatomy.Findings, volume: Volume) -> Row:
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
