"""A cohort's volumes prepared once: slices for networks, and one picture of each scan for audits."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show, duration
from casewise.errors import counted
from casewise.files import text_hash, write_atomic
from casewise.modalities.base import FittedPreprocessing, Picture
from casewise.modalities.store.preparation import PIXEL_RULES, Preparation
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.plugins.volumes.case_files import sources_of, summed
from casewise.plugins.volumes.preprocess import Steps
from casewise.plugins.volumes.reading.scans import as_pictures, need_one_scale, stack_images
from casewise.plugins.volumes.settings import volumes_of
from casewise.plugins.volumes.slice_store import SliceStore, prepare_slices
from casewise.plugins.volumes.standardise import plain_tables, tables
from casewise.study.schema import Study

# The folder of prepared slices.
SCANS = "scans"


@dataclass(frozen=True, eq=False)
class PreparedScans:
    """Prepared slices, which networks read from `folder`, and a picture of each scan: an `ImageStore`."""

    pictures: TileStore
    address: str
    folder: Path

    @property
    def tiles(self) -> np.ndarray:
        """A picture of each scan, (N, 1, H, W) `uint8`."""
        return self.pictures.tiles

    @property
    def index(self) -> pd.DataFrame:
        """One row for each picture; its `path` is the scan's."""
        return self.pictures.index

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)


def _steps_of(study: Study) -> Steps:
    """The steps by which the study prepares its volumes."""
    volumes = volumes_of(study)
    stated = {name: getattr(volumes, name) for name in ("in_plane_size", "bias", "smoothing", "roi", "margin")}
    return Steps(size=study.images.size, **stated)


def slices_and_pictures(study: Study, cohort: Cohort, folder: Path, show: Show) -> PreparedScans:
    """Prepare the slices of every case in `folder`, or open finished ones, with a picture of each scan.

    Notes on unusual scans are added to the cohort's notes, which the report shows.

    Raises:
        ImageError: cases cannot be prepared; the message names all of them.
    """
    start = time.monotonic()
    cases = sources_of(study, cohort)
    with show.bar("scans") as bar:
        slices = prepare_slices(cases, _steps_of(study), folder, progress=lambda done, total: bar(done, total))
    size = study.images.size
    text = f"{counted(len(cases), 'case')}, {counted(len(slices.slices), 'slice')} of {size} px"
    show.line("scans", f"{text}, {duration(time.monotonic() - start)}")
    if volumes_of(study).roi == "none":
        show.line("", "No region of interest is stated: networks see the whole plane.")
    for note in _notes(study, slices):
        show.line("", note)
        if note not in cohort.notes:
            cohort.notes.append(note)
    store = pictures(study, cohort, slices, folder, show)
    return PreparedScans(replace(store, address=slices.address), slices.address, folder)


def _notes(study: Study, slices: SliceStore) -> list[str]:
    """Notes on the cases: too few slices, and notes of reading and preparing, each kind once."""
    notes = summed([note for notes in slices.notes for note in notes], (study.root or study.cohort.parent).absolute())
    short = int((slices.count < study.panels.slots).sum())
    if short and not study.panels.bags:
        notes.insert(
            0,
            f"{short:,} of {len(slices.count):,} cases have fewer than {study.panels.slots} slices; their first and "
            "last slices are repeated around them.",
        )
    return notes


def shown_grid(study: Study) -> tuple[int, int]:
    """Rows and columns of the picture of a case for people."""
    return (1, 1) if volumes_of(study).slice_is_case(study) else study.panels.picture_grid


def central_panels(study: Study, store: SliceStore, row: int, fitted: FittedPreprocessing) -> list[Picture]:
    """The central window of each sequence that the case has, as a grid (rows·H, columns·W) `uint8`.

    Intensities are standardised by the scales in `fitted`, if it has any.
    """
    volumes = volumes_of(study)
    rows, columns = shown_grid(study)
    central_slices = central(int(store.count[row]), rows * columns) + int(store.first[row])
    pictures = []
    scales = fitted["standard"] or [None] * len(fitted["sequences"])
    for name, scale in zip(fitted["sequences"], scales, strict=True):
        number = volumes.sequences.index(name)
        if not store.present[row, number]:
            continue
        marks, spans = store.scale_of(np.array([row]), fitted)
        span = None if spans is None else spans[:, number]
        lookup = plain_tables(1) if scale is None else tables(marks[:, number], np.asarray(scale), span)
        planes = lookup[0][np.asarray(store.slices[central_slices, number])]
        panel = grid(planes, rows=rows, columns=columns)
        pictures.append(Picture(name, np.asarray(np.rint(panel * 255), dtype=np.uint8)))
    return pictures


