"""Asynchronous successive halving: candidates with high inner losses stop early, at fixed numbers of epochs (rungs).

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (ASHA). The candidates of a
network and fold are trained by one job, one after another, so no decision depends on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# One of so many candidates at a rung is trained on, and rungs are so many times as long as the one before.
ETA = 2
HALVINGS = 2

Losses = list[list[float | None]]


def rungs_of(epochs: int) -> list[int]:
    """The numbers of epochs at which candidates are compared; the last is that of the recipe.

    >>> rungs_of(16), rungs_of(10), rungs_of(2)
    ([4, 8, 16], [3, 5, 10], [1, 2])
    """
    return sorted({-(-epochs // ETA**halving) for halving in range(HALVINGS + 1)})


def halved(candidates: int, rungs: int, loss_at: Callable[[int, int], float | None]) -> Losses:
    """Train candidates from rung to rung while they are in the best half of those that have reached it.

    At least one is trained to the last rung, unless all of them fail. Of equal losses the first candidate is better.

    Args:
        loss_at: trains a candidate up to a rung, both from 0, and returns its loss; None if its training failed.

    Returns:
        for each candidate its losses at the rungs that it has reached.

    >>> curves = [[4, 3, 2], [5, 5, 5], [3, 2, 1], [6, 6, 6]]
    >>> halved(4, 3, lambda candidate, rung: curves[candidate][rung])
    [[4, 3], [5], [3, 2, 1], [6]]
    """
    losses: Losses = [[] for _ in range(candidates)]
    while (candidate := _next(losses, rungs)) is not None:
        losses[candidate].append(loss_at(candidate, len(losses[candidate])))
    return losses


def _next(losses: Losses, rungs: int) -> int | None:
    """The candidate that is trained to its next rung; None at the end."""
    for rung in reversed(range(rungs - 1)):
        order = ranked(losses, rung)
        for candidate in order[: len(order) // ETA]:
            if len(losses[candidate]) == rung + 1:
                return candidate
    new = next((candidate for candidate, of_rungs in enumerate(losses) if not of_rungs), None)
    if new is not None or ranked(losses, rungs - 1):
        return new
    # too few have come so far that a half of them would be one: the best of the highest rung goes on
    for rung in reversed(range(rungs - 1)):
        if waiting := [candidate for candidate in ranked(losses, rung) if len(losses[candidate]) == rung + 1]:
            return waiting[0]
    return None


def ranked(losses: Losses, rung: int) -> list[int]:
    """The candidates that have a loss at a rung, the lowest first."""
    reached = [(of_rungs[rung], number) for number, of_rungs in enumerate(losses) if len(of_rungs) > rung]
    return [number for _, number in sorted((loss, number) for loss, number in reached if loss is not None)]


def described(rates: Sequence[float], rungs: Sequence[int], losses: Losses) -> dict[str, Any]:
    """The record of all decisions, a candidate by `lr`.

    `epochs` are those of its last rung, `losses` those at its rungs. `why` it ended there: `all_epochs`, `failed`, or
    `not_in_best_half` with its `rank` among the candidates `of` that rung.
    """
    candidates = []
    for number, (rate, of_rungs) in enumerate(zip(rates, losses, strict=True)):
        last = len(of_rungs) - 1
        order = ranked(losses, last)
        why = "failed" if of_rungs[-1] is None else "all_epochs" if len(of_rungs) == len(rungs) else "not_in_best_half"
        rank = {"rank": order.index(number) + 1, "of": len(order)} if why == "not_in_best_half" else {}
        candidates.append({"lr": rate, "epochs": rungs[last], "losses": of_rungs, "why": why, **rank})
    return {"method": "asha", "eta": ETA, "rungs": list(rungs), "candidates": candidates}
