"""One learner, target and stage of a run, checked by name, and the comparison of two runs on their common cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.plots import Choice
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
        learner: one learner of both runs, or one of each; by default the headlines' learners. Two learners of one run
            are compared by giving the run twice.
        target: by default the primary outcome of the first run.
        stage: by default the stage of the first run's headline.

    Returns:
        One row for each metric: `metric`, `first`, `second`, `difference` (second − first) with its interval `low` to
        `high`, `n_subjects`, `n_cases` and `distinguishable`, which is false where the interval includes 0 or there
        are fewer than ten subjects. Both runs are evaluated on the same resamples of subjects. The intervals hold for
        this pair only, like a report's primary comparison, so choose it before looking: a report's intervals of
        other pairs hold for all of them at once, and may include 0 where these do not.

    Raises:
        CasewiseError: a name does not exist in a run, or the runs have no case in common or other reference values.
    """
    import pandas as pd

    from casewise.analysis.plots import choose
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
    compared = judgement.compare()
    for metric in dict.fromkeys(metric for own in compared.cells.values() for metric in own):
        if gap := compared.gap(metric, SECOND, FIRST):
            values = {name: judgement.metrics[name][metric].value for name in (FIRST, SECOND)}
            counts = {"n_subjects": gap.n_subjects, "n_cases": judgement.metrics[FIRST][metric].n_cases}
            line = {"metric": metric, **values, "difference": gap.value, "low": gap.low, "high": gap.high, **counts}
            lines.append(line | {"distinguishable": not gap.open})
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
