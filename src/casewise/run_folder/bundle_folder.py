"""A bundle as a folder with a manifest of checksums, and as one zip file, which is read as what a stranger made.

The zip file ends with a checksum of all its bytes. Its signature is Ed25519 over the manifest, which has the checksum
of every other file. Keys are files of OpenSSH, without a passphrase: `ssh-keygen -t ed25519 -N "" -f KEY` writes KEY
and KEY.pub.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from casewise.errors import CasewiseError, RunError, cut
from casewise.files import (
    TEMPORARY,
    checksum,
    json_text,
    make_folder,
    parsed_json,
    read_regular,
    replacing,
    storage_message,
    sync_folder,
    text_hash,
    write_atomic,
)
from casewise.run_folder.artefact import JsonFile, Part, TextFile, WeightsFile
from casewise.run_folder.job_folder import ENCODERS, FINAL, JobFolder

# The formats of bundles that are read; in the second, frozen encoders have files of their own.
FORMATS = (1, 2)
# A bundle contains no other files: no pickle and nothing that can be executed.
ENDINGS = (".json", ".safetensors", ".md")
LARGEST_MANIFEST, LARGEST_FILE, MOST_FILES = 16 * 2**20, 32 * 2**30, 20_000
_NAME = re.compile(r"[A-Za-z0-9_@.+=-][A-Za-z0-9_@.+= -]*")
REMEDY = "Copy the bundle again from where it was made, or write it again with `casewise bundle RUN --output FILE`."


@dataclass(frozen=True)
class BundleFolder:
    """The folder of a bundle."""

    path: Path

    # The format, and size and SHA-256 of every other file.
    manifest_path = Part(Path, "manifest.json")

    # The study's settings for new cases, the networks, and everything else that was fitted.
    facts = Part(JsonFile, "bundle.json", REMEDY, portable=True)
    # Metrics with their intervals.
    metrics = Part(JsonFile, "metrics.json", REMEDY, portable=True)
    # The verdict of the audit.
    audit = Part(JsonFile, "audit.json", REMEDY, portable=True)
    # The limits by which new cases are flagged.
    input_checks = Part(JsonFile, "input-checks.json", REMEDY, portable=True)
    # What the look of new cases is compared with.
    look = Part(WeightsFile, "look.safetensors", REMEDY, portable=True)
    # Versions, hashes and counts of what the networks were made from.
    provenance = Part(JsonFile, "provenance.json", REMEDY, portable=True)

    # The signature of the manifest, which does not list it; a bundle need not have one.
    signature_path = Part(Path, "signature.json")

    # The model card, in Markdown.
    card = Part(TextFile, "MODEL_CARD.md", REMEDY, portable=True)

    def member(self, learner: str, fold: int | None) -> JobFolder:
        """The folder of a network; `fold` from 1, None for one that was trained on all folds."""
        name = FINAL if fold is None else f"fold{fold}"
        return JobFolder(self.path / "members" / re.sub(r"[^A-Za-z0-9_@.+=-]", "_", learner) / name)

    @property
    def format(self) -> int:
        """The earliest format of the files that are there."""
        return FORMATS[(self.path / ENCODERS).is_dir()]

    def about(self) -> Mapping[str, Any]:
        """The content of `facts`.

        Raises:
            RunError: it is missing, cannot be read, or has another format.
        """
        about = self.facts.read()
        _check_format(about, str(self.facts.path))
        return about

    def exists(self) -> bool:
        """Whether the folder has a manifest."""
        return self.manifest_path.is_file()

    def write_manifest(self, version: str, made_from: str) -> None:
        """Record every file of the folder; `made_from` is a hash of the inputs."""
        files = {
            path.relative_to(self.path).as_posix(): {"bytes": path.stat().st_size, "sha256": checksum(path)}
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
        content = {"format": self.format, "casewise": version, "made_from": made_from, "files": files}
        write_atomic(self.manifest_path, json_text(content | {"sha256": _hash(content)}))

    def manifest(self) -> Mapping[str, Any]:
        """The manifest, after its own check.

        Raises:
            RunError: it is missing or changed, or of another format.
        """
        try:
            data = read_regular(self.manifest_path, LARGEST_MANIFEST)
        except OSError as error:
            raise RunError(
                f"{self.path} is not a bundle: {self.manifest_path.name} cannot be read ({error.strerror or error}). "
                f"{REMEDY}"
            ) from error
        return checked_manifest(data, str(self.path))

    def verify(self) -> None:
        """Check every file against the manifest; files that it does not list are never read.

        Raises:
            RunError: naming the first file that is missing or was changed.
        """
        files = self.manifest()["files"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._verify, files, files.values()):
                pass

    def _verify(self, name: str, entry: Mapping[str, Any]) -> None:
        path = self.path / name
        try:
            if not path.is_file() or path.is_symlink():
                raise RunError(f"{self.path} is incomplete: {name} is missing. {REMEDY}")
            intact = path.stat().st_size == entry["bytes"] and checksum(path) == entry["sha256"]
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or error}.") from error
        if not intact:
            raise RunError(f"{path} was changed or damaged after it was written. {REMEDY}")

    def is_made_from(self, made_from: str) -> bool:
        """Whether the folder has an intact bundle of these inputs."""
        try:
            if self.manifest()["made_from"] != made_from:
                return False
            self.verify()
        except RunError:
            return False
        return True

    @contextmanager
    def replacing(self) -> Iterator[BundleFolder]:
        """Yield an empty bundle folder that takes this one's place when the block ends.

        Raises:
            RunError: the folder cannot be written.
        """
        remove_leftovers(self.path)
        temporary = self.path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{self.path.name}")
        try:
            make_folder(temporary)
            yield BundleFolder(temporary)
            shutil.rmtree(self.path, ignore_errors=True)  # killed here, the next run makes it again
            os.replace(temporary, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise RunError(storage_message(error, self.path)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove folders that a killed process left when it wrote the bundle at `path`."""
    for folder in path.parent.glob(f"{TEMPORARY}*-{path.name}*"):
        shutil.rmtree(folder, ignore_errors=True)


