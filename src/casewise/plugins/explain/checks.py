"""What of a finished run can be explained, and against which masks its maps are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, CohortError, RunError, nearest

if TYPE_CHECKING:
    from casewise.modalities.base import MaskMeaning
    from casewise.pipeline.finished import FinishedRun


def learners_of(run: FinishedRun) -> list[str]:
    """What is explained by default: the networks, then the baselines.

    Networks that take bags of tiles are left out: their attention weights already give the influence of each tile.
    """
    networks = [] if run.study.panels.pooling == "attention" else run.study.networks
    return [*networks, *(name for name in run.study.learners if name not in run.study.networks)]


def check_networks(run: FinishedRun, names: list[str]) -> list[str]:
    """The learners of these names, by default all of `learners_of`, after checking that their files exist.

    Raises:
        RunError: the study has no such network, or its files are missing or belong to another split.
    """
    networks = learners_of(run)
    wrong = [name for name in dict.fromkeys(names) if name not in networks]
    if wrong:
        hints = "".join(dict.fromkeys(nearest(name, networks) for name in wrong))
        raise RunError(
            f"The study {run.study.name} has {', '.join(networks)}, not "
            f"{' and not '.join(f'{name!r}' for name in wrong)}.{hints}"
        )
    selected = [name for name in networks if name in names] if names else list(networks)
    for model in selected:
        for fold in range(run.splits.folds):
            job = run.files.job(model, fold)
            missing = [file.path for file in (job.weights, job.facts, job.record) if not file.exists()]
            if missing:
                raise RunError(
                    f"{missing[0]} is missing: the network {model} of fold {fold + 1} cannot be explained. "
                    "Run the study again, or select other networks with --network."
                )
            if job.facts.read()["split"] != run.splits.hash:
                raise RunError(
                    f"{job.path}: this network was trained on another split than that of {run.files.splits.path}. "
                    "Run the study again."
                )
    return selected


def check_explainable(run: FinishedRun) -> None:
    """Stop if there is nothing to explain but networks that take bags of tiles (see `learners_of`).

    Raises:
        CasewiseError: the study's networks pool tiles by attention.
    """
    if not learners_of(run):
        raise CasewiseError(
            f"The networks of {run.study.name} weight all tiles of a case by attention (panels: pooling: attention). "
            "The weights are in tiles.parquet, and the report shows them as maps; `casewise explain` does not apply."
        )


def mask_to_measure(run: FinishedRun) -> tuple[MaskMeaning, str]:
    """The masks against which maps are measured, those of lesions if there are any: what they mark, and their column.

    Raises:
        RunError: the study names none.
        CohortError: the table does not have the column.
    """
    columns = run.modality.mask_columns(run.study)
    if not columns:
        raise RunError(
            f"--measure: the study {run.study.name} names no masks to measure against. Name the table's column with "
            "masks of lesions in `images: {lesion: COLUMN}` (of volumes: `volumes: {lesion: COLUMN}`), or with masks "
            "of the anatomy in `audit: {mask: COLUMN}`, and run the study again; no network is trained again for this. "
            "Masks of slides are not supported."
        )
    for meaning, column in columns.items():
        if column not in run.cohort.images:
            raise CohortError(
                f"{run.study.cohort}: the column with masks ({meaning}): there is no column {column!r}."
                f"{nearest(column, list(run.cohort.images))}"
            )
    return next(iter(columns.items()))
