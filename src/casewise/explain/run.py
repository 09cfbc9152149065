"""The story of `casewise explain`, from a finished run to pictures, volumes, a table and the report's section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.console import Show, Silent
from casewise.errors import CasewiseError
from casewise.explain.cache_key import made_of, still
from casewise.explain.case_selection import (
    CasePrediction,
    about,
    asked_about,
    chosen_cases,
    named_cases,
    rows_of,
    said_of,
)
from casewise.explain.finished_run import FinishedRun, check_explained, check_networks, open_finished
from casewise.explain.outputs import Seen, written
from casewise.explain.overlays import save_side_by_side
from casewise.explain.saliency import SaliencyMap, averaged, channels_of, check_same, looks, rebuilt
from casewise.pipeline import report as reported
from casewise.report.formatting import counted
from casewise.run_folder import ExplanationFolder, RunFolder

if TYPE_CHECKING:
    from casewise.explain.saliency import LoadedModel

# Of one case; of a slide's tiles an even part is looked at.
MOST_PANELS = 64


@dataclass(frozen=True)
class Explained:
    """What was written."""

    folder: Path
    table: Path
    figure: Path | None
    measured: dict[str, Any] | None
    report: Path


def explain_run(
    folder: Path,
    *,
    cases: Sequence[str] = (),
    networks: Sequence[str] = (),
    out: Path | None = None,
    measure: bool = False,
    cells: int = 0,
    show: Show | None = None,
) -> Explained:
    """Explain cases of a finished run, measure its networks' maps if asked, and write the run's report with it.

    Args:
        cases: as `SUBJECT/VISIT`; by default a few chosen by the rule of `chosen_cases`.
        networks: by default all of the study.
        out: where pictures and volumes go; by default `explanations` in the run folder.
        measure: against the masks that the study names, for all out-of-fold cases.
        cells: the least number of cells a side of a CNN's map (see `casewise.explain.methods.gradcam.layers_of`).

    Raises:
        CasewiseError: there is no finished run, case or network of this name, or files are missing or changed.
    """
    show = show or Silent()
    if cells < 0:
        raise CasewiseError(f"--map-size: must be 0 or more; found {cells}.")
    if not RunFolder(folder).study.exists():
        open_finished(folder)
    with RunFolder(folder).lock():
        run = open_finished(folder)
        check_explained(run)
        models = check_networks(run, list(networks))
        if measure:
            from casewise.explain.masks import check_lesions

            check_lesions(run)
        chosen, rule = (named_cases(run, list(cases)), "cases named") if cases else chosen_cases(run, models)
        outputs = ExplanationFolder(out) if out else run.files.explanation_folder
        place = outputs.path
        seen = _looked(run, models, chosen, cells, show)
        rows, shown, figure = written(run, seen, chosen, place, show)
        outputs.table.write(pd.DataFrame(rows))
        pictures = save_side_by_side(outputs.figure_path, figure) if figure else None
        target = asked_about(run)
        inside = place.resolve().is_relative_to(folder.resolve())
        # relative, so that a run folder may be moved
        kept = place.resolve().relative_to(folder.resolve()) if inside else place.resolve()
        told = {"rule": rule, "folder": str(kept), "target": target.target, "cells": cells, "cases": shown}
        show.line("explain", f"{counted(len(chosen), 'case')} ({rule}), {counted(len(models), 'network')}, in {place}")
        found = None
        if measure:
            from casewise.explain.localisation import measure as measure_all

            with show.bar("measure") as bar:
                found, table = measure_all(
                    run, models, cells=cells, tell=lambda done, total, text: bar(done, total, text)
                )
            outputs.measurements.write(table)
            for sentence in sentences(found):
                show.line("measure", sentence)
        _tell(run, told, found)
        report = reported.report(run.study, run.cohort, run.predictions, run.results, run.tiles, run.files, Silent())
    return Explained(place, outputs.table.path, pictures, found, report)


def sentences(found: dict[str, Any]) -> list[str]:
    """What was measured, a sentence a network."""
    from casewise.report.sections.saliency import sentence_of

    return [sentence_of(name, told) for name, told in found["networks"].items()]


def _tell(run: FinishedRun, shown: dict[str, Any], found: dict[str, Any] | None) -> None:
    """Write `explanations.json`; what was measured before stays while the networks are the same."""
    before = run.files.explanations.read_or_none() or {}
    now = made_of(run.study.model_dump(mode="json"), run.cohort.images)
    earlier = before.get("measured") if before.get("made_from") == run.made_from else None
    if earlier and not still(earlier.get("made_of") or {}, now):
        earlier = None  # masks or intervals are others
    if found is not None:
        found = {"made_of": now, **found}
    if earlier and found is None:
        found = earlier
    elif earlier and found and earlier["cells"] == found["cells"]:
        both = {**earlier["networks"], **found["networks"]}
        found = {**found, "networks": {name: both[name] for name in run.study.networks if name in both}}
    run.files.explanations.write(_plain({"made_from": run.made_from, "shown": shown, "measured": found}))


def _plain(value: Any) -> Any:
    """Without NaN, which is no JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def _looked(run: FinishedRun, models: list[str], cases: list[str], cells: int, show: Show) -> dict[str, list[Seen]]:
    """For each case what each network made of it; a network is built once."""
    found: dict[str, list[Seen]] = {case: [] for case in cases}
    rows = {case: _some(rows_of(run, case)) for case in cases}
    with show.bar("explain") as bar:
        for number, model in enumerate(models):
            gathered: dict[str, list[list[SaliencyMap]]] = {}
            said = {case: [said_of(run, model, row) for row in rows[case]] for case in cases}
            method = ""
            for fold in range(run.splits.folds):
                bar(number * run.splits.folds + fold, len(models) * run.splits.folds, f"{model}, fold {fold + 1}")
                # out of fold by the one network that did not see it; on the test set by all
                mine = [case for case in cases if said[case] and all(s and s.fold in (fold, None) for s in said[case])]
                if not mine:
                    continue
                one = rebuilt(run, model, fold)
                method = one.method
                check_same(run, one, [row for case in mine for row in rows[case]])
                for case in mine:
                    gathered.setdefault(case, []).append(_asked(run, one, rows[case], said[case], cells))
            for case, several in gathered.items():
                known = [s for s in said[case] if s is not None]
                folds = f"fold {known[0].fold + 1}" if known[0].fold is not None else f"mean of {len(several)} folds"
                found[case].append(Seen(model, folds, method, channels_of(run, model), averaged(several), known))
    lacking = [case for case in cases if not found[case]]
    if lacking:
        raise CasewiseError(f"--case: no network of the run predicted anything of case {', '.join(lacking)}.")
    return found


def _asked(
    run: FinishedRun, one: LoadedModel, rows: list[int], said: Sequence[CasePrediction | None], cells: int
) -> list[SaliencyMap]:
    """The looks at a case's panel rows, each asked about the class that was named for it."""
    found: list[SaliencyMap] = []
    for row, about_it in zip(rows, said, strict=True):
        if about_it is not None:
            found += looks(one, [row], about(run, about_it), cells=cells)
    return found


def _some(rows: list[int]) -> list[int]:
    """At most so many rows, spread evenly."""
    return rows[:: -(-len(rows) // MOST_PANELS)]
