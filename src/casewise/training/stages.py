"""Training in stages: the whole network, the head alone, the phases of a recipe, or one group of layers after another.

A stage is data: its recipe, what is frozen, and how panels vary. Where panels do not vary, the activations of frozen
layers are computed once for all epochs of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from casewise.errors import TrainingError
from casewise.modalities.dataset import Batches, FeatureData, PanelData, PanelDataset
from casewise.models.freezing import freeze, parameter_counts, split_at
from casewise.run_folder import TrainingFolder
from casewise.run_folder.job_folder import Stage as StageFiles
from casewise.study.model import mixed_seed
from casewise.training.checkpoint import write_tensors
from casewise.training.cost import Timer
from casewise.training.frozen_features import Buffer, FixedData, UpperLayers, activations, features, fixed
from casewise.training.linear_models import CandidateLosses, probe
from casewise.training.loop import TrainingContext, fit
from casewise.training.lr_finder import RateSearch, find_rate
from casewise.training.rates import layer_groups, unfreeze

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.run_folder import JsonFile
    from casewise.study.recipe import Phase, Recipe

# In bytes: the activations of a block of panels, which are always in memory.
LARGE = 2**40
Learner: TypeAlias = "Network | UpperLayers"


@dataclass(frozen=True)
class Learned:
    """A trained network, its history, the curve of the rate search, the stages of gradual unfreezing, the phases.

    `candidates` are those of a linear model, with their inner losses.
    """

    network: Network
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float
    finder: RateSearch | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[CandidateLosses] = field(default_factory=list)


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
        search = _search_rate(UpperLayers(network), heads[0], recipe, context, context.files.rate_search)
    if recipe.head == "probe" and not resuming:
        cached_features = heads[0].features if heads else None
        probe(network, train, subjects, context.outputs, batch=recipe.batch_size, cached_features=cached_features)
    if recipe.lr == "find":
        search = search or _search_rate(network, train, recipe, context, context.files.rate_search)
        recipe = recipe.model_copy(update={"lr": search.chosen})
    if recipe.phases:
        try:
            return _in_phases(network, recipe, train, stop, context)
        finally:
            context.files.remove_caches()
    if recipe.tuning == "gradual_unfreezing" and heads:
        return _gradually(network, recipe, (train, stop), heads, context, search)
    if heads:
        unfreeze(network, 0, recipe.gradual_unfreezing.groups)
        fitted = fit(UpperLayers(network), recipe, *heads, context)
    else:
        fitted = fit(network, recipe, train, stop, context)
    return Learned(network.eval(), fitted.history, fitted.best_epoch, fitted.best_loss, search)


def _search_rate(
    network: Learner, train: Batches, recipe: Recipe, context: TrainingContext, file: JsonFile
) -> RateSearch:
    """The curve of the learning-rate search, from its file if an interrupted job has written it."""
    if (values := file.read_or_none()) is None:
        try:
            search = find_rate(network, recipe, train, context)
        except TrainingError as error:
            raise TrainingError(f"{network.name}: {error}, or take {network.name} out of `backbones`.") from None
        file.write(values := asdict(search))
    return RateSearch(**values)


def _finished(network: Network, files: StageFiles) -> dict[str, Any] | None:
    """The record of a finished stage, after which the network has its weights; None if the stage is not finished."""
    if not files.finished():
        return None
    network.load_state_dict(load_file(files.weights.path))
    return files.record.read()


def _written(network: Network, files: StageFiles, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a stage that was just trained, which is written with its weights."""
    write_tensors(files.weights, network.state_dict(), {"format": "pt"})
    files.record.write(record)
    return record


def _in_phases(
    network: Network, recipe: Recipe, train: PanelDataset, stop: PanelDataset, context: TrainingContext
) -> Learned:
    """Train phase after phase; with early stopping the best epoch of all phases is kept, else the last one."""
    copies, buffer = train.settings.offline_copies, Buffer(context.memory)
    fixed_panels: FixedData | None = None
    history: list[dict[str, float]] = []
    records: list[dict[str, Any]] = []
    best, best_epoch, best_weights = math.inf, 0, dict[str, Tensor]()
    for number, phase in enumerate(recipe.phases):
        files = context.files.stage(number)
        seed = mixed_seed(context.seed, "phase", number) if number else context.seed
        phase_context = replace(context.after(len(history)), seed=seed)
        record = _finished(network, files)
        if record is None:
            if copies and fixed_panels is None and train.copyable:
                panels = cast(PanelData, train)
                fixed_panels = fixed(panels, copies, seed=context.seed, path=context.files.copies, buffer=buffer)
            shown = (train if fixed_panels is None else fixed_panels).with_variations(phase.variations)
            phase_context = replace(phase_context, memory=buffer.left)
            record = _phase(network, recipe, phase, shown, stop, phase_context, files.folder)
            record = _written(network, files, record)
        files.folder.remove_caches()
        if record["best_loss"] < best:
            best, best_epoch = record["best_loss"], len(history) + record["best_epoch"]
            best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        history += [{**entry, "epoch": len(history) + i, "phase": number} for i, entry in enumerate(record["history"])]
        records.append({name: value for name, value in record.items() if name != "history"})
    if context.keep == "best":
        network.load_state_dict(best_weights)
    freeze(network, "none")
    return Learned(network.eval(), history, best_epoch, best, phases=records)


