"""A finished run: its files, study and results, and everything else that is read from them when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.console import Silent
from casewise.evaluation.results import Results, read_results
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.read import prepare, read
from casewise.predictions import table as prediction_table
from casewise.run_folder import RunFolder
from casewise.splits.grouped import Splits, read_splits
from casewise.study.learners import in_order
from casewise.study.loading import saved_study

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import Modality
    from casewise.study.schema import Study


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run.

    Attributes:
        files: the run folder.
        study: with every setting in force.
        results: the content of `metrics.json`.
        inputs: the prepared cohort where it is at hand; otherwise `prepared` reads it when it is needed.
    """

    files: RunFolder
    study: Study
    results: Results
    inputs: PreparedCohort | None = None

    @classmethod
    def open(cls, folder: RunFolder | Path | str) -> FinishedRun:
        """Open a finished run, whose files are checked against their checksums.

        Raises:
            RunError: there is no such folder, it holds no finished run or only the comparison by image of one, or a
                file of it is damaged.
        """
        files = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
        files.check_finished()
        return cls(files, saved_study(files.study.read(), source=str(files.study.path)), read_results(files))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The content of `predictions.parquet`, with classes as numbers."""
        return prediction_table.check(self.files.predictions.read())

    @cached_property
    def final(self) -> pd.DataFrame:
        """One row of `predictions` for each learner, stage, case, region, image and target."""
        return prediction_table.final_rows(self.predictions)

    @cached_property
    def rows_by_case(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The rows of `final` of each learner, target and case, without those of external cases."""
        own = self.final[self.final["stage"] != "external"]
        groups = own.groupby([own[name].astype(str) for name in ("model", "target", "case")], sort=False)
        return dict(iter(groups))  # type: ignore[arg-type]

    @property
    def learners(self) -> list[str]:
        """The names of the networks, of the baselines, and of the learners that combine them."""
        return in_order(self.study, map(str, self.predictions["model"]))

    @cached_property
    def splits(self) -> Splits:
        """The split of the subjects."""
        return read_splits(self.files.splits)

    @cached_property
    def audit(self) -> dict[str, Any]:
        """The findings of the audit, the content of `audit.json`."""
        return self.files.audit.read()

    @cached_property
    def images(self) -> pd.DataFrame:
        """The cohort table as it was read, one row for each image."""
        return self.files.cohort.read()

    @cached_property
    def jobs(self) -> list[dict[str, Any]]:
        """The records of the trained networks."""
        return self.files.job_records(self.study.networks)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the networks."""
        return str(self.files.fingerprint.read()["fingerprint"])

    @cached_property
    def left_out(self) -> dict[str, dict[str, str]]:
        """The networks that could not be trained and have no part in the results: for each the reason by fold."""
        record = self.files.left_out.read_if_exists()
        return dict(record["networks"]) if record else {}

    @cached_property
    def prepared(self) -> PreparedCohort:
        """The cohort and its images, which are prepared again where they are missing.

        Raises:
            RunError: the run belongs to another version or other data.
            CasewiseError: the table or the images have changed or are missing.
        """
        if self.inputs:
            return self.inputs
        cohort = read(self.study, self.files, Silent(), to_train=False)
        store = prepare(self.study, cohort, self.files, Silent())
        return PreparedCohort(self.study, cohort, self.files.images(self.study.images.store), store)

    @property
    def cohort(self) -> Cohort:
        """The cohort, read and checked again."""
        return self.prepared.cohort

    @property
    def modality(self) -> Modality:
        """The modality of the study's images."""
        return modality_of(self.study)
