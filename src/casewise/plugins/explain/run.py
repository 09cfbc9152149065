"""Explain a finished run: saliency maps of selected cases, a table, and measures against lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from casewise.console import Show
from casewise.errors import CasewiseError
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.case_selection import (
    CasePrediction,
    explain_target,
    mask_to_measure,
    panel_rows,
    predicted_target,
    prediction_of,
    select_cases,
)
from casewise.plugins.explain.outputs import CaseExplanation, write_outputs
from casewise.plugins.explain.placement import placement
from casewise.plugins.explain.results import ExplainSettings, Record, check_networks, named_cases, save_results
from casewise.plugins.explain.saliency import SaliencyMap, average_folds, check_reproduces, load_model, saliency_maps
from casewise.report.formatting import counted
from casewise.run_folder import ExplanationFolder
from casewise.study.learners import name_of_fold

# Panels of a case that are explained; of more, an evenly spaced sample.
MAX_PANELS = 64


@dataclass(frozen=True)
class Explanation:
    """The files and measures of an explanation; `report` is the run's report where it was written again."""

    folder: Path
    table: Path
    measures: Record | None
    report: Path | None = None


def explain(run: FinishedRun, settings: ExplainSettings, show: Show) -> Explanation:
    """Explain cases of a finished run, and measure the maps on request.

    Raises:
        CasewiseError: there is no case or network of this name, or files are missing or have changed.
    """
    cases, output, map_size = settings.cases, settings.output, settings.map_size
    folder = ExplanationFolder(output) if output else run.files.explanation_folder
    models = check_networks(run, settings.networks)
    if settings.measure:
        mask_to_measure(run)
    selected, rule = (named_cases(run, cases), "selected by name") if cases else select_cases(run, models)
    if output:
        folder.begin()
    explanations = explain_cases(run, models, selected, map_size, show)
    table, entries = write_outputs(run, explanations, folder.path, show)
    folder.table.write(pd.DataFrame(table))
    counts = f"{counted(len(selected), 'case')} ({rule}), {counted(len(models), 'network')}"
    show.line("explain", f"{counts}, in {folder.path}")
    with show.bar("placement") as bar:
        places = placement(run, models, map_size=map_size, progress=bar)
    measures = None
    if settings.measure:
        from casewise.plugins.explain.localisation import measure

        with show.bar("measure") as bar:
            measures, measured = measure(run, models, map_size=map_size, progress=bar)
        folder.measurements.write(measured)
    # relative if it lies in the run folder, so that a run folder can be moved
    own_folder, parent = folder.path.resolve(), run.files.path.resolve()
    shown = {
        "rule": rule,
        "folder": str(own_folder.relative_to(parent) if own_folder.is_relative_to(parent) else own_folder),
        "target": explain_target(run).target,
        "cells": map_size,
        "cases": entries,
    }
    save_results(run, shown, places, measures)
    return Explanation(folder.path, folder.table.path, measures)


def explain_cases(
    run: FinishedRun, models: list[str], cases: list[str], map_size: int, show: Show
) -> dict[str, list[CaseExplanation]]:
    """The explanations of each case by each network; every network is loaded once."""
    explanations: dict[str, list[CaseExplanation]] = {case: [] for case in cases}
    rows = {case: panel_rows(run, case) for case in cases}
    rows = {case: own[:: -(-len(own) // MAX_PANELS)] for case, own in rows.items()}
    folds = run.splits.folds
    with show.bar("explain") as bar:
        for number, model in enumerate(models):
            maps: dict[str, list[list[SaliencyMap]]] = {}
            predictions = {case: [prediction_of(run, model, row) for row in rows[case]] for case in cases}
            for fold in range(folds):
                bar(number * folds + fold, len(models) * folds, name_of_fold(model, fold, alone=run.splits.holdout))
                fold_cases = [case for case in cases if _is_predicted_by(predictions[case], fold)]
                if not fold_cases:
                    continue
                loaded = load_model(run, model, fold, map_size=map_size)
                check_reproduces(run, loaded, [row for case in fold_cases for row in rows[case]])
                for case in fold_cases:
                    pairs = [(row, p) for row, p in zip(rows[case], predictions[case], strict=True) if p]
                    by_row = [saliency_maps(loaded, [row], predicted_target(run, p)) for row, p in pairs]
                    maps.setdefault(case, []).append([saliency for of_row in by_row for saliency in of_row])
            for case, by_fold in maps.items():
                available = [prediction for prediction in predictions[case] if prediction is not None]
                fold_of_case = available[0].fold
                label = f"mean of {len(by_fold)} folds" if fold_of_case is None else f"fold {fold_of_case + 1}"
                if run.splits.holdout:
                    label = "one network"
                averaged = average_folds(by_fold)
                explanations[case].append(
                    CaseExplanation(model, label, loaded.method, loaded.sequences, averaged, available)
                )
    missing = [case for case in cases if not explanations[case]]
    if missing:
        raise CasewiseError(f"--case: no network of the run has a prediction of case {', '.join(missing)}.")
    return explanations


def _is_predicted_by(predictions: Sequence[CasePrediction | None], fold: int) -> bool:
    """Whether the network of this fold predicted the case: out of fold one network, on the test set all."""
    return bool(predictions) and all(p is not None and p.fold in (fold, None) for p in predictions)
