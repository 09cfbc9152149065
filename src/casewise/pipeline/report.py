"""A finished study handed to the report, with everything that the page may show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show
from casewise.evaluation.run_checks import environment, headline
from casewise.modalities.slides import cohort as slides
from casewise.splits.grouped import read_splits
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.modalities.slides.plans import KeptSlide
    from casewise.modalities.store.store import TileStore


def job_records(folder: Path) -> list[dict[str, Any]]:
    """What the jobs tell of themselves."""
    return [json.loads(path.read_text()) for path in sorted((folder / "jobs").glob("*/*/job.json"))]


def report(
    study: Study,
    cohort: Cohort,
    predictions: pd.DataFrame,
    results: dict[str, Any],
    tiles: TileStore,
    folder: Path,
    show: Show,
) -> Path:
    """Write the HTML report."""
    from casewise.modalities.photographs.readers import read_image
    from casewise.report.context import ReportContext, no_grids
    from casewise.report.page import write_report
    from casewise.report.sections.saliency import read_explanations

    jobs = [record for record in job_records(folder) if record["model"] in study.networks]
    paths = cohort.images.set_index("image")["path"]
    whole = set(cohort.images.loc[cohort.images["tile_side"] >= 0, "path"]) if slides.is_cut(cohort) else set()
    single = folder / "tiles.parquet"

    def slide(path: str) -> KeptSlide | None:
        return slides.slide_of(study, path, folder / slides.FOLDER) if path in whole else None

    def photograph(image: int) -> np.ndarray | None:
        if study.volumes:
            return np.repeat(tiles.tiles[image].transpose(1, 2, 0), 3, axis=2)  # a scan in its grid
        shown = slide(str(paths[image]))
        return shown.read_picture() if shown else read_image(Path(paths[image]), size=900)

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
        photograph=photograph,
        environment=environment(sum(job["seconds"] for job in jobs)),
        slide=slide,
        tile_predictions=pd.read_parquet(single) if single.is_file() else None,
        grids=_grids(study, cohort, folder) if study.volumes else no_grids,
        explanations=read_explanations(folder),
    )
    path = write_report(material, folder / "report.html")
    sentence = headline(study, results)
    if sentence:
        show.line("result", sentence)
    return path


def _grids(study: Study, cohort: Cohort, folder: Path) -> Callable[[str], list[tuple[str, np.ndarray]]]:
    """From a case to its central panel by sequence, as networks of its fold (on the test set the first's) see it."""
    from casewise.jobs.fit_subjects import fitted_rows
    from casewise.modalities.volumes.preparation import SCANS
    from casewise.modalities.volumes.preview import central_panels
    from casewise.modalities.volumes.slice_store import open_slices

    slices, splits = open_slices(folder / SCANS), read_splits(folder / "splits.json")
    rows = {str(case): row for row, case in enumerate(cohort.panels["case"])}
    fitted: dict[int, Any] = {}

    def grids(case: str) -> list[tuple[str, np.ndarray]]:
        fold = max(0, splits.side[str(cohort.panels["subject"].iloc[rows[case]])])
        if fold not in fitted:
            fitted[fold] = fitted_rows(study, cohort.panels, splits, fold)
        return central_panels(study, slices, rows[case], fitted[fold])

    return grids
