"""A finished run: its folder, cohort, prepared images, split, predictions and networks, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from casewise.console import Silent
from casewise.evaluation.results import Results, read_results
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.prepare import prepare
from casewise.pipeline.read import read
from casewise.predictions import table as prediction_table
from casewise.splits.grouped import Splits, read_splits
from casewise.study.loading import saved_study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import Modality
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The contents of a finished run, checked for consistency.

    Attributes:
        predictions: the content of `predictions.parquet`.
        final: one row per learner, stage, case, region, image and target.
        results: the content of `metrics.json`.
        fingerprint: of the networks of the run.
    """

    folder: RunFolder
    prepared: PreparedCohort
    splits: Splits
    predictions: pd.DataFrame
    final: pd.DataFrame
    results: Results
    fingerprint: str

    @property
    def study(self) -> Study:
        """The study of the run."""
        return self.prepared.study

    @property
    def cohort(self) -> Cohort:
        """The cohort of the run."""
        return self.prepared.cohort

    @cached_property
    def rows_by_case(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The rows of `final` of each learner, target and case, without those of external cases."""
        own = self.final[self.final["stage"] != "external"]
        groups = own.groupby([own[name].astype(str) for name in ("model", "target", "case")], sort=False)
        return dict(iter(groups))  # type: ignore[arg-type]

    @property
    def modality(self) -> Modality:
        """The modality of the study's images."""
        return modality_of(self.study)


def open_finished(folder: RunFolder) -> FinishedRun:
    """Open a finished run; checks its inputs again, and prepares missing images again.

    Raises:
        RunError: there is no finished run, or it belongs to another version or other data.
        CasewiseError: the table or the images have changed or are missing.
    """
    study = _read_study(folder)
    cohort = read(study, folder, Silent(), to_train=False)
    store = prepare(study, cohort, folder, Silent())
    predictions = prediction_table.check(folder.predictions.read())
    return FinishedRun(
        folder=folder,
        prepared=PreparedCohort(study, cohort, folder.images(study.images.store), store),
        splits=read_splits(folder.splits),
        predictions=predictions,
        final=prediction_table.final_rows(predictions),
        results=read_results(folder),
        fingerprint=str(folder.fingerprint.read()["fingerprint"]),
    )


def check_run(folder: RunFolder) -> None:
    """Check that a finished run is here, before a lock file is created."""
    folder.check_exists()
    folder.refuse_image_split()
    folder.check_finished()


def _read_study(folder: RunFolder) -> Study:
    """The study of the run."""
    check_run(folder)
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    if study.weights_dir and not study.weights_dir.is_dir():
        # trained networks do not need their first weights
        study = study.model_copy(update={"weights_dir": None})
    return study
