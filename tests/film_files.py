"""Films as DICOM files, for tests: any pixels with any tags, compressed as radiology systems do."""

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Values that must never be seen outside of the files.
NAME, NUMBER, BORN = "Plantedname^Zebulon", "PLANTED4711", "19370301"
PEOPLE = ("Plantedname", "Zebulon", NUMBER, BORN)


def film_bytes(pixels: np.ndarray, *, compression: str = "", preamble: bool = True, **tags: Any) -> bytes:
    """A film with these stored pixels, (H, W), (H, W, 3) or with frames first, 8 or 16 bits.

    `compression`: "rle", "jpeg_lossless", "jpeg2000" or "jpeg" (a baseline JPEG as bytes in the tag `jpeg`).
    """
    import pydicom

    jpeg, bits = tags.pop("jpeg", b""), tags.pop("bits", 8 * pixels.itemsize)
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    size = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    stated: dict[str, Any] = {"PatientName": NAME, "PatientID": NUMBER, "PatientBirthDate": BORN}
    stated |= {"SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation, "SOPInstanceUID": "1.2.3.4"}
    stated |= {"Modality": "DX", "Manufacturer": "Acme", "ImageLaterality": "L", "ViewPosition": "PA"}
    stated |= {"PhotometricInterpretation": "RGB" if colour else "MONOCHROME2", "SamplesPerPixel": 3 if colour else 1}
    stated |= {"Rows": size[0], "Columns": size[1], "PixelRepresentation": int(pixels.dtype.kind == "i")}
    stated |= {"BitsAllocated": 8 * pixels.itemsize, "BitsStored": bits, "HighBit": bits - 1}
    stated |= {"PlanarConfiguration": 0} if colour else {}
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, value in (stated | tags).items():
            if value is not None:
                setattr(data, tag, value)
        data.PixelData = pixels.tobytes()
        data["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
        if compression == "rle":
            data.compress(pydicom.uid.RLELossless, pixels)
        elif compression == "jpeg2000":
            pytest.importorskip("openjpeg", reason="the plugin that writes JPEG 2000 is optional")
            data.compress(pydicom.uid.JPEG2000Lossless, pixels)
        elif compression == "jpeg_lossless":
            _encapsulate(data, jpeg_lossless(pixels), pydicom.uid.JPEGLosslessSV1)
        elif compression == "jpeg":
            _encapsulate(data, jpeg, pydicom.uid.JPEGBaseline8Bit)
        stream = io.BytesIO()
        if preamble:
            pydicom.dcmwrite(stream, data, enforce_file_format=True)
            return stream.getvalue()
        del data.file_meta
        pydicom.dcmwrite(stream, data, implicit_vr=True, little_endian=True)
        return stream.getvalue()


def _encapsulate(data: Any, frame: bytes, syntax: str) -> None:
    from pydicom.encaps import encapsulate

    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def jpeg_lossless(pixels: np.ndarray) -> bytes:
    """Pixels as a lossless JPEG (process 14, first-order prediction), encoded by SimpleITK."""
    sitk = pytest.importorskip("SimpleITK", reason="the encoder of lossless JPEG is optional")
    import pydicom
    from pydicom.encaps import get_frame

    with tempfile.TemporaryDirectory() as folder:
        path, writer = Path(folder, "a.dcm"), sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(path))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(pixels))
        data = pydicom.dcmread(path)
    assert data.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    frame: bytes = get_frame(data.PixelData, 0, number_of_frames=1)
    return frame


def write_film(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Write a film as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(film_bytes(pixels, **options))
    return path
