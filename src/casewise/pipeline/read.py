"""Reading the cohort table, with every check that needs no image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from casewise.audit.findings import check_settings
from casewise.cohort.cohort import Cohort, check_copied, read_cohort
from casewise.cohort.flow import cases_step
from casewise.cohort.labels import label_table
from casewise.console import shown
from casewise.errors import CohortError, StudyError, counted, nearest
from casewise.modalities.registry import modality_of
from casewise.pipeline.external import check_names_apart, read_external
from casewise.pipeline.pretraining import described, read_pretraining
from casewise.plugin import plugins
from casewise.study.schema import Study
from casewise.study.scores import check_scores, study_scores

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder


@shown("cohort")
def read(study: Study, folder: RunFolder | None, show: Show, *, to_train: bool = True) -> Cohort:
    """Read the cohort table, plan the tiles of slides, and check that the study can be carried out (in `folder`).

    Without `to_train`, for networks that are trained already, other cohorts, first weights and the stated compute plan
    are not needed any more.

    Raises:
        CasewiseError: the study, the table or the folder needs a correction.
    """
    from casewise.jobs.fingerprint import deciding_settings, refuse_other

    _check_weights_folder(study)
    if to_train:
        for plugin in plugins():
            plugin.check_study(study)
    if to_train and study.compute.plan is not None:
        from casewise.jobs.compute_plans import check_stated

        check_stated(study)
    cohort = read_cohort(study)
    check_settings(study, cohort.images)
    levels: dict[str, Literal["region", "case"]] = {
        name: "region" if study.level_of(name) == "region" else "case" for name in study.outputs
    }
    check_scores(study_scores(study), targets=levels, regions=study.regions)
    _check_labels(study, cohort)
    if to_train:
        _check_bundles(study, cohort)
    external = read_external(study, cohort) if to_train and study.external else None
    pretraining = read_pretraining(study, cohort) if to_train and study.pretrain else None
    if external and pretraining:
        check_names_apart(study, cohort, external[1], pretraining[1])
    cases = cohort.cases
    cohort = modality_of(study).read(study, cohort, folder.images(study.images.store) if folder else None, show)
    cohort = replace(cohort, flow=[*cohort.flow, *cases_step("images", cases, cohort.cases)])
    check_copied(study, cohort.panels)
    _check_masks(study, cohort)
    if study.recipe.phases:
        from casewise.models.build_model import check_freeze_points

        check_freeze_points(study)
    if folder:
        refuse_other(folder, deciding_settings(study, cohort))
    _show_cohort(study, cohort, show)
    if external and not folder:  # a run reports it when its images are read
        other, external_cohort = external
        subjects, images = external_cohort.cases["subject"].nunique(), len(external_cohort.images)
        show.line("external", f"{other.name}: {counted(subjects, 'subject')}, {counted(images, 'image')}")
    if pretraining and not folder:
        show.line("pretrain", described(*pretraining))
    return cohort


def _check_weights_folder(study: Study) -> None:
    if study.weights_dir and not study.weights_dir.is_dir():
        parent = study.weights_dir.parent
        names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        hint = nearest(study.weights_dir.name, names)
        raise StudyError(f"weights_dir: there is no folder {study.weights_dir}.{hint}")


def _check_bundles(study: Study, cohort: Cohort) -> None:
    """Refuse first weights from networks that were trained on subjects of the study, each of whom is held out once."""
    bundles = dict.fromkeys(
        weights for weights in map(study.weights_of, study.networks) if weights.startswith("bundle:")
    )
    if bundles and study.bundle_subjects != "distinct":
        from casewise.models.weights import check_bundle_subjects

        for weights in bundles:
            check_bundle_subjects(weights, set(cohort.images["subject"].astype(str)), study.subject_names)


def _check_masks(study: Study, cohort: Cohort) -> None:
    """Check that the columns with masks exist, which are read only when maps are measured."""
    for meaning, column in modality_of(study).mask_columns(study).items():
        if column not in cohort.images:
            hint = nearest(column, list(map(str, cohort.images)))
            raise CohortError(
                f"{study.cohort}: there is no column {column!r}, which the study names for masks ({meaning}).{hint}"
            )


def _check_labels(study: Study, cohort: Cohort) -> None:
    labels = label_table(cohort.panels, study)
    if np.isnan(labels).all():
        raise CohortError(
            f"{study.cohort}: no case has any of {', '.join(study.outputs)} recorded: there is nothing to learn. "
            "Fill in the target columns."
        )
    for name, values in zip(study.outputs, labels.T, strict=True):
        if np.nanmin(values) == np.nanmax(values):
            raise CohortError(f"{study.cohort}: {name} is {np.nanmin(values):g} everywhere: there is nothing to learn.")


def _show_cohort(study: Study, cohort: Cohort, show: Show) -> None:
    images = modality_of(study).described(study, cohort.images)
    counts = [counted(cohort.cases["subject"].nunique(), "subject"), counted(len(cohort.cases), "case"), images]
    if study.regions:
        counts.append(counted(len(study.regions), "region"))
    show.line("cohort", ", ".join(counts) + (" (synthetic)" if study.synthetic else ""))
    for note in cohort.notes:
        show.line("", note)
