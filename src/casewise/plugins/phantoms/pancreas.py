"""The pancreas phantom: T1 and T2 volumes of synthetic abdomens that differ by grade in their cysts only.

Positions are in millimetres from the middle of the body at the height of the pancreas, in the order right, front, up
(RAS).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.cohort import MARK, CohortFolder, Kind, Labels, Progress, Row, check_choice
from casewise.plugins.phantoms.scene import Array, Random, stream
from casewise.plugins.phantoms.solids import Ellipsoid, Grid, Point, Solid, Tube, evenly, smooth_noise

Lesion = Literal["cysts", "planted"]
GRADES = ("normal", "low", "high")
SEQUENCES = ("T1", "T2")
_ORIENTATIONS = ("RAS", "LAS", "LPS", "RPI", "PSR", "ASL", "SRA")
# The scanner of each site, its level of intensities, the standard deviation of noise, and the unevenness of its coils.
_MACHINES = {
    "site-1": ("A 1.5T", 420.0, 0.030, 0.16),
    "site-2": ("B 3T", 900.0, 0.020, 0.26),
    "site-3": ("C 3T", 1600.0, 0.024, 0.22),
}
# Fewer slices would not cover the pancreas; no abdomen has more.
_FEWEST, _MOST = 9, 200
_PANCREAS = Kind(
    name="pancreas",
    columns=(
        *("path", "subject", "visit", "sequence", "mask", "lesion", "grade", "site", "scanner", "sex", "age"),
        "synthetic",
    ),
    picture="volume",
    taken="scanned",
    contents="""\
