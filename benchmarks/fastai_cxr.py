"""Accuracy and AUROC of fastai on the folds of a finished casewise run, with the same network, weights and images.

    casewise run studies/covid-cxr.yaml
    python benchmarks/fastai_cxr.py --run runs/covid-cxr [--folds 5] [--output docs/results/fastai.md]

fastai trains the head for one epoch and the whole network for five. Its folds are kept in `--out`, and finished ones
are not trained again. Figures are printed, never asserted; intervals are from resamples of subjects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import fastai_user
from fastai_user import BATCH, CLASSES, SEED, SIDE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SHARED = Path(__file__).resolve().parents[2] / "shared"
PROBABILITIES = [f"p_{name}" for name in CLASSES]
RESAMPLES = 2000
CONFOUNDED = (
    "In these images the class is almost identical to the source, so the figures compare two programs and say nothing "
    "about the disease."
)
HEAD = """# casewise and fastai on the same folds

The images, folds and learners are those of [the study covid-cxr](covid-cxr.md), all predicted out of fold. The fastai
code is typical of its users: `vision_learner` of the same {network} from the same weights, `Resize(224)`,
`aug_transforms({flip})`, `fine_tune({epochs})`. {confounded}

{images:,} images of {subjects:,} subjects in {folds} folds by subject; in brackets 95 % intervals from {resamples:,}
resamples of subjects. Speed is compared by `make bench`.

fastai updates batch norms also while other layers are frozen. The statistics of these weights were rebuilt from few
photographs. The study of casewise keeps them for this reason, which a fastai user would not know; fastai may be better
with a library's own weights.

"""


def read_run(run: Path, data: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """A run's images with path, subject, fold (from 1) and label, and each learner's out-of-fold probabilities."""
    import pandas as pd

    if not (run / "predictions.parquet").is_file():
        raise SystemExit(f"{run} is not a finished run. Run: casewise run studies/covid-cxr.yaml --output {run}")
    target, definition = next(iter(json.loads((run / "study.json").read_text())["targets"].items()))
    if tuple(definition["classes"]) != CLASSES:
        raise SystemExit(
            f"{run} has the classes {', '.join(definition['classes'])}; this benchmark needs {', '.join(CLASSES)}."
        )
    sides = json.loads((run / "splits.json").read_text())["subjects"]
    table = pd.read_parquet(run / "cohort.parquet", columns=["path", "subject", target])
    table = table.rename(columns={target: "label"}).assign(fold=table["subject"].map(sides))
    table = table[table["fold"] != "test"].astype({"fold": int}).reset_index(drop=True)
    table["label"] = [CLASSES[int(number)] for number in table["label"]]
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[(rows["stage"] == "oof") & (rows["target"] == target)]
    rows = rows.rename(columns={"image": "path", **{f"p{n}": name for n, name in enumerate(PROBABILITIES)}})
    for frame in (table, rows):
        frame["path"] = [Path(path).resolve().relative_to(data.resolve()).as_posix() for path in frame["path"]]
    table = table.sort_values("path", ignore_index=True)
    return table, {
        name: learner_rows[["path", *PROBABILITIES]] for name, learner_rows in rows.groupby("model", sort=False)
    }


def folds_of_fastai(
    table: pd.DataFrame,
    options: argparse.Namespace,
    folds: Sequence[int],
    *,
    numbers: bool = False,
    one_process: bool = False,
) -> tuple[pd.DataFrame, float]:
    """Train the folds that are not finished; return the predictions of all requested ones, and the seconds.

    `numbers`: labels are numbers, else classes. `one_process`: images are read by the process that trains.
    """
    import pandas as pd

    from casewise.files import parquet_bytes, write_atomic, write_json

    weights = options.weights / f"{options.network}.safetensors"
    if not weights.is_file():
        raise SystemExit(f"{weights} does not exist. Name the folder with --weights.")
    settings = {
        "network": options.network,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "epochs": options.epochs,
        "flip_vert": options.flip_vert,
        "split": hashlib.sha256(table.to_csv(index=False).encode()).hexdigest(),
        "batch": BATCH,
        "side": SIDE,
        "seed": SEED,
        **({"numbers": True} if numbers else {}),
    }
    tables, seconds = [], 0.0
    for fold in folds:
        facts, predictions = options.out / f"fold-{fold}.json", options.out / f"fold-{fold}.parquet"
        if facts.is_file():
            record = json.loads(facts.read_text())
            other = [name for name, value in settings.items() if record["settings"].get(name) != value]
            if other:
                raise SystemExit(f"{facts} has a different {other[0]}. Choose another folder with --out.")
        else:
            write_atomic(options.out / "table.parquet", parquet_bytes(table))
            task = settings | {"way": "train", "fold": fold, "weights": str(weights), "data": str(options.data)}
            task |= {"table": str(options.out / "table.parquet"), "predictions": str(predictions)}
            task |= {"workers": 0} if one_process else {}
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            record = {
                "fold": fold,
                **fastai_user.in_own_process(fastai_user.__file__, task),
                "load": load,
                "settings": settings,
            }
            write_json(facts, record)
        tables.append(pd.read_parquet(predictions))
        seconds += record["seconds"]
    return pd.concat(tables, ignore_index=True), seconds


def figures(truth: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None) -> tuple[float, float]:
    """Accuracy and macro one-vs-rest AUROC (NaN where a class is missing), with images weighted by `counts`."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    share = float(np.average(values.argmax(axis=1) == truth, weights=counts))
    if len(set(truth if counts is None else truth[counts > 0])) < len(CLASSES):
        return share, float("nan")
    areas = [roc_auc_score(truth == k, values[:, k], sample_weight=counts) for k in range(len(CLASSES))]
    return share, float(np.mean(areas))


