"""Training the networks, and collecting their predictions of subjects that they were not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.errors import TrainingError, counted
from casewise.modalities.base import ImageStore, PreparedCohort, StoreAddress
from casewise.pipeline.cohort_comparison import cohort_difference, own_cohort
from casewise.pipeline.decide import decide
from casewise.pipeline.external import check_apart_from_pretraining, prepare_external
from casewise.pipeline.pretraining import prepare_pretraining
from casewise.pipeline.recipe_plan import spent_budget
from casewise.pipeline.score import score
from casewise.pipeline.stack import stack
from casewise.pipeline.timing import record_first_figures, record_training
from casewise.pipeline.training_table import following, record_trained
from casewise.plugin import repeated
from casewise.predictions import table as predicted
from casewise.predictions.decisions import apply_thresholds, decide_grades
from casewise.predictions.tiles import gather_tiles
from casewise.splits.grouped import Splits, write_splits
from casewise.study.learners import learner_named
from casewise.study.schema import Study
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from casewise.console import Show
    from casewise.jobs.backends.base import Failure
    from casewise.jobs.plan import Job, JobInputs
    from casewise.report.tables import MetricFormat
    from casewise.run_folder import RunFolder

# Resamples of the first figures, which those of the report replace.
FIRST_RESAMPLES = 1000


def train(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show
) -> tuple[Study, pd.DataFrame]:
    """Train every network on every fold; return the predictions out of fold, of the test set and of external cases.

    A network that could not be trained on one of the folds is left out of the returned study, which the run folder
    stores together with the reasons.

    Raises:
        CasewiseError: a network cannot be trained, or the folder contains networks of another study.
    """
    from casewise.jobs.execution import run_jobs
    from casewise.jobs.plan import final_jobs, remove_feature_files
    from casewise.report.templating import sentence

    planned = _planned(study, cohort, store, splits, folder, show)
    jobs, inputs, external = planned.jobs, planned.inputs, planned.external
    folder.left_out.remove()
    begun = start = time.monotonic()
    baselines = [job for job in jobs if not learner_named(job.model).by_steps]
    if baselines:
        with show.bar("baselines") as bar:
            run_jobs(baselines, inputs, folder, tell=lambda done, text: bar(done, len(baselines), text))
        record_first_figures(folder)
        show.line("baselines", f"{_first_figures(study, baselines)}, {time.monotonic() - start:.0f} s")
    networks = [job for job in jobs if learner_named(job.model).by_steps]
    start = time.monotonic()
    if networks:
        with show.bar("jobs") as bar:
            tell = following(study, folder, partial(_tell, bar, len(networks)))
            failures = run_jobs(networks, inputs, folder, tell=tell, partial=True)
        study, jobs, networks = _without_failed(study, jobs, networks, failures, folder, show)
        nested = study.nested_cv
        inner = f"each after {nested.folds * len(study.rates)} inner trainings, " if nested else ""
        names, folds = counted(len(study.networks), study.network_noun), counted(splits.folds, "fold")
        seconds = time.monotonic() - start
        show.line("jobs", f"{counted(len(networks), 'network')} ({names} × {folds}), {inner}{seconds:.0f} s")
    if final := final_jobs(study, splits, folder, planned.fingerprint):
        with show.bar("final") as bar:
            run_jobs(final, inputs, folder, tell=lambda done, text: bar(done, len(final), text))
        show.line("final", f"{counted(len(final), 'learner')} trained on all subjects outside the test set")
    spent = record_training(folder, time.monotonic() - begun)
    if spent is not None and study.recipe.auto and networks:
        show.line("budget", sentence("budget_spent", spent_budget(study, folder.recipe_plan.read(), spent)))
    record_trained(study, folder, show)
    remove_feature_files(jobs)
    table = pd.concat([job.folder.predictions.read() for job in jobs], ignore_index=True)
    tables = [_with_days_and_paths(table, cohort)]
    if external:
        tables.append(_external_predictions(external, jobs, show))
    table = pd.concat(tables, ignore_index=True)
    tested = table[table["stage"] != "oof"]
    means = [predicted.mean_over_folds(tested)] if len(tested) else []
    table = predicted.check(pd.concat([table[table["stage"] == "oof"], *means], ignore_index=True))
    _write_tile_predictions(study, jobs, cohort, table, folder)
    return study, table


def _tell(bar: Callable[..., None], jobs: int, done: float, text: str) -> None:
    bar(done, jobs, text)


@dataclass(frozen=True)
class _Planned:
    """The jobs of the folds with their inputs, the external cohort, and the fingerprint of the run."""

    jobs: list[Job]
    inputs: JobInputs
    external: PreparedCohort | None
    fingerprint: str


def _planned(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show
) -> _Planned:
    """Prepare other cohorts, record what the networks are made from, and list their jobs.

    Raises:
        CasewiseError: another cohort cannot be used, or the folder contains networks of another study.
    """
    from casewise.jobs.fingerprint import deciding_settings, lock_fingerprint, with_images, with_plan
    from casewise.jobs.plan import JobInputs, expand

    external = prepare_external(study, cohort, store, folder, show) if study.external else None
    if external:
        cohort_difference(own_cohort(study, cohort, store, folder), external, folder, show)
    pretraining = prepare_pretraining(study, cohort, store, folder, show) if study.pretrain else None
    if external and pretraining:
        check_apart_from_pretraining(study, external, pretraining, folder, show)
    decided = with_plan(with_images(deciding_settings(study, cohort), splits, store, pretraining), study)
    fingerprint = lock_fingerprint(folder, decided, study)
    folder.study.write(study.model_dump(mode="json"))
    folder.cohort.write(cohort.images)
    if external:
        folder.external_cohort.write(external.cohort.images)
    else:
        folder.external_cohort.remove()
        folder.cohort_difference.remove()
    jobs = expand(study, splits, folder, fingerprint)
    inputs = JobInputs(study, cohort, splits, StoreAddress(store.folder, store.address), pretraining)
    return _Planned(jobs, inputs, external, fingerprint)


def train_only(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show, only: Sequence[str]
) -> None:
    """Train only the named networks, such as `resnet34`, or `resnet34:2` for its second fold; nothing is evaluated.

    Raises:
        CasewiseError: a name is none of the study's learners, or a network cannot be trained.
    """
    from casewise.jobs.execution import run_jobs
    from casewise.jobs.plan import named_jobs

    names = named_jobs(study, splits.folds, only)
    planned = _planned(study, cohort, store, splits, folder, show)
    baselines = [job for job in planned.jobs if not learner_named(job.model).by_steps]
    networks = [job for job in planned.jobs if learner_named(job.model).by_steps]
    with show.bar("jobs") as bar:
        for jobs in (baselines, networks):
            if count := sum(job.name in names for job in jobs):
                run_jobs(jobs, planned.inputs, folder, tell=partial(_tell, bar, count), only=names)
    done, noun = sum(job.finished for job in planned.jobs), "networks and baselines" if baselines else "networks"
    rest = "" if done == len(planned.jobs) else " the others and"
    show.line(
        "only",
        f"{done} of {len(planned.jobs)} {noun} are trained; the same command without `--only` adds{rest} the report",
    )


def _without_failed(
    study: Study,
    jobs: list[Job],
    networks: list[Job],
    failures: Mapping[str, Failure],
    folder: RunFolder,
    show: Show,
) -> tuple[Study, list[Job], list[Job]]:
    """The study and its jobs without the networks of which a job failed; the reasons are recorded.

    Raises:
        TrainingError: no network is left.
    """
    from casewise.jobs.execution import summary_of

    if not failures:
        return study, jobs, networks
    failed: dict[str, dict[str, str]] = {}
    for job in networks:
        if job.name in failures:
            reason = failures[job.name].message.removeprefix(f"{job.name}: ")
            failed.setdefault(job.model, {})[str(job.fold + 1)] = reason
    reduced = study.without(failed)
    if reduced is None:
        raise TrainingError(summary_of(failures, len(networks)))
    folder.left_out.write({"networks": failed})
    folder.study.write(reduced.model_dump(mode="json"))
    for name, reasons in failed.items():
        fold, reason = next(iter(reasons.items()))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        show.line("left out", f"{name}, which could not be trained. Fold {fold}{more}: {reason}")
    remaining = [job for job in jobs if job.model not in failed]
    return reduced, remaining, [job for job in networks if job.model not in failed]


def _first_figures(study: Study, baselines: list[Job]) -> str:
    """The merit of every baseline out of fold with its interval: the first figures of a run."""
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.judges import judge_of
    from casewise.report.tables import metric_format

    target = study.primary_outcome if study.primary_outcome in study.outputs else study.outputs[0]
    merit, write = kind_named(study.kind_of(target)).merit, metric_format(study, target)
    table = pd.concat([job.folder.predictions.read() for job in baselines], ignore_index=True)
    table = decide_grades(table, {name: rule for name, rule in study.decisions.items() if name == target}).rows
    rows = table[(table["target"] == target) & (table["stage"] == "oof") & table["y_true"].notna()]
    if rows.empty:
        return "no case has a reference value"
    judge = judge_of(rows, study.classes_of(target) or None, study.positive_of(target))
    plan = Plan(min(study.evaluation.bootstrap_resamples, FIRST_RESAMPLES), study.evaluation.confidence, study.seed)
    metrics = judge.judge(rows, plan, whole=False).metrics
    figures = [
        " ".join(filter(None, [name, write.text(merit, figure["value"], short=True), _interval(write, merit, figure)]))
        for name, of_learner in metrics.items()
        for figure in [of_learner[merit]]
    ]
    return f"{write.phrase(merit)} of {target} out of fold: {', '.join(figures)}"


def _interval(write: MetricFormat, metric: str, figure: Mapping[str, Any]) -> str:
    bounds = write.bounds(metric, figure, short=True)
    return f"{bounds} rough" if bounds and figure["rough"] else bounds


def train_again(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show
) -> pd.DataFrame:
    """Train, stack, decide and score a variant of a study in a folder of its own; return its predictions.

    Raises:
        TrainingError: a network could not be trained, so that the variant cannot be compared with the study.
    """
    study = repeated(study).model_copy(update={"final": "folds"})
    write_splits(splits, folder.splits)
    trained, predictions = train(study, cohort, store, splits, folder, show)
    if lacking := [name for name in study.networks if name not in trained.networks]:
        reasons = folder.left_out.read()["networks"][lacking[0]]
        raise TrainingError(
            f"{folder.path}: {lacking[0]} could not be trained, so that there is nothing to compare: "
            f"{next(iter(reasons.values()))}"
        )
    return score(study, decide(study, stack(study, predictions, folder, show), folder), folder)


def _write_tile_predictions(
    study: Study, jobs: list[Job], cohort: Cohort, predictions: pd.DataFrame, folder: RunFolder
) -> None:
    """Gather the predictions of single tiles; grades of tiles are decided by the thresholds of the cases."""
    tables = [
        job.folder.tile_predictions.read().assign(model=job.model, outer_fold=job.fold + 1)
        for job in jobs
        if job.folder.tile_predictions.exists()
    ]
    if tables:
        records = decide_grades(predictions, study.decisions).records
        folder.tile_predictions.write(apply_thresholds(gather_tiles(study, tables, cohort), records))
    else:
        folder.tile_predictions.remove()


def _external_predictions(external: PreparedCohort, jobs: list[Job], show: Show) -> pd.DataFrame:
    """Predictions of the trained networks on the external cohort."""
    from casewise.jobs.external import predict_external

    with show.bar("external") as bar:
        table = predict_external(jobs, external, tell=lambda done: bar(done, len(jobs)))
    return _with_days_and_paths(table, external.cohort)


def _with_days_and_paths(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Set days and paths from the current table, which may have been corrected after the training of a job."""
    paths = cohort.images.set_index(cohort.images["image"].astype(str))["path"].astype(str)
    days = cohort.cases.set_index("case")["day"]
    image = table["image"].where(table["image"] == "", table["image"].map(paths))
    return table.assign(day=table["case"].map(days), image=image)
