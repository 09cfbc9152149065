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
from casewise.errors import counted as counted_of
from casewise.plugins.volumes.case_table import (
    box_in,
    check_left,
    check_lesions,
    check_regions,
    check_rows,
    classes_noted,
    masks_in,
    number,
)
from casewise.plugins.volumes.reading.scans import Scan, check_same_subject
from casewise.plugins.volumes.roi import Box
from casewise.plugins.volumes.settings import Volumes, volumes_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

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
    is a case, its subject, with whose other slices its intensities are standardised; else empty.
    """

    case: str
    paths: tuple[tuple[Path, ...], ...]
    sequences: tuple[str, ...]
    mask: Path | None = None
    box: Box | None = None
    spacing: tuple[float, float] | None = None
    subject: str = ""


@dataclass(eq=False)
class LoadedCase:
    """The scans of a case in the order of the study's sequences, None for an absent one.

    `notes` describe anything unusual, `problems` prevent the use of the case; each names its file.
    """

    scans: list[Scan | None] = field(default_factory=list)
    mask: Scan | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(case: CaseSources, *, voxels: bool = True) -> LoadedCase:
    """Read all files of a case; without `voxels` only headers."""
    from casewise.plugins.volumes.reading.read_scan import read_scan, stack_images

    loaded = LoadedCase()

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
    """The scans of a case, in the order of the study's sequences; None for an absent one.

    Raises:
        ImageError: a scan cannot be read, or the scans show different people.
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
    """A sentence for each scan that shows nothing, so that no network learns from or judges an empty picture."""
    problems = []
    for sequence, (name, scan) in enumerate(zip(case.sequences, scans, strict=True)):
        if scan is None or prepared.slices[:, sequence].any():
            continue
        flat = bool(np.isnan(prepared.landmarks[sequence]).all())
        where = _named(scan.path, len(case.paths[sequence]))
        defect = "all its voxels are equal" if flat else "all its voxels in the region of interest are dark"
        problems.append(
            f"{where}: it shows nothing ({defect}). Copy {name} again from its source, or delete its row: `volumes: "
            "{missing: …}` states how cases that lack a sequence are handled."
        )
    return problems


def _named(path: Path, count: int) -> str:
    return f"{path} and {counted_of(count - 1, 'more slice')}" if count > 1 else str(path)


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
            f"Notes on scans of {counted_of(len(lines) - KINDS_SHOWN, 'further kind')} are stored with the slices."
        ]
    return lines


SHOWN = 20


def settle_sequences(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with the rows of the study's sequences; cases that lack one are left out if the study states so.

    Raises:
        CohortError: naming all problems of the rows and their remedies.
    """
    volumes = volumes_of(study)
    images = cohort.images
    if volumes.column not in images:
        raise CohortError(
            f"{study.cohort}: there is no column {volumes.column!r} that states which of "
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
        subject = "row shows another sequence" if len(left_out) == 1 else "rows show other sequences"
        verb = "is" if len(left_out) == 1 else "are"
        notes.append(f"{len(left_out):,} {subject} ({others}) and {verb} left out.")
        images = images[listed]
    notes += check_rows(study, images, problems)
    labelled = bool(images[[name for name in study.targets if name in images]].notna().any(axis=None))
    images, missing_notes = _with_missing(volumes, images, left_out, problems, labelled=labelled)
    check_regions(study, images, problems)
    notes += [*missing_notes, *check_lesions(study, images, problems)]
    if not problems and labelled and images["case"].nunique() < cohort.images["case"].nunique():
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
    """The number of scans in words, or of slices if slices are images of their own."""
    count = len(cohort.images)
    noun = "slice" if volumes_of(study).slice_index else "scan"
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sources_of(study: Study, cohort: Cohort) -> list[CaseSources]:
    """The files of each case, in the order of the cohort's panels."""
    volumes = volumes_of(study)
    groups = dict(iter(cohort.images.groupby("case", sort=False)))
    sources = [_sources(study, volumes, str(case), groups[case]) for case in cohort.panels["case"]]
    if not volumes_of(study).slice_is_case(study):
        return sources
    subjects = cohort.panels["subject"].astype(str)
    return [dataclasses.replace(source, subject=name) for source, name in zip(sources, subjects, strict=True)]


def source_of(study: Study, cohort: Cohort, row: int) -> CaseSources:
    """The files of the case of one panel."""
    case = cohort.panels["case"].iloc[row]
    return _sources(study, volumes_of(study), str(case), cohort.images[cohort.images["case"] == case])


def lesions_of(study: Study, cohort: Cohort) -> dict[str, list[Path]]:
    """The masks of lesions that the table names, by case."""
    column = volumes_of(study).lesion
    if not column:
        return {}
    folder = (study.root or study.cohort.parent).absolute()
    groups = cohort.images.groupby("case", sort=False)
    return {str(case): [folder / name for name in masks_in(rows, column)] for case, rows in groups}


def _headings(images: pd.DataFrame) -> list[str]:
    """The table's own columns."""
    return [str(name) for name in images.columns if name not in STORED]


def _plain(name: str) -> str:
    """The name of a sequence in lower case without spaces, hyphens and underscores, for comparison.

    >>> _plain("T1 pre") == _plain("t1_pre"), _plain("T2*") == _plain("T2")
    (True, False)
    """
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "-_.")


