"""How much of a job is done: its inner trainings, its pretraining and its training, weighted by their epochs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from casewise.run_folder.job_folder import FAILED, PRETRAINING

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.study.schema import Study
    from casewise.training.cost import Timer

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


@dataclass(frozen=True)
class Progress:
    """Records how far a job is, and its cost so far, as its trainings tell it.

    Attributes:
        inputs: as the job's learner sees them.
        timer: of the whole job.
    """

    job: Job
    inputs: JobInputs
    timer: Timer

    def begin(self) -> None:
        """Record that the job begins, or continues after the epochs that it had done."""
        earlier = self.job.folder.read_progress(0.0)
        if earlier is None or earlier["stage"] == FAILED:
            self.training()(0, None)
        else:
            os.utime(self.job.folder.progress_path)

    def training(self, before: int = 0, stage: str = "training") -> Told:
        """What a training tells that follows `before` epochs of inner trainings of the same job."""
        total = epochs_inside(self.inputs.study) + epochs_of(self.inputs.study)

        def told(done: int, loss: float | None) -> None:
            self.timer.note()
            self.job.folder.write_progress(before + done, total, stage, loss, self._share(before + done))

        return told

    def pretraining(self, before: int = 0) -> Told:
        """What a pretraining tells that follows `before` epochs of inner trainings of the same job."""
        total = self.inputs.pretraining.study.recipe.epochs if self.inputs.pretraining else 0

        def told(done: int, loss: float | None) -> None:
            self.timer.note()
            share = self._share(before, done / max(1, total))
            self.job.folder.write_progress(done, total, PRETRAINING, loss, share)

        return told

    def _share(self, epochs: int, pretraining: float = 0.0) -> float:
        """The share of the job's work that is done, where an epoch costs as much as it has images.

        Args:
            epochs: on the study's own cohort, done.
            pretraining: the share of the present pretraining that is done.
        """
        study, other = self.inputs.study, self.inputs.pretraining
        total = float(epochs_inside(study) + epochs_of(study))
        if other is None:
            return epochs / max(1.0, total)
        each = other.study.recipe.epochs * len(other.cohort.panels) / max(1, len(self.inputs.cohort.panels))
        inner = range(study.nested_cv.folds if study.nested_cv else 0)
        folder = self.job.folder
        folders = [folder.pretraining, *(folder.inner(f"fold{k + 1}").folder.pretraining for k in inner)]
        finished = sum(pretrained.body.exists() for pretrained in folders)
        return (epochs + each * (finished + pretraining)) / (total + each * len(folders))
