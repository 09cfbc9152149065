"""Reading NIfTI: nibabel understands the header; voxels are read piece by piece, never more than it promises."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from casewise.errors import CasewiseError, ImageError
from casewise.modalities.store.content import name_content
from casewise.modalities.volumes.reading.scans import VOXEL_BYTES, Scan, checked_affine, checked_values, unread
from casewise.modalities.volumes.reading.sources import HEAD, checked_size

if TYPE_CHECKING:
    from types import ModuleType

GZIP = b"\x1f\x8b"
# A deflate stream cannot grow by more than this.
MOST_GROWTH = 1032
# What some writers append to fill a block; more means that header and data are of different scans.
MARGIN = 4096
# Comments and the like between header and voxels.
MOST_BEFORE = 64 * 2**20
PIECE = 2**21
TO_MM = {"meter": 1000.0, "micron": 0.001}
# Two affines of one file that differ by more than this, in mm at a corner, are told.
APART = 0.5


@dataclass(frozen=True)
class _Plan:
    """What a header promises: where the voxels begin, how many of which kind, and how numbers are made of them."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    start: int
    slope: float
    intercept: float

    @property
    def count(self) -> int:
        """Voxels."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def bytes(self) -> int:
        """Bytes of the voxels as stored."""
        return self.count * self.dtype.itemsize


def read_nifti(path: Path, *, voxels: bool = True) -> Scan:
    """Read a .nii or .nii.gz file, told by its content; without `voxels` its header alone, all values being 0.

    Raises:
        ImageError: it is missing, no NIfTI, damaged, cut short, larger than it says, not of one volume, without a place
            in the patient, or has voxels that are no numbers.
        CasewiseError: the package that reads scans is not installed.
    """
    path = Path(path)
    nibabel = _nibabel()
    size = checked_size(path)
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: Any = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
        try:
            header = _header(path, stream, nibabel)
            plan = _plan(path, header, nibabel)
            affine, notes = _affine(path, header, nibabel)
            _check_room(path, plan, size, packed)
            values = _values(path, stream, plan) if voxels else unread(plan.shape)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = "cut short" if isinstance(error, EOFError) else f"damaged ({error})"
            raise ImageError(f"{path}: the gzip file is {what}. Copy it again from its source.") from error
        except OSError as error:
            raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
    facts, odd = checked_values(values, path) if voxels else ({}, [])
    return Scan(values, affine, path, _facts(header) | facts, (*notes, *odd))


def _nibabel() -> ModuleType:
    """Import the optional package."""
    try:
        import nibabel
    except ImportError as error:
        raise CasewiseError(
            f"NIfTI files need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from error
    module: ModuleType = nibabel
    return module


def _header(path: Path, stream: IO[bytes], nibabel: ModuleType) -> Any:
    """The header, of whichever version and byte order."""
    head = stream.read(HEAD)
    for kind, length, magic in ((nibabel.Nifti1Header, 348, b"n+1\0"), (nibabel.Nifti2Header, 540, b"n+2\0")):
        if length not in (struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4]) if len(head) >= 4 else ()):
            continue
        if len(head) < length:
            raise ImageError(f"{path}: it is cut short within its header. Copy it again from its source.")
        header = kind(head[:length], endianness="<" if struct.unpack("<i", head[:4])[0] == length else ">", check=False)
        if bytes(header["magic"].tobytes()[:4]).startswith(magic[:3]):
            return header
        raise ImageError(
            f"{path}: it has a header as of ANALYZE, or one whose voxels are in another file (.hdr and .img), where "
            "left and right are not certain. Save the scan as one .nii or .nii.gz file."
        )
    packed = " inside gzip" if isinstance(stream, gzip.GzipFile) else ""
    raise ImageError(
        f"{path}: this is {name_content(head)}{packed}, not a scan that can be read (.nii, .nii.gz, or DICOM files)."
    )


def _plan(path: Path, header: Any, nibabel: ModuleType) -> _Plan:
    """What the header promises, checked before anything is read or allocated."""
    dim = [int(side) for side in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise ImageError(f"{path}: its header claims {dim[0]} dimensions; a scan has 3. Copy it again from its source.")
    shape = dim[1 : dim[0] + 1]
    told = " x ".join(str(side) for side in shape)
    if min(shape) < 1:
        raise ImageError(
            f"{path}: its header claims {told} voxels; each side must be at least 1. Copy it again from its source."
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 3:
        raise ImageError(
            f"{path}: it holds {len(shape)} dimensions, {told}: {int(np.prod(shape[3:], dtype=object)):,} volumes "
            "(times, echoes or directions), and one row is one volume. Save the one to use as a file of its own."
        )
    if len(shape) < 2:
        raise ImageError(f"{path}: it holds one dimension of {told} voxels, which is no image.")
    x, y, z = [*shape, 1][:3]
    try:
        dtype = header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise ImageError(f"{path}: the kind of its voxels is unknown (code {int(header['datatype'])}).") from error
    if dtype.kind not in "iuf":
        raise ImageError(
            f"{path}: its voxels are {'colours' if dtype.fields else dtype}, not one number each. Save them as "
            "numbers, for example 16-bit integers."
        )
    if x * y * z * max(dtype.itemsize, 4) > VOXEL_BYTES:
        raise ImageError(
            f"{path}: its header claims {told} = {x * y * z:,} voxels, more than {VOXEL_BYTES / 1e9:g} GB. It is "
            "damaged or made to exhaust the memory; if it is genuine, save it smaller."
        )
    start = float(header["vox_offset"])
    if not header.sizeof_hdr <= start <= MOST_BEFORE or start != int(start):
        raise ImageError(f"{path}: its header says that the voxels begin at byte {start:g}, which cannot be.")
    slope, intercept = _scaling(path, header)
    return _Plan((x, y, z), dtype, int(start), slope, intercept)


def _scaling(path: Path, header: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means by definition that there is none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise ImageError(f"{path}: its voxels are to be scaled by {slope:g} and {intercept:g}, which are no numbers.")
    return slope, intercept


def _affine(path: Path, header: Any, nibabel: ModuleType) -> tuple[np.ndarray, list[str]]:
    """From voxels to mm: the sform, else the qform."""
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
    chosen = qform if sform is None else sform
    if chosen is None:
        # A guess would be right for most files and mirror the patient in the others, which nobody would ever see.
        raise ImageError(
            f"{path}: it does not say how it lies in the patient (its sform and qform codes are 0), so left and right, "
            f"and the place of the other sequences, are unknown. {remedy}"
        )
    factor = _unit(header)
    scaled = np.diag([factor, factor, factor, 1.0]) @ chosen
    affine, notes = checked_affine(scaled, path)
    if factor != 1.0:
        notes.append(f"its header counts in {'metres' if factor > 1 else 'microns'}; they were made millimetres")
    if sform is not None and qform is not None and np.isfinite(qform).all():
        corner = np.append(np.array(header["dim"][1:4], float) - 1, 1.0)
        apart = max(float(np.abs((sform - qform) @ place).max()) for place in (corner, [0.0, 0.0, 0.0, 1.0])) * factor
        if apart > APART:
            notes.append(f"its sform and qform place voxels up to {apart:.3g} mm apart; the sform counts")
    return affine, notes


def _unit(header: Any) -> float:
    """Millimetres in the header's unit of length; an unknown unit counts as millimetres."""
    try:
        return TO_MM.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:
        return 1.0


