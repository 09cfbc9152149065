"""Checks of a cohort's table of volumes: scans of each sequence, slice positions, masks, incomplete cases."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd

from casewise.cohort.checks import STORED
from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text, text_of
from casewise.errors import CohortError, counted, nearest
from casewise.plugins.volumes.settings import Volumes, volumes_of
from casewise.study.schema import Study

# The most files, cases or subjects that a message names.
SHOWN = 5
# The number of problems, and of cases in one of them, that are named.
PROBLEMS_SHOWN = 20
# Slices have a gap if the largest step exceeds the median step by more than this share.
UNEVEN = 0.05


def _check_rows(study: Study, images: pd.DataFrame, problems: list[str]) -> list[str]:
    """Check that a case has one scan of each sequence, or with `slice_index` the same positions of slices in all.

    Problems are added to `problems`; notes on anything unusual are returned.
    """
    order = volumes_of(study).slice_index
    if order is None:
        for (case, sequence), rows in images.groupby(["case", "sequence"], sort=False):
            if len(rows) > 1:
                files = names_text([Path(path).name for path in rows["path"]], 3)
                problems.append(
                    f"case {case} has {len(rows)} rows of {sequence} ({files}); a case has one. Delete the others, or "
                    "give each repeated scan a separate sequence or visit."
                )
        return []
    if order not in images:
        problems.append(f"volumes.slice_index: there is no column {order!r}.{nearest(order, list(images))}")
        return []
    numbers = pd.to_numeric(images[order], errors="coerce")
    uneven = []
    for case, rows in images.groupby("case", sort=False):
        wrong = rows[~np.isfinite(numbers[rows.index])]
        if len(wrong):
            problems.append(
                f"case {case}: {order} of {wrong['sequence'].iloc[0]} is {names_text(list(map(repr, wrong[order])), 3)}"
                ", which is not a number. Fill in the order of its slices from the feet to the head."
            )
            continue
        positions = {str(name): sorted(own) for name, own in numbers[rows.index].groupby(rows["sequence"], sort=False)}
        problems += [
            f"case {case}: two slices of {name} have the same {order}. Correct the order, or delete one of them."
            for name, own in positions.items()
            if len(set(own)) < len(own)
        ]
        first = next(iter(positions.values()))
        if any(own != first for own in positions.values()):
            counts = ", ".join(f"{name} {len(own)}" for name, own in positions.items())
            problems.append(
                f"case {case}: its sequences have different slices ({counts}). Keep those that all of them have."
            )
        steps = np.diff(first)
        if len(steps) and steps.max() > (1 + UNEVEN) * np.median(steps):
            uneven.append(str(case))
    if not uneven:
        return []
    return [
        f"{order} has gaps in {len(uneven):,} of {images['case'].nunique():,} cases ({names_text(uneven, SHOWN)}): "
        "slices may be missing, and equal distances are assumed."
    ]


def _check_masks(study: Study, images: pd.DataFrame, problems: list[str]) -> list[str]:
    """Check the masks of regions of interest and of lesions; return notes on masks that several subjects share."""
    volumes = volumes_of(study)
    columns = {"mask": volumes.mask} if volumes.roi == "mask" else {}
    columns |= {"lesion": volumes.lesion} if volumes.lesion else {}
    folder, notes = (study.root or study.cohort.parent).absolute(), []
    for key, column in columns.items():
        if column not in images:
            problems.append(
                f"volumes.{key}: there is no column {column!r}. Add it, name another one, or leave masks out (`roi`, "
                f"`lesion`).{nearest(column, list(images))}"
            )
            continue
        cells = images[column].map(text_of)
        for case, own in cells.groupby(images["case"], sort=False) if key == "mask" else ():
            named = sorted(set(own) - {""})
            if len(named) != 1:
                given = f"{counted(len(named), 'mask')} ({names_text(named, 3)})" if named else "none"
                problems.append(
                    f"case {case}: volumes.roi is mask, and column {column!r} names {given}. Name one mask file for "
                    "each case, or write another `roi`."
                )
        missing = [name for name in dict.fromkeys(cells) if name and not (folder / name).exists()]
        for name in missing[:SHOWN]:
            cases = names_text(list(dict.fromkeys(images.loc[cells == name, "case"].astype(str))), 3)
            problems.append(
                f"{column}: there is no file {name} in {folder} (case {cases}). Correct the path, or empty the cell if "
                "there is no mask."
            )
        if len(missing) > SHOWN:
            problems.append(f"{column}: {counted(len(missing) - SHOWN, 'more file does', 'more files do')} not exist.")
        owners = images.loc[cells != "", "subject"].groupby(cells[cells != ""]).unique()
        shared = owners[owners.map(len) > 1]
        if len(shared):
            notes.append(
                f"{column}: {counted(len(shared), 'file is', 'files are')} named for several subjects (such as "
                f"{shared.index[0]}, of {names_text(list(shared.iloc[0]), SHOWN)}). Is this intended?"
            )
    return notes


def masks_in(rows: pd.DataFrame, column: str) -> list[str]:
    """The files that the rows of a case name in a column, each once."""
    return sorted({text for value in rows[column] if (text := text_of(value))}) if column in rows else []


def resolve_sequences(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with the rows of the study's sequences; cases that lack one are left out if the study states so.

    Raises:
        CohortError: naming all problems of the rows and their remedies.
    """
    volumes, images = volumes_of(study), cohort.images
    if volumes.column not in images:
        headings = [str(name) for name in images.columns if name not in STORED]
        raise CohortError(
            f"{study.cohort}: there is no column {volumes.column!r} that states which of "
            f"{', '.join(volumes.sequences)} a row shows. Add it, or name it: `volumes: {{column: …}}`."
            f"{nearest(volumes.column, list(images))} There are: {names_text(headings, 12)}."
        )
    problems: list[str] = []
    notes = [note.replace("Every image is", "Every scan is") for note in cohort.notes]
    images = _as_listed(volumes, images.assign(sequence=images[volumes.column].astype(str).str.strip()), problems)
    listed = images["sequence"].isin(volumes.sequences)
    others = names_text([name or "empty cells" for name in sorted(set(images.loc[~listed, "sequence"]))])
    if not listed.any():
        raise CohortError(
            f"{study.cohort}: no row shows one of the sequences {', '.join(volumes.sequences)}; {volumes.column} has "
            f"{others}.{nearest(volumes.sequences[0], sorted(set(images['sequence'])))}"
        )
    left_out, images = images[~listed], images[listed]
    if len(left_out):
        rows = counted(len(left_out), "row shows another sequence", "rows show other sequences")
        notes.append(f"{rows} ({others}) and {'is' if len(left_out) == 1 else 'are'} left out.")
    notes += _check_rows(study, images, problems)
    labelled = bool(images[[name for name in study.targets if name in images]].notna().any(axis=None))
    images, missing_notes = _with_missing(volumes, images, left_out, problems, labelled=labelled)
    notes += [*missing_notes, *_check_masks(study, images, problems)]
    if not problems and labelled and len(cohort.cases) > images["case"].nunique():
        _check_classes(study, images, problems)
    if problems:
        more = f"\n  … and {len(problems) - PROBLEMS_SHOWN:,} more." if len(problems) > PROBLEMS_SHOWN else ""
        lines = "".join(f"\n  {text}" for text in problems[:PROBLEMS_SHOWN])
        raise CohortError(f"{study.cohort}: {counted(len(problems), 'problem')}.{lines}{more}")
    images, panels = with_panels(images.reset_index(drop=True), study)
    cases = cohort.cases[cohort.cases["case"].isin(set(images["case"]))].reset_index(drop=True)
    return dataclasses.replace(cohort, images=images, panels=panels, cases=cases, notes=notes)


