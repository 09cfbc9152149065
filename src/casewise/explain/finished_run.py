"""A finished run opened again: its study, cohort, prepared images, split, predictions and networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.console import Silent
from casewise.errors import CasewiseError, RunError, nearest
from casewise.pipeline.prepare import prepare
from casewise.pipeline.read import read
from casewise.predictions import table as predicted
from casewise.run_folder import JobFolder, RunFolder
from casewise.splits.grouped import Splits, read_splits
from casewise.study.loading import saved_study
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore
    from casewise.modalities.volumes.slice_store import SliceStore


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a run left behind, checked to be of one piece.

    Attributes:
        predictions: as in `predictions.parquet`.
        final: one row a learner, stage, case, region, image and target.
        results: as in `metrics.json`.
        tiles: the tile store; of volumes the store of a picture for each scan.
        slices: of volumes the prepared slices.
        made_from: the fingerprint of the run's networks.
    """

    files: RunFolder
    study: Study
    cohort: Cohort
    splits: Splits
    predictions: pd.DataFrame
    final: pd.DataFrame
    results: dict[str, Any]
    tiles: TileStore
    slices: SliceStore | None
    made_from: str

    def row_of(self, case: str) -> int:
        """Of volumes: the case's number among the panels."""
        return [str(name) for name in self.cohort.panels["case"]].index(case)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.files.path

    def job(self, model: str, fold: int) -> JobFolder:
        """The folder of a network; `fold` from 0."""
        return self.files.job(model, fold)


def open_finished(folder: Path) -> FinishedRun:
    """Open a finished run; what it was made from is looked at again, and prepared anew where it is gone.

    Raises:
        RunError: there is no finished run, or it is of another version or other data.
        CasewiseError: the table or the images have changed or gone.
    """
    files = RunFolder(folder)
    study = _study(files)
    cohort = read(study, files, Silent())
    tiles = prepare(study, cohort, files, Silent())
    slices = None
    if study.volumes:
        from casewise.modalities.volumes.slice_store import open_slices

        slices = open_slices(tiles.folder)
    table = predicted.check(files.predictions.read())
    return FinishedRun(
        files=files,
        study=study,
        cohort=cohort,
        splits=read_splits(files.splits),
        predictions=table,
        final=predicted.final_rows(table),
        results=files.metrics.read(),
        tiles=tiles,
        slices=slices,
        made_from=str(files.fingerprint.read()["fingerprint"]),
    )


def _study(files: RunFolder) -> Study:
    """The study as it was run."""
    from pydantic import ValidationError

    folder = files.path
    if not folder.is_dir():
        near = folder.parent
        hint = nearest(folder.name, [path.name for path in near.iterdir() if path.is_dir()]) if near.is_dir() else ""
        raise RunError(f"There is no run folder {folder}.{hint}")
    files.check_finished()
    try:
        study = saved_study(files.study.read())
    except ValidationError as error:
        version = files.fingerprint.read().get("casewise", "unknown")
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(
            f"{files.study.path} is of another version of casewise ({version}): {place}: {first['msg']}. Explain "
            "the run with that version, or run the study again."
        ) from None
    if study.weights_dir and not study.weights_dir.is_dir():
        # first weights are in the networks already
        study = study.model_copy(update={"weights_dir": None})
    return study


def check_networks(run: FinishedRun, names: list[str]) -> list[str]:
    """The networks asked for, by default all of the study, all of which have their files.

    Raises:
        RunError: a network is none of the study's, or its files are missing or of another split.
    """
    known = run.study.networks
    wrong = [name for name in dict.fromkeys(names) if name not in known]
    if wrong:
        told = " and not ".join(f"{name!r}" for name in wrong)
        hints = "".join(dict.fromkeys(nearest(name, known) for name in wrong))
        raise RunError(f"--network: the study {run.study.name} has {', '.join(known)}, not {told}.{hints}")
    chosen = [name for name in known if name in names] if names else list(known)
    for model in chosen:
        for fold in range(run.splits.folds):
            place = run.job(model, fold)
            missing = [file.path for file in (place.weights, place.facts, place.record) if not file.exists()]
            if missing:
                raise RunError(
                    f"{missing[0]} is missing: the network {model} of fold {fold + 1} cannot be looked into. "
                    "Run the study again, or leave the network out with --network."
                )
            if place.facts.read()["split"] != run.splits.hash:
                raise RunError(
                    f"{place.path}: this network was trained on another split than {run.files.splits.path} has. Run "
                    "the study again."
                )
    return chosen


def check_explained(run: FinishedRun) -> None:
    """Stop where panels are bags: their weights say where a network looked.

    Raises:
        CasewiseError: attention gathers the study's panels.
    """
    if run.study.panels.pooling == "attention":
        raise CasewiseError(
            f"The networks of {run.study.name} weigh all tiles of a case (pooling: attention): their weights show "
            f"where they looked. They are in {run.files.tile_predictions.path.name}, and the report draws them as maps."
        )
