"""Training in stages: the whole network, the head alone, the phases of a recipe, or the method of a plugin.

A stage is data: its recipe, what is frozen, and how panels vary. Where panels do not vary, the activations of frozen
layers are computed once for all epochs of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from safetensors.torch import load_file
from torch import Tensor

from casewise.errors import TrainingError
from casewise.modalities.dataset import Batches, FeatureData, PanelDataset
from casewise.models.freezing import freeze, parameter_counts, split_at
from casewise.plugin import implementing
from casewise.run_folder.job_folder import Stage as StageFiles
from casewise.study.model import mixed_seed
from casewise.training.checkpoint import write_tensors
from casewise.training.cost import Timer
from casewise.training.frozen_features import Buffer, UpperLayers, activations, features
from casewise.training.linear_models import CandidateLosses, probe
from casewise.training.loop import Learner, TrainingContext, fit

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.recipe import Phase, Recipe

# In bytes: the activations of a block of panels, which are always in memory.
LARGE = 2**40
# What a file of a finished stage or training holds.
Record: TypeAlias = dict[str, Any]
# The features of the panels for training and for early stopping, on which a head is trained alone.
Heads: TypeAlias = tuple[FeatureData, FeatureData]


@dataclass(frozen=True)
class Learned:
    """A trained network, its history, the records of a plugin's method by name, and a record of each phase.

    `candidates` are a linear model's candidates, with their inner losses.
    """

    network: Network
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float
    records: Record = field(default_factory=dict)
    phases: list[Record] = field(default_factory=list)
    candidates: list[CandidateLosses] = field(default_factory=list)


class TrainingMethod(Protocol):
    """A plugin that trains networks by methods of its own, which keys of the recipe choose."""

    def learn(
        self,
        network: Network,
        recipe: Recipe,
        train: PanelDataset,
        stop: PanelDataset,
        subjects: Sequence[str],
        context: TrainingContext,
    ) -> Learned | None:
        """As `casewise.training.stages.learn`; None for recipes that choose no method of the plugin."""
        return None

    def fixed_panels(self, train: PanelDataset, context: TrainingContext, buffer: Buffer) -> FeatureData | None:
        """The panels of all phases where `panels` has a setting of the plugin that fixes them; else None."""
        return None


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
    methods = implementing(TrainingMethod)
    learned = (method.learn(network, recipe, train, stop, subjects, context) for method in methods)
    return next(filter(None, learned), None) or train_as_stated(network, recipe, train, stop, subjects, context)


def train_as_stated(
    network: Network,
    recipe: Recipe,
    train: PanelDataset,
    stop: PanelDataset,
    subjects: Sequence[str],
    context: TrainingContext,
    heads: Heads | None = None,
) -> Learned:
    """Train `network` by the keys of the core; `heads`: from `prepare_heads`, if it was called."""
    if recipe.tuning == "head_only":
        heads = heads or prepare_heads(network, recipe, train, stop, context)
    probe_head(network, recipe, train, subjects, context, heads)
    if recipe.phases:
        try:
            return _in_phases(network, recipe, train, stop, context)
        finally:
            context.files.remove_caches()
    fitted = fit(UpperLayers(network), recipe, *heads, context) if heads else fit(network, recipe, train, stop, context)
    return Learned(network.eval(), fitted.history, fitted.best_epoch, fitted.best_loss)


def prepare_heads(
    network: Network, recipe: Recipe, train: PanelDataset, stop: PanelDataset, context: TrainingContext
) -> Heads:
    """Let the head learn alone; the features of the panels for it."""
    batch = recipe.batch_size
    heads = _head_input(network, train, batch, context), _head_input(network, stop, batch, context)
    network.body.requires_grad_(False)
    return heads


def probe_head(
    network: Network,
    recipe: Recipe,
    train: PanelDataset,
    subjects: Sequence[str],
    context: TrainingContext,
    heads: Heads | None,
) -> None:
    """Begin with a linear model of the features as the head, if the recipe says so and no state is continued."""
    if recipe.head == "probe" and not context.files.can_resume():
        cached_features = heads[0].features if heads else None
        probe(network, train, subjects, context.outputs, batch=recipe.batch_size, cached_features=cached_features)


def finished_stage(network: Network, files: StageFiles, train: Callable[[], Record]) -> Record:
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
    buffer = Buffer(context.memory)
    fixed_panels: FeatureData | None = None
    history: list[dict[str, float]] = []
    records: list[Record] = []
    best, best_epoch, best_weights = math.inf, 0, dict[str, Tensor]()

    def trained(number: int, phase: Phase, folder: Path) -> Record:
        nonlocal fixed_panels
        if train.settings.fixed and fixed_panels is None:
            panels = (method.fixed_panels(train, context, buffer) for method in implementing(TrainingMethod))
            fixed_panels = next(filter(None, panels), None)
        shown = fixed_panels or train.with_variations(phase.variations)
        seed = mixed_seed(context.seed, "phase", number) if number else context.seed
        of_phase = replace(context.after(len(history)), seed=seed, folder=folder, memory=buffer.left)
        return _phase(network, recipe, phase, shown, stop, of_phase)

    for number, phase in enumerate(recipe.phases):
        files = context.files.stage(number)
        record = finished_stage(network, files, partial(trained, number, phase, files.folder.path))
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
        ", since rates differ by layer": recipe.rates_by_layer and not whole,
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