def checked_manifest(data: bytes, where: str) -> Mapping[str, Any]:
    """A manifest from its bytes, after its own check; every byte counts.

    Raises:
        RunError: it was changed, is of another format, or names a file that a bundle cannot have.
    """
    try:
        content = parsed_json(data.decode())
        _check_format(content, f"The manifest of {where}")
        recorded = content.pop("sha256")
        files: Mapping[str, Mapping[str, Any]] = content["files"]
        intact = _hash(content) == recorded and json_text(content | {"sha256": recorded}).encode() == data
        intact = intact and all(type(e["bytes"]) is int and isinstance(e["sha256"], str) for e in files.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise RunError(f"The manifest of {where} was changed or damaged after it was written. {REMEDY}")
    if wrong := next((name for name in files if not is_safe(name)), None):
        raise RunError(f"{where} names a file that no bundle has: {cut(wrong)}. Do not use it.")
    if len(files) > MOST_FILES or any(not 0 <= entry["bytes"] <= LARGEST_FILE for entry in files.values()):
        raise RunError(f"{where} has more or larger files than any bundle. Do not use it.")
    return dict(content)


def _check_format(content: Mapping[str, Any], where: str) -> None:
    """Check the format that a file of a bundle states.

    Raises:
        RunError: it states another one than this version reads, or none.
    """
    stated = content.get("format")
    if type(stated) is not int or stated not in FORMATS:
        raise RunError(
            f"{where} states the format {cut(stated)}, and this version of casewise reads {FORMATS}. Use the version "
            f"that wrote it ({cut(content.get('casewise', 'not stated'), 20)}), or write the bundle again."
        )


def is_safe(name: str) -> bool:
    """Whether a bundle may have a file of this name: a relative path of plain names with a known ending.

    >>> is_safe("members/resnet18/fold1/model.json"), is_safe("../x.json"), is_safe("/x.json"), is_safe("a.pkl")
    (True, False, False, False)
    """
    names = name.split("/")
    plain = all(_NAME.fullmatch(text) and text.strip(".") and not text.endswith((".", " ")) for text in names)
    return plain and len(names) <= 5 and len(name) <= 300 and name.endswith(ENDINGS)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot do so."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        shutil.copyfile(source, target)


def _hash(content: Mapping[str, Any]) -> str:
    return text_hash(json_text(dict(content)))


# The comment at the end of the archive: this text, and the SHA-256 of all bytes before it.
MARK = b"casewise bundle "
_DATE = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20
# Largest compression ratio of a bundle's text; a larger ratio means a decompression bomb.
_RATIO, _SLACK = 200, 2**20


def write_archive(bundle: BundleFolder, path: Path, key: Path | None = None) -> Path:
    """Write a verified bundle as a zip file, in one step, signed if there is a key; equal bundles give equal bytes.

    Raises:
        RunError: a file of the bundle is missing or changed, or `path` cannot be written.
        CasewiseError: the file of the key holds no private key.
    """
    bundle.verify()
    signature = _signature_of(bundle, key) if key else ""
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


def stated_facts(path: Path) -> Mapping[str, Any]:
    """The facts that a bundle, a folder or a zip file, states about itself, not verified; {} if it cannot be read.

    It has the names of `learners`, of the learner of each of the `members`, and of the targets of the `settings`.
    """
    facts = BundleFolder(path).facts
    try:
        if is_archive(path):
            with zipfile.ZipFile(path) as archive, archive.open(facts.path.name) as file:
                content = parsed_json(file.read(LARGEST_MANIFEST).decode())
        else:
            content = facts.peek()
        names = [*content["learners"], *(member["learner"] for member in content["members"])]
        names += content["settings"]["targets"]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError, OSError, TypeError):
        return {}
    return content if all(isinstance(name, str) for name in names) else {}


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
    kind, large = stat.S_IFMT(entry.external_attr >> 16), _RATIO * entry.compress_size + _SLACK
    problems = {
        "has a name that no bundle has": not is_safe(entry.filename),
        "is a link or another special file": kind not in (0, stat.S_IFREG),
        "is encrypted": entry.flag_bits & 0x1,
        "is compressed in an unknown way": entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        "would grow more than two hundred times when unpacked": entry.file_size > large,
    }
    if wrong := next((text for text, holds in problems.items() if holds), None):
        raise RunError(f"{path}: {cut(entry.filename)} {wrong}. Do not use this file.")


