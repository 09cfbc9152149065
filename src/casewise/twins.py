"""Identical images under two subjects: one person under two names stands on both sides of any split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.errors import CohortError

if TYPE_CHECKING:
    from casewise.cohort import Cohort
    from casewise.images.store import TileStore


def check_twins(cohort: Cohort, store: TileStore) -> None:
    """Stop if the same picture stands under two subjects.

    Raises:
        CohortError: naming the pairs; nothing was trained.
    """
    _refuse(_pictures(cohort, store), _pictures(cohort, store), "The same picture stands under two subjects")


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

    Raises:
        CohortError: naming the pairs; nothing was trained.
    """
    _refuse(
        _pictures(cohort, store),
        _pictures(other, other_store),
        f"The same picture stands {'' if other_people else 'under another subject '}{where}",
        other_people=other_people,
    )


def _pictures(cohort: Cohort, store: TileStore) -> pd.DataFrame:
    """One row an image: path, subject, and what makes it the same picture (the tile's own bytes)."""
    table = cohort.images[["path", "subject"]].reset_index(drop=True).astype(str)
    blank = np.array([not tile.any() for tile in store.tiles])
    return table.assign(content=store.index["tile_sha256"].to_numpy())[~blank]


def _refuse(one: pd.DataFrame, two: pd.DataFrame, what: str, *, other_people: bool = False) -> None:
    pairs = one.merge(two, on="content", suffixes=("", "_other"))
    pairs = pairs if other_people else pairs[pairs["subject"] != pairs["subject_other"]]
    pairs = pairs[~pd.DataFrame(np.sort(pairs[["path", "path_other"]], axis=1), index=pairs.index).duplicated()]
    if len(pairs):
        lines = [
            f"\n  {row.path} ({row.subject}) = {row.path_other} ({row.subject_other})"
            for row in pairs.head(5).itertuples(index=False)
        ]
        more = f"\n  and {len(pairs) - 5} more pairs" if len(pairs) > 5 else ""
        raise CohortError(
            f"{what}:{''.join(lines)}{more}\nGive both the same subject, or leave one of them out (`where:`)."
        )
