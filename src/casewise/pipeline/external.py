"""Further cohorts: the external one, the one for pretraining, and checks that their subjects are distinct."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from casewise.audit.cohorts import compare_cohorts
from casewise.audit.twin_findings import refuse_twins, twins_between
from casewise.audit.twins import shown_by
from casewise.cohort.checks import ROLES, columns_from_training
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.identity import Declared, doubtful_pairs, same_people, same_subjects, spelling_pairs
from casewise.cohort.table import Problems, names_text, read_text_table
from casewise.cohort.targets import label_table
from casewise.console import Show
from casewise.errors import CohortError, SplitError, counted, nearest
from casewise.files import json_hash
from casewise.inference.new_cases import predicts_single_images
from casewise.inference.visits import check_visits
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.modalities.store.store import TileStore
from casewise.run_folder import RunFolder
from casewise.study.schema import Pretraining, Study
from casewise.version import __version__

# The settings of a study that say which table it reads, and how.
OF_TABLE = ("cohort", "sheet", "root", "columns", "where", "where_not")


def _external_study(study: Study) -> Study:
    """The study that reads the external cohort: its own table, the same targets, images and panels."""
    settings = study.external
    assert settings is not None
    evaluation = {"response": False, "readers": {}, "bands": {}}
    columns = dict(settings.columns)
    with suppress(CohortError):  # whoever reads the table next says what is wrong with it
        headers = read_text_table(settings.cohort, Problems(), sheet=settings.sheet)[0].columns
        original = {role: name for role, name in study.original_columns.items() if role in ROLES}
        for training in (study.columns, original):
            columns = columns_from_training(columns, training, headers)
        columns |= {"visit": "visit"} if "visit" in headers and "visit" not in columns else {}
    changes = {name: getattr(settings, name) for name in OF_TABLE} | {
        "columns": columns,
        "audit": study.audit.model_copy(update={"decisions": None}),
        "name": study.external_name,
        # columns that the study names belong to its own table; another table may have others
        "targets": {
            name: target.model_copy(update={"column": None}) if name in columns else target
            for name, target in study.targets.items()
        },
        "split": study.split.model_copy(
            update={"stratify_by": None, "column": None, "leave_out": None, "validation": None}
        ),
        "sample": {},
        "evaluation": study.evaluation.model_copy(update=evaluation),
    }
    return study.model_copy(update=changes)


def read_external(study: Study, main: Cohort) -> tuple[Study, Cohort]:
    """Read and check the table of the external cohort, under its own study.

    Raises:
        CohortError: the table has problems, such as classes that the networks do not know, or several visits of a
            subject that no column states, where the study has visits.
        SplitError: it shares names of subjects with the study, which does not state that they are other people.
    """
    settings = study.external
    assert settings is not None
    other = _external_study(study)
    if study.landmarks_of_subjects and not other.landmarks_of_subjects:
        position = study.columns.get("visit", "visit")
        raise CohortError(
            f"external: every slice of the study is a case, but in {settings.cohort} slices are not. State `external: "
            f"{{columns: {{visit: {position}}}}}` with the column of the slices' positions."
        )
    cohort = read_cohort(other, to_learn=False)
    if "visit" not in other.columns and main.cases["visit"].nunique() > 1 and not predicts_single_images(other):
        cells = cohort.images.drop(columns=["image", "path", "visit", "case", "day", "region", *other.outputs])
        check_visits(other, cells.fillna("").astype(str), {"subject": "subject"}, section="external")
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
    """The columns that group the external cohort's evaluation: as stated, else the column of the study's sources."""
    settings = study.external
    assert settings is not None
    if settings.by or not study.split.leave_out:
        return list(settings.by)
    return [study.split.leave_out] if study.split.leave_out in images else []


def prepare_external(own: PreparedCohort, folder: RunFolder, show: Show) -> PreparedCohort:
    """Read and prepare the external cohort; its name is prefixed to the names of its subjects.

    Raises:
        CohortError: as `read_external`; or an image of it is also in the study's cohort.
        SplitError: as `read_external`.
    """
    other, cohort = read_external(own.study, own.cohort)
    modality = modality_of(other)
    images = folder.images(cohort="external")
    cohort = modality.read(other, cohort, images, show)
    prepared = PreparedCohort(other, cohort, images, modality.prepare(other, cohort, images, show, "external"))
    check_no_twins(own, prepared, folder, show, where="in the cohort to be tested on", other_people=True)
    prefix = f"{other.name}:"
    renamed = {
        name: table.assign(subject=prefix + table["subject"].astype(str), case=prefix + table["case"].astype(str))
        for name, table in (("images", cohort.images), ("panels", cohort.panels), ("cases", cohort.cases))
    }
    subjects = cohort.cases["subject"].nunique()
    show.line("external", f"{other.name}: {counted(subjects, 'subject')}, {modality.described(other, cohort.images)}")
    return replace(prepared, cohort=Cohort(**renamed, notes=[f"{other.name}: {note}" for note in cohort.notes]))


def check_names_apart(study: Study, main: Cohort, external: Cohort, pretraining: Cohort) -> None:
    """Check that the external cohort shares no names of subjects with the cohort for pretraining.

    Names that the study shares with the cohort for pretraining belong to the study's own subjects, which are compared
    with the external cohort separately.

    Raises:
        SplitError: naming subjects of both.
    """
    own, subjects, names = (set(cohort.images["subject"].astype(str)) for cohort in (main, external, pretraining))
    if study.pretrain and study.pretrain.subjects == "shared":
        names -= own
    _check_subjects(study, subjects, names, "pretraining_subjects")


def doubtful_names(study: Study, main: Cohort, external: Cohort | None, pretraining: Cohort | None) -> list[str]:
    """A sentence for each two cohorts with names that may mean one person, unless they are stated to be distinct."""
    stated = {
        "the external cohort and the study": (external, main, study.external and study.external.subjects),
        "the cohort to pretrain on and the study": (pretraining, main, study.pretrain and study.pretrain.subjects),
        "the external cohort and the one to pretrain on": (
            external,
            pretraining,
            study.external and study.external.pretraining_subjects,
        ),
    }
    notes = []
    for where, (first, second, setting) in stated.items():
        if first is None or second is None or setting == "distinct":
            continue
        names, others = (cohort.images["subject"].astype(str) for cohort in (first, second))
        pairs = doubtful_pairs(names, others, study.subject_names)
        if pairs:
            named = names_text([f"{name} and {other}" for name, other in pairs], 5)
            notes.append(
                f"WARNING: {counted(len(pairs), 'pair')} of names in {where} may mean one person: {named}. If so, "
                "write the same subject in both tables; if not, list them under `subject_names`."
            )
    return notes


WHOSE = {
    "subjects": "the study's own subjects",
    "pretraining_subjects": "the cohort to pretrain on",
    "bundle_subjects": "subjects that {} was trained on",
}


def _check_subjects(study: Study, subjects: set[str], names: set[str], key: str, of: str = "") -> None:
    """Check names of external subjects against other `names`, unless the setting `key` says that all are distinct."""
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


def cohort_difference(own: PreparedCohort, external: PreparedCohort, folder: RunFolder, show: Show) -> None:
    """Write how well simple features tell the study's own cohort from an external one."""
    first, second = _audited(own, show), _audited(external, show)
    permutations, seed = own.study.audit.permutations, own.study.seed
    folder.cohort_difference.step(
        _inputs_hash(first, second, permutations, seed),
        lambda: compare_cohorts(first, second, permutations=permutations, seed=seed),
    )


