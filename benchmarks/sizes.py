"""How wide intervals are, and how good models are, by the number of subjects.

    python benchmarks/sizes.py [--studies 50] [--data DATA] [--output docs/results/sizes.md]

Features are computed once, as in doubtful_labels.py. The head of the page follows.

# How many subjects are needed

A study needs subjects for two things: to train a model, and to say how good it is. `casewise plan-size` estimates both
from a finished run of yours; these tables are a first guide.

**In short**: an AUROC of 0.85 is known to {fifty} with 50 subjects, {hundred} with 100 and {most} with 500. A
sensitivity rests on the subjects of that class alone, so rare classes decide. More training subjects make a model
better, less and less: on films of three classes the AUROC is {few} with 50, {middle} with 200 and {many} with 400.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from doubtful_labels import DIRECTIONS, FOLDS, PACKS, Pack, features
from null import network_rows
from pages import DATA, head_of, publish, simulation_parser, table
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.models.outputs import NETWORK_KINDS, Output
from casewise.predictions.table import check
from casewise.training.linear_models import Directions, linear_model

SUBJECTS = (20, 50, 100, 200, 500, 1000)
TRAINED_ON = (25, 50, 100, 200, 400)
DRAWS, FEWEST_OF_CLASS = 10, 3
WIDTHS = """
## How well a figure is known

Two classes, one image a subject: the median half width of the 95 % interval over {studies} simulated studies, as
casewise computes it. The sensitivity is that of a class with a fifth of the subjects.
"""
CURVES = """
## How the number of training subjects changes a model

