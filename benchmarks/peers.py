"""The planned recipe beside fastai and scikit-learn, on the folds of finished runs of benchmarks/auto.py.

    python benchmarks/auto.py severity oral hpylori idrid
    python benchmarks/peers.py [--runs runs/auto] [--output docs/results/auto-peers.md]

fastai is used as its users do: `vision_learner`, `fine_tune(5)`. The other peer is a linear model of default penalties
on the pooled features of a frozen MobileNetV2. Both start from the same weights and train on the same subjects as the
run. fastai's folds are kept in `--out` and not trained again. Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import auto
import fastai_cxr
import fastai_user

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from casewise.analysis.run import Run

# The runs by default, with a target; the primary outcome where none is stated.
PACKS = {"severity": "extent", "oral": "", "hpylori": "", "idrid": ""}
EPOCHS = 5
SIDE, BATCH = 224, 32
TEST = 0  # the fold of the test set in the table of a peer
HEAD = """# Planned recipes beside fastai and scikit-learn

The images, folds and subjects are those of [the planned runs](auto.md). fastai: `vision_learner` of MobileNetV2 with
the same weights, `Resize(224)`, `aug_transforms()`, `fine_tune({epochs})`. scikit-learn: `StandardScaler`, then
`LogisticRegressionCV` (numbers: `RidgeCV`) with default penalties, on the pooled features of the frozen MobileNetV2.
For grades both predict the most probable one. On a test set, each peer is trained once on all other subjects.

In brackets 95 % intervals by subject. Differences are paired: the same cases and resamples of subjects. Minutes and
seconds of wall clock are of training and prediction; those of the planned run include its audit, baselines and report.

"""


def table_of(run: Run, target: str) -> pd.DataFrame:
    """One row for each image with a label: path without the leading slash, subject, fold (`TEST`: test set), label."""
    sides = run.files.splits.read()["subjects"]
    cohort = run.files.cohort.read()
    values = cohort[target].astype(float)
    names = run.study.classes_of(target)
    labels = [names[int(value)] if names and value == value else value for value in values]
    absolute = [Path(path).resolve().as_posix().lstrip("/") for path in cohort["path"]]
    folds = [TEST if sides[str(subject)] == "test" else int(sides[str(subject)]) for subject in cohort["subject"]]
    columns = {"path": absolute, "subject": cohort["subject"].astype(str), "fold": folds, "label": labels}
    table = cohort[["case"]].assign(**columns, image=cohort["path"].astype(str))
    return table[values.notna().to_numpy()].reset_index(drop=True)


def held_out(table: pd.DataFrame, stage: str) -> list[int]:
    """The folds that a peer predicts."""
    return [TEST] if stage == "test" else sorted(set(table["fold"]) - {TEST})


def features(paths: list[str], weights: Path) -> np.ndarray:
    """The pooled features (N, 1280) of a frozen MobileNetV2."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import models, transforms

    network = models.mobilenet_v2(weights=None)
    network.load_state_dict(load_file(str(weights)))
    network.eval()
    steps = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    values = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            images = [steps(Image.open(f"/{path}").convert("RGB")) for path in paths[start : start + BATCH]]
            values.append(network.features(torch.stack(images)).mean(dim=(2, 3)).numpy())
    return np.concatenate(values)


