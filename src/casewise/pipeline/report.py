"""The report of a finished run, and when its results and report are kept instead of being made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.console import Show, shown
from casewise.evaluation.results import Results, from_json
from casewise.files import checksum, parquet_bytes
from casewise.metrics.registry import added_metrics
from casewise.modalities.base import FittedPreprocessing
from casewise.modalities.registry import own_modalities
from casewise.pipeline.recipe_plan import plan_of_report
from casewise.pipeline.status import environment, machine
from casewise.plugin import explainer
from casewise.report.caveats import sentences
from casewise.study.learners import added_learners
from casewise.targets import added_kinds
from casewise.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from casewise.pipeline.finished import FinishedRun
    from casewise.pipeline.read import RunInputs
    from casewise.run_folder import RunFolder


@shown("report")
def report(run: FinishedRun, show: Show) -> Path:
    """Write the HTML report."""
    from casewise.report.context import ReportContext
    from casewise.report.page import write_report

    files, cohort, prepared, modality = run.files, run.cohort, run.prepared, run.modality
    files.environment.write(machine())
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
        plan=plan_of_report(run.study, files),
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


LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "matplotlib", "jinja2", "torch")


def inputs_of_results(inputs: RunInputs, predictions: pd.DataFrame) -> str | None:
    """A hash of all that stacking, scores, metrics and report depend on; None for what is always computed again.

    These are studies with several seeds or a comparison by image, which have networks of their own to verify, and those
    with metrics, kinds of targets, learners or modalities that others have registered.
    """
    study, cohort, folder = inputs.study, inputs.cohort, inputs.folder
    registered = added_metrics() or added_kinds() or added_learners() or study.modality_name not in own_modalities()
    if registered or study.seeds > 1 or study.split.by == "image":
        return None

    files = [folder.audit, folder.splits, folder.external_cohort, folder.cohort_difference]
    files += [folder.tile_predictions, folder.counterfactuals, folder.left_out]
    values = {
        "study": study.model_dump(mode="json"),
        "tables": [_hash(table.astype(str).to_json()) for table in (cohort.images, cohort.panels, cohort.cases)],
        "cohort": [repr(cohort.notes), repr(cohort.flow)],
        "images": inputs.store.address,
        "predictions": hashlib.sha256(parquet_bytes(predictions)).hexdigest(),
        "networks": {
            str(job.path.relative_to(folder.path)): checksum(job.record.path)
            for network in study.learners
            for job in folder.finished_jobs(network)
        },
        "files": {file.path.name: checksum(file.path) for file in files if file.exists()},
        "explanations": maps.stored(folder) if (maps := explainer()) else None,
        "pictures": _states(folder.explanation_folder.path),
        "casewise": [__version__, *_states(Path(__file__).parents[1])],
        "libraries": [metadata.version(name) for name in LIBRARIES],
    }
    return _hash(json.dumps(values, sort_keys=True, default=str))


def stored_results(made_from: str | None, folder: RunFolder, show: Show) -> Results | None:
    """The metrics of an earlier run with the same inputs, if these, its predictions and its report are intact."""
    if made_from is None:
        return None
    mark = folder.results_mark.read_or_none()
    if not mark or mark["inputs"] != made_from or not folder.report_path.is_file():
        return None
    values = folder.metrics.read_or_none()
    if mark["report"] != checksum(folder.report_path) or not values or folder.changed_parts(values):
        return None
    if folder.report_mark.read_or_none() != checksum(folder.metrics.path):
        return None
    show.line("results", "as computed before: nothing that they depend on has changed")
    return from_json(Results, values)


def record_results(made_from: str | None, folder: RunFolder) -> None:
    """Record that the present results and report were made from these inputs; nothing without a report."""
    folder.results_mark.remove()
    if made_from is not None and folder.report_path.is_file():
        folder.results_mark.write({"inputs": made_from, "report": checksum(folder.report_path)})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _states(folder: Path) -> list[str]:
    """Name, size and time of every file below a folder: they change whenever a file is written."""
    states = [(path, path.stat()) for path in sorted(folder.rglob("*.*")) if path.is_file() and path.suffix != ".pyc"]
    return [f"{path.relative_to(folder)} {state.st_size} {state.st_mtime_ns}" for path, state in states]
