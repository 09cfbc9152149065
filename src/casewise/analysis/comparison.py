"""One learner, target and stage of a run, checked by name, and the comparison of two runs on their common cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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


FIRST, SECOND = "first", "second"


def compare(
    first: Run | Path | str,
    second: Run | Path | str,
    *,
    learner: str | tuple[str, str] | None = None,
    target: str | None = None,
    stage: str | None = None,
) -> pd.DataFrame:
    """The difference of two runs in each metric, with its interval, on the cases that both have predicted.

    Args:
        first: a finished run, or its folder.
        second: the one to compare it with.
        learner: one learner of both runs, or one of each; by default that of each headline. Two learners of one run
            are compared by giving the run twice.
        target: by default the primary outcome of the first run.
        stage: by default that of the first run's headline.

    Returns:
        One row for each metric: `metric`, `first`, `second`, `difference` (second − first) with its interval `low` to
        `high`, `n_subjects`, `n_cases` and `distinguishable`, which is false where the interval includes 0 or there
        are fewer than ten subjects. Both runs are evaluated on the same resamples of subjects.

    Raises:
        CasewiseError: a name does not exist in a run, or the runs have no case in common or other reference values.
    """
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.judges import judge_of

    runs = [run if isinstance(run, Run) else Run.open(run) for run in (first, second)]
    names = learner if isinstance(learner, tuple) else (learner, learner)
    choice = choose(runs[0], names[0], target, stage)
    rows, study = _common_rows(choice, choose(runs[1], names[1], choice.target, choice.stage)), runs[0].study
    plan = Plan(study.evaluation.bootstrap_resamples, study.evaluation.confidence, study.seed)
    judge = judge_of(rows, study.classes_of(choice.target), study.positive_of(choice.target))
    judgement = judge.judge(rows, plan, whole=True)
    lines = []
    for metric, entry in judgement.comparison.items():
        for gap in entry.differences.values():
            ends: list[float | None] = [gap.low, gap.difference, gap.high]
            if entry.best == SECOND:  # the difference is that of the first from the second
                ends = [None if end is None else -end for end in reversed(ends)]
            values = {name: judgement.metrics[name][metric].value for name in (FIRST, SECOND)}
            counts = {"n_subjects": entry.n_subjects, "n_cases": judgement.metrics[FIRST][metric].n_cases}
            line = {"metric": metric, **values, "difference": ends[1], "low": ends[0], "high": ends[2], **counts}
            lines.append(line | {"distinguishable": not gap.indistinguishable})
    return pd.DataFrame(lines)


def _common_rows(first_choice: Choice, second_choice: Choice) -> pd.DataFrame:
    """The rows of both choices on their common cases, as the learners `first` and `second`.

    Raises:
        CasewiseError: there are none, or their classes or reference values differ.
    """
    import pandas as pd

    from casewise.predictions.table import SAMPLE_KEY

    pair = f"{first_choice.run.folder} and {second_choice.run.folder} cannot be compared"
    target, choices = first_choice.target, (first_choice, second_choice)
    first, second = ((choice.kind, choice.run.study.classes_of(choice.target)) for choice in choices)
    if first != second:
        raise CasewiseError(f"{pair}: {target} is of another kind, or has other classes.")
    tables = [choice.rows.assign(model=name) for choice, name in zip(choices, (FIRST, SECOND), strict=True)]
    both = tables[0].merge(tables[1], on=list(SAMPLE_KEY), suffixes=("", "_other"))
    if both.empty:
        raise CasewiseError(f"{pair}: they have predicted {target} for no common case.")
    different = both[(both["y_true"] - both["y_true_other"]).abs() > 1e-5 * both["y_true"].abs().clip(lower=1)]
    if len(different):
        count, case = len(different), different["case"].iloc[0]
        raise CasewiseError(f"{pair}: their reference values of {target} differ for {count} cases, such as {case}.")
    common = both[list(SAMPLE_KEY)]
    return pd.concat([table.merge(common, on=list(SAMPLE_KEY)) for table in tables], ignore_index=True)
