"""Evidence: what of the table, the files and the images should not predict a label, as features."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit import regions
from casewise.audit.columns import FILLED_IN, is_filled
from casewise.audit.metadata import MOST_LEVELS, encode, file_features, file_rate
from casewise.audit.probes import Floats
from casewise.audit.random_filters import random_features
from casewise.audit.twins import shown_by
from casewise.modalities.overlays import MOST_IMAGES, Overlay, find_overlays
from casewise.modalities.overlays import SIDE as OVERLAY_SIDE
from casewise.modalities.store.store import TileStore
from casewise.study.schema import Study

Kind = Literal[
    "column", "files", "file-name", "file-size", "shape-pad", "shape-stretch", "border", "thumbnail",
    "slide-border", "overlay", "marks", "outside-anatomy", "source-from-image",
    "brightness", "contrast", "sharpness", "compression", "grey-levels", "other-column", "filling", "other-filling",
]  # fmt: skip
SHAPES: dict[str, Kind] = {"pad": "shape-pad", "stretch": "shape-stretch"}
ENDS = "its darkest and brightest parts"
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
        inside: for borders, the same features of an equally large area inside the image.
        overlay: for static marks, the kind; the feature is whether an image has it.
    """

    name: str
    kind: Kind
    rows: NDArray[np.int64]
    features: NDArray[np.floating[Any]]
    filled: NDArray[np.bool_] | None = None
    how: str = ""
    reading: str = ""
    inside: Callable[[], Floats] | None = None
    overlay: Overlay | None = None


