"""DICOM objects for the tests of the node, and partners that send and receive them."""

from __future__ import annotations

import io
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import UID, ExplicitVRLittleEndian  # noqa: E402

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"


def image(study: str = "1.2.1", number: int = 1, **tags: Any) -> Dataset:
    """A film of 8 × 8 pixels of a study; a tag that is None is left out."""
    dataset = Dataset()
    series, instance = f"{study}.1", f"{study}.1.{number}"
    stated = {"SOPClassUID": DX, "SOPInstanceUID": instance, "StudyInstanceUID": study, "SeriesInstanceUID": series}
    stated |= {"PatientName": "Secret^Name", "PatientID": "secret-4711", "Modality": "DX", "Rows": 8, "Columns": 8}
    stated |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 12}
    stated |= {"HighBit": 11, "PixelRepresentation": 0, "PixelData": np.full(64, number, np.uint16).tobytes()}
    for name, value in (stated | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def file_bytes(dataset: Dataset, syntax: str = ExplicitVRLittleEndian, **meta: Any) -> bytes:
    """A file of a data set, as a station writes it."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    for name, value in meta.items():
        setattr(dataset.file_meta, name, value)
    stream = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(stream, enforce_file_format=True, overwrite=True)
    return stream.getvalue()


def file_of(dataset: Dataset, syntax: str = ExplicitVRLittleEndian, **meta: Any) -> io.BytesIO:
    """A file of a data set that is open."""
    return io.BytesIO(file_bytes(dataset, syntax, **meta))


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def certificate(folder: Path, name: str, issuer: str = "") -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key; signed by that of `issuer` in the folder, or by itself."""
    key, pem = folder / f"{name}.key", folder / f"{name}.pem"
    extensions = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(pem), "-days", "2", "-subj", f"/CN={name}", *extensions]
    if issuer:
        constraint = "basicConstraints=CA:FALSE"
        command += [
            "-CA",
            str(folder / f"{issuer}.pem"),
            "-CAkey",
            str(folder / f"{issuer}.key"),
            "-addext",
            constraint,
        ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the program openssl 3 is not installed")
    return pem, key


def client_context(ca: Path, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """For a client that trusts `ca`."""
    context = ssl.create_default_context(cafile=str(ca))
    if own:
        context.load_cert_chain(*own)
    return context
