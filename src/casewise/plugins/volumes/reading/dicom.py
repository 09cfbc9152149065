"""Reading a DICOM series as one volume, from files of one slice each or from a file of several frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casewise.cohort.table import names_text
from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import (
    MOST_FILES,
    DefectError,
    damage_named,
    dicom_files,
    scale_problem,
    text_of,
    whole_number,
)
from casewise.plugins.volumes.reading.dicom_series import ACQUIRED, Series, choose, find_series, pydicom_module
from casewise.plugins.volumes.reading.dicom_slices import Slice, stacked
from casewise.plugins.volumes.reading.scans import (
    VOXEL_BYTES,
    Scan,
    checked_affine,
    checked_size,
    checked_values,
    unread,
)

# The tag of each fact, by which scans of one case are compared.
FACTS = {
    "series_uid": "SeriesInstanceUID",
    "modality": "Modality",
    "patient_id": "PatientID",
    "study_uid": "StudyInstanceUID",
    "frame_of_reference": "FrameOfReferenceUID",
}
# The functional group of each tag in a multi-frame file.
GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "TemporalPositionIndex": "FrameContentSequence",
}
UNIT_VECTOR = 1e-2
DECODERS = "'casewise[dicom]'"
PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_dicom(path: Path, *, sequence: str | None = None, voxels: bool = True) -> Scan:
    """Read a folder of DICOM files (with all folders in it), or one file, as one volume.

    Series are identified by their UID, slices sorted by position. `sequence` selects one of several series. Without
    `voxels` only headers are read.

    Raises:
        ImageError: there is no DICOM image, none or several series match, files are damaged, or the slices do not form
            one evenly spaced volume.
        CasewiseError: the package that reads DICOM is not installed.
    """
    path = Path(path)
    pydicom_module()
    if not path.is_dir():
        checked_size(path)
    files, others = dicom_files(path)
    if not files:
        raise ImageError(no_dicom_message(path, others))
    candidates, empty = find_series(files)
    if not candidates:
        raise ImageError(f"{path}: its {len(empty)} DICOM files contain no image. Name the folder of the scan.")
    series, notes = choose(candidates, sequence, path)
    slices = _slices(series, path)
    where = str(path) if len(candidates) == 1 else f"{path}, {series.description}"
    ordered, affine, stack_notes = stacked(slices, where)
    affine, affine_notes = checked_affine(affine, path)
    if voxels:
        values = _values(ordered)
        value_notes = checked_values(values, path)
    else:
        rows, columns = ordered[0].size
        values, value_notes = unread((columns, rows, len(ordered))), []
    facts = {name: text for name, tag in FACTS.items() if (text := series.text(tag))}
    ignored = (("files that are not DICOM", others), ("DICOM files without an image", empty))
    ignored_notes = [
        f"{kind} were left aside ({names_text([f.name for f in names], 3)})" for kind, names in ignored if names
    ]
    stated = whole_number(series.headers[0][1], "ImagesInAcquisition", 0)
    if path.is_dir() and stated > len(slices):
        ignored_notes.append(
            f"its files state {stated} images, but {len(slices)} are present: the first or last may be missing"
        )
    return Scan(values, affine, path, facts, (*notes, *ignored_notes, *stack_notes, *affine_notes, *value_notes))


def no_dicom_message(path: Path, others: Sequence[Path]) -> str:
    """The message on a folder without DICOM files."""
    scans = [file for file in others if re.search(r"\.nii(\.gz)?$", file.name, re.IGNORECASE)]
    if scans:
        return f"{path}: the folder contains no DICOM file but {scans[0].name}. Name that file itself."
    if not others:
        return f"{path}: the folder is empty. Copy the scan into it again."
    return f"{path}: none of the {len(others)} files in the folder is DICOM (for example {others[0].name})."


def _slices(series: Series, where: Path) -> list[Slice]:
    """All slices of a series, each checked by itself.

    Raises:
        ImageError: a file is in colour, states no position, or states too many pixels.
    """
    slices: list[Slice] = []
    total = 0
    for path, header in series.headers:
        with damage_named(path):
            frames = max(1, whole_number(header, "NumberOfFrames", 1))
            rows, columns = int(header.Rows), int(header.Columns)
            if rows < 1 or columns < 1:
                raise ImageError(f"{path}: it claims {columns} x {rows} pixels; each side must be at least 1.")
            total += rows * columns * frames
            if total * 4 > VOXEL_BYTES or len(slices) + frames > MOST_FILES:
                size = f"more than {VOXEL_BYTES / 1e9:g} GB of voxels ({path.name} {columns} x {rows} x {frames})"
                raise ImageError(f"{where}: its files claim {size}. They are damaged, or belong to several scans.")
            colours = whole_number(header, "SamplesPerPixel", 1)
            kind = text_of(header, "PhotometricInterpretation") or "MONOCHROME2"
            if colours > 1 or kind not in {"MONOCHROME1", "MONOCHROME2"}:
                problem = f"its pixels are colours ({kind}), not values of the scanner"
                raise ImageError(f"{path}: {problem}. Leave the file out, or name the series of which it was made.")
            if "MOSAIC" in text_of(header, "ImageType"):
                raise ImageError(f"{path}: it is a mosaic of all slices in one picture. Convert it to NIfTI.")
            name = str(path.relative_to(where)) if path != where else path.name
            slices += [_slice(path, name, header, -1 if frames == 1 else frame, kind) for frame in range(frames)]
    return slices


def _slice(path: Path, name: str, header: Any, frame: int, kind: str) -> Slice:
    """One slice, from the header of the file or from the functional groups of its frame."""
    index = max(frame, 0)
    name = name if frame < 0 else f"frame {frame + 1} of {name}"
    numbers = {tag: _numbers(_value(header, index, tag)) for tag in GROUP_OF}
    for tag, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if len(numbers[tag]) != count:
            problem = "does not state" if not numbers[tag] else "states in an impossible way"
            label = path if frame < 0 else f"{path}, frame {frame + 1}"
            raise ImageError(
                f"{label}: it {problem} its position in the patient ({tag}). Leave the file out if it is not a slice "
                "of a volume, or export the scan again from its archive."
            )
    position, directions = numbers["ImagePositionPatient"], numbers["ImageOrientationPatient"]
    spacing = numbers["PixelSpacing"]
    row, column = np.array(directions[:3]), np.array(directions[3:])
    if max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)) > UNIT_VECTOR:
        raise ImageError(
            f"{path}: its rows and columns are not at right angles (ImageOrientationPatient {directions})."
        )
    if min(spacing) <= 0:
        raise ImageError(f"{path}: its pixels would measure {spacing[0]:g} x {spacing[1]:g} mm (PixelSpacing).")
    thickness = (numbers["SliceThickness"] or _numbers(header.get("SpacingBetweenSlices")) or [0.0])[0]
    slope, intercept = (numbers["RescaleSlope"] or [1.0])[0], (numbers["RescaleIntercept"] or [0.0])[0]
    for tag in ("RescaleSlope", "RescaleIntercept"):
        if _value(header, index, tag) not in (None, "") and not numbers[tag]:
            raise ImageError(f"{path}: its {tag} is not a finite number. Export the scan again from its archive.")
    if problem := scale_problem(slope, intercept):
        raise ImageError(f"{path}: its {problem}, which makes pixels equal. Export the scan again.")
    acquired = {tag: text_of(header, tag) for tag in ACQUIRED if text_of(header, tag)}
    grouped = ("EchoTime", "DiffusionBValue", "TemporalPositionIndex")
    acquired |= {tag: f"{numbers[tag][0]:g}" for tag in grouped if numbers[tag]}
    return Slice(
        path, frame, name, np.array(position), row / np.linalg.norm(row), column / np.linalg.norm(column),
        (spacing[0], spacing[1]), (int(header.Rows), int(header.Columns)), max(thickness, 0.0),
        slope, intercept, kind == "MONOCHROME1", acquired,
    )  # fmt: skip


def _value(header: Any, frame: int, tag: str) -> Any:
    """A value of a frame: from its own groups, else from those of all frames, else from the header of the file."""
    per_frame, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    if per_frame and frame >= len(per_frame):
        raise DefectError(f"it has {len(per_frame)} functional groups, fewer than frames")
    for groups in (per_frame[frame] if per_frame else None, shared[0] if shared else None):
        inner = groups.get(GROUP_OF[tag]) if groups is not None else None
        if inner and inner[0].get(tag) is not None:
            return inner[0].get(tag)
    frames = max(1, whole_number(header, "NumberOfFrames", 1))
    if tag == "ImagePositionPatient" and frames > 1:
        # All frames would have the same position.
        return None
    return header.get(tag)


def _numbers(value: Any) -> list[float]:
    """The numbers of a value; none if one of them is not finite."""
    if value is None or value == "":
        return []
    numbers = [float(number) for number in ([value] if isinstance(value, int | float | str) else value)]
    return numbers if np.isfinite(numbers).all() else []


def _values(slices: Sequence[Slice]) -> np.ndarray:
    """All slices as (columns, rows, slices) `float32`; MONOCHROME1 inverted with one maximum and minimum."""
    pixels = Pixels()
    rows, columns = slices[0].size
    values = np.empty((columns, rows, len(slices)), np.float32, order="F")
    inverted = [i for i, image in enumerate(slices) if image.inverted]
    for i, image in enumerate(slices):
        with np.errstate(over="ignore", invalid="ignore"):
            values[:, :, i] = pixels.of(image).T
    if inverted:
        planes = values[:, :, inverted]
        values[:, :, inverted] = planes.max() + planes.min() - planes
    return values


class Pixels:
    """Decoded files; the last one is cached, so that the frames of a file are decoded once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: np.ndarray = np.empty(0)

    def of(self, image: Slice) -> np.ndarray:
        """The scanner's values of a slice, (rows, columns) `float64`.

        Raises:
            ImageError: the pixels cannot be decoded, or their number differs from that of the header.
        """
        if self._path != image.path:
            self._frames, self._path = decoded(image.path), image.path
        if max(image.frame, 0) >= len(self._frames) or self._frames.shape[1:] != image.size:
            shape = " x ".join(map(str, self._frames.shape))
            stated = f"frames of {image.size[0]} x {image.size[1]}"
            raise ImageError(f"{image.path}: header and pixels disagree: {stated} are stated, and {shape} are there.")
        return self._frames[max(image.frame, 0)].astype(np.float64) * image.slope + image.intercept


