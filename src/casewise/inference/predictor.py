"""Applying a trained network: from a dataset to values, and from values to rows of the predictions table."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from casewise.cohort.targets import label_table
from casewise.inference.bundle import Bundle
from casewise.inference.distance import FeatureDistance, read_distance, why_no_distance
from casewise.modalities.registry import modality_of
from casewise.models.forward import predict_together
from casewise.models.outputs import outputs_of, value_columns
from casewise.run_folder import JobFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from casewise.modalities.base import StoreReference
    from casewise.modalities.dataset import FeatureData, PanelDataset
    from casewise.models.backbones import Network
    from casewise.models.shared_parts import SharedParts
    from casewise.study.schema import Study


log = logging.getLogger("casewise")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network with its trained weights, the facts of its bundle, and the distance from its training features."""

    bundle: Bundle
    network: Network
    distance: FeatureDistance | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle, parts: SharedParts | None = None, *, own: bool = True) -> Predictor:
        """Load the weights; a network trained on a GPU predicts on the GPU if there is one, else on the CPU.

        Args:
            parts: what networks loaded before have in common with this one.
            own: whether the network keeps its weights when the next one is loaded with the same `parts`.
        """
        compute = bundle.compute
        form = torch.channels_last if compute.channels_last else torch.contiguous_format
        device = compute.device if compute.device == "cpu" or torch.cuda.is_available() else "cpu"
        network = bundle.load(parts=parts, own=own).to(device).to(memory_format=form)  # type: ignore[call-overload]
        folder = JobFolder(bundle.folder)
        if why := why_no_distance(folder, bundle.distance):
            log.warning(
                "%s, %s: no distance from the training cases, because %s.", bundle.model, bundle.folder.name, why
            )
        return cls(bundle, network, read_distance(folder, bundle.distance, network.width))

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """The predictor of the network in `folder`."""
        return cls.from_bundle(Bundle.open(folder))

    def predict(self, dataset: PanelDataset | FeatureData) -> NDArray[np.floating]:
        """(P, V) values of every panel: numbers in the targets' units, classes and grades as probabilities."""
        return self.predict_with_features(dataset)[0]

    def predict_with_features(self, dataset: PanelDataset | FeatureData) -> tuple[NDArray[np.floating], Tensor]:
        """The values of `predict`, and the features (P, W) that the last layer receives."""
        bundle = self.bundle
        [(values, features)] = predict_together(
            [self.network],
            dataset,
            bundle.output_records,
            batch=bundle.batch_size,
            channels_last=bundle.compute.channels_last,
            bf16=bundle.compute.precision == "bf16",
            flips=bundle.settings["test_time_augmentation"],
        )
        return values.numpy(), features

    def predict_cases(self, study: Study, panels: pd.DataFrame, store: StoreReference, *, stage: str) -> pd.DataFrame:
        """Rows of the predictions table, one for each case, region or image and target; labels where `panels` has them.

        Args:
            study: the study that read and prepared these cases: that of `Bundle.study`, or one with the same settings.
            store: their prepared images.
            stage: the name of the rows' stage.
        """
        bundle = self.bundle
        study = study.of_learner(bundle.model)
        dataset = modality_of(study).dataset(store, study, panels, None, bundle.fitted)
        return self.rows(dataset, study, panels, stage=stage)

    def rows(
        self, dataset: PanelDataset | FeatureData, study: Study, panels: pd.DataFrame, *, stage: str
    ) -> pd.DataFrame:
        """The rows of `predict_cases` from the panels as this network reads them, or their features.

        Args:
            study: as the learner of this network sees it.
        """
        values, features = self.predict_with_features(dataset)
        return self.rows_of(values, features, study, panels, stage=stage)

    def rows_of(
        self, values: NDArray[np.floating], features: Tensor, study: Study, panels: pd.DataFrame, *, stage: str
    ) -> pd.DataFrame:
        """The rows of `predict_cases` from what `predict_with_features` gave."""
        bundle = self.bundle
        distances = self.distance.raw(features) if self.distance else None
        rows = prediction_rows(
            panels, study, values, stage=stage, model=bundle.model, fold=bundle.fold, distances=distances
        )
        return self.distance.scaled(rows) if self.distance else rows


