"""Planted copies in real packs: which altered copies of an image the search for twins finds, and false pairs.

    python benchmarks/copies.py [--data ../shared/data] [--output docs/results/copies.md]

The head of the page follows.

# Planted copies in real packs

{each} images of each pack are copied in each of {kinds} ways, and the copies are put among {count} images of the pack.
An image is turned about its centre, its corners are cut off by the crop or filled with black, and it is saved as a PNG
file or as JPEG of quality 60. "Two subjects": each copy has a subject of its own. "One subject": a copy has the subject
of its image. A false pair has a copy and an image that it was not made of. The last columns are the pairs among the
images as they are: in the packs such pairs exist, too.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pages import head_of, page_parser, publish, table

from casewise.audit.twins import find_twins
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store_builder import prepare

PACKS = {
    "covid-cxr": "films",
    "photographs-skin": "photographs",
    "severity-idrid": "fundus",
    "histology-hpylori": "slides (biopsy)",
    "histology-oral": "slides (oral)",
}
# The images of a pack, and of these the copies made in each way.
IMAGES, EACH = 150, 10
# The side of the tiles.
SIDE = 128


@dataclass(frozen=True)
class Way:
    """A way to copy an image: the share of each side that is kept, and the angle in degrees.

    Attributes:
        shift: by which the crop lies off the centre, as a share of what it leaves out.
    """

    crop: float = 1.0
    turn: float = 0.0
    scale: float = 1.0
    brighter: bool = False
    mirrored: bool = False
    saved_again: bool = False
    shift: float = 0.0

    def copy(self, picture: np.ndarray) -> np.ndarray:
        """The altered picture (h, w) or (h, w, 3) `uint8`."""
        height, width = picture.shape[:2]
        picture = picture[:, ::-1] if self.mirrored else picture
        if self.turn:
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.turn, 1.0)
            picture = cv2.warpAffine(np.ascontiguousarray(picture), matrix, (width, height), flags=cv2.INTER_CUBIC)
        margin = (1 - self.crop) / 2
        down, across = (round(side * margin * (1 + self.shift)) for side in (height, width))
        high, wide = round(height * self.crop), round(width * self.crop)
        picture = picture[down : down + high, across : across + wide]
        if self.scale != 1:
            size = (round(picture.shape[1] * self.scale), round(picture.shape[0] * self.scale))
            method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
            picture = cv2.resize(np.ascontiguousarray(picture), size, interpolation=method)
        if self.brighter:
            picture = np.rint(picture * 1.2 + 15.0).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(picture)


BOTH = {"crop": 0.9, "turn": 4.0}
WAYS = {
    "cropped to 95 %": Way(0.95, shift=0.5),
    "cropped to 80 %": Way(0.8, shift=0.5),
    "turned by 2°, black corners": Way(turn=2.0),
    "turned by 8°, black corners": Way(turn=-8.0),
    "90 % and 4°": Way(**BOTH),
    "95 % and 2°": Way(0.95, 2.0),
    "80 % and 8°": Way(0.8, 8.0),
    "90 % and 4°, JPEG": Way(**BOTH, saved_again=True),
    "90 % and 4°, brighter": Way(**BOTH, brighter=True),
    "90 % and 4°, mirrored": Way(**BOTH, mirrored=True),
    "90 % and 4°, half the size": Way(**BOTH, scale=0.5),
    "90 % and 4°, 1.5 times the size": Way(**BOTH, scale=1.5),
    "85 % and 6°, mirrored, brighter, JPEG, 0.7 times the size": Way(0.85, -6.0, 0.7, True, True, True),
}


def images_of(data: Path, pack: str, count: int) -> list[Path]:
    """At most `count` image files of a pack at random, one of each subject, without copies that the pack names."""
    if pack == "photographs-skin":
        paths = sorted((data / pack / "images").rglob("*.jpg"))
    else:
        cases = pd.read_csv(data / pack / "cases.csv", keep_default_na=False, dtype=str)
        cases = cases[cases["duplicate_of"] == ""] if "duplicate_of" in cases else cases
        paths = [data / pack / path for path in cases.drop_duplicates("subject")["path"]]
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[number] for number in sorted(chosen)]


def planted(paths: list[Path], folder: Path, each: int) -> tuple[list[Path], list[int], list[str]]:
    """The files of the copies, the numbers of their images, and the ways."""
    files, sources, ways = [], [], []
    random = np.random.default_rng(1)
    for name, way in WAYS.items():
        for source in random.permutation(len(paths))[:each].tolist():
            picture = read_image(paths[source], size=None, channels="rgb")
            ending = ".jpg" if way.saved_again else ".png"
            file = folder / f"copy{len(files):04d}{ending}"
            quality = [cv2.IMWRITE_JPEG_QUALITY, 60] if way.saved_again else []
            cv2.imwrite(str(file), way.copy(picture)[..., ::-1], quality)
            files.append(file)
            sources.append(source)
            ways.append(name)
    return files, sources, ways


def measure(data: Path, pack: str, each: int, count: int, exact: int | None) -> dict[str, list[int]]:
    """For each way of a pack, how many copies are found as two subjects and as one; and pairs that are false."""
    paths = images_of(data, pack, count)
    limit = {} if exact is None else {"exact": exact}
    figures: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copies, sources, ways = planted(paths, folder, each)
        files, origin = [*paths, *copies], [*range(len(paths)), *sources]
        channels = "grey" if pack == "covid-cxr" else "rgb"
        store = prepare(files, Preparation(size=SIDE, channels=channels), folder / "tiles")
        for column, subjects in enumerate(([*range(len(files))], origin)):
            images = pd.DataFrame({"path": [str(file) for file in files], "subject": [f"s{n}" for n in subjects]})
            start = time.process_time()
            pairs = {(twin.i, twin.j) for twin in find_twins(store, images, **limit)}
            seconds = time.process_time() - start
            for number, (source, way) in enumerate(zip(sources, ways, strict=True), len(paths)):
                figures.setdefault(way, [0, 0])[column] += (source, number) in pairs
            # images that are copies of each other in the pack have copies in common
            known: dict[int, set[int]] = defaultdict(set)
            for i, j in pairs:
                if j < len(paths):
                    known[i].add(j)
                    known[j].add(i)
            false = {
                (i, j) for i, j in pairs
                if j >= len(paths) and origin[i] != origin[j] and origin[i] not in known[origin[j]]
            }  # fmt: skip
            figures.setdefault("false pairs", [0, 0])[column] = len(false)
            figures.setdefault("pairs as they are", [0, 0])[column] = sum(map(len, known.values())) // 2
            figures.setdefault("processor seconds", [0, 0])[column] = round(seconds)
    return figures


def main() -> None:
    parser = page_parser(__doc__, data=True)
    parser.add_argument("--packs", nargs="*", default=list(PACKS))
    parser.add_argument("--each", type=int, default=EACH)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--exact", type=int)
    options = parser.parse_args()
    figures = {}
    for pack in options.packs:
        figures[pack] = measure(options.data, pack, options.each, options.images, options.exact)
        print(pack, figures[pack], flush=True)
    rows = [
        [name, *(f"{both[name][0]} / {both[name][1]}" for both in figures.values())]
        for name in next(iter(figures.values()))
    ]
    lines = table([f"found of {options.each}, two subjects / one", *(PACKS[pack] for pack in options.packs)], rows)
    head = head_of(__doc__, each=options.each, kinds=len(WAYS), count=options.images)
    publish("\n".join([head, *lines]) + "\n", options.output)


if __name__ == "__main__":
    main()
