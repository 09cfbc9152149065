"""Which predictions a figure or comparison is about: one learner, target and stage of a run, checked by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, RunError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.evaluation.results import ClassFigures, Figures, Headline


@dataclass(frozen=True)
class Choice:
    """One learner, target and stage of a run."""

    run: Run
    learner: str
    target: str
    stage: str

    @property
    def estimates(self) -> Figures:
        """The metrics by name."""
        return self.run.results.metrics[self.stage][self.learner][self.target]

    @property
    def classes(self) -> ClassFigures:
        """Confusion matrix and curves."""
        return self.run.results.classes[self.stage][self.learner][self.target]

    @property
    def rows(self) -> pd.DataFrame:
        """The evaluated rows that have a reference value."""
        from casewise.evaluation.subgroups import headline_rows

        return headline_rows(self.run.rows, self.as_main).reset_index(drop=True)

    @property
    def as_main(self) -> Headline:
        """The choice as a headline."""
        from casewise.evaluation.results import Headline

        return Headline(self.target, self.stage, self.learner, None, self.estimates, self.kind)

    @property
    def label(self) -> str:
        """The choice in messages."""
        return f"{self.run.folder}: {self.target} by {self.learner}, {self.stage}"

    @property
    def kind(self) -> str:
        """The name of the target's kind."""
        return str(self.run.study.kind_of(self.target))


def choose(run: Run, learner: str | None = None, target: str | None = None, stage: str | None = None) -> Choice:
    """The named learner, target and stage; by default those of the headline.

    Raises:
        CasewiseError: there is no learner, target or stage of this name; the nearest is named.
        RunError: nothing was evaluated.
    """
    main, metrics = run.results.main, run.results.metrics
    if not metrics:
        raise RunError(f"{run.folder}: no prediction has a reference value, so nothing was evaluated.")
    stage = named("stage", stage or main.stage, list(metrics), run)
    learner = named("learner", learner or main.learner, list(metrics[stage]), run)
    targets = [key for key in metrics[stage][learner] if "[" not in key]
    return Choice(run, learner, named("target", target or main.target, targets, run), stage)


def named(what: str, value: str | None, options: Sequence[str], run: Run) -> str:
    """The value if it is one of the options; without a value, the first option.

    Raises:
        CasewiseError: it is not; the options and the nearest one are named.
    """
    if value is None:
        return options[0]
    if value not in options:
        listed = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
        raise CasewiseError(
            f"{run.folder} has no {what} {str(value)[:80]!r}; it has {listed}.{nearest(value, options)}"
        )
    return value
