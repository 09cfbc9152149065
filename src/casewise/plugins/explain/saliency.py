"""A network of a finished run, loaded with the panels of prediction, and its saliency maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from casewise.cohort.targets import label_table
from casewise.errors import RunError
from casewise.inference.bundle import Bundle
from casewise.inference.predictor import Predictor, prediction_rows, read_distance
from casewise.modalities.base import NativeMap, PreparedCohort, SlotMaps
from casewise.modalities.dataset import PanelDataset
from casewise.modalities.registry import modality_of
from casewise.models.backbones import Network
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.methods.contributions import Contributions, centre_at, contributions, reads_features
from casewise.plugins.explain.methods.dispatch import CellMaps, SaliencyMethod, method_for, peak_pixels, scaled
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.predictions.table import probability_columns
from casewise.run_folder import JobFolder
from casewise.study.images import Panels
from casewise.targets import kind_named

# Number formats of two machines differ by less; another network or panel differs by more.
TOLERANCE = 0.05
BATCH = 8
# Below this contrast, the maximum of a map is hardly above its mean.
MIN_CONTRAST = 0.1
# By architecture, shape of panels and `map_size`: the folds of a network, and requests of a service, share them.
_METHODS: dict[tuple[str, tuple[int, int], int], SaliencyMethod] = {}


@dataclass(frozen=True)
class _OutputSum:
    """The explained output of a baseline as a sum: `average` + what is on the map + `unplaced`.

    Attributes:
        output: the raw output: a number in its units, the logit of a class minus the mean of the others, or the sum of
            the steps of a grade.
        average: the output for the mean features of the training images.
        unplaced: what features without a place add, and missing sequences.
    """

    output: float
    average: float
    unplaced: float

    @property
    def placed(self) -> float:
        """The sum of the map."""
        return self.output - self.average - self.unplaced

    def as_json(self) -> dict[str, float]:
        """The output and its terms."""
        return {**asdict(self), "placed": self.placed}


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """The panels of one panel row as a network sees them, and its maps.

    Attributes:
        row: of the cohort's panels.
        slots: (V, K) the tiles of every view by number, −1 for an empty slot; for volumes slice numbers in the case.
        panels: (V, C, H, W) `float32` in 0–1; NaN where a sequence is missing.
        maps: (V, H, W) from 0 to 1; all methods but rollout use one scale for all views. Of contributions, those in
            favour of the explained output.
        by_sequence: (V, C, H, W), with late fusion a map for each sequence, else the same map for all; NaN for a
            missing sequence. Grad-CAM uses one scale for all, rollout one for each. Contributions have a sign: they
            go from −1 to 1, on one scale for all.
        raw: (V, H, W), `maps` before they were scaled to 0–1.
        contrast: (V,), see `CellMaps.contrast`.
        map_size: rows and columns of the network's map.
        peaks: see `casewise.plugins.explain.methods.dispatch.peak_pixels`.
        grid: rows and columns of images on a panel.
        output_sum: of contributions, the explained output as a sum; None for other methods.
        own: (V, H, W) as by `own_maps`, the map that a U-Net computes itself, for all outputs; None for other networks.
        layer: the layer that Grad-CAM reads; empty for other methods.
    """

    row: int
    slots: np.ndarray
    panels: np.ndarray
    maps: np.ndarray
    by_sequence: np.ndarray
    raw: np.ndarray
    contrast: np.ndarray
    map_size: tuple[int, int]
    peaks: tuple[np.ndarray, np.ndarray]
    grid: tuple[int, int]
    output_sum: _OutputSum | None = None
    own: np.ndarray | None = None
    layer: str = ""

    @property
    def signed(self) -> bool:
        """Whether `by_sequence` has a sign."""
        return self.output_sum is not None

    @property
    def middle_view(self) -> int:
        """The view that is shown."""
        return (len(self.slots) - 1) // 2

    @property
    def empty(self) -> bool:
        """Whether no cell has any influence."""
        return not bool(self.raw.max() > 0)

    @property
    def flat(self) -> bool:
        """Whether the map is nearly uniform."""
        return float(self.contrast.mean()) < MIN_CONTRAST

    def picture(self, sequence: int | None) -> np.ndarray:
        """The panel of the middle view, 8 bits: (H, W, 3) of images, (H, W) of a sequence."""
        panel = self.panels[self.middle_view]
        values = panel.transpose(1, 2, 0) if sequence is None else panel[sequence]
        return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The network of one fold and the run's panels as it sees them.

    Attributes:
        panels: those that are explained; of a bag its images one by one, because the features of all are averaged.
        sequences: the names of its sequences; one empty name for images.
        predicted: the panels of prediction.
        map_size: the least number of cells a side of a CNN's map; 0 for a stride of 16 pixels (see `layer_of`).
    """

    model: str
    fold: int
    predictor: Predictor
    panels: PanelDataset
    sequences: tuple[str, ...]
    predicted: PanelDataset
    map_size: int = 0

    @property
    def network(self) -> Network:
        """The network."""
        return self.predictor.network

    @property
    def method(self) -> str:
        """The saliency method."""
        return method_for(self.network)

    def saliency_method(self, panels: torch.Tensor) -> SaliencyMethod:
        """How the network is explained on panels (B, C, H, W)."""
        shape = (int(panels.shape[-2]), int(panels.shape[-1]))
        key = (json.dumps(self.predictor.bundle.network, sort_keys=True), shape, self.map_size)
        if key not in _METHODS:
            _METHODS[key] = SaliencyMethod.of(self.network, shape, map_size=self.map_size)
        return _METHODS[key]

    @property
    def label(self) -> str:
        """The network in messages."""
        return f"{self.model}, fold {self.fold + 1}"

    def first_panels(self, rows: Sequence[int]) -> torch.Tensor:
        """The first view of each panel row."""
        data = self.panels.subset(rows)
        slots, owner = data.views()
        first = [int((owner == number).nonzero()[0]) for number in range(len(rows))]
        return data.plain_batch(slots[first], torch.device("cpu"))

    def slots(self, rows: Sequence[int]) -> list[np.ndarray]:
        """The slices in the slots of each panel row's views: (V, K)."""
        data = self.panels.subset(rows)
        views, owner = data.views()
        slots = data.slots_of(views)
        return [slots[owner == number].numpy() for number in range(len(rows))]


