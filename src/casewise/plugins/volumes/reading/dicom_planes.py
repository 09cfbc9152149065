"""The planes of a scan in DICOM files: how each is scaled, and the values of all on one scale.

The scale of a plane comes from its frame, else from its file: slope and intercept, or the modality LUT. Windows are
never applied: they are of single planes. MONOCHROME1 is inverted for the whole scan; padding outside of the field of
view gets the value of the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from casewise.errors import CasewiseError, ImageError
from casewise.modalities.store import dicom_file, dicom_pixels

# The functional group of each tag in a multi-frame file.
GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "EchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "RealWorldValueSlope": "RealWorldValueMappingSequence",
    "RealWorldValueIntercept": "RealWorldValueMappingSequence",
}
# The tags that scale a plane, apart from those that its pixels need.
SCALE_TAGS = ("RescaleType", "Units", "RealWorldValueMappingSequence")
# In CT, air is -1000; a constant value this low is outside of the field of view, whether or not a tag says so.
_NO_TISSUE = -1500.0
# The share of voxels from which such a value counts.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """The pixels of one slice (a file, or a frame of a file), before they are read.

    Attributes:
        frame: the number of the frame from 0; -1 if the file has only one.
        name: file and frame in words.
        size: rows and columns.
        inverted: MONOCHROME1.
        units: of the scaled values as the file names them; empty if it does not.
        has_table: a modality LUT takes the place of slope and intercept.
        real_world: slope and intercept of a file that states no others; they only count if planes differ in them.
        person: values of `PERSON`.
        examination: its UID; empty if it was not read.
    """

    path: Path
    frame: int
    name: str
    size: tuple[int, int]
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    units: str = ""
    has_table: bool = False
    real_world: tuple[float, float] | None = None
    person: tuple[str, ...] = ()
    examination: str = ""


def pydicom_module() -> ModuleType:
    """Import the optional package.

    Raises:
        CasewiseError: it is not installed.
    """
    try:
        return dicom_file.quiet_pydicom()
    except ImportError as error:
        raise CasewiseError(
            f"DICOM files need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from error


def frame_value(header: Any, frame: int, tag: str) -> Any:
    """A value of a frame: from its own groups, else from the groups of all frames, else from the header of the file."""
    per_frame, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    if per_frame and frame >= len(per_frame):
        raise dicom_file.DefectError(f"it has {len(per_frame)} functional groups, fewer than frames")
    for groups in (per_frame[frame] if per_frame else None, shared[0] if shared else None, header):
        inner = groups.get(GROUP_OF[tag]) if groups is not None else None
        if inner and inner[0].get(tag) is not None:
            return inner[0].get(tag)
    frames = max(1, dicom_file.whole_number(header, "NumberOfFrames", 1))
    if tag == "ImagePositionPatient" and frames > 1:
        # All frames would have the same position.
        return None
    return header.get(tag)


def finite_numbers(value: Any) -> list[float]:
    """The numbers of a value; none if one of them is not finite."""
    if value is None or value == "":
        return []
    numbers = [float(number) for number in ([value] if isinstance(value, int | float | str) else value)]
    return numbers if np.isfinite(numbers).all() else []


def plane(path: Path, header: Any, frame: int, name: str) -> Plane:
    """The plane of a frame; -1 for a file of one.

    Raises:
        ImageError: its pixels are colours, or its scale cannot be used.
    """
    kind = dicom_file.text_of(header, "PhotometricInterpretation") or dicom_pixels.GREY[1]
    if dicom_file.whole_number(header, "SamplesPerPixel", 1) > 1 or kind not in dicom_pixels.GREY:
        problem = f"its pixels are colours ({kind}), not values of the scanner"
        raise ImageError(f"{path}: {problem}. Leave the file out, or name the series that it was made from.")
    scale = {}
    for tag in ("RescaleSlope", "RescaleIntercept", "RealWorldValueSlope", "RealWorldValueIntercept"):
        value = frame_value(header, max(frame, 0), tag)
        scale[tag] = finite_numbers(value)
        if value not in (None, "") and not scale[tag]:
            raise ImageError(f"{path}: its {tag} is not a finite number. Export the scan again from its archive.")
    slope, intercept = (scale["RescaleSlope"] or [1.0])[0], (scale["RescaleIntercept"] or [0.0])[0]
    if problem := dicom_file.scale_problem(slope, intercept):
        raise ImageError(f"{path}: its {problem}, which makes pixels equal. Export the scan again.")
    has_table = bool(header.get("ModalityLUTSequence"))
    real_world = None
    if scale["RealWorldValueSlope"] and not (scale["RescaleSlope"] or scale["RescaleIntercept"] or has_table):
        real_world = (scale["RealWorldValueSlope"][0], (scale["RealWorldValueIntercept"] or [0.0])[0])
        if problem := dicom_file.scale_problem(*real_world):
            raise ImageError(f"{path}: its {problem.replace('Rescale', 'RealWorldValue')}. Export the scan again.")
    units = str(frame_value(header, max(frame, 0), "RescaleType") or "") or dicom_file.text_of(header, "Units")
    if has_table:
        units = dicom_file.text_of(header["ModalityLUTSequence"][0], "ModalityLUTType")
    return Plane(
        path=path, frame=frame, name=name, size=(int(header.Rows), int(header.Columns)), slope=slope,
        intercept=intercept, inverted=kind == dicom_pixels.GREY[0], units=units.strip().upper(), has_table=has_table,
        real_world=real_world, person=tuple(dicom_file.text_of(header, tag) for tag in dicom_file.PERSON),
        examination=dicom_file.text_of(header, "StudyInstanceUID"),
    )  # fmt: skip


def dicom_plane(path: Path) -> Plane | None:
    """The plane of a file that is one slice by itself, wherever it lies; None if its pixels are colours.

    Raises:
        ImageError: it is damaged, or holds several frames.
        CasewiseError: the package that reads DICOM is not installed.
    """
    pydicom_module()
    with dicom_file.damage_named(path):
        with open(path, "rb") as file:
            header = dicom_pixels.read_tags(
                file,
                pixels=False,
                tags=(*dicom_pixels.PIXEL_TAGS, *SCALE_TAGS, *dicom_pixels.FRAME_GROUPS, *dicom_file.PERSON),
            )
        if (frames := dicom_file.whole_number(header, "NumberOfFrames", 1)) > 1:
            raise ImageError(f"{path}: this DICOM holds {frames} images. Save the image to use in a separate file.")
        if dicom_file.whole_number(header, "SamplesPerPixel", 1) > 1:
            return None
        return plane(path, header, -1, path.name)


def check_one_scan(planes: Sequence[Plane], where: str) -> None:
    """Check that all planes are of one patient and one examination, and that their values mean the same.

    Raises:
        ImageError: their files name different patients or examinations, or some are MONOCHROME1, have other units, a
            modality LUT or a real-world scale, and others not.
    """
    first, named = planes[0], next((other for other in planes if other.units), planes[0])
    for other in planes[1:]:
        is_same = dicom_file.same_patient({first.person, other.person})
        if not is_same or other.examination != first.examination:
            raise ImageError(
                f"{where}: {first.name} and {other.name} state different {'examinations' if is_same else 'patients'}. "
                "Put the slices of each examination in a folder of their own."
            )
        difference = ""
        if other.inverted != first.inverted:
            kinds = [dicom_pixels.GREY[1 - plane.inverted] for plane in (first, other)]
            difference = f"{first.name} is {kinds[0]}, {other.name} {kinds[1]}"
        elif other.units and other.units != named.units:
            difference = f"{named.name} is in {named.units}, {other.name} in {other.units}"
        elif other.has_table != first.has_table:
            difference = f"of {first.name} and {other.name} only one has a modality LUT"
        elif (other.real_world is None) != (first.real_world is None):
            difference = f"of {first.name} and {other.name} only one states how its values are scaled"
        if difference:
            raise ImageError(
                f"{where}: its slices are not on one scale: {difference}. Leave out what belongs to another series, "
                "or export the series again from its archive."
            )


def plane_values(planes: Sequence[Plane], *, alone: bool = False) -> tuple[np.ndarray, list[str]]:
    """All planes as (columns, rows, planes) `float32` on one scale, black being small; and notes.

    `alone`: other planes of the scan may be read by themselves, so MONOCHROME1 is inverted around 0.

    Raises:
        ImageError: pixels cannot be read.
    """
    notes = []
    if len({image.real_world for image in planes}) > 1:
        planes = [replace(image, slope=image.real_world[0], intercept=image.real_world[1])  # type: ignore[index]
                  for image in planes]  # fmt: skip
        notes.append("its slices differ in RealWorldValueSlope, by which they are scaled")
    rows, columns = planes[0].size
    values = np.empty((columns, rows, len(planes)), np.float32, order="F")
    outside: np.ndarray | None = None
    path, header, pixels = None, None, dicom_pixels.DicomPixels(np.empty(0))
    for index, image in enumerate(planes):
        with dicom_file.damage_named(image.path):
            if path != image.path:  # the frames of a file are decoded once
                header, pixels, path = *_read(image.path), image.path
            frame = max(image.frame, 0)
            stored = pixels.stored[frame]
            padding = None if pixels.padding is None else pixels.padding[frame]
            inside = stored if padding is None else stored[~padding]
            span = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
            scale = (image.slope, image.intercept)
            with np.errstate(over="ignore", invalid="ignore"):
                values[:, :, index] = dicom_pixels.scanner_values(stored, header, span, scale)[0].T
        if padding is not None and padding.any():
            outside = np.zeros(values.shape, bool, order="F") if outside is None else outside
            outside[:, :, index] = padding.T
    if outside is None and dicom_file.text_of(header, "Modality") == "CT":
        outside = _no_tissue(values)
    if planes[0].inverted:
        shown = values if outside is None else values[~outside]
        values = (0 if alone or not shown.size else shown.max() + shown.min()) - values
    if outside is not None:
        background = values[~outside].min() if not outside.all() else np.float32(0)
        values[outside] = background
        notes.append(
            f"its padding, {outside.mean():.0%} of its voxels, has the value of the background, {background:g}"
        )
    return values, notes


def _read(path: Path) -> tuple[Any, dicom_pixels.DicomPixels]:
    with open(path, "rb") as file:
        header = dicom_pixels.read_tags(file, pixels=True)
    pixels = dicom_pixels.decoded(header)
    # the header is kept for its tables, without its pixels
    for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if tag in header:
            del header[tag]
    return header, pixels


def _no_tissue(values: np.ndarray) -> np.ndarray | None:
    """Where a CT scan has one constant value far below air; None if nowhere."""
    lowest = values.min()
    outside = values == lowest
    return outside if lowest <= _NO_TISSUE and outside.mean() >= _LEAST_SHARE else None
