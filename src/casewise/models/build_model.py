"""Building the network of a learner from the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from casewise.errors import StudyError, TrainingError
from casewise.modalities.base import Facts
from casewise.modalities.registry import modality_of
from casewise.models.backbones import MAP_CELLS, Network, build_network
from casewise.models.encoders import encoder_facts
from casewise.models.linear import LinearBuilder
from casewise.models.outputs import outputs_of, width_of
from casewise.models.weights import load_weights
from casewise.study.learners import is_registered, learner_named
from casewise.study.schema import Study


class NetworkBuilder:
    """Networks of the study: a backbone with a head."""

    def facts(self, study: Study, model: str) -> Facts:
        """The arguments of `build`, as JSON; they are stored with the weights."""
        return {
            **encoder_facts(model.partition("@")[0], study.weights_dir),
            "outputs": width_of(outputs_of(study)),
            "dropout": study.recipe.dropout,
            "scaling": study.recipe.scaling,
            **({"head": "fastai"} if study.recipe.head == "fastai" else {}),
            **({"map_cells": MAP_CELLS} if study.recipe.pool == "map" else {}),
            **({"pooling": study.panels.pooling} if study.panels.bags else {}),
            **modality_of(study).network_options(study, model),
        }

    def scaled(self, facts: Facts, network: Network) -> Facts:
        """The facts with mean and standard deviation of the network's input, which libraries may change."""
        return facts | {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}

    def build(self, facts: Facts) -> Network:
        """A network of random weights from its facts."""
        return build_network(**facts)

    def backbone(self, facts: Facts) -> str:
        """The backbone that a study names which only reads new cases; for a learner of a plugin, any name will do."""
        return "cnn" if is_registered(str(facts["name"])) else str(facts["name"])

    def load(self, network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
        """Fill it with its first weights (`load_weights`); return their origin and the subjects behind them."""
        return load_weights(
            network,
            study.weights_of(model),
            folder=study.weights_dir,
            held_out=() if study.bundle_subjects == "distinct" else held_out,
            names=study.subject_names,
            channels=modality_of(study).channels(study, model),
        )


Builder: TypeAlias = NetworkBuilder | LinearBuilder
# How the networks of each kind are built (`casewise.study.learners.Learner.kind`).
BUILDERS: dict[str, Builder] = {"network": NetworkBuilder(), "linear": LinearBuilder(), "radial": LinearBuilder()}
OWN_KINDS = tuple(BUILDERS)


def _builder(model: str) -> Builder:
    return BUILDERS[learner_named(model).kind]


def network_facts(study: Study, model: str) -> Facts:
    """The facts of a learner of the study, with which `network_from` builds it again; of a plugin's with its kind."""
    facts, kind = _builder(model).facts(study, model), learner_named(model).kind
    return facts if kind in OWN_KINDS else facts | {"learner_kind": kind}


def scaled_facts(facts: Facts, network: Network) -> Facts:
    """The facts with what was determined when the network was built or fitted."""
    return _builder(facts["name"]).scaled(facts, network)


def network_of(study: Study, model: str) -> Network:
    """A network of random weights with the study's outputs, input scaling and dropout."""
    return network_from(network_facts(study, model))


def network_from(facts: Facts) -> Network:
    """A network of random weights from its facts."""
    return _builder(facts["name"]).build({key: value for key, value in facts.items() if key != "learner_kind"})


def backbone_of(facts: Facts) -> str:
    """The backbone that a study names which only reads new cases for the network of these facts."""
    return _builder(facts["name"]).backbone(facts)


def load_first_weights(network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
    """Fill a network with the first weights of the study; return their origin and the subjects behind them."""
    return _builder(model).load(network, study, model, held_out)


def check_freeze_points(study: Study) -> None:
    """Check that every network of the study has the points up to which its phases freeze; no weights are allocated.

    Raises:
        StudyError: naming the phase and the network, and the freeze points that it has.
    """
    import torch

    from casewise.models.freezing import frozen_end

    for model in study.trained:
        with torch.device("meta"):
            network = network_of(study, model)
        for number, phase in enumerate(study.recipe.phases, 1):
            try:
                frozen_end(network, phase.freeze)
            except TrainingError as error:
                raise StudyError(f"recipe.phases, phase {number}: {model}: {error}") from None
