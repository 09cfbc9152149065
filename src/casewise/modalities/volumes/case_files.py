"""The files of each case: listed by the rows of a cohort's table, and read as scans and a mask."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.checks import STORED
from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, CohortError, ImageError, nearest
from casewise.modalities.volumes.case_table import (
    box_in,
    check_left,
    check_lesions,
    check_regions,
    check_rows,
    classes_noted,
    masks_in,
    number,
)
from casewise.modalities.volumes.reading.scans import Scan, check_same_subject
from casewise.modalities.volumes.roi import Box
from casewise.study.schema import Study, Volumes

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.volumes.preprocess import Prepared

# Kinds of notes that are told; what is left out is counted.
KINDS_SHOWN = 12
VARYING = re.compile(r"\S*[\d/\\]\S*")

PROBLEMS_SHOWN = 50


@dataclass(frozen=True)
class CaseSources:
    """What one case is made from.

    `paths`: for each of the study's sequences its volume, or its slice images from the feet to the head; empty where
    the case lacks the sequence. `spacing`: of slice images, mm between pixels and between slices.
    """

    case: str
    paths: tuple[tuple[Path, ...], ...]
    sequences: tuple[str, ...]
    mask: Path | None = None
    box: Box | None = None
    spacing: tuple[float, float] | None = None


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
    from casewise.modalities.volumes.reading.read_scan import read_scan, stack_images

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
            loaded.scans.append(read(lambda p=paths, s=spacing: stack_images(p, s, voxels=voxels)))  # type: ignore[misc]
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
    if len(lines) > PROBLEMS_SHOWN:
        lines[PROBLEMS_SHOWN:] = [f"  … and {len(lines) - PROBLEMS_SHOWN:,} more like these."]
    return ImageError("\n".join([f"{len(problems):,} of {count:,} cases cannot be prepared.{more}", *lines]))


def doubled_in(case: CaseSources, prepared: Prepared) -> list[str]:
    """A sentence for each two sequences of a case with the same voxels: a file is named in place of another."""
    return [
        f"{case.sequences[a]} and {case.sequences[b]} show the same voxels: {case.paths[a][0]} and {case.paths[b][0]}. "
        "Name the file of each sequence, or leave out the sequence that was not acquired."
        for a, b in combinations(np.flatnonzero(prepared.present), 2)
        if np.array_equal(prepared.slices[:, a], prepared.slices[:, b])
    ]


def empty_in(case: CaseSources, scans: list[Scan | None], prepared: Prepared) -> list[str]:
    """What to say of scans that are there and show nothing: a network would learn from, or judge, an empty picture."""
    problems = []
    for sequence, (name, scan) in enumerate(zip(case.sequences, scans, strict=True)):
        if scan is None or prepared.slices[:, sequence].any():
            continue
        flat = bool(np.isnan(prepared.landmarks[sequence]).all())
        where = _named(scan.path, len(case.paths[sequence]))
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


SHOWN = 20


def settle_sequences(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with the rows of the study's sequences alone, cases that lack one left out where the study says so.

    Raises:
        CohortError: with everything that keeps rows from making a case, and what to do.
    """
    volumes = study.volumes
    assert volumes is not None
    images = cohort.images
    if volumes.column not in images:
        raise CohortError(
            f"{study.cohort}: there is no column {volumes.column!r} that says which of "
            f"{', '.join(volumes.sequences)} a row shows. Add it, or name it: `volumes: {{column: …}}`."
            f"{nearest(volumes.column, list(images))} There are: {names_text(_headings(images), 12)}."
        )
    problems: list[str] = []
    images = images.assign(sequence=images[volumes.column].astype(str).str.strip())
    images = _as_listed(volumes, images, problems)
    notes = [note.replace("Every image is", "Every scan is") for note in cohort.notes]
    listed = images["sequence"].isin(volumes.sequences)
    if not listed.any():
        names = sorted(set(images["sequence"]))
        raise CohortError(
            f"{study.cohort}: no row shows one of the sequences {', '.join(volumes.sequences)}; {volumes.column} has "
            f"{names_text(names)}.{nearest(volumes.sequences[0], names)}"
        )
    left_out = images[~listed]
    if len(left_out):
        others = names_text([name or "empty cells" for name in sorted(set(left_out["sequence"]))])
        what = "row shows another sequence" if len(left_out) == 1 else "rows show other sequences"
        are = "is" if len(left_out) == 1 else "are"
        notes.append(f"{len(left_out):,} {what} ({others}) and {are} left out.")
        images = images[listed]
    notes += check_rows(study, images, problems)
    images, missing_notes = _with_missing(volumes, images, left_out, problems)
    check_regions(study, images, problems)
    notes += [*missing_notes, *check_lesions(study, images, problems)]
    if not problems and images["case"].nunique() < cohort.images["case"].nunique():
        check_left(study, images, problems)
    if problems:
        count = f"{len(problems):,} {'problem' if len(problems) == 1 else 'problems'}"
        more = f"\n  … and {len(problems) - SHOWN:,} more." if len(problems) > SHOWN else ""
        raise CohortError(f"{study.cohort}: {count}." + "".join(f"\n  {text}" for text in problems[:SHOWN]) + more)
    images, panels = with_panels(images.reset_index(drop=True), study)
    cases = cohort.cases[cohort.cases["case"].isin(set(images["case"]))].reset_index(drop=True)
    notes += classes_noted(study, panels)
    return dataclasses.replace(cohort, images=images, panels=panels, cases=cases, notes=notes)


