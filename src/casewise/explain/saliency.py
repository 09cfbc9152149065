"""A network of a finished run rebuilt, with the panels it saw in prediction, and its maps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from casewise.cohort.labels import label_table
from casewise.errors import RunError
from casewise.explain.finished_run import FinishedRun
from casewise.explain.methods.dispatch import Cells, cells_of, method_for, scaled
from casewise.explain.methods.receptive_field import peaks_of
from casewise.explain.methods.target import ExplainTarget
from casewise.inference.bundle import Bundle
from casewise.inference.predictor import Predictor
from casewise.inference.to_table import prediction_rows
from casewise.modalities.registry import modality_of
from casewise.predictions.table import probability_columns

if TYPE_CHECKING:
    from casewise.modalities.base import PanelDataset
    from casewise.models.backbones import Network

# Between the number formats of two machines; another network or another panel is further away.
APART = 0.05
AT_ONCE = 8
# A map whose highest cell is hardly above the mean of all says nearly nothing.
LEAST_CONTRAST = 0.1


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """What a network saw of one panel row, and where it looked.

    Attributes:
        row: of the cohort's panels.
        slots: (V, K) of every view its tiles by number, −1 for an empty place; of volumes slices, counted in the case.
        panels: (V, C, H, W) `float32` in 0–1; NaN where a sequence is missing.
        maps: (V, H, W) from 0 to 1, of Grad-CAM all views on one scale.
        each: (V, C, H, W), with late fusion each sequence's own map, else the same for all; NaN where one is missing.
            Of Grad-CAM all on one scale, of rollout each on its own.
        plain: (V, H, W), `maps` before they were drawn out to 0–1.
        contrast: (V,), see `Cells.contrast`.
        cells: rows and columns of the network's map.
        peaks: see `casewise.explain.methods.receptive_field.peaks_of`.
    """

    row: int
    slots: np.ndarray
    panels: np.ndarray
    maps: np.ndarray
    each: np.ndarray
    plain: np.ndarray
    contrast: np.ndarray
    cells: tuple[int, int]
    peaks: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The network of one fold and the run's panels as it sees them; `channels` names its sequences."""

    model: str
    fold: int
    predictor: Predictor
    panels: PanelDataset
    channels: tuple[str, ...]

    @property
    def network(self) -> Network:
        """The network itself."""
        return self.predictor.network

    @property
    def method(self) -> str:
        """How its maps are made."""
        return method_for(self.network)


def rebuilt(run: FinishedRun, model: str, fold: int) -> LoadedModel:
    """Load the network of a fold, with the datasets of the run's own cohort.

    Raises:
        RunError: its folder holds no usable network.
    """
    study = run.study
    bundle = Bundle.open(run.job(model, fold).path)
    predictor = Predictor(bundle, bundle.load())  # on the CPU, where maps are made
    labels = label_table(run.cohort.panels, study)
    panels = modality_of(study).dataset(run.tiles, study, run.cohort.panels, labels, bundle.fitted)
    return LoadedModel(model, fold, predictor, panels, channels_of(run, model))


def channels_of(run: FinishedRun, model: str) -> tuple[str, ...]:
    """The sequences that a network sees; of images one nameless channel."""
    return modality_of(run.study).channels(run.study, model)


def check_same(run: FinishedRun, one: LoadedModel, rows: Sequence[int]) -> None:
    """Stop where the rebuilt network does not say what the run recorded: then its maps would explain something else.

    Raises:
        RunError: it says something else, or has seen one of the subjects.
    """
    study, panels = run.study, run.cohort.panels.iloc[list(rows)]
    leaked = sorted(set(map(str, panels["subject"])) & one.predictor.bundle.subjects)
    if leaked:
        raise RunError(
            f"{one.model}, fold {one.fold + 1}, has learned from {leaked[0]}, whom it is to be explained on."
        )
    values = one.predictor.predict(one.panels.subset(rows))
    again = prediction_rows(panels, study, values, stage="oof", model=one.model, fold=one.fold)
    recorded = run.job(one.model, one.fold).predictions.read()
    check_rows(recorded, again, {target: float(np.ptp(study.range_of(target))) for target in set(again["target"])}, one)


