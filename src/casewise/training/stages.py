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
from typing import TYPE_CHECKING, Any, TypeAlias

from safetensors.torch import load_file
from torch import Tensor

from casewise.errors import TrainingError
from casewise.modalities.dataset import Batches, FeatureData, PanelData, PanelDataset
from casewise.models.freezing import freeze, parameter_counts, split_at
from casewise.run_folder.job_folder import Stage as StageFiles
from casewise.study.model import mixed_seed
from casewise.training.checkpoint import write_tensors
from casewise.training.cost import Timer
from casewise.training.frozen_features import Buffer, UpperLayers, activations, features, fixed
from casewise.training.linear_models import CandidateLosses, probe
from casewise.training.loop import Learner, TrainingContext, fit
from casewise.training.lr_finder import RateSearch, find_rate
from casewise.training.rates import layer_groups, unfreeze

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.run_folder import JsonFile
    from casewise.study.recipe import Phase, Recipe

# In bytes: the activations of a block of panels, which are always in memory.
LARGE = 2**40
# What a file of a finished stage or training holds.
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Learned:
    """A trained network, its history, the curve of the rate search, the stages of gradual unfreezing, the phases.

    `candidates` are a linear model's candidates, with their inner losses.
    """

    network: Network
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float
    finder: RateSearch | None = None
    stages: list[Record] = field(default_factory=list)
    phases: list[Record] = field(default_factory=list)
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
    search, gradual = None, recipe.gradual_unfreezing
    if recipe.tuning in ("head_only", "gradual_unfreezing"):
        if recipe.tuning == "head_only" or gradual.first_stage == "features":
            batch = recipe.batch_size
            heads = _head_input(network, train, batch, context), _head_input(network, stop, batch, context)
        norms = gradual.train_norms and recipe.tuning == "gradual_unfreezing"
        unfreeze(network, 0, gradual.groups, norms=norms)
        if recipe.lr == "find":
            # before the probe, because no rate reduces the loss of a fitted head
            learner, data = (UpperLayers(network), heads[0]) if heads else (network, train)
            search = _searched(learner, data, recipe, context, context.files.rate_search)
    if recipe.head == "probe" and not resuming:
        cached_features = heads[0].features if heads else None
        probe(network, train, subjects, context.outputs, batch=recipe.batch_size, cached_features=cached_features)
    if recipe.lr == "find":
        search = search or _searched(network, train, recipe, context, context.files.rate_search)
        recipe = recipe.model_copy(update={"lr": search.chosen})
    if recipe.phases:
        try:
            return _in_phases(network, recipe, train, stop, context)
        finally:
            context.files.remove_caches()
    if recipe.tuning == "gradual_unfreezing":
        return _gradually(network, recipe, (train, stop), heads, context, search)
    fitted = fit(UpperLayers(network), recipe, *heads, context) if heads else fit(network, recipe, train, stop, context)
    return Learned(network.eval(), fitted.history, fitted.best_epoch, fitted.best_loss, search)


def _searched(network: Learner, train: Batches, recipe: Recipe, context: TrainingContext, file: JsonFile) -> RateSearch:
    """The curve of the learning-rate search, from its file if an interrupted job has written it."""
    if (values := file.read_or_none()) is None:
        file.write(values := asdict(find_rate(network, recipe, train, context)))
    return RateSearch(**values)


def _stage(network: Network, files: StageFiles, train: Callable[[], Record]) -> Record:
    """The record of a stage, after which the network has its weights: of a finished one, or of one that is trained."""
    if files.finished():
        network.load_state_dict(load_file(files.weights.path))
        return files.record.read()
    record = train()
    write_tensors(files.weights, network.state_dict())
    files.record.write(record)
    return record


