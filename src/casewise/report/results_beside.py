"""Learners of several runs compared in pairs, where all of them were judged on the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def compared(
    runs: Sequence[Path], studies: Sequence[dict[str, Any]], stage: str, targets: Iterable[str]
) -> dict[str, Any] | None:
    """The comparisons of all runs' learners by target, over the same resamples of subjects, as `metrics.json` has them.

    Learners of later runs carry their study's name in brackets. None where the runs judged other cases or values, or
    their predictions are gone.
    """
    import pandas as pd

    from casewise.evaluation import results
    from casewise.predictions import final_rows

    if not all((folder / "predictions.parquet").is_file() for folder in runs):
        return None
    wanted, tables = set(targets), []
    for number, (folder, study) in enumerate(zip(runs, studies, strict=True)):
        rows = pd.read_parquet(folder / "predictions.parquet")
        rows = final_rows(rows[(rows["stage"] == stage) & rows["target"].isin(wanted)])
        tables.append(rows.assign(model=rows["model"].astype(str) + (f" ({study['name']})" if number else "")))
    judged = [_judged(rows) for rows in tables]
    if any(judged[0] != others for others in judged[1:]):
        return None
    settings = studies[0]["evaluation"]
    found = results.evaluate(
        pd.concat(tables, ignore_index=True),
        targets=[name for name in targets if name in set(tables[0]["target"])],
        main=next(name for name in targets if name in set(tables[0]["target"])),
        resamples=settings["resamples"],
        confidence=settings["confidence"],
        seed=studies[0]["seed"],
        baseline=None,
    )
    return dict(found["comparisons"])


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


def _judged(rows: Any) -> set[tuple[Any, ...]]:
    """Which cases were judged on what."""
    known = rows[rows["y_true"].notna()]
    return set(zip(known["case"], known["target"], known["y_true"].round(6), strict=True))
