"""The first screen of a reader study in words: each sentence with the condition under which it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from casewise.evaluation.figures import ByMetric, Estimate
from casewise.plugins.readers.form import FormField
from casewise.plugins.readers.rating.readings import OF_TABLE
from casewise.plugins.readers.statistics.agreement import FEWEST_SUBJECTS, ICC_AGREEMENT, Agreement
from casewise.plugins.readers.statistics.coefficients import (
    CLASSES,
    GRADES,
    NUMBERS,
    readers_for,
    readers_for_half_width,
)
from casewise.plugins.readers.statistics.duel import AIDED, BLIND, DOUBTFUL, AgainstReference, Duel, ReaderDuel
from casewise.report.blocks import Block, Cell, Heading, Items, Section, Text
from casewise.report.formatting import capital, counted, digits_of, interval, listed, number, percent, plain, signed
from casewise.report.tables import MetricFormat, figure_cell, split_key
from casewise.targets import kind_named

# The reliability of a mean of readers, and the level of the words on who stands out.
WANTED, LEVEL = 0.9, 0.05
# Koo and Li 2016; an ICC can lie below -1
LEVELS = {"excellent": 0.9, "good": 0.75, "moderate": 0.5, "poor": -np.inf}
# How readings of a kind came about.
HOW = {
    BLIND: ", blinded",
    DOUBTFUL: ", blinded; a model’s doubts chose many of the cases, so that no model is compared here",
    AIDED: " and saw a model’s predictions, so that no model is compared here",
}


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

    def cell(self, name: str, figures: ByMetric) -> Cell:
        """A figure of a table; a dash where a kind does not have it."""
        metric = name.split("[")[0]
        if name not in figures:
            return Cell("–")
        shares = metric == "agreement"
        digits = 0 if shares else self.digits if metric in ("mae", "bias", "loa_low", "loa_high") else 2
        return figure_cell(figures[name], digits, percent=shares, sign=metric in ("bias", "loa_low", "loa_high"))

    def size(self, figure: Estimate) -> Cell:
        """An error."""
        return figure_cell(figure, 0 if self.in_percent else self.digits, percent=self.in_percent)

    def difference(self, figure: Estimate) -> Cell:
        """A bias, a drift, or a difference of errors, with the digits that show whether its interval excludes 0."""
        write, metric = MetricFormat(self.digits), "accuracy" if self.in_percent else "mae"
        return write.difference(metric, {**figure})

    def words(self, figure: Estimate) -> str:
        """The size of a difference with its unit and interval, within a sentence."""
        factor, digits = (100, 0) if self.in_percent else (1, self.digits)
        value = number(abs(figure.value or 0.0) * factor, digits)
        sign = np.sign(figure.value or 0.0) * factor
        ends = sorted(sign * end for end in (figure.low, figure.high) if end is not None)
        return f"{value} {self.unit}" + (f" ({number(ends[0], digits)} to {number(ends[1], digits)})" if ends else "")


def scale_of(field: FormField) -> Scale:
    """The words and digits of a field's target."""
    kind = kind_named(field.kind).metrics_of
    digits = 2 if kind == GRADES else digits_of(field.low, field.high)
    return Scale(capital(plain(field.target)), kind, digits, tuple(option.value for option in field.options))


