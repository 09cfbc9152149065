"""Cohorts beside the study's own: one to learn from first, and one to be tested on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.audit.cross_cohort import check_twins_between
from casewise.cohort.checks import alike
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.labels import label_table
from casewise.console import Show, Silent
from casewise.errors import CohortError, SplitError
from casewise.modalities.base import ImageFolder, ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    from casewise.jobs.pretraining import Pretrained
    from casewise.modalities.store.store import TileStore
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


def to_pretrain_on(
    study: Study, main: Cohort, tiles: ImageStore, splits: Splits, folder: Path, show: Show
) -> Pretrained:
    """Prepare the other cohort that networks learn from first.

    Raises:
        SplitError: it shares subjects with the study, which says that it does not.
    """
    from casewise.jobs.pretraining import Pretrained, pretraining_study

    wanted = study.pretrain
    assert wanted is not None
    other = pretraining_study(study, wanted)
    cohort = read_cohort(other)
    shared = sorted(set(cohort.images["subject"].astype(str)) & set(splits.side))
    plain = {alike(name): name for name in splits.side}
    others = sorted(set(cohort.images["subject"].astype(str)) - set(shared))
    mistaken = next((name for name in others if alike(name) in plain), None)
    if mistaken:
        raise SplitError(
            f"pretrain: subject {mistaken!r} looks like {plain[alike(mistaken)]!r} of the study. Spell both alike."
        )
    if shared and wanted.subjects == "distinct":
        raise SplitError(
            f"pretrain: the study says that its subjects are distinct from those of {wanted.cohort}, but {len(shared)} "
            f"are in both ({', '.join(shared[:5])}). Write `subjects: shared`: each fold's held-out subjects are then "
            "left out of its pretraining."
        )
    show.line(
        "pretrain",
        f"{cohort.images['subject'].nunique():,} subjects, {modality_of(other).described(other, cohort.images)}; "
        f"{len(shared)} subjects shared: "
        "those held out of a fold are left out of its pretraining",
    )
    prepared = _prepared(other, cohort, folder, "pretraining", show, "pretrain")
    check_twins_between(*_pictures(_own(study, main, tiles, folder), show), *_pictures(prepared, show))
    return Pretrained(other, prepared.cohort, prepared.store.folder, prepared.store.address)


def external_study(study: Study) -> Study:
    """The study that reads the cohort to be tested on: its own table, the same targets, images and panels."""
    wanted = study.external
    assert wanted is not None
    changes = {
        "name": study.external_name,
        "cohort": wanted.cohort,
        "root": wanted.root,
        "columns": wanted.columns,
        "where": wanted.where,
        "where_not": wanted.where_not,
        # a column that the study names is one of its own table: another table may have another
        "targets": {
            name: target.model_copy(update={"column": None}) if name in wanted.columns else target
            for name, target in study.targets.items()
        },
        "split": study.split.model_copy(update={"stratify_by": None, "column": None, "leave_out": None}),
        "evaluation": study.evaluation.model_copy(update={"response": False, "readers": {}, "bands": {}}),
    }
    return study.model_copy(update=changes)


def read_external(study: Study, main: Cohort) -> tuple[Study, Cohort]:
    """Read and check the cohort on which the trained networks are to be tested, under its own study.

    Raises:
        CohortError: its table has problems, among them classes that the networks do not know.
        SplitError: it shares names of subjects with the study, and the study does not say that they are other people.
    """
    wanted = study.external
    assert wanted is not None
    other = external_study(study)
    cohort = read_cohort(other, to_learn=False)
    if np.isnan(label_table(cohort.panels, other)).all():
        raise CohortError(f"external: {wanted.cohort} has none of {', '.join(study.outputs)} recorded.")
    _named_apart(study, cohort, set(main.images["subject"].astype(str)), "the study's own subjects")
    return other, cohort


def _named_apart(study: Study, cohort: Cohort, known: set[str], whose: str) -> None:
    wanted = study.external
    assert wanted is not None
    mine = {alike(name) for name in known}
    shared = sorted({str(name) for name in cohort.images["subject"] if alike(str(name)) in mine})
    if shared and wanted.subjects != "distinct":
        raise SplitError(
            f"external: {len(shared)} subjects of {wanted.cohort} have names of {whose} ({', '.join(shared[:5])}). If "
            "they are the same people, leave them out with `external: {where_not: …}`; if they are other people with "
            "the same numbers, say so: `external: {subjects: distinct}`."
        )


def to_test_on(
    study: Study, main: Cohort, tiles: ImageStore, folder: Path, show: Show
) -> tuple[Study, Cohort, ImageStore]:
    """Prepare the cohort on which the trained networks are tested; its subjects get its name before theirs.

    Raises:
        CohortError: as `read_external`; or a picture of it stands in the study's own cohort.
        SplitError: as `read_external`.
    """
    other, cohort = read_external(study, main)
    prepared = _prepared(other, cohort, folder, "external", show, "external")
    cohort = prepared.cohort
    check_twins_between(
        *_pictures(_own(study, main, tiles, folder), show),
        *_pictures(prepared, show),
        where="in the cohort to be tested on",
        other_people=True,
    )
    prefix = f"{other.name}:"
    renamed = {
        name: table.assign(subject=prefix + table["subject"].astype(str), case=prefix + table["case"].astype(str))
        for name, table in (("images", cohort.images), ("panels", cohort.panels), ("cases", cohort.cases))
    }
    show.line(
        "external",
        f"{other.name}: {cohort.cases['subject'].nunique():,} subjects, "
        f"{modality_of(other).described(other, cohort.images)}",
    )
    return other, Cohort(**renamed, notes=[f"{other.name}: {note}" for note in cohort.notes]), prepared.store


def _prepared(study: Study, cohort: Cohort, folder: Path, suffix: str, show: Show, step: str) -> PreparedCohort:
    """Another cohort with its images, prepared in folders of its own."""
    modality, images = modality_of(study), ImageFolder.of_run(study, folder, suffix)
    cohort = modality.read(study, cohort, images, show)
    return PreparedCohort(study, cohort, images, modality.prepare(study, cohort, images, show, step))


def _own(study: Study, cohort: Cohort, store: ImageStore, folder: Path) -> PreparedCohort:
    return PreparedCohort(study, cohort, ImageFolder.of_run(study, folder), store)


def _pictures(prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
    """What is searched for images of one person in both cohorts."""
    return modality_of(prepared.study).audited(prepared, show)


def apart_from_pretraining(
    study: Study,
    elsewhere: tuple[Study, Cohort, ImageStore],
    pretraining: Pretrained,
    folder: Path,
    show: Show,
) -> None:
    """Stop if the cohort to be tested on holds people or pictures of the one that networks learn from first.

    Raises:
        SplitError: naming subjects of both.
        CohortError: naming pictures of both.
    """
    _, known = read_external(study, pretraining.cohort)
    _named_apart(study, known, set(pretraining.cohort.images["subject"].astype(str)), "the cohort to pretrain on")
    other, cohort, store = elsewhere
    folders = ImageFolder.of_run(pretraining.study, folder, "pretraining")
    learned = modality_of(study).prepare(pretraining.study, pretraining.cohort, folders, Silent())
    check_twins_between(
        *_pictures(PreparedCohort(pretraining.study, pretraining.cohort, folders, learned), show),
        *_pictures(PreparedCohort(other, cohort, ImageFolder.of_run(other, folder, "external"), store), show),
        where="in the cohort to be tested on",
        other_people=True,
    )
