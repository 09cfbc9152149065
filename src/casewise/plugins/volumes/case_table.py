"""The rows of a cohort's table as cases: one scan for each sequence, order of slices, mask, box and lesions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.checks import STORED
from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text, text_of
from casewise.errors import CohortError, counted, nearest
from casewise.plugins.volumes.roi import Box
from casewise.plugins.volumes.settings import Volumes, volumes_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

BOX = ("box_x0", "box_y0", "box_z0", "box_x1", "box_y1", "box_z1")
# The number of missing files of a column that are named.
SHOWN = 5
# The number of problems, and of cases in one of them, that are named.
PROBLEMS_SHOWN = 20
# The largest relative difference of even steps between slices.
UNEVEN = 0.05


def check_rows(study: Study, images: pd.DataFrame, problems: list[str]) -> list[str]:
    """Check that a case has one scan of each sequence, or the same positions of slices in all of them.

    Problems are added to `problems`; notes on anything unusual are returned.
    """
    volumes = volumes_of(study)
    if volumes.slice_index is None:
        for (case, sequence), rows in images.groupby(["case", "sequence"], sort=False):
            if len(rows) > 1:
                files = names_text([Path(path).name for path in rows["path"]], 3)
                problems.append(
                    f"case {case} has {len(rows)} rows of {sequence} ({files}); a case has one. Delete the others, or "
                    "give each repeated scan a separate sequence or visit."
                )
        return []
    if volumes.slice_index not in images:
        hint = nearest(volumes.slice_index, list(images))
        problems.append(f"volumes.slice_index: there is no column {volumes.slice_index!r}.{hint}")
        return []
    numbers = images[volumes.slice_index].map(number)
    unknown = ~np.isfinite(numbers)
    for (case, name), rows in images[unknown].groupby(["case", "sequence"], sort=False):
        wrong = names_text([repr(text) for text in rows[volumes.slice_index]], 3)
        problems.append(
            f"case {case}: {volumes.slice_index} of {name} is {wrong}, which is not a number. Fill in the order of its "
            "slices from the feet to the head."
        )
    broken = set(images.loc[unknown, "case"])
    uneven = []
    for case, rows in images[~images["case"].isin(broken)].groupby("case", sort=False):
        positions_by_sequence = {
            name: tuple(sorted(numbers[sequence_rows.index]))
            for name, sequence_rows in rows.groupby("sequence", sort=False)
        }
        for name, positions in positions_by_sequence.items():
            if len(set(positions)) < len(positions):
                problems.append(
                    f"case {case}: two slices of {name} have the same {volumes.slice_index}. Correct the order, or "
                    "delete one of them."
                )
        if len(set(positions_by_sequence.values())) > 1:
            counts = ", ".join(f"{name} {len(positions)}" for name, positions in positions_by_sequence.items())
            problems.append(
                f"case {case}: its sequences have different slices ({counts}). Keep those that all of them have."
            )
        steps = np.diff(next(iter(positions_by_sequence.values())))
        if len(steps) and steps.max() > (1 + UNEVEN) * np.median(steps):
            uneven.append(str(case))
    if not uneven:
        return []
    return [
        f"{volumes.slice_index} has gaps in {len(uneven):,} of {images['case'].nunique():,} cases "
        f"({names_text(uneven, SHOWN)}): slices may be missing, and equal distances are assumed."
    ]


def check_regions(study: Study, images: pd.DataFrame, problems: list[str]) -> None:
    """Check that every case names the mask or box of its region of interest."""
    volumes = volumes_of(study)
    if volumes.roi == "mask":
        if volumes.mask not in images:
            problems.append(
                f"volumes.roi is mask, and there is no column {volumes.mask!r}. Add it, name it: `volumes: {{mask: …}}`"
                f", or write another `roi`.{nearest(volumes.mask, list(images))}"
            )
            return
        for case, rows in images.groupby("case", sort=False):
            named = masks_in(rows, volumes.mask)
            if len(named) != 1:
                masks_text = f"{counted(len(named), 'mask')} ({names_text(named, 3)})" if named else "none"
                problems.append(
                    f"case {case}: volumes.roi is mask, and column {volumes.mask!r} names {masks_text}. Name one "
                    "mask file for each case, or write another `roi`."
                )
        _check_files(study, images, volumes.mask, problems)
    if volumes.roi == "box":
        lacking = [name for name in BOX if name not in images]
        if lacking:
            problems.append(
                f"volumes.roi is box, and there is no column {', '.join(map(repr, lacking))}. A box needs the columns "
                f"{', '.join(BOX)}: voxels of the case's first sequence; the upper limit is excluded."
                f"{nearest(lacking[0], list(images))}"
            )
            return
        for case, rows in images.groupby("case", sort=False):
            try:
                box_in(rows, str(case))
            except CohortError as error:
                problems.append(str(error))


def check_lesions(study: Study, images: pd.DataFrame, problems: list[str]) -> list[str]:
    """Check that masks of lesions exist; return notes on masks that several subjects share."""
    volumes = volumes_of(study)
    columns = [volumes.mask] if volumes.roi == "mask" and volumes.mask in images else []
    if volumes.lesion:
        if volumes.lesion not in images:
            problems.append(
                f"volumes.lesion: there is no column {volumes.lesion!r}. Name the column of the lesions' masks, or "
                f"leave `lesion` out.{nearest(volumes.lesion, list(images))}"
            )
        else:
            _check_files(study, images, volumes.lesion, problems)
            columns.append(volumes.lesion)
    notes = []
    for column in dict.fromkeys(columns):
        cells = images[column].map(text_of)
        owners = (
            images[cells != ""]
            .groupby(cells[cells != ""])["subject"]
            .agg(lambda subjects: list(dict.fromkeys(subjects)))
        )
        shared = {name: subjects for name, subjects in owners.items() if len(subjects) > 1}
        if shared:
            name, subjects = next(iter(shared.items()))
            notes.append(
                f"{column}: {len(shared):,} {'file is' if len(shared) == 1 else 'files are'} named for several "
                f"subjects (such as {name}, of {names_text(subjects, SHOWN)}). Is this intended?"
            )
    return notes


def _check_files(study: Study, images: pd.DataFrame, column: str, problems: list[str]) -> None:
    folder = (study.root or study.cohort.parent).absolute()
    cells = images[column].map(text_of)
    gone = [name for name in dict.fromkeys(cells) if name and not (folder / name).exists()]
    for name in gone[:SHOWN]:
        cases = names_text(list(dict.fromkeys(images.loc[cells == name, "case"].astype(str))), 3)
        problems.append(
            f"{column}: there is no file {name} in {folder} (case {cases}). Correct the path, or empty the cell if "
            "there is no mask."
        )
    if len(gone) > SHOWN:
        problems.append(f"{column}: {counted(len(gone) - SHOWN, 'more file does', 'more files do')} not exist.")


def masks_in(rows: pd.DataFrame, column: str) -> list[str]:
    """The files that the rows of a case name in a column, each once."""
    return sorted({text for value in rows[column] if (text := text_of(value))}) if column in rows else []


def box_in(rows: pd.DataFrame, case: str) -> Box:
    """The box of a case, which its rows state.

    Raises:
        CohortError: the rows state several boxes, or none that is valid.
    """
    cells = [[text_of(rows[name].iloc[n]) for name in BOX] for n in range(len(rows))]
    boxes = list(dict.fromkeys(tuple(row) for row in cells if any(row)))
    if len(boxes) > 1:
        texts = " and ".join(" ".join(text or "–" for text in corners) for corners in boxes[:2])
        raise CohortError(
            f"case {case}: its rows state different boxes ({texts}). A case has one; leave the others empty."
        )
    if not boxes:
        raise CohortError(f"case {case}: volumes.roi is box, and its box is empty. Fill in {', '.join(BOX)}.")
    values = [number(text) for text in boxes[0]]
    if not np.isfinite(values).all():
        raise CohortError(
            f"case {case}: its box is {', '.join(text or '–' for text in boxes[0])}; six numbers are needed."
        )
    low, high = tuple(values[:3]), tuple(values[3:])
    try:
        return Box(low, high)  # type: ignore[arg-type]
    except CohortError as error:
        raise CohortError(f"case {case}: {error} A box goes from {BOX[0]} up to, but without, {BOX[3]}.") from error


def check_left(study: Study, images: pd.DataFrame, problems: list[str]) -> None:
    """Check that the remaining cases suffice for training: two subjects of each class, more than one number."""
    remedy = "Add the scans, list fewer in volumes.sequences, or learn a stand-in with `volumes: {missing: mask}`"
    for name in study.outputs:
        if name not in images:
            continue
        classes = study.classes_of(name)
        for code, label in enumerate(classes):
            count = images.loc[images[name] == code, "subject"].nunique()
            if count < 2:
                left = "one subject is" if count else "no subject is"
                problems.append(
                    f"{name}: of the class {label!r} {left} left after the cases that lack a sequence. {remedy}, or "
                    "leave the class out of `classes`."
                )
        if not classes and images[name].nunique() < 2:
            problems.append(f"{name}: no two values are left after the cases that lack a sequence. {remedy}.")


def classes_noted(study: Study, panels: pd.DataFrame) -> list[str]:
    """Notes on classes with fewer subjects than folds; a study with inner folds is refused in that case."""
    from casewise.cohort.targets import panel_values

    if study.nested_cv or study.split.column or study.split.leave_out:
        return []
    notes = []
    for name in study.outputs:
        values = panel_values(panels, study, name)
        counts = {
            label: panels["subject"][values == code].nunique() for code, label in enumerate(study.classes_of(name))
        }
        rare = [f"{label} {count}" for label, count in counts.items() if count < study.split.folds]
        if rare:
            notes.append(
                f"{name}: fewer subjects of a class than the {study.split.folds} folds ({', '.join(rare)}): some folds "
                "are evaluated without it, and have no precision and recall."
            )
    return notes


def number(value: Any) -> float:
    """A cell as a number; NaN if it is not one.

    >>> number("3"), number("three")
    (3.0, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


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
        more = f"\n  … and {len(problems) - PROBLEMS_SHOWN:,} more." if len(problems) > PROBLEMS_SHOWN else ""
        raise CohortError(
            f"{study.cohort}: {count}." + "".join(f"\n  {text}" for text in problems[:PROBLEMS_SHOWN]) + more
        )
    images, panels = with_panels(images.reset_index(drop=True), study)
    cases = cohort.cases[cohort.cases["case"].isin(set(images["case"]))].reset_index(drop=True)
    notes += classes_noted(study, panels)
    return dataclasses.replace(cohort, images=images, panels=panels, cases=cases, notes=notes)


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
        PROBLEMS_SHOWN,
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
        notes.append(f"Left out because they have no sequence: {names_text(list(bare), PROBLEMS_SHOWN)}.")
    return images, notes
