"""Building the network of a learner from the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from casewise.errors import StudyError, TrainingError
from casewise.modalities.registry import modality_of
from casewise.models.backbones import build_network
from casewise.models.encoders import encoder_facts, load_encoders
from casewise.models.linear import bank_facts, build_linear
from casewise.models.outputs import outputs_of, width_of
from casewise.models.weights import load_weights
from casewise.study.baselines import BASELINES, FEATURES, encoders_of

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.schema import Study


def network_facts(study: Study, model: str) -> dict[str, Any]:
    """The arguments of `build_network` for a learner of the study, as JSON."""
    if model in BASELINES:
        options = modality_of(study).network_options(study, model)
        bank = {
            "encoders": [
                encoder_facts(name, study.weights_dir) for name in (encoders_of(study) if model == FEATURES else ())
            ],
            "channels": options.get("sequences", 3),
            "sequences": options.get("sequences", 0),
        }
        side = study.images.size
        maps = study.panels.pooling == "maps"
        return {
            "name": model,
            "outputs": width_of(outputs_of(study)),
            "side": side,
            "maps": maps,
            "bank": bank | {"specs": None},
        }
    return {
        "name": model.partition("@")[0],
        "outputs": width_of(outputs_of(study)),
        "dropout": study.recipe.dropout,
        "scaling": study.recipe.scaling,
        "attention": study.panels.pooling == "attention",
        **({"map_cells": study.recipe.map_cells} if study.recipe.pool == "map" else {}),
        **({"maps": True} if study.panels.pooling == "maps" else {}),
        **modality_of(study).network_options(study, model),
    }


def scaled_facts(facts: dict[str, Any], network: Network) -> dict[str, Any]:
    """The facts with the mean and standard deviation of the network's input, which libraries may change."""
    if network.name in BASELINES:
        return facts | {"bank": bank_facts(network)}
    return facts | {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}


def network_of(study: Study, model: str) -> Network:
    """A network of random weights with the study's outputs, input scaling and dropout."""
    return network_from(network_facts(study, model))


def network_from(facts: dict[str, Any]) -> Network:
    """A network of random weights from its facts."""
    if facts["name"] in BASELINES:
        return build_linear(facts["name"], facts["outputs"], facts["bank"], facts)
    return build_network(**facts)


def load_first_weights(network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
    """Fill a network with the first weights that the study states (see `casewise.models.weights.load_weights`)."""
    if model in BASELINES:
        bank: Any = network.body
        return load_encoders(bank, study.weights_dir) or "none: a linear model on pixels", []
    return load_weights(
        network,
        study.weights_of(model),
        folder=study.weights_dir,
        held_out=() if study.bundle_subjects == "distinct" else held_out,
        names=study.subject_names,
        channels=modality_of(study).channels(study, model),
    )


def check_freeze_points(study: Study) -> None:
    """Check that every network of the study has the points up to which its phases freeze; no weights are allocated.

    Raises:
        StudyError: naming the phase and the network, and the freeze points that it has.
    """
    import torch

    from casewise.models.freezing import frozen_end

    for model in study.networks:
        with torch.device("meta"):
            network = network_of(study, model)
        for number, phase in enumerate(study.recipe.phases, 1):
            try:
                frozen_end(network, phase.freeze)
            except TrainingError as error:
                raise StudyError(f"recipe.phases, phase {number}: {model}: {error}") from None
