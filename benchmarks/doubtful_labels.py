"""How many planted errors are among the most doubtful labels, of casewise and of cleanlab, on the same predictions.

    python benchmarks/doubtful_labels.py [--seeds 20] [--data DATA] [--output docs/results/doubtful-labels.md]

Features are computed once and kept in runs/doubtful-labels. The head of the page follows.

# Planted errors among doubtful labels

In each pack, wrong labels were planted in random subjects until {share:.0%} of the images had one: any other label at
random, or a near one (the next grade; of classes the one that the image is most easily taken for; of numbers a fifth of
the scale higher or lower, else the label of a random other subject). A linear model on frozen features of MobileNetV2
was fitted with these labels in {folds} folds of subjects, and predicted each image from the other folds. All methods
rank the labels by the same predictions. Precision: the share of planted errors among as many labels as were planted;
{share:.0%} would be chance. It is the mean over {seeds} seeds with a 95 % interval; the difference is that of casewise
from the method on the same seeds. The recorded labels have errors of their own, which count as none, so that no method
can reach 100 %.

Of casewise: the logarithm of the odds of the most probable other label (classes and grades), and the distance in robust
standard deviations of cases with similar predictions (numbers), once with the error of the two readers. Of cleanlab
{version}: its scores of label quality, and the labels that `find_label_issues` finds first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pages import head_of, page_parser, publish, table
from PIL import Image
from scipy.stats import t
from sklearn.model_selection import GroupKFold

from casewise.models.encoders import encoder_facts, load_encoders
from casewise.models.linear import FeatureSpec, bank_of, build_linear
from casewise.models.outputs import NETWORK_KINDS, Output
from casewise.plugins.readers.doubtful import class_doubts, number_doubts, reader_variance
from casewise.training.linear_models import Directions, linear_model

SHARE, FOLDS, DIRECTIONS, SIDE = 0.05, 5, 200, 224
SPECS = [
    FeatureSpec("features", (), tuple(f"features.{number}" for number in (3, 6, 13, 18)), "moments"),
    FeatureSpec("features", (), ("features.14.conv.0",), "grid", 3),
]
Rank = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pack:
    """Images with labels: the folder, the column of the label, its classes, and the rows to keep.

    Of numbers, `classes` is empty and `readers` are the columns of two readers.
    """

    folder: str
    label: str
    kind: str
    classes: tuple[str, ...] = ()
    rows: str = "duplicate_of == ''"
    readers: tuple[str, ...] = ()

    def read(self, data: Path) -> pd.DataFrame:
        """The images with `path`, `subject`, and the label as a number or a code in `value`."""
        folder = data / self.folder
        if (folder / "cases.csv").exists():
            cases = pd.read_csv(folder / "cases.csv", dtype=str).fillna("").query(self.rows)
        else:  # folders are classes; of unknown people, ten neighbouring files count as one
            files = sorted(
                (folder / "images").glob("*/*.jpg"), key=lambda file: (file.parent.name, len(file.name), file.name)
            )
            cases = pd.DataFrame(
                {"path": [str(f.relative_to(folder)) for f in files], "label": [f.parent.name for f in files]}
            )
            number = cases.groupby("label").cumcount() // 10
            cases["subject"] = cases["label"] + " " + number.astype(str)
        cases = cases[cases[self.label].isin(self.classes) if self.classes else cases[self.label] != ""]
        codes = {name: float(code) for code, name in enumerate(self.classes)}
        value = cases[self.label].map(codes) if self.classes else cases[self.label].astype(float)
        return cases.assign(value=value).reset_index(drop=True)


PACKS = {
    "films, three classes": Pack("covid-cxr", "label", "classification", ("covid", "no_finding", "pneumonia")),
    "skin, five classes": Pack(
        "photographs-skin", "label", "classification", ("carcinoma", "eczema", "keratosis", "lichen", "psoriasis")
    ),
    "retinopathy, grades 0 to 4": Pack("severity-idrid", "dr_grade", "ordinal", tuple("01234")),
    "Brixia score, 0 to 18": Pack(
        "severity-covid", "brixia_mean", "regression", readers=("brixia_senior", "brixia_junior")
    ),
    "extent, 0 to 8": Pack("severity-covid", "geographic_mean", "regression"),
}


def features(pack: Pack, cases: pd.DataFrame, data: Path) -> np.ndarray:
    """Frozen features (N, W) of the images, computed once."""
    file = Path("runs/doubtful-labels") / f"{pack.folder}-{pack.label}.npy"
    if file.exists() and len(kept := np.load(file)) == len(cases):
        return np.asarray(kept, dtype=float)
    weights = data.parent / "weights"
    bank = {"encoders": [encoder_facts("mobilenet_v2", weights)], "channels": 3, "specs": [s.as_json() for s in SPECS]}
    reader = bank_of(build_linear("m", 2, bank, {"side": SIDE})).eval()
    load_encoders(reader, weights)
    rows = []
    with torch.inference_mode():
        for path in cases["path"]:
            image = Image.open(data / pack.folder / path).convert("RGB").resize((SIDE, SIDE))
            rows.append(reader(torch.from_numpy(np.asarray(image) / np.float32(255)).permute(2, 0, 1)[None])[0].numpy())
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.stack(rows))
    return np.stack(rows).astype(float)


@dataclass(frozen=True)
class Folds:
    """Folds of subjects, each with the directions of its training rows for all rows; no label is read."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    scores: list[np.ndarray]

    @classmethod
    def of(cls, values: np.ndarray, subjects: np.ndarray) -> Folds:
        """Directions of features (N, W)."""
        folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(values, groups=subjects))
        scores = []
        for train, _ in folds:
            directions = Directions.of(values[train], most=DIRECTIONS)
            scores.append((values - directions.centre) @ directions.back.T)
        return cls([train for train, _ in folds], [test for _, test in folds], scores)

    def predicted(self, labels: np.ndarray, subjects: np.ndarray, kind: str, classes: int) -> np.ndarray:
        """The out-of-fold predictions: (N,) numbers, or (N, K) probabilities."""
        predicted = np.empty((len(labels), max(classes, 1)))
        for train, test, scores in zip(self.train, self.test, self.scores, strict=True):
            centre, scale = (0.0, 1.0) if classes else (labels[train].mean(), labels[train].std())
            model = linear_model(
                *(scores[train], (labels[train] - centre) / scale, subjects[train], Output("label", kind, classes)),
                standardise=False,
            )
            raw = torch.from_numpy(scores[test] @ model.weight.T + model.bias)
            predicted[test] = NETWORK_KINDS[kind].decode(raw).numpy() * scale + centre
        return predicted if classes else predicted[:, 0]


