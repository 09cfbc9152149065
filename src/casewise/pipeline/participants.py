"""The participants of a study, and the headline's figures by subgroup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.cohort.characteristics import characteristics, described_columns, units_of
from casewise.cohort.cohort import Cohort
from casewise.cohort.flow import cases_step
from casewise.cohort.groups import grouping, table_column
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.results import (
    Characteristic,
    Flow,
    HalfWidth,
    Headline,
    Participants,
    Precision,
    Results,
    Side,
    Subgroups,
    from_json,
)
from casewise.evaluation.subgroups import headline_rows, subgroups
from casewise.pipeline.external import read_external
from casewise.predictions.table import final_rows
from casewise.study.schema import Study
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

MOST_FOLDS = 6


def participants_and_subgroups(
    study: Study, cohort: Cohort, predictions: pd.DataFrame, results: Results, folder: RunFolder
) -> Results:
    """The results with the participants and, where the study names subgroups, the figures by subgroup."""
    main, splits = results.main, folder.splits.read()
    flow, sides, described = described_cohort(study, cohort, splits, folder)
    participants = Participants(
        flow,
        sides,
        described,
        evaluated(predictions, study.primary_outcome),
        # figures pooled over sources that were left out in turn have no precision of their own
        None if splits.get("left_out") else precision(study, predictions, main),
    )
    if study.evaluation.subgroup_cuts and main.stage in ("test", "oof"):
        results = replace(results, subgroups=by_group(study, cohort.images, predictions, main))
    return replace(results, participants=participants)


def described_cohort(
    study: Study, cohort: Cohort, splits: Mapping[str, Any], folder: RunFolder
) -> tuple[Flow, list[Side], list[Characteristic]]:
    """The flow of participants, the sides of the split with the external cohort, and the characteristics on each."""
    images = cohort.images
    flow = Flow(cohort.flow, _sizes(images))
    side = images["subject"].astype(str).map(dict(splits["subjects"])).map(str)
    if study.external:
        other = read_external(study, cohort)[1]
        prefix = f"{study.external_name}:"
        # reading the images may have left out cases, such as those that lack a sequence
        predicted = set(folder.external_cohort.read(["case"])["case"].astype(str).str.removeprefix(prefix))
        left = other.cases[other.cases["case"].astype(str).isin(predicted)]
        outside = other.images[other.images["case"].astype(str).isin(predicted)]
        outside = outside.assign(
            subject=prefix + outside["subject"].astype(str),
            case=prefix + outside["case"].astype(str),
        )
        steps = [*other.flow, *cases_step("images", other.cases, left)]
        flow = replace(flow, external=Flow(steps, _sizes(outside), name=study.external_name))
        images = pd.concat([images, outside], ignore_index=True)
        side = side.reindex(images.index, fill_value="external")
    own = pd.Series(np.arange(len(images)) < len(cohort.images), index=images.index)
    names: list[tuple[str, str, pd.Series]] = [("all", "", own)]
    sources = [str(name) for name in splits.get("left_out") or []]
    folds = sorted({int(name) for name in side[own].unique() if name.isdecimal()})
    if (side == "test").any():
        names += [("train", "", own & side.isin([str(fold) for fold in folds])), ("test", "", side == "test")]
    elif len(folds) <= MOST_FOLDS:
        of_fold = dict(zip(folds, sources, strict=False))
        names += [("fold", of_fold.get(fold, str(fold)), side == str(fold)) for fold in folds]
    if study.external:
        names.append(("external", study.external_name, ~own))
    rows = {str(number): mask for number, (*_, mask) in enumerate(names)}
    sides = [Side(code, name, **_sizes(images[mask])) for code, name, mask in names]
    entries = characteristics(study, images, described_columns(study, images), rows)
    return flow, sides, from_json(list[Characteristic], entries)


def _sizes(images: pd.DataFrame) -> dict[str, int]:
    return {name: int(images[column].nunique()) for name, column in _COUNTED.items()}


_COUNTED = {"subjects": "subject", "cases": "case", "images": "path"}


def evaluated(predictions: pd.DataFrame, target: str) -> dict[str, dict[str, int]]:
    """By stage: the subjects and cases with a prediction of the target, and those of them with a reference value."""
    rows = final_rows(predictions[predictions["target"] == target])
    return {
        str(stage): {
            "subjects": int(of_stage["subject"].nunique()),
            "cases": int(of_stage["case"].nunique()),
            "subjects_with_reference": int(of_stage.loc[of_stage["y_true"].notna(), "subject"].nunique()),
            "cases_with_reference": int(of_stage.loc[of_stage["y_true"].notna(), "case"].nunique()),
        }
        for stage, of_stage in rows.groupby("stage", sort=False)
    }


def precision(study: Study, predictions: pd.DataFrame, main: Headline) -> Precision | None:
    """What the sample size gives: half the width of each headline figure's interval; None if nothing was evaluated."""
    if not main.metrics:
        return None
    rows = headline_rows(predictions, main)
    classes = study.classes_of(main.target)
    of_class = rows.groupby("y_true")["subject"].nunique() if classes else {}
    figures = {}
    for name in kind_named(main.kind).headline:
        figure = main.metrics.get(name)
        if figure and figure.low is not None and figure.high is not None:
            figures[name] = HalfWidth((figure.high - figure.low) / 2, figure.rough)
    return Precision(
        main.stage,
        main.learner,
        main.target,
        figures,
        n_subjects=int(rows["subject"].nunique()),
        n_cases=int(rows["case"].nunique()),
        subjects_by_class={name: int(of_class.get(number, 0)) for number, name in enumerate(classes)},
    )


def by_group(study: Study, images: pd.DataFrame, predictions: pd.DataFrame, main: Headline) -> Subgroups:
    """The figures of the headline's learner in each group of the study's subgroups."""
    target, settings = main.target, study.evaluation
    rows = headline_rows(predictions, main)
    level = study.level_of(target)
    row_units = units_of(rows.assign(path=rows["image"]), level)
    image_units = units_of(images, level)
    groupings = []
    for column, cuts in settings.subgroup_cuts.items():
        stored = table_column(study, images, column)
        assert stored is not None, column
        groupings.append((grouping(images[stored], image_units, images["subject"], column, cuts), row_units))
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    return subgroups(
        rows, main, groupings, classes=study.classes_of(target), positive=study.positive_of(target), plan=plan
    )
