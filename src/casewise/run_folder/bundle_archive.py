"""A bundle as one zip file: written with a checksum of all its bytes, and read as what a stranger may have made."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO

from casewise.errors import RunError, cut
from casewise.files import replacing
from casewise.run_folder.bundle_folder import (
    LARGEST_MANIFEST,
    MOST_FILES,
    REMEDY,
    BundleFolder,
    checked_manifest,
    is_safe,
)
from casewise.run_folder.bundle_signature import LARGEST as LARGEST_SIGNATURE
from casewise.run_folder.bundle_signature import signature_of

# The comment at the end of the archive: this text, and the SHA-256 of all bytes before it.
MARK = b"casewise bundle "
_DATE = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20
# Text of a bundle is compressed at most so much; a larger ratio is that of a decompression bomb.
_RATIO, _SLACK = 200, 2**20


def write_archive(bundle: BundleFolder, path: Path, key: Path | None = None) -> Path:
    """Write a verified bundle as a zip file, in one step, signed if there is a key; equal bundles give equal bytes.

    Raises:
        RunError: a file of the bundle is missing or changed, or `path` cannot be written.
        CasewiseError: the file of the key holds no private key.
    """
    bundle.verify()
    signature = signature_of(bundle, key) if key else ""
    names = [bundle.manifest_path.name, *sorted(bundle.manifest()["files"])]
    with replacing(path, unlocked_folder=True) as temporary:
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                text = not name.endswith(".safetensors")
                entry.compress_type = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
                entry.file_size = (bundle.path / name).stat().st_size
                with (bundle.path / name).open("rb") as source, archive.open(entry, "w") as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
            if signature:
                archive.writestr(zipfile.ZipInfo(bundle.signature_path.name, _DATE), signature)
            archive.comment = MARK + b"0" * 64
        with temporary.open("r+b") as file:
            digest = _digest(file)
            file.seek(-64, os.SEEK_END)
            file.write(digest.encode())
    return path


def is_archive(path: Path) -> bool:
    """Whether the path is a file that begins like a zip file."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def extract(path: Path, folder: Path) -> BundleFolder:
    """Unpack a zip file that `write_archive` wrote into an empty folder; return the verified bundle.

    Nothing is written outside the folder, and no more bytes than the manifest states.

    Raises:
        RunError: the file was changed, is incomplete, of a later format, or not a bundle; the message says which.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < len(MARK) + 64:
                raise RunError(f"{path} is not a bundle. {REMEDY}")
            file.seek(-64 - len(MARK), os.SEEK_END)
            mark, recorded = file.read(len(MARK)), file.read(64)
            if mark != MARK:
                raise RunError(
                    f"{path} is not a bundle as `casewise bundle` writes it, or it was cut or changed. If somebody "
                    f"packed it again, unpack it and give the folder. {REMEDY}"
                )
            if _digest(file).encode() != recorded:
                raise RunError(f"{path} was changed or damaged after it was written. {REMEDY}")
            with zipfile.ZipFile(file) as archive:
                return _extracted(archive, path, BundleFolder(folder))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise RunError(f"{path} cannot be read as a zip file ({error}). {REMEDY}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be unpacked: {error.strerror or error}.") from error


def _extracted(archive: zipfile.ZipFile, path: Path, bundle: BundleFolder) -> BundleFolder:
    entries = archive.infolist()
    if len(entries) > MOST_FILES + 2:
        raise RunError(f"{path} has {len(entries):,} files, more than any bundle. Do not use it.")
    for entry in entries:
        _check_entry(entry, path)
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) < len(entries):
        raise RunError(f"{path} has a file twice. Do not use it.")
    manifest_entry = by_name.pop(bundle.manifest_path.name, None)
    if manifest_entry is None or manifest_entry.file_size > LARGEST_MANIFEST:
        raise RunError(f"{path} is not a bundle: it has no {bundle.manifest_path.name}. {REMEDY}")
    with archive.open(manifest_entry) as source:
        data = source.read(LARGEST_MANIFEST + 1)
    signature_entry = by_name.pop(bundle.signature_path.name, None)
    listed = checked_manifest(data, str(path))["files"]
    if missing := next((name for name in listed if name not in by_name), None):
        raise RunError(f"{path} is incomplete: {missing} is missing. {REMEDY}")
    if extra := next((name for name in by_name if name not in listed), None):
        raise RunError(f"{path} has a file that its manifest does not list: {cut(extra)}. Do not use it.")
    if wrong := next((name for name, entry in by_name.items() if entry.file_size != listed[name]["bytes"]), None):
        raise RunError(f"{path}: {wrong} has another size than the manifest states. {REMEDY}")
    bundle.path.mkdir(parents=True, exist_ok=True)
    bundle.manifest_path.write_bytes(data)
    if signature_entry:
        with archive.open(signature_entry) as source:
            bundle.signature_path.write_bytes(source.read(LARGEST_SIGNATURE))
    for name, entry in by_name.items():
        target = bundle.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        left = listed[name]["bytes"]
        with archive.open(entry) as source, target.open("xb") as file:
            while left > 0 and (chunk := source.read(min(_CHUNK, left))):
                file.write(chunk)
                left -= len(chunk)
    bundle.verify()
    return bundle


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what no bundle has: other names, links, folders, encryption, and bombs."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    wrong = ""
    if not is_safe(entry.filename):
        wrong = "has a name that no bundle has"
    elif kind not in (0, stat.S_IFREG):
        wrong = "is a link or another special file"
    elif entry.flag_bits & 0x1:
        wrong = "is encrypted"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        wrong = "is compressed in an unknown way"
    elif entry.file_size > _RATIO * entry.compress_size + _SLACK:
        wrong = "would grow more than two hundred times when unpacked"
    if wrong:
        raise RunError(f"{path}: {cut(entry.filename)} {wrong}. Do not use this file.")


def _digest(file: IO[bytes]) -> str:
    """The SHA-256 of all bytes but the last 64."""
    digest, left = hashlib.sha256(), file.seek(0, os.SEEK_END) - 64
    file.seek(0)
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()