def planted(
    rng: np.random.Generator, labels: np.ndarray, subjects: np.ndarray, pack: Pack, confused: np.ndarray, *, near: bool
) -> np.ndarray:
    """Labels (N,), of which a share is wrong, all of a subject in the same way.

    Args:
        confused: (N, K) probabilities of a model of the recorded labels, or (N,) its numbers.
        near: whether wrong labels are near the recorded ones.
    """
    labels, count = labels.copy(), len(pack.classes)
    wrong, scale = np.zeros(len(labels), dtype=bool), float(np.ptp(labels))
    original = labels.copy()
    for subject in rng.permutation(np.unique(subjects)):
        if wrong.mean() >= SHARE:
            break
        rows = np.flatnonzero(subjects == subject)
        wrong[rows] = True
        if not count:
            shift = scale / 5 * rng.choice([-1, 1])
            first = original[rows[0]]
            shift = -shift if not original.min() <= first + shift <= original.max() else shift
            other = rng.choice(original[np.abs(original - first) > scale / 10]) - first
            labels[rows] = np.clip(original[rows] + (shift if near else other), original.min(), original.max())
            continue
        for code in np.unique(original[rows]).astype(int):
            options = [other for other in range(count) if other != code]
            if near and pack.kind == "ordinal":
                options = [other for other in options if abs(other - code) == 1]
            of_code = rows[original[rows] == code]
            mean = confused[of_code].mean(axis=0)
            likely = max(options, key=lambda other: mean[other])
            labels[of_code] = likely if near and pack.kind != "ordinal" else rng.choice(options)
    return labels


