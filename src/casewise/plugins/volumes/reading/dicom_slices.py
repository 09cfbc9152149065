"""Slices of a DICOM series: sorted along their normal, checked for gaps, and joined to a volume with one affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from casewise.errors import ImageError
from casewise.plugins.volumes.reading.dicom_planes import Plane

# The largest difference of direction cosines: some scanners write three digits.
SAME_DIRECTION = 2e-3
# The largest relative difference of pixel spacings.
SAME_SPACING = 1e-3
# The largest deviation of a gap: relative to the spacing, and the rounding error of scanners in mm.
UNEVEN, ROUNDED = 0.05, 0.02
# Slices closer than this share of the typical gap lie at the same position.
SAME_POSITION = 0.05
SHOWN = 5
ONE_STACK = "Put the slices of each stack in a separate folder."
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Plane):
    """A plane with its place in the patient.

    Attributes:
        position: of the centre of the first pixel, mm, LPS as in DICOM.
        along_row, along_column: unit vectors, LPS.
        spacing: between rows and between columns, mm.
        thickness: mm, 0 if unknown.
        acquired: attributes in which images of the same position can differ (echo, time …).
    """

    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    thickness: float = 0.0
    acquired: dict[str, str] = field(default_factory=dict)

    @property
    def normal(self) -> np.ndarray:
        """The direction in which slices are stacked, (3,), LPS."""
        return np.cross(self.along_row, self.along_column)


def stacked(slices: Sequence[Slice], where: str) -> tuple[list[Slice], np.ndarray, list[str]]:
    """Sort the slices by position and join them to one volume.

    Returns the slices in order, the affine from (column, row, slice) to mm in RAS, and notes.

    Args:
        where: the files in words, for messages.

    Raises:
        ImageError: the slices differ in size, orientation or spacing; images have the same position; slices
            are missing, unevenly spaced, or not in line.
    """
    _check_alike(slices, where)
    first = slices[0]
    normal = first.normal / np.linalg.norm(first.normal)
    ordered = sorted(slices, key=lambda image: (float(image.position @ normal), str(image.path), image.frame))
    notes = []
    if len(ordered) == 1:
        step = normal * (first.thickness or 1.0)
        distance = "its thickness" if first.thickness else "1 mm, because the thickness is not stated,"
        notes.append(f"it has one slice; {distance} is taken as the distance between slices")
    else:
        _check_positions(ordered, normal, where)
        step = (ordered[-1].position - ordered[0].position) / (len(ordered) - 1)
        _check_gaps(ordered, normal, where)
        _check_line(ordered, step, where)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[1]
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position
    return ordered, TO_RAS @ affine, notes


def _check_alike(slices: Sequence[Slice], where: str) -> None:
    first = slices[0]
    remedy = ONE_STACK
    for other in slices[1:]:
        if other.size != first.size:
            sizes = [f"{image.name} has {image.size[1]} x {image.size[0]} pixels" for image in (first, other)]
            raise ImageError(f"{where}: slices of different sizes: {', '.join(sizes)}. {remedy}")
        row, column = np.abs(other.along_row - first.along_row), np.abs(other.along_column - first.along_column)
        if max(row.max(), column.max()) > SAME_DIRECTION:
            angle = np.degrees(np.arccos(np.clip(other.normal @ first.normal, -1, 1)))
            turned = f"{first.name} and {other.name} are turned against each other (their normals by {angle:.1f}°)"
            raise ImageError(f"{where}: slices of different orientations: {turned}. {ONE_STACK}")
        if not np.allclose(other.spacing, first.spacing, rtol=SAME_SPACING, atol=0):
            sizes = [f"{image.name} {image.spacing[0]:.4g} x {image.spacing[1]:.4g} mm" for image in (first, other)]
            raise ImageError(f"{where}: slices with pixels of different sizes: {', '.join(sizes)}. {remedy}")


def _check_positions(ordered: Sequence[Slice], normal: np.ndarray, where: str) -> None:
    gaps = np.diff([image.position @ normal for image in ordered])
    real = gaps[gaps > ROUNDED]
    near = max(ROUNDED, SAME_POSITION * float(np.median(real))) if len(real) else ROUNDED
    doubled = np.flatnonzero(gaps <= near)
    if not len(doubled):
        return
    first, other = ordered[doubled[0]], ordered[doubled[0] + 1]
    keys = [key for key in first.acquired | other.acquired if first.acquired.get(key) != other.acquired.get(key)]
    # The number of an image always differs and explains least.
    keys = [key for key in keys if key != "InstanceNumber"] or keys
    differences = [f"{key} {first.acquired.get(key, '-')} and {other.acquired.get(key, '-')}" for key in keys]
    reason = f" They differ in {', '.join(differences)}." if differences else ""
    raise ImageError(
        f"{where}: slice positions are taken by more than one image, for example {first.name} and {other.name} at "
        f"{_mm(first)}.{reason} Put the images of one volume (one echo, time or reconstruction) in a separate folder, "
        "without copies."
    )


def _check_gaps(slices: Sequence[Slice], normal: np.ndarray, where: str) -> None:
    gaps = np.diff([image.position @ normal for image in slices])
    # The lower median: of two gaps the smaller, because a missing slice's gap is never the usual one.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    uneven = [i for i, gap in enumerate(gaps) if abs(gap - usual) > max(UNEVEN * usual, ROUNDED)]
    if not uneven:
        return
    examples = [
        f"{gaps[i]:.4g} mm between {slices[i].name} and {slices[i + 1].name} at {_mm(slices[i])}"
        for i in uneven[:SHOWN]
    ]
    more = f" and {len(uneven) - SHOWN} more" if len(uneven) > SHOWN else ""
    missing = [round(gaps[i] / usual) - 1 for i in uneven]
    if all(n > 0 and abs(gaps[i] / usual - n - 1) < UNEVEN * (n + 1) for i, n in zip(uneven, missing, strict=True)):
        count = sum(missing)
        problem = f"{count} slice{'s are' if count > 1 else ' is'} missing"
        remedy = "Copy the complete series again from its source."
    else:
        problem, remedy = (
            "its slices are unevenly spaced",
            "Put the slices of each evenly spaced stack in a separate folder.",
        )
    raise ImageError(f"{where}: {problem}: slices lie {usual:.4g} mm apart, but {'; '.join(examples)}{more}. {remedy}")


def _check_line(slices: Sequence[Slice], step: np.ndarray, where: str) -> None:
    expected = slices[0].position + np.arange(len(slices))[:, None] * step
    deviation = np.linalg.norm(np.array([image.position for image in slices]) - expected, axis=1)
    worst = int(deviation.argmax())
    if deviation[worst] > max(UNEVEN * float(np.linalg.norm(step)), 0.1):
        where_off = f"{slices[worst].name} at {_mm(slices[worst])} is {deviation[worst]:.3g} mm off the others' line"
        raise ImageError(f"{where}: its slices do not lie behind each other: {where_off}. {ONE_STACK}")


def _mm(image: Slice) -> str:
    """The position of a slice in DICOM's own coordinates, as other viewers show them."""
    return "(" + ", ".join(f"{value:.1f}" for value in image.position) + ") mm"
