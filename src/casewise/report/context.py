"""What a report is made of, and which learner, subjects and rows it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.base import Overview
    from casewise.study.schema import Kind, Study


def no_slide(path: str) -> Overview | None:
    """Of a study without slides."""
    return None


def no_grids(case: str) -> list[tuple[str, np.ndarray]]:
    """Of a study without volumes."""
    return []


@dataclass(frozen=True)
class ReportContext:
    """Everything a report says comes from here; nothing is trained, predicted or resampled for it.

    Attributes:
        cohort_images, panels, cases: the tables of `casewise.cohort.cohort.Cohort`.
        notes: plain sentences about what was left out or assumed.
        splits: the content of `splits.json`.
        predictions: the predictions table (out of fold and test).
        metrics: the content of `metrics.json`.
        jobs: one entry a network, with its history.
        stackers: for each combined learner and output its coefficients.
        tiles: image numbers -> (n, C, H, W) uint8.
        photograph: image number -> (h, w, 3) uint8, or None where the file cannot be shown.
        environment: versions, processor, date, command and seconds.
        audit: the content of `audit.json`; None where the run made no audit.
        slide: path -> what is kept of a slide that was cut into tiles, or None.
        tile_predictions: the content of `tiles.parquet`; None where no case has several panels.
        grids: case -> of each sequence that it has the name and the panel (H, W) `uint8` of its central slices, as
            the fold's networks see them; of images nothing.
        explanations: the content of `explanations.json`; None where nothing was explained.
    """

    study: Study
    cohort_images: pd.DataFrame
    panels: pd.DataFrame
    cases: pd.DataFrame
    notes: list[str]
    splits: dict[str, Any]
    predictions: pd.DataFrame
    metrics: dict[str, Any]
    jobs: list[dict[str, Any]]
    stackers: dict[str, Any]
    tiles: Callable[[list[int]], np.ndarray]
    photograph: Callable[[int], np.ndarray | None]
    environment: dict[str, Any]
    audit: dict[str, Any] | None = None
    slide: Callable[[str], Overview | None] = no_slide
    tile_predictions: pd.DataFrame | None = None
    grids: Callable[[str], list[tuple[str, np.ndarray]]] = no_grids
    explanations: dict[str, Any] | None = None

    @property
    def kind(self) -> Kind:
        """What the main outcome is: a number, a class or a grade."""
        return self.study.kind_of(self.study.primary_outcome)

    @property
    def merit(self) -> str:
        """The metric by which the shown learner is chosen, out of fold."""
        return {"regression": "ccc", "classification": "auroc", "ordinal": "kappa_quadratic"}[self.kind]

    @cached_property
    def stage(self) -> str:
        """The stage of the headline in `metrics.json`; without one `test` if it has predictions, else `oof`."""
        there = [s for s in ("test", "oof") if (self.predictions["stage"] == s).any()]
        judged = (self.metrics.get("main") or {}).get("stage")
        return judged if judged in there else (there or ["oof"])[0]

    @property
    def stages(self) -> list[str]:
        """The stages with predictions, the one the report speaks of first."""
        order = [self.stage, *(s for s in ("test", "oof") if s != self.stage)]
        return [s for s in order if (self.predictions["stage"] == s).any()]

    @cached_property
    def learners(self) -> list[str]:
        """Learners with predictions, networks in the study's order first."""
        found = list(dict.fromkeys(self.predictions["model"]))
        known = [name for name in self.study.networks if name in found]
        return known + [name for name in found if name not in known]

    @cached_property
    def learner(self) -> str:
        """The learner shown: the best out of fold on the main outcome, so that the test set chooses nothing."""
        main = self.metrics.get("main") or {}
        if main.get("target") == self.study.primary_outcome and main.get("learner") in self.learners:
            return str(main["learner"])
        scored = [(self.metric("oof", name, self.merit), name) for name in self.learners]
        known = [(found["value"], name) for found, name in scored if found]
        if known:
            return max(known, key=lambda pair: pair[0])[1]
        return self.learners[0]

    def metric(self, stage: str, learner: str, metric: str, target: str | None = None) -> dict[str, Any] | None:
        """One figure of `metrics.json` with its interval, or None where it is missing or undefined."""
        found = self.figures(stage, learner, target or self.study.primary_outcome).get(metric)
        return found if found and is_number(found.get("value")) else None

    def figures(self, stage: str, learner: str, key: str) -> dict[str, Any]:
        """All figures of `metrics.json` of one learner for one target key, such as `composite[upper]`."""
        found: dict[str, Any] = self.metrics.get("metrics", {}).get(stage, {}).get(learner, {}).get(key, {})
        return found

    def classed(self, stage: str, learner: str, target: str | None = None) -> dict[str, Any]:
        """Confusion matrix, curves and operating points of one learner (`classes` of `metrics.json`), or nothing."""
        by_learner = self.metrics.get("classes", {}).get(stage, {}).get(learner, {})
        found: dict[str, Any] = by_learner.get(target or self.study.primary_outcome, {})
        return found

    def range_of(self, target: str) -> tuple[float, float]:
        """The declared range of a target or score, or 0 to 1 for what the study does not declare."""
        known = target in self.study.targets or target in self.study.scores
        return self.study.range_of(target) if known else (0.0, 1.0)

    @cached_property
    def final(self) -> pd.DataFrame:
        """One row a learner, stage, case, region, image and target (see `casewise.predictions.table.final_rows`)."""
        from casewise.predictions.table import final_rows

        return final_rows(self.predictions)

    def rows(self, stage: str, learner: str, target: str | None = None) -> pd.DataFrame:
        """Predictions of `target` (the main outcome by default) by one learner where the truth is known."""
        table = self.final
        wanted = table["target"] == (target or self.study.primary_outcome)
        chosen = table[wanted & (table["stage"] == stage) & (table["model"] == learner)]
        return chosen.dropna(subset=["y_true", "y_pred"]).reset_index(drop=True)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The rows the report speaks of: main outcome, shown learner, first stage."""
        return self.rows(self.stage, self.learner)

    @cached_property
    def repeated(self) -> bool:
        """Whether any subject was seen at more than one visit."""
        return bool((self.cases.groupby("subject")["case"].nunique() > 1).any())

    def subjects_of(self, stage: str) -> int:
        """Number of subjects with predictions in a stage."""
        return int(self.predictions.loc[self.predictions["stage"] == stage, "subject"].nunique())


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number.

    >>> is_number(1.5), is_number(None), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float, np.floating, np.integer)) and bool(np.isfinite(value))
