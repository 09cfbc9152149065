"""The steps of a run, each leaving its result in the run folder for the next one and for other tools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from casewise.audit.findings import Audit
from casewise.cohort.cohort import Cohort, check_copied, read_cohort
from casewise.cohort.labels import label_table, study_scores
from casewise.console import Show
from casewise.errors import CohortError, RunError, StudyError, nearest
from casewise.files import write_json, write_parquet
from casewise.modalities.base import ImageFolder, ImageStore
from casewise.modalities.registry import modality_of
from casewise.pipeline.audit import check_audit, examined
from casewise.pipeline.report import job_records
from casewise.predictions import nested_cv as tuned
from casewise.predictions import table as predicted
from casewise.predictions.scores import apply_scores, check_scores
from casewise.predictions.tiles import gather
from casewise.report.formatting import counted
from casewise.splits.grouped import Splits, check_scored, read_splits, write_splits
from casewise.splits.grouped import split as make_splits
from casewise.splits.predefined import validation_in
from casewise.study.schema import STACKERS, Study

if TYPE_CHECKING:
    from casewise.jobs.plan import Job


def read(study: Study, folder: Path | None, show: Show) -> Cohort:
    """Read the cohort table, cut its slides, and check that the study can be carried through (in this folder)."""
    from casewise.jobs.fingerprint import refuse_other, what_decides
    from casewise.pipeline.other_cohorts import read_external

    if study.weights_dir and not study.weights_dir.is_dir():
        near = study.weights_dir.parent
        hint = nearest(study.weights_dir.name, [p.name for p in near.iterdir()]) if near.is_dir() else ""
        raise StudyError(f"weights_dir: there is no folder {study.weights_dir}.{hint}")
    cohort = read_cohort(study)
    check_audit(study, cohort.images)
    levels: dict[str, Literal["region", "case"]] = {
        name: "region" if study.level_of(name) == "region" else "case" for name in study.outputs
    }
    check_scores(study_scores(study), targets=levels, regions=study.regions)
    if np.isnan(label_table(cohort.panels, study)).all():
        raise CohortError(
            f"{study.cohort}: no case has any of {', '.join(study.outputs)} recorded: there is nothing to learn. "
            "Fill in the target columns."
        )
    for name, values in zip(study.outputs, label_table(cohort.panels, study).T, strict=True):
        if np.nanmin(values) == np.nanmax(values):
            raise CohortError(f"{study.cohort}: {name} is {np.nanmin(values):g} everywhere: there is nothing to learn.")
    external = read_external(study, cohort) if study.external else None
    modality = modality_of(study)
    cohort = modality.read(study, cohort, ImageFolder.of_run(study, folder) if folder else None, show)
    check_copied(study, cohort.panels)
    if study.recipe.phases:
        from casewise.jobs.build_model import check_freeze_points

        check_freeze_points(study)
    if folder:
        refuse_other(folder, what_decides(study, cohort))
    parts = [
        f"{cohort.cases['subject'].nunique():,} subjects",
        f"{len(cohort.cases):,} cases",
        modality.described(study, cohort.images),
    ]
    if study.regions:
        parts.append(f"{len(study.regions)} regions")
    show.line("cohort", ", ".join(parts) + (" (synthetic)" if study.synthetic else ""))
    for note in cohort.notes:
        show.line("", note)
    if external and not folder:  # a run tells of it once its images are read
        other, elsewhere = external
        people, images = elsewhere.cases["subject"].nunique(), len(elsewhere.images)
        show.line("external", f"{other.name}: {people:,} subjects, {images:,} images, to be tested on")
    return cohort


def prepare(study: Study, cohort: Cohort, folder: Path, show: Show) -> ImageStore:
    """Prepare every image once, or open what is there."""
    return modality_of(study).prepare(study, cohort, ImageFolder.of_run(study, folder), show)


def split(study: Study, cohort: Cohort, folder: Path, show: Show) -> Splits:
    """Split by subject, or take the run's own manifest after checking that it still fits."""
    path = folder / "splits.json"
    # By slides and not by tiles: who is tested on must not depend on how finely slides are cut.
    whole = modality_of(study).whole(study, cohort)
    splits = make_splits(whole, study)
    check_scored(splits, whole.panels, study)
    if path.is_file():
        before = read_splits(path)
        if before.hash != splits.hash and any((folder / "jobs").glob("*/*/job.json")):
            raise RunError(
                f"{folder} was split differently: {_why_split(study, folder)}. "
                "Networks of two splits must not be mixed. Give another folder with --output."
            )
    write_splits(splits, path)
    tested = splits.record["imbalance"]["test"]
    guide = splits.record["balance"]
    n = splits.record["n"]
    sides = f"{n['test']['subjects']} subjects for the test, " if n["test"]["subjects"] else "no test set, "
    told = f", imbalance of {guide} {tested[guide]:.1%}" if guide in tested else ""
    how = f" (best of {study.split.restarts:,})" if splits.record["how"] == "balanced" else " (imported)"
    if study.split.column and validation_in(cohort.images[study.split.column]):
        how = " (imported; validation is trained on)"
    if sources := splits.record.get("left_out"):
        show.line("split", f"each {study.split.leave_out} left out once: {', '.join(sources)}")
    else:
        show.line("split", f"{sides}the others in {splits.folds} folds by subject{told}{how}")
    return splits


def _why_split(study: Study, folder: Path) -> str:
    from casewise.jobs.fingerprint import changed_settings

    found = "; ".join(changed_settings(folder, study, "split"))
    return found or "the cohort's subjects, the seed or the split settings changed since"


