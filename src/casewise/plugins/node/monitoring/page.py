"""The page of monitoring: one sentence, what changed, and figures over time, by scanner and site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.table import rows_text
from casewise.errors import CasewiseError, counted
from casewise.files import write_atomic
from casewise.inference.drift import FAR_SHARE
from casewise.plugins.node.monitoring import series
from casewise.plugins.node.monitoring.comparison import Comparison, compared, compared_classes, compared_with_quantiles
from casewise.plugins.node.monitoring.figures import Expected, Periods, class_figure, count_figure, time_figure
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.outcomes import Outcomes, mean_interval, outcome_changes, share_interval
from casewise.plugins.node.monitoring.sequential import Floats
from casewise.plugins.node.monitoring.shift import Change, against_training, changes
from casewise.plugins.node.monitoring.summary import Watched, sentence
from casewise.predictions.table import FAR
from casewise.report import blocks as doc
from casewise.report import formatting as fmt
from casewise.report.figures.pictures import data_uri

if TYPE_CHECKING:
    from casewise.inference.input_checks import Limits

FOOTER = "Studies are named by a hash of their Study Instance UID. Days are those of UTC. Research software."
PLOTTED = (series.Kind.DISTANCE, series.Kind.PREDICTION, series.Kind.WIDTH, series.Kind.SET_SIZE)
MOST_UNLIKE, MOST_FIGURES, PICTURE_SIDE = 8, 40, 240
CHANGES = (
    "Since: the first changed study, an estimate. Noticed: the day on which the evidence sufficed. Before and after:"
    " medians, or shares. Difference: of the distributions (Kolmogorov and Smirnov, 0 to 1), or of the shares."
)
OVER_TIME = (
    "Dots: by {period} {of}. {band}Orange: something changed here. Studies of a subject within 30 days count once."
)
COMPARED = (
    "The first {baseline:,} studies, and the last {recent:,} of those after them; studies of a subject within 30 days"
    " count once. PSI: population stability index; in brackets what one in twenty equal samples exceeds. D: the largest"
    " distance of the two distributions (Kolmogorov and Smirnov), of shares the p value of one G-test. The training is"
    " compared by image. Descriptions: a difference here is no change unless it is in the first table."
)
SOURCES = (
    "Answers before: studies of the source, of its last 100, that were answered with confidence before it was noticed;"
    " look at them again. Name: for `source_confirmed` in the file of the node, which gives the confidence back."
)
FEW_STUDIES = "all sources of few studies together"
GROUPS = "Distance: median. PSI: the largest of all numbers, against the other studies of the node."
UNLIKE = "The largest distance from the training first."
OUTCOMES = (
    "Of {share} older than {after} days an outcome is known; these are tested. Those of younger studies are only in the"
    " figures: {younger:,}. Intervals: 95 %, by study. Out of fold: on subjects that the model had not seen."
)
UNUSED = "Rows of the table of outcomes that are not used."


@dataclass(frozen=True)
class WrittenMonitoring:
    """The page, the sentence for the terminal, and everything that changed."""

    page: Path
    sentence: str
    changes: tuple[Change, ...]


def write_monitoring(
    path: Path,
    observations: Sequence[tuple[str, Observation]],
    limits: Limits | None = None,
    *,
    watched: Watched | None = None,
    outcomes: Outcomes | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> WrittenMonitoring:
    """Write `monitoring.html`.

    Args:
        observations: of each study its hash and what was recorded.
        limits: the limits of the bundle, with the quantiles of the training.
        outcomes: from `compared_outcomes`, if there are any.
        pictures: by the hash of a study the file of a picture of it.

    Raises:
        CasewiseError: a picture cannot be read, or the page cannot be written.
    """
    watched = watched or Watched()
    studies = series.studies_of(observations, watched.since)
    recorded, baseline = dict(observations), watched.baseline
    differences = (*against_training(studies, recorded, limits, baseline), *changes(studies, baseline))
    if outcomes is not None:
        differences += tuple(outcome_changes(outcomes))
    text = sentence(studies, differences, watched, outcomes)
    page = Page(studies, recorded, limits, baseline, differences)
    sections = [page.result(text), *page.sources(watched)]
    if len(studies):
        sections += [page.over_time(), *page.compared(), page.groups(), *page.unlike(pictures or {})]
    if outcomes is not None and (len(outcomes.studies) or outcomes.unused):
        sections.append(page.outcomes(outcomes))
    html = doc.plain_page(f"Monitoring of {watched.title}", sections, kind="Monitoring", footer=FOOTER)
    return WrittenMonitoring(write_atomic(path, html), text, differences)


@dataclass(frozen=True, eq=False)
class Page:
    """The sections of the page.

    Attributes:
        recorded: by the hash of a study what was recorded.
        differences: everything that changed.
    """

    studies: series.Studies
    recorded: Mapping[str, Observation]
    limits: Limits | None
    baseline: int
    differences: Sequence[Change]

    def result(self, text: str) -> doc.Section:
        """The sentence, and a table of changes."""
        rows = [
            doc.Row(
                _what_changed(change),
                [
                    change.scope.text or "everywhere",
                    doc.Cell("first study" if change.from_start else fmt.iso_date(change.since), value=change.since),
                    doc.Cell(
                        fmt.iso_date(change.detected) if change.detected else fmt.MISSING, value=change.detected or ""
                    ),
                    *(_value(change.what, value) for value in (change.before, change.after)),
                    doc.Cell(fmt.number(change.size, 2), value=change.size),
                ],
            )
            for change in self.differences
        ]
        heads = ["What", "Where", "Since", "Noticed", "Before", "After", "Difference"]
        return doc.Section("result", "Result", [doc.Text(text), doc.Table(heads, rows, CHANGES, sortable=True)])

    def sources(self, watched: Watched) -> Iterator[doc.Section]:
        """The sources whose studies are unlike the training, and whether somebody has confirmed them."""
        rows = []
        for source, warning in watched.recent.warnings.items():
            own = [each for each in self.recorded.values() if not source or each.source == source]
            names = ", ".join(filter(None, (own[0].site, own[0].scanner))) if source and own else FEW_STUDIES
            entry = watched.recent.confirmation_of(source)
            confirmed = "{by} ({at}): {reason}".format(**entry) if entry else "nobody: answers have no confidence"
            withheld = sum(each.withheld for each in own) if source else fmt.MISSING
            cells = [source or fmt.MISSING, warning["at"], warning["drift"]["text"], str(len(warning["before"]))]
            rows.append(doc.Row(names, [*cells, str(withheld), confirmed]))
        if rows:
            heads = ["Source", "Name", "Noticed", "Why", "Answers before", "Withheld", "Confirmed by"]
            yield doc.Section("sources", "Sources unlike the training", [doc.Table(heads, rows, SOURCES)])

    def over_time(self) -> doc.Section:
        """Counts, shares, distances, predictions and widths, then every number."""
        studies, periods = self.studies, Periods.of(self.studies)
        counts = doc.Plot(count_figure(studies, periods), f"Studies by {periods.name}: {studies.total()}.")
        shares = [each for each in studies.series if each.kind in (series.Kind.FLAGGED, series.Kind.REFUSED)]
        others = [each for each in studies.series if each.kind in PLOTTED]
        plots = [counts, *(self._plot(each, periods) for each in shares if self._is_shown(each))]
        plots += [self._plot(each, periods) for each in others]
        plots += list(self._class_plots(periods))
        numbers = [each for each in studies.series if each.kind is series.Kind.NUMBER][:MOST_FIGURES]
        changed = {change.what for change in self.differences}
        plots += [self._plot(each, periods) for each in numbers if each in changed]
        band = "Grey: nine in ten training images. " if self.limits and self.limits.quantiles else ""
        note = OVER_TIME.format(
            period=periods.name,
            of="the median with nine in ten studies (numbers: means over their images), or the share with its interval",
            band=f"Dashed: what is expected. {band}",
        )
        rest = [self._plot(each, periods) for each in numbers if each not in changed]
        other = "other number" if len(rest) < len(numbers) else "number"
        more = doc.Fold(f"{counted(len(rest), other)} of the images", [doc.Plots(rest, "", "multiples")])
        return doc.Section("time", "Over time", [doc.Plots(plots, note), more])

    def _is_shown(self, quantity: series.Quantity) -> bool:
        """Whether a share is worth a figure: flags always, others unless they are zero."""
        return quantity.kind is series.Kind.FLAGGED or bool(np.nansum(self.studies.series[quantity]))

    def _plot(self, quantity: series.Quantity, periods: Periods) -> doc.Plot:
        values = np.where(self.studies.tested, self.studies.series[quantity], np.nan)
        if quantity.is_share:
            ends = periods.reduced(values, share_interval)
            expected = Expected(line=FAR_SHARE if quantity.kind is series.Kind.FLAGGED else None)
        else:
            ends = periods.reduced(values, lambda own: np.quantile(own, [0.5, 0.05, 0.95]).tolist())
            training = self.limits.quantiles.get(quantity.name) if self.limits else None
            band = None
            if quantity.kind is series.Kind.NUMBER and training:
                low, high = np.interp([0.05, 0.95], training[1], training[0]).tolist()
                band = (low, high)
            expected = Expected(band, FAR if quantity.kind is series.Kind.DISTANCE else None)
        drawing = time_figure(quantity.title, ends, periods, self._since(quantity), expected, share=quantity.is_share)
        return doc.Plot(drawing, f"{quantity.title} by {periods.name}.")

    def _since(self, *quantities: series.Quantity) -> list[float]:
        return [change.since for change in self.differences if change.what in quantities and not change.from_start]

    def _class_plots(self, periods: Periods) -> Iterator[doc.Plot]:
        for target, names in series.classes_of(self.recorded.values()).items():
            predicted = [self.recorded[name].predictions.get(target) for name in self.studies.names.tolist()]
            shares = {}
            for name in names:
                own = np.array([np.nan if value is None else value == name for value in predicted], dtype=float)
                shares[fmt.plain(name)] = periods.means(own)
            of_target = [each for each in self.studies.series if each.name == target]
            alt = f"Share of each predicted class of {fmt.target_title(target)} by {periods.name}."
            yield doc.Plot(class_figure(target, shares, periods, self._since(*of_target)), alt)

    def compared(self) -> Iterator[doc.Section]:
        """Every number and prediction of the last studies against the first ones and the training."""
        number, tested = np.arange(len(self.studies)), self.studies.tested
        first = tested & (number < self.baseline)
        recent = tested & (number >= max(self.baseline, len(self.studies) - self.baseline))
        if not recent.any():
            return
        rows, images = [], series.images_of(self.studies.names[recent].tolist(), self.recorded)
        for quantity, values in self.studies.series.items():
            if quantity.is_share:
                yes, no = ([int(np.nansum(v)), int(np.nansum(1 - v))] for v in (values[first], values[recent]))
                both = compared_classes(*({"yes": count[0], "no": count[1]} for count in (yes, no)))
            else:
                both = compared(values[first], values[recent])
            training = self._with_training(quantity, images)
            ends = [_middle(quantity, values[own]) for own in (first, recent)]
            cells = [doc.Cell(_value(quantity, end)) for end in ends]
            rows.append(doc.Row(quantity.title, [*cells, *_cells(both), *_cells(training)]))
        rows += [
            doc.Row(f"Predicted {fmt.target_title(target)}", [fmt.MISSING, fmt.MISSING, *_cells(both), *_cells(None)])
            for target, both in self._of_classes(first, recent)
        ]
        heads = ["", "First", "Last", "PSI", "D", "PSI, training", "D, training"]
        caption = COMPARED.format(baseline=int(first.sum()), recent=int(recent.sum()))
        yield doc.Section(
            "compared", "Against the first studies and the training", [doc.Table(heads, rows, caption, wide=True)]
        )

    def _with_training(self, quantity: series.Quantity, images: pd.DataFrame) -> Comparison | None:
        training = self.limits.quantiles.get(quantity.name) if self.limits else None
        if (
            quantity.kind is not series.Kind.NUMBER
            or training is None
            or self.limits is None
            or quantity.name not in images
        ):
            return None
        values = images[quantity.name].to_numpy(dtype=float)
        return compared_with_quantiles(training, self.limits.subjects, values, images["case"].tolist())

    def _of_classes(self, first: np.ndarray, recent: np.ndarray) -> Iterator[tuple[str, Comparison | None]]:
        names = self.studies.names
        for target in series.classes_of(self.recorded.values()):
            counts = [
                Counter(
                    str(self.recorded[name].predictions[target])
                    for name in names[own].tolist()
                    if target in self.recorded[name].predictions
                )
                for own in (first, recent)
            ]
            yield target, compared_classes(*counts)

    def groups(self) -> doc.Section:
        """A row for each scanner and site."""
        blocks: list[doc.Block] = []
        for noun, names in (("Scanner", self.studies.scanners), ("Site", self.studies.sites)):
            rows = [self._group_row(str(name), names == name) for name in np.unique(names)]
            heads = [noun, "Studies", "First", "Last", "Flagged", "Distance", "PSI"]
            blocks.append(doc.Table(heads, rows, GROUPS if not blocks else ""))
        return doc.Section("groups", "By scanner and site", blocks)

    def _group_row(self, name: str, own: np.ndarray) -> doc.Row:
        studies = self.studies.subset(own)
        flagged, distance = (
            series.Quantity(series.Kind.FLAGGED),
            studies.series.get(series.Quantity(series.Kind.DISTANCE), np.zeros(0)),
        )
        largest = [
            (both.psi, quantity.title)
            for quantity, values in self.studies.series.items()
            if not quantity.is_share and (both := compared(values[~own], values[own]))
        ]
        psi = max(largest, default=None)
        share = studies.series[flagged]
        cells = [
            doc.Cell(f"{len(studies):,}", value=len(studies)),
            *(doc.Cell(fmt.iso_date(float(at))) for at in (studies.at[0], studies.at[-1])),
            doc.Cell(fmt.percent(float(share.mean())), value=float(share.mean())),
            doc.Cell(fmt.number(_middle(series.Quantity(series.Kind.DISTANCE), distance), 2)),
            doc.Cell(fmt.MISSING) if psi is None else doc.Cell(fmt.number(psi[0], 2), psi[1]),
        ]
        return doc.Row(name or "not recorded", cells)

    def unlike(self, pictures: Mapping[str, Path]) -> Iterator[doc.Section]:
        """The studies that are most unlike the training, with their pictures if there are any."""

        def order(row: int) -> tuple[float, float, float]:
            each = self.recorded[str(self.studies.names[row])]
            return -(each.distance or 0.0), -len(each.flags), -each.numbers.get("look", 0.0)

        names = self.studies.names.tolist()
        candidates = [row for row in range(len(names)) if self.recorded[names[row]].is_unlike]
        chosen = sorted(candidates, key=order)[:MOST_UNLIKE]
        if not chosen:
            return
        cards, rows = [], []
        for row in chosen:
            name = str(self.studies.names[row])
            each = self.recorded[name]
            when, scanner = fmt.iso_date(each.at), each.scanner or fmt.MISSING
            reason = "; ".join(each.flags) or "far from the training in its features"
            distance = fmt.number(each.distance, 2)
            if name in pictures:
                shown = doc.Picture(_uri(pictures[name]), f"Study {name[:12]}")
                text = [doc.Text(f"{when}, {scanner}"), doc.Text(f"Distance {distance}. {fmt.capital(reason)}.")]
                cards.append(doc.Card(name[:12], [shown], text))
            else:
                rows.append(doc.Row(name[:12], [when, scanner, distance, reason]))
        heads, note = ["Study", "Date", "Scanner", "Distance", "Reason"], UNLIKE if cards else ""
        table = doc.Table(heads, rows, "" if cards else UNLIKE)
        yield doc.Section("unlike", "Most unlike the training", [doc.Text(note, note=True), doc.Cards(cards), table])

    def outcomes(self, outcomes: Outcomes) -> doc.Section:
        """Errors and calibration of all outcomes, and over time; and the rows of the table that are not used."""
        blocks = list(self._outcome_blocks(outcomes)) if len(outcomes.studies) else []
        rows = [
            doc.Row(reason, [f"{len(own):,}", rows_text(own).partition(" ")[2]])
            for reason, own in outcomes.unused.items()
        ]
        return doc.Section("outcomes", "Outcomes", [*blocks, doc.Table(["", "Rows", "Numbers"], rows, UNUSED)])

    def _outcome_blocks(self, outcomes: Outcomes) -> Iterator[doc.Block]:
        studies, tested = outcomes.studies, outcomes.tested.tested
        plots, rows, periods = [], [], Periods.of(studies)
        for quantity, values in studies.series.items():
            interval = share_interval if quantity.is_share else mean_interval
            own = values[np.isfinite(values) & tested]
            cell = doc.Cell(fmt.MISSING)
            if ends := interval(own):
                middle, low, high = map(quantity.value, ends)
                cell = doc.Cell(middle, f"[{low}, {high}]")
            predicted = outcomes.expected.get(quantity)
            compared_to = (
                outcomes.out_of_fold.get(quantity.name)
                if quantity.kind in (series.Kind.ERROR, series.Kind.WRONG)
                else None
            )
            line: float | Floats | None = compared_to
            if predicted is not None:
                compared_to = float(predicted[np.isfinite(predicted) & tested].mean()) if len(own) else None
                line = periods.means(predicted)
            rows.append(doc.Row(quantity.title, [f"{len(own):,}", cell, _value(quantity, compared_to)]))
            summary = periods.reduced(np.where(studies.tested, values, np.nan), interval)
            since = self._since(quantity)
            drawing = time_figure(quantity.title, summary, periods, since, Expected(line=line), share=quantity.is_share)
            plots.append(doc.Plot(drawing, f"{quantity.title} by {periods.name}."))
        after, younger = outcomes.window.after, int((studies.at >= outcomes.window.until).sum())
        caption = OUTCOMES.format(share=outcomes.share, after=after, younger=younger)
        yield doc.Table(["", "Outcomes", "Here", "Out of fold, or predicted"], rows, caption)
        note = OVER_TIME.format(period=periods.name, of="with its interval", band="Dashed: out of fold, or predicted. ")
        yield doc.Plots(plots, note)


def _middle(quantity: series.Quantity, values: Floats) -> float | None:
    """The median of the finite values, of shares the mean; None without any."""
    own = values[np.isfinite(values)]
    return float(own.mean() if quantity.is_share else np.median(own)) if len(own) else None


def _what_changed(change: Change) -> str:
    """What changed, with the name of a number of which there are several, such as `texture 3`."""
    name = change.what.name if change.what else ""
    return fmt.capital(change.text) + (f" ({name})" if name[-1:].isdigit() else "")


def _value(quantity: series.Quantity | None, value: float | None) -> str:
    return fmt.MISSING if quantity is None or not fmt.is_number(value) else quantity.value(value)


def _cells(both: Comparison | None) -> list[doc.Cell]:
    """The stability index with what chance gives, and the distance or the p value of classes."""
    if both is None:
        return [doc.Cell(fmt.MISSING), doc.Cell(fmt.MISSING)]
    psi = doc.Cell(fmt.number(both.psi, 2), f"[{fmt.number(both.by_chance, 2)}]", value=both.psi)
    if both.distance is None:
        return [psi, doc.Cell(fmt.MISSING if both.p is None else f"p {fmt.p_value(both.p)}")]
    return [psi, doc.Cell(fmt.number(both.distance, 2), value=both.distance)]


def _uri(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return data_uri(np.asarray(image.convert("RGB")), longest=PICTURE_SIDE)
    except OSError as error:
        raise CasewiseError(f"{path} is no picture that can be read ({error}).") from error
