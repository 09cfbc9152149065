"""From the rows of a cohort's table to what each case is made from: its scans by sequence, its mask or its box."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.cohort import Cohort, with_panels
from casewise.cohort_table import names_text
from casewise.errors import CohortError, nearest
from casewise.study import Study, Volumes
from casewise.volumes.region import Box
from casewise.volumes.slice_store import CaseSources

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
BOX = ("box_x0", "box_y0", "box_z0", "box_x1", "box_y1", "box_z1")


def settle_sequences(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with the rows of the study's sequences alone, cases that lack one left out where the study says so.

    Raises:
        CohortError: with every case whose rows do not make a case, and what to do.
    """
    volumes = study.volumes
    assert volumes is not None
    images = cohort.images
    if volumes.column not in images:
        raise CohortError(
            f"{study.cohort}: there is no column {volumes.column!r} that says which of "
            f"{', '.join(volumes.sequences)} a row shows. Add it, or name it: `volumes: {{column: …}}`."
            f"{nearest(volumes.column, list(images))}"
        )
    images = images.assign(sequence=images[volumes.column].astype(str).str.strip())
    notes = list(cohort.notes)
    known = images["sequence"].isin(volumes.sequences)
    if not known.any():
        found = sorted(set(images["sequence"]))
        raise CohortError(
            f"{study.cohort}: no row shows one of the sequences {', '.join(volumes.sequences)}; {volumes.column} has "
            f"{names_text(found)}.{nearest(volumes.sequences[0], found)}"
        )
    if (~known).any():
        others = names_text(sorted(set(images.loc[~known, "sequence"])))
        notes.append(f"{(~known).sum():,} rows show other sequences ({others}) and are left out.")
        images = images[known]
    _check_rows(study, volumes, images)
    images, told = _with_missing(study, volumes, images)
    images, panels = with_panels(images.reset_index(drop=True), study)
    cases = cohort.cases[cohort.cases["case"].isin(set(images["case"]))].reset_index(drop=True)
    return dataclasses.replace(cohort, images=images, panels=panels, cases=cases, notes=[*notes, *told])


def sources_of(study: Study, cohort: Cohort) -> list[CaseSources]:
    """What each case is made from, in the order of the cohort's panels."""
    volumes = study.volumes
    assert volumes is not None
    groups = dict(iter(cohort.images.groupby("case", sort=False)))
    return [_sources(study, volumes, str(case), groups[case]) for case in cohort.panels["case"]]


def _check_rows(study: Study, volumes: Volumes, images: pd.DataFrame) -> None:
    """A case has one scan of a sequence, or as many slices as its other sequences, each of an order of its own."""
    problems = []
    if volumes.order is None:
        for (case, sequence), rows in images.groupby(["case", "sequence"], sort=False):
            if len(rows) > 1:
                files = names_text([Path(path).name for path in rows["path"]], 3)
                problems.append(f"case {case} has {len(rows)} rows of {sequence} ({files}); a case has one. ")
    else:
        if volumes.order not in images:
            raise CohortError(
                f"{study.cohort}: volumes.order: there is no column {volumes.order!r}."
                f"{nearest(volumes.order, list(images))}"
            )
        orders = images[volumes.order].map(_number)
        for row in images.index[orders.isna()][:SHOWN]:
            value = images.loc[row, volumes.order]
            problems.append(f"case {images.loc[row, 'case']}: {volumes.order} is {value!r} in a row, and no number. ")
        numbered = images.assign(place=orders)
        for case, rows in numbered.groupby("case", sort=False):
            each = {name: tuple(sorted(part["place"])) for name, part in rows.groupby("sequence", sort=False)}
            for name, places in each.items():
                if len(set(places)) < len(places):
                    problems.append(f"case {case}: two slices of {name} have the same {volumes.order}. ")
            if len(set(each.values())) > 1:
                counts = ", ".join(f"{name} {len(places)}" for name, places in each.items())
                problems.append(f"case {case}: its sequences have other slices each ({counts}). ")
    if problems:
        more = f"\n  … and {len(problems) - SHOWN:,} more like these." if len(problems) > SHOWN else ""
        lines = "".join(f"\n  {text.strip()}" for text in problems[:SHOWN])
        raise CohortError(f"{study.cohort}: {len(problems):,} cases cannot be put together.{lines}{more}")


def _with_missing(study: Study, volumes: Volumes, images: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What becomes of cases that lack a sequence."""
    there = images.groupby("case", sort=False)["sequence"].agg(set)
    wanted = set(volumes.sequences)
    lacking = {str(case): sorted(wanted - found) for case, found in there.items() if wanted - found}
    if not lacking:
        return images, []
    named = names_text([f"{case} ({', '.join(missing)})" for case, missing in lacking.items()], SHOWN)
    if volumes.missing == "require":
        raise CohortError(
            f"{study.cohort}: {len(lacking):,} of {len(there):,} cases lack a sequence: {named}. Add the scans, leave "
            "these cases out with `volumes: {missing: drop}`, or learn to do without with `missing: mask`."
        )
    if volumes.missing == "drop":
        kept = images[~images["case"].astype(str).isin(lacking)]
        if kept.empty:
            raise CohortError(f"{study.cohort}: every case lacks a sequence: {named}.")
        return kept, [f"{len(lacking):,} of {len(there):,} cases lack a sequence and are left out: {named}."]
    text = f"{len(lacking):,} of {len(there):,} cases lack a sequence, for which a learned stand-in is put"
    return images, [f"{text}: {named}."]


def _sources(study: Study, volumes: Volumes, case: str, rows: pd.DataFrame) -> CaseSources:
    paths = []
    for sequence in volumes.sequences:
        mine = rows[rows["sequence"] == sequence]
        if volumes.order:
            mine = mine.assign(place=mine[volumes.order].map(_number)).sort_values("place")
        paths.append(tuple(Path(path) for path in mine["path"]))
    folder = (study.root or study.cohort.parent).absolute()
    mask = None
    if volumes.roi == "mask":
        named = sorted({str(value).strip() for value in rows.get(volumes.mask, []) if str(value).strip()})
        if len(named) != 1:
            found = "several" if named else "none"
            raise CohortError(
                f"{study.cohort}: case {case}: volumes.roi is mask, and column {volumes.mask!r} names {found}. Name "
                "one mask file a case, or write another `roi`."
            )
        mask = folder / named[0]
    return CaseSources(
        case=case,
        paths=tuple(paths),
        sequences=tuple(volumes.sequences),
        mask=mask,
        box=_box(study, case, rows) if volumes.roi == "box" else None,
        spacing=(volumes.pixel_mm, volumes.slice_mm) if volumes.order else None,
    )


def _box(study: Study, case: str, rows: pd.DataFrame) -> Box:
    lacking = [name for name in BOX if name not in rows]
    if lacking:
        raise CohortError(
            f"{study.cohort}: volumes.roi is box, and there is no column {lacking[0]!r}. A box needs the columns "
            f"{', '.join(BOX)}: voxels of the case's first sequence, from and up to but without."
        )
    values: list[Any] = [_number(rows[name].iloc[0]) for name in BOX]
    if any(value is None or value != value for value in values):
        found = list(rows[list(BOX)].iloc[0])
        raise CohortError(f"{study.cohort}: case {case}: its box is {found}; six numbers are needed.")
    low, high = tuple(map(float, values[:3])), tuple(map(float, values[3:]))
    return Box(low, high)  # type: ignore[arg-type]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
