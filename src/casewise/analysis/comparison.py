"""Comparison of two finished runs on the cases that both predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.analysis.choice import Choice, choose
from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run

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

    first, second = (run if isinstance(run, Run) else Run.open(run) for run in (first, second))
    names = learner if isinstance(learner, tuple) else (learner, learner)
    first_choice = choose(first, names[0], target, stage)
    second_choice = choose(second, names[1], first_choice.target, first_choice.stage)
    rows, study = _common_rows(first_choice, second_choice), first.study
    settings = study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    classes = study.classes_of(first_choice.target)
    judgement = judge_of(rows, classes, study.positive_of(first_choice.target)).judge(rows, plan, whole=True)
    lines = []
    for metric, entry in judgement.comparison.items():
        gap = entry["differences"].get(FIRST) or entry["differences"].get(SECOND)
        if gap is None:
            continue
        low, high, difference = gap["low"], gap["high"], gap["difference"]
        if entry["best"] == SECOND:  # the difference is that of the first from the second
            low, high, difference = (None if end is None else -end for end in (high, low, difference))
        estimates = [judgement.metrics[name][metric] for name in (FIRST, SECOND)]
        lines.append(
            {
                "metric": metric,
                FIRST: estimates[0].value,
                SECOND: estimates[1].value,
                "difference": difference,
                "low": low,
                "high": high,
                "n_subjects": entry["n_subjects"],
                "n_cases": estimates[0].n_cases,
                "distinguishable": not gap["indistinguishable"],
            }
        )
    return pd.DataFrame(lines)


def _common_rows(first_choice: Choice, second_choice: Choice) -> pd.DataFrame:
    """The rows of both choices on their common cases, as the learners `first` and `second`.

    Raises:
        CasewiseError: there are none, or their classes or reference values differ.
    """
    import pandas as pd

    from casewise.predictions.table import SAMPLE_KEY

    pair = f"{first_choice.run.folder} and {second_choice.run.folder}"
    classes = [choice.run.study.classes_of(choice.target) for choice in (first_choice, second_choice)]
    if first_choice.kind != second_choice.kind or classes[0] != classes[1]:
        raise CasewiseError(
            f"{pair} cannot be compared: {first_choice.target} is of another kind, or has other classes."
        )
    tables = [first_choice.rows.assign(model=FIRST), second_choice.rows.assign(model=SECOND)]
    both = tables[0].merge(tables[1], on=list(SAMPLE_KEY), suffixes=("", "_other"))
    if both.empty:
        raise CasewiseError(f"{pair} cannot be compared: they have predicted {first_choice.target} for no common case.")
    different = both[(both["y_true"] - both["y_true_other"]).abs() > 1e-5 * both["y_true"].abs().clip(lower=1)]
    if len(different):
        raise CasewiseError(
            f"{pair} cannot be compared: their reference values of {first_choice.target} differ for {len(different)} "
            f"cases, the first of which is {different['case'].iloc[0]}."
        )
    common = both[list(SAMPLE_KEY)]
    return pd.concat([table.merge(common, on=list(SAMPLE_KEY)) for table in tables], ignore_index=True)
