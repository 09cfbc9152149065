"""The cohort before anything is trained: the table with its checks, the split, the prepared images; and `validate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from casewise.audit.findings import check_settings
from casewise.cohort.cohort import Cohort, check_copied, read_cohort
from casewise.cohort.companions import listed_companions
from casewise.cohort.participants import cases_step
from casewise.cohort.table import names_text
from casewise.cohort.targets import label_table, panel_values
from casewise.console import Show, Silent, shown
from casewise.errors import CohortError, RunError, StudyError, counted, nearest, nearest_folder, shortened
from casewise.evaluation.trial import require_statsmodels
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.masks import training_masks
from casewise.modalities.registry import modality_of
from casewise.pipeline.budget import RunCases
from casewise.pipeline.budget_check import budget_lines
from casewise.pipeline.encoder_plan import NOT_HERE
from casewise.pipeline.external import check_names_apart, described, doubtful_names, read_external, read_pretraining
from casewise.pipeline.hooks import run_hooks
from casewise.pipeline.plan_in_words import stated_in_words
from casewise.pipeline.recipe_plan import plan_facts
from casewise.run_folder import RunFolder
from casewise.splits import grouped
from casewise.splits.grouped import Splits, read_splits, write_splits
from casewise.splits.learnable import check_learnable, missing_classes
from casewise.splits.predefined import TEST, validation_in
from casewise.study.learners import FEATURES, first_weights
from casewise.study.schema import Study
from casewise.study.scores import check_study_scores
from casewise.study.targets import own_heading
from casewise.study.weight_origins import origins_of, origins_sentence, unknown_origin

# Characters of a class's name, and of a table beside the names of steps on a terminal of 80 columns.
_WIDEST_CLASS, _WIDEST_TABLE = 30, 66


@dataclass(frozen=True)
class RunInputs:
    """What a run is trained and evaluated on: the planned study, its cohort, images and split, and the run folder.

    `began` is when the run began, by the clock of `casewise.pipeline.budget`.
    """

    study: Study
    cohort: Cohort
    store: ImageStore
    splits: Splits
    folder: RunFolder
    began: float = 0.0

    @property
    def prepared(self) -> PreparedCohort:
        """The cohort with its prepared images."""
        return PreparedCohort(self.study, self.cohort, self.folder.images(self.study.images.store), self.store)


@shown("cohort")
def read(study: Study, folder: RunFolder | None, show: Show, *, to_train: bool = True) -> Cohort:
    """Read the cohort table, plan the tiles of slides, and check that the study can be carried out (in `folder`).

    Without `to_train`, for networks that are trained already, other cohorts, first weights and the stated compute plan
    are not needed any more.

    Raises:
        CasewiseError: the study, the table or the folder needs a correction.
    """
    from casewise.jobs.plan import deciding_settings, refuse_other

    if to_train:
        _check_weights_folder(study)
        for plugin in run_hooks():
            plugin.check_study(study)
    if to_train and study.compute.plan is not None:
        from casewise.jobs.compute_plans import stated_plans

        stated_plans(study)
    if study.evaluation.arm and to_train:
        require_statsmodels(study.evaluation.arm)
    cohort = read_cohort(study)
    check_settings(study, cohort.images)
    check_study_scores(study)
    _check_labels(study, cohort)
    if to_train:
        _check_bundles(study, cohort)
    external = read_external(study, cohort) if to_train and study.external else None
    pretraining = read_pretraining(study, cohort) if to_train and study.pretrain else None
    if external and pretraining:
        check_names_apart(study, cohort, external[1], pretraining[1])
    doubtful = doubtful_names(study, cohort, external and external[1], pretraining and pretraining[1])
    doubtful += listed_companions(cohort.images["path"])
    for other, rows in filter(None, (external, pretraining and pretraining[:2])):
        doubtful += [f"{other.name}: {text}" for text in listed_companions(rows.images["path"])]
    cohort = replace(cohort, notes=[*cohort.notes, *doubtful])
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
        hint = nearest_folder(study.weights_dir)
        raise StudyError(f"weights_dir: there is no folder {study.weights_dir}.{hint}")


def _check_bundles(study: Study, cohort: Cohort) -> None:
    """Refuse first weights from networks that saw subjects of the study in training: each is held out once."""
    stated = map(study.weights_of, study.networks)
    bundles = dict.fromkeys(weights for weights in stated if weights.startswith("bundle:"))
    if bundles and study.bundle_subjects != "distinct":
        from casewise.models.weights import check_bundle_subjects

        for weights in bundles:
            check_bundle_subjects(weights, set(cohort.images["subject"].astype(str)), study.subject_names)


def _check_masks(study: Study, cohort: Cohort) -> None:
    """Check that the columns with masks exist."""
    for meaning, column in modality_of(study).mask_columns(study).items():
        if column not in cohort.images:
            hint = nearest(column, list(map(str, cohort.images)))
            raise CohortError(
                f"{study.cohort}: there is no column {column!r}, which the study names for masks ({meaning}).{hint}"
            )


def _check_labels(study: Study, cohort: Cohort) -> None:
    for name, values in zip(study.outputs, label_table(cohort.panels, study).T, strict=True):
        recorded = np.unique(values[~np.isnan(values)])
        if len(recorded) < 2:
            state = f"{recorded[0]:g} everywhere" if len(recorded) else "recorded for no case"
            raise CohortError(f"{study.cohort}: {name} is {state}: there is nothing to learn. Correct or leave it out.")


def _show_cohort(study: Study, cohort: Cohort, show: Show) -> None:
    counts = [modality_of(study).described(study, cohort.images)]
    if study.subjects_known:
        people, cases = counted(cohort.cases["subject"].nunique(), "subject"), counted(len(cohort.cases), "case")
        counts = [people, cases, *counts]
    counts += [counted(len(study.regions), "region")] if study.regions else []
    show.line("cohort", ", ".join(counts) + (" (synthetic)" if study.synthetic else ""))
    for note in cohort.notes:
        show.line("", note)


@shown("split")
def split(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> Splits:
    """Split by subject and write the manifest; if the folder already has one, check that it is the same.

    Raises:
        SplitError: the cohort cannot be split as the study states.
        RunError: the folder contains networks of another split.
    """
    from casewise.jobs.plan import changed_settings

    # By whole files, not by tiles: the test set must not depend on the size of tiles.
    whole = modality_of(study).whole(study, cohort)
    splits = grouped.split(whole, study)
    check_learnable(splits, whole.panels, study)
    # a damaged one is set aside
    if folder.splits.intact() and read_splits(folder.splits).hash != splits.hash and folder.finished_jobs():
        changes = "; ".join(changed_settings(folder, study, "split"))
        changes = changes or "the cohort's subjects, the seed, the split settings or casewise itself have changed since"
        raise RunError(
            f"{folder.path} was split differently: {changes}. Networks of two splits must not be mixed. Choose another "
            "folder with --output."
        )
    write_splits(splits, folder.splits)
    _show_split(study, cohort, splits, show)
    for sentence in missing_classes(splits.record):
        show.line("split", f"WARNING: {sentence}")
    return splits


def _show_split(study: Study, cohort: Cohort, splits: Splits, show: Show) -> None:
    if sources := splits.record.get("left_out"):
        show.line("split", f"each {study.split.leave_out} is left out once: {', '.join(sources)}")
        return
    imbalance, guide = splits.record["imbalance"]["test"], splits.record["balance"]
    n_test, unit = splits.record["n"]["test"]["subjects"], study.unit
    if splits.holdout:
        sides = [(name, n["subjects"]) for name, n in splits.record["n"].items() if n["subjects"]]
        show.line("split", ", ".join(f"{name} {counted(n, unit)}" for name, n in sides) + ": one network a backbone")
        return
    test = f"{counted(n_test, unit)} in the test set, the others" if n_test else f"no test set, all {unit}s"
    balance = f", imbalance of {guide} {imbalance[guide]:.1%}" if guide in imbalance else ""
    how = "" if splits.record["how"] == "balanced" else " (predefined)"
    if study.split.column and validation_in(cohort.images[study.split.column]):
        how = " (predefined; the validation set is used for training)"
    if study.split.by == "number":
        how += ", neighbouring file numbers together"
    show.line("split", f"{test} in {counted(splits.folds, 'fold')} by {unit}{balance}{how}")
    if other := splits.record["assignment"].get("folds", {}).get("unequal"):
        least, most = other["sizes"]
        gaps = f"an imbalance of {other['imbalance']:.1%} instead of {other['equal']:.1%}"
        hint = "`split: {equal_sizes: false}` gives " if study.split.equal_sizes else ""
        show.line("", f"{hint}folds of {least} to {counted(most, unit)}: {gaps} with equal numbers of {unit}s")


def plan(study: Study, cohort: Cohort, splits: Splits | None, folder: RunFolder, show: Show) -> Study:
    """The study with everything that the images decide without their labels, such as `images.fit`.

    Images of the test set take no part; without a split, all images decide.
    """
    tested = splits.subjects(TEST) if splits else []
    images = cohort.images[~cohort.images["subject"].astype(str).isin(tested)]
    deciding = replace(cohort, images=images)
    return modality_of(study).planned(study, deciding, folder.images(study.images.store), show)


def prepare(study: Study, cohort: Cohort, folder: RunFolder, show: Show, *, to_train: bool = True) -> ImageStore:
    """Decode every image of the cohort once, into a store for networks, audit and report, or open the present store.

    The masks of `images.mask` are read `to_train` only.

    Raises:
        ImageError: naming every image that cannot be prepared.
    """
    images = folder.images(study.images.store)
    store = modality_of(study).prepare(study, cohort, images, show)
    if study.images.mask and to_train:
        training_masks(PreparedCohort(study, cohort, images, store), show)
    return store


def validate(study: Study, show: Show) -> list[str]:
    """Check the cohort table, the image files and the split; return lines on the sides and the networks.

    Raises:
        CasewiseError: naming every problem.
    """
    modality = modality_of(study)
    table = read(study, None, show)
    cohort = modality.whole(study, table)
    modality.check_files(study, cohort, show)
    others = [read_external(study, table)] if study.external else []
    external = sum(len(rows.panels) for _, rows in others)
    pretraining = read_pretraining(study, table)[:2] if study.pretrain else None
    others += [pretraining] if pretraining else []
    for other, rows in others:
        modality.check_files(other, modality.whole(other, modality.read(other, rows, None, Silent())), show)
    splits = grouped.split(cohort, study)
    check_learnable(splits, cohort.panels, study)
    lines = number_lines(splits)
    lines += _side_lines(study, splits, cohort.panels, panels=len(cohort.images) == len(table.images))
    lines += [f"{'WARNING':<10} {sentence}" for sentence in missing_classes(splits.record)]
    facts = plan_facts(study, table, splits, None) if study.recipe.auto and study.networks else None
    read_by = study.model_copy(update={"encoders": facts.encoders}) if facts else study
    lines += [*weight_lines(study), *encoder_lines(read_by), *origin_lines(read_by)]
    lines += _other_encoder_lines(facts.other_encoders) if facts else []
    if study.trained:
        lines.append(f"{'recipe':<10} {stated_in_words(study)}")
        first = (pretraining[0], len(pretraining[1].panels)) if pretraining else None
        lines += budget_lines(study, RunCases(table, splits, external, first))
    if not study.trained:
        return [*lines, "jobs       no network, only models on fixed features"]
    networks = len(study.trained) * splits.folds
    inner = networks * study.nested_cv.folds * len(study.rates) if study.nested_cv else 0
    total = f", after {counted(inner, 'inner training')}: {counted(inner + networks, 'training')} in all"
    of = counted(len(study.trained), study.network_noun)
    of += "" if splits.holdout else f" × {counted(splits.folds, 'fold')}"
    # a planned recipe trains networks only if enough epochs fit into the budget
    of = f"at most {of}" if facts else of
    return [*lines, f"jobs       {of} = {counted(networks, 'network')}" + (total if inner else "")]


def weight_lines(study: Study) -> list[str]:
    """A line for each group of networks with the same origin of their first weights, and networks without any.

    Raises:
        WeightsError: a file that the study names does not exist.
    """
    networks: dict[str, list[str]] = {}
    for first in first_weights(study, study.networks):
        networks.setdefault(first.clause(), []).append(first.name)
    return [f"{'weights':<10} {names_text(names, 5)}: {origin}" for origin, names in networks.items()]


def encoder_lines(study: Study) -> list[str]:
    """A line for each encoder of the baseline on features, with the origin of its weights.

    Raises:
        WeightsError: one of two files of an encoder is missing.
    """
    weights = first_weights(study, [FEATURES] if FEATURES in study.learners else [])
    return [f"{'encoder':<10} {first.name}: {first.clause()}" for first in weights]


def _other_encoder_lines(others: Mapping[str, str]) -> list[str]:
    """A line on known encoders that a plan would try if they were on this computer."""
    absent = {name: why.removeprefix(f"{NOT_HERE}; ") for name, why in others.items() if why.startswith(NOT_HERE)}
    open_ones = [name for name, access in absent.items() if access.startswith("open")]
    on_request = [name for name in absent if name not in open_ones]
    texts = [f"{names_text(open_ones, 5)}; `encoders: [NAME, …]` downloads them"] if open_ones else []
    texts += [f"{names_text(on_request, 5)}; their owners ask for an account, see `plan.yaml`"] if on_request else []
    return [f"{'encoder':<10} {NOT_HERE}: {text}" for text in texts]


def origin_lines(study: Study) -> list[str]:
    """A line on what is known of the images behind the first weights; a warning if they may include the study's own."""
    origins = [origin for name in study.learners for origin in origins_of(study, name)]
    if all(origin.kind == "random" for origin in origins):  # the line of the weights says so
        return []
    level = "WARNING" if unknown_origin(origins) else "origin"
    sentence = origins_sentence(origins, study.unit)
    return [f"{level:<10} {sentence}"] if sentence else []


