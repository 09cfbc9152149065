"""Writing an export: the graph of each learner, and what a person needs to feed it.

The values of a written graph on panels are compared with the values of casewise's own networks.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from casewise.errors import CasewiseError, counted
from casewise.files import checksum, make_folder, staging_folder, write_atomic, write_json
from casewise.models.outputs import Output, value_columns, values_of
from casewise.plugins.export import preparation
from casewise.plugins.export.formats import GraphFormat, RunGraph, format_named
from casewise.plugins.export.learner import TrainedLearner, selected_members
from casewise.version import __version__

if TYPE_CHECKING:
    from jinja2 import Template

    from casewise.console import Show
    from casewise.inference.bundle import Bundle
    from casewise.inference.model import TrainedModel
    from casewise.modalities.base import FittedPreprocessing
    from casewise.modalities.dataset import PanelDataset
    from casewise.models.backbones import Network


FORMAT = "casewise-export-2"
DESCRIPTION, PAGE = "preprocessing.json", "README.md"

# From a study and a preparation to panels of some of its cases.
Cases = Callable[[TrainedLearner, "FittedPreprocessing"], "PanelDataset"]


@dataclass(frozen=True)
class Export:
    """The folder that was written, with the files of graphs and the result of the check of each learner."""

    folder: Path
    graphs: dict[str, Path]
    parity: dict[str, _Parity]


def export_model(
    model: TrainedModel,
    output: Path,
    *,
    to: str,
    learners: Sequence[str],
    cases: Cases | None,
    why_random: str,
    show: Show,
) -> Export:
    """Write one checked graph for each learner with a self-test, `preprocessing.json` and `README.md`.

    Nothing is written unless every graph agrees with casewise. Files of an earlier export of the same learners are
    replaced.

    Args:
        to: the name of a format of `casewise.plugins.export.formats.FORMATS`.
        learners: names; by default all.
        cases: panels of some cases of the run, on which graphs are checked; None: on random panels.
        why_random: why there are no such cases; empty if there are.

    Raises:
        CasewiseError: there is no such format or learner, a package is missing, a learner cannot be exported, a graph
            differs from casewise.
    """
    graph_format = format_named(to)
    members = selected_members(model.members, learners)
    records, parity, image = [], {}, b""
    with staging_folder(output) as temporary, show.bar("export") as bar:
        for number, folds in enumerate(members):
            learner = TrainedLearner.of(folds)
            bar(number, len(members), f"{learner.name}, {number + 1} of {counted(len(members), 'learner')}")
            path = temporary / f"{learner.file_stem}{graph_format.ending}"
            result = _write_graph(learner, path, graph_format, cases)
            parity[learner.name] = result
            image = image or preparation.drawn_reference(learner.study.images.size)
            own_test = _write_self_test(learner, path, graph_format, image)
            records.append(describe(learner, path, result) | {"self_test": own_test})
            source = "panels of the run" if result.source == "cases" else "random panels"
            show.line(
                "export",
                f"{learner.name}: {path.name}, {counted(len(folds), 'fold')}; largest difference from casewise "
                f"{result.largest:.1e} on {result.panels} {source}",
            )
        if why_random:
            show.line("", f"checked on random panels: {why_random}")
        description = {
            "format": FORMAT,
            "casewise": __version__,
            "graphs": graph_format.name,
            "learners": records,
            "decisions": dict(model.combination.decisions),
            "stackers": dict(model.combination.stackers),
            "headline": model.headline,
        }
        make_folder(output)
        for file in sorted(temporary.iterdir()):
            os.replace(file, output / file.name)
    write_atomic(output / PAGE, page(description, why_random))
    write_json(output / DESCRIPTION, description)
    graphs = {record["learner"]: output / record["file"] for record in records}
    return Export(output, graphs, parity)


def _write_graph(learner: TrainedLearner, path: Path, graph_format: GraphFormat, cases: Cases | None) -> _Parity:
    """Write the graph of a learner and check the file."""
    if cases is None:
        sample = random_sample(learner)
    else:
        sample = _sample_of_cases([cases(learner, fitted) for fitted in learner.fitted])
    sample = with_gaps(sample, sequences=learner.may_lack_sequences)
    # the example for the recording is random: sizes of 1 would be taken as fixed
    graph_format.write(learner.graph(), random_sample(learner).panels, learner.names, path)
    return check_parity(learner, graph_format.open(path, learner.names), sample, graph_format.reader)


def _write_self_test(
    learner: TrainedLearner, path: Path, graph_format: GraphFormat, image: bytes
) -> Mapping[str, object]:
    """Write the reference image and its panel, and state the output that a program must find; the graph is checked."""
    panel = preparation.reference_panel(learner, image)
    panels = tuple(panel.clone() for _ in learner.fitted)
    check_parity(learner, graph_format.open(path, learner.names), Sample(panels, "random"), graph_format.reader)
    array = path.with_name(f"{learner.file_stem}.panel.npy")
    np.save(array, panel.numpy(), allow_pickle=False)
    made_from = preparation.REFERENCE if preparation.complete_for(learner) else None
    if made_from:
        write_atomic(path.with_name(preparation.REFERENCE), image)
    values = zip(learner.names.outputs, reference(learner, panels), strict=True)
    return {
        "image": made_from,
        "panel": array.name,
        "outputs": {name: own[0].tolist() for name, own in values},
        "panel_tolerance": preparation.PANEL_TOLERANCE,
        "output_tolerances": dict(
            zip(learner.names.outputs, (TOLERANCE * unit for unit in learner.units), strict=True)
        ),
    }


def _fold(member: Bundle) -> int | str:
    """The number of a network's fold, from 1, or `all`."""
    return "all" if member.origin.get("final") else member.fold + 1


