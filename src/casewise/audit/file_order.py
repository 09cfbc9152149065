"""Labels in streaks along the file numbers, which random folds divide, where subjects are not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.audit.findings import Finding
from casewise.audit.sentences import fill
from casewise.cohort.targets import panel_values
from casewise.splits.file_numbers import file_series
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study

PERMUTATIONS = 999
# A finding needs a p-value of at most the first, and neighbours that agree more often than by chance by the second.
HIGHEST_P, LEAST_EXCESS = 0.01, 0.05


def streak_findings(study: Study, cohort: Cohort) -> list[Finding]:
    """A warning for each target whose labels agree between neighbouring file numbers more often than by chance.

    Only where subjects are not known and folds are random: neighbouring files may then show the same person.
    """
    if study.subjects_known or study.split.by == "number":
        return []
    panels = cohort.panels
    path_of = cohort.images.groupby(cohort.images["subject"].astype(str))["path"].first()
    series = file_series([str(path_of[subject]) for subject in panels["subject"].astype(str)])
    findings = []
    for name in study.outputs if series else []:
        values = panel_values(panels, study, name)
        recorded = ~np.isnan(values)
        labels = kind_named(study.kind_of(name)).fold_labels(values, *study.range_of(name), len(study.classes_of(name)))
        of_series = [labels[rows[recorded[rows]]] for rows in series]
        agreement, expected, p = neighbours(of_series, study.seed)
        if p <= HIGHEST_P and agreement - expected >= LEAST_EXCESS:
            figures = {"target": name, "agreement": agreement, "expected": expected, "p": p, "images": len(labels)}
            sentence, remedy = fill("label-streaks", **figures), fill("label-streaks remedy")
            findings.append(Finding("label-streaks", "warning", sentence, figures, remedy=remedy))
    return findings


def neighbours(series: list[np.ndarray], seed: int) -> tuple[float, float, float]:
    """How often neighbours have the same label, how often if each series is shuffled, and the p-value.

    >>> [round(figure, 3) for figure in neighbours([np.repeat([0, 1, 0, 1], 10)], 0)]
    [0.923, 0.489, 0.001]
    >>> neighbours([np.zeros(5, int), np.ones(5, int)], 0)  # folders of classes
    (1.0, 1.0, 1.0)
    """
    labels = np.concatenate([np.zeros(0, int), *series])
    number = np.repeat(np.arange(len(series)), list(map(len, series)))
    pairs = np.flatnonzero(np.diff(number) == 0)
    if not len(pairs):
        return 0.0, 0.0, 1.0
    random = np.random.default_rng([seed, 14])
    agreed = (labels[pairs] == labels[pairs + 1]).mean()
    shuffled = np.empty(PERMUTATIONS)
    for draw in range(PERMUTATIONS):
        mixed = labels[np.lexsort((random.random(len(labels)), number))]
        shuffled[draw] = (mixed[pairs] == mixed[pairs + 1]).mean()
    p = (1 + int((shuffled >= agreed - 1e-12).sum())) / (1 + PERMUTATIONS)
    return float(agreed), float(shuffled.mean()), p
