"""All metrics of a study from its table of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from casewise.errors import CasewiseError, nearest
from casewise.evaluation.agreement import (
    band_of,
    between_readers,
    by_key,
    check_bands,
    check_readers,
    group_agreement,
    with_readers,
)
from casewise.evaluation.bootstrap import PLAN, Plan
from casewise.evaluation.caveats import caveat, lower_on_test, pooled_caveats, response_caveats, stage_caveats
from casewise.evaluation.classification import temperature_caveats
from casewise.evaluation.headline import headline
from casewise.evaluation.judges import Judge, class_names, judge_of, shared_truth
from casewise.evaluation.response import check_baseline, response
from casewise.evaluation.results import (
    Bands,
    ClassFigures,
    Comparison,
    Figures,
    GroupAgreement,
    Metrics,
    Note,
    Readers,
    Response,
    Results,
    as_stored,
)
from casewise.predictions.table import STAGES, check, final_rows
from casewise.targets import kind_named


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
        learner: the learner of the headline, if it is stated before any result (see `evaluation.headline`).
        sources_left_out: whether each fold is a source, such as a hospital.
    """

    primary: str
    names: Sequence[str] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    positive: Mapping[str, str] = field(default_factory=dict)
    sensitivities: Sequence[float] = (0.9,)
    prevalence: Mapping[str, float] = field(default_factory=dict)
    learner: str = ""
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
        readers: one row for each case, target and reader (see `casewise.evaluation.agreement.check_readers`). Without
            a column `subject` it is taken from the predictions, and cases that are not there are left out.

    Bands, response and readers apply to kinds of target that are numbers. The headline is never chosen on the cases
    that judge it (see `casewise.evaluation.headline`). Figures have the six digits with which they are stored.
    """
    rows = final_rows(check(predictions))
    predicted = [str(target) for target in rows["target"].unique()]
    names = _checked_names(outcomes, predicted)
    rows = rows[rows["target"].isin(names)]
    by_target = rows.groupby("target", sort=False)
    judges = {
        str(target): judge_of(
            of_target,
            outcomes.classes.get(str(target)),
            outcomes.positive.get(str(target)),
            sensitivities=outcomes.sensitivities,
            prevalence=outcomes.prevalence.get(str(target)),
        )
        for target, of_target in by_target
    }
    primary, classes = outcomes.primary, class_names(judges)
    kind = kind_named(judges[primary].kind)
    if not kind.arithmetic:
        bands = follow_up = None
    if follow_up is not None:
        check_baseline(rows["visit"], follow_up.baseline)
    notes: list[Note] = []
    metrics: Metrics = {}
    comparisons: dict[str, dict[str, dict[str, Comparison]]] = {}
    class_figures: dict[str, dict[str, dict[str, ClassFigures]]] = {}
    responses: dict[str, dict[str, Response]] = {}
    band_figures = None if bands is None else Bands(check_bands(bands), {})
    reader_figures = None
    if readers is not None:
        readers = _numeric_readers(readers, rows, predicted, judges)
        reader_figures = Readers({"all": between_readers(readers, plan)}, {})
    for stage in (stage for stage in STAGES if (rows["stage"] == stage).any()):
        stage_rows = shared_truth(rows[rows["stage"] == stage])
        scored = stage_rows[stage_rows["y_true"].notna()]
        if readers is not None and reader_figures and stage_rows["target"].isin(readers["target"].unique()).any():
            notes += _compare_with_readers(reader_figures, stage, stage_rows, readers, plan)
        if scored.empty:
            notes.append(caveat("stage_without_truth", stage=stage))
            continue
        notes += stage_caveats(stage_rows, stage, names, classes)
        metrics[stage], comparisons[stage], blocks = _judge(scored, names, plan, judges)
        if classes:
            class_figures[stage] = blocks
        cases = _one_row_a_case(stage_rows[stage_rows["target"] == primary]) if kind.arithmetic else None
        if cases is None:
            continue
        if band_figures and bands is not None:
            band_figures.stages[stage] = _bands(cases[cases["y_true"].notna()], bands, plan)
        if follow_up is not None:
            responses[stage] = {
                str(learner): response(of_learner, plan, baseline=follow_up.baseline, thresholds=follow_up.responders)
                for learner, of_learner in cases.groupby("model", sort=False)
            }
            notes += response_caveats(next(iter(responses[stage].values())), stage)
    if not metrics:
        notes.append(caveat("nothing_judged"))
    main = headline(metrics, primary, kind.name, stated=outcomes.learner, sources_left_out=outcomes.sources_left_out)
    notes += pooled_caveats(metrics.get("oof", {}), list(classes))
    notes += lower_on_test(metrics, primary, main.learner, kind.merit, confidence=plan.confidence)
    notes += temperature_caveats(class_figures)
    return as_stored(Results(metrics, comparisons, class_figures, responses, main, notes, band_figures, reader_figures))


def _checked_names(outcomes: Outcomes, predicted: Sequence[str]) -> list[str]:
    """The outcomes in order, the primary one among them.

    Raises:
        CasewiseError: an outcome was not predicted.
    """
    names = [*(outcomes.names or predicted)]
    for name in [outcomes.primary, *names]:
        if name not in predicted:
            raise CasewiseError(
                f"evaluation: there are no predictions of '{name}', only of {', '.join(predicted)}."
                f"{nearest(name, predicted)}"
            )
    return names if outcomes.primary in names else [*names, outcomes.primary]


def _numeric_readers(
    readers: pd.DataFrame, rows: pd.DataFrame, predicted: Sequence[str], judges: Mapping[str, Judge]
) -> pd.DataFrame:
    """The readers' table, checked, with subjects, and without targets that are not numbers."""
    if "subject" not in readers.columns:
        subjects = rows.drop_duplicates("case").set_index("case")["subject"]
        readers = readers[readers["case"].isin(subjects.index)]
        readers = readers.assign(subject=readers["case"].map(subjects))
    readers = check_readers(readers, targets=predicted)
    others = [target for target, judge in judges.items() if not kind_named(judge.kind).arithmetic]
    return readers[~readers["target"].isin(others)]


