"""Shortcuts: can the label be told from what should not tell it, and the source from the image?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.audit.features import Evidence, Kind, gather
from casewise.audit.findings import Finding, Level
from casewise.audit.metadata import audited_columns, levels, one_size_one_class, source_column
from casewise.audit.probes import Floats, Labels, ProbeResult, adjusted, enough, probe
from casewise.audit.regions import Embed
from casewise.audit.sentences import Lone, remedy, sentence
from casewise.cohort.labels import panel_values

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

__all__ = ["Shortcuts", "look_for_shortcuts"]

# What tells is told where it is beyond chance; it stops a run where it tells this well.
ALPHA = 0.01
STRONG_AUROC, STRONG_R = 0.80, 0.60
# Two figures that differ by less say the same.
ALIKE = 0.03
# For the progress bar: the share of the time that gathering takes, and pieces of evidence beside the columns.
GATHERED, MOST_PARTS = 0.3, 8
FEWEST_OF_SOURCE, FEWEST_OF_CLASS = 10, 20


@dataclass(frozen=True, eq=False)
class Answer:
    """One question and how well it was answered; `within` is the class that a source was told in."""

    evidence: Evidence
    target: str
    labels: Labels
    told: ProbeResult
    p: float = 1.0
    within: str = ""
    by_filling: bool = False

    @property
    def strength(self) -> float:
        """How well the class that is told best is told; for numbers, r."""
        return max([self.told.value, *self.told.by_class.values()])

    @property
    def figures(self) -> dict[str, Any]:
        """The figures as plain values."""
        classed = bool(self.labels.names)
        found = {
            "target": self.target,
            "evidence": self.evidence.name + (f" ({self.evidence.how})" if self.evidence.how else ""),
            "metric": "auroc" if classed else "r",
            "value": self.told.value,
            "by_class": self.told.by_class,
            "p": self.told.p,
            "p_adjusted": self.p,
            "images": len(self.labels.values),
            "subjects": int(self.labels.subjects.max()) + 1,
        }
        return found | ({"within": self.within} if self.within else {})


@dataclass(frozen=True)
class Shortcuts:
    """The findings, every question that was asked with its figures, what could not be asked, and the columns tried."""

    findings: list[Finding]
    asked: list[dict[str, Any]]
    not_asked: list[str]
    columns: list[str]


def look_for_shortcuts(
    study: Study,
    cohort: Cohort,
    tiles: TileStore,
    *,
    embed: Embed | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Shortcuts:
    """Try to tell every predicted target from each piece of evidence, and the source from the image.

    Args:
        tiles: the tile of image i is row i.
        embed: a network, tiles (n, C, H, W) `uint8` to features (n, d); borders and masked images are shown to it, too.
        progress: called with the share that is done and what comes next.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name what is not there, or masks do not match their images.
    """
    tell = progress or (lambda share, text: None)
    images = cohort.images
    columns = audited_columns(study, images)
    evidence: list[Evidence] = []
    for one in gather(study, images, tiles, columns, embed=embed):
        evidence.append(one)
        tell(GATHERED * len(evidence) / (len(columns) + MOST_PARTS), one.name)
    truths = {name: panel_values(cohort.panels, study, name)[images["panel"].to_numpy()] for name in study.outputs}
    questions = [(t, one) for t in truths for one in evidence if one.kind != "source-from-image"]
    answers: list[Answer] = []
    not_asked: list[str] = []
    for number, (target, one) in enumerate(questions):
        tell(GATHERED + (1 - GATHERED) * number / len(questions), f"{target} from {one.name}")
        answer = _ask(study, images, one, target, truths[target])
        answers += [answer] if answer else []
        not_asked += [] if answer else [f"{target} from {one.name}"]
    several = [c for c in map(str, images.columns) if len({*levels(images[c].astype(str).tolist())} - {""}) > 1]
    source = source_column([c for c in several if c in columns])
    pictures = next(one for one in evidence if one.kind == "source-from-image")
    # Two families of questions: the label from what should not tell it, and the source from the image.
    reverse = list(_reverse(study, images, pictures, source, truths)) if source else []
    answers = [*_adjusted(answers), *_adjusted(reverse)]
    found = _findings(study, images, truths, answers, source)
    findings = list(_with_sizes(study, images, tiles, truths, found))
    return Shortcuts(findings, [a.figures for a in answers], list(dict.fromkeys(not_asked)), columns)


def _adjusted(answers: list[Answer]) -> list[Answer]:
    """Answers with p-values that hold for all of them together."""
    return [replace(a, p=p) for a, p in zip(answers, adjusted([a.told for a in answers]), strict=True)]


def _ask(study: Study, images: pd.DataFrame, evidence: Evidence, target: str, values: Floats) -> Answer | None:
    """Tell a target from one piece of evidence; None where there is too little to tell, or to tell it from."""
    classes = study.classes_of(target)
    subjects = images["subject"].to_numpy()[evidence.rows]
    values = values[evidence.rows]
    kept = enough(values, subjects, classed=bool(classes))
    labels = Labels.of(values[kept], subjects[kept], classes, permutations=study.audit.permutations, seed=study.seed)
    told = probe(evidence.features[kept], labels, seed=study.seed) if labels else None
    if labels is None or told is None:
        return None
    by_filling = False
    if evidence.filled is not None and 0.05 < evidence.filled[kept].mean() < 0.95:
        plain = probe(
            evidence.filled[kept, None].astype(float), replace(labels, moved=labels.moved[:0]), seed=study.seed
        )
        by_filling = plain is not None and plain.value > told.value - ALIKE
    return Answer(evidence, target, labels, told, by_filling=by_filling)


def _reverse(
    study: Study, images: pd.DataFrame, pictures: Evidence, source: str, truths: dict[str, Floats]
) -> Iterator[Answer]:
    """Tell the source from the image, within each class that comes from several."""
    subjects = images["subject"].to_numpy()[pictures.rows]
    cells = np.array(levels(images[source].astype(str).to_numpy()[pictures.rows].tolist()))
    for target, values in truths.items():
        for number, name in enumerate(study.classes_of(target)):
            inside = (values[pictures.rows] == number) & (cells != "")
            found, counts = np.unique(cells[inside], return_counts=True)
            found = found[counts >= FEWEST_OF_SOURCE]
            inside &= np.isin(cells, found)
            if len(found) < 2 or inside.sum() < FEWEST_OF_CLASS:
                continue
            codes = np.searchsorted(found, cells).astype(float)
            inside &= enough(np.where(inside, codes, np.nan), subjects, classed=True)
            labels = Labels.of(
                codes[inside], subjects[inside], [str(s) for s in found],
                permutations=study.audit.permutations, seed=study.seed,
            )  # fmt: skip
            told = probe(pictures.features[inside], labels, seed=study.seed) if labels else None
            if labels and told:
                yield Answer(pictures, target, labels, told, within=name)


def level_of(kind: Kind, strength: float, *, classed: bool) -> Level:
    """The level of evidence that tells beyond chance.

    A thumbnail can hold the disease itself and a file's size its traces, so that neither stops a run.

    >>> [level_of(kind, 0.85, classed=True) for kind in ("border", "thumbnail", "file-size")]
    ['error', 'warning', 'note']
    >>> [level_of(kind, 0.7, classed=True) for kind in ("border", "thumbnail", "file-size")]
    ['warning', 'note', 'note']
    """
    strong = strength >= (STRONG_AUROC if classed else STRONG_R)
    if kind == "file-size":
        return "note"
    if kind == "thumbnail":
        return "warning" if strong else "note"
    return "error" if strong else "warning"


def _findings(
    study: Study, images: pd.DataFrame, truths: dict[str, Floats], answers: list[Answer], source: str | None
) -> list[Finding]:
    """One finding for each evidence and target that is beyond chance; of two ways to look, the one that tells more."""
    tabled, source = source, source.removeprefix("table_") if source else None
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        if answer.p <= ALPHA:
            groups.setdefault((answer.evidence.name, answer.target, answer.within), []).append(answer)
    sources = {a.target: a.strength for a in answers if a.p <= ALPHA and a.evidence.name == source}
    found = []
    several = len({answer.target for answer in answers}) > 1
    for group in groups.values():
        best = max(group, key=lambda answer: answer.strength)
        kind, name, classed = best.evidence.kind, best.evidence.name, bool(best.labels.names)
        # Whether a cell is filled in is no property of the picture: where the source is known, it is the source's mark.
        marks_source = best.by_filling and sources.get(best.target, -1.0) > best.strength - ALIKE
        if kind == "source-from-image":
            # A source that goes with no label can be seen without harm.
            level: Level = "warning" if best.target in sources else "note"
            id = f"source-told-{best.within}"
        else:
            level = "warning" if marks_source else level_of(kind, best.strength, classed=classed)
            id = "shortcut-" + re.sub(r"\W+", "-", name)
        if several:
            # a reason given for one target must not pass another
            id += f"-{best.target}"
        figures = best.figures | _rank_correlation(study, best)
        if len(group) > 1:
            figures["others"] = [a.figures for a in group if a is not best]
        text = sentence(
            kind, name, best.target, best.told, p=best.p, how=best.evidence.how, within=best.within,
            source=source or "", by_filling=best.by_filling, marks_source=marks_source,
            classes=len(study.classes_of(best.target)),
        )  # fmt: skip
        reading, column = ("levels", source or "") if marks_source else (best.evidence.reading, name)
        over = (column if column in images else f"table_{column}") if kind == "column" else tabled
        classes = study.classes_of(best.target)
        lone = _lone(images, over, best.target, truths[best.target], classes) if over and over in images else None
        advice = remedy(kind, column, reading=reading, source=source, mask=study.audit.mask, lone=lone)
        place = (kind == "source-from-image", name != source, -best.strength)
        found.append((place, Finding(id, level, text, figures, remedy=advice)))
    # The source first, for it explains the others.
    return [finding for _, finding in sorted(found, key=lambda pair: pair[0])]


def _lone(images: pd.DataFrame, column: str, target: str, values: Floats, classes: list[str]) -> Lone | None:
    """A class that stands in one value of a column only, if there is one; without it, nobody could learn the class."""
    cells = images[column].astype(str).str.strip().to_numpy()
    stands = {name: np.unique(cells[values == number]) for number, name in enumerate(classes)}
    alone = next((name for name, found in stands.items() if len(found) == 1), None)
    if alone is None:
        return None
    inside = {str(value): [n for n, found in stands.items() if value in found] for value in np.unique(cells)}
    value = max(inside, key=lambda each: len(inside[each]))
    among = (value, inside[value]) if len(inside[value]) > 1 else None
    return Lone(target, alone, str(stands[alone][0]), among)


def _rank_correlation(study: Study, answer: Answer) -> dict[str, float]:
    """For grades: Spearman's correlation of the grade that is expected from the scores with the one recorded."""
    if study.kind_of(answer.target) != "ordinal" or answer.within:
        return {}
    from scipy.stats import spearmanr

    scores = answer.told.scores
    return {"spearman": float(spearmanr(scores @ np.arange(1, scores.shape[1] + 1), answer.labels.values)[0])}


def _with_sizes(
    study: Study, images: pd.DataFrame, tiles: TileStore, truths: dict[str, Floats], findings: list[Finding]
) -> Iterator[Finding]:
    """The findings, and the perfect giveaway among files: a class all of whose images have a size of their own."""
    told: dict[str, str] = {}
    for target, values in truths.items():
        classes, known = study.classes_of(target), ~np.isnan(values)
        named = [classes[int(number)] for number in values[known]] if classes else []
        subjects = images["subject"].to_numpy()[known]
        if own := one_size_one_class(tiles.index[known], named, subjects) if classes else []:
            listed = " and ".join(f"{name} ({size})" for name, size in own)
            told[target] = f"All images of {target} {listed} have one size that no other class has: a perfect giveaway."
    for finding in findings:
        text = told.pop(finding.figures["target"], "") if finding.id == "shortcut-files" else ""
        yield replace(finding, level="error", sentence=f"{finding.sentence} {text}") if text else finding
    for target, text in told.items():
        yield Finding("shortcut-files", "error", text, {"target": target}, remedy=remedy("files", "files"))
