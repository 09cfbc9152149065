"""The figures of a finished run, drawn by the code of the report and returned as matplotlib figures."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import numpy as np

from casewise.analysis import pictures
from casewise.errors import CasewiseError, RunError, Suggesting, nearest
from casewise.evaluation.figures import ByMetric
from casewise.evaluation.results import Calibration, ClassFigures, Headline
from casewise.evaluation.subgroups import headline_rows
from casewise.pipeline.evaluate import with_calibration
from casewise.predictions.table import final_rows
from casewise.report.figures import agreement, classes, cohort, learners, paper
from casewise.report.figures.agreement import Track
from casewise.report.figures.drawing import Drawing, Look, onto
from casewise.report.formatting import digits_of, display_name, plain
from casewise.report.sections.agreement import limits_from
from casewise.splits.predefined import TEST
from casewise.study.learners import learner_name
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from casewise.analysis.run import Run

T = TypeVar("T")
# The figures of each form of target (see `casewise.targets.Number`).
FIGURES = {
    "number": ("agreement", "bland_altman", "calibration", "fit"),
    "classes": ("roc", "precision_recall", "reliability", "confusion", "calibration"),
}
DPI = 144


class Names(TypedDict, total=False):
    """The subject of a figure, by default the headline; `ax` are axes to draw on, by default of a new figure."""

    learner: str | None
    target: str | None
    stage: str | None
    ax: Axes | None


@dataclass(frozen=True)
class Choice:
    """One learner, target and stage of a run."""

    run: Run
    learner: str
    target: str
    stage: str

    @property
    def estimates(self) -> ByMetric:
        """The metrics by name."""
        return self.run.results.figures.of(self.stage, self.learner, self.target)

    @property
    def classes(self) -> ClassFigures:
        """Confusion matrix and curves."""
        return self.run.results.classes[self.stage][self.learner][self.target]

    @property
    def rows(self) -> pd.DataFrame:
        """The evaluated rows that have a reference value."""
        return headline_rows(self.run.rows, self.as_main).reset_index(drop=True)

    @property
    def as_main(self) -> Headline:
        """The choice as a headline."""
        return Headline(self.target, self.stage, self.learner, None, self.kind)

    @property
    def label(self) -> str:
        """The choice in messages."""
        return f"{self.run.folder}: {self.target} by {self.learner}, {self.stage}"

    @property
    def kind(self) -> str:
        """The name of the target's kind."""
        return str(self.run.study.kind_of(self.target))


