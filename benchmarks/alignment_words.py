"""What fell short of alignment, in words, as far as figures say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import alignment_measures as measures
from alignment_measures import AXES

if TYPE_CHECKING:
    from alignment import Alignment, Subject

OPPOSITE = {"right": "left", "front": "back", "head": "feet"}
ALONG = {"right": "from left to right", "front": "from back to front", "head": "from feet to head"}
# Mutual information that varies by less than this share over all shifts has no maximum worth a name.
EVEN = 0.1
# A maximum this near is that of half a pixel's rounding.
NEAR_MM = 0.5


def shortfalls(real: Alignment, known: Alignment) -> list[str]:
    """The last part of the page: of the subject, beside the phantom."""
    one, two = real.masked
    shares: Any = real.prepared.facts["covered"]
    whole, common = real.overlaps["prepared"]
    alone = real.overlaps["headers alone, read with nibabel"]
    lines = ["## What fell short", ""]
    lines.append(
        f"- **Overlap is {whole:.2f}, not 1**, and {common:.2f} on the slices that both masks mark. By the headers "
        f"alone, without anything of casewise, it is {alone[0]:.2f} and {alone[1]:.2f}: preparation "
        + ("neither adds to this nor takes from it." if abs(whole - alone[0]) < 0.02 else "**changes it**.")
        + f" In the phantom, with larger voxels and a larger organ, it is {known.overlaps['prepared'][0]:.2f}."
    )
    if real.marked[2] < max(real.marked[:2]):
        lines.append(
            f"- The mask of {one} goes over {real.marked[0]} slices and that of {two} over {real.marked[1]}; they have "
            f"{real.marked[2]} in common, and {two} shows {shares[real.names.index(two)]:.0%} of the field "
            f"of {real.names[0]}. The difference between {whole:.2f} and {common:.2f} is of field, not of place."
        )
    curves = real.curves[one, two]
    far = [n for n, curve in enumerate(curves) if abs(measures.best(curve)) > NEAR_MM + 1e-6 and not _even(curve)]
    axis, step = max(
        ((axis, step) for axis in AXES for step in real.shifted[axis]), key=lambda at: real.shifted[at[0]][at[1]][1]
    )
    if step:
        lines.append(
            f"- Of all shifts along one axis the masks overlap most where that of {two} is moved {_way(step, axis)}: "
            f"{dice_text(real.shifted[axis][step])}."
        )
    if far:
        told = " and ".join(_way(measures.best(curves[n]), AXES[n]) for n in far)
        before = " and ".join(_way(measures.best(real.plain[one, two][n]), AXES[n]) for n in far)
        after = real.overlaps["prepared, moved by what mutual information says"]
        sizes = sorted({abs(step), max(abs(measures.best(curves[n])) for n in far)} - {0.0})
        apart = " to ".join(f"{size:g}" for size in sizes)
        lines.append(
            f"- Mutual information of {one} and {two}, which knows nothing of masks, is greatest with {two} moved "
            f"{told} (before N4 and smoothing: {before}); with its shifts along all three axes the masks overlap by "
            f"{dice_text(after)}. So **what these two scans show is about {apart} mm apart where their headers say "
            "that it is one place.** The patient moved, a picture is distorted, or a header is wrong: the files do not "
            "tell. casewise takes headers at their word and registers nothing."
        )
    for pair, found in real.curves.items():
        flat = [AXES[n] for n, curve in enumerate(found) if _even(curve)]
        edge = [AXES[n] for n, c in enumerate(found) if not _even(c) and abs(measures.best(c)) >= max(c) - 1e-6]
        rest = [
            _way(measures.best(c), AXES[n])
            for n, c in enumerate(found)
            if pair != (one, two) and AXES[n] not in flat + edge and abs(measures.best(c)) > NEAR_MM + 1e-6
        ]
        if rest:
            lines.append(
                f"- {' and '.join(pair)}: mutual information is greatest with {pair[1]} moved {' and '.join(rest)}."
            )
        if edge:
            lines.append(
                f"- {' and '.join(pair)}: {_along(edge)} it goes on growing to the last shift that was tried. That is "
                "no maximum, and says nothing of how they lie."
            )
        if flat:
            lines.append(
                f"- {' and '.join(pair)}: {_along(flat)} it varies by less than {EVEN:.0%} over all shifts, so it "
                "tells nothing there."
            )
    lines.append(
        "- It is one subject, and its neck: a tube along the body shows little of how scans lie along it. No abdomen "
        "that breathes is among these scans, and no second subject has masks of two sequences."
    )
    return lines


def other_kinds(subjects: Sequence[Subject]) -> list[str]:
    """What is prepared though it is no magnetic resonance."""
    kinds = {one.name: kind for one in subjects for scan in one.scans.values() if (kind := scan.facts.get("modality"))}
    return [
        f"- The {kind} of {name} was corrected with N4 as if it were magnetic resonance, and nothing was said: whoever "
        "writes the study must know (`bias: none`)."
        for name, kind in kinds.items()
        if kind != "MR"
    ]


def dice_text(found: tuple[float, float]) -> str:
    """Dice over all slices, and in brackets over those that both masks mark."""
    return f"{found[0]:.3f} ({found[1]:.3f})"


def _even(curve: dict[float, float]) -> bool:
    return max(curve.values()) - min(curve.values()) < EVEN * max(curve.values())


def _along(axes: Sequence[str]) -> str:
    return " and ".join(ALONG[axis] for axis in axes)


def _way(shift: float, axis: str) -> str:
    """A shift in words.

    >>> _way(-1.5, "right"), _way(2.0, "head")
    ('1.5 mm to the left', '2 mm to the head')
    """
    return f"{abs(shift):g} mm to the {axis if shift > 0 else OPPOSITE[axis]}"
