"""Whether scans that nobody here made go through the whole preparation, and come out lying on each other.

    python benchmarks/alignment.py [--data ../shared/data/mri-volumes] [--output docs/results/mri-volumes.md]

The folder holds a `cases.csv` (path, subject, sequence, origin; the mask of a sequence is called `mask-T1`). Every scan
is read and every case prepared. Of the subject with masks of two sequences it is measured how well these lie on each
other, and the same of a phantom, whose truth is known. Without the folder it says so and ends with 2.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import alignment_measures as measures
from alignment_measures import Alignment, Subject
from alignment_page import page

from casewise.errors import CasewiseError
from casewise.files import write_atomic
from casewise.modalities.volumes.grid import to_ras
from casewise.modalities.volumes.preprocess import Steps, prepare_case
from casewise.modalities.volumes.reading.read_scan import read_scan
from casewise.modalities.volumes.reading.scans import Scan

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mri-volumes"
PLANE = 256
# Pixels of the alignment: shifts of half a millimetre are then whole pixels, and nothing is interpolated anew.
FINE_MM = 0.5
SHIFTS = (-4.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 4.0)


def read_subjects(data: Path) -> list[Subject]:
    """All rows of the table by subject, each scan read."""
    subjects: dict[str, Subject] = {}
    with open(data / "cases.csv", newline="") as file:
        for row in csv.DictReader(file):
            subject = subjects.setdefault(row["subject"], Subject(row["subject"]))
            subject.rows.append(row)
            sequence = row["sequence"]
            begun = time.perf_counter()
            try:
                scan = read_scan(data / row["path"], sequence=sequence)
            except CasewiseError as error:
                subject.refused[row["path"]] = str(error)
                continue
            subject.seconds += time.perf_counter() - begun
            if sequence.startswith("mask-"):
                subject.masks[sequence.removeprefix("mask-")] = scan
            else:
                subject.scans[sequence] = scan
    return list(subjects.values())


def aligned(scans: dict[str, Scan], masks: dict[str, Scan], *, plane: int) -> Alignment:
    """Measure scans of one subject, of which two have a mask."""
    names, given = list(scans), list(scans.values())
    one, two = (name for name in names if name in masks)
    first, second = masks[one], masks[two]
    prepared = prepare_case(given, Steps(in_plane_size=plane, size=plane))
    untouched = prepare_case(given, Steps(in_plane_size=plane, size=plane, bias="none", smoothing="none"))
    overlaps = {
        "prepared": measures.prepared_overlap(first, second, prepared),
        "headers alone, read with nibabel": measures.overlap_by_nibabel(first.path, second.path),
        "axes put in order, corner on corner": measures.overlap_without_origin(first, second),
        "arrays as the files have them": measures.overlap_without_affine(first, second),
    }
    shifted: dict[str, dict[float, tuple[float, float]]] = {}
    for axis, name in enumerate(measures.AXES):
        shifted[name] = {}
        for step in SHIFTS:
            shift = [step if axis == n else 0.0 for n in range(3)]
            shifted[name][step] = measures.prepared_overlap(first, second, prepared, shift)
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    curves, plain = (
        {(names[a], names[b]): measures.information_by_shift(given, of, a, b) for a, b in pairs}
        for of in (prepared, untouched)
    )
    meant = [measures.best(curve) for curve in curves[one, two]]
    overlaps["prepared, moved by what mutual information says"] = measures.prepared_overlap(
        first, second, prepared, meant
    )
    trips = {name: measures.round_trip(given, n, plane) for n, name in enumerate(names)}
    marked = measures.marked_slices(first, second, prepared)
    return Alignment(names, given, (one, two), prepared, marked, overlaps, shifted, curves, plain, trips)


def draw_phantom(
    folder: Path, *, number: int = 3, size: tuple[int, int] = (256, 256), slices: tuple[int, int] = (30, 40)
) -> tuple[dict[str, Scan], dict[str, Scan]]:
    """Scans and masks of a phantom subject by sequence: they lie where their headers say, by construction."""
    from casewise.files import write_atomic
    from casewise.phantoms.pancreas import SEQUENCES, draw_volume
    from casewise.phantoms.pancreas.cohort import nifti_bytes

    scans, masks = {}, {}
    for name in SEQUENCES:
        volume = draw_volume(number, grade="low", sequence=name, size=size, slices=slices)
        for kind, values in (("scan", volume.voxels), ("mask", volume.pancreas)):
            content = nifti_bytes(values, volume.affine, volume.scan.codes)
            write_atomic(folder / f"{name}-{kind}.nii.gz", content, durable=False)
        scans[name], masks[name] = (read_scan(folder / f"{name}-{kind}.nii.gz") for kind in ("scan", "mask"))
    return scans, masks


def fine_plane(scan: Scan) -> int:
    """Pixels a side, so that each is half a millimetre."""
    upright = to_ras(scan)
    return round(max(n * gap for n, gap in zip(upright.shape[:2], upright.spacing[:2], strict=True)) / FINE_MM)


def main() -> None:
    """Read, prepare and measure everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with cases.csv")
    parser.add_argument("--output", type=Path, help="where to write the page; otherwise it is printed")
    options = parser.parse_args()
    if not (options.data / "cases.csv").is_file():
        parser.exit(2, f"There are no scans: {options.data / 'cases.csv'} is missing. Name their folder with --data.\n")
    subjects = read_subjects(options.data)
    for subject in subjects:
        if subject.scans:
            try:
                subject.prepared = prepare_case(list(subject.scans.values()), Steps(in_plane_size=PLANE, size=PLANE))
            except CasewiseError as error:
                subject.fault = str(error)
        print(f"{subject.name}: {len(subject.scans)} scans prepared, {len(subject.refused)} refused", flush=True)
    found = next((one for one in subjects if len(set(one.scans) & set(one.masks)) == 2), None)
    if found is None:
        parser.exit(2, f"{options.data}: no subject has two scans with a mask each, so alignment cannot be measured.\n")
    real = aligned(found.scans, found.masks, plane=fine_plane(next(iter(found.scans.values()))))
    with tempfile.TemporaryDirectory() as folder:
        known = aligned(*draw_phantom(Path(folder)), plane=PLANE)
    text = page(options.data, subjects, found.name, real, known)
    if options.output:
        write_atomic(options.output, text)
        print(f"wrote {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()
