"""Shortcuts: is the label predicted by evidence that should not predict it, and the source by the image?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit import regions
from casewise.audit.columns import columns_with_gaps, further_columns, repeats
from casewise.audit.evidence import ENDS, Evidence, EvidenceSources, Kind
from casewise.audit.findings import APPEARANCE, Finding, Level
from casewise.audit.hashes import in_parallel
from casewise.audit.metadata import levels, probed_columns, source_column
from casewise.audit.probes import ALPHA, Floats, Labels, ProbeResult, adjusted, enough, probe, strength_interval
from casewise.audit.sentences import fill, remedy, shortcut_sentence, value_of
from casewise.cohort.cohort import Cohort
from casewise.cohort.groups import numbers_in, recorded
from casewise.cohort.targets import panel_values
from casewise.errors import listed
from casewise.modalities.overlays import place_of
from casewise.modalities.registry import modality_of
from casewise.modalities.store.store import TileStore
from casewise.study.schema import Study

# Evidence that predicts beyond chance is a finding. It stops a run if the 90 % interval lies above these values.
STRONG_AUROC, STRONG_R = 0.80, 0.60
# Values that differ by less count as equal.
EQUAL = 0.03
# For the progress bar: the share of the time for gathering, and the number of pieces of evidence besides columns.
GATHERING, MAX_EVIDENCE = 0.3, 18
FEWEST_OF_SOURCE, FEWEST_OF_CLASS = 10, 20
# Evidence that the disease itself can change, or that networks see only indirectly, so that it does not stop a run.
AMBIGUOUS = (
    "marks", "thumbnail", "shape-stretch", "file-name", "brightness", "contrast", "sharpness", "compression",
    "grey-levels", "other-column", "other-filling",
)  # fmt: skip
FILLINGS = ("filling", "other-filling")
# Of a column that changes within more than this share of the subjects, no value can be left out.
MOST_WITH_SEVERAL = 0.1


def _inside_without(inside: Callable[[], Floats], covariates: list[Floats]) -> Floats:
    return regions.without(inside(), covariates)


@dataclass(frozen=True, eq=False)
class ShortcutTest:
    """One test and its result; `within` is the class within which a source was predicted.

    For a border adjusted for its appearance, `as_it_is` is the test before adjusting, and `measures` names the measures
    of appearance. `inside` is the test of an equally large area inside the image, and `strongest` the test of the side
    or corner that predicts best; both are without p. `interval` is the 90 % interval of the strength, by subject.
    """

    evidence: Evidence
    target: str
    labels: Labels
    result: ProbeResult
    p: float = 1.0
    within: str = ""
    by_filling: bool = False
    as_it_is: ShortcutTest | None = None
    measures: tuple[str, ...] = ()
    inside: ShortcutTest | None = None
    strongest: ShortcutTest | None = None
    interval: tuple[float, float] | None = None

    @property
    def strength(self) -> float:
        """The AUROC of the best predicted class; for numbers, r."""
        return max([self.result.value, *self.result.by_class.values()])

    @property
    def low(self) -> float:
        """The lower end of the interval of the strength; the strength without an interval."""
        return self.interval[0] if self.interval else self.strength

    @property
    def of_content(self) -> bool:
        """Whether a border predicts no better than the inside, so that it may only be a piece of the content."""
        return self.inside is not None and self.inside.strength > self.strength - EQUAL

    @property
    def figures(self) -> dict[str, Any]:
        """The result as plain values."""
        figures: dict[str, Any] = {
            "target": self.target,
            "evidence": self.evidence.name + (f" ({self.evidence.how})" if self.evidence.how else ""),
            "metric": "auroc" if self.labels.names else "r",
            "value": self.result.value,
            "by_class": self.result.by_class,
            "p": self.result.p,
            "p_adjusted": self.p,
            "images": len(self.labels.values),
            "subjects": int(self.labels.subjects.max()) + 1,
            "subjects_of_smallest": self.labels.of_smallest,
        }
        figures |= {"interval": list(self.interval)} if self.interval else {}
        figures |= {"by_filling": True} if self.by_filling else {}
        figures |= {"as_it_is": self.as_it_is.figures} if self.as_it_is else {}
        compared = {"inside": self.inside, "strongest": self.strongest}
        for name, test in compared.items():
            if test:
                result = {"value": test.result.value, "by_class": test.result.by_class}
                figures[name] = result | {"evidence": test.evidence.how}
        return figures | ({"within": self.within} if self.within else {})


@dataclass(frozen=True)
class Shortcuts:
    """The findings, the results of all tests, the tests that were not possible, the tested columns, and the marks.

    `measured` are the kinds of evidence that were looked for, also without any to test.
    """

    findings: list[Finding]
    tested: list[dict[str, object]]
    not_tested: list[str]
    columns: list[str]
    overlays: list[dict[str, object]]
    measured: list[str]


def find_shortcuts(
    study: Study,
    cohort: Cohort,
    tiles: TileStore,
    *,
    embed: regions.Embed | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Shortcuts:
    """Test whether each piece of evidence predicts each target, and whether the image predicts the source.

    Args:
        tiles: the tile of image i is row i.
        embed: a network that maps tiles (n, C, H, W) `uint8` to features (n, d), also for masked images.
        progress: called with the share that is done and the next step.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name missing columns, or masks do not match their images.
    """
    report = progress or (lambda share, text: None)
    images = cohort.images
    search = _Search(
        study,
        images,
        tiles,
        {name: panel_values(cohort.panels, study, name)[images["panel"].to_numpy()] for name in study.outputs},
    )
    columns = probed_columns(study, images)
    further, too_many = further_columns(study, images, columns)
    gaps = columns_with_gaps(study, images)
    evidence: list[Evidence] = []
    for item in search.sources.gather(columns, further, gaps, embed):
        evidence.append(item)
        expected = len(columns) + len(further) + len(gaps) + MAX_EVIDENCE
        report(GATHERING * len(evidence) / expected, f"measuring {item.name}")
    restated = search.restated(further)
    questions = [
        (target, item)
        for target in search.labels
        for item in evidence
        if item.kind != "source-from-image"
        and (target, item.name) not in restated
        and not (item.kind == "file-name" and search.named_by_class(target))
    ]
    answers: list[ShortcutTest] = []
    for number, ((target, item), answer) in enumerate(
        zip(questions, in_parallel(lambda question: search.test(*question), questions), strict=True)
    ):
        report(GATHERING + (1 - GATHERING) * number / len(questions), f"is {target} predictable from {item.name}?")
        answers += [answer] if answer else []
    # another variant of the evidence may have been tested
    answered = {(answer.target, answer.evidence.name) for answer in answers}
    left_out = [(target, name) for target in search.labels for name in too_many]
    # images without any mark leave nothing to test
    left_out += [(target, item.name) for target, item in questions if item.kind != "marks" or item.features.any()]
    not_tested = [f"{target} from {name}" for target, name in dict.fromkeys(left_out) if (target, name) not in answered]
    varying = [c for c in map(str, images.columns) if len({*levels(images[c])} - {""}) > 1]
    source = source_column([c for c in varying if c in columns])
    pictures = next(item for item in evidence if item.kind == "source-from-image")
    # two families of tests: the label from the evidence, and the source from the image
    answers = [*_adjusted(answers), *_adjusted(list(search.test_source(pictures, source)) if source else [])]
    kept, explained = search.without_explained(answers)
    answers += [answer for answer in kept if answer.as_it_is]
    kept = [search.compared(answer) for answer in kept]
    findings = [_with_explained(finding, explained) for finding in search.findings(kept, source)]
    for target, name in sorted(restated):
        code = "shortcut-" + re.sub(r"\W+", "-", name) + (f"-{target}" if len(search.labels) > 1 else "")
        figures: dict[str, object] = {"target": target, "evidence": name, "restated": True}
        sentence, advice = fill("restated", name=name, target=target), fill("restated remedy", name=name)
        findings.append(Finding(code, "note", sentence, figures, remedy=advice))
    if masked := tiles.preparation.masked:
        sentence = fill("overlays masked", places="; ".join(map(place_of, masked)))
        findings.append(Finding("overlays-masked", "note", sentence, {"boxes": [list(box) for box in masked]}))
    measured = sorted({str(item.kind) for item in evidence})
    marks = [search.mark(item) for item in evidence if item.kind == "overlay"]
    return Shortcuts(
        findings, [answer.figures for answer in answers], not_tested, [*columns, *further], marks, measured
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """The images, their tiles and the labels of each target, with what can be tested of them."""

    study: Study
    images: pd.DataFrame
    tiles: TileStore
    labels: dict[str, Floats]

    @property
    def sources(self) -> EvidenceSources:
        """What gathers the evidence from the images."""
        return EvidenceSources(self.study, self.images, self.tiles)

    @property
    def subjects(self) -> Any:
        """(N,) the subject of each image."""
        return self.sources.subjects

    def restated(self, columns: list[str]) -> set[tuple[str, str]]:
        """The targets with the columns that are these in other words."""
        return {
            (target, plain)
            for name, plain in ((name, name.removeprefix("table_")) for name in columns)
            for target, values in self.labels.items()
            if repeats(plain, self.images[name].astype(str).tolist(), values, self.study.classes_of(target))
        }

    def named_by_class(self, target: str) -> bool:
        """Whether the prefixes of the file names are the classes of a target."""
        return repeats("prefix", self.sources.prefixes, self.labels[target], self.study.classes_of(target))

    def compared(self, answer: ShortcutTest) -> ShortcutTest:
        """An answer from the border with those from the inside and from its best side or corner."""
        evidence = answer.evidence
        if evidence.inside is None or answer.p > ALPHA:
            return answer
        inner = replace(evidence, features=evidence.inside(), how="inside")
        small = regions.pictures(self.tiles, evidence.rows)
        areas = [name for name in regions.areas() if name != "inside"]
        sides = [replace(evidence, features=regions.border(small, area=area), how=area) for area in areas]
        inside, *tests = (self.test(answer.target, item, permuted=False) for item in (inner, *sides))
        # of equals the smallest
        strongest = max((test for test in tests if test), key=lambda test: round(test.strength, 2), default=None)
        return replace(answer, inside=inside, strongest=strongest)

    def mark(self, evidence: Evidence) -> dict[str, object]:
        """A kind of static mark as plain values, with the numbers of images that have it, of all, by class."""
        marked = evidence.features[:, 0] > 0
        counts = {"images": int(marked.sum()), "examined": len(marked), "by_class": self.marked_by_class(evidence)}
        assert evidence.overlay
        example = int(evidence.rows[evidence.overlay.example])
        return {"place": evidence.how, "box": list(evidence.overlay.box), "example": example, **counts}

    def marked_by_class(self, evidence: Evidence) -> dict[str, dict[str, tuple[int, int]]]:
        """For each target with classes, the images of each class that have the mark, and all of the class."""
        marked = evidence.features[:, 0] > 0
        return {
            target: {
                name: (int((marked & of_class).sum()), int(of_class.sum()))
                for number, name in enumerate(self.study.classes_of(target))
                for of_class in [values[evidence.rows] == number]
            }
            for target, values in self.labels.items()
            if self.study.classes_of(target)
        }

    def test(self, target: str, evidence: Evidence, *, permuted: bool = True) -> ShortcutTest | None:
        """Predict a target from one piece of evidence; None if there are too few cases, or nothing varies."""
        classes, values = self.study.classes_of(target), self.labels[target][evidence.rows]
        included = enough(values, self.subjects[evidence.rows], classed=bool(classes))
        labels = self._labels(values[included], evidence.rows[included], classes)
        labels = replace(labels, moved=labels.moved[:0]) if labels and not permuted else labels
        result = probe(evidence.features[included], labels, seed=self.study.seed) if labels else None
        if labels is None or result is None:
            return None
        by_filling = evidence.kind in FILLINGS
        if not by_filling and evidence.filled is not None and 0.05 < evidence.filled[included].mean() < 0.95:
            filled, unmoved = evidence.filled[included, None].astype(float), replace(labels, moved=labels.moved[:0])
            plain = probe(filled, unmoved, seed=self.study.seed)
            by_filling = plain is not None and plain.value > result.value - EQUAL
        return ShortcutTest(evidence, target, labels, result, by_filling=by_filling)

    def _labels(self, values: Floats, rows: NDArray[np.int64], names: list[str]) -> Labels | None:
        permutations, seed = self.study.audit.permutations, self.study.seed
        return Labels.of(values, self.subjects[rows], names, permutations=permutations, seed=seed)

    def test_source(self, pictures: Evidence, source: str) -> Iterator[ShortcutTest]:
        """Predict the source from the image, within each class that comes from several sources."""
        rows = pictures.rows
        cells = np.array(levels(self.images[source]))[rows]
        for target, values in self.labels.items():
            for number, name in enumerate(self.study.classes_of(target)):
                inside = (values[rows] == number) & (cells != "")
                sources, counts = np.unique(cells[inside], return_counts=True)
                sources = sources[counts >= FEWEST_OF_SOURCE]
                inside &= np.isin(cells, sources)
                if len(sources) < 2 or inside.sum() < FEWEST_OF_CLASS:
                    continue
                codes = np.searchsorted(sources, cells).astype(float)
                inside &= enough(np.where(inside, codes, np.nan), self.subjects[rows], classed=True)
                labels = self._labels(codes[inside], rows[inside], [str(s) for s in sources])
                result = probe(pictures.features[inside], labels, seed=self.study.seed) if labels else None
                if labels and result:
                    yield ShortcutTest(pictures, target, labels, result, within=name)

    def without_explained(self, answers: list[ShortcutTest]) -> tuple[list[ShortcutTest], dict[str, ShortcutTest]]:
        """The answers; answers from the border keep only what the appearance of the image does not explain.

        Where both predict a target and the border hardly better, the border is tested again: on pictures with equal
        brightness and contrast, after regressing out the measures of appearance that predict the target. What still
        predicts replaces the answers from the border; if nothing does, they are left out, and the best is returned.
        """
        explained: dict[str, ShortcutTest] = {}
        for target in self.labels:
            mine = [answer for answer in answers if answer.target == target and not answer.within]
            at_border = [answer for answer in mine if answer.evidence.name == "border"]
            best = max((answer for answer in at_border if answer.p <= ALPHA), key=lambda a: a.strength, default=None)
            measures = [a.evidence for a in mine if a.evidence.kind in APPEARANCE and a.p <= ALPHA]
            measures = [item for item in measures if item.how != ENDS]  # a marker has such pixels, too
            if best is None or not measures:
                continue
            together, *at_border_without = self._without_appearance(measures)
            joint = self.test(target, together)
            if joint is None or best.strength > joint.strength + EQUAL:
                continue
            tests = (self.test(target, item) for item in at_border_without)
            # the answer was found beyond chance before, so that these tests only choose what it is attributed to
            names = tuple(item.name for item in measures)
            remaining = [
                replace(test, p=test.result.p, as_it_is=best, measures=names)
                for test in tests
                if test and test.result.p <= ALPHA
            ]
            answers = [answer for answer in answers if answer not in at_border] + remaining
            if not remaining:
                explained[target] = best
        return answers, explained

    def _without_appearance(self, measures: list[Evidence]) -> Iterator[Evidence]:
        """These measures of appearance together, then the border and its corners without what they explain."""
        rows = reduce(np.intersect1d, (item.rows for item in measures))
        covariates = [item.features[np.isin(item.rows, rows)] for item in measures]
        yield Evidence("appearance", measures[0].kind, rows, np.column_stack(covariates))
        equal = regions.standardised(regions.pictures(self.tiles, rows))
        for item in self.sources.borders(equal, rows, "without what its appearance explains"):
            rest = replace(item, features=regions.without(item.features, covariates))
            yield replace(rest, inside=partial(_inside_without, item.inside, covariates)) if item.inside else rest

    def findings(self, answers: list[ShortcutTest], tabled: str | None) -> list[Finding]:
        """One finding for each evidence and target beyond chance; of several variants, the one that predicts best.

        `tabled` is the column of the sources as the cohort has it.
        """
        images, source = self.images, tabled.removeprefix("table_") if tabled else None
        groups: dict[tuple[str, str, str], list[ShortcutTest]] = defaultdict(list)
        for answer in answers:
            if answer.p <= ALPHA:
                groups[answer.evidence.name, answer.target, answer.within].append(answer)
        sources = {a.target: a.strength for a in answers if a.p <= ALPHA and a.evidence.name == source}
        # a reason for one target must not accept another
        several_targets = len({answer.target for answer in answers}) > 1
        ordered = []
        for group in groups.values():
            # of a column itself and its gaps, the column if it predicts as well
            best = max(group, key=lambda a: (not a.of_content, a.strength - EQUAL * (a.evidence.kind in FILLINGS)))
            if best.evidence.kind == "other-column":  # gaps of a covariate weigh more than its values
                best = next((answer for answer in group if answer.evidence.kind == "filling"), best)
            kind, name, target = best.evidence.kind, best.evidence.name, best.target
            best = replace(best, interval=strength_interval(best.result, best.labels, seed=self.study.seed))
            classes = self.study.classes_of(target)
            # whether a cell is filled in is a property of the source, not of the picture
            marks_source = best.by_filling and sources.get(target, -1.0) > best.strength - EQUAL
            if kind == "source-from-image":
                # a source that is not associated with a label does no harm
                level: Level = "warning" if target in sources else "note"
                by_figure = level
                code = f"source-predictable-{best.within}"
            else:
                # the position of a slice is anatomy
                of_place = kind == "column" and name == modality_of(self.study).position(self.study)
                level, by_figure = (
                    _level_at(low, best, marks_source=marks_source, of_place=of_place)
                    for low in (best.low, best.strength)
                )
                code = "shortcut-" + re.sub(r"\W+", "-", name)
            others = [answer for answer in group if answer.evidence is not best.evidence]
            figures = best.figures | ({"others": [answer.figures for answer in others]} if others else {})
            reading, column = ("levels", source or "") if marks_source else (best.evidence.reading, name)
            over = tabled
            if kind in ("column", "other-column"):
                over = column if column in images else f"table_{column}"
                reading = _reading(reading, images[over]) if over in images else reading
            single = _single_class(images[over], self.labels[target], classes) if over and over in images else None
            several = bool(over) and over in images and _several(images[over], images["subject"])
            mask = self.study.audit.mask
            advice = remedy(kind, column, reading=reading, source=source, mask=mask, single=single, several=several)
            text = shortcut_sentence(best, source=source or "", marks_source=marks_source, classes=len(classes))
            text += _not_above_limit(best) if kind != "source-from-image" and level != by_figure else ""
            if kind == "overlay":
                counts = self.marked_by_class(best.evidence).get(target, {})
                figures |= {"with_mark": counts}
                on = ", ".join(f"{a:,} of {b:,} {name}" for name, (a, b) in counts.items())
                text += f" {fill('overlay counts', counts=on)}" if counts else ""
                if further := [f"{a.evidence.how.split(',')[0]} ({value_of(a)})" for a in others]:
                    text += f" {fill('overlays further', target=target, marks=listed(further))}"
            rank = (kind == "source-from-image", name != source, -best.strength)
            code += f"-{target}" if several_targets else ""
            ordered.append((rank, Finding(code, level, text, figures, remedy=advice)))
        # the source first, because it explains the others
        return [finding for _, finding in sorted(ordered, key=lambda pair: pair[0])]


def _with_explained(finding: Finding, explained: dict[str, ShortcutTest]) -> Finding:
    """A finding on the appearance with a sentence on the border that it explains."""
    target, evidence = finding.figures.get("target"), finding.figures.get("evidence")
    if target not in explained or evidence not in APPEARANCE:
        return finding
    border = explained[target]
    text = fill("explained", target=target, value=value_of(border))
    figures = finding.figures | {"explains": border.figures}
    return replace(finding, sentence=f"{finding.sentence} {text}", figures=figures)


def _adjusted(answers: list[ShortcutTest]) -> list[ShortcutTest]:
    """The answers with p-values adjusted for all of them."""
    return [replace(a, p=p) for a, p in zip(answers, adjusted([a.result for a in answers]), strict=True)]


def level_of(kind: Kind, low: float, *, classed: bool) -> Level:
    """The level of evidence that predicts beyond chance, by the lower end of the interval of its strength.

    A thumbnail or the brightness can show the disease itself, it affects the size of a file, and a column can describe
    it, so these do not stop a run. Networks see the shape of an image in its bars; without bars, only by what is
    distorted. Of slides they see tiles of tissue, not the border.

    >>> [level_of(kind, 0.85, classed=True) for kind in ("border", "thumbnail", "shape-stretch", "file-size")]
    ['error', 'warning', 'warning', 'note']
    >>> [level_of(kind, 0.7, classed=True) for kind in ("shape-pad", "thumbnail", "shape-stretch", "file-size")]
    ['warning', 'note', 'note', 'note']
    >>> level_of("brightness", 0.65, classed=True), level_of("marks", 0.65, classed=True)
    ('warning', 'note')
    """
    strong = low >= (STRONG_AUROC if classed else STRONG_R)
    if kind in ("file-size", "slide-border"):
        return "note"
    if kind == "brightness":
        return "warning"  # also a weak association: a constant change of one class is one
    if kind in AMBIGUOUS:
        return "warning" if strong else "note"
    return "error" if strong else "warning"


def _level_at(low: float, answer: ShortcutTest, *, marks_source: bool, of_place: bool) -> Level:
    kind = answer.evidence.kind
    level = level_of(kind, low, classed=bool(answer.labels.names))
    level = "warning" if (marks_source and kind == "column") or (of_place and level == "error") else level
    if answer.of_content:
        level = "warning" if level == "error" else "note"
    return level


def _not_above_limit(answer: ShortcutTest) -> str:
    """A sentence that the level would be higher by the strength alone."""
    assert answer.interval
    classed = bool(answer.labels.names)
    low, high = (f"{end:.2f}" for end in answer.interval)
    return f" {fill('not above limit', low=low, high=high, limit=f'{STRONG_AUROC if classed else STRONG_R:.2f}')}"


def _reading(reading: str, cells: pd.Series) -> str:
    """How a remedy reads a column: levels that are all numbers are `codes` of sources or a quantity of few values.

    >>> import pandas as pd
    >>> [_reading("levels", pd.Series(cells)) for cells in (["0", "1", ""], ["A", "1"])]
    ['codes', 'levels']
    """
    return "codes" if reading == "levels" and numbers_in(recorded(cells)) is not None else reading


def _several(cells: pd.Series, subjects: pd.Series) -> bool:
    """Whether more than a tenth of the subjects have several values of a column.

    >>> _several(pd.Series(["a", "b", "", "b"]), pd.Series([1, 1, 2, 2]))
    True
    """
    filled = recorded(cells) != ""
    return bool((cells[filled].groupby(subjects[filled]).nunique() > 1).mean() > MOST_WITH_SEVERAL)


def _single_class(cells: pd.Series, values: Floats, classes: list[str]) -> tuple[str, str] | None:
    """A class that occurs with one value of a column only, and that value, if there is such a class.

    >>> import pandas as pd
    >>> _single_class(pd.Series(["", "b", "b"]), np.array([0.0, 1.0, 1.0]), ["ill", "well"])
    ('well', 'b')
    """
    text = recorded(cells).to_numpy()
    by_class = {name: np.unique(text[values == number]) for number, name in enumerate(classes)}
    return next(((name, str(only[0])) for name, only in by_class.items() if len(only) == 1 and only[0]), None)