def choose(run: Run, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Choice:
    """The named learner, target and stage; by default from the headline.

    Raises:
        CasewiseError: there is no learner, target or stage of this name; the nearest is named.
        RunError: nothing was evaluated.
    """
    main, results = run.results.main, run.results
    if not results.stages:
        raise RunError(f"{run.folder}: no prediction has a reference value, so nothing was evaluated.")
    stage = named("stage", stage or main.stage, results.stages, run)
    learner = named("learner", learner or main.learner, results.learners(stage), run)
    targets = [key for key in results.figures.names("target", stage=stage, learner=learner) if "[" not in key]
    return Choice(run, learner, named("target", target or main.target, targets, run), stage)


def named(what: str, value: str | None, options: Sequence[str], run: Run) -> str:
    """The value if it is one of the options; without a value, the first option.

    Raises:
        CasewiseError: it is not; the options and the nearest one are named.
    """
    if value is None:
        return options[0]
    if value not in options:
        names = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
        raise CasewiseError(f"{run.folder} has no {what} {str(value)[:80]!r}; it has {names}.{nearest(value, options)}")
    return value


def recorded(run: Run, target: str) -> pd.DataFrame:
    """The recorded values of a target in `y_true`, one row for each unit of the study's own cases."""
    rows = run.rows[(run.rows["target"] == target) & (run.rows["stage"] != "external") & run.rows["y_true"].notna()]
    return rows.drop_duplicates(["case", "region", "image"])


@dataclass(frozen=True, repr=False)
class Plots(Suggesting):
    """The figures of a run; `learner`, `target` and `stage` come from the headline unless they are named.

    Every method returns a `matplotlib.figure.Figure`: a notebook shows it, and `figure.savefig("roc.pdf")` saves it.
    With `ax` it draws on these axes, in the style that is in force there.

    Attributes:
        run: the finished run.

    Raises:
        CasewiseError: by every method: a name does not exist, the figure does not apply to the kind of target, or
            there are too few cases for it.
    """

    run: Run

    @property
    def names(self) -> tuple[str, ...]:
        """The figures of the primary outcome, the names of methods; further targets may have others."""
        return FIGURES[kind_named(self.run.study.kind_of(self.run.study.primary_outcome)).form]

    def __repr__(self) -> str:
        return f"Plots of {str(self.run.folder)!r}: {', '.join(f'{name}()' for name in self.names)}"

    def agreement(self, **names: Unpack[Names]) -> Figure:
        """Predicted against recorded values, with the identity and the limits of agreement."""
        scale = self.run.study.range_of

        def draw(chosen: Choice) -> Drawing:
            limits = self._limits(chosen)
            return agreement.scatter(chosen.rows, limits, scale=scale(chosen.target), label=self._label(chosen))

        return self._figure("agreement", names, draw)

    def bland_altman(self, **names: Unpack[Names]) -> Figure:
        """The difference of prediction and recorded value over their mean, with bias and limits of agreement."""

        def draw(chosen: Choice) -> Drawing:
            digits, limits = digits_of(*self.run.study.range_of(chosen.target)), self._limits(chosen)
            return agreement.bland_altman(chosen.rows, limits, digits=digits, label=self._label(chosen))

        return self._figure("bland_altman", names, draw)

    def roc(self, **names: Unpack[Names]) -> Figure:
        """The ROC curve of each class with its AUROC; dots are the operating points. Out of fold, means over folds."""
        return self._figure("roc", names, lambda c: classes.roc(_some(c, classes.curves_of(c.classes, c.estimates))))

    def precision_recall(self, **names: Unpack[Names]) -> Figure:
        """The precision-recall curve of each class, of all cases together, with the average precision."""

        def draw(chosen: Choice) -> Drawing:
            labels = self.run.study.classes_of(chosen.target)
            curves = classes.recall_curves(chosen.rows, labels, chosen.classes, chosen.estimates)
            return classes.precision_recall(_some(chosen, curves))

        return self._figure("precision_recall", names, draw)

    def reliability(self, **names: Unpack[Names]) -> Figure:
        """The share of correct predictions by probability, before and after temperature scaling."""

        def draw(chosen: Choice) -> Drawing:
            errors = [chosen.estimates.get(name) for name in ("ece", "ece_calibrated")]
            return classes.reliability(chosen.classes.reliability, chosen.classes.reliability_calibrated, ece=errors)

        return self._figure("reliability", names, draw)

    def confusion(self, **names: Unpack[Names]) -> Figure:
        """The confusion matrix: reference classes by rows, predicted ones by columns."""
        return self._figure("confusion", names, lambda c: classes.confusion(c.classes.names, c.classes["confusion"]))

    def calibration(self, label: str | None = None, **names: Unpack[Names]) -> Figure:
        """The smoothed calibration curve with its band: of a number, or of the probability of the class `label`.

        By default the positive one of two classes, or the first one of several.
        """
        chosen = self._chosen("calibration", names)
        entries = self._calibration(chosen)
        if label is not None and list(entries) == [""]:
            raise CasewiseError(f"{chosen.label}: a number has one calibration curve; leave out the label {label!r}.")
        name = named("calibration curve of", label, list(entries), self.run)
        if not entries[name].curve:
            raise CasewiseError(f"{chosen.label}: there is no calibration curve, because the predictions do not vary.")
        title = plain(name) or self._label(chosen)
        return _figure(
            names.get("ax"),
            lambda: classes.curve(entries[name].curve, title=title, shares=bool(name), name="calibration"),
        )

    def fit(self, **names: Unpack[Names]) -> Figure:
        """Predicted against recorded values with the fitted line, its band over resampled subjects, and Pearson's r."""
        chosen = self._chosen("fit", names)
        study, rows = self.run.study, chosen.rows
        line = paper.fit(rows, confidence=study.evaluation.confidence, seed=study.seed)
        scale, label, r = study.range_of(chosen.target), self._label(chosen), chosen.estimates.get("pcc")
        return _figure(names.get("ax"), lambda: paper.fitted(rows, line, r, scale=scale, label=label))

    def tracks(self, **names: Unpack[Names]) -> list[Track]:
        """The trajectories of all subjects with two recorded visits or more, by subject; empty without visits."""
        chosen = self._chosen("fit", names)
        rows = final_rows(self.run.rows)
        keys = {"target": chosen.target, "model": chosen.learner, "stage": chosen.stage}
        for column, value in keys.items():
            rows = rows[rows[column] == value]
        if rows["case"].duplicated().any():
            return []
        return agreement.tracks(rows, baseline=self.run.study.evaluation.baseline)

    def trajectory(self, subject: str, *, title: str | None = None, **names: Unpack[Names]) -> Figure:
        """The values of a subject over the visits by reference and model, with the change from baseline in percent.

        `title` is shown instead of the subject, with numbers instead of the names of visits.
        """
        chosen, tracks = self._chosen("fit", names), self.tracks(**names)
        name = named("subject with two recorded visits or more:", subject, [t.subject for t in tracks], self.run)
        track = next(track for track in tracks if track.subject == name)
        if title is not None:
            numbers = [str(number) for number in range(1, len(track.names) + 1)]
            track = replace(track, subject=title, names=numbers, days=track.days - track.days[0])
        top = max(float(np.nanmax([*track.physician, *track.model])) for track in tracks)
        days, change = bool(np.isfinite(track.days).all()), self.run.study.evaluation.response
        look: Look = {"top": top, "days": days, "change": change, "label": self._label(chosen)}
        look["digits"] = digits_of(*self.run.study.range_of(chosen.target))
        return _figure(names.get("ax"), lambda: agreement.trajectory(track, name="trajectory", **look))

    def distribution(self, target: str | None = None, *, ax: Axes | None = None) -> Figure:
        """The shares of each recorded value, in training and test set where there is one."""
        study = self.run.study
        target = named("target", target or study.primary_outcome, self.run.targets, self.run)
        values = recorded(self.run, target)
        side_of = self.run.finished.splits.side
        sides = {subject: "test" if side == TEST else "train" for subject, side in side_of.items()}
        table = values.assign(side=values["subject"].astype(str).map(sides))
        labels = study.classes_of(target)
        look: Look = {"scale": (0, len(labels) - 1) if labels else study.range_of(target), "name": "distribution"}
        look |= {"title": display_name(study, target), "classes": [plain(label) for label in labels]}
        return _figure(ax, lambda: cohort.distribution(table, "y_true", **look))

    def learning(self, learner: str | None = None, *, ax: Axes | None = None) -> Figure:
        """The loss of a network by epoch, and its accuracy if recorded, one line per fold, with its phases."""
        jobs = [job for job in self.run.finished.jobs if job.get("history")]
        networks = list(dict.fromkeys(str(job["model"]) for job in jobs))
        if not networks:
            raise CasewiseError(f"{self.run.folder} has no network with a course of training.")
        learner = named("network with a course of training:", learner, networks, self.run)
        of_learner = [job for job in jobs if job["model"] == learner]
        return _figure(ax, lambda: learners.training(learner_name(learner), of_learner, name="learning"))

    def pictures(self, what: str, *, grey: bool = False, ax: Axes | None = None) -> Figure:
        """Pictures of the run: `preparation` (a case from image to augmented panel), `examples` (one of each class), or
        `saliency` (the maps that `casewise explain` stored). `grey`: in shades of grey, no larger than networks see."""
        kinds = {"preparation": pictures.preparation, "examples": pictures.examples, "saliency": pictures.saliency}
        shown = kinds[named("kind of pictures", what, list(kinds), self.run)](self.run, grey=grey)
        return _figure(ax, lambda: paper.gallery(shown))

    def _figure(self, figure: str, names: Names, draw: Callable[[Choice], Drawing]) -> Figure:
        """The figure of what is chosen, whose target it must apply to."""
        chosen = self._chosen(figure, names)
        return _figure(names.get("ax"), lambda: draw(chosen))

    def _label(self, chosen: Choice) -> str:
        return display_name(self.run.study, chosen.target)

    def _calibration(self, chosen: Choice) -> dict[str, Calibration]:
        """The entries of the results for the headline; entries of another choice are computed."""
        main = self.run.results.main
        entries = (self.run.results.calibration or {}).get(chosen.stage)
        if entries and (main.learner, main.target) == (chosen.learner, chosen.target):
            return entries
        chosen_results = replace(self.run.results, main=chosen.as_main)
        return (with_calibration(self.run.study, self.run.rows, chosen_results).calibration or {})[chosen.stage]

    def _chosen(self, figure: str, names: Names) -> Choice:
        """The choice, whose target the figure applies to.

        Raises:
            CasewiseError: there is no such learner, target or stage, or the figure is for another kind of target.
        """
        chosen = choose(self.run, names.get("learner"), names.get("target"), names.get("stage"))
        possible = FIGURES[kind_named(chosen.kind).form]
        if figure not in possible:
            raise CasewiseError(
                f"{figure} does not apply to {chosen.target}, which is a target of the kind {chosen.kind}. Its figures "
                f"are {', '.join(possible)}."
            )
        return chosen

    def _limits(self, chosen: Choice) -> Any:
        """The limits of agreement.

        Raises:
            CasewiseError: there are too few cases.
        """
        limits = limits_from(chosen.estimates)
        if limits is None:
            raise CasewiseError(f"{chosen.label}: there are too few cases for limits of agreement.")
        return limits


def _some(chosen: Choice, curves: list[T]) -> list[T]:
    """The curves, if there are any."""
    if not curves:
        raise CasewiseError(f"{chosen.label}: there is no such curve, because the cases are all of one class.")
    return curves


def _figure(ax: Axes | None, draw: Callable[[], Drawing]) -> Figure:
    """The figure of a drawing, or the figure of the axes it is drawn on."""
    with onto(ax):
        drawing = draw()
    if ax is not None:
        return ax.figure  # type: ignore[return-value]
    assert drawing.figure is not None  # drawn by matplotlib
    return for_notebooks(drawing.figure)


def for_notebooks(figure: Figure) -> Figure:
    """The figure in a resolution for the screen; notebooks show it also without pyplot."""
    shown: Any = figure
    shown.set_dpi(DPI)
    shown._original_dpi = DPI  # files are saved in the resolution of the figure's first canvas
    shown._repr_png_ = partial(png, figure)
    return figure


def png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """The figure as PNG, and the size in which it is shown."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    width, height = figure.get_size_inches() * 72
    return buffer.getvalue(), {"width": round(width), "height": round(height)}
