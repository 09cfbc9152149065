"""How well fastai does on the folds of a finished casewise run, with the same network, first weights and images.

    casewise run studies/covid-cxr.yaml
    python benchmarks/fastai_cxr.py --run runs/covid-cxr [--folds 5] [--output docs/results/fastai.md]

fastai makes one pass with the head alone and five with the whole network. Its folds are kept in `--out`: what is done
is not trained again. Figures are printed, never asserted; intervals are from resamples of subjects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import fastai_user
from fastai_user import BATCH, CLASSES, SEED, SIDE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

BESIDE = Path(__file__).resolve().parents[2] / "shared"
PROBABILITIES = [f"p_{name}" for name in CLASSES]
RESAMPLES = 2000
CONFOUNDED = "Class nearly is source in these images: two programs are compared, and no figure is about the disease."
HEAD = """# casewise beside fastai on the same folds

The images, folds and learners are those of [the study covid-cxr](covid-cxr.md), all predicted out of fold. The fastai
side is what its user would write: `vision_learner` of the same {network} from the same weights, `Resize(224)`,
`aug_transforms({flip})`, `fine_tune({epochs})`. {confounded}

{images:,} images of {subjects:,} subjects in {folds} folds by subject; in brackets 95 % intervals from {resamples:,}
resamples of subjects. Speed is compared by `make bench`.

fastai lets batch norms learn also while the rest is frozen. The statistics of these weights were rebuilt from few
photographs, which casewise's study knows (it keeps them) and a fastai user would not: with a library's own weights
fastai may do better.

"""


def read_run(run: Path, data: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """A run's images with path, subject, fold (from 1) and label, and each learner's out-of-fold probabilities."""
    import pandas as pd

    if not (run / "predictions.parquet").is_file():
        raise SystemExit(f"{run} is no finished run: casewise run studies/covid-cxr.yaml --output {run}")
    target, told = next(iter(json.loads((run / "study.json").read_text())["targets"].items()))
    if tuple(told["classes"]) != CLASSES:
        raise SystemExit(f"{run} tells {', '.join(told['classes'])} apart; this benchmark: {', '.join(CLASSES)}.")
    sides = json.loads((run / "splits.json").read_text())["subjects"]
    table = pd.read_parquet(run / "cohort.parquet", columns=["path", "subject", target])
    table = table.rename(columns={target: "label"}).assign(fold=table["subject"].map(sides))
    table = table[table["fold"] != "test"].astype({"fold": int}).reset_index(drop=True)
    table["label"] = [CLASSES[int(number)] for number in table["label"]]
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[(rows["stage"] == "oof") & (rows["target"] == target)]
    rows = rows.rename(columns={"image": "path", **{f"p{n}": name for n, name in enumerate(PROBABILITIES)}})
    for each in (table, rows):
        each["path"] = [Path(path).resolve().relative_to(data.resolve()).as_posix() for path in each["path"]]
    table = table.sort_values("path", ignore_index=True)
    return table, {name: part[["path", *PROBABILITIES]] for name, part in rows.groupby("model", sort=False)}


def folds_of_fastai(table: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Train the folds that are not there yet; return the predictions of all that were asked for."""
    import pandas as pd

    from casewise.files import parquet_bytes, write_atomic, write_json

    weights = options.weights / f"{options.network}.safetensors"
    if not weights.is_file():
        raise SystemExit(f"There is no {weights}: name the folder with --weights.")
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
    tables = []
    for fold in range(1, options.folds + 1):
        facts, predictions = options.out / f"fold-{fold}.json", options.out / f"fold-{fold}.parquet"
        if facts.is_file():
            record = json.loads(facts.read_text())
            other = [name for name, value in settings.items() if record["settings"].get(name) != value]
            if other:
                raise SystemExit(f"{facts} was made with another {other[0]}. Give another folder with --out.")
        else:
            write_atomic(options.out / "table.parquet", parquet_bytes(table))
            task = settings | {"way": "train", "fold": fold, "weights": str(weights), "data": str(options.data)}
            task |= {"table": str(options.out / "table.parquet"), "predictions": str(predictions)}
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            record = {"fold": fold, **fastai_user.apart(fastai_user.__file__, task), "load": load, "settings": settings}
            write_json(facts, record)
        tables.append(pd.read_parquet(predictions))
    return pd.concat(tables, ignore_index=True)


