"""Fingerprints of training images: written next to each network, and compared where a network gives first weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.audit.fingerprints import fingerprints, joined, read_fingerprints, same_pictures, write_fingerprints
from casewise.audit.sentences import as_in_table, exclusion
from casewise.errors import SplitError, counted
from casewise.modalities.registry import modality_of
from casewise.run_folder import JobFolder
from casewise.study.learners import learner_named

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.plan import Job
    from casewise.modalities.base import PreparedCohort
    from casewise.study.schema import Study

SHOWN = 5


def _first_bundles(study: Study) -> list[JobFolder]:
    """The folders of networks from which networks of the study take their first weights."""
    stated = dict.fromkeys(study.weights_of(name) for name in study.networks)
    return [JobFolder(Path(text.removeprefix("bundle:"))) for text in stated if text.startswith("bundle:")]


def record_images(jobs: Sequence[Job], cohorts: Sequence[PreparedCohort], show: Show) -> None:
    """Write the fingerprints of the images behind each trained network: its own, and the images of its first weights.

    Args:
        cohorts: the study's own and, if there is one, the cohort to pretrain on.
    """
    lacking = [job for job in jobs if job.folder.facts.exists() and not job.folder.fingerprints.intact()]
    if not lacking:
        return
    hashed = []
    for prepared in cohorts:
        cohort, store = modality_of(prepared.study).audited(prepared, show)
        hashed.append((cohort.images["subject"].astype(str), fingerprints(store)))
    study = cohorts[0].study
    for job in lacking:
        subjects = set(job.folder.facts.read()["subjects"])
        used = [{name: rows[names.isin(subjects)] for name, rows in prints.items()} for names, prints in hashed]
        weights = learner_named(job.model).weights(study)
        first = JobFolder(Path(weights.removeprefix("bundle:"))).fingerprints
        if weights.startswith("bundle:") and first.exists():
            used.append(read_fingerprints(first))
        write_fingerprints(job.folder.fingerprints, joined(used))


def check_images_apart(study: Study, prepared: PreparedCohort, show: Show, *, where: str) -> None:
    """Refuse a cohort that has pictures on which the networks behind the first weights of `study` were trained.

    Raises:
        SplitError: names the images, their subjects, and the ways out.
    """
    folders = [folder for folder in _first_bundles(study) if folder.fingerprints.exists()]
    if not folders:
        return
    other = prepared.study
    cohort, store = modality_of(other).audited(prepared, show)
    own, images = fingerprints(store), cohort.images
    for folder in folders:
        rows = same_pictures(own, read_fingerprints(folder.fingerprints))
        if not rows:
            continue
        names = images["subject"].astype(str).iloc[rows].str.removeprefix(f"{other.name}:")
        subjects = list(dict.fromkeys(names))
        written = as_in_table(images["path"].astype(str).iloc[rows].tolist(), other.root or other.cohort.parent)
        shown = ", ".join(written[:SHOWN]) + (", …" if len(written) > SHOWN else "")
        role = "subject" if other.subjects_known else "path"
        excluded = exclusion(subjects if role == "subject" else written, column=other.columns.get(role, role))
        raise SplitError(
            f"weights: by its fingerprints, {folder.path} was trained on at least {counted(len(rows), 'image')} of "
            f"{counted(len(subjects), 'subject')} {where} ({shown}), perhaps under other names. Their figures would be "
            f"too optimistic. Leave these people out with {excluded}, or take other weights (`pretrain:` leaves each "
            "fold's held-out subjects out of its pretraining)."
        )
