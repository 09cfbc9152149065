"""How often images that know nothing seem to add to age and sex, and how often images that know something do.

    python benchmarks/added_value.py [--studies 400]

Each simulated study has a covariate with signal and networks whose out-of-fold predictions are noise around the mean of
their training labels, as those of a network that learned nothing. A study counts where the interval of the difference
between the joined model and the covariates, as the report shows it, lies on the side of the images.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.judges import judge_of
from casewise.predictions.covariates import fit_covariates
from casewise.predictions.table import check
from casewise.study.learners import COVARIATES, JOINED

FOLDS = 5


@dataclass(frozen=True)
class Rates:
    """The shares of studies in which the joined model is shown to be better, or worse, than the covariates."""

    studies: int
    better: float
    worse: float


def study(rng: np.random.Generator, kind: str, subjects: int, image: float, age: float) -> tuple[pd.DataFrame, ...]:
    """Out-of-fold predictions of a network, and the covariates; `image` and `age` are the signal in each."""
    ages, sexes = rng.normal(60, 10, subjects), rng.choice(["f", "m"], subjects)
    seen, folds = rng.normal(size=subjects), np.arange(subjects) % FOLDS
    score = age * (ages - 60) / 10 + image * seen + rng.normal(size=subjects)
    truth = np.clip(score + 5, 0, 10) if kind == "regression" else (score > np.median(score)).astype(float)
    learned = np.array([truth[folds != fold].mean() for fold in folds])
    cases = [f"s{number}/1" for number in range(subjects)]
    facts = {"case": cases, "subject": cases, "visit": "1", "day": 0.0, "region": "", "image": "", "model": "network"}
    rows = pd.DataFrame({**facts, "stage": "oof", "outer_fold": folds, "inner_fold": None, "target": "outcome"})
    rows = rows.assign(y_true=truth, kind=kind)
    if kind == "regression":
        rows["y_pred"] = np.clip(learned + 0.8 * seen, 0, 10)
    else:
        rows["p1"] = 1 / (1 + np.exp(-(np.log(learned / (1 - learned)) + seen)))
        rows["p0"], rows["y_pred"] = 1 - rows["p1"], (rows["p1"] > 0.5).astype(float)
    cells = pd.DataFrame({"age": [f"{value:.1f}" for value in ages], "sex": sexes}, index=cases)
    cells.loc[rng.random(subjects) < 0.1, "age"] = ""
    return check(rows), cells


def rates(kind: str, metric: str, studies: int, *, image: float, age: float = 1.0, subjects: int = 100) -> Rates:
    """The rates over simulated studies; `metric` is one whose difference is taken."""
    better = worse = 0
    columns = {"age": "number", "sex": "category"}
    for seed in range(studies):
        rows, cells = study(np.random.default_rng(seed), kind, subjects, image, age)
        fitted = fit_covariates(rows, ["network"], cells, columns, {"outcome": (0.0, 10.0)})
        every = pd.concat([rows, fitted.rows], ignore_index=True)
        judgement = judge_of(every, ["no", "yes"] if kind != "regression" else None)
        compared = judgement.judge(every, Plan(500, seed=seed), whole=True).comparison[metric]
        gap = compared.from_baseline[COVARIATES][JOINED]
        sign = -1 if metric in ("mae", "log_loss") else 1
        ends = sorted(sign * end for end in (gap.low or 0.0, gap.high or 0.0))
        better, worse = better + (ends[0] > 0), worse + (ends[1] < 0)
    return Rates(studies, better / studies, worse / studies)


def main() -> None:
    """Print the rates of each outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    print("| outcome | metric | images | shown to add | shown to harm |\n|---|---|---|---|---|")
    for kind, metric in (("regression", "mae"), ("classification", "auroc"), ("classification", "log_loss")):
        for image, words in ((0.0, "noise"), (1.0, "signal")):
            result = rates(kind, metric, studies, image=image)
            print(f"| {kind} | {metric} | {words} | {100 * result.better:.1f} % | {100 * result.worse:.1f} % |")


if __name__ == "__main__":
    main()