cohort.csv    one row for each scan: T1 or T2 of a subject
phantom.json  the settings, the seed, and the truth: cysts and duct of every subject, and how each scan was taken
images/       <subject>/<sequence>.nii.gz, each marked as synthetic in its header
masks/        <subject>/pancreas.nii.gz and lesion.nii.gz, 1 inside, on the grid of T1
""",
    unit="scans",
    sides=(32, 512),
    classes=GRADES,
    table="cohort.csv",
    classes_key="pancreas classes",
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
    least, most = options.slices
    if not _FEWEST <= least <= most <= _MOST:
        raise CasewiseError(
            f"The phantom's slices must be the least and the most, {_FEWEST} to {_MOST}; found {least} and {most}."
        )
    _nibabel()
    return CohortFolder(folder, _PANCREAS, options, len(SEQUENCES) * options.subjects, progress).draw(_draw_subject)


def draw_volume(
    subject_number: int, *, grade: str, sequence: str, site: str = "site-1", seed: int = 0, **settings: Any
) -> _Volume:
    """Return one scan of a subject with any grade at any site; subjects count from 0.

    Args:
        settings: further fields of `PancreasSettings`.

    Raises:
        CasewiseError: no such grade or sequence.
    """
    check_choice("The grade", grade, GRADES)
    check_choice("The sequence", sequence, SEQUENCES)
    options, abdomen = PancreasSettings(**settings), _Abdomen(seed, subject_number)
    scan = _scans(abdomen, site, options)[SEQUENCES.index(sequence)]
    return _volume(abdomen, _lesions(abdomen, grade, options.lesion), scan)


def _draw_subject(cohort: CohortFolder, number: int, finding: str, label: str) -> Row:
    settings, seed, sites = cohort.settings, cohort.settings.seed, tuple(_MACHINES)
    # In three blocks of subjects every class occurs once at every site.
    turn, position = divmod(number // len(settings.classes), len(sites))
    first = int(stream(seed, "sites", turn).permutation(len(sites))[position])
    site = sites[(first + settings.classes.index(finding)) % len(sites)]
    abdomen = _Abdomen(seed, number)
    lesions = _lesions(abdomen, finding, settings.lesion)
    volumes = [_volume(abdomen, lesions, scan) for scan in _scans(abdomen, site, settings)]
    name, first_scan = abdomen.name, volumes[0].scan
    # Masks belong to the subject's first scan.
    masks = {"mask": f"masks/{name}/pancreas.nii.gz", "lesion": f"masks/{name}/lesion.nii.gz"}
    cohort.save(masks["mask"], _nifti_bytes(volumes[0].pancreas, first_scan))
    if finding != "normal":
        cohort.save(masks["lesion"], _nifti_bytes(volumes[0].lesion, first_scan))
    else:
        masks["lesion"] = ""
    person: Row = {"subject": name, "visit": 1, "grade": label, "site": site, **masks}
    person |= {"sex": abdomen.sex, "age": abdomen.age, "scanner": _MACHINES[site][0]}
    for volume in volumes:
        path = f"images/{name}/{volume.scan.sequence}.nii.gz"
        cohort.save(path, _nifti_bytes(volume.voxels, volume.scan))
        cohort.add(path=path, sequence=volume.scan.sequence, **person)
    state: Row = {"subject": name, "finding": finding, "label": label, "site": site}
    state["duct_mm"] = round(2 * lesions[0][0][1].radii.max(), 2)
    scans = [{key: value for key, value in asdict(volume.scan).items() if key != "middle"} for volume in volumes]
    return state | {"scans": scans} | _measures(lesions, volumes[0])


def _measures(lesions: _Lesions, volume: _Volume) -> Row:
    """The measures of pancreas and lesion, in mm and RAS."""
    voxel, affine = float(np.prod(volume.scan.spacing)) / 1000, volume.scan.affine
    cysts = [dict(lesion) for lesion in lesions[1:]]
    balls = [cyst.get("fluid") or cyst["lesion"] for cyst in cysts]
    measures: Row = {
        "pancreas_ml": round(float(volume.pancreas.sum()) * voxel, 2),
        "lesion_ml": round(float(volume.lesion.sum()) * voxel, 2),
        "diameters_mm": [round(float(np.mean(ball.radii)) * 2, 1) for ball in balls],
        "nodule": any("nodule" in cyst for cyst in cysts),
    }
    if volume.lesion.any():
        middle = affine[:3, :3] @ np.argwhere(volume.lesion).mean(axis=0) + affine[:3, 3]
        measures["lesion_middle_mm"] = [round(float(value), 1) for value in middle]
    return measures


# The scan.


@dataclass(frozen=True)
class _Scan:
    """The properties of one volume besides the anatomy; voxels and mm in the order right, front, up.

    `middle` is the centre of the grid, mm; `codes` are nibabel's axis codes of the file; a signal of 1 is stored as
    `offset + scale`.
    """

    sequence: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    middle: tuple[float, ...]
    codes: str
    scale: float
    offset: float
    noise: float
    uneven: float

    @property
    def axes(self) -> list[Array]:
        """The coordinates of the voxels' centres along each axis, mm."""
        grid = zip(self.shape, self.spacing, self.middle, strict=True)
        return [(mid + step * (np.arange(count) - (count - 1) / 2)).astype(np.float32) for count, step, mid in grid]

    @property
    def affine(self) -> Array:
        """From voxels in the order right, front, up to millimetres (RAS)."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = np.array(self.middle) - np.array(self.spacing) * (np.array(self.shape) - 1) / 2
        return affine


@dataclass(frozen=True)
class _Volume:
    """One drawn volume: `voxels` int16, and where pancreas and lesion are, all (X, Y, Z) in the order of `affine`."""

    voxels: Array
    pancreas: Array
    lesion: Array
    scan: _Scan


def _scans(abdomen: _Abdomen, site: str, settings: PancreasSettings) -> list[_Scan]:
    """The properties of a subject's T1 and T2 scans, which do not depend on its grade.

    The field of view contains the body, so that `size` determines the width of pixels: 3.3-4.9 mm at 96, 1.2-1.8 at
    256. Slices are 3-6 mm thick; their number covers 105-165 mm, within `slices`.
    """
    seed, number, size, slices = abdomen.seed, abdomen.number, settings.size, settings.slices
    _, level, noise, uneven = _MACHINES[site]
    codes = stream(seed, "orientations", number).permutation(len(_ORIENTATIONS))[:2]
    table = stream(seed, "table", number).uniform((-6, -6, -2.5), (6, 6, 2.5)) + abdomen.trunk.centre
    scans = []
    for sequence, code in zip(SEQUENCES, codes, strict=True):
        random = stream(seed, "scan", number, sequence)
        wide, deep, _ = abdomen.trunk.radii
        view = round(float(max(2 * wide / size[0], 2 * deep / size[1]) * random.uniform(1.03, 1.32)), 4)
        # Few slices are thick, so that they contain the pancreas.
        step = round(max(float(random.uniform(3, 6)), min(6.0, 60 / slices[1])), 2)
        count = int(np.clip(round(random.uniform(105, 165) / step), *slices))
        shift = random.uniform(-0.5, 0.5, 3) * (view, view, step) + random.uniform(-1.5, 1.5, 3)
        factors = random.uniform((0.8, 0.75), (1.3, 1.25)) * (noise, uneven)
        scale, offset = level * np.exp(random.normal(0, 0.25)), random.uniform(0, 0.12) * level
        levels = (
            round(float(value), digits) for value, digits in zip((scale, offset, *factors), (2, 2, 5, 4), strict=True)
        )
        middle = tuple(np.round(table + shift, 3).tolist())
        scans.append(_Scan(sequence, (*size, count), (view, view, step), middle, _ORIENTATIONS[code], *levels))
    return scans


def _volume(abdomen: _Abdomen, lesions: _Lesions, scan: _Scan) -> _Volume:
    """Draw one volume; noise, coils and organs do not depend on the lesions."""
    grid, pancreas, lesion = _painted(abdomen, lesions, scan)
    random = stream(abdomen.seed, "noise", abdomen.number, scan.sequence)
    field = smooth_noise(random, scan.axes, 190.0)
    # Coils in front and behind make the middle of the body darker.
    x, y, _ = scan.axes
    rim = (x[:, None, None] / 170) ** 2 + (y[None, :, None] / 110) ** 2 - np.float32(0.6)
    gain = np.exp(np.float32(scan.uneven) * np.clip(0.7 * field + 0.45 * rim, -1.8, 1.8))
    real, imaginary = random.standard_normal((2, *scan.shape), dtype=np.float32) * np.float32(scan.noise)
    magnitude = np.hypot(grid.signal * gain + real, imaginary)
    voxels = np.clip(np.rint(scan.offset + scan.scale * magnitude), 0, 32767).astype(np.int16)
    return _Volume(voxels, pancreas, lesion, scan)


def _painted(abdomen: _Abdomen, lesions: _Lesions, scan: _Scan) -> tuple[Grid, Array, Array]:
    """Paint the anatomy; return the grid and the masks of pancreas and lesion."""
    axes, column = scan.axes, SEQUENCES.index(scan.sequence)
    signal: dict[str, Any] = {name: pair[column] for name, pair in abdomen.signals.items()}

    def noise(grain: float, *name: str | int) -> Array:
        return smooth_noise(stream(abdomen.seed, name[0], abdomen.number, *name[1:]), axes, grain)

    grid = Grid(axes, [2.3 * noise(46.0, "warp", axis) for axis in range(3)], soft=scan.spacing[0])
    fine, lobes = noise(8.0, "texture"), np.float32(1.5) * noise(9.0, "lobes")
    cavity, porta = (solid.distance(*grid.coordinates) for solid in (abdomen.cavity, _PORTA))
    edges = {"": None, "cavity": cavity, "room": np.maximum(cavity + 2, -porta)}
    # Thin septa run through the fat.
    fat = np.float32(signal["fat"]) * (1 - np.float32(0.07) * np.abs(fine))
    a, b, c = abdomen.trunk.radii
    skinless = Ellipsoid(abdomen.trunk.centre, (a - 2.2, b - 2.2, c))
    layers = (
        (abdomen.trunk, signal["skin"]),
        (skinless, fat),
        (abdomen.flesh, signal["muscle"]),
        (abdomen.cavity, fat),
    )
    for layer, value in layers:
        grid.paint(layer, value)
    pancreas = np.zeros(scan.shape, bool)
    for tissue, solid, edge in abdomen.organs:
        is_pancreas = tissue == "pancreas"
        box, share = grid.paint(solid, signal[tissue], within=edges[edge], rough=lobes if is_pancreas else None)
        if is_pancreas:
            pancreas[box] = share >= 0.5
    grid.signal *= 1 + np.float32(0.05) * fine
    lesion = np.zeros(scan.shape, bool)
    ((tissue, duct),), *others = lesions
    # A duct thinner than a voxel fills a fraction of it.
    grid.paint(duct, signal[tissue], strength=min(1.0, np.pi * float(duct.radii.mean()) ** 2 / scan.spacing[0] ** 2))
    for (tissue, outer), *inside in others:
        box, share = grid.paint(outer, signal[tissue])
        for name, inner in inside:
            grid.paint(inner, signal[name])
        # voxels that are more than half filled, or the fullest where none is
        lesion[box] |= share >= min(0.5, float(share.max(initial=0.5)) or 0.5)
        if tissue == "wall":
            pancreas |= lesion
    return grid, pancreas, lesion


def _nifti_bytes(voxels: Array, scan: _Scan) -> bytes:
    """A volume, (X, Y, Z) in the order of the scan's affine, as a .nii.gz file with its direction of axes."""
    nib, affine = _nibabel(), scan.affine
    image = nib.Nifti1Image(voxels.astype(np.uint8) if voxels.dtype == bool else voxels, affine)
    codes = nib.orientations.axcodes2ornt(tuple(scan.codes))
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), codes))
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


