"""The networks of an ensemble in memory: each weights file is read once, and work that networks share is done once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from casewise.inference.predictor import Predictor
from casewise.modalities.dataset import FeatureData
from casewise.modalities.registry import modality_of
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.feature_bank import FeatureBank, FeatureSpec, bank_of
from casewise.models.forward import compute_features, predict_together
from casewise.models.linear import UNSCALED
from casewise.models.shared_parts import SharedParts, SharedStart
from casewise.run_folder import JobFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.inference.bundle import Bundle
    from casewise.inference.new_cases import NewCases
    from casewise.modalities.base import PanelDataset
    from casewise.models.encoders import Encoder
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
            group.shared,
            data,
            bundle.output_records,
            batch=bundle.batch_size,
            channels_last=bundle.compute.channels_last,
            bf16=bundle.compute.precision == "bf16",
            flips=_mirrors(bundle),
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


class JointFeatures:
    """The features of one dataset for models whose encoders are the same objects (see `SharedParts`).

    Args:
        networks: models on fixed features.
        data: the panels that all of them read.
    """

    def __init__(self, networks: Sequence[Network], data: PanelDataset) -> None:
        self._data = data
        self._groups = groups_of(networks)
        self._computed: dict[int, torch.Tensor] = {}

    def of(self, network: Network) -> FeatureData:
        """The features of one of the networks; those of all networks that share its encoders are computed at once."""
        bank = bank_of(network)
        number = next(n for n, group in enumerate(self._groups) if any(other is network for other in group.networks))
        group = self._groups[number]
        if number not in self._computed:
            self._computed[number] = compute_features(group.joint(), self._data)
        columns = torch.cat([group.columns(spec) for spec in named(bank)])
        return FeatureData(self._computed[number][:, columns], self._data.truth, self._data.names)


class Group:
    """Networks of which one bank can compute all features: no two encoders have one name, sizes are equal."""

    def __init__(self, network: Network) -> None:
        bank = bank_of(network)
        self.networks = [network]
        self.options = NetworkOptions(side=network.side, pooling=network.pooling.name if network.pooling else "")
        self.channels = bank.channels
        self.encoders: dict[str, Encoder] = {encoder.name: encoder for encoder in bank.encoders}
        self.widths = dict(zip(named(bank), bank.widths, strict=True))

    def add(self, other: Group) -> bool:
        """Whether the networks of another group could be added to this one."""
        alike = (self.options, self.channels) == (other.options, other.channels)
        if not alike or any(
            encoder.network is not self.encoders.get(name, encoder).network for name, encoder in other.encoders.items()
        ):
            return False
        self.networks += other.networks
        self.encoders |= other.encoders
        self.widths |= other.widths
        return True

    def columns(self, spec: FeatureSpec) -> torch.Tensor:
        """The columns of the joint features that hold the vector of a candidate."""
        specs = list(self.widths)
        start = sum(self.widths[before] for before in specs[: specs.index(spec)])
        return torch.arange(start, start + self.widths[spec])

    def joint(self) -> Network:
        """A network whose features are the vectors of all candidates side by side."""
        side = self.options.side or 224
        bank = FeatureBank(
            list(self.encoders.values()), list(self.widths), self.channels, side, widths=list(self.widths.values())
        )
        network = Network("joint features", Body(bank, bank.width, UNSCALED), 1, self.options)
        return network.to(next(self.networks[0].head.parameters()).device)


def groups_of(networks: Iterable[Network]) -> list[Group]:
    """The networks in as few groups as possible, each of which computes its features in one pass."""
    groups: list[Group] = []
    for network in networks:
        single = Group(network)
        if not any(group.add(single) for group in groups):
            groups.append(single)
    return groups


def named(bank: FeatureBank) -> list[FeatureSpec]:
    """The candidates of a bank, each with the name of its encoder also where the bank has only one."""
    only = bank.encoders[0].name if bank.encoders else ""
    return [replace(spec, encoder=spec.encoder or only) if spec.modules else spec for spec in bank.specs]
