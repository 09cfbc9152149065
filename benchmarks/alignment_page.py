"""The page of `alignment.py`: which scans were prepared, how well they are aligned, and what is insufficient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alignment_measures as measures
from alignment_measures import AXES, Alignment, Subject

from casewise.errors import CasewiseError
from casewise.plugins.volumes.reading.read_scan import read_scan
from casewise.plugins.volumes.reading.scans import Scan

TABLED = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
OPPOSITE = {"right": "left", "front": "back", "head": "feet"}
ALONG = {"right": "from left to right", "front": "from back to front", "head": "from feet to head"}
# Mutual information that varies by less than this share over all shifts has no meaningful maximum.
EVEN = 0.1
# A maximum at this distance or less is within rounding to half a pixel.
NEAR_MM = 0.5


def page(data: Path, subjects: Sequence[Subject], name: str, real: Alignment, phantom: Alignment) -> str:
    """The Markdown page; `real` is that of the subject `name`."""
    ready = [subject for subject in subjects if subject.prepared]
    scans = sum(len(subject.scans) for subject in ready)
    count = sum(len(subject.refused) for subject in subjects)
    refused = "1 folder was" if count == 1 else f"{count} folders were"
    trips = [trip for alignment in (real, phantom) for trip in alignment.trips.values()]
    same, marked = (sum(trip[key] for trip in trips) for key in ("same", "marked"))
    farthest = max(trip["largest"] for trip in trips)
    codes = ", ".join(f"{sequence} {scan.orientation}" for sequence, scan in zip(real.names, real.scans, strict=True))
    lines = [
        "# Scans of other scanners: can they be prepared, and are they aligned?",
        "",
        f"{len(subjects)} subjects from public collections, as NIfTI and as DICOM: {scans} scans of {len(ready)} "
        f"subjects were prepared completely, {refused} refused. The alignment of sequences is measured "
        f"on one subject ({name}: {codes}) and, with the same functions, on a phantom. Of {marked} voxels that were "
        f"marked in the files, {same} were mapped back from the prepared slices to the same voxel, none with an error "
        f"above {farthest:.2g} mm. Limitations are listed at the end. No image is part of casewise. "
        "By `python benchmarks/alignment.py --output docs/results/mri-volumes.md`.",
        "",
        *_read(subjects),
        *_prepared(data, ready),
        *_folders(data, subjects),
        *_masks(real, phantom),
        *_information(real, phantom),
        *_trips(real, phantom),
        *shortfalls(real, phantom),
        *other_kinds(subjects),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _read(subjects: Sequence[Subject]) -> list[str]:
    lines = ["## Scans as they were read", "", "| subject | scan | kind | orientation | voxels | spacing, mm |"]
    lines.append("|---|---|---|---|---|---|")
    for subject in subjects:
        for row in subject.rows:
            sequence = row["sequence"]
            mask = sequence.startswith("mask-")
            scan = (subject.masks if mask else subject.scans).get(sequence.removeprefix("mask-"))
            if scan is None:
                lines.append(f"| {subject.name} | {sequence} | DICOM | refused | – | – |")
                continue
            kind = str(scan.facts.get("format", "?"))
            if modality := scan.facts.get("modality"):
                kind += f", {modality}, {scan.facts.get('slices')} files"
            label = f"mask of {sequence.removeprefix('mask-')}" if mask else sequence
            size, gaps = _times(scan.shape), " × ".join(f"{gap:.3g}" for gap in scan.spacing)
            lines.append(f"| {subject.name} | {label} | {kind} | {scan.orientation} | {size} | {gaps} |")
    return [*lines, ""]


def _prepared(data: Path, ready: Sequence[Subject]) -> list[str]:
    lines = [
        "## Prepared cases",
        "",
        "With the default steps (a plane of 256 pixels, N4, smoothing, no region), stored at 256 pixels. The first "
        "sequence defines the grid. *Covered* is the share of the grid that each other sequence covers. Seconds are "
        "those of one thread for all sequences of the case, with other load on the machine; reading includes masks.",
        "",
        "| subject | sequences | slices × rows × columns | pixel, slice, mm | covered | reading, s | resampling, s "
        "| N4, s | smoothing, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for subject in ready:
        assert subject.prepared is not None
        facts: dict[str, Any] = subject.prepared.facts
        seconds = facts["seconds"]
        count, _, rows, columns = subject.prepared.slices.shape
        shares = ", ".join(f"{share:.0%}" for share in facts["covered"][1:]) or "–"
        resampling = seconds.get("grid", 0) + seconds.get("slices", 0)
        cells = [subject.name, ", ".join(subject.scans), _times((count, rows, columns))]
        cells += [
            f"{facts['pixel_mm']:.3g}, {facts['slice_mm']:.3g}",
            shares,
            f"{subject.seconds:.2f}",
            f"{resampling:.1f}",
        ]
        cells += [f"{seconds.get(step, 0):.1f}" for step in ("bias", "smoothing")]
        lines.append(f"| {' | '.join(cells)} |")
        notes += subject.prepared.notes
        notes += [f"{scan.path}: {note}" for scan in subject.scans.values() for note in scan.notes]
    listed = [f"- {_plain(data, note)}" for note in dict.fromkeys(notes)]
    return [*lines, "", *(["Notes:", "", *listed, ""] if listed else [])]


def _folders(data: Path, subjects: Sequence[Subject]) -> list[str]:
    """The results for folders of DICOM files, their parent folders, and a CT."""
    lines = ["## Folders of DICOM files", ""]
    above: set[Path] = set()
    for subject in subjects:
        for scan in subject.scans.values():
            if scan.facts.get("format") != "DICOM":
                continue
            description = scan.facts.get("series_description") or "without description"
            series = f"series {scan.facts.get('series_number', '?')} '{description}' ({scan.facts.get('modality')})"
            lines.append(f"- `{_plain(data, str(scan.path))}`: read, {series}.{_called_t1(scan)}")
        for path, sentence in subject.refused.items():
            lines.append(f"- Named {_sequence(subject, path)} in the table, refused: “{_plain(data, sentence)}”")
            above.add((data / path).parent)
    for folder in sorted(above - {data}):
        try:
            result = f"read, {'; '.join(read_scan(folder).notes)}"
        except CasewiseError as error:
            result = f"refused: “{_plain(data, str(error))}”"
        lines.append(f"- The parent folder `{_plain(data, str(folder))}`: {result}")
    for subject in subjects:
        if subject.fault:
            lines.append(f"- {subject.name} was read and could not be prepared: “{_plain(data, subject.fault)}”")
    return [*lines, ""]


def _called_t1(scan: Scan) -> str:
    """The notes if a table names a scan T1 that is not a magnetic resonance image."""
    if scan.facts.get("modality") == "MR":
        return ""
    notes = read_scan(scan.path, sequence="T1", voxels=False).notes
    return f" If the table names it T1, {'the note is: ' + '; '.join(notes) if notes else 'there is no note'}."


def _masks(real: Alignment, phantom: Alignment) -> list[str]:
    first, second = real.masked
    fine, coarse = (alignment.prepared.facts["pixel_mm"] for alignment in (real, phantom))
    lines = [
        "## Overlap of the masks",
        "",
        f"Dice of the masks of {first} and {second}, each drawn on its own scan; in brackets over the slices that both "
        f"mark. Pixels are {fine:.2g} mm wide, in the phantom {coarse:.2g} mm; its masks are of the "
        f"pancreas. Arrays that "
        "are compared without their position in the patient are aligned at their first voxel.",
        "",
        "| | subject | phantom |",
        "|---|---|---|",
    ]
    for name, overlap in real.overlaps.items():
        lines.append(f"| {name} | {dice_text(overlap)} | {dice_text(phantom.overlaps[name])} |")
    lines += ["", f"The mask of {second} of the subject shifted by this many mm before resampling to the grid:", ""]
    lines += _head(TABLED)
    for axis in AXES:
        lines.append(f"| to the {axis} | {' | '.join(dice_text(real.shifted[axis][step]) for step in TABLED)} |")
    return [*lines, ""]


def _information(real: Alignment, phantom: Alignment) -> list[str]:
    lines = [
        "## Mutual information of the prepared sequences",
        "",
        "In nats, by a histogram of 32 × 32 equal bins, with the second sequence shifted by whole pixels, "
        "over the pixels "
        "that both cover at every shift up to 4 mm. The last columns give the shift of the maximum, and that before N4 "
        "and smoothing.",
        "",
        *_head(TABLED, "maximum at", "before"),
    ]
    for pair, curves in real.curves.items():
        for axis, curve, before in zip(AXES, curves, real.plain[pair], strict=True):
            cells = [f"{curve[step]:.3f}" if step in curve else "–" for step in TABLED]
            cells += [f"{measures.best(curve):g}", f"{measures.best(before):g}"]
            lines.append(f"| {' and '.join(pair)}, to the {axis} | {' | '.join(cells)} |")
    lines += ["", "In the phantom the maximum is at:", ""]
    for pair, curves in phantom.curves.items():
        shifts = ", ".join(
            f"{measures.best(curve):g} mm to the {axis}" for axis, curve in zip(AXES, curves, strict=True)
        )
        steps = ", ".join(f"{sorted(abs(shift) for shift in curve)[1]:.2g}" for curve in curves)
        lines.append(f"- {' and '.join(pair)}: {shifts} (in steps of {steps} mm).")
    return [*lines, ""]


def _trips(real: Alignment, phantom: Alignment) -> list[str]:
    lines = [
        "## Voxels marked, prepared, and mapped back",
        "",
        "Random single voxels, in the voxel order of the file, are the only bright ones of a scan. It is prepared "
        "(without N4 and smoothing) on the grid of the first sequence. The centres of the bright spots are detected in "
        "the slices and mapped back by the affines.",
        "",
        "| | orientation | voxel, mm | marked | found | the same voxel | largest distance, mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, alignment in (("subject", real), ("phantom", phantom)):
        for name, scan in zip(alignment.names, alignment.scans, strict=True):
            trip, gaps = alignment.trips[name], " × ".join(f"{gap:.3g}" for gap in scan.spacing)
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


def _sequence(subject: Subject, path: str) -> str:
    return next(row["sequence"] for row in subject.rows if row["path"] == path)


def _plain(data: Path, text: str) -> str:
    """A message on one line, without the path of the folder on this machine."""
    for prefix in (str(data.resolve()), str(data.absolute()), str(data)):
        text = text.replace(f"{prefix}/", "")
    first, *listed = [line.strip() for line in text.splitlines()]
    return f"{first} {', '.join(listed)}".strip()


def shortfalls(real: Alignment, phantom: Alignment) -> list[str]:
    """The last part of the page: limitations for the subject, compared with the phantom."""
    first, second = real.masked
    shares: Any = real.prepared.facts["covered"]
    whole, common = real.overlaps["prepared"]
    alone = real.overlaps["headers alone, read with nibabel"]
    lines = ["## Limitations", ""]
    lines.append(
        f"- **Overlap is {whole:.2f}, not 1**, and {common:.2f} on the slices that both masks mark. From the headers "
        f"alone, without casewise, it is {alone[0]:.2f} and {alone[1]:.2f}: preparation "
        + ("does not change it." if abs(whole - alone[0]) < 0.02 else "**changes it**.")
        + f" In the phantom, with larger voxels and a larger organ, it is {phantom.overlaps['prepared'][0]:.2f}."
    )
    if real.marked[2] < max(real.marked[:2]):
        lines.append(
            f"- The mask of {first} covers {real.marked[0]} slices and that of {second} {real.marked[1]}; they have "
            f"{real.marked[2]} in common, and {second} covers {shares[real.names.index(second)]:.0%} of the field "
            f"of {real.names[0]}. The difference between {whole:.2f} and {common:.2f} is due to the field "
            f"of view, not to position."
        )
    curves = real.curves[first, second]
    far = [n for n, curve in enumerate(curves) if abs(measures.best(curve)) > NEAR_MM + 1e-6 and not _even(curve)]
    axis, step = max(
        ((axis, step) for axis in AXES for step in real.shifted[axis]), key=lambda at: real.shifted[at[0]][at[1]][1]
    )
    if step:
        lines.append(
            f"- Of all shifts along one axis, the overlap of the masks is largest if that of {second} is "
            f"moved {_way(step, axis)}: "
            f"{dice_text(real.shifted[axis][step])}."
        )
    if far:
        shifts = " and ".join(_way(measures.best(curves[n]), AXES[n]) for n in far)
        before = " and ".join(_way(measures.best(real.plain[first, second][n]), AXES[n]) for n in far)
        after = real.overlaps["prepared, moved to the maximum of mutual information"]
        sizes = sorted({abs(step), max(abs(measures.best(curves[n])) for n in far)} - {0.0})
        apart = " to ".join(f"{size:g}" for size in sizes)
        lines.append(
            f"- Mutual information of {first} and {second}, which does not use the masks, is largest with "
            f"{second} moved "
            f"{shifts} (before N4 and smoothing: {before}); with its shifts along all three axes the masks overlap by "
            f"{dice_text(after)}. Therefore **the contents of these two scans are about {apart} mm apart at positions "
            "that are equal by their headers.** The patient moved, an image is distorted, or a header is wrong; the "
            "files do not show which. casewise relies on headers and registers nothing."
        )
    for pair, by_axis in real.curves.items():
        flat = [AXES[n] for n, curve in enumerate(by_axis) if _even(curve)]
        edge = [AXES[n] for n, c in enumerate(by_axis) if not _even(c) and abs(measures.best(c)) >= max(c) - 1e-6]
        rest = [
            _way(measures.best(c), AXES[n])
            for n, c in enumerate(by_axis)
            if pair != (first, second) and AXES[n] not in flat + edge and abs(measures.best(c)) > NEAR_MM + 1e-6
        ]
        if rest:
            lines.append(
                f"- {' and '.join(pair)}: mutual information is largest with {pair[1]} moved {' and '.join(rest)}."
            )
        if edge:
            lines.append(
                f"- {' and '.join(pair)}: {_along(edge)} it increases up to the last tested shift, so there is "
                "no maximum and no information about alignment."
            )
        if flat:
            lines.append(
                f"- {' and '.join(pair)}: {_along(flat)} it varies by less than {EVEN:.0%} over all shifts, so it "
                "gives no information there."
            )
    lines.append(
        "- This is one subject, and its neck: a tube along the body gives little information about alignment along it. "
        "There is no abdomen with respiratory motion, and no second subject has masks of two sequences."
    )
    return lines


def other_kinds(subjects: Sequence[Subject]) -> list[str]:
    """Scans that are prepared although they are not magnetic resonance images."""
    kinds = {
        subject.name: kind
        for subject in subjects
        for scan in subject.scans.values()
        if (kind := scan.facts.get("modality"))
    }
    return [
        f"- The {kind} of {name} was corrected with N4 as if it were a magnetic resonance image, without a note; the "
        "study must state `bias: none`."
        for name, kind in kinds.items()
        if kind != "MR"
    ]


def dice_text(dice: tuple[float, float]) -> str:
    """Dice over all slices, and in brackets over those that both masks mark."""
    return f"{dice[0]:.3f} ({dice[1]:.3f})"


def _even(curve: dict[float, float]) -> bool:
    return max(curve.values()) - min(curve.values()) < EVEN * max(curve.values())


def _along(axes: Sequence[str]) -> str:
    return " and ".join(ALONG[axis] for axis in axes)


def _way(shift: float, axis: str) -> str:
    """A shift as text.

    >>> _way(-1.5, "right"), _way(2.0, "head")
    ('1.5 mm to the left', '2 mm to the head')
    """
    return f"{abs(shift):g} mm to the {axis if shift > 0 else OPPOSITE[axis]}"
