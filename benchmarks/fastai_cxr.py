"""casewise beside fastai on the same chest radiographs: same network, first weights, split, image size and batch.

    python benchmarks/fastai_cxr.py [--folds 5] [--run runs/covid-cxr] [--save-predictions FILE]
    python benchmarks/fastai_cxr.py --speed-only

The fastai side is what its user would write: `ImageDataLoaders` of a table with a column of held-out rows,
`Resize(224)`, `aug_transforms`, ImageNet's `Normalize`, `vision_learner` from the given weights, `fine_tune`, and the
last epoch's network. fastai's vertical flip (`--flip-vert`, as in the published study) turns by quarters as well;
`--no-flip-vert` is its own default. Folds are by subject; with `--run` they are those of a finished casewise run, whose
predictions then stand beside. A fold that is done is kept in `--out` and not trained again.

`--speed-only` trains all parameters on a few hundred images, each way in a process of its own. Imports and fastai's
first steps, during which its workers get ahead, are not timed. fastai comes with `pip install 'casewise[bench]'`.
Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

BESIDE = Path(__file__).resolve().parents[2] / "shared"
CORES, WORKERS, BATCH, SIDE, WARM, SEED = 2, 2, 32, 224, 2, 0
# What is aimed at in speed: casewise's images a second over fastai's.
NETWORKS = {"mobilenet_v2": 3.0, "resnet34": 2.5}
CLASSES = ("covid", "no_finding", "pneumonia")
# As many passes over the data as fine_tune makes (its epochs and one of the head), every network trained to the end.
RECIPE = {
    "optimizer": "adamw",
    "lr": 3e-4,
    "weight_decay": 0.01,
    "schedule": "one-cycle",
    "batch": BATCH,
    "batch_norm": "eval",
    "head": "probe",
    "head_lr": 3,
    "dropout": 0.2,
    "stop": {"on": "none"},
}
CONFOUNDED = "Class nearly is source in these images; two programs are compared, and no figure is about the disease."
PROBABILITIES = [f"p_{name}" for name in CLASSES]


def read_table(data: Path) -> pd.DataFrame:
    """The pack's rows that are nobody's duplicate: path (from the pack's folder), subject, label."""
    import pandas as pd

    rows = pd.read_csv(data / "cases.csv", dtype=str, keep_default_na=False)
    rows = rows[(rows["duplicate_of"] == "") & rows["label"].isin(CLASSES)]
    return rows[["path", "subject", "label"]].reset_index(drop=True)


def phantom_table(folder: Path) -> pd.DataFrame:
    """Synthetic photographs for the speed alone, where the pack is missing; their classes are parts of the body."""
    import pandas as pd

    from casewise.phantoms.psoriasis import make_psoriasis

    rows = pd.read_csv(make_psoriasis(folder, subjects=8, visits=1, size=(320, 320), seed=1), dtype=str)
    named = dict(zip(sorted(set(rows["region"])), CLASSES, strict=True))
    return rows[["path", "subject"]].assign(label=rows["region"].map(named))


def some(table: pd.DataFrame, images: int | None) -> pd.DataFrame:
    """About so many images, of whole subjects in random order."""
    order = table["subject"].drop_duplicates().sample(frac=1, random_state=SEED)
    counts = table.groupby("subject").size().loc[order].cumsum()
    kept = counts.index[counts <= images] if images else counts.index
    return table[table["subject"].isin(set(kept))].reset_index(drop=True)


def with_folds(table: pd.DataFrame, run: Path | None, data: Path) -> pd.DataFrame:
    """The table with the fold that each subject is held out in, from 1: as in the run, or made here."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold = [0] * len(table)
    if run:
        import pandas as pd

        kept = set(pd.read_parquet(run / "cohort.parquet", columns=["path"])["path"])
        table = table[table["path"].map(lambda path: str((data / path).resolve()) in kept)]
        sides = json.loads((run / "splits.json").read_text())["subjects"]
        strangers = sorted(set(table["subject"]) - set(sides))
        if strangers:
            raise SystemExit(f"{run} split {len(strangers)} of the subjects not at all ({', '.join(strangers[:3])}).")
        table = table.assign(fold=table["subject"].map(sides))
        return table[table["fold"] != "test"].astype({"fold": int}).reset_index(drop=True)
    parts = StratifiedGroupKFold(5, shuffle=True, random_state=SEED)
    for number, (_, held_out) in enumerate(parts.split(table, table["label"], table["subject"]), start=1):
        for row in held_out:
            fold[row] = number
    return table.assign(fold=fold)


def make_learner(rows: pd.DataFrame, data: str, network: str, weights: str | None, *, flip_vert: bool) -> Any:
    """A fastai user's learner from a table with the columns path, label and is_valid."""
    from fastai.vision import all as fastai
    from torchvision import models

    def network_of(pretrained: bool = False, **_: Any) -> Any:
        from safetensors.torch import load_file

        found = models.get_model(network, weights=None)
        if pretrained:
            found.load_state_dict(load_file(str(weights)))
        return found

    # fastai knows where to cut the ResNets; for networks that it does not know, its users say so here.
    known = fastai.model_meta.get(getattr(models, network), {"cut": -1, "split": fastai.default_split})
    fastai.model_meta[network_of] = {"cut": known["cut"], "split": known["split"]}
    loaders = fastai.ImageDataLoaders.from_df(
        rows,
        path=data,
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        item_tfms=fastai.Resize(SIDE),
        batch_tfms=[*fastai.aug_transforms(flip_vert=flip_vert), fastai.Normalize.from_stats(*fastai.imagenet_stats)],
        bs=BATCH,
        seed=SEED,
    )
    metrics = [fastai.accuracy, fastai.RocAuc()]
    return fastai.vision_learner(loaders, network_of, pretrained=bool(weights), metrics=metrics)


def train_with_fastai(task: dict[str, Any]) -> dict[str, Any]:
    """Train one fold, write the held-out predictions, and tell the seconds and the images a second."""
    import pandas as pd
    from fastai.vision.all import Callback, set_seed

    from casewise.files import write_parquet

    class Clock(Callback):
        """Seconds of each epoch's training part; tells how far the fold is."""

        def __init__(self) -> None:
            self.spent: list[float] = []

        def before_train(self) -> None:
            self.begun = time.perf_counter()

        def after_train(self) -> None:
            self.spent.append(time.perf_counter() - self.begun)
            told = f"  fold {task['fold']}, epoch {len(self.spent)}: {self.spent[-1]:.0f} s"
            print(told, file=sys.stderr, flush=True)

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    rows = table.assign(is_valid=table["fold"] == task["fold"])
    begun = time.perf_counter()
    learner = make_learner(rows, task["data"], task["network"], task["weights"], flip_vert=task["flip_vert"])
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"], cbs=clock)
        values, _ = learner.get_preds(ds_idx=1)
    spent = time.perf_counter() - begun
    told = learner.dls.valid_ds.items[["path", "subject", "fold", "label"]].reset_index(drop=True)
    names = [f"p_{name}" for name in learner.dls.vocab]
    write_parquet(Path(task["predictions"]), told.join(pd.DataFrame(values.numpy(), columns=names))[list(told) + names])
    trained = len(learner.dls.train) * BATCH
    # The first epoch trains the head alone.
    own = dict(zip(("accuracy", "auroc"), map(float, learner.recorder.values[-1][-2:]), strict=True))
    return {"seconds": spent, "rate": trained / statistics.median(clock.spent[1:]), "images": trained, "own": own}


def speed_of_fastai(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second while all parameters are trained, after the first steps."""
    import pandas as pd
    from fastai.vision.all import Callback, CancelFitException, set_seed

    steps = task["images"] // BATCH

    class Clock(Callback):
        """Takes the time between two steps and stops there."""

        def after_batch(self) -> None:
            if self.iter + 1 == WARM:
                self.begun = time.perf_counter()
            if self.iter + 1 == WARM + steps:
                self.spent = time.perf_counter() - self.begun
                raise CancelFitException

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    # Longer than what is timed, so that the workers are as busy at its end as at its beginning.
    wanted = (WARM + steps + 3 * WORKERS) * BATCH
    rows = pd.concat([table] * (wanted // len(table) + 1), ignore_index=True)[: wanted + BATCH]
    rows["is_valid"] = rows.index >= wanted
    learner = make_learner(rows, task["data"], task["network"], None, flip_vert=task["flip_vert"])
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, cbs=clock)
    return {"rate": steps * BATCH / clock.spent}


def apart(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task in a process of its own."""
    # fastai's import warns of what PyTorch means to give up.
    command = [sys.executable, "-W", "ignore::FutureWarning", __file__, "--task", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{task['way']} failed; see above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fastai_folds(table: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Train the folds that are not there yet; return the predictions and the records of all that were asked for."""
    import pandas as pd

    from casewise.files import write_json, write_parquet

    weights = options.weights / f"{options.network}.safetensors"
    settings = {
        "network": options.network,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "epochs": options.epochs,
        "flip_vert": options.flip_vert,
        "split": hashlib.sha256(table.to_csv(index=False).encode()).hexdigest(),
        "batch": BATCH,
        "side": SIDE,
        "seed": SEED,
    }
    folder: Path = options.out
    records, tables = [], []
    for fold in range(1, options.folds + 1):
        facts, predictions = folder / f"fold-{fold}.json", folder / f"fold-{fold}.parquet"
        if facts.is_file():
            record = json.loads(facts.read_text())
            other = [name for name, value in settings.items() if record["settings"].get(name) != value]
            if other:
                raise SystemExit(f"{facts} was made with another {other[0]}. Give another folder with --out.")
        else:
            write_parquet(folder / "table.parquet", table)
            task = settings | {"way": "fastai", "fold": fold, "weights": str(weights), "data": str(options.data)}
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            told = apart(task | {"table": str(folder / "table.parquet"), "predictions": str(predictions)})
            record = {"fold": fold, **told, "load": load, "settings": settings}
            write_json(facts, record)
        records.append(record)
        tables.append(pd.read_parquet(predictions))
    return pd.concat(tables, ignore_index=True), records


def figures(table: pd.DataFrame, counts: np.ndarray | None = None) -> tuple[float, float]:
    """Accuracy and macro one-vs-rest AUROC (NaN where a class is missing), each image counted so many times."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    truth = table["label"].map({name: number for number, name in enumerate(CLASSES)}).to_numpy()
    values = table[PROBABILITIES].to_numpy(dtype=float)
    share = float(np.average(values.argmax(axis=1) == truth, weights=counts))
    if len(set(truth if counts is None else truth[counts > 0])) < len(CLASSES):
        return share, float("nan")
    areas = [roc_auc_score(truth == k, values[:, k], sample_weight=counts) for k in range(len(CLASSES))]
    return share, float(np.mean(areas))


def intervals(ours: pd.DataFrame, theirs: pd.DataFrame, resamples: int = 1000) -> list[tuple[float, float, float]]:
    """Differences of accuracy and AUROC, ours minus theirs, with 95 % intervals by resampling subjects."""
    import numpy as np

    ours = theirs[["path"]].merge(ours, on="path", validate="one_to_one")
    names, member = np.unique(theirs["subject"].to_numpy(dtype=str), return_inverse=True)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)[:, member]
    point = np.subtract(figures(ours), figures(theirs))
    found = np.array([np.subtract(figures(ours, counts), figures(theirs, counts)) for counts in drawn.astype(float)])
    low, high = np.nanpercentile(found, [2.5, 97.5], axis=0)
    return [(float(a), float(b), float(c)) for a, b, c in zip(point, low, high, strict=True)]


def compare_figures(options: argparse.Namespace) -> None:
    """Train the folds both ways and print accuracy, AUROC and speed side by side."""
    from casewise.files import write_parquet

    table = with_folds(some(read_table(options.data), options.images), options.run, options.data)
    theirs, records = fastai_folds(table, options)
    if options.save_predictions:
        write_parquet(options.save_predictions, theirs[["path", "subject", "fold", "label", *PROBABILITIES]])
    rate = statistics.median(record["rate"] for record in records)
    spent = statistics.mean(record["seconds"] for record in records)
    print(
        f"{options.network}, {len(table):,} images of {table['subject'].nunique()} subjects, {SIDE} px, batches of "
        f"{BATCH}, fine_tune({options.epochs}), flip_vert={options.flip_vert}; {options.folds} of 5 folds, "
        f"{len(theirs):,} images held out"
    )
    print(f"  {CONFOUNDED}")
    print(f"  {'':<24}{'accuracy':>9}{'AUROC':>8}{'images/s':>10}{'s/fold':>8}")

    def line(name: str, rows: pd.DataFrame, rate: float, seconds: float) -> None:
        share, area = figures(rows)
        print(f"  {name:<24}{share:>9.3f}{area:>8.3f}{rate:>10.1f}{seconds:>8.0f}")

    for record in records:
        name = f"fastai, fold {record['fold']}"
        line(name, theirs[theirs["fold"] == record["fold"]], record["rate"], record["seconds"])
    line("fastai", theirs, rate, spent)
    ours, told = casewise_folds(table, options)
    ours = ours.merge(theirs[["path", "label"]], on="path", validate="one_to_one")
    if len(ours) < len(theirs):
        raise SystemExit(f"casewise has no prediction of {len(theirs) - len(ours)} images that fastai predicted.")
    line("casewise", ours, told["rate"], told["seconds"])
    for name, (point, low, high) in zip(("accuracy", "AUROC"), intervals(ours, theirs), strict=True):
        print(f"  casewise minus fastai, {name}: {point:+.3f} [{low:+.3f}, {high:+.3f}], by subject")
    gain, cost = told["rate"] / rate, told["seconds"] / spent
    print(f"  casewise trains {gain:.1f} times as many images a second; its fold takes {cost:.2f} of fastai's time")


def compare_speed(options: argparse.Namespace, folder: Path) -> None:
    """Measure both ways in turn and print their images a second."""
    data = options.data
    if (data / "cases.csv").is_file():
        table = read_table(data)
    else:
        print(f"There is no {data / 'cases.csv'}: synthetic photographs are used, which says nothing about accuracy.")
        data = folder / "phantom"
        table = phantom_table(data)
    images = max(BATCH, (options.images or 256) // BATCH * BATCH)
    some(table, images).to_parquet(folder / "table.parquet")
    task = {"table": str(folder / "table.parquet"), "data": str(data), "images": images, "flip_vert": options.flip_vert}
    print(f"{CORES} cores, {images} images of {SIDE} px in batches of {BATCH}, flip_vert={options.flip_vert}")
    print(f"  {'images/s':<24}{'casewise':>9}{'fastai':>8}")
    for network, aim in NETWORKS.items():
        theirs, ours = [], []
        for _ in range(options.rounds):
            theirs.append(apart(task | {"way": "fastai-speed", "network": network})["rate"])
            told = apart(task | {"way": "casewise-speed", "network": network})
            ours.append(told["rate"])
        gain = statistics.median(mine / rate for mine, rate in zip(ours, theirs, strict=True))
        told = f"casewise ({told['way']}) is {gain:.1f} times as fast (aim: {aim:g})"
        print(f"  {network:<24}{statistics.median(ours):>9.1f}{statistics.median(theirs):>8.1f}   {told}", flush=True)


def casewise_folds(table: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, float]]:
    """casewise's held-out predictions (path, p_<class>) on the same folds, its seconds a fold and images a second.

    The seconds are those of whole jobs, with everything but the tile store, and the images a second follow from them.
    """
    import pandas as pd

    folder = options.run or options.out / f"casewise-{options.folds}"
    if not options.run:
        # What is not asked for is one more side: its subjects are trained on, and its own network is looked at no more.
        sides = table["fold"].clip(upper=min(options.folds + 1, 5))
        table.assign(fold=sides).to_csv(options.out / "cohort.csv", index=False)
        study = study_of(options.network, flip_vert=options.flip_vert) | {
            "cohort": str((options.out / "cohort.csv").resolve()),
            "root": str(options.data.resolve()),
            "weights_dir": str(options.weights.resolve()),
            "split": {"column": "fold", "test": 0},
            "recipe": RECIPE | {"epochs": options.epochs + 1},
        }
        apart({"way": "casewise", "study": study, "folder": str(folder)})
    rows = pd.read_parquet(folder / "predictions.parquet")
    rows = rows[(rows["stage"] == "oof") & (rows["model"] == options.model) & (rows["kind"] == "classification")]
    target = json.loads((folder / "study.json").read_text())["targets"][rows["target"].iloc[0]]
    named = {f"p{number}": f"p_{name}" for number, name in enumerate(target["classes"])}
    data = options.data.resolve()
    paths = [Path(path).resolve().relative_to(data).as_posix() for path in rows["image"]]
    jobs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"jobs/{options.network}/*/job.json"))]
    jobs = [job for job in jobs if job["fold"] <= options.folds]
    spent = statistics.mean(job["seconds"] for job in jobs)
    trained = sum(job["epochs"] * int((table["fold"] != job["fold"]).sum()) for job in jobs)
    told = {"seconds": spent, "rate": trained / (spent * len(jobs))}
    return rows.rename(columns=named).assign(path=paths)[["path", *PROBABILITIES]], told


