"""The report of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.console import Show, shown
from casewise.evaluation.results import from_json
from casewise.files import checksum
from casewise.modalities.base import FittedPreprocessing
from casewise.pipeline.recipe_plan import RecipePlan, in_words
from casewise.pipeline.status import environment, machine
from casewise.plugin import explainer
from casewise.report.caveats import sentences

if TYPE_CHECKING:
    from casewise.pipeline.finished import FinishedRun


@shown("report")
def report(run: FinishedRun, show: Show) -> Path:
    """Write the HTML report."""
    from casewise.report.context import ReportContext
    from casewise.report.page import write_report

    files, cohort, prepared, modality = run.files, run.cohort, run.prepared, run.modality
    files.environment.write(machine())
    plan = files.recipe_plan.read_if_exists() if run.study.recipe.auto and run.study.recipe.phases else None
    context = ReportContext(
        study=run.study,
        audit=files.audit.read_if_exists(),
        cohort_images=cohort.images,
        panels=cohort.panels,
        cases=cohort.cases,
        notes=[*cohort.notes, *sentences(run.results.notes)],
        splits=files.splits.read(),
        predictions=run.predictions,
        metrics=run.results,
        jobs=run.jobs,
        stackers=files.stackers.read(),
        tiles=lambda numbers: np.asarray(prepared.store.tiles[numbers]),
        photograph=lambda image: modality.picture(prepared, image),
        environment=environment(sum(job["seconds"] for job in run.jobs)),
        slide=lambda path: modality.overview(prepared, path),
        tile_predictions=files.tile_predictions.read() if files.tile_predictions.exists() else None,
        grids=_grids(run),
        explanations=maps.stored(files) if (maps := explainer()) else None,
        plan=in_words(run.study, from_json(RecipePlan, plan)) if plan else "",
    )
    path = write_report(context, files.report_path)
    files.report_mark.write(checksum(files.metrics.path))
    return path


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
