"""The planned recipe beside fastai and scikit-learn, on the folds of finished runs of benchmarks/auto.py.

    python benchmarks/peers.py [NAME[:TARGET] ...] [--runs FOLDER] [--without-fastai] [--autogluon PYTHON] [--output F]
    python benchmarks/peers.py --runs FOLDER --record
    python benchmarks/peers.py --page --output F

fastai is used as its users do: `vision_learner`, `fine_tune(5)` (users.py). scikit-learn: `StandardScaler` and a linear
model on the pooled features of the encoders of the planned run, side by side. Classes: `LogisticRegression`, whose C
has the highest log-likelihood in inner folds; numbers: `Ridge`, whose alpha has the smallest absolute error. Inner
folds keep the images of a subject together. Peers start from the same weights and train on the same subjects as the
run. Predictions are kept in `--out`/NAME/TARGET as CSV and not made again. Figures are printed, never asserted.

fastai and AutoGluon are refused where they had less than `FAIR` of a core, because their limit of time would be unfair.
Several packs at a time need a core each: `taskset -c 1 python benchmarks/peers.py skin`. The rows of each pack are kept
in benchmarks/auto/peers with the version and commit of their code, and the page has all packs that have rows.

Without `--runs`, the planned predictions are those of docs/results/auto.md, from auto_predictions.npz: numbers, or
classes with their probabilities, in the order of the names of cases and images. Cohort and folds are made again, and
must be those of the runs. `--record` writes that file, for the runs that are there, as `make auto` does.

A further peer is a function that returns the rows of the held-out folds with predictions, in the columns of
`out_of_fold`, and an entry of `peers_of`.

The head of the page follows.

# Planned recipes beside fastai, AutoGluon and scikit-learn

The images, folds and subjects are those of [the planned runs](auto.md). Their number of encoders is in brackets behind
scikit-learn: `StandardScaler` and `LogisticRegression` (numbers: `Ridge`) on the pooled features of these encoders,
with the penalty chosen in four inner folds by subject. fastai and AutoGluon train the best of these encoders, with the
same weights. Which one is the best was chosen on the judged cases, by the figure of the scikit-learn peer on its
features alone, to the advantage of the peers; SqueezeNet, which AutoGluon cannot train, was left out. fastai:
`vision_learner`, `Resize(224)`, `aug_transforms()`, and `fine_tune` with as many epochs as fit into the time of the
planned run, from 1 to 30 (in brackets), or one on a random share of the images where no whole one fits; an epoch was
measured on the first fold. `aug_transforms()` mirrors images, so that fastai cannot learn a side. AutoGluon:
`MultiModalPredictor` with its defaults, at 224 pixels, and the time of the planned run as its limit. For grades all
predict the most probable one. On a test set, each peer is trained once on all other subjects. The slices of scans are
images with the label of their case, and predictions of a case are averaged. On one core, this time is enough for one
epoch or less on most packs: the figures of fastai and AutoGluon are those of this time, not those that they reach on a
GPU.

Out of fold, the weights of the planned mean are fitted on predictions for the other folds by networks that had this
fold's subjects among their training cases, which is slightly to its advantage; on a test set they are not.

In brackets 95 % intervals by subject; the persons of oral, idrid and skin are not known, and each image counts as one.
Differences are paired: the same cases and resamples of subjects. Times are minutes and seconds of one core, for
training and prediction, summed over folds: each network of the planned run was trained by one thread, and each peer
had one core.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import auto
import numpy as np
import pandas as pd
import users
from pages import head_of, page_parser, publish

import casewise
from casewise.analysis.run import Run
from casewise.files import checksum, json_hash, write_atomic, write_json
from casewise.metrics.registry import metric_of
from casewise.study.loading import read_study
from casewise.study.schema import Study

WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights"
RECORDED = Path(__file__).with_name("auto_predictions.npz")
RECORDS = auto.RECORDS / "peers"
AUTOGLUON = Path(__file__).with_name("autogluon_fold.py")
# The runs by default, with a target; the primary outcome where none is stated.
PACKS = {"severity": "extent", **dict.fromkeys(["skin", "oral", "hpylori", "idrid", "covid-cxr"], "")}
PACKS |= dict.fromkeys(["tumour", "laterality", "grade"], "")
# Epochs of fine_tune after the one of the head alone: as many as fit into the time of the planned run.
FEWEST_EPOCHS, MOST_EPOCHS = 1, 30
# Images, about, on which an epoch is measured.
TRIED_IMAGES = 600
OF_TORCHVISION = ("mobilenet_v2", "squeezenet1_1")
# timm, of which AutoGluon takes its networks, does not have it.
NOT_TRAINED = ("squeezenet1_1",)
# Columns that are text.
TEXT = ("path", "subject", "case", "image")
# The least share of its core that a peer must have had; reading images leaves a core idle at times.
FAIR = 0.8
INNER_FOLDS = 4
TEST = auto.TEST
# 1,280 standardised features: from nearly constant predictions to nearly perfect separation of a few hundred images.
INVERSE_STRENGTHS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
STRENGTHS = [1e1, 1e2, 1e3, 1e4, 1e5]
MAX_ITER, TOLERANCE = 200, 1e-3
# What the predictions of the linear peer depend on.
LINEAR = {"grid": [INNER_FOLDS, INVERSE_STRENGTHS, STRENGTHS], "limits": [users.SIDE, MAX_ITER, TOLERANCE]}
# Predictions, and the seconds that they took.
Predicted: TypeAlias = tuple[pd.DataFrame, float]
FLOOR = 1e-6  # the least probability that is counted
COLUMNS = ["pack", "target", "metric", "planned", "peer", "its figure", "planned − peer", "the planned run is"]
COLUMNS += ["time, planned", "time, peer", "version and commit"]


@dataclass(frozen=True)
class Planned:
    """A planned run, as far as peers are compared with it.

    Attributes:
        table: see `auto.cases_of`.
        reference: the rows of the predictions table of its headline, at `stage`.
        seconds: of training, summed over learners and folds.
        encoders: the networks whose features its baselines read.
    """

    study: Study
    table: pd.DataFrame
    reference: pd.DataFrame
    stage: str
    seconds: float
    encoders: Sequence[str] = ("mobilenet_v2",)

    @property
    def target(self) -> str:
        """The target of the reference."""
        return str(self.reference["target"].iloc[0])


def planned_run(folder: Path, target: str) -> Planned:
    """A finished run."""
    from casewise.analysis.plots import choose

    run = Run.open(folder)
    chosen = choose(run, target=target or None)
    folds = auto.folds_of(run)
    table = auto.cases_of(run.study, run.files.cohort.read(), folds, chosen.target)
    return Planned(run.study, table, chosen.rows, chosen.stage, auto.training_seconds(run), run.study.encoders)


def record(runs: Path) -> None:
    """Write the predictions of all finished runs to `RECORDED`; those of other packs stay."""
    arrays: dict[str, Any] = dict(np.load(RECORDED)) if RECORDED.is_file() else {}
    facts = json.loads(str(arrays.pop("facts", "{}")))
    for name, target in PACKS.items():
        if not (runs / name / "metrics.json").is_file():
            continue
        planned = planned_run(runs / name, target)
        rows = planned.reference.assign(key=planned.reference["case"] + "|" + planned.reference["image"])
        rows = rows.sort_values("key")
        names = planned.study.classes_of(planned.target)
        arrays[f"{name}_y"] = rows["y_pred"].to_numpy("float32")
        if names:
            arrays[f"{name}_p"] = rows[[f"p{n}" for n in range(len(names))]].to_numpy("float32")
        facts[name] = {
            "target": planned.target,
            "stage": planned.stage,
            "learner": rows["model"].iloc[0],
            "seconds": planned.seconds,
            "encoders": list(planned.encoders),
            "keys": json_hash("\n".join(rows["key"])),
            "split": auto.split_of(planned.table),
        }
    np.savez_compressed(RECORDED, facts=np.array(json.dumps(facts)), **arrays)


def planned_before(name: str, options: argparse.Namespace) -> Planned:
    """A run of docs/results/auto.md, from its recorded predictions; its cohort and folds are made again.

    Raises:
        SystemExit: the folds or cases are not those of the run.
    """
    from casewise.console import Silent
    from casewise.modalities.registry import modality_of
    from casewise.pipeline.read import read
    from casewise.predictions.table import COLUMNS as PREDICTED
    from casewise.splits import grouped

    recorded = np.load(RECORDED)
    facts = json.loads(str(recorded["facts"]))[name]
    path = auto.ROOT / "studies" / "auto" / f"{name}.yaml"
    # the table of a folder of images is made again
    places = argparse.Namespace(data=options.data, weights=options.weights, runs=options.out)
    study = read_study(path, **auto.changes_of(path, places))
    cohort = read(study, None, Silent())
    splits = grouped.split(modality_of(study).whole(study, cohort), study)
    target = facts["target"]
    table = auto.cases_of(study, cohort.images, {name: side + 1 for name, side in splits.side.items()}, target)
    if auto.split_of(table) != facts["split"]:
        raise SystemExit(
            f"{name}: its images, labels or folds are not those of docs/results/auto.md. Run auto.py again."
        )
    judged = table[table["fold"].isin(held_out(table, facts["stage"]))]
    judged = judged if study.level_of(target) == "image" else judged.assign(image="").drop_duplicates("case")
    keys = judged["case"] + "|" + judged["image"]
    judged = judged.iloc[np.argsort(keys.tolist())]
    if json_hash("\n".join(sorted(keys))) != facts["keys"]:
        raise SystemExit(f"{name}: its cases are not those of docs/results/auto.md. Run auto.py again.")
    names = study.classes_of(target)
    truth = judged["label"].map(names.index) if names else judged["label"]
    rows = judged[["case", "image", "subject"]].assign(target=target, stage=facts["stage"], model=facts["learner"])
    rows = rows.assign(
        y_true=truth.astype(float), y_pred=recorded[f"{name}_y"].astype(float), kind=study.kind_of(target)
    )
    # out of fold, an AUROC is of pairs within a fold
    fold = judged["fold"].astype("Int64").where(judged["fold"] != TEST) - 1
    rows = rows.assign(visit="1", day=np.nan, region="", outer_fold=fold, inner_fold=pd.NA)[list(PREDICTED)]
    if names:
        shares = recorded[f"{name}_p"].astype(float)
        rows = rows.assign(**{f"p{n}": shares[:, n] for n in range(len(names))})
    # pages before several encoders were planned do not name them
    encoders = facts.get("encoders", ["mobilenet_v2"])
    return Planned(study, table, rows.reset_index(drop=True), facts["stage"], facts["seconds"], encoders)


def held_out(table: pd.DataFrame, stage: str) -> list[int]:
    """The folds that a peer predicts."""
    return [TEST] if stage == "test" else sorted(set(table["fold"]) - {TEST})


def read_or_make(file: Path, settings: dict[str, Any], make: Callable[[], Predicted]) -> Predicted:
    """The predictions in `file` (CSV) and the seconds they took; made and written if there are none of these settings.

    The settings and seconds are in a JSON file beside it.
    """
    facts = file.with_suffix(".json")
    record = json.loads(facts.read_text()) if facts.is_file() and file.is_file() else {}
    if record.get("settings") != settings:
        predictions, seconds = make()
        write_atomic(file, predictions.to_csv(index=False))
        record = {"settings": settings, "seconds": seconds}
        write_json(facts, record)
    # subjects and labels are text even if they look like numbers
    return pd.read_csv(file, dtype=dict.fromkeys(TEXT, str)), record["seconds"]


def encoder(name: str, weights: Path) -> tuple[Any, tuple[Any, Any]]:
    """A frozen network without its last layer, as users of torchvision and timm make it, and its mean and deviation."""
    from torch import nn

    file = weights / f"{name}.safetensors"
    if name in OF_TORCHVISION:
        from safetensors.torch import load_file
        from torchvision import models

        network = models.get_model(name, weights=None)
        network.load_state_dict(load_file(file))
        return nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), users.IMAGENET
    import timm

    options = {"pretrained_cfg_overlay": {"file": str(file)}, **users.side_of(name)}
    network = timm.create_model(name, pretrained=True, num_classes=0, **options)
    config = timm.data.resolve_model_data_config(network)
    return network.eval(), (config["mean"], config["std"])


def features(paths: Sequence[str], encoders: Sequence[str], weights: Path) -> np.ndarray:
    """The pooled features (N, W) `float32` of frozen networks, side by side; paths have no leading slash."""
    import torch
    from PIL import Image
    from torchvision import transforms

    sized = transforms.Compose([transforms.Resize((users.SIDE, users.SIDE)), transforms.ToTensor()])
    networks = [encoder(name, weights) for name in encoders]
    values = []
    with torch.inference_mode():
        for start in range(0, len(paths), users.BATCH):
            some = paths[start : start + users.BATCH]
            images = torch.stack([sized(Image.open(f"/{path}").convert("RGB")) for path in some])
            blocks = [network(transforms.Normalize(*normal)(images)) for network, normal in networks]
            values.append(torch.cat(blocks, dim=1).numpy())
    return np.concatenate(values)


def log_likelihood(model: Any, values: np.ndarray, labels: np.ndarray) -> float:
    """The mean log-likelihood of labels; that of a class without training images is the logarithm of `FLOOR`."""
    probabilities = model.predict_proba(values)
    index = np.searchsorted(model.classes_, labels).clip(max=len(model.classes_) - 1)
    chosen = np.where(model.classes_[index] == labels, probabilities[np.arange(len(labels)), index], 0.0)
    return float(np.log(np.maximum(chosen, FLOOR)).mean())


def fitted(values: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, numbers: bool) -> Any:
    """The pipeline with the penalty that is best in inner folds by subject, fitted to all rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model, grid, scoring, folds = Ridge(), {"model__alpha": STRENGTHS}, "neg_mean_absolute_error", GroupKFold
    if not numbers:
        model, grid = LogisticRegression(max_iter=MAX_ITER, tol=TOLERANCE), {"model__C": INVERSE_STRENGTHS}
        scoring, folds = log_likelihood, StratifiedGroupKFold
    pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])
    search = GridSearchCV(pipeline, grid, scoring=scoring, cv=folds(INNER_FOLDS))
    with threadpool_limits(1), warnings.catch_warnings():
        # weak penalties need more iterations than they are given; they are judged as they are
        warnings.simplefilter("ignore", ConvergenceWarning)
        # a grade of few images is missing in some inner folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return search.fit(values, labels, groups=subjects).best_estimator_


