"""The page of a reader study: how far readers differ, who stands out, how many are needed, and readers beside model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.results import Estimate, Figures
from casewise.files import write_atomic
from casewise.plugins.readers.agreement import (
    FLEISS,
    ICC_AGREEMENT,
    ICC_CONSISTENCY,
    KRIPPENDORFF,
    Agreement,
    agreements,
    mean_of_others,
    ratings_of,
)
from casewise.plugins.readers.coefficients import CLASSES, GRADES, NUMBERS, readers_for
from casewise.plugins.readers.duel import (
    BLIND,
    Duel,
    ModelPredictions,
    ReaderDuel,
    against_reference,
    duels,
)
from casewise.plugins.readers.form import Form, FormField
from casewise.plugins.readers.multi_reader import Inference, ModalityComparison, ReaderMean
from casewise.report.blocks import (
    FOLDER,
    Block,
    Cell,
    Fold,
    Heading,
    Items,
    Matrix,
    Plot,
    Plots,
    Row,
    Section,
    Table,
    Text,
    plain_page,
)
from casewise.report.context import report_title
from casewise.report.figures.drawing import FAINT, MARKERS, SERIES, Drawing, Look, canvas, key, limits, svg
from casewise.report.formatting import capital, counted, digits_of, interval, listed, number, percent, plain, signed
from casewise.report.tables import MetricFormat, confusion, figure_cell, split_key
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

# The page has no list of contents beside it.
STYLE = "\n@media (min-width: 1100px) { .page { display: block; } }\n"
FOOTER = "This page names readers and describes how they judge: treat it as confidentially as the readings."
WANTED = 0.9
# Koo and Li 2016
LEVELS = {"excellent": 0.9, "good": 0.75, "moderate": 0.5, "poor": -1.0}
MOST_MATRICES, MOST_CLASSES = 3, 8
TITLES = {
    "mae": "Two readings differ by",
    "agreement": "Equal readings",
    ICC_AGREEMENT: "ICC(2,1)",
    ICC_CONSISTENCY: "ICC(3,1)",
    KRIPPENDORFF: "Krippendorff’s alpha",
    FLEISS: "Fleiss’ kappa",
    "kappa": "Kappa",
    "kappa_quadratic": "Weighted kappa",
    "bias": "Bias",
    "loa_low": "Lower limit",
    "loa_high": "Upper limit",
}
BETWEEN = (
    "All readers, first readings. ICC(2,1): agreement in the value (in words after Koo and Li 2016, over the interval);"
    " ICC(3,1): agreement but for a constant difference of readers. Alpha also uses cases that only some readers read."
    " Intervals by subject, for these readers."
)
READERS = (
    "Bias: the reader minus the mean of the others on the same cases. Drift: the change of this difference from the"
    " first to the last case of the session. Read twice: cases that were shown again without notice. An interval is"
    " for one figure: of twenty, about one excludes 0 by chance."
)
PAIRS = (
    "Bias: the second reader minus the first. Limits of agreement: 95 % of the differences lie between them; of"
    " subjects with several cases, with the variance between and within subjects (Bland and Altman 2007)."
)
COUNTS = (
    "Reliability of the mean of so many readers (Spearman and Brown) and, below, how far it lies from the mean of all"
    " readers in 95 % of the cases. Both take readers as interchangeable, with independent errors."
)
DUEL = (
    "{model}, {source}. Each reader is compared with the mean of the other readers, and the model with the same mean"
    " on the same cases. Difference: the model’s {error} minus the reader’s, below 0 where the model is nearer."
    " {margin}"
)
REFERENCE = (
    "Against {reference}. Other readers: intervals for other readers and cases (Obuchowski and Rockette, Hillis);"
    " these readers: for other cases only. AUROC of calls: the mean of sensitivity and specificity."
)
WRITE = MetricFormat()
KINDS = {NUMBERS: "Numbers", GRADES: "Grades", CLASSES: "Classes"}


@dataclass(frozen=True)
class Scale:
    """The words and digits of one target."""

    title: str
    kind: str
    digits: int
    names: tuple[str, ...]

    @property
    def in_percent(self) -> bool:
        """Whether differences are shares: of classes."""
        return self.kind == CLASSES

    @property
    def unit(self) -> str:
        """The unit of differences."""
        return {NUMBERS: "points", GRADES: "grades"}.get(self.kind, "percentage points")

    def cell(self, name: str, figures: Figures) -> Cell:
        """A figure of a table; a dash where a kind does not have it."""
        metric = name.split("[")[0]
        if name not in figures:
            return Cell("–")
        shares = metric == "agreement"
        digits = 0 if shares else self.digits if metric in ("mae", "bias", "loa_low", "loa_high") else 2
        return figure_cell(figures[name], digits, percent=shares, sign=metric in ("bias", "loa_low", "loa_high"))

    def difference(self, figure: Estimate) -> Cell:
        """A bias or drift."""
        return figure_cell(figure, 0 if self.in_percent else self.digits, percent=self.in_percent, sign=True)

    def words(self, figure: Estimate) -> str:
        """The size of a difference with its unit and interval, within a sentence."""
        factor, digits = (100, 0) if self.in_percent else (1, self.digits)
        value = number(abs(figure.value or 0.0) * factor, digits)
        sign = np.sign(figure.value or 0.0) * factor
        ends = sorted(sign * end for end in (figure.low, figure.high) if end is not None)
        return f"{value} {self.unit}" + (f" ({number(ends[0], digits)} to {number(ends[1], digits)})" if ends else "")


def write_agreement(
    readings: pd.DataFrame,
    form: Form,
    path: Path,
    *,
    study: Study,
    model: ModelPredictions | pd.DataFrame | None = None,
) -> Path:
    """Write `agreement.html` of a readings table.

    Args:
        readings: of all sessions; agreement and duel use the blind ones.
        study: its title, and the margins that it states in advance.
        model: what is compared with the readers; a table has the columns of `ModelPredictions.rows`.

    Raises:
        CasewiseError: there is no blind reading with a value; the file cannot be written.
    """
    blind = readings[readings["kind"] == BLIND]
    if not blind["value"].notna().any():
        raise CasewiseError("There are no blind readings with a value yet. Read cases with `casewise rate` first.")
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed, unit=study.unit)
    if isinstance(model, pd.DataFrame):
        two = {name: study.classes_of(name).index(str(study.positive_of(name))) for name in _two_classes(form)}
        model = ModelPredictions("The model", "on cases that it was not trained on", model, positive=two)
    page = Page(blind, {field.target: _scale(field) for field in form.fields}, agreements(blind, form.fields, plan))
    of_model = duels(blind, form.fields, model, study.key("reading").margin, plan) if model else {}
    sections = [page.result(of_model, synthetic=study.synthetic), *page.details()]
    if model and of_model:
        sections.append(page.duel(of_model, model))
    if model and (compared := against_reference(readings, form.fields, model, plan)):
        sections.append(page.reference(compared, model))
    title, style = report_title(study), (FOLDER / "report.css").read_text() + STYLE
    return write_atomic(path, plain_page(title, sections, kind="Agreement of readers", style=style, footer=FOOTER))


def _two_classes(form: Form) -> list[str]:
    return [each.target for each in form.fields if _scale(each).kind == CLASSES and len(each.options) == 2]


def _scale(field: FormField) -> Scale:
    kind = kind_named(field.kind).metrics_of
    digits = 2 if kind == GRADES else digits_of(field.low, field.high)
    return Scale(capital(plain(field.target)), kind, digits, tuple(option.value for option in field.options))


@dataclass(frozen=True)
class Page:
    """What the page shows: the blind readings, the scale of each target, and the agreement by target key."""

    blind: pd.DataFrame
    scales: Mapping[str, Scale]
    results: Mapping[str, Agreement]

    @property
    def whole(self) -> dict[str, Agreement]:
        """The agreement by target, over all regions."""
        return {name: result for name, result in self.results.items() if "[" not in name}

    def scale(self, name: str) -> Scale:
        """The scale of a target key."""
        return self.scales[split_key(name)[0]]

    def label(self, name: str) -> str:
        """A target key in words."""
        target, region = split_key(name)
        return self.scales[target].title + (f", {plain(region)}" if region else "")

    # ------------------------------------------------------------------------------------------------ first screen

    def result(self, of_model: Mapping[str, Duel], *, synthetic: bool) -> Section:
        """The answers in words."""
        readers = sorted(self.blind["reader"].astype(str).unique())
        read = self.blind[self.blind["value"].notna()]
        sizes = f"{counted(read['case'].nunique(), 'case')} of {counted(read['subject'].nunique(), 'subject')}"
        phantom = "Synthetic phantom data, not patients. " if synthetic else ""
        blocks: list[Block] = [Text(f"{phantom}{counted(len(readers), 'reader')} scored {sizes}, blinded.")]
        questions = {
            "How far do readers differ?": self.how_far(),
            "Does a reader stand out?": self.who_stands_out(),
            "Does a reader give the same answer twice?": self.read_twice(),
            "How many readers are needed?": self.how_many(),
            "Is the model as close to the readers as a reader is?": self.is_model_as_close(of_model),
        }
        for question, answers in questions.items():
            if answers:
                blocks += [Heading(question), Items(answers)]
        return Section("result", "Result", blocks)

    def how_far(self) -> list[str]:
        """A sentence for each target."""
        sentences = []
        for name, result in self.whole.items():
            scale, figures = self.scale(name), result.between
            if not figures:
                return ["One reader: agreement with others is unknown."]
            first = figures["agreement" if scale.kind == CLASSES else "mae"]
            if first.value is None:
                sentences.append(f"{scale.title}: undefined ({first.reason}).")
            elif scale.kind == CLASSES:
                ends = interval(first, 0, words=True, percent=True)
                sentences.append(f"{scale.title}: two readers agree on {percent(first.value)} of the cases{_in(ends)}.")
            else:
                icc = figures[ICC_AGREEMENT]
                ends = interval(icc, 2, words=True)
                reliable = f"agreement is {level(icc)}, ICC(2,1) {number(icc.value, 2)}{_in(ends)}"
                text = f"two readers of a case differ by {scale.words(first)} on average"
                sentences.append(f"{scale.title}: {text}" + ("." if icc.value is None else f"; {reliable}."))
        return sentences

    def who_stands_out(self) -> list[str]:
        """The readers whose bias or drift has an interval that excludes 0, or that none has."""
        sentences, defined = [], 0
        for name, result in self.whole.items():
            scale = self.scale(name)
            what = (
                f"calls cases {plain(scale.names[1])}" if scale.kind == CLASSES and len(scale.names) == 2 else "scores"
            )
            for reader, figures in result.readers.items():
                defined += figures.bias.low is not None
                if excludes_zero(figures.bias):
                    more = ("more", "less") if scale.kind == CLASSES else ("higher", "lower")
                    side = more[(figures.bias.value or 0) < 0]
                    often = " often" if scale.kind == CLASSES else ""
                    sentences.append(
                        f"{scale.title}: {reader} {what} {side}{often} than the others, by {scale.words(figures.bias)}."
                    )
                if excludes_zero(figures.drift):
                    moves = "rises" if (figures.drift.value or 0) > 0 else "falls"
                    text = f"the difference of {reader} from the others {moves} by {scale.words(figures.drift)}"
                    sentences.append(f"{scale.title}: {text} over the session.")
        if sentences or not defined:
            return sentences
        return ["No bias and no drift is shown: the interval of every reader’s difference from the others includes 0."]

    def read_twice(self) -> list[str]:
        """How far repeated readings differ, by target, for all readers."""
        sentences, repeated = [], False
        for name, result in self.whole.items():
            scale, texts = self.scale(name), []
            for reader, figures in result.readers.items():
                figure = figures.again.get("agreement" if scale.kind == CLASSES else "mae")
                if figure is None or figure.value is None:
                    continue
                same = percent(figure.value) if scale.kind == CLASSES else number(figure.value, scale.digits)
                texts.append(f"{reader} {same}")
            if texts:
                repeated = True
                noun = "equal answers" if scale.kind == CLASSES else f"mean difference in {scale.unit}"
                sentences.append(f"{scale.title}, {noun}: {listed(texts)}.")
        return sentences if repeated else ["Unknown: too few cases were read twice."]

    def how_many(self) -> list[str]:
        """The number of readers for a reliable mean, by target."""
        sentences = []
        for name, result in self.whole.items():
            icc = result.between.get(ICC_AGREEMENT)
            if icc is None or icc.value is None:
                continue
            count = readers_for(icc.value, WANTED)
            title = self.scale(name).title
            if count is None:
                sentences.append(f"{title}: no number of readers has a reliable mean; they do not agree.")
                continue
            most = None if icc.low is None else readers_for(icc.low, WANTED)
            up_to = f", {most} by the lower end of its interval" if most and most > count else ""
            means = "reader has" if count == 1 else "readers have a mean with"
            sentences.append(f"{title}: {count} {means} a reliability of {WANTED:g} or more{up_to}.")
        return sentences

    def is_model_as_close(self, of_model: Mapping[str, Duel]) -> list[str]:
        """The verdict of the mean over readers, by target."""
        sentences = []
        for name, duel in of_model.items():
            gap = duel.mean.difference
            if "[" in name or gap.value is None:
                continue
            scale = self.scale(name)
            if scale.kind == CLASSES:
                side = "more" if gap.value < 0 else "less"
                size = f"the model agrees with the others {side} often than a reader does, by {scale.words(gap)}"
            else:
                side = "nearer to" if gap.value < 0 else "farther from"
                size = f"the model is {scale.words(gap)} {side} the others than a reader is"
            sentences.append(f"{scale.title}: {_verdict(duel.mean, duel.margin, scale)}; {size}.")
        return sentences

    # ------------------------------------------------------------------------------------------------------ details

    def details(self) -> list[Section]:
        """Tables and figures of what the first screen says."""
        sections = [
            Section("targets", "Agreement by target", self.by_target()),
            Section("readers", "Each reader", self.by_reader()),
            Section("pairs", "Pairs of readers", self.by_pair()),
            Section("number", "Number of readers", self.by_number()),
        ]
        return [section for section in sections if section.blocks]

    def by_target(self) -> list[Block]:
        """The figures of all readers for each target key, one table for each kind."""
        names = {
            NUMBERS: ("mae", ICC_AGREEMENT, ICC_CONSISTENCY, KRIPPENDORFF),
            GRADES: ("mae", "agreement", ICC_AGREEMENT, ICC_CONSISTENCY, FLEISS, KRIPPENDORFF),
            CLASSES: ("agreement", FLEISS, KRIPPENDORFF),
        }
        blocks: list[Block] = []
        for kind, columns in names.items():
            rows = [
                Row(
                    self.label(name),
                    [Cell(str(result.n_cases)), *(self.scale(name).cell(column, result.between) for column in columns)],
                    inner="[" in name,
                )
                for name, result in self.results.items()
                if result.kind == kind and result.between
            ]
            if rows:
                caption = f"{KINDS[kind]}. {'' if blocks else BETWEEN}"
                blocks.append(Table(["Target", "Readings of", *(TITLES[n] for n in columns)], rows, caption, wide=True))
        return blocks

    def by_reader(self) -> list[Block]:
        """A figure for each target, the table of readers, and folded that of regions."""
        plots = [plot for name in self.whole if (plot := self.plot(name)) is not None]
        regions = {name: result for name, result in self.results.items() if "[" in name}
        blocks: list[Block] = [Plots(plots)] if plots else []
        blocks.append(self.reader_table(self.whole, READERS))
        if regions:
            blocks.append(Fold("By region", [self.reader_table(regions, "Each reader by region.")]))
        return blocks

    def reader_table(self, results: Mapping[str, Agreement], caption: str) -> Table:
        """A row for each reader below each target key."""
        heads = [
            "Reader",
            "Read",
            "Not judged",
            "Bias",
            "Drift",
            "Read twice",
            "Both readings differ by, or equal",
            "ICC(2,1), or kappa",
        ]
        rows = []
        for name, result in results.items():
            scale, own = self.scale(name), {NUMBERS: ICC_AGREEMENT, GRADES: "kappa_quadratic", CLASSES: "kappa"}
            for reader, figures in result.readers.items():
                again = figures.again
                apart = again.get("agreement" if scale.kind == CLASSES else "mae")
                cells = [Cell(str(figures.n_cases)), Cell(str(figures.unreadable))]
                cells += [scale.difference(figures.bias), scale.difference(figures.drift)]
                cells.append(Cell(str(apart.n_cases if apart else 0)))
                cells.append(scale.cell("agreement" if scale.kind == CLASSES else "mae", again))
                cells.append(scale.cell(own[scale.kind], again))
                rows.append(Row(f"{self.label(name)}: {reader}" if len(results) > 1 else reader, cells))
        return Table(heads, rows, caption, wide=True)

    def plot(self, name: str) -> Plot | None:
        """The difference of each reader from the mean of the others; None of classes, or of one reader."""
        scale, result = self.scale(name), self.results[name]
        if scale.kind == CLASSES or not result.between:
            return None
        ratings = ratings_of(self.blind[self.blind["target"] == name])
        drawing = reader_differences(ratings.readers, ratings.first, scale, name)
        biases = [f"{reader} {signed(f.bias.value, scale.digits)}" for reader, f in result.readers.items()]
        alt = f"{scale.title}, difference of each reader from the mean of the others; bias: {', '.join(biases)}."
        return Plot(drawing, alt, f"{scale.title}: each reader minus the mean of the others. Lines: bias.")

    def by_pair(self) -> list[Block]:
        """Each pair of readers, with the counts of classes of a few."""
        blocks: list[Block] = []
        for name, result in self.whole.items():
            scale = self.scale(name)
            if not result.pairs:
                continue
            names = [column for column in TITLES if column in next(iter(result.pairs.values()))]
            names = [column for column in names if column not in (ICC_CONSISTENCY, KRIPPENDORFF, FLEISS)]
            rows = [
                Row(pair.replace(" | ", " and "), [scale.cell(column, figures) for column in names])
                for pair, figures in result.pairs.items()
            ]
            caption = f"{scale.title}. {PAIRS}" if "bias" in names and not blocks else f"{scale.title}."
            blocks.append(Table(["Pair", *(TITLES[column] for column in names)], rows, caption, wide=True))
            if scale.kind != NUMBERS and len(rows) <= MOST_MATRICES and len(scale.names) <= MOST_CLASSES:
                blocks.append(Fold(f"{scale.title}: answers of each pair", self.matrices(name)))
        return blocks

    def matrices(self, name: str) -> list[Block]:
        """The counts of answers of each pair of readers."""
        ratings, names = ratings_of(self.blind[self.blind["target"] == name]), self.scale(name).names
        blocks: list[Block] = []
        for pair in self.results[name].pairs:
            first, second = (ratings.readers.index(reader) for reader in pair.split(" | "))
            both = ratings.first[:, [first, second]]
            codes = both[~np.isnan(both).any(axis=1)].astype(int)
            counts = np.zeros((len(names), len(names)), dtype=int)
            np.add.at(counts, tuple(codes.T), 1)
            reader, other = ratings.readers[first], ratings.readers[second]
            blocks.append(
                Matrix(confusion(names, counts.tolist()), f"{reader} and {other}.", reader, other, tight=True)
            )
        return blocks

    def by_number(self) -> list[Block]:
        """The reliability of the mean of several readers."""
        rows = []
        for name, result in self.whole.items():
            cells = []
            for each in result.means:
                ends = interval(each.reliability, 2)
                half = f"± {number(each.half_width, self.scale(name).digits)} {self.scale(name).unit}"
                cells.append(Cell(number(each.reliability.value, 2), f"{ends} {half}".strip()))
            if cells:
                rows.append(Row(self.label(name), cells))
        counts = next((r.means for r in self.whole.values() if r.means), [])
        heads = ["Target", *(counted(each.readers, "reader") for each in counts)]
        return [Table(heads, rows, COUNTS)] if rows else []

    # ------------------------------------------------------------------------------------------------------- the model

    def duel(self, of_model: Mapping[str, Duel], model: ModelPredictions) -> Section:
        """Each reader and the model against the other readers."""
        blocks: list[Block] = []
        whole = {name: duel for name, duel in of_model.items() if "[" not in name}
        for name, duel in whole.items():
            blocks.append(self.duel_table(name, duel, model))
        tables = [self.duel_table(name, duel, model, short=True) for name, duel in of_model.items() if "[" in name]
        return Section("model", "Readers and model", [*blocks, *([Fold("By region", tables)] if tables else [])])

    def duel_table(self, name: str, duel: Duel, model: ModelPredictions, *, short: bool = False) -> Table:
        """A row for each reader and for the mean over readers."""
        scale, shares = self.scale(name), duel.kind == CLASSES
        rows = []
        for reader, each in [*duel.readers.items(), ("Mean over readers", duel.mean)]:
            cells = [
                figure_cell(figure, 0 if shares else scale.digits, percent=shares, sign=figure is each.difference)
                for figure in (each.reader, each.model, each.difference)
            ]
            rows.append(Row(reader, [*cells, Cell(_verdict(each, duel.margin, scale))], mark=each is duel.mean))
        error = "share of the others who disagree" if shares else "mean distance from the others"
        stated = "No margin was stated in advance."
        if duel.margin is not None:
            stated = f"Margin stated in advance: {_margin(duel.margin, scale)}."
        caption = DUEL.format(model=capital(model.name), source=model.source, error=error, margin=stated)
        heads = ["Reader", f"Reader: {error}", "Model", "Difference", "The model is"]
        return Table(heads, rows, f"{self.label(name)}." if short else f"{self.label(name)}. {caption}")

    def reference(
        self, compared: Mapping[str, Mapping[str, Sequence[ModalityComparison]]], model: ModelPredictions
    ) -> Section:
        """Readers, model, and readers with the model, against a reference that depends on no reader."""
        names = {"model": ("Model", "Readers"), "aided": ("Readers with the model", "Readers without")}
        blocks: list[Block] = []
        for target, pairs in compared.items():
            for pair, comparisons in pairs.items():
                rows = []
                for each in comparisons:
                    metric, gap = each.metric, each.difference
                    cells = [
                        _mean_cell(metric, each.first, each.mean_first),
                        _mean_cell(metric, each.second, each.mean_second),
                        *(_gap_cell(metric, gap.value, inference) for inference in (gap.random, gap.fixed)),
                    ]
                    rows.append(Row(WRITE.title(metric) + (" of calls" if metric == "auroc" else ""), cells))
                sizes = f"{counted(comparisons[0].n_cases, 'case')} of {counted(comparisons[0].n_subjects, 'subject')}"
                caption = f"{self.scales[target].title}, {sizes}. {REFERENCE.format(reference=model.reference)}"
                heads = ["Figure", *names[pair], "Difference, other readers", "Difference, these readers"]
                blocks.append(Table(heads, rows, caption))
        return Section("reference", "Against the reference", blocks)


def reader_differences(readers: Sequence[str], values: np.ndarray, scale: Scale, name: str) -> Drawing:
    """Each reader's values (N, R) minus the mean of the others over that mean, with each bias as a line."""
    others = mean_of_others(values)
    apart = values - others
    with canvas(420, 330 + 17 * -(-len(readers) // 3), (54, 50 + 17 * -(-len(readers) // 3), 12, 12)) as (figure, axes):
        axes.axhline(0, color=FAINT, linewidth=1.4)
        for number, reader in enumerate(readers):
            look: Look = {"color": SERIES[number % len(SERIES)], "markeredgecolor": "white", "markeredgewidth": 0.5}
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(others[:, number], apart[:, number], marker, label=reader[:20], markersize=5, alpha=0.8, **look)
            if not np.isnan(apart[:, number]).all():
                axes.axhline(float(np.nanmean(apart[:, number])), color=look["color"], linewidth=1.2)
        axes.set(xlim=limits(others), ylim=limits(apart, [0.0], margin=0.1))
        axes.set(xlabel=f"Mean of the others ({scale.unit})", ylabel="Reader − others")
        key(axes, loc="lower center", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0.2)
        return svg(figure, f"readers-{name}")


def excludes_zero(figure: Estimate) -> bool:
    """Whether a figure's interval lies on one side of 0.

    >>> excludes_zero(Estimate(1.0, 0.5, 1.5, 20, 20, False)), excludes_zero(Estimate(1.0, None, None, 2, 2, True))
    (True, False)
    """
    return figure.low is not None and figure.high is not None and figure.low * figure.high > 0


def level(icc: Estimate) -> str:
    """The level of a reliability in words, over its interval.

    >>> level(Estimate(0.8, 0.6, 0.95, 20, 20, False))
    'moderate to excellent'
    """
    ends = [icc.value or 0.0] if icc.low is None or icc.high is None else [icc.low, icc.high]
    names = [next(name for name, lowest in LEVELS.items() if end >= lowest) for end in ends]
    return " to ".join(dict.fromkeys(names))


def _in(ends: str) -> str:
    return f" ({ends})" if ends else ""


def _margin(margin: float, scale: Scale) -> str:
    return f"{100 * margin:g} percentage points" if scale.in_percent else f"{margin:g} {scale.unit}"


def _verdict(each: ReaderDuel, margin: float | None, scale: Scale) -> str:
    if each.verdict == "not worse" and margin is not None:
        return f"not worse than a reader by more than {_margin(margin, scale)}"
    return {"better": "better than a reader"}.get(each.verdict, "not shown to be as close as a reader")


def _mean_cell(metric: str, columns: Sequence[Estimate], mean: ReaderMean) -> Cell:
    """The model's figure, or the mean over readers with its interval for other readers."""
    return WRITE.cell(metric, columns[0] if len(columns) == 1 else {"value": mean.value, **mean.random})


def _gap_cell(metric: str, value: float | None, inference: Inference) -> Cell:
    return WRITE.difference(metric, {"difference": value, **inference})