# The anatomy.

# The signal of a tissue on T1 and T2 without fat suppression, relative to fat on T1 and fluid on T2; not measured.
_TISSUES: dict[str, tuple[float, float]] = {
    "skin": (0.42, 0.30), "fat": (0.95, 0.66), "muscle": (0.36, 0.17), "marrow": (0.60, 0.40), "bone": (0.08, 0.05),
    "disc": (0.34, 0.34), "fluid": (0.13, 1.00), "cord": (0.40, 0.42), "liver": (0.53, 0.27), "bile": (0.26, 0.97),
    "spleen": (0.36, 0.50), "cortex": (0.46, 0.56), "medulla": (0.33, 0.70), "pancreas": (0.63, 0.38),
    "blood": (0.19, 0.06), "vein": (0.27, 0.13), "bowel": (0.40, 0.33), "gas": (0.02, 0.02), "lung": (0.05, 0.04),
    "stool": (0.46, 0.26), "wall": (0.50, 0.24), "nodule": (0.80, 0.30), "lesion": (0.95, 1.00),
}  # fmt: skip
# The middle line of the pancreas from head to tail, and its radius there.
_LINE = (
    (29.0, 4.0, -18.0), (33.0, 11.0, -9.0), (23.0, 22.0, -1.0), (3.0, 30.0, 4.0), (-22.0, 29.0, 7.0),
    (-46.0, 17.0, 10.0), (-70.0, 2.0, 13.0),
)  # fmt: skip
_THICKNESS = (11.0, 16.0, 11.5, 10.0, 11.5, 10.5, 7.0)
_PIECES = 22
# The gate of the liver, which it does not fill.
_PORTA = Ellipsoid((4.0, 8.0, -14.0), (64.0, 36.0, 46.0))
# A solid of a tissue, and the boundary that it does not cross: none, "cavity" or "room" (of the liver).
_Organ: TypeAlias = tuple[str, Solid, str]


