"""The page of `conformal.py`: coverage in simulated studies of phantoms, and what runs on real images reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

UNITS = {"redness": "grades", "finding": "classes"}
STAGES = {"test": "test set", "external": "external cohort"}
# The acceptance: the mean coverage over studies, and that of each class.
STUDIES = 200
LEAST, MOST, LEAST_OF_CLASS = 0.88, 0.92, 0.85


@dataclass(frozen=True)
class Figure:
    """The mean of a figure over studies, with its 95 % Monte-Carlo interval."""

    value: float
    half_width: float
    studies: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """That of the studies with the figure, (S,)."""
        values = np.asarray([value for value in values if not np.isnan(value)])
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(1.96 * deviation / np.sqrt(len(values))), len(values))

    @property
    def percent(self) -> str:
        """As text."""
        return f"{100 * self.value:.1f} ± {100 * self.half_width:.1f}"


def simulated(table: pd.DataFrame) -> list[str]:
    """The tables of the simulation: coverage, by class, and where it comes from."""
    groups = dict(list(table.groupby(["target", "subjects"])))
    overall, classes, steps = [], [], []
    for (target, subjects), rows in groups.items():
        figure = {name: Figure.of(rows[name].tolist()) for name in rows.columns[3:] if rows[name].notna().any()}
        size = (
            f"{figure['width'].value:.1f} wide" if "width" in figure else f"{figure['size'].value:.2f} {UNITS[target]}"
        )
        cells = [figure["coverage"].percent, size, figure["reported"].percent]
        overall.append(_row([target, subjects, len(rows), *cells]))
        classes += [
            _row([target, name.removeprefix("class "), subjects, each.studies, each.percent])
            for name, each in figure.items()
            if name.startswith("class ")
        ]
        steps.append(
            _row([target, subjects, *[figure[name].percent for name in ("least", "single", "mean", "coverage")]])
        )
    return [
        *_table(["target", "subjects", "studies", "coverage, %", "mean size", "reported out of fold, %"], overall),
        "",
        "## By class",
        "",
        *_table(["target", "class", "subjects", "studies", "coverage, %"], classes),
        "",
        "## Where the coverage comes from",
        "",
        *_table(["target", "subjects", "least, %", "single models, %", "their mean, %", "with all rules, %"], steps),
    ]


def verdict(table: pd.DataFrame) -> str:
    """What is inside the range of the acceptance and what is not, with the figures that are outside."""
    # rows of a study share its subjects
    every = Figure.of(table.groupby("study")["coverage"].mean().tolist())
    by_cell = {key: Figure.of(rows["coverage"].tolist()) for key, rows in table.groupby(["target", "subjects"])}
    outside = [
        f"{target} with {subjects} subjects ({figure.percent})"
        for (target, subjects), figure in by_cell.items()
        if not LEAST <= figure.value <= MOST
    ]
    classes = {
        (target, name.removeprefix("class "), subjects): Figure.of(rows[name].tolist())
        for (target, subjects), rows in table.groupby(["target", "subjects"])
        for name in rows.columns
        if name.startswith("class ") and rows[name].notna().any()
    }
    lowest = min(classes, key=lambda key: classes[key].value)
    low = [key for key, figure in classes.items() if figure.value < LEAST_OF_CLASS]
    fewest = min(len(rows) for _, rows in table.groupby(["target", "subjects"]))
    rough = (
        f"**Unfinished: in places only {fewest} of {STUDIES} studies; differences of a few percent may be chance.** "
    )
    return (
        (rough if fewest < STUDIES else "")
        + f"Overall, the mean coverage in these two populations is {every.percent} %. "
        + f"Of {len(by_cell)} pairs of a target and a number of "
        f"subjects, {len(by_cell) - len(outside)} lie within {100 * LEAST:.0f} to {100 * MOST:.0f} %. "
        + (f"Outside: {'; '.join(outside)}. " if outside else "")
        + f"The lowest coverage of a class is {classes[lowest].percent} % "
        + f"({lowest[0]} {lowest[1]}, {lowest[2]} subjects); "
        + (f"{len(low)} of {len(classes)} are" if low else "none is")
        + f" below {100 * LEAST_OF_CLASS:.0f} %."
    )


def observed(runs: Path | None) -> list[str]:
    """What runs on real images reported of their primary outcome; a sentence where there is none."""
    from casewise.run_folder import RunFolder

    rows, low = [], []
    for path in sorted(runs.iterdir()) if runs and runs.is_dir() else []:
        results = RunFolder(path).metrics.read_if_exists() or {}
        target = (results.get("main") or {}).get("target")
        entry = results.get("prediction_sets", {}).get("targets", {}).get(target)
        for stage, of_stage in (entry or {}).get("stages", {}).items():
            if not (share := of_stage["coverage"]):
                continue
            size = of_stage.get("size") or of_stage["width"]
            by_class = {name: each for name, each in of_stage.get("by_class", {}).items() if each}
            lowest = min(by_class, key=lambda name: by_class[name]["value"], default=None)
            least = f"{lowest}: {_share(by_class[lowest])}, n = {by_class[lowest]['n_subjects']}" if lowest else "–"
            side = "out of fold, cross-fitted" if of_stage["cross_fitted"] else STAGES[stage]
            if share["value"] < LEAST:
                contains = share["high"] is not None and share["high"] >= results["prediction_sets"]["level"]
                ends = "contains" if contains else "does not contain"
                low.append(f"{path.name} ({side}, {100 * share['value']:.1f} %; its interval {ends} the level)")
            rows.append(
                _row([path.name, target, side, share["n_subjects"], _share(share), f"{size['value']:.2f}", least])
            )
    if not rows:
        return ["No folder of runs on real images was given (`--runs`), so there are none on this page."]
    text = f"Below {100 * LEAST:.0f} %: {'; '.join(low)}." if low else f"None is below {100 * LEAST:.0f} %."
    return [*_table(["run", "target", "cases", "subjects", "coverage, %", "mean size", "lowest class"], rows), "", text]


def _share(figure: Mapping[str, Any]) -> str:
    ends = "" if figure["low"] is None else f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return f"{100 * figure['value']:.1f}{ends}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(heads: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [_row(heads), "|---" * len(heads) + "|", *rows]


PAGE = """# Coverage of prediction intervals and sets

