"""A finished run opened again: its study, cohort, prepared images, split, predictions and networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.console import Silent
from casewise.errors import CasewiseError, RunError, nearest
from casewise.pipeline import steps
from casewise.predictions import table as predicted
from casewise.splits.grouped import Splits, read_splits
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore
    from casewise.modalities.volumes.slice_store import SliceStore

NEEDED = ("study.json", "splits.json", "predictions.parquet", "metrics.json")


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

    folder: Path
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

    def job(self, model: str, fold: int) -> Path:
        """The folder of a network; `fold` from 0."""
        return self.folder / "jobs" / model.replace(":", "_").replace("/", "_") / f"fold{fold + 1}"


def open_finished(folder: Path) -> FinishedRun:
    """Open a finished run; what it was made from is looked at again, and prepared anew where it is gone.

    Raises:
        RunError: there is no finished run, or it is of another version or other data.
        CasewiseError: the table or the images have changed or gone.
    """
    study = _study(folder)
    cohort = steps.read(study, folder, Silent())
    tiles = steps.prepare(study, cohort, folder, Silent())
    slices = None
    if study.volumes:
        from casewise.modalities.volumes.preparation import SCANS
        from casewise.modalities.volumes.slice_store import open_slices

        slices = open_slices(folder / SCANS)
    table = predicted.read(folder / "predictions.parquet")
    return FinishedRun(
        folder=folder,
        study=study,
        cohort=cohort,
        splits=read_splits(folder / "splits.json"),
        predictions=table,
        final=predicted.final_rows(table),
        results=json.loads((folder / "metrics.json").read_text()),
        tiles=tiles,
        slices=slices,
        made_from=str(json.loads((folder / "fingerprint.json").read_text())["fingerprint"]),
    )


def _study(folder: Path) -> Study:
    """The study as it was run."""
    from pydantic import ValidationError

    if not folder.is_dir():
        near = folder.parent
        hint = nearest(folder.name, [path.name for path in near.iterdir() if path.is_dir()]) if near.is_dir() else ""
        raise RunError(f"There is no run folder {folder}.{hint}")
    gone = next((name for name in (*NEEDED, "fingerprint.json") if not (folder / name).is_file()), None)
    if gone:
        raise RunError(f"{folder} holds no finished run: {gone} is missing. Finish it with `casewise run` first.")
    try:
        study = Study.model_validate(json.loads((folder / "study.json").read_text()))
    except (ValidationError, ValueError) as error:
        version = json.loads((folder / "fingerprint.json").read_text()).get("casewise", "unknown")
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(
            f"{folder / 'study.json'} is of another version of casewise ({version}): {place}: {first['msg']}. Explain "
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
            missing = [n for n in ("model.safetensors", "model.json", "job.json") if not (place / n).is_file()]
            if missing:
                raise RunError(
                    f"{place / missing[0]} is missing: the network {model} of fold {fold + 1} cannot be looked into. "
                    "Run the study again, or leave the network out with --network."
                )
            told = json.loads((place / "model.json").read_text())
            if told["split"] != run.splits.hash:
                raise RunError(
                    f"{place}: this network was trained on another split than {run.folder / 'splits.json'} has. Run "
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
            f"The networks of {run.study.name} weigh all tiles of a case (pooling: attention): their weights say where "
            "they looked. They are in tiles.parquet, and the report draws them as maps."
        )
