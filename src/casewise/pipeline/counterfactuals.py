"""The counterfactual check: trained networks predict held-out cases again with their images altered."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING

import pandas as pd

from casewise.errors import counted
from casewise.modalities.alterations import UNALTERED, VERSION
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.predictions import table as predicted
from casewise.predictions.decisions import apply_thresholds, decide_grades
from casewise.predictions.scores import apply_scores
from casewise.study.scores import study_scores

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


def counterfactuals(
    study: Study,
    cohort: Cohort,
    store: ImageStore,
    splits: Splits,
    predictions: pd.DataFrame,
    folder: RunFolder,
    show: Show,
) -> None:
    """Predict altered images of some held-out cases of each network, and write all predictions; stored ones are kept.

    Args:
        predictions: of the unaltered images, by which the thresholds of grades are tuned.

    Raises:
        ImageError: an image cannot be read.
    """
    from casewise.jobs.counterfactuals import chosen_panels, predict_altered
    from casewise.jobs.fingerprint import table_hash
    from casewise.jobs.plan import expand

    table, mark = folder.counterfactuals, folder.counterfactuals_mark
    alterations = modality_of(study).alterations(study)
    rows_by_fold = chosen_panels(study, cohort.panels, splits)
    if not (study.evaluation.counterfactual_cases and alterations and rows_by_fold):
        mark.remove()
        table.remove()
        return
    jobs = expand(study, splits, folder, str(folder.fingerprint.read()["fingerprint"]))
    jobs = [job for job in jobs if job.fold in rows_by_fold]
    inputs = {
        "alterations": [VERSION, *alterations],
        "rows": {str(fold): rows for fold, rows in rows_by_fold.items()},
        "table": table_hash(cohort, study),
        "images": store.address,
        "flips": study.test_time_augmentation,
        "scores": [str(score) for score in study_scores(study)],
        "networks": [[job.model, job.fold, job.folder.weights_sha256()] for job in jobs],
    }
    # new rules decide again; the records of the median are left out, because older runs have none
    decisions = {
        target: record
        for target, record in decide_grades(predictions, study.decisions).records.items()
        if "thresholds" in record
    }
    if decisions:
        inputs["decisions"] = decisions
    made_from = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    if mark.read_or_none() == made_from and table.intact():
        return
    start = time.monotonic()
    mark.remove()
    prepared = PreparedCohort(study, cohort, folder.images(study.images.store), store)
    with show.bar("altered") as bar:
        rows = predict_altered(jobs, prepared, rows_by_fold, tell=lambda done: bar(done, len(jobs)))
    rows = apply_thresholds(rows, decisions)
    table.write(pd.concat([_with_scores(study, rows, name) for name in (UNALTERED, *alterations)], ignore_index=True))
    mark.write(made_from)
    cases = counted(rows["case"].nunique(), "held-out case")
    show.line("altered", f"{cases}, each altered in {len(alterations)} ways, {time.monotonic() - start:.0f} s")


def _with_scores(study: Study, rows: pd.DataFrame, alteration: str) -> pd.DataFrame:
    """The predictions after one alteration, with the clinical scores computed from them."""
    altered_rows = rows[rows["alteration"] == alteration].drop(columns="alteration")
    table = apply_scores(
        altered_rows, study_scores(study), missing_regions=study.missing_regions, regions=study.regions
    )
    return predicted.check(table).assign(alteration=alteration)