class _Abdomen:
    """Subject `number` (from 0) of a cohort, independent of grade and cohort.

    `trunk` is the skin, `organs` are painted in this order, `signals` are the signals of the tissues on T1 and T2.
    """

    def __init__(self, seed: int, number: int) -> None:
        random = stream(seed, "abdomen", number)
        self.seed, self.number, self.name = seed, number, f"P{number + 1:04d}"
        self.sex = "M" if random.random() < 0.42 else "F"
        self.age = int(np.clip(round(random.normal(65.3, 11.9)), 30, 92))
        build, fat = random.uniform(0.94, 1.05), random.uniform(11, 30)
        wide, front, back = 147 * build, 98 * build, 104.0
        self.flesh = _trunk(wide, front, back)
        self.trunk = _trunk(wide + fat, front + 0.9 * fat, back + 0.45 * fat)
        self.cavity = _trunk(wide - 9, front - 9, 88.0)
        line = evenly([_moved(random, point, 2.0) for point in _LINE], _PIECES)
        thick = np.interp(np.linspace(0, 1, _PIECES), np.linspace(0, 1, len(_THICKNESS)), _THICKNESS)
        self.pancreas = Tube(line, thick * random.uniform(0.92, 1.1))
        self.organs = [*_frame(random, self.flesh), *_solid(random), *_bowel(random), *_vessels(random)]
        self.organs.append(("pancreas", self.pancreas, ""))
        behind = line[8::2] + np.outer(self.pancreas.radii[8::2], (0, -0.9, 0)) + (0, 0, 1.0)
        self.organs += [
            ("vein", Tube(behind, 3.4), ""),
            ("vein", Tube(((11.0, 12.0, -120.0), (12.0, 14.0, 0.0), (38.0, 18.0, 40.0)), (5.6, 5.6, 6.0)), ""),
            ("blood", Tube(((-5.0, -6.0, 12.0), (-2.0, 6.0, -2.0), (1.0, 11.0, -120.0)), 3.4), ""),
        ]
        vary = stream(seed, "tissues", number).normal(1, 0.04, (len(_TISSUES), 2))
        self.signals = dict(zip(_TISSUES, (np.array([*_TISSUES.values()]) * vary).tolist(), strict=True))


