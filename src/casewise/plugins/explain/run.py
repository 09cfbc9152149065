"""Explain a finished run: saliency maps of selected cases, a table, and measures against lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.console import Show, default_show
from casewise.errors import CasewiseError, Suggesting, nearest
from casewise.models.threads import on_threads
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain import case_selection
from casewise.plugins.explain.outputs import CaseExplanation, figure_rows, write_outputs
from casewise.plugins.explain.overlays import FigureRow, side_by_side
from casewise.plugins.explain.placement import placement
from casewise.plugins.explain.results import ExplainSettings, Record, check_networks, named_cases, save_results
from casewise.plugins.explain.saliency import SaliencyMap, average_folds, check_reproduces, load_model, saliency_maps
from casewise.report.formatting import counted, display_name
from casewise.run_folder import ExplanationFolder, RunFolder
from casewise.study.learners import name_of_fold

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Panels of a case that are explained; of more, an evenly spaced sample.
MAX_PANELS = 64


@dataclass(frozen=True)
class Explanation:
    """The files and measures of an explanation; `report` is the run's report where it was written again."""

    folder: Path
    table: Path
    measures: Record | None
    report: Path | None = None


@on_threads()
def explain(run: FinishedRun, settings: ExplainSettings, show: Show) -> Explanation:
    """Explain cases of a finished run, and measure the maps on request.

    Raises:
        CasewiseError: there is no case or network of this name, or files are missing or have changed.
    """
    cases, output, map_size = settings.cases, settings.output, settings.map_size
    folder = ExplanationFolder(output) if output else run.files.explanation_folder
    models = check_networks(run, settings.networks)
    if settings.measure:
        case_selection.mask_to_measure(run)
    selected, rule = (
        (named_cases(run, cases), "selected by name") if cases else case_selection.select_cases(run, models)
    )
    if output:
        folder.begin()
    explanations = _explain_cases(run, models, selected, map_size, show)
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
        "target": case_selection.explain_target(run).target,
        "cells": map_size,
        "cases": entries,
    }
    save_results(run, shown, places, measures)
    return Explanation(folder.path, folder.table.path, measures)


def _explain_cases(
    run: FinishedRun, models: list[str], cases: list[str], map_size: int, show: Show
) -> dict[str, list[CaseExplanation]]:
    """The explanations of each case by each network; every network is loaded once."""
    explanations: dict[str, list[CaseExplanation]] = {case: [] for case in cases}
    names = run.cohort.panels["case"].astype(str).to_numpy()
    rows = {case: np.flatnonzero(names == case).tolist() for case in cases}
    rows = {case: own[:: -(-len(own) // MAX_PANELS)] for case, own in rows.items()}
    folds = run.splits.folds
    with show.bar("explain") as bar:
        for number, model in enumerate(models):
            maps: dict[str, list[list[SaliencyMap]]] = {}
            predictions = {
                case: [case_selection.prediction_of(run, model, row) for row in rows[case]] for case in cases
            }
            for fold in range(folds):
                bar(number * folds + fold, len(models) * folds, name_of_fold(model, fold, alone=run.splits.holdout))
                fold_cases = [case for case in cases if _is_predicted_by(predictions[case], fold)]
                if not fold_cases:
                    continue
                loaded = load_model(run, model, fold, map_size=map_size)
                check_reproduces(run, loaded, [row for case in fold_cases for row in rows[case]])
                for case in fold_cases:
                    pairs = [(row, p) for row, p in zip(rows[case], predictions[case], strict=True) if p]
                    by_row = [saliency_maps(loaded, [row], case_selection.predicted_target(run, p)) for row, p in pairs]
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


def _is_predicted_by(predictions: Sequence[case_selection.CasePrediction | None], fold: int) -> bool:
    """Whether the network of this fold predicted the case: out of fold one network, on the test set all."""
    return bool(predictions) and all(p is not None and p.fold in (fold, None) for p in predictions)


@dataclass(frozen=True, eq=False, repr=False)
class CaseMaps(Suggesting):
    """The saliency maps of one case by several networks.

    Attributes:
        case: the case.
        target: the target whose prediction is explained.
        title: its name in the figure.
        networks: by network, the maps and predictions of each panel of the case.
        rows: the panels that the figure shows.
    """

    case: str
    target: str
    title: str
    networks: dict[str, CaseExplanation]
    rows: list[FigureRow]

    def map(self, network: str | None = None, panel: int = 0, sequence: str = "") -> np.ndarray:
        """The map (H, W) on one panel, from 0 to 1, of a baseline from −1 to 1; of volumes, on the named sequence.

        Args:
            network: one of `networks`; by default the first.
            panel: the number of the panel, from 0.
            sequence: of volumes; by default the first.

        Raises:
            CasewiseError: there is no such network or panel.
        """
        explained = self._network(network)
        return explained.map_of(self._panel(explained, panel), sequence or explained.sequences[0])

    def picture(self, network: str | None = None, panel: int = 0, sequence: str = "") -> np.ndarray:
        """The panel as the network sees it, 8 bits: (H, W, 3) of images, (H, W) of a sequence."""
        explained = self._network(network)
        return explained.picture_of(self._panel(explained, panel), sequence or explained.sequences[0])

    @property
    def predictions(self) -> pd.DataFrame:
        """Each network's prediction for each panel: `learner`, `panel`, `reference`, `prediction`, `correct`."""
        cells = [
            (network, row.name.partition("\n")[2], row.reference, prediction, row.correct[network])
            for row in self.rows
            for network, prediction in row.predicted.items()
        ]
        return pd.DataFrame(cells, columns=["learner", "panel", "reference", "prediction", "correct"])

    def figure(self) -> Figure:
        """The panels (rows) with the map of each network (columns)."""
        from casewise.analysis.plots import for_notebooks

        return for_notebooks(side_by_side(self.rows, f"What the prediction of {self.title} rests on"))

    def __repr__(self) -> str:
        methods = ", ".join(f"{name} ({explained.method})" for name, explained in self.networks.items())
        return f"maps of {self.target} of case {self.case} by {methods}"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The figure, for notebooks."""
        from casewise.analysis.plots import png

        return png(self.figure())

    def _network(self, name: str | None) -> CaseExplanation:
        if name is not None and name not in self.networks:
            raise CasewiseError(
                f"The maps are of {', '.join(self.networks)}, not of {name[:80]!r}.{nearest(name, self.networks)}"
            )
        return self.networks[name] if name else next(iter(self.networks.values()))

    def _panel(self, explained: CaseExplanation, panel: int) -> int:
        if not 0 <= panel < len(explained.maps):
            raise CasewiseError(f"The case {self.case} has panels 0 to {len(explained.maps) - 1}, not {panel}.")
        return panel


@on_threads()
def explain_case(folder: RunFolder, case: str, networks: Sequence[str], *, map_size: int) -> CaseMaps:
    """The maps of one case of a finished run; files are read, and missing prepared images are made again.

    Raises:
        CasewiseError: there is no such case or network, or files are missing or have changed.
    """
    folder.check_finished()
    with folder.lock():
        run = FinishedRun.open(folder)
        models, (name,) = check_networks(run, networks), named_cases(run, [case])
        explanations = _explain_cases(run, models, [name], map_size, default_show())[name]
        rows = figure_rows(run, name, explanations)
    target = case_selection.explain_target(run).target
    return CaseMaps(name, target, display_name(run.study, target), {e.model: e for e in explanations}, rows)
