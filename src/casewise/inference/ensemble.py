"""The networks of a study that predict together, and what combines them: stackers, decisions, scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.errors import RunError, nearest
from casewise.inference.members import Members
from casewise.predictions.conformal import with_sets
from casewise.predictions.decisions import ALL, apply_thresholds, half_way
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.scores import apply_scores
from casewise.predictions.stacking import with_combined
from casewise.predictions.table import COLUMNS, SAMPLE_KEY, mean_over_folds, probability_columns
from casewise.study.scores import study_scores
from casewise.targets import by_form

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.inference.new_cases import NewCases
    from casewise.inference.predictor import Predictor
    from casewise.run_folder import JobFolder, JsonFile, RunFolder
    from casewise.study.schema import Study

# What `learner` may say besides the name of a learner.
HEADLINE, NETWORKS, ALL_LEARNERS = "headline", "networks", "all"


class Ensemble:
    """The networks behind some learners, which predict prepared cases as the run predicted its test set.

    Args:
        members: the networks of all folds.
        combination: what was fitted beside them.
        learner: the name of a learner; `headline`, the one that the report is about; `networks`, every network and
            baseline; or `all`, these and the stackers.

    Raises:
        RunError: there is no such learner.
    """

    def __init__(self, members: Sequence[Bundle], combination: Combination, learner: str) -> None:
        self._combination = combination
        self.learners = chosen_learners(members, combination, learner)
        needed = {name for chosen in self.learners for name in combination.networks_of(chosen)}
        self.members = [member for member in members if member.model in needed]
        if lacking := needed - {member.model for member in self.members}:
            raise RunError(f"{self.learners[0]} needs the network {min(lacking)}, which is not there.")
        self._stackers = {name: combination.stackers[name] for name in self.learners if name in combination.stackers}
        self._nested = combination.nested if NESTED in self.learners else ""
        self._networks = Members(self.members)

    def predict(self, study: Study, new: NewCases) -> pd.DataFrame:
        """Rows of the predictions table at stage 'external', means over the folds.

        They have the columns `low`, `high` and `set` of `casewise.predictions.conformal.with_sets`, and `spread`.

        The spread is the standard deviation (n - 1) over the networks of the folds: of a number, of the expected grade,
        or of the probability of the predicted class; NaN for a single network. Scores are computed for each fold, too.
        """
        rows = pd.concat(list(self._networks.rows(study, new)), ignore_index=True)
        by_fold = [self._combined(fold_rows) for _, fold_rows in rows.groupby("outer_fold", sort=True)]
        means = self._scored(apply_thresholds(self._combined(mean_over_folds(rows)), self._decisions), study)
        means = with_spread(means, self._scored(pd.concat(by_fold, ignore_index=True), study))
        return with_sets(means[means["model"].isin(self.learners)], self._combination.intervals)

    def _combined(self, rows: pd.DataFrame) -> pd.DataFrame:
        return with_combined(rows, self._stackers, self._nested)

    def _scored(self, rows: pd.DataFrame, study: Study) -> pd.DataFrame:
        scores = study_scores(study)
        return apply_scores(rows, scores, missing_regions=study.missing_regions, regions=study.regions)

    @property
    def _decisions(self) -> Mapping[str, Any]:
        return self._combination.decisions

    def load(self) -> int:
        """Load the networks that stay in memory (see `casewise.inference.members`), and return their number."""
        return self._networks.load()

    def predictors(self, model: str) -> Iterator[Predictor]:
        """The predictors of the networks of a model, one by one; the next one may replace the weights of the last."""
        return self._networks.predictors(model)


def chosen_learners(members: Sequence[Bundle], combination: Combination, learner: str) -> list[str]:
    """The learners that `learner` names (see `Ensemble`).

    Raises:
        RunError: there is no such learner, or no headline.
    """
    networks = list(dict.fromkeys(member.model for member in members))
    options = combination.learners(networks)
    if learner in options:
        return [learner]
    if learner == NETWORKS:
        return networks
    if learner == ALL_LEARNERS:
        return options
    if learner != HEADLINE:
        raise RunError(
            f"There is no learner {learner!r}.{nearest(learner, options)} There are: {', '.join(options)}; "
            f"`{HEADLINE}` is the one that the report is about, and `{ALL_LEARNERS}` means all."
        )
    if combination.headline in options:
        return [combination.headline]
    if len(options) == 1:
        return options
    raise RunError(
        f"The run names no headline, because nothing was evaluated. Name one of its learners: {', '.join(options)}."
    )


def with_spread(means: pd.DataFrame, by_fold: pd.DataFrame) -> pd.DataFrame:
    """The means with the column `spread`, from the rows of each fold (see `Ensemble.predict`)."""
    key = ["model", *SAMPLE_KEY]
    shares = probability_columns(by_fold)
    expected = by_fold[shares].fillna(0).to_numpy(dtype=float) @ np.arange(len(shares), dtype=float)
    deviations = by_fold.assign(expected=expected).groupby(key, sort=False)[["y_pred", "expected", *shares]].std(ddof=1)
    deviations = deviations.reindex(pd.MultiIndex.from_frame(means[key])).reset_index(drop=True)
    means = means.reset_index(drop=True)
    spread = np.full(len(means), np.nan)
    for kind, rows in means.groupby("kind", sort=False):
        positions = rows.index.to_numpy()
        columns = (
            by_form(
                str(kind),
                {
                    "number": ["y_pred"] * len(rows),
                    "ordinal": ["expected"] * len(rows),
                    "classes": ["y_pred" if np.isnan(value) else f"p{int(value)}" for value in rows["y_pred"]],
                },
            )
            if shares
            else ["y_pred"] * len(rows)
        )
        for column in set(columns):
            chosen = positions[np.array(columns) == column]
            spread[chosen] = deviations[column].to_numpy(dtype=float)[chosen]
    return means.assign(spread=np.where(means["y_pred"].isna(), np.nan, spread))


@dataclass(frozen=True)
class Combination:
    """What was fitted beside the networks, and which learner the study is about.

    Attributes:
        stackers: the coefficients of the stackers, by learner and target (see `casewise.predictions.combined`).
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
