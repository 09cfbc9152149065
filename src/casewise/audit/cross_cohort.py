"""Duplicate pictures in two cohorts: a person in both would be in training and test data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.audit.twins import find_twins, shown_by
from casewise.errors import CohortError

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore

SHOWN = 5


def check_twins_between(
    cohort: Cohort,
    store: TileStore,
    other: Cohort,
    other_store: TileStore,
    *,
    where: str = "in the pretraining cohort",
    other_people: bool = False,
) -> None:
    """Stop if a picture occurs in both cohorts under different subjects, or at all if the cohorts share no people.

    Copies that were resized, recompressed, slightly cropped, flipped or brightened count as well.

    Raises:
        CohortError: names the pairs.
    """
    ours, theirs = (
        table[["path", "subject"]].astype(str).assign(slide_picture=shown_by(table))
        for table in (cohort.images, other.images)
    )
    # two cohorts may use one name for two people; pairs within a subject need a higher likeness
    renamed = theirs.assign(subject="other: " + theirs["subject"]) if other_people else theirs
    pairs = [
        (twin.i, twin.j - len(ours))
        for twin in find_twins(_joined(store, other_store), pd.concat([ours, renamed], ignore_index=True))
        if twin.i < len(ours) <= twin.j
    ]
    duplicates = [
        (ours.iloc[i], theirs.iloc[j])
        for i, j in pairs
        if other_people or ours["subject"].iloc[i] != theirs["subject"].iloc[j]
    ]
    if duplicates:
        lines = [
            f"\n  {own.path} ({own.subject}) = {other.path} ({other.subject})" for own, other in duplicates[:SHOWN]
        ]
        more = f"\n  and {len(duplicates) - SHOWN} more pairs" if len(duplicates) > SHOWN else ""
        remedy = (
            "Exclude all images of these people from one of the cohorts (`where_not`)."
            if other_people
            else "Give both the same subject, or exclude all images of one of them (`where_not`)."
        )
        under = "" if other_people else "under another subject "
        raise CohortError(f"The same picture occurs {under}{where}:{''.join(lines)}{more}\n{remedy}")


def _joined(first: TileStore, second: TileStore) -> TileStore:
    """One store with the tiles of two stores of the same preparation."""
    tiles: Any = np.concatenate([first.tiles, second.tiles])
    return dataclasses.replace(first, tiles=tiles, index=pd.concat([first.index, second.index], ignore_index=True))
