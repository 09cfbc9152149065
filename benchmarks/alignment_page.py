"""The page that `alignment.py` writes: which scans went through, how they lie on each other, and what fell short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alignment_measures as measures
from alignment_measures import AXES, Alignment, Subject

from casewise.errors import CasewiseError
from casewise.modalities.volumes.reading.read_scan import read_scan
from casewise.modalities.volumes.reading.scans import Scan

TABLED = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
OPPOSITE = {"right": "left", "front": "back", "head": "feet"}
ALONG = {"right": "from left to right", "front": "from back to front", "head": "from feet to head"}
# Mutual information that varies by less than this share over all shifts has no maximum worth a name.
EVEN = 0.1
# A maximum this near is that of half a pixel's rounding.
NEAR_MM = 0.5


def page(data: Path, subjects: Sequence[Subject], name: str, real: Alignment, known: Alignment) -> str:
    """The Markdown page; `real` is of the subject `name`, `known` of a phantom."""
    ready = [one for one in subjects if one.prepared]
    scans = sum(len(one.scans) for one in ready)
    count = sum(len(one.refused) for one in subjects)
    refused = "1 folder was" if count == 1 else f"{count} folders were"
    trips = [trip for of in (real, known) for trip in of.trips.values()]
    same, marked = (sum(trip[key] for trip in trips) for key in ("same", "marked"))
    farthest = max(trip["largest"] for trip in trips)
    codes = ", ".join(f"{which} {scan.orientation}" for which, scan in zip(real.names, real.scans, strict=True))
    lines = [
        "# Scans of other scanners: do they go through, and do they lie on each other?",
        "",
        f"{len(subjects)} subjects from public collections, as NIfTI and as DICOM: {scans} scans of {len(ready)} "
        f"subjects went through the whole preparation, {refused} refused. How sequences lie on each other is measured "
        f"on one subject ({name}: {codes}) and, with the same functions, on a phantom. Of {marked} voxels that were "
        f"marked in the files {same} came back from the prepared slices as the same voxel, none more than "
        f"{farthest:.2g} mm away. What was left to ask for stands at the end. No image is part of casewise. "
        "By `python benchmarks/alignment.py --to docs/results/mri-volumes.md`.",
        "",
        *_read(subjects),
        *_prepared(data, ready),
        *_folders(data, subjects),
        *_masks(real, known),
        *_information(real, known),
        *_trips(real, known),
        *shortfalls(real, known),
        *other_kinds(subjects),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _read(subjects: Sequence[Subject]) -> list[str]:
    lines = ["## Every scan as it was read", "", "| subject | scan | kind | orientation | voxels | spacing, mm |"]
    lines.append("|---|---|---|---|---|---|")
    for one in subjects:
        for row in one.rows:
            sequence = row["sequence"]
            mask = sequence.startswith("mask-")
            scan = (one.masks if mask else one.scans).get(sequence.removeprefix("mask-"))
            if scan is None:
                lines.append(f"| {one.name} | {sequence} | DICOM | refused | – | – |")
                continue
            kind = str(scan.facts.get("format", "?"))
            if said := scan.facts.get("modality"):
                kind += f", {said}, {scan.facts.get('slices')} files"
            what = f"mask of {sequence.removeprefix('mask-')}" if mask else sequence
            size, gaps = _times(scan.shape), " × ".join(f"{gap:.3g}" for gap in scan.spacing)
            lines.append(f"| {one.name} | {what} | {kind} | {scan.orientation} | {size} | {gaps} |")
    return [*lines, ""]


def _prepared(data: Path, ready: Sequence[Subject]) -> list[str]:
    lines = [
        "## Every case as it was prepared",
        "",
        "With the default steps (a plane of 256 pixels, N4, smoothing, no region), stored at 256 pixels. The first "
        "sequence gives the grid. *Shown* is the share of it that each of the others shows. Seconds are those of one "
        "thread for all sequences of the case, beside other work on the machine; reading includes masks.",
        "",
        "| subject | sequences | slices × rows × columns | pixel, slice, mm | shown | reading, s | resampling, s "
        "| N4, s | smoothing, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for one in ready:
        assert one.prepared is not None
        facts: dict[str, Any] = one.prepared.facts
        spent = facts["seconds"]
        count, _, rows, columns = one.prepared.slices.shape
        shares = ", ".join(f"{share:.0%}" for share in facts["covered"][1:]) or "–"
        taken = spent.get("grid", 0) + spent.get("slices", 0)
        cells = [one.name, ", ".join(one.scans), _times((count, rows, columns))]
        cells += [f"{facts['pixel_mm']:.3g}, {facts['slice_mm']:.3g}", shares, f"{one.seconds:.2f}", f"{taken:.1f}"]
        cells += [f"{spent.get(step, 0):.1f}" for step in ("bias", "smoothing")]
        lines.append(f"| {' | '.join(cells)} |")
        notes += one.prepared.notes
        notes += [f"{scan.path}: {note}" for scan in one.scans.values() for note in scan.notes]
    told = [f"- {_plain(data, note)}" for note in dict.fromkeys(notes)]
    return [*lines, "", *(["Notes that were told:", "", *told, ""] if told else [])]


def _folders(data: Path, subjects: Sequence[Subject]) -> list[str]:
    """What became of folders of DICOM files, those above them, and of a CT."""
    lines = ["## Folders of DICOM files", ""]
    above: set[Path] = set()
    for one in subjects:
        for scan in one.scans.values():
            if scan.facts.get("format") != "DICOM":
                continue
            said = scan.facts.get("series_description") or "without description"
            told = f"taken: series {scan.facts.get('series_number', '?')} '{said}' ({scan.facts.get('modality')})"
            lines.append(f"- `{_plain(data, str(scan.path))}`: {told}.{_called_t1(scan)}")
        for path, sentence in one.refused.items():
            lines.append(f"- Called {_sequence(one, path)} in the table, refused: “{_plain(data, sentence)}”")
            above.add((data / path).parent)
    for folder in sorted(above - {data}):
        try:
            told = f"taken, {'; '.join(read_scan(folder).notes)}"
        except CasewiseError as error:
            told = f"refused: “{_plain(data, str(error))}”"
        lines.append(f"- The folder `{_plain(data, str(folder))}` of these folders, {told}")
    for one in subjects:
        if one.fault:
            lines.append(f"- {one.name} was read and could not be prepared: “{_plain(data, one.fault)}”")
    return [*lines, ""]


def _called_t1(scan: Scan) -> str:
    """What is said where a table calls a scan that is no magnetic resonance T1."""
    if scan.facts.get("modality") == "MR":
        return ""
    notes = read_scan(scan.path, sequence="T1", voxels=False).notes
    told = f"it is noted: {'; '.join(notes)}" if notes else "it is taken without a word"
    return f" Where the table calls it T1, {told}."


def _masks(real: Alignment, known: Alignment) -> list[str]:
    one, two = real.masked
    fine, coarse = (of.prepared.facts["pixel_mm"] for of in (real, known))
    lines = [
        "## Overlap of the masks",
        "",
        f"Dice of the masks of {one} and {two}, each drawn on its own scan. In brackets over the slices that both mark."
        f" Pixels are {fine:.2g} mm wide, in the phantom {coarse:.2g} mm; its masks are of the pancreas. The arrays "
        "that are compared without their place in the patient begin with the same voxel.",
        "",
        "| | subject | phantom |",
        "|---|---|---|",
    ]
    for name, found in real.overlaps.items():
        lines.append(f"| {name} | {dice_text(found)} | {dice_text(known.overlaps[name])} |")
    lines += ["", f"The mask of {two} of the subject moved by so many mm before it is laid on the grid:", ""]
    lines += _head(TABLED)
    for axis in AXES:
        lines.append(f"| to the {axis} | {' | '.join(dice_text(real.shifted[axis][step]) for step in TABLED)} |")
    return [*lines, ""]


def _information(real: Alignment, known: Alignment) -> list[str]:
    lines = [
        "## Mutual information of the prepared sequences",
        "",
        "In nats, by a histogram of 32 × 32 equal steps, the second sequence moved by whole pixels, over the pixels "
        "that both show at every shift up to 4 mm. The last columns say at how many mm it is greatest, and where it "
        "was before N4 and smoothing.",
        "",
        *_head(TABLED, "greatest at", "before"),
    ]
    for pair, curves in real.curves.items():
        for axis, curve, before in zip(AXES, curves, real.plain[pair], strict=True):
            cells = [f"{curve[step]:.3f}" if step in curve else "–" for step in TABLED]
            cells += [f"{measures.best(curve):g}", f"{measures.best(before):g}"]
            lines.append(f"| {' and '.join(pair)}, to the {axis} | {' | '.join(cells)} |")
    lines += ["", "In the phantom it is greatest at:", ""]
    for pair, curves in known.curves.items():
        told = ", ".join(f"{measures.best(curve):g} mm to the {axis}" for axis, curve in zip(AXES, curves, strict=True))
        steps = ", ".join(f"{sorted(abs(shift) for shift in curve)[1]:.2g}" for curve in curves)
        lines.append(f"- {' and '.join(pair)}: {told} (in steps of {steps} mm).")
    return [*lines, ""]


def _trips(real: Alignment, known: Alignment) -> list[str]:
    lines = [
        "## Voxels marked, prepared, and carried back",
        "",
        "Single voxels at random, in the file's own order of voxels, are made the only bright ones of a scan. It is "
        "prepared (without N4 and smoothing) on the grid of the first sequence; the middles of the bright spots are "
        "found in the slices, and carried back by the affines.",
        "",
        "| | orientation | voxel, mm | marked | found | the same voxel | largest distance, mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, of in (("subject", real), ("phantom", known)):
        for name, scan in zip(of.names, of.scans, strict=True):
            trip, gaps = of.trips[name], " × ".join(f"{gap:.3g}" for gap in scan.spacing)
            cells = [
                f"{title}, {name}",
                scan.orientation,
                gaps,
                *(str(trip[key]) for key in ("marked", "found", "same")),
            ]
            lines.append(f"| {' | '.join(cells)} | {trip['largest']:.3f} |")
    return [*lines, ""]


def _times(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))


def _head(steps: Sequence[float], *more: str) -> list[str]:
    cells = ["", *(f"{step:+g} mm" if step else "0" for step in steps), *more]
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def _sequence(one: Subject, path: str) -> str:
    return next(row["sequence"] for row in one.rows if row["path"] == path)


def _plain(data: Path, text: str) -> str:
    """A message on one line, without where the folder lies on this machine."""
    for place in (str(data.resolve()), str(data.absolute()), str(data)):
        text = text.replace(f"{place}/", "")
    first, *listed = [line.strip() for line in text.splitlines()]
    return f"{first} {', '.join(listed)}".strip()


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
