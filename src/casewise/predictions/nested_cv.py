"""The learner of nested cross-validation: in each fold the network that the inner folds choose.

Source: the publication of the preset `ipmn-mri`; M. Stone, "Cross-validatory choice and assessment of
statistical predictions", J. R. Stat. Soc. B 36 (1974): the outer folds estimate, the inner ones choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

NESTED = "nested"


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
