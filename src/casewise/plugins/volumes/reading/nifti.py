"""Reading NIfTI: nibabel interprets the header; a guard compares its promise with the file before voxels are read."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from casewise.errors import CasewiseError, ImageError
from casewise.modalities.store.dicom_file import HEAD
from casewise.modalities.store.file_check import name_content
from casewise.plugins.volumes.reading.scans import (
    VOXEL_BYTES,
    Scan,
    checked_affine,
    checked_size,
    checked_values,
    unread,
)

GZIP = b"\x1f\x8b"
# The largest possible expansion of a deflate stream.
MAX_EXPANSION = 1032
# Some writers pad the file by this much; more means that header and data belong to different scans.
MARGIN = 4096
# Header extensions may lie between header and voxels.
MAX_OFFSET = 64 * 2**20
PIECE = 2**21
TO_MM = {"meter": 1000.0, "micron": 0.001}
# sform and qform that differ by more than this, in mm at a corner, are noted.
MAX_FORM_DIFFERENCE = 0.5
COPY_AGAIN = "Copy it again from its source."


@dataclass(frozen=True)
class _Layout:
    """The voxels as the header describes them: where they begin, their number, type and scale."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    start: int
    slope: float
    intercept: float

    @property
    def count(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def end(self) -> int:
        """Bytes of header and voxels, uncompressed."""
        return self.start + self.count * self.dtype.itemsize

    @property
    def promise(self) -> str:
        """What the header promises, for messages."""
        return f"its header promises {' x '.join(map(str, self.shape))} voxels"


def read_nifti(path: Path, *, voxels: bool = True) -> Scan:
    """Read a .nii or .nii.gz file, recognised by its content; without `voxels` only its header, all values being 0.

    Raises:
        ImageError: it is missing, no NIfTI, damaged, truncated, larger than it states, not a single volume, without a
            position in the patient, or has voxels that are not numbers.
        CasewiseError: the package that reads scans is not installed.
    """
    path = Path(path)
    nibabel = nibabel_module()
    size = checked_size(path)
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: Any = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
        try:
            header = _header(path, stream, nibabel)
            layout = _layout(path, header, nibabel)
            affine, notes = _affine(path, header, nibabel)
            _check_size(path, layout, size, packed)
            values = _values(path, stream, layout) if voxels else unread(layout.shape)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problem = "cut short" if isinstance(error, EOFError) else f"damaged ({error})"
            raise ImageError(f"{path}: the gzip file is {problem}. {COPY_AGAIN}") from error
        except OSError as error:
            raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
    value_notes = checked_values(values, path) if voxels else []
    return Scan(values, affine, path, {}, (*notes, *value_notes))


def nibabel_module() -> ModuleType:
    """Import the optional package.

    Raises:
        CasewiseError: it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise CasewiseError(
            f"Scans need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from error
    module: ModuleType = nibabel
    return module


def _header(path: Path, stream: IO[bytes], nibabel: ModuleType) -> Any:
    """The header, of either version and byte order."""
    head = stream.read(HEAD)
    for order in "<>" if len(head) >= 4 else "":
        (length,) = struct.unpack(f"{order}i", head[:4])
        kind, magic = {348: (nibabel.Nifti1Header, b"n+1"), 540: (nibabel.Nifti2Header, b"n+2")}.get(
            length, (None, b"")
        )
        if kind is None:
            continue
        if len(head) < length:
            raise ImageError(f"{path}: it is cut short within its header. {COPY_AGAIN}")
        header = kind(head[:length], endianness=order, check=False)
        if header["magic"].tobytes().startswith(magic):
            return header
        problem = "it is ANALYZE, or its voxels are in another file (.hdr and .img): left and right are not certain"
        raise ImageError(f"{path}: {problem}. Save the scan as one .nii or .nii.gz file.")
    packed = " inside gzip" if isinstance(stream, gzip.GzipFile) else ""
    raise ImageError(
        f"{path}: this is {name_content(head)}{packed}, not a scan that can be read (.nii, .nii.gz, or DICOM files)."
    )


def _layout(path: Path, header: Any, nibabel: ModuleType) -> _Layout:
    """What the header promises, checked before voxels are read or memory is allocated."""
    dimensions, *sides = (int(side) for side in header["dim"])
    if not 1 <= dimensions <= 7:
        raise ImageError(f"{path}: its header claims {dimensions} dimensions; a scan has 3. {COPY_AGAIN}")
    shape = sides[:dimensions]
    text = " x ".join(map(str, shape))
    if min(shape) < 1:
        raise ImageError(f"{path}: its header claims {text} voxels; each side must be at least 1. {COPY_AGAIN}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 3:
        volumes = f"{int(np.prod(shape[3:], dtype=object)):,} volumes (times, echoes or directions)"
        raise ImageError(f"{path}: it holds {len(shape)} dimensions, {text}: {volumes}. Save one in a separate file.")
    if len(shape) < 2:
        raise ImageError(f"{path}: it holds one dimension of {text} voxels, which is not an image.")
    x, y, z = [*shape, 1][:3]
    try:
        dtype = header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise ImageError(f"{path}: the kind of its voxels is unknown (code {int(header['datatype'])}).") from error
    if dtype.kind not in "iuf":
        kind = "colours" if dtype.fields else dtype
        raise ImageError(f"{path}: its voxels are {kind}, not one number each. Save them as 16-bit integers.")
    if x * y * z * max(dtype.itemsize, 4) > VOXEL_BYTES:
        claim = f"{text} = {x * y * z:,} voxels, more than {VOXEL_BYTES / 1e9:g} GB"
        raise ImageError(f"{path}: its header claims {claim}. It is damaged or made to exhaust the memory.")
    start = float(header["vox_offset"])
    if not header.sizeof_hdr <= start <= MAX_OFFSET or start != int(start):
        raise ImageError(f"{path}: its header states that the voxels begin at byte {start:g}, which cannot be.")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        # By definition the voxels are not scaled.
        slope, intercept = 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise ImageError(f"{path}: its voxels are to be scaled by {slope:g} and {intercept:g}, which are not numbers.")
    return _Layout((x, y, z), dtype, int(start), slope, intercept)


def _affine(path: Path, header: Any, nibabel: ModuleType) -> tuple[np.ndarray, list[str]]:
    """From voxels to mm, by the sform or else the qform."""
    remedy = (
        "Convert it again from its DICOM files; if you know how it lies, write that into the file with nibabel "
        "(`image.set_sform(affine, 'scanner')`)."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
        except (nibabel.spatialimages.HeaderDataError, ValueError, ArithmeticError) as error:
            raise ImageError(f"{path}: its affine is damaged ({error}). {remedy}") from error
    form = qform if sform is None else sform
    if form is None:
        # A guess would be right for most files and mirror the patient in the others, unnoticed.
        problem = "it does not state its position in the patient (its sform and qform codes are 0)"
        raise ImageError(f"{path}: {problem}, so left and right are unknown. {remedy}")
    try:
        factor = TO_MM.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:
        factor = 1.0
    affine, notes = checked_affine(np.diag([factor, factor, factor, 1.0]) @ form, path)
    if factor != 1.0:
        notes.append(f"its header is in {'metres' if factor > 1 else 'microns'}, converted to millimetres")
    if sform is not None and qform is not None and np.isfinite(qform).all():
        corners = np.array([[0.0, 0.0, 0.0, 1.0], [*(np.array(header["dim"][1:4], float) - 1), 1.0]])
        difference = float(np.abs((sform - qform) @ corners.T).max()) * factor
        if difference > MAX_FORM_DIFFERENCE:
            notes.append(f"its sform and qform place voxels up to {difference:.3g} mm apart; the sform is used")
    return affine, notes


def _check_size(path: Path, layout: _Layout, size: int, packed: bool) -> None:
    """Refuse a file that cannot hold what its header promises, before memory is allocated."""
    promise = f"{layout.promise} of {layout.dtype.itemsize} bytes"
    if packed and layout.end > (size + 1) * MAX_EXPANSION:
        raise ImageError(f"{path}: {promise}, but {size:,} bytes of gzip cannot hold them. {COPY_AGAIN}")
    if not packed and size < layout.end:
        problem = f"{promise}, {layout.end:,} bytes with the header, but the file has {size:,}"
        raise ImageError(f"{path}: {problem}. It is cut short, or its header is of another scan. {COPY_AGAIN}")
    if not packed and size > layout.end + MARGIN:
        raise _surplus(path, layout, f"the file has {size - layout.end:,} bytes more")


def _surplus(path: Path, layout: _Layout, surplus: str) -> ImageError:
    return ImageError(
        f"{path}: {layout.promise}, but {surplus}: header and data disagree. Convert the scan again from its source."
    )


def _values(path: Path, stream: IO[bytes], layout: _Layout) -> np.ndarray:
    """Read the voxels as (X, Y, Z) `float32`, in pieces; never more of a gzip stream than promised and a margin."""
    stream.seek(layout.start)
    values = np.empty(layout.count, np.float32)
    for start in range(0, layout.count, PIECE):
        stop = min(start + PIECE, layout.count)
        data = stream.read((stop - start) * layout.dtype.itemsize)
        available = start + len(data) // layout.dtype.itemsize
        if available < stop:
            problem = f"{layout.promise}, but only {available:,} of {layout.count:,} are there"
            raise ImageError(f"{path}: {problem}. It is cut short, or its header is of another scan. {COPY_AGAIN}")
        piece = np.frombuffer(data, layout.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if (layout.slope, layout.intercept) != (1.0, 0.0):
                values[start:stop] = piece.astype(np.float64) * layout.slope + layout.intercept
            else:
                values[start:stop] = piece
    # Reading to the end also verifies the checksum.
    if len(stream.read(MARGIN + 1)) > MARGIN:
        raise _surplus(path, layout, "more follows")
    return values.reshape(layout.shape, order="F")
