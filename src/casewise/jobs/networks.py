"""The study's own form of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.models.backbones import build_network
from casewise.training.outputs import outputs_of, width_of

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study import Study


def network_of(study: Study, model: str) -> Network:
    """A network of random weights with the study's outputs, input scale and dropout, and attention where it gathers."""
    return build_network(
        model,
        width_of(outputs_of(study)),
        dropout=study.recipe.dropout,
        scaling=study.recipe.scaling,
        attention=study.panels.gather == "attention",
    )
