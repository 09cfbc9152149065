"""Static marks in the real packs: what `casewise.modalities.overlays` finds, without labels, and on which classes.

    python benchmarks/overlays.py [--data ../shared/data] [--output docs/results/overlays.md]

The head of the page follows.

# Static marks in the real packs

Each image, stretched to a square of {side} pixels, in grey; at most {most:,} images of a pack, drawn at random. Marks
are found without the labels. The photographs of the skin have two kinds of watermark: the pack states the
second for 42 images of eczema, 12 of carcinoma, 9 of lichen, 2 of psoriasis and none of keratosis. The first kind is
divided into two renderings that differ by less than a pixel. Chest films, fundus photographs (all of one camera, with
dust on its sensor), biopsies and slices of brains are aligned or repeat structures, but have no mark that is the same
in many of them; single letters at varying places in chest films are not found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pages import head_of, page_parser, publish, table

from casewise.modalities.overlays import MOST_IMAGES, SIDE, find_overlays
from casewise.modalities.store.readers import image_shape, read_image

# The columns that are counted, of each pack; folders are classes where there is no table.
PACKS = {
    "photographs-skin": "folder",
    "covid-cxr": "label",
    "severity-covid": "source",
    "severity-idrid": "dr_grade",
    "histology-hpylori": "label",
    "histology-oral": "label",
    "mri-lgg": "site",
}


def rows_of(pack: Path, column: str) -> Iterator[dict[str, object]]:
    """One row for each kind of mark in a pack; one with dashes where there is none."""
    if column == "folder":
        paths = sorted((pack / "images").rglob("*.jpg"))
        values = pd.Series([path.parent.name for path in paths])
    else:
        cases = pd.read_csv(pack / "cases.csv")
        paths, values = [pack / path for path in cases["path"]], cases[column].astype(str)
    rows = np.sort(np.random.default_rng(0).permutation(len(paths))[:MOST_IMAGES])
    read = [read_image(paths[row], size=2 * SIDE, channels="grey")[..., 0] for row in rows]
    pictures = np.array([cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in read])
    start, values = time.process_time(), values.iloc[rows].reset_index(drop=True)
    overlays = find_overlays(pictures, [image_shape(paths[row]) or (1, 1) for row in rows])
    seconds = f"{time.process_time() - start:.0f} s"
    facts: dict[str, object] = {"pack": pack.name, "images": len(rows), "processor time": seconds}
    if not overlays:
        yield facts | {"mark": "none", "with it": "–", "by class": "–"}
    for overlay in overlays:
        counts = [f"{(group & overlay.carriers).sum()} of {group.sum()} {name}"
                  for name in values.unique() for group in [(values == name).to_numpy()]]  # fmt: skip
        yield facts | {"mark": overlay.place, "with it": int(overlay.carriers.sum()), "by class": ", ".join(counts)}


def main() -> None:
    options = page_parser(__doc__, data=True).parse_args()
    rows = [row for pack, column in PACKS.items() for row in rows_of(options.data / pack, column)]
    lines = table(list(rows[0]), (list(row.values()) for row in rows))
    head = head_of(__doc__, side=SIDE, most=MOST_IMAGES)
    publish("\n".join([head, *lines]) + "\n", options.output)


if __name__ == "__main__":
    main()