def prediction_rows(
    panels: pd.DataFrame,
    study: Study,
    values: NDArray[Any],
    *,
    stage: str,
    model: str,
    fold: int,
    distances: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """The network's values (P, V) as rows of the predictions table, each at its target's level and in its range.

    A row has the prediction NaN if a value of any of its panels is not a finite number.
    If several panels show one unit of a target's level, numbers and probabilities are averaged, or with
    `pooling: max` the panel with the largest value is used. `distances` (P,) are averaged, too.
    """
    truth = label_table(panels, study)
    outputs = outputs_of(study)
    tables = []
    single: dict[str, bool] = {}  # by level, whether every panel is a unit of its own
    for column, (output, value_slice) in enumerate(zip(outputs, value_columns(outputs), strict=True)):
        name = output.name
        level = study.level_of(name)
        table = panels[["case", "subject", "visit", "day", "region"]].copy()
        table["y_true"] = truth[:, column].astype(float)
        table["kind"] = output.kind
        kind = output.target_kind
        value_names = kind.columns(output.classes)
        finite = np.isfinite(values[:, value_slice]).all(axis=1)
        table[value_names] = np.where(finite[:, None], values[:, value_slice].astype(float), 0.0)
        table["finite"] = finite
        table["distance"] = np.nan if distances is None else distances
        table["image"] = ""
        if level == "image":
            # By number: paths may move between the jobs of a run; the step `train` sets them.
            table["image"] = [str(t[0]) for t in panels["tiles"]]
        if level in ("case", "subject"):
            table["region"] = ""
        keys = ["case", "subject", "visit", "day", "region", "image", "kind"]
        takes_largest = study.panels.pooling == "max" and level != "image"
        if level not in single:
            single[level] = not table.duplicated(keys).any()
        if single[level] and not takes_largest:  # the mean of one panel is the panel, and groups of one are slow
            mean_distances = table["distance"].to_numpy()
            table = table[[*keys, "y_true", *value_names]].reset_index(drop=True)
        else:
            units = table.groupby(keys, sort=False, dropna=False, as_index=False)
            mean_distances = units["distance"].mean()["distance"].to_numpy()
            finite = units["finite"].all()["finite"].to_numpy()
            if takes_largest:
                prominence = kind.prominence(output.classes, positive_number(study, name))
                table = most_conspicuous(units, value_names, prominence)
            else:
                table = units[["y_true", *value_names]].mean()
        table.loc[~finite, value_names] = np.nan
        table[value_names] = kind.normalise(table[value_names].to_numpy(), *study.range_of(name))
        table["y_pred"] = kind.decide(table[value_names].to_numpy())
        table["distance"] = mean_distances
        tables.append(table.assign(target=name))
    rows = pd.concat(tables, ignore_index=True)
    rows["model"], rows["stage"] = model, stage
    rows["outer_fold"] = pd.array([fold + 1] * len(rows), dtype="Int64")
    rows["inner_fold"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    return rows


def most_conspicuous(units: Any, value_names: list[str], weights: list[float] | None) -> pd.DataFrame:
    """The row that represents each unit of grouped panels: the one with the largest weighted value.

    Without weights each column has its own largest value. The truth is the mean over the unit's panels.
    """
    if weights is not None:
        rows = units.obj.assign(sign=units.obj[value_names].to_numpy() @ weights)
        most_prominent = rows.groupby(units.keys, sort=False, dropna=False)["sign"].idxmax()
        truth = units[["y_true"]].mean()["y_true"].to_numpy()
        return rows.loc[most_prominent].drop(columns="sign").assign(y_true=truth).reset_index(drop=True)
    table: pd.DataFrame = units[["y_true", *value_names]].agg({"y_true": "mean", **dict.fromkeys(value_names, "max")})
    return table


def positive_number(study: Study, name: str) -> int | None:
    """The number of the class that sensitivity is about; None unless there are two."""
    positive = study.positive_of(name)
    return None if positive is None else study.classes_of(name).index(positive)
