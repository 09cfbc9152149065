"""The headline of a study: which learner the report is about, and where it is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# by kind of target: the figure that should be high, and the one that decides between equals, which should be low
MERITS = {
    "regression": ("ccc", "mae"),
    "classification": ("auroc", "log_loss"),
    "ordinal": ("kappa_quadratic", "mae"),
}
TITLES = {"ccc": "CCC", "auroc": "AUROC", "kappa_quadratic": "quadratic kappa"}


def headline(metrics: Mapping[str, Any], main: str, kind: str, notes: list[str]) -> dict[str, Any]:
    """Choose the learner that the report is about: by its merit out of fold, so that the test set chooses nothing.

    The merit of a target's `kind` is the CCC of numbers, the AUROC of classes (macro, one against the rest) and the
    quadratic kappa of grades; of learners of the same merit the one of the least error or loss is taken. `metrics` are
    those of `evaluate`; where the learner was chosen on the cases that it is judged on, `notes` gets a line on it.
    """
    told: dict[str, Any] = {"target": main, "stage": None, "learner": None, "chosen_on": None, "metrics": None}
    told["kind"] = kind
    judged = {
        stage: {learner: keys[main] for learner, keys in learners.items() if main in keys}
        for stage, learners in metrics.items()
    }
    stage = next((stage for stage in ("test", "oof", "external") if judged.get(stage)), None)
    if stage is None:
        return told
    chosen_on = "oof" if set(judged.get("oof", {})) & set(judged[stage]) else stage
    candidates = [learner for learner in judged[chosen_on] if learner in judged[stage]]

    def merit(learner: str) -> tuple[float, float]:
        merit, loss = (judged[chosen_on][learner][name].value for name in MERITS[kind])
        return (-math.inf if merit is None else merit, -math.inf if loss is None else -loss)

    learner = max(candidates, key=merit)
    if chosen_on == stage and len(candidates) > 1:
        notes.append(
            f"The headline's learner, {learner}, was chosen on the same cases that it is judged on, which flatters it."
        )
    return told | {"stage": stage, "learner": learner, "chosen_on": chosen_on, "metrics": judged[stage][learner]}
