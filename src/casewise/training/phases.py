"""Training in phases, for example first the head alone, then all layers above a freeze point.

Where panels do not vary, the activations of frozen layers are computed once for all epochs of a phase.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file
from torch import nn

from casewise.errors import TrainingError
from casewise.modalities.base import PanelDataset
from casewise.modalities.dataset import Batches, PanelData
from casewise.models.freezing import freeze, parameter_counts
from casewise.models.frozen_split import split_at
from casewise.run_folder import TrainingFolder
from casewise.study.seeds import mixed_seed
from casewise.training.checkpoint import write_tensors
from casewise.training.feature_cache import Buffer, FeatureNetwork, FixedData, Upper, activations, fixed
from casewise.training.fit import TrainingContext, fit
from casewise.training.head_loop import fit_head
from casewise.training.timing import Timer

# In bytes: the activations of a block of panels, which are always in memory.
LARGE = 2**40

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.schema import Phase, Recipe


def in_phases(
    network: Network, recipe: Recipe, train: PanelDataset, stop: PanelDataset, context: TrainingContext
) -> tuple[list[dict[str, float]], int, float, list[dict[str, Any]]]:
    """Train `network` phase after phase; a finished phase is read from its file.

    With early stopping the best epoch of all phases is kept, else the last one.

    Returns:
        The history over all phases, the best epoch and its loss, and the record of each phase.
    """
    copies, buffer = train.settings.offline_copies, Buffer(context.memory)
    fixed_panels = None
    history: list[dict[str, float]] = []
    records: list[dict[str, Any]] = []
    best, best_epoch, best_weights = math.inf, 0, {}
    for number, phase in enumerate(recipe.phases):
        files = context.files.stage(number)
        if files.finished():
            record = files.record.read()
            network.load_state_dict(load_file(files.weights.path))
        else:
            if copies and not fixed_panels and train.copyable:
                fixed_panels = fixed(
                    cast(PanelData, train), copies, seed=context.seed, path=context.files.copies, buffer=buffer
                )
            phase_context = _from(context, number, len(history), buffer.left)
            shown = (fixed_panels or train).with_variations(phase.variations)
            record = _phase(network, recipe, phase, shown, stop, phase_context, files.folder)
            write_tensors(files.weights, network.state_dict(), {"format": "pt"})
            files.record.write(record)
            files.folder.state.before.remove()
        files.folder.remove_caches()
        if record["best_loss"] < best:
            best, best_epoch = record["best_loss"], len(history) + record["best_epoch"]
            best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        history += [{**entry, "epoch": len(history) + i, "phase": number} for i, entry in enumerate(record["history"])]
        records.append({name: value for name, value in record.items() if name != "history"})
    if context.keep == "best":
        network.load_state_dict(best_weights)
    freeze(network, "none")
    network.eval()
    return history, best_epoch, best, records


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

    # Nothing but the head is left of the network if its features were computed once.
    fit_learner: Any = fit_head if isinstance(learner.body, nn.Identity) else fit
    fitted = fit_learner(learner, phase_recipe, data, watched, replace(context, tell=tell, folder=folder.path))
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
) -> tuple[Any, Batches, Batches, str]:
    """The trained module and its data: the network and panels, or the trained layers and activations of frozen ones."""
    plain = (network, train, stop)
    if phase.freeze == "none":
        return *plain, "all layers computed at every step"
    if not context.frozen_once:
        return *plain, "frozen layers computed at every step, as the study states"
    if train.varied:
        return *plain, "frozen layers computed at every step, since panels vary"
    if train.subsampled:
        return (
            *plain,
            "frozen layers computed at every step, since more tiles than slots are drawn at random",
        )
    whole = not any(parameter.requires_grad for parameter in network.body.parameters())
    if (recipe.discriminative != 1 or recipe.layer_decay != 1) and not whole:
        return *plain, "frozen layers computed at every step, since rates differ by layer"
    try:
        frozen, rest = (FeatureNetwork(network), nn.Identity()) if whole else split_at(network, phase.freeze)
    except TrainingError as error:
        return *plain, f"frozen layers computed at every step: {error}"
    form = torch.channels_last if context.choice.channels_last else torch.contiguous_format
    network.to(memory_format=form)  # type: ignore[call-overload]
    bf16, buffer = context.choice.precision == "bf16", Buffer(context.memory)

    def computed(data: FixedData | PanelDataset, path: Path) -> FixedData:
        return activations(frozen, data, bf16=bf16, form=form, path=path, buffer=buffer)

    def shared(data: FixedData | PanelDataset, path: Path) -> FixedData:
        # maps are large, and panels of several views have several rows
        if context.shared is None or not whole or isinstance(data, FixedData):
            return computed(data, path)
        if len(data.views()[0]) != len(data):
            return computed(data, path)
        how = {"activations": context.choice.precision, "form": str(form)}

        def of_block(panels: PanelDataset) -> torch.Tensor:
            return activations(frozen, panels, bf16=bf16, form=form, path=path, buffer=Buffer(LARGE)).values

        values = context.shared.of(data, network, of_block, how, empty=partial(buffer.empty, path=path))
        return FixedData(values, data.truth, data.names, data.views()[1], data.bag if data.bags else 1)

    activation_data = [shared(data, path) for path, data in zip(folder.activations, (train, stop), strict=True)]
    return (
        Upper(network, rest),
        activation_data[0],
        activation_data[1],
        "output of the frozen layers computed once per panel",
    )


def _from(context: TrainingContext, number: int, done: int, memory: int) -> TrainingContext:
    """The context of one phase: its seed, progress that includes the phases before, and the remaining memory."""
    seed = mixed_seed(context.seed, "phase", number) if number else context.seed
    return replace(context.after(done), seed=seed, memory=memory)
