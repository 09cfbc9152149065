"""How often the interval of a treatment's effect contains it, in trials of several sizes and visits.

    python benchmarks/trial.py [--studies 400]

Subjects have levels and trends of their own, errors are normal or skewed, and visits are missing at random.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from casewise.evaluation.trial import OUTCOMES, trial

EFFECT = -2.0


def patients(
    rng: np.random.Generator, *, subjects: int, visits: int, missing: float = 0.1, skewed: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Scores of physician and model at visits w0, w1, …; the effect of arm b at the last visit is `EFFECT`."""
    rows = []
    for number in range(subjects):
        level, trend, arm = rng.normal(20, 3), rng.normal(-1, 0.5), "ab"[number % 2]
        for visit in range(visits):
            error = rng.exponential() - 1 if skewed else rng.normal()
            effect = EFFECT * visit / (visits - 1) if arm == "b" else 0.0
            truth, seen = level + trend * visit + error + effect, rng.normal()
            if not visit or rng.random() >= missing:
                rows.append({"subject": f"s{number}", "visit": f"w{visit}", "day": np.nan, "y_true": truth})
                rows[-1]["y_pred"] = truth + seen
    return pd.DataFrame(rows), {f"s{number}": "ab"[number % 2] for number in range(subjects)}


def coverage(studies: int, **design: object) -> dict[str, tuple[float, int]]:
    """By outcome: the share of intervals that contain the effect, and the number of studies without an interval."""
    inside: dict[str, list[bool]] = {outcome: [] for outcome in OUTCOMES}
    for seed in range(studies):
        result = trial(*patients(np.random.default_rng(seed), **design), "a")  # type: ignore[arg-type]
        for outcome, entry in result.visits[-1].effect["b"].items():
            effect = 0.0 if outcome == "difference" else EFFECT
            inside[outcome].append((entry.low or 0.0) <= effect <= (entry.high or 0.0))
    return {outcome: (float(np.mean(hits)), studies - len(hits)) for outcome, hits in inside.items()}


def main() -> None:
    """Print the coverage of each design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    print("| subjects | visits | errors | physician | model | difference | without |\n|---|---|---|---|---|---|---|")
    for subjects, visits, skewed in ((20, 2, False), (40, 2, False), (40, 4, False), (40, 4, True), (100, 4, False)):
        shares = coverage(studies, subjects=subjects, visits=visits, skewed=skewed)
        cells = " | ".join(f"{100 * share:.1f} %" for share, _ in shares.values())
        errors, without = "skewed" if skewed else "normal", sum(count for _, count in shares.values())
        print(f"| {subjects} | {visits} | {errors} | {cells} | {without} |", flush=True)


if __name__ == "__main__":
    main()
