"""How often is a learner called worse although all learners are equal?

    python benchmarks/multiplicity.py [--studies 300] [--output docs/results/multiplicity.md]

Studies are simulated whose learners have the same expected error: subjects with one to four cases each, an error that
all learners of a case share, and errors of each learner for the subject and the case. In further populations scores
are log-normal, and some subjects have many cases. The family-wise error is the share of studies in which at least one
learner is said to differ from the best. It is computed with the functions that casewise itself uses, next to the rate
without allowance for the number of learners. The last table is the share of studies in which a test set of the same
population is said to fall below the out-of-fold figure. `primary_comparison.py` simulates the primary comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pages import publish, simulation_parser, table

from casewise.evaluation.bootstrap import (
    Estimate,
    Plan,
    draw,
    effective_subjects,
    pair_freedom,
    pair_intervals,
    percentiles,
    with_intervals,
)
from casewise.evaluation.caveats import apart_on_test
from casewise.evaluation.figures import Cell, Figures
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.metrics.roc import ranking

LEARNERS = (3, 7, 33)
SUBJECTS = (10, 20, 40, 100)
TESTED = (3, 10, 20, 50)
OUT_OF_FOLD = 60
METRICS = ("mae", "ccc", "auroc", "accuracy")
NUMBERS = ("mae", "pcc", "ccc", "icc")
SKEWED_SUBJECTS = (20, 40, 100, 400)
# disjoint groups of learners of one study, which give several comparisons of few learners
GROUPS = {3: 6, 7: 4, 33: 1}
RESAMPLES = 500
CONFIDENCE = 0.95
# a case of the positive class, and one that is called so
POSITIVE_ABOVE = 0.5


@dataclass(frozen=True)
class Cases:
    """Simulated cases: the subject and the reference of each (N,), and the predictions of learners (N, L)."""

    subjects: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Population:
    """Scores, errors and visits of subjects.

    `log_sd` is the standard deviation of the logarithm of log-normal scores; without it scores are normal with one of
    1.17. Errors are `relative` to the score or of the same size everywhere. Of `uneven` subjects a third has
    further visits, ten on average.
    """

    title: str
    log_sd: float | None = None
    relative: bool = False
    uneven: bool = False

    def simulate(self, rng: np.random.Generator, n_subjects: int, n_learners: int) -> Cases:
        """Cases of subjects with one to four visits; a third of normal scores belongs to the positive class."""
        visits = rng.integers(1, 5, n_subjects)
        if self.uneven:
            visits = visits + (rng.random(n_subjects) < 1 / 3) * rng.geometric(0.1, n_subjects).clip(max=40)
        subject = np.repeat(np.arange(n_subjects), visits)
        n_cases = len(subject)
        truth = rng.normal(0, 1, n_subjects)[subject] + rng.normal(0, 0.6, n_cases)
        shared = rng.normal(0, 0.4, n_subjects)[subject] + rng.normal(0, 0.4, n_cases)
        own = rng.normal(0, 0.35, (n_subjects, n_learners))[subject] + rng.normal(0, 0.5, (n_cases, n_learners))
        names, errors = np.array([f"{number:04d}" for number in subject]), shared[:, None] + own
        if self.log_sd is None:
            return Cases(names, truth, truth[:, None] + errors)
        truth = np.exp(self.log_sd / np.sqrt(1.36) * truth)
        return Cases(names, truth, truth[:, None] * np.exp(errors / 2) if self.relative else truth[:, None] + errors)


NORMAL = Population("Normal scores")
SKEWED = (
    Population("Log-normal scores (log-SD 0.9), errors in proportion", 0.9, relative=True),
    Population("Log-normal scores (log-SD 0.9), errors of the same size everywhere", 0.9),
    Population("Log-normal scores (log-SD 0.9), errors in proportion, many visits of some", 0.9, True, True),
)
# The metrics of each learner (L,), those of every resample (R, L), and those without each subject (S, L).
Resampled = tuple[np.ndarray, np.ndarray, np.ndarray]


def resampled(cases: Cases, plan: Plan, metrics: tuple[str, ...] = METRICS) -> dict[str, Resampled]:
    """By metric."""
    n_subjects = len(np.unique(cases.subjects))
    terms = moments(cases.truth[:, None], cases.predicted, centre=float(cases.truth.mean()))
    sums = sum_by_subject(terms, cases.subjects)
    positive, of_subject = cases.truth > POSITIVE_ABOVE, np.unique(cases.subjects, return_inverse=True)[1]
    right = ((cases.predicted > POSITIVE_ABOVE) == positive[:, None]).astype(float)
    rights = sum_by_subject(np.column_stack([right, np.ones(len(right))]), cases.subjects)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for weights in (np.ones((1, n_subjects)), draw(n_subjects, plan), 1 - np.eye(n_subjects)):
        figures = number_metrics((weights @ sums.reshape(n_subjects, -1)).reshape(-1, *sums.shape[1:]))
        if "auroc" in metrics:
            ranks = [ranking(scores, positive, of_subject, weights).auroc for scores in cases.predicted.T]
            figures["auroc"] = np.stack(ranks, axis=1)
        shares = weights @ rights
        figures["accuracy"] = shares[:, :-1] / shares[:, -1:]
        for name, part in parts.items():
            part.append(figures[name])
    return {name: (point[0], samples, left_out) for name, (point, samples, left_out) in parts.items()}


def effective(cases: Cases, metric: str) -> float:
    """The effective number of subjects of a metric; for the AUROC at most those of the rarer side."""
    positive = cases.truth > POSITIVE_ABOVE
    of_side = [float(len(np.unique(cases.subjects[side]))) for side in (positive, ~positive)]
    return min([effective_subjects(cases.subjects), *(of_side if metric == "auroc" else [])])


def called_worse(figures: Resampled, members: slice, cases: Cases, metric: str) -> tuple[bool, bool]:
    """Whether any learner differs from the best: by simultaneous intervals, and by one percentile interval each."""
    point, samples, _ = (part[..., members] for part in figures)
    best = int(np.argmin(point if metric == "mae" else -point))
    together = differing(figures, members, cases, metric)[best]
    low, high = percentiles(samples - samples[:, [best]], CONFIDENCE)
    return bool(together.any()), bool(((low > 0) | (high < 0)).any())


def differing(
    figures: Resampled, members: slice, cases: Cases, metric: str, primary: tuple[int, int] | None = None
) -> np.ndarray:
    """Which pairs of these learners (L, L) have an interval without 0, with a primary pair or all of them together."""
    point, samples, left_out = (part[..., members] for part in figures)
    n_subjects, positive = len(left_out), cases.truth > POSITIVE_ABOVE
    strata = np.zeros((n_subjects, 1))
    if metric in ("auroc", "accuracy"):
        # as in casewise: the rarer class of a subject's cases
        of_class = [sum_by_subject(side.astype(float), cases.subjects) > 0 for side in (positive, ~positive)]
        rarer = int(np.argmin([side.sum() for side in of_class]))
        strata[:, 0] = of_class[rarer]
    freedom = pair_freedom(left_out, strata, effective(cases, metric))
    pairs = pair_intervals(point, samples, freedom, n_subjects=n_subjects, confidence=CONFIDENCE, primary=primary)
    return np.asarray(np.abs(pairs.difference) > pairs.half_width)


def groups(n_learners: int) -> Iterator[slice]:
    """Disjoint groups of so many learners."""
    return (slice(first * n_learners, (first + 1) * n_learners) for first in range(GROUPS[n_learners]))


def family_wise_error(
    n_subjects: int, studies: int, population: Population = NORMAL, metrics: tuple[str, ...] = METRICS, *, seed: int = 0
) -> dict[tuple[str, int], tuple[float, float]]:
    """Metric and learners -> share of comparisons in which one is called worse, with and without allowance."""
    rng = np.random.default_rng([seed, n_subjects])
    calls: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for _ in range(studies):
        cases = population.simulate(rng, n_subjects, max(LEARNERS))
        for metric, figures in resampled(cases, plan_of(rng), metrics).items():
            for n_learners in LEARNERS:
                calls.setdefault((metric, n_learners), []).extend(
                    called_worse(figures, members, cases, metric)
                    for members in groups(n_learners)
                    if not np.isnan(figures[0][members]).any()
                )
    return {key: tuple(np.mean(called, axis=0).tolist()) for key, called in calls.items()}  # type: ignore[misc]


def false_alarms(tested: int, studies: int, *, seed: int = 0) -> dict[tuple[str, int], tuple[float, float]]:
    """Metric and learners -> share of comparisons with a false alarm on the test set, as stated and without care.

    Without care: at any number of subjects, and as if the learner had not been chosen for its figure out of fold.
    """
    rng = np.random.default_rng([seed, tested, 1])
    calls: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for _ in range(studies):
        sides = {"oof": OUT_OF_FOLD, "test": tested}
        figures = {stage: _estimates(NORMAL.simulate(rng, n, max(LEARNERS)), rng) for stage, n in sides.items()}
        for metric in ("ccc", "auroc"):
            for n_learners in LEARNERS:
                for members in groups(n_learners):
                    chosen = range(max(LEARNERS))[members]
                    best = max(chosen, key=lambda n: figures["oof"][n][metric].value or -1.0)
                    table = Figures({Cell(stage, str(n), "t"): figures[stage][n] for stage in sides for n in chosen})
                    fall = apart_on_test(table, "t", str(best), metric, worse=True, confidence=CONFIDENCE)
                    careless = _careless(*(figures[stage][best][metric] for stage in sides))
                    calls.setdefault((metric, n_learners), []).append((bool(fall), careless))
    return {key: tuple(np.mean(called, axis=0).tolist()) for key, called in calls.items()}  # type: ignore[misc]


def _careless(inside: Estimate, tested: Estimate) -> bool:
    if None in (inside.low, tested.high, inside.value, tested.value):
        return False
    return bool(inside.value - tested.value > np.hypot(inside.value - inside.low, tested.high - tested.value))  # type: ignore[operator]


def _estimates(cases: Cases, rng: np.random.Generator) -> list[dict[str, Estimate]]:
    figures, plan = resampled(cases, plan_of(rng)), plan_of(rng)
    return with_intervals(
        {name: point for name, (point, _, _) in figures.items()},
        {name: samples for name, (_, samples, _) in figures.items()},
        lambda name, learner: "undefined",
        plan,
        n_subjects=len(np.unique(cases.subjects)),
        n_cases=len(cases.truth),
    )


def plan_of(rng: np.random.Generator) -> Plan:
    """A plan with other resamples for each study."""
    return Plan(RESAMPLES, CONFIDENCE, int(rng.integers(2**31)))


def _largest(errors: dict[str, dict[int, dict]], studies: int) -> str:
    """How large the shares with allowance are, and how much of that is chance."""
    shares = [
        with_allowance for rates in errors.values() for row in rates.values() for with_allowance, _ in row.values()
    ]
    nominal = 1 - CONFIDENCE
    chance = 1.96 * np.sqrt(nominal * CONFIDENCE / (studies // 2))
    above = sum(share > nominal for share in shares)
    return (
        f"Of {len(shares)} shares {above} are above {nominal:.0%}, the largest is {max(shares):.1%}; with one "
        f"comparison a study, chance moves a share of {nominal:.0%} by up to ± {chance:.1%}."
    )


def page(errors: dict[str, dict[int, dict]], alarms: dict[int, dict], studies: int) -> str:
    """The Markdown page; `errors` by the title of a population, the normal one first."""
    tables = [
        line
        for title, rates in errors.items()
        for line in ("", f"### {title}", "", *_table("subjects", rates, METRICS if title == NORMAL.title else NUMBERS))
    ]
    lines = [
        "# How often is a learner called worse although all are equal?",
        "",
        f"{studies:,} simulated studies for each number of subjects, with {max(LEARNERS)} learners of the same "
        f"expected error, one to four cases a subject and {RESAMPLES} resamples. For three and seven learners, each "
        f"study gives {GROUPS[3]} and {GROUPS[7]} comparisons. Nominal: {1 - CONFIDENCE:.0%}. "
        "The method is described in "
        "[How figures are computed and compared](../explanation-figures.md#no-winner-within-the-uncertainty).",
        "",
        "## Differences from the best learner",
        "",
        "Share of comparisons in which at least one learner is said to differ from the best, with simultaneous "
        "intervals as casewise computes them. In brackets: with one percentile interval for each learner, without "
        f"allowance for their number. Of log-normal scores there are {studies // 2:,} studies for each number. "
        "Many visits of some: a third of the subjects have ten more on average.",
        "",
        _largest(errors, studies),
        *tables,
        "",
        "## A test set below the out-of-fold figure",
        "",
        f"Share of comparisons in which the headline's learner, the best of those out of fold ({OUT_OF_FOLD} "
        f"subjects), is said to fall on a test set from the same population; {studies // 4:,} studies. Nominal: "
        f"{(1 - CONFIDENCE) / 2:.1%}, because only a fall is reported. In brackets: without allowance for the choice, "
        "and without the rule that nothing is said below ten subjects.",
        "",
        *_table("test subjects", alarms, ("ccc", "auroc")),
    ]
    return "\n".join(lines) + "\n"


def _table(first: str, rates: dict[int, dict], metrics: tuple[str, ...]) -> list[str]:
    keys = [(metric, n) for metric in metrics for n in LEARNERS]
    heads = [f"{metric.upper() if metric != 'accuracy' else 'accuracy'}, {n} learners" for metric, n in keys]
    rows = [[n, *(f"{by_key[key][0]:.1%} ({by_key[key][1]:.0%})" for key in keys)] for n, by_key in rates.items()]
    return table([first, *heads], rows)


def main() -> None:
    """Simulate, print and write the page."""
    options = simulation_parser(__doc__, 300).parse_args()
    errors = {NORMAL.title: {n: family_wise_error(n, options.studies) for n in SUBJECTS}}
    for population in SKEWED:
        rates = {n: family_wise_error(n, options.studies // 2, population, NUMBERS) for n in SKEWED_SUBJECTS}
        errors[population.title] = rates
    alarms = {n: false_alarms(n, options.studies // 4) for n in TESTED}
    publish(page(errors, alarms, options.studies), options.output)


if __name__ == "__main__":
    main()
