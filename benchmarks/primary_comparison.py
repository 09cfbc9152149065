"""Size and power of the primary comparison: the reported model with a simple model that was chosen beforehand.

    python benchmarks/primary_comparison.py [--studies 1000] [--output docs/results/primary-comparison.md]

Studies are those of `multiplicity.py`. The first of four or eight learners is the reported model, the others are simple
models that are equal. Every statement comes from the intervals that casewise itself uses.

The page follows, with its figures in braces.

# The primary comparison: size and power

{studies:,} simulated studies for each row with equal errors, {fewer:,} for the others, and a quarter of these for the
AUROC, with one to four cases a subject and {resamples} resamples. The errors of the reported model are as large as
those of three or seven simple models, or smaller; the simple ones are equal. The method is described in
[How figures are computed and compared](../explanation-figures.md#one-primary-comparison).

- **Primary:** the share of studies in which the reported model differs from one simple model that was chosen
  beforehand, by an interval of this pair. With equal errors it is the size; 5% is meant.
- **All pairs together:** the same pair by the intervals of all pairs.
- **Best on these cases:** the best simple model on the same cases, by an interval of one pair. With equal errors it is
  the size of a choice that casewise does not make.
- **Any false statement:** a difference between learners that are equal, the primary comparison included; other pairs
  follow only if the primary comparison shows a difference.

{finding}

{tables}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from multiplicity import (
    CONFIDENCE,
    NORMAL,
    RESAMPLES,
    SKEWED,
    Cases,
    Population,
    differing,
    plan_of,
    resampled,
)
from pages import head_of, publish, simulation_parser, table

LEARNERS = (4, 8)
SUBJECTS = (20, 40, 100)
# By how much the errors of the reported model are smaller.
SMALLER = (0.0, 0.15, 0.3)
METRICS = ("mae", "ccc")
HEADS = ("metric", "learners", "subjects", "errors smaller by", "primary", "all pairs together")
HEADS += ("best on these cases", "any false statement")


@dataclass(frozen=True)
class Shares:
    """Shares of studies, as on the page."""

    primary: float
    all_pairs: float
    best: float
    false: float


def with_better_first(cases: Cases, population: Population, smaller: float) -> Cases:
    """The same cases, with errors of the first learner that are smaller by this share."""
    truth, first = cases.truth, cases.predicted[:, 0]
    better = truth + (1 - smaller) * (first - truth)
    if population.relative:
        better = truth * (first / truth) ** (1 - smaller)
    return Cases(cases.subjects, truth, np.column_stack([better, cases.predicted[:, 1:]]))


def shares(
    n_subjects: int, studies: int, population: Population, metrics: Sequence[str], smaller: float
) -> dict[tuple[str, int], Shares]:
    """By metric and number of learners; the second learner is the simple model that was chosen beforehand."""
    rng = np.random.default_rng([n_subjects, 5])
    calls: dict[tuple[str, int], list[tuple[bool, ...]]] = {}
    for _ in range(studies):
        cases = with_better_first(population.simulate(rng, n_subjects, max(LEARNERS)), population, smaller)
        for metric, figures in resampled(cases, plan_of(rng), tuple(metrics)).items():
            for n_learners in LEARNERS:
                members = slice(0, n_learners)
                if not np.isnan(figures[0][members]).any():
                    called = statements(figures, members, cases, metric, equal=slice(int(smaller > 0), None))
                    calls.setdefault((metric, n_learners), []).append(called)
    return {key: Shares(*np.mean(called, axis=0).tolist()) for key, called in calls.items()}


def statements(
    figures: tuple[np.ndarray, np.ndarray, np.ndarray], members: slice, cases: Cases, metric: str, *, equal: slice
) -> tuple[bool, ...]:
    """Whether one study makes each statement; `equal` are the learners that do not differ."""
    simple = figures[0][members][1:]
    best = 1 + int(np.argmin(simple if metric == "mae" else -simple))
    gated, together = (differing(figures, members, cases, metric, primary) for primary in ((0, 1), None))
    of_best = differing(figures, members, cases, metric, (0, best))[0, best]
    false = gated[0, 1] and gated[equal, equal].any()
    return bool(gated[0, 1]), bool(together[0, 1]), bool(of_best), bool(false)


def main() -> None:
    """Simulate, print and write the page."""
    options = simulation_parser(__doc__, 1000).parse_args()
    fewer, tables, sizes, errors = max(3 * options.studies // 10, 4), list[str](), list[float](), list[float]()
    powers = list[tuple[float, float]]()
    for population in (NORMAL, SKEWED[0], SKEWED[2]):
        rows: list[list[object]] = []
        for metrics in (METRICS, ("auroc",)) if population == NORMAL else (METRICS,):
            for n_subjects in SUBJECTS:
                for smaller in SMALLER:
                    studies = (fewer if smaller else options.studies) // (1 if metrics == METRICS else 4)
                    for (metric, n), share in shares(n_subjects, studies, population, metrics, smaller).items():
                        if metrics == METRICS:
                            sizes += [] if smaller else [share.primary]
                            errors.append(share.false)
                            powers.append((share.primary, share.all_pairs))
                        cells = (share.primary, share.all_pairs, share.best, share.false)
                        start = [metric.upper(), n, n_subjects, f"{smaller:.0%}"]
                        rows.append([*start, *(f"{cell:.1%}" for cell in cells)])
        rows.sort(key=lambda row: (str(row[0]), int(str(row[1])), int(str(row[2]))))
        tables += [f"## {population.title}", "", *table(HEADS, rows), ""]
        print(population.title, flush=True)
    chances = [1.96 * np.sqrt((1 - CONFIDENCE) * CONFIDENCE / count) for count in (options.studies, fewer)]
    middle = [(own, together) for own, together in powers if 0.3 <= own <= 0.9]
    gains = [own - together for own, together in middle] or [0.0]
    finding = (
        f"By MAE and CCC, {min(sizes):.1%} to {max(sizes):.1%} of the primary comparisons of equal learners show a "
        f"difference, and at most {max(errors):.1%} of the studies make any false statement; chance moves a share of "
        f"{1 - CONFIDENCE:.0%} by up to ± {chances[0]:.1%} with equal errors, else ± {chances[1]:.1%}. Where the power "
        f"of the primary comparison is 30% to 90%, it is larger by {100 * min(gains):.0f} to {100 * max(gains):.0f} "
        "points than with the intervals of all pairs."
    )
    head = head_of(
        __doc__,
        studies=options.studies,
        fewer=fewer,
        resamples=RESAMPLES,
        finding=finding,
        tables="\n".join(tables).rstrip(),
    )
    publish(head, options.output)


if __name__ == "__main__":
    main()
