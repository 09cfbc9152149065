"""Evaluating the predictions: all metrics with intervals, and caveats."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import shown
from casewise.errors import counted
from casewise.evaluation.against_baselines import against_baselines
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.caveats import caveat
from casewise.evaluation.evaluate import FollowUp, Outcomes
from casewise.evaluation.evaluate import evaluate as evaluate_predictions
from casewise.evaluation.results import Drift, Note, Results, as_stored, write_results
from casewise.evaluation.run_checks import constant_predictions, guess, hopeless, in_parts
from casewise.pipeline.calibrate import with_calibration
from casewise.pipeline.conformal import prediction_sets
from casewise.pipeline.external import external_groups
from casewise.pipeline.participants import participants_and_subgroups
from casewise.pipeline.shortcut_column import within_shortcut_column
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.scores import cases_with_missing_regions
from casewise.predictions.stacking import STACKERS
from casewise.study.schema import Study
from casewise.study.scores import study_scores

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder


@shown("evaluate")
def evaluate(study: Study, cohort: Cohort, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> Results:
    """Evaluate every learner on every target with intervals by subject, and write all figures."""
    from casewise.evaluation.fold_summary import over_folds

    start, settings, plan = time.monotonic(), study.evaluation, _plan(study)
    names = [*study.outputs, *study.scores]
    results = evaluate_predictions(
        predictions,
        outcomes(study, predictions),
        plan,
        bands=settings.bands or None,
        follow_up=FollowUp(settings.baseline, tuple(settings.responders)) if settings.response else None,
        readers=readers_table(study, cohort),
        subjects_known=study.subjects_known,
    )
    for name, cases in cases_with_missing_regions(predictions, study_scores(study)).items():
        if cases and study.missing_regions == "allow":
            results.notes.append(caveat("missing_regions", score=name, cases=len(cases)))
    results = _with_other_sources(study, predictions, results, folder)
    results = _with_final_headline(study, predictions, results)
    classes_by_target = {name: study.classes_of(name) for name in names if study.classes_of(name)}
    results = replace(
        results,
        over_folds=over_folds(predictions, names, classes_by_target),
        against_baselines=against_baselines(results, networks=study.networks),
        decision_rules=folder.decisions.read() if study.decisions else None,
        prediction_sets=prediction_sets(study, predictions, results.main, folder),
        within_column=within_shortcut_column(study, cohort, predictions, results, folder),
        notes=[*results.notes, *_caveats(study, predictions, results, folder)],
    )
    results = with_calibration(study, predictions, results)
    if not folder.image_split_mark.exists():  # there, images count as subjects
        results = participants_and_subgroups(study, cohort, predictions, results, folder)
    results = _with_drift_and_altered_images(study, predictions, results, folder)
    results = write_results(folder, replace(results, made_from=folder.evaluated_files(study.learners)))
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, intervals by subject, {time.monotonic() - start:.0f} s",
    )
    return results


def _plan(study: Study) -> Plan:
    settings = study.evaluation
    return Plan(settings.bootstrap_resamples, settings.confidence, study.seed)


def outcomes(study: Study, predictions: pd.DataFrame) -> Outcomes:
    """The targets and scores of a study that were predicted, with their classes."""
    names = [*study.outputs, *study.scores]
    stated = "weighted" in study.stack and not study.split.leave_out
    return Outcomes(
        study.primary_outcome,
        [name for name in names if name in set(predictions["target"])],
        classes={name: study.classes_of(name) for name in names if study.classes_of(name)},
        positive={name: label for name in names if (label := study.positive_of(name)) is not None},
        sensitivities=tuple(study.evaluation.target_sensitivities),
        prevalence=study.evaluation.prevalence,
        learner=STACKERS["weighted"].learner if study.recipe.auto and stated else "",
        sources_left_out=bool(study.split.leave_out),
    )


def _with_final_headline(study: Study, predictions: pd.DataFrame, results: Results) -> Results:
    """The results with the headline of the networks that inner folds chose, and caveats on sources left out."""
    from casewise.evaluation.external import one_class_by_source
    from casewise.evaluation.headline import headline_inside

    main, notes = results.main, []
    if results.by_site is not None:
        column = study.split.leave_out or "source"
        notes.append(caveat("pooled_over_sources", column=column, kind=main.kind))
        notes += one_class_by_source(results.by_site, study.level_of(study.primary_outcome))
    if NESTED in set(predictions["model"]):
        main = headline_inside(main, results.metrics, NESTED, notes)
    return replace(results, main=main, notes=[*results.notes, *notes])


def _caveats(study: Study, predictions: pd.DataFrame, results: Results, folder: RunFolder) -> list[Note]:
    """The caveats on all figures of the run."""
    from casewise.evaluation.classification import one_class_caveats

    target = study.primary_outcome
    names = [*study.outputs, *study.scores]
    nouns = {name: study.level_of(name) for name in names if study.classes_of(name)}
    drops = [figure for by_metric in (results.external_drop or {}).values() for figure in by_metric.values()]
    by_all_folds = any(figure.internal_stage == "oof" for figure in drops)
    return [
        *one_class_caveats(results.classes, nouns),
        *([caveat("external_by_all_folds")] if by_all_folds else []),
        *[caveat("grades_decided", target=name, rule=rule) for name, rule in study.decisions.items()],
        caveat("conditional_on_networks", seeds=1),
        *guess(predictions, target, study.classes_of(target)),
        *_left_out(study, folder),
        *in_parts(study.networks, folder),
        *hopeless(study, folder),
        *constant_predictions(predictions, target, study.networks),
    ]


def _left_out(study: Study, folder: RunFolder) -> list[Note]:
    """The networks that could not be trained, with the reason for each fold."""
    record = folder.left_out.read_if_exists()
    return [caveat("networks_left_out", networks=record["networks"], combined=bool(study.stack))] if record else []


def _with_drift_and_altered_images(
    study: Study, predictions: pd.DataFrame, results: Results, folder: RunFolder
) -> Results:
    """The results with what differs for external cases that are unlike the training, and for altered images."""
    from casewise.evaluation.counterfactuals import counterfactual_caveats, counterfactual_figures
    from casewise.evaluation.drift import drift, drift_caveats

    target, plan = study.primary_outcome, _plan(study)
    if study.external:
        distances = drift(predictions, target, plan)
        compared = folder.cohort_difference.read_if_exists() or {}
        notes = [*results.notes, *drift_caveats(distances, results.main.learner)]
        results = replace(results, drift=Drift(compared, distances), notes=notes)
    if folder.counterfactuals.exists():
        altered = counterfactual_figures(
            folder.counterfactuals.read(), target, classes=study.classes_of(target), plan=plan
        )
        notes = [*results.notes, *counterfactual_caveats(altered, target)]
        results = replace(results, counterfactuals=altered, notes=notes)
    return results


def _with_other_sources(study: Study, predictions: pd.DataFrame, results: Results, folder: RunFolder) -> Results:
    """The results with each source that was left out of training, the drop on an external cohort, and its groups."""
    from casewise.evaluation.external import by_column, by_source, drop, mean_intervals, within_sources

    target = study.primary_outcome
    judged: dict[str, Any] = {
        "classes": study.classes_of(target),
        "positive": study.positive_of(target),
        "plan": _plan(study),
    }
    sources: dict[str, str] = {}
    splits = folder.splits.read()
    if names := splits.get("left_out"):
        folds = sorted((side, subject) for subject, side in splits["subjects"].items() if side != "test")
        sources = {subject: names[side - 1] for side, subject in folds}
        by_site = by_source(predictions, target, sources, **judged)
        means = mean_intervals(within_sources(by_site), predictions, target, sources, **judged)
        results = replace(results, by_site=by_site, site_means=means)
    if study.external:
        table = folder.external_cohort.read()
        results = replace(
            results,
            external_drop=drop(predictions, target, sources=sources or None, **judged),
            external_by={
                column: by_column(predictions, target, table, column, **judged)
                for column in external_groups(study, table)
            },
        )
    return as_stored(results)


def readers_table(study: Study, cohort: Cohort) -> pd.DataFrame | None:
    """What each reader recorded: case, target, reader, value; None if the study names no readers."""
    tables = []
    for target, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            values = pd.to_numeric(cohort.images[column], errors="coerce")
            means = values.groupby(cohort.images["case"]).mean().dropna()
            tables.append(
                pd.DataFrame({"case": means.index, "target": target, "reader": reader, "value": means.to_numpy()})
            )
    return pd.concat(tables, ignore_index=True) if tables else None
