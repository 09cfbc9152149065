"""Uploads that are no good images, each with the code of the error that a service gives."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def picture(width: int = 64, height: int = 48, kind: str = "JPEG") -> bytes:
    """A photograph of noise."""
    buffer, values = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, *, pixels: bytes = b"") -> bytes:
    """A PNG that states its size, whatever its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def dicom(*, depth: int = 0, cut: int | None = None) -> bytes:
    """A DICOM file without pixels, with sequences in sequences."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName = "Jane^Doe"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    # (0008,1140), an undefined length, opened again and again and never closed
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return (buffer.getvalue() + nested * depth)[:cut]


def archive() -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "a")
    return buffer.getvalue()


def animation() -> bytes:
    """A PNG of two frames."""
    buffer, frames = io.BytesIO(), [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb(width: int, height: int, size: int) -> bytes:
    """A PNG whose pixels are so many zeros, compressed."""
    return png(width, height, pixels=zlib.compress(bytes(size)))


# name -> (file name, content, status, code)
BAD: dict[str, Callable[[], tuple[str, bytes, int, str]]] = {
    "empty": lambda: ("a.jpg", b"", 422, "empty_file"),
    "text as a photograph": lambda: ("a.jpg", b"not a photograph at all\n", 422, "unreadable"),
    "a drawing with a script": lambda: ("a.svg", b"<svg xmlns='x'><script>1</script></svg>", 422, "unreadable"),
    "a truncated JPEG": lambda: ("a.jpg", picture(256, 256)[:3000], 422, "unreadable"),
    "a truncated PNG": lambda: ("a.png", picture(256, 256, "PNG")[:5000], 422, "unreadable"),
    "a decompression bomb": lambda: ("a.png", bomb(30_000, 30_000, 30_001 * 300), 422, "unreadable"),
    "a bomb within the reader's limit": lambda: ("a.png", bomb(12_000, 12_000, 10), 413, "image_too_large"),
    "100,000 pixels wide": lambda: ("a.png", bomb(100_000, 1, 300_001), 413, "image_too_large"),
    "no pixels": lambda: ("a.png", png(0, 0), 422, "unreadable"),
    "pixels that are missing": lambda: ("a.png", png(64, 64), 422, "unreadable"),
    "an animation": lambda: ("a.png", animation(), 422, "unreadable"),
    "a GIF": lambda: ("a.gif", picture(kind="GIF"), 422, "unreadable"),
    "a zip file": lambda: ("a.jpg", archive(), 422, "unreadable"),
    "a PDF and zip at once": lambda: ("a.pdf", b"%PDF-1.4\n" + archive(), 422, "unreadable"),
    "a compressed file": lambda: ("a.nii.gz", gzip.compress(bytes(10_000)), 422, "unreadable"),
    "a DICOM without pixels": lambda: ("a.dcm", dicom(), 422, "unreadable"),
    "a truncated DICOM": lambda: ("a.dcm", dicom(cut=180), 422, "unreadable"),
    "a deeply nested DICOM": lambda: ("a.dcm", dicom(depth=20_000), 422, "unreadable"),
    "a TIFF that points to itself": lambda: ("a.tiff", b"II*\0\x08\0\0\0" + b"\x00\x00\x08\0\0\0", 422, "unreadable"),
    "a WebP of its head alone": lambda: ("a.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8 ", 422, "unreadable"),
}
