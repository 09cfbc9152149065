"""Splits by subject: the published greedy balancing, the folds, the hashed manifest and the check before training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.labels import panel_values
from casewise.errors import DamagedError, SplitError
from casewise.splits.predefined import TEST, imported, one_source_a_fold
from casewise.targets import kind_named

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.run_folder import JsonFile
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Splits:
    """Which side every subject stands on: −1 the test set, 0 … folds−1 its fold."""

    side: dict[str, int]
    folds: int
    record: dict[str, Any]

    @property
    def hash(self) -> str:
        return manifest_hash(self.side)

    def subjects(self, side: int) -> list[str]:
        """Subjects of one side, sorted."""
        return sorted(s for s, where in self.side.items() if where == side)

    def training(self, fold: int) -> list[str]:
        """Subjects that the networks of `fold` may learn from."""
        return sorted(s for s, where in self.side.items() if where not in (TEST, fold))

    def held_out(self, fold: int) -> list[str]:
        """Subjects that the networks of `fold` must never have seen: the fold's and the test set's."""
        return sorted(s for s, where in self.side.items() if where in (TEST, fold))


def manifest_hash(side: dict[str, int]) -> str:
    """SHA-256 over the sorted assignment of subjects.

    >>> manifest_hash({"a": 0, "b": 1}) == manifest_hash({"b": 1, "a": 0})
    True
    """
    return hashlib.sha256(json.dumps(sorted(side.items())).encode()).hexdigest()


def imbalance(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean over labels of the widest gap between sides in size-adjusted label shares.

    Each side's count of a label is divided by the number of records that the side should hold, so that a side of the
    right size and composition shows the cohort's own label shares. Two sides: mean |train − test| (One-Step PASI,
    Methods, "Train/Test Splitting").

    Args:
        counts: (..., sides, labels) records by label.
        shares: (sides,) wanted share of all records, summing to 1.

    >>> float(imbalance(np.array([[9, 9], [1, 1]]), np.array([0.9, 0.1])))
    0.0
    """
    total = counts.sum(axis=(-2, -1), keepdims=True)
    adjusted = counts / np.maximum(shares[:, None] * total, 1e-12)
    return (adjusted.max(axis=-2) - adjusted.min(axis=-2)).mean(axis=-1)


def greedy(records: np.ndarray, shares: Sequence[float], *, restarts: int, seed: int) -> tuple[np.ndarray, float]:
    """Assign subjects to sides one at a time, each to the side that keeps imbalance smallest; keep the best restart.

    All restarts are advanced together as arrays. The number of subjects of each side is fixed beforehand by its share.

    Args:
        records: (subjects, labels) number of each subject's records with each label.
        shares: wanted share of each side, summing to 1.

    Returns:
        (subjects,) side of each subject, and its imbalance as a share of records.
    """
    wanted = np.asarray(shares, float)
    subjects, labels = records.shape
    room = _capacities(subjects, wanted)
    random = np.random.default_rng(seed)
    order = random.permuted(np.tile(np.arange(subjects), (restarts, 1)), axis=1)
    counts = np.zeros((restarts, len(wanted), labels))
    taken = np.zeros((restarts, len(wanted)), int)
    side = np.zeros((restarts, subjects), int)
    rows = np.arange(restarts)
    expected = np.maximum(wanted[:, None] * records.sum(), 1e-12)
    for step in range(subjects):
        subject = order[:, step]
        added = records[subject]
        cost = np.full((restarts, len(wanted)), np.inf)
        for option in range(len(wanted)):
            trial = counts.copy()
            trial[:, option] += added
            adjusted = trial / expected
            gap = (adjusted.max(axis=1) - adjusted.min(axis=1)).mean(axis=1)
            cost[:, option] = np.where(taken[:, option] < room[option], gap, np.inf)
        choice = cost.argmin(axis=1)
        counts[rows, choice] += added
        taken[rows, choice] += 1
        side[rows, subject] = choice
    final = imbalance(counts, wanted)
    best = int(final.argmin())
    return side[best], float(final[best])