def central(count: int, slots: int) -> np.ndarray:
    """The slices of a case's central window, counted from its first; if there are too few, first and last are repeated.

    >>> central(12, 9).tolist(), central(2, 4).tolist()
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 1])
    """
    windows = max(1, count - slots + 1)
    return ((windows - 1) // 2 + np.arange(slots) - max(0, slots - count) // 2).clip(0, count - 1)


def grid(planes: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Arrange slices (K, h, w) row by row as one panel (rows·h, columns·w).

    >>> grid(np.arange(4).reshape(4, 1, 1), rows=2, columns=2).tolist()
    [[0, 1], [2, 3]]
    """
    height, width = planes.shape[1:]
    rows_of_planes = planes.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows_of_planes).reshape(rows * height, columns * width)


def pictures(study: Study, cohort: Cohort, slices: SliceStore, folder: Path, show: Show) -> TileStore:
    """A tile store with a row for each row of the cohort: the central window of the scan in its grid, or the slice
    image itself.

    Its index names the scans, and therefore the findings do.
    """
    volumes = volumes_of(study)
    # Small single slices of different people can look alike; a whole window does not.
    side = study.images.size * (1 if volumes.slice_index else study.panels.picture_grid[0])
    preparation = Preparation(size=side, channels="grey")
    paths = [Path(path) for path in cohort.images["path"]]
    if volumes.slice_index:
        files = _slice_pictures(study, cohort, folder / "pictures")
    else:
        files = _drawn(study, cohort, slices, folder / "pictures")
    with show.bar("tiles") as bar:
        store = prepare(files, preparation, folder / "tiles", progress=lambda done, total: bar(done, total))
    index = store.index.assign(path=[str(path) for path in paths])
    return replace(store, index=index, overview=True)


def _slice_pictures(study: Study, cohort: Cohort, folder: Path) -> list[Path]:
    """The picture of each slice: its file, or where a file has no range of its own (DICOM, 16 bits) a picture with 8
    bits on one scale for all slices of the scan.

    Raises:
        ImageError: the slices of a scan cannot be read, or are not of one kind.
    """
    from PIL import Image

    volumes = volumes_of(study)
    rows = cohort.images.reset_index(drop=True)
    rows = rows.assign(position=pd.to_numeric(rows[volumes.slice_index], errors="coerce")).sort_values("position")
    files = [Path(path) for path in cohort.images["path"]]
    scan_column = "subject" if volumes.slice_is_case(study) else "case"
    for _, numbers in rows.groupby([scan_column, "sequence"]).groups.items():
        paths = [files[number] for number in numbers]
        # slices of one case were compared when they were read
        if not need_one_scale(paths if volumes.slice_is_case(study) else paths[:1]):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        stated = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
        digest = text_hash("\n".join([str(PIXEL_RULES), *stated]))[:24]
        pictures = [folder / f"{digest}-{number}.png" for number in range(len(paths))]
        if not all(picture.is_file() for picture in pictures):
            values = as_pictures(stack_images(paths, (volumes.pixel_mm, volumes.slice_mm)))
            for plane, picture in enumerate(pictures):
                packed = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(values[:, :, plane].T)).save(packed, format="PNG")
                write_atomic(picture, packed.getvalue())
        for number, picture in zip(numbers, pictures, strict=True):
            files[number] = picture
    return files


def _drawn(study: Study, cohort: Cohort, slices: SliceStore, folder: Path) -> list[Path]:
    """Write the central window of every scan in its grid with 8 bits, named by its content."""
    from PIL import Image

    rows, columns = study.panels.picture_grid
    number_of = {case: number for number, case in enumerate(cohort.panels["case"])}
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for case, sequence in zip(cohort.images["case"], cohort.images["sequence"], strict=True):
        number = number_of[case]
        numbers = int(slices.first[number]) + central(int(slices.count[number]), rows * columns)
        planes = np.asarray(slices.slices[numbers, volumes_of(study).sequences.index(sequence)])
        picture = grid((planes >> 7).astype(np.uint8), rows=rows, columns=columns)
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, format="PNG")
        # Two scans that look alike are two files with different names.
        name = hashlib.sha256(f"{case} {sequence} ".encode() + packed.getvalue()).hexdigest()[:24]
        path = folder / f"{name}.png"
        if not path.is_file():
            write_atomic(path, packed.getvalue())
        files.append(path)
    return files
