"""Predictions of trained networks: of held-out cases and single tiles with their distances, and of other images.

Other images are images of another cohort and altered images of held-out cases.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count

from casewise.cohort.targets import label_table
from casewise.errors import TrainingError
from casewise.evaluation.judges import right_on
from casewise.files import text_hash
from casewise.inference.bundle import Bundle
from casewise.inference.predictor import FeatureDistance, Predictor, prediction_rows
from casewise.jobs.fitting import evenly
from casewise.jobs.plan import Job, JobInputs, table_hash
from casewise.modalities.alterations import UNALTERED
from casewise.modalities.dataset import FeatureData, encode_bags
from casewise.modalities.panels import EMPTY
from casewise.modalities.registry import modality_of
from casewise.models.outputs import outputs_of, value_columns
from casewise.models.shared_parts import JointFeatures, SharedParts
from casewise.models.threads import on_threads
from casewise.predictions.table import CHOOSING, check
from casewise.splits.predefined import TEST, TRAIN
from casewise.study.model import mixed_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.jobs.fitting import FoldData, StoredFeatures
    from casewise.modalities.base import PanelDataset, PreparedCohort
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study
    from casewise.training.stages import Learned


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FittedModel:
    """A trained network, the panels or features that it predicts from, and its training data."""

    predictor: Predictor
    learned: Learned
    panels: PanelDataset | FeatureData | StoredFeatures
    data: FoldData
    guess_loss: float | None


@dataclass(frozen=True)
class JobPredictions:
    """Rows of the predictions table, rows of single tiles if any, and metrics on training subjects.

    `rows` is None if the job has no held-out subjects. `distance` is the distance of the rows from the training
    features; None if it is undefined.
    """

    rows: pd.DataFrame | None
    by_tile: pd.DataFrame | None
    train_metrics: Mapping[str, object]
    distance: FeatureDistance | None


# Training panels whose features are computed again after training, and held-out panels whose features are in memory.
MOST_PANELS, AT_ONCE = 1000, 5000


def predict(job: Job, inputs: JobInputs, fitted: FittedModel) -> JobPredictions:
    """Predict the held-out fold and the test set; with phases, measure on the training subjects as well.

    In a hold-out design the training subjects are predicted too, as a stage of their own.

    A network on all folds predicts nothing: the study is evaluated with the networks of the folds.
    """
    study, panels, splits = inputs.study, inputs.cohort.panels, inputs.splits
    subjects = panels["subject"].astype(str)
    fit_rows = fitted.data.fit_rows
    rows = evenly(fit_rows, subjects.iloc[fit_rows].to_numpy(), MOST_PANELS, study.seed)
    _, features = fitted.predictor.predict_with_features(fitted.panels.subset(rows.tolist()))
    distance = FeatureDistance.fit(features, int(subjects.iloc[rows].nunique()))
    if job.final:
        facts = [folder.facts.read() for folder in job.folder.folds(splits.folds)]
        scales = [network["distance"]["scale"] if network.get("distance") else {} for network in facts]
        return JobPredictions(None, None, {}, distance.scaled_like(scales) if distance else None)
    tables, tile_tables = [], []
    inside = (("validation", job.fold), ("training", TRAIN)) if splits.holdout else (("oof", job.fold),)
    for stage, side in (*inside, ("test", TEST)):
        rows = np.flatnonzero(subjects.isin(set(splits.subjects(side))).to_numpy())
        if not len(rows):
            continue
        stage_panels = panels.iloc[rows]
        values, distances = _predicted(fitted, rows.tolist(), distance)
        tables.append(
            prediction_rows(
                stage_panels, study, values, stage=stage, model=job.model, fold=job.fold, distances=distances
            )
        )
        tile_tables.append(_tile_rows(stage_panels, study, values, stage=stage))
        if fitted.predictor.network.pooling is not None:
            data = fitted.panels.subset(rows.tolist())
            tile_tables.append(weight_rows(fitted.predictor, data, stage_panels, stage=stage))
    by_tile = [table for table in tile_tables if table is not None]
    table = pd.concat(tables, ignore_index=True)
    if len(without := table.loc[table["y_pred"].isna(), "case"]):
        raise TrainingError(
            f"{job.name}: {job.model} gives no finite number for case {without.iloc[0]}. Lower recipe.lr, or take "
            f"{job.model} out of the study."
        )
    distance = distance.scaled_by(table[table["stage"].isin(CHOOSING)]) if distance else None
    return JobPredictions(
        distance.scaled(table) if distance else table.assign(distance=np.nan),
        pd.concat(by_tile, ignore_index=True) if by_tile else None,
        _train_metrics(job, inputs, fitted),
        distance,
    )


def _predicted(
    fitted: FittedModel, rows: list[int], distance: FeatureDistance | None
) -> tuple[NDArray[np.floating], NDArray[np.float64] | None]:
    """The values (P, V) of panels, and their distances (P,) if there is a distance."""
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        values, features = fitted.predictor.predict_with_features(fitted.panels.subset(rows[start : start + AT_ONCE]))
        parts.append((values, distance.raw(features) if distance else np.zeros(0)))
    values, distances = (np.concatenate(each) for each in zip(*parts, strict=True))
    return values, distances if distance else None


def _train_metrics(job: Job, inputs: JobInputs, fitted: FittedModel) -> Mapping[str, object]:
    """Metrics on the subjects for training and early stopping; their predictions are not stored."""
    study, panels = inputs.study, inputs.cohort.panels
    if inputs.splits.holdout or not (study.recipe.phases and study.classes_of(study.primary_outcome)):
        return {}
    sides = {"on_training": fitted.data.fit_rows}
    if study.recipe.early_stopping.monitor != "none":
        sides["on_inner"] = fitted.data.stop_rows
    metrics = {}
    for name, rows in sides.items():
        values, _ = _predicted(fitted, rows.tolist(), None)
        of_side = prediction_rows(panels.iloc[rows], study, values, stage="oof", model=job.model, fold=job.fold)
        judged = right_on(of_side, study)
        metrics[name] = None if judged is None else asdict(judged)
    return metrics


# If a stage has more panels, an evenly spaced subset is kept.
MOST = 500_000


def _tile_rows(panels: pd.DataFrame, study: Study, values: NDArray[Any], *, stage: str) -> pd.DataFrame | None:
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
        table = _first_tiles(shown_panels, stage, output.name)
        kind = output.target_kind
        target_values = kind.normalise(target_values, *study.range_of(output.name))
        table["y_pred"] = kind.decide(target_values)
        table[kind.columns(output.classes)] = target_values
        tables.append(table)
    return _small(pd.concat(tables, ignore_index=True)) if tables else None


def weight_rows(
    predictor: Predictor, data: PanelDataset | FeatureData, panels: pd.DataFrame, *, stage: str
) -> pd.DataFrame | None:
    """The weight of each tile of a bag in the prediction of its case, summing to 1; None if all are equal.

    Columns: image (number), case, stage, target ('', because all targets share it), weight; `float32`.
    """
    network, bundle = predictor.network, predictor.bundle
    pooling = network.pooling
    if pooling is None or pooling.kind.shares is None or not data.bags:
        return None
    device = next(network.parameters()).device
    slots, owner = data.views()
    size = data.eval_batch_size(bundle.batch_size, device)
    form = torch.channels_last if bundle.compute.channels_last else torch.contiguous_format
    tables = []
    network.eval()
    with torch.inference_mode():
        for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
            features = encode_bags(network.features, data, view_slots, device, form)
            weights = pooling.weights(features).cpu().numpy()
            bag, slot = np.nonzero(view_slots.numpy() != EMPTY)
            table = _first_tiles(panels.iloc[panel_numbers.numpy()[bag]], stage, "")
            tables.append(table.assign(image=view_slots.numpy()[bag, slot], weight=weights[bag, slot]))
    return _small(pd.concat(tables, ignore_index=True))


def _first_tiles(panels: pd.DataFrame, stage: str, target: str) -> pd.DataFrame:
    """The tile of each row; the first one of panels with several."""
    first = [int(tiles[0]) for tiles in panels["tiles"]]
    return pd.DataFrame({"image": first, "case": panels["case"].to_numpy(), "stage": stage, "target": target})


def _small(table: pd.DataFrame) -> pd.DataFrame:
    numbers = [name for name in table if name not in ("image", "case", "stage", "target")]
    return table.astype(dict.fromkeys(numbers, "float32") | {"image": "int64"})


def predict_external(jobs: Sequence[Job], external: PreparedCohort, *, tell: Callable[[int], None]) -> pd.DataFrame:
    """Rows of the stage 'external', one set for each network, stored in the jobs' folders; stored ones are read."""
    study, panels = external.study, external.cohort.panels
    inputs = f"{table_hash(external.cohort, study)} {external.store.address} {study.test_time_augmentation}"
    digest = text_hash(inputs)

    def predicted(job: Job) -> pd.DataFrame:
        predictor = Predictor.load(job.folder.path)
        with on_threads(predictor.bundle.compute.threads):
            return check(predictor.predict_cases(study, panels, external.store))

    counter = _Counter(tell)

    def stored(job: Job) -> pd.DataFrame:
        made_from = f"{digest} {job.fingerprint} {job.folder.weights_sha256()}"
        table = check(job.folder.external_predictions.step(made_from, partial(predicted, job)))
        counter.add()
        return table

    tables: dict[str, pd.DataFrame] = {}
    for of_one in _by_threads([(job, Bundle.open(job.folder.path)) for job in jobs]):
        members = [job for job, _ in of_one]
        tables |= dict(zip((job.name for job in members), _side_by_side(stored, members, of_one), strict=True))
    return pd.concat([tables[job.name] for job in jobs], ignore_index=True)


