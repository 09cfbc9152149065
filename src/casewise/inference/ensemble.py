"""The networks of a study that predict together, and what combines them: stackers, decisions, scores, intervals.

Each weights file is read once, and work that networks share is done once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.cohort.groups import covariates_by_case
from casewise.errors import RunError
from casewise.inference.predictor import Predictor
from casewise.modalities.registry import modality_of
from casewise.models.shared_parts import JointFeatures, SharedParts, SharedStart, predict_together
from casewise.models.threads import on_threads
from casewise.predictions.conformal import with_sets
from casewise.predictions.covariates import encodings_of, with_covariates
from casewise.predictions.decisions import ALL, apply_thresholds, half_way
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.scores import scored
from casewise.predictions.stacking import with_combined
from casewise.predictions.table import COLUMNS, SAMPLE_KEY, mean_over_folds, probability_columns
from casewise.run_folder import JobFolder, JsonFile, RunFolder
from casewise.run_folder.folder import ALL_LEARNERS, NETWORKS, check_learners
from casewise.study.learners import COVARIATES, JOINED
from casewise.targets import by_form

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.inference.new_cases import NewCases
    from casewise.modalities.dataset import PanelDataset
    from casewise.study.schema import Study

# Networks stay in memory between calls up to this many bytes of weights; the others are read again for each call.
KEPT_BYTES = 4 * 2**30


class Ensemble:
    """The networks behind some learners, which predict prepared cases as the run predicted its test set.

    Models on fixed features always stay in memory, because their encoders, the largest part of them, are shared.

    Args:
        members: the networks of all folds.
        combination: what was fitted in addition to them.
        learner: the name of a learner; `headline`, the one that the report is about; `networks`, every network and
            baseline; or `all`, these and the stackers.

    Raises:
        RunError: there is no such learner.
    """

    def __init__(self, members: Sequence[Bundle], combination: Combination, learner: str) -> None:
        self._combination = combination
        self.learners = _chosen_learners(members, combination, learner)
        needed = {name for chosen in self.learners for name in combination.networks_of(chosen)}
        self.members = [member for member in members if member.model in needed]
        if lacking := needed - {member.model for member in self.members}:
            raise RunError(f"{self.learners[0]} needs the network {min(lacking)}, which is not there.")
        self._stackers = {name: combination.stackers[name] for name in self.learners if name in combination.stackers}
        self._nested = combination.nested if NESTED in self.learners else ""
        self.covariates = combination.covariates if set(self.learners) & {COVARIATES, JOINED} else {}
        for name in self.covariates.get("images", ()):  # both models of covariates are computed in addition to these
            self._stackers |= {name: combination.stackers[name]} if name in combination.stackers else {}
            self._nested = combination.nested if name == NESTED else self._nested
        self._parts = SharedParts()
        self._loaded: dict[int, Predictor] = {}

    def predict(self, study: Study, new: NewCases) -> pd.DataFrame:
        """Rows of the predictions table at stage 'external', means over the folds.

        They have the columns `low`, `high` and `set` of `casewise.predictions.conformal.with_sets`, and `spread`.

        The spread is the standard deviation (n - 1) over the networks of the folds: of a number, of the expected grade,
        or of the probability of the predicted class; NaN for a single network. Scores are computed for each fold, too.
        """
        rows = pd.concat(list(self._rows(_Call(study, new))), ignore_index=True)
        cells = self.covariate_cells(new.cohort.images)
        by_fold = [self._combined(fold_rows, cells) for _, fold_rows in rows.groupby("outer_fold", sort=True)]
        decided = apply_thresholds(self._combined(mean_over_folds(rows), cells), self._combination.decisions)
        means = _with_spread(scored(decided, study), scored(pd.concat(by_fold, ignore_index=True), study))
        return with_sets(means[means["model"].isin(self.learners)], self._combination.intervals)

    def covariate_cells(self, images: pd.DataFrame) -> pd.DataFrame:
        """The covariates of each case, read with the categories of the training; without columns if none is used."""
        levels = {encoding.name: encoding.levels for encoding in encodings_of(self.covariates)}
        return covariates_by_case(images, list(self.covariates.get("columns", ())), levels)

    def _combined(self, rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
        return with_covariates(with_combined(rows, self._stackers, self._nested), self.covariates, cells)

    def load(self) -> int:
        """Load the networks that stay in memory, and return their number."""
        for number in self._kept:
            self._predictor(number)
        return len(self._kept)

    def predictors(self, model: str) -> Iterator[Predictor]:
        """The predictors of the networks of a model, one by one; the next one may replace the weights of the last."""
        for number, bundle in enumerate(self.members):
            if bundle.model == model:
                yield self._predictor(number)

    def _rows(self, call: _Call) -> Iterator[pd.DataFrame]:
        """For each network its rows of the predictions table at stage 'external'."""
        on_features = [n for n, bundle in enumerate(self.members) if bundle.shares_features]
        together: dict[int, pd.DataFrame] = {}
        for number, bundle in enumerate(self.members):
            if number not in together:
                together |= self._together(number, call)
            if number in together:
                yield together.pop(number)
                continue
            predictor, data = self._predictor(number), call.dataset(bundle)
            if number in on_features:
                alike = [n for n in on_features if call.dataset(self.members[n]) is data]
                data = call.joint_features([self._predictor(n) for n in alike], data).of(predictor.network)
            yield predictor.rows_of(*predictor.predict_with_features(data), call.view(bundle.model), call.panels)

    def _together(self, number: int, call: _Call) -> dict[int, pd.DataFrame]:
        """The rows of a network and of those that share its first layers, by number; empty if it shares none."""
        numbers, shared = next((group for group in self._groups if number in group[0]), ([], None))
        predictors = [self._loaded[member] for member in numbers]
        if not predictors:
            return {}
        bundle = predictors[0].bundle
        data = call.dataset(bundle)
        if data.bags or any(call.dataset(predictor.bundle) is not data for predictor in predictors):
            return {}
        predicted = predict_together(
            [predictor.network for predictor in predictors],
            data,
            bundle.output_records,
            batch=bundle.batch_size,
            channels_last=bundle.compute.channels_last,
            flips=_mirrors(bundle),
            shared=shared,
        )
        view = call.view(bundle.model)
        return {
            member: predictor.rows_of(values.numpy(), features, view, call.panels)
            for member, predictor, (values, features) in zip(numbers, predictors, predicted, strict=True)
        }

    @cached_property
    def _groups(self) -> list[tuple[list[int], SharedStart]]:
        """The numbers of networks in memory whose first layers are equal, with these layers."""
        alike: dict[str, list[int]] = {}
        for number, bundle in enumerate(self.members):
            if number in self._kept and "bank" not in bundle.network:
                # everything that decides how a network computes, besides its weights and its preprocessing
                facts = [bundle.model, bundle.network, bundle.batch_size, asdict(bundle.compute), _mirrors(bundle)]
                alike.setdefault(json.dumps(facts, sort_keys=True), []).append(number)
        networks = ((numbers, [self._predictor(n).network for n in numbers]) for numbers in alike.values())
        starts = [(numbers, SharedStart.of(each)) for numbers, each in networks]
        return [(numbers, shared) for numbers, shared in starts if shared]

    def _predictor(self, number: int) -> Predictor:
        if number in self._loaded:
            return self._loaded[number]
        kept = number in self._kept
        with on_threads(1):  # many small tensors, for which threads would mostly wait for each other
            predictor = Predictor.from_bundle(self.members[number], self._parts, own=kept)
        if kept:
            self._loaded[number] = predictor
        return predictor

    @cached_property
    def _kept(self) -> set[int]:
        """The numbers of the networks that stay in memory: the first ones within `KEPT_BYTES`."""
        kept, total = set(), 0
        for number, bundle in enumerate(self.members):
            total += 0 if "bank" in bundle.network else JobFolder(bundle.folder).weights.path.stat().st_size
            if "bank" in bundle.network or total <= KEPT_BYTES:
                kept.add(number)
        return kept


class _Call:
    """What networks share while they predict the same cases: the study as learners see it, datasets, and features."""

    def __init__(self, study: Study, new: NewCases) -> None:
        self._store, self.panels = new.store, new.cohort.panels
        self.view = view = cache(study.of_learner)
        # without `self`, which would keep the prepared images until the garbage collector runs
        self._text = cache(lambda model: view(model).model_dump_json())
        self._datasets: dict[str, PanelDataset] = {}
        self._features: dict[int, JointFeatures] = {}

    def dataset(self, bundle: Bundle) -> Any:
        key = self._text(bundle.model) + json.dumps(bundle.fitted, sort_keys=True)
        if key not in self._datasets:
            view = self.view(bundle.model)
            self._datasets[key] = modality_of(view).dataset(self._store, view, self.panels, None, bundle.fitted)
        return self._datasets[key]

    def joint_features(self, predictors: Sequence[Predictor], data: PanelDataset) -> JointFeatures:
        if id(data) not in self._features:
            self._features[id(data)] = JointFeatures([predictor.network for predictor in predictors], data)
        return self._features[id(data)]


def _mirrors(bundle: Bundle) -> bool:
    """Whether predictions are averaged with predictions for mirrored panels; features of panels cannot give them."""
    return bool(bundle.settings["test_time_augmentation"])


def _chosen_learners(members: Sequence[Bundle], combination: Combination, learner: str) -> list[str]:
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
    check_learners([learner], options)
    if combination.headline in options:
        return [combination.headline]
    if len(options) == 1:
        return options
    raise RunError(
        f"The run names no headline, because nothing was evaluated. Name one of its learners: {', '.join(options)}."
    )


def _with_spread(means: pd.DataFrame, by_fold: pd.DataFrame) -> pd.DataFrame:
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
        of_kind = {
            "number": ["y_pred"] * len(rows),
            "ordinal": ["expected"] * len(rows),
            "classes": ["y_pred" if np.isnan(value) else f"p{int(value)}" for value in rows["y_pred"]],
        }
        columns = by_form(str(kind), of_kind) if shares else of_kind["number"]
        for column in set(columns):
            chosen = positions[np.array(columns) == column]
            spread[chosen] = deviations[column].to_numpy(dtype=float)[chosen]
    return means.assign(spread=np.where(means["y_pred"].isna(), np.nan, spread))


@dataclass(frozen=True)
class Combination:
    """What was fitted in addition to the networks, and which learner the study is about.

    Attributes:
        stackers: the coefficients of the stackers, by learner and target (see `casewise.predictions.stacking`).
        nested: the network that nested cross-validation chose for new cases; empty without it.
        decisions: the rules of grades with their thresholds by learner (see `casewise.predictions.decisions`).
        headline: the learner that the report is about; empty if nothing was evaluated.
        intervals: the quantiles for prediction intervals and sets (see `casewise.predictions.conformal.fit`); empty for
            a single network.
        covariates: the models of covariates (see `casewise.predictions.covariates`); empty without them.
    """

    stackers: Mapping[str, Any] = field(default_factory=dict)
    nested: str = ""
    decisions: Mapping[str, Any] = field(default_factory=dict)
    headline: str = ""
    intervals: Mapping[str, Any] = field(default_factory=dict)
    covariates: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, folder: RunFolder, members: Sequence[Bundle]) -> Combination:
        """The combination of a run folder.

        Raises:
            RunError: a file of it is damaged, or thresholds are missing.
        """
        # a bundle is predicted with without the evaluation
        from casewise.evaluation.metrics_file import read_results

        nested = folder.nested.read_if_exists()
        stackers = folder.stackers.read_if_exists() or {}
        covariates = folder.covariates.read_if_exists() or {}
        combined = [*stackers, *([NESTED] if nested else []), *covariates.get("models", ())]
        return cls(
            stackers,
            str(nested["final"]["network"]) if nested else "",
            _decisions_of(folder.decisions, members, combined),
            (read_results(folder).main.learner or "") if folder.metrics.exists() else "",
            folder.conformal.read_if_exists() or {},
            covariates,
        )

    @classmethod
    def of_network(cls, folder: JobFolder, member: Bundle) -> Combination:
        """The combination for a single network: only its decisions."""
        return cls(decisions=_decisions_of(folder.decisions, [member]), headline=member.model)

    def rehearsed(self, members: Sequence[Bundle]) -> pd.DataFrame:
        """Combine, decide and calibrate a made-up case, as a check of what was read from a file.

        Returns:
            Rows of every learner, as `casewise.inference.ensemble` has them.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: a value is missing or has another form.
            RunError: a stacker combines a network that is not there.
        """
        if not (isinstance(self.headline, str) and isinstance(self.nested, str)):
            raise TypeError("the name of a learner is not text")
        networks = list(dict.fromkeys(member.model for member in members))
        rows = [
            {**dict.fromkeys(COLUMNS, ""), "model": model, "stage": "external", "target": output.name}
            | {"kind": output.kind, "y_pred": 0.0, "distance": math.nan, "outer_fold": math.nan}
            | {f"p{number}": 1 / output.classes for number in range(output.classes)}
            for model in networks
            for output in members[0].output_records
        ]
        cells = pd.DataFrame("", index=[""], columns=list(self.covariates.get("columns", ())))
        combined = with_combined(pd.DataFrame(rows), self.stackers, self.nested)
        combined = with_covariates(combined, self.covariates, cells)
        return with_sets(apply_thresholds(combined, self.decisions), self.intervals)

    def learners(self, networks: Sequence[str]) -> list[str]:
        """Every learner that can predict: networks, stackers, the nested choice, and the models of covariates."""
        return [*networks, *self.stackers, *([NESTED] if self.nested else []), *self.covariates.get("models", ())]

    def networks_of(self, learner: str) -> list[str]:
        """The networks behind a learner."""
        if learner == NESTED and self.nested:
            return [self.nested]
        if learner in self.covariates.get("models", ()):
            return list(dict.fromkeys(name for image in self.covariates["images"] for name in self.networks_of(image)))
        entries = self.stackers.get(learner)
        if entries is None:
            return [learner]
        names = [name for entry in entries.values() for name in entry.get("weights") or entry["learners"]]
        return list(dict.fromkeys(names))


def _decisions_of(file: JsonFile, members: Sequence[Bundle], combined: Sequence[str] = ()) -> Mapping[str, Any]:
    """The rules of grades with their thresholds; without a file, those that need none.

    Raises:
        RunError: a rule has tuned thresholds, and their file is missing or damaged.
    """
    if file.exists():
        return file.read()
    records = {}
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
