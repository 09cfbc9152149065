"""A trained model that stays in memory and answers tables of new cases one after another, with saliency maps."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.errors import RunError
from casewise.inference.case_chunks import RawCase, cases_of
from casewise.inference.ensemble import Ensemble
from casewise.inference.explainer import explainer
from casewise.inference.model import TrainedModel, with_columns
from casewise.inference.new_cases import NewCases, NewTable, new_table, slot_column
from casewise.inference.predictor import Predictor
from casewise.modalities.base import NativeMap, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.predictions.stacking import by_weight
from casewise.study.learners import the_learner
from casewise.study.schema import Study

# The longest side of a picture with a map, in pixels: large photographs are then decoded at a quarter of their size.
PICTURE_SIDE = 600
# Grey values of a scan between these percentiles are shown from black to white.
WINDOW = (1.0, 99.0)


def slots_of(study: Study) -> list[str]:
    """The regions or sequences of a case; empty where images have neither."""
    return list(study.regions) or [str(name) for name in getattr(study.modality_settings, "sequences", [])]


class ResidentModel:
    """A model with its networks in memory.

    Args:
        learner: as in `casewise.inference.ensemble.Ensemble`.

    Attributes:
        learner: the first learner that predicts.
        in_memory: how many networks stay in memory.
        explained: the learners behind the learner that have saliency maps, those with the largest weight first.

    Raises:
        RunError: there is no such learner, or the model's cases need more than files and their regions or sequences.
    """

    def __init__(self, model: TrainedModel, learner: str) -> None:
        self.model, self.ensemble = model, Ensemble(model.members, model.combination, learner)
        self.learner, self.explainer = self.ensemble.learners[0], explainer()
        self._check_columns()
        names = {member.model for member in self.ensemble.members}
        explainable = self.explainer.explainable(self.model.members) if self.explainer else []
        explained = [name for name in explainable if name in names]
        self.explained = by_weight(explained, self.learner, model.combination.stackers)
        self.in_memory = self.ensemble.load()
        self._on_cpu: dict[tuple[str, int], Predictor] = {}

    @cached_property
    def study(self) -> Study:
        """The study by which new cases are read, without a table."""
        return self.model.reader.study(Path("cases.csv"))

    def table(self, rows: pd.DataFrame, folder: Path, root: Path) -> tuple[NewTable, pd.DataFrame, list[RawCase]]:
        """The table of new cases, its cells and its cases.

        Args:
            rows: with the columns `path`, `subject`, the slot's column if the study has slots, and `visit` if there
                are several; covariates by their names.
            folder: where the table is written.
            root: the folder that paths are relative to.
        """
        stated = [name for name in ("path", "subject", "visit", "region") if name in rows]
        columns = dict.fromkeys(self.model.reader.settings["columns"], "") | {name: name for name in stated}
        table = new_table(rows, self.model.reader, folder, columns=columns, root=root)
        cells = table.cells()
        table = replace(with_columns(table, cells, self.ensemble), modalities=self.model.modalities)
        return table, cells, cases_of(cells, table.study)

    def maps(
        self, study: Study, prepared: Sequence[NewCases], predicted: pd.DataFrame, *, target: Any, learner: str
    ) -> Iterator[Any]:
        """The saliency maps of prepared cases, as of `Explainer.explain_new`, computed on the CPU.

        Args:
            study: of the table of the cases.
            predicted: their rows of the output table, by which the explained class is chosen; may be empty for numbers.
            target: from `Explainer.target_of`.
            learner: one of `explained`.
        """
        assert self.explainer is not None
        classes = list(self.model.table.classes[target.target])
        coded = predicted.assign(y_pred=[classes.index(v) if v in classes else np.nan for v in predicted["prediction"]])
        try:
            for new in prepared:
                predictors = map(self._cpu_predictor, self.ensemble.predictors(learner))
                at = PreparedCohort(study, new.cohort, new.folder, new.store)
                yield from self.explainer.explain_new(predictors, at, target, coded, side=PICTURE_SIDE)
        finally:
            gc.collect()  # the library of Grad-CAM keeps what it was called with in circles of references

    def meaning(self, learner: str, *, signed: bool, classes: bool) -> str:
        """What the maps of a learner show; of classes, they are about the one that the model's learner predicts."""
        what = "contributions to its" if signed else "influence on its"
        if not classes:
            return f"{what} prediction"
        by = "that it predicts" if learner == self.learner else f"that {the_learner(self.learner)} predicts"
        return f"{what} output for the class {by}"

    def _check_columns(self) -> None:
        """Refuse a model whose cases need more columns of a table than files and their regions or sequences state."""
        needed = set(modality_of(self.study).columns(self.study)) - {"path", slot_column(self.study)}
        if index := getattr(self.study.modality_settings, "slice_index", None):
            needed.add(str(index))
        if needed:
            lacking = f"its cases need the table's column {min(needed)!r}, which image files do not state"
            raise RunError(f"{self.model.folder}: {lacking}. Use `casewise predict` with a table.")

    def _cpu_predictor(self, predictor: Predictor) -> Predictor:
        """The network where maps are computed: itself, or a copy of one that predicts on a GPU.

        Copies stay in memory if all networks do.
        """
        if next(predictor.network.parameters()).device.type == "cpu":
            return predictor
        key = (predictor.bundle.model, predictor.bundle.fold)
        if key not in self._on_cpu:
            copied = Predictor(predictor.bundle, predictor.bundle.load(), predictor.distance)
            if self.in_memory < len(self.model.members):
                return copied
            self._on_cpu[key] = copied
        return self._on_cpu[key]


def pictured(native: NativeMap) -> tuple[NDArray[np.uint8], NDArray[np.floating], str]:
    """The picture of a map (h, w) or (h, w, 3), its values (h, w), and a note on what a scan's picture shows."""
    return strongest_slice(native) if native.picture is None else (native.picture, native.values, "")


def strongest_slice(native: NativeMap) -> tuple[NDArray[np.uint8], NDArray[np.floating], str]:
    """The axial slice of a scan with the largest influence: its picture, its map, and a note on what it shows.

    The patient's front is up, and the patient's right is on the left, as radiologists view it.
    """
    import nibabel

    assert native.affine is not None
    assert native.voxels is not None
    turn = nibabel.orientations.io_orientation(native.affine)
    values, voxels = (nibabel.orientations.apply_orientation(a, turn) for a in (native.values, native.voxels))
    number = int(np.abs(values).sum(axis=(0, 1)).argmax())
    low, high = np.percentile(voxels, WINDOW)
    grey = np.clip((voxels[:, :, number] - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.ascontiguousarray(np.rint(grey).astype(np.uint8).T[::-1, ::-1])
    which = f"axial slice {number + 1} of {values.shape[2]}, the one with the largest influence"
    note = f"{which}; the right of the patient is on the left"
    return picture, np.ascontiguousarray(values[:, :, number].T[::-1, ::-1]), note