# The most images of a fold's chosen cases, and the most bytes of their altered copies in colour, which are all in
# memory; at least one case is taken.
MOST_IMAGES, MOST_BYTES = 300, 2**30
# Folds or networks that predict side by side, at most, for the sake of memory.
MOST_AT_ONCE = 4


def chosen_panels(study: Study, panels: pd.DataFrame, splits: Splits) -> dict[int, list[int]]:
    """For each fold, the rows of the panels of held-out cases that are altered.

    `evaluation.counterfactual_cases` are divided among the folds. In each they are drawn by the seed among the cases
    with a recorded target, in turn from each class of the primary outcome if it has classes, and from a subject's
    second case on only after the first cases of others.
    """
    share, more = divmod(study.evaluation.counterfactual_cases, splits.folds)
    labels = label_table(panels, study)
    scored = ~np.isnan(labels).all(axis=1)
    outcome = study.primary_outcome
    classed = outcome in study.outputs and bool(study.classes_of(outcome))
    values = labels[:, list(study.outputs).index(outcome)] if classed else np.zeros(len(panels))
    table = pd.DataFrame(
        {
            "case": panels["case"].astype(str),
            "subject": panels["subject"].astype(str),
            "row": range(len(panels)),
            "images": [len(images) for images in panels["tiles"]],
            "label": values,
        }
    )[scored]
    copies = 1 + len(modality_of(study).alterations(study))
    most = min(MOST_IMAGES, MOST_BYTES // (copies * 3 * study.images.size**2))
    chosen = {}
    for fold in range(splits.folds):
        held_out = table[table["subject"].isin(set(splits.subjects(fold)))]
        random = np.random.default_rng(mixed_seed(study.seed, "counterfactuals", fold))
        rows: list[int] = []
        images = 0
        for case in _in_turn(held_out.drop_duplicates("case"), random)[: share + (fold < more)]:
            case_rows = held_out[held_out["case"] == case]
            images += int(case_rows["images"].sum())
            if rows and images > most:
                break
            rows += case_rows["row"].tolist()
        if rows:
            chosen[fold] = rows
    return chosen


def _in_turn(cases: pd.DataFrame, random: np.random.Generator) -> list[str]:
    """The names of the cases in random order, in turn from each label, first cases of subjects first."""
    shuffled = cases.iloc[random.permutation(len(cases))]
    shuffled = shuffled.iloc[np.argsort(shuffled.groupby("subject").cumcount().to_numpy(), kind="stable")]
    turns = shuffled.groupby(shuffled["label"].fillna(-1.0)).cumcount().to_numpy()
    return shuffled["case"].iloc[np.argsort(turns, kind="stable")].tolist()


def predict_altered(
    jobs: Sequence[Job],
    prepared: PreparedCohort,
    rows_by_fold: Mapping[int, Sequence[int]],
    *,
    tell: Callable[[int], None],
) -> pd.DataFrame:
    """Rows of the predictions table with the column `alteration`, each case by the networks of its own fold.

    `tell` receives the number of networks that have predicted.
    """
    names = (UNALTERED, *modality_of(prepared.study).alterations(prepared.study))
    bundles = [(job, Bundle.open(job.folder.path)) for job in jobs if job.fold in rows_by_fold]
    counter = _Counter(tell)

    def predicted(fold: tuple[Sequence[int], list[tuple[Job, Bundle]]]) -> list[pd.DataFrame]:
        return _altered_in_fold(*fold, prepared, names, counter.add) if fold[1] else []

    tables: dict[str, list[pd.DataFrame]] = {}
    for of_one in _by_threads(bundles):
        folds = [(rows, [each for each in of_one if each[0].fold == fold]) for fold, rows in rows_by_fold.items()]
        for (_, members), table in zip(folds, _side_by_side(predicted, folds, of_one), strict=True):
            share = len(table) // max(1, len(members))
            tables |= {job.name: table[share * i : share * (i + 1)] for i, (job, _) in enumerate(members)}
    return pd.concat(
        [table for fold in rows_by_fold for job in jobs if job.fold == fold for table in tables[job.name]],
        ignore_index=True,
    )


def _by_threads(bundles: Sequence[tuple[Job, Bundle]]) -> list[list[tuple[Job, Bundle]]]:
    """Jobs in groups that compute with one number of threads."""
    groups: dict[int, list[tuple[Job, Bundle]]] = {}
    for each in bundles:
        groups.setdefault(each[1].compute.threads, []).append(each)
    return list(groups.values())


class _Counter:
    """Tells how many are done, whichever thread has done them."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._done, self._lock = tell, 0, threading.Lock()

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self._done += 1
            self._tell(self._done)


def at_once(bundles: Sequence[Bundle], count: int) -> int:
    """How many of so many folds or networks predict side by side: as many as there are cores for their threads.

    One after another on a GPU. All have the same number of threads.
    """
    if any(bundle.compute.device != "cpu" for bundle in bundles):
        return 1
    threads = max(bundle.compute.threads for bundle in bundles) or cpu_count()
    return max(1, min(count, MOST_AT_ONCE, cpu_count() // threads))


def _side_by_side(
    work: Callable[[_Item], _Result], items: Sequence[_Item], bundles: Sequence[tuple[Job, Bundle]]
) -> list[_Result]:
    """The results of all items in their order; each has the threads of its networks, so that its bits stay."""
    of_items = [bundle for _, bundle in bundles]
    if (several := at_once(of_items, len(items))) == 1:
        return [work(item) for item in items]
    # the limit of a library is one of the process: it must be the same before, during and after each item
    with on_threads(of_items[0].compute.threads), ThreadPoolExecutor(several) as pool:
        return list(pool.map(work, items))


def seconds_a_panel(jobs: Sequence[Job], prepared: PreparedCohort, rows: Sequence[int], folds: int) -> float | None:
    """The seconds in which the jobs of one fold, which read the features of panels, predict a further panel.

    So many folds are busy side by side, as later. None with fewer than two `rows`.
    """
    bundles = [(job, Bundle.open(job.folder.path)) for job in jobs]
    if len(rows) < 2 or not bundles:
        return None

    def seconds(panels: Sequence[int]) -> float:
        began = time.monotonic()
        _altered_in_fold(panels, bundles, prepared, (UNALTERED,), lambda: None)
        return time.monotonic() - began

    # the first time libraries and weights are read
    _, first, several = (
        fmean(_side_by_side(seconds, [panels] * folds, bundles)) for panels in (rows[:1], rows[:1], rows)
    )
    return max(0.0, several - first) / (len(rows) - 1)


def _altered_in_fold(
    rows: Sequence[int],
    bundles: Sequence[tuple[Job, Bundle]],
    prepared: PreparedCohort,
    names: Sequence[str],
    predicted: Callable[[], None],
) -> list[pd.DataFrame]:
    """The rows of networks of one fold, by network, then alteration; features are shared."""
    study, panels = prepared.study, prepared.cohort.panels
    stage = "validation" if study.split.holdout else "oof"
    inputs = {name: modality_of(study).altered(prepared, rows, name) for name in names}
    parts, features, tables = SharedParts(), dict[str, JointFeatures](), []
    loaded = {job.model: Predictor.from_bundle(bundle, parts) for job, bundle in bundles if bundle.shares_features}
    for job, bundle in bundles:
        predictor = loaded.get(job.model) or Predictor.from_bundle(bundle)
        learner_panels = study.of_learner(job.model).panels
        for name, dataset in inputs.items():
            data: Any = dataset(bundle.fitted).arranged(learner_panels)
            with on_threads(bundle.compute.threads):
                if job.model in loaded:
                    alike = json.dumps([name, learner_panels.model_dump(mode="json"), bundle.fitted], sort_keys=True)
                    if alike not in features:
                        features[alike] = JointFeatures([each.network for each in loaded.values()], data)
                    data = features[alike].of(predictor.network)
                values = predictor.predict(data)
            table = prediction_rows(panels.iloc[rows], study, values, stage=stage, model=job.model, fold=job.fold)
            tables.append(table.drop(columns="distance").assign(alteration=name))
        predicted()
    return tables