def load_model(run: FinishedRun, model: str, fold: int, *, map_size: int = 0) -> LoadedModel:
    """Load the network of a fold, with the panels of the run's cohort.

    Raises:
        RunError: its folder holds no usable network.
    """
    bundle = Bundle.open(run.files.job(model, fold).path)
    network, folder = bundle.load(), JobFolder(bundle.folder)
    distance = read_distance(folder, bundle.distance, network.width) if reads_features(network) else None
    predictor = Predictor(bundle, network, distance)  # on the CPU, where maps are computed
    return on_panels(predictor, run.prepared, label_table(run.cohort.panels, run.study), map_size=map_size)


def on_panels(
    predictor: Predictor, prepared: PreparedCohort, labels: np.ndarray | None = None, *, map_size: int = 0
) -> LoadedModel:
    """A network on the CPU with the panels of prepared cases; `labels` (P, T) are None for new cases."""
    bundle, study, modality = predictor.bundle, prepared.study, modality_of(prepared.study)
    if reads_features(predictor.network):
        centre_at(predictor.network, predictor.distance.mean if predictor.distance else None)
    of_learner = study.of_learner(bundle.model)
    panels = modality.dataset(prepared.store, of_learner, prepared.cohort.panels, labels, bundle.fitted)
    single = panels.arranged(Panels(by=of_learner.panels.by)) if panels.bags else panels
    channels = modality.channels(study, bundle.model)
    return LoadedModel(bundle.model, bundle.fold, predictor, single, channels, panels, map_size)


def check_reproduces(run: FinishedRun, model: LoadedModel, rows: Sequence[int]) -> None:
    """Stop unless the loaded network reproduces the recorded predictions; else its maps would explain other ones.

    The prediction of a case is the mean over its panels, so all panels of the cases of `rows` are predicted.

    Raises:
        RunError: predictions differ, or the network was trained on one of the subjects.
    """
    study, every, bundle = run.study.of_learner(model.model), run.cohort.panels, model.predictor.bundle
    rows = np.flatnonzero(every["case"].isin(set(every["case"].iloc[list(rows)]))).tolist()
    panels = every.iloc[rows]
    leaked = sorted(set(map(str, panels["subject"])) & (bundle.subjects - bundle.stop_subjects))
    if leaked:
        raise RunError(f"{model.label} was trained on subject {leaked[0]}, who must not be explained with it.")
    values = model.predictor.predict(model.predicted.subset(rows))
    stage = "validation" if run.splits.holdout else "oof"
    repeated = prediction_rows(panels, study, values, stage=stage, model=model.model, fold=model.fold)
    recorded = run.files.job(model.model, model.fold).predictions.read()
    ranges = {target: float(np.ptp(study.range_of(target))) for target in set(repeated["target"])}
    compare_predictions(recorded, repeated, ranges, model.label)


