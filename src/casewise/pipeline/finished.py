"""A finished run: its files, study and results, everything else that is read from them when needed, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show, Silent, shown
from casewise.evaluation.metrics_file import read_results
from casewise.evaluation.results import Results
from casewise.files import checksum
from casewise.inference.explainer import explainer
from casewise.modalities.base import FittedPreprocessing, Modality, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.plan_in_words import in_words
from casewise.pipeline.read import prepare, read
from casewise.pipeline.recipe_plan import recorded_plan
from casewise.pipeline.status import environment, machine
from casewise.predictions import table as prediction_table
from casewise.run_folder import RunFolder
from casewise.splits.grouped import Splits, read_splits
from casewise.study.learners import in_order
from casewise.study.loading import saved_study
from casewise.study.schema import Study
from casewise.study.sources import Origin
from casewise.study.weight_origins import run_origins


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run.

    Attributes:
        files: the run folder.
        study: with every setting in force.
        results: the content of `metrics.json`.
        inputs: the prepared cohort if available; otherwise `prepared` reads it when needed.
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
        """The rows of `final` by learner, target and case, without external cases."""
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
    def audit(self) -> Mapping[str, Any]:
        """The findings of the audit, the content of `audit.json`."""
        return self.files.audit.read()

    @cached_property
    def images(self) -> pd.DataFrame:
        """The cohort table as it was read, one row for each image."""
        return self.files.cohort.read()

    @cached_property
    def jobs(self) -> list[dict[str, Any]]:
        """The records of the trained networks."""
        return self.files.job_records(self.study.trained)

    @cached_property
    def origins(self) -> list[Origin]:
        """Where the first weights of all learners come from."""
        return run_origins(self.files, self.study)

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
        store = prepare(self.study, cohort, self.files, Silent(), to_train=False)
        return PreparedCohort(self.study, cohort, self.files.images(self.study.images.store), store)

    @property
    def cohort(self) -> Cohort:
        """The cohort, read and checked again."""
        return self.prepared.cohort

    @property
    def modality(self) -> Modality:
        """The modality of the study's images."""
        return modality_of(self.study)


@shown("report")
def report(run: FinishedRun, show: Show) -> Path:
    """Write the HTML report."""
    from casewise.report.context import ReportContext
    from casewise.report.page import render

    files, cohort, prepared, modality = run.files, run.cohort, run.prepared, run.modality
    files.environment.write(machine())
    plan = recorded_plan(run.study, files) if run.study.recipe.phases else None
    context = ReportContext(
        study=run.study,
        audit=files.audit.read_if_exists(),
        cohort_images=cohort.images,
        panels=cohort.panels,
        cases=cohort.cases,
        notes=[*cohort.notes, *run.results.notes],
        splits=files.splits.read(),
        predictions=run.predictions,
        metrics=run.results,
        origins=run.origins,
        jobs=run.jobs,
        stackers=files.stackers.read(),
        tiles=lambda numbers: np.asarray(prepared.store.tiles[numbers]),
        photograph=lambda image: modality.picture(prepared, image),
        environment=environment(sum(job["seconds"] for job in run.jobs)),
        slide=lambda path: modality.overview(prepared, path),
        tile_predictions=files.tile_predictions.read_if_exists(),
        grids=_grids(run),
        explanations=maps.stored(files) if (maps := explainer()) else None,
        plan=in_words(run.study, plan) if plan else "",
    )
    return files.report.write(render(context), checksum(files.metrics.path))


def _grids(run: FinishedRun) -> Callable[[str], list[tuple[str, np.ndarray]]]:
    """A function from a case to its central panels as networks of its fold (test cases: the first fold) see them."""
    from casewise.jobs.plan import fitted_rows

    panels = run.cohort.panels
    row_of = {str(case): row for row, case in enumerate(panels["case"])}
    fitted: dict[int, FittedPreprocessing] = {}

    def grids(case: str) -> list[tuple[str, np.ndarray]]:
        fold = max(0, run.splits.side[str(panels["subject"].iloc[row_of[case]])])
        if fold not in fitted:
            rows = fitted_rows(run.study, panels, run.splits, fold)
            fitted[fold] = run.modality.fit(run.prepared.store, run.study, rows, None)
        return [(shown.name, shown.pixels) for shown in run.modality.preview(run.prepared, row_of[case], fitted[fold])]

    return grids
