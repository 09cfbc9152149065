"""Write the report of a finished run: collect its artefacts and render the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show, shown
from casewise.evaluation.results import Results
from casewise.files import checksum
from casewise.modalities.base import FittedPreprocessing, ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.recipe_plan import plan_of_report
from casewise.pipeline.status import environment, machine
from casewise.plugin import explainer
from casewise.report.caveats import sentences
from casewise.splits.grouped import read_splits
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder


@shown("report")
def report(
    study: Study,
    cohort: Cohort,
    predictions: pd.DataFrame,
    results: Results,
    store: ImageStore,
    folder: RunFolder,
    show: Show,
) -> Path:
    """Write the HTML report."""
    from casewise.report.context import ReportContext
    from casewise.report.page import write_report

    jobs = folder.job_records(study.networks)
    folder.environment.write(machine())
    modality = modality_of(study)
    prepared = PreparedCohort(study, cohort, folder.images(study.images.store), store)
    context = ReportContext(
        study=study,
        audit=folder.audit.read_if_exists(),
        cohort_images=cohort.images,
        panels=cohort.panels,
        cases=cohort.cases,
        notes=[*cohort.notes, *sentences(results.notes)],
        splits=folder.splits.read(),
        predictions=predictions,
        metrics=results,
        jobs=jobs,
        stackers=folder.stackers.read(),
        tiles=lambda numbers: np.asarray(store.tiles[numbers]),
        photograph=lambda image: modality.picture(prepared, image),
        environment=environment(sum(job["seconds"] for job in jobs)),
        slide=lambda path: modality.overview(prepared, path),
        tile_predictions=folder.tile_predictions.read() if folder.tile_predictions.exists() else None,
        grids=_grids(prepared, folder),
        explanations=maps.stored(folder) if (maps := explainer()) else None,
        plan=plan_of_report(study, folder),
    )
    path = write_report(context, folder.report_path)
    folder.report_mark.write(checksum(folder.metrics.path))
    return path


def _grids(prepared: PreparedCohort, folder: RunFolder) -> Callable[[str], list[tuple[str, np.ndarray]]]:
    """A function from a case to its central panels as networks of its fold (test cases: the first fold) see them."""
    from casewise.jobs.plan import fitted_rows

    study, panels = prepared.study, prepared.cohort.panels
    modality, splits = modality_of(study), read_splits(folder.splits)
    row_of = {str(case): row for row, case in enumerate(panels["case"])}
    fitted: dict[int, FittedPreprocessing] = {}

    def grids(case: str) -> list[tuple[str, np.ndarray]]:
        fold = max(0, splits.side[str(panels["subject"].iloc[row_of[case]])])
        if fold not in fitted:
            rows = fitted_rows(study, panels, splits, fold)
            fitted[fold] = modality.fit(prepared.store, study, rows, None)
        return [(shown.name, shown.pixels) for shown in modality.preview(prepared, row_of[case], fitted[fold])]

    return grids