def _trunk(wide: float, front: float, back: float) -> Ellipsoid:
    """An upright trunk of half-width `wide`, with extents `front` and `back` from the middle, without ends."""
    return Ellipsoid((0.0, (front - back) / 2, 0.0), (wide, (front + back) / 2, 1e4))


def _moved(random: Random, point: Point, far: float) -> Array:
    return np.asarray(point) + random.normal(0, far, 3) * (1, 1, 0.5)


def _organ(random: Random, centre: Point, radii: Point, turn: float = 0.0, far: float = 3.0) -> Ellipsoid:
    radii = np.asarray(radii) * random.normal(1, 0.05, 3)
    return Ellipsoid(_moved(random, centre, far), radii, turn + random.normal(0, 0.06))


def _frame(random: Random, flesh: Ellipsoid) -> Iterator[_Organ]:
    """Spine, muscles of the back, and ribs."""
    for side in (1, -1):
        yield "muscle", Tube(((side * 28.0, -50.0, 30.0), (side * 46.0, -48.0, -150.0)), (9.0, 25.0)), ""
        yield "muscle", Ellipsoid((side * 31.0, -82.0, -20.0), (30.0, 19.0, 700.0), side * 0.12), ""
        yield "muscle", Ellipsoid((side * 62.0, -76.0, -40.0), (17.0, 8.0, 60.0), side * 0.3), ""
        for height in np.arange(-75, 150, 30) + random.uniform(-8, 8):
            for turn in np.arange(-55, 65, 20) + random.uniform(-4, 4):
                # Ribs lie along the inside of the flesh and descend towards the front.
                (wide, deep, _), c, s = flesh.radii, np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
                centre = (side * (wide - 5) * c, flesh.centre[1] + (deep - 5) * s, height - 0.9 * (turn + 55))
                tangent = np.arctan2(deep * c, -side * wide * s)
                if centre[2] >= -40:
                    yield "bone", Ellipsoid(centre, (10.0, 5.0, 7.0), tangent), ""
                    yield "marrow", Ellipsoid(centre, (7.5, 2.8, 5.0), tangent), ""
    first = random.uniform(-18, 18)
    yield "bone", Tube(((0.0, -44.0, -170.0), (0.0, -44.0, 170.0)), 21.5), ""
    yield "bone", Ellipsoid((0.0, -68.0, 0.0), (22.0, 14.0, 400.0)), ""
    yield "marrow", Tube(((0.0, -43.5, -170.0), (0.0, -43.5, 170.0)), 19.5), ""
    for middle in np.arange(first - 180, 170, 36):
        yield "disc", Ellipsoid((0.0, -43.5, middle), (20.5, 20.5, 5.5)), ""
        yield "bone", Ellipsoid((0.0, -88.0, middle + 6), (4.5, 17.0, 14.0)), ""
        yield "marrow", Ellipsoid((0.0, -88.0, middle + 6), (2.6, 14.0, 11.0)), ""
        for side in (1, -1):
            yield "bone", Ellipsoid((side * 30.0, -70.0, middle + 14), (16.0, 5.0, 6.0)), ""
    yield "fluid", Tube(((0.0, -70.0, -170.0), (0.0, -70.0, 170.0)), 9.0), ""
    yield "cord", Tube(((0.0, -71.0, -60.0), (0.0, -70.0, 170.0)), (3.0, 5.0)), ""