@dataclass(frozen=True)
class Answers:
    """The answers of the first screen.

    Attributes:
        readings: of one kind of session.
        scales, margins: by target; margins are stated in advance.
        results: by target key.
        few: by target, readers who are left out because they scored too few subjects.
        confidence: of the intervals of `results`.
    """

    readings: pd.DataFrame
    scales: Mapping[str, Scale]
    results: Mapping[str, Agreement]
    margins: Mapping[str, float] = field(default_factory=dict)
    few: Mapping[str, Sequence[str]] = field(default_factory=dict)
    confidence: float = 0.95

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

    def result(
        self, of_model: Mapping[str, Duel], compared: Mapping[str, AgainstReference], notes: Sequence[str]
    ) -> Section:
        """The answers in words, after notes on the data."""
        read = self.readings[self.readings["value"].notna()]
        readers = read["reader"].unique()
        sizes = f"{counted(read['case'].nunique(), 'case')} of {counted(read['subject'].nunique(), 'subject')}"
        # how the columns of a table were read is not known
        how = "" if (self.readings["session"] == OF_TABLE).any() else HOW[self.readings["kind"].iloc[0]]
        blocks: list[Block] = [Text(f"{counted(len(readers), 'reader')} scored {sizes}{how}.")]
        blocks += [Text(note, note=True) for note in notes]
        of_reader: dict[str, list[str]] = {}
        for name, few in self.few.items():
            for reader in few:
                of_reader.setdefault(reader, []).append(self.scale(name).title.lower())
        if of_reader:
            named = listed([f"{reader} ({', '.join(targets)})" for reader, targets in of_reader.items()])
            text = f"Left out because they have fewer than {FEWEST_SUBJECTS} subjects: {named}."
            blocks.append(Text(text, note=True))
        questions = {
            "How far do readers differ?": self.how_far(),
            "Does a reader stand out?": self.who_stands_out(),
            "Does a reader give the same answer twice?": self.read_twice(),
            "How many readers are needed?": self.how_many(),
            "Is the model as close to the readers as a reader is?": self.is_model_as_close(of_model),
            "How do readers and model compare with the reference?": self.beside_reference(compared),
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
                sentences.append(f"{scale.title}: one reader, so agreement with others is unknown.")
                continue
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
        """The readers with a bias or drift that chance among so many figures does not explain, or that none has."""
        every = [figure for r in self.whole.values() for f in r.readers.values() for figure in (f.bias, f.drift)]
        count = sum(figure.low is not None for figure in every)
        sentences = []
        for name, result in self.whole.items():
            scale = self.scale(name)
            names = list(result.readers)
            for reader, figures in result.readers.items():
                others = names[1] if len(names) == 2 else "the others"
                # with two readers, the second one's bias is the first one's with the other sign
                if _stands_out(figures.bias, count, self.confidence) and not (len(names) == 2 and reader == names[1]):
                    side = (figures.bias.value or 0.0) < 0
                    what = f"scores {('higher', 'lower')[side]}"
                    if scale.kind == CLASSES:
                        what = f"says {plain(scale.names[1])} {('more', 'less')[side]} often"
                    sentences.append(f"{scale.title}: {reader} {what} than {others}, by {scale.words(figures.bias)}.")
                if _stands_out(figures.drift, count, self.confidence):
                    moves = "falls" if (figures.drift.value or 0.0) < 0 else "rises"
                    text = f"the difference of {reader} from the others {moves} by {scale.words(figures.drift)}"
                    sentences.append(f"{scale.title}: {text} over the session.")
        none = "No bias or drift larger than chance explains among so many figures."
        return sentences if sentences or not count else [none]

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
            up_to = (
                "" if icc.low is None or most == count else f", {most or 'no number'} by the lower end of its interval"
            )
            means = "reader has" if count == 1 else "readers have a mean with"
            sentences.append(f"{title}: {count} {means} a reliability of {WANTED:g} or more{up_to}.")
            if (margin := self.margins.get(name)) is not None:
                enough = readers_for_half_width(result.means[0].half_width / 1.96, margin)
                means = "reader is" if enough == 1 else "readers have a mean"
                within = f"within {margin_words(margin, self.scale(name))} of the mean of all readers"
                sentences.append(f"{title}: {enough} {means} {within}, in 95 % of the cases.")
        return sentences

    def beside_reference(self, compared: Mapping[str, AgainstReference]) -> list[str]:
        """The mean of sensitivity and specificity of the model, and of readers with it, minus the readers' mean."""
        sentences = []
        for target, against in compared.items():
            pairs = (("the model", against.model), ("readers with the model", against.aided or []))
            for who, comparisons in pairs:
                gap = next((comparison.difference for comparison in comparisons if comparison.metric == "auroc"), None)
                if gap is None or gap.value is None:
                    continue
                ends = interval(gap.fixed, 2, words=True)
                size = f"mean of sensitivity and specificity {signed(gap.value, 2)}{_in(ends)}"
                sentences.append(f"{self.scale(target).title}: {who} against these readers alone, {size}.")
        return sentences

    def is_model_as_close(self, of_model: Mapping[str, Duel]) -> list[str]:
        """The verdict of the mean over readers, by target."""
        sentences = []
        for name, duel in of_model.items():
            gap = duel.mean.difference
            if "[" in name or gap.value is None:
                continue
            scale = self.scale(name)
            if not round(gap.value * (100 if scale.in_percent else 1), 0 if scale.in_percent else scale.digits):
                size = "on average both are equally close to the others"
            elif scale.kind == CLASSES:
                side = "more" if gap.value < 0 else "less"
                size = f"the model agrees with the others {side} often than a reader does, by {scale.words(gap)}"
            else:
                side = "nearer to" if gap.value < 0 else "farther from"
                size = f"the model is {scale.words(gap)} {side} the others than a reader is"
            sentences.append(f"{scale.title}: {verdict_words(duel.mean, duel.margin, scale)}; {size}.")
        return sentences


def _stands_out(figure: Estimate, count: int, confidence: float = 0.95) -> bool:
    """Whether a figure, with an interval of this confidence, differs from 0 beyond chance among `count` (Bonferroni).

    >>> _stands_out(Estimate(1.0, 0.1, 1.9, 20, 20, False), 1), _stands_out(Estimate(1.0, 0.1, 1.9, 20, 20, False), 12)
    (True, False)
    """
    if figure.value is None or figure.low is None or figure.high is None:
        return False
    freedom = max((figure.n_subjects or 0) - 1, 1)
    wider = stdtrit(freedom, 1 - LEVEL / 2 / max(count, 1)) / stdtrit(freedom, (1 + confidence) / 2)
    return bool(abs(figure.value) > wider * (figure.high - figure.low) / 2)


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


def margin_words(margin: float, scale: Scale) -> str:
    """A margin with its unit; for classes it is a share."""
    size = f"{100 * margin if scale.in_percent else margin:g}"
    return f"{size} {scale.unit.removesuffix('s') if size == '1' else scale.unit}"


def verdict_words(comparison: ReaderDuel, margin: float | None, scale: Scale) -> str:
    """The verdict on the model compared with a reader."""
    farther = comparison.difference.low is not None and comparison.difference.low > 0
    if comparison.verdict == "not worse" and margin is not None:
        return ("worse than a reader, by less than " if farther else "not worse than a reader by more than ") + (
            margin_words(margin, scale)
        )
    if comparison.verdict == "better":
        return "better than a reader"
    if comparison.difference.high is None:
        return "not compared: too few cases"
    return "worse than a reader" if farther else "not clearly better or worse than a reader"
