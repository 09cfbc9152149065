"""The networks of an ensemble in memory: each weights file is read once, and work that networks share is done once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from casewise.inference.predictor import Predictor
from casewise.modalities.registry import modality_of
from casewise.models.forward import predict_together
from casewise.models.shared_parts import JointFeatures, SharedParts, SharedStart
from casewise.run_folder import JobFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.inference.bundle import Bundle
    from casewise.inference.new_cases import NewCases
    from casewise.modalities.dataset import PanelDataset
    from casewise.study.schema import Study

# Networks stay in memory between calls up to this many bytes of weights; the others are read again for each call.
KEPT_BYTES = 4 * 2**30


class Members:
    """The networks behind some learners, which predict prepared cases one after another.

    Models on fixed features always stay in memory, because their encoders, the largest part of them, are shared.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.bundles = list(bundles)
        self._parts = SharedParts()
        self._loaded: dict[int, Predictor] = {}
        self._shared: list[_Group] | None = None

    def load(self) -> int:
        """Load the networks that stay in memory, and return their number."""
        for number in self._kept:
            self._predictor(number)
        return len(self._kept)

    def predictors(self, model: str) -> Iterator[Predictor]:
        """The predictors of the networks of a model, one by one; the next one may replace the weights of the last."""
        for number, bundle in enumerate(self.bundles):
            if bundle.model == model:
                yield self._predictor(number)

    def rows(self, study: Study, new: NewCases) -> Iterator[pd.DataFrame]:
        """For each network its rows of the predictions table at stage 'external'."""
        call = _Call(study, new)
        on_features = self._on_features()
        together: dict[int, pd.DataFrame] = {}
        for number, bundle in enumerate(self.bundles):
            if number not in together:
                together |= self._together(number, call, new)
            if number in together:
                yield together.pop(number)
                continue
            predictor = self._predictor(number)
            data = call.dataset(bundle)
            if number in on_features:
                alike = [on_features[other] for other in on_features if call.dataset(self.bundles[other]) is data]
                data = call.joint_features(alike, data).of(predictor.network)
            yield predictor.rows(data, call.view(bundle.model), new.cohort.panels, stage="external")

    def _together(self, number: int, call: _Call, new: NewCases) -> dict[int, pd.DataFrame]:
        """The rows of a network and of those that share its first layers, by number; empty if it shares none."""
        group = next((group for group in self._groups() if number in group.numbers), None)
        if group is None:
            return {}
        predictors = [self._loaded[member] for member in group.numbers]
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
            bf16=bundle.compute.precision == "bf16",
            flips=_mirrors(bundle),
            shared=group.shared,
        )
        view, panels = call.view(bundle.model), new.cohort.panels
        return {
            member: predictor.rows_of(values.numpy(), features, view, panels, stage="external")
            for member, predictor, (values, features) in zip(group.numbers, predictors, predicted, strict=True)
        }

    def _groups(self) -> list[_Group]:
        """Networks in memory whose first layers are equal; determined once."""
        if self._shared is None:
            alike: dict[str, list[int]] = {}
            for number, bundle in enumerate(self.bundles):
                if number in self._kept and "bank" not in bundle.network:
                    alike.setdefault(_computation(bundle), []).append(number)
            starts = [
                (numbers, SharedStart.of([self._predictor(n).network for n in numbers])) for numbers in alike.values()
            ]
            self._shared = [_Group(numbers, shared) for numbers, shared in starts if shared]
        return self._shared

    def _on_features(self) -> dict[int, Predictor]:
        """The models on fixed features by their numbers."""
        chosen = [n for n, b in enumerate(self.bundles) if "bank" in b.network and not _mirrors(b)]
        return {number: self._predictor(number) for number in chosen}

    def _predictor(self, number: int) -> Predictor:
        if number in self._loaded:
            return self._loaded[number]
        kept = number in self._kept
        predictor = Predictor.from_bundle(self.bundles[number], self._parts, own=kept)
        if kept:
            self._loaded[number] = predictor
        return predictor

    @cached_property
    def _kept(self) -> set[int]:
        """The numbers of the networks that stay in memory: the first ones within `KEPT_BYTES`."""
        kept, total = set(), 0
        for number, bundle in enumerate(self.bundles):
            total += 0 if "bank" in bundle.network else JobFolder(bundle.folder).weights.path.stat().st_size
            if "bank" in bundle.network or total <= KEPT_BYTES:
                kept.add(number)
        return kept


@dataclass(frozen=True)
class _Group:
    """The numbers of networks that share their first layers."""

    numbers: list[int]
    shared: SharedStart


class _Call:
    """What networks share while they predict the same cases: the study as learners see it, datasets, and features."""

    def __init__(self, study: Study, new: NewCases) -> None:
        self._study, self._new = study, new
        self._views: dict[str, tuple[Study, str]] = {}
        self._datasets: dict[str, PanelDataset] = {}
        self._features: dict[int, JointFeatures] = {}

    def view(self, model: str) -> Study:
        return self._view(model)[0]

    def _view(self, model: str) -> tuple[Study, str]:
        if model not in self._views:
            view = self._study.of_learner(model)
            self._views[model] = view, view.model_dump_json()
        return self._views[model]

    def dataset(self, bundle: Bundle) -> Any:
        view, text = self._view(bundle.model)
        key = text + json.dumps(bundle.fitted, sort_keys=True)
        if key not in self._datasets:
            self._datasets[key] = modality_of(view).dataset(
                self._new.store, view, self._new.cohort.panels, None, bundle.fitted
            )
        return self._datasets[key]

    def joint_features(self, predictors: Sequence[Predictor], data: PanelDataset) -> JointFeatures:
        if id(data) not in self._features:
            self._features[id(data)] = JointFeatures([predictor.network for predictor in predictors], data)
        return self._features[id(data)]


def _computation(bundle: Bundle) -> str:
    """Everything that decides how a network computes, besides its weights and its preprocessing."""
    facts = [bundle.model, bundle.network, bundle.batch_size, asdict(bundle.compute), _mirrors(bundle)]
    return json.dumps(facts, sort_keys=True)


def _mirrors(bundle: Bundle) -> bool:
    """Whether predictions are averaged with those of mirrored panels, which features of panels do not give."""
    return bool(bundle.settings["test_time_augmentation"])
