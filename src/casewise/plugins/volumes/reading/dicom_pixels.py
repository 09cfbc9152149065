"""The pixels of DICOM files: decoded by pydicom, or by SimpleITK where a compression needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import damage_named, pydicom_module, text_of
from casewise.plugins.volumes.reading.dicom_slices import Slice

DECODERS = "'casewise[dicom]'"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


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
            raise ImageError(
                f"{image.path}: header and pixels disagree: there are {shape} (frames, rows, columns), and the header "
                f"states frames of {image.size[0]} x {image.size[1]}. Copy it again from its source."
            )
        return self._frames[max(image.frame, 0)].astype(np.float64) * image.slope + image.intercept

    def same(self, image: Slice, other: Slice) -> bool:
        """Whether two slices have the same pixels."""
        return image.inverted == other.inverted and np.array_equal(self.of(image), self.of(other))


def decoded(path: Path) -> np.ndarray:
    """The stored pixels of a file, (frames, rows, columns), before slope and intercept.

    Raises:
        ImageError: they are truncated, damaged, or compressed in a way that no installed package decodes.
    """
    pydicom = pydicom_module()
    with damage_named(path):
        data = pydicom.dcmread(path, force=True)
        if not any(tag in data for tag in PIXELS):
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