def of_scikit_learn(table: pd.DataFrame, folds: list[int], weights: Path, *, numbers: bool) -> pd.DataFrame:
    """Predictions of the held-out images of `folds`, with the columns of fastai's."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, tables = features(table["path"].tolist(), weights), []
    for fold in folds:
        judged = (table["fold"] == fold).to_numpy()
        # a fold is predicted by models of the other folds, never of the test set
        train = ~judged & (table["fold"] != TEST).to_numpy()
        model = make_pipeline(StandardScaler(), RidgeCV() if numbers else LogisticRegressionCV(max_iter=1000))
        model.fit(values[train], table["label"][train])
        rows = table[judged].reset_index(drop=True)
        if numbers:
            columns = {"prediction": model.predict(values[judged])}
        else:
            probabilities = model.predict_proba(values[judged])
            columns = {f"p_{name}": probabilities[:, n] for n, name in enumerate(model.classes_)}
        tables.append(rows.join(pd.DataFrame(columns)))
    return pd.concat(tables, ignore_index=True).fillna({f"p_{name}": 0.0 for name in set(table["label"])})


def as_rows(predictions: pd.DataFrame, table: pd.DataFrame, reference: pd.DataFrame, run: Run) -> pd.DataFrame:
    """A peer's predictions as rows of `predictions.parquet`, beside those of the headline (`reference`).

    The images of a case are averaged where the target has one value a case.
    """
    target = str(reference["target"].iloc[0])
    names = run.study.classes_of(target)
    columns = [f"p_{name}" for name in names] if names else ["prediction"]
    predictions = predictions.merge(table[["path", "case", "image"]], on="path", suffixes=("", "_table"))
    keys = ["case", "image"] if (reference["image"] != "").all() else ["case"]
    means = predictions.groupby(keys)[columns].mean().reset_index()
    rows = reference.drop(columns="distance", errors="ignore").merge(means, on=keys, validate="one_to_one")
    if len(rows) != len(reference):
        raise SystemExit(f"{run.folder}: {len(reference) - len(rows)} cases were not predicted by the peer.")
    if not names:
        low, high = run.study.range_of(target)
        return rows.assign(y_pred=rows["prediction"].clip(low, high)).drop(columns=columns)
    values = rows[columns].to_numpy(dtype=float)
    shares = {f"p{n}": values[:, n] / values.sum(axis=1) for n in range(len(names))}
    return rows.assign(y_pred=values.argmax(axis=1).astype(float), **shares).drop(columns=columns)


def compared(rows: dict[str, pd.DataFrame], run: Run, target: str) -> dict[str, Any]:
    """The figures of every learner and its difference from the planned run, pair by pair: (figure, difference)."""
    import pandas as pd

    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.judges import judge_of

    settings, study = run.study.evaluation, run.study
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    metrics = auto.SHOWN[study.kind_of(target)]
    figures: dict[str, Any] = {}
    for name, peer in rows.items():
        pair = pd.concat([rows["planned"].assign(model="planned"), peer.assign(model=name)], ignore_index=True)
        pair = pair if name != "planned" else peer.assign(model="planned")
        judge = judge_of(pair, study.classes_of(target) or None, study.positive_of(target))
        judged = judge.judge(pair, plan, whole=True)
        for metric in metrics:
            entry = judged.comparison.get(metric) if name != "planned" else None
            figures[name, metric] = (judged.metrics[name][metric].as_json(), difference(entry, name))
    return figures


def difference(entry: dict[str, Any] | None, peer: str) -> dict[str, Any] | None:
    """Planned minus peer of a comparison of the two, whichever of them is the best."""
    if not entry:
        return None
    other, values = next(iter(entry["differences"].items()))
    sign = -1.0 if other == peer else 1.0
    ends = sorted(sign * end for end in (values["low"], values["high"]) if end is not None) or [None, None]
    return {
        "difference": sign * values["difference"],
        "low": ends[0],
        "high": ends[1],
        "distinguishable": not values["indistinguishable"],
    }


def rows_of_pack(name: str, target: str, options: argparse.Namespace) -> list[list[str]]:
    """The lines of the page on one finished run."""
    from casewise.analysis.choice import choose
    from casewise.analysis.run import Run

    run = Run.open(options.runs / name)
    if run.study.modality_name != "photographs":
        raise SystemExit(f"{name} has {run.study.modality_name}; the peers read single images.")
    chosen = choose(run, target=target or None)
    table, reference = table_of(run, chosen.target), chosen.rows
    folds, numbers = held_out(table, chosen.stage), not run.study.classes_of(chosen.target)
    weights = options.weights / "mobilenet_v2.safetensors"
    rows, seconds = {"planned": reference}, {"planned": (run.files.timing.read_if_exists() or {}).get("seconds")}
    start = time.perf_counter()
    predictions = of_scikit_learn(table, folds, weights, numbers=numbers)
    seconds["scikit-learn"] = time.perf_counter() - start
    rows["scikit-learn"] = as_rows(predictions, table, reference, run)
    if options.fastai:
        # out of fold, subjects of the test set are not used
        used = table if chosen.stage == "test" else table[table["fold"] != TEST].reset_index(drop=True)
        settings = {"network": "mobilenet_v2", "weights": options.weights, "epochs": options.epochs, "data": Path("/")}
        task = argparse.Namespace(**settings, flip_vert=False, out=options.out / name)
        predictions, seconds["fastai"] = fastai_cxr.folds_of_fastai(used, task, folds, numbers=numbers)
        rows["fastai"] = as_rows(predictions, table, reference, run)
    lines = []
    for (learner, metric), (figure, gap) in compared(rows, run, chosen.target).items():
        beside = auto.with_interval(gap, metric, key="difference", sign="+")
        note = "" if learner == "planned" else auto.worse(gap, metric)
        text = auto.with_interval(figure, metric)
        lines.append(
            [name, chosen.target, auto.title(metric), learner, text, beside, note, auto.clock(seconds[learner])]
        )
    return lines


def main() -> None:
    """Train the peers, print and write the page."""
    from casewise.files import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"the runs; by default {', '.join(PACKS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/auto"), help="the folder of finished runs")
    parser.add_argument("--weights", type=Path, default=fastai_cxr.SHARED / "weights")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="epochs of fine_tune after the one of the head alone"
    )
    parser.add_argument("--fastai", action=argparse.BooleanOptionalAction, default=True, help="train fastai's networks")
    parser.add_argument("--out", type=Path, default=Path("runs/auto-peers"), help="where fastai's folds are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page to write (Markdown)")
    options = parser.parse_args()
    options.fastai = options.fastai and fastai_user.ready()
    head = ["pack", "target", "metric", "", "figure", "planned − peer", "the planned run is", "time"]
    lines, missing = [], []
    for name in options.names or PACKS:
        if not (options.runs / name / "metrics.json").is_file():
            missing.append(name)
            continue
        lines += rows_of_pack(name, PACKS.get(name, ""), options)
    page = HEAD.format(epochs=options.epochs) + auto.table(head, iter(lines))
    page += "".join(f"\n{name} is not a finished run in {options.runs}.\n" for name in missing)
    page += "" if options.fastai else "\nfastai was not trained.\n"
    page += "\nMade by `python benchmarks/peers.py --output docs/results/auto-peers.md`.\n"
    print(page)
    if options.output:
        write_atomic(options.output, page)
        print(f"page: {options.output}")


if __name__ == "__main__":
    main()
