"""A scan: the voxels of one sequence of a case and their positions in the patient; read from any kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import head_of, is_dicom
from casewise.modalities.store.file_check import size_of
from casewise.modalities.store.pixels import eight_bits
from casewise.modalities.store.readers import open_source, read_bytes
from casewise.plugins.volumes.reading.dicom_planes import Plane, check_one_scan, dicom_plane, plane_values

# More bytes of voxels than any scan has; a header that states more is damaged or made to exhaust memory.
VOXEL_BYTES = 2_000_000_000
# The range of possible spacings; outside, the units or numbers of a header are wrong.
FINEST_MM, COARSEST_MM = 1e-3, 1e3
# The smallest volume of a voxel relative to the product of its sides.
FLAT = 1e-3
# The cosine of an angle between axes above which a note is added.
OBLIQUE = 0.01
# Kinds of slice images whose values are scaled for all slices of a scan together.
_DICOM, _DEEP = "DICOM", "an image of 16 bits"
# Words that stand for a removed id.
NO_ID = {"", "anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "removed"}


@dataclass(frozen=True, eq=False)
class Scan:
    """The voxels of one sequence in the order of the file.

    Attributes:
        values: (X, Y, Z) `float32`, the scanner's values after slope and intercept of the file; all finite.
        affine: (4, 4) `float64`, from voxel indices to mm in RAS: x grows to the patient's right, y to the front, z
            to the head (as in NIfTI).
        path: the file or folder.
        facts: from the file. `patient_id` only serves to compare scans and is never shown or stored.
        notes: sentences on anything unusual that does not prevent the use of the scan.
    """

    values: np.ndarray
    affine: np.ndarray
    path: Path
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.values.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along each axis."""
        return _spacing_of(self.affine)


def _spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """The lengths of the affine's columns.

    >>> _spacing_of(np.diag([-1.0, 2.0, 0.5, 1.0]))
    (1.0, 2.0, 0.5)
    """
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def checked_affine(affine: np.ndarray, path: Path) -> tuple[np.ndarray, list[str]]:
    """The affine as `float64`, and notes on anything unusual.

    Raises:
        ImageError: it is not finite, singular, or of impossible spacing.
    """
    affine = np.asarray(affine, np.float64)
    remedy = "Convert the scan again from its DICOM files."
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ImageError(f"{path}: its affine is not finite, so the positions of its voxels are unknown. {remedy}")
    spacing = _spacing_of(affine)
    text = " x ".join(f"{side:.4g}" for side in spacing)
    if min(spacing) < FINEST_MM or max(spacing) > COARSEST_MM:
        raise ImageError(
            f"{path}: its voxels would measure {text} mm; allowed is {FINEST_MM:g} to {COARSEST_MM:g} mm. {remedy}"
        )
    directions = affine[:3, :3] / np.array(spacing)
    if abs(np.linalg.det(directions)) < FLAT:
        raise ImageError(f"{path}: two axes of its affine point the same way (it is singular). {remedy}")
    worst = float(np.abs(directions.T @ directions - np.eye(3)).max())
    angle = np.degrees(np.arccos(min(worst, 1.0)))
    text = f"its axes are not at right angles ({angle:.1f}° instead of 90°), as with a tilted gantry"
    return affine, [text] if worst > OBLIQUE else []


def unread(shape: tuple[int, int, int]) -> np.ndarray:
    """An array of zeros of this shape for a scan whose voxels were not read; all voxels share one number in memory.

    >>> unread((512, 512, 400)).strides
    (0, 0, 0)
    """
    return np.broadcast_to(np.float32(0), shape)


