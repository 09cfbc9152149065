"""What a label should not be told from, as numbers: columns, file facts, and parts of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from casewise.audit import regions as views
from casewise.audit.metadata import encode, file_features, file_rate

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

__all__ = ["Evidence", "Kind", "gather"]

Kind = Literal["column", "files", "file-size", "border", "thumbnail", "outside-anatomy", "source-from-image"]
# More images than these are not examined: what a network could use shows in so many subjects.
EXAMINED = 5_000
# And these are what a network is shown: on a processor it takes longer than all the rest.
SHOWN = 800


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


def _drawn(images: pd.DataFrame, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of `rows`: one image of each subject first, then a second one, and so on."""
    if len(rows) <= most:
        return rows
    shuffled = np.random.default_rng([seed, most]).permutation(rows)
    round_ = images["subject"].iloc[shuffled].groupby(images["subject"].iloc[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(round_, kind="stable")[:most]])


def _examined(images: pd.DataFrame, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The images that are asked: all up to a limit, or one of each subject where subjects have unlike numbers of them.

    Labels are moved between subjects to see what chance gives; that is fair only where all have as many images.
    """
    counts = images["subject"].iloc[rows].value_counts()
    return _drawn(images, rows, min(EXAMINED, len(counts)) if counts.nunique() > 1 else EXAMINED, seed)


def gather(
    study: Study, images: pd.DataFrame, tiles: TileStore, columns: list[str], *, embed: views.Embed | None = None
) -> Iterator[Evidence]:
    """Everything that the label is to be told from, one after another; row i of `tiles` is image i.

    Raises:
        CohortError: masks are missing or do not match their images.
    """
    rows = _examined(images, np.arange(len(images)), study.seed)
    subjects = images["subject"].to_numpy()[rows]
    for name in columns:
        column = encode(name, images[name].astype(str).to_numpy()[rows].tolist(), subjects)
        yield Evidence(name.removeprefix("table_"), "column", rows, column.features, column.filled, reading=column.kind)
    yield Evidence("files", "files", rows, file_features(tiles.index.iloc[rows], subjects))
    yield Evidence("file-size", "file-size", rows, file_rate(tiles.index.iloc[rows]))
    small = views.pictures(tiles, rows)
    yield Evidence("border", "border", rows, views.border(small))
    yield Evidence("border", "border", rows, views.corners(small), how="its corners")
    if embed:
        few = _drawn(images, rows, SHOWN, study.seed)
        yield Evidence("border", "border", few, views.seen_by(embed, tiles, few, None), how="seen by a network")
    yield Evidence("thumbnail", "thumbnail", rows, views.thumbnail(small))
    yield Evidence("image", "source-from-image", rows, views.look(small))
    masked, masks = views.read_masks(study, images, tiles)
    here = np.isin(masked, _examined(images, masked, study.seed)) if len(masked) else np.zeros(0, bool)
    masked, masks = masked[here], masks[here]
    if len(masked):
        small = views.pictures(tiles, masked)
        yield Evidence("outside-anatomy", "outside-anatomy", masked, views.outside(small, masks))
        if embed:
            few = _drawn(images, masked, SHOWN, study.seed)
            seen = views.seen_by(embed, tiles, few, masks[np.isin(masked, few)])
            yield Evidence("outside-anatomy", "outside-anatomy", few, seen, how="seen by a network")