def _solid(random: Random) -> Iterator[_Organ]:
    """Liver with its veins, gall bladder, spleen, kidneys (some with a harmless cyst) and lungs."""
    yield "liver", _organ(random, (80.0, 8.0, 38.0), (66.0, 84.0, 92.0)), "room"
    yield "liver", _organ(random, (8.0, 50.0, 42.0), (58.0, 34.0, 46.0)), "room"
    porta = _moved(random, (40.0, 18.0, 40.0), 2.0)
    for end in ((92.0, 40.0, 50.0), (96.0, -20.0, 44.0), (10.0, 56.0, 52.0), (100.0, 10.0, 14.0)):
        yield "vein", Tube((porta, _moved(random, end, 8.0)), (5.0, 2.2)), "cavity"
    for end in ((110.0, 0.0, 78.0), (70.0, 50.0, 76.0), (100.0, -30.0, 64.0)):
        yield "vein", Tube(((24.0, -6.0, 92.0), _moved(random, end, 8.0)), (5.0, 2.0)), "cavity"
    yield "bile", _organ(random, (60.0, 50.0, 0.0), (14.0, 19.0, 22.0), 0.5, far=4.0), "cavity"
    yield "spleen", _organ(random, (-106.0, -26.0, 42.0), (27.0, 46.0, 48.0), -0.25), "cavity"
    for side, height in ((1.0, -16.0), (-1.0, -4.0)):
        whole = _organ(random, (side * 64.0, -40.0, height), (24.0, 31.0, 54.0), side * -0.35)
        (x, y, z), (a, b, c) = whole.centre, whole.radii
        yield "cortex", whole, "cavity"
        for turn, up in product(range(6), (-0.55, 0.0, 0.55)):
            angle, wide = turn * np.pi / 3 + up, np.sqrt(1 - up * up)
            at = (x + 0.56 * a * wide * np.cos(angle), y + 0.56 * b * wide * np.sin(angle), z + up * c)
            yield "medulla", Ellipsoid(at, (5.5, 6.0, 9.0)), ""
        yield "fat", Ellipsoid((x - side * 9, y + 4.0, z), (11.0, 10.0, 26.0), whole.turn), ""
        yield "fluid", Ellipsoid((x - side * 6, y + 3.0, z), (5.0, 5.0, 16.0)), ""
        # Cysts of kidneys are common and independent of the pancreas.
        if random.random() < 0.35:
            radius = random.uniform(5, 12)
            at = (x + side * 0.9 * a, y - 0.35 * b, z + random.uniform(-20, 20))
            yield "fluid", Ellipsoid(at, (radius,) * 3), ""
        yield "lung", Ellipsoid((side * 84.0, -22.0, 128.0), (56.0, 58.0, 58.0)), "cavity"


