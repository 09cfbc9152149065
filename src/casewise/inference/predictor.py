"""Applying a trained network: from a dataset to values, to rows of the predictions table, and to distances."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from casewise.cohort.targets import label_table
from casewise.errors import LINE, RunError, shortened
from casewise.inference.bundle import Bundle
from casewise.inference.drift import FAR_SHARE, held_out_quantile
from casewise.modalities.registry import modality_of
from casewise.models.outputs import outputs_of, value_columns
from casewise.models.shared_parts import SharedParts, predict_together
from casewise.models.weights import read_checked
from casewise.run_folder import JobFolder
from casewise.study.images import POOLINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.modalities.base import StoreReference
    from casewise.modalities.dataset import FeatureData, PanelDataset
    from casewise.models.backbones import Network
    from casewise.study.schema import Study


log = logging.getLogger("casewise")


# The components explain this share of the variance, with at least ten training subjects each.
EXPLAINED, MOST_COMPONENTS, SUBJECTS_PER_COMPONENT = 0.95, 64, 10


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """A network's training features in a few numbers, without the features of any case, for the distance of others.

    Two parts are averaged, as in the combined index of Yue and Qin ("Reconstruction-based fault identification using a
    combined index", 2001): the squared Mahalanobis distance within the first principal components of the training
    features, and the squared distance from the plane of these components, each divided by its mean over the training
    cases. The square root is divided by its 95th percentile among the cases that were held out from the training of the
    network: 1 is the distance that at most one in twenty held-out cases exceeds. The percentile of training cases would
    be too small, because the network was fitted to them.

    Attributes:
        mean: (W,); components: (K, W), orthonormal; variances: (K,) along them; residual: (1,), the mean squared
            distance of training cases from the plane, 0 if it holds all of them. All are `float32`.
        scale: for each target, the distance that counts as 1.
        facts: numbers of training panels and subjects, and of the held-out rows behind each scale.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    scale: dict[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, features: Tensor, subjects: int) -> FeatureDistance | None:
        """From features (N, W) of training panels of this many subjects; None if they do not vary."""
        values = features.double()
        if len(values) < 2 or not bool(values.isfinite().all()):
            return None
        mean = values.mean(dim=0)
        centred = values - mean
        # the smaller of the two matrices of products has the same eigenvalues
        wide = centred.shape[1] > len(centred)
        squares, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
        total = float(squares.sum())
        if total <= 1e-12 * max(1.0, float(values.square().sum())):
            return None
        explaining = int((squares.cumsum(0) < EXPLAINED * total).sum()) + 1
        count = max(1, min(explaining, MOST_COMPONENTS, subjects // SUBJECTS_PER_COMPONENT))
        directions = centred.T @ vectors[:, :count] / squares[:count].sqrt() if wide else vectors[:, :count]
        rest = float(squares[count:].sum())
        residual = rest / len(values) if rest > 1e-9 * total else 0.0
        return cls(
            mean.float(),
            directions.T.float().contiguous(),
            (squares[:count] / len(values)).float(),
            torch.tensor([residual], dtype=torch.float32),
            facts={"panels": len(values), "subjects": subjects, "components": count},
        )

    def raw(self, features: Tensor) -> np.ndarray:
        """(P,) the distances of features (P, W), not scaled; NaN where a feature is not finite."""
        centred = features.double() - self.mean.double()
        along = centred @ self.components.double().T
        parts = [(along.square() / self.variances.double()).mean(dim=1)]
        if float(self.residual) > 0:
            rest = centred.square().sum(dim=1) - along.square().sum(dim=1)
            parts.append(rest.clamp(min=0) / self.residual.double())
        values: np.ndarray = torch.stack(parts).mean(dim=0).sqrt().numpy()
        return np.where(np.isfinite(values), values, np.nan)

    def scaled_by(self, held_out: pd.DataFrame) -> FeatureDistance | None:
        """With the scale of each target from rows of the predictions table with raw distances; None without any."""
        scale, counts = {}, {}
        for target, distances in held_out.groupby("target", sort=False)["distance"]:
            values = distances.dropna().to_numpy(dtype=float)
            if len(values) and (limit := held_out_quantile(values)) > 0:
                scale[str(target)], counts[str(target)] = limit, len(values)
        return replace(self, scale=scale, facts={**self.facts, "held_out": counts}) if scale else None

    def scaled_like(self, scales: Sequence[Mapping[str, float]]) -> FeatureDistance | None:
        """With the mean over other networks of the scale of each target that all of them have; None without any."""
        shared = set.intersection(*map(set, scales)) if scales else set()
        scale = {name: float(np.mean([of_network[name] for of_network in scales])) for name in sorted(shared)}
        return replace(self, scale=scale) if scale else None

    def scaled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the predictions table with their raw distances in units of the scale of their target."""
        return rows.assign(distance=rows["distance"] / rows["target"].map(self.scale).astype(float))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The content of the file next to the weights."""
        names = ("mean", "components", "variances", "residual")
        return {name: getattr(self, name) for name in names}

    def as_json(self, sha256: str) -> dict[str, Any]:
        """What the facts of the network state, with the checksum of the file of tensors."""
        return {"sha256": sha256, "quantile": 1 - FAR_SHARE, "scale": self.scale, **self.facts}


def _why_no_distance(folder: JobFolder, facts: Mapping[str, Any] | None) -> str:
    """Why a network gives no distances; empty if it gives them."""
    if not facts:
        return "its facts state none: its training features did not vary, or no network of a fold has one"
    if not folder.distance.exists():
        name = folder.distance.path.name
        return f"{name} is missing beside its weights; copy it from the folder in which the network was trained"
    return ""


def read_distance(folder: JobFolder, facts: Mapping[str, Any] | None, width: int) -> FeatureDistance | None:
    """The distance that belongs to these facts of a network; None if it has none, see `_why_no_distance`.

    Args:
        width: the number of the network's features.

    Raises:
        RunError: the file next to the weights is from another training, or damaged.
    """
    if not facts or _why_no_distance(folder, facts):
        return None
    try:
        tensors: Mapping[str, Any] = read_checked(folder.distance, str(facts["sha256"]))
        distance = FeatureDistance(**tensors, scale={name: float(scale) for name, scale in facts["scale"].items()})
        distance.raw(torch.zeros(1, width))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{folder.facts.path}: the field distance, or {folder.distance.path.name} beside it, does not belong to "
            f"the network ({shortened(repr(error), LINE)}). Copy the files again, or train the network again."
        ) from error
    return distance


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
        if why := _why_no_distance(folder, bundle.distance):
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
            flips=bundle.settings["test_time_augmentation"],
        )
        return values.numpy(), features

    def predict_cases(self, study: Study, panels: pd.DataFrame, store: StoreReference) -> pd.DataFrame:
        """Rows of the predictions table at stage 'external', one for each case, region or image and target.

        They have labels where `panels` has them.

        Args:
            study: the study that read and prepared these cases: from `Bundle.study`, or one with the same settings.
            store: their prepared images.
        """
        bundle = self.bundle
        study = study.of_learner(bundle.model)
        dataset = modality_of(study).dataset(store, study, panels, None, bundle.fitted)
        return self.rows_of(*self.predict_with_features(dataset), study, panels)

    def rows_of(
        self, values: NDArray[np.floating], features: Tensor, study: Study, panels: pd.DataFrame
    ) -> pd.DataFrame:
        """The rows of `predict_cases` from what `predict_with_features` gave.

        Args:
            study: as the learner of this network sees it.
        """
        bundle = self.bundle
        distances = self.distance.raw(features) if self.distance else None
        rows = prediction_rows(
            panels, study, values, stage="external", model=bundle.model, fold=bundle.fold, distances=distances
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
    If several panels show one unit of a target's level, numbers and probabilities are averaged, or combined as
    `panels.pooling` states. `distances` (P,) are averaged, too.
    """
    truth = label_table(panels, study)
    outputs, choose = outputs_of(study), POOLINGS[study.panels.pooling].choose
    tables, grouped = [], {level: _units(panels, level) for level in {study.level_of(out.name) for out in outputs}}
    for column, (output, value_slice) in enumerate(zip(outputs, value_columns(outputs), strict=True)):
        name, kind = output.name, output.target_kind
        units, numbers = grouped[study.level_of(name)]
        value_names = kind.columns(output.classes)
        finite = np.isfinite(values[:, value_slice]).all(axis=1)
        finite_values = np.where(finite[:, None], values[:, value_slice].astype(float), 0.0)
        shown = pd.DataFrame(finite_values, columns=value_names)
        shown.insert(0, "y_true", truth[:, column].astype(float))
        shown["distance"] = np.nan if distances is None else distances
        means = shown.groupby(numbers).mean()
        if choose and study.level_of(name) != "image":
            prominence = kind.prominence(output.classes, _positive_number(study, name))
            means[value_names] = choose(shown[value_names], numbers, prominence)
        if not finite.all():
            means.loc[np.unique(numbers[~finite]), value_names] = np.nan
        means[value_names] = kind.normalise(means[value_names].to_numpy(), *study.range_of(name))
        distance = means.pop("distance")
        means["y_pred"] = kind.decide(means[value_names].to_numpy())
        table = units.assign(kind=output.kind, **means, distance=distance, target=name)
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    rows["model"], rows["stage"] = model, stage
    rows["outer_fold"] = pd.array([fold + 1] * len(rows), dtype="Int64")
    rows["inner_fold"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    return rows


def _units(panels: pd.DataFrame, level: str) -> tuple[pd.DataFrame, NDArray[np.integer]]:
    """The units of a level that panels show, in the order of the panels, and the number of each panel's unit."""
    table = panels[["case", "subject", "visit", "day", "region"]].copy()
    if level in ("case", "subject"):
        table["region"] = ""
    # By number: paths may move between the jobs of a run; the step `train` sets them.
    table["image"] = [str(tiles[0]) for tiles in panels["tiles"]] if level == "image" else ""
    numbers = table.groupby(list(table), sort=False, dropna=False).ngroup().to_numpy()
    return table.iloc[np.unique(numbers, return_index=True)[1]].reset_index(drop=True), numbers


def _positive_number(study: Study, name: str) -> int | None:
    """The number of the class that sensitivity is about; None unless there are two."""
    positive = study.positive_of(name)
    return None if positive is None else study.classes_of(name).index(positive)
