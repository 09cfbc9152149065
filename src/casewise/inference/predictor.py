"""Applying a trained network: from a dataset to values, from prepared cases to rows of the predictions table."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from casewise.inference.bundle import Bundle
from casewise.inference.distance import FeatureDistance, read_distance, why_no_distance
from casewise.inference.to_table import prediction_rows
from casewise.modalities.registry import modality_of
from casewise.models.forward import predict_together
from casewise.run_folder import JobFolder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
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
