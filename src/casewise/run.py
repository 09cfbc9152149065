"""The story of a study, from the cohort table to the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.console import Show, Silent
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, every prediction, and every figure with its interval."""

    folder: Path
    predictions: pd.DataFrame
    results: dict[str, Any]
    report: Path


def run(study: Study, folder: Path, *, show: Show | None = None) -> Run:
    """Run a study in `folder`; run again, it continues and repeats nothing that is finished.

    Raises:
        CasewiseError: something in the study, the table, the images or the folder must be corrected first.
    """
    from casewise.pipeline.audit import audit
    from casewise.pipeline.evaluate import evaluate
    from casewise.pipeline.image_split import image_split
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
    from casewise.pipeline.report import report
    from casewise.pipeline.score import score
    from casewise.pipeline.split import split
    from casewise.pipeline.stack import stack
    from casewise.pipeline.train import train
    from casewise.run_folder import RunFolder

    show, run_folder = show or Silent(), RunFolder(folder)
    with run_folder.lock():
        cohort = read(study, run_folder, show)
        tiles = prepare(study, cohort, run_folder, show)
        splits = split(study, cohort, run_folder, show)
        audit(study, cohort, tiles, splits, run_folder, show)
        predictions = train(study, cohort, tiles, splits, run_folder, show)
        predictions = stack(study, predictions, run_folder, show)
        predictions = score(study, predictions, run_folder)
        results = evaluate(study, cohort, predictions, run_folder, show)
        if study.split.by == "image":
            results = image_split(study, cohort, tiles, splits, results, run_folder, show)
        page = report(study, cohort, predictions, results, tiles, run_folder, show)
    return Run(folder, predictions, results, page)