def number_lines(splits: Splits) -> list[str]:
    """A line on a split by file numbers."""
    runs = [
        f"{side} {counted(how['runs'], 'run')} of at most {counted(how['longest_run'], 'file')}"
        for side, how in splits.record["assignment"].items()
        if "runs" in how
    ]
    return [f"{'split':<10} runs of neighbouring file numbers are on one side: {', '.join(runs)}"] if runs else []


def _side_lines(study: Study, splits: Splits, rows: pd.DataFrame, *, panels: bool) -> list[str]:
    """A line for each side of the split, with the source that it leaves out, and a table of the classes of each target.

    `rows` are the panels of the cohort; `panels`: whether they are counted as well, which panels of tiles are not.
    """
    sources = splits.record.get("left_out") or []
    lines = []
    for side, n in splits.record["n"].items():
        if not n["subjects"]:
            continue
        number = grouped.side_number(side)
        counts = [counted(n["subjects"], study.unit)] * (study.unit != "image") + [counted(n["cases"], "case")]
        counts += [counted(n["panels"], "panel")] if panels else []
        source = f"{study.split.leave_out} {sources[number]}: " if sources and number != TEST else ""
        lines.append(f"{side:<10} {source}{', '.join(counts)}")
    for name in study.outputs:
        if study.classes_of(name):
            lines += _class_lines(study, name, splits, rows)
    return lines


