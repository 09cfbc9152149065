"""Does the analysis of reader studies recover planted bias, noise and drift?

    python benchmarks/reader_studies.py [--studies 200] [--output docs/results/reader-studies.md]

# Reader studies, simulated

{studies:,} simulated reader studies of each design: {readers} readers score {cases} cases, each in another order, and
read half of them twice. A reading is the true value (standard deviation {spread:g}) plus the reader's bias ({bias}), a
drift over the session ({drift}) and noise (standard deviation {noise}), all in points. The readings are analysed by
`casewise.plugins.readers.statistics.agreement`.

The readers are fixed: the planted value is that of these readers and their orders in other subjects. It follows from
the numbers above, or for grades from {population:,} further cases. An interval at 95 % should contain it in 95 % of the
studies; chance moves a share of 95 % by ± {chance:.1%}. {finding}

{tables}
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pages import head_of, publish, simulation_parser, table

from casewise.evaluation.figures import Estimate
from casewise.metrics.classes import category_agreement
from casewise.plugins.readers.statistics.agreement import (
    FLEISS,
    ICC_AGREEMENT,
    ICC_CONSISTENCY,
    KRIPPENDORFF,
    Agreement,
    agreement,
)
from casewise.plugins.readers.statistics.coefficients import fleiss, krippendorff

READERS = ("A", "B", "C")
BIAS, DRIFT, NOISE = np.array([1.0, 0.0, -0.5]), np.array([0.0, 0.0, 1.5]), np.array([0.8, 1.2, 1.0])
SPREAD, LEVEL = 3.0, 10.0
CASES, REPEATED = 40, 20
CUTS = np.array([6.0, 9.0, 12.0, 15.0])
POPULATION = 200_000
LEAST, MOST = 0.92, 0.98


@dataclass(frozen=True)
class Design:
    """A reader study: the visits of each subject, with how much of the true values' variance is that of subjects."""

    title: str
    visits: int = 1
    grades: bool = False
    shared: float = 0.6

    def truth(self, rng: np.random.Generator) -> np.ndarray:
        """The true values of the cases, (N,); visits of a subject follow one another."""
        of_subject = np.repeat(rng.normal(size=CASES // self.visits), self.visits)
        if self.visits == 1:
            return LEVEL + SPREAD * of_subject
        own = rng.normal(size=CASES)
        return LEVEL + SPREAD * (np.sqrt(self.shared) * of_subject + np.sqrt(1 - self.shared) * own)

    def study(self, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
        """The readings table, and when each case was first read by each reader (N, R), from 0 to 1."""
        truth, rows, times = self.truth(rng), [], np.zeros((CASES, len(READERS)))
        for number, reader in enumerate(READERS):
            for position, (case, occurrence) in enumerate(order(rng), 1):
                at = (position - 1) / (CASES + REPEATED - 1)
                if occurrence == 1:
                    times[case, number] = at
                value = truth[case] + BIAS[number] + DRIFT[number] * at + NOISE[number] * rng.normal()
                row = {"case": f"c{case}", "subject": f"s{case // self.visits}", "reader": reader, "value": value}
                rows.append(row | {"session": "blind", "occurrence": occurrence, "position": position})
        table = pd.DataFrame(rows).assign(target="score", image="", region="", at="2030-01-01T00:00:00Z")
        return (
            table.assign(value=np.searchsorted(CUTS, table["value"]).astype(float)) if self.grades else table
        ), times

    def planted(self, times: np.ndarray) -> dict[str, float]:
        """The values that the intervals should contain, of readers whose first readings had these times."""
        means = BIAS + DRIFT * times.mean(axis=0)
        errors = NOISE**2 + DRIFT**2 * times.var(axis=0, ddof=1)
        others = (means.sum() - means) / (len(READERS) - 1)
        values = {f"bias of {reader}": means[n] - others[n] for n, reader in enumerate(READERS)}
        values |= {f"drift of {reader}": DRIFT[n] for n, reader in enumerate(READERS)}
        values["ICC(3,1)"] = SPREAD**2 / (SPREAD**2 + errors.mean())
        values["ICC(2,1)"] = SPREAD**2 / (SPREAD**2 + means.var(ddof=1) + errors.mean())
        values["ICC(2,1) of A, read twice"] = SPREAD**2 / (SPREAD**2 + NOISE[0] ** 2)
        half = 1.96 * np.sqrt(errors[:2].sum())
        gap = means[1] - means[0]
        values |= {
            "bias of B minus A": gap,
            "lower limit of B minus A": gap - half,
            "upper limit of B minus A": gap + half,
        }
        return values


DESIGNS = (
    Design(f"Numbers: {CASES} subjects"),
    Design(f"Numbers: {CASES // 2} subjects with 2 visits each", visits=2),
    Design(f"Five grades: {CASES} subjects", grades=True),
)


def order(rng: np.random.Generator) -> list[tuple[int, int]]:
    """The cases in the order in which a reader sees them, each with 1, or 2 where it is read again."""
    cases = [(int(case), 1) for case in rng.permutation(CASES)]
    for case, _ in [cases[n] for n in rng.permutation(CASES)[:REPEATED]]:
        first = cases.index((case, 1))
        cases.insert(int(rng.integers(first + 1, len(cases) + 1)), (case, 2))
    return cases


def planted_grades(rng: np.random.Generator) -> dict[str, float]:
    """The coefficients of grades in a large population."""
    at = rng.random((POPULATION, len(READERS)))
    values = LEVEL + SPREAD * rng.normal(size=(POPULATION, 1)) + BIAS + DRIFT * at
    grades = np.searchsorted(CUTS, values + NOISE * rng.normal(size=values.shape)).astype(float)
    k = len(CUTS) + 1
    counts = np.bincount((grades[:, 0] * k + grades[:, 1]).astype(int), minlength=k * k).astype(float)
    pair = category_agreement(counts)
    return {
        "quadratic kappa of A and B": float(pair["kappa_quadratic"]),
        "agreement of A and B": float(pair["agreement"]),
        "Fleiss' kappa": fleiss(grades),
        "Krippendorff's alpha, ordinal": krippendorff(grades, "ordinal"),
    }


def figures_of(result: Agreement) -> dict[str, Estimate]:
    """The figures that have a planted value."""
    figures = {}
    for reader, of_reader in result.readers.items():
        figures |= {f"bias of {reader}": of_reader.bias, f"drift of {reader}": of_reader.drift}
    pair, again = result.pairs["A | B"], result.readers["A"].again
    figures |= {"ICC(2,1)": result.between[ICC_AGREEMENT], "ICC(3,1)": result.between[ICC_CONSISTENCY]}
    figures |= {"ICC(2,1) of A, read twice": again[ICC_AGREEMENT], "bias of B minus A": pair["bias"]}
    figures |= {"lower limit of B minus A": pair["loa_low"], "upper limit of B minus A": pair["loa_high"]}
    if result.kind == "ordinal":
        figures |= {"quadratic kappa of A and B": pair["kappa_quadratic"], "agreement of A and B": pair["agreement"]}
        figures |= {"Fleiss' kappa": result.between[FLEISS]}
        figures |= {"Krippendorff's alpha, ordinal": result.between[KRIPPENDORFF]}
    return figures


def simulated(design: Design, studies: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """By figure, (studies, 4) planted value, estimate and both ends of the interval; NaN without an interval."""
    rng = np.random.default_rng([seed, DESIGNS.index(design)])
    of_grades = planted_grades(rng) if design.grades else None
    values = defaultdict(list)
    for _ in range(studies):
        readings, times = design.study(rng)
        figures = figures_of(agreement(readings, "ordinal" if design.grades else "regression", len(CUTS) + 1))
        for name, planted in (of_grades or design.planted(times)).items():
            figure = figures[name]
            ends = (np.nan if end is None else end for end in (figure.value, figure.low, figure.high))
            values[name].append([planted, *ends])
    return {name: np.array(rows, dtype=float) for name, rows in values.items()}


def main() -> None:
    """Simulate, print and write the page."""
    settings = simulation_parser(__doc__, 200).parse_args()
    start = time.perf_counter()
    tables, shares = [], []
    for design in DESIGNS:
        rows = []
        for name, values in simulated(design, settings.studies).items():
            planted, estimate, low, high = values[~np.isnan(values).any(axis=1)].T
            share = float(((low <= planted) & (planted <= high)).mean())
            cells = (planted.mean(), estimate.mean(), (high - low).mean())
            rows.append([name, *(f"{cell:.2f}" for cell in cells), f"{share:.1%}", settings.studies - len(planted)])
            shares.append(share)
        heads = ["figure", "planted", "estimate", "width of interval", "contain the planted value", "without interval"]
        tables.append("\n".join([f"## {design.title}", "", *table(heads, rows)]))
        print(design.title, f"{time.perf_counter() - start:.0f} s", flush=True)
    inside = sum(LEAST <= share <= MOST for share in shares)
    numbers = {
        name: ", ".join(f"{reader} {value:g}" for reader, value in zip(READERS, values, strict=True))
        for name, values in (("bias", BIAS), ("drift", DRIFT), ("noise", NOISE))
    }
    page = head_of(
        __doc__,
        studies=settings.studies,
        readers=len(READERS),
        cases=CASES,
        spread=SPREAD,
        population=POPULATION,
        chance=1.96 * np.sqrt(0.95 * 0.05 / settings.studies),
        finding=f"{inside} of {len(shares)} shares lie between {LEAST:.0%} and {MOST:.0%}, all from "
        f"{min(shares):.1%} to {max(shares):.1%}, with a mean of {np.mean(shares):.1%}.",
        tables="\n\n".join(tables),
        **numbers,
    )
    publish(page, settings.output)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
