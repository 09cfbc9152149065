"""Weights, training of the networks, its table, and their predictions of subjects that they were not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, TrainingError, WeightsError, counted
from casewise.evaluation.caveats import changed_features, changed_features_text
from casewise.files import csv_text, write_atomic
from casewise.modalities.base import PreparedCohort, StoreAddress
from casewise.modalities.masks import training_masks
from casewise.pipeline.budget import within_budget
from casewise.pipeline.evaluate import decide, score, stack
from casewise.pipeline.external import check_no_twins, cohort_difference, prepare_external, prepare_pretraining
from casewise.pipeline.fingerprints import check_images_apart, record_images
from casewise.pipeline.hooks import repeated, run_hooks
from casewise.predictions import table as predicted
from casewise.predictions.decisions import apply_thresholds, decide_grades
from casewise.predictions.table import CHOOSING, gather_tiles
from casewise.splits.grouped import write_splits
from casewise.study.learners import first_weights, learner_named
from casewise.study.schema import Study
from casewise.study.weight_files import FirstWeights
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.backends import Failure
    from casewise.jobs.plan import Job, JobInputs
    from casewise.pipeline.read import RunInputs
    from casewise.run_folder import JobFolder, RunFolder


# Resamples of the first figures, which the report's figures replace.
FIRST_RESAMPLES = 1000


def train(inputs: RunInputs, show: Show) -> tuple[RunInputs, pd.DataFrame]:
    """Train every network on every fold; return the predictions out of fold, of the test set and of external cases.

    A network that could not be trained on one of the folds is left out of the study of the returned inputs, which the
    run folder stores together with the reasons.

    Raises:
        CasewiseError: a network cannot be trained, or the folder contains networks of another study.
    """
    from casewise.jobs.execution import run_jobs
    from casewise.jobs.plan import final_jobs
    from casewise.jobs.predict import predict_external

    study, splits, folder = inputs.study, inputs.splits, inputs.folder
    jobs, job_inputs, external, fingerprint, cohorts = _planned(inputs, show)
    folder.left_out.remove()
    start = time.monotonic()
    baselines, networks = _by_steps(jobs)
    if baselines:
        with show.bar("baselines") as bar:
            run_jobs(baselines, job_inputs, folder, tell=lambda done, text: bar(done, len(baselines), text))
        show.line("baselines", f"{_first_figures(study, baselines)}, {time.monotonic() - start:.0f} s")
    if networks:
        study, jobs, job_inputs = _in_time(inputs, jobs, job_inputs, external, fingerprint, show)
        networks = _by_steps(jobs)[1]
    if networks:
        start = time.monotonic()
        with show.bar("networks") as bar:
            tell = following(study, folder, lambda done, text: bar(done, len(networks), text))
            failures = run_jobs(networks, job_inputs, folder, tell=tell, partial=True)
        study = _without_failed(study, networks, failures, folder, show)
        jobs = [job for job in jobs if job.model in study.learners]
        nested = study.nested_cv
        inner = f"each after {nested.folds * len(study.rates)} inner trainings, " if nested else ""
        names = counted(len(study.trained), study.network_noun)
        folds = "" if splits.holdout else f" × {counted(splits.folds, 'fold')}"
        count, seconds = counted(len(_by_steps(jobs)[1]), "network"), time.monotonic() - start
        show.line("networks", f"{count} ({names}{folds}), {inner}{seconds:.0f} s")
        if lowest := changed_features(folder.job_records(study.networks)):
            show.line("weights", changed_features_text(lowest))
    if final := final_jobs(study, splits, folder, fingerprint):
        with show.bar("final") as bar:
            run_jobs(final, job_inputs, folder, tell=lambda done, text: bar(done, len(final), text))
        show.line("final", f"{counted(len(final), 'learner')} trained on all subjects outside the test set")
    record_images([*jobs, *final], cohorts, show)
    record_trained(study, folder, show)
    table = pd.concat([job.folder.predictions.read() for job in jobs], ignore_index=True)
    tables = [_with_days_and_paths(table, inputs.cohort)]
    if external:
        with show.bar("external") as bar:
            outside = predict_external(jobs, external, tell=lambda done: bar(done, len(jobs)))
        tables.append(_with_days_and_paths(outside, external.cohort))
    table = pd.concat(tables, ignore_index=True)
    tested = table[table["stage"] != "oof"]
    means = [predicted.mean_over_folds(tested)] if len(tested) else []
    table = predicted.check(pd.concat([table[table["stage"] == "oof"], *means], ignore_index=True))
    _write_tile_predictions(study, jobs, inputs.cohort, table, folder)
    return replace(inputs, study=study), table


def _in_time(
    inputs: RunInputs,
    jobs: list[Job],
    job_inputs: JobInputs,
    external: PreparedCohort | None,
    fingerprint: str,
    show: Show,
) -> tuple[Study, list[Job], JobInputs]:
    """The study with the epochs that fit into its budget, its jobs, and their inputs."""
    from casewise.jobs.plan import expand

    outside = len(external.cohort.panels) if external else 0
    fitted, networks = _by_steps(jobs)
    study = within_budget(inputs, networks, fitted, job_inputs, outside, show)
    if study is inputs.study:
        return study, jobs, job_inputs
    inputs.folder.study.write(study.model_dump(mode="json"))
    return study, expand(study, inputs.splits, inputs.folder, fingerprint), replace(job_inputs, study=study)


def _by_steps(jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
    """The jobs of learners that are fitted at once, and of those that are trained step by step."""
    sides: tuple[list[Job], list[Job]] = ([], [])
    for job in jobs:
        sides[learner_named(job.model).by_steps].append(job)
    return sides


def _planned(
    inputs: RunInputs, show: Show
) -> tuple[list[Job], JobInputs, PreparedCohort | None, str, list[PreparedCohort]]:
    """Prepare other cohorts, and record what the networks are made from.

    Returns:
        The jobs of the folds with their inputs, the external cohort, the fingerprint of the run, and the cohorts that
        networks are trained on.

    Raises:
        CasewiseError: another cohort cannot be used, or the folder contains networks of another study.
    """
    from casewise.jobs.fitting import Pretrained
    from casewise.jobs.plan import JobInputs, deciding_settings, expand, lock_fingerprint, with_images, with_plan

    study, cohort, store, splits, folder = inputs.study, inputs.cohort, inputs.store, inputs.splits, inputs.folder
    external = prepare_external(inputs.prepared, folder, show) if study.external else None
    check_images_apart(study, inputs.prepared, show, where="of this study")
    if external:
        check_images_apart(study, external, show, where="of the external cohort")
        cohort_difference(inputs.prepared, external, folder, show)
    pretraining = prepare_pretraining(inputs.prepared, folder, show) if study.pretrain else None
    if external and pretraining:
        check_no_twins(pretraining, external, folder, show, where="in the cohort to be tested on", other_people=True)
    pretrained = None
    if pretraining:
        other_store = pretraining.store
        pretrained = Pretrained(pretraining.study, pretraining.cohort, other_store.folder, other_store.address)
    masks = training_masks(inputs.prepared, show) if study.images.mask else None
    made_from = with_images(deciding_settings(study, cohort), splits, store, pretrained, masks.stem if masks else None)
    decided = with_plan(made_from, study)
    fingerprint = lock_fingerprint(folder, decided, study)
    folder.study.write(study.model_dump(mode="json"))
    folder.cohort.write(cohort.images)
    if external:
        folder.external_cohort.write(external.cohort.images)
    else:
        folder.external_cohort.remove()
        folder.cohort_difference.remove()
    job_inputs = JobInputs(study, cohort, splits, StoreAddress(store.folder, store.address), pretrained, masks)
    cohorts = [inputs.prepared, *([pretraining] if pretraining else [])]
    return expand(study, splits, folder, fingerprint), job_inputs, external, fingerprint, cohorts


def train_only(inputs: RunInputs, only: Sequence[str], show: Show) -> None:
    """Train only the named networks, such as `resnet34`, or `resnet34:2` for its second fold; nothing is evaluated.

    Raises:
        CasewiseError: a name is none of the study's learners, or a network cannot be trained.
    """
    from casewise.jobs.execution import run_jobs
    from casewise.jobs.plan import named_jobs

    names = named_jobs(inputs.study, inputs.splits.folds, only)
    planned, job_inputs, external, fingerprint, cohorts = _planned(inputs, show)
    for by_steps in (False, True):
        if count := sum(job.name in names for job in _by_steps(planned)[by_steps]):
            if by_steps:
                _, planned, job_inputs = _in_time(inputs, planned, job_inputs, external, fingerprint, show)
            with show.bar("networks") as bar:
                tell = partial(_tell, bar, count)
                run_jobs(_by_steps(planned)[by_steps], job_inputs, inputs.folder, tell=tell, only=names)
    record_images(planned, cohorts, show)
    done = sum(job.finished for job in planned)
    text = f"{done} of {len(planned)} jobs are done; the same command without `--only` goes on to the report"
    show.line("only", text)


def _tell(bar: Callable[..., None], jobs: int, done: float, text: str) -> None:
    bar(done, jobs, text)


def _without_failed(
    study: Study, networks: list[Job], failures: Mapping[str, Failure], folder: RunFolder, show: Show
) -> Study:
    """The study without networks that had a failed job; the reasons are recorded.

    Raises:
        TrainingError: no network is left, or a learner of a plugin failed.
    """
    from casewise.jobs.execution import summary_of

    if not failures:
        return study
    failed: dict[str, dict[str, str]] = {}
    for job in networks:
        if job.name in failures:
            reason = failures[job.name].message.removeprefix(f"{job.name}: ")
            failed.setdefault(job.model, {})[str(job.fold + 1)] = reason
    reduced = study.without(failed)
    if reduced is None or not reduced.networks:
        raise TrainingError(summary_of(failures, len(networks)))
    folder.left_out.write({"networks": failed})
    folder.study.write(reduced.model_dump(mode="json"))
    for name, reasons in failed.items():
        fold, reason = next(iter(reasons.items()))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        where = "" if study.split.holdout else f" Fold {fold}{more}:"
        show.line("left out", f"{name}, which could not be trained.{where} {reason}")
    return reduced


def _first_figures(study: Study, baselines: list[Job]) -> str:
    """The merit of every baseline out of fold with its interval: the first figures of a run."""
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.judges import judge_of
    from casewise.report.context import SIDES
    from casewise.report.formatting import display_name
    from casewise.report.tables import metric_format

    target = study.primary_outcome if study.primary_outcome in study.outputs else study.outputs[0]
    merit, write = kind_named(study.kind_of(target)).merit, metric_format(study, target)
    table = pd.concat([job.folder.predictions.read() for job in baselines], ignore_index=True)
    table = decide_grades(table, {name: rule for name, rule in study.decisions.items() if name == target}).rows
    rows = table[(table["target"] == target) & table["stage"].isin(CHOOSING) & table["y_true"].notna()]
    if rows.empty:
        return "no case has a reference value"
    judge = judge_of(rows, study.classes_of(target) or None, study.positive_of(target))
    plan = Plan(min(study.evaluation.bootstrap_resamples, FIRST_RESAMPLES), study.evaluation.confidence, study.seed)
    metrics = judge.judge(rows, plan, whole=False).metrics
    figures = []
    for name, of_learner in metrics.items():
        figure = of_learner[merit]
        bounds = write.bounds(merit, figure, short=True)
        rough = "rough" if bounds and figure.rough else ""
        figures.append(" ".join(filter(None, [name, write.text(merit, figure.value, short=True), bounds, rough])))
    side = SIDES[str(rows["stage"].iloc[0])]
    return f"{write.phrase(merit)} of {display_name(study, target)} {side}: {', '.join(figures)}"


def train_again(inputs: RunInputs, show: Show) -> pd.DataFrame:
    """Train, stack, decide and score a variant of a study in a folder of its own; return its predictions.

    Raises:
        TrainingError: a network could not be trained, so that the variant cannot be compared with the study.
    """
    study, folder = repeated(inputs.study).model_copy(update={"final": "folds"}), inputs.folder
    write_splits(inputs.splits, folder.splits)
    trained, predictions = train(replace(inputs, study=study), show)
    if lacking := [name for name in study.networks if name not in trained.study.networks]:
        reasons = folder.left_out.read()["networks"][lacking[0]]
        raise TrainingError(
            f"{folder.path}: {lacking[0]} could not be trained, so that there is nothing to compare: "
            f"{next(iter(reasons.values()))}"
        )
    return score(study, decide(study, stack(study, predictions, folder, show).rows, folder), folder)


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
        folder.tile_predictions.write(apply_thresholds(gather_tiles(study, tables, cohort.images), records))
    else:
        folder.tile_predictions.remove()


def _with_days_and_paths(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Set days and paths from the current table, which may have been corrected after the training of a job."""
    paths = cohort.images.set_index(cohort.images["image"].astype(str))["path"].astype(str)
    days = cohort.cases.set_index("case")["day"]
    image = table["image"].where(table["image"] == "", table["image"].map(paths))
    return table.assign(day=table["case"].map(days), image=image)


