"""The page of the audit: its findings, and every pair of similar images, registered, with the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from casewise.audit.findings import Audit, noun_of
from casewise.audit.twins import shown_by
from casewise.audit.verify import SIDE, in_pixels
from casewise.cohort.decisions import read_decisions
from casewise.errors import ImageError
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore
from casewise.report.blocks import Block, Facts, Items, Picture, Pictures, Row, Section, Table, Text, plain_page
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.sections.audit import all_tests, findings, overlays, worst_first
from casewise.run_folder.artefact import TextFile

# Three pictures of up to 240 pixels have about 30 kB, so a page has at most 4 MB.
MOST_PAIRS, LONGEST = 100, 240
# The difference is shown this much stronger, as lighter or darker than grey.
GAIN, GREY = 2.0, 128
FOOTER = "This page contains pictures of subjects: treat it as confidentially as the pictures."
PAIRS = (
    "Pairs of the most serious findings first. Of similar {nouns}, the second is also shown as registered to the first,"
    " and their difference after fitting brightness and contrast: grey means no difference, and deviations are doubled."
)
KINDS = {"bytes": "the same file", "pixels": "the same pixels"}
FLIPS = {
    "left-right": "mirrored left to right",
    "up-down": "mirrored top to bottom",
    "both": "turned by 180°",
    "transposed": "mirrored and turned by 90°",
    "transposed both": "mirrored and turned by 90°",
    "turned right": "turned by 90°",
    "turned left": "turned by 90°",
}


@dataclass
class _Pair:
    """Two images with the codes of their findings, and how the second lies on the first, if it was registered."""

    paths: tuple[str, str]
    codes: list[str]
    registration: Mapping[str, Any] | None = None

    @property
    def caption(self) -> str:
        """The codes, and how alike the images are."""
        return "; ".join([*dict.fromkeys(self.codes), *_likeness(self.registration or {})])


def write_audit_page(
    audit: Audit,
    accepted: Mapping[str, str],
    images: pd.DataFrame,
    store: TileStore,
    path: Path,
    *,
    title: str,
    further: Sequence[Section] = (),
) -> Path:
    """Write the page; row i of `images`, as the audit read them, is tile i.

    Args:
        title: of the study.
        further: sections below.

    Raises:
        RunError: the file cannot be written.
    """
    marks = overlays(audit, lambda row: store.tiles[row][(slice(None), *store.content(row))])
    shown = [*findings(audit, accepted), *marks, *all_tests(audit), Items(audit.notes(accepted))]
    pairs = Section("pairs", "Pairs", _pictures(audit, images, store))
    sections = [Section("findings", "Findings", shown), pairs, *further]
    pictures = any(isinstance(block, Pictures) for section in sections for block in section.blocks)
    page = plain_page(f"Audit: {title}", sections, kind="Audit before training", footer=FOOTER if pictures else "")
    return TextFile(path).write(page)


def decisions_section(file: Path) -> Section:
    """What a table of decisions leaves out and keeps, with the reasons.

    Raises:
        CohortError: as `read_decisions`.
    """
    rows = [Row(path, [decision, reason]) for path, decision, reason in read_decisions(file).itertuples(index=False)]
    return Section("decisions", "Decisions", [Table(["Image", "Decision", "Reason"], rows, f"From {file.name}.")])


def _pictures(audit: Audit, images: pd.DataFrame, store: TileStore) -> list[Block]:
    """The number of pairs and, of the most serious ones, the pictures."""
    pairs = _pairs(audit)
    shown = sorted(pairs, key=lambda pair: pair.registration is None)[:MOST_PAIRS]
    count = f"{len(shown)} of {len(pairs)}, the others in `audit.json`" if len(shown) < len(pairs) else str(len(pairs))
    counts = Facts([("Pairs shown", count)])
    note = Text(PAIRS.format(nouns=noun_of(audit.facts)[1]) if pairs else "", note=True)
    files = dict(zip(images["path"].astype(str), shown_by(images), strict=True))
    strips = [Pictures(_shown(pair, images, store, files), pair.caption, "panels") for pair in shown]
    return [counts, note, *strips]


def _pairs(audit: Audit) -> list[_Pair]:
    """Every pair once, in the order of the findings."""
    pairs: dict[tuple[str, str], _Pair] = {}
    for finding in worst_first(audit):
        registrations = finding.figures.get("registrations") or []
        for number, paths in enumerate(finding.pairs):
            pair = pairs.setdefault(paths, _Pair(paths, []))
            pair.codes.append(finding.id)
            if number < len(registrations):
                pair.registration = registrations[number]
    return list(pairs.values())


def _likeness(registration: Mapping[str, Any]) -> list[str]:
    """How alike two registered images are, and how the second was changed."""
    if not registration:
        return []
    changes = {
        FLIPS.get(registration["flip"], ""): registration["flip"] != "none",
        f"turned by {abs(registration['angle']):.0f}°": abs(registration["angle"]) >= 2,
        "negative": registration["negative"],
        f"scale {registration['scale']:.2f}": registration["scale"] < 0.97,
        "compared at the size of a tile only": registration["blurred"],
    }
    alike = KINDS.get(registration["kind"]) or f"likeness {registration['likeness']:.2f}"
    return [alike, *(change for change, holds in changes.items() if holds)]


def _shown(pair: _Pair, images: pd.DataFrame, store: TileStore, files: Mapping[str, str]) -> list[Picture]:
    """The pictures of a pair: as they are, the second one registered to the first, and their difference."""
    rows = {path: row for row, path in enumerate(images["path"].astype(str))}
    pictures = [_picture(files.get(path, path), store, rows.get(path)) for path in pair.paths]
    shown = []
    for number, path, picture in zip(("First", "Second"), pair.paths, pictures, strict=True):
        subject = f", subject {images['subject'].iat[rows[path]]}" if path in rows else ""
        uri, name = data_uri(picture, longest=LONGEST) if picture is not None else "data:,", Path(path).name
        shown.append(Picture(uri, f"{number} of the pair: {name}", f"{name}{subject}"))
    first, second = pictures
    if pair.registration and first is not None and second is not None:
        warp, negative = np.array(pair.registration["warp"], float), bool(pair.registration["negative"])
        names = (("Second, registered to the first", "second, registered"), ("Difference", "difference"))
        for picture, (alt, name) in zip(difference(first, second, warp, negative=negative), names, strict=True):
            shown.append(Picture(data_uri(picture, longest=LONGEST), alt, name))
    return shown


def _picture(file: str, store: TileStore, row: int | None) -> np.ndarray | None:
    """The file as (h, w, 3) or (h, w) `uint8`; its tile if the file cannot be read; None if it has no tile."""
    try:
        picture = read_image(Path(file), size=LONGEST, channels=store.preparation.channels)
        return picture[..., 0] if picture.shape[2] == 1 else picture
    except ImageError:
        if row is None:
            return None
        down, across = store.content(row)
        return as_picture(store.tiles[row][:, down, across])


def difference(
    first: np.ndarray, second: np.ndarray, warp: np.ndarray, *, negative: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The second picture registered to the first, and their difference in grey, both of the first picture's size.

    Brightness and contrast are fitted where both have content; grey means no difference. Where the second picture
    shows nothing, both are grey.

    Args:
        warp: (2, 3) from the first to the second picture, each a square of `SIDE` pixels.
    """
    side, (height, width) = 2 * SIDE, first.shape[:2]
    # both are resampled alike, so that the same file gives no difference
    left, right = (
        cv2.resize(_grey(picture), (side, side), interpolation=cv2.INTER_AREA) for picture in (first, second)
    )
    grid = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    scaled = in_pixels(warp, 0.5)
    moved = cv2.warpAffine(right, scaled, (side, side), flags=grid)
    both = cv2.warpAffine(np.ones_like(right), scaled, (side, side), flags=grid) > 0.99
    registered = np.where(both, 255 - moved if negative else moved, GREY).astype(np.float32)
    remaining = np.full_like(registered, GREY)
    if both.sum() > 1 and registered[both].std() > 1e-6:
        slope, offset = np.polyfit(registered[both], left[both], 1)
        remaining = np.where(both, GREY + GAIN * (slope * registered + offset - left), GREY).astype(np.float32)
    shown = [np.rint(cv2.resize(image, (width, height))).clip(0, 255) for image in (registered, remaining)]
    return shown[0].astype(np.uint8), shown[1].astype(np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture if picture.ndim == 2 else picture.mean(axis=2), np.float32)
