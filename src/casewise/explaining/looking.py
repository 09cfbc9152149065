"""A network of a finished run rebuilt, with the panels it saw in prediction, and its maps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from casewise.errors import RunError
from casewise.explain.asked import Asked
from casewise.explain.methods import explain, explain_each, method_for
from casewise.explaining.finished import Finished
from casewise.jobs.fitted import fitted_rows
from casewise.jobs.networks import network_of
from casewise.jobs.parts import parts_of
from casewise.jobs.rows import prediction_rows
from casewise.models.weights import read_tensors
from casewise.predictions import probability_columns
from casewise.training.module import predict
from casewise.training.outputs import outputs_of
from casewise.training.speed import Choice
from casewise.truth import truth_table

if TYPE_CHECKING:
    from casewise.jobs.parts import Part
    from casewise.models.backbones import Network

# Between the number formats of two machines; another network or another panel is further away.
APART = 0.05
AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Look:
    """What a network saw of one panel row, and where it looked.

    Attributes:
        row: of the cohort's panels.
        slots: (V, K) of every view its tiles by number, −1 for an empty place; of volumes slices, counted in the case.
        panels: (V, C, H, W) `float32` in 0–1; NaN where a sequence is missing.
        maps: (V, H, W) from 0 to 1.
        each: (V, C, H, W), with late fusion each sequence's own map, else the same for all; NaN where one is missing.
    """

    row: int
    slots: np.ndarray
    panels: np.ndarray
    maps: np.ndarray
    each: np.ndarray


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """The network of one fold and what it is shown. `channels`: names of its sequences; of images one empty name."""

    model: str
    fold: int
    network: Network
    part: Part
    seen: frozenset[str]
    channels: tuple[str, ...]

    @property
    def method(self) -> str:
        """How its maps are made."""
        return method_for(self.network)


def rebuilt(run: Finished, model: str, fold: int) -> Rebuilt:
    """Rebuild the network of a fold; its panels are standardised as it learned them.

    Raises:
        RunError: its weights do not fit the study.
    """
    place, study = run.job(model, fold), run.study
    network = network_of(study, model)
    try:
        network.load_state_dict(read_tensors(place / "model.safetensors"))
    except RuntimeError as error:
        raise RunError(
            f"{place / 'model.safetensors'} does not fit {model} as {run.folder / 'study.json'} builds it "
            f"({str(error).splitlines()[-1].strip()}). Explain the run with the version that made it, or run it again."
        ) from None
    network.eval()
    folder = study.images.store or run.folder / "tiles"
    if study.volumes:
        from casewise.volumes.preparation import SCANS

        folder = run.folder / SCANS
    part = parts_of(
        study,
        run.cohort.panels,
        truth_table(run.cohort.panels, study),
        folder,
        run.tiles.address,
        model=model,
        fitted_on=fitted_rows(study, run.cohort.panels, run.splits, fold),
    )
    seen = frozenset(map(str, json.loads((place / "model.json").read_text())["subjects"]))
    return Rebuilt(model, fold, network, part, seen, channels_of(run, model))


def channels_of(run: Finished, model: str) -> tuple[str, ...]:
    """The sequences that a network sees; of images one nameless channel."""
    volumes = run.study.volumes
    if not volumes:
        return ("",)
    fusion = str(run.study.fusion_of(model))
    return (fusion,) if fusion in volumes.sequences else tuple(volumes.sequences)


def check_same(run: Finished, one: Rebuilt, rows: Sequence[int]) -> None:
    """Stop where the rebuilt network does not say what the run recorded: then its maps would explain something else.

    Raises:
        RunError: it says something else, or has seen one of the subjects.
    """
    study, panels = run.study, run.cohort.panels.iloc[list(rows)]
    leaked = sorted(set(map(str, panels["subject"])) & one.seen)
    if leaked:
        raise RunError(
            f"{one.model}, fold {one.fold + 1}, has learned from {leaked[0]}, whom it is to be explained on."
        )
    record = json.loads((run.job(one.model, one.fold) / "job.json").read_text())
    known = {name: record[name] for name in asdict(Choice()) if name in record}
    choice = Choice(**{**known, "channels_last": record["memory_format"] == "channels-last"})
    values = predict(
        one.network,
        one.part(np.asarray(rows, dtype=np.intp)),  # type: ignore[arg-type]
        outputs_of(study),
        batch=study.recipe.batch,
        channels_last=choice.channels_last,
        bf16=choice.precision == "bf16",
        flips=study.test_flips,
    ).numpy()
    keys = ["case", "region", "image", "target"]
    again = prediction_rows(panels, study, values, stage="oof", model=one.model, fold=one.fold)
    recorded = pd.read_parquet(run.job(one.model, one.fold) / "predictions.parquet")
    both = recorded.merge(again, on=keys, suffixes=("", "_again"))
    span = np.array([np.ptp(study.range_of(target)) for target in both["target"]])
    for name in ["y_pred", *(column for column in probability_columns(again) if column in recorded)]:
        apart = (both[name] - both[f"{name}_again"]).abs()
        # a class may change by rounding alone; its probability tells
        apart = (apart / span).where(both["kind"] == "regression") if name == "y_pred" else apart
        if (apart > APART).any():
            case = both.loc[apart.idxmax(), "case"]
            raise RunError(
                f"{one.model}, fold {one.fold + 1}, does not say of case {case} what predictions.parquet has: its "
                "weights, the images or their preparation have changed since. Run the study again."
            )


def looks(one: Rebuilt, rows: Sequence[int], asked: Asked, *, cells: int = 0) -> list[Look]:
    """The maps of every view of these panel rows; of each what it predicts was asked by `asked`."""
    data = one.part(np.asarray(rows, dtype=np.intp))
    slots, owner = data.views()
    found: list[list[tuple[Any, ...]]] = [[] for _ in rows]
    for at, belongs in zip(slots.split(AT_ONCE), owner.split(AT_ONCE), strict=True):
        panels = data.plain_batch(at, torch.device("cpu"))
        maps = explain(one.network, panels, output=asked, cells=cells)
        each = maps[:, None].expand(-1, len(one.channels), -1, -1)
        if one.channels != ("",):
            if one.network.fusion in ("late", "late-shared"):
                each = explain_each(one.network, panels, output=asked, cells=cells)
            each = each.masked_fill(panels[:, :, :1, :1].isnan(), torch.nan)
        places = slices_in(data, at) if one.channels != ("",) else at
        for number, row in enumerate(belongs.tolist()):
            found[row].append(tuple(part[number].numpy() for part in (places, panels, maps, each)))
    return [Look(int(row), *map(np.stack, zip(*views, strict=True))) for row, views in zip(rows, found, strict=True)]


def slices_in(data: Any, windows: torch.Tensor) -> torch.Tensor:
    """Which slices, counted in the case, fill the places of windows (B, 2): (B, K); at the ends some stand twice."""
    cases, starts = windows[:, 0], windows[:, 1]
    count, slots = data.slices.count[cases], data.settings.slots
    lead = ((slots - count).clamp(min=0) // 2).unsqueeze(1)
    place = (starts.unsqueeze(1) + torch.arange(slots) - lead).clamp(min=0)
    return torch.minimum(place, (count - 1).unsqueeze(1))


def averaged(several: Sequence[list[Look]]) -> list[Look]:
    """Maps of several folds' networks of the same rows as one; panels are shown as the first of them saw them."""
    return [
        Look(
            first.row,
            first.slots,
            first.panels,
            np.mean([look.maps for look in of_row], axis=0),
            np.mean([look.each for look in of_row], axis=0),
        )
        for first, of_row in ((group[0], group) for group in zip(*several, strict=True))
    ]


def picture_of(look: Look, view: int, sequence: int | None) -> np.ndarray:
    """A panel as a network saw it, 8 bits: (H, W, 3) of images, (H, W) of a sequence."""
    panel = look.panels[view]
    shown = panel.transpose(1, 2, 0) if sequence is None else panel[sequence]
    return np.asarray(np.rint(np.clip(shown, 0, 1) * 255), dtype=np.uint8)