def compare_predictions(
    recorded: pd.DataFrame, repeated: pd.DataFrame, ranges: Mapping[str, float], label: str
) -> None:
    """Stop unless every repeated prediction was recorded, is a number, and agrees with the record.

    Args:
        ranges: the range of values of each target that is a number.
        label: the network in messages.

    Raises:
        RunError: it names the case.
    """
    keys = ["case", "region", "image", "target"]
    both = repeated.merge(
        recorded.drop_duplicates(keys), on=keys, how="left", suffixes=("_repeated", ""), indicator=True
    )
    is_number = [kind_named(kind).form == "number" for kind in both["kind_repeated"]]
    spans = np.where(is_number, [ranges[target] for target in both["target"]], np.inf)
    wrong = {"has no stored prediction": both["_merge"] != "both"}
    for name in ["y_pred", *(column for column in probability_columns(repeated) if column in recorded)]:
        repetition, first = both[f"{name}_repeated"], both[name]
        # a number has no probabilities: they are missing on both sides
        undefined = repetition.isna() | first.isna() if name == "y_pred" else repetition.isna() != first.isna()
        # a class may change by rounding alone, so only its probability is compared
        allowed = spans if name == "y_pred" else 1.0
        wrong |= {
            f"has a {name} that is not a number": undefined,
            f"has another {name}": (first - repetition).abs() / allowed > TOLERANCE,
        }
    for problem, rows in wrong.items():
        if repeated.empty or rows.any():
            case = "" if repeated.empty else f" for case {both.loc[rows.idxmax(), 'case']}, which {problem}"
            raise RunError(
                f"{label} does not reproduce predictions.parquet{case}: its weights, the images or their preparation "
                "have changed. Run the study again."
            )


def saliency_maps(model: LoadedModel, rows: Sequence[int], target: ExplainTarget) -> list[SaliencyMap]:
    """The maps of every view of these panel rows."""
    if reads_features(model.network):
        return [_contribution_map(model, row, target) for row in rows]
    data = model.panels.subset(rows)
    slots, owner = data.views()
    late = model.network.fusion in ("late", "late-shared")
    views: list[list[tuple[Any, ...]]] = [[] for _ in rows]
    last: CellMaps | None = None
    for batch, owners in zip(slots.split(BATCH), owner.split(BATCH), strict=True):
        panels = data.plain_batch(batch, torch.device("cpu"))
        last = model.saliency_method(panels).cell_maps(model.network, panels, target)
        raw, own = last.on_panel(), own_maps(model.network, panels)
        by_sequence = last.by_sequence() if late else raw[:, None].expand(-1, len(model.sequences), -1, -1)
        if model.sequences != ("",):
            by_sequence = by_sequence.masked_fill(panels[:, :, :1, :1].isnan(), torch.nan)
        slot_tiles = data.slots_of(batch)
        for number, row in enumerate(owners.tolist()):
            of_batch = (slot_tiles, panels, raw, by_sequence, last.contrast(), own)
            views[row].append(tuple(values[number] for values in of_batch))
    if last is None:
        return []
    size = (int(last.maps.shape[2]), int(last.maps.shape[3]))
    peaks = peak_pixels(size, last.shape, last.centres)
    results = []
    for row, case_views in zip(rows, views, strict=True):
        slot_tiles, panels, raw, by_sequence, contrast, own = map(torch.stack, zip(*case_views, strict=True))
        # one scale for all views and, for Grad-CAM, all sequences of a case, because they are compared by eye
        maps = scaled(raw[None], last.method)[0]
        separate = maps[:, None].expand_as(by_sequence).masked_fill(by_sequence.isnan(), torch.nan)
        if late:
            separate = scaled(by_sequence.flatten(0, 1)[None], last.method)[0].reshape(by_sequence.shape)
        arrays = [values.numpy() for values in (slot_tiles, panels, maps, separate, raw, contrast)]
        saliency = SaliencyMap(int(row), *arrays, size, peaks, _grid(data))  # type: ignore[arg-type,call-arg]
        layer = model.saliency_method(panels).layer
        results.append(replace(saliency, own=own.numpy() if own.numel() else None, layer=layer))
    return results