def _digest(file: IO[bytes]) -> str:
    """The SHA-256 of all bytes but the last 64."""
    digest, left = hashlib.sha256(), file.seek(0, os.SEEK_END) - 64
    file.seek(0)
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


LARGEST_SIGNATURE = 2**14
# Signed before the manifest, so that no signature of another kind of text is one of a bundle.
_PURPOSE = b"casewise bundle\n"


def _signature_of(bundle: BundleFolder, key: Path) -> str:
    """The content of `signature.json` for a bundle, by a private key.

    Raises:
        CasewiseError: the file holds no private key that can be used, or `cryptography` is not installed.
    """
    private = _key(key, "--sign", "private")
    return json_text({"ed25519": private.sign(_PURPOSE + bundle.manifest_path.read_bytes()).hex()})


def check_signature(bundle: BundleFolder, where: Path, key: Path) -> None:
    """Check that a verified bundle was signed with the private key that belongs to a public one, and has no other file.

    Raises:
        RunError: it has no signature, or one of another key or content, or a file that its manifest does not list.
        CasewiseError: the file holds no public key, or `cryptography` is not installed.
    """
    public = public_key(key)
    try:
        text = read_regular(bundle.signature_path, LARGEST_SIGNATURE)
    except OSError as error:
        raise RunError(
            f"{where} is not signed: its {bundle.signature_path.name} cannot be read ({error.strerror or error}). Ask "
            "for a bundle that was written with `casewise bundle --sign`, or leave out --trust."
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        signature = bytes.fromhex(parsed_json(text)["ed25519"])
        public.verify(signature, _PURPOSE + read_regular(bundle.manifest_path, LARGEST_MANIFEST))
    except (InvalidSignature, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{where}: {bundle.signature_path.name} is not the signature of this bundle by the key {key}. Do not use "
            "the bundle, or give the public key of those who signed it."
        ) from error
    own = {*bundle.manifest()["files"], bundle.manifest_path.name, bundle.signature_path.name}
    files = (path for path in bundle.path.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(bundle.path).as_posix() for path in files)
    if extra := next((name for name in names if name not in own), None):
        raise RunError(f"{where} has a file that its signed manifest does not list: {cut(extra)}. Do not use it.")


def public_key(path: Path) -> Any:
    """The key of --trust; errors as in `_key`."""
    return _key(path, "--trust", "public")


def _key(path: Path, option: str, side: str) -> Any:
    """The private or public key of a file.

    Raises:
        CasewiseError: the file holds no such key, or `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import ssh
    except ImportError as error:
        raise CasewiseError(f"{option} needs an optional part of casewise: `pip install 'casewise[sign]'`.") from error
    try:
        data = read_regular(path, LARGEST_SIGNATURE)
        key = ssh.load_ssh_private_key(data, None) if side == "private" else ssh.load_ssh_public_key(data)
    except OSError as error:
        raise CasewiseError(f"{option}: {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey if side == "private" else ed25519.Ed25519PublicKey):
        raise CasewiseError(
            f"{option}: {path} is not a {side} key of the kind ed25519{' without a passphrase' * (side == 'private')}. "
            "`ssh-keygen -t ed25519 -N '' -f KEY` writes the private one as KEY and the public one as KEY.pub."
        )
    return key
