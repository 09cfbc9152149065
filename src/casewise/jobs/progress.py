"""How much of a job is done: its inner trainings, its pretraining and its training, weighted by their epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from casewise.run_folder.job_folder import FAILED

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.study.schema import Study

# Receives the number of epochs done and the training loss of the last one.
Told: TypeAlias = Callable[[int, float | None], None]


def epochs_inside(study: Study) -> int:
    """The total number of epochs of the inner trainings of a job."""
    return study.nested_cv.folds * len(study.rates) * study.recipe.epochs if study.nested_cv else 0


def epochs_of(study: Study) -> int:
    """The largest number of epochs of a network of the study."""
    recipe = study.recipe
    if recipe.phases:
        return sum(phase.epochs for phase in recipe.phases)
    return (
        recipe.epochs
        if recipe.tuning != "gradual_unfreezing"
        else recipe.gradual_unfreezing.epochs * (recipe.gradual_unfreezing.groups + 1)
    )


def begin_progress(job: Job, inputs: JobInputs) -> None:
    """Record that a job begins, or continues after the epochs that it had done."""
    earlier = job.folder.read_progress(0.0)
    if earlier is None or earlier["stage"] == FAILED:
        told(job, inputs)(0, None)
    else:
        job.folder.write_progress(**earlier)


def told(job: Job, inputs: JobInputs, before: int = 0, stage: str = "training") -> Told:
    """Record the progress of a training that follows `before` epochs of inner trainings of the same job."""
    total = epochs_inside(inputs.study) + epochs_of(inputs.study)

    def tell(done: int, loss: float | None) -> None:
        share = _share(job, inputs, before + done)
        job.folder.write_progress(before + done, total, stage, loss, share)

    return tell


def told_of_pretraining(job: Job, inputs: JobInputs, before: int = 0) -> Told:
    """Record the progress of a pretraining that follows `before` epochs of inner trainings of the same job."""
    total = inputs.pretraining.study.recipe.epochs if inputs.pretraining else 0

    def tell(done: int, loss: float | None) -> None:
        share = _share(job, inputs, before, done / max(1, total))
        job.folder.write_progress(done, total, "pretraining", loss, share)

    return tell


def _share(job: Job, inputs: JobInputs, epochs: int, pretraining: float = 0.0) -> float:
    """The share of the job's work that is done, where an epoch costs as much as it has images.

    Args:
        epochs: on the study's own cohort, done.
        pretraining: the share of the present pretraining that is done.
    """
    study, other = inputs.study, inputs.pretraining
    total = float(epochs_inside(study) + epochs_of(study))
    if other is None:
        return epochs / max(1.0, total)
    each = other.study.recipe.epochs * len(other.cohort.panels) / max(1, len(inputs.cohort.panels))
    inner = study.nested_cv.folds if study.nested_cv else 0
    folders = [job.folder.pretraining, *(job.folder.inner(f"fold{k + 1}").folder.pretraining for k in range(inner))]
    finished = sum(folder.body.exists() for folder in folders)
    return (epochs + each * (finished + pretraining)) / (total + each * len(folders))
