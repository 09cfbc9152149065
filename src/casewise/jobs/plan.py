"""From a study to its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.inference.run_members import first_weights_checksum, job_fingerprint
from casewise.run_folder import JobFolder, RunFolder

if TYPE_CHECKING:
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Job:
    """One network to train: a backbone on all folds but one.

    Attributes:
        first_weights: the checksum of the file that the network starts from; empty where it starts from none.
    """

    model: str
    fold: int
    folder: JobFolder
    fingerprint: str
    first_weights: str = ""

    @property
    def finished(self) -> bool:
        """Whether the job's result stands, made from the same inputs; its files are not verified."""
        return self.folder.finished(self.fingerprint)

    def intact(self) -> bool:
        """Whether the job is finished and its files are as they were written; damaged ones are set aside."""
        return self.folder.intact(self.fingerprint)


def expand(study: Study, splits: Splits, folder: RunFolder, fingerprint: str) -> list[Job]:
    """All jobs of a study, backbone by backbone; each knows the content of the weights file that it starts from."""
    jobs = []
    for model in study.networks:
        first_weights = first_weights_checksum(study, model)
        made_from = job_fingerprint(fingerprint, study, model, first_weights)
        jobs += [Job(model, fold, folder.job(model, fold), made_from, first_weights) for fold in range(splits.folds)]
    return jobs


def begin(job: Job, how: str = "") -> None:
    """Remove the state of a training with other inputs, or computed otherwise, from the job's folder.

    It may have been trained on other subjects, and a state fits only what is computed in the same way (`how`). The
    facts of an earlier network are removed, too: they are written again beside the new weights.
    """
    job.folder.facts.remove()
    made_from = f"{job.fingerprint} {how}".strip()
    if job.folder.mark.read_or_none() != made_from:
        job.folder.record.remove()
        job.folder.remove_training()
        job.folder.mark.write(made_from)
