"""Splits by subject: the test set and the folds, the hashed manifest, and the check for leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.cohort.targets import panel_values
from casewise.errors import DamagedError, SplitError, counted
from casewise.files import json_hash
from casewise.run_folder import JsonFile
from casewise.splits.assignment import Assignment, ClassNeeds, assign, greedy, imbalance, needs_of_folds, needs_of_test
from casewise.splits.file_numbers import assign_runs, check_numbers
from casewise.splits.predefined import TEST, TRAIN, imported, one_source_a_fold, validation_in
from casewise.study.schema import Study
from casewise.targets import kind_named

# Candidates of unequal sizes that are only compared with, and by how much less imbalance they are mentioned.
UNEQUAL_TRIES, NOTABLE = 50, 0.05


@dataclass(frozen=True)
class Splits:
    """The side of every subject: −1 is the test set, 0 … folds−1 its fold.

    In a hold-out design the validation set is fold 0, the only one, and `TRAIN` the training subjects.
    """

    side: dict[str, int]
    folds: int
    record: dict[str, Any]

    @property
    def hash(self) -> str:
        return _manifest_hash(self.side)

    @property
    def holdout(self) -> bool:
        """Whether one validation set takes the place of folds."""
        return TRAIN in self.side.values()

    def subjects(self, side: int) -> list[str]:
        """Subjects of one side, sorted."""
        return sorted(subject for subject, subject_side in self.side.items() if subject_side == side)

    def training(self, fold: int) -> list[str]:
        """Subjects that the networks of `fold` may be trained on, sorted."""
        return sorted(subject for subject, subject_side in self.side.items() if subject_side not in (TEST, fold))

    def held_out(self, fold: int) -> list[str]:
        """Subjects that the networks of `fold` must not be trained on: the fold and the test set, sorted."""
        return sorted(subject for subject, subject_side in self.side.items() if subject_side in (TEST, fold))


def _manifest_hash(side: dict[str, int]) -> str:
    """SHA-256 over the sorted assignment of subjects.

    >>> _manifest_hash({"a": 0, "b": 1}) == _manifest_hash({"b": 1, "a": 0})
    True
    """
    return json_hash(sorted(side.items()))


def split(cohort: Cohort, study: Study) -> Splits:
    """Split the cohort's subjects into a test set and folds, balanced on the guiding label.

    Raises:
        SplitError: there are too few subjects, or a predefined split has a subject on both sides.
    """
    settings, column, leave_out = study.split, study.split.column, study.split.leave_out
    subjects, folds = sorted(set(cohort.panels["subject"])), settings.folds
    side: dict[str, int] = {}
    sources: list[str] = []
    assigned: dict[str, Assignment] = {}
    if settings.by == "number":
        check_numbers(cohort.images["path"].astype(str).tolist())
    holdout = settings.validation is not None
    if column:
        side = imported(cohort.images, column, holdout=settings.validation == "column")
        if holdout and settings.validation != "column" and validation_in(cohort.images[column]):
            raise SplitError(f"The column {column!r} has a validation set, so write `split: {{validation: column}}`.")
    elif leave_out:
        sources, side = one_source_a_fold(cohort.images, leave_out)
    else:
        tested = max(1, round(settings.test * len(subjects))) if settings.test else 0
        most = len(subjects) - tested
        if most < folds and not holdout:
            remedy = f"Give split.folds at most {most}, or add subjects." if most >= 2 else "Add subjects."
            raise SplitError(
                f"The cohort has {counted(len(subjects), 'subject')}, {tested} of them for the test set: "
                f"too few for {folds} folds. {remedy}"
            )
        if tested:
            side, assigned["test"] = _held_out(
                cohort, study, subjects, tested / len(subjects), 2 if holdout else folds, study.seed
            )
    training = [subject for subject in subjects if side.get(subject) != TEST]
    given = {side[subject] for subject in training if subject in side}
    numbered = bool(column) and settings.validation != "column" and len(given) > 1
    if numbered and (settings.by == "number" or holdout):
        other = "validation" if holdout else "by: number"
        raise SplitError(f"The column {column!r} numbers the folds, so leave out `split.{other}`.")
    if not training:
        raise SplitError(f"The column {column!r} puts every subject in the test set, so there is none to train on.")
    if holdout:
        folds = 1
        if settings.validation != "column":
            if len(training) < 2:
                raise SplitError("One training subject cannot be divided for validation. Add subjects.")
            count = max(1, round(float(settings.validation or 0) * len(subjects)))
            share = min(count, len(training) - 1) / len(training)
            number_of, assigned["validation"] = _held_out(cohort, study, training, share, 1, study.seed + 1)
            side |= {subject: {0: TRAIN, TEST: 0}[number] for subject, number in number_of.items()}
    elif numbered or leave_out:
        folds = len(given)
    elif len(training) < folds:
        raise SplitError(f"{counted(len(training), 'subject')} cannot fill {folds} folds. Lower split.folds.")
    else:
        of_fold, assigned["folds"] = _into_folds(cohort, study, training, folds)
        side |= of_fold
    record = {
        "how": f"leave out {leave_out}" if leave_out else f"column {column}" if column else "balanced",
        **({"left_out": sources} if leave_out else {}),
        **({"numbered": True} if numbered else {}),
        "settings": settings.model_dump(),
        "balance": guide_name(study),
        "restarts": settings.restarts,
        "n": {
            side_name(s, holdout): _counted(cohort.panels, {k for k, v in side.items() if v == s})
            for s in [TEST, *([TRAIN] if holdout else []), *range(folds)]
        },
        "imbalance": _measured_imbalance(cohort, study, side, folds, assigned),
        "assignment": assigned,
        "classes_lacking": classes_lacking(cohort.panels, study, side, folds),
    }
    return Splits(side=dict(sorted(side.items())), folds=folds, record=record)


def side_name(side: int, holdout: bool) -> str:
    """The name of a side in `splits.json` and in messages."""
    fold = "validation" if holdout else f"fold {side + 1}"
    return {TEST: "test", TRAIN: "train"}.get(side, fold)


def side_number(name: str) -> int:
    """The side with this name."""
    number = {"test": TEST, "train": TRAIN, "validation": 0}.get(name)
    return int(name.removeprefix("fold ")) - 1 if number is None else number


def _counted(panels: pd.DataFrame, subjects: set[str]) -> dict[str, int]:
    subject_panels = panels[panels["subject"].isin(subjects)]
    return {"subjects": len(subjects), "cases": int(subject_panels["case"].nunique()), "panels": len(subject_panels)}


def guide_name(study: Study) -> str:
    """The label that is balanced: as stated, else the primary outcome if it is a target, else the first target."""
    if study.split.stratify_by:
        return study.split.stratify_by
    return study.primary_outcome if study.primary_outcome in study.targets else next(iter(study.targets))


def panel_records(panels: pd.DataFrame, study: Study, subjects: list[str], name: str | None = None) -> np.ndarray:
    """(subjects, labels) number of panels of each subject with each label of a target; by default of `guide_name`."""
    name = name or guide_name(study)
    kind, n_classes = kind_named(study.kind_of(name)), len(study.classes_of(name))
    labels = kind.fold_labels(panel_values(panels, study, name), *study.range_of(name), n_classes)
    row = panels["subject"].map({subject: number for number, subject in enumerate(subjects)})
    table = np.zeros((len(subjects), labels.max() + 1))
    np.add.at(table, (row[row.notna()].astype(int), labels[row.notna()]), 1)
    return table[:, table.sum(axis=0) > 0]


def _class_holders(panels: pd.DataFrame, study: Study, subjects: list[str]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(subjects, classes) whether a subject has a panel of each class of any output, and the (output, class) names."""
    names = [(output, label) for output in study.outputs for label in study.classes_of(output)]
    holders = holders_by_class(panels, study)
    columns = [[subject in holders[name] for subject in subjects] for name in names]
    return np.array(columns, dtype=bool).reshape(len(names), len(subjects)).T, names