def _as_listed(volumes: Volumes, images: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """Report names that differ from a listed one only in spelling, and correct them for the other checks."""
    listed_by_spelling = {_plain(name): name for name in volumes.sequences}
    for name, rows in images.groupby("sequence", sort=False):
        listed = listed_by_spelling.get(_plain(str(name)))
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
    volumes: Volumes, images: pd.DataFrame, left_out: pd.DataFrame, problems: list[str], *, labelled: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Handle cases that lack a sequence; `left_out` are rows of sequences that the study does not list."""
    by_case = images.groupby("case", sort=False)["sequence"].agg(set)
    required = set(volumes.sequences)
    bare = dict.fromkeys(name for name in left_out["case"].astype(str) if name not in by_case)
    lacking = {str(case): sorted(required - present) for case, present in by_case.items() if required - present}
    lacking |= {case: sorted(required) for case in bare}
    if not lacking:
        return images, []
    nowhere = sorted(required - set().union(*by_case)) if len(by_case) else []
    if nowhere and labelled:  # of a few new cases, all may lack one
        present_names = sorted({str(name) for name in images["sequence"]})
        problems.append(
            f"volumes.sequences: no row shows {names_text(nowhere, 3)}; the table has {', '.join(present_names)}. "
            "Leave out sequences that were never acquired, or correct the name."
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
        f"{len(lacking):,} of {len(by_case) + len(bare):,} cases {'lacks' if len(lacking) == 1 else 'lack'} a sequence"
    )
    if volumes.missing == "require":
        problems.append(
            f"{count}: {named}. Add the scans, leave these cases out with `volumes: {{missing: drop}}`, or learn a "
            "stand-in with `missing: mask`."
        )
        return images, []
    if volumes.missing == "drop":
        complete = images[~images["case"].astype(str).isin(lacking)]
        if complete.empty:
            problems.append(f"Every case lacks a sequence: {named}. Add the scans, or list fewer in volumes.sequences.")
            return images, []
        return complete, [f"{count} and {'is' if len(lacking) == 1 else 'are'} left out: {named}."]
    notes = [f"{count}, which a learned stand-in replaces: {named}."]
    if bare:
        notes.append(f"Left out because they have no sequence: {names_text(list(bare), SHOWN)}.")
    return images, notes


def _sources(study: Study, volumes: Volumes, case: str, rows: pd.DataFrame) -> CaseSources:
    paths = []
    for sequence in volumes.sequences:
        matches = rows[rows["sequence"] == sequence]
        if volumes.slice_index:
            matches = matches.assign(place=matches[volumes.slice_index].map(number)).sort_values("place")
        paths.append(tuple(Path(path) for path in matches["path"]))
    folder = (study.root or study.cohort.parent).absolute()
    return CaseSources(
        case=case,
        paths=tuple(paths),
        sequences=tuple(volumes.sequences),
        mask=folder / masks_in(rows, volumes.mask)[0] if volumes.roi == "mask" else None,
        box=box_in(rows, case) if volumes.roi == "box" else None,
        spacing=(volumes.pixel_mm, volumes.slice_mm) if volumes.slice_index else None,
    )
