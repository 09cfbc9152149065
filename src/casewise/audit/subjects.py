"""Whether subjects are people: names that differ only in an ending, and labels in streaks along the file numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from casewise.audit.findings import Finding
from casewise.audit.sentences import fill
from casewise.cohort.cohort import Cohort
from casewise.cohort.targets import panel_values
from casewise.splits.file_numbers import file_series
from casewise.study.schema import Study
from casewise.targets import kind_named

# An ending: a word (`left`), a number, or both (`v2`) after a separator; a letter or `v2` after a digit.
_ENDING = re.compile(
    r"(.*\w)(?:[ _.(-]+([a-z]{0,10}[ _.-]?\d{1,2}|[a-z]{1,10}|(?:19|20)\d\d)|(?<=\d)([a-z]|v\d))\)?", re.IGNORECASE
)
# Endings that follow a system are few, and occur with more stems than numbers of subjects within a site do.
MOST_ENDINGS, FEWEST_STEMS, STEMS_PER_ENDING, SHARE = 6, 3, 2, 0.5


def suffix_findings(subjects: Iterable[str]) -> list[Finding]:
    """A warning where many names are made of few endings after stems that occur several times.

    >>> [finding.figures["subjects"] for finding in suffix_findings(f"P{n}_v{v}" for n in range(9) for v in (1, 2))]
    [18]
    >>> suffix_findings(f"B{n % 2}-{n}" for n in range(90))
    []
    """
    names = sorted(set(subjects))
    by_stem: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        match = _ENDING.fullmatch(name)
        ending = (match[2] or match[3]).casefold() if match else ""
        # numbers after a number are those of a site's subjects
        if match and not (ending.isdecimal() and len(ending) < 3 and match[1].isdecimal()):
            by_stem[match[1].casefold()][ending] = name
    several = {stem: endings for stem, endings in by_stem.items() if len(endings) > 1}
    endings = sorted({ending for of_stem in several.values() for ending in of_stem})
    affected = sum(map(len, several.values()))
    few = len(endings) <= min(MOST_ENDINGS, len(several) / STEMS_PER_ENDING)
    if not few or len(several) < FEWEST_STEMS or affected < SHARE * len(names):
        return []
    first = next(iter(several.values()))
    sentence = fill(
        "subject-suffixes",
        subjects=affected,
        total=len(names),
        endings=", ".join(endings),
        example=" and ".join(repr(name) for name in list(first.values())[:2]),
    )
    figures = {"subjects": affected, "stems": len(several), "endings": endings}
    return [Finding("subject-suffixes", "warning", sentence, figures, remedy=fill("subject-suffixes remedy"))]


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
