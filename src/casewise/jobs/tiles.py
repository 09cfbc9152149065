"""Predictions of single tiles if a case has several: for maps, never for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from casewise.modalities.dataset import encode_bags
from casewise.modalities.panels import EMPTY
from casewise.models.outputs import outputs_of, value_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.inference.predictor import Predictor
    from casewise.modalities.dataset import FeatureData, PanelDataset
    from casewise.study.schema import Study

# If a stage has more panels, an evenly spaced subset is kept.
MOST = 500_000


def tile_rows(panels: pd.DataFrame, study: Study, values: NDArray[Any], *, stage: str) -> pd.DataFrame | None:
    """The prediction of each panel and target; None if panels are not single images of larger units.

    Columns: image (number), case, stage, target, y_pred, and p0, p1, … of classes; `float32`. `values` is (P, V).
    Grades are the median here; the rule of the study decides them when the tables of all networks are gathered.
    """
    if study.panels.by != "image" or not panels["case"].duplicated().any():
        return None
    rows = np.arange(0, len(panels), -(-len(panels) // MOST))
    shown_panels = panels.iloc[rows]
    tables = []
    outputs = outputs_of(study)
    for output, value_slice in zip(outputs, value_columns(outputs), strict=True):
        if study.level_of(output.name) == "image":
            continue
        target_values = values[rows, value_slice].astype(float)
        table = _named(shown_panels, stage, output.name)
        kind = output.target_kind
        target_values = kind.normalise(target_values, *study.range_of(output.name))
        table["y_pred"] = kind.decide(target_values)
        table[kind.columns(output.classes)] = target_values
        tables.append(table)
    return _small(pd.concat(tables, ignore_index=True)) if tables else None


def weight_rows(
    predictor: Predictor, data: PanelDataset | FeatureData, panels: pd.DataFrame, *, stage: str
) -> pd.DataFrame | None:
    """The weight of each tile of a bag in the prediction of its case, summing to 1; None without attention.

    Columns: image (number), case, stage, target ('', because all targets share it), weight; `float32`.
    """
    network, bundle = predictor.network, predictor.bundle
    pooling = network.pooling
    if pooling is None or not pooling.learned or not data.bags:
        return None
    device = next(network.parameters()).device
    slots, owner = data.views()
    bf16, size = bundle.compute.precision == "bf16", data.eval_batch_size(bundle.batch_size, device)
    form = torch.channels_last if bundle.compute.channels_last else torch.contiguous_format
    tables = []
    network.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
            features = encode_bags(network.features, data, view_slots, device, form).float()
            with torch.autocast(device.type, enabled=False):
                weights = pooling.weights(features).cpu().numpy()
            bag, slot = np.nonzero(view_slots.numpy() != EMPTY)
            table = _named(panels.iloc[panel_numbers.numpy()[bag]], stage, "")
            tables.append(table.assign(image=view_slots.numpy()[bag, slot], weight=weights[bag, slot]))
    return _small(pd.concat(tables, ignore_index=True))


def _named(panels: pd.DataFrame, stage: str, target: str) -> pd.DataFrame:
    """The tile of each row; the first one of panels with several."""
    first = [int(tiles[0]) for tiles in panels["tiles"]]
    return pd.DataFrame({"image": first, "case": panels["case"].to_numpy(), "stage": stage, "target": target})


def _small(table: pd.DataFrame) -> pd.DataFrame:
    numbers = [name for name in table if name not in ("image", "case", "stage", "target")]
    return table.astype(dict.fromkeys(numbers, "float32") | {"image": "int64"})