def _capacities(subjects: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers of subjects by largest remainder, at least one a side."""
    exact = shares * subjects
    room = np.maximum(np.floor(exact).astype(int), 1)
    while room.sum() < subjects:
        room[np.argmax(exact - room)] += 1
    while room.sum() > subjects:
        room[np.argmax(np.where(room > 1, room - exact, -np.inf))] -= 1
    return room


def split(cohort: Cohort, study: Study) -> Splits:
    """Split the cohort's subjects into a test set and folds, balanced on the guiding label.

    Raises:
        SplitError: there are too few subjects, or an imported split has a subject on both sides.
    """
    subjects = sorted(set(cohort.panels["subject"]))
    settings = study.split.model_dump()
    numbered = False
    if study.split.column:
        side = imported(cohort.images, study.split.column)
        folds = len({s for s in side.values() if s != TEST})
        numbered = folds > 1
        if TEST in side.values() and not any(s != TEST for s in side.values()):
            raise SplitError(
                f"The column {study.split.column!r} puts every subject in the test set; none is left to train."
            )
        training = [s for s in subjects if side[s] != TEST]
        if folds == 1:
            side |= _assign(cohort, study, training, [1 / study.split.folds] * study.split.folds, study.seed + 1)
            folds = study.split.folds
    elif study.split.leave_out:
        sources, side = one_source_a_fold(cohort.images, study.split.leave_out)
        folds, training = len(sources), subjects
    else:
        folds = study.split.folds
        tested = max(1, round(study.split.test * len(subjects))) if study.split.test else 0
        if len(subjects) - tested < folds:
            most = len(subjects) - tested
            remedy = f"Give split.folds at most {most}, or add subjects." if most >= 2 else "Add subjects."
            raise SplitError(
                f"The cohort has {len(subjects)} subjects, {tested} of them for the test set: "
                f"too few for {folds} folds. {remedy}"
            )
        side = {}
        training = subjects
        if tested:
            share = tested / len(subjects)
            side = _assign(cohort, study, subjects, [1 - share, share], study.seed, sides=[0, TEST])
            training = [s for s in subjects if side[s] != TEST]
        side |= _assign(cohort, study, training, [1 / folds] * folds, study.seed + 1)
    missing = [f for f in range(folds) if f not in side.values()]
    if len(training) < folds or missing:
        raise SplitError(f"{len(training)} subjects cannot fill {folds} folds. Lower split.folds.")
    how = f"column {study.split.column}" if study.split.column else "balanced"
    record = {
        "how": f"leave out {study.split.leave_out}" if study.split.leave_out else how,
        **({"left_out": sources} if study.split.leave_out else {}),
        **({"numbered": True} if numbered else {}),
        "settings": settings,
        "balance": guide_name(study),
        "restarts": study.split.restarts,
        "n": {_name(s): _counted(cohort.panels, {k for k, v in side.items() if v == s}) for s in [TEST, *range(folds)]},
        "imbalance": measured_imbalance(cohort, study, side, folds),
    }
    return Splits(side=dict(sorted(side.items())), folds=folds, record=record)


def _name(side: int) -> str:
    return "test" if side == TEST else f"fold {side + 1}"


def _counted(panels: pd.DataFrame, subjects: set[str]) -> dict[str, int]:
    chosen = panels[panels["subject"].isin(subjects)]
    return {"subjects": len(subjects), "cases": int(chosen["case"].nunique()), "panels": len(chosen)}


def guide_name(study: Study) -> str:
    """The label that guides the split: as stated, else the main outcome where it is a target, else the first target."""
    if study.split.stratify_by:
        return study.split.stratify_by
    return study.primary_outcome if study.primary_outcome in study.targets else next(iter(study.targets))


def panel_records(panels: pd.DataFrame, study: Study, subjects: list[str], name: str | None = None) -> np.ndarray:
    """(subjects, labels) how many panels of each subject carry each label of a target (the guiding one by default)."""
    name = name or guide_name(study)
    kind, n_classes = kind_named(study.kind_of(name)), len(study.classes_of(name))
    labels = kind.fold_labels(panel_values(panels, study, name), *study.range_of(name), n_classes)
    row = {s: i for i, s in enumerate(subjects)}
    table = np.zeros((len(subjects), labels.max() + 1))
    for subject, label in zip(panels["subject"], labels, strict=True):
        if subject in row:
            table[row[subject], label] += 1
    return table[:, table.sum(axis=0) > 0]


def _assign(
    cohort: Cohort, study: Study, subjects: list[str], shares: list[float], seed: int, sides: list[int] | None = None
) -> dict[str, int]:
    records = panel_records(cohort.panels, study, subjects)
    found, _ = greedy(records, shares, restarts=study.split.restarts, seed=seed)
    names = sides or list(range(len(shares)))
    return {subject: names[where] for subject, where in zip(subjects, found, strict=True)}


def measured_imbalance(cohort: Cohort, study: Study, side: dict[str, int], folds: int) -> dict[str, dict[str, float]]:
    """Imbalance of every target: test set against the rest, and between the folds (widest gap)."""
    result: dict[str, dict[str, float]] = {"test": {}, "folds": {}}
    subjects = sorted(side)
    for name in study.targets:
        records = panel_records(cohort.panels, study, subjects, name)
        by_side = {
            s: records[[i for i, k in enumerate(subjects) if side[k] == s]].sum(axis=0) for s in {*side.values()}
        }
        training = [by_side[f] for f in range(folds) if f in by_side]
        if TEST in by_side:
            result["test"][name] = _share_gap([np.sum(training, axis=0), by_side[TEST]])
        result["folds"][name] = _share_gap(training)
    return result


def _share_gap(counts: list[np.ndarray]) -> float:
    shares = np.array([c / max(c.sum(), 1) for c in counts])
    return float((shares.max(axis=0) - shares.min(axis=0)).mean())


def inner_stop(records: np.ndarray, subjects: list[str], *, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Divide a fold's training subjects into those fitted on and those whose loss decides when to stop."""
    if len(subjects) < 2:
        raise SplitError(
            "One training subject cannot be divided for early stopping; add subjects or lower split.folds."
        )
    found, _ = greedy(records, [1 - share, share], restarts=100, seed=seed)
    return [s for s, w in zip(subjects, found, strict=True) if w == 0], [
        s for s, w in zip(subjects, found, strict=True) if w == 1
    ]


def check_scored(splits: Splits, panels: pd.DataFrame, study: Study) -> None:
    """Stop, before anything is trained, where a network would miss a class or a stacker could not be fitted.

    Raises:
        SplitError: a class is in nobody that a fold's networks learn from; a target that the study stacks is recorded
            in fewer than two folds; a class has too few subjects for the folds of a study that tunes inside.
    """
    from casewise.splits.inner import check_tuned

    check_tuned(splits, panels, study)
    for name in study.outputs:
        values = panel_values(panels, study, name)
        for code, label in enumerate(study.classes_of(name)):
            holders = set(panels["subject"][values == code])
            sources = splits.record.get("left_out")
            for fold in range(splits.folds) if holders else ():
                if not holders & set(splits.training(fold)):
                    sides = sorted({splits.side[s] for s in holders}, reverse=True)
                    where = " or ".join("the test set" if s == TEST else f"fold {s + 1}" for s in sides)
                    where = f"all of them are {sources[fold]!r}" if sources else f"all of them are in {where}"
                    column = study.split.column
                    if sources:
                        remedy = "Leave the class out of `classes`, or study without `split.leave_out`."
                    elif column and (splits.record.get("numbered") or sides == [TEST]):
                        remedy = f"Change column {column!r}, so that they stand on several sides, or add subjects."
                    else:
                        remedy = "Lower split.folds or add subjects."
                    raise SplitError(
                        f"{name}: the class {label!r} has {len(holders)} subjects, and {where}: networks that are "
                        f"judged there could not learn it. {remedy}"
                    )
    for name in study.outputs if study.stack else []:
        scored = panels["subject"][~np.isnan(panel_values(panels, study, name))]
        folds = {splits.side[s] for s in scored} - {TEST}
        if len(folds) < 2:
            raise SplitError(
                f"{name!r} is recorded in {len(folds)} of {splits.folds} folds; a stacker needs two. "
                "Leave out `stack:` or the target."
            )


def write_splits(splits: Splits, file: JsonFile) -> None:
    """Write the manifest: every subject's side, the hash over it, and how it was made."""
    subjects = {s: ("test" if w == TEST else w + 1) for s, w in splits.side.items()}
    file.write({"hash": splits.hash, "folds": splits.folds, "subjects": subjects, **splits.record})


def read_splits(file: JsonFile) -> Splits:
    """Read a manifest and check its hash.

    Raises:
        DamagedError: the file is not what was written, or no manifest.
        SplitError: the assignment was changed after it was written.
    """
    values = file.read()
    try:
        side = {s: (TEST if w == "test" else int(w) - 1) for s, w in values["subjects"].items()}
        folds = int(values["folds"])
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file.path} is not a split manifest ({error}). {file.remedy}") from error
    if manifest_hash(side) != values["hash"]:
        raise SplitError(
            f"{file.path}: subjects were moved by hand; the hash no longer fits. Delete the run folder and run again."
        )
    record = {k: v for k, v in values.items() if k not in ("hash", "subjects", "folds")}
    return Splits(side=side, folds=folds, record=record)


def check_apart(training: Sequence[str], held_out: Sequence[str], *, where: str) -> None:
    """Stop if a subject stands on both sides.

    Raises:
        SplitError: naming the subjects.
    """
    both = sorted(set(training) & set(held_out))
    if both:
        raise SplitError(f"{where}: subjects on both sides of the split: {', '.join(both[:5])}. Nothing was trained.")
