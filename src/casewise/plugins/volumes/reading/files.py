"""Reading a scan from whatever file or folder holds it."""

from __future__ import annotations

from pathlib import Path

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import dicom_files, head_of, is_dicom
from casewise.plugins.volumes.reading.dicom import no_dicom_message, read_dicom
from casewise.plugins.volumes.reading.nifti import read_nifti
from casewise.plugins.volumes.reading.scans import Scan, checked_size


def read_scan(path: Path, *, sequence: str | None = None, voxels: bool = True) -> Scan:
    """Read a .nii or .nii.gz file, a folder of DICOM files, or one DICOM file (a slice, or many frames).

    `sequence`: the name of the sequence in the table; it selects one of several series in a folder. Without `voxels`
    only headers are read: all values are 0.

    Raises:
        ImageError: it cannot be read as one volume; the message names the file, the problem and a remedy.
        CasewiseError: the packages that read scans are not installed.
    """
    path = Path(path)
    if path.is_dir():
        return read_dicom(path, sequence=sequence, voxels=voxels)
    checked_size(path)
    if is_dicom(head_of(path)):
        return read_dicom(path, voxels=voxels)
    return read_nifti(path, voxels=voxels)


def files_of(path: Path) -> list[Path]:
    """The files that determine the result of `read_scan`, in a fixed order: the file, or all DICOM files of the folder.

    Raises:
        ImageError: the file does not exist, or the folder contains no DICOM file.
    """
    path = Path(path)
    if not path.is_dir():
        checked_size(path)
        return [path]
    files, others = dicom_files(path)
    if not files:
        raise ImageError(no_dicom_message(path, others))
    return files
