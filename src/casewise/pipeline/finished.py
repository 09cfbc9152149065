"""A finished run: how it is opened, and when its results and report are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.console import Silent
from casewise.evaluation.results import Results, from_json, read_results
from casewise.files import checksum, parquet_bytes
from casewise.metrics.registry import added_metrics
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of, own_modalities
from casewise.pipeline.read import prepare, read
from casewise.plugin import explainer
from casewise.predictions import table as prediction_table
from casewise.splits.grouped import Splits, read_splits
from casewise.study.learners import added_learners
from casewise.study.loading import saved_study
from casewise.targets.registry import added_kinds
from casewise.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore, Modality
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


LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "matplotlib", "jinja2", "torch")


def inputs_of_results(
    study: Study, cohort: Cohort, store: ImageStore, predictions: pd.DataFrame, folder: RunFolder
) -> str | None:
    """A hash of all that stacking, scores, metrics and report depend on; None for what is always computed again.

    These are studies with several seeds or a comparison by image, which have networks of their own to verify, and those
    with metrics, kinds of targets, learners or modalities that others have registered.
    """
    registered = added_metrics() or added_kinds() or added_learners() or study.modality_name not in own_modalities()
    if registered or study.seeds > 1 or study.split.by == "image":
        return None

    files = [folder.audit, folder.splits, folder.external_cohort, folder.cohort_difference]
    files += [folder.tile_predictions, folder.counterfactuals, folder.left_out]
    inputs = {
        "study": study.model_dump(mode="json"),
        "tables": [_hash(table.astype(str).to_json()) for table in (cohort.images, cohort.panels, cohort.cases)],
        "cohort": [repr(cohort.notes), repr(cohort.flow)],
        "images": store.address,
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
    return _hash(json.dumps(inputs, sort_keys=True, default=str))


def stored_results(inputs: str | None, folder: RunFolder, show: Show) -> tuple[pd.DataFrame, Results] | None:
    """The predictions and metrics of an earlier run with the same inputs, if these and its report are intact."""
    if inputs is None:
        return None
    mark = folder.results_mark.read_or_none()
    if not mark or mark["inputs"] != inputs or not folder.report_path.is_file():
        return None
    values = folder.metrics.read_or_none()
    if mark["report"] != checksum(folder.report_path) or not values or folder.changed_parts(values):
        return None
    if folder.report_mark.read_or_none() != checksum(folder.metrics.path):
        return None
    show.line("results", "as computed before: nothing that they depend on has changed")
    return folder.predictions.read(), from_json(Results, values)


def record_results(inputs: str | None, folder: RunFolder) -> None:
    """Record that the present results and report were made from `inputs`; nothing without a report."""
    folder.results_mark.remove()
    if inputs is not None and folder.report_path.is_file():
        folder.results_mark.write({"inputs": inputs, "report": checksum(folder.report_path)})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _states(folder: Path) -> list[str]:
    """Name, size and time of every file below a folder: they change whenever a file is written."""
    states = [(path, path.stat()) for path in sorted(folder.rglob("*.*")) if path.is_file() and path.suffix != ".pyc"]
    return [f"{path.relative_to(folder)} {state.st_size} {state.st_mtime_ns}" for path, state in states]
