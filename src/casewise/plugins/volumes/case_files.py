"""The files of each case: listed by the rows of a cohort's table, read as scans and a mask, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.errors import CasewiseError, ImageError, counted
from casewise.modalities.mask_labels import check_wanted, occurring, whole_labels
from casewise.modalities.store.readers import image_facts
from casewise.plugins.volumes.case_table import masks_in
from casewise.plugins.volumes.grid import Grid, as_mask, check_shown, covered, to_ras
from casewise.plugins.volumes.reading.files import read_scan
from casewise.plugins.volumes.reading.scans import Scan, check_same_subject, stack_images
from casewise.plugins.volumes.settings import volumes_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.plugins.volumes.preprocess import Prepared

# The number of kinds of notes that are shown; the others are counted.
KINDS_SHOWN = 12
VARYING = re.compile(r"\S*[\d/\\]\S*")

PROBLEMS_SHOWN = 50


@dataclass(frozen=True)
class CaseSources:
    """The files of one case.

    `paths`: for each of the study's sequences its volume, or its slice images from the feet to the head; empty if the
    case lacks the sequence. `spacing`: of slice images, mm between pixels and between slices. `subject`: where a slice
    is a case, its subject, with whose other slices its intensities are standardised; else empty. `mask_labels`: those
    that count in the mask.
    """

    case: str
    paths: tuple[tuple[Path, ...], ...]
    sequences: tuple[str, ...]
    mask: Path | None = None
    spacing: tuple[float, float] | None = None
    subject: str = ""
    mask_labels: tuple[int, ...] | None = None


@dataclass(eq=False)
class _LoadedCase:
    """The scans of a case in the order of the study's sequences, None for an absent one.

    `notes` describe anything unusual, `problems` prevent the use of the case; each names its file.
    """

    scans: list[Scan | None] = field(default_factory=list)
    mask: Scan | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def noting_problems(self) -> Iterator[None]:
        """Keep an error of the block as a problem of the case, once."""
        try:
            yield
        except CasewiseError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))


def gather(case: CaseSources, *, voxels: bool = True) -> _LoadedCase:
    """Read all files of a case; without `voxels` only headers."""
    loaded = _LoadedCase()

    def read(make: Callable[[], Scan]) -> Scan | None:
        scan = None
        with loaded.noting_problems():
            scan = make()
        if scan is None:
            return None
        loaded.notes += [f"{scan.path}: {note}" for note in scan.notes]
        modality = str(scan.facts.get("modality") or "MR")
        if modality != "MR":
            loaded.notes.append(
                f"{scan.path}: its modality is {modality}; its intensities are corrected and scaled as for MR"
            )
        return scan

    for sequence, paths in zip(case.sequences, case.paths, strict=True):
        if not paths:
            loaded.scans.append(None)
        elif case.spacing is not None:
            loaded.scans.append(read(partial(stack_images, paths, case.spacing, voxels=voxels)))
        else:
            loaded.scans.append(read(partial(read_scan, paths[0], sequence=sequence, voxels=voxels)))
    if case.mask:
        mask = read(partial(read_scan, case.mask, voxels=voxels))
        if mask and voxels:
            with loaded.noting_problems():
                labels = whole_labels(mask.values, mask.path)
                check_wanted(case.mask_labels, occurring(labels), str(mask.path))
                mask = as_mask(mask, case.mask_labels)
        loaded.mask = mask
    if case.spacing is None:
        scans = {name: scan for name, scan in zip(case.sequences, loaded.scans, strict=True) if scan is not None}
        with loaded.noting_problems():
            loaded.notes += [f"{case.case}: {note}" for note in check_same_subject(scans)]
    return loaded


def scans_of(case: CaseSources) -> list[Scan | None]:
    """The scans of a case, in the order of the study's sequences; None for an absent one.

    Raises:
        ImageError: a scan cannot be read, or the scans show different people.
    """
    loaded = gather(case)
    if loaded.problems:
        raise ImageError("\n  ".join(f"{case.case}: {problem}" for problem in loaded.problems))
    return loaded.scans


def not_prepared(problems: Mapping[str, Sequence[str]], count: int, more: str = "") -> ImageError:
    """The error that names the problems of every case; `count` is the number of cases, `more` a sentence about them.

    >>> print(not_prepared({"P1/1": ["a.nii: the file is empty."]}, 8))
    1 of 8 cases cannot be prepared.
      P1/1: a.nii: the file is empty.
    """
    lines = [f"  {case}: {problem}" for case, texts in problems.items() for problem in texts]
    if len(lines) > PROBLEMS_SHOWN:
        lines[PROBLEMS_SHOWN:] = [f"  … and {len(lines) - PROBLEMS_SHOWN:,} more like these."]
    return ImageError("\n".join([f"{len(problems):,} of {count:,} cases cannot be prepared.{more}", *lines]))


def doubled_in(case: CaseSources, prepared: Prepared) -> list[str]:
    """A sentence for each two sequences of a case with the same voxels: a file is named instead of another."""
    return [
        f"{case.sequences[a]} and {case.sequences[b]} show the same voxels: {case.paths[a][0]} and {case.paths[b][0]}. "
        "Name the file of each sequence, or leave out the sequence that was not acquired."
        for a, b in combinations(np.flatnonzero(prepared.present), 2)
        if np.array_equal(prepared.slices[:, a], prepared.slices[:, b])
    ]


def empty_in(case: CaseSources, scans: list[Scan | None], prepared: Prepared) -> list[str]:
    """A sentence for each scan that shows nothing, so that no network learns from or judges an empty picture."""
    problems = []
    for sequence, (name, scan) in enumerate(zip(case.sequences, scans, strict=True)):
        if scan is None or prepared.slices[:, sequence].any():
            continue
        flat, further = bool(np.isnan(prepared.landmarks[sequence]).all()), len(case.paths[sequence]) - 1
        where = f"{scan.path} and {counted(further, 'more slice')}" if further else str(scan.path)
        defect = "all its voxels are equal" if flat else "all its voxels in the region of interest are dark"
        problems.append(
            f"{where}: it shows nothing ({defect}). Copy {name} again from its source, or delete its row: `volumes: "
            "{missing: …}` states how cases that lack a sequence are handled."
        )
    return problems


def summed(notes: Sequence[str], folder: Path) -> list[str]:
    """A line for each kind of note: the first, and the number of others that differ only in names and numbers.

    Paths in `folder` are shown relative to it.

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
            f"Notes on scans of {counted(len(lines) - KINDS_SHOWN, 'further kind')} are stored with the slices."
        ]
    return lines


