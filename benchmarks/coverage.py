"""How often 95 % intervals contain the true value, in simulated studies: percentiles of resamples, and casewise's.

A study has subjects with one to six cases each. Part of every error is the subject's own, so cases of a subject are
alike. Classes have unequal size. The true value of a figure is that of 200,000 subjects of the same kind. Intervals
come from the code that evaluates a run; studies take the place of learners in it, so that they are judged at once.

    python benchmarks/coverage.py [--studies 1000] [--output docs/results/coverage.md]

The page follows, with its figures in braces.

# How often intervals contain the true value

{studies:,} simulated studies for each model and number of subjects. A subject has one to six cases; part of every error
is the subject's own. A cell shows the share of nominal 95 % intervals, in percent, that contain the true value: first
plain percentiles of resamples of subjects, then in bold casewise's intervals ([how](../explanation-figures.md)). A dash
means that fewer than a fifth of the studies have such an interval; a dagger (†), that at least half of the intervals
are marked as rough, because they rest on too few subjects.

{finding}

## Numbers

{numbers}

## Classes and grades, by all subjects

The smallest class has 30 % or 20 % of the subjects: of 10 subjects, often two or three. Where a class has fewer than
three subjects, figures that rest on it have no interval, and the cells are of the other studies; for areas under the
ROC curve the number is two, for kappas one.

{classes}

## Classes and grades, by the subjects that a figure rests on

The same studies, by the number of subjects of the class that a figure is of; for figures over all classes, of the
smallest class. Whether a figure is marked as rough depends on this number.

{rests_on}

## The effect of a treatment

{trials} simulated trials for each row. Subjects have levels and trends of their own, errors are normal or skewed, and
visits are missing at random. A cell shows the share of intervals of the mixed model that contain the true effect, which
for the difference between model and physician is 0; the last column counts fits without an interval.

{effects}
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from pages import head_of, publish, simulation_parser
from pages import table as table_of

from casewise.evaluation.bootstrap import Estimate, Plan, estimates, percentiles, resample, with_intervals
from casewise.evaluation.classification import left_out
from casewise.evaluation.trial import OUTCOMES, trial
from casewise.metrics.classes import Classes, Samples, class_metrics
from casewise.metrics.numbers import moments, number_metrics, reason
from casewise.metrics.registry import metric_of

SUBJECTS = (4, 8, 10, 16, 30, 80)
RESTS_ON = (3, 6, 10, 16, 30, 1000)
MOST_CASES = 6
# class sizes and numbers of cases are drawn again for every 20 studies
STUDIES_AT_ONCE = 20
LEAST, MOST = 92, 97
PLAN = Plan(resamples=500)
EFFECT, TRIALS = -2.0, 400


@dataclass(frozen=True)
class NumberModel:
    """Scores with mean 20 and standard deviation 7.8, predicted with a slope and errors of subject and case.

    With `log_sd` scores are log-normal with a median of 16; `relative` errors are in proportion to the score.
    """

    title: str
    slope: float = 1.0
    of_subject: float = 2.0
    of_case: float = 2.0
    log_sd: float | None = None
    relative: bool = False

    def sums(self, subjects: int, studies: int, rng: np.random.Generator) -> np.ndarray:
        """`moments` of every subject and study, (subjects, studies, 8)."""
        shape = (subjects, studies, MOST_CASES)
        cases = np.arange(MOST_CASES) < rng.integers(1, MOST_CASES + 1, shape[:2])[..., None]
        own, error = rng.normal(size=(2, *shape[:2], 1))
        visit, noise = rng.normal(size=(2, *shape))
        truth, errors = 20 + 6 * own + 5 * visit, self.of_subject * error + self.of_case * noise
        if self.log_sd is not None:
            truth = np.exp(2.8 + self.log_sd * (0.8 * own + 0.6 * visit))
        predicted = truth * np.exp(errors) if self.relative else 20 + self.slope * (truth - 20) + errors
        return moments(np.where(cases, truth, np.nan), predicted, centre=20.0).sum(axis=2)

    def true_values(self, rng: np.random.Generator) -> dict[str, float]:
        """Of 200,000 subjects."""
        totals = np.sum([self.sums(2000, 20, rng).sum(axis=(0, 1)) for _ in range(5)], axis=0)
        return {name: float(value) for name, value in number_metrics(totals).items()}

    def judged(self, subjects: int, studies: int, rng: np.random.Generator) -> Iterator[Judged]:
        """All studies at once."""
        sums = self.sums(subjects, studies, rng)
        _, samples = resample(sums, number_metrics, PLAN)
        yield Judged(samples, estimates(sums, number_metrics, reason, PLAN, n_cases=0), {})


@dataclass(frozen=True)
class ClassModel:
    """Classes or grades of unequal size: a latent score with errors of subject and case, cut between the classes."""

    title: str
    classes: Classes
    shares: tuple[float, ...]
    apart: float
    error: float = 0.8

    def samples(self, subjects: int, studies: int, rng: np.random.Generator) -> Samples:
        """One set of subjects, predicted in every study anew."""
        subject = np.repeat(np.arange(subjects), rng.integers(1, MOST_CASES + 1, subjects))
        truth = rng.choice(len(self.shares), size=subjects, p=self.shares)[subject]
        latent = self.apart * truth[:, None] + self.error * rng.normal(size=(subjects, studies))[subject]
        latent = latent + self.error * rng.normal(size=latent.shape)
        bounds = self.apart * (np.arange(len(self.shares) - 1) + 0.5)
        above = 1 / (1 + np.exp((bounds - latent[..., None]) / 0.55))
        ones, zeros = np.ones_like(latent)[..., None], np.zeros_like(latent)[..., None]
        p = -np.diff(np.concatenate([ones, above, zeros], axis=-1), axis=-1)
        names = np.char.zfill(subject.astype(str), 6)
        return Samples(truth, (above > 0.5).sum(axis=-1), p, np.full_like(p, np.nan), names)

    def true_values(self, rng: np.random.Generator) -> dict[str, float]:
        """The mean over 10 times 20,000 subjects."""
        one = np.ones((1, 20_000))
        values = [class_metrics(self.samples(20_000, 1, rng), self.classes, one) for _ in range(10)]
        return {name: float(np.mean([value[name][0, 0] for value in values])) for name in values[0]}

    def judged(self, subjects: int, studies: int, rng: np.random.Generator) -> Iterator[Judged]:
        """20 studies at a time."""
        from casewise.evaluation.bootstrap import draw

        for _ in range(max(1, studies // STUDIES_AT_ONCE)):
            samples = self.samples(subjects, STUDIES_AT_ONCE, rng)
            points, basis, n_subjects = left_out(samples, self.classes, PLAN)
            figures = with_intervals(
                points, {}, lambda name, study: "", PLAN, n_subjects=n_subjects, n_cases=0, basis=basis
            )
            yield Judged(class_metrics(samples, self.classes, draw(n_subjects, PLAN)), figures, basis.rests_on)


@dataclass(frozen=True)
class Judged:
    """Resamples by metric, (R, studies), the figures of every study, and the subjects that they rest on."""

    samples: dict[str, np.ndarray]
    figures: list[dict[str, Estimate]]
    rests_on: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Cell:
    """Counts of studies: all with a figure, those with an interval, those whose interval contains the true value.

    `rough` are the intervals of now that are marked as rough.
    """

    studies: int = 0
    old: int = 0
    old_covers: int = 0
    new: int = 0
    new_covers: int = 0
    rough: int = 0

    def add(self, true: float, old: tuple[np.ndarray, np.ndarray], new: Sequence[Estimate]) -> None:
        """Add studies."""
        for low, high, figure in zip(*old, new, strict=True):
            if figure.value is None:
                continue
            self.studies += 1
            self.old += not np.isnan(low)
            self.old_covers += bool(low <= true <= high)
            if figure.low is not None and figure.high is not None:
                self.new += 1
                self.new_covers += figure.low <= true <= figure.high
                self.rough += figure.rough

    @property
    def marked(self) -> bool:
        """Whether at least half of the intervals are marked as rough."""
        return self.new > 0 and 2 * self.rough >= self.new

    @property
    def shares(self) -> tuple[float | None, float | None]:
        """Percent of the intervals that contain the true value; None where fewer than a fifth of studies have one."""
        least = max(self.studies / 5, 1)
        old = 100 * self.old_covers / self.old if self.old >= least else None
        return old, 100 * self.new_covers / self.new if self.new >= least else None


TWO = Classes(("negative", "positive"), "classification", 1)
THREE = Classes(("none", "mild", "severe"), "ordinal")
NUMBERS = (
    NumberModel("good model"),
    NumberModel("moderate model", slope=0.6, of_subject=3.0, of_case=4.0),
    NumberModel("skewed scores and relative errors", 1.0, 0.2, 0.25, log_sd=0.5, relative=True),
    NumberModel("strongly skewed scores (log-SD 0.9) and relative errors", 1.0, 0.2, 0.25, log_sd=0.9, relative=True),
    NumberModel("strongly skewed scores (log-SD 0.9) and errors of the same size", log_sd=0.9),
)
CLASSES = (
    ClassModel("two classes (70 % and 30 %), good model", TWO, (0.7, 0.3), 3.0),
    ClassModel("two classes (70 % and 30 %), moderate model", TWO, (0.7, 0.3), 1.5),
    ClassModel("three grades (50 %, 30 % and 20 %), good model", THREE, (0.5, 0.3, 0.2), 3.0),
    ClassModel("three grades (50 %, 30 % and 20 %), moderate model", THREE, (0.5, 0.3, 0.2), 1.5),
)
Table = dict[str, list[Cell]]


def coverage(
    model: NumberModel | ClassModel,
    subjects: Sequence[int],
    studies: int,
    show: Callable[[str], None] = lambda line: None,
) -> tuple[Table, Table]:
    """The cells of every metric: by the number of all subjects, and by that of the subjects that the figure rests on.

    The bounds of the second are `RESTS_ON`; it is empty for numbers.
    """
    true = model.true_values(np.random.default_rng(7))
    by_all: Table = {name: [Cell() for _ in subjects] for name in true}
    by_rest: Table = {name: [Cell() for _ in RESTS_ON[:-1]] for name in true}
    for column, number in enumerate(subjects):
        for judged in model.judged(number, studies, np.random.default_rng([number, 11])):
            for name, value in true.items():
                if np.isnan(value):
                    continue
                old = percentiles(judged.samples[name], PLAN.confidence)
                new = [figures[name] for figures in judged.figures]
                by_all[name][column].add(value, old, new)
                if name in judged.rests_on:
                    # the subjects are the same in all of these studies; of predicted classes, take the first study's
                    bin_number = int(np.searchsorted(RESTS_ON, judged.rests_on[name][0], side="right")) - 1
                    if bin_number >= 0:
                        by_rest[name][bin_number].add(value, old, new)
        show(f"{model.title}: {number} subjects")
    return by_all, by_rest


def shown(name: str) -> bool:
    """Whether a table has a row for a metric: not for single classes, and not after temperature scaling."""
    return "[" not in name and not name.endswith("_calibrated")


def markdown(table: Table, columns: Sequence[str]) -> str:
    """A Markdown table, each cell the old share and the new one in bold."""
    rows = []
    for name, cells in table.items():
        if not shown(name):
            continue
        entries = []
        for cell in cells:
            texts = ["–" if share is None else f"{share:.0f}" for share in cell.shares]
            mark = " †" if cell.marked and texts[1] != "–" else ""
            entries.append(f"{texts[0]} → **{texts[1]}**{mark}" if texts != ["–", "–"] else "–")
        rows.append([metric_of(name).title, *entries])
    return "\n".join(table_of(["figure", *columns], rows))


def finding(tables: Sequence[Table]) -> str:
    """The range of the new shares from ten subjects on, and the low ones that are not marked as rough."""
    cells = [cell for table in tables for name, row in table.items() if shown(name) for cell in row[2:]]
    defined = [(share, cell.marked) for cell in cells if (share := cell.shares[1]) is not None]
    printed = [(int(f"{share:.0f}"), marked) for share, marked in defined]
    low = [marked for share, marked in printed if share < LEAST]
    high = sum(share > MOST for share, _ in printed)
    return (
        f"From 10 subjects on, {len(defined) - len(low) - high} of {len(defined)} shares lie between {LEAST} and "
        f"{MOST} %, {len(low)} below and {high} above, wider than needed. Of those below, {sum(low)} are marked as "
        f"rough and {len(low) - sum(low)} are not."
    )


def patients(
    rng: np.random.Generator, *, subjects: int, visits: int, missing: float = 0.1, skewed: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Scores of physician and model at visits w0, w1, …; the effect of arm b at the last visit is `EFFECT`."""
    rows = []
    arms = {f"s{number}": "ab"[number % 2] for number in range(subjects)}
    for subject, arm in arms.items():
        level, trend = rng.normal(20, 3), rng.normal(-1, 0.5)
        for visit in range(visits):
            error = rng.exponential() - 1 if skewed else rng.normal()
            effect = EFFECT * visit / (visits - 1) if arm == "b" else 0.0
            truth, seen = level + trend * visit + error + effect, rng.normal()
            if not visit or rng.random() >= missing:
                scores = {"y_true": truth, "y_pred": truth + seen}
                rows.append({"subject": subject, "visit": f"w{visit}", "day": np.nan, **scores})
    return pd.DataFrame(rows), arms


