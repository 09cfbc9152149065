"""The page of a reader study: how far readers differ, who stands out, how many are needed, and readers and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import Estimate
from casewise.files import write_atomic
from casewise.plugins.readers.form import Form
from casewise.plugins.readers.statistics.agreement import (
    FLEISS,
    ICC_AGREEMENT,
    ICC_CONSISTENCY,
    KRIPPENDORFF,
    Agreement,
    agreements,
    mean_of_others,
    ratings_of,
    without_few,
)
from casewise.plugins.readers.statistics.agreement_words import Answers, Scale, margin_words, scale_of, verdict_words
from casewise.plugins.readers.statistics.coefficients import CLASSES, GRADES, NUMBERS
from casewise.plugins.readers.statistics.duel import (
    AIDED,
    BLIND,
    DOUBTFUL,
    AgainstReference,
    Duel,
    ModelPredictions,
    against_reference,
    duels,
)
from casewise.plugins.readers.statistics.multi_reader import ModalityComparison, ReaderMean
from casewise.report import blocks as doc
from casewise.report.context import report_title
from casewise.report.figures.drawing import FAINT, MARKERS, SERIES, Drawing, Look, canvas, key, limits, svg
from casewise.report.formatting import capital, counted, interval, listed, number, plain, signed
from casewise.report.tables import MetricFormat

if TYPE_CHECKING:
    from casewise.plugins.readers.settings import Reading
    from casewise.study.schema import Study

FOOTER = "This page names readers and describes how they judge: treat it as confidentially as the readings."
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
    " for one figure: of twenty, about one excludes 0 by chance, which the words on the first screen take into account."
)
PAIRS = (
    "Bias: the second reader minus the first. Limits of agreement: 95 % of the differences lie between them; of"
    " subjects with several cases, with the variance between and within subjects (Bland and Altman 2007)."
)
COUNTS = (
    "Reliability of the mean of this many readers (Spearman and Brown) and, below, its distance from the mean of all"
    " readers in 95 % of the cases. Both take readers as interchangeable, with independent errors."
)
DUEL = (
    "{model}, {source}. Each reader is compared with the mean of the other readers, and the model with the same mean on"
    " the same cases. Difference: the model’s error minus the reader’s, below 0 where the model is nearer. A model that"
    " learned from labels of these readers has the advantage in this comparison."
)
REFERENCE = (
    "Against {reference}. Other readers: intervals for other readers and cases (Obuchowski and Rockette, Hillis);"
    " these readers: for other cases only. With few readers, the first can by chance be the narrower ones. AUROC of"
    " calls: the mean of sensitivity and specificity, as readers state no probabilities."
)
WRITE = MetricFormat()
KINDS = {NUMBERS: "Numbers", GRADES: "Grades", CLASSES: "Classes"}


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
        readings: of the chosen sessions. All figures are of blind readings; without any, agreement is of readings of
            doubtful labels; without these too, of readings with the model.
        study: for its title and for the margins and the reference that it states in advance.
        model: what is compared with the readers; a table has the columns of `ModelPredictions.rows`.

    Raises:
        CasewiseError: no reading with a value is independent of other readers; the file cannot be written.
    """
    readings, few = without_few(readings)
    own = _independent(readings)
    settings: Reading = study.key("reading")
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed, unit=study.unit)
    if isinstance(model, pd.DataFrame):
        two = {name: study.classes_of(name).index(str(study.positive_of(name))) for name in _two_classes(form)}
        model = ModelPredictions("The model", "on cases that it was not trained on", model, settings.reference, two)
    scales = {field.target: scale_of(field) for field in form.fields}
    page = Page(own, scales, agreements(own, form.fields, plan), settings.margin, few, plan.confidence)
    blind = own["kind"].iloc[0] == BLIND
    of_model = duels(own, form.fields, model, settings.margin, plan) if model and blind else {}
    compared = against_reference(readings, form.fields, model, plan) if model else {}
    notes = [] if study.subjects_known else [f"{study.not_known}; intervals may be too narrow."]
    sections = [page.result(of_model, compared, ["Synthetic phantom data, not patients."] * study.synthetic + notes)]
    sections += page.details()
    if model and of_model:
        sections.append(page.duel(of_model, model))
    if model and compared:
        sections.append(page.reference(compared, model))
    html = doc.plain_page(report_title(study), sections, kind="Agreement of readers", footer=FOOTER)
    return write_atomic(path, html)


def _independent(readings: pd.DataFrame) -> pd.DataFrame:
    """The readings of the first kind that has a value, of those in which readers do not see each other's values."""
    read = readings[readings["value"].notna()]
    for kind in (BLIND, DOUBTFUL, AIDED):
        if (read["kind"] == kind).any():
            return readings[readings["kind"] == kind]
    if read.empty:
        raise CasewiseError("There are no readings with a value yet. Read cases with `casewise rate` first.")
    raise CasewiseError(
        f"--session: readers of {listed(sorted(read['session'].unique()))} saw the values of other readers "
        "(adjudication), which says nothing of their agreement. Choose another session."
    )