COLUMNS = (
    *("model", "fold", "epoch", "phase", "train_loss", "stop_loss", "lr"),
    *("train_accuracy", "stop_accuracy", "kept", "job_seconds"),
    *("limited_steps", "gradient_norm", "gradient_norm_q05", "gradient_norm_q95"),
)


def finished(folder: RunFolder, learners: Sequence[str]) -> Iterator[tuple[str, str, JobFolder]]:
    """The jobs that have a record: learner, fold (from 1, or `all`), and folder."""
    for name in learners:
        for job in folder.finished_jobs(name):
            yield name, job.path.name.removeprefix("fold"), job
        if (final := folder.final_job(name)).record.exists():
            yield name, "all", final


def epochs_of(fold: str, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of one network; learners that are fitted without epochs have none.

    >>> record = {"model": "cnn", "seconds": 3.5, "best_epoch": 1, "history": [{"train_loss": 0.5, "stop_loss": 0.75}]}
    >>> [epochs_of("2", record)[0][name] for name in ("fold", "epoch", "train_loss", "kept", "phase")]
    ['2', 1, 0.5, True, None]
    """
    # without early stopping, the cases evaluated after an epoch are a single training panel
    absent = ("stop_loss", "stop_accuracy") if record.get("stopped_on") == "none" else ()
    return [
        {
            **dict.fromkeys(COLUMNS),
            **{name: value for name, value in entry.items() if name in COLUMNS and name not in absent},
            "model": record["model"],
            "fold": fold,
            "epoch": number,
            "phase": entry["phase"] + 1 if "phase" in entry else None,
            "kept": number == record.get("best_epoch"),
            "job_seconds": record.get("seconds"),
        }
        for number, entry in enumerate(record.get("history") or [], start=1)
    ]


def _write_training_table(folder: RunFolder, learners: Sequence[str]) -> None:
    """Write `training.csv` of the networks that are finished.

    Empty cells are values that were not recorded; numbers keep all their digits.

    Raises:
        RunError: the record of a network is damaged, or the folder cannot be written.
    """
    jobs = [(fold, job.record.read()) for _, fold, job in finished(folder, learners)]
    rows = [row for fold, record in jobs for row in epochs_of(fold, record)]
    cells = [{**row, "kept": "true" if row["kept"] else "false", "fold": str(row["fold"])} for row in rows]
    table = pd.DataFrame(cells, columns=list(COLUMNS), dtype=object)
    write_atomic(folder.training_table_path, csv_text(table))


def record_trained(study: Study, folder: RunFolder, show: Show) -> None:
    """Write the table of the training, and let plugins follow it.

    Raises:
        RunError: a record is damaged, or the table cannot be written.
    """
    _write_training_table(folder, study.learners)
    for plugin in run_hooks():
        plugin.on_trained(study, folder, show)


def following(study: Study, folder: RunFolder, tell: Callable[[float, str], None]) -> Callable[[float, str], None]:
    """`tell`, which also writes the table of the training and calls plugins as networks are finished.

    It is called by a thread that watches the jobs; a failure there is reported when the training is finished.
    """
    written = [0]

    def follow(done: float, text: str) -> None:
        tell(done, text)
        count = sum(len(folder.finished_jobs(name)) for name in study.trained)
        if count > written[0]:
            written[0] = count
            with suppress(CasewiseError, OSError):
                _write_training_table(folder, study.learners)
                for plugin in run_hooks():
                    plugin.on_jobs_finished(study, folder)

    return follow


def weights(study: Study, folder: RunFolder, show: Show) -> None:
    """Download the first weights that are not on this computer, so that a run without them stops before it prepares.

    A run that has trained networks already is continued without this check; its networks may all be finished.

    Raises:
        WeightsError: a file that the study names does not exist, or a download failed. The message names every network
            and encoder without weights, and the ways to provide them.
    """
    missing = missing_weights(study)
    if folder.has_networks() or not missing:
        return
    from casewise.models.encoders import download

    names = list(dict.fromkeys(first.name for first in missing))
    show.line("weights", f"{names_text(names, 5)}: not on this computer, downloading")
    for done, first in enumerate(missing):
        try:
            download(first)
        except WeightsError as error:
            others = f" Also missing: {names_text(names[done + 1 :], 5)}." if names[done + 1 :] else ""
            raise WeightsError(f"{error}{others} Nothing was prepared or trained.") from error


def missing_weights(study: Study) -> list[FirstWeights]:
    """The first weights of networks and of encoders of baselines that are not on this computer.

    Raises:
        WeightsError: a file that the study names does not exist, or one of two files of an encoder is missing.
    """
    stated = first_weights(study, [*study.networks, *study.learners])
    for first in stated:
        first.clause()
    return [first for first in stated if first.needs_download]
