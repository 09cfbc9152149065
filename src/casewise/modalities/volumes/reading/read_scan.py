"""Reading a scan, whatever it is kept as: the one way in for the rest of casewise."""

from __future__ import annotations

from pathlib import Path

from casewise.errors import ImageError
from casewise.modalities.volumes.reading.scans import Scan, check_same_subject
from casewise.modalities.volumes.reading.sources import (
    DICOM_SUFFIXES,
    NIFTI,
    checked_size,
    dicom_files,
    head_of,
    is_dicom,
)

__all__ = ["Scan", "check_same_subject", "files_of", "looks_like_volume", "read_scan"]


def read_scan(path: Path, *, sequence: str | None = None, voxels: bool = True) -> Scan:
    """Read a .nii or .nii.gz file, a folder of DICOM files, or one DICOM file (a slice, or many frames).

    `sequence`: the name of the sequence in the table; it decides where a folder holds several series. Without `voxels`
    headers alone are read: all values are 0.

    Raises:
        ImageError: it cannot be read as one volume; the message names the file, what was found, and what to do.
        CasewiseError: the packages that read scans are not installed.
    """
    path = Path(path)
    if path.is_dir():
        from casewise.modalities.volumes.reading.dicom import read_dicom

        return read_dicom(path, sequence=sequence, voxels=voxels)
    checked_size(path)
    if is_dicom(head_of(path)):
        from casewise.modalities.volumes.reading.dicom import read_dicom

        return read_dicom(path, voxels=voxels)
    from casewise.modalities.volumes.reading.nifti import read_nifti

    return read_nifti(path, voxels=voxels)


def files_of(path: Path) -> list[Path]:
    """The files that decide what `read_scan` gives, in a fixed order: the file, or all DICOM files of the folder.

    Raises:
        ImageError: there is nothing, or a folder without DICOM.
    """
    path = Path(path)
    if not path.is_dir():
        checked_size(path)
        return [path]
    files, others = dicom_files(path)
    if not files:
        from casewise.modalities.volumes.reading.dicom import nothing_told

        raise ImageError(nothing_told(path, others))
    return files


def looks_like_volume(path: Path) -> bool:
    """Whether a row that names this names a scan and no image: by its name, else by its first bytes; all folders do.

    >>> looks_like_volume(Path("missing/t1.NII.gz")), looks_like_volume(Path("missing/a.png"))
    (True, False)
    """
    path = Path(path)
    if NIFTI.search(path.name) or path.suffix.lower() in DICOM_SUFFIXES or path.is_dir():
        return True
    if not path.is_file():
        return False
    try:
        head = head_of(path)
    except ImageError:
        # Reading it says what is wrong.
        return False
    return head[128:132] == b"DICM"
