"""From the predictions of single networks to all figures: combinations, decisions, scores, metrics, participants."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from casewise.audit.columns import leading_column
from casewise.audit.metadata import named_columns
from casewise.cohort.cohort import Cohort
from casewise.cohort.groups import (
    arms_of,
    control_of,
    covariates_by_case,
    grouping,
    kind_of,
    spelled_alike,
    table_column,
)
from casewise.cohort.participants import cases_step, characteristics, described_columns, units_of
from casewise.console import Show, shown
from casewise.errors import counted
from casewise.evaluation import results as stored
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import class_calibration, coverage, decision_curve, holding, number_calibration
from casewise.evaluation.caveats import caveat, guess
from casewise.evaluation.evaluate import WHOLE, FollowUp, Outcomes, one_row_a_case
from casewise.evaluation.evaluate import evaluate as evaluate_predictions
from casewise.evaluation.external import OTHER_VALUES, groups_of_rows
from casewise.evaluation.figures import Figures
from casewise.evaluation.judges import Judged, judge_of
from casewise.evaluation.metrics_file import as_stored, write_results
from casewise.evaluation.results import Results
from casewise.evaluation.subgroups import headline_rows, subgroups, within_column
from casewise.evaluation.trial import trial
from casewise.pipeline.external import external_groups, read_external
from casewise.predictions import table as predicted
from casewise.predictions.conformal import fit
from casewise.predictions.covariates import CovariateFit, fit_covariates, image_model, without_gaps
from casewise.predictions.decisions import ALL, decide_grades
from casewise.predictions.nested_cv import chosen_networks, nested_rows
from casewise.predictions.scores import cases_with_missing_regions, scored
from casewise.predictions.stacking import STACKERS, StackingResult
from casewise.predictions.stacking import stack as fit_stackers
from casewise.predictions.table import INTERNAL, final_rows, with_mean_distances
from casewise.run_folder import RunFolder
from casewise.study.learners import COVARIATES, JOINED, combined_learners, learner_name
from casewise.study.schema import Study
from casewise.study.scores import study_scores


@shown("stack")
def stack(study: Study, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> StackingResult:
    """The stackers; their `rows` are all predictions, also of the network chosen within each fold and of covariates."""
    tables, combined, stacked = [predictions], combined_learners(study), StackingResult(predictions.iloc[:0])
    if study.stack and len(combined) > 1:
        single = predictions[predictions["model"].isin(combined)]
        stacked = fit_stackers(single, study.stack, ranges={name: study.range_of(name) for name in study.outputs})
        show.line("stack", ", ".join(learner_name(STACKERS[name].learner) for name in study.stack))
        tables.append(with_mean_distances(stacked.rows, single))
    elif study.stack:
        show.line("stack", "omitted: a single network is not combined")
    folder.stackers.write(stacked.coefficients)
    if study.nested_cv and study.nested_cv.among and len(study.networks) > 1:
        choice = chosen_networks(folder.job_records(study.networks), study.networks)
        folder.nested.write(choice)
        names = [fold["network"] for fold in choice["folds"].values()]
        show.line("nested", ", ".join(f"{name} in {names.count(name)}" for name in dict.fromkeys(names)) + " folds")
        tables.append(nested_rows(predictions, choice))
    else:
        folder.nested.remove()
    if study.covariates:
        tables.append(_with_covariates(study, pd.concat(tables, ignore_index=True), folder, show))
    else:
        folder.covariates.remove()
    return replace(stacked, rows=pd.concat(tables, ignore_index=True))


def _with_covariates(study: Study, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> pd.DataFrame:
    """The rows of the models of covariates, alone and joined to the images."""
    fitted = _fit_covariates(study, predictions, folder, _covariate_cells(study, folder))
    folder.covariates.write(fitted.record)
    show.line("covariates", ", ".join(f"{name} ({kind})" for name, kind in fitted.record["columns"].items()))
    return with_mean_distances(fitted.rows, predictions[predictions["model"].isin(study.learners)])


def _covariate_cells(study: Study, folder: RunFolder) -> pd.DataFrame:
    """The covariates of the cases of the study and of an external cohort, by case; '' where one is missing."""
    images = folder.cohort.read()
    every = [images, *([folder.external_cohort.read()] if study.external else [])]
    levels = {name: spelled_alike(images[name]).unique().tolist() for name in study.covariates}
    return pd.concat([covariates_by_case(table, study.covariates, levels) for table in every])


def _fit_covariates(study: Study, predictions: pd.DataFrame, folder: RunFolder, cells: pd.DataFrame) -> CovariateFit:
    """Both models of covariates, fitted on the predictions of the image model."""
    images = folder.cohort.read()
    columns = {name: kind_of(images[name], images["subject"]) for name in study.covariates}
    ranges = {name: study.range_of(name) for name in study.outputs}
    return fit_covariates(predictions, image_model(study, predictions), cells, columns, ranges)


def decide(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    """Decide every grade by the rule of its target; write the rules with their thresholds, for new cases too.

    The network of a fold gets the thresholds that were tuned without the cases of that fold.
    """
    if not study.decisions:
        folder.decisions.remove()
        return predictions
    decided = decide_grades(predictions, study.decisions)
    folder.decisions.write(decided.records)
    own = predictions[predictions["model"].isin(study.learners) & (predictions["stage"] == "oof")]
    for learner, fold in own[["model", "outer_fold"]].drop_duplicates().itertuples(index=False):
        records = {target: {"rule": record["rule"]} for target, record in decided.records.items()}
        for target, record in decided.records.items():
            if "thresholds" in record:
                records[target]["thresholds"] = {learner: {ALL: record["thresholds"][learner][str(fold)]}}
        folder.job(learner, int(fold) - 1).decisions.write(records)
    return decided.rows


def score(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    """Add the clinical scores, and write the table of all predictions."""
    table = predicted.check(scored(predictions, study))
    folder.predictions.write(table)
    return table


def calibrated(study: Study, predictions: pd.DataFrame) -> Mapping[str, Any]:
    """The record of `casewise.predictions.conformal.fit`, with the ranges and the level of the study."""
    names = [name for name in (*study.outputs, *study.scores) if not study.classes_of(name)]
    ranges = {name: study.range_of(name) for name in names}
    bounds = {target: sorted(bands.values())[1:] for target, bands in _bands(study).items()}
    return fit(predictions, ranges, study.evaluation.prediction_coverage, bounds)


def _bands(study: Study) -> dict[str, Mapping[str, float]]:
    """The severity bands by target, name -> lower bound; empty without bands."""
    return {study.primary_outcome: study.evaluation.bands} if study.evaluation.bands else {}


@shown("evaluate")
def evaluate(study: Study, cohort: Cohort, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> Results:
    """Evaluate every learner on every target with intervals by subject, and write all figures."""
    from casewise.evaluation.judges import over_folds

    start, settings, plan = time.monotonic(), study.evaluation, _plan(study)
    names, predicted_outcomes = [*study.outputs, *study.scores], outcomes(study, predictions)
    results = evaluate_predictions(
        predictions,
        predicted_outcomes,
        plan,
        bands=settings.bands or None,
        follow_up=FollowUp(settings.baseline, tuple(settings.responders)) if settings.response else None,
        readers=_readers_table(study, cohort),
    )
    for name, cases in cases_with_missing_regions(predictions, study_scores(study)).items():
        if cases and study.missing_regions == "allow":
            results.notes.append(caveat("missing_regions", score=name, cases=cases))
    results = _with_other_sources(study, predictions, results, folder)
    results = replace(
        results,
        figures=results.figures | over_folds(predictions, names, predicted_outcomes.classes),
        trials=trials(study, cohort, predictions, results),
        added_value=added_value(study, predictions, results.main, folder),
        prediction_sets=_prediction_sets(study, predictions, results.main, folder),
        within_column=within_shortcut_column(study, cohort, predictions, results, folder),
        notes=[*results.notes, *guess(final_rows(predictions), study.primary_outcome, plan), *_left_out(folder)],
    )
    results = with_calibration(study, predictions, results)
    if not folder.image_split_mark.exists():  # there, images count as subjects
        results = _participants_and_subgroups(study, cohort, predictions, results, folder)
    results = _with_robustness(study, predictions, results, folder)
    results = write_results(folder, replace(results, made_from=folder.evaluated_files(study.learners)))
    learners = counted(predictions["model"].nunique(), "learner")
    show.line("evaluate", f"{learners}, intervals by subject, {time.monotonic() - start:.0f} s")
    return results


def _prediction_sets(
    study: Study, predictions: pd.DataFrame, main: stored.Headline, folder: RunFolder
) -> stored.PredictionSets | None:
    """The coverage of the headline's learner; None without a headline or calibrated learners, as without folds."""
    record = folder.conformal.read_if_exists()
    if not record or not record["learners"] or main.stage is None:
        return None
    classes = {name: study.classes_of(name) for name in study.outputs if study.classes_of(name)}
    return coverage(predictions, str(main.learner), record, classes, _plan(study), bands=_bands(study))