def checked_values(values: np.ndarray, path: Path) -> list[str]:
    """Notes on the voxels.

    Raises:
        ImageError: some are not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        # Counted only in this case, because a mask of all voxels costs memory.
        nans = int(np.isnan(values).sum())
        infinite = int(values.size - np.isfinite(values).sum()) - nans
        values_text = " and ".join(
            f"{count:,} are {name}" for count, name in ((nans, "NaN"), (infinite, "infinite")) if count
        )
        remedy = "Give them the value of the background (often 0), or convert the scan again from its source."
        raise ImageError(f"{path}: of {values.size:,} voxels {values_text}. {remedy}")
    return [f"all its voxels are {low:g}: it shows nothing"] if low == high else []


def check_same_subject(scans: Mapping[str, Scan]) -> list[str]:
    """Compare the patients and examinations that the scans of one case state, by sequence; return notes.

    Files without a patient id (all NIfTI, and DICOM with the id removed) cannot be compared. Different frames of
    reference give only a note: the patient may have left the table between two sequences. So do different examinations
    if all files name the same patient.

    Raises:
        ImageError: two scans name different patients, two are of different examinations and not all name their patient,
            or two sequences are the same series.
    """
    sequence_of: dict[str, str] = {}
    for name, scan in scans.items():
        source = scan.facts.get("series_uid") or str(scan.path)
        if source in sequence_of:
            both = f"{sequence_of[source]} and {name} of one case are the same series"
            raise ImageError(f"{scan.path}: {both}. Correct the paths in the table.")
        sequence_of[source] = name
    ids = {name: _id(scan) for name, scan in scans.items() if _id(scan)}
    if len({identity.casefold() for identity in ids.values()}) > 1:
        text = "; ".join(f"{name} is of patient {ids[name]!r} ({scans[name].path})" for name in ids)
        remedy = "Correct the paths in the table; if it is one person under two ids, give the files one id."
        raise ImageError(f"The scans of one case are of different patients: {text}. {remedy}")
    notes = _other_examinations(scans, same_subject=len(ids) == len(scans))
    frames = {name: str(scan.facts.get("frame_of_reference", "")) for name, scan in scans.items()}
    named = {name: frame for name, frame in frames.items() if frame}
    if len(set(named.values())) > 1:
        doubt = "" if len(ids) == len(scans) else ", and not every file names its patient"
        notes.append(
            f"{' and '.join(named)} have different frames of reference{doubt}: the patient may have moved between "
            "them, or they may show different patients. The positions stated in the files are used."
        )
    return notes


def _other_examinations(scans: Mapping[str, Scan], *, same_subject: bool) -> list[str]:
    """A note on scans of several examinations; `same_subject`: all of them name the same patient."""
    studies = {name: str(scan.facts.get("study_uid", "")) for name, scan in scans.items()}
    named = {name: study for name, study in studies.items() if study}
    if len(set(named.values())) < 2:
        return []
    text = f"{' and '.join(named)} are of different examinations (their StudyInstanceUIDs differ)"
    if not same_subject:
        files = ", ".join(str(scans[name].path) for name in named)
        remedy = "Correct the paths in the table; if it is one person, give the files one PatientID."
        raise ImageError(f"{text}, and not every file names its patient: {files}. {remedy}")
    return [f"{text}: are they of one visit?"]


def _id(scan: Scan) -> str:
    """The patient id; empty if the file only states that it was removed."""
    identity = str(scan.facts.get("patient_id", "")).strip()
    return "" if identity.casefold() in NO_ID else identity


def checked_size(path: Path) -> int:
    """Return the number of bytes of a file that should be a scan or one of its slices.

    Raises:
        ImageError: it is missing, empty, not a file, or not readable.
    """
    return size_of(path, "Name a .nii or .nii.gz file, or a folder of DICOM files.")


def stack_images(paths: Sequence[Path], spacing: tuple[float, float], *, voxels: bool = True) -> Scan:
    """Stack axial slice images, sorted from feet to head, to one scan in grey; rows run from front to back, columns
    from the patient's right to the left, as radiologists view them.

    Values are as the files store them (DICOM: scanner values, without a window), on one scale for all slices.

    `spacing`: mm between pixels, and between slices. Without `voxels` only the sizes are read: all values are 0.

    Raises:
        ImageError: an image cannot be read, or differs from the first in size or kind.
    """
    images = [_slice_image(Path(path), voxels) for path in paths]
    first = images[0]
    for other in images[1:]:
        if other.size != first.size:
            raise ImageError(
                f"{other.path}: this slice is {other.size[1]}×{other.size[0]} pixels, the first ({first.path.name}) is "
                f"{first.size[1]}×{first.size[0]}. Slices of one scan have the same size."
            )
    _check_kinds({image.path: image.kind for image in images})
    coloured, grey = ([image for image in images if getattr(image, name)] for name in ("is_coloured", "is_grey"))
    if coloured and grey:
        raise ImageError(
            f"{coloured[0].path}: this slice is in colour, {grey[0].path.name} is grey. Slices of one scan are of one "
            "kind: save all of them alike."
        )
    planes = [image.plane for image in images if image.plane]
    notes: list[str] = []
    if planes:
        check_one_scan(planes, str(first.path.parent))
    if not voxels:
        values = unread((first.size[1], first.size[0], len(images)))
    elif planes:
        values, notes = plane_values(planes, alone=True)
    else:
        stacked = np.stack([image.values for image in images], axis=-1)  # type: ignore[misc]
        values = np.ascontiguousarray(stacked.transpose(1, 0, 2).astype(np.float32))
    if planes and voxels:
        checked_values(values, first.path)
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values, affine, first.path, notes=tuple(notes))


def need_one_scale(paths: Sequence[Path]) -> bool:
    """Whether slices need one scale for all (DICOM, 16 bits), instead of the 0 to 255 of 8-bit images.

    Raises:
        ImageError: some do and others do not.
    """
    return _check_kinds({path: _slice_image(path, voxels=False).kind for path in paths}) in (_DICOM, _DEEP)


def _check_kinds(kinds: Mapping[Path, str]) -> str:
    """The kind of all slices of a scan."""
    first, kind = next(iter(kinds.items()))
    for path, other in kinds.items():
        if other != kind:
            raise ImageError(
                f"{path}: this slice is {other}, the first ({first.name}) is {kind}. Slices of one scan are of one "
                "kind, because their grey values are compared: save all of them alike."
            )
    return kind


def as_pictures(scan: Scan) -> np.ndarray:
    """The voxels as 8-bit grey values on one scale, (X, Y, Z) `uint8`: integers as in a single image, else from
    the smallest to the largest.
    """
    low, high = float(scan.values.min()), float(scan.values.max())
    if low >= 0 and high < 2**16 and (scan.values == np.rint(scan.values)).all():
        return eight_bits(scan.values.astype(np.int32))
    return np.asarray(np.rint((scan.values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class _SliceImage:
    """One slice of a stack.

    Attributes:
        kind: the same for all slices of a scan.
        size: rows and columns.
        values: (rows, columns), unless they are read later or not at all.
        is_grey, is_coloured: the file has one channel; its channels differ.
    """

    path: Path
    kind: str
    size: tuple[int, int]
    values: np.ndarray | None = None
    plane: Plane | None = None
    is_grey: bool = False
    is_coloured: bool = False


def _slice_image(path: Path, voxels: bool) -> _SliceImage:
    """A slice image; the pixels of DICOM files are read later, on the scale of all."""
    size_of(path, "Name an image file.")
    if is_dicom(head_of(path)) and (image := dicom_plane(path)):
        return _SliceImage(path, _DICOM, image.size, plane=image)
    source = open_source(path, read_bytes(path))
    facts = source.facts()
    size = (facts["height"], facts["width"])
    is_deep, is_grey = facts["mode"].startswith(("I", "F")), facts["mode"] in {"1", "L", "LA"}
    kind = f"a {facts['format']} in colour" if facts["format"] == "DICOM" else "an image of 8 bits"
    if is_deep:
        return _SliceImage(path, _DEEP, size, source.stored() if voxels else None, is_grey=True)
    if not voxels:
        return _SliceImage(path, kind, size)
    pixels = source.read((source.width, source.height), "rgb")
    is_coloured = bool((pixels != pixels[..., :1]).any())
    values = np.asarray(Image.fromarray(pixels).convert("L")) if is_coloured else pixels[..., 0]
    return _SliceImage(path, kind, size, values, is_grey=is_grey, is_coloured=is_coloured)
