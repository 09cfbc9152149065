"""Learners of several runs compared in pairs, where all of them were judged on the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

WHAT = ("case", "region", "image", "target")


APART = "The runs judged different cases; they are not compared in pairs."
GONE = "A run's predictions are gone; the runs are not compared in pairs."


def apart(runs: Sequence[Path], stage: str, targets: Iterable[str]) -> dict[str, str]:
    """Of each target on which the runs cannot be compared in pairs, the sentence that says why."""
    if not _at_hand(runs):
        return dict.fromkeys(targets, GONE)
    tables = [_final(folder, stage, targets) for folder in runs]
    told = {}
    for target in targets:
        # A run without the target has no learner in its table.
        judged = [_judged(rows) for table in tables if len(rows := table[table["target"] == target])]
        if any(others != judged[0] for others in judged[1:]):
            told[target] = APART
    return told


def compared(
    runs: Sequence[Path], studies: Sequence[dict[str, Any]], stage: str, targets: Iterable[str]
) -> dict[str, Any] | None:
    """The comparisons of all runs' learners by target, over the same resamples of subjects, as `metrics.json` has them.

    Learners of later runs carry their study's name in brackets. None where there is no target, or the runs cannot be
    compared on one of them (see `apart`).
    """
    import pandas as pd

    from casewise.evaluation import results

    targets = list(targets)
    if not targets or apart(runs, stage, targets):
        return None
    tables = []
    for number, (folder, study) in enumerate(zip(runs, studies, strict=True)):
        rows = _final(folder, stage, targets)
        tables.append(rows.assign(model=rows["model"].astype(str) + (f" ({study['name']})" if number else "")))
    settings = studies[0]["evaluation"]
    found = results.evaluate(
        pd.concat(tables, ignore_index=True),
        targets=[name for name in targets if name in set(tables[0]["target"])],
        main=next(name for name in targets if name in set(tables[0]["target"])),
        resamples=settings["bootstrap_resamples"],
        confidence=settings["confidence"],
        seed=studies[0]["seed"],
        baseline=None,
    )
    return dict(found["comparisons"])


def has(part: dict[str, Any], stage: str, target: str) -> bool:
    """Whether a run has figures of a target.

    >>> has({"metrics": {"metrics": {"oof": {"net": {"label": {}}}}}}, "oof", "extent")
    False
    """
    return any(target in targets for targets in part["metrics"]["metrics"].get(stage, {}).values())


def lacking(material: Sequence[dict[str, Any]], stage: str, target: str) -> str:
    """Which runs are missing from a target's table, in a sentence; or nothing."""
    names = [part["study"]["name"] for part in material if not has(part, stage, target)]
    return f"Without figures of {target}: {', '.join(names)}." if names else ""


def told(compared: dict[str, Any], merit: str) -> str:
    """Who is best, and by how much the others differ from it, in pairs.

    >>> apart = {"near": {"difference": -0.01, "low": -0.05, "high": 0.02}}
    >>> told({"best": "a", "not_told_apart": ["a", "near"], "differences": apart}, "highest AUROC")
    "The highest AUROC is a's. Against it, over the same subjects: near -0.010 [-0.050, 0.020], not told apart."
    """
    few = " (fewer than ten subjects: rough)" if compared.get("rough") else ""
    parts = []
    for name, apart in compared["differences"].items():
        interval = f" [{apart['low']:z.3f}, {apart['high']:z.3f}]" if apart.get("low") is not None else ""
        alike = ", not told apart" if name in compared["not_told_apart"] else ""
        parts.append(f"{name} {apart['difference']:+.3f}{interval}{alike}")
    return f"The {merit} is {compared['best']}'s. Against it, over the same subjects: {'; '.join(parts)}{few}."


def _at_hand(runs: Sequence[Path]) -> bool:
    return all(RunFolder(folder).predictions.exists() for folder in runs)


def _final(folder: Path, stage: str, targets: Iterable[str]) -> pd.DataFrame:
    """What is judged of a run: one row a learner, case, region, image and target."""
    from casewise.predictions.table import final_rows

    rows = RunFolder(folder).predictions.read()
    return final_rows(rows[(rows["stage"] == stage) & rows["target"].isin(list(targets))])


def _judged(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Which cases, regions and images were judged on what."""
    known = rows[rows["y_true"].notna()]
    what = [known[name].astype(str) for name in WHAT]
    return set(zip(*what, known["y_true"].round(6), strict=True))