def _bowel(random: Random) -> Iterator[_Organ]:
    """Stomach, duodenum, colon and small bowel: walls and contents."""
    stomach = _organ(random, (-56.0, 44.0, 50.0), (46.0, 33.0, 40.0), 0.3)
    yield "bowel", stomach, "cavity"
    content = "fluid" if random.random() < 0.5 else "stool"
    yield content, Ellipsoid(stomach.centre, np.subtract(stomach.radii, 5), stomach.turn), ""
    up = np.multiply(stomach.radii, (0, 0.5, 0))
    yield "gas", Ellipsoid(stomach.centre + up, np.multiply(stomach.radii, (0.6, 0.33, 0.6)), stomach.turn), ""
    loop = ((36.0, 32.0, 12.0), (54.0, 22.0, 2.0), (57.0, 4.0, -20.0), (46.0, -2.0, -44.0), (0.0, 0.0, -54.0))
    yield "bowel", Tube(loop, (10.0, 10.5, 10.5, 10.0, 9.0)), ""
    yield "stool" if random.random() < 0.75 else "fluid", Tube(loop, (5.0, 6.0, 6.0, 5.0, 4.0)), ""
    rising = np.array([(106.0, 4.0, -36.0), (102.0, 2.0, -170.0)])
    across = ((104, 18, -34), (50, 66, -40), (-10, 72, -44), (-60, 62, -28), (-108, 20, -6))
    colon = np.array([_moved(random, at, 3.0) for at in across])
    falling = np.array([(-112.0, 2.0, -8.0), (-106.0, -6.0, -170.0)])
    for way, thick in ((rising, 23.0), (colon, 17.0), (falling, 16.0)):
        yield "bowel", Tube(way, thick), "cavity"
        yield "stool", Tube(way, thick - 4), "cavity"
        yield "gas", Tube(np.add(way, (0, 0.45 * thick, 0)), 0.36 * thick), "cavity"
    for low, high in [((-78, 12, -120), (72, 66, -42))] * 26 + [((-118, 8, -42), (-78, 58, 14))] * 9:
        centre, radii, turn = random.uniform(low, high), random.uniform(10, 17, 3), random.uniform(0, np.pi)
        # Loops beside the pancreas are collapsed or contain gas: bright water would look like a cyst.
        wet = "fluid" if high[2] < 0 else "stool"
        kind = ("stool", wet, "gas")[int(random.choice(3, p=(0.55, 0.35, 0.1)))]
        yield "bowel", Ellipsoid(centre, radii, turn), "cavity"
        yield kind, Ellipsoid(centre, radii - 4, turn), "cavity"


def _vessels(random: Random) -> Iterator[_Organ]:
    """The aorta, the inferior vena cava and the vessels of the kidneys."""
    aorta, thick = ((-9.0, -11.0, 170.0), (-5.0, -12.0, -170.0)), random.uniform(8.5, 11)
    yield "wall", Tube(aorta, (thick + 1.2, thick + 0.4)), ""
    yield "blood", Tube(aorta, (thick, thick - 1)), ""
    yield "vein", Ellipsoid((21.0, -12.0, 0.0), (12.0, 8.5, 600.0), 0.2), ""
    yield "vein", Tube(((22.0, -12.0, -8.0), (50.0, -36.0, -14.0)), (4.0, 3.5)), ""
    yield "vein", Tube(((18.0, -3.0, -6.0), (-8.0, 2.0, -5.0), (-48.0, -34.0, -4.0)), 3.5), ""


# The lesions.