def out_of_fold(table: pd.DataFrame, values: np.ndarray, folds: Sequence[int], *, numbers: bool) -> pd.DataFrame:
    """The rows of `folds` with predictions of models of the other folds, in the columns of every peer.

    `table` has the columns subject, fold (`TEST`: the test set, on which no model is trained) and label; row i has the
    features `values[i]`. The prediction is in column `prediction`, or in `p_CLASS` of each class.
    """
    tables = []
    labels, subjects = table["label"].to_numpy(), table["subject"].to_numpy()
    for fold in folds:
        judged = (table["fold"] == fold).to_numpy()
        train = ~judged & (table["fold"] != TEST).to_numpy()
        model = fitted(values[train], labels[train], subjects[train], numbers=numbers)
        if numbers:
            columns = {"prediction": model.predict(values[judged])}
        else:
            probabilities = model.predict_proba(values[judged])
            columns = {f"p_{name}": probabilities[:, n] for n, name in enumerate(model.classes_)}
        tables.append(table[judged].reset_index(drop=True).join(pd.DataFrame(columns)))
    every = pd.concat(tables, ignore_index=True)
    return every if numbers else every.fillna({f"p_{name}": 0.0 for name in set(labels)})


def of_scikit_learn(
    table: pd.DataFrame, folds: Sequence[int], encoders: Sequence[str], weights: Path, *, numbers: bool
) -> Predicted:
    """Predictions of the held-out images of `folds`, and the seconds they took."""
    start = time.perf_counter()
    values = features(table["path"].tolist(), encoders, weights)
    return out_of_fold(table, values, folds, numbers=numbers), time.perf_counter() - start


