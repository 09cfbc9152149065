"""The pixels of DICOM files: decoded by pydicom, or by SimpleITK where a compression needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.volumes.reading.dicom_series import damage_named, pydicom_module, text_of
from casewise.modalities.volumes.reading.dicom_slices import Slice

DECODERS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Pixels:
    """Decoded files, the last one kept, so that the frames of a file are decoded once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: np.ndarray = np.empty(0)

    def of(self, one: Slice) -> np.ndarray:
        """The scanner's numbers of a slice, (rows, columns) `float64`.

        Raises:
            ImageError: the file's pixels cannot be decoded, or are not as many as its header says.
        """
        if self._path != one.path:
            self._frames, self._path = decoded(one.path), one.path
        if max(one.frame, 0) >= len(self._frames) or self._frames.shape[1:] != one.size:
            found = " x ".join(map(str, self._frames.shape))
            raise ImageError(
                f"{one.path}: header and pixels disagree: there are {found} (frames, rows, columns), and the header "
                f"speaks of frames of {one.size[0]} x {one.size[1]}. Copy it again from its source."
            )
        return self._frames[max(one.frame, 0)].astype(np.float64) * one.slope + one.intercept

    def same(self, one: Slice, other: Slice) -> bool:
        """Whether two slices show the same."""
        return one.inverted == other.inverted and np.array_equal(self.of(one), self.of(other))


def decoded(path: Path) -> np.ndarray:
    """The stored pixels of a file, (frames, rows, columns), before slope and intercept.

    Raises:
        ImageError: they are cut short, damaged, or of a compression that nothing here decodes.
    """
    pydicom = pydicom_module()
    with damage_named(path):
        data = pydicom.dcmread(path, force=True)
        if not any(tag in data for tag in PIXELS):
            raise ImageError(f"{path}: the file ends before its pixels. Copy it again from its source.")
        if "TransferSyntaxUID" not in data.file_meta:
            # A bare file: how it is written was found out while reading, and such files are never compressed.
            uid = pydicom.uid
            implicit = data.original_encoding[0]
            data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        try:
            pixels: np.ndarray = data.pixel_array
        except RuntimeError as error:
            # NotImplementedError: there is no decoder at all; otherwise the message tells a missing one from damage.
            if not isinstance(error, NotImplementedError) and "missing" not in str(error):
                raise
            return _decoded_otherwise(path, data, error)
    return pixels if pixels.ndim == 3 else pixels[None]


def _decoded_otherwise(path: Path, data: Any, reason: RuntimeError) -> np.ndarray:
    """What SimpleITK makes of a file that pydicom has no decoder for: lossless JPEG above all."""
    trouble = ImageError(
        f"{path}: its pixels are compressed as {data.file_meta.TransferSyntaxUID.name}, which cannot be decoded here. "
        f"Install a decoder (pip install {DECODERS}), or save the series without compression."
    )
    if "PerFrameFunctionalGroupsSequence" in data:
        # It applies a slope of its own choosing to all frames alike.
        raise trouble from reason
    try:
        import SimpleITK
    except ImportError:
        raise trouble from reason
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        scaled: np.ndarray = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise trouble from error
    # Slope and intercept are already in it; every slice applies its own later.
    slope, intercept = float(text_of(data, "RescaleSlope") or 1), float(text_of(data, "RescaleIntercept") or 0)
    stored = np.rint((scaled.astype(np.float64) - intercept) / (slope or 1.0))
    return stored if stored.ndim == 3 else stored[None]
