"""What turns the predictions of single networks into those of the study: stackers, decisions, and the headline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.errors import RunError
from casewise.predictions.conformal import with_sets
from casewise.predictions.decisions import ALL, apply_thresholds, half_way
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.stacking import with_combined
from casewise.predictions.table import COLUMNS

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.run_folder import JobFolder, JsonFile, RunFolder


@dataclass(frozen=True)
class Combination:
    """What was fitted beside the networks, and which learner the study is about.

    Attributes:
        stackers: the coefficients of the stackers, by learner and target (see `casewise.predictions.stacking`).
        nested: the network that nested cross-validation chose for new cases; empty without it.
        decisions: the rules of grades with their thresholds by learner (see `casewise.predictions.decisions`).
        headline: the learner that the report is about; empty if nothing was evaluated.
        intervals: the quantiles for prediction intervals and sets (see `casewise.predictions.conformal.fit`); empty for
            a network alone, and for models of earlier versions.
    """

    stackers: Mapping[str, Any] = field(default_factory=dict)
    nested: str = ""
    decisions: Mapping[str, Any] = field(default_factory=dict)
    headline: str = ""
    intervals: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, folder: RunFolder, members: Sequence[Bundle]) -> Combination:
        """That of a run folder.

        Raises:
            RunError: a file of it is damaged, or thresholds are missing.
        """
        # a bundle is predicted with without the evaluation
        from casewise.evaluation.results import read_results

        nested = folder.nested.read_if_exists()
        stackers = folder.stackers.read_if_exists() or {}
        combined = [*stackers, *([NESTED] if nested else [])]
        return cls(
            stackers,
            str(nested["final"]["network"]) if nested else "",
            decisions_of(folder.decisions, members, combined),
            (read_results(folder).main.learner or "") if folder.metrics.exists() else "",
            folder.conformal.read_if_exists() or {},
        )

    @classmethod
    def of_network(cls, folder: JobFolder, member: Bundle) -> Combination:
        """That of a network alone: nothing but its decisions."""
        return cls(decisions=decisions_of(folder.decisions, [member]), headline=member.model)

    def rehearsed(self, members: Sequence[Bundle]) -> pd.DataFrame:
        """Combine, decide and calibrate a made-up case, as a check of what was read from a file.

        Returns:
            Rows of every learner, as `casewise.inference.ensemble` has them.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: a value is missing or has another form.
            RunError: a stacker combines a network that is not there.
        """
        if not (isinstance(self.headline, str) and isinstance(self.nested, str)):
            raise TypeError("the name of a learner is no text")
        networks = list(dict.fromkeys(member.model for member in members))
        rows = [
            {**dict.fromkeys(COLUMNS, ""), "model": model, "stage": "external", "target": output.name}
            | {"kind": output.kind, "y_pred": 0.0, "distance": math.nan, "outer_fold": math.nan}
            | {f"p{number}": 1 / output.classes for number in range(output.classes)}
            for model in networks
            for output in members[0].output_records
        ]
        combined = with_combined(pd.DataFrame(rows), self.stackers, self.nested)
        return with_sets(apply_thresholds(combined, self.decisions), self.intervals)

    def learners(self, networks: Sequence[str]) -> list[str]:
        """Every learner that can predict: the networks, the stackers, and the choice of nested cross-validation."""
        return [*networks, *self.stackers, *([NESTED] if self.nested else [])]

    def networks_of(self, learner: str) -> list[str]:
        """The networks behind a learner."""
        if learner == NESTED and self.nested:
            return [self.nested]
        entries = self.stackers.get(learner)
        if entries is None:
            return [learner]
        names = [name for entry in entries.values() for name in entry.get("weights") or entry["learners"]]
        return list(dict.fromkeys(names))


def decisions_of(file: JsonFile, members: Sequence[Bundle], combined: Sequence[str] = ()) -> dict[str, Any]:
    """The rules of grades with their thresholds; without a file, those that need none.

    Raises:
        RunError: a rule has tuned thresholds, and their file is missing or damaged.
    """
    if file.exists():
        return file.read()
    records: dict[str, Any] = {}
    for output in members[0].outputs:
        rule = members[0].settings["targets"].get(output["name"], {}).get("decision")
        if rule == "kappa":
            raise RunError(
                f"{file.path} is missing: the grades of {output['name']} are decided by thresholds that it holds. Copy "
                "it from the folder of the run."
            )
        if rule == "mean":
            limits = {ALL: half_way(len(output["classes"]) - 1).tolist()}
            learners = [*(member.model for member in members), *combined]
            records[output["name"]] = {"rule": rule, "thresholds": dict.fromkeys(learners, limits)}
    return records
