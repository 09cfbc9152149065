"""Strategies of training: with a searched or stated rate; the head alone, all layers, or one group after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from casewise.errors import TrainingError
from casewise.modalities.base import PanelDataset
from casewise.modalities.dataset import Batches, FeatureData
from casewise.models.backbones import Network
from casewise.run_folder import JsonFile
from casewise.study.schema import Recipe
from casewise.study.seeds import mixed_seed
from casewise.training.checkpoint import write_tensors
from casewise.training.fit import TrainingContext, fit
from casewise.training.head_loop import fit_head
from casewise.training.linear_probe import features, probe
from casewise.training.lr_finder import find_rate
from casewise.training.param_groups import HeadOnly, layer_groups, unfreeze
from casewise.training.phases import in_phases


@dataclass(frozen=True)
class Learned:
    """A trained network, its history, the curve of the rate search, the stages of gradual unfreezing, the phases.

    `candidates` are those of a linear model, with their inner losses.
    """

    network: Network
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float
    finder: dict[str, Any] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)


def learn(
    network: Network,
    recipe: Recipe,
    train: PanelDataset,
    stop: PanelDataset,
    subjects: Sequence[str],
    context: TrainingContext,
) -> Learned:
    """Train `network` as the recipe states; if it is interrupted and called again, the weights are the same.

    Args:
        subjects: the subject of each row of `train`; the penalty of a probed head is cross-validated by subject.
    """
    network.to(context.choice.device)
    resuming = context.files.can_resume()
    heads: tuple[FeatureData, FeatureData] | None = None
    if recipe.tuning in ("head_only", "gradual_unfreezing"):
        heads = _featured(network, train, recipe, context), _featured(network, stop, recipe, context)
    search = None
    if recipe.lr == "find" and heads:
        # before the probe, because no rate reduces the loss of a fitted head
        search = _search_rate(HeadOnly(network), heads[0], recipe, context, context.files.rate_search)
    if recipe.head == "probe" and not resuming:
        cached_features = heads[0].features if heads else None
        probe(network, train, subjects, context.outputs, batch=recipe.batch_size, cached_features=cached_features)
    if recipe.lr == "find":
        search = search or _search_rate(network, train, recipe, context, context.files.rate_search)
        recipe = recipe.model_copy(update={"lr": search["chosen"]})
    if recipe.phases:
        try:
            history, best_epoch, best, phases = in_phases(network, recipe, train, stop, context)
        finally:
            context.files.remove_caches()
        return Learned(network, history, best_epoch, best, phases=phases)
    if recipe.tuning == "gradual_unfreezing" and heads:
        return _fine(network, recipe, train, stop, heads, context, search)
    if heads:
        unfreeze(network, 0, recipe.gradual_unfreezing.groups)
        fitted = fit_head(HeadOnly(network), recipe, *heads, context)
    else:
        fitted = fit(network, recipe, train, stop, context)
    return Learned(network.eval(), fitted.history, fitted.best_epoch, fitted.best_loss, search)


def _featured(network: Network, data: PanelDataset, recipe: Recipe, context: TrainingContext) -> FeatureData:
    return FeatureData(head_input(network, data, recipe.batch_size, context), data.truth, data.names)


def frozen_features(
    network: Network, panels: PanelDataset, recipe: Recipe, context: TrainingContext, *, flips: bool
) -> FeatureData | None:
    """The features on which a head alone was trained, of all panels, if it predicts from the same ones; else None.

    It does not in bfloat16, with mirrored panels (`flips`), for bags, and for panels with several views, of which
    predictions are averaged and not features. Otherwise the folds of a study need not compute the panels again.
    """
    slots, _ = panels.views()
    same = context.choice.precision == "fp32" and not flips and not panels.bags and len(slots) == len(panels)
    if recipe.tuning != "head_only" or not same:
        return None
    return _featured(network, panels, recipe, context)


def head_input(network: Network, data: PanelDataset, batch: int, context: TrainingContext) -> Tensor:
    """The features of every panel of `data` for its head, shared with other folds if the context states how."""

    def compute(panels: PanelDataset) -> Tensor:
        return features(network, panels, batch=batch)

    if context.shared is None or data.bags:
        return compute(data)
    # the format in which the network predicts
    form = torch.channels_last if context.choice.channels_last else torch.contiguous_format
    network.eval().to(memory_format=form)  # type: ignore[call-overload]
    return context.shared.of(data, network, compute, {"features": "fp32", "form": str(form), "batch": batch})


def _search_rate(
    network: Network | HeadOnly, train: Batches, recipe: Recipe, context: TrainingContext, file: JsonFile
) -> dict[str, Any]:
    """The curve of the learning-rate search, from its file if an interrupted job has written it."""
    values = file.read_or_none()
    if values is None:
        try:
            search = find_rate(
                network, recipe, train, outputs=context.outputs, seed=context.seed, choice=context.choice
            )
        except TrainingError as error:
            raise TrainingError(f"{network.name}: {error}, or take {network.name} out of `backbones`.") from None
        file.write(asdict(search))
        values = file.read()
    return values


def _fine(
    network: Network,
    recipe: Recipe,
    train: PanelDataset,
    stop: PanelDataset,
    heads: tuple[FeatureData, FeatureData],
    context: TrainingContext,
    search: dict[str, Any] | None,
) -> Learned:
    """Unfreeze one more group of layers as long as the stopping loss falls; the last improvement is kept."""
    groups = len(layer_groups(network, recipe.gradual_unfreezing.groups))
    each = recipe.model_copy(update={"epochs": recipe.gradual_unfreezing.epochs})
    history: list[dict[str, float]] = []
    stages: list[dict[str, Any]] = []
    best, best_epoch = math.inf, 0
    for unfrozen in range(groups + 1):
        unfreeze(network, unfrozen, recipe.gradual_unfreezing.groups)
        if search and unfrozen == 1:
            # The head's rate does not apply to the layers below it. If no rate is found for them, the head's is kept:
            # a stage that does not help is undone.
            with suppress(TrainingError):
                search = _search_rate(network, train, recipe, context, context.files.body_rate_search)
                each = each.model_copy(update={"lr": search["chosen"]})
        files = context.files.stage(unfrozen)
        before = {k: v.detach().clone() for k, v in network.state_dict().items()}
        if files.finished():
            stage = files.record.read()
            network.load_state_dict(load_file(files.weights.path))
        else:
            stage_context = replace(
                context.after(len(history)),
                folder=files.folder.path,
                seed=mixed_seed(context.seed, "stage", unfrozen) if unfrozen else context.seed,
            )
            fitted = (
                fit(network, each, train, stop, stage_context)
                if unfrozen
                else fit_head(HeadOnly(network), each, *heads, stage_context)
            )
            stage = {
                "unfrozen": unfrozen,
                "best_loss": fitted.best_loss,
                "best_epoch": fitted.best_epoch,
                "history": fitted.history,
            }
            write_tensors(files.weights, network.state_dict(), {"format": "pt"})
            files.record.write(stage)
            files.folder.state.before.remove()
        improved = stage["best_loss"] < best
        stages.append({**{k: stage[k] for k in ("unfrozen", "best_loss")}, "kept": improved})
        if improved:
            best, best_epoch = stage["best_loss"], len(history) + stage["best_epoch"]
        history += [{**entry, "epoch": len(history) + i} for i, entry in enumerate(stage["history"])]
        if not improved:
            network.load_state_dict(before)
            break
    network.requires_grad_(True)
    return Learned(network.eval(), history, best_epoch, best, search, stages)
