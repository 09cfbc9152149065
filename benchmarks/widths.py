"""How wide intervals are, beside the jackknife with Student's t.

    python benchmarks/widths.py [--studies 1000] [--output docs/results/widths.md]

The page follows, with its figures in braces.

# How wide intervals are

{studies:,} simulated studies of the models of [How often intervals contain the true value](coverage.md) for each number
of subjects, beside the jackknife with Student's t of one degree of freedom less than subjects, on the same scale (the
logarithm of the MSE, Fisher's z of correlations). A cell shows how often the jackknife contains the true value, in bold
how often casewise's interval does, and the median ratio of their widths. Chance moves a share by up to ± {chance:.1f}
points.

{finding}

{tables}
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from coverage import NUMBERS, PLAN, NumberModel
from pages import head_of, publish, simulation_parser
from pages import table as table_of
from scipy.special import stdtrit

from casewise.evaluation.bootstrap import basis_of
from casewise.evaluation.intervals import ends
from casewise.metrics.numbers import number_metrics
from casewise.metrics.registry import metric_of

WIDTHS, WIDTH_SUBJECTS = ("mse", "pcc", "ccc", "icc", "loa_low", "loa_high"), (16, 30, 80, 200)
# The jackknife is a yardstick of width where it contains the true value as often.
COVERS = 0.94


@dataclass(frozen=True)
class Width:
    """Shares of intervals with the true value, of the jackknife and of casewise, and the median ratio of the widths."""

    jackknife: float
    casewise: float
    ratio: float


def width(model: NumberModel, subjects: int, studies: int, true: dict[str, float]) -> dict[str, Width]:
    """By metric, from studies of their own."""
    sums = model.sums(subjects, studies, np.random.default_rng([subjects, 13]))
    points = number_metrics(sums.sum(axis=0))
    basis = basis_of(sums, number_metrics, PLAN, {name: np.full(studies, subjects) for name in points})
    widths = {}
    for name in WIDTHS:
        scale = np.log if name == "mse" else np.arctanh if name in ("pcc", "ccc", "icc") else np.asarray
        low, high, point, target = (scale(v) for v in (*ends(name, points, basis), points[name], true[name]))
        left = scale(basis.left_out[name])
        error = np.sqrt((subjects - 1) / subjects * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
        half = stdtrit(subjects - 1, (1 + PLAN.confidence) / 2) * error
        shares = (np.abs(point - target) <= half).mean(), ((low <= target) & (target <= high)).mean()
        widths[name] = Width(*map(float, shares), float(np.nanmedian((high - low) / (2 * half))))
    return widths


def sections(studies: int) -> tuple[str, str]:
    """The tables of widths, and the ranges where the jackknife contains the true value often enough."""
    parts, fair = [], list[Width]()
    for model in NUMBERS:
        true = model.true_values(np.random.default_rng(7))
        columns = {subjects: width(model, subjects, studies, true) for subjects in WIDTH_SUBJECTS}
        cells = {
            name: [
                f"{100 * own.jackknife:.1f} → **{100 * own.casewise:.1f}**, {own.ratio:.2f}"
                for own in (column[name] for column in columns.values())
            ]
            for name in WIDTHS
        }
        fair += [own for column in columns.values() for own in column.values() if own.jackknife >= COVERS]
        table = table_of(
            ["figure", *(f"{n} subjects" for n in columns)], [[metric_of(n).title, *c] for n, c in cells.items()]
        )
        parts.append(f"## {model.title[0].upper()}{model.title[1:]}\n\n" + "\n".join(table))
    shares, ratios = [own.casewise for own in fair], [own.ratio for own in fair]
    finding = (
        f"In the {len(fair)} cells where the jackknife contains the true value in {COVERS:.0%} or more, casewise's "
        f"intervals do in {min(shares):.1%} to {max(shares):.1%}; they are {min(ratios):.2f} to {max(ratios):.2f} "
        f"times as wide, on average {np.mean(ratios):.2f} times."
    )
    return "\n\n".join(parts), finding


def main() -> None:
    """Simulate, print and write the page."""
    options = simulation_parser(__doc__, 1000).parse_args()
    tables, finding = sections(options.studies)
    chance = 196 * np.sqrt(0.05 * 0.95 / options.studies)
    publish(head_of(__doc__, studies=options.studies, chance=chance, finding=finding, tables=tables), options.output)


if __name__ == "__main__":
    main()