def _check_room(path: Path, plan: _Plan, size: int, packed: bool) -> None:
    """Refuse what cannot hold its promise before memory is taken for it."""
    promised = plan.start + plan.bytes
    told = f"its header promises {' x '.join(map(str, plan.shape))} voxels of {plan.dtype.itemsize} bytes"
    if packed and promised > (size + 1) * MOST_GROWTH:
        raise ImageError(f"{path}: {told}, but {size:,} bytes of gzip cannot hold them. Copy it again from its source.")
    if not packed and size < promised:
        raise ImageError(
            f"{path}: {told}, {promised:,} bytes with the header, but the file has {size:,}. It is cut short, or its "
            "header belongs to another scan. Copy it again from its source."
        )
    if not packed and size > promised + MARGIN:
        raise ImageError(_too_much(path, plan, f"the file has {size - promised:,} bytes more"))


def _too_much(path: Path, plan: _Plan, more: str) -> str:
    told = " x ".join(map(str, plan.shape))
    return (
        f"{path}: its header promises {told} voxels, but {more}: header and data disagree. Convert the scan again from "
        "its source."
    )


def _values(path: Path, stream: IO[bytes], plan: _Plan) -> np.ndarray:
    """Read the voxels as (X, Y, Z) `float32`; of a gzip stream never more than promised and a margin."""
    stream.seek(plan.start)
    values = np.empty(plan.count, np.float32)
    done = 0
    while done < plan.count:
        wanted = min(PIECE, plan.count - done)
        data = stream.read(wanted * plan.dtype.itemsize)
        if len(data) < wanted * plan.dtype.itemsize:
            raise ImageError(
                f"{path}: its header promises {' x '.join(map(str, plan.shape))} voxels, but only "
                f"{done + len(data) // plan.dtype.itemsize:,} of {plan.count:,} are there. It is cut short, or its "
                "header belongs to another scan. Copy it again from its source."
            )
        piece = np.frombuffer(data, plan.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if (plan.slope, plan.intercept) != (1.0, 0.0):
                values[done : done + wanted] = piece.astype(np.float64) * plan.slope + plan.intercept
            else:
                values[done : done + wanted] = piece
        done += wanted
    # Reading on to the end also compares the checksum.
    if len(stream.read(MARGIN + 1)) > MARGIN:
        raise ImageError(_too_much(path, plan, "more follows"))
    return values.reshape(plan.shape, order="F")


def _facts(header: Any) -> dict[str, str | float]:
    """What the header says besides."""
    said = bytes(header["descrip"].tobytes()).split(b"\0")[0].decode("latin-1").strip()
    version = "NIfTI-2" if header.sizeof_hdr == 540 else "NIfTI-1"
    facts: dict[str, str | float] = {"format": version, "dtype": str(header.get_data_dtype().newbyteorder("="))}
    placed = "sform" if int(header["sform_code"]) > 0 else "qform"
    return facts | {"placed_by": placed} | ({"description": said} if said.isprintable() and said else {})