def _plan(study: Study) -> Plan:
    settings = study.evaluation
    return Plan(settings.bootstrap_resamples, settings.confidence, study.seed, study.unit)


def _judged(study: Study, target: str) -> Judged:
    """What every evaluation of single rows of a target needs."""
    plan = replace(_plan(study), scale=_scale(study, target))
    return {"classes": study.classes_of(target), "positive": study.positive_of(target), "plan": plan}


def _scale(study: Study, target: str) -> float:
    """The difference of the ends of a target's scale; of grades the number of steps."""
    low, high = (1, len(names)) if (names := study.classes_of(target)) else study.range_of(target)
    return float(high - low)


def outcomes(study: Study, predictions: pd.DataFrame) -> Outcomes:
    """The targets and scores of a study that were predicted, with their classes."""
    names = [*study.outputs, *study.scores]
    stated = "weighted" in study.stack and not study.split.leave_out
    return Outcomes(
        study.primary_outcome,
        [name for name in names if name in set(predictions["target"])],
        classes={name: study.classes_of(name) for name in names if study.classes_of(name)},
        positive={name: label for name in names if (label := study.positive_of(name)) is not None},
        prevalence=study.evaluation.prevalence,
        scales={name: _scale(study, name) for name in names},
        learner=STACKERS["weighted"].learner if study.recipe.auto and stated else "",
        margin=study.evaluation.margin,
        sources_left_out=bool(study.split.leave_out),
    )


