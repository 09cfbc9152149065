"""The figures of a finished run, drawn by the code of the report and returned as matplotlib figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from casewise.analysis.comparison import Choice, choose, named
from casewise.errors import CasewiseError, nearest
from casewise.targets import kind_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from casewise.analysis.run import Run
    from casewise.evaluation.figures import Calibration
    from casewise.report.figures.drawing import Drawing

# The figures of each form of target (see `TargetKind.form`); `calibration` is of both.
FIGURES = {"number": ("agreement", "bland_altman"), "classes": ("roc", "precision_recall", "reliability", "confusion")}
BOTH = ("calibration",)
DPI = 144


@dataclass(frozen=True, repr=False)
class Plots:
    """The figures of a run; `learner`, `target` and `stage` are those of the headline unless they are named.

    Every method returns a `matplotlib.figure.Figure`: a notebook shows it, and `figure.savefig("roc.pdf")` saves it.

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
        return (*FIGURES[kind_named(self.run.study.kind_of(self.run.study.primary_outcome)).form], *BOTH)

    def __repr__(self) -> str:
        return f"Plots of {str(self.run.folder)!r}: {', '.join(f'{name}()' for name in self.names)}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(type(self), name):
            return object.__getattribute__(self, name)  # raises the error of the attribute itself
        raise AttributeError(
            f"There is no figure {name[:80]!r}. The figures of {self.run.study.primary_outcome} are "
            f"{', '.join(self.names)}.{nearest(name, self.names)}",
            name=name,
        )

    def agreement(self, *, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Figure:
        """Predicted against recorded values, with the identity and the limits of agreement."""
        from casewise.report.figures.agreement import scatter
        from casewise.report.formatting import display_name

        chosen = self._chosen("agreement", learner, target, stage)
        label, scale = display_name(self.run.study, chosen.target), self.run.study.range_of(chosen.target)
        return _figure(partial(scatter, chosen.rows, self._limits(chosen), scale=scale, label=label))

    def bland_altman(
        self, *, learner: str | None = None, target: str | None = None, stage: str | None = None
    ) -> Figure:
        """The difference of prediction and recorded value over their mean, with bias and limits of agreement."""
        from casewise.report.figures.agreement import bland_altman
        from casewise.report.formatting import digits_of, display_name

        chosen = self._chosen("bland_altman", learner, target, stage)
        label, digits = display_name(self.run.study, chosen.target), digits_of(*self.run.study.range_of(chosen.target))
        return _figure(partial(bland_altman, chosen.rows, self._limits(chosen), digits=digits, label=label))

    def roc(self, *, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Figure:
        """The ROC curve of each class with its AUROC; dots are the operating points. Out of fold, means over folds."""
        from casewise.report.figures.classes import curves_of, roc

        chosen = self._chosen("roc", learner, target, stage)
        curves = curves_of(chosen.classes, chosen.estimates)
        if not curves:
            raise CasewiseError(f"{chosen.label}: there is no ROC curve, because the cases are all of one class.")
        return _figure(partial(roc, curves))

    def precision_recall(
        self, *, learner: str | None = None, target: str | None = None, stage: str | None = None
    ) -> Figure:
        """The precision-recall curve of each class, of all cases together, with the average precision."""
        from casewise.report.figures.classes import precision_recall, recall_curves

        chosen = self._chosen("precision_recall", learner, target, stage)
        names = self.run.study.classes_of(chosen.target)
        curves = recall_curves(chosen.rows, names, chosen.classes, chosen.estimates)
        if not curves:
            raise CasewiseError(f"{chosen.label}: there is no such curve, because the cases are all of one class.")
        return _figure(partial(precision_recall, curves))

    def reliability(self, *, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Figure:
        """The share of correct predictions by probability, before and after temperature scaling."""
        from casewise.report.figures.classes import reliability

        chosen = self._chosen("reliability", learner, target, stage)
        errors = [chosen.estimates.get(name) for name in ("ece", "ece_calibrated")]
        bins = [chosen.classes.reliability, chosen.classes.reliability_calibrated]
        return _figure(partial(reliability, *bins, ece=errors))

    def confusion(self, *, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Figure:
        """The confusion matrix: reference classes by rows, predicted ones by columns."""
        from casewise.report.figures.classes import confusion

        chosen = self._chosen("confusion", learner, target, stage)
        return _figure(partial(confusion, chosen.classes["names"], chosen.classes["confusion"]))

    def calibration(
        self,
        label: str | None = None,
        *,
        learner: str | None = None,
        target: str | None = None,
        stage: str | None = None,
    ) -> Figure:
        """The smoothed calibration curve with its band: of a number, or of the probability of the class `label`.

        By default the positive one of two classes, or the first one of several.
        """
        from casewise.report.figures.calibration import curve
        from casewise.report.formatting import display_name, plain

        chosen = self._chosen("calibration", learner, target, stage)
        entries = self._calibration(chosen)
        if label is not None and list(entries) == [""]:
            raise CasewiseError(f"{chosen.label}: a number has one calibration curve; leave out the label {label!r}.")
        name = named("calibration curve of", label, list(entries), self.run)
        if not entries[name]["curve"]:
            raise CasewiseError(f"{chosen.label}: there is no calibration curve, because the predictions do not vary.")
        title = plain(name) or display_name(self.run.study, chosen.target)
        return _figure(partial(curve, entries[name]["curve"], title=title, percent=bool(name), name="calibration"))

    def _calibration(self, chosen: Choice) -> dict[str, Calibration]:
        """The entries of the results, which are of the headline; those of another choice are computed."""
        main = self.run.results.main
        entries = (self.run.results.calibration or {}).get(chosen.stage)
        if entries and (main.learner, main.target) == (chosen.learner, chosen.target):
            return entries
        from casewise.pipeline.evaluate import with_calibration

        chosen_results = replace(self.run.results, main=chosen.as_main)
        return (with_calibration(self.run.study, self.run.rows, chosen_results).calibration or {})[chosen.stage]

    def _chosen(self, figure: str, learner: str | None, target: str | None, stage: str | None) -> Choice:
        """The choice, whose target the figure applies to.

        Raises:
            CasewiseError: there is no such learner, target or stage, or the figure is for another kind of target.
        """
        chosen = choose(self.run, learner, target, stage)
        possible = (*FIGURES[kind_named(chosen.kind).form], *BOTH)
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
        from casewise.report.sections.agreement import limits_from

        limits = limits_from(chosen.estimates, chosen.rows)
        if limits is None:
            raise CasewiseError(f"{chosen.label}: there are too few cases for limits of agreement.")
        return limits


def _figure(draw: Callable[[], Drawing]) -> Figure:
    """The figure of a drawing."""
    figure = draw().figure
    assert figure is not None  # drawn by matplotlib
    return for_notebooks(figure)


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