def _in_phases(
    network: Network, recipe: Recipe, train: PanelDataset, stop: PanelDataset, context: TrainingContext
) -> Learned:
    """Train phase after phase; with early stopping the best epoch of all phases is kept, else the last one."""
    copies, buffer = train.settings.offline_copies, Buffer(context.memory)
    fixed_panels: FeatureData | None = None
    history: list[dict[str, float]] = []
    records: list[Record] = []
    best, best_epoch, best_weights = math.inf, 0, dict[str, Tensor]()

    def trained(number: int, phase: Phase, folder: Path) -> Record:
        nonlocal fixed_panels
        if copies and fixed_panels is None and isinstance(train, PanelData):
            fixed_panels = fixed(train, copies, seed=context.seed, path=context.files.copies, buffer=buffer)
        shown = fixed_panels or train.with_variations(phase.variations)
        seed = mixed_seed(context.seed, "phase", number) if number else context.seed
        of_phase = replace(context.after(len(history)), seed=seed, folder=folder, memory=buffer.left)
        return _phase(network, recipe, phase, shown, stop, of_phase)

    for number, phase in enumerate(recipe.phases):
        files = context.files.stage(number)
        record = _stage(network, files, partial(trained, number, phase, files.folder.path))
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
    train: PanelDataset | FeatureData,
    stop: PanelDataset,
    context: TrainingContext,
) -> Record:
    """Train one phase; return the frozen part, the number of trained weights, the method and the cost."""
    stated = {name: getattr(phase, name) for name in ("lr", "schedule", "batch_norm")}
    phase_recipe = recipe.model_copy(
        update={**{k: v for k, v in stated.items() if v is not None}, "epochs": phase.epochs, "phases": []}
    )
    last = freeze(network, phase.freeze)
    counts = parameter_counts(network)
    timer = Timer(context.folder)
    learner, data, watched, method = _shortened(network, phase, recipe, train, stop, context)
    timer.note()

    def tell(epoch: int, loss: float) -> None:
        timer.note()
        if context.tell:
            context.tell(epoch, loss)

    fitted = fit(learner, phase_recipe, data, watched, replace(context, tell=tell))
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
    train: PanelDataset | FeatureData,
    stop: PanelDataset,
    context: TrainingContext,
) -> tuple[Learner, Batches, Batches, str]:
    """The trained module and its data: the network and panels, or the trained layers and activations of frozen ones."""
    plain = (network, train, stop)
    if phase.freeze == "none":
        return *plain, "all layers computed at every step"
    whole = not any(parameter.requires_grad for parameter in network.body.parameters())
    obstacles = {
        ", as stated": not context.frozen_once,
        ", since panels vary": train.varied,
        ", since panels are mixed": bool(recipe.mixup),
        ", since more tiles than slots are drawn at random": train.subsampled,
        ", since rates differ by layer": recipe.layer_decay != 1 and not whole,
    }
    for reason, applies in obstacles.items():
        if applies:
            return *plain, f"frozen layers computed at every step{reason}"
    try:
        frozen, rest = (network, None) if whole else split_at(network, phase.freeze)
    except TrainingError as error:
        return *plain, f"frozen layers computed at every step: {error}"
    form, buffer, sharing = context.memory_format, Buffer(context.memory), context.shared
    network.to(memory_format=form)  # type: ignore[call-overload]
    how = {"activations": context.choice.precision, "form": str(form)}

    def computed(data: FeatureData | PanelDataset, path: Path) -> FeatureData:
        layers: Callable[[Tensor], Tensor] = network.features if whole else frozen
        bf16 = context.choice.precision == "bf16"
        compute = partial(activations, frozen, layers=layers, bf16=bf16, form=form, path=path)
        # maps are large, and panels of several views have several rows
        if sharing and whole and not isinstance(data, FeatureData) and not data.bags:
            slots, owner = data.views()
            if len(slots) == len(data):
                values = sharing.of(
                    data,
                    network,
                    lambda panels: compute(panels, buffer=Buffer(LARGE)).features,
                    how,
                    empty=partial(buffer.empty, path=path),
                )
                return FeatureData(values, data.truth, data.names, owner)
        return compute(data, buffer=buffer)

    once, watched = (computed(data, path) for path, data in zip(context.files.activations, (train, stop), strict=True))
    return UpperLayers(network, rest), once, watched, "output of the frozen layers computed once per panel"


def _gradually(
    network: Network,
    recipe: Recipe,
    panels: tuple[PanelDataset, PanelDataset],
    heads: tuple[FeatureData, FeatureData] | None,
    context: TrainingContext,
    search: RateSearch | None,
) -> Learned:
    """Unfreeze one more group of layers as long as the stopping loss falls; the last improvement is kept."""
    settings = recipe.gradual_unfreezing
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

    for unfrozen in range(len(layer_groups(network, settings.groups)) + 1):
        unfreeze(network, unfrozen, settings.groups, norms=settings.train_norms)
        if search and unfrozen == 1:
            # The head's rate does not apply to the layers below it. If no rate is found for them, the head's is kept:
            # a stage that does not help is undone.
            with suppress(TrainingError):
                search = _searched(network, panels[0], recipe, context, context.files.body_rate_search)
                stage_recipe = stage_recipe.model_copy(update={"lr": search.chosen})
        files = context.files.stage(unfrozen)
        before = {k: v.detach().clone() for k, v in network.state_dict().items()}
        stage = _stage(network, files, partial(trained, unfrozen, files.folder.path))
        improved = stage["best_loss"] < best
        stages.append({"unfrozen": unfrozen, "best_loss": stage["best_loss"], "kept": improved})
        if improved:
            best, best_epoch = stage["best_loss"], len(history) + stage["best_epoch"]
        history += [{**entry, "epoch": len(history) + i} for i, entry in enumerate(stage["history"])]
        if not improved:
            network.load_state_dict(before)
            break
    network.requires_grad_(True)
    return Learned(network.eval(), history, best_epoch, best, search, stages)


def frozen_features(
    network: Network, panels: PanelDataset, recipe: Recipe, context: TrainingContext, *, flips: bool
) -> FeatureData | None:
    """The features of all panels on which only a head was trained, if it also predicts from them; otherwise None.

    It does not with mirrored panels (`flips`), for bags, and for panels with several views, whose predictions are
    averaged rather than their features. Otherwise the folds of a study need not compute the panels again.
    """
    slots, _ = panels.views()
    same = not flips and not panels.bags and len(slots) == len(panels)
    return _head_input(network, panels, recipe.batch_size, context) if recipe.tuning == "head_only" and same else None


def _head_input(network: Network, data: PanelDataset, batch: int, context: TrainingContext) -> FeatureData:
    """The features of every panel of `data` for its head, shared with other folds if the context states how."""
    compute = partial(features, network, batch=batch)
    if context.shared is None or data.bags:
        return FeatureData(compute(data), data.truth, data.names)
    # the format in which the network predicts
    network.eval().to(memory_format=context.memory_format)  # type: ignore[call-overload]
    how = {"features": "fp32", "form": str(context.memory_format), "batch": batch}
    return FeatureData(context.shared.of(data, network, compute, how), data.truth, data.names)
