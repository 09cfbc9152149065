"""The check of a written graph: its values on panels, compared with those of casewise's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from casewise.errors import CasewiseError
from casewise.models.outputs import Output, value_columns, values_of

if TYPE_CHECKING:
    from casewise.modalities.dataset import PanelDataset
    from casewise.models.backbones import Network
    from casewise.plugins.export.formats import RunGraph
    from casewise.plugins.export.learner import TrainedLearner

TOLERANCE = 1e-4
SEED = 0
# The number of panels that are compared, and of images in a bag, and of both where panels are random.
MOST_PANELS, MOST_IMAGES, RANDOM_PANELS, RANDOM_IMAGES = 8, 16, 4, 3


@dataclass(frozen=True, eq=False)
class Sample:
    """Panels for the check: (P, C, H, W), or bags (P, K, C, H, W), for each input of the graph.

    `source` is `cases`, panels of the run, or `random`, uniform noise.
    """

    panels: tuple[Tensor, ...]
    source: Literal["cases", "random"]

    @property
    def batches(self) -> list[tuple[Tensor, ...]]:
        """All panels together, the first alone, and of bags all with fewer images: no size may be recorded."""
        batches = [self.panels, tuple(values[:1] for values in self.panels)]
        if self.panels[0].ndim == 5 and self.panels[0].shape[1] > 1:
            batches.append(tuple(values[:, :-1] for values in self.panels))
        return batches


@dataclass(frozen=True)
class Parity:
    """The result of the check.

    Attributes:
        largest: the largest difference between the graph and casewise: of probabilities as it is, of numbers in
            standard deviations of the training labels, or in the target's unit where that is larger.
        panels: how many panels were compared.
        source: `cases` of the run, or `random` panels.
        reader: what read the file and ran the graph.
    """

    largest: float
    panels: int
    source: str
    reader: str

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {**asdict(self), "tolerance": TOLERANCE}


def sample_of_cases(datasets: Sequence[PanelDataset]) -> Sample:
    """Panels of the same cases, prepared for each input of the graph, with one more that has a gap."""
    inputs = []
    for dataset in datasets:
        slots, _ = dataset.views()
        slots = slots[:MOST_PANELS]
        if dataset.bags:
            slots = slots[:, :MOST_IMAGES]
        inputs.append(dataset.plain_batch(slots, torch.device("cpu")).float().contiguous())
    return Sample(tuple(inputs), "cases")


def random_sample(learner: TrainedLearner) -> Sample:
    """Seeded random panels, the same for every input."""
    generator = torch.Generator().manual_seed(SEED)
    shape = [RANDOM_PANELS, *([RANDOM_IMAGES] if learner.bags else []), *learner.tile_shape]
    panels = torch.rand(shape, generator=generator)
    return Sample(tuple(panels.clone() for _ in learner.fitted), "random")


def with_gaps(sample: Sample, *, sequences: bool) -> Sample:
    """The panels, and the first one once more with what it may lack: a sequence, or images of a bag."""
    inputs = []
    for panels in sample.panels:
        copy = panels[:1].clone()
        if panels.ndim == 5:
            copy[:, 1:] = torch.nan  # empty slots
        if sequences and panels.shape[-3] > 1:
            copy[..., 0, :, :] = torch.nan
        inputs.append(torch.cat([panels, copy]) if bool(copy.isnan().any()) else panels)
    return Sample(tuple(inputs), sample.source)


def reference(learner: TrainedLearner, panels: Sequence[Tensor]) -> list[np.ndarray]:
    """What casewise itself predicts for panels, in float32: the values (P, V) of each target, mean over the folds.

    This is the code of `casewise.models` and of the predictions table, not that of the graph.
    """
    by_fold = [
        _values(network, panels[number], learner.outputs, flips=learner.flips)
        for network, number in zip(learner.networks, learner.reads, strict=True)
    ]
    means = []
    for target, (output, columns) in enumerate(zip(learner.outputs, value_columns(learner.outputs), strict=True)):
        low, high = learner.ranges[target]
        normalised = [output.target_kind.normalise(values[:, columns], low, high) for values in by_fold]
        means.append(np.mean(normalised, axis=0))
    return means


def _values(network: Network, panels: Tensor, outputs: Sequence[Output], *, flips: bool) -> np.ndarray:
    network.eval()
    with torch.inference_mode():
        values = values_of(network(panels).float(), outputs)
        if flips:
            values = (values + values_of(network(panels.flip(-1)).float(), outputs)) / 2
    return np.asarray(values.double().numpy())


def check_parity(learner: TrainedLearner, run: RunGraph, sample: Sample, reader: str) -> Parity:
    """Compare a written graph with casewise.

    Raises:
        CasewiseError: a value differs by more than `TOLERANCE`, or is not finite.
    """
    largest = 0.0
    for panels in sample.batches:
        expected, computed = reference(learner, panels), run(panels)
        for output, unit, own, values in zip(learner.outputs, learner.units, expected, computed, strict=True):
            if tuple(values.shape) != own.shape:
                raise CasewiseError(
                    f"{learner.name}: the exported graph gives {output.name} the shape {tuple(values.shape)} instead "
                    f"of {own.shape}. Nothing was written."
                )
            difference = float(np.abs(values.double().numpy() - own).max() / unit)
            if not difference <= TOLERANCE:
                raise CasewiseError(
                    f"{learner.name}: the exported graph differs from casewise by {difference:.2g} in {output.name} "
                    f"({_described(sample)}); at most {TOLERANCE:g} is allowed. Nothing was written. Try the other "
                    "format, or select other learners with --learner."
                )
            largest = max(largest, difference)
    return Parity(largest, len(sample.panels[0]), sample.source, reader)


def _described(sample: Sample) -> str:
    return "panels of the run" if sample.source == "cases" else "random panels"
