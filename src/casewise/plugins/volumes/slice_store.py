"""The slices of a cohort's volumes: every case is prepared once and all are memory-mapped as one array.

A folder has one file for each case in `cases/`, named by a hash of its sources and the steps, and `slices.json`, which
names the joined array `slices-….npy` (N, S, H, W) `uint16` by its content. It is replaced in one step, and last.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from casewise.errors import CasewiseError, RunError, counted
from casewise.files import checksum, parsed_json, replacing, storage_message, text_hash, write_atomic, write_json
from casewise.modalities.store.file_check import ARRAY_DAMAGE, raise_if_memory
from casewise.modalities.store.workers import Work, spread
from casewise.plugins.volumes.case_files import CaseSources, doubled_in, empty_in, gather, not_prepared
from casewise.plugins.volumes.preprocess import DECILES, Prepared, Steps, prepare_case
from casewise.plugins.volumes.standardise import SubjectScans, subject_scans

log = logging.getLogger("casewise")

MARKER = "slices.json"
HISTOGRAM = ("ranges", "quantiles", "voxels")
OF_SUBJECTS = tuple(field.name for field in fields(SubjectScans))
HIGHEST = 32767
# With fewer cases to be prepared, by their bias correction, other machines would take longer to begin than this one.
FEWEST = {"n4": 8, "none": 200}
# In the fitted preprocessing of a network: intensities are standardised by all slices of a subject.
BY_SUBJECT = "subject"


@dataclass(frozen=True, eq=False)
class SliceStore:
    """Prepared slices of all cases, in the cases' order.

    Attributes:
        slices: (N, S, H, W) `uint16`, 0 to 32767, read-only; one row for each slice position.
        first, count: (P,) first row and number of rows of each case.
        present: (P, S) `bool`.
        landmarks: (P, S, L) `float32`, NaN where absent.
        affines: (P, 4, 4), from (row, column, slice) to RAS mm.
        notes: of each case.
        address: a hash of the slices, in the cases' order.
        subjects: where every slice is a case, the landmarks of all slices of each subject.
    """

    slices: np.ndarray
    first: np.ndarray
    count: np.ndarray
    present: np.ndarray
    landmarks: np.ndarray
    affines: np.ndarray
    notes: list[list[str]]
    address: str
    folder: Path
    subjects: SubjectScans | None = None

    def scale_of(self, cases: np.ndarray, fitted: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """The landmarks of these cases (P, S, L), and their spans if landmarks are of subjects (see `tables`).

        Raises:
            CasewiseError: the network has landmarks of subjects, and these slices were prepared without them.
        """
        if fitted.get("landmarks") != BY_SUBJECT:
            return self.landmarks[cases], None
        if self.subjects is None:
            raise CasewiseError(
                "The network was trained with every slice as a case, its intensities standardised by all slices of its "
                "subject, and in this cohort a slice is not a case. State `columns: {visit: …}` with the column of "
                "the slices' positions, the same as `volumes.slice_index`: for an external cohort under `external:`, "
                'for a prediction as `columns={"visit": …}`, or nothing there.'
            )
        return self.subjects.landmarks[cases], self.subjects.spans[cases]


def prepare_slices(
    cases: Sequence[CaseSources],
    steps: Steps,
    folder: Path,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SliceStore:
    """Prepare the slices of `cases` in `folder`, continue, or open finished ones.

    A case whose sources have the same size and time as before is not read again. Cases are prepared in parallel
    processes. `progress(done, total)` is called from this thread.

    Raises:
        ImageError: cases cannot be prepared; the message names all of them, and the others are kept.
        RunError: the folder cannot be written.
    """
    from joblib import cpu_count

    case_folder = Path(folder) / "cases"
    try:
        case_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: slices cannot be stored here: {error.strerror or error}.") from error
    names = [_name(case, steps) for case in cases]
    missing = [number for number, name in enumerate(names) if not _is_prepared(name, case_folder)]
    if len(missing) >= FEWEST[steps.bias]:
        files = [path for number in missing for paths in cases[number].paths for path in paths[:1]]
        work = Work(
            partial(_prepare_part, steps, case_folder.absolute()),
            [[cases[number]] for number in missing],
            folder,
            files,
        )
        if spread(work, len(cases) - len(missing), progress):
            missing = [number for number in missing if not _is_prepared(names[number], case_folder)]
    problems: dict[int, list[str]] = {}
    results = _on_all_cores(cases, missing, steps, case_folder, processes or cpu_count())
    for done, (number, name, problem) in enumerate(results, len(cases) - len(missing) + 1):
        names[number] = name
        if problem:
            problems[number] = problem
        if progress:
            progress(done, len(cases))
    if problems:
        more = "" if len(problems) == len(cases) else " The others are kept for the next run."
        named = {cases[number].case: problems[number] for number in sorted(problems)}
        raise not_prepared(named, len(cases), more)
    return _joined(folder, [case_folder / name for name in names], [case.subject for case in cases])


def open_slices(folder: Path, address: str | None = None) -> SliceStore:
    """Open the finished slices of `folder`.

    Raises:
        RunError: there are none, they are damaged, or their address is not `address`.
    """
    try:
        marker = parsed_json((Path(folder) / MARKER).read_text())
        slices = np.load(Path(folder) / marker["slices"], mmap_mode="r", allow_pickle=False)
        with np.load(Path(folder) / marker["index"], allow_pickle=False) as index:
            arrays = {name: index[name] for name in ("first", "count", "present", "landmarks", "affines")}
            of_subjects = [index[f"subject_{name}"] for name in OF_SUBJECTS if f"subject_{name}" in index]
        stated = {name: marker[name] for name in ("notes", "address")}
    except ARRAY_DAMAGE as error:
        raise_if_memory(error)
        raise RunError(f"{folder}: there are no finished slices here ({error}). Prepare the volumes first.") from error
    if address and stated["address"] != address:
        raise RunError(f"The slices in {folder} were replaced during this run. Run again.")
    if slices.dtype != np.uint16 or slices.ndim == 0 or len(slices) != int(arrays["count"].sum()):
        raise RunError(f"{folder}: the slices are damaged. Delete {Path(folder) / MARKER} and run again.")
    return SliceStore(
        slices, **arrays, **stated, folder=Path(folder), subjects=SubjectScans(*of_subjects) if of_subjects else None
    )


def altered_slices(store: SliceStore, cases: Sequence[int], alteration: str) -> SliceStore:
    """The slices of some cases, numbered from 0, after an alteration of `casewise.modalities.alterations`, in memory.

    Slices are altered with 256 grey values; `UNALTERED` leaves all values as they are.
    """
    from casewise.modalities.alterations import UNALTERED, altered

    rows = [np.arange(store.first[case], store.first[case] + store.count[case]) for case in cases]
    slices = np.array(store.slices[np.concatenate(rows)])
    if alteration != UNALTERED:
        grey = np.round(slices.astype(np.float32) * (255 / HIGHEST)).astype(np.uint8)
        for number, sequence in np.ndindex(slices.shape[:2]):
            values = altered(grey[number, sequence][..., None], alteration)[..., 0]
            slices[number, sequence] = np.round(values.astype(np.float32) * (HIGHEST / 255)).astype(np.uint16)
    count = store.count[list(cases)]
    return replace(
        store,
        slices=slices,
        first=np.concatenate([[0], count[:-1].cumsum()]).astype(np.int64),
        count=count,
        **{name: getattr(store, name)[list(cases)] for name in ("present", "landmarks", "affines")},
        notes=[store.notes[case] for case in cases],
        subjects=store.subjects and store.subjects.of(np.asarray(cases)),
    )


def _name(case: CaseSources, steps: Steps) -> str:
    """The name of a case's file: a hash of the steps and of paths, sizes and times of its sources; empty if one is
    missing.
    """
    from casewise.plugins.volumes.reading.files import files_of

    digest = hashlib.sha256(steps.fingerprint().encode())
    digest.update(json.dumps([case.sequences, case.spacing]).encode())
    digest.update(json.dumps(case.mask_labels).encode() if case.mask_labels else b"")
    try:
        for paths in (*case.paths, (case.mask,) if case.mask else ()):
            digest.update(b"|")
            for path in paths:
                for file in files_of(path) if case.spacing is None or path == case.mask else [path]:
                    status = os.stat(file)
                    digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    except (OSError, CasewiseError):
        return ""
    return f"{digest.hexdigest()[:32]}.npz"


def _is_prepared(name: str, folder: Path) -> bool:
    return bool(name) and (folder / name).is_file()


def _on_all_cores(
    cases: Sequence[CaseSources], numbers: Iterable[int], steps: Steps, folder: Path, workers: int
) -> Iterator[tuple[int, str, list[str]]]:
    """Prepare cases in parallel processes; when the system ends one of them, half as many continue."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    waiting = set(numbers)
    while waiting:
        results = Parallel(n_jobs=min(workers, len(waiting)), return_as="generator_unordered", batch_size=1)(
            delayed(_prepare_file)(number, cases[number], steps, folder) for number in sorted(waiting)
        )
        try:
            for result in results:
                waiting.discard(result[0])
                yield result
        except TerminatedWorkerError:
            workers = max(1, min(workers, len(waiting)) // 2)
            log.warning(
                "A process that prepares scans was ended by the system, most often because memory ran out. "
                "%s without a result yet: prepared by %s.",
                *(counted(len(waiting), "case"), counted(workers, "process", "processes")),
            )


def _prepare_part(steps: Steps, folder: Path, cases: Sequence[CaseSources]) -> None:
    """Write the files of some cases on another machine; one with problems has no file."""
    for case in cases:
        _prepare_file(0, case, steps, folder)


def _prepare_file(number: int, case: CaseSources, steps: Steps, folder: Path) -> tuple[int, str, list[str]]:
    """Prepare a case and write its file; return its number, the name of the file, and problems instead of raising
    them.
    """
    if _is_prepared(name := _name(case, steps), folder):  # by a process that ended before it could tell
        return number, name, []
    loaded = gather(case)
    if loaded.problems:
        return number, "", loaded.problems
    try:
        prepared = prepare_case(loaded.scans, steps, mask=loaded.mask)
        if problems := [*empty_in(case, loaded.scans, prepared), *doubled_in(case, prepared)]:
            return number, "", problems
        notes = dict.fromkeys([*loaded.notes, *prepared.notes])
        name = _name(case, steps)
        write_atomic(folder / name, _packed(replace(prepared, notes=tuple(notes))))
        return number, name, []
    except CasewiseError as error:
        return number, "", [str(error)]
    except (RuntimeError, MemoryError) as error:  # raised by SimpleITK
        return number, "", [f"could not be prepared: {str(error).strip().splitlines()[-1] if str(error) else error!r}"]


@contextmanager
def _case_file(file: Path) -> Iterator[Any]:
    """The arrays of a case's file; a damaged one is removed, so that the next run prepares the case again.

    Raises:
        RunError: naming the file.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except ARRAY_DAMAGE as error:
        if isinstance(error, OSError):  # the disk or the permissions, and not the content
            raise
        file.unlink(missing_ok=True)
        raise RunError(f"{file} was damaged ({error}) and is removed. Run again to prepare its case.") from error


def _packed(prepared: Prepared) -> bytes:
    packed = io.BytesIO()
    notes = np.frombuffer(json.dumps(prepared.notes).encode(), dtype=np.uint8)
    np.savez(packed, **{**vars(prepared), "notes": notes})
    return packed.getvalue()


def _joined(folder: Path, files: Sequence[Path], subjects: Sequence[str]) -> SliceStore:
    """Join the cases' files into one array and its index, or open an array that is current.

    `subjects`: of the cases, whose slices are standardised together; or empty texts.
    """
    listed = "\n".join(f"{file.name} {subject}".strip() for file, subject in zip(files, subjects, strict=True))
    made_from = text_hash(listed)
    marker = Path(folder) / MARKER
    if marker.is_file():
        try:
            record = parsed_json(marker.read_text())
            if record.get("made_from") == made_from:
                store = open_slices(folder)
                sums = {record["slices"]: record["sha256"], record["index"]: record["index_sha256"]}
                changed = [name for name, stated in sums.items() if stated != checksum(Path(folder) / name)]
                if not changed:
                    return store
                names = " and ".join(changed)
                log.warning("%s: %s has changed since it was written. The slices are joined again.", folder, names)
        except (RunError, ValueError, AttributeError, KeyError):
            marker.unlink(missing_ok=True)
    content = hashlib.sha256()
    cases_read = []
    notes: list[list[str]] = []
    for file in files:
        with _case_file(file) as arrays:
            kept = ("present", "landmarks", "affine", *(HISTOGRAM if any(subjects) else ()))
            cases_read.append({name: arrays[name] for name in kept})
            for name in ("slices", "present", "landmarks"):
                content.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
                content.update(np.ascontiguousarray(arrays[name]).tobytes())
            cases_read[-1]["shape"] = np.array(arrays["slices"].shape)
            notes.append(parsed_json(arrays["notes"].tobytes()))
    # The address depends on contents only: touched or moved sources give the same slices, and networks stay valid.
    address = content.hexdigest()
    counts = np.array([arrays["shape"][0] for arrays in cases_read])
    shape = (int(counts.sum()), *(int(n) for n in cases_read[0]["shape"][1:]))
    target = Path(folder) / f"slices-{address[:16]}.npy"
    try:
        # Not through a mapped file: a full disk would end the process without a word.
        with replacing(target) as temporary, temporary.open("wb") as written:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint16)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(written, header | {"shape": shape})
            for file in files:
                with _case_file(file) as arrays:
                    written.write(np.ascontiguousarray(arrays["slices"], dtype=np.uint16).data)
    except OSError as error:
        raise RunError(storage_message(error, target)) from error
    of_subjects: dict[str, Any] = {}
    if any(subjects):
        ranges, quantiles, voxels = (np.stack([arrays[name] for arrays in cases_read]) for name in HISTOGRAM)
        scans = subject_scans(list(subjects), ranges, quantiles, voxels, DECILES)
        of_subjects = {f"subject_{name}": getattr(scans, name) for name in OF_SUBJECTS}
    index = io.BytesIO()
    np.savez(
        index,
        **of_subjects,
        first=np.concatenate([[0], counts[:-1].cumsum()]).astype(np.int64),
        count=counts.astype(np.int64),
        present=np.stack([arrays["present"] for arrays in cases_read]),
        landmarks=np.stack([arrays["landmarks"] for arrays in cases_read]),
        affines=np.stack([arrays["affine"] for arrays in cases_read]),
    )
    index_file = write_atomic(target.with_name(f"index-{address[:16]}.npz"), index.getvalue())
    write_json(
        marker,
        {
            "address": address,
            "made_from": made_from,
            "slices": target.name,
            "index": index_file.name,
            "sha256": checksum(target),
            "index_sha256": checksum(index_file),
            "notes": notes,
        },
    )
    current = {target, index_file, *files}
    for pattern in ("slices-*.npy", "index-*.npz", "cases/*.npz"):
        for old in set(Path(folder).glob(pattern)) - current:
            old.unlink(missing_ok=True)
    return open_slices(folder, address)
