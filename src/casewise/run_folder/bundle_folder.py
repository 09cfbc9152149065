"""The folder of a bundle: its files, and the manifest with the checksum of each."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.errors import RunError, cut
from casewise.files import (
    TEMPORARY,
    checksum,
    json_text,
    make_folder,
    parsed_json,
    read_regular,
    storage_message,
    sync_folder,
    write_atomic,
)
from casewise.run_folder.artefact import JsonFile, Part, TextFile
from casewise.run_folder.job_folder import FINAL, JobFolder

# Increased whenever a bundle of this version cannot be read by earlier ones.
FORMAT = 1
# A bundle contains no other files: no pickle and nothing that can be executed.
ENDINGS = (".json", ".safetensors", ".md")
LARGEST_MANIFEST, LARGEST_FILE, MOST_FILES = 16 * 2**20, 32 * 2**30, 20_000
_NAME = re.compile(r"[A-Za-z0-9_@.+=-][A-Za-z0-9_@.+= -]*")
REMEDY = "Copy the bundle again from where it was made, or write it again with `casewise bundle RUN --output FILE`."


@dataclass(frozen=True)
class BundleFolder:
    """The folder of a bundle."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """The format, and size and SHA-256 of every other file."""
        return self.path / "manifest.json"

    # The study's settings for new cases, the networks, and everything fitted beside them.
    facts = Part(JsonFile, "bundle.json", REMEDY, portable=True)
    # Metrics with their intervals.
    metrics = Part(JsonFile, "metrics.json", REMEDY, portable=True)
    # The verdict of the audit.
    audit = Part(JsonFile, "audit.json", REMEDY, portable=True)
    # The limits by which new cases are flagged; bundles of earlier versions have none.
    input_checks = Part(JsonFile, "input-checks.json", REMEDY, portable=True)
    # Versions, hashes and counts of what the networks were made from.
    provenance = Part(JsonFile, "provenance.json", REMEDY, portable=True)

    @property
    def signature_path(self) -> Path:
        """The signature of the manifest, which does not list it; a bundle need not have one."""
        return self.path / "signature.json"

    # The model card, in Markdown.
    card = Part(TextFile, "MODEL_CARD.md", REMEDY, portable=True)

    def member(self, learner: str, fold: int | None) -> JobFolder:
        """The folder of a network; `fold` from 1, None for one that was trained on all folds."""
        name = FINAL if fold is None else f"fold{fold}"
        return JobFolder(self.path / "members" / re.sub(r"[^A-Za-z0-9_@.+=-]", "_", learner) / name)

    def about(self) -> dict[str, Any]:
        """The content of `facts`.

        Raises:
            RunError: it is missing, cannot be read, or has another format.
        """
        about = self.facts.read()
        check_format(about, str(self.facts.path))
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
        content = {"format": FORMAT, "casewise": version, "made_from": made_from, "files": files}
        write_atomic(self.manifest_path, json_text(content | {"sha256": _hash(content)}))

    def manifest(self) -> dict[str, Any]:
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
        for name, entry in self.manifest()["files"].items():
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


def checked_manifest(data: bytes, where: str) -> dict[str, Any]:
    """A manifest from its bytes, after its own check; every byte counts.

    Raises:
        RunError: it was changed, is of another format, or names a file that a bundle cannot have.
    """
    try:
        content = parsed_json(data.decode())
        check_format(content, f"The manifest of {where}")
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


def check_format(content: Mapping[str, Any], where: str) -> None:
    """Check the format that a file of a bundle states.

    Raises:
        RunError: it states another one than this version reads, or none.
    """
    stated = content.get("format")
    if type(stated) is not int or stated != FORMAT:
        raise RunError(
            f"{where} states the format {cut(stated)}, and this version of casewise reads {FORMAT}. Use the version "
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
    return hashlib.sha256(json_text(dict(content)).encode()).hexdigest()