@dataclass(frozen=True, eq=False)
class EvidenceSources:
    """The images of a study and their tiles, from which evidence is gathered without the labels."""

    study: Study
    images: pd.DataFrame
    tiles: TileStore

    @property
    def subjects(self) -> Any:
        """(N,) the subject of each image."""
        return self.images["subject"].to_numpy()

    @property
    def prefixes(self) -> list[str]:
        """The name of each file up to its first digit."""
        return [re.split("[0-9]", Path(path).stem)[0] for path in self.images["path"].astype(str)]

    def gather(
        self, columns: list[str], further: list[str], gaps: list[str], embed: regions.Embed | None
    ) -> Iterator[Evidence]:
        """All evidence, one piece after another: also `further` columns with other than usual names, and `gaps`.

        Raises:
            CohortError: masks are missing or do not match their images.
        """
        tiles = self.tiles
        rows = self._tested(np.arange(len(self.images)))
        subjects = self.subjects[rows]
        yield from self._of_columns(columns, "column", rows)
        yield from self._of_gaps(gaps, {*columns, *self.study.covariates}, rows)
        yield Evidence("files", "files", rows, file_features(tiles.index.iloc[rows], subjects))
        prefixes = np.array(self.prefixes)[rows].tolist()
        if 2 <= len(set(prefixes)) <= MOST_LEVELS:
            yield Evidence("file-name", "file-name", rows, encode("prefix", prefixes, subjects).features)
        yield Evidence("file-size", "file-size", rows, file_rate(tiles.index.iloc[rows]))
        if (shape := regions.shape(tiles, rows)) is not None:
            yield Evidence("shape", SHAPES[tiles.preparation.fit], rows, shape)
        small = regions.pictures(tiles, rows)
        yield from self.borders(small, rows)
        if regions.has_bars(tiles, rows):
            yield from self.borders(regions.pictures(tiles, rows, bars=False), rows, "inside the bars")
        seen_by, sight = (embed, "seen by a network") if embed else (random_features, "seen by random filters")
        if not self.fields:
            sample = self._sample(rows, MAX_EMBEDDED)
            embedded = regions.embedded(seen_by, tiles, sample, None)
            hidden = regions.outside_area("inside", len(sample))
            inside = None if tiles.cut else partial(regions.embedded, seen_by, tiles, sample, hidden)
            yield Evidence("border", self.border_kind, sample, embedded, how=sight, inside=inside)
        if not tiles.overview:
            yield from self._overlays(self._sample(rows, MOST_IMAGES))
        yield Evidence("thumbnail", "thumbnail", rows, regions.thumbnail(small))
        yield Evidence("image", "source-from-image", rows, regions.grey_features(small))
        masked, masks = regions.read_masks(self.study, self.images, tiles)
        if len(masked):
            tested = np.isin(masked, self._tested(masked))
            masked, masks = masked[tested], masks[tested]
            outside = regions.outside(regions.pictures(tiles, masked), masks)
            yield Evidence("outside-anatomy", "outside-anatomy", masked, outside)
            sample = self._sample(masked, MAX_EMBEDDED)
            embedded = regions.embedded(seen_by, tiles, sample, masks[np.isin(masked, sample)])
            yield Evidence("outside-anatomy", "outside-anatomy", sample, embedded, how=sight)
        yield from self._of_columns(further, "other-column", rows)
        yield Evidence("brightness", "brightness", rows, regions.brightness(small))
        inner = regions.pictures(tiles, rows, bars=False) if regions.has_bars(tiles, rows) else small
        ends = np.column_stack([regions.extremes(inner), regions.nearly_black(tiles, rows)])
        yield Evidence("brightness", "brightness", rows, ends, how=ENDS)
        yield Evidence("contrast", "contrast", rows, regions.contrast(small))
        sample, paths = self._sample(rows, regions.MOST_READ), shown_by(self.images)
        measures, read = regions.in_files([paths[row] for row in sample], marks=not tiles.overview)
        for name, features in measures.items() if read.any() else ():
            yield Evidence(name, name, sample[read], features[read])

    @property
    def border_kind(self) -> Kind:
        return "slide-border" if self.tiles.cut else "border"

    @property
    def fields(self) -> bool:
        """Whether images are fields of tissue, whose border and interior are comparable."""
        return self.study.audit.fields and not self.tiles.cut

    def borders(self, pictures: regions.Bytes, rows: NDArray[np.int64], how: str = "") -> Iterator[Evidence]:
        """The border and its corners as evidence; for fields, they are compared with the interior here already."""
        how = " ".join(filter(None, ("compared with the interior" if self.fields else "", how)))
        alone = self.fields or self.tiles.cut
        for measure, within, name in (
            (regions.border, {"area": "inside"}, ""),
            (regions.corners, {"inside": True}, "its corners"),
        ):
            features = measure(pictures, fields=self.fields)
            inside = None if alone else partial(measure, pictures, **within)
            yield Evidence("border", self.border_kind, rows, features, how=f"{name} {how}".strip(), inside=inside)

    def _overlays(self, rows: NDArray[np.int64]) -> Iterator[Evidence]:
        """Each kind of static mark as evidence; it is found without the labels."""
        tiles, size = self.tiles, self.tiles.preparation.size
        pictures = regions.pictures(tiles, rows, bars=False, side=min(size, OVERLAY_SIDE))
        sizes = [(int(width), int(height)) for width, height in tiles.index[["width", "height"]].to_numpy()[rows]]
        for number, overlay in enumerate(find_overlays(pictures, sizes, tiles.preparation.masked), 1):
            marked, how = overlay.carriers[:, None].astype(float), f"mark {number}, {overlay.place}"
            yield Evidence("overlay", "overlay", rows, marked, how=how, overlay=overlay)

    def _of_columns(self, columns: list[str], kind: Kind, rows: NDArray[np.int64]) -> Iterator[Evidence]:
        for name in columns:
            read = encode(name, self.images[name].to_numpy()[rows].tolist(), self.subjects[rows])
            plain = name.removeprefix("table_")
            yield Evidence(plain, kind, rows, read.features, read.filled, reading=read.kind)

    def _of_gaps(self, columns: list[str], grave: set[str], rows: NDArray[np.int64]) -> Iterator[Evidence]:
        """Whether columns are filled in, once for those that have the same gaps; of the `grave` a run is stopped."""
        tested: set[bytes] = set()
        for name in sorted(columns, key=lambda name: not grave & {name, name.removeprefix("table_")}):
            filled, plain = is_filled(self.images[name])[rows], name.removeprefix("table_")
            if filled.tobytes() not in tested:
                tested.add(filled.tobytes())
                kind: Kind = "filling" if grave & {name, plain} else "other-filling"
                yield Evidence(plain, kind, rows, filled[:, None].astype(float), filled, how=FILLED_IN)

    def _sample(self, rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """At most `most` of `rows`: first one image of each subject, then a second one, and so on."""
        if len(rows) <= most:
            return rows
        shuffled = np.random.default_rng([self.study.seed, most]).permutation(rows)
        subjects = self.images["subject"].iloc[shuffled]
        nth_of_subject = subjects.groupby(subjects).cumcount().to_numpy()
        return np.sort(shuffled[np.argsort(nth_of_subject, kind="stable")[:most]])

    def _tested(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tested images: all up to a limit, or one of each subject if subjects have different numbers of images.

        Labels are permuted between subjects; this is exact only if all subjects have the same number of images.
        """
        counts = self.images["subject"].iloc[rows].value_counts()
        return self._sample(rows, min(MAX_IMAGES, len(counts)) if counts.nunique() > 1 else MAX_IMAGES)
