"""How often is a learner called worse although all learners are equal?

    python benchmarks/multiplicity.py [--studies 300] [--output docs/results/multiplicity.md]

Studies are simulated whose learners have the same expected error: subjects with one to four cases each, an error that
all learners of a case share, and errors of each learner for the subject and the case. The family-wise error is the
share of studies in which at least one learner is said to differ from the best. It is computed with the functions that
casewise itself uses, next to the rate without allowance for the number of learners. The second table is the share of
studies in which a test set of the same population is said to fall below the out-of-fold figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casewise.evaluation.bootstrap import (
    Estimate,
    Plan,
    draw,
    effective_subjects,
    pair_intervals,
    percentiles,
    resample,
    with_intervals,
)
from casewise.evaluation.caveats import lower_on_test
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.metrics.roc import ranking

LEARNERS = (3, 7, 33)
SUBJECTS = (10, 20, 40, 100)
TESTED = (3, 10, 20, 50)
OUT_OF_FOLD = 60
METRICS = ("mae", "ccc", "auroc", "accuracy")
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


def simulate(rng: np.random.Generator, n_subjects: int, n_learners: int) -> Cases:
    """Cases of subjects with one to four visits; a third of the cases belongs to the positive class."""
    visits = rng.integers(1, 5, n_subjects)
    subject = np.repeat(np.arange(n_subjects), visits)
    n_cases = len(subject)
    truth = rng.normal(0, 1, n_subjects)[subject] + rng.normal(0, 0.6, n_cases)
    shared = rng.normal(0, 0.4, n_subjects)[subject] + rng.normal(0, 0.4, n_cases)
    own = rng.normal(0, 0.35, (n_subjects, n_learners))[subject] + rng.normal(0, 0.5, (n_cases, n_learners))
    names = np.array([f"{number:04d}" for number in subject])
    return Cases(names, truth, (truth + shared)[:, None] + own)


def resampled(cases: Cases, plan: Plan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metrics of each learner (L,), and those of every resample (R, L)."""
    n_subjects = len(np.unique(cases.subjects))
    terms = moments(cases.truth[:, None], cases.predicted, centre=float(cases.truth.mean()))
    points, samples = resample(sum_by_subject(terms, cases.subjects), number_metrics, plan)
    figures = {name: (points[name], samples[name]) for name in ("mae", "ccc")}
    areas, accuracies = {}, {}
    positive = cases.truth > POSITIVE_ABOVE
    of_subject, counts = np.unique(cases.subjects, return_inverse=True)[1], draw(n_subjects, plan)
    for name, weights in (("point", np.ones((1, n_subjects))), ("samples", counts)):
        ranks = [ranking(scores, positive, of_subject, weights).auroc for scores in cases.predicted.T]
        areas[name] = np.stack(ranks, axis=1)
        right = ((cases.predicted > POSITIVE_ABOVE) == positive[:, None]).astype(float)
        shares = weights @ sum_by_subject(np.column_stack([right, np.ones(len(right))]), cases.subjects)
        accuracies[name] = shares[:, :-1] / shares[:, -1:]
    figures["auroc"] = areas["point"][0], areas["samples"]
    figures["accuracy"] = accuracies["point"][0], accuracies["samples"]
    return figures


def effective(cases: Cases, metric: str) -> float:
    """The effective number of subjects of a metric; for the AUROC at most those of the rarer side."""
    positive = cases.truth > POSITIVE_ABOVE
    of_side = [float(len(np.unique(cases.subjects[side]))) for side in (positive, ~positive)]
    return min([effective_subjects(cases.subjects), *(of_side if metric == "auroc" else [])])


def called_worse(point: np.ndarray, samples: np.ndarray, cases: Cases, metric: str) -> tuple[bool, bool]:
    """Whether any learner differs from the best: by simultaneous intervals, and by one percentile interval each."""
    best = int(np.argmin(point if metric == "mae" else -point))
    pairs = pair_intervals(
        point,
        samples,
        n_subjects=len(np.unique(cases.subjects)),
        effective=effective(cases, metric),
        confidence=CONFIDENCE,
    )
    low, high = percentiles(samples - samples[:, [best]], CONFIDENCE)
    together = np.abs(pairs.difference[:, best]) > pairs.half_width[:, best]
    return bool(together.any()), bool(((low > 0) | (high < 0)).any())


