"""The page of the audit: its findings, and every pair of similar images, registered, with the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from markupsafe import Markup

from casewise.audit.findings import Audit, noun_of
from casewise.audit.twins import shown_by
from casewise.audit.verify import SIDE, in_pixels
from casewise.errors import ImageError
from casewise.files import write_atomic
from casewise.modalities.store.readers import read_image
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.templating import FOLDER, templates

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.store.store import TileStore

__all__ = ["MOST_PAIRS", "difference", "write_audit_page"]

# Three pictures of up to 240 pixels have about 30 kB, so a page has at most 4 MB.
MOST_PAIRS, LONGEST = 100, 240
# The difference is shown this much stronger, as lighter or darker than grey.
GAIN, GREY = 2.0, 128


def write_audit_page(
    audit: Audit, accepted: Mapping[str, str], images: pd.DataFrame, store: TileStore, path: Path
) -> Path:
    """Write the page; row i of `images`, as the audit saw them, is tile i.

    Raises:
        RunError: the file cannot be written.
    """
    pairs = _pairs(audit)
    registered = [pair for pair in pairs if pair["registration"]]
    shown = (registered + [pair for pair in pairs if not pair["registration"]])[:MOST_PAIRS]
    files = dict(zip(images["path"].astype(str), shown_by(images), strict=True))
    rows = {path: row for row, path in enumerate(images["path"].astype(str))}
    page = templates(html=True).get_template("audit_page.html.j2")
    text = page.render(
        style=Markup((FOLDER / "report.css").read_text()),  # noqa: S704 (our own file)
        verdict=audit.verdict_with(accepted),
        findings=[finding for level in ("error", "warning", "note") for finding in audit.of(level)],  # type: ignore[arg-type]
        accepted=accepted,
        notes=audit.notes(accepted),
        noun=noun_of(audit.facts),
        count=len(pairs),
        pairs=[_shown(pair, images, store, files, rows) for pair in shown],
    )
    return write_atomic(path, text)


def _pairs(audit: Audit) -> list[dict[str, Any]]:
    """Every pair once, with the codes of its findings and its registration, in the order of the findings."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for level in ("error", "warning", "note"):
        for finding in audit.of(level):  # type: ignore[arg-type]
            registrations = finding.figures.get("registrations") or []
            for number, paths in enumerate(finding.pairs):
                pair = pairs.setdefault(paths, {"paths": paths, "findings": [], "registration": None})
                pair["findings"].append(finding.id)
                if number < len(registrations):
                    pair["registration"] = registrations[number]
    return list(pairs.values())


def _shown(
    pair: Mapping[str, Any],
    images: pd.DataFrame,
    store: TileStore,
    files: Mapping[str, str],
    rows: Mapping[str, int],
) -> dict[str, Any]:
    """A pair with its pictures: as they are, the second one registered to the first, and their difference."""
    registration = pair["registration"]
    pictures = [_picture(files.get(path, path), store, rows.get(path)) for path in pair["paths"]]
    subjects = [str(images["subject"].iat[rows[path]]) if path in rows else "" for path in pair["paths"]]
    uris = [data_uri(picture, longest=LONGEST) if picture is not None else "" for picture in pictures]
    first, second = pictures
    if registration and first is not None and second is not None:
        aligned = difference(
            first, second, np.array(registration["warp"], float), negative=bool(registration["negative"])
        )
        uris += [data_uri(picture, longest=LONGEST) for picture in aligned]
    return {
        "sides": [
            {"name": Path(path).name, "path": path, "subject": subject, "uri": uri}
            for path, subject, uri in zip(pair["paths"], subjects, uris, strict=False)
        ],
        "aligned": uris[2:],
        "registration": registration,
        "findings": list(dict.fromkeys(pair["findings"])),
    }


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
    shown = [_bytes(cv2.resize(image, (width, height))) for image in (registered, remaining)]
    return shown[0], shown[1]


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture if picture.ndim == 2 else picture.mean(axis=2), np.float32)


def _bytes(image: Any) -> np.ndarray:
    return np.asarray(np.rint(image).clip(0, 255).astype(np.uint8))
