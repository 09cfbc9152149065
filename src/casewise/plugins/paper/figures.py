"""The figures of a publication: the report's drawings in print sizes, with a key, a caption, and nothing cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from textwrap import fill
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError
from casewise.plugins.paper.contents import Paper as Contents
from casewise.report.context import SIDES
from casewise.report.figures.drawing import STYLE
from casewise.report.formatting import capital, display_name, listed
from casewise.splits.predefined import TEST
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SINGLE, DOUBLE, PAGE_HEIGHT = 85.0, 170.0, 225.0
MM, PAD, LEAST, MOST = 1 / 25.4, 1.0, 7.0, 8.0
PRINT: dict[Any, Any] = {
    **STYLE,
    "font.size": LEAST,
    "axes.titlesize": MOST,
    "axes.labelsize": 7.5,
    "xtick.labelsize": LEAST,
    "ytick.labelsize": LEAST,
    "legend.fontsize": LEAST,
    "lines.linewidth": 1.0,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "hatch.linewidth": 0.4,
    "pdf.fonttype": 42,
}
MOST_TRACKS, MOST_KEY_COLUMNS = 12, 4
# Draws on the axes `ax`.
Draw = Callable[..., object]


@dataclass(frozen=True)
class Sheet:
    """A figure of one or more parts, in rows of as many columns as fit.

    Attributes:
        parts: each draws one part on the axes given to it.
        caption: explains the figure where it stands alone.
        height: of the axes of a part in mm, without their names, titles and key.
        columns: parts side by side; a single part is as wide as a column of the page.
        width: of the whole figure in mm; 0 for the width of a column or of the page.
    """

    parts: Sequence[Draw]
    caption: str
    height: float = 40.0
    columns: int = 1
    width: float = 0.0

    def pages(self) -> list[Figure]:
        """The figure, divided where it is higher than a page."""
        figure, row, below = self._drawn(self.parts)
        most = max(1, int((PAGE_HEIGHT - below) // row)) * self._columns
        if len(self.parts) <= most:
            return [figure]
        starts = range(0, len(self.parts), most)
        return [self._drawn(self.parts[start : start + most])[0] for start in starts]

    @property
    def _columns(self) -> int:
        return min(self.columns, len(self.parts))

    def _drawn(self, parts: Sequence[Draw]) -> tuple[Figure, float, float]:
        """The parts in the sizes of print; the height of a row and of the key below all rows, in mm."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns, rows = self._columns, -(-len(parts) // self._columns)
        width = self.width or (SINGLE if len(self.parts) == 1 else DOUBLE)
        cell = width / columns
        with matplotlib.rc_context(PRINT):
            figure = Figure(figsize=(width * MM, rows * 1.5 * self.height * MM))
            FigureCanvasAgg(figure)
            drawn: list[list[Axes]] = []
            for draw in parts:
                before = len(figure.axes)
                axes = figure.add_axes((0.2 / columns, 0.2 / rows, 0.75 / columns, 0.6 / rows))
                draw(ax=axes)
                drawn.append(figure.axes[before:])
            _reduce_text(figure)
            below = _key(figure, drawn, width)
            row = 0.0
            for _ in range(4):  # names of ticks change with the size of the axes
                row = self._position(figure, drawn, cell, below)
        return figure, row, below

    def _position(self, figure: Figure, drawn: Sequence[Sequence[Axes]], cell: float, below: float) -> float:
        """Give all axes one size, with room for what surrounds any of them; return the height of a row in mm."""
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        dots = figure.dpi * MM
        for group in drawn:
            for axes in group:
                _fit_text(axes, cell * dots, renderer)
        margins = [-float("inf")] * 4
        for group in drawn:
            shown = [inner for axes in group for inner in ([axes] if axes.axison else axes.child_axes)]
            boxes = [box for axes in shown if (box := axes.get_tightbbox(renderer)) is not None]
            first = group[0].get_position(original=True).transformed(figure.transSubfigure)
            around = (
                first.x0 - min(box.x0 for box in boxes),
                first.y0 - min(box.y0 for box in boxes),
                max(box.x1 for box in boxes) - first.x1,
                max(box.y1 for box in boxes) - first.y1,
            )
            margins = [max(margin, PAD + side / dots) for margin, side in zip(margins, around, strict=True)]
        left, bottom, right, top = margins
        columns, rows = self._columns, -(-len(drawn) // self._columns)
        row = self.height + bottom + top
        width, height = cell * columns, rows * row + below
        figure.set_size_inches(width * MM, height * MM)
        for number, group in enumerate(drawn):
            line, column = divmod(number, columns)
            x, y = column * cell + left, height - line * row - top - self.height
            inner = max(cell - left - right, 0.3 * cell)
            group[0].set_position((x / width, y / height, inner / width, self.height / height))
        return row


def _reduce_text(figure: Figure) -> None:
    """Reduce all text to print sizes: the report's text is sized for screens."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        size = float(text.get_fontsize())  # type: ignore[attr-defined]
        text.set_fontsize(min(max(LEAST, size * 0.75), MOST))  # type: ignore[attr-defined]


def _key(figure: Figure, drawn: Sequence[Sequence[Axes]], width: float) -> float:
    """Replace the keys of all parts by one below them, in as many columns as fit; return its height in mm."""
    handles: dict[str, Any] = {}
    for legend in [legend for group in drawn for axes in group if (legend := axes.get_legend())]:
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
            handles.setdefault(text.get_text(), handle)
        legend.remove()
    if not handles:
        return 0.0
    renderer, dots = figure.canvas.get_renderer(), figure.dpi * MM  # type: ignore[attr-defined]
    look: dict[str, Any] = {"loc": "lower center", "borderaxespad": 0.2, "handlelength": 2.6, "columnspacing": 1.4}
    names = list(handles)
    for columns in range(min(len(handles), MOST_KEY_COLUMNS), 0, -1):
        legend = figure.legend(list(handles.values()), names, ncols=columns, **look)
        box = legend.get_window_extent(renderer)
        if box.width <= (width - 2 * PAD) * dots:
            break
        legend.remove()
        if columns == 1:
            longest = max(map(len, names))
            letters = max(12, int(longest * ((width - 2 * PAD) * dots - 40) / box.width))
            legend = figure.legend(list(handles.values()), [fill(name, letters) for name in names], **look)
            box = legend.get_window_extent(renderer)
    return float(box.height / dots + PAD)


def _fit_text(axes: Axes, cell: float, renderer: Any) -> None:
    """Break the lines of titles and names of axes that are longer than their place, and slant names that touch."""
    box = axes.get_window_extent()
    room = cell - max(0.0, box.x0 % cell) - 2
    for title in (axes.title, axes._left_title, axes._right_title):  # type: ignore[attr-defined]
        _break_lines(title, title.get_window_extent(renderer).width, room)
    _break_lines(axes.xaxis.label, axes.xaxis.label.get_window_extent(renderer).width, box.width)
    _break_lines(axes.yaxis.label, axes.yaxis.label.get_window_extent(renderer).height, box.height)
    names = [text for text in axes.get_xticklabels() if text.get_text()]
    ends = [text.get_window_extent(renderer) for text in names]
    if any(left.x1 + 2 > right.x0 for left, right in pairwise(ends)) and not names[0].get_rotation():
        line = 1.5 * float(names[0].get_fontsize()) * axes.figure.dpi / 72  # type: ignore[union-attr]
        upright: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "top"}
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        for text in names:
            text.set(**(slanted if box.width / len(names) > line else upright))


def _break_lines(text: Text, length: float, room: float) -> None:
    if text.get_text() and length > room > 0:
        longest = max(map(len, text.get_text().splitlines()))
        text.set_text(fill(" ".join(text.get_text().split()), max(8, int(longest * room / length))))


def figures(contents: Contents, *, grey: bool, names: bool) -> Iterator[tuple[str, Callable[[], Sheet]]]:
    """Name and maker of each figure; what is drawn is checked when it is made.

    `grey`: photographs in shades of grey; `names`: the names of subjects and visits instead of numbers.
    """
    for what in ("preparation", "examples"):
        yield what, partial(_pictures, contents, what, grey=grey)
    yield "distributions", partial(_distributions, contents)
    yield "fit", partial(_fit, contents)
    yield "trajectories", partial(_trajectories, contents, names=names)
    yield "learning", partial(_learning, contents)
    yield "confusion", partial(_confusions, contents)
    yield "roc", partial(_roc, contents)
    yield "saliency", partial(_pictures, contents, "saliency", grey=grey)


PICTURES = {
    "preparation": "Images of one case, the panels that networks read, and the panels as altered in training.",
    "examples": "An image of each class.",
    "saliency": "Maps of the image parts that a prediction depends on, over the image that the network read.",
}


def _pictures(contents: Contents, what: str, *, grey: bool) -> Sheet:
    from casewise.analysis.pictures import examples, preparation, saliency
    from casewise.report.figures.drawing import onto
    from casewise.report.figures.paper import gallery, row_heights, rows_of

    kinds = {"preparation": preparation, "examples": examples, "saliency": saliency}
    shown = kinds[what](contents.run, grey=grey)
    rows = rows_of(shown)
    columns = max(map(len, rows))

    def draw(ax: Axes) -> None:
        with onto(ax):
            gallery(shown)

    width = SINGLE if columns < 3 else DOUBLE
    height = min(PAGE_HEIGHT - 2 * PAD, sum(row_heights(rows)) * width / columns)
    caption = PICTURES[what]
    if what == "preparation" and not contents.run.study.trained:
        caption = "Images of one case, and the panels that models read."
    return Sheet([draw], contents.stated(caption), height, width=width)


def _distributions(contents: Contents) -> Sheet:
    run = contents.run
    sides = "; training and test set side by side" * (TEST in run.finished.splits.side.values())
    units = sorted({run.study.level_of(name) for name in run.targets})
    caption = f"Distribution of the recorded values of each target, one value for each {listed(units)}{sides}."
    parts = [partial(run.plot.distribution, name) for name in run.targets]
    return Sheet(parts, contents.stated(caption), 34, columns=3)


def _fit(contents: Contents) -> Sheet:
    _check_form(contents, classes=False)
    plot, study = contents.run.plot, contents.run.study
    plot.fit()  # what does not apply is refused before a sheet is begun
    confidence = f"{100 * study.evaluation.confidence:g} %"
    band = f", with its pointwise {confidence} band over resampled {study.unit}s if there are enough"
    r = contents.run.results.figures.of(contents.stage, contents.learner, study.primary_outcome).get("pcc")
    caption = (
        f"{contents.headline}, against the reference. Fitted line: least squares{band}. r: Pearson’s correlation with"
        f" its {confidence} interval{', which is rough: few subjects decide it' * bool(r and r.rough)}."
    )
    return Sheet([plot.fit], contents.stated(caption), 66)


def _trajectories(contents: Contents, *, names: bool) -> Sheet:
    from casewise.report.figures.agreement import chosen_tracks

    tracks, plot = contents.tracks(), contents.run.plot
    numbers = {track.subject: f"Subject {number}" for number, track in enumerate(tracks, 1)}
    shown = sorted(chosen_tracks(tracks, MOST_TRACKS), key=lambda track: list(numbers).index(track.subject))
    titles = {track.subject: None if names else numbers[track.subject] for track in shown}
    parts = [partial(plot.trajectory, subject, title=title) for subject, title in titles.items()]
    some = f"{len(shown)} of {len(tracks)} subjects, taken evenly from the smallest to the largest mean error: "
    change = contents.run.study.evaluation.response
    above = " The upper figures are the change from baseline in percent by the reference, the lower ones by the model."
    caption = f"{some if len(shown) < len(tracks) else ''}{contents.headline} and by the reference over the visits."
    caption += " Mean error: the mean absolute difference of both, in points."
    return Sheet(parts, contents.stated(capital(caption) + above * change), 31, columns=3)


def _learning(contents: Contents) -> Sheet:
    run = contents.run
    run.plot.learning()
    jobs = [job for job in run.finished.jobs if job.get("history")]
    networks = list(dict.fromkeys(str(job["model"]) for job in jobs))
    accurate = any("train_accuracy" in entry for job in jobs for entry in job["history"])
    loss = {"mse": "squared error", "l1": "absolute error", "huber": "Huber"}[run.study.recipe.loss]
    forms = [bool(run.study.classes_of(name)) for name in run.study.outputs]
    masks = bool(run.study.images.mask) and any("unet" in name for name in networks)
    kinds = [f"{loss} of standardised scores"] * (not all(forms)) + ["cross-entropy"] * any(forms)
    kind = " and ".join([*kinds, *["that of masks"] * masks])
    phases = " A dashed vertical line marks the beginning of a further phase." * (len(run.study.recipe.phases) > 1)
    caption = (
        f"Loss ({kind}){', and accuracy below it,' * accurate} by epoch of training, a line for each fold. Training: on"
        f" images as the training varies them.{phases}"
    )
    return Sheet([partial(run.plot.learning, name) for name in networks], contents.stated(caption), 46, columns=3)


def _confusions(contents: Contents) -> Sheet:
    _check_form(contents, classes=True)
    run, stage = contents.run, contents.stage
    run.plot.confusion()
    count = len(run.study.classes_of(run.study.primary_outcome))
    learners = contents.learners(stage, run.study.primary_outcome)
    parts = [partial(_confusion, run.plot, name, stage) for name in learners]
    outcome = display_name(run.study, run.study.primary_outcome)
    caption = (
        f"Confusion matrices of {outcome}, {SIDES[stage]}: counts of cases. Shade, and percent where a cell has room:"
        " the share of the reference class."
    )
    columns = 3 if count <= 4 else 2 if count <= 6 else 1
    width = DOUBLE if columns == 1 else 0
    return Sheet(parts, contents.stated(caption), max(34.0, 8.0 * min(count, 20)), columns=columns, width=width)


def _confusion(plot: Any, learner: str, stage: str, ax: Axes) -> None:
    plot.confusion(learner=learner, stage=stage, ax=ax)
    ax.set_title(learner_name(learner), loc="left", fontweight="bold")
    ax.set_yticks(ax.get_yticks(), [fill(text.get_text(), 14, break_long_words=False) for text in ax.get_yticklabels()])


def _roc(contents: Contents) -> Sheet:
    _check_form(contents, classes=True)
    contents.run.plot.roc()
    confidence = f"{100 * contents.run.study.evaluation.confidence:g} %"
    each = "each class against the others, with the AUROC and its" if len(contents.classes) > 2 else "AUROC with its"
    mean = " Each curve is the mean over the folds." * (contents.stage == "oof")
    caption = f"ROC curves. {contents.headline}: {each} {confidence} interval.{mean}"
    return Sheet([contents.run.plot.roc], contents.stated(caption), 66)


def _check_form(contents: Contents, *, classes: bool) -> None:
    """Check that the primary outcome is of the kind that a figure is for.

    Raises:
        CasewiseError: it is not.
    """
    if bool(contents.classes) != classes:
        raise CasewiseError(f"{contents.run.study.primary_outcome} has {'no ' if classes else ''}classes")
