"""Volumes of one or several sequences as a modality: networks see windows of consecutive slices in a grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.companions import companions, companions_text
from casewise.cohort.folder_layout import (
    DICOM_SUFFIXES,
    OF_SYSTEMS,
    Pattern,
    find_region,
    read_paths,
    refuse_visits,
)
from casewise.cohort.table import natural
from casewise.errors import CasewiseError, counted
from casewise.modalities import base
from casewise.names import one_form
from casewise.plugins.volumes import standardise
from casewise.plugins.volumes.case_files import check_headers
from casewise.plugins.volumes.case_table import resolve_sequences
from casewise.plugins.volumes.native_space import native_maps, read_lesion
from casewise.plugins.volumes.preparation import SCANS, PreparedScans, central_panels, slices_and_pictures
from casewise.plugins.volumes.settings import SEQUENCE_DROPOUT, reads_volumes, volumes_of
from casewise.plugins.volumes.slice_store import BY_SUBJECT, SliceStore, altered_slices, open_slices
from casewise.run_folder import ImageFolder

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.dataset import PanelDataset
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study


log = logging.getLogger("casewise")
NIFTI = (".nii", ".nii.gz")


def _new_scans(study: Study, paths: Sequence[Path], pattern: Pattern | None = None) -> pd.DataFrame:
    """One row for each scan in `subject/visit/`, `subject/`, alone, or by a pattern; its name contains its sequence.

    A study of one sequence needs no sequence in the names. A scan alone is a subject of its own, named by its file.

    Raises:
        CasewiseError: the study needs columns that only a table has; there is no scan; a folder is deeper.
    """
    import pandas as pd

    volumes = volumes_of(study)
    if needed := volumes.slice_index or (volumes.mask if volumes.roi == "mask" else ""):
        raise CasewiseError(f"cases: scans of this study need a table, which states the column {needed!r} for each.")
    rows = [row for path in paths for row in _rows_of(path, study, pattern)]
    headings = [str(study.columns.get(role) or role) for role in ("path", "subject", "visit")]
    table = pd.DataFrame(rows, columns=[*headings, volumes.column])
    return table if table[headings[2]].any() else table.drop(columns=headings[2])


def _rows_of(path: Path, study: Study, pattern: Pattern | None) -> list[tuple[str, str, str, str]]:
    """The scans of one file or folder: path, subject, visit and sequence."""
    sequences = list(volumes_of(study).sequences)
    if not path.is_dir():
        return [(str(path), one_form(path.name), "", _sequence(path.name, sequences))]
    files, others = _files(path)
    names = [file.relative_to(path).as_posix() for file in files]
    if belonging := companions(path, names)[0]:
        log.warning("%s: left out, because they belong to scans: %s.", path, companions_text(belonging.values()))
        files = [file for file, name in zip(files, names, strict=True) if name not in belonging]
    if not files:
        raise CasewiseError(f"cases: {path} contains no scans: neither NIfTI files nor folders of DICOM files.")
    if others:
        count = counted(len(others), "file is", "files are")
        log.warning("%s: %s no scan by name and left out, such as %s.", path, count, others[0].relative_to(path))
    if pattern:
        stated = read_paths(pattern, [file.relative_to(path).as_posix() for file in files], path)
        return [
            (str(file), own["subject"], own.get("visit", ""), _sequence(own.get("sequence", file.name), sequences))
            for file, own in zip(files, stated, strict=True)
        ]
    scans = []
    for file in files:
        *folders, name = map(one_form, file.relative_to(path).parts or (path.name,))
        if len(folders) > 2:
            example = f"{len(folders)} folders deep, such as {file.relative_to(path)}"
            raise CasewiseError(
                f"cases: {path} contains scans {example}. Allowed are subject/visit/scan and subject/scan."
            )
        subject, visit = (*folders, "", "")[:2]
        subject = subject or (one_form(path.name) if len(sequences) > 1 else name)
        scans.append((str(file), subject, visit, _sequence(name, sequences)))
    if study.columns.get("visit") != "":
        tops = [file.relative_to(path).parts[0] for file in files if len(file.relative_to(path).parts) > 1]
        refuse_visits(path, tops)
    return scans


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The scans below a folder, which is one itself if it contains DICOM files; and the other files."""
    scans: list[Path] = []
    others: list[Path] = []
    for parent, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in OF_SYSTEMS)
        visible = sorted(name for name in names if not name.startswith("."))
        nifti = [name for name in visible if name.casefold().endswith(NIFTI)]
        dicom = [name for name in visible if name.casefold().endswith(DICOM_SUFFIXES) or _is_dicom(Path(parent, name))]
        scans += [Path(parent, name) for name in nifti]
        if dicom:
            scans.append(Path(parent))
        others += [Path(parent, name) for name in visible if name not in nifti and name not in dicom]
    return sorted(scans, key=lambda path: natural(path.as_posix())), others