Linear models on frozen features of MobileNetV2, trained on so many random subjects and judged on those of the fold
that is left out, in {folds} folds by subject. Each cell is the mean over {draws} draws, with their standard
deviation. No interval by subject: the columns are judged on the same subjects. AUROC: mean over classes; kappa:
quadratic weights; MAE: points. Of the skin, where nobody names the patients, ten neighbouring files count as one.
Copies that were found later are among the subjects, so that they are a few more than on other pages.
"""
FIGURES = {"classification": "AUROC", "ordinal": "kappa", "regression": "MAE"}


def half_width(rng: np.random.Generator, subjects: int, metric: str, *, area: float, share: float) -> float:
    """Half the width of the interval of one simulated study; NaN if it has none.

    Args:
        area: the AUROC of the model; share: the share of subjects of the positive class.
    """
    truth = (np.arange(subjects) < max(2, round(share * subjects))).astype(float)
    # Two normal distributions of this distance have this area under the ROC curve.
    score = rng.normal(size=subjects) + np.sqrt(2) * norm.ppf(area) * (truth - 0.5)
    positive = 1 / (1 + np.exp(-score))
    values = np.column_stack([1 - positive, positive])
    folds = 1 + rng.permutation(subjects) % FOLDS
    rows = check(network_rows("network", "oof", folds, np.arange(subjects), truth, "classification", values))
    outcomes = Outcomes("label", classes={"label": ["no", "yes"]}, positive={"label": "yes"})
    figure = evaluate(rows, outcomes, Plan(200)).figures.of("oof", "network", "label")[metric]
    return float("nan") if figure.low is None else (figure.high - figure.low) / 2


def width_rows(studies: int) -> list[list[str]]:
    """A line for each figure, with its half width by number of subjects."""
    designs = [("AUROC", "auroc", area, 0.5) for area in (0.7, 0.85, 0.95)]
    rows = []
    for title, metric, area, share in [*designs, ("sensitivity, of a model with AUROC", "sensitivity", 0.85, 0.2)]:
        cells = []
        for subjects in SUBJECTS:
            rng = np.random.default_rng([subjects, round(100 * area)])
            widths = [half_width(rng, subjects, metric, area=area, share=share) for _ in range(studies)]
            cells.append(f"±{np.nanmedian(widths):.2f}" if np.isfinite(widths).mean() > 0.5 else "none")
        rows.append([f"{title} {area:.2f}", *cells])
    return rows


def judged(truth: np.ndarray, predicted: np.ndarray, pack: Pack) -> float:
    """The figure of predictions: (N,) numbers, or (N, K) probabilities."""
    if pack.kind == "regression":
        return float(np.abs(truth - predicted[:, 0]).mean())
    if pack.kind == "ordinal":
        expected = predicted @ np.arange(predicted.shape[1])
        return float(cohen_kappa_score(truth.astype(int), np.rint(expected).astype(int), weights="quadratic"))
    return float(roc_auc_score(truth, predicted, multi_class="ovr"))


def drawn(rng: np.random.Generator, cases: pd.DataFrame, count: int, pack: Pack) -> np.ndarray | None:
    """The rows of random subjects with every class; None if there are too few subjects."""
    subjects = cases["subject"].unique()
    for _ in range(100 if len(subjects) >= count else 0):
        rows = np.flatnonzero(cases["subject"].isin(rng.choice(subjects, count, replace=False)))
        of_class = cases.iloc[rows].groupby("value")["subject"].nunique()
        if not pack.classes or (len(of_class) == len(pack.classes) and of_class.min() >= FEWEST_OF_CLASS):
            return rows
    return None


def learned(values: np.ndarray, cases: pd.DataFrame, pack: Pack, count: int, rng: np.random.Generator) -> float | None:
    """The figure of a model for each fold that is trained on so many of its subjects; None if there are too few."""
    labels, subjects = cases["value"].to_numpy(), cases["subject"].to_numpy()
    predicted = np.empty((len(labels), max(len(pack.classes), 1)))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(values, groups=subjects):
        rows = drawn(rng, cases.iloc[train], count, pack)
        if rows is None:
            return None
        train = train[rows]
        directions = Directions.of(values[train], most=DIRECTIONS)
        scores = (values - directions.centre) @ directions.back.T
        centre, scale = (0.0, 1.0) if pack.classes else (labels[train].mean(), labels[train].std())
        output = Output("label", pack.kind, len(pack.classes))
        model = linear_model(
            scores[train], (labels[train] - centre) / scale, subjects[train], output, standardise=False
        )
        raw = torch.from_numpy(scores[test] @ model.weight.T + model.bias)
        predicted[test] = NETWORK_KINDS[pack.kind].decode(raw).numpy().reshape(len(test), -1) * scale + centre
    return judged(labels, predicted, pack)


def curve_rows(data: object) -> list[list[str]]:
    """A line for each pack, with its figure by number of training subjects."""
    rows = []
    for name, pack in PACKS.items():
        cases = pack.read(data)
        values = features(pack, cases, data)
        cells = [name, FIGURES[pack.kind], str(cases["subject"].nunique())]
        for count in TRAINED_ON:
            figures = [learned(values, cases, pack, count, np.random.default_rng([count, n])) for n in range(DRAWS)]
            found = [figure for figure in figures if figure is not None]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else "–")
            print(name, count, cells[-1], flush=True)
        rows.append(cells)
    return rows


def main() -> None:
    """Simulate, train and write the page."""
    parser = simulation_parser(__doc__, 50)
    parser.add_argument("--data", type=type(DATA), default=DATA, help="the folder of the packs")
    options = parser.parse_args()
    widths, curves = width_rows(options.studies), curve_rows(options.data)
    of_085, films = dict(zip(SUBJECTS, widths[1][1:], strict=True)), dict(zip(TRAINED_ON, curves[0][3:], strict=True))
    said = {"fifty": of_085[50], "hundred": of_085[100], "most": of_085[500]}
    said |= {"few": films[50][:5], "middle": films[200][:5], "many": films[400][:5]}
    lines: Sequence[str] = [
        head_of(__doc__, **said) + WIDTHS.format(studies=options.studies),
        *table(["figure", *(f"{count:,} subjects" for count in SUBJECTS)], widths),
        CURVES.format(folds=FOLDS, draws=DRAWS),
        *table(["pack", "figure", "subjects", *map(str, TRAINED_ON)], curves),
    ]
    publish("\n".join(lines) + "\n", options.output)


if __name__ == "__main__":
    main()
