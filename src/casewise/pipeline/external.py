"""The external cohort, on which the trained networks are tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.identity import spelling_pairs
from casewise.cohort.labels import label_table
from casewise.cohort.pseudonyms import same_subjects
from casewise.console import Silent
from casewise.errors import CohortError, SplitError, counted, nearest
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.cohort_comparison import check_no_twins, own_cohort

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.jobs.pretraining import Pretrained
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def external_study(study: Study) -> Study:
    """The study that reads the external cohort: its own table, the same targets, images and panels."""
    settings = study.external
    assert settings is not None
    changes = {
        "name": study.external_name,
        "cohort": settings.cohort,
        "sheet": settings.sheet,
        "root": settings.root,
        "columns": settings.columns,
        "where": settings.where,
        "where_not": settings.where_not,
        # columns that the study names are those of its table; another table may have others
        "targets": {
            name: target.model_copy(update={"column": None}) if name in settings.columns else target
            for name, target in study.targets.items()
        },
        "split": study.split.model_copy(update={"stratify_by": None, "column": None, "leave_out": None}),
        "evaluation": study.evaluation.model_copy(update={"response": False, "readers": {}, "bands": {}}),
    }
    return study.model_copy(update=changes)


def read_external(study: Study, main: Cohort) -> tuple[Study, Cohort]:
    """Read and check the table of the external cohort, under its own study.

    Raises:
        CohortError: the table has problems, such as classes that the networks do not know.
        SplitError: it shares names of subjects with the study, which does not state that they are other people.
    """
    settings = study.external
    assert settings is not None
    other = external_study(study)
    if study.landmarks_of_subjects and not other.landmarks_of_subjects:
        position = study.columns.get("visit", "visit")
        raise CohortError(
            f"external: every slice of the study is a case, and those of {settings.cohort} are not. State `external: "
            f"{{columns: {{visit: {position}}}}}` with the column of the slices' positions."
        )
    cohort = read_cohort(other, to_learn=False)
    if np.isnan(label_table(cohort.panels, other)).all():
        raise CohortError(f"external: {settings.cohort} has none of {', '.join(study.outputs)} recorded.")
    for column in settings.by:
        if column not in cohort.images:
            raise CohortError(
                f"external.by: {column!r} is not a column of {settings.cohort}.{nearest(column, list(cohort.images))}"
            )
    subjects, names = (set(table["subject"].astype(str)) for table in (cohort.images, main.images))
    _check_subjects(study, subjects, names, "subjects")
    if bundles := [weights for weights in map(study.weights_of, study.networks) if weights.startswith("bundle:")]:
        from casewise.models.weights import bundle_subjects

        for weights in dict.fromkeys(bundles):
            _check_subjects(study, subjects, bundle_subjects(weights), "bundle_subjects", weights)
    return other, cohort


def external_groups(study: Study, images: pd.DataFrame) -> list[str]:
    """The columns by whose values the external cohort is evaluated: as stated, else that of the study's sources."""
    settings = study.external
    assert settings is not None
    if settings.by or not study.split.leave_out:
        return list(settings.by)
    return [study.split.leave_out] if study.split.leave_out in images else []


def prepare_external(study: Study, main: Cohort, store: ImageStore, folder: RunFolder, show: Show) -> PreparedCohort:
    """Read and prepare the external cohort; its name is prefixed to the names of its subjects.

    Raises:
        CohortError: as `read_external`; or an image of it is also in the study's cohort.
        SplitError: as `read_external`.
    """
    other, cohort = read_external(study, main)
    modality = modality_of(other)
    cohort = modality.read(other, cohort, folder.external_images, show)
    external_store = modality.prepare(other, cohort, folder.external_images, show, "external")
    prepared = PreparedCohort(other, cohort, folder.external_images, external_store)
    own = own_cohort(study, main, store, folder)
    check_no_twins(own, prepared, folder, show, where="in the cohort to be tested on", other_people=True)
    prefix = f"{other.name}:"
    renamed = {
        name: table.assign(subject=prefix + table["subject"].astype(str), case=prefix + table["case"].astype(str))
        for name, table in (("images", cohort.images), ("panels", cohort.panels), ("cases", cohort.cases))
    }
    subjects = cohort.cases["subject"].nunique()
    show.line("external", f"{other.name}: {counted(subjects, 'subject')}, {modality.described(other, cohort.images)}")
    return replace(prepared, cohort=Cohort(**renamed, notes=[f"{other.name}: {note}" for note in cohort.notes]))


def check_apart_from_pretraining(
    study: Study, external: PreparedCohort, pretraining: Pretrained, folder: RunFolder, show: Show
) -> None:
    """Check that the external cohort shares no images with the cohort for pretraining.

    Raises:
        CohortError: naming images of both.
    """
    modality, images = modality_of(study), folder.pretraining_images
    store = modality.prepare(
        pretraining.study, pretraining.cohort, images, Silent()
    )  # the prepared images are only opened
    learned = PreparedCohort(pretraining.study, pretraining.cohort, images, store)
    check_no_twins(learned, external, folder, show, where="in the cohort to be tested on", other_people=True)


def check_names_apart(study: Study, main: Cohort, external: Cohort, pretraining: Cohort) -> None:
    """Check that the external cohort shares no names of subjects with the cohort for pretraining.

    Names that the study shares with the cohort for pretraining are those of its own subjects, which are compared with
    the external cohort as such.

    Raises:
        SplitError: naming subjects of both.
    """
    own, subjects, names = (set(cohort.images["subject"].astype(str)) for cohort in (main, external, pretraining))
    if study.pretrain and study.pretrain.subjects == "shared":
        names -= own
    _check_subjects(study, subjects, names, "pretraining_subjects")


WHOSE = {
    "subjects": "the study's own subjects",
    "pretraining_subjects": "the cohort to pretrain on",
    "bundle_subjects": "subjects that {} was trained on",
}


def _check_subjects(study: Study, subjects: set[str], names: set[str], key: str, of: str = "") -> None:
    """Check names of external subjects against those of others, unless the setting `key` says that all are distinct."""
    settings = study.external
    assert settings is not None
    if getattr(settings, key) == "distinct":
        return
    if shared := same_subjects(sorted(subjects), names, study.subject_names):
        raise SplitError(
            f"external: {counted(len(shared), 'subject has', 'subjects have')} names of {WHOSE[key].format(of)} "
            f"({spelling_pairs(shared)}). If they are the same people, leave them out with `external: {{where_not: …}}`"
            f"; if they are other people with the same numbers, state `external: {{{key}: distinct}}`."
        )
