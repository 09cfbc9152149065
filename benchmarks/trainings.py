"""How often intervals contain the performance of a procedure, with one training and with several.

    python benchmarks/trainings.py [--studies 500] [--output docs/results/trainings.md]

The page follows, with its figures in braces.

# Intervals that include the variation of training

{studies:,} simulated studies for each row. Subjects have one case each. Part of an error is the subject's own in every
training, the rest differs from training to training, and the size of all errors of a training varies by the stated
share (the standard deviation of its logarithm). The true value is the mean absolute error that the procedure has on
average over trainings and subjects; every share should be at least 95 %. “One training”: the interval by subject of
the first training, which is for its models. “All”: the interval of the mean over all trainings, as the report shows it
with `seeds`, and its mean width in those of the first. It is on the safe side, because what varies by subject and
training is in both of its parts. Chance moves a share by up to ± {chance:.1f} points. Here other folds count as a
part of another training. The method is described in
[How figures are computed and compared](../explanation-figures.md#intervals-leave-out-one-subject-at-a-time).

{finding}

{rows}
"""

from __future__ import annotations

import itertools

import numpy as np
from pages import head_of, publish, simulation_parser, table

from casewise.evaluation.bootstrap import by_subject
from casewise.evaluation.intervals import over_trainings

SUBJECTS, TRAININGS, SPREADS = (30, 100), (3, 5, 10), (0.0, 0.05, 0.1, 0.2)


def coverage(subjects: int, trainings: int, spread: float, studies: int) -> tuple[float, float, float]:
    """The shares of intervals with the true value, of one training and of all, and the mean ratio of their widths."""
    rng, rows = np.random.default_rng([subjects, trainings]), []
    true = float(np.sqrt(2 / np.pi) * np.exp(spread**2 / 2))
    for _ in range(studies):
        size = np.exp(spread * rng.normal(size=trainings))
        errors = size[:, None] * (0.8 * rng.normal(size=subjects) + 0.6 * rng.normal(size=(trainings, subjects)))
        learners = {str(number): own for number, own in enumerate(errors)}
        figures = [own["mae"] for own in by_subject(np.zeros(subjects), learners, np.arange(subjects)).values()]
        first, values = figures[0], [figure.value or 0.0 for figure in figures]
        interval = over_trainings("mae", first, values, 0.95)
        own, joint = np.array([first.low, first.high], float), np.array(interval, float)
        rows.append((own[0] <= true <= own[1], joint[0] <= true <= joint[1], np.ptp(joint) / np.ptp(own)))
    of_one, of_all, ratio = np.mean(rows, axis=0).tolist()
    return of_one, of_all, ratio


def main() -> None:
    """Simulate, print and write the page."""
    options = simulation_parser(__doc__, 500).parse_args()
    rows, shares = [], []
    for subjects, spread, trainings in itertools.product(SUBJECTS, SPREADS, TRAININGS):
        one, joint, ratio = coverage(subjects, trainings, spread, options.studies)
        shares.append((one, joint))
        rows.append([subjects, f"{spread:.0%}", trainings, f"{one:.1%}", f"{joint:.1%}", f"{ratio:.2f}"])
    heads = ("subjects", "variation of training", "trainings", "one training", "all", "width")
    ones, joints = zip(*shares, strict=True)
    finding = (
        f"With one training, {min(ones):.1%} to {max(ones):.1%} of the intervals contain the performance of the "
        f"procedure; over all trainings, {min(joints):.1%} to {max(joints):.1%}."
    )
    chance = 196 * np.sqrt(0.05 * 0.95 / options.studies)
    rows_text = "\n".join(table(heads, rows))
    publish(head_of(__doc__, studies=options.studies, chance=chance, finding=finding, rows=rows_text), options.output)


if __name__ == "__main__":
    main()
