"""Evaluating the predictions: all metrics with intervals, and caveats."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import shown
from casewise.errors import counted
from casewise.evaluation import results as evaluation
from casewise.evaluation.against_baselines import against_baselines
from casewise.evaluation.caveats import Caveat
from casewise.evaluation.run_checks import constant_predictions, guess, hopeless, in_parts
from casewise.pipeline.calibrate import calibration_and_decisions
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
def evaluate(study: Study, cohort: Cohort, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> dict[str, Any]:
    """Evaluate every learner on every target with intervals by subject, and write all figures."""
    from casewise.evaluation.fold_summary import over_folds

    start, settings, plan = time.monotonic(), study.evaluation, _plan(study)
    names = [*study.outputs, *study.scores]
    results = evaluation.evaluate(
        predictions,
        outcomes(study, predictions),
        plan,
        bands=settings.bands or None,
        follow_up=evaluation.FollowUp(settings.baseline, tuple(settings.responders)) if settings.response else None,
        readers=readers_table(study, cohort),
        subjects_known=study.subjects_known,
    )
    for name, cases in cases_with_missing_regions(predictions, study_scores(study)).items():
        if cases and study.missing_regions == "allow":
            results["notes"].append(Caveat("missing_regions", score=name, cases=len(cases)))
    results |= _other_sources(study, predictions, folder)
    _finish_headline(study, predictions, results)
    classes_by_target = {name: study.classes_of(name) for name in names if study.classes_of(name)}
    results["over_folds"] = evaluation.plain(over_folds(predictions, names, classes_by_target))
    if compared := against_baselines(results, networks=study.networks):
        results["against_baselines"] = compared
    if study.decisions:
        results["decisions"] = folder.decisions.read()
    results["notes"] += _caveats(study, predictions, results, folder)
    results |= evaluation.plain(calibration_and_decisions(study, predictions, results["main"]))
    results |= evaluation.plain(prediction_sets(study, predictions, results["main"], folder))
    results |= evaluation.plain(within_shortcut_column(study, cohort, predictions, results, folder))
    if not folder.image_split_mark.exists():  # there, images count as subjects
        results |= evaluation.plain(participants_and_subgroups(study, cohort, predictions, results, folder))
    _add_drift_and_altered_images(study, predictions, results, folder)
    results["notes"] = evaluation.plain(results["notes"])
    results["made_from"] = folder.evaluated_files(study.learners)
    folder.metrics.write(results)
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, intervals by subject, {time.monotonic() - start:.0f} s",
    )
    return results


def _plan(study: Study) -> evaluation.Plan:
    settings = study.evaluation
    return evaluation.Plan(settings.bootstrap_resamples, settings.confidence, study.seed)


def outcomes(study: Study, predictions: pd.DataFrame) -> evaluation.Outcomes:
    """The targets and scores of a study that were predicted, with their classes."""
    names = [*study.outputs, *study.scores]
    stated = "weighted" in study.stack and not study.split.leave_out
    return evaluation.Outcomes(
        study.primary_outcome,
        [name for name in names if name in set(predictions["target"])],
        classes={name: study.classes_of(name) for name in names if study.classes_of(name)},
        positive={name: label for name in names if (label := study.positive_of(name)) is not None},
        sensitivities=tuple(study.evaluation.target_sensitivities),
        prevalence=study.evaluation.prevalence,
        learner=STACKERS["weighted"].learner if study.recipe.auto and stated else "",
        sources_left_out=bool(study.split.leave_out),
    )


def _finish_headline(study: Study, predictions: pd.DataFrame, results: dict[str, Any]) -> None:
    """Take the headline from the networks that inner folds chose; add the caveats on sources that were left out."""
    from casewise.evaluation.external import one_class_by_source
    from casewise.evaluation.headline import headline_inside

    if "by_site" in results:
        column = study.split.leave_out or "source"
        results["notes"].append(Caveat("pooled_over_sources", column=column, kind=results["main"]["kind"]))
        results["notes"] += one_class_by_source(results["by_site"], study.level_of(study.primary_outcome))
    if NESTED in set(predictions["model"]):
        results["main"] = headline_inside(results["main"], results["metrics"], NESTED, results["notes"])


def _caveats(study: Study, predictions: pd.DataFrame, results: dict[str, Any], folder: RunFolder) -> list[Caveat]:
    """The caveats on all figures of the run."""
    from casewise.evaluation.classification import one_class_caveats

    target = study.primary_outcome
    names = [*study.outputs, *study.scores]
    nouns = {name: study.level_of(name) for name in names if study.classes_of(name)}
    drops = [figure for by_metric in results.get("external_drop", {}).values() for figure in by_metric.values()]
    by_all_folds = any(figure["internal_stage"] == "oof" for figure in drops)
    return [
        *one_class_caveats(results["classes"], nouns),
        *([Caveat("external_by_all_folds")] if by_all_folds else []),
        *[Caveat("grades_decided", target=name, rule=rule) for name, rule in study.decisions.items()],
        Caveat("conditional_on_networks", seeds=1),
        *guess(predictions, target, study.classes_of(target)),
        *_left_out(study, folder),
        *in_parts(study.networks, folder),
        *hopeless(study, folder),
        *constant_predictions(predictions, target, study.networks),
    ]


def _left_out(study: Study, folder: RunFolder) -> list[Caveat]:
    """The networks that could not be trained, with the reason for each fold."""
    record = folder.left_out.read_if_exists()
    return [Caveat("networks_left_out", networks=record["networks"], combined=bool(study.stack))] if record else []


def _add_drift_and_altered_images(
    study: Study, predictions: pd.DataFrame, results: dict[str, Any], folder: RunFolder
) -> None:
    """Add what differs for external cases that are unlike the training, and for altered images."""
    from casewise.evaluation.counterfactuals import counterfactual_caveats, counterfactual_figures
    from casewise.evaluation.drift import drift, drift_caveats

    target, plan = study.primary_outcome, _plan(study)
    if study.external:
        distances = drift(predictions, target, plan)
        compared = folder.cohort_difference.read_if_exists() or {}
        results["drift"] = evaluation.plain({"cohorts": compared, "learners": distances})
        results["notes"] += drift_caveats(distances, results["main"]["learner"])
    if folder.counterfactuals.exists():
        altered = counterfactual_figures(
            folder.counterfactuals.read(), target, classes=study.classes_of(target), plan=plan
        )
        results["counterfactuals"] = evaluation.plain(altered)
        results["notes"] += counterfactual_caveats(altered, target)


def _other_sources(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> dict[str, Any]:
    """The figures of each source that was left out of training; the drop on the external cohort, and its groups."""
    from casewise.evaluation.external import by_column, by_source, drop, mean_intervals, within_sources

    target = study.primary_outcome
    judged: dict[str, Any] = {
        "classes": study.classes_of(target),
        "positive": study.positive_of(target),
        "plan": _plan(study),
    }
    results: dict[str, Any] = {}
    sources: dict[str, str] = {}
    splits = folder.splits.read()
    if names := splits.get("left_out"):
        folds = sorted((side, subject) for subject, side in splits["subjects"].items() if side != "test")
        sources = {subject: names[side - 1] for side, subject in folds}
        results["by_site"] = by_source(predictions, target, sources, **judged)
        means = within_sources(results["by_site"])
        results["site_means"] = mean_intervals(means, predictions, target, sources, **judged)
    if study.external:
        results["external_drop"] = drop(predictions, target, sources=sources or None, **judged)
        table = folder.external_cohort.read()
        results["external_by"] = {
            column: by_column(predictions, target, table, column, **judged) for column in external_groups(study, table)
        }
    return evaluation.plain(results)


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
