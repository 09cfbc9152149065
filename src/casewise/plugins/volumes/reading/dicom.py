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
    damage_named,
    dicom_files,
    text_of,
    whole_number,
)
from casewise.plugins.volumes.reading.dicom_planes import (
    check_one_scan,
    finite_numbers,
    frame_value,
    plane,
    plane_values,
    pydicom_module,
)
from casewise.plugins.volumes.reading.dicom_series import ACQUIRED, Series, choose, find_series
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
UNIT_VECTOR = 1e-2
# The numbers of a frame that place it, with their count.
_PLACED = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
# Those in which frames of one place can differ.
_GROUPED = ("EchoTime", "DiffusionBValue", "TemporalPositionIndex")


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
    check_one_scan(slices, where)
    ordered, affine, stack_notes = stacked(slices, where)
    affine, affine_notes = checked_affine(affine, path)
    if voxels:
        values, scale_notes = plane_values(ordered)
        value_notes = [*scale_notes, *checked_values(values, path)]
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
            if "MOSAIC" in text_of(header, "ImageType"):
                raise ImageError(f"{path}: it is a mosaic of all slices in one picture. Convert it to NIfTI.")
            name = str(path.relative_to(where)) if path != where else path.name
            slices += [_slice(path, name, header, -1 if frames == 1 else frame) for frame in range(frames)]
    return slices


def _slice(path: Path, name: str, header: Any, frame: int) -> Slice:
    """One slice, from the header of the file or from the functional groups of its frame."""
    index = max(frame, 0)
    image = plane(path, header, frame, name if frame < 0 else f"frame {frame + 1} of {name}")
    tags = (*_PLACED, "SliceThickness", *_GROUPED)
    numbers = {tag: finite_numbers(frame_value(header, index, tag)) for tag in tags}
    for tag, count in _PLACED.items():
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
    thickness = (numbers["SliceThickness"] or finite_numbers(header.get("SpacingBetweenSlices")) or [0.0])[0]
    acquired = {tag: text_of(header, tag) for tag in ACQUIRED if text_of(header, tag)}
    acquired |= {tag: f"{numbers[tag][0]:g}" for tag in _GROUPED if numbers[tag]}
    return Slice(
        **vars(image), position=np.array(position), along_row=row / np.linalg.norm(row),
        along_column=column / np.linalg.norm(column), spacing=(spacing[0], spacing[1]),
        thickness=max(thickness, 0.0), acquired=acquired,
    )  # fmt: skip
