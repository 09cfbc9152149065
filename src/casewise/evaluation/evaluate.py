"""All metrics of a study from its table of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from casewise.evaluation.agreement import band_of, between_readers, by_key, group_agreement, with_readers
from casewise.evaluation.bootstrap import PLAN, Plan
from casewise.evaluation.caveats import (
    apart_on_test,
    caveat,
    pooled_caveats,
    response_caveats,
    stage_caveats,
)
from casewise.evaluation.classification import temperature_caveats
from casewise.evaluation.figures import ByMetric, Cell, Figures
from casewise.evaluation.headline import headline, internal_headline, primary_contrast
from casewise.evaluation.judges import Judge, class_names, judge_of, shared_truth
from casewise.evaluation.metrics_file import as_stored
from casewise.evaluation.response import response
from casewise.evaluation.results import Bands, ClassFigures, GroupAgreement, Note, Results
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.table import STAGES, check, final_rows
from casewise.targets import kind_named

# The stage of the subjects out of fold and of the test set together, each of whom was predicted once.
WHOLE = "all"


@dataclass(frozen=True)
class Outcomes:
    """The targets and scores to evaluate.

    Attributes:
        primary: the outcome of the headline, the bands and the response over time.
        names: all outcomes, in order; empty: every target of the predictions.
        classes: the names of each target's classes, in order; by default their numbers.
        positive: of two classes, the one that sensitivity refers to; by default the first.
        sensitivities: the sensitivities that operating points aim at, besides Youden's.
        prevalence: the share of the positive class for which predictive values are also stated, by target.
        scales: the difference of the ends of each target's scale.
        learner: the learner of the headline, if it is stated before any result (see `evaluation.headline`).
        margin: the margin of the primary contrast, in the metric by which learners are compared.
        sources_left_out: whether each fold is a source, such as a hospital.
    """

    primary: str
    names: Sequence[str] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    positive: Mapping[str, str] = field(default_factory=dict)
    sensitivities: Sequence[float] = (0.9,)
    prevalence: Mapping[str, float] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    learner: str = ""
    margin: float | None = None
    sources_left_out: bool = False


@dataclass(frozen=True)
class FollowUp:
    """Response over time: the baseline ('first', or the name of a visit) and the percent reductions that count."""

    baseline: str = "first"
    responders: Sequence[float] = (50, 75, 90, 100)


def evaluate(
    predictions: pd.DataFrame,
    outcomes: Outcomes,
    plan: Plan = PLAN,
    *,
    bands: Mapping[str, float] | None = None,
    follow_up: FollowUp | None = None,
    readers: pd.DataFrame | None = None,
) -> Results:
    """Every metric of the study with its interval by subject.

    Args:
        predictions: the table (see `casewise.predictions.table.check`), with its scores and meta learners.
        bands: severity bands of the primary outcome, name -> lower bound.
        follow_up: the response over time; None leaves it out.
        readers: what readers recorded: `case`, `target`, `reader` and `value`; cases that are not in the predictions
            are left out.

    Bands, response and readers apply to kinds of target that are numbers. The headline is never chosen on the cases
    that judge it (see `casewise.evaluation.headline`). Figures have the six digits with which they are stored.
    """
    rows = final_rows(check(predictions))
    names = list(dict.fromkeys([*(outcomes.names or map(str, rows["target"].unique())), outcomes.primary]))
    rows = rows[rows["target"].isin(names)]
    judges = {
        str(target): judge_of(
            of_target,
            outcomes.classes.get(str(target)),
            outcomes.positive.get(str(target)),
            sensitivities=outcomes.sensitivities,
            prevalence=outcomes.prevalence.get(str(target)),
        )
        for target, of_target in rows.groupby("target", sort=False)
    }
    scales = outcomes.scales
    scaled = {name: (judge, replace(plan, scale=scales.get(name, plan.scale))) for name, judge in judges.items()}
    primary, classes = outcomes.primary, class_names(judges)
    kind = kind_named(judges[primary].kind)
    results, table = Results(headline(Figures(), primary, kind.name)), Figures()
    if bands and kind.arithmetic:
        ordered = dict(sorted(bands.items(), key=lambda band: band[1]))
        results = replace(results, bands=Bands(ordered, {}))
    if readers is not None:
        subjects = rows.drop_duplicates("case").set_index("case")["subject"]
        readers = readers.assign(subject=readers["case"].map(subjects)).dropna(subset="subject")
        table |= between_readers(readers, plan).placed(stage=WHOLE)
    notes, compare = results.notes, dict[Cell, Callable[..., Figures]]()
    for stage in (stage for stage in STAGES if (rows["stage"] == stage).any()):
        stage_rows = shared_truth(rows[rows["stage"] == stage])
        scored = stage_rows[stage_rows["y_true"].notna()]
        if readers is not None:
            of_readers, remarks = _readers(stage, stage_rows, readers, plan)
            table, notes = table | of_readers, notes + remarks
        if scored.empty:
            notes.append(caveat("stage_without_truth", stage=stage))
            continue
        notes += stage_caveats(stage_rows, stage, names, classes)
        table |= _judge(results, stage, scored, names, scaled, compare)
        cases = one_row_a_case(stage_rows[stage_rows["target"] == primary]) if kind.arithmetic else None
        if cases is None:
            continue
        by_learner = {str(learner): of_learner for learner, of_learner in cases.groupby("model", sort=False)}
        if results.bands:
            results.bands.stages[stage] = {
                learner: _bands(of_learner[of_learner["y_true"].notna()], results.bands.lower_bounds, plan)
                for learner, of_learner in by_learner.items()
            }
        if follow_up is not None:
            results.response[stage] = {
                learner: response(of_learner, plan, baseline=follow_up.baseline, thresholds=follow_up.responders)
                for learner, of_learner in by_learner.items()
            }
            notes += response_caveats(next(iter(results.response[stage].values())), stage)
    if follow_up is not None and kind.arithmetic and {"oof", "test"} <= set(results.response):
        cases = one_row_a_case(rows[rows["stage"].isin(["oof", "test"]) & (rows["target"] == primary)])
        both = [name for name in results.response["oof"] if name in results.response["test"]]
        results.response[WHOLE] = {
            learner: response(
                cases[cases["model"] == learner], plan, baseline=follow_up.baseline, thresholds=follow_up.responders
            )
            for learner in both
            if cases is not None
        }
    if not table.names("learner"):
        notes.append(caveat("nothing_judged"))
    main = headline(table, primary, kind.name, stated=outcomes.learner, sources_left_out=outcomes.sources_left_out)
    notes += pooled_caveats(table, list(classes))
    stated = dict.fromkeys((kind.merit, kind.headline[0]))
    for metric in stated:
        for worse in (True, False):
            notes += apart_on_test(
                table, primary, main.learner, metric, worse=worse, confidence=plan.confidence, n_metrics=len(stated)
            )
    notes += temperature_caveats(results.classes)
    main = internal_headline(main, table, NESTED)
    contrast = primary_contrast(table, main, outcomes.margin)
    for cell, differences in compare.items():
        # on the cases of other stages the headline may have been chosen
        first = contrast and cell.target == primary and cell.stage in (main.stage, "external")
        pair = (contrast.learner, contrast.baseline) if contrast and first else None
        table |= differences(pair).placed(stage=cell.stage, target=cell.target)
    if contrast and not table.of(contrast.stage, contrast.learner, primary, contrast=contrast.baseline):
        contrast = None
    return as_stored(replace(results, main=main, figures=table, notes=notes, primary=contrast))


def _readers(stage: str, rows: pd.DataFrame, readers: pd.DataFrame, plan: Plan) -> tuple[Figures, list[Note]]:
    """The agreement of readers and learners at a stage, and why they cannot be compared, if so."""
    readers = readers[readers["target"].isin(rows["target"].unique())]
    if readers.empty:
        return Figures(), []
    between = between_readers(readers[readers["case"].isin(rows["case"])], plan)
    compared = with_readers(rows, readers, plan)
    shared = not rows.merge(readers[["case", "target"]].drop_duplicates()).empty
    notes = [caveat("readers_at_other_level", stage=stage)] if shared and not compared else []
    return (between | compared).placed(stage=stage), notes


def _judge(
    results: Results,
    stage: str,
    scored: pd.DataFrame,
    names: list[str],
    judges: Mapping[str, tuple[Judge, Plan]],
    compare: dict[Cell, Callable[..., Figures]],
) -> Figures:
    """The figures of every learner and key; the curves of classes, and what compares learners, are added."""
    learners = [str(learner) for learner in scored["model"].unique()]
    metrics: dict[str, dict[str, ByMetric]] = {learner: {} for learner in learners}
    blocks: dict[str, dict[str, ClassFigures]] = {learner: {} for learner in learners}
    order = {target: number for number, target in enumerate(names)}
    scored = scored.sort_values("target", key=lambda targets: targets.map(order), kind="stable")
    for key, group in by_key(scored):
        target = str(group["target"].iloc[0])
        judge, plan = judges[target]
        judgement = judge.judge(group, plan, whole=key == target)
        for learner, figures in judgement.metrics.items():
            metrics[learner][key] = figures
        for learner, block in judgement.blocks.items():
            blocks[learner][key] = block
        compare[Cell(stage, target=key)] = judgement.compare
    if any(judge.classes for judge, _ in judges.values()):
        results.classes[stage] = blocks
    return Figures((Cell(stage, name, key), own) for name in learners for key, own in metrics[name].items())


def one_row_a_case(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a case-level target, averaged over images; None if the target has regions."""
    if (rows["region"] != "").any():
        return None
    if not rows.duplicated(["model", "case"]).any():
        return rows
    keys = ["model", "case", "subject", "visit"]
    return rows.groupby(keys, sort=False)[["day", "y_true", "y_pred"]].mean().reset_index()


def _bands(rows: pd.DataFrame, bands: Mapping[str, float], plan: Plan) -> GroupAgreement:
    truth, predicted = (band_of(rows[name].to_numpy(dtype=float), bands) for name in ("y_true", "y_pred"))
    return group_agreement(truth, predicted, rows["subject"].to_numpy(), plan, n_groups=len(bands))