def _is_dicom(path: Path) -> bool:
    """Whether a file without a suffix is a DICOM file by its content."""
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _sequence(name: str, sequences: list[str]) -> str:
    """The sequence that a name contains; of T1 and T1c the longer one; the only one of a study; '' if it is not clear.

    >>> _sequence("P01_T1c.nii.gz", ["T1", "T1c"]), _sequence("P01_flair.nii", ["T1", "T2"])
    ('T1c', '')
    """
    name = one_form(name)
    if len(sequences) == 1 or (exact := find_region(name, sequences)):
        return sequences[0] if len(sequences) == 1 else exact
    contained = [sequence for sequence in sequences if sequence.casefold() in name.casefold()]
    longest = max(contained, key=len, default="")
    return longest if all(sequence.casefold() in longest.casefold() for sequence in contained) else ""


class VolumesModality(base.Modality):
    """Every row of the table is the scan of one sequence, or one slice of it; a case is a stack of slices."""

    name = "volumes"

    def noun(self, study: Study) -> base.Noun:
        return base.Noun("slice", "slices") if volumes_of(study).slice_index else base.Noun("scan", "scans")

    def position(self, study: Study) -> str:
        volumes = volumes_of(study)
        return str(volumes.slice_index) if volumes.slice_is_case(study) else ""

    def start(self, files: Sequence[Path] | None, study: Study) -> base.Start:
        if files is not None:
            raise CasewiseError("--images makes no tables of scans. Leave it out: the study file lists the columns.")
        return base.Start(study, [], [], "scan")

    def new_table(self, study: Study, paths: Sequence[Path], pattern: Pattern | None = None) -> pd.DataFrame:
        return _new_scans(study, paths, pattern)

    def columns(self, study: Study) -> dict[str, str]:
        volumes = volumes_of(study)
        columns = {
            "path": "a NIfTI file or the folder of a DICOM series, from `root` if given, else from the table's folder",
            volumes.column: f"which sequence the scan is: {' or '.join(volumes.sequences)}",
        }
        if volumes.roi == "mask":
            columns[volumes.mask] = "a NIfTI file that marks the region of interest; one file a case"
        return columns

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        return resolve_sequences(study, cohort)

    def described(self, study: Study, images: pd.DataFrame) -> str:
        sequences = " and ".join(", ".join(volumes_of(study).sequences).rsplit(", ", 1))
        return f"{self.noun(study).counted(len(images))} ({sequences})"

    def check_files(self, study: Study, cohort: Cohort, show: Show) -> None:
        check_headers(study, cohort, show)

    def prepare(
        self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles"
    ) -> base.ImageStore:
        return slices_and_pictures(study, cohort, folder.of(SCANS), show)

    def audited(self, prepared: base.PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
        assert isinstance(prepared.store, PreparedScans)
        return prepared.cohort, prepared.store.pictures

    def settings(self, study: Study) -> dict[str, Any]:
        # further fusions are further networks, as further backbones are, and lesions are only measured against
        stated = volumes_of(study).model_dump(mode="json")
        plain = {name: value for name, value in stated.items() if name not in ("fusion", "lesion")}
        return {"volumes": plain}

    def facts(self, study: Study, network: str) -> dict[str, Any]:
        return {
            "volumes": volumes_of(study).model_dump(mode="json")
            | {"fusion": [study.fusion_of(network)], "lesion": None}
        }

    def network_options(self, study: Study, network: str) -> dict[str, Any]:
        volumes, fusion = volumes_of(study), study.fusion_of(network)
        single = fusion in volumes.sequences
        return {
            "fusion": "early" if single else fusion,
            "sequences": 1 if single else len(volumes.sequences),
            # a case without the only sequence is represented by the learned stand-in, too
            "missing": volumes.missing,
            "side": study.images.size * study.panels.rows,
            **({"rows": study.panels.rows} if reads_volumes([network]) else {}),
        }

    def channels(self, study: Study, network: str) -> tuple[str, ...]:
        volumes, fusion = volumes_of(study), str(study.fusion_of(network))
        return (fusion,) if fusion in volumes.sequences else tuple(volumes.sequences)

    def fit(
        self, store: base.StoreReference, study: Study, rows: np.ndarray, network: str | None
    ) -> base.FittedPreprocessing:
        """The network's sequences and, of each, the standard scale of intensities (None: not standardised)."""

        sequences = self.channels(study, network) if network else tuple(volumes_of(study).sequences)
        if volumes_of(study).standardise == "none":
            return {"sequences": list(sequences), "standard": None}
        slices = open_slices(store.folder, store.address)
        numbers = [volumes_of(study).sequences.index(name) for name in sequences]
        fitted: base.FittedPreprocessing = {"sequences": list(sequences)}
        if slices.subjects is not None:
            # every subject counts once, however many of its slices are cases
            rows, fitted["landmarks"] = slices.subjects.one_case_each(rows), BY_SUBJECT
        landmarks, _ = slices.scale_of(rows, fitted)
        return fitted | {"standard": [standardise.fit(landmarks[:, number]).tolist() for number in numbers]}

    def dataset(
        self,
        store: base.StoreReference,
        study: Study,
        panels: pd.DataFrame,
        labels: np.ndarray | None,
        fitted: base.FittedPreprocessing,
    ) -> PanelDataset:
        from casewise.modalities.dataset import labels_tensor

        slices = open_slices(store.folder, store.address)
        return _slice_data(slices, study, panels, labels_tensor(labels, len(panels)), fitted)

    def alterations(self, study: Study) -> tuple[str, ...]:
        """Alterations of intensities only: a slice of a region of interest has no border and no shape of its own."""
        from casewise.modalities.alterations import OF_VALUES

        return tuple(OF_VALUES)

    def altered(self, prepared: base.PreparedCohort, rows: Sequence[int], alteration: str) -> base.AlteredPanels:
        """The intensities of every slice altered before they are standardised with the scan's own landmarks."""
        from casewise.modalities.dataset import labels_tensor

        panels = prepared.cohort.panels.iloc[list(rows)]
        stored = open_slices(Path(prepared.store.folder), prepared.store.address)
        numbers = [int(number) for number in panels["panel"]]

        def dataset(fitted: base.FittedPreprocessing) -> PanelDataset:
            slices = altered_slices(stored, numbers, alteration)
            own = panels.assign(panel=range(len(numbers)))
            return _slice_data(slices, prepared.study, own, labels_tensor(None, len(own)), fitted)

        return dataset

    def report_facts(self, study: Study) -> dict[str, Any]:
        volumes = volumes_of(study)
        return {"sliced": True, "order": volumes.slice_index, "windowed": volumes.slice_index is None}

    def picture(self, prepared: base.PreparedCohort, image: int) -> np.ndarray | None:
        return np.repeat(prepared.store.tiles[image].transpose(1, 2, 0), 3, axis=2)

    def preview(self, prepared: base.PreparedCohort, row: int, fitted: base.FittedPreprocessing) -> list[base.Picture]:
        """The central window of each sequence that the case has and that `fitted` knows."""
        slices = open_slices(Path(prepared.store.folder), prepared.store.address)
        return central_panels(prepared.study, slices, row, fitted)

    def to_native(
        self, prepared: base.PreparedCohort, maps: Sequence[base.SlotMaps], channel: str, *, side: int | None = None
    ) -> list[base.NativeMap]:
        """The map of one sequence on its scan or, for slice images, on each slice with a map."""
        return native_maps(prepared, maps[0], channel)

    def mask_columns(self, study: Study) -> dict[base.MaskMeaning, str]:
        column = volumes_of(study).lesion
        return {"lesion": column} if column else {}

    def mask(self, prepared: base.PreparedCohort, row: int, meaning: base.MaskMeaning) -> base.CaseMask:
        return read_lesion(prepared, row)


def _slice_data(
    slices: SliceStore, study: Study, panels: pd.DataFrame, truth: Tensor, fitted: base.FittedPreprocessing
) -> PanelDataset:
    """Windows of the slices of these cases, whose numbers in `slices` are in the column `panel`."""
    from casewise.plugins.volumes.dataset import SliceData, slices_of

    volumes = volumes_of(study)
    numbers = [volumes.sequences.index(name) for name in fitted["sequences"]]
    return SliceData(
        slices_of(slices, numbers, fitted),
        [int(number) for number in panels["panel"]],
        truth,
        study.panels,
        [str(case) for case in panels["case"]],
        volumes.inference_windows == "all",
        SEQUENCE_DROPOUT if volumes.missing == "mask" and len(numbers) > 1 else 0.0,
    )


MODALITY = VolumesModality()
