"""Gradual unfreezing, and the search for a learning rate before any training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from casewise.errors import TrainingError
from casewise.plugins.published.lr_finder import RateSearch, find_rate
from casewise.plugins.published.settings import keys_of
from casewise.run_folder.artefact import JsonFile
from casewise.study.model import mixed_seed
from casewise.training.frozen_features import UpperLayers
from casewise.training.loop import Learner, TrainingContext, fit
from casewise.training.stages import (
    Heads,
    Learned,
    Record,
    finished_stage,
    prepare_heads,
    probe_head,
    train_as_stated,
)

if TYPE_CHECKING:
    from casewise.modalities.dataset import Batches, PanelDataset
    from casewise.models.backbones import Network
    from casewise.study.recipe import Recipe


def learn(
    network: Network,
    recipe: Recipe,
    train: PanelDataset,
    stop: PanelDataset,
    subjects: Sequence[str],
    context: TrainingContext,
) -> Learned | None:
    """As `casewise.training.stages.learn`; None for a recipe with a stated rate and without gradual unfreezing."""
    keys = keys_of(recipe)
    gradual, settings = keys.tuning == "gradual_unfreezing", keys.gradual_unfreezing
    if not gradual and keys.lr != "find":
        return None
    heads, search = None, None
    if keys.tuning == "head_only" or (gradual and settings.first_stage == "features"):
        heads = prepare_heads(network, recipe, train, stop, context)
    if gradual:
        unfreeze(network, 0, settings.groups, norms=settings.train_norms)
    if keys.lr == "find":
        if gradual or heads:
            # before the probe, because no rate reduces the loss of a fitted head
            learner, data = (UpperLayers(network), heads[0]) if heads else (network, train)
            search = _searched(learner, data, recipe, context)
        probe_head(network, recipe, train, subjects, context, heads)
        search = search or _searched(network, train, recipe, context)
        recipe = recipe.model_copy(update={"lr": search.chosen, "head": "random"})
    else:
        probe_head(network, recipe, train, subjects, context, heads)
    if gradual:
        return _gradually(network, recipe, (train, stop), heads, context, search)
    learned = train_as_stated(network, recipe, train, stop, subjects, context, heads)
    return replace(learned, records=_records(search, []))


def _records(search: RateSearch | None, stages: list[Record]) -> Record:
    return {"finder": search and asdict(search), "stages": stages}


def _searched(
    network: Learner, train: Batches, recipe: Recipe, context: TrainingContext, name: str = "finder"
) -> RateSearch:
    """The curve of the learning-rate search, from its file if an interrupted job has written it."""
    file = JsonFile(context.folder / f"{name}.json", required=("chosen",))
    if (values := file.read_or_none()) is None:
        file.write(values := asdict(find_rate(network, recipe, train, context)))
    return RateSearch(**values)


def _gradually(
    network: Network,
    recipe: Recipe,
    panels: tuple[PanelDataset, PanelDataset],
    heads: Heads | None,
    context: TrainingContext,
    search: RateSearch | None,
) -> Learned:
    """Unfreeze one more group of layers as long as the stopping loss falls; the last improvement is kept."""
    settings = keys_of(recipe).gradual_unfreezing
    stage_recipe = recipe.model_copy(update={"epochs": settings.epochs})
    history: list[dict[str, float]] = []
    stages: list[Record] = []
    best, best_epoch = math.inf, 0

    def trained(unfrozen: int, folder: Path) -> Record:
        seed = mixed_seed(context.seed, "stage", unfrozen) if unfrozen else context.seed
        of_stage = replace(context.after(len(history)), folder=folder, seed=seed)
        learner, data = (UpperLayers(network), heads) if heads and not unfrozen else (network, panels)
        fitted = fit(learner, stage_recipe, data[0], data[1], of_stage)
        return {"unfrozen": unfrozen} | {name: getattr(fitted, name) for name in ("best_loss", "best_epoch", "history")}

    for unfrozen in range(len(_layer_groups(network, settings.groups)) + 1):
        unfreeze(network, unfrozen, settings.groups, norms=settings.train_norms)
        if search and unfrozen == 1:
            # The head's rate does not apply to the layers below it. If no rate is found for them, the head's is kept:
            # a stage that does not help is undone.
            with suppress(TrainingError):
                search = _searched(network, panels[0], recipe, context, "finder-body")
                stage_recipe = stage_recipe.model_copy(update={"lr": search.chosen})
        files = context.files.stage(unfrozen)
        before = {k: v.detach().clone() for k, v in network.state_dict().items()}
        stage = finished_stage(network, files, partial(trained, unfrozen, files.folder.path))
        improved = stage["best_loss"] < best
        stages.append({"unfrozen": unfrozen, "best_loss": stage["best_loss"], "kept": improved})
        if improved:
            best, best_epoch = stage["best_loss"], len(history) + stage["best_epoch"]
        history += [{**entry, "epoch": len(history) + i} for i, entry in enumerate(stage["history"])]
        if not improved:
            network.load_state_dict(before)
            break
    network.requires_grad_(True)
    return Learned(network.eval(), history, best_epoch, best, _records(search, stages))


def _layer_groups(network: Network, count: int) -> list[list[nn.Module]]:
    """The body's freeze points in at most `count` groups of about equal size, from the input on."""
    blocks = [module for _, module in network.blocks]
    count = min(count, len(blocks))
    edges = [round(i * len(blocks) / count) for i in range(count + 1)]
    return [blocks[low:high] for low, high in itertools.pairwise(edges)]


def unfreeze(network: Network, groups: int, count: int, *, norms: bool = False) -> None:
    """Train the head and the last `groups` of `count` groups of layers; freeze those before, but with `norms` no norm.

    The replacement of missing sequences is trained unless the head is trained alone.
    """
    all_groups = _layer_groups(network, count)
    for parameter in network.body.parameters():
        parameter.requires_grad_(False)
    for group in all_groups[len(all_groups) - groups :]:
        for module in group:
            module.requires_grad_(True)
    if groups == len(all_groups):
        network.body.requires_grad_(True)
    for module in network.body.modules():
        if norms and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(True)
    if network.missing_token is not None:
        network.missing_token.requires_grad_(groups > 0)