def own_maps(network: Network, panels: torch.Tensor) -> torch.Tensor:
    """The maps (B, H, W) that a U-Net computes itself, NaN outside an unpadded one; (B, 0) of other networks."""
    body: Any = network.body
    if not hasattr(body, "map_of") or panels.ndim != 4 or network.read_map:  # of another map than its own
        return panels.new_empty(len(panels), 0)
    with torch.no_grad():
        maps = body.map_of((panels - network.mean) / network.std)[:, 0]
    result = panels.new_full((len(panels), *panels.shape[2:]), torch.nan)
    top, left = ((side - length) // 2 for side, length in zip(panels.shape[2:], maps.shape[1:], strict=True))
    result[:, top : top + maps.shape[1], left : left + maps.shape[2]] = maps
    return result


def maps_by_row(model: LoadedModel, targets: Mapping[int, ExplainTarget]) -> dict[int, SaliencyMap]:
    """The maps of panel rows by number; rows with one target are computed together."""
    by_target: dict[int | None, list[int]] = {}
    for row, target in targets.items():
        by_target.setdefault(target.class_index, []).append(row)
    maps = [saliency_maps(model, rows, targets[rows[0]]) for rows in by_target.values()]
    return {saliency.row: saliency for of_target in maps for saliency in of_target}


def _contribution_map(model: LoadedModel, row: int, target: ExplainTarget) -> SaliencyMap:
    """The contributions of a panel row to the output of a model on fixed features; of several views, to their mean."""
    data = model.panels.subset([row])
    views, _ = data.views()
    panels = [data.plain_batch(batch_views, torch.device("cpu")) for batch_views in views.split(BATCH)]
    with torch.no_grad():
        at = torch.cat([model.network.features(batch) for batch in panels]).mean(dim=0) if len(views) > 1 else None
    by_batch: list[Contributions] = [contributions(model.network, batch, target, at=at) for batch in panels]
    panel = torch.cat(panels)
    # the output comes from the mean features of all views
    maps = torch.cat([batch.maps for batch in by_batch]) / len(views)
    total = _OutputSum(
        float(torch.cat([batch.output for batch in by_batch]).mean()),
        float(by_batch[0].average[0]),
        float(torch.cat([batch.unplaced for batch in by_batch]).mean()),
    )
    by_channel = maps if model.sequences != ("",) else maps.sum(dim=1, keepdim=True)
    if model.sequences != ("",):
        missing = panel[:, :, :1, :1].isnan()
        total = replace(total, unplaced=total.unplaced + float(maps.masked_fill(~missing, 0.0).sum()))
        by_channel = by_channel.masked_fill(missing, torch.nan)
    raw = by_channel.nansum(dim=1).clamp(min=0)
    largest = float(by_channel.abs().nan_to_num().max()) or 1.0
    shape = (int(raw.shape[1]), int(raw.shape[2]))
    return SaliencyMap(
        int(row),
        data.slots_of(views).numpy(),
        panel.numpy(),
        scaled(raw[None], "contributions")[0].numpy(),
        (by_channel / largest).float().numpy(),
        raw.numpy(),
        CellMaps(raw[:, None], shape, None, "contributions").contrast().numpy(),
        shape,
        peak_pixels(shape, shape),
        _grid(data),
        total,
    )


def _grid(data: PanelDataset) -> tuple[int, int]:
    return data.settings.rows, data.settings.columns


def average_folds(folds: Sequence[list[SaliencyMap]]) -> list[SaliencyMap]:
    """The mean over folds of maps of the same rows; the panels come from the first fold."""
    averages = []
    for of_row in zip(*folds, strict=True):
        first = of_row[0]
        means = {
            name: np.mean([getattr(saliency, name) for saliency in of_row], axis=0)
            for name in ("maps", "by_sequence", "raw", "contrast")
        }
        sums = [saliency.output_sum for saliency in of_row if saliency.output_sum]
        total = _OutputSum(*np.mean([astuple(output_sum) for output_sum in sums], axis=0).tolist()) if sums else None
        own = None if first.own is None else np.mean([saliency.own for saliency in of_row], axis=0)
        averages.append(replace(first, **means, output_sum=total, own=own))
    return averages


def native_maps(
    prepared: PreparedCohort, maps: Sequence[SaliencyMap], channels: tuple[str, ...], *, side: int | None = None
) -> dict[str, list[NativeMap]]:
    """The maps of one network of one case in the space of its original images, by channel; missing channels are absent.

    Args:
        side: for photographs and slides, the longest side of the pictures in pixels; by default as in the originals.
    """
    modality, by_channel = modality_of(prepared.study), {}
    for number, channel in enumerate(channels):
        if all(np.isnan(saliency.by_sequence[:, number]).all() for saliency in maps):
            continue
        slot_maps = [
            SlotMaps(saliency.row, to_slots(saliency.by_sequence[:, number], saliency.grid), saliency.slots.reshape(-1))
            for saliency in maps
        ]
        by_channel[channel] = modality.to_native(prepared, slot_maps, channel, side=side)
    return by_channel


def to_slots(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Cut panels into their slots, row by row: (B, rows·h, columns·w) → (B·S, h, w).

    >>> to_slots(np.arange(4).reshape(1, 2, 2), (2, 2))[:, 0, 0].tolist()
    [0, 1, 2, 3]
    """
    rows, columns = grid
    height, width = maps.shape[1] // rows, maps.shape[2] // columns
    tiles = maps.reshape(-1, rows, height, columns, width).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(tiles).reshape(-1, height, width)