def check_no_twins(
    first: PreparedCohort, second: PreparedCohort, folder: RunFolder, show: Show, *, where: str, other_people: bool
) -> None:
    """Stop if a picture occurs in both cohorts under different subjects, or at all if the cohorts share no people.

    The search is stored with the prepared images, with all pairs by path and subject, so that runs with other seeds do
    not repeat it.

    Raises:
        CohortError: names the pairs.
    """
    both = _audited(first, show), _audited(second, show)

    def search() -> dict[str, Any]:
        with show.bar("copies") as bar:
            # no time left: its parts differ in speed
            tell = lambda share: bar(0, 0, f"looking for pictures that are in both cohorts ({share:.0%})")  # noqa: E731
            pairs = twins_between(*both, other_people=other_people, progress=tell)
        own, other = (cohort.images[["path", "subject"]].astype(str).values.tolist() for cohort, _ in both)
        return {"pairs": [[*own[i], *other[j]] for i, j in pairs]}

    file = folder.cohort_twins(first.folder.suffix or "own", second.folder.suffix or "own")
    pairs = file.step(_inputs_hash(*both, other_people), search)["pairs"]
    refuse_twins(pairs, second.study, file.path, where=where, other_people=other_people)


def _audited(prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
    return modality_of(prepared.study).audited(prepared, show)


def _inputs_hash(first: tuple[Cohort, TileStore], second: tuple[Cohort, TileStore], *settings: int) -> str:
    """A hash of everything that a comparison of two cohorts depends on."""
    inputs = {
        "casewise": __version__,
        "images": [tiles.address for _, tiles in (first, second)],
        "files": [shown_by(cohort.images) for cohort, _ in (first, second)],
        "subjects": [cohort.images["subject"].astype(str).tolist() for cohort, _ in (first, second)],
        "settings": settings,
    }
    return json_hash(inputs)


def _pretraining_study(study: Study, settings: Pretraining) -> Study:
    """The study that reads and prepares the other cohort: its own table and targets, one panel an image."""
    fixed = {"schedule": "cosine", "tuning": "full", "imbalance": "none", "epochs": settings.epochs}
    fixed["meant_for"] = "same_sources"
    stated = {name: getattr(settings, name) or getattr(study.recipe, name) for name in ("lr", "batch_size")}
    evaluation = {"response": False, "readers": {}, "bands": {}, "subgroups": []}
    changes = {name: getattr(settings, name, None) for name in OF_TABLE} | {
        "audit": study.audit.model_copy(update={"decisions": None}),
        "name": f"{study.name} (pretraining)",
        "targets": settings.targets,
        "scores": {},
        "outputs": list(settings.targets),
        "primary_outcome": next(iter(settings.targets)),
        "recipe": study.recipe.model_copy(update=fixed | stated),
        "regions": [],
        "panels": modality_of(study).pretraining_panels(study),
        "split": study.split.model_copy(update={"stratify_by": None, "column": None, "validation": None}),
        "sample": {},
        "evaluation": study.evaluation.model_copy(update=evaluation),
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
    other = _pretraining_study(study, settings)
    cohort = read_cohort(other)
    subjects = set(main.images["subject"].astype(str))
    return other, cohort, _check_pretraining_subjects(settings, cohort, subjects, study.subject_names)


def prepare_pretraining(own: PreparedCohort, folder: RunFolder, show: Show) -> PreparedCohort:
    """Read and prepare the cohort to pretrain on.

    Raises:
        SplitError, CohortError: as `read_pretraining`; or an image of it is also in the study's cohort, under another
            subject.
    """
    other, cohort, n_shared = read_pretraining(own.study, own.cohort)
    modality = modality_of(other)
    show.line("pretrain", described(other, cohort, n_shared))
    images = folder.images(cohort="pretraining")
    cohort = modality.read(other, cohort, images, show)
    prepared = PreparedCohort(other, cohort, images, modality.prepare(other, cohort, images, show, "pretrain"))
    check_no_twins(own, prepared, folder, show, where="in the pretraining cohort", other_people=False)
    return prepared


def described(other: Study, cohort: Cohort, n_shared: int) -> str:
    """One line on the cohort to pretrain on."""
    subjects = counted(cohort.images["subject"].nunique(), "subject")
    shared = f"{counted(n_shared, 'subject')} shared with the study and never used where held out"
    text = shared if n_shared else "no subject is shared with the study by name"
    return f"{subjects}, {modality_of(other).described(other, cohort.images)}; {text}"


def _check_pretraining_subjects(settings: Pretraining, cohort: Cohort, subjects: set[str], declared: Declared) -> int:
    """Check the names of subjects in both cohorts, and return the number of shared ones."""
    names = set(cohort.images["subject"].astype(str))
    shared = sorted(names & subjects)
    # with `distinct`, the study states that the names in the two tables belong to different people
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
            f"pretrain: `subjects: distinct` states that no subject is also in {settings.cohort}, but "
            f"{len(shared)} are in both ({', '.join(shared[:5])}). Write `subjects: shared`: each fold's held-out "
            "subjects are then left out of its pretraining."
        )
    return len(shared)