def fair(result: dict[str, Any], peer: str) -> float:
    """The seconds that a peer's process took.

    Raises:
        SystemExit: it had less than `FAIR` of a core.
    """
    if result["cores"] < FAIR:
        raise SystemExit(
            f"{peer} had {result['cores']:.2f} of a core: others ran on it, so that its limit of time was unfair. "
            "Nothing was kept. End other programs, or give each a core of its own with `taskset -c CORE`."
        )
    return float(result["seconds"])


def of_fastai(
    table: pd.DataFrame,
    folds: Sequence[int],
    weights: Path,
    *,
    numbers: bool,
    seconds: float,
    folder: Path,
) -> Predicted:
    """The same of fastai's networks, one for each fold, each trained in a process of its own, in so many `seconds`.

    The number of epochs is in the column `epochs`; where not even one fits, the share of the images that are trained on
    is in `share`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, predictions, tables, total = folder / "images.csv", folder / "fold.csv", [], 0.0
    # out of fold, subjects of the test set are not used
    (table if TEST in folds else table[table["fold"] != TEST]).to_csv(images, index=False)
    task = {"table": str(images), "data": "/", "network": weights.stem, "weights": str(weights), "numbers": numbers}
    task["predictions"] = str(predictions)
    share = min(1.0, TRIED_IMAGES / len(table))
    tried = fair(users.measured("fastai fold", **task, fold=folds[0], epochs=1, share=share), "fastai") / share
    # one epoch of fine_tune follows one of the head alone
    epochs = min(max(int(2 * seconds / len(folds) / tried) - 1, FEWEST_EPOCHS), MOST_EPOCHS)
    share = min(1.0, seconds / len(folds) / tried)
    for fold in folds:
        total += fair(users.measured("fastai fold", **task, fold=fold, epochs=epochs, share=share), "fastai")
        tables.append(pd.read_csv(predictions, dtype=dict.fromkeys(TEXT, str), keep_default_na=False))
    return pd.concat(tables, ignore_index=True).assign(epochs=epochs, share=share), total


def of_autogluon(
    table: pd.DataFrame,
    folds: Sequence[int],
    weights: Path,
    *,
    numbers: bool,
    seconds: float,
    folder: Path,
    python: str,
) -> Predicted:
    """The same of AutoGluon, with the interpreter of its own environment."""
    folder.mkdir(parents=True, exist_ok=True)
    images, tables, total = folder / "images.csv", [], 0.0
    table.to_csv(images, index=False)
    task = {"table": str(images), "network": weights.stem, "weights": str(weights), "numbers": numbers}
    task |= {"seconds": seconds / len(folds), "side": users.side_of(weights.stem)}
    task |= {"folder": str(folder / "autogluon"), "predictions": str(folder / "fold.csv")}
    for fold in folds:
        total += fair(users.in_own_process(str(AUTOGLUON), task | {"fold": fold}, python), "AutoGluon")
        tables.append(pd.read_csv(task["predictions"], dtype=dict.fromkeys(TEXT, str), keep_default_na=False))
    return pd.concat(tables, ignore_index=True), total


def as_rows(predictions: pd.DataFrame, table: pd.DataFrame, reference: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A peer's predictions as rows of `predictions.parquet`, beside those of the headline (`reference`).

    The images of a case are averaged where the target has one value a case.
    """
    target = str(reference["target"].iloc[0])
    names = study.classes_of(target)
    columns = [f"p_{name}" for name in names] if names else ["prediction"]
    # a class without training images has no column
    predictions = predictions.set_index("path").reindex(columns=columns)
    if names:
        predictions = predictions.fillna(0.0)
    elif predictions["prediction"].isna().any():
        missing = predictions["prediction"].isna().sum()
        raise SystemExit(f"{target}: the peer predicted no number for {missing} images.")
    predictions = table[["path", "case", "image"]].join(predictions, on="path", how="inner")
    keys = ["case", "image"] if (reference["image"] != "").all() else ["case"]
    means = predictions.groupby(keys)[columns].mean().reset_index()
    rows = reference.drop(columns="distance", errors="ignore").merge(means, on=keys, validate="one_to_one")
    if len(rows) != len(reference):
        raise SystemExit(f"{target}: {len(reference) - len(rows)} cases were not predicted by the peer.")
    if not names:
        low, high = study.range_of(target)
        return rows.assign(y_pred=rows["prediction"].clip(low, high)).drop(columns=columns)
    values = rows[columns].to_numpy(dtype=float)
    shares = {f"p{n}": values[:, n] / values.sum(axis=1) for n in range(len(names))}
    return rows.assign(y_pred=values.argmax(axis=1).astype(float), **shares).drop(columns=columns)


