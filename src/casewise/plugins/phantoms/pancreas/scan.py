"""A scan of a pancreas phantom: its grid, the effects of the scanner, and the voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import stream
from casewise.plugins.phantoms.pancreas.anatomy import PORTA, Abdomen, Findings
from casewise.plugins.phantoms.pancreas.shapes import Axes, Canvas, Point, smooth_noise

SEQUENCES = ("T1", "T2")
ORIENTATIONS = ("RAS", "LAS", "LPS", "RPI", "PSR", "ASL", "SRA")


@dataclass(frozen=True)
class Machine:
    """The scanner of a site: level of intensities, standard deviation of noise, and unevenness of its coils."""

    scanner: str
    level: float
    noise: float
    uneven: float


MACHINES = {
    "site-1": Machine("A 1.5T", 420.0, 0.030, 0.16),
    "site-2": Machine("B 3T", 900.0, 0.020, 0.26),
    "site-3": Machine("C 3T", 1600.0, 0.024, 0.22),
}


@dataclass(frozen=True)
class Scan:
    """The properties of one volume besides the anatomy; voxels and mm in the order right, front, up.

    `middle` is the centre of the grid, mm; `codes` are nibabel's axis codes of the file; a signal of 1 is stored as
    `offset + scale`.
    """

    sequence: str
    shape: tuple[int, int, int]
    spacing: Point
    middle: Point
    codes: str
    scale: float
    offset: float
    noise: float
    uneven: float

    @property
    def axes(self) -> Axes:
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
    seed: int, patient: Abdomen, site: str, *, size: tuple[int, int], slices: tuple[int, int]
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


def draw(seed: int, patient: Abdomen, lesions: Findings, scan: Scan) -> Volume:
    """Draw one volume; noise, coils and organs do not depend on the lesions."""
    canvas, pancreas, lesion = _painted(seed, patient, lesions, scan)
    random = stream(seed, "noise", patient.number, scan.sequence)
    field = smooth_noise(random, scan.axes, 190.0)
    # Coils in front and behind make the middle of the body darker.
    x, y, _ = (axis / np.float32(reach) for axis, reach in zip(scan.axes, (170.0, 110.0, 1.0), strict=True))
    rim = (x[:, None, None] ** 2 + y[None, :, None] ** 2) - np.float32(0.6)
    gain = np.exp(np.float32(scan.uneven) * np.clip(0.7 * field + 0.45 * rim, -1.8, 1.8))
    real, imaginary = random.standard_normal((2, *scan.shape), dtype=np.float32) * np.float32(scan.noise)
    magnitude = np.hypot(canvas.signal * gain + real, imaginary)
    voxels = np.clip(np.rint(scan.offset + scan.scale * magnitude), 0, 32767).astype(np.int16)
    return Volume(voxels, pancreas, lesion, scan)


def _painted(
    seed: int, patient: Abdomen, lesions: Findings, scan: Scan
) -> tuple[Canvas, NDArray[np.bool_], NDArray[np.bool_]]:
    """Paint the anatomy; return the canvas and the masks of pancreas and lesion."""
    axes, column = scan.axes, SEQUENCES.index(scan.sequence)
    signal = {name: pair[column] for name, pair in patient.signals.items()}
    warp = [2.3 * smooth_noise(stream(seed, "warp", patient.number, axis), axes, 46.0) for axis in range(3)]
    canvas = Canvas(axes, warp, soft=scan.spacing[0])
    flesh, cavity = canvas.whole(patient.flesh), canvas.whole(patient.cavity)
    fine = smooth_noise(stream(seed, "texture", patient.number), axes, 8.0)
    edges = {"": None, "cavity": cavity, "room": np.maximum(cavity + 2, -canvas.whole(PORTA))}
    canvas.paint(patient.trunk, signal["skin"])
    skinless = canvas.whole(patient.trunk) + np.float32(2.2)
    # Thin septa run through the fat.
    fat = np.float32(signal["fat"]) * (1 - np.float32(0.07) * np.abs(fine))
    for distance, value in ((skinless, fat), (flesh, np.float32(signal["muscle"])), (cavity, fat)):
        share = np.clip(np.float32(0.5) - distance / canvas.soft, 0, 1)
        canvas.signal += share * (value - canvas.signal)
    for organ in patient.before:
        canvas.paint(organ.shape, signal[organ.name], within=edges[organ.inside])
    lobes = np.float32(1.5) * smooth_noise(stream(seed, "lobes", patient.number), axes, 9.0)
    pancreas = np.zeros(scan.shape, bool)
    box, share = canvas.paint(patient.pancreas, signal["pancreas"], rough=lobes)
    pancreas[box] = share >= 0.5
    for organ in patient.after:
        canvas.paint(organ.shape, signal[organ.name])
    canvas.signal *= 1 + np.float32(0.05) * fine
    lesion = _paint_findings(canvas, lesions, signal)
    return canvas, pancreas | (lesion if lesions.cysts else False), lesion


def _paint_findings(canvas: Canvas, lesions: Findings, signal: dict[str, float]) -> NDArray[np.bool_]:
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
