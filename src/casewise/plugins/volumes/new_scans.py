"""The table of new cases from folders of scans and single scans: NIfTI files and folders of DICOM series."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.dates import natural
from casewise.cohort.folder_layout import DICOM_SUFFIXES, find_region, read_paths, refuse_visits
from casewise.errors import CasewiseError, counted
from casewise.plugins.volumes.settings import volumes_of

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.folder_layout import Pattern
    from casewise.study.schema import Study

log = logging.getLogger("casewise")
NIFTI = (".nii", ".nii.gz")


def new_scans(study: Study, paths: Sequence[Path], pattern: Pattern | None = None) -> pd.DataFrame:
    """One row for each scan in `subject/visit/`, `subject/`, alone, or by a pattern; its name contains its sequence.

    A study of one sequence needs no sequence in the names. A scan alone is a subject of its own, named by its file.

    Raises:
        CasewiseError: the study needs columns that only a table has; there is no scan; a folder is deeper.
    """
    import pandas as pd

    volumes = volumes_of(study)
    if needed := volumes.slice_index or (volumes.mask if volumes.roi == "mask" else ""):
        raise CasewiseError(f"cases: scans of this study need a table, which states the column {needed!r} for each.")
    rows = [row for path in paths for row in _rows_of(path, study, pattern)]
    headings = [str(study.columns.get(role) or role) for role in ("path", "subject", "visit")]
    table = pd.DataFrame(rows, columns=[*headings, volumes.column])
    return table if table[headings[2]].any() else table.drop(columns=headings[2])


def _rows_of(path: Path, study: Study, pattern: Pattern | None) -> list[tuple[str, str, str, str]]:
    """The scans of one file or folder: path, subject, visit and sequence."""
    sequences = list(volumes_of(study).sequences)
    if not path.is_dir():
        return [(str(path), path.name, "", _sequence(path.name, sequences))]
    files, others = _files(path)
    if not files:
        raise CasewiseError(f"cases: {path} contains no scans: neither NIfTI files nor folders of DICOM files.")
    if others:
        count = counted(len(others), "file is", "files are")
        log.warning("%s: %s no scan by name and left out, such as %s.", path, count, others[0].relative_to(path))
    if pattern:
        stated = read_paths(pattern, [file.relative_to(path).as_posix() for file in files], path)
        return [
            (str(file), own["subject"], own.get("visit", ""), _sequence(own.get("sequence", file.name), sequences))
            for file, own in zip(files, stated, strict=True)
        ]
    scans = []
    for file in files:
        *folders, name = file.relative_to(path).parts or (path.name,)
        if len(folders) > 2:
            example = f"{len(folders)} folders deep, such as {file.relative_to(path)}"
            raise CasewiseError(
                f"cases: {path} contains scans {example}. Allowed are subject/visit/scan and subject/scan."
            )
        subject, visit = (*folders, "", "")[:2]
        subject = subject or (path.name if len(sequences) > 1 else name)
        scans.append((str(file), subject, visit, _sequence(name, sequences)))
    if study.columns.get("visit") != "":
        tops = [file.relative_to(path).parts[0] for file in files if len(file.relative_to(path).parts) > 1]
        refuse_visits(path, tops)
    return scans


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The scans below a folder, which is one itself if it contains DICOM files; and the other files."""
    scans: list[Path] = []
    others: list[Path] = []
    for parent, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        visible = sorted(name for name in names if not name.startswith("."))
        nifti = [name for name in visible if name.casefold().endswith(NIFTI)]
        dicom = [name for name in visible if name.casefold().endswith(DICOM_SUFFIXES) or _is_dicom(Path(parent, name))]
        scans += [Path(parent, name) for name in nifti]
        if dicom:
            scans.append(Path(parent))
        others += [Path(parent, name) for name in visible if name not in nifti and name not in dicom]
    return sorted(scans, key=lambda path: natural(path.as_posix())), others


def _is_dicom(path: Path) -> bool:
    """Whether a file without a suffix is a DICOM file by its content."""
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _sequence(name: str, sequences: list[str]) -> str:
    """The sequence that a name contains; of T1 and T1c the longer one; the only one of a study; '' if it is not clear.

    >>> _sequence("P01_T1c.nii.gz", ["T1", "T1c"]), _sequence("P01_flair.nii", ["T1", "T2"])
    ('T1c', '')
    """
    if len(sequences) == 1 or (exact := find_region(name, sequences)):
        return sequences[0] if len(sequences) == 1 else exact
    contained = [sequence for sequence in sequences if sequence.casefold() in name.casefold()]
    longest = max(contained, key=len, default="")
    return longest if all(sequence.casefold() in longest.casefold() for sequence in contained) else ""
