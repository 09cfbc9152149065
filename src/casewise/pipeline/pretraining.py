"""The cohort for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.audit.twin_findings import check_twins_between
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.identity import same_people, spelling_pairs
from casewise.errors import SplitError
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.report.formatting import counted

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.pretraining import Pretrained
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Pretraining, Study


def prepare_pretraining(
    study: Study, main: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show
) -> Pretrained:
    """Read and prepare the cohort to pretrain on.

    Raises:
        SplitError: it shares subjects with the study, which states that it does not.
        CohortError: an image of it is also in the study's cohort, under another subject.
    """
    from casewise.jobs.pretraining import Pretrained, pretraining_study

    settings = study.pretrain
    assert settings is not None
    other = pretraining_study(study, settings)
    cohort = read_cohort(other)
    modality = modality_of(other)
    n_shared = _check_subjects(settings, cohort, splits, as_written=study.subject_names == "as_written")
    subjects = counted(cohort.images["subject"].nunique(), "subject")
    shared = f"{counted(n_shared, 'subject')} shared with the study and never used where held out"
    text = shared if n_shared else "no subject is shared with the study"
    show.line("pretrain", f"{subjects}, {modality.described(other, cohort.images)}; {text}")
    cohort = modality.read(other, cohort, folder.pretraining_images, show)
    other_store = modality.prepare(other, cohort, folder.pretraining_images, show, "pretrain")
    check_twins_between(
        *modality.audited(PreparedCohort(study, main, folder.images(study.images.store), store), show),
        *modality.audited(PreparedCohort(other, cohort, folder.pretraining_images, other_store), show),
    )
    return Pretrained(other, cohort, other_store.folder, other_store.address)


def _check_subjects(settings: Pretraining, cohort: Cohort, splits: Splits, *, as_written: bool) -> int:
    """Check the names of subjects in both cohorts, and return the number of shared ones."""
    names = set(cohort.images["subject"].astype(str))
    shared = sorted(names & set(splits.side))
    # with `distinct`, the study states that the names of the two tables are those of different people
    as_written = as_written or settings.subjects == "distinct"
    similar = same_people(sorted(names - set(shared)), splits.side, as_written=as_written)
    if similar:
        way_out = "" if as_written else "; if they are different people, write `subject_names: as_written` in the study"
        raise SplitError(
            f"pretrain: {counted(len(similar), 'name')} of {settings.cohort} and of the study may mean the same "
            f"people: {spelling_pairs(similar)}. Use one spelling in both tables{way_out}."
        )
    if settings.subjects == "shared" and not shared:
        raise SplitError(
            f"pretrain: the study states that its subjects are also in {settings.cohort}, but none of its names is "
            f"there (such as {min(names)!r}; the study has {min(splits.side)!r}). Write the same names in both tables, "
            "or `subjects: distinct` if no person is in both."
        )
    if shared and settings.subjects == "distinct":
        raise SplitError(
            f"pretrain: the study states that its subjects are distinct from those of {settings.cohort}, but "
            f"{len(shared)} are in both ({', '.join(shared[:5])}). Write `subjects: shared`: each fold's held-out "
            "subjects are then left out of its pretraining."
        )
    return len(shared)