def trial_coverage(studies: int, **design: Any) -> dict[str, tuple[float, int]]:
    """By outcome: the share of intervals that contain the effect, and the number of studies without an interval."""
    inside: dict[str, list[bool]] = {outcome: [] for outcome in OUTCOMES}
    for seed in range(studies):
        result = trial(*patients(np.random.default_rng(seed), **design), "a")
        for outcome, entry in result.visits[-1].effect["b"].items():
            effect = 0.0 if outcome == "difference" else EFFECT
            inside[outcome].append((entry.low or 0.0) <= effect <= (entry.high or 0.0))
    return {outcome: (float(np.mean(hits)), studies - len(hits)) for outcome, hits in inside.items()}


def trials_table(studies: int) -> str:
    """The coverage of each design, for the page."""
    rows = []
    for subjects, visits, skewed in ((20, 2, False), (40, 2, False), (40, 4, False), (40, 4, True), (100, 4, False)):
        shares = trial_coverage(studies, subjects=subjects, visits=visits, skewed=skewed).values()
        cells = [f"{share:.1%}" for share, _ in shares]
        rows.append([subjects, visits, "skewed" if skewed else "normal", *cells, sum(count for _, count in shares)])
    return "\n".join(table_of(["subjects", "visits", "errors", "physician", "model", "difference", "without"], rows))


def main() -> None:
    settings = simulation_parser(__doc__, 1000).parse_args()
    start = time.perf_counter()
    show = partial(print, flush=True)
    coverage_of = {model.title: coverage(model, SUBJECTS, settings.studies, show) for model in (*NUMBERS, *CLASSES)}
    every = [f"{number} subjects" for number in SUBJECTS]
    bins = [f"{low} to {high - 1}" for low, high in itertools.pairwise(RESTS_ON[:-1])]
    bins.append(f"{RESTS_ON[-2]} or more")

    def section(models: Sequence[NumberModel | ClassModel], which: int, columns: Sequence[str]) -> str:
        return "\n\n".join(
            f"### {model.title[0].upper()}{model.title[1:]}\n\n{markdown(coverage_of[model.title][which], columns)}"
            for model in models
        )

    page = head_of(
        __doc__,
        studies=settings.studies,
        finding=finding([by_all for by_all, _ in coverage_of.values()]),
        numbers=section(NUMBERS, 0, every),
        classes=section(CLASSES, 0, every),
        rests_on=section(CLASSES, 1, bins),
        trials=min(settings.studies, TRIALS),
        effects=trials_table(min(settings.studies, TRIALS)),
    )
    publish(page, settings.output)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
