"""What must hold for the files of a run at any moment, and at its end."""

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError
from casewise.files import TEMPORARY
from casewise.run_folder import BundleFolder

# Files whose bytes must be those of a run that nothing interrupted.
SAME = (
    *("predictions.parquet", "tiles.parquet", "counterfactuals.parquet", "splits.json", "metrics.json"),
    *("stackers.json", "decisions.json", "conformal.json", "input-checks.json", "look.safetensors", "nested.json"),
    *("audit.json", "model.safetensors", "distance.safetensors", "explanations.parquet", "measured.parquet"),
    *("external.parquet", "predictions.csv", "cohort-difference.json"),
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damage(work: Path) -> list[str]:
    """What is wrong with the files of a run that was ended at any moment: nothing may be."""
    problems = [f"{path}: a damaged file was set aside" for path in work.rglob("*.damaged-*")]
    for path in work.rglob("*"):
        if path.name.startswith(TEMPORARY) or any(part.startswith(TEMPORARY) for part in path.parts):
            continue
        if path.suffix == ".json" and path.is_file():
            problems += _of_json(path)
        elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            problems.append(f"{path}: the page is incomplete")
        elif path.suffix == ".zip":
            problems += _of_zip(path)
    return problems


def _of_json(path: Path) -> list[str]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"{path}: no JSON ({error})"]
    if path.name == "checksums.json":
        return _of_checksums(path.parent, value)
    if path.name == "job.json":
        return _wrong(path.parent, value["files"])
    if path.name == "manifest.json":
        try:
            BundleFolder(path.parent).verify()
        except CasewiseError as error:
            return [str(error)]
    if isinstance(value, dict) and "index_sha256" in value:
        slices = {value["slices"]: value["sha256"]} if "slices" in value else {}
        return _wrong(path.parent, {value["index"]: value["index_sha256"]} | slices)
    return []


def _wrong(folder: Path, recorded: dict[str, str]) -> list[str]:
    return [
        f"{folder / name}: missing or not as recorded"
        for name, checksum in recorded.items()
        if not (folder / name).is_file() or sha256(folder / name) != checksum
    ]


def _of_checksums(folder: Path, recorded: dict[str, dict[str, str]]) -> list[str]:
    problems = [
        f"{folder / name}: its checksum is none of those recorded"
        for name, checksums in recorded.items()
        if (folder / name).is_file() and sha256(folder / name) not in checksums
    ]
    present = [path for ending in ("safetensors", "parquet") for path in folder.glob(f"*.{ending}")]
    unrecorded = [path for path in present if path.name not in recorded and not path.name.startswith(TEMPORARY)]
    return problems + [f"{path}: no recorded checksum" for path in unrecorded]


def _of_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        return [f"{path}: {error}"]
    return [f"{path}: {damaged} is damaged"] if damaged else []


def finished_jobs(work: Path) -> dict[str, str]:
    """The checksums of the records of all finished networks, and of their weights and predictions."""
    names = ("job.json", "model.safetensors", "predictions.parquet")
    files = [record.with_name(name) for record in work.glob("run/**/jobs/*/*/job.json") for name in names]
    return {path.relative_to(work).as_posix(): sha256(path) for path in files if path.is_file()}


def lost(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files of finished networks that are no longer there, or were made again."""
    return [f"{name}: a finished network was lost or trained again" for name in before if now.get(name) != before[name]]


def results(work: Path) -> dict[str, Any]:
    """The checksums of all files that must be equal to the bit."""
    names = [path for path in work.rglob("*") if path.name in SAME and "bundle" not in path.parts]
    return {path.relative_to(work).as_posix(): _digest(path) for path in sorted(names)}


def _digest(path: Path) -> str:
    """The SHA-256 of a result; of an audit and of what was made from it without its seconds and paths in the folder."""
    if path.name not in ("audit.json", "metrics.json"):
        return sha256(path)
    value = json.loads(path.read_text(encoding="utf-8"))
    value = {name: entry for name, entry in value.items() if name not in ("seconds", "made_from")}
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def differing(expected: dict[str, str], present: dict[str, str]) -> list[str]:
    """The results that differ from those of the run that nothing interrupted."""
    names = sorted({name for name, _ in expected.items() ^ present.items()})
    return [f"{name}: other bits than without interruption" for name in names]


def leftovers(work: Path) -> list[str]:
    """What a finished run must not leave: temporary files, and states of trainings."""
    names = [path for path in work.rglob("*") if path.name.startswith((TEMPORARY, "state."))]
    return [f"{path.relative_to(work)}: left behind" for path in names]


def epochs_of(file: Path) -> list[str]:
    """The finished epochs, in order: each a line of the file of the job's progress, the stage and the epoch."""
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def epochs_again(before: list[str], now: list[str]) -> Counter[str]:
    """For each job, how many of its epochs were computed again after an interruption."""
    return Counter(epoch.partition("\t")[0] for epoch in now if epoch in before)