def compared(rows: dict[str, pd.DataFrame], study: Study, target: str) -> dict[str, Any]:
    """The figures of every learner and its difference from the planned run, pair by pair: (figure, difference)."""
    metrics = auto.SHOWN[study.kind_of(target)]
    figures: dict[str, Any] = {}
    for name, peer in rows.items():
        pair = pd.concat([rows["planned"].assign(model="planned"), peer.assign(model=name)], ignore_index=True)
        pair = pair if name != "planned" else peer.assign(model="planned")
        judged = auto.judged(study, pair, target)
        gaps = judged.compare()
        for metric in metrics:
            gap = auto.difference(gaps, metric, "planned", name) if name != "planned" else None
            figures[name, metric] = (asdict(judged.metrics[name][metric]), gap)
    return figures


def peers_of(run: Planned, folder: Path, options: argparse.Namespace) -> dict[str, Predicted]:
    """The predictions and seconds of every requested peer, kept in `folder`."""
    table, numbers, planned = run.table, not run.study.classes_of(run.target), run.seconds
    folds = held_out(table, run.stage)
    peers: dict[str, Predicted] = {}
    # kept predictions name their images by path: they are made again where images lie elsewhere
    settings = {"split": json_hash(table.to_csv(index=False)), "folds": folds, "numbers": numbers}

    def linear(encoders: Sequence[str], file: str) -> Predicted:
        make = partial(of_scikit_learn, table, folds, encoders, options.weights, numbers=numbers)
        origins = {name: checksum(options.weights / f"{name}.safetensors") for name in encoders}
        return read_or_make(folder / f"{file}.csv", settings | LINEAR | {"weights": origins}, make)

    if options.scikit_learn:
        peers[f"scikit-learn ({len(run.encoders)})"] = linear(run.encoders, "scikit-learn")
    if not (options.fastai or options.autogluon):
        return peers
    trained = [name for name in run.encoders if name not in NOT_TRAINED]
    alone = {name: as_rows(linear([name], name)[0], table, run.reference, run.study) for name in trained}
    network = best_encoder(alone, run)
    weights = options.weights / f"{network}.safetensors"
    settings |= {"weights": checksum(weights)}
    if options.fastai:
        make = partial(of_fastai, table, folds, weights, numbers=numbers, seconds=planned, folder=folder)
        made, seconds = read_or_make(folder / "fastai.csv", settings | {"most": MOST_EPOCHS}, make)
        share = f" of {made['share'].max():.0%}" if made["share"].max() < 1 else ""
        peers[f"fastai ({network}; {made['epochs'].max()}{share})"] = made, seconds
    if options.autogluon:
        of_time = partial(of_autogluon, seconds=planned, folder=folder, python=options.autogluon)
        make = partial(of_time, table, folds, weights, numbers=numbers)
        peers[f"AutoGluon ({network})"] = read_or_make(folder / "autogluon.csv", settings, make)
    return peers