def study_of(network: str, *, flip_vert: bool) -> dict[str, Any]:
    """A study with fastai's image size and augmentation set."""
    flip = "both" if flip_vert else "horizontal"
    return {
        "name": "fastai-cxr",
        "images": {"size": SIDE, "channels": "grey"},
        "panels": {"by": "image", "augmentation": "fastai-default", "flip": flip},
        "targets": {"label": {"classes": list(CLASSES)}},
        "backbones": [network],
        "recipe": RECIPE,
        "compute": {"jobs": 1},
        "accept": dict.fromkeys(("shortcut-border", "shortcut-files"), CONFOUNDED),
    }


def run_casewise(task: dict[str, Any]) -> dict[str, Any]:
    """Run a study whole, as `casewise run` does."""
    from casewise.run import run
    from casewise.study_file import build_study

    folder = Path(task["folder"])
    run(build_study(task["study"], source=__file__, folder=folder), folder)
    return {}


def speed_of_casewise(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second in the second epoch of a job's training, all parameters and batch norms learning as fastai's."""
    import pandas as pd
    import torch

    from casewise.images import Preparation, prepare
    from casewise.models.backbones import build_network
    from casewise.study_file import build_study
    from casewise.training.data import PanelData, open_tiles
    from casewise.training.fit import fit, standardise
    from casewise.training.outputs import outputs_of, width_of
    from casewise.training.speed import choose, keep_memory

    keep_memory()
    torch.set_num_threads(CORES)
    plain = {"epochs": 2, "batch_norm": "train", "head": "random", "schedule": "constant"}
    values = study_of(task["network"], flip_vert=task["flip_vert"]) | {"cohort": "table", "recipe": RECIPE | plain}
    study = build_study(values, source=__file__, folder=Path())
    table = pd.read_parquet(task["table"])
    rows = [row % len(table) for row in range(task["images"])]
    truth = torch.tensor([[float(CLASSES.index(table["label"].iloc[row]))] for row in rows])
    outputs = outputs_of(study)
    network = build_network(task["network"], width_of(outputs), dropout=study.recipe.dropout)
    standardise(network, truth, outputs)
    choice = choose(network, study.compute, side=SIDE, batch=BATCH, threads=CORES, memo=None)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        tiles = Path(temporary) / "tiles"
        store = prepare(
            [Path(task["data"]) / path for path in table["path"]], Preparation(size=SIDE, channels="grey"), tiles
        )
        train = PanelData(open_tiles(tiles, store.address), [[row] for row in rows], truth, study.panels)
        fit(
            network,
            study.recipe,
            train,
            PanelData(train.store, train.tiles[:1], truth[:1], study.panels),
            outputs=outputs,
            folder=Path(temporary),
            seed=SEED,
            choice=choice,
            tell=lambda _: ends.append(time.perf_counter()),
            keep="last",
        )
    form = "channels-last" if choice.channels_last else "contiguous"
    return {"rate": task["images"] / (ends[1] - ends[0]), "way": f"{choice.precision} {form}"}


WAYS = {
    "fastai": train_with_fastai,
    "fastai-speed": speed_of_fastai,
    "casewise": run_casewise,
    "casewise-speed": speed_of_casewise,
}


def parse() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, choices=range(1, 6), default=1, help="how many of the five folds to train")
    parser.add_argument("--epochs", type=int, default=5, help="of fine_tune, after its one epoch of the head alone")
    parser.add_argument("--network", default="mobilenet_v2", help="the network whose accuracy is compared")
    parser.add_argument("--model", help="the learner of --run to compare with; by default the same network")
    parser.add_argument(
        "--flip-vert", action=argparse.BooleanOptionalAction, default=True, help="fastai's also turns by quarters"
    )
    parser.add_argument("--images", type=int, help="use about so many images only")
    parser.add_argument("--speed-only", action="store_true", help="a few hundred images, less than two minutes")
    parser.add_argument("--rounds", type=int, default=1, help="of --speed-only")
    parser.add_argument("--data", type=Path, default=BESIDE / "data" / "covid-cxr")
    parser.add_argument("--weights", type=Path, default=BESIDE / "weights")
    parser.add_argument("--run", type=Path, help="a finished casewise run: its folds and predictions are used")
    parser.add_argument("--out", type=Path, default=Path("runs/fastai-cxr"), help="where finished folds are kept")
    parser.add_argument("--save-predictions", type=Path, metavar="FILE", help="fastai's, one row an image (Parquet)")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model or options.network
    return options


def main() -> None:
    """Measure and print a table."""
    options = parse()
    if options.task:
        print(json.dumps(WAYS[options.task["way"]](options.task)))
        return
    if not find_spec("fastai"):
        print("fastai is not installed: pip install 'casewise[bench]'. Nothing was measured.")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        # Threads that wait for each other lose far more than their share, on whichever side has more of them.
        print(f"The machine has other work (load {load:.1f}): its ratios mislead; measure when it is quiet.")
    if options.speed_only:
        with tempfile.TemporaryDirectory() as temporary:
            compare_speed(options, Path(temporary))
        return
    for needed in (options.data / "cases.csv", options.weights / f"{options.network}.safetensors"):
        if not needed.is_file():
            print(f"There is no {needed}: accuracy cannot be compared. --speed-only needs neither data nor weights.")
            return
    compare_figures(options)


if __name__ == "__main__":
    main()
