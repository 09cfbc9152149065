"""Checks of images: predictions of altered ones, and the limits that images of new cases have."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.audit.metadata import source_column
from casewise.console import shown
from casewise.errors import counted
from casewise.files import checksum, json_hash
from casewise.inference.case_sizes import CaseSizes
from casewise.inference.image_measures import Training, measure
from casewise.inference.input_checks import MOST_OF_CASE, expected_names, fit_limits, fit_look
from casewise.inference.look import EarlyMaps
from casewise.inference.stated import modalities_of
from casewise.modalities.alterations import UNALTERED, VERSION
from casewise.modalities.registry import modality_of
from casewise.predictions import table as predicted
from casewise.predictions.decisions import apply_thresholds, decide_grades
from casewise.predictions.nested_cv import nested_rows
from casewise.predictions.scores import scored
from casewise.splits.predefined import TEST
from casewise.study.scores import study_scores
from casewise.training.checkpoint import write_tensors

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.pipeline.read import RunInputs
    from casewise.predictions.stacking import StackingResult
    from casewise.study.schema import Study


def counterfactuals(inputs: RunInputs, stacked: StackingResult, show: Show) -> None:
    """Predict altered images of some held-out cases by every learner, and write all predictions; stored ones are kept.

    Args:
        stacked: the stackers, with the predictions of unaltered images, on which the thresholds of grades are tuned.

    Raises:
        ImageError: an image cannot be read.
    """
    from casewise.jobs.plan import expand, table_hash
    from casewise.jobs.predict import chosen_panels, predict_altered

    study, cohort, splits, folder = inputs.study, inputs.cohort, inputs.splits, inputs.folder
    alterations = modality_of(study).alterations(study)
    rows_by_fold = chosen_panels(study, cohort.panels, splits)
    if not (study.evaluation.counterfactual_cases and alterations and rows_by_fold):
        folder.counterfactuals.remove()
        return
    jobs = expand(study, splits, folder, str(folder.fingerprint.read()["fingerprint"]))
    jobs = [job for job in jobs if job.fold in rows_by_fold]
    records = decide_grades(stacked.rows, study.decisions).records
    decisions = {target: record for target, record in records.items() if "thresholds" in record}
    settings = {
        "alterations": [VERSION, *alterations],
        "rows": {str(fold): rows for fold, rows in rows_by_fold.items()},
        "table": table_hash(cohort, study),
        "images": inputs.store.address,
        "flips": study.test_time_augmentation,
        "scores": [str(score) for score in study_scores(study)],
        "networks": [[job.model, job.fold, job.folder.weights_sha256()] for job in jobs],
        "decisions": decisions,  # new rules decide again
        "combined": [stacked.coefficients, folder.nested.read_if_exists()],
    }

    def compute() -> pd.DataFrame:
        start = time.monotonic()
        with show.bar("robustness") as bar:
            rows = predict_altered(
                jobs,
                inputs.prepared,
                rows_by_fold,
                tell=lambda done: bar(
                    done, len(jobs), f"altered images predicted by {done:,.0f} of {counted(len(jobs), 'model')}"
                ),
            )
        tables = [rows, stacked.of_altered(rows)]
        if nested := folder.nested.read_if_exists():
            tables.append(nested_rows(rows, nested))
        rows = apply_thresholds(pd.concat(tables, ignore_index=True), decisions)
        cases, seconds = counted(rows["case"].nunique(), "held-out case"), time.monotonic() - start
        show.line("robustness", f"{cases} predicted again, each altered in {len(alterations)} ways, {seconds:.0f} s")
        return pd.concat([_with_scores(study, rows, name) for name in (UNALTERED, *alterations)], ignore_index=True)

    folder.counterfactuals.step(json_hash(settings), compute)


def _with_scores(study: Study, rows: pd.DataFrame, alteration: str) -> pd.DataFrame:
    """The predictions after one alteration, with the clinical scores computed from them."""
    altered_rows = rows[rows["alteration"] == alteration].drop(columns="alteration")
    return predicted.check(scored(altered_rows, study)).assign(alteration=alteration)


# At most this many images of randomly chosen cases are measured.
MOST_IMAGES = 2000


@shown("flags")
def input_checks(inputs: RunInputs, show: Show) -> None:
    """Write the limits of images; neither labels nor images of the test set are read."""
    study, images, folder = inputs.study, inputs.cohort.images, inputs.folder
    sides = images["subject"].astype(str).map(inputs.splits.side).fillna(TEST).to_numpy(dtype=int)
    rows = _sample(images["case"].astype(str).to_numpy(), np.flatnonzero(sides != TEST), study.seed).tolist()
    cases, subjects, regions = (images[name].astype(str).to_numpy()[rows] for name in ("case", "subject", "region"))
    maps, source = EarlyMaps.of_study(study), study.split.leave_out or source_column(list(images))
    training = Training(measure(inputs.store, rows, maps), cases, subjects, sides[rows], regions)
    of_training = images[sides != TEST]
    sequences = _expected(of_training, "sequence") if study.fusions else ()
    limits = fit_limits(training, _expected(of_training, "region"), sequences)
    sources = images[source].iloc[rows].astype(str).tolist() if source in images else []
    if limits.ranges and (fitted := fit_look(limits, training, maps, sources)):
        look, limits = fitted
        write_tensors(folder.look, look.tensors)
        assert limits.look is not None
        limits = replace(limits, look=replace(limits.look, sha256=checksum(folder.look.path)))
    paths = [Path(path) for path in of_training["path"].astype(str).unique()]
    limits = replace(limits, modalities=modalities_of(paths), sizes=CaseSizes.of(of_training, study))
    folder.input_checks.write(asdict(limits))


def _expected(images: pd.DataFrame, column: str) -> tuple[str, ...]:
    """The names in this column that cases must have."""
    return expected_names([frozenset(names) for _, names in images.groupby("case", sort=False)[column]])


def _sample(cases: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """A sorted sample of the rows: at most `MOST_OF_CASE` a case, and random cases if there are many."""
    order = np.random.default_rng(seed).permutation(rows)
    table = pd.DataFrame({"row": order, "case": cases[order]})
    table["number"] = pd.factorize(table["case"])[0]  # cases in the order of their first image
    few = table[table.groupby("case").cumcount() < MOST_OF_CASE]
    return np.sort(few.sort_values("number", kind="stable")["row"].to_numpy()[:MOST_IMAGES])