def holders_by_class(panels: pd.DataFrame, study: Study) -> dict[tuple[str, str], set[str]]:
    """The subjects with a panel of each class of each output."""
    return {
        (output, label): set(panels["subject"][panel_values(panels, study, output) == code].astype(str))
        for output in study.outputs
        for code, label in enumerate(study.classes_of(output))
    }


def classes_lacking(panels: pd.DataFrame, study: Study, side: dict[str, int], folds: int) -> list[dict[str, object]]:
    """The classes without a subject on a side, with the reason.

    `too_few`: fewer subjects of the cohort have the class than there are sides; `not_assigned`: there are enough.
    """
    subjects = sorted(side)
    holders, names = _class_holders(panels, study, subjects)
    sides = [*(s for s in (TEST, TRAIN) if s in side.values()), *range(folds)]
    where = np.array([side[subject] for subject in subjects])
    return [
        {
            "side": side_name(s, TRAIN in sides),
            "target": output,
            "class": label,
            "subjects": int(holders[:, c].sum()),
            "reason": "too_few" if holders[:, c].sum() < len(sides) else "not_assigned",
        }
        for s in sides
        for c, (output, label) in enumerate(names)
        if holders[:, c].any() and not holders[where == s, c].any()
    ]


def other_folds(splits: Splits, cohort: Cohort, study: Study) -> Splits:
    """Folds by the seed of the study, with the same test set; the same splits where folds are not drawn."""
    if splits.holdout or "folds" not in splits.record["assignment"]:
        return splits
    training = sorted(subject for subject, side in splits.side.items() if side != TEST)
    of_fold, how = _into_folds(cohort, study, training, splits.folds)
    side = dict(sorted({**splits.side, **of_fold}.items()))
    assigned = {**splits.record["assignment"], "folds": how}
    measured = {
        "imbalance": _measured_imbalance(cohort, study, side, splits.folds, assigned),
        "assignment": assigned,
        "classes_lacking": classes_lacking(cohort.panels, study, side, splits.folds),
        "n": {
            side_name(s, holdout=False): _counted(cohort.panels, {k for k, v in side.items() if v == s})
            for s in [TEST, *range(splits.folds)]
        },
    }
    return replace(splits, side=side, record=splits.record | measured)


