"""Choices by inner folds: epochs and a learning rate for each network of a fold, and a network for each fold.

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
    """The chosen learning rate and number of epochs of a network, with their mean inner loss."""

    lr: float
    epochs: int
    loss: float


def best_of(losses: Mapping[float, Sequence[Sequence[float]]], *, epochs: bool) -> TunedParams | None:
    """Choose the rate and the number of epochs with the lowest mean loss over the inner folds.

    Of equal losses the earlier epoch and the rate that is stated first are chosen. None if no rate has losses.

    Args:
        losses: for each rate, for each inner fold, the loss after each epoch; a rate that failed has no folds.
        epochs: whether the number of epochs is chosen; if not, all epochs are trained.

    >>> best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 2], [4, 3, 2]]}, epochs=True)
    TunedParams(lr=0.1, epochs=2, loss=1.5)
    >>> best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 1], [4, 3, 1]]}, epochs=False)
    TunedParams(lr=0.01, epochs=3, loss=1.0)
    """
    best: TunedParams | None = None
    for rate, by_fold in losses.items():
        if not by_fold:
            continue
        means = np.mean(np.asarray(by_fold, dtype=float), axis=0)
        position = int(means.argmin()) if epochs else len(means) - 1
        if best is None or means[position] < best.loss:
            best = TunedParams(rate, position + 1, float(means[position]))
    return best


def chosen_networks(jobs: Iterable[Mapping[str, Any]], networks: Sequence[str]) -> Mapping[str, Any]:
    """The network with the lowest inner loss: in each outer fold, and over all folds for other patients.

    `jobs` are the contents of `job.json`. Of equal losses the network that the study states first is chosen.

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
    means = {
        name: float(np.mean([fold_losses[name] for fold_losses in losses.values() if name in fold_losses]))
        for name in networks
    }
    return {"chosen_by": "mean inner loss", "folds": by_fold, "final": _lowest(means)}


def _lowest(losses: dict[str, float]) -> Mapping[str, Any]:
    return {"network": min(losses, key=lambda name: losses[name]), "losses": losses}


def nested_rows(predictions: pd.DataFrame, choices: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the learner `nested`: in each fold, the rows of the network that the inner folds chose.

    For a test set and an external cohort, where predictions are means over the networks of all folds, it is the network
    with the lowest mean inner loss over the folds.
    """
    networks = {int(fold): choice["network"] for fold, choice in choices["folds"].items()}
    network = predictions["outer_fold"].map(networks).where(predictions["stage"] == "oof", choices["final"]["network"])
    return predictions[predictions["model"] == network].assign(model=NESTED).reset_index(drop=True)