def _left_out(folder: RunFolder) -> list[stored.Note]:
    """The networks that could not be trained, with the reason for each fold; and whether there was no time for any."""
    record, planned = folder.left_out.read_if_exists(), folder.recipe_plan.read_if_exists() or {}
    notes = [caveat("networks_left_out", networks=record["networks"])] if record else []
    forecast = planned.get("forecast") or {}
    if forecast.get("reason") == "left":
        notes.append(caveat("no_time_for_networks", budget=planned["facts"]["budget"], needed=forecast["needed"]))
    return notes


def _with_robustness(study: Study, predictions: pd.DataFrame, results: Results, folder: RunFolder) -> Results:
    """The results with what differs for external cases that are unlike the training, and for altered images."""
    from casewise.evaluation.robustness import counterfactual_figures, drift, drift_caveats

    target = study.primary_outcome
    plan = _judged(study, target)["plan"]
    if study.external:
        distances = drift(predictions, target, plan)
        compared = folder.cohort_difference.read_if_exists() or {}
        notes = [*results.notes, *drift_caveats(distances, results.main.learner)]
        results = replace(results, drift=stored.Drift(compared, distances), notes=notes)
    if folder.counterfactuals.exists():
        table = folder.counterfactuals.read()
        errors: dict[str, float | None] = {}
        for learner in table["model"].astype(str).unique():
            figure = results.figures.of("validation" if study.split.holdout else "oof", learner, target).get("mae")
            errors[learner] = figure.value if figure else None
        altered = counterfactual_figures(table, target, classes=study.classes_of(target), plan=plan, errors=errors)
        results = replace(results, counterfactuals=altered)
    return results


def left_out_sources(folder: RunFolder) -> dict[str, str]:
    """The source of each subject, in the order of folds, if each fold is a source; else empty."""
    splits = folder.splits.read()
    if not (names := splits.get("left_out")):
        return {}
    folds = sorted((side, subject) for subject, side in splits["subjects"].items() if side != "test")
    return {subject: names[side - 1] for side, subject in folds}


