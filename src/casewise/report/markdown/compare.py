"""Comparison of learners of several runs in pairs, if all were evaluated on the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

KEYS = ("case", "region", "image", "target")


def not_comparable(runs: Sequence[Path], stage: str, targets: Iterable[str]) -> dict[str, str]:
    """A code for each target on which the runs cannot be compared: `gone` predictions or `different` cases."""
    if not all(RunFolder(folder).predictions.exists() for folder in runs):
        return dict.fromkeys(targets, "gone")
    tables = [_final(folder, stage, targets) for folder in runs]
    reasons = {}
    for target in targets:
        # A run without the target has no learner in its table.
        scored_units = [_scored_units(rows) for table in tables if len(rows := table[table["target"] == target])]
        if any(others != scored_units[0] for others in scored_units[1:]):
            reasons[target] = "different"
    return reasons


def comparisons(
    runs: Sequence[Path], studies: Sequence[Study], stage: str, targets: Iterable[str]
) -> dict[str, Any] | None:
    """The comparisons of all runs' learners by target, over the same resamples of subjects, as `metrics.json` has them.

    Learners of later runs carry their study's name in brackets. None if there is no target, or the runs cannot be
    compared on one of them (see `not_comparable`).
    """
    import pandas as pd

    targets = list(targets)
    if not targets or not_comparable(runs, stage, targets):
        return None
    tables = []
    for number, (folder, study) in enumerate(zip(runs, studies, strict=True)):
        rows = _final(folder, stage, targets)
        tables.append(rows.assign(model=rows["model"].astype(str) + (f" ({study.name})" if number else "")))
    settings = studies[0].evaluation
    names = [name for name in targets if name in set(tables[0]["target"])]
    compared = evaluate(
        pd.concat(tables, ignore_index=True),
        Outcomes(names[0], names),
        Plan(settings.bootstrap_resamples, settings.confidence, studies[0].seed),
    )
    return compared.comparisons


def _final(folder: Path, stage: str, targets: Iterable[str]) -> pd.DataFrame:
    """The evaluated rows of a run: one per learner, case, region, image and target."""

    from casewise.predictions.table import final_rows

    rows = RunFolder(folder).predictions.read()
    return final_rows(rows[(rows["stage"] == stage) & rows["target"].isin(list(targets))])


def _scored_units(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    """The evaluated cases, regions and images, with their reference."""
    scored = rows[rows["y_true"].notna()]
    keys = [scored[name].astype(str) for name in KEYS]
    return set(zip(*keys, scored["y_true"].round(6), strict=True))
