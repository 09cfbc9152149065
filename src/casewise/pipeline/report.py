"""A finished study handed to the report, with everything that the page may show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show
from casewise.evaluation.run_checks import environment, headline
from casewise.modalities.base import FittedPreprocessing, ImageFolder, ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.splits.grouped import read_splits
from casewise.study.schema import Study


def job_records(folder: Path) -> list[dict[str, Any]]:
    """What the jobs tell of themselves."""
    return [json.loads(path.read_text()) for path in sorted((folder / "jobs").glob("*/*/job.json"))]


def report(
    study: Study,
    cohort: Cohort,
    predictions: pd.DataFrame,
    results: dict[str, Any],
    tiles: ImageStore,
    folder: Path,
    show: Show,
) -> Path:
    """Write the HTML report."""
    from casewise.report.context import ReportContext
    from casewise.report.page import write_report
    from casewise.report.sections.saliency import read_explanations

    jobs = [record for record in job_records(folder) if record["model"] in study.networks]
    modality = modality_of(study)
    prepared = PreparedCohort(study, cohort, ImageFolder.of_run(study, folder), tiles)
    single = folder / "tiles.parquet"

    checked = folder / "audit.json"
    material = ReportContext(
        study=study,
        audit=json.loads(checked.read_text()) if checked.is_file() else None,
        cohort_images=cohort.images,
        panels=cohort.panels,
        cases=cohort.cases,
        notes=[*cohort.notes, *results["notes"]],
        splits=json.loads((folder / "splits.json").read_text()),
        predictions=predictions,
        metrics=results,
        jobs=jobs,
        stackers=json.loads((folder / "stackers.json").read_text()),
        tiles=lambda numbers: np.asarray(tiles.tiles[numbers]),
        photograph=lambda image: modality.picture(prepared, image),
        environment=environment(sum(job["seconds"] for job in jobs)),
        slide=lambda path: modality.overview(prepared, path),
        tile_predictions=pd.read_parquet(single) if single.is_file() else None,
        grids=_grids(prepared, folder),
        explanations=read_explanations(folder),
    )
    path = write_report(material, folder / "report.html")
    sentence = headline(study, results)
    if sentence:
        show.line("result", sentence)
    return path


def _grids(prepared: PreparedCohort, folder: Path) -> Callable[[str], list[tuple[str, np.ndarray]]]:
    """From a case to its central panel by channel, as networks of its fold (on the test set the first's) see it."""
    from casewise.jobs.fit_subjects import fitted_rows

    study, panels = prepared.study, prepared.cohort.panels
    modality, splits = modality_of(study), read_splits(folder / "splits.json")
    row_of = {str(case): row for row, case in enumerate(panels["case"])}
    fitted: dict[int, FittedPreprocessing] = {}

    def grids(case: str) -> list[tuple[str, np.ndarray]]:
        fold = max(0, splits.side[str(panels["subject"].iloc[row_of[case]])])
        if fold not in fitted:
            rows = fitted_rows(study, panels, splits, fold)
            fitted[fold] = modality.fit(prepared.store, study, rows, None)
        return [(shown.name, shown.pixels) for shown in modality.preview(prepared, row_of[case], fitted[fold])]

    return grids
