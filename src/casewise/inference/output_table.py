"""The table that a user gets: one row for each learner, case, region or image, and target, with names of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from casewise.inference.chunks import RawCase

UNITS = ("learner", "case", "subject", "visit", "region", "image", "target")
# What follows the probabilities.
FLAGS = ("spread", "distance", "beyond", "problem")
# A distance above this is flagged: one in twenty held-out cases of the study exceeds it.
FAR = 1.0
NOT_FINITE = "The networks gave no finite value."


@dataclass(frozen=True)
class OutputTable:
    """The columns of predictions of new cases, and how rows are brought into them.

    Attributes:
        classes: the names of the classes of each predicted target; empty for numbers.
        scores: the names of the scores, which are numbers.
    """

    classes: Mapping[str, Sequence[str]]
    scores: Sequence[str]

    @property
    def targets(self) -> list[str]:
        """The predicted targets, then the scores."""
        return [*self.classes, *(name for name in self.scores if name not in self.classes)]

    @property
    def probabilities(self) -> list[str]:
        """The columns of probabilities."""
        names = [name for classes in self.classes.values() for name in classes]
        return [f"probability of {name}" for name in dict.fromkeys(names)]

    @property
    def columns(self) -> list[str]:
        """Every column in order."""
        return [*UNITS, "prediction", *self.probabilities, *FLAGS]

    def of_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `casewise.inference.ensemble` as this table."""
        table = rows.rename(columns={"model": "learner"})[list(UNITS)].reset_index(drop=True)
        table["prediction"] = [
            self.classes[target][int(value)] if self.classes.get(target) and not math.isnan(value) else value
            for target, value in zip(rows["target"], rows["y_pred"], strict=True)
        ]
        for name in self.probabilities:
            table[name] = np.nan
        for target, names in self.classes.items():
            mask = (rows["target"] == target).to_numpy()
            for code, name in enumerate(names):
                table.loc[mask, f"probability of {name}"] = rows.loc[mask, f"p{code}"].to_numpy()
        table["spread"], table["distance"] = rows["spread"].to_numpy(), rows["distance"].to_numpy()
        table["beyond"] = (table["distance"] > FAR).astype("boolean").mask(table["distance"].isna())
        table["problem"] = np.where(rows["y_pred"].isna().to_numpy(), NOT_FINITE, "")
        return table[self.columns]

    def of_problems(self, cases: Sequence[tuple[RawCase, str]], learners: Sequence[str]) -> pd.DataFrame:
        """A row for each learner, case and target of cases without a prediction, with the reason."""
        rows = [
            {"learner": learner, "case": case.name, "subject": case.subject, "visit": case.visit, "target": target}
            | {"region": "", "image": "", "problem": reason}
            for learner in learners
            for case, reason in cases
            for target in self.targets
        ]
        table = pd.DataFrame(rows, columns=[*UNITS, "problem"])
        for name in (*self.probabilities, "spread", "distance"):
            table[name] = np.nan
        empty = pd.Series([None] * len(rows), dtype=object) if any(self.classes.values()) else np.nan
        return table.assign(prediction=empty, beyond=pd.array([pd.NA] * len(rows), dtype="boolean"))[self.columns]