def _compare_with_readers(
    figures: Readers, stage: str, rows: pd.DataFrame, readers: pd.DataFrame, plan: Plan
) -> list[Note]:
    """Add the agreement of readers and learners at a stage; return why they cannot be compared, if so."""
    target_readers = readers[readers["target"].isin(rows["target"].unique())]
    figures.between[stage] = between_readers(target_readers, plan, only_cases=set(rows["case"]))
    figures.learners[stage] = with_readers(rows, target_readers, plan)
    shared = not rows.merge(target_readers[["case", "target"]].drop_duplicates()).empty
    compared = any(figures.learners[stage].values())
    return [caveat("readers_at_other_level", stage=stage)] if shared and not compared else []


def _judge(
    scored: pd.DataFrame, names: list[str], plan: Plan, judges: Mapping[str, Judge]
) -> tuple[dict[str, dict[str, Figures]], dict[str, dict[str, Comparison]], dict[str, dict[str, ClassFigures]]]:
    """The metrics of every learner and key, the comparisons of learners, and the curves of targets with classes."""
    metrics: dict[str, dict[str, Figures]] = {str(learner): {} for learner in scored["model"].unique()}
    comparisons: dict[str, dict[str, Comparison]] = {}
    blocks: dict[str, dict[str, ClassFigures]] = {learner: {} for learner in metrics}
    order = {target: number for number, target in enumerate(names)}
    scored = scored.sort_values("target", key=lambda targets: targets.map(order), kind="stable")
    for key, group in by_key(scored):
        target = str(group["target"].iloc[0])
        judgement = judges[target].judge(group, plan, whole=key == target)
        for learner, figures in judgement.metrics.items():
            metrics[learner][key] = figures
        for learner, block in judgement.blocks.items():
            blocks[learner][key] = block
        comparisons |= {key: judgement.comparison} if judgement.comparison else {}
    return metrics, comparisons, blocks


def _one_row_a_case(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a case-level target, averaged over images; None if the target has regions."""
    if (rows["region"] != "").any():
        return None
    if not rows.duplicated(["model", "case"]).any():
        return rows
    keys = ["model", "case", "subject", "visit"]
    return rows.groupby(keys, sort=False)[["day", "y_true", "y_pred"]].mean().reset_index()


def _bands(cases: pd.DataFrame, bands: Mapping[str, float], plan: Plan) -> dict[str, GroupAgreement]:
    return {
        str(learner): group_agreement(
            band_of(rows["y_true"].to_numpy(dtype=float), bands),
            band_of(rows["y_pred"].to_numpy(dtype=float), bands),
            rows["subject"].to_numpy(),
            plan,
            n_groups=len(bands),
        )
        for learner, rows in cases.groupby("model", sort=False)
    }