def _two_classes(form: Form) -> list[str]:
    return [field.target for field in form.fields if scale_of(field).kind == CLASSES and len(field.options) == 2]


@dataclass(frozen=True)
class Page(Answers):
    """The answers, and the tables and figures behind them."""

    def details(self) -> list[doc.Section]:
        """Tables and figures of what the first screen says."""
        return [
            doc.Section("targets", "Agreement by target", self.by_target()),
            doc.Section("readers", "Each reader", self.by_reader()),
            doc.Section("pairs", "Pairs of readers", self.by_pair()),
            doc.Section("number", "Number of readers", self.by_number()),
        ]

    def by_target(self) -> list[doc.Block]:
        """The figures of all readers for each target key, one table for each kind."""
        names = {
            NUMBERS: ("mae", ICC_AGREEMENT, ICC_CONSISTENCY, KRIPPENDORFF),
            GRADES: (
                "mae",
                "agreement",
                ICC_AGREEMENT,
                ICC_CONSISTENCY,
                FLEISS,
                KRIPPENDORFF,
            ),
            CLASSES: ("agreement", FLEISS, KRIPPENDORFF),
        }
        blocks: list[doc.Block] = []
        for kind, columns in names.items():
            rows = [
                doc.Row(
                    self.label(name),
                    [str(result.n_cases), *(self.scale(name).cell(column, result.between) for column in columns)],
                    inner="[" in name,
                )
                for name, result in self.results.items()
                if result.kind == kind and result.between
            ]
            caption = f"{KINDS[kind]}. {'' if any(blocks) else BETWEEN}"
            cases = "Cases × regions" if any("[" in name for name in self.results) else "Cases"
            blocks.append(doc.Table(["Target", cases, *(TITLES[n] for n in columns)], rows, caption, wide=True))
        return blocks

    def by_reader(self) -> list[doc.Block]:
        """A figure for each target, the table of readers, and a folded table of regions."""
        plots = [plot for name in self.whole if (plot := self.plot(name)) is not None]
        regions = {name: result for name, result in self.results.items() if "[" in name}
        blocks: list[doc.Block] = [doc.Plots(plots)]
        two = [scale for name in self.whole if len((scale := self.scale(name)).names) == 2]
        directions = [f" {s.title}: a bias is how much more often a reader says {plain(s.names[1])}." for s in two]
        blocks.append(self.reader_table(self.whole, READERS + "".join(directions)))
        return [*blocks, doc.Fold("By region", [self.reader_table(regions, "Each reader by region.")])]

    def reader_table(self, results: Mapping[str, Agreement], caption: str) -> doc.Table:
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
            scale, own = (
                self.scale(name),
                {NUMBERS: ICC_AGREEMENT, GRADES: "kappa_quadratic", CLASSES: "kappa"},
            )
            for reader, figures in result.readers.items():
                again = figures.again
                apart = again.get("agreement" if scale.kind == CLASSES else "mae")
                cells = [doc.Cell(str(figures.n_cases)), doc.Cell(str(figures.unreadable))]
                cells += [scale.difference(figures.bias), scale.difference(figures.drift)]
                cells.append(doc.Cell(str(apart.n_cases if apart else 0)))
                cells.append(scale.cell("agreement" if scale.kind == CLASSES else "mae", again))
                cells.append(scale.cell(own[scale.kind], again))
                rows.append(doc.Row(f"{self.label(name)}: {reader}" if len(results) > 1 else reader, cells))
        return doc.Table(heads, rows, caption, wide=True)

    def plot(self, name: str) -> doc.Plot | None:
        """The difference of each reader from the mean of the others; None of classes, or of one reader."""
        scale, result = self.scale(name), self.results[name]
        if scale.kind == CLASSES or not result.between:
            return None
        ratings = ratings_of(self.readings[self.readings["target"] == name])
        drawing = _reader_differences(ratings.readers, ratings.first, scale, name)
        biases = [f"{reader} {signed(f.bias.value, scale.digits)}" for reader, f in result.readers.items()]
        alt = f"{scale.title}, difference of each reader from the mean of the others; bias: {', '.join(biases)}."
        return doc.Plot(drawing, alt, f"{scale.title}: each reader minus the mean of the others. Lines: bias.")

    def by_pair(self) -> list[doc.Block]:
        """Each pair of readers."""
        blocks: list[doc.Block] = []
        for name, result in self.whole.items():
            scale = self.scale(name)
            if not result.pairs:
                continue
            names = [column for column in TITLES if column in next(iter(result.pairs.values()))]
            names = [column for column in names if column not in (ICC_CONSISTENCY, KRIPPENDORFF, FLEISS)]
            rows = [
                doc.Row(pair.replace(" | ", " and "), [scale.cell(column, figures) for column in names])
                for pair, figures in result.pairs.items()
            ]
            caption = f"{scale.title}. {PAIRS}" if "bias" in names and not blocks else f"{scale.title}."
            blocks.append(doc.Table(["Pair", *(TITLES[column] for column in names)], rows, caption, wide=True))
        return blocks

    def by_number(self) -> list[doc.Block]:
        """The reliability of the mean of several readers."""
        rows = []
        for name, result in self.whole.items():
            cells = []
            for mean in result.means:
                ends = interval(mean.reliability, 2)
                half = f"± {number(mean.half_width, self.scale(name).digits)} {self.scale(name).unit}"
                cells.append(doc.Cell(number(mean.reliability.value, 2), f"{ends} {half}".strip()))
            if cells:
                rows.append(doc.Row(self.label(name), cells))
        counts = next((r.means for r in self.whole.values() if r.means), [])
        heads = ["Target", *(counted(mean.readers, "reader") for mean in counts)]
        return [doc.Table(heads, rows, COUNTS)]

    # ------------------------------------------------------------------------------------------------------- the model

    def duel(self, of_model: Mapping[str, Duel], model: ModelPredictions) -> doc.Section:
        """Each reader and the model against the other readers."""
        tables = {name: self.duel_table(name, duel) for name, duel in of_model.items()}
        regions = [table for name, table in tables.items() if "[" in name]
        blocks: list[doc.Block] = [doc.Text(DUEL.format(model=capital(model.name), source=model.source), note=True)]
        blocks += [table for name, table in tables.items() if "[" not in name]
        return doc.Section("model", "Readers and model", [*blocks, doc.Fold("By region", regions)])

    def duel_table(self, name: str, duel: Duel) -> doc.Table:
        """A row for each reader and for the mean over readers."""
        scale, rows = self.scale(name), []
        for reader, pair in [*duel.readers.items(), ("Mean over readers", duel.mean)]:
            cells = [scale.size(pair.reader), scale.size(pair.model), scale.difference(pair.difference)]
            rows.append(doc.Row(reader, [*cells, verdict_words(pair, duel.margin, scale)], mark=pair is duel.mean))
        error = "share of the others who disagree" if scale.kind == CLASSES else "mean distance from the others"
        margin = "no margin" if duel.margin is None else f"a margin of {margin_words(duel.margin, scale)}"
        caption = f"{self.label(name)}. Error: {error}; {margin} was stated in advance."
        return doc.Table(["Reader", "Reader’s error", "Model’s error", "Difference", "The model is"], rows, caption)

    def reference(self, compared: Mapping[str, AgainstReference], model: ModelPredictions) -> doc.Section:
        """Readers, model, and readers with the model, against a reference that depends on no reader."""
        names = {"model": ("Model", "Readers"), "aided": ("Readers with the model", "Readers without")}
        blocks: list[doc.Block] = [doc.Text(REFERENCE.format(reference=model.reference), note=True)]
        for target, against in compared.items():
            for pair, comparisons in (("model", against.model), ("aided", against.aided or [])):
                rows = [_comparison_row(comparison) for comparison in comparisons]
                if not rows:
                    continue
                sizes = f"{counted(comparisons[0].n_cases, 'case')} of {counted(comparisons[0].n_subjects, 'subject')}"
                heads = ["Figure", *names[pair], "Difference, other readers", "Difference, these readers"]
                scale = self.scales[target]
                positive = scale.names[model.positive.get(target, 1)]
                blocks.append(doc.Table(heads, rows, f"{scale.title}, {sizes}; positive: {plain(positive)}."))
        return doc.Section("reference", "Against the reference", blocks)


def _reader_differences(readers: Sequence[str], values: np.ndarray, scale: Scale, name: str) -> Drawing:
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


def _comparison_row(comparison: ModalityComparison) -> doc.Row:
    """Both modalities and their difference by one metric."""
    metric, gap = comparison.metric, comparison.difference
    cells = [
        _mean_cell(metric, comparison.first, comparison.mean_first),
        _mean_cell(metric, comparison.second, comparison.mean_second),
    ]
    cells += [WRITE.difference(metric, {"value": gap.value, **ends}) for ends in (gap.random, gap.fixed)]
    return doc.Row(WRITE.title(metric) + (" of calls" if metric == "auroc" else ""), cells)


def _mean_cell(metric: str, columns: Sequence[Estimate], mean: ReaderMean) -> doc.Cell:
    """The model's figure, or the mean over readers with its interval for other readers."""
    return WRITE.cell(metric, columns[0] if len(columns) == 1 else {"value": mean.value, **mean.random})
