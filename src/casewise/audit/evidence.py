"""What a label should not be told from, as numbers: columns, file facts, and parts of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from casewise.audit import views
from casewise.audit.facts import encode, file_features

if TYPE_CHECKING:
    import pandas as pd

    from casewise.images.store import TileStore
    from casewise.study import Study

__all__ = ["Evidence", "Kind", "gather"]

Kind = Literal["column", "files", "border", "thumbnail", "outside-anatomy", "source-from-image"]
# More images than these are not examined: what a network could use shows in so many subjects.
EXAMINED = 5_000


@dataclass(frozen=True, eq=False)
class Evidence:
    """Features (n, d) of the images `rows`, from which no label should be told.

    `filled` (n,) and `reading` are of columns: whether a cell is filled in, and as what it was read. `how`: by whom an
    image is seen, where not as plain grey values.
    """

    name: str
    kind: Kind
    rows: NDArray[np.int64]
    features: NDArray[np.floating[Any]]
    filled: NDArray[np.bool_] | None = None
    how: str = ""
    reading: str = ""


def _examined(images: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Numbers of the images to examine: all, or those of subjects drawn until there are enough."""
    if len(images) <= EXAMINED:
        return np.arange(len(images))
    subjects = images["subject"].astype(str).to_numpy()
    names, counts = np.unique(subjects, return_counts=True)
    order = np.random.default_rng([seed, EXAMINED]).permutation(len(names))
    drawn = names[order[np.cumsum(counts[order]) <= EXAMINED]]
    return np.flatnonzero(np.isin(subjects, drawn))


def gather(
    study: Study, images: pd.DataFrame, tiles: TileStore, columns: list[str], *, embed: views.Embed | None = None
) -> Iterator[Evidence]:
    """Everything that the label is to be told from, one after another; row i of `tiles` is image i.

    Raises:
        CohortError: masks are missing or do not match their images.
    """
    rows = _examined(images, study.seed)
    subjects = images["subject"].to_numpy()[rows]
    for name in columns:
        column = encode(name, images[name].astype(str).to_numpy()[rows].tolist(), subjects)
        yield Evidence(name.removeprefix("table_"), "column", rows, column.features, column.filled, reading=column.kind)
    yield Evidence("files", "files", rows, file_features(tiles.index.iloc[rows], subjects))
    small = views.pictures(tiles, rows)
    yield Evidence("border", "border", rows, views.border(small))
    yield Evidence("border", "border", rows, views.corners(small), how="its corners")
    if embed:
        yield Evidence("border", "border", rows, views.seen_by(embed, tiles, rows, None), how="seen by a network")
    yield Evidence("thumbnail", "thumbnail", rows, views.thumbnail(small))
    yield Evidence("image", "source-from-image", rows, views.look(small))
    masked, masks = views.read_masks(study, images, tiles)
    here = np.isin(masked, rows)
    masked, masks = masked[here], masks[here]
    if len(masked):
        small = small[np.searchsorted(rows, masked)]
        yield Evidence("outside-anatomy", "outside-anatomy", masked, views.outside(small, masks))
        if embed:
            seen = views.seen_by(embed, tiles, masked, masks)
            yield Evidence("outside-anatomy", "outside-anatomy", masked, seen, how="seen by a network")
