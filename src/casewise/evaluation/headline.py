"""The headline of a study: which learner the report is about, and where it is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from casewise.metrics.registry import metric_of

# by kind of target: the figure that should be high, and the one that decides between equals, which should be low
MERITS = {
    "regression": ("ccc", "mae"),
    "classification": ("auroc", "log_loss"),
    "ordinal": ("kappa_quadratic", "mae"),
}
# what a figure of merit is read as, and may not be where it is pooled over sources
FITTED = "meta_learner"
MEANT = {"regression": "agreement", "classification": "discrimination", "ordinal": "agreement"}


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
        notes.append(_flattered(learner))
    return told | {"stage": stage, "learner": learner, "chosen_on": chosen_on, "metrics": judged[stage][learner]}


def mixed(kind: str) -> str:
    """Say what a figure over all left-out sources is not: each source's cases come from a network of their own."""
    return f"figures pooled over the sources mix networks and sources and are not to be read as {MEANT[kind]}"


def headline_within(
    main: Mapping[str, Any],
    metrics: Mapping[str, Any],
    left_out: Mapping[str, Any],
    column: str,
    notes: list[str],
) -> dict[str, Any]:
    """Choose the learner anew where each source was left out: by the mean over the sources of its merit within each.

    `main` is that of `headline`, `left_out` that of `casewise.evaluation.external.by_source`, and `column` names what
    was left out. Learners are averaged over the sources where all of them have the figure; without such a source they
    are judged on the pooled figure. Fitted combinations stand aside, since what they were fitted on came from networks
    that had seen the source. `notes` loses the line on the former choice and gets those on this one.
    """
    kind, target = main["kind"], main["target"]
    judged = {learner: keys[target] for learner, keys in metrics.get("oof", {}).items() if target in keys}
    if main["stage"] != "oof" or not judged or not left_out:
        return dict(main)
    merit, loss = MERITS[kind]
    title = metric_of(merit).phrase

    def value(source: str, learner: str, name: str) -> float | None:
        found = left_out[source].get(learner, {}).get(name) or {}
        return found.get("value")

    notes[:] = [note for note in notes if note != _flattered(str(main["learner"]))]
    pooled, fitted = mixed(kind), [learner for learner in judged if learner.startswith(FITTED)]
    if len(fitted) < len(judged):
        judged = {learner: figures for learner, figures in judged.items() if learner not in fitted}
        if fitted:
            notes.append(
                f"{', '.join(fitted)} cannot be the headline's learner: a combination that is used on one {column} was "
                f"fitted on predictions of the others, by networks that had learned from that {column}."
            )
    known = [s for s in left_out if all(value(s, learner, merit) is not None for learner in judged)]
    if not known:
        notes.append(
            f"In no {column} alone is the {title} defined, so that the headline's learner was chosen on the "
            f"pooled figure; {pooled}."
        )

    def mean(learner: str, name: str) -> float | None:
        found = [value(s, learner, name) for s in known] if known else [judged[learner][name]["value"]]
        there = [one for one in found if one is not None]
        return sum(there) / len(there) if there else None

    def merits(learner: str) -> tuple[float, float]:
        high, low = mean(learner, merit), mean(learner, loss)
        return (-math.inf if high is None else high, -math.inf if low is None else -low)

    learner = max(judged, key=merits)
    undefined = [s for s in left_out if s not in known]
    lacking = f"; {', '.join(undefined)}, where it is undefined, left out" if undefined else ""
    if known:
        notes.append(
            f"The headline's learner was chosen by the mean over each {column} of its {title} there{lacking}; {pooled}."
        )
    notes += [_flattered(learner)] if len(judged) > 1 else []
    return {**main, "learner": learner, "chosen_on": "oof", "metrics": judged[learner]}


def headline_inside(
    main: Mapping[str, Any], metrics: Mapping[str, Any], learner: str, notes: list[str]
) -> dict[str, Any]:
    """Put the learner whose networks were chosen within each fold in the headline: the one that no fold flatters.

    Its figures are those of the whole way of choosing. `notes` loses the line on the former choice.
    """
    figures = metrics.get(str(main["stage"]), {}).get(learner, {}).get(main["target"])
    if figures is None:
        return dict(main)
    notes[:] = [note for note in notes if note != _flattered(str(main["learner"]))]
    notes.append(
        f"The headline's learner is {learner}: its network was chosen within each fold's training subjects, so that "
        "its figures hold for the choice as well. To pick the best of the other learners would flatter it."
    )
    return {**main, "learner": learner, "chosen_on": "inner folds", "metrics": figures}


def _flattered(learner: str) -> str:
    return f"The headline's learner, {learner}, was chosen on the same cases that it is judged on, which flatters it."
