"""Predictions of a run's networks for other images: another cohort, and altered images of held-out cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.targets import label_table
from casewise.jobs.fingerprint import table_hash
from casewise.modalities.alterations import UNALTERED
from casewise.modalities.registry import modality_of
from casewise.predictions.table import check
from casewise.study.model import mixed_seed

if TYPE_CHECKING:
    from casewise.jobs.plan import Job
    from casewise.modalities.base import PreparedCohort
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


def predict_external(jobs: Sequence[Job], external: PreparedCohort, *, tell: Callable[[int], None]) -> pd.DataFrame:
    """Rows of the stage 'external', one set for each network, stored in the jobs' folders; stored ones are read."""
    from casewise.inference.predictor import Predictor

    study, panels = external.study, external.cohort.panels
    inputs = f"{table_hash(external.cohort, study)} {external.store.address} {study.test_time_augmentation}"
    made_from = hashlib.sha256(inputs.encode()).hexdigest()
    tables = []
    for done, job in enumerate(jobs, start=1):
        file, mark = job.folder.external_predictions, job.folder.external_mark
        expected = f"{made_from} {job.fingerprint} {job.folder.weights_sha256()}"
        if not (mark.read_or_none() == expected and file.intact()):
            mark.remove()
            predictor = Predictor.load(job.folder.path)
            file.write(check(predictor.predict_cases(study, panels, external.store, stage="external")))
            mark.write(expected)
        tables.append(check(file.read()))
        tell(done)
    return pd.concat(tables, ignore_index=True)


# Images of the chosen cases of a fold, of which all altered copies are in memory, and the bytes of these copies in
# colour; one case is always taken.
MOST_IMAGES, MOST_BYTES = 300, 2**30


def chosen_panels(study: Study, panels: pd.DataFrame, splits: Splits) -> dict[int, list[int]]:
    """For each fold, the rows of the panels of held-out cases that are altered.

    `evaluation.counterfactual_cases` are divided among the folds. In each they are drawn by the seed among the cases
    with a recorded target, in turn from each class of the primary outcome if it has classes, and from a subject's
    second case on only after the first cases of others.
    """
    share = -(-study.evaluation.counterfactual_cases // splits.folds)
    labels = label_table(panels, study)
    scored = ~np.isnan(labels).all(axis=1)
    outcome = study.primary_outcome
    classed = outcome in study.outputs and bool(study.classes_of(outcome))
    values = labels[:, list(study.outputs).index(outcome)] if classed else np.zeros(len(panels))
    table = pd.DataFrame(
        {
            "case": panels["case"].astype(str),
            "subject": panels["subject"].astype(str),
            "row": range(len(panels)),
            "images": [len(images) for images in panels["tiles"]],
            "label": values,
        }
    )[scored]
    copies = 1 + len(modality_of(study).alterations(study))
    most = min(MOST_IMAGES, MOST_BYTES // (copies * 3 * study.images.size**2))
    chosen = {}
    for fold in range(splits.folds):
        held_out = table[table["subject"].isin(set(splits.subjects(fold)))]
        random = np.random.default_rng(mixed_seed(study.seed, "counterfactuals", fold))
        rows: list[int] = []
        images = 0
        for case in _in_turn(held_out.drop_duplicates("case"), random)[:share]:
            case_rows = held_out[held_out["case"] == case]
            images += int(case_rows["images"].sum())
            if rows and images > most:
                break
            rows += case_rows["row"].tolist()
        if rows:
            chosen[fold] = rows
    return chosen


def _in_turn(cases: pd.DataFrame, random: np.random.Generator) -> list[str]:
    """The names of the cases in random order, in turn from each label, first cases of subjects first."""
    shuffled = cases.iloc[random.permutation(len(cases))]
    shuffled = shuffled.iloc[np.argsort(shuffled.groupby("subject").cumcount().to_numpy(), kind="stable")]
    turns = shuffled.groupby(shuffled["label"].fillna(-1.0)).cumcount().to_numpy()
    return shuffled["case"].iloc[np.argsort(turns, kind="stable")].tolist()


def predict_altered(
    jobs: Sequence[Job],
    prepared: PreparedCohort,
    rows_by_fold: Mapping[int, Sequence[int]],
    *,
    tell: Callable[[int], None],
) -> pd.DataFrame:
    """Rows of the predictions table with the column `alteration`, each case by the networks of its own fold.

    `tell` receives the number of networks that have predicted.
    """
    from casewise.inference.predictor import Predictor, prediction_rows

    study, panels = prepared.study, prepared.cohort.panels
    modality = modality_of(study)
    names = (UNALTERED, *modality.alterations(study))
    tables, done = [], 0
    stage = "validation" if study.split.holdout else "oof"
    for fold, rows in rows_by_fold.items():
        inputs = {name: modality.altered(prepared, rows, name) for name in names}
        for job in (job for job in jobs if job.fold == fold):
            predictor = Predictor.load(job.folder.path)
            learner_panels = study.of_learner(job.model).panels
            for name, dataset in inputs.items():
                values = predictor.predict(dataset(predictor.bundle.fitted).arranged(learner_panels))
                table = prediction_rows(panels.iloc[rows], study, values, stage=stage, model=job.model, fold=fold)
                tables.append(table.drop(columns="distance").assign(alteration=name))
            done += 1
            tell(done)
    return pd.concat(tables, ignore_index=True)
