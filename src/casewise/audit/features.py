"""Evidence that should not predict a label, as features: columns, file facts, and regions of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from casewise.audit import regions
from casewise.audit.metadata import encode, file_features, file_rate

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

__all__ = ["Evidence", "Kind", "gather"]

Kind = Literal["column", "files", "file-size", "border", "thumbnail", "outside-anatomy", "source-from-image"]
# The largest number of images that are tested; an effect that a network could use is visible in these.
MAX_IMAGES = 5_000
# The largest number of images that are embedded, because embedding on a CPU takes longer than all other steps.
MAX_EMBEDDED = 800


@dataclass(frozen=True, eq=False)
class Evidence:
    """Features (n, d) of the images `rows` that should not predict any label.

    Attributes:
        filled: (n,) for columns, whether a cell is filled in.
        how: the variant of the features, if not plain grey values.
        reading: for columns, the type as which the column was read.
    """

    name: str
    kind: Kind
    rows: NDArray[np.int64]
    features: NDArray[np.floating[Any]]
    filled: NDArray[np.bool_] | None = None
    how: str = ""
    reading: str = ""


def _sample(images: pd.DataFrame, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of `rows`: first one image of each subject, then a second one, and so on."""
    if len(rows) <= most:
        return rows
    shuffled = np.random.default_rng([seed, most]).permutation(rows)
    round_ = images["subject"].iloc[shuffled].groupby(images["subject"].iloc[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(round_, kind="stable")[:most]])


def _tested(images: pd.DataFrame, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The tested images: all up to a limit, or one of each subject if subjects have different numbers of images.

    Labels are permuted between subjects; this is exact only if all subjects have the same number of images.
    """
    counts = images["subject"].iloc[rows].value_counts()
    return _sample(images, rows, min(MAX_IMAGES, len(counts)) if counts.nunique() > 1 else MAX_IMAGES, seed)


def gather(
    study: Study, images: pd.DataFrame, tiles: TileStore, columns: list[str], *, embed: regions.Embed | None = None
) -> Iterator[Evidence]:
    """All evidence, one piece after another; row i of `tiles` is image i.

    Raises:
        CohortError: masks are missing or do not match their images.
    """
    rows = _tested(images, np.arange(len(images)), study.seed)
    subjects = images["subject"].to_numpy()[rows]
    for name in columns:
        column = encode(name, images[name].astype(str).to_numpy()[rows].tolist(), subjects)
        yield Evidence(name.removeprefix("table_"), "column", rows, column.features, column.filled, reading=column.kind)
    yield Evidence("files", "files", rows, file_features(tiles.index.iloc[rows], subjects))
    yield Evidence("file-size", "file-size", rows, file_rate(tiles.index.iloc[rows]))
    small = regions.pictures(tiles, rows)
    yield Evidence("border", "border", rows, regions.border(small))
    yield Evidence("border", "border", rows, regions.corners(small), how="its corners")
    if embed:
        few = _sample(images, rows, MAX_EMBEDDED, study.seed)
        yield Evidence("border", "border", few, regions.embedded(embed, tiles, few, None), how="seen by a network")
    yield Evidence("thumbnail", "thumbnail", rows, regions.thumbnail(small))
    yield Evidence("image", "source-from-image", rows, regions.grey_features(small))
    masked, masks = regions.read_masks(study, images, tiles)
    tested = np.isin(masked, _tested(images, masked, study.seed)) if len(masked) else np.zeros(0, bool)
    masked, masks = masked[tested], masks[tested]
    if len(masked):
        small = regions.pictures(tiles, masked)
        yield Evidence("outside-anatomy", "outside-anatomy", masked, regions.outside(small, masks))
        if embed:
            few = _sample(images, masked, MAX_EMBEDDED, study.seed)
            embedded = regions.embedded(embed, tiles, few, masks[np.isin(masked, few)])
            yield Evidence("outside-anatomy", "outside-anatomy", few, embedded, how="seen by a network")