def _check_classes(study: Study, images: pd.DataFrame, problems: list[str]) -> None:
    """Check that two subjects of each class remain after incomplete cases are left out."""
    for name in study.outputs:
        for code, label in enumerate(study.classes_of(name) if name in images else []):
            count = images.loc[images[name] == code, "subject"].nunique()
            if count < 2:
                problems.append(
                    f"{name}: of the class {label!r} {counted(count, 'subject')} would be left without the cases that "
                    "lack a sequence. Add the scans, list fewer in volumes.sequences, or learn a stand-in with "
                    "`volumes: {missing: mask}`."
                )


def _plain(name: str) -> str:
    """The name of a sequence in lower case without spaces, hyphens, underscores and dots, for comparison.

    >>> _plain("T1 pre") == _plain("t1_pre"), _plain("T2*") == _plain("T2")
    (True, False)
    """
    return re.sub(r"[\s\-_.]", "", name.casefold())


def _as_listed(volumes: Volumes, images: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """Report names that differ from a listed one only in spelling, and correct them for the other checks."""
    listed_by_spelling = {_plain(name): name for name in volumes.sequences}
    for name, rows in images.groupby("sequence", sort=False):
        listed = listed_by_spelling.get(_plain(str(name)))
        if listed is None or name in volumes.sequences:
            continue
        files = names_text([f"{Path(p).name} of {c}" for p, c in zip(rows["path"], rows["case"], strict=True)], 3)
        problems.append(
            f"{volumes.column}: {counted(len(rows), 'row says', 'rows say')} {name!r} ({files}), and the study lists "
            f"{listed!r}. Write one and the same name in the table and in volumes.sequences."
        )
        images = images.assign(sequence=images["sequence"].replace({name: listed}))
    return images


def _with_missing(
    volumes: Volumes, images: pd.DataFrame, left_out: pd.DataFrame, problems: list[str], *, labelled: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Handle cases that lack a sequence; `left_out` are rows of sequences that the study does not list."""
    present = {str(case): set(own) for case, own in images.groupby("case", sort=False)["sequence"]}
    bare = dict.fromkeys(name for name in left_out["case"].astype(str) if name not in present)
    required = set(volumes.sequences)
    lacking = {case: sorted(required - own) for case, own in (present | {case: set() for case in bare}).items()}
    lacking = {case: missing for case, missing in lacking.items() if missing}
    if not lacking:
        return images, []
    nowhere = sorted(required - set(images["sequence"]))
    if nowhere and labelled:  # a few new cases may all lack the same sequence
        problems.append(
            f"volumes.sequences: no row shows {names_text(nowhere, 3)}; the table has "
            f"{', '.join(sorted(set(images['sequence'])))}. Leave out sequences that were never acquired, or correct "
            "the name."
        )
        return images, []
    named = names_text([f"{case} ({', '.join(missing)})" for case, missing in lacking.items()], PROBLEMS_SHOWN)
    verb = "lacks" if len(lacking) == 1 else "lack"
    count = f"{len(lacking):,} of {len(present) + len(bare):,} cases {verb} a sequence"
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
        return complete, [f"{count} and {'is' if len(lacking) == 1 else 'are'} left out: {named}."]
    notes = [f"{count}, which a learned stand-in replaces: {named}."]
    if bare:
        notes.append(f"Left out because they have no sequence: {names_text(list(bare), PROBLEMS_SHOWN)}.")
    return images, notes
