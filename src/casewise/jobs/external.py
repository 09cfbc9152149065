"""Predictions of the trained networks of a run on another cohort, which is not used for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from casewise.jobs.fingerprint import table_hash
from casewise.predictions.table import check

if TYPE_CHECKING:
    from casewise.jobs.plan import Job
    from casewise.modalities.base import PreparedCohort


def predict_external(jobs: Sequence[Job], external: PreparedCohort, *, tell: Callable[[int], None]) -> pd.DataFrame:
    """Rows of the stage 'external', one set for each network, stored in the jobs' folders; stored ones are read."""
    study, panels = external.study, external.cohort.panels
    inputs = f"{table_hash(external.cohort, study)} {external.store.address} {study.test_time_augmentation}"
    made_from = hashlib.sha256(inputs.encode()).hexdigest()
    tables = []
    for done, job in enumerate(jobs, start=1):
        file, mark = job.folder.external_predictions, job.folder.external_mark
        expected = f"{made_from} {job.fingerprint} {job.folder.weights_sha256()}"
        if not (mark.read_or_none() == expected and file.intact()):
            from casewise.inference.predictor import Predictor

            mark.remove()
            predictor = Predictor.load(job.folder.path)
            file.write(check(predictor.predict_cases(study, panels, external.store, stage="external")))
            mark.write(expected)
        tables.append(check(file.read()))
        tell(done)
    return pd.concat(tables, ignore_index=True)