def within_sources(study: Study, predictions: pd.DataFrame, sources: Mapping[str, str]) -> Figures:
    """The figures of the primary outcome out of fold, within each source and averaged over them."""
    from casewise.evaluation.external import by_source, source_means

    judged = _judged(study, study.primary_outcome)
    by_site = by_source(predictions, study.primary_outcome, sources, **judged)
    return by_site | source_means(by_site, predictions, study.primary_outcome, sources, **judged)


def _with_other_sources(study: Study, predictions: pd.DataFrame, results: Results, folder: RunFolder) -> Results:
    """The results with each source that was left out of training, the drop on an external cohort, and its groups."""
    from casewise.evaluation.external import by_column, drop

    target = study.primary_outcome
    judged, sources, figures = _judged(study, target), left_out_sources(folder), results.figures
    if sources:
        figures |= within_sources(study, predictions, sources)
    if study.external:
        table = folder.external_cohort.read()
        columns = external_groups(study, table)
        for column in columns:
            figures |= by_column(predictions, target, table, column, **judged)
        if not sources:  # figures pooled over sources have no difference from others
            figures |= drop(predictions, target, **judged)
    return as_stored(replace(results, figures=figures))


def _readers_table(study: Study, cohort: Cohort) -> pd.DataFrame | None:
    """What each reader recorded: case, target, reader, value; None if the study names no readers."""
    tables = []
    for target, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            values = pd.to_numeric(cohort.images[column], errors="coerce")
            means = values.groupby(cohort.images["case"]).mean().dropna()
            cells = {"case": means.index, "target": target, "reader": reader, "value": means.to_numpy()}
            tables.append(pd.DataFrame(cells))
    return pd.concat(tables, ignore_index=True) if tables else None


GRID = 25


def with_calibration(study: Study, predictions: pd.DataFrame, results: Results) -> Results:
    """The results with the calibration and, where the study declares thresholds, the decision curves.

    Both are of the headline's learner and target, at the headline's stage and on the external cohort.
    """
    main = results.main
    if main.stage is None:
        return results
    thresholds, plan, target = study.evaluation.decision_thresholds, _plan(study), main.target
    classes, positive = study.classes_of(target), study.positive_of(target)
    calibration: dict[str, dict[str, stored.Calibration]] = {}
    curves: dict[str, dict[str, list[stored.NetBenefit]]] = {}
    for stage in dict.fromkeys([main.stage, "external"]):
        rows = headline_rows(predictions, replace(main, stage=stage))
        if rows.empty:
            continue
        if not classes:
            calibration[stage] = {"": number_calibration(rows, plan)}
            continue
        calibration[stage] = class_calibration(rows, classes, positive, plan)
        if thresholds:
            shown = classes if positive is None else [positive]
            curves[stage] = {name: decisions(rows, classes.index(name), thresholds, plan) for name in shown}
    return replace(results, calibration=calibration, decision_curves=curves if thresholds and classes else None)


def trials(study: Study, cohort: Cohort, predictions: pd.DataFrame, results: Results) -> dict[str, stored.Trial] | None:
    """The change over time by arm, for each stage of the study's own subjects with a response; None without an arm."""
    main, settings = results.main, study.evaluation
    if not settings.arm or main.learner is None:
        return None
    arms = arms_of(cohort.images, settings.arm)
    control, rows = control_of(arms.values(), settings.control), final_rows(predictions)
    own = rows[(rows["target"] == main.target) & (rows["model"] == main.learner)]
    by_stage = {}
    for stage in (stage for stage in ("test", "oof", WHOLE) if main.learner in results.response.get(stage, {})):
        cases = one_row_a_case(own[own["stage"].isin(["oof", "test"] if stage == WHOLE else [stage])])
        if cases is not None:
            follow_up = FollowUp(settings.baseline, settings.responders)
            by_stage[stage] = trial(cases, arms, control, follow_up, _plan(study))
    return by_stage