def resample(predictions: pd.DataFrame, learners: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Accuracy and AUROC of fastai and each learner (1 + resamples, 2): first of all images, then of each resample."""
    import numpy as np

    truth = predictions["label"].map(CLASSES.index).to_numpy()
    values = {"fastai": predictions[PROBABILITIES].to_numpy(dtype=float)}
    for name, rows in learners.items():
        learner_rows = predictions[["path"]].merge(rows, on="path", validate="one_to_one")
        if (missing := len(predictions) - len(learner_rows)) > 0:
            raise SystemExit(f"{name} has no prediction of {missing} images that fastai predicted.")
        values[name] = learner_rows[PROBABILITIES].to_numpy(dtype=float)
    subjects, member = np.unique(predictions["subject"].to_numpy(dtype=str), return_inverse=True)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=RESAMPLES)[:, member]
    weights = [None, *drawn.astype(float)]
    return {
        name: np.array([figures(truth, probabilities, counts) for counts in weights])
        for name, probabilities in values.items()
    }


def with_interval(values: np.ndarray, *, signed: bool = False) -> str:
    """A figure with its interval as text; `values` are the figure and its resamples."""
    import numpy as np

    form = "+.3f" if signed else ".3f"
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def lines(samples: dict[str, np.ndarray]) -> list[str]:
    """The table of the page, one row for fastai and each learner."""
    head = ["", "accuracy", "minus fastai", "AUROC", "minus fastai"]
    rows = [head, ["---"] * len(head)]
    for name, values in samples.items():
        gain = values - samples["fastai"]
        cells = [
            with_interval(values[:, 0]),
            with_interval(gain[:, 0], signed=True),
            with_interval(values[:, 1]),
            with_interval(gain[:, 1], signed=True),
        ]
        if name == "fastai":
            cells[1] = cells[3] = "–"
        rows.append([name if name == "fastai" else f"casewise, {name}", *cells])
    return ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    """Train fastai's folds, compare, print and write the page."""
    from casewise.files import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/covid-cxr"), help="a finished casewise run")
    parser.add_argument("--folds", type=int, choices=range(1, 6), default=1, help="the number of folds to train")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of fine_tune after the one of the head alone")
    parser.add_argument("--network", default="mobilenet_v2", help="the network that fastai trains")
    parser.add_argument(
        "--flip-vert",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="fastai's vertical flip, which includes quarter turns",
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "covid-cxr")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--out", type=Path, default=Path("runs/fastai-cxr"), help="where fastai's folds are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page to write (Markdown)")
    options = parser.parse_args()
    if not fastai_user.ready():
        return
    if not (options.data / "cases.csv").is_file():
        print(f"{options.data / 'cases.csv'} does not exist. Accuracy was not compared with fastai's.")
        return
    if not (options.run / "predictions.parquet").is_file():
        print(f"{options.run} is not a finished run (casewise run studies/covid-cxr.yaml). Accuracy was not measured.")
        return
    table, learners = read_run(options.run, options.data)
    predictions, _ = folds_of_fastai(table, options, range(1, options.folds + 1))
    samples = resample(predictions, learners)
    head = HEAD.format(
        network=options.network,
        flip="flip_vert=True" if options.flip_vert else "",
        epochs=options.epochs,
        confounded=CONFOUNDED,
        images=len(predictions),
        subjects=predictions["subject"].nunique(),
        folds=options.folds,
        resamples=RESAMPLES,
    )
    page = head + "\n".join(lines(samples)) + "\n"
    page += f"\nMade by `python benchmarks/fastai_cxr.py --folds {options.folds} --output docs/results/fastai.md`.\n"
    print(page)
    if options.output:
        write_atomic(options.output, page)
        print(f"page: {options.output}")


if __name__ == "__main__":
    main()
