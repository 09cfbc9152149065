"""Reading a scan: a NIfTI file, a folder of DICOM files, one DICOM file, or a stack of slice images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import dicom_files, head_of, is_dicom
from casewise.plugins.volumes.reading.scans import Scan, checked_size, unread


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
        from casewise.plugins.volumes.reading.dicom import read_dicom

        return read_dicom(path, sequence=sequence, voxels=voxels)
    checked_size(path)
    if is_dicom(head_of(path)):
        from casewise.plugins.volumes.reading.dicom import read_dicom

        return read_dicom(path, voxels=voxels)
    from casewise.plugins.volumes.reading.nifti import read_nifti

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
        from casewise.plugins.volumes.reading.dicom import no_dicom_message

        raise ImageError(no_dicom_message(path, others))
    return files


def stack_images(paths: Sequence[Path], spacing: tuple[float, float], *, voxels: bool = True) -> Scan:
    """Stack axial slice images, sorted from feet to head, to one scan in grey; rows run from front to back, columns
    from the patient's right to the left, as radiologists view them.

    `spacing`: mm between pixels, and between slices. Without `voxels` only the sizes are read: all values are 0.

    Raises:
        ImageError: an image cannot be read, or differs in size from the first.
    """
    from casewise.modalities.store.readers import image_facts, read_image

    planes: list[np.ndarray] = []
    for path in paths:
        if voxels:
            plane = read_image(path, channels="grey")[..., 0]
        else:
            facts = image_facts(path)
            plane = np.broadcast_to(np.uint8(0), (facts["height"], facts["width"]))
        if planes and plane.shape != planes[0].shape:
            raise ImageError(
                f"{path}: this slice is {plane.shape[1]}×{plane.shape[0]} pixels, the first ({paths[0].name}) is "
                f"{planes[0].shape[1]}×{planes[0].shape[0]}. Slices of one scan have the same size."
            )
        planes.append(plane)
    if voxels:
        values = np.ascontiguousarray(np.stack(planes, axis=-1).transpose(1, 0, 2).astype(np.float32))
    else:
        values = unread((planes[0].shape[1], planes[0].shape[0], len(planes)))
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values, affine, Path(paths[0]), {"format": "slice images"})
