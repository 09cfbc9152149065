"""Slices of a DICOM series in space: put in order along their normal, checked for gaps, and joined to one affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casewise.errors import ImageError

# How much direction cosines may differ: some scanners write three digits.
SAME_DIRECTION = 2e-3
# How much pixel spacings may differ, as a share.
SAME_SPACING = 1e-3
# How far from even a gap may be: a share of the spacing, and what scanners lose by rounding, mm.
UNEVEN, ROUNDED = 0.05, 0.02
# Slices nearer than this share of the typical gap lie at the same position.
SAME_PLACE = 0.05
SHOWN = 5
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice (a file, or a frame of one), before its pixels are read.

    `frame`: which of the file, from 0, or -1 where it has one. `name`: file and frame in words.
    `position`: of the centre of the first pixel, mm, and `along_row`, `along_column`: unit vectors, all in LPS as DICOM
    has them. `spacing`: between rows and between columns, mm. `size`: rows and columns. `thickness`: mm, 0 where
    unknown. `acquired`: what tells images of the same position apart (echo, time …).
    """

    path: Path
    frame: int
    name: str
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    thickness: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    acquired: dict[str, str] = field(default_factory=dict)

    @property
    def normal(self) -> np.ndarray:
        """The direction in which slices are stacked, (3,), LPS."""
        return np.cross(self.along_row, self.along_column)


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their position, one a position; `affine` from (column, row, slice) to mm in RAS."""

    slices: tuple[Slice, ...]
    affine: np.ndarray
    notes: tuple[str, ...] = ()


def stacked(slices: Sequence[Slice], where: str, same: Callable[[Slice, Slice], bool]) -> Stack:
    """Order the slices by position and join them to one volume.

    `same` says whether two slices have the same pixels; it is asked only of slices at the same position.

    Raises:
        ImageError: they differ in size, orientation or spacing; a position is taken twice by different images; slices
            are missing, unevenly spaced, or do not lie behind each other.
    """
    _check_alike(slices, where)
    first = slices[0]
    normal = first.normal / np.linalg.norm(first.normal)
    ordered = sorted(slices, key=lambda one: (float(one.position @ normal), str(one.path), one.frame))
    kept, notes = _without_doubles(ordered, normal, where, same)
    if len(kept) == 1:
        step = normal * (first.thickness or 1.0)
        told = "its thickness" if first.thickness else "1 mm, since it says none,"
        notes.append(f"it has one slice; {told} counts as the distance of slices")
    else:
        step = (kept[-1].position - kept[0].position) / (len(kept) - 1)
        _check_gaps(kept, normal, where)
        _check_line(kept, step, where)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[1]
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = kept[0].position
    return Stack(tuple(kept), TO_RAS @ affine, tuple(notes))


def _check_alike(slices: Sequence[Slice], where: str) -> None:
    first = slices[0]
    remedy = "Put the slices of one stack in a folder of their own."
    for one in slices[1:]:
        if one.size != first.size:
            shapes = [f"{part.name} has {part.size[1]} x {part.size[0]} pixels" for part in (first, one)]
            raise ImageError(f"{where}: slices of different sizes: {', '.join(shapes)}. {remedy}")
        turned = max(np.abs(one.along_row - first.along_row).max(), np.abs(one.along_column - first.along_column).max())
        if turned > SAME_DIRECTION:
            angle = np.degrees(np.arccos(np.clip(one.normal @ first.normal, -1, 1)))
            raise ImageError(
                f"{where}: slices of different orientations: {first.name} and {one.name} are turned against each other "
                f"(their normals by {angle:.1f}°), as in a localiser or a rotated projection. {remedy}"
            )
        if not np.allclose(one.spacing, first.spacing, rtol=SAME_SPACING, atol=0):
            told = [f"{part.name} {part.spacing[0]:.4g} x {part.spacing[1]:.4g} mm" for part in (first, one)]
            raise ImageError(f"{where}: slices with pixels of different sizes: {', '.join(told)}. {remedy}")


def _without_doubles(
    ordered: Sequence[Slice], normal: np.ndarray, where: str, same: Callable[[Slice, Slice], bool]
) -> tuple[list[Slice], list[str]]:
    """One slice a position; what is there twice with the same pixels is left out and told."""
    places = np.array([one.position @ normal for one in ordered])
    gaps = np.diff(places)
    real = gaps[gaps > ROUNDED]
    near = max(ROUNDED, SAME_PLACE * float(np.median(real))) if len(real) else ROUNDED
    kept, twice = [ordered[0]], []
    groups: list[list[Slice]] = [[ordered[0]]]
    for one, gap in zip(ordered[1:], gaps, strict=True):
        if gap > near:
            kept.append(one)
            groups.append([one])
            continue
        groups[-1].append(one)
        if not same(kept[-1], one):
            twice.append((kept[-1], one))
    if twice:
        one, other = twice[0]
        differ = [
            f"{key} {one.acquired.get(key, '-')} and {other.acquired.get(key, '-')}" for key in _differing(one, other)
        ]
        why = f" They differ in {', '.join(differ)}." if differ else ""
        positions = sum(len(group) > 1 for group in groups)
        raise ImageError(
            f"{where}: {positions} of {len(groups)} slice positions are taken by more than one image, for example "
            f"{one.name} and {other.name} at {_mm(one)}.{why} Put the images of one volume (one echo, time or "
            "reconstruction) in a folder of their own."
        )
    copies = len(ordered) - len(kept)
    notes = [f"{copies} of {len(ordered)} slices were there twice with the same pixels; one of each was taken"]
    return kept, notes if copies else []


def _differing(one: Slice, other: Slice) -> list[str]:
    keys = [key for key in one.acquired | other.acquired if one.acquired.get(key) != other.acquired.get(key)]
    # The number of an image always differs, and says the least.
    return [key for key in keys if key != "InstanceNumber"] or keys


def _check_gaps(kept: Sequence[Slice], normal: np.ndarray, where: str) -> None:
    gaps = np.diff([one.position @ normal for one in kept])
    # Of two gaps the smaller: one of a missing slice is never taken for the usual one.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    odd = [i for i, gap in enumerate(gaps) if abs(gap - usual) > max(UNEVEN * usual, ROUNDED)]
    if not odd:
        return
    told = [f"{gaps[i]:.4g} mm between {kept[i].name} and {kept[i + 1].name} at {_mm(kept[i])}" for i in odd[:SHOWN]]
    more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
    missing = [round(gaps[i] / usual) - 1 for i in odd]
    whole = all(n > 0 and abs(gaps[i] / usual - n - 1) < UNEVEN * (n + 1) for i, n in zip(odd, missing, strict=True))
    if whole:
        count = sum(missing)
        what = f"{count} slice{'s are' if count > 1 else ' is'} missing"
        remedy = "Copy the series again from its source, whole."
    else:
        what, remedy = "its slices are unevenly spaced", "Put the slices of one even stack in a folder of their own."
    raise ImageError(f"{where}: {what}: slices lie {usual:.4g} mm apart, but {'; '.join(told)}{more}. {remedy}")


def _check_line(kept: Sequence[Slice], step: np.ndarray, where: str) -> None:
    expected = kept[0].position + np.arange(len(kept))[:, None] * step
    off = np.linalg.norm(np.array([one.position for one in kept]) - expected, axis=1)
    worst = int(off.argmax())
    if off[worst] > max(UNEVEN * float(np.linalg.norm(step)), 0.1):
        raise ImageError(
            f"{where}: its slices do not lie behind each other: {kept[worst].name} at {_mm(kept[worst])} is "
            f"{off[worst]:.3g} mm off the line of the others. Put the slices of one stack in a folder of their own."
        )


def _mm(one: Slice) -> str:
    """Where a slice lies, in DICOM's own coordinates, as another viewer shows them."""
    return "(" + ", ".join(f"{value:.1f}" for value in one.position) + ") mm"
