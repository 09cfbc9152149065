"""The pictures that a reader's browser gets of an image file: its pixels and nothing else.

- A photograph is an upright JPEG without any metadata, at most `PHOTO_SIDE` pixels wide or high.
- A grey film has its own depth, as `uint16`, with the window of the file or from the 0.5 to the 99.5 percentile.
- A volume is cut along its coarsest axis, as `uint16`: seen from the feet (axial), from the front (coronal) or from
  the left (sagittal), with the head at the top or in the first slice.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import simplejpeg

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import damage, head_of, is_dicom
from casewise.modalities.store.dicom_pixels import decoded, looked_up, read_tags, scanner_values
from casewise.modalities.store.pixels import upright
from casewise.modalities.store.readers import Source, open_source, read_bytes, read_image

PHOTO_SIDE, FILM_SIDE, QUALITY = 2400, 4096, 92
PERCENTILES = (0.5, 99.5)
# Pixels from which percentiles are computed, about.
SAMPLE = 2_000_000
MOST_VOXELS = 400_000_000
# The coarsest axis of a volume is its slice axis if it is coarser than the next one by this factor.
COARSER = 1.25
NIFTI = (".nii", ".nii.gz")
IMAGE_TYPE = "0008|0008"
# Bytes of the pictures that are kept; the latest is kept in any case.
CACHE_BYTES = 512 * 2**20
# Values by axis, the spacing of each axis, the window, and slope and intercept.
Voxels: TypeAlias = tuple[np.ndarray, tuple[float, float, float], tuple[float, float] | None, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as the browser gets it.

    Attributes:
        data: a JPEG, or (slices, height, width) `uint16`, black being small.
        low, high: black and white at first, in values of `data`.
        slope, intercept: from values of `data` to the file's values.
        spacing: height and width of a pixel, in mm or as a ratio.
    """

    kind: Literal["photo", "grey", "volume"]
    data: bytes | np.ndarray
    shape: tuple[int, int, int]
    low: float = 0.0
    high: float = 255.0
    slope: float = 1.0
    intercept: float = 0.0
    spacing: tuple[float, float] = (1.0, 1.0)

    @property
    def n_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    def as_json(self) -> dict[str, Any]:
        """The facts that the page needs to draw it."""
        slices, height, width = self.shape
        facts = {name: getattr(self, name) for name in ("kind", "low", "high", "slope", "intercept", "spacing")}
        return facts | {"slices": slices, "height": height, "width": width}

    def body(self, index: int) -> tuple[bytes, str]:
        """The bytes of a slice and their media type; values of films and volumes are little-endian.

        Raises:
            IndexError: there is no such slice.
        """
        if not 0 <= index < self.shape[0]:
            raise IndexError(index)
        if isinstance(self.data, bytes):
            return self.data, "image/jpeg"
        return self.data[index].astype("<u2").tobytes(), "application/octet-stream"


@dataclass
class Pictures:
    """Reads image files, one at a time, and keeps the latest pictures within a number of bytes."""

    limit: int = CACHE_BYTES
    _kept: OrderedDict[Path, Picture] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, path: Path) -> Picture:
        """The picture of a file or folder.

        Raises:
            ImageError: it cannot be read; the message names the file and is for the owner of the study only.
        """
        with self._lock:
            picture = self._kept.pop(path, None) or read_picture(path)
            self._kept[path] = picture
            while len(self._kept) > 1 and sum(picture.n_bytes for picture in self._kept.values()) > self.limit:
                self._kept.popitem(last=False)
        return picture


def read_picture(path: Path) -> Picture:
    """Read an image file, or a folder of DICOM slices.

    Raises:
        ImageError: it cannot be read.
    """
    if path.is_dir() or path.name.casefold().endswith(NIFTI):
        return _volume(path)
    if is_dicom(head_of(path)) and (film := _film(path)):
        return film
    source = open_source(path, read_bytes(path))
    if source.mode.startswith("I"):
        return _deep(source)
    pixels = read_image(path, size=PHOTO_SIDE)
    if (pixels == pixels[..., :1]).all():
        return Picture("grey", pixels[None, ..., 0].astype(np.uint16), (1, *pixels.shape[:2]))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="444")
    return Picture("photo", data, (1, *pixels.shape[:2]))


