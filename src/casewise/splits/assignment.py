"""Assigning subjects to sides: the published greedy balancing, random assignments, and every class on every side.

The best of all candidates is kept: first by the classes that a side lacks although it need not, then by the imbalance.
Of equal candidates a greedy one is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# How an assignment was chosen, as `splits.json` keeps it (see `assign`).
Assignment = dict[str, Any]
# random assignments whose counts are computed at once
_AT_ONCE = 256
# how much the order of subjects varies where sizes are free, relative to their records
_NOISE = 0.3
# exchanges of two subjects that are tried at once, and the numbers that they may take in memory
_MOST_EXCHANGES, _MOST_NUMBERS = 20_000, 5 * 10**7


@dataclass(frozen=True)
class ClassNeeds:
    """The classes that each side should have.

    Attributes:
        holders: (subjects, classes) whether a subject has a case of the class.
        least: (sides, classes) the number of holders that each side should have at least.
        spread: (classes,) the number of sides that should have a holder.
    """

    holders: np.ndarray
    least: np.ndarray
    spread: np.ndarray

    def shortfall(self, holders_by_side: np.ndarray) -> np.ndarray:
        """How many holders and sides are missing, (...), from the number of holders (..., sides, classes)."""
        missing = np.maximum(self.least - holders_by_side, 0).sum(axis=(-2, -1))
        return np.asarray(missing + np.maximum(self.spread - (holders_by_side > 0).sum(axis=-2), 0).sum(axis=-1))


def needs_of_test(holders: np.ndarray, folds: int) -> ClassNeeds:
    """The needs of a training and a test side: a class of three subjects or more is on both.

    Training keeps one holder for each fold where there are enough, and at least two, because a class in a single fold
    could not be learned when this fold is left out.
    """
    count = holders.sum(axis=0)
    return ClassNeeds(
        holders,
        np.stack([np.where(count > 2, np.minimum(folds, count - 1), count), (count > 2).astype(int)]),
        np.zeros(holders.shape[1], dtype=int),
    )


def needs_of_folds(holders: np.ndarray, folds: int) -> ClassNeeds:
    """The needs of folds: each class in every fold, or in as many as it has subjects."""
    count = holders.sum(axis=0)
    return ClassNeeds(holders, np.zeros((folds, holders.shape[1]), dtype=int), np.minimum(count, folds))


def imbalance(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean over labels of the widest gap between sides in size-adjusted label shares.

    The count of a label on each side is divided by the target number of records of that side, so that a side with the
    right size and composition has the label shares of the cohort. For two sides this is the mean |train − test|
    (One-Step PASI, Methods, "Train/Test Splitting").

    Args:
        counts: (..., sides, labels) records by label.
        shares: (sides,) target share of all records, summing to 1.

    >>> float(imbalance(np.array([[9, 9], [1, 1]]), np.array([0.9, 0.1])))
    0.0
    """
    total = counts.sum(axis=(-2, -1), keepdims=True)
    adjusted = counts / np.maximum(shares[:, None] * total, 1e-12)
    return (adjusted.max(axis=-2) - adjusted.min(axis=-2)).mean(axis=-1)


