"""What inner folds choose: epochs and a learning rate for each network of a fold, and one network for each fold.

Source: seeds/004_c22792b4e9a56ae8.txt, nested cross-validation; M. Stone, "Cross-validatory choice and assessment of
statistical predictions", J. R. Stat. Soc. B 36 (1974): the outer folds estimate, the inner ones choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

NESTED = "nested"


@dataclass(frozen=True)
class TunedParams:
    """What was chosen for one network: a rate, a number of epochs, and the mean inner loss there."""

    lr: float
    epochs: int
    loss: float


def best_of(losses: Mapping[float, Sequence[Sequence[float]]], *, epochs: bool) -> TunedParams | None:
    """Choose the rate and the number of epochs of the lowest loss, a mean over the inner folds.

    Of equal losses the earlier epoch is taken, and the rate that is named first. None where no rate has losses.

    Args:
        losses: for each rate, for each inner fold, the loss after each epoch; a rate that failed has no folds.
        epochs: whether their number is chosen; if not, all of them are trained.

    >>> best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 2], [4, 3, 2]]}, epochs=True)
    TunedParams(lr=0.1, epochs=2, loss=1.5)
    >>> best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 1], [4, 3, 1]]}, epochs=False)
    TunedParams(lr=0.01, epochs=3, loss=1.0)
    """
    found: TunedParams | None = None
    for rate, by_fold in losses.items():
        if not by_fold:
            continue
        means = np.mean(np.asarray(by_fold, dtype=float), axis=0)
        place = int(means.argmin()) if epochs else len(means) - 1
        if found is None or means[place] < found.loss:
            found = TunedParams(rate, place + 1, float(means[place]))
    return found


def chosen_networks(jobs: Iterable[Mapping[str, Any]], networks: Sequence[str]) -> dict[str, Any]:
    """Which network has the lowest inner loss: in each outer fold, and in the mean over the folds for other patients.

    `jobs` are the contents of `job.json`; of equal losses the network that the study names first is taken.

    Returns:
        `folds`: for each fold (its number as text) `network` and `losses`; `final`: the same over all folds.
    """
    losses: dict[int, dict[str, float]] = {}
    for job in jobs:
        if job["model"] in networks and job.get("inner"):
            losses.setdefault(int(job["fold"]), {})[str(job["model"])] = float(job["inner"]["chosen"]["loss"])
    by_fold = {
        str(fold): _lowest({name: losses[fold][name] for name in networks if name in losses[fold]})
        for fold in sorted(losses)
    }
    means = {name: float(np.mean([its[name] for its in losses.values() if name in its])) for name in networks}
    return {"chosen_by": "mean inner loss", "folds": by_fold, "final": _lowest(means)}


def _lowest(losses: dict[str, float]) -> dict[str, Any]:
    return {"network": min(losses, key=lambda name: losses[name]), "losses": losses}


def nested_rows(predictions: pd.DataFrame, chosen: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the learner `nested`: each fold's from the network chosen inside it.

    On a test set and an external cohort, where each network's prediction is the mean of all its folds' networks, it is
    the network of the lowest mean inner loss over the folds.
    """
    networks = {int(fold): told["network"] for fold, told in chosen["folds"].items()}
    wanted = predictions["outer_fold"].map(networks).where(predictions["stage"] == "oof", chosen["final"]["network"])
    return predictions[predictions["model"] == wanted].assign(model=NESTED).reset_index(drop=True)
