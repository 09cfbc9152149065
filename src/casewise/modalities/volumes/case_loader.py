"""The scans and the mask of one case, read whole or by their headers alone; all that is wrong with them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import CasewiseError, ImageError
from casewise.modalities.volumes.reading.scans import Scan

if TYPE_CHECKING:
    from casewise.modalities.volumes.preprocess import Prepared
    from casewise.modalities.volumes.slice_store import CaseSources

__all__ = ["Gathered", "empty_in", "gather", "not_prepared", "scans_of", "summed"]

# Kinds of notes that are told; what is left out is counted.
KINDS_SHOWN = 12
VARYING = re.compile(r"\S*[\d/\\]\S*")

SHOWN = 50


@dataclass(eq=False)
class Gathered:
    """What a case is made from: its scans in the order of the study's sequences, None where one is absent.

    `notes` are what is odd, `problems` what stops the case; each names its file.
    """

    scans: list[Scan | None] = field(default_factory=list)
    mask: Scan | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(case: CaseSources, *, voxels: bool = True) -> Gathered:
    """Read everything that a case is made from; without `voxels` headers alone."""
    from casewise.modalities.volumes.reading.read_scan import check_same_subject, read_scan
    from casewise.modalities.volumes.reading.slice_images import stacked

    loaded = Gathered()

    def read(make: Callable[[], Scan]) -> Scan | None:
        try:
            scan = make()
        except CasewiseError as error:
            if str(error) not in loaded.problems:
                loaded.problems.append(str(error))
            return None
        loaded.notes += [f"{scan.path}: {note}" for note in scan.notes]
        modality = str(scan.facts.get("modality") or "MR")
        if modality != "MR":
            loaded.notes.append(
                f"{scan.path}: its modality is {modality}; its intensities are corrected and scaled as those of MR"
            )
        return scan

    for sequence, paths in zip(case.sequences, case.paths, strict=True):
        if not paths:
            loaded.scans.append(None)
        elif case.spacing is not None:
            spacing = case.spacing
            loaded.scans.append(read(lambda p=paths, s=spacing: stacked(p, s, voxels=voxels)))  # type: ignore[misc]
        else:
            loaded.scans.append(
                read(lambda p=paths[0], s=sequence: read_scan(p, sequence=s, voxels=voxels))  # type: ignore[misc]
            )
    if case.mask:
        mask = case.mask
        loaded.mask = read(lambda: read_scan(mask, voxels=voxels))
    if case.spacing is None:
        named_scans = zip(case.sequences, loaded.scans, strict=True)
        try:
            subject_notes = check_same_subject({name: scan for name, scan in named_scans if scan is not None})
            loaded.notes += [f"{case.case}: {note}" for note in subject_notes]
        except ImageError as error:
            loaded.problems.append(str(error))
    return loaded


def scans_of(case: CaseSources) -> list[Scan | None]:
    """The scans of a case, in the order of the study's sequences; None where one is absent.

    Raises:
        ImageError: one cannot be read, or they are of different people.
    """
    loaded = gather(case)
    if loaded.problems:
        raise ImageError("\n  ".join(f"{case.case}: {problem}" for problem in loaded.problems))
    return loaded.scans


def not_prepared(problems: Mapping[str, Sequence[str]], count: int, more: str = "") -> ImageError:
    """The error that names the problems of every case; `count` is that of all cases, `more` a sentence about them.

    >>> print(not_prepared({"P1/1": ["a.nii: the file is empty."]}, 8))
    1 of 8 cases cannot be prepared.
      P1/1: a.nii: the file is empty.
    """
    lines = [f"  {case}: {problem}" for case, texts in problems.items() for problem in texts]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"  … and {len(lines) - SHOWN:,} more like these."]
    return ImageError("\n".join([f"{len(problems):,} of {count:,} cases cannot be prepared.{more}", *lines]))


def doubled_in(case: CaseSources, prepared: Prepared) -> list[str]:
    """A sentence for each two sequences of a case that are the same picture: one was put in the place of the other."""
    there = [number for number, shown in enumerate(prepared.present) if shown]
    return [
        f"{case.sequences[one]} and {case.sequences[two]} show the same voxels: {_first(case, one)} and "
        f"{_first(case, two)}. Name the file of each sequence, or leave out the one that was not taken."
        for place, one in enumerate(there)
        for two in there[place + 1 :]
        if np.array_equal(prepared.slices[:, one], prepared.slices[:, two])
    ]


def _first(case: CaseSources, number: int) -> str:
    return str(case.paths[number][0])


def empty_in(case: CaseSources, scans: list[Scan | None], prepared: Prepared) -> list[str]:
    """What to say of scans that are there and show nothing: a network would learn from, or judge, an empty picture."""
    problems = []
    for number, (name, scan) in enumerate(zip(case.sequences, scans, strict=True)):
        if scan is None or prepared.slices[:, number].any():
            continue
        flat = bool(np.isnan(prepared.landmarks[number]).all())
        where = _named(scan.path, len(case.paths[number]))
        what = "all its voxels are equal" if flat else "all its voxels in the region of interest are dark"
        problems.append(
            f"{where}: it shows nothing ({what}). Copy {name} again from its source, or delete its row: `volumes: "
            "{missing: …}` says what becomes of cases that lack a sequence."
        )
    return problems


def _named(path: Path, count: int) -> str:
    return f"{path} and {count - 1} more slices" if count > 1 else str(path)


def summed(notes: Sequence[str], folder: Path) -> list[str]:
    """A line for each kind of note: its first, and how many others differ from it in names and numbers alone.

    Paths begin at `folder` where they lie in it.

    >>> summed(["/d/P1/a.nii: cut at 2 mm", "/d/P2/b.nii: cut at 3 mm", "/d/P1/a.nii: tilted"], Path("/d"))
    ['P1/a.nii: cut at 2 mm (and 1 more like this)', 'P1/a.nii: tilted']
    """
    kinds: dict[str, list[str]] = {}
    for note in notes:
        text = note.replace(f"{folder}/", "")
        kinds.setdefault(VARYING.sub("#", text), []).append(text)
    lines = [
        texts[0] + (f" (and {len(texts) - 1:,} more like this)" if len(texts) > 1 else "") for texts in kinds.values()
    ]
    if len(lines) > KINDS_SHOWN:
        lines[KINDS_SHOWN:] = [
            f"There are {len(lines) - KINDS_SHOWN:,} further kinds of notes on scans; they are kept with the slices."
        ]
    return lines