# Radius of the duct, mm: a normal duct is barely visible, a high-grade duct is clearly dilated.
_DUCT = {"normal": (0.9, 1.3), "low": (0.9, 1.6), "high": (3.0, 4.6)}
# Radius of the largest cyst and thickness of its wall, mm.
_CYST = {"low": (5.0, 8.0), "high": (11.0, 17.0)}
_WALL = {"low": (0.4, 0.8), "high": (2.4, 3.6)}
# Radius of the planted lesion, mm: two sizes that do not overlap. It is no brighter than fat on T1 and fluid on T2;
# otherwise it would widen the intensity range of its scan and change all other tissues once scans are scaled.
_PLANTED = {"low": (7.0, 8.0), "high": (18.0, 20.0)}
# The largest distance of the planted lesion from the middle of the pancreas, in plane and in height, mm.
_AROUND, _ABOUT = 34.0, 6.0
# Cysts lie between these fractions of the way from head to tail.
_SEATS = (0.14, 0.86)
# The duct, then the lesions, each the solids of its tissues from the outside to the inside.
_Lesions: TypeAlias = list[list[tuple[str, Solid]]]


def _lesions(abdomen: _Abdomen, grade: str, lesion: str) -> _Lesions:
    """The lesions of a subject with this grade; normal subjects have only a thin duct.

    Low grade is one or two small cysts with a thin wall. High grade is a large cyst with a thick wall and a nodule on
    it, sometimes a small cyst beside it, and a wide duct. "planted" is a normal pancreas, and for low and high one
    bright ball, small or large, at a random position around it.
    """
    random = stream(abdomen.seed, "cysts", abdomen.number)
    wide = random.uniform(*_DUCT["normal" if lesion == "planted" else grade])
    inner = abdomen.pancreas.points[2:-2]
    lesions: _Lesions = [[("fluid", Tube(inner, np.linspace(wide, 0.75 * wide, len(inner))))]]
    if grade == "normal":
        return lesions
    if lesion == "planted":
        random = stream(abdomen.seed, "planted", abdomen.number)
        angle, far = random.uniform(0, 2 * np.pi), _AROUND * np.sqrt(random.random())
        radius = random.uniform(*_PLANTED[grade])
        shift = (far * np.cos(angle), far * np.sin(angle), random.uniform(-_ABOUT, _ABOUT))
        return [*lesions, [("lesion", Ellipsoid(np.mean(abdomen.pancreas.points, axis=0) + shift, (radius,) * 3))]]
    seats = random.uniform(*_SEATS, 2)
    while abs(seats[0] - seats[1]) < 0.35:
        seats = random.uniform(*_SEATS, 2)
    lesions.append(_cyst(random, abdomen, grade, seats[0]))
    if random.random() < 0.45:
        lesions.append(_cyst(random, abdomen, "low", seats[1]))
    return lesions


def _cyst(random: Random, abdomen: _Abdomen, grade: str, seat: float) -> list[tuple[str, Solid]]:
    """Fluid in a wall, and for a high grade a solid nodule."""
    radius, thick = random.uniform(*_CYST[grade]), random.uniform(*_WALL[grade])
    line = np.array(abdomen.pancreas.points)
    at = [np.interp(seat * (len(line) - 1), np.arange(len(line)), line[:, axis]) for axis in range(3)]
    centre = at + random.normal(0, 0.22, 3) * (radius, radius, 0.3 * radius)
    radii, turn = radius * random.uniform(0.88, 1.12, 3), random.uniform(0, np.pi)
    cyst: list[tuple[str, Solid]] = [
        ("wall", Ellipsoid(centre, radii + thick, turn)),
        ("fluid", Ellipsoid(centre, radii, turn)),
    ]
    if grade == "high":
        angle, size = random.uniform(0, 2 * np.pi), random.uniform(0.38, 0.5) * radius
        far = radius - 0.75 * size
        middle = np.add(centre, (far * np.cos(angle), far * np.sin(angle), 0))
        cyst.append(("nodule", Ellipsoid(middle, (size, 0.85 * size, 1.2 * size), angle)))
    return cyst