def _phase(
    network: Network,
    recipe: Recipe,
    phase: Phase,
    train: PanelDataset | FixedData,
    stop: PanelDataset,
    context: TrainingContext,
    folder: TrainingFolder,
) -> dict[str, Any]:
    """Train one phase; return the frozen part, the number of trained weights, the method and the cost."""
    stated = {name: getattr(phase, name) for name in ("lr", "schedule", "batch_norm")}
    phase_recipe = recipe.model_copy(
        update={**{k: v for k, v in stated.items() if v is not None}, "epochs": phase.epochs, "phases": []}
    )
    last = freeze(network, phase.freeze)
    counts = parameter_counts(network)
    timer = Timer(folder.path)
    learner, data, watched, method = _shortened(network, phase, recipe, train, stop, context, folder)
    timer.note()

    def tell(epoch: int, loss: float) -> None:
        timer.note()
        if context.tell:
            context.tell(epoch, loss)

    fitted = fit(learner, phase_recipe, data, watched, replace(context, tell=tell, folder=folder.path))
    return {
        "freeze": phase.freeze,
        "last_frozen": last,
        **asdict(counts),
        "way": method,
        "epochs": len(fitted.history),
        "rows": len(data),
        **timer.cost(),
        "best_loss": fitted.best_loss,
        "best_epoch": fitted.best_epoch,
        "history": fitted.history,
    }


def _shortened(
    network: Network,
    phase: Phase,
    recipe: Recipe,
    train: PanelDataset | FixedData,
    stop: PanelDataset,
    context: TrainingContext,
    folder: TrainingFolder,
) -> tuple[Learner, Batches, Batches, str]:
    """The trained module and its data: the network and panels, or the trained layers and activations of frozen ones."""
    plain = (network, train, stop)
    if phase.freeze == "none":
        return *plain, "all layers computed at every step"
    whole = not any(parameter.requires_grad for parameter in network.body.parameters())
    obstacles = {
        ", as the study states": not context.frozen_once,
        ", since panels vary": train.varied,
        ", since more tiles than slots are drawn at random": train.subsampled,
        ", since rates differ by layer": (recipe.discriminative != 1 or recipe.layer_decay != 1) and not whole,
    }
    for reason, applies in obstacles.items():
        if applies:
            return *plain, f"frozen layers computed at every step{reason}"
    try:
        frozen, rest = (network, None) if whole else split_at(network, phase.freeze)
    except TrainingError as error:
        return *plain, f"frozen layers computed at every step: {error}"
    form = torch.channels_last if context.choice.channels_last else torch.contiguous_format
    network.to(memory_format=form)  # type: ignore[call-overload]
    bf16, buffer = context.choice.precision == "bf16", Buffer(context.memory)
    layers: Callable[[Tensor], Tensor] = network.features if whole else frozen

    def computed(data: FixedData | PanelDataset, path: Path) -> FixedData:
        return activations(frozen, data, layers=layers, bf16=bf16, form=form, path=path, buffer=buffer)

    def shared(data: FixedData | PanelDataset, path: Path) -> FixedData:
        # maps are large, and panels of several views have several rows
        if context.shared is None or not whole or isinstance(data, FixedData) or data.bags:
            return computed(data, path)
        if len(data.views()[0]) != len(data):
            return computed(data, path)
        how = {"activations": context.choice.precision, "form": str(form)}

        def of_block(panels: PanelDataset) -> Tensor:
            blocks = Buffer(LARGE)
            return activations(frozen, panels, layers=layers, bf16=bf16, form=form, path=path, buffer=blocks).values

        values = context.shared.of(data, network, of_block, how, empty=partial(buffer.empty, path=path))
        return FixedData(values, data.truth, data.names, data.views()[1])

    once, watched = (shared(data, path) for path, data in zip(folder.activations, (train, stop), strict=True))
    return UpperLayers(network, rest), once, watched, "output of the frozen layers computed once per panel"


def _gradually(
    network: Network,
    recipe: Recipe,
    panels: tuple[PanelDataset, PanelDataset],
    heads: tuple[FeatureData, FeatureData],
    context: TrainingContext,
    search: RateSearch | None,
) -> Learned:
    """Unfreeze one more group of layers as long as the stopping loss falls; the last improvement is kept."""
    settings = recipe.gradual_unfreezing
    stage_recipe = recipe.model_copy(update={"epochs": settings.epochs})
    history: list[dict[str, float]] = []
    stages: list[dict[str, Any]] = []
    best, best_epoch = math.inf, 0
    for unfrozen in range(len(layer_groups(network, settings.groups)) + 1):
        unfreeze(network, unfrozen, settings.groups)
        if search and unfrozen == 1:
            # The head's rate does not apply to the layers below it. If no rate is found for them, the head's is kept:
            # a stage that does not help is undone.
            with suppress(TrainingError):
                search = _search_rate(network, panels[0], recipe, context, context.files.body_rate_search)
                stage_recipe = stage_recipe.model_copy(update={"lr": search.chosen})
        files = context.files.stage(unfrozen)
        before = {k: v.detach().clone() for k, v in network.state_dict().items()}
        seed = mixed_seed(context.seed, "stage", unfrozen) if unfrozen else context.seed
        stage_context = replace(context.after(len(history)), folder=files.folder.path, seed=seed)
        learner, data = (network, panels) if unfrozen else (UpperLayers(network), heads)
        stage = _finished(network, files)
        if stage is None:
            fitted = fit(learner, stage_recipe, data[0], data[1], stage_context)
            of_stage = {name: getattr(fitted, name) for name in ("best_loss", "best_epoch", "history")}
            stage = _written(network, files, {"unfrozen": unfrozen, **of_stage})
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