def decoded(path: Path) -> np.ndarray:
    """The stored pixels of a file, (frames, rows, columns), before slope and intercept.

    Raises:
        ImageError: they are truncated, damaged, or compressed in a way that no installed package decodes.
    """
    pydicom = pydicom_module()
    with damage_named(path):
        data = pydicom.dcmread(path, force=True)
        if not any(tag in data for tag in PIXEL_DATA):
            raise ImageError(f"{path}: the file ends before its pixels. Copy it again from its source.")
        if "TransferSyntaxUID" not in data.file_meta:
            # A file without a preamble: pydicom detected its encoding, and such files are never compressed.
            uid = pydicom.uid
            implicit = data.original_encoding[0]
            data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        try:
            pixels: np.ndarray = data.pixel_array
        except RuntimeError as error:
            # NotImplementedError: there is no decoder at all. Otherwise the message says whether a decoder is missing.
            if not isinstance(error, NotImplementedError) and "missing" not in str(error):
                raise
            return _decoded_by_simpleitk(path, data, error)
    return pixels if pixels.ndim == 3 else pixels[None]


def _decoded_by_simpleitk(path: Path, data: Any, reason: RuntimeError) -> np.ndarray:
    """Decode with SimpleITK a file for which pydicom has no decoder, mainly lossless JPEG."""
    undecodable = ImageError(
        f"{path}: its pixels are compressed as {data.file_meta.TransferSyntaxUID.name}, which cannot be decoded here. "
        f"Install a decoder (pip install {DECODERS}), or save the series without compression."
    )
    if "PerFrameFunctionalGroupsSequence" in data:
        # SimpleITK applies one slope to all frames.
        raise undecodable from reason
    try:
        import SimpleITK
    except ImportError:
        raise undecodable from reason
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        scaled: np.ndarray = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise undecodable from error
    # SimpleITK has applied slope and intercept, which every slice applies again later.
    slope, intercept = float(text_of(data, "RescaleSlope") or 1), float(text_of(data, "RescaleIntercept") or 0)
    stored = np.rint((scaled.astype(np.float64) - intercept) / (slope or 1.0))
    return stored if stored.ndim == 3 else stored[None]
