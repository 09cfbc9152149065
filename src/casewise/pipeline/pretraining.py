"""The cohort for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.identity import Declared, same_people, spelling_pairs
from casewise.errors import SplitError, counted
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.cohort_comparison import check_no_twins, own_cohort

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.pretraining import Pretrained
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Pretraining, Study


def pretraining_study(study: Study, settings: Pretraining) -> Study:
    """The study that reads and prepares the other cohort: its own table and targets, one panel an image."""
    recipe = study.recipe.model_copy(
        update={
            "epochs": settings.epochs,
            "lr": settings.lr or study.recipe.lr,
            "batch_size": settings.batch_size or study.recipe.batch_size,
            "schedule": "cosine",
            "tuning": "full",
            "imbalance": "none",
        }
    )
    changes = {
        "name": f"{study.name} (pretraining)",
        "cohort": settings.cohort,
        "sheet": settings.sheet,
        "root": None,
        "columns": settings.columns,
        "where": settings.where,
        "where_not": settings.where_not,
        "targets": settings.targets,
        "scores": {},
        "outputs": list(settings.targets),
        "primary_outcome": next(iter(settings.targets)),
        "recipe": recipe,
        "regions": [],
        "panels": modality_of(study).pretraining_panels(study),
        "split": study.split.model_copy(update={"stratify_by": None, "column": None}),
        "evaluation": study.evaluation.model_copy(
            update={"response": False, "readers": {}, "bands": {}, "subgroups": []}
        ),
    }
    return study.model_copy(update=changes)


def read_pretraining(study: Study, main: Cohort) -> tuple[Study, Cohort, int]:
    """Read and check the table of the cohort to pretrain on, under its own study; the number of shared subjects last.

    Raises:
        CohortError: the table has problems.
        SplitError: it shares subjects with the study, which states that it does not, or the reverse.
    """
    settings = study.pretrain
    assert settings is not None
    other = pretraining_study(study, settings)
    cohort = read_cohort(other)
    subjects = set(main.images["subject"].astype(str))
    return other, cohort, _check_subjects(settings, cohort, subjects, study.subject_names)


def prepare_pretraining(study: Study, main: Cohort, store: ImageStore, folder: RunFolder, show: Show) -> Pretrained:
    """Read and prepare the cohort to pretrain on.

    Raises:
        SplitError, CohortError: as `read_pretraining`; or an image of it is also in the study's cohort, under another
            subject.
    """
    from casewise.jobs.pretraining import Pretrained

    other, cohort, n_shared = read_pretraining(study, main)
    modality = modality_of(other)
    show.line("pretrain", described(other, cohort, n_shared))
    cohort = modality.read(other, cohort, folder.pretraining_images, show)
    other_store = modality.prepare(other, cohort, folder.pretraining_images, show, "pretrain")
    check_no_twins(
        own_cohort(study, main, store, folder),
        PreparedCohort(other, cohort, folder.pretraining_images, other_store),
        folder,
        show,
        where="in the pretraining cohort",
        other_people=False,
    )
    return Pretrained(other, cohort, other_store.folder, other_store.address)


def described(other: Study, cohort: Cohort, n_shared: int) -> str:
    """One line on the cohort to pretrain on."""
    subjects = counted(cohort.images["subject"].nunique(), "subject")
    shared = f"{counted(n_shared, 'subject')} shared with the study and never used where held out"
    text = shared if n_shared else "no subject is shared with the study by name"
    return f"{subjects}, {modality_of(other).described(other, cohort.images)}; {text}"


def _check_subjects(settings: Pretraining, cohort: Cohort, subjects: set[str], declared: Declared) -> int:
    """Check the names of subjects in both cohorts, and return the number of shared ones."""
    names = set(cohort.images["subject"].astype(str))
    shared = sorted(names & subjects)
    # with `distinct`, the study states that the names of the two tables are those of different people
    declared = "as_written" if settings.subjects == "distinct" else declared
    similar = same_people(sorted(names - set(shared)), subjects, declared)
    if similar:
        name, other = next(iter(similar.items()))
        way_out = f'; if they are different people, state `subject_names: [["{other}", "{name}"]]` in the study'
        raise SplitError(
            f"pretrain: {counted(len(similar), 'name')} of {settings.cohort} and of the study may mean the same "
            f"people: {spelling_pairs(similar)}. Use one spelling in both tables"
            f"{'' if declared == 'as_written' else way_out}."
        )
    if settings.subjects == "shared" and not shared:
        raise SplitError(
            f"pretrain: the study states that its subjects are also in {settings.cohort}, but none of its names is "
            f"there (such as {min(names)!r}; the study has {min(subjects)!r}). Write the same names in both tables, "
            "or `subjects: distinct` if no person is in both."
        )
    if shared and settings.subjects == "distinct":
        raise SplitError(
            f"pretrain: the study states that its subjects are distinct from those of {settings.cohort}, but "
            f"{len(shared)} are in both ({', '.join(shared[:5])}). Write `subjects: shared`: each fold's held-out "
            "subjects are then left out of its pretraining."
        )
    return len(shared)