def sources_of(study: Study, cohort: Cohort) -> list[CaseSources]:
    """The files of each case, in the order of the cohort's panels."""
    groups = dict(iter(cohort.images.groupby("case", sort=False)))
    subjects = cohort.panels["subject"].astype(str) if volumes_of(study).slice_is_case(study) else [""] * len(groups)
    pairs = zip(cohort.panels["case"], subjects, strict=True)
    return [_sources(study, str(case), groups[case], subject) for case, subject in pairs]


def source_of(study: Study, cohort: Cohort, row: int) -> CaseSources:
    """The files of the case of one panel."""
    case = cohort.panels["case"].iloc[row]
    return _sources(study, str(case), cohort.images[cohort.images["case"] == case])


def _lesions_of(study: Study, cohort: Cohort) -> dict[str, list[Path]]:
    """The masks of lesions that the table names, by case."""
    column = volumes_of(study).lesion
    if not column:
        return {}
    folder = (study.root or study.cohort.parent).absolute()
    groups = cohort.images.groupby("case", sort=False)
    return {str(case): [folder / name for name in masks_in(rows, column)] for case, rows in groups}


def _sources(study: Study, case: str, rows: pd.DataFrame, subject: str = "") -> CaseSources:
    volumes, paths = volumes_of(study), []
    for sequence in volumes.sequences:
        matches = rows[rows["sequence"] == sequence]
        if volumes.slice_index:
            matches = matches.assign(place=pd.to_numeric(matches[volumes.slice_index], errors="coerce")).sort_values(
                "place"
            )
        paths.append(tuple(Path(path) for path in matches["path"]))
    folder, labels = (study.root or study.cohort.parent).absolute(), study.images.labels_in(volumes.mask)
    return CaseSources(
        case=case,
        paths=tuple(paths),
        sequences=tuple(volumes.sequences),
        mask=folder / masks_in(rows, volumes.mask)[0] if volumes.roi == "mask" else None,
        spacing=(volumes.pixel_mm, volumes.slice_mm) if volumes.slice_index else None,
        subject=subject,
        mask_labels=tuple(sorted(labels)) if volumes.roi == "mask" and labels else None,
    )


def check_headers(study: Study, cohort: Cohort, show: Show) -> None:
    """Read the headers of every scan and mask, compare them within a case, and show notes on anything unusual.

    Voxels are not read: they are checked when the scans are prepared.

    Raises:
        ImageError: scans cannot be read, or scans of a case do not match; the message names all of them.
    """
    cases, lesions = sources_of(study, cohort), _lesions_of(study, cohort)
    problems: dict[str, list[str]] = {}
    notes: list[str] = []
    slices = 0
    with show.bar("scans") as bar:
        for number, case in enumerate(cases):
            bar(number, len(cases))
            loaded = gather(case, voxels=False)
            scans = [scan for scan in loaded.scans if scan is not None]
            if scans and not loaded.problems:
                for scan in [*scans[1:], *([loaded.mask] if loaded.mask else [])]:
                    _overlap(scan, scans[0], loaded)
            _check_lesions(study, lesions.get(case.case, []), scans[0] if scans else None, loaded)
            if loaded.problems:
                problems[case.case] = list(dict.fromkeys(loaded.problems))
            elif scans:
                slices += to_ras(scans[0]).shape[2]
            notes += dict.fromkeys(loaded.notes)
    if problems:
        raise not_prepared(problems, len(cases))
    headers = f"headers of {counted(len(cases), 'case')} in order, {counted(slices, 'slice')}"
    show.line("scans", f"{headers}; a run checks the voxels")
    for note in summed(notes, (study.root or study.cohort.parent).absolute()):
        show.line("", note)


def _overlap(scan: Scan, reference: Scan, loaded: _LoadedCase) -> None:
    share = float(covered(scan.shape, scan.affine, Grid(reference.shape, reference.affine)).mean())
    with loaded.noting_problems():
        loaded.notes += check_shown(share, scan, reference)


def _check_lesions(study: Study, paths: list[Path], reference: Scan | None, loaded: _LoadedCase) -> None:
    """Check that the masks of lesions can be read and overlap the scans of the case."""
    for path in paths:
        with loaded.noting_problems():
            if volumes_of(study).slice_index:
                facts = image_facts(path)
                if reference is not None and (facts["width"], facts["height"]) != reference.shape[:2]:
                    raise ImageError(
                        f"{path}: this mask is {facts['width']}×{facts['height']} pixels, its slice "
                        f"{reference.shape[0]}×{reference.shape[1]}. A mask must have the size of its slice."
                    )
            else:
                mask = read_scan(path, voxels=False)
                loaded.notes += [f"{path}: {note}" for note in mask.notes]
                if reference is not None:
                    _overlap(mask, reference, loaded)
