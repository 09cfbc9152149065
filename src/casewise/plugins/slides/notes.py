"""Notes on a cohort's slides: the tiles, and deviations from the plan."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.table import names_text

if TYPE_CHECKING:
    from casewise.plugins.slides.plans import StoredSlide
    from casewise.plugins.slides.tiles import PlannedSlide, TilePlan

__all__ = ["called", "notes_of"]

FEW = 5
# Notes of several slides that differ only in numbers are merged, unless the number is a level.
VARYING = re.compile(r"(?<!level )(?<![\d.,])\d[\d.,]*")


def notes_of(slides: Sequence[StoredSlide | PlannedSlide], plan: TilePlan) -> list[str]:
    """The numbers of tiles and deviations from the plan; similar notes of several slides are merged."""
    import numpy as np

    counts = np.array([len(slide) for slide in slides])
    fewest, most = int(counts.min()), int(counts.max())
    counts_text = (
        f"{fewest:,} {'tile' if fewest == 1 else 'tiles'} each"
        if fewest == most
        else f"{fewest:,} to {most:,} tiles, {np.median(counts):,.0f} in the median"
    )
    notes = [
        f"Slides give {counts_text}, of {plan.side} pixels at {plan.resolution}; at least "
        f"{plan.min_tissue:.0%} of each is tissue."
    ]
    thinned = sum(slide.candidates > len(slide) for slide in slides)
    if thinned:
        have = "has" if thinned == 1 else "have"
        notes.append(
            f"{thinned:,} of {len(slides):,} slides {have} more tiles than {plan.max_tiles:,}, of which an even "
            f"selection is used."
        )
    names = called([slide.path for slide in slides])
    poor = [name for slide, name in zip(slides, names, strict=True) if len(slide) < FEW]
    if poor and fewest < most:
        verb = "gives" if len(poor) == 1 else "give"
        notes.append(f"{len(poor):,} of {len(slides):,} slides {verb} fewer than {FEW} tiles: {names_text(poor, 5)}.")
    alike: dict[str, list[tuple[str, str]]] = {}
    for slide, name in zip(slides, names, strict=True):
        for note in slide.notes:
            alike.setdefault(VARYING.sub("0", note), []).append((name, note))
    for similar in alike.values():
        texts = Counter(text for _, text in similar)
        example = f"{texts.most_common(1)[0][0]}{' (numbers differ)' if len(texts) > 1 else ''}"
        notes.append(
            f"{len(similar):,} of {len(slides):,} slides ({names_text([name for name, _ in similar], 3)}): {example}."
        )
    return notes


def called(paths: Sequence[Path]) -> list[str]:
    """Each file by its name, with as many of its folders as are needed to distinguish files of the same name.

    >>> called([Path("/data/S01/1.tiff"), Path("/data/S02/1.tiff"), Path("/data/S02/b.tiff")])
    ['S01/1.tiff', 'S02/1.tiff', 'b.tiff']
    """
    names: dict[Path, str] = {}
    alike, depth = list(dict.fromkeys(paths)), 0
    while alike:
        depth += 1
        tails = Counter(path.parts[-depth:] for path in alike)
        unique = [path for path in alike if tails[path.parts[-depth:]] == 1 or depth >= len(path.parts)]
        names |= {path: "/".join(path.parts[-depth:]) for path in unique}
        alike = [path for path in alike if path not in names]
    return [names[path] for path in paths]