def added_value(
    study: Study, predictions: pd.DataFrame, main: stored.Headline, folder: RunFolder
) -> stored.AddedValue | None:
    """The models that say what the images add to the covariates; None without covariates or a headline."""
    record, target = folder.covariates.read_if_exists(), main.target
    if not record or main.stage is None:
        return None
    curves: dict[str, list[stored.NetBenefit]] = {}
    thresholds, positive = study.evaluation.decision_thresholds, study.positive_of(target)
    if thresholds and positive is not None:
        number, plan = study.classes_of(target).index(positive), _plan(study)
        alone, joined = (headline_rows(predictions, replace(main, learner=name)) for name in (COVARIATES, JOINED))
        curves = {COVARIATES: decisions(alone, number, thresholds, plan)}
        curves[JOINED] = decisions(joined, number, thresholds, plan, alone)
    without = _without_gaps(study, predictions, main, folder)
    return stored.AddedValue(record["images"], record["columns"], curves, without)


def _without_gaps(
    study: Study, predictions: pd.DataFrame, main: stored.Headline, folder: RunFolder
) -> stored.WithoutGaps | None:
    """The figures of the models of covariates that do not see which values are missing; None where none is."""
    cells = _covariate_cells(study, folder)
    if study.split.leave_out or not (cells == "").any(axis=None):
        return None
    outputs = predictions[predictions["target"].isin(study.outputs)]
    fitted = _fit_covariates(study, outputs, folder, without_gaps(cells, study.seed)).rows
    fitted = scored(decide_grades(fitted, study.decisions).rows if study.decisions else fitted, study)
    rows = pd.concat([headline_rows(fitted, replace(main, learner=name)) for name in (COVARIATES, JOINED)])
    if rows.empty:
        return None
    judged = _judged(study, main.target)
    judgement = judge_of(rows, judged.get("classes"), judged.get("positive")).judge(rows, judged["plan"], whole=True)
    compared = judgement.compare((JOINED, COVARIATES))
    gaps = {name: compared.gap(name, JOINED, COVARIATES) for name in judgement.metrics[JOINED]}
    difference = {name: gap for name, gap in gaps.items() if gap is not None}
    alone, both = ({name: judgement.metrics[own][name] for name in difference} for own in (COVARIATES, JOINED))
    return stored.WithoutGaps(alone, both, difference)


def decisions(
    rows: pd.DataFrame, number: int, declared: list[float], plan: Plan, other: pd.DataFrame | None = None
) -> list[stored.NetBenefit]:
    """The net benefit at the declared thresholds and at others between them, for the curve; `declared` marks them."""
    stated = sorted(set(declared))
    low, high = stated[0] / 2, (stated[-1] + min(2 * stated[-1], 1)) / 2
    levels = sorted({*stated, *np.linspace(low, high, GRID).round(4).tolist()})
    points = decision_curve(rows, number, levels, plan, other=other)
    return [replace(point, declared=point.threshold in stated) for point in points]


def within_shortcut_column(
    study: Study, cohort: Cohort, predictions: pd.DataFrame, results: Results, folder: RunFolder
) -> stored.WithinColumn | None:
    """The figures within the column; None where the audit found no such column, or folds are sources."""
    target, main = study.primary_outcome, results.main
    column = leading_column(folder.audit.read_if_exists(), target, named_columns(study))
    if column is None or not study.classes_of(target) or main.stage is None or results.sources:
        return None
    heading = table_column(study, cohort.images, column["name"])
    rows = headline_rows(predictions, main)
    if heading is None or rows.empty:
        return None
    group_of, groups = groups_of_rows(rows, cohort.images, heading)
    if len(groups) < 2 or OTHER_VALUES in groups:  # a column of many values, such as dates, is not a grouping
        return None
    set_holds = holding(rows, folder.conformal.read_if_exists() or {}, str(main.learner), target)
    _by_group, means = within_column(rows, group_of, groups, set_holds, **_judged(study, target))
    return stored.WithinColumn(column["name"], main.target, str(main.stage), str(main.learner), _by_group, means)


MOST_FOLDS = 6


def _participants_and_subgroups(
    study: Study, cohort: Cohort, predictions: pd.DataFrame, results: Results, folder: RunFolder
) -> Results:
    """The results with the participants and, where the study names subgroups, the figures by subgroup."""
    main, splits = results.main, folder.splits.read()
    flow, sides, described = _described_cohort(study, cohort, splits, folder)
    participants = stored.Participants(flow, sides, described, evaluated(predictions, study.primary_outcome))
    if study.evaluation.subgroup_cuts and main.stage in INTERNAL:
        results = replace(results, subgroups=_by_group(study, cohort.images, predictions, main))
    return replace(results, participants=participants)