def cleanlab_ranks(kind: str) -> dict[str, Rank]:
    """Doubt by cleanlab, larger for more doubtful labels, from labels and predictions."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from cleanlab.regression.rank import get_label_quality_scores as of_numbers

    if kind == "regression":
        return {
            "cleanlab, OUTRE": lambda labels, predicted: -of_numbers(labels, predicted, method="outre"),
            "cleanlab, residual": lambda labels, predicted: -of_numbers(labels, predicted, method="residual"),
        }

    def scored(method: str) -> Rank:
        return lambda labels, p: -get_label_quality_scores(labels.astype(int), p, method=method)

    def issues_first(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
        return find_label_issues(labels.astype(int), p, n_jobs=1) + scored("self_confidence")(labels, p)

    return {
        "cleanlab, self-confidence": scored("self_confidence"),
        "cleanlab, normalised margin": scored("normalized_margin"),
        "cleanlab, confidence-weighted entropy": scored("confidence_weighted_entropy"),
        "cleanlab, issues first": issues_first,
    }


def own_ranks(pack: Pack, cases: pd.DataFrame) -> dict[str, Rank]:
    """Doubt by casewise."""
    if pack.classes:
        return {"casewise": lambda labels, p: class_doubts(p, labels.astype(int))[0]}
    ranks: dict[str, Rank] = {"casewise": lambda labels, predicted: number_doubts(predicted, labels)}
    if pack.readers:
        readings = pd.concat([cases[["path"]].assign(value=cases[name].astype(float)) for name in pack.readers])
        rows = cases[["path"]].rename(columns={"path": "case"}).assign(region="")
        readings = readings.rename(columns={"path": "case"}).assign(region="")
        ranks["casewise, with readers"] = lambda labels, predicted: number_doubts(
            predicted, labels, reader_variance(rows, labels, readings)
        )
    return ranks


def precisions(pack: Pack, cases: pd.DataFrame, values: np.ndarray, seeds: int, *, near: bool) -> pd.DataFrame:
    """The precision of each method (columns) by seed (rows)."""
    truth, subjects = cases["value"].to_numpy(float), cases["subject"].to_numpy(dtype=object)
    folds, count, rows = Folds.of(values, subjects), len(pack.classes), []
    ranks = own_ranks(pack, cases) | cleanlab_ranks(pack.kind)
    confused = folds.predicted(truth, subjects, pack.kind, count)
    for seed in range(seeds):
        labels = planted(np.random.default_rng(seed), truth, subjects, pack, confused, near=near)
        predicted, wrong = folds.predicted(labels, subjects, pack.kind, count), labels != truth
        first = {
            name: np.argsort(-rank(labels, predicted), kind="stable")[: wrong.sum()] for name, rank in ranks.items()
        }
        rows.append({name: float(wrong[chosen].mean()) for name, chosen in first.items()})
    return pd.DataFrame(rows)


def interval(values: np.ndarray) -> str:
    """A mean over seeds in percent with its interval by Student's t.

    >>> interval(np.array([0.5, 0.6]))
    '55.0 (−8.5 to 118.5)'
    """
    mean, half = values.mean(), t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{100 * mean:.1f} ({100 * (mean - half):.1f} to {100 * (mean + half):.1f})".replace("-", "−")


def main() -> None:
    """Measure every pack, print and write the page."""
    parser = page_parser(__doc__, data=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pack", action="append", choices=PACKS, help="repeat for several; by default all")
    options, rows = parser.parse_args(), []
    for name in options.pack or PACKS:
        pack = PACKS[name]
        cases = pack.read(options.data)
        values = features(pack, cases, options.data)
        for near in (False, True):
            by_method = precisions(pack, cases, values, options.seeds, near=near)
            own = by_method["casewise"]
            for method, of_method in by_method.items():
                difference = "" if method == "casewise" else interval((own - of_method).to_numpy())
                rows.append([name, "near" if near else "any", method, interval(of_method.to_numpy()), difference])
                print(*rows[-1], sep=" | ", flush=True)
    heads = ["pack", "planted", "method", "precision, %", "casewise minus method, points"]
    head = head_of(__doc__, share=SHARE, folds=FOLDS, seeds=options.seeds, version=version("cleanlab"))
    publish("\n".join([head, *table(heads, rows), ""]), options.output)


if __name__ == "__main__":
    main()