def _held_out(
    cohort: Cohort, study: Study, subjects: list[str], share: float, folds: int, seed: int
) -> tuple[dict[str, int], Assignment]:
    """The subjects that are held out, as `TEST`, and the others, for this many folds; and how they were assigned."""
    needs = needs_of_test(_class_holders(cohort.panels, study, subjects)[0], folds)
    assigned, how = _assigned(cohort, study, subjects, [1 - share, share], needs, seed, restarts=study.split.restarts)
    return {subject: (0, TEST)[s] for subject, s in zip(subjects, assigned.tolist(), strict=True)}, how


def _into_folds(cohort: Cohort, study: Study, subjects: list[str], folds: int) -> tuple[dict[str, int], Assignment]:
    """The fold of each training subject, and how they were assigned."""
    needs = needs_of_folds(_class_holders(cohort.panels, study, subjects)[0], folds)
    stated, restarts = study.split.equal_sizes, study.split.restarts
    assign_folds = partial(_assigned, cohort, study, subjects, [1 / folds] * folds, needs, study.seed + 1)
    assigned, how = assign_folds(equal_sizes=stated, restarts=restarts)
    if study.split.by != "number":
        # what the other sizes would give; unequal ones that are only offered have fewer candidates
        tries = min(restarts, UNEQUAL_TRIES) if stated else restarts
        others, of_others = assign_folds(equal_sizes=not stated, restarts=tries)
        equal, (sides, unequal) = (how, (others, of_others)) if stated else (of_others, (assigned, how))
        gain = equal["imbalance"] - unequal["imbalance"]
        if unequal["method"] == "unequal" and gain >= (NOTABLE if stated else 0):
            sizes = np.bincount(sides)
            how["unequal"] = {
                "imbalance": unequal["imbalance"],
                "equal": equal["imbalance"],
                "sizes": [int(sizes.min()), int(sizes.max())],
            }
    return dict(zip(subjects, assigned.tolist(), strict=True)), how


def _assigned(
    cohort: Cohort,
    study: Study,
    subjects: list[str],
    shares: list[float],
    needs: ClassNeeds,
    seed: int,
    *,
    restarts: int,
    equal_sizes: bool = True,
) -> tuple[np.ndarray, Assignment]:
    """The side of each subject, balanced on the guiding label; by runs of file numbers if the study states so."""
    records = panel_records(cohort.panels, study, subjects)
    if study.split.by != "number":
        return assign(records, shares, needs, restarts=restarts, seed=seed, equal_sizes=equal_sizes)
    path_of = cohort.images.groupby(cohort.images["subject"].astype(str))["path"].min()
    paths = [str(path_of[subject]) for subject in subjects]
    return assign_runs(paths, records, shares, needs, restarts=restarts, seed=seed)


def _measured_imbalance(
    cohort: Cohort, study: Study, side: dict[str, int], folds: int, assigned: Collection[str]
) -> dict[str, dict[str, float]]:
    """The `imbalance` of every target: between the test set and the rest, and between the folds (widest gap).

    `assigned`: which of both, `test` and `folds`, were chosen by it; their target sizes are shares of the subjects. The
    target size of another, such as a predefined one, is its own, so that only the composition counts.
    """
    subjects, training = sorted(side), sorted(name for name in side if side[name] != TEST)
    tested = len(subjects) - len(training)
    inside, sides_inside, shares_inside = "folds", [side[subject] for subject in training], [1 / folds] * folds
    if TRAIN in sides_inside:
        inside, sides_inside = "validation", [int(number == 0) for number in sides_inside]
        share = sides_inside.count(1) / len(sides_inside)
        shares_inside = [1 - share, share]
    result: dict[str, dict[str, float]] = {"test": {}, inside: {}}
    for name in study.targets:
        groups = {inside: (training, sides_inside, shares_inside)}
        if tested:
            shares = [(len(subjects) - tested) / len(subjects), tested / len(subjects)]
            groups["test"] = (subjects, [int(side[subject] == TEST) for subject in subjects], shares)
        for which, (members, sides, targets) in groups.items():
            records = panel_records(cohort.panels, study, members, name)
            counts = np.stack([records[np.array(sides) == s].sum(axis=0) for s in range(len(targets))])
            sizes = np.asarray(targets) if which in assigned else counts.sum(axis=1) / max(counts.sum(), 1)
            result[which][name] = float(imbalance(counts, sizes))
    return result