def _described_cohort(
    study: Study, cohort: Cohort, splits: Mapping[str, Any], folder: RunFolder
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The flow of participants, the sides of the split with the external cohort, and the characteristics on each."""
    images = cohort.images
    flow: dict[str, Any] = {"steps": cohort.flow, "cohort": _sizes(images)}
    side = images["subject"].astype(str).map(dict(splits["subjects"])).map(str)
    if study.external:
        other = read_external(study, cohort)[1]
        prefix = f"{study.external_name}:"
        # reading the images may have left out cases, such as those that lack a sequence
        predicted = set(folder.external_cohort.read(["case"])["case"].astype(str).str.removeprefix(prefix))
        left = other.cases[other.cases["case"].astype(str).isin(predicted)]
        outside = other.images[other.images["case"].astype(str).isin(predicted)]
        prefixed = {name: prefix + outside[name].astype(str) for name in ("subject", "case")}
        outside = outside.assign(**prefixed)
        steps = [*other.flow, *cases_step("images", other.cases, left)]
        flow["external"] = {"steps": steps, "cohort": _sizes(outside), "name": study.external_name}
        images = pd.concat([images, outside], ignore_index=True)
        side = side.reindex(images.index, fill_value="external")
    own = pd.Series(np.arange(len(images)) < len(cohort.images), index=images.index)
    names: list[tuple[str, str, pd.Series]] = [("all", "", own)]
    sources = [str(name) for name in splits.get("left_out") or []]
    folds = sorted({int(name) for name in side[own].unique() if name.isdecimal()})
    if (side == "train").any():
        codes = [code for code in ("train", "validation", "test") if (side == code).any()]
        names += [(code, "", side == code) for code in codes]
    elif (side == "test").any():
        names += [("train", "", own & side.isin([str(fold) for fold in folds])), ("test", "", side == "test")]
    elif len(folds) <= MOST_FOLDS:
        of_fold = dict(zip(folds, sources, strict=False))
        names += [("fold", of_fold.get(fold, str(fold)), side == str(fold)) for fold in folds]
    if study.external:
        names.append(("external", study.external_name, ~own))
    rows = {str(number): mask for number, (*_, mask) in enumerate(names)}
    sides = [{"code": code, "name": name, **_sizes(images[mask])} for code, name, mask in names]
    return flow, sides, characteristics(study, images, described_columns(study, images), rows)


def _sizes(images: pd.DataFrame) -> dict[str, int]:
    return {name: int(images[column].nunique()) for name, column in _COUNTED.items()}


_COUNTED = {"subjects": "subject", "cases": "case", "images": "path"}


def evaluated(predictions: pd.DataFrame, target: str) -> dict[str, dict[str, int]]:
    """By stage: numbers of subjects and cases with a prediction of the target, and how many have a reference value."""
    rows = final_rows(predictions[predictions["target"] == target])
    rows, counted_columns = rows.assign(known=rows["y_true"].notna()), ("subject", "case")
    return {
        str(stage): {
            f"{column}s{suffix}": int(chosen[column].nunique())
            for suffix, chosen in (("", of_stage), ("_with_reference", of_stage[of_stage["known"]]))
            for column in counted_columns
        }
        for stage, of_stage in rows.groupby("stage", sort=False)
    }


def _by_group(study: Study, images: pd.DataFrame, predictions: pd.DataFrame, main: stored.Headline) -> stored.Subgroups:
    """The figures of the headline's learner in each group of the study's subgroups."""
    target, settings = main.target, study.evaluation
    rows = headline_rows(predictions, main)
    level = study.level_of(target)
    row_units = units_of(rows.assign(path=rows["image"]), level)
    image_units = units_of(images, level)
    groupings = []
    for column, cuts in settings.subgroup_cuts.items():
        heading = table_column(study, images, column)
        assert heading is not None, column
        groupings.append((grouping(images[heading], image_units, images["subject"], column, cuts), row_units))
    return subgroups(rows, main, groupings, **_judged(study, target))
