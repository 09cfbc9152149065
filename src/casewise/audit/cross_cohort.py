"""The same picture, or nearly, in two cohorts: one person under two names would be learned from and judged."""

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
    where: str = "in the cohort to pretrain on",
    other_people: bool = False,
) -> None:
    """Stop if a picture of one cohort stands in the other under another subject, or at all if all are other people.

    Pictures that were resized, recompressed, cropped a little, flipped or made brighter count as well.

    Raises:
        CohortError: naming the pairs; nothing was trained.
    """
    ours, theirs = (
        table[["path", "subject"]].astype(str).assign(slide_picture=shown_by(table))
        for table in (cohort.images, other.images)
    )
    # Two cohorts may use one name for two people; within a subject more likeness is asked for.
    told = theirs.assign(subject="other: " + theirs["subject"]) if other_people else theirs
    pairs = [
        (twin.i, twin.j - len(ours))
        for twin in find_twins(_joined(store, other_store), pd.concat([ours, told], ignore_index=True))
        if twin.i < len(ours) <= twin.j
    ]
    found = [
        (ours.iloc[one], theirs.iloc[two])
        for one, two in pairs
        if other_people or ours["subject"].iloc[one] != theirs["subject"].iloc[two]
    ]
    if found:
        lines = [f"\n  {one.path} ({one.subject}) = {two.path} ({two.subject})" for one, two in found[:SHOWN]]
        more = f"\n  and {len(found) - SHOWN} more pairs" if len(found) > SHOWN else ""
        remedy = (
            "Leave all images of these people out of one of the two (`where_not`)."
            if other_people
            else "Give both the same subject, or leave all images of one of them out (`where_not`)."
        )
        under = "" if other_people else "under another subject "
        raise CohortError(f"The same picture stands {under}{where}:{''.join(lines)}{more}\n{remedy}")


def _joined(one: TileStore, two: TileStore) -> TileStore:
    """The tiles of two stores of one preparation as one, those of the first before."""
    tiles: Any = np.concatenate([one.tiles, two.tiles])
    return dataclasses.replace(one, tiles=tiles, index=pd.concat([one.index, two.index], ignore_index=True))