def figures(truth: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None) -> tuple[float, float]:
    """Accuracy and macro one-vs-rest AUROC (NaN where a class is missing), each image counted so many times."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    share = float(np.average(values.argmax(axis=1) == truth, weights=counts))
    if len(set(truth if counts is None else truth[counts > 0])) < len(CLASSES):
        return share, float("nan")
    areas = [roc_auc_score(truth == k, values[:, k], sample_weight=counts) for k in range(len(CLASSES))]
    return share, float(np.mean(areas))


def resample(theirs: pd.DataFrame, learners: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Accuracy and AUROC of fastai and each learner (1 + resamples, 2): the figures, then those of resamples."""
    import numpy as np

    truth = theirs["label"].map(CLASSES.index).to_numpy()
    values = {"fastai": theirs[PROBABILITIES].to_numpy(dtype=float)}
    for name, rows in learners.items():
        ours = theirs[["path"]].merge(rows, on="path", validate="one_to_one")
        if len(ours) < len(theirs):
            raise SystemExit(f"{name} has no prediction of {len(theirs) - len(ours)} images that fastai predicted.")
        values[name] = ours[PROBABILITIES].to_numpy(dtype=float)
    subjects, member = np.unique(theirs["subject"].to_numpy(dtype=str), return_inverse=True)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=RESAMPLES)[:, member]
    weights = [None, *drawn.astype(float)]
    return {name: np.array([figures(truth, told, counts) for counts in weights]) for name, told in values.items()}


def told(values: np.ndarray, *, signed: bool = False) -> str:
    """A figure with its interval, of the figure and its resamples."""
    import numpy as np

    form = "+.3f" if signed else ".3f"
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def lines(found: dict[str, np.ndarray]) -> list[str]:
    """The table of the page, one line a program or learner."""
    head = ["", "accuracy", "minus fastai", "AUROC", "minus fastai"]
    rows = [head, ["---"] * len(head)]
    for name, values in found.items():
        gain = values - found["fastai"]
        parts = [told(values[:, 0]), told(gain[:, 0], signed=True), told(values[:, 1]), told(gain[:, 1], signed=True)]
        if name == "fastai":
            parts[1] = parts[3] = "–"
        rows.append([name if name == "fastai" else f"casewise, {name}", *parts])
    return ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    """Train fastai's folds, compare, print and write the page."""
    from casewise.files import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/covid-cxr"), help="a finished casewise run")
    parser.add_argument("--folds", type=int, choices=range(1, 6), default=1, help="how many of the five folds")
    parser.add_argument("--epochs", type=int, default=5, help="of fine_tune, after its one epoch of the head alone")
    parser.add_argument("--network", default="mobilenet_v2", help="the network that fastai trains")
    parser.add_argument(
        "--flip-vert", action=argparse.BooleanOptionalAction, default=False, help="fastai's also turns by quarters"
    )
    parser.add_argument("--data", type=Path, default=BESIDE / "data" / "covid-cxr")
    parser.add_argument("--weights", type=Path, default=BESIDE / "weights")
    parser.add_argument("--out", type=Path, default=Path("runs/fastai-cxr"), help="where fastai's folds are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page to write (Markdown)")
    options = parser.parse_args()
    if not fastai_user.ready():
        return
    if not (options.data / "cases.csv").is_file():
        print(f"There is no {options.data / 'cases.csv'}: accuracy beside fastai's was not measured.")
        return
    if not (options.run / "predictions.parquet").is_file():
        print(f"{options.run} is no finished run: casewise run studies/covid-cxr.yaml. Accuracy was not measured.")
        return
    table, learners = read_run(options.run, options.data)
    theirs = folds_of_fastai(table, options)
    found = resample(theirs, learners)
    head = HEAD.format(
        network=options.network,
        flip="flip_vert=True" if options.flip_vert else "",
        epochs=options.epochs,
        confounded=CONFOUNDED,
        images=len(theirs),
        subjects=theirs["subject"].nunique(),
        folds=options.folds,
        resamples=RESAMPLES,
    )
    page = head + "\n".join(lines(found)) + "\n"
    page += f"\nMade by `python benchmarks/fastai_cxr.py --folds {options.folds} --output docs/results/fastai.md`.\n"
    print(page)
    if options.output:
        write_atomic(options.output, page)
        print(f"page: {options.output}")


if __name__ == "__main__":
    main()
