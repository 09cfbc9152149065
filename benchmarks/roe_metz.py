"""How often do readers seem to differ between two modalities that are the same?

    python benchmarks/roe_metz.py [--studies 2000] [--output docs/results/roe-metz.md]

# Readers and modalities, simulated

{studies:,} simulated studies of each design, after
the model of Roe and Metz (1997) with its published variances: scores of two modalities are sums of normal effects of
reader, case, and their interactions with each other and with the modality. H and L are a high or low correlation of
cases (first letter) and a high or low variance of readers (second letter). The area under the ROC curve (AUROC) is
that of readers without an effect. Every study is analysed by `casewise.plugins.readers.statistics.multi_reader`, as on
the page of agreement. A test at 5 % should be significant in 5 % of the studies without a difference; chance moves a
share of 5 % by ± {chance:.1%}.

{finding}

## Without a difference: AUROC, readers and cases at random

The share of studies with p < 0.05 by the covariances of Obuchowski and Rockette with the degrees of freedom of Hillis,
and, after the slash, by the unbiased variance of Gallas. Columns: readers × cases without + with the disease.

{size}

## Without a difference: other figures

{small_readers} readers, {small} + {small} cases. Sensitivity and specificity are of calls with a threshold half-way
between the means. Fixed readers: the test holds for these readers only, and is not one of other readers; where readers
differ in what they gain, it is significant too often, as it should be if readers were drawn at random.

{others}

## With a difference

The second modality has an AUROC that is higher by {gap}: the share of studies with p < 0.05 (power), in the same
order as in the first table.

{power}
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pages import head_of, publish, simulation_parser, table
from scipy.stats import norm

from casewise.plugins.readers.statistics.multi_reader import Metric, ReaderMean, mean_over_readers

# Roe and Metz 1997: distance of the means -> AUROC, and by structure the variances of case, modality × case,
# reader × case and error, and of reader and modality × reader (the same) at each distance.
DISTANCES = {0.75: 0.702, 1.5: 0.855, 2.5: 0.962}
HIGH, LOW = (0.3, 0.3, 0.2, 0.2), (0.1, 0.1, 0.2, 0.6)
FEW, MANY = (0.0055, 0.0055, 0.0055), (0.011, 0.03, 0.056)
STRUCTURES = {"HL": (HIGH, FEW), "LL": (LOW, FEW), "HH": (HIGH, MANY), "LH": (LOW, MANY)}
DESIGNS = ((3, 50, 50), (5, 25, 25), (5, 50, 50), (5, 100, 100), (10, 50, 50))
SMALL = DESIGNS[2]
GAP = 0.05
LEVEL, LOWEST, HIGHEST = 0.05, 0.04, 0.06


@dataclass(frozen=True)
class Model:
    """The model of a structure at a distance of the means, and the difference of the AUROC of both modalities."""

    structure: str
    distance: float
    gap: float = 0.0

    def study(self, rng: np.random.Generator, readers: int, negative: int, positive: int) -> tuple[np.ndarray, ...]:
        """Truth (N,), and the scores (N, R) of both modalities."""
        (case, by_modality, by_reader, error), of_readers = STRUCTURES[self.structure]
        reader = of_readers[list(DISTANCES).index(self.distance)]
        truth = np.repeat([0, 1], [negative, positive])
        n = len(truth)
        # effects of readers differ between cases without and with the disease
        shared = (
            _effect(rng, reader, 2, readers)[truth] + _effect(rng, case, n, 1) + _effect(rng, by_reader, n, readers)
        )
        shift = np.sqrt(2) * (norm.ppf(norm.cdf(self.distance / np.sqrt(2)) + self.gap)) - self.distance
        scores = []
        for further in (0.0, shift):
            own = _effect(rng, reader, 2, readers)[truth] + _effect(rng, by_modality, n, 1)
            mean = (self.distance + further) * truth[:, None]
            scores.append(mean + shared + own + _effect(rng, error, n, readers))
        return truth, *scores

    def analysed(self, metric: Metric, design: tuple[int, int, int], studies: int) -> Iterator[ReaderMean]:
        """The difference of both modalities in each study."""
        rng = np.random.default_rng([list(STRUCTURES).index(self.structure), int(100 * self.distance), *design])
        for _ in range(studies):
            truth, first, second = self.study(rng, *design)
            if metric != "auroc":
                first, second = (scores - self.distance / 2 + 0.5 for scores in (first, second))
            yield mean_over_readers(metric, truth, first, np.arange(len(truth)), minus=second)


def _effect(rng: np.random.Generator, variance: float, *shape: int) -> np.ndarray:
    return np.sqrt(variance) * rng.normal(size=shape)


def shares(model: Model, metric: Metric, design: tuple[int, int, int], studies: int) -> dict[str, float]:
    """By analysis, the share of studies with a significant difference; a study without a test counts as without one."""
    p = {"random": [], "unbiased": [], "fixed": []}
    for mean in model.analysed(metric, design, studies):
        for name, values in p.items():
            inference = getattr(mean, name)
            values.append(inference.p if inference is not None and inference.p is not None else 1.0)
    return {name: float((np.array(values) < LEVEL).mean()) for name, values in p.items()}


def both(share: dict[str, float]) -> str:
    """A cell of the tables of the AUROC."""
    return f"{share['random']:.1%} / {share['unbiased']:.1%}"


def main() -> None:
    """Simulate, print and write the page."""
    settings = simulation_parser(__doc__, 2000).parse_args()
    start = time.perf_counter()
    models = [Model(structure, distance) for structure in STRUCTURES for distance in DISTANCES]
    size_rows, other_rows, power_rows, sizes = [], [], [], []
    for model in models:
        name = [model.structure, DISTANCES[model.distance]]
        of_designs = [shares(model, "auroc", design, settings.studies) for design in DESIGNS]
        sizes += of_designs
        size_rows.append([*name, *map(both, of_designs)])
        of_calls = [shares(model, metric, SMALL, settings.studies) for metric in ("sensitivity", "specificity")]
        fixed = of_designs[DESIGNS.index(SMALL)]["fixed"]
        other_rows.append([*name, *(f"{share['random']:.1%}" for share in of_calls), f"{fixed:.1%}"])
        if model.distance != max(DISTANCES):
            shifted = Model(model.structure, model.distance, GAP)
            power_rows.append([*name, *(both(shares(shifted, "auroc", each, settings.studies)) for each in DESIGNS)])
        print(*size_rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    heads = ["structure", "AUROC", *(f"{readers} × {n0} + {n1}" for readers, n0, n1 in DESIGNS)]
    page = head_of(
        __doc__,
        studies=settings.studies,
        chance=1.96 * np.sqrt(LEVEL * (1 - LEVEL) / settings.studies),
        finding=finding(sizes),
        small_readers=SMALL[0],
        small=SMALL[1],
        gap=GAP,
        size="\n".join(table(heads, size_rows)),
        others="\n".join(
            table(["structure", "AUROC", "sensitivity", "specificity", "AUROC, fixed readers"], other_rows)
        ),
        power="\n".join(table(heads, power_rows)),
    )
    publish(page, settings.output)
    print(f"{time.perf_counter() - start:.0f} s")


def finding(sizes: list[dict[str, float]]) -> str:
    """The mean share of each analysis, and how many shares lie between 4 and 6 %."""
    texts = []
    for name, label in (("random", "Obuchowski and Rockette"), ("unbiased", "Gallas")):
        values = np.array([each[name] for each in sizes])
        inside = int(((values >= LOWEST) & (values <= HIGHEST)).sum())
        texts.append(
            f"{label}: {values.mean():.1%} on average over the {len(values)} designs, {inside} of them between "
            f"{LOWEST:.0%} and {HIGHEST:.0%}, from {values.min():.1%} to {values.max():.1%}."
        )
    return " ".join(texts)


if __name__ == "__main__":
    main()