def best_encoder(alone: dict[str, pd.DataFrame], run: Planned) -> str:
    """The encoder with the best figure of those whose features alone made these predictions."""
    kind = run.study.kind_of(run.target)
    metric = auto.SHOWN[kind][0]
    figures = {
        name: auto.judged(run.study, rows.assign(model=name), run.target).metrics[name][metric].value
        for name, rows in alone.items()
    }
    return (max if metric_of(metric).larger_is_better else min)(figures, key=lambda name: figures[name])


def rows_of_pack(name: str, target: str, options: argparse.Namespace) -> list[list[str]]:
    """The lines of the page on one finished run: a line for each metric and peer."""
    run = planned_run(options.runs / name, target) if options.runs else planned_before(name, options)
    folder = options.out / name / run.target
    peers = peers_of(run, folder, options)
    rows = {peer: as_rows(predictions, run.table, run.reference, run.study) for peer, (predictions, _) in peers.items()}
    figures = compared({"planned": run.reference, **rows}, run.study, run.target)
    lines = []
    for (peer, metric), (figure, gap) in figures.items():
        if peer != "planned":
            best, own = (auto.with_interval(each, metric) for each in (figures["planned", metric][0], figure))
            between = [auto.with_interval(gap, metric, key="difference", sign="+"), auto.worse(gap, metric)]
            times = [auto.clock(seconds) for seconds in (run.seconds, peers[peer][1])]
            lines.append([name, run.target, metric_of(metric).title, best, peer, own, *between, *times])
    return lines