def check_rows(recorded: pd.DataFrame, again: pd.DataFrame, spans: Mapping[str, float], one: LoadedModel) -> None:
    """Stop unless every row predicted again was recorded, is a number, and is what was recorded.

    Raises:
        RunError: it names the case.
    """
    keys = ["case", "region", "image", "target"]
    who, why = f"{one.model}, fold {one.fold + 1},", "Run the study again."
    both = again.merge(recorded.drop_duplicates(keys), on=keys, how="left", suffixes=("_again", ""), indicator=True)
    if again.empty or (both["_merge"] != "both").any():
        gone = "" if again.empty else f" of case {both.loc[(both['_merge'] != 'both').idxmax(), 'case']}"
        raise RunError(
            f"{who} has recorded nothing{gone} in its predictions.parquet, so its maps cannot be checked. {why}"
        )
    columns = ["y_pred", *(column for column in probability_columns(again) if column in recorded)]
    for name in columns:
        here, there = both[f"{name}_again"], both[name]
        # a number has no probabilities: they are missing on both sides
        bad = here.isna() if name == "y_pred" else here.isna() != there.isna()
        if bad.any():
            raise RunError(
                f"{who} gives no number for case {both.loc[bad.idxmax(), 'case']}: its weights or the images hold "
                f"what is no number. {why}"
            )
        apart = (there - here).abs()
        # a class may change by rounding alone; its probability tells
        numbers = both["kind"] == "regression"
        apart = (apart / both["target"].map(spans)).where(numbers) if name == "y_pred" else apart
        if (apart > APART).any() or (name == "y_pred" and there.isna().any()):
            wrong = (apart > APART) | (there.isna() if name == "y_pred" else False)
            raise RunError(
                f"{who} does not say of case {both.loc[wrong.idxmax(), 'case']} what predictions.parquet has: its "
                f"weights, the images or their preparation have changed since. {why}"
            )


def looks(one: LoadedModel, rows: Sequence[int], asked: ExplainTarget, *, cells: int = 0) -> list[SaliencyMap]:
    """The maps of every view of these panel rows; of each what it predicts was asked by `asked`."""
    data = one.panels.subset(rows)
    slots, owner = data.views()
    late = one.network.fusion in ("late", "late-shared")
    found: list[list[tuple[Any, ...]]] = [[] for _ in rows]
    last: Cells | None = None
    for at, belongs in zip(slots.split(AT_ONCE), owner.split(AT_ONCE), strict=True):
        panels = data.plain_batch(at, torch.device("cpu"))
        last = cells_of(one.network, panels, output=asked, cells=cells)
        plain = last.whole()
        each = last.each() if late else plain[:, None].expand(-1, len(one.channels), -1, -1)
        if one.channels != ("",):
            each = each.masked_fill(panels[:, :, :1, :1].isnan(), torch.nan)
        places = data.slots_of(at)
        for number, row in enumerate(belongs.tolist()):
            found[row].append(tuple(part[number] for part in (places, panels, plain, each, last.contrast())))
    if last is None:
        return []
    size = (int(last.maps.shape[2]), int(last.maps.shape[3]))
    peaks = peaks_of(size, last.shape, last.middles)
    told = []
    for row, views in zip(rows, found, strict=True):
        places, panels, plain, each, contrast = map(torch.stack, zip(*views, strict=True))
        # views and sequences of a case are compared by eye: one scale for all of them where they can be
        maps = scaled(plain[None], last.method)[0]
        drawn = scaled(each.flatten(0, 1)[None], last.method)[0].reshape(each.shape) if late else _like(maps, each)
        parts = [part.numpy() for part in (places, panels, maps, drawn, plain, contrast)]
        told.append(SaliencyMap(int(row), *parts, size, peaks))  # type: ignore[arg-type,call-arg]
    return told


def _like(maps: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
    """One map (V, H, W) for all sequences, NaN where `each` (V, C, H, W) is."""
    return maps[:, None].expand(-1, each.shape[1], -1, -1).masked_fill(each.isnan(), torch.nan)


def places_of(one: LoadedModel, rows: Sequence[int]) -> list[np.ndarray]:
    """Of each row the slices that stand in the places of its views: (V, K)."""
    data = one.panels.subset(rows)
    slots, owner = data.views()
    places = data.slots_of(slots)
    return [places[owner == number].numpy() for number in range(len(rows))]


def averaged(several: Sequence[list[SaliencyMap]]) -> list[SaliencyMap]:
    """Maps of several folds' networks of the same rows as one; panels are shown as the first of them saw them."""
    return [
        SaliencyMap(
            first.row,
            first.slots,
            first.panels,
            np.mean([look.maps for look in of_row], axis=0),
            np.mean([look.each for look in of_row], axis=0),
            np.mean([look.plain for look in of_row], axis=0),
            np.mean([look.contrast for look in of_row], axis=0),
            first.cells,
            first.peaks,
        )
        for first, of_row in ((group[0], group) for group in zip(*several, strict=True))
    ]


def picture_of(look: SaliencyMap, view: int, sequence: int | None) -> np.ndarray:
    """A panel as a network saw it, 8 bits: (H, W, 3) of images, (H, W) of a sequence."""
    panel = look.panels[view]
    shown = panel.transpose(1, 2, 0) if sequence is None else panel[sequence]
    return np.asarray(np.rint(np.clip(shown, 0, 1) * 255), dtype=np.uint8)