def assign(
    records: np.ndarray,
    shares: Sequence[float],
    needs: ClassNeeds,
    *,
    restarts: int,
    seed: int,
    equal_sizes: bool = True,
) -> tuple[np.ndarray, Assignment]:
    """Assign subjects to sides by the best of `restarts` greedy and as many random assignments.

    Without `equal_sizes`, as many greedy ones whose numbers of subjects may differ from the shares are candidates too.

    If every candidate leaves a side without a class that it could have, pairs of subjects are exchanged until none
    does, or no exchange helps.

    Args:
        records: (subjects, labels) number of each subject's records with each label.
        shares: target share of each side, summing to 1.

    Returns:
        (subjects,) side of each subject, and how it was chosen: `method` (greedy, random or unequal), `candidates`,
        `imbalance`, the lowest imbalance of each method, `exchanges`, and `shortfall`, 0 if every need is met.
    """
    targets = np.asarray(shares, float)
    holders = needs.holders.astype(float)
    sides, gaps = _greedy_candidates(records, targets, restarts=restarts, seed=seed)
    offers: list[tuple[tuple[float, float], str, np.ndarray]] = []
    lowest = dict.fromkeys(["greedy", "random"] if equal_sizes else ["greedy", "random", "unequal"], np.inf)

    def offer(method: str, sides: np.ndarray, gaps: np.ndarray) -> None:
        shortfall = needs.shortfall(_counts(sides, holders, len(targets)))
        first = int(np.lexsort((gaps, shortfall))[0])
        offers.append(((float(shortfall[first]), float(gaps[first])), method, sides[first].astype(int)))
        lowest[method] = min(lowest[method], float(gaps.min()))

    offer("greedy", sides, gaps)
    for sides in _random_assignments(len(records), targets, restarts=restarts, seed=seed):
        offer("random", sides, imbalance(_counts(sides, records, len(targets)), targets))
    if not equal_sizes:
        offer("unequal", *_greedy_candidates(records, targets, restarts=restarts, seed=seed, equal_sizes=False))
    _, method, side = min(offers, key=lambda candidate: candidate[0])
    side, exchanges = _exchanged(side, records, targets, needs)
    counts = _counts(side[None], records, len(targets))[0]
    return side, {
        "method": method,
        "candidates": dict.fromkeys(lowest, restarts),
        "imbalance": float(imbalance(counts, targets)),
        "lowest_imbalance": lowest,
        "exchanges": exchanges,
        "shortfall": int(needs.shortfall(_counts(side[None], holders, len(targets))[0])),
    }


def greedy(records: np.ndarray, shares: Sequence[float], *, restarts: int, seed: int) -> tuple[np.ndarray, float]:
    """The side of each subject in the most balanced greedy assignment, (subjects,), and its imbalance."""
    sides, gaps = _greedy_candidates(records, np.asarray(shares, float), restarts=restarts, seed=seed)
    best = int(gaps.argmin())
    return sides[best].astype(int), float(gaps[best])


