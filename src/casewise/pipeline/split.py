"""Splitting the cohort by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort
from casewise.console import shown
from casewise.errors import DamagedError, RunError, counted
from casewise.modalities.registry import modality_of
from casewise.splits import grouped
from casewise.splits.grouped import Splits, read_splits, write_splits
from casewise.splits.learnable import check_learnable, missing_classes
from casewise.splits.predefined import validation_in
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder


@shown("split")
def split(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> Splits:
    """Split by subject and write the manifest; if the folder already has one, check that it is the same.

    Raises:
        SplitError: the cohort cannot be split as the study states.
        RunError: the folder contains networks of another split.
    """
    # By whole files, not by tiles: the test set must not depend on the size of tiles.
    whole = modality_of(study).whole(study, cohort)
    splits = grouped.split(whole, study)
    check_learnable(splits, whole.panels, study)
    earlier = _earlier(folder)
    if earlier and earlier.hash != splits.hash and folder.finished_jobs():
        raise RunError(
            f"{folder.path} was split differently: {_changes(study, folder)}. "
            "Networks of two splits must not be mixed. Choose another folder with --output."
        )
    write_splits(splits, folder.splits)
    _show_split(study, cohort, splits, show)
    for sentence in missing_classes(splits.record):
        show.line("split", f"WARNING: {sentence}")
    return splits


def _earlier(folder: RunFolder) -> Splits | None:
    """The split of the folder; None if it has none, or a damaged one, which is set aside."""
    try:
        return read_splits(folder.splits) if folder.splits.exists() else None
    except DamagedError as error:
        folder.splits.report_damage(error)
        return None


def _changes(study: Study, folder: RunFolder) -> str:
    from casewise.jobs.fingerprint import changed_settings

    changes = "; ".join(changed_settings(folder, study, "split"))
    return changes or "the cohort's subjects, the seed, the split settings or casewise itself have changed since"


def _show_split(study: Study, cohort: Cohort, splits: Splits, show: Show) -> None:
    if sources := splits.record.get("left_out"):
        show.line("split", f"each {study.split.leave_out} is left out once: {', '.join(sources)}")
        return
    imbalance = splits.record["imbalance"]["test"]
    guide = splits.record["balance"]
    n_test = splits.record["n"]["test"]["subjects"]
    test = f"{counted(n_test, 'subject')} in the test set, the others" if n_test else "no test set, all subjects"
    balance = f", imbalance of {guide} {imbalance[guide]:.1%}" if guide in imbalance else ""
    how = "" if splits.record["how"] == "balanced" else " (predefined)"
    if study.split.column and validation_in(cohort.images[study.split.column]):
        how = " (predefined; the validation set is used for training)"
    if study.split.by == "number":
        how += ", neighbouring file numbers together"
    show.line("split", f"{test} in {counted(splits.folds, 'fold')} by subject{balance}{how}")
