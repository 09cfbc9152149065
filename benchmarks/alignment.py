"""Tests whether public scans can be prepared, and whether the prepared sequences are aligned.

    python benchmarks/alignment.py [--data ../shared/data/mri-volumes] [--output docs/results/mri-volumes.md]

The folder contains `cases.csv` (path, subject, sequence, origin; the sequence of a mask of T1 is `mask-T1`). All scans
are read and all cases prepared. Alignment is measured on the subject with masks of two sequences, and on a phantom,
whose true alignment is known. Without the folder the exit code is 2.
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
from casewise.plugins.volumes.grid import to_ras
from casewise.plugins.volumes.preprocess import Steps, prepare_case
from casewise.plugins.volumes.reading.read_scan import read_scan
from casewise.plugins.volumes.reading.scans import Scan

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mri-volumes"
PLANE = 256
# Pixels for measuring alignment: shifts of half a millimetre are whole pixels, so that nothing is interpolated again.
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
            start = time.perf_counter()
            try:
                scan = read_scan(data / row["path"], sequence=sequence)
            except CasewiseError as error:
                subject.refused[row["path"]] = str(error)
                continue
            subject.seconds += time.perf_counter() - start
            if sequence.startswith("mask-"):
                subject.masks[sequence.removeprefix("mask-")] = scan
            else:
                subject.scans[sequence] = scan
    return list(subjects.values())


def measure_alignment(scans: dict[str, Scan], masks: dict[str, Scan], *, plane: int) -> Alignment:
    """Measure scans of one subject, of which two have a mask."""
    names, ordered_scans = list(scans), list(scans.values())
    first_name, second_name = (name for name in names if name in masks)
    first, second = masks[first_name], masks[second_name]
    prepared = prepare_case(ordered_scans, Steps(in_plane_size=plane, size=plane))
    uncorrected = prepare_case(ordered_scans, Steps(in_plane_size=plane, size=plane, bias="none", smoothing="none"))
    overlaps = {
        "prepared": measures.prepared_overlap(first, second, prepared),
        "headers alone, read with nibabel": measures.overlap_by_nibabel(first.path, second.path),
        "axes reordered, first voxels aligned": measures.overlap_without_origin(first, second),
        "arrays as stored in the files": measures.overlap_without_affine(first, second),
    }
    shifted: dict[str, dict[float, tuple[float, float]]] = {}
    for axis, name in enumerate(measures.AXES):
        shifted[name] = {}
        for step in SHIFTS:
            shift = [step if axis == n else 0.0 for n in range(3)]
            shifted[name][step] = measures.prepared_overlap(first, second, prepared, shift)
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    curves, plain = (
        {(names[a], names[b]): measures.information_by_shift(ordered_scans, case, a, b) for a, b in pairs}
        for case in (prepared, uncorrected)
    )
    best_shift = [measures.best(curve) for curve in curves[first_name, second_name]]
    overlaps["prepared, moved to the maximum of mutual information"] = measures.prepared_overlap(
        first, second, prepared, best_shift
    )
    trips = {name: measures.round_trip(ordered_scans, n, plane) for n, name in enumerate(names)}
    marked = measures.marked_slices(first, second, prepared)
    return Alignment(
        names, ordered_scans, (first_name, second_name), prepared, marked, overlaps, shifted, curves, plain, trips
    )


def draw_phantom(
    folder: Path, *, number: int = 3, size: tuple[int, int] = (256, 256), slices: tuple[int, int] = (30, 40)
) -> tuple[dict[str, Scan], dict[str, Scan]]:
    """Scans and masks of a phantom subject by sequence; their headers are correct by construction."""
    from casewise.files import write_atomic
    from casewise.plugins.phantoms.pancreas import SEQUENCES, draw_volume
    from casewise.plugins.phantoms.pancreas.cohort import nifti_bytes

    scans, masks = {}, {}
    for name in SEQUENCES:
        volume = draw_volume(number, grade="low", sequence=name, size=size, slices=slices)
        for kind, values in (("scan", volume.voxels), ("mask", volume.pancreas)):
            content = nifti_bytes(values, volume.affine, volume.scan.codes)
            write_atomic(folder / f"{name}-{kind}.nii.gz", content, durable=False)
        scans[name], masks[name] = (read_scan(folder / f"{name}-{kind}.nii.gz") for kind in ("scan", "mask"))
    return scans, masks


def fine_plane(scan: Scan) -> int:
    """The number of pixels a side at which each is half a millimetre."""
    upright = to_ras(scan)
    return round(max(n * gap for n, gap in zip(upright.shape[:2], upright.spacing[:2], strict=True)) / FINE_MM)


def main() -> None:
    """Read, prepare and measure everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with cases.csv")
    parser.add_argument("--output", type=Path, help="where to write the page; otherwise it is printed")
    options = parser.parse_args()
    if not (options.data / "cases.csv").is_file():
        parser.exit(2, f"{options.data / 'cases.csv'} is missing. Name the folder of the scans with --data.\n")
    subjects = read_subjects(options.data)
    for subject in subjects:
        if subject.scans:
            try:
                subject.prepared = prepare_case(list(subject.scans.values()), Steps(in_plane_size=PLANE, size=PLANE))
            except CasewiseError as error:
                subject.fault = str(error)
        print(f"{subject.name}: {len(subject.scans)} scans prepared, {len(subject.refused)} refused", flush=True)
    measured = next((subject for subject in subjects if len(set(subject.scans) & set(subject.masks)) == 2), None)
    if measured is None:
        parser.exit(2, f"{options.data}: no subject has two scans with a mask each, so alignment cannot be measured.\n")
    real = measure_alignment(measured.scans, measured.masks, plane=fine_plane(next(iter(measured.scans.values()))))
    with tempfile.TemporaryDirectory() as folder:
        phantom = measure_alignment(*draw_phantom(Path(folder)), plane=PLANE)
    text = page(options.data, subjects, measured.name, real, phantom)
    if options.output:
        write_atomic(options.output, text)
        print(f"wrote {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()
