"""The tables of designs: arms at the baseline of a trial, responders at one visit, images against covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from casewise.analysis.plots import recorded
from casewise.cohort.groups import arms_of, table_column
from casewise.cohort.participants import characteristics, described_columns
from casewise.errors import CasewiseError
from casewise.evaluation.response import percent_change
from casewise.report.blocks import Cell, Row, Table
from casewise.report.context import SIDES
from casewise.report.formatting import capital, display_name, response_name
from casewise.report.tables import percent_cell
from casewise.study.learners import COVARIATES, JOINED, learner_name

if TYPE_CHECKING:
    from casewise.analysis.run import Run


def arms(run: Run) -> Table:
    """Subjects, recorded columns and the outcome at the baseline by arm, as mean (SD) or n (%) of those recorded.

    Raises:
        CasewiseError: the run has no arms.
    """
    study, images = run.study, run.finished.cohort.images
    if not run.results.trials:
        raise CasewiseError("the run has no effects of a treatment (evaluation.arm)")
    trial = next(iter(run.results.trials.values()))
    change = percent_change(recorded(run, study.primary_outcome), baseline=study.evaluation.baseline)
    starts = change[(change["since"] == 0).fillna(False)]
    starts = starts[starts["visit"] == trial.baseline] if trial.baseline in set(starts["visit"]) else starts
    arm_of = arms_of(images, str(study.evaluation.arm))
    scores = starts.groupby(starts["subject"].map(arm_of))["y_true"].agg(["count", "mean", "std"])
    images = images[images["case"].isin(starts["case"])]
    sides = {arm: images["subject"].map(arm_of) == arm for arm in trial.subjects if arm in scores.index}
    columns = described_columns(study, images)
    columns |= {name: column for name in study.covariates if (column := table_column(study, images, name))}
    columns.pop(str(study.evaluation.arm), None)
    rows = [("subjects", "n", *(f"{scores.at[arm, 'count']:,}" for arm in sides))]
    outcome = f"{display_name(study, study.primary_outcome)}, mean (SD)"
    rows.append((outcome, "", *(f"{scores.at[arm, 'mean']:.1f} ({scores.at[arm, 'std']:.1f})" for arm in sides)))
    for entry in characteristics(study, images, columns, sides):
        values = [entry["sides"][arm] for arm in sides]
        if entry["what"] == "column" and entry["kind"] == "numbers":
            cells = [f"{v['mean']:.1f} ({v['sd'] or 0:.1f})" if v["n"] else "" for v in values]
            rows.append((f"{entry['name']}, mean (SD)", "", *cells))
        elif entry["what"] == "column":
            for number, level in enumerate(entry["levels"]):
                pairs = [(v["counts"][number], sum(v["counts"])) for v in values]
                cells = [f"{count:,} ({count / max(total, 1):.0%})" for count, total in pairs]
                rows.append((f"{entry['name']}, n (%)", level["name"], *cells))
    caption = f"Subjects by arm at {trial.baseline or 'the baseline'}; shares are of those recorded."
    return Table.of(pd.DataFrame(rows, columns=["characteristic", "level", *sides]), caption)


def responders_at_visit(run: Run) -> Table:
    """Responders at the last of the visits with the most subjects, by reference and reported model, with intervals.

    Raises:
        CasewiseError: the run has no response over time.
    """
    main, study = run.results.main, run.study
    entry = run.results.response.get(str(main.stage), {}).get(main.learner or "")
    if entry is None or not entry.by_visit:
        raise CasewiseError("the run has no response over time")
    most = max(rates.n_subjects for rates in entry.by_visit.values())
    visit = [name for name, rates in entry.by_visit.items() if rates.n_subjects == most][-1]
    by_arm = [("all", entry.by_visit)]
    if trial := (run.results.trials or {}).get(str(main.stage)):
        by_arm += trial.responders.items()
    data, rows, raters = [], [], ("physician", "model")
    for arm, rates in ((arm, visits[visit]) for arm, visits in by_arm if visit in visits):
        for threshold, by_rater in rates.rates.items():
            cells: list[Cell | str] = [arm] if trial else []
            for rater in raters:
                figure, total = by_rater[rater], rates.n_subjects
                count = round((figure.value or 0.0) * total)
                share = percent_cell(vars(figure))
                cells.append(Cell(f"{count} of {total} ({share.text})", share.small))
                about = {"visit": visit, "arm": arm, "threshold": threshold, "rater": rater, "responders": count}
                ends = {"value": figure.value, "low": figure.low, "high": figure.high}
                data.append({**about, "n_subjects": total, **ends})
            rows.append(Row(response_name(study, threshold), cells))
    caption = (
        f"Responders at {visit}, the last of the visits with the most subjects, {SIDES[str(main.stage)]}: subjects"
        f" whose score fell by the stated percentage or more since the baseline, of those with both scores, with"
        f" {100 * study.evaluation.confidence:g} % intervals (Wilson). Model: {learner_name(main.learner or '')}."
        f" Baseline: {entry.baseline}. {entry.clear_rule}"
    )
    heads = ["Response", *["Arm"] * bool(trial), *map(capital, raters)]
    return Table(heads, rows, caption, data=pd.DataFrame(data))


def covariates(run: Run) -> Table:
    """The covariates, the images and both: each metric that is compared, and its difference from the covariates.

    Raises:
        CasewiseError: the run has no covariates, or their model was not compared.
    """
    entry, outcome, lines = run.results.added_value, run.study.primary_outcome, []
    alone = entry.images if entry and len(entry.images) == 1 else []
    for stage in run.results.stages if entry else ():
        if stage == "oof" and run.results.sources:
            continue  # figures pooled over sources are not compared
        gaps = run.results.figures.contrasts(stage, outcome)
        for metric in dict.fromkeys(metric for own in gaps.cells.values() for metric in own):
            for name in (COVARIATES, *alone, JOINED):
                figure = run.results.figures.of(stage, name, outcome).get(metric)
                gap = None if name == COVARIATES else gaps.gap(metric, name, COVARIATES)
                line = {"stage": stage, "metric": metric, "learner": learner_name(name)}
                values: dict[str, object] = {end: getattr(figure, end, None) for end in ("value", "low", "high")}
                ends = {"difference": "value", "difference_low": "low", "difference_high": "high"}
                lines.append(line | values | {head: getattr(gap, end, None) for head, end in ends.items()})
    if not lines:
        raise CasewiseError("the run has no model of covariates that is compared (covariates)")
    caption = f"{display_name(run.study, outcome)} by covariates, images and both; differences from the covariates."
    return Table.of(pd.DataFrame(lines), caption)