def groups(n_learners: int) -> Iterator[slice]:
    """Disjoint groups of so many learners."""
    return (slice(first * n_learners, (first + 1) * n_learners) for first in range(GROUPS[n_learners]))


def family_wise_error(n_subjects: int, studies: int, *, seed: int = 0) -> dict[tuple[str, int], tuple[float, float]]:
    """Metric and learners -> share of comparisons in which one is called worse, with and without allowance."""
    rng = np.random.default_rng([seed, n_subjects])
    calls: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for _ in range(studies):
        cases = simulate(rng, n_subjects, max(LEARNERS))
        for metric, (point, samples) in resampled(cases, _plan(rng)).items():
            for n_learners in LEARNERS:
                calls.setdefault((metric, n_learners), []).extend(
                    called_worse(point[members], samples[:, members], cases, metric)
                    for members in groups(n_learners)
                    if not np.isnan(point[members]).any()
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
        figures = {stage: _estimates(simulate(rng, n, max(LEARNERS)), rng) for stage, n in sides.items()}
        for metric in ("ccc", "auroc"):
            for n_learners in LEARNERS:
                for members in groups(n_learners):
                    metrics = {
                        stage: {str(n): {"t": estimates[n]} for n in range(max(LEARNERS))[members]}
                        for stage, estimates in figures.items()
                    }
                    learner = max(metrics["oof"], key=lambda name: metrics["oof"][name]["t"][metric].value or -1.0)
                    stated = bool(lower_on_test(metrics, "t", learner, metric, confidence=CONFIDENCE))
                    careless = _careless(*(metrics[stage][learner]["t"][metric] for stage in sides))
                    calls.setdefault((metric, n_learners), []).append((stated, careless))
    return {key: tuple(np.mean(called, axis=0).tolist()) for key, called in calls.items()}  # type: ignore[misc]


def _careless(inside: Estimate, tested: Estimate) -> bool:
    if None in (inside.low, tested.high, inside.value, tested.value):
        return False
    return bool(inside.value - tested.value > np.hypot(inside.value - inside.low, tested.high - tested.value))  # type: ignore[operator]


def _estimates(cases: Cases, rng: np.random.Generator) -> list[dict[str, Estimate]]:
    figures, plan = resampled(cases, _plan(rng)), _plan(rng)
    return with_intervals(
        {name: point for name, (point, _) in figures.items()},
        {name: samples for name, (_, samples) in figures.items()},
        lambda name, learner: "undefined",
        plan,
        n_subjects=len(np.unique(cases.subjects)),
        n_cases=len(cases.truth),
    )


def _plan(rng: np.random.Generator) -> Plan:
    return Plan(RESAMPLES, CONFIDENCE, int(rng.integers(2**31)))


def page(errors: dict[int, dict], alarms: dict[int, dict], studies: int) -> str:
    """The Markdown page."""
    lines = [
        "# How often is a learner called worse although all are equal?",
        "",
        f"{studies:,} simulated studies for each number of subjects, with {max(LEARNERS)} learners of the same "
        f"expected error, one to four cases a subject and {RESAMPLES} resamples. For three and seven learners, each "
        f"study gives {GROUPS[3]} and {GROUPS[7]} comparisons. Nominal: {1 - CONFIDENCE:.0%}. "
        "By `python benchmarks/multiplicity.py --output docs/results/multiplicity.md`; the method is described in "
        "[How figures are computed and compared](../explanation-figures.md#no-winner-within-the-uncertainty).",
        "",
        "## Differences from the best learner",
        "",
        "Share of comparisons in which at least one learner is said to differ from the best, with simultaneous "
        "intervals as casewise computes them. In brackets: with one percentile interval for each learner, without "
        "allowance for their number.",
        "",
        *_table("subjects", errors, METRICS),
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
    lines = [f"| {first} | {' | '.join(heads)} |", "|---" * (1 + len(keys)) + "|"]
    for count, by_key in rates.items():
        cells = [f"{by_key[key][0]:.1%} ({by_key[key][1]:.0%})" for key in keys]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Simulate, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    errors = {n: family_wise_error(n, options.studies) for n in SUBJECTS}
    alarms = {n: false_alarms(n, options.studies // 4) for n in TESTED}
    text = page(errors, alarms, options.studies)
    print(text)
    if options.output:
        options.output.write_text(text)
        print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
