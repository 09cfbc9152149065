"""The jobs of a study, and their inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from casewise.cohort.table import names_text
from casewise.errors import StudyError, cut, nearest
from casewise.inference.run_members import first_weights_checksum, job_fingerprint
from casewise.run_folder import JobFolder, RunFolder
from casewise.study.learners import learner_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from casewise.cohort.cohort import Cohort
    from casewise.jobs.pretraining import Pretrained
    from casewise.modalities.base import StoreAddress
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Job:
    """One network to train: a backbone on all folds but one, or on all of them.

    Attributes:
        fold: the fold that is left out, from 0; the number of folds if none is.
        first_weights: the checksum of the file that the network starts from; empty if it starts from none.
        final: whether it is trained on all folds, for new cases.
    """

    model: str
    fold: int
    folder: JobFolder
    fingerprint: str
    first_weights: str = ""
    final: bool = False

    @property
    def name(self) -> str:
        """The network in messages."""
        return f"{self.model}, {self.folds}"

    @property
    def folds(self) -> str:
        """The fold that is left out, or that none is, in messages."""
        return "all folds" if self.final else f"fold {self.fold + 1}"

    @property
    def finished(self) -> bool:
        """Whether the job has a result with the same inputs; its files are not verified."""
        return self.folder.finished(self.fingerprint)

    def parts(self) -> int:
        """In how many parts batches are computed: more than one after the job ran out of memory."""
        record = self.folder.parts.read_or_none()
        return int(record["parts"]) if record and record["fingerprint"] == self.fingerprint else 1

    def halve_parts(self) -> int:
        """Compute batches in twice as many parts in the next attempt; return their number."""
        parts = 2 * self.parts()
        self.folder.parts.write({"parts": parts, "fingerprint": self.fingerprint})
        return parts

    def intact(self) -> bool:
        """Whether the job is finished and its files are intact; damaged ones are set aside."""
        return self.folder.intact(self.fingerprint)


@dataclass(frozen=True)
class JobInputs:
    """The inputs of all jobs of a run: a study, its cohort, split and images, and a cohort to pretrain on."""

    study: Study
    cohort: Cohort
    splits: Splits
    store: StoreAddress
    pretraining: Pretrained | None = None

    def of_learner(self, name: str) -> JobInputs:
        """The inputs as a learner sees them; only those that are trained by steps are pretrained."""
        pretraining = self.pretraining if learner_named(name).by_steps else None
        return replace(self, study=self.study.of_learner(name), pretraining=pretraining)


def expand(study: Study, splits: Splits, folder: RunFolder, fingerprint: str) -> list[Job]:
    """All jobs of a study, backbone by backbone; each with the checksum of the weights file that it starts from."""
    return [
        Job(model, fold, folder.job(model, fold), made_from, first_weights)
        for model, made_from, first_weights in _learners(study, fingerprint)
        for fold in range(splits.folds)
    ]


def named_jobs(study: Study, folds: int, only: Sequence[str]) -> set[str]:
    """The names of the jobs of the named learners: all folds of `resnet34`, or one, as `resnet34:2` states.

    Raises:
        StudyError: there is no such learner or fold.
    """
    names = set()
    for model, fold in map(partial(_named, study), only):
        if fold and not (fold.isdecimal() and 1 <= int(fold) <= folds):
            raise StudyError(
                f"--only: {cut(f'{model}:{fold}')} names no fold of the study, which has folds 1 to {folds}."
            )
        names |= {f"{model}, fold {number}" for number in ([int(fold)] if fold else range(1, folds + 1))}
    return names


def _named(study: Study, text: str) -> tuple[str, str]:
    """The learner of `resnet34:2`, and the fold; the fold of `resnet34` is empty."""
    if text in study.learners:
        return text, ""
    model, colon, fold = text.rpartition(":") if ":" in text else (text, "", "")
    if colon and not model:
        raise StudyError(f"--only: {cut(text)} names no network before the colon.")
    if model not in study.learners:
        raise StudyError(
            f"--only: the study has no learner {cut(model)}; it has {names_text(study.learners, 8)}."
            f"{nearest(model, study.learners)}"
        )
    if not fold:
        raise StudyError(f"--only: {cut(text)} names no fold after the colon. Write a number, or leave out the colon.")
    return model, fold


def final_jobs(study: Study, splits: Splits, folder: RunFolder, fingerprint: str) -> list[Job]:
    """The jobs of networks on all subjects outside the test set; none unless the study states `final: refit`."""
    if study.final != "refit":
        return []
    return [
        Job(model, splits.folds, folder.final_job(model), made_from, first_weights, final=True)
        for model, made_from, first_weights in _learners(study, fingerprint)
    ]


def _learners(study: Study, fingerprint: str) -> Iterator[tuple[str, str, str]]:
    """Each learner with the fingerprint of its jobs and the checksum of its first weights."""
    for model in study.learners:
        first_weights = first_weights_checksum(study, model)
        yield model, job_fingerprint(fingerprint, study, model, first_weights), first_weights


def begin(job: Job, how: str = "") -> None:
    """Remove the state of a training with other inputs or another method from the job's folder.

    It may have been trained on other subjects, and a state is valid only for the same method of computation (`how`).
    The facts of an earlier network are removed, too: they are written again beside the new weights.
    """
    job.folder.facts.remove()
    made_from = f"{job.fingerprint} {how}".strip()
    if job.folder.mark.read_or_none() != made_from:
        job.folder.record.remove()
        job.folder.remove_training()
        job.folder.mark.write(made_from)


def remove_feature_files(jobs: list[Job]) -> None:
    """Remove the features that the baselines of a run shared."""
    for folder in {job.folder.path.parent.parent for job in jobs}:
        for path in folder.glob("features-*.*"):
            path.unlink(missing_ok=True)