def describe(learner: TrainedLearner, path: Path, parity: _Parity) -> dict[str, Any]:
    """The inputs and outputs of a graph and how panels are prepared, as JSON."""
    study, names, member = learner.study, learner.names, learner.members[0]
    shape = ["batch", *(["images"] if learner.bags else []), *learner.tile_shape]
    settings = study.modality_settings
    return {
        "learner": learner.name,
        "file": path.name,
        # large ONNX graphs have a second file with their weights, named after the first
        "sha256": {file.name: checksum(file) for file in sorted(path.parent.glob(f"{glob.escape(path.name)}*"))},
        "folds": [_fold(member) for member in learner.members],
        "inputs": [
            {
                "name": name,
                "shape": shape,
                "dtype": "float32",
                "range": [0.0, 1.0],
                "channels": list(learner.channels),
                "missing": _missing(learner),
                "fitted": fitted,
                "folds": [_fold(m) for m, read in zip(learner.members, learner.reads, strict=True) if read == number],
            }
            for number, (name, fitted) in enumerate(zip(names.inputs, learner.fitted, strict=True))
        ],
        "outputs": [
            {
                "name": name,
                "target": output.name,
                "kind": output.kind,
                "shape": ["batch", len(output.target_kind.columns(output.classes))],
                "dtype": "float32",
                "classes": record["classes"],
                "range": record["range"],
                "level": record["level"],
            }
            for name, output, record in zip(names.outputs, learner.outputs, member.outputs, strict=True)
        ],
        "preparation": {
            "modality": study.modality_name,
            "images": study.images.model_dump(mode="json", include={"size", "fit", "padding", "channels"}),
            "settings": settings.model_dump(mode="json") if settings is not None else {},
            "panels": {
                "by": study.panels.by,
                "grid": [study.panels.rows, study.panels.columns],
                "pooling": study.panels.pooling,
            },
            "steps": preparation.steps(learner),
            "complete_for": preparation.complete_for(learner),
        },
        "in_graph": {
            "normalisation": True,
            "mirrored_panels": learner.flips,
            "mean_over_folds": True,
            "clipped_to_range": True,
        },
        "trained_with": member.compute.precision,
        "parity": parity.as_json(),
    }


def _missing(learner: TrainedLearner) -> str:
    """The meaning of NaN in an input, in words."""
    empty = "an image of NaN is an empty slot" if learner.bags else ""
    absent = "a channel of NaN is a missing sequence" if learner.may_lack_sequences else ""
    return "; ".join(text for text in (empty, absent) if text) or "nothing may be NaN"


def page(description: Mapping[str, Any], why_random: str) -> str:
    """The page for people of a description, in Markdown; `why_random` is why no cases of a run were compared."""
    text = _template().render(export=description, why_random=why_random)
    return re.sub(r"\n{3,}", "\n\n", text)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=False,  # noqa: S701 (a Markdown page is not HTML)
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("README.md.j2")


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
class _Parity:
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


def _sample_of_cases(datasets: Sequence[PanelDataset]) -> Sample:
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
    """The panels, and a copy of the first one without what it may lack: a sequence, or images of a bag."""
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
    """casewise's own predictions for panels, in float32: the values (P, V) of each target, mean over the folds.

    This uses the code of `casewise.models` and of the predictions table, not the graph.
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


def check_parity(learner: TrainedLearner, run: RunGraph, sample: Sample, reader: str) -> _Parity:
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
    return _Parity(largest, len(sample.panels[0]), sample.source, reader)


def _described(sample: Sample) -> str:
    return "panels of the run" if sample.source == "cases" else "random panels"
