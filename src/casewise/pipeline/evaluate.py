"""A study's predictions judged: every figure with its interval, and the notes that go with it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.cohort.labels import study_scores
from casewise.console import Show
from casewise.evaluation import results as evaluation
from casewise.evaluation.run_checks import guess, hopeless, says_the_same
from casewise.files import write_json
from casewise.predictions import nested_cv as tuned
from casewise.predictions.scores import cases_with_missing_regions
from casewise.report.formatting import counted
from casewise.study.schema import Study


def evaluate(study: Study, cohort: Cohort, predictions: pd.DataFrame, folder: Path, show: Show) -> dict[str, Any]:
    """Judge every learner on every target with intervals by subject, and write `metrics.json`."""
    from casewise.evaluation.classification import one_class_notes
    from casewise.evaluation.external import one_class_by_source
    from casewise.evaluation.fold_summary import over_folds
    from casewise.evaluation.headline import headline_inside, headline_within

    settings = study.evaluation
    begun = time.monotonic()
    names = [*study.outputs, *study.scores]
    classed = {name: study.classes_of(name) for name in names if study.classes_of(name)}
    found = evaluation.evaluate(
        predictions,
        targets={name: study.range_of(name) for name in names if name in set(predictions["target"])},
        main=study.primary_outcome,
        resamples=settings.bootstrap_resamples,
        confidence=settings.confidence,
        seed=study.seed,
        bands=settings.bands or None,
        baseline=settings.baseline if settings.response else None,
        responders=tuple(settings.responders),
        readers=readers_table(study, cohort),
        subjects_known=study.subjects_known,
        classes=classed,
        positive={name: first for name in names if (first := study.positive_of(name)) is not None},
        sensitivities=tuple(settings.target_sensitivities),
    )
    for name, cases in cases_with_missing_regions(predictions, study_scores(study)).items():
        if cases and study.missing_regions == "allow":
            found["notes"].append(
                f"{name}: {len(cases)} cases lack a region; it is taken as the mean of the regions that are there. "
                "They are predicted, but not judged, since their recorded score is unknown."
            )
    classes = study.classes_of(study.primary_outcome)
    found |= _other_patients(study, predictions, folder)
    if found.get("left_out"):
        column = study.split.leave_out or "source"
        found["main"] = headline_within(found["main"], found["metrics"], found["left_out"], column, found["notes"])
        found["notes"] += one_class_by_source(found["left_out"], study.level_of(study.primary_outcome))
    if tuned.NESTED in set(predictions["model"]):
        found["main"] = headline_inside(found["main"], found["metrics"], tuned.NESTED, found["notes"])
    found["over_folds"] = evaluation.plain(over_folds(predictions, names, classed))
    nouns = {name: study.level_of(name) for name in names if study.classes_of(name)}
    found["notes"] += one_class_notes(found["classes"], nouns)
    found["notes"] += [note] if (note := found.pop("drop_note", "")) else []
    found["notes"] += [
        *guess(predictions, study.primary_outcome, classes),
        *hopeless(study, folder),
        *says_the_same(predictions, study.primary_outcome, study.networks),
    ]
    write_json(folder / "metrics.json", found)
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, {settings.bootstrap_resamples:,} resamples of "
        "subjects, "
        f"{time.monotonic() - begun:.0f} s",
    )
    return found


def _other_patients(study: Study, predictions: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """What is lost on the external cohort, and the figures of each source that was left out of training."""
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.external import by_source, drop, within_sources

    target, settings = study.primary_outcome, study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    classes, positive = study.classes_of(target), study.positive_of(target)
    found: dict[str, Any] = {}
    if study.external:
        found["external_drop"] = drop(predictions, target, classes=classes, positive=positive, plan=plan)
        inside = {f["internal_stage"] for told in found["external_drop"].values() for f in told.values()}
        if "oof" in inside:
            found["drop_note"] = (
                "The external cohort is predicted by the mean of all folds' networks, cases out of fold by one network "
                "each: the drop is somewhat larger than it looks."
            )
    splits = json.loads((folder / "splits.json").read_text())
    if names := splits.get("left_out"):
        folds = sorted((side, subject) for subject, side in splits["subjects"].items() if side != "test")
        sources = {subject: names[side - 1] for side, subject in folds}
        found["left_out"] = by_source(predictions, target, sources, classes=classes, positive=positive, plan=plan)
        found["within"] = within_sources(found["left_out"])
    return evaluation.plain(found)


def readers_table(study: Study, cohort: Cohort) -> pd.DataFrame | None:
    """What each reader recorded: case, target, reader, value; None where the study names no readers."""
    tables = []
    for target, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            values = pd.to_numeric(cohort.images[column], errors="coerce")
            means = values.groupby(cohort.images["case"]).mean().dropna()
            tables.append(
                pd.DataFrame({"case": means.index, "target": target, "reader": reader, "value": means.to_numpy()})
            )
    return pd.concat(tables, ignore_index=True) if tables else None
