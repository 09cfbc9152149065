"""Shortcuts: is the label predicted by evidence that should not predict it, and the source by the image?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from casewise.audit import regions
from casewise.audit.columns import further_columns, has_code, repeats
from casewise.audit.findings import Finding, Level
from casewise.audit.hashes import in_parallel
from casewise.audit.metadata import (
    audited_columns,
    encode,
    file_features,
    file_rate,
    levels,
    one_size_one_class,
    source_column,
)
from casewise.audit.probes import ALPHA, Floats, Labels, ProbeResult, adjusted, enough, probe
from casewise.audit.sentences import SingleClass, fill, remedy, shortcut_sentence
from casewise.audit.twins import shown_by
from casewise.cohort.groups import numbers_in, recorded
from casewise.cohort.targets import panel_values
from casewise.targets import kind_named

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

# Evidence that predicts beyond chance is a finding; from these values on it stops a run.
STRONG_AUROC, STRONG_R = 0.80, 0.60
# Values that differ by less count as equal.
EQUAL = 0.03
# For the progress bar: the share of the time for gathering, and the number of pieces of evidence besides columns.
GATHERING, MAX_EVIDENCE = 0.3, 15
FEWEST_OF_SOURCE, FEWEST_OF_CLASS = 10, 20
Kind = Literal[
    "column", "files", "file-size", "shape-pad", "shape-stretch", "border", "thumbnail",
    "outside-anatomy", "source-from-image", "brightness", "contrast", "sharpness", "compression", "other-column",
]  # fmt: skip
SHAPES: dict[str, Kind] = {"pad": "shape-pad", "stretch": "shape-stretch"}
# Evidence that the disease itself can change, or that networks see only indirectly, so that it does not stop a run.
AMBIGUOUS = (
    "thumbnail", "shape-stretch", "brightness", "contrast", "sharpness", "compression", "other-column",
)  # fmt: skip
# The largest number of images that are tested; an effect that a network could use is visible in these.
MAX_IMAGES = 5_000
# The largest number of images that are embedded, because embedding on a CPU takes longer than all other steps.
MAX_EMBEDDED = 800


@dataclass(frozen=True, eq=False)
class Evidence:
    """Features (n, d) of the images `rows` that should not predict any label.

    Attributes:
        filled: (n,) for columns, whether a cell is filled in.
        how: the variant of the features, if not plain grey values.
        reading: for columns, the type as which the column was read.
    """

    name: str
    kind: Kind
    rows: NDArray[np.int64]
    features: NDArray[np.floating[Any]]
    filled: NDArray[np.bool_] | None = None
    how: str = ""
    reading: str = ""


@dataclass(frozen=True, eq=False)
class ShortcutTest:
    """One test and its result; `within` is the class within which a source was predicted.

    Of a border without what its appearance explains, `as_it_is` is the test of the border as it is, and `measures` are
    the names of the measures of appearance.
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

    @property
    def strength(self) -> float:
        """The AUROC of the best predicted class; for numbers, r."""
        return max([self.result.value, *self.result.by_class.values()])

    @property
    def figures(self) -> dict[str, Any]:
        """The result as plain values."""
        figures = {
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
        figures |= {"as_it_is": self.as_it_is.figures} if self.as_it_is else {}
        return figures | ({"within": self.within} if self.within else {})


@dataclass(frozen=True)
class Shortcuts:
    """The findings, the results of all tests, the tests that were not possible, and the tested columns."""

    findings: list[Finding]
    tested: list[dict[str, Any]]
    not_tested: list[str]
    columns: list[str]


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
    columns = audited_columns(study, images)
    further, too_many = further_columns(study, images, columns)
    evidence: list[Evidence] = []
    for item in chain(
        gather(study, images, tiles, columns, embed=embed), gather_appearance(study, images, tiles, further)
    ):
        evidence.append(item)
        report(GATHERING * len(evidence) / (len(columns) + len(further) + MAX_EVIDENCE), item.name)
    labels = {name: panel_values(cohort.panels, study, name)[images["panel"].to_numpy()] for name in study.outputs}
    restated = dict(_restated(study, images, further, labels))
    questions = [
        (target, item)
        for target in labels
        for item in evidence
        if item.kind != "source-from-image" and (target, item.name) not in restated
    ]
    answers: list[ShortcutTest] = []
    not_tested = [f"{target} from {name}" for target in labels for name in too_many]
    results = in_parallel(
        lambda question: _test(study, images, question[1], question[0], labels[question[0]]), questions
    )
    for number, ((target, item), answer) in enumerate(zip(questions, results, strict=True)):
        report(GATHERING + (1 - GATHERING) * number / len(questions), f"{target} from {item.name}")
        answers += [answer] if answer else []
        not_tested += [] if answer else [f"{target} from {item.name}"]
    # another variant of the evidence may have been tested
    answered = {f"{answer.target} from {answer.evidence.name}" for answer in answers}
    not_tested = [text for text in not_tested if text not in answered]
    varying = [c for c in map(str, images.columns) if len({*levels(images[c].astype(str).tolist())} - {""}) > 1]
    source = source_column([c for c in varying if c in columns])
    pictures = next(item for item in evidence if item.kind == "source-from-image")
    # two families of tests: the label from the evidence, and the source from the image
    source_answers = list(_test_source(study, images, pictures, source, labels)) if source else []
    answers = [*_adjusted(answers), *_adjusted(source_answers)]
    kept, explained = without_explained(study, images, tiles, labels, answers)
    answers += [answer for answer in kept if answer.as_it_is]
    findings = list(_with_sizes(study, images, tiles, labels, _findings(study, images, labels, kept, source)))
    findings = [_with_explained(finding, explained) for finding in findings]
    findings += [
        _restated_finding(name, target, restated[target, name], several=len(labels) > 1)
        for target, name in sorted(restated)
    ]
    tested = [a.figures for a in answers]
    return Shortcuts(findings, tested, list(dict.fromkeys(not_tested)), [*columns, *further])


def _restated(
    study: Study, images: pd.DataFrame, columns: list[str], labels: dict[str, Floats]
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The targets with the columns that are these in other words, or probably codes of them, and how this was seen."""
    subjects = images["subject"].astype(str).to_numpy()
    for name in columns:
        text = images[name].astype(str).tolist()
        plain = name.removeprefix("table_")
        for target, values in labels.items():
            classes = study.classes_of(target)
            if repeats(plain, text, values, classes):
                yield (target, plain), {"code": "restated"}
            elif has_code(plain, text, values, classes, target, subjects):
                yield (target, plain), {"code": "coded", "subjects": len(np.unique(subjects[~np.isnan(values)]))}


def _restated_finding(name: str, target: str, how: dict[str, Any], *, several: bool) -> Finding:
    """The note about a column that is a target in other words."""
    code = "shortcut-" + re.sub(r"\W+", "-", name) + (f"-{target}" if several else "")
    figures = {"target": target, "evidence": name, how["code"]: True}
    figures |= {"subjects": how["subjects"]} if "subjects" in how else {}
    sentence = fill(how["code"], name=name, target=target, subjects=how.get("subjects", 0))
    return Finding(code, "note", sentence, figures, remedy=fill(f"{how['code']} remedy", name=name))


def without_explained(
    study: Study, images: pd.DataFrame, tiles: TileStore, labels: dict[str, Floats], answers: list[ShortcutTest]
) -> tuple[list[ShortcutTest], dict[str, ShortcutTest]]:
    """The answers, of which those from the border keep only what the appearance of the whole image does not explain.

    Where both predict a target and the border hardly better, the border is tested again: of pictures with equal
    brightness and contrast, without the regression on those measures of appearance that predict the target. What then
    predicts replaces the answers from the border; if nothing does, they are left out, and the best is returned.
    """
    explained: dict[str, ShortcutTest] = {}
    for target, values in labels.items():
        mine = [answer for answer in answers if answer.target == target and not answer.within]
        at_border = [answer for answer in mine if answer.evidence.kind == "border"]
        best = max((answer for answer in at_border if answer.p <= ALPHA), key=lambda a: a.strength, default=None)
        measures = [a.evidence for a in mine if a.evidence.kind in regions.APPEARANCE and a.p <= ALPHA]
        if best is None or not measures:
            continue
        together, *at_border_without = _without_appearance(tiles, measures)
        joint = _test(study, images, together, target, values)
        if joint is None or best.strength > joint.strength + EQUAL:
            continue
        tests = (_test(study, images, item, target, values) for item in at_border_without)
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


def _without_appearance(tiles: TileStore, measures: list[Evidence]) -> Iterator[Evidence]:
    """These measures of appearance together, then the border and its corners without what they explain."""
    rows = measures[0].rows
    for item in measures[1:]:
        rows = np.intersect1d(rows, item.rows)
    covariates = [item.features[np.isin(item.rows, rows)] for item in measures]
    yield Evidence("appearance", measures[0].kind, rows, np.column_stack(covariates))
    equal = regions.standardised(regions.pictures(tiles, rows))
    for features, how in ((regions.border(equal), ""), (regions.corners(equal), "its corners, ")):
        rest = regions.without(features, covariates)
        yield Evidence("border", "border", rows, rest, how=f"{how}without what its appearance explains")


def _with_explained(finding: Finding, explained: dict[str, ShortcutTest]) -> Finding:
    """A finding on the appearance with a sentence on the border that it explains."""
    target, evidence = finding.figures.get("target"), finding.figures.get("evidence")
    if target not in explained or evidence not in regions.APPEARANCE:
        return finding
    border = explained[target]
    metric = "AUROC" if border.labels.names else "r ="
    text = fill("explained", target=target, value=f"{metric} {border.result.value:.2f}")
    figures = finding.figures | {"explains": border.figures}
    return replace(finding, sentence=f"{finding.sentence} {text}", figures=figures)


def _adjusted(answers: list[ShortcutTest]) -> list[ShortcutTest]:
    """The answers with p-values adjusted for all of them."""
    return [replace(a, p=p) for a, p in zip(answers, adjusted([a.result for a in answers]), strict=True)]


def _test(study: Study, images: pd.DataFrame, evidence: Evidence, target: str, values: Floats) -> ShortcutTest | None:
    """Predict a target from one piece of evidence; None if there are too few cases, or nothing varies."""
    classes = study.classes_of(target)
    subjects = images["subject"].to_numpy()[evidence.rows]
    values = values[evidence.rows]
    included = enough(values, subjects, classed=bool(classes))
    labels = Labels.of(
        values[included], subjects[included], classes, permutations=study.audit.permutations, seed=study.seed
    )
    result = probe(evidence.features[included], labels, seed=study.seed) if labels else None
    if labels is None or result is None:
        return None
    by_filling = False
    if evidence.filled is not None and 0.05 < evidence.filled[included].mean() < 0.95:
        plain = probe(
            evidence.filled[included, None].astype(float), replace(labels, moved=labels.moved[:0]), seed=study.seed
        )
        by_filling = plain is not None and plain.value > result.value - EQUAL
    return ShortcutTest(evidence, target, labels, result, by_filling=by_filling)


def _test_source(
    study: Study, images: pd.DataFrame, pictures: Evidence, source: str, labels_by_target: dict[str, Floats]
) -> Iterator[ShortcutTest]:
    """Predict the source from the image, within each class that comes from several sources."""
    subjects = images["subject"].to_numpy()[pictures.rows]
    cells = np.array(levels(images[source].astype(str).to_numpy()[pictures.rows].tolist()))
    for target, values in labels_by_target.items():
        for number, name in enumerate(study.classes_of(target)):
            inside = (values[pictures.rows] == number) & (cells != "")
            sources, counts = np.unique(cells[inside], return_counts=True)
            sources = sources[counts >= FEWEST_OF_SOURCE]
            inside &= np.isin(cells, sources)
            if len(sources) < 2 or inside.sum() < FEWEST_OF_CLASS:
                continue
            codes = np.searchsorted(sources, cells).astype(float)
            inside &= enough(np.where(inside, codes, np.nan), subjects, classed=True)
            labels = Labels.of(
                codes[inside], subjects[inside], [str(s) for s in sources],
                permutations=study.audit.permutations, seed=study.seed,
            )  # fmt: skip
            result = probe(pictures.features[inside], labels, seed=study.seed) if labels else None
            if labels and result:
                yield ShortcutTest(pictures, target, labels, result, within=name)


def level_of(kind: Kind, strength: float, *, classed: bool) -> Level:
    """The level of evidence that predicts beyond chance.

    A thumbnail or the brightness can show the disease itself, it affects the size of a file, and a column can describe
    it, so these do not stop a run. Networks see the shape of an image in its bars; without bars, only by what is
    distorted or cut off.

    >>> [level_of(kind, 0.85, classed=True) for kind in ("border", "thumbnail", "shape-stretch", "file-size")]
    ['error', 'warning', 'warning', 'note']
    >>> [level_of(kind, 0.7, classed=True) for kind in ("shape-pad", "thumbnail", "shape-stretch", "file-size")]
    ['warning', 'note', 'note', 'note']
    """
    strong = strength >= (STRONG_AUROC if classed else STRONG_R)
    if kind == "file-size":
        return "note"
    if kind in AMBIGUOUS:
        return "warning" if strong else "note"
    return "error" if strong else "warning"


def _findings(
    study: Study, images: pd.DataFrame, labels: dict[str, Floats], answers: list[ShortcutTest], source: str | None
) -> list[Finding]:
    """One finding for each evidence and target beyond chance; of several variants, the one that predicts best."""
    tabled, source = source, source.removeprefix("table_") if source else None
    groups: dict[tuple[str, str, str], list[ShortcutTest]] = {}
    for answer in answers:
        if answer.p <= ALPHA:
            groups.setdefault((answer.evidence.name, answer.target, answer.within), []).append(answer)
    sources = {a.target: a.strength for a in answers if a.p <= ALPHA and a.evidence.name == source}
    ordered = []
    several_targets = len({answer.target for answer in answers}) > 1
    for group in groups.values():
        best = max(group, key=lambda answer: answer.strength)
        kind, name, classed = best.evidence.kind, best.evidence.name, bool(best.labels.names)
        # whether a cell is filled in is a property of the source, not of the picture
        marks_source = best.by_filling and sources.get(best.target, -1.0) > best.strength - EQUAL
        if kind == "source-from-image":
            # a source that is not associated with a label does no harm
            level: Level = "warning" if best.target in sources else "note"
            code = f"source-predictable-{best.within}"
        else:
            level = "warning" if marks_source and kind == "column" else level_of(kind, best.strength, classed=classed)
            code = "shortcut-" + re.sub(r"\W+", "-", name)
        if several_targets:
            # a reason for one target must not accept another
            code += f"-{best.target}"
        figures = best.figures | _rank_correlation(study, best)
        if len(group) > 1:
            figures["others"] = [a.figures for a in group if a is not best]
        classes = study.classes_of(best.target)
        text = shortcut_sentence(best, source=source or "", marks_source=marks_source, classes=len(classes))
        reading, column = ("levels", source or "") if marks_source else (best.evidence.reading, name)
        named = kind in ("column", "other-column")
        over = (column if column in images else f"table_{column}") if named else tabled
        if named and over in images:
            reading = _reading(reading, images[over])
        single = (
            _single_class(images, over, best.target, labels[best.target], classes) if over and over in images else None
        )
        advice = remedy(kind, column, reading=reading, source=source, mask=study.audit.mask, single=single)
        rank = (kind == "source-from-image", name != source, -best.strength)
        ordered.append((rank, Finding(code, level, text, figures, remedy=advice)))
    # the source first, because it explains the others
    return [finding for _, finding in sorted(ordered, key=lambda pair: pair[0])]


def _reading(reading: str, cells: pd.Series) -> str:
    """How a remedy reads a column: levels that are all numbers are `codes` of sources or a quantity of few values.

    >>> import pandas as pd
    >>> [_reading("levels", pd.Series(cells)) for cells in (["0", "1", ""], ["A", "1"])]
    ['codes', 'levels']
    """
    return "codes" if reading == "levels" and numbers_in(recorded(cells)) is not None else reading


def _single_class(
    images: pd.DataFrame, column: str, target: str, values: Floats, classes: list[str]
) -> SingleClass | None:
    """A class that occurs with one value of a column only, if there is one."""
    cells = images[column].astype(str).str.strip().to_numpy()
    by_class = {name: np.unique(cells[values == number]) for number, name in enumerate(classes)}
    label = next((name for name, class_values in by_class.items() if len(class_values) == 1), None)
    if label is None:
        return None
    by_value = {
        str(value): [name for name, class_values in by_class.items() if value in class_values]
        for value in np.unique(cells)
    }
    value = max(by_value, key=lambda name: len(by_value[name]))
    among = (value, by_value[value]) if len(by_value[value]) > 1 else None
    return SingleClass(target, label, str(by_class[label][0]), among)


def _rank_correlation(study: Study, answer: ShortcutTest) -> dict[str, float]:
    """For grades: Spearman's correlation between the expected grade from the scores and the recorded grade."""
    if answer.within or not kind_named(study.kind_of(answer.target)).rank_correlation:
        return {}
    from scipy.stats import spearmanr

    scores = answer.result.scores
    return {"spearman": float(spearmanr(scores @ np.arange(1, scores.shape[1] + 1), answer.labels.values)[0])}


def _with_sizes(
    study: Study, images: pd.DataFrame, tiles: TileStore, labels: dict[str, Floats], findings: list[Finding]
) -> Iterator[Finding]:
    """The findings, with one for classes whose images all have a size that no other class has."""
    sentences: dict[str, str] = {}
    for target, values in labels.items():
        classes, labelled = study.classes_of(target), ~np.isnan(values)
        names = [classes[int(number)] for number in values[labelled]] if classes else []
        subjects = images["subject"].to_numpy()[labelled]
        if single_sizes := one_size_one_class(tiles.index[labelled], names, subjects) if classes else []:
            listed = " and ".join(f"{name} ({size})" for name, size in single_sizes)
            sentences[target] = fill("one size", target=target, classes=listed)
    for finding in findings:
        text = sentences.pop(finding.figures["target"], "") if finding.id == "shortcut-files" else ""
        yield replace(finding, level="error", sentence=f"{finding.sentence} {text}") if text else finding
    for target, text in sentences.items():
        yield Finding("shortcut-files", "error", text, {"target": target}, remedy=remedy("files", "files"))


# ------------------------------------------------------------------------------------------------------- evidence


def gather_appearance(study: Study, images: pd.DataFrame, tiles: TileStore, columns: list[str]) -> Iterator[Evidence]:
    """The evidence of whole images, and of columns with other than the usual names."""
    rows = _tested(images, np.arange(len(images)), study.seed)
    subjects = images["subject"].to_numpy()
    for name in columns:
        column = encode(name, images[name].astype(str).to_numpy()[rows].tolist(), subjects[rows])
        plain = name.removeprefix("table_")
        yield Evidence(plain, "other-column", rows, column.features, column.filled, reading=column.kind)
    pictures = regions.pictures(tiles, rows)
    yield Evidence("brightness", "brightness", rows, regions.brightness(pictures))
    yield Evidence("contrast", "contrast", rows, regions.contrast(pictures))
    sample = _sample(images, rows, regions.MOST_READ, study.seed)
    paths = shown_by(images)
    sharpness, compression, read = regions.in_files([paths[row] for row in sample])
    if read.any():
        yield Evidence("sharpness", "sharpness", sample[read], sharpness[read])
        yield Evidence("compression", "compression", sample[read], compression[read])


def _sample(images: pd.DataFrame, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of `rows`: first one image of each subject, then a second one, and so on."""
    if len(rows) <= most:
        return rows
    shuffled = np.random.default_rng([seed, most]).permutation(rows)
    round_ = images["subject"].iloc[shuffled].groupby(images["subject"].iloc[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(round_, kind="stable")[:most]])


def _tested(images: pd.DataFrame, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The tested images: all up to a limit, or one of each subject if subjects have different numbers of images.

    Labels are permuted between subjects; this is exact only if all subjects have the same number of images.
    """
    counts = images["subject"].iloc[rows].value_counts()
    return _sample(images, rows, min(MAX_IMAGES, len(counts)) if counts.nunique() > 1 else MAX_IMAGES, seed)


def gather(
    study: Study, images: pd.DataFrame, tiles: TileStore, columns: list[str], *, embed: regions.Embed | None = None
) -> Iterator[Evidence]:
    """All evidence, one piece after another; row i of `tiles` is image i.

    Raises:
        CohortError: masks are missing or do not match their images.
    """
    rows = _tested(images, np.arange(len(images)), study.seed)
    subjects = images["subject"].to_numpy()[rows]
    for name in columns:
        column = encode(name, images[name].astype(str).to_numpy()[rows].tolist(), subjects)
        yield Evidence(name.removeprefix("table_"), "column", rows, column.features, column.filled, reading=column.kind)
    yield Evidence("files", "files", rows, file_features(tiles.index.iloc[rows], subjects))
    yield Evidence("file-size", "file-size", rows, file_rate(tiles.index.iloc[rows]))
    if (shape := regions.shape(tiles, rows)) is not None:
        fit = tiles.preparation.fit
        yield Evidence("shape", SHAPES[fit], rows, shape)
    small = regions.pictures(tiles, rows)
    yield Evidence("border", "border", rows, regions.border(small))
    yield Evidence("border", "border", rows, regions.corners(small), how="its corners")
    if regions.has_bars(tiles, rows):
        inner = regions.pictures(tiles, rows, bars=False)
        yield Evidence("border", "border", rows, regions.border(inner), how="inside the bars")
        yield Evidence("border", "border", rows, regions.corners(inner), how="its corners inside the bars")
    if embed:
        sample = _sample(images, rows, MAX_EMBEDDED, study.seed)
        yield Evidence(
            "border", "border", sample, regions.embedded(embed, tiles, sample, None), how="seen by a network"
        )
    yield Evidence("thumbnail", "thumbnail", rows, regions.thumbnail(small))
    yield Evidence("image", "source-from-image", rows, regions.grey_features(small))
    masked, masks = regions.read_masks(study, images, tiles)
    tested = np.isin(masked, _tested(images, masked, study.seed)) if len(masked) else np.zeros(0, bool)
    masked, masks = masked[tested], masks[tested]
    if len(masked):
        small = regions.pictures(tiles, masked)
        yield Evidence("outside-anatomy", "outside-anatomy", masked, regions.outside(small, masks))
        if embed:
            sample = _sample(images, masked, MAX_EMBEDDED, study.seed)
            embedded = regions.embedded(embed, tiles, sample, masks[np.isin(masked, sample)])
            yield Evidence("outside-anatomy", "outside-anatomy", sample, embedded, how="seen by a network")