def _deep(source: Source) -> Picture:
    """A film in a PNG or TIFF of more than 8 bits."""
    try:
        source.image.load()
        image = source.image if source.reader.turned else upright(source.image, source.orientation)
        values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise ImageError(f"{source.path}: its pixels are damaged ({error}). Copy it again from its source.") from error
    return _grey("grey", values[None])


def _film(path: Path) -> Picture | None:
    """A grey film of its own depth; a file of several frames as a volume.

    None if it is in colour, or of a kind that only the reader of the training can decode or name the defect of.
    """
    try:
        with open(path, "rb") as file:
            header = read_tags(file, pixels=True)
        kind = header.get("PhotometricInterpretation", "MONOCHROME2")
        if int(header.get("NumberOfFrames") or 1) > 1:
            return _volume(path)
        pixels = decoded(header)
        stored = pixels.stored[0]
        if kind not in ("MONOCHROME1", "MONOCHROME2") or stored.ndim != 2 or stored.dtype.kind not in "iu":
            return None
        slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
        window = _window_of(header.get("WindowCenter"), header.get("WindowWidth"))
        outside = np.zeros(stored.shape, bool) if pixels.padding is None else pixels.padding[0]
        if "ModalityLUTSequence" in header or "VOILUTSequence" in header:
            values, _ = scanner_values(stored, header, _span(stored[~outside]))
            if "VOILUTSequence" in header:
                values, white = looked_up(values, header.VOILUTSequence[0], header, _span(values[~outside]))
                window = (0.0, float(white))
            stored, slope, intercept = np.rint(values).astype(np.int64), 1.0, 0.0
    except ImportError:
        return None
    except damage():
        return None
    scaled = None
    if window is not None:
        low, high = sorted((end - intercept) / slope for end in window)
        scaled = (low, high)
    inverted = (kind == "MONOCHROME1") != (slope < 0)
    return _grey("grey", stored[None], scaled, scale=(slope, intercept), inverted=inverted, outside=outside[None])


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _window_of(centre: Any, width: Any) -> tuple[float, float] | None:
    """Black and white of the first window of a DICOM file, None without a usable one.

    >>> _window_of([40, 300], ["400", "1500"]), _window_of(None, 1)
    ((-160.0, 240.0), None)
    """
    try:
        middle, span = (float(np.ravel(value)[0]) for value in (centre, width))
    except (TypeError, ValueError, IndexError):
        return None
    usable = np.isfinite(middle) and np.isfinite(span) and span > 0
    return (middle - span / 2, middle + span / 2) if usable else None