def counted(study: Study, cohort: Cohort) -> str:
    """How many scans there are, in words; of slices that are images of their own, how many slices."""
    count = len(cohort.images)
    noun = "slice" if study.volumes and study.volumes.slice_index else "scan"
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sources_of(study: Study, cohort: Cohort) -> list[CaseSources]:
    """What each case is made from, in the order of the cohort's panels."""
    volumes = study.volumes
    assert volumes is not None
    groups = dict(iter(cohort.images.groupby("case", sort=False)))
    return [_sources(study, volumes, str(case), groups[case]) for case in cohort.panels["case"]]


def source_of(study: Study, cohort: Cohort, row: int) -> CaseSources:
    """What the case of one panel is made from."""
    assert study.volumes is not None
    case = cohort.panels["case"].iloc[row]
    return _sources(study, study.volumes, str(case), cohort.images[cohort.images["case"] == case])


def lesions_of(study: Study, cohort: Cohort) -> dict[str, list[Path]]:
    """The masks of lesions that the table names, by case."""
    column = study.volumes.lesion if study.volumes else None
    if not column:
        return {}
    folder = (study.root or study.cohort.parent).absolute()
    groups = cohort.images.groupby("case", sort=False)
    return {str(case): [folder / name for name in masks_in(rows, column)] for case, rows in groups}


def _headings(images: pd.DataFrame) -> list[str]:
    """The table's own columns."""
    return [str(name) for name in images.columns if name not in STORED]


def _plain(name: str) -> str:
    """A sequence's name as people mistype it: without capitals, spaces, hyphens and underscores.

    >>> _plain("T1 pre") == _plain("t1_pre"), _plain("T2*") == _plain("T2")
    (True, False)
    """
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "-_.")


def _as_listed(volumes: Volumes, images: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """Tell of names that differ from a listed one in spelling alone, and take them as it for what else is checked."""
    meant = {_plain(name): name for name in volumes.sequences}
    for name, rows in images.groupby("sequence", sort=False):
        listed = meant.get(_plain(str(name)))
        if listed is None or name in volumes.sequences:
            continue
        files = names_text([f"{Path(p).name} of {c}" for p, c in zip(rows["path"], rows["case"], strict=True)], 3)
        problems.append(
            f"{volumes.column}: {len(rows):,} {'row says' if len(rows) == 1 else 'rows say'} {name!r} ({files}), and "
            f"the study lists {listed!r}. Write one and the same name in the table and in volumes.sequences."
        )
        images = images.assign(sequence=images["sequence"].replace({name: listed}))
    return images


def _with_missing(
    volumes: Volumes, images: pd.DataFrame, left_out: pd.DataFrame, problems: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """What becomes of cases that lack a sequence; `left_out` are rows of sequences that the study does not list."""
    there = images.groupby("case", sort=False)["sequence"].agg(set)
    wanted = set(volumes.sequences)
    bare = dict.fromkeys(name for name in left_out["case"].astype(str) if name not in there)
    lacking = {str(case): sorted(wanted - present) for case, present in there.items() if wanted - present}
    lacking |= {case: sorted(wanted) for case in bare}
    if not lacking:
        return images, []
    nowhere = sorted(wanted - set().union(*there)) if len(there) else []
    if nowhere:
        present_names = sorted({str(name) for name in images["sequence"]})
        problems.append(
            f"volumes.sequences: no row shows {names_text(nowhere, 3)}; the table has {', '.join(present_names)}. "
            "Leave out what was never taken, or correct its name."
        )
        return images, []
    others = left_out[left_out["case"].astype(str).isin(lacking)]
    names = others["sequence"].replace("", "an empty cell")
    shown = names.groupby(others["case"].astype(str)).agg(lambda present: ", ".join(dict.fromkeys(present)))
    named = names_text(
        [
            f"{case} ({', '.join(missing)}{f'; it has {shown[case]}' if case in shown else ''})"
            for case, missing in lacking.items()
        ],
        SHOWN,
    )
    count = (
        f"{len(lacking):,} of {len(there) + len(bare):,} cases {'lacks' if len(lacking) == 1 else 'lack'} a sequence"
    )
    if volumes.missing == "require":
        problems.append(
            f"{count}: {named}. Add the scans, leave these cases out with `volumes: {{missing: drop}}`, or learn to do "
            "without with `missing: mask`."
        )
        return images, []
    if volumes.missing == "drop":
        kept = images[~images["case"].astype(str).isin(lacking)]
        if kept.empty:
            problems.append(f"Every case lacks a sequence: {named}. Add the scans, or list fewer in volumes.sequences.")
            return images, []
        return kept, [f"{count} and {'is' if len(lacking) == 1 else 'are'} left out: {named}."]
    notes = [f"{count}, for which a learned stand-in is put: {named}."]
    if bare:
        notes.append(f"Left out for want of any sequence: {names_text(list(bare), SHOWN)}.")
    return images, notes


def _sources(study: Study, volumes: Volumes, case: str, rows: pd.DataFrame) -> CaseSources:
    paths = []
    for sequence in volumes.sequences:
        mine = rows[rows["sequence"] == sequence]
        if volumes.slice_index:
            mine = mine.assign(place=mine[volumes.slice_index].map(number)).sort_values("place")
        paths.append(tuple(Path(path) for path in mine["path"]))
    folder = (study.root or study.cohort.parent).absolute()
    return CaseSources(
        case=case,
        paths=tuple(paths),
        sequences=tuple(volumes.sequences),
        mask=folder / masks_in(rows, volumes.mask)[0] if volumes.roi == "mask" else None,
        box=box_in(rows, case) if volumes.roi == "box" else None,
        spacing=(volumes.pixel_mm, volumes.slice_mm) if volumes.slice_index else None,
    )
