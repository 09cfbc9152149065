"""Observations of a simulated node, with a change from a stated day on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casewise.inference.drift import Quantiles, quantiles_of
from casewise.inference.input_checks import Limits
from casewise.plugins.node.monitoring.observation import Observation

START, DAY = 1_767_225_600.0, 86_400.0  # 1 January 2026
NUMBERS = {"brightness": (0.45, 0.06), "contrast": (0.22, 0.03), "look": (0.9, 0.1), "texture 1": (0.0, 2.0)}
FLAG = "much lighter than the training images"


@dataclass(frozen=True)
class Node:
    """A node with two scanners, and what changes from the day `change` on.

    Attributes:
        lighter: by how many standard deviations images are lighter on the scanners that are named.
        scanner: of all studies from then on.
        probability: how much is added to the log odds of the class `yes`.
    """

    days: int = 20
    per_day: int = 40
    change: int | None = None
    lighter: float = 0.0
    scanners: tuple[str, ...] = ("Acme X1", "Brand Q")
    scanner: str = ""
    probability: float = 0.0


def observed(node: Node, seed: int = 0) -> list[tuple[str, Observation]]:
    """Of each study its hash and the observation."""
    rng = np.random.default_rng(seed)
    studies = []
    for number in range(node.days * node.per_day):
        day = number // node.per_day
        changed = node.change is not None and day >= node.change
        scanner = node.scanner if changed and node.scanner else ("Acme X1", "Brand Q")[int(rng.random() < 0.4)]
        numbers = {name: mean + std * rng.normal() for name, (mean, std) in NUMBERS.items()}
        if changed and scanner in (*node.scanners, node.scanner):
            numbers["brightness"] += node.lighter * NUMBERS["brightness"][1]
        odds = np.exp(rng.normal(-1, 1) + node.probability * changed)
        p, score = float(odds / (1 + odds)), float(rng.gamma(3, 2))
        observation = Observation(
            START + DAY * (day + (number % node.per_day + 0.5) / node.per_day),
            scanner,
            "North, CR 1" if scanner == "Acme X1" else "South, CR 2",
            (numbers,),
            float(rng.gamma(9, 0.06)),
            (FLAG,) if rng.random() < 0.04 else (),
            "",
            {"finding": "yes" if p > 0.5 else "no", "score[left]": score},
            {"finding": float(1 + (0.2 < p < 0.8)), "score[left]": 4 + float(rng.random())},
            {"finding": {"no": 1 - p, "yes": p}},
        )
        studies.append((f"{number:012x}", observation))
    return studies


def limits(seed: int = 1) -> Limits:
    """Those of a training with the distributions of an unchanged node."""
    rng = np.random.default_rng(seed)
    quantiles: dict[str, Quantiles] = {}
    for name, (mean, std) in NUMBERS.items():
        quantiles[name] = quantiles_of(mean + std * rng.normal(size=400), np.arange(400))
    return Limits(400, 400, 0.25, {}, quantiles=quantiles)