def main() -> None:
    """Train the peers, print and write the page."""
    parser = page_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"the runs, as NAME or NAME:TARGET; by default {', '.join(PACKS)}", metavar="NAME"
    )
    parser.add_argument("--runs", type=Path, help="a folder of finished runs, in place of the recorded predictions")
    parser.add_argument("--data", type=Path, help="the folder of the packs, if not the one that the studies state")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--without-fastai", dest="fastai", action="store_false", help="leave fastai out")
    parser.add_argument("--without-scikit-learn", dest="scikit_learn", action="store_false", help="leave it out")
    parser.add_argument("--autogluon", metavar="PYTHON", help="an interpreter with autogluon.multimodal")
    parser.add_argument("--out", type=Path, default=Path("runs/auto-peers"), help="where predictions are kept")
    parser.add_argument("--record", action="store_true", help="write the predictions of `--runs` for later, no page")
    parser.add_argument("--page", action="store_true", help="train nothing: the page of the packs that have rows")
    options = parser.parse_args()
    if options.record:
        record(options.runs or Path("runs/auto"))
        return
    users.ready(cores=1)
    options.fastai = options.fastai and users.has_fastai()
    for spec in [] if options.page else options.names or PACKS:
        name, _, target = spec.partition(":")
        if options.runs and not (options.runs / name / "metrics.json").is_file():
            print(f"{name} is not a finished run in {options.runs}.")
            continue
        rows = rows_of_pack(name, target or PACKS.get(name, ""), options)
        code = f"{casewise.__version__}, {auto.commit()}"
        write_json(RECORDS / f"{name}.json", [[*row, code] for row in rows])
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))}
    rows = [row for rows in records.values() for row in rows]
    page = head_of(__doc__) + "\n"
    for peer in ("scikit-learn", "fastai", "AutoGluon"):
        page += f"The planned run beside {peer}: {auto.verdicts([r[7] for r in rows if r[4].startswith(peer)])}.\n\n"
    page += auto.table(COLUMNS, iter(rows))
    if left := [name for name in PACKS if name not in records]:
        page += f"\nNot compared: {', '.join(left)}.\n"
    publish(page, options.output)


if __name__ == "__main__":
    main()