def _greedy_candidates(
    records: np.ndarray, shares: np.ndarray, *, restarts: int, seed: int, equal_sizes: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Assign subjects one at a time to the side that keeps the imbalance smallest, in random orders.

    All restarts advance together as arrays. The number of subjects of each side is fixed in advance by its share.
    Without `equal_sizes` it is free, subjects with the most records of a label come first, in slightly different
    orders, and the standard deviation over the sides is kept smallest (as by scikit-learn's `StratifiedGroupKFold`);
    an assignment with an empty side has an infinite imbalance.

    Returns:
        (restarts, subjects) side of each subject, and (restarts,) the imbalance of each assignment.
    """
    subjects, labels = records.shape
    room = _capacities(subjects, shares)
    random = np.random.default_rng(seed)
    # small types, because there may be many subjects; the permutations do not depend on the type
    if equal_sizes:
        order = random.permuted(np.tile(np.arange(subjects, dtype=np.int32), (restarts, 1)), axis=1)
    else:
        room = np.full(len(shares), subjects)
        noise = _NOISE * np.random.default_rng([seed, 2]).standard_normal((restarts, subjects))
        order = np.argsort(noise - np.log(records.max(axis=1) + 1e-9))
    counts = np.zeros((restarts, len(shares), labels))
    sizes = np.zeros((restarts, len(shares)), int)
    side = np.zeros((restarts, subjects), np.int16)
    rows = np.arange(restarts)
    expected = np.maximum(shares[:, None] * records.sum(), 1e-12)
    for step in range(subjects):
        subject = order[:, step]
        added = records[subject]
        cost = np.full((restarts, len(shares)), np.inf)
        for option in range(len(shares)):
            trial = counts.copy()
            trial[:, option] += added
            adjusted = trial / expected
            gap = adjusted.max(axis=1) - adjusted.min(axis=1) if equal_sizes else adjusted.std(axis=1)
            gap = gap.mean(axis=1)
            cost[:, option] = np.where(sizes[:, option] < room[option], gap, np.inf)
        choice = cost.argmin(axis=1)
        counts[rows, choice] += added
        sizes[rows, choice] += 1
        side[rows, subject] = choice
    return side, np.where((sizes > 0).all(axis=1), imbalance(counts, shares), np.inf)


def _random_assignments(subjects: int, shares: np.ndarray, *, restarts: int, seed: int) -> Iterator[np.ndarray]:
    """Random assignments (restarts, subjects) with the same numbers of subjects on each side, some at a time."""
    random = np.random.default_rng([seed, 1])
    sides = np.repeat(np.arange(len(shares), dtype=np.int16), _capacities(subjects, shares))
    for first in range(0, restarts, _AT_ONCE):
        yield random.permuted(np.tile(sides, (min(_AT_ONCE, restarts - first), 1)), axis=1)


def _counts(sides: np.ndarray, terms: np.ndarray, n_sides: int) -> np.ndarray:
    """Sums of terms (subjects, labels) by side, (restarts, sides, labels)."""
    blocks = [sides[start : start + _AT_ONCE] for start in range(0, len(sides), _AT_ONCE)]
    return np.concatenate([np.stack([(b == side) @ terms for side in range(n_sides)], axis=1) for b in blocks])


def _exchanged(side: np.ndarray, records: np.ndarray, shares: np.ndarray, needs: ClassNeeds) -> tuple[np.ndarray, int]:
    """Exchange pairs of subjects as long as this lowers the shortfall; also the number of exchanges."""
    side, exchanges, holders = side.copy(), 0, needs.holders.astype(float)
    while True:
        holders_by_side = _counts(side[None], holders, len(shares))[0]
        shortfall = int(needs.shortfall(holders_by_side))
        pairs = _pairs(side, needs, holders_by_side) if shortfall else np.zeros((0, 2), int)
        if not len(pairs):
            return side, exchanges
        trials = np.tile(side, (len(pairs), 1))
        rows = np.arange(len(pairs))
        trials[rows, pairs[:, 0]], trials[rows, pairs[:, 1]] = side[pairs[:, 1]], side[pairs[:, 0]]
        after = needs.shortfall(_counts(trials, holders, len(shares)))
        gaps = imbalance(_counts(trials, records, len(shares)), shares)
        best = int(np.lexsort((gaps, after))[0])
        if after[best] >= shortfall:
            return side, exchanges
        side, exchanges = trials[best], exchanges + 1


def _pairs(side: np.ndarray, needs: ClassNeeds, holders_by_side: np.ndarray) -> np.ndarray:
    """Pairs of a holder of a class elsewhere and a subject of a side that lacks this class, (pairs, 2)."""
    scattered = (holders_by_side > 0).sum(axis=0) < needs.spread
    lacking = (holders_by_side < needs.least) | ((holders_by_side == 0) & scattered)
    pairs = [
        np.stack(np.meshgrid(np.flatnonzero(needs.holders[:, c] & (side != s)), np.flatnonzero(side == s)), axis=-1)
        for s, c in np.argwhere(lacking)
    ]
    every = np.concatenate([p.reshape(-1, 2) for p in pairs]) if pairs else np.zeros((0, 2), int)
    most = max(1, min(_MOST_EXCHANGES, _MOST_NUMBERS // len(side)))
    return every[:: max(1, -(-len(every) // most))]


def _capacities(subjects: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers of subjects by largest remainder, at least one for each side."""
    exact = shares * subjects
    room = np.maximum(np.floor(exact).astype(int), 1)
    while room.sum() < subjects:
        room[np.argmax(exact - room)] += 1
    while room.sum() > subjects:
        room[np.argmax(np.where(room > 1, room - exact, -np.inf))] -= 1
    return room