def inner_stop(records: np.ndarray, subjects: list[str], *, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Divide the training subjects of a fold into those for fitting and those that decide about early stopping."""
    if len(subjects) < 2:
        raise SplitError("One training subject cannot be divided for early stopping. Add subjects.")
    sides, _ = greedy(records, [1 - share, share], restarts=100, seed=seed)
    fitted, stopping = ([s for s, assigned in zip(subjects, sides, strict=True) if assigned == side] for side in (0, 1))
    return fitted, stopping


def write_splits(splits: Splits, file: JsonFile) -> None:
    """Write the manifest: the side of every subject, a hash over them, and the settings of the split."""
    words = {TEST: "test"} | ({TRAIN: "train", 0: "validation"} if splits.holdout else {})
    subjects = {s: words.get(w, w + 1) for s, w in splits.side.items()}
    file.write({"hash": splits.hash, "folds": splits.folds, "subjects": subjects, **splits.record})


def read_splits(file: JsonFile) -> Splits:
    """Read a manifest and check its hash.

    Raises:
        DamagedError: the file was changed or damaged, or is not a manifest.
        SplitError: the assignment was changed after it was written.
    """
    values = file.read()
    try:
        side = {s: side_number(str(w)) for s, w in values["subjects"].items()}
        folds = int(values["folds"])
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file.path} is not a split manifest ({error}). {file.remedy}") from error
    if _manifest_hash(side) != values["hash"]:
        raise SplitError(f"{file.path}: the split does not match its hash. Delete the run folder and run again.")
    record = {k: v for k, v in values.items() if k not in ("hash", "subjects", "folds")}
    return Splits(side=side, folds=folds, record=record)


def check_apart(training: Sequence[str], held_out: Sequence[str], *, where: str) -> None:
    """Check that no subject is on both sides.

    Raises:
        SplitError: names the subjects on both sides.
    """
    both = sorted(set(training) & set(held_out))
    if both:
        raise SplitError(f"{where}: subjects on both sides of the split: {', '.join(both[:5])}. Nothing was trained.")


def inner_folds(panels: pd.DataFrame, study: Study, splits: Splits, fold: int, *, count: int) -> list[list[str]]:
    """Divide the training subjects of an outer fold into `count` inner folds, balanced like the split.

    All networks have the same inner folds. The subjects held out by `fold` do not affect them.

    Raises:
        SplitError: a class has fewer training subjects than inner folds, or is in one inner fold only; a target or an
            inner fold would be without any recorded value.
    """
    training = splits.training(fold)
    where = f"the {len(training)} training subjects of fold {fold + 1}"
    remedy = "Lower nested_cv.folds or split.folds, merge the class with another, or add subjects."
    if len(training) < count:
        raise SplitError(f"nested_cv: {where} cannot fill {count} inner folds. {remedy}")
    holders = {name: subjects & set(training) for name, subjects in holders_by_class(panels, study).items()}
    for (name, label), subjects in holders.items():
        if len(subjects) < count:
            text = f"{name}: the class {label!r} has {len(subjects)} of {where}, fewer than the {count} inner folds."
            raise SplitError(f"{text} {remedy}")
    seed = int.from_bytes(hashlib.sha256(f"{study.seed} inner folds of {fold}".encode()).digest()[:7], "big")
    sides, _ = greedy(panel_records(panels, study, training), [1 / count] * count, restarts=100, seed=seed)
    folds = [[s for s, side in zip(training, sides, strict=True) if side == k] for k in range(count)]
    recorded = {
        name: set(panels["subject"][~np.isnan(panel_values(panels, study, name))].astype(str)) for name in study.outputs
    }
    for k, inner in enumerate(folds):
        rest = set(training) - set(inner)
        if not any(subjects & set(inner) for subjects in recorded.values()):
            raise SplitError(f"nested_cv: {where}: inner fold {k + 1} has no recorded target. Lower nested_cv.folds.")
        for name, subjects in recorded.items():
            if not subjects & rest:
                raise SplitError(f"nested_cv: {where}: {name} is only in inner fold {k + 1}. Lower nested_cv.folds.")
        for (name, label), subjects in holders.items():
            if not subjects & rest:
                text = f"nested_cv: {where}: all {len(subjects)} with {name} {label!r} are in inner fold {k + 1}."
                raise SplitError(f"{text} {remedy}")
    return folds