def _grey(
    kind: Literal["grey", "volume"],
    values: np.ndarray,
    window: tuple[float, float] | None = None,
    *,
    scale: tuple[float, float] = (1.0, 0.0),
    inverted: bool = False,
    outside: np.ndarray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Picture:
    """Values (slices, height, width) of any kind as `uint16`; `window` and `scale` are of these values.

    Integers that span at most 16 bits keep their steps.
    """
    if outside is not None and (outside.all() or not outside.any()):
        outside = None
    inside = values if outside is None else values[~outside]
    least, most = float(inside.min()), float(inside.max())
    step = 1.0 if values.dtype.kind in "iu" and most - least <= 65535 else max(most - least, 1e-30) / 65535
    slope, intercept, top = step * scale[0], least * scale[0] + scale[1], round((most - least) / step)
    codes = np.empty(values.shape, np.uint16)
    for index, plane in enumerate(values):  # a volume is never held twice in floating point
        shifted = np.clip((plane.astype(np.float64) - least) / step + 0.5, 0, top).astype(np.uint16)
        codes[index] = top - shifted if inverted else shifted
    if window is None:
        shown = codes if outside is None else codes[~outside]
        black, white = np.percentile(shown.ravel()[:: max(1, shown.size // SAMPLE)], PERCENTILES).tolist()
    else:
        black, white = ((value - least) / step for value in window)
        black, white = (top - white, top - black) if inverted else (black, white)
    if inverted:
        slope, intercept = -slope, intercept + top * slope
    if outside is not None:
        codes[outside] = 0
    slices, height, width = values.shape
    if (factor := min(-(-max(height, width) // FILM_SIDE), height, width)) > 1:
        height, width = height // factor, width // factor
        whole = codes[:, : height * factor, : width * factor]
        codes = whole.reshape(slices, height, factor, width, factor).mean(axis=(2, 4)).astype(np.uint16)
    return Picture(kind, codes, (slices, height, width), black, max(white, black + 1), slope, intercept, spacing)


def _volume(path: Path) -> Picture:
    """The slices of a scan.

    Raises:
        ImageError: it cannot be read, is no single volume, or is too large.
    """
    try:
        is_nifti = path.name.casefold().endswith(NIFTI)
        values, spacing, window, scale = _nifti(path) if is_nifti else _series(path)
    except ImportError as error:
        raise ImageError(
            f"{path}: scans need an optional part of casewise: pip install 'casewise[volumes]'."
        ) from error
    except damage() as error:
        raise ImageError(f"{path}: the scan is damaged ({type(error).__name__}). Copy it again.") from error
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, posinf=0, neginf=0)
    axis = int(np.argmax(spacing))
    rest = [spacing[other] for other in range(3) if other != axis]
    axis = axis if spacing[axis] > COARSER * max(rest) else 0
    planes = values[::-1] if axis == 0 else np.moveaxis(values, axis, 0)[:, ::-1]
    across = tuple(spacing[other] for other in range(3) if other != axis)
    return _grey("volume", planes, window, scale=scale, inverted=scale[0] < 0, spacing=(across[0], across[1]))


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    text = " x ".join(map(str, shape))
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(f"{path}: it has {text} voxels; a reading shows one volume of three dimensions.")
    if int(np.prod(shape, dtype=object)) > MOST_VOXELS:
        raise ImageError(f"{path}: it has {text} voxels, more than the {MOST_VOXELS:,} that are read.")


def _nifti(path: Path) -> Voxels:
    """Voxels from feet to head, front to back, right to left; their spacing; no window."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        _check_shape(path, shape)
        proxy, orientation = image.dataobj, nibabel.io_orientation(image.affine)
        stored = proxy.get_unscaled().reshape(shape)  # scaled they would have eight bytes a voxel
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, zlib.error) as error:
        raise ImageError(f"{path}: it is damaged, or not a scan. Copy it again from its source.") from error
    if stored.dtype.kind not in "iuf":
        raise ImageError(f"{path}: its voxels are {stored.dtype}, not one number each.")
    values = nibabel.orientations.apply_orientation(stored, orientation)
    sides = dict(zip(orientation[:, 0].astype(int).tolist(), image.header.get_zooms()[:3], strict=True))
    spacing = (float(sides[2]), float(sides[1]), float(sides[0]))
    return values[::-1, ::-1].transpose(2, 1, 0), spacing, None, (float(proxy.slope), float(proxy.inter))


def _slices_of(folder: Path) -> list[str]:
    """The files of the only series in a folder, apart from localisers, in their order.

    Raises:
        ImageError: there is no series, or several, so that the shown series might not be the one the model reads.
    """
    import SimpleITK

    finder, header = SimpleITK.ImageSeriesReader, SimpleITK.ImageFileReader()
    folders = sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())})
    series = [list(finder.GetGDCMSeriesFileNames(str(f), i)) for f in folders for i in finder.GetGDCMSeriesIDs(str(f))]
    if len(series) > 1:
        proper = []
        for names in series:
            header.SetFileName(names[0])
            header.ReadImageInformation()
            kind = header.GetMetaData(IMAGE_TYPE) if header.HasMetaDataKey(IMAGE_TYPE) else ""
            proper += [] if "LOCALIZER" in kind else [names]
        series = proper
    if len(series) != 1:
        raise ImageError(
            f"{folder}: the folder contains {len(series) or 'no'} DICOM series; a reading shows one. Name its folder."
        )
    return series[0]


def _series(path: Path) -> Voxels:
    """The same of a folder with one series of DICOM slices, or of a file of several frames; and its window."""
    import SimpleITK

    names = _slices_of(path) if path.is_dir() else [str(path)]
    header = SimpleITK.ImageFileReader()
    header.SetFileName(names[0])
    header.ReadImageInformation()
    columns, rows, *frames = header.GetSize()
    _check_shape(path, (len(names) if len(names) > 1 else (frames or [1])[0], rows, columns))
    tags = [header.GetMetaData(key) if header.HasMetaDataKey(key) else None for key in ("0028|1050", "0028|1051")]
    window = _window_of(*(tag.split("\\")[0] if tag else None for tag in tags))
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(names if len(names) > 1 else names[0]), "LPS")
    values = SimpleITK.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    if values.ndim != 3:
        raise ImageError(f"{path}: its pixels are colours, not one number each.")
    return values, (z, y, x), window, (1.0, 0.0)