def audit(study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits, folder: Path, show: Show) -> Audit:
    """Look for one person under two names, for leaks of the split and for shortcuts; stop at errors not accepted.

    Raises:
        AuditError: naming what was found; nothing was trained.
    """
    found = examined(study, cohort, tiles, splits, folder, show)
    show.line("audit", found.verdict_beside(study.accept))
    for note in found.notes(study.accept):
        show.line("", note)
    found.gate(study.accept)
    return found


def train(study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits, folder: Path, show: Show) -> pd.DataFrame:
    """Train every backbone on every fold and gather what the networks predict for subjects they never saw."""
    from casewise.jobs.backends.local import run_jobs
    from casewise.jobs.fingerprint import claim, what_decides, with_images
    from casewise.jobs.job import JobInputs
    from casewise.jobs.plan import expand
    from casewise.pipeline.other_cohorts import apart_from_pretraining, to_pretrain_on, to_test_on

    elsewhere = to_test_on(study, cohort, tiles, folder, show) if study.external else None
    pretraining = to_pretrain_on(study, cohort, tiles, splits, folder, show) if study.pretrain else None
    if elsewhere and pretraining:
        apart_from_pretraining(study, elsewhere, pretraining, folder, show)
    fingerprint = claim(folder, with_images(what_decides(study, cohort), splits, tiles, pretraining), study)
    write_json(folder / "study.json", study.model_dump(mode="json"))
    write_parquet(folder / "cohort.parquet", cohort.images)
    jobs = expand(study, splits, folder, fingerprint)
    begun = time.monotonic()
    material = JobInputs(study, cohort, splits, tiles.folder, tiles.address, pretraining)
    with show.bar("jobs") as bar:
        run_jobs(jobs, material, folder, tell=lambda done, text: bar(done, len(jobs), text))
    show.line(
        "jobs",
        f"{len(jobs)} networks ({counted(len(study.networks), study.network_noun)} × {splits.folds} folds), "
        + (f"each after {study.nested_cv.folds * len(study.rates)} inner trainings, " if study.nested_cv else "")
        + f"{time.monotonic() - begun:.0f} s",
    )
    gather(study, jobs, cohort, folder)
    table = pd.concat([pd.read_parquet(job.folder / "predictions.parquet") for job in jobs], ignore_index=True)
    tables = [_placed(table, cohort)]
    if elsewhere:
        tables.append(_elsewhere(elsewhere, jobs, folder, show))
    table = pd.concat(tables, ignore_index=True)
    tested = table[table["stage"] != "oof"]
    means = [predicted.mean_over_folds(tested)] if len(tested) else []
    return predicted.check(pd.concat([table[table["stage"] == "oof"], *means], ignore_index=True))


def _elsewhere(elsewhere: tuple[Study, Cohort, ImageStore], jobs: list[Job], folder: Path, show: Show) -> pd.DataFrame:
    """What the trained networks predict on the external cohort."""
    from casewise.jobs.external import predict_elsewhere

    other, external, store = elsewhere
    with show.bar("external") as bar:
        table = predict_elsewhere(
            jobs, other, external, folder / "tiles-external", store, tell=lambda done: bar(done, len(jobs))
        )
    return _placed(table, external)


def _placed(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Put in days and paths as the table has them now; jobs may have been trained before they were mended."""
    paths = cohort.images.set_index(cohort.images["image"].astype(str))["path"].astype(str)
    days = cohort.cases.set_index("case")["day"]
    image = table["image"].where(table["image"] == "", table["image"].map(paths))
    return table.assign(day=table["case"].map(days), image=image)


def stack(study: Study, predictions: pd.DataFrame, folder: Path, show: Show) -> pd.DataFrame:
    """Combine the base learners by the study's stackers, and put together what was chosen within each fold."""
    from casewise.predictions.stacking import stack as fit_stackers

    nested = _chosen_inside(study, predictions, folder, show)
    if not study.stack or len(study.networks) < 2:
        write_json(folder / "stackers.json", {})
        if study.stack:
            show.line("stack", "left out: one backbone alone is not combined")
        return pd.concat([predictions, *nested], ignore_index=True)
    ranges = {name: study.range_of(name) for name in study.outputs}
    stacked = fit_stackers(predictions, study.stack, ranges=ranges)
    write_json(folder / "stackers.json", stacked.coefficients)
    show.line("stack", ", ".join(STACKERS[name] for name in study.stack))
    return pd.concat([predictions, stacked.rows, *nested], ignore_index=True)


def _chosen_inside(study: Study, predictions: pd.DataFrame, folder: Path, show: Show) -> list[pd.DataFrame]:
    """The rows of the learner whose network inner folds chose; nothing where the study asks for none."""
    path = folder / tuned.FILE
    if not (study.nested_cv and study.nested_cv.among and len(study.networks) > 1):
        path.unlink(missing_ok=True)
        return []
    chosen = tuned.chosen_networks(job_records(folder), study.networks)
    write_json(path, chosen)
    names = [told["network"] for told in chosen["folds"].values()]
    show.line("nested", ", ".join(f"{name} in {names.count(name)}" for name in dict.fromkeys(names)) + " folds")
    return [tuned.nested_rows(predictions, chosen)]


def score(study: Study, predictions: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Work out the clinical scores and write `predictions.parquet`."""
    scores = study_scores(study)
    table = predicted.check(
        apply_scores(predictions, scores, missing_regions=study.missing_regions, regions=study.regions)
    )
    predicted.write(folder / "predictions.parquet", table)
    return table