How often the [prediction intervals and sets](../explanation-intervals.md) at 90 % contain the reference of cases of new
subjects. By `python benchmarks/conformal.py --runs runs/auto --output docs/results/prediction-coverage.md`.

{verdict}

## Simulated studies of phantoms

Two populations are drawn by casewise's phantoms: trunk photographs of {psoriasis} subjects under treatment
(`severity`, a number from 0 to 72, and `redness`, three grades), and chest films of {chest} subjects (`finding`, three
classes with 50, 30 and 20 % of the subjects). A subject has 1 to {most} cases. Every study draws its subjects from a
population without replacement, and {new} other ones as new subjects. It is split, learned from and calibrated by the
code of a run: five folds by subject, the linear model on pixels (with one candidate, images of {side} px), out-of-fold
predictions, and quantiles by subject and class. New cases are predicted by the mean of the five models.

Coverage is a mean over subjects, and then over studies; ± is its 95 % Monte-Carlo interval over studies. Size is the
mean width of intervals, or the mean number of classes in a set. The last column is the coverage that the study itself
would report without a test set, cross-fitted.

{simulated}

- *Least*: what the calibration would reach with one case of each subject, because a quantile is the error of one of *K*
  subjects: the smallest *m* / (*K* + 1) that is at least 90 %, with the *K* of the true class. A class with too few
  subjects is in every set and counts as 100 %.
- *Single models*: the quantile alone, on new cases predicted by the model of one fold (the mean over folds).
- *Their mean*: the quantile alone, on the mean of the models, which is what new cases get.
- *With all rules*: sets also contain the prediction, and those of grades have no gaps. For numbers nothing is added.

Rounding and the rules only make intervals and sets larger. That the mean of models errs less than one of them is usual
and not proven. Nothing was adjusted to reach a range: with few subjects of a class, coverage above 90 % is the price of
a guarantee without randomised sets.

## Real images

What finished runs reported for their primary outcome, with intervals by subject (by image where subjects are unknown).
Only figures of a test set are of cases that no network, stacker or calibration has used. The report and the result page
of a run have the same figures in the section on prediction intervals or sets, for every class.

{observed}
"""


def page(table: pd.DataFrame, runs: Path | None, **settings: int) -> str:
    """The page in Markdown, from the figures of every study (`conformal.simulate`).

    Args:
        runs: the folder of finished runs on real images, if there is one.
        settings: the numbers that the page states.
    """
    return PAGE.format(
        verdict=verdict(table),
        simulated="\n".join(simulated(table)),
        observed="\n".join(observed(runs)),
        **settings,
    )
