"""What is odd about scans, told shortly: notes of one kind about many scans are one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["summed"]

# Kinds of notes that are told; what is left out is counted.
SHOWN = 12
VARYING = re.compile(r"\S*[\d/\\]\S*")


def summed(notes: Sequence[str], folder: Path) -> list[str]:
    """A line for each kind of note: its first, and how many others differ from it in names and numbers alone.

    Paths begin at `folder` where they lie in it.

    >>> summed(["/d/P1/a.nii: cut at 2 mm", "/d/P2/b.nii: cut at 3 mm", "/d/P1/a.nii: tilted"], Path("/d"))
    ['P1/a.nii: cut at 2 mm (and 1 more like this)', 'P1/a.nii: tilted']
    """
    kinds: dict[str, list[str]] = {}
    for note in notes:
        text = note.replace(f"{folder}/", "")
        kinds.setdefault(VARYING.sub("#", text), []).append(text)
    lines = [
        texts[0] + (f" (and {len(texts) - 1:,} more like this)" if len(texts) > 1 else "") for texts in kinds.values()
    ]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [
            f"There are {len(lines) - SHOWN:,} further kinds of notes on scans; they are kept with the slices."
        ]
    return lines