def _class_lines(study: Study, name: str, splits: Splits, rows: pd.DataFrame) -> list[str]:
    """A table of the subjects and cases of each class of a target on each side of the split.

    Its columns are the sides, or the classes where that is narrower than the terminal and the sides are not.
    """
    codes, side_of = panel_values(rows, study, name), rows["subject"].map(splits.side).to_numpy()
    sides = {side: side_of == grouped.side_number(side) for side, n in splits.record["n"].items() if n["subjects"]}
    by_image = study.unit == "image"
    table = [["", *sides]]
    for code, label in enumerate(study.classes_of(name)):
        cells = []
        for own in sides.values():
            of_class = rows[own & (codes == code)]
            subjects = "" if by_image else f"{of_class['subject'].nunique():,} / "
            cells.append(f"{subjects}{of_class['case'].nunique():,}")
        table.append([shortened(label, _WIDEST_CLASS), *cells])
    numbers = [pd.Series(codes[own]).groupby(rows.loc[own, "subject"].to_numpy()).nunique() for own in sides.values()]
    several = [f"{int((number > 1).sum()):,}" for number in numbers]
    if set(several) != {"0"}:
        table.append(["in several", *several])
    turned = [list(column) for column in zip(*table, strict=True)]
    if _width(table) > _WIDEST_TABLE > _width(turned):
        table = turned
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    heading = own_heading(study.targets.get(name), name) or name
    lines = [f"{'classes':<10} {heading}: {'cases' if by_image else f'{study.unit}s / cases'} of each class"]
    for label, *cells in table:
        aligned = "  ".join(text.rjust(width) for text, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{'':<10}   {label.ljust(widths[0])}  {aligned}")
    return lines


def _width(table: Sequence[Sequence[str]]) -> int:
    """The width of a table with two blanks between its columns."""
    return sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)) - 2
