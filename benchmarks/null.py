"""How often is signal found where there is none, and how often is one of equal learners called better?

    python benchmarks/null.py [--studies 250] [--output docs/results/null.md]

The first table simulates studies whose labels have nothing to do with the images: subjects with three visits, features
and labels that are alike within a subject, and ridge or logistic regressions on features in place of networks, each
with half of its features in common with the others. They are trained on all folds but one, as networks are, combined,
evaluated and reported by the functions that casewise itself uses. Counted are the studies in which the lower end of an
interval is above chance: a concordance (CCC) or quadratic kappa above 0, an AUROC above 0.5. The second table
simulates networks and baselines with the same expected error, and counts the studies in which the best network is
called better than the best baseline.

The third table is of images that know nothing, or something, beside age and sex. Each simulated study has a
covariate with signal and a network whose out-of-fold predictions are noise around the mean of its training labels, as
those of a network that learned nothing. A study counts where the interval of the difference between the joined model
and the covariates lies on the side of the images.

The fourth table is of combinations of networks with signal. Networks of different quality, some too confident, predict
the cases of a study, on which the weighted mean is fitted, and new cases, on which it is compared with the network that
is best on them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pages import publish, simulation_parser, table
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.headline import primary_contrast
from casewise.evaluation.judges import judge_of
from casewise.predictions.covariates import fit_covariates
from casewise.predictions.stacking import EITHER_SIGN, STACKERS, stack
from casewise.predictions.table import check
from casewise.study.learners import COMBINED, COVARIATES, JOINED
from casewise.targets import kind_named

VISITS, FEATURES, PENALTY = 3, 40, 30.0
CHANCE = {"ccc": 0.0, "auroc": 0.5, "kappa_quadratic": 0.0}
HIGHEST = 20.0
NOMINAL = 0.05
KIND = "classification"


@dataclass(frozen=True)
class Design:
    """A study without signal; `tested`: the subjects of its test set, on which stackers of either sign are judged."""

    subjects: int
    folds: int
    networks: int
    kind: str = "regression"
    n_classes: int = 0
    tested: int = 0

    @property
    def title(self) -> str:
        """Its line of the table."""
        labels = {0: "numbers", 2: "two classes"}.get(self.n_classes, f"{self.n_classes} grades")
        tested = f", {self.tested} in a test set" if self.tested else ""
        return f"{labels}: {self.subjects} subjects{tested}, {self.folds} folds, {self.networks} networks"

    @property
    def stackers(self) -> list[str]:
        """Those that the kind of target has and that can be judged."""
        names = kind_named(self.kind).stackers
        return [name for name in names if self.tested or name not in EITHER_SIGN]


DESIGNS = (
    Design(20, 3, 3),
    Design(30, 5, 3),
    Design(60, 5, 8),
    Design(60, 5, 3, "classification", 2),
    Design(60, 5, 3, "ordinal", 3),
    Design(30, 5, 3, tested=30),
    Design(60, 5, 3, "classification", 2, tested=30),
)


def study(rng: np.random.Generator, design: Design) -> pd.DataFrame:
    """The predictions of the networks of one study."""
    n_subjects = design.subjects + design.tested
    subject = np.repeat(np.arange(n_subjects), VISITS)
    fold = (rng.permutation(design.subjects) % design.folds + 1).tolist() + [0] * design.tested
    fold_of_row = np.array(fold)[subject]
    severity = _within(rng, subject, 1)[:, 0]
    if design.n_classes:
        cuts = np.quantile(severity, np.linspace(0, 1, design.n_classes + 1)[1:-1])
        truth = np.searchsorted(cuts, severity).astype(float)
    else:
        truth = np.clip(HIGHEST / 2 + 3 * severity, 0, HIGHEST)
    common = _within(rng, subject, FEATURES // 2)
    tables = []
    for network in range(design.networks):
        features = np.hstack([common, _within(rng, subject, FEATURES // 2)])
        for left_out in range(1, design.folds + 1):
            training = (fold_of_row != left_out) & (fold_of_row > 0)
            for stage, rows in (("oof", fold_of_row == left_out), ("test", fold_of_row == 0)):
                if rows.any():
                    values = _fitted(design, features[training], truth[training], features[rows])
                    tables.append(
                        network_rows(f"net{network}", stage, left_out, subject[rows], truth[rows], design.kind, values)
                    )
    return check(pd.concat(tables, ignore_index=True))


def _within(rng: np.random.Generator, subject: np.ndarray, width: int) -> np.ndarray:
    """Random values (N, width) that are alike within a subject."""
    return rng.normal(0, 1, (subject[-1] + 1, width))[subject] + rng.normal(0, 0.6, (len(subject), width))


def _fitted(design: Design, training: np.ndarray, truth: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Predictions (N, 1), or probabilities (N, K)."""
    if not design.n_classes:
        return np.clip(Ridge(alpha=PENALTY).fit(training, truth).predict(features), 0, HIGHEST)[:, None]
    model = LogisticRegression(C=1 / PENALTY).fit(training, truth.astype(int))
    probabilities = np.zeros((len(features), design.n_classes))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities


def network_rows(
    model: str, stage: str, fold: Any, subject: np.ndarray, truth: np.ndarray, kind: str, values: np.ndarray
) -> pd.DataFrame:
    """Rows of a network; a subject has at most `VISITS` cases, one after another."""
    names, visits = pd.Series(subject).map("{:03d}".format), pd.Series(subject).groupby(subject).cumcount().astype(str)
    rows = pd.DataFrame({"case": names + "/" + visits, "subject": names, "visit": visits, "day": np.nan})
    rows = rows.assign(region="", image="", model=model, stage=stage, outer_fold=fold, inner_fold=pd.NA)
    rows = rows.assign(target="label", kind=kind, y_true=truth, y_pred=kind_named(kind).decide(values))
    return rows.assign(**{f"p{n}": values[:, n] for n in range(values.shape[1]) if values.shape[1] > 1})


def found_signal(design: Design, studies: int, *, seed: int = 0) -> dict[str, float]:
    """By learner, the share of studies without signal in which its interval lies above chance; also of the headline."""
    rng = np.random.default_rng([seed, DESIGNS.index(design)])
    above: dict[str, list[bool]] = defaultdict(list)
    kind = kind_named(design.kind)
    ranges = {"label": (0.0, float(design.n_classes - 1) if design.n_classes else HIGHEST)}
    outcomes = Outcomes(
        "label", classes={"label": [str(n) for n in range(design.n_classes)]} if design.n_classes else {}
    )
    for _ in range(studies):
        predictions = study(rng, design)
        combined = stack(predictions, design.stackers, ranges=ranges).rows
        results = evaluate(pd.concat([predictions, combined], ignore_index=True), outcomes, Plan(100))
        stage = str(results.main.stage)
        for learner in results.learners(stage):
            low = results.figures.of(stage, learner, "label")[kind.merit].low
            is_above = low is not None and low > CHANCE[kind.merit]
            above["networks" if learner not in COMBINED else learner].append(is_above)
            if learner == results.main.learner:
                above["headline"].append(is_above)
    return {learner: float(np.mean(values)) for learner, values in above.items()}


def called_better(studies: int, *, subjects: int, networks: int, baselines: int = 2, seed: int = 0) -> float:
    """The share of studies in which the best of equal networks is called better than the best of equal baselines."""
    rng = np.random.default_rng([seed, subjects, networks])
    baselines_of = ["linear_pixels", "linear_features", "kernel_features"]
    names = [*(f"net{n}" for n in range(networks)), *baselines_of[:baselines]]
    better = []
    for _ in range(studies):
        subject = np.repeat(np.arange(subjects), VISITS)
        truth = _within(rng, subject, 1)[:, 0]
        shared, own = _within(rng, subject, 1), _within(rng, subject, len(names))
        predicted = truth[:, None] + 0.35 * shared + 0.35 * own
        fold = 1 + subject % 5
        tables = [
            network_rows(name, "oof", number, subject[fold == number], truth[fold == number], "regression", values)
            for name, column in zip(names, predicted.T, strict=True)
            for number in range(1, 6)
            for values in [column[fold == number][:, None]]
        ]
        results = evaluate(pd.concat(tables, ignore_index=True), Outcomes("label"), Plan(500))
        ccc = {name: results.figures.of("oof", name, "label")["ccc"].value for name in results.learners("oof")}
        best = max(names[:networks], key=lambda name: ccc[name])
        contrast = primary_contrast(results.figures, replace(results.main, learner=best))
        gap = results.figures.contrasts("oof", "label").gap("ccc", best, contrast.baseline) if contrast else None
        better.append(bool(gap and not gap.open and gap.value > 0))
    return float(np.mean(better))


def with_covariates(
    rng: np.random.Generator, kind: str, subjects: int, image: float, age: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Out-of-fold predictions of a network, and the covariates; `image` and `age` are the signal in each."""
    ages, sexes = rng.normal(60, 10, subjects), rng.choice(["f", "m"], subjects)
    seen, folds = rng.normal(size=subjects), np.arange(subjects) % 5
    score = age * (ages - 60) / 10 + image * seen + rng.normal(size=subjects)
    truth = np.clip(score + 5, 0, 10) if kind == "regression" else (score > np.median(score)).astype(float)
    learned = np.array([truth[folds != fold].mean() for fold in folds])
    if kind == "regression":
        values = np.clip(learned + 0.8 * seen, 0, 10)[:, None]
    else:
        positive = 1 / (1 + np.exp(-(np.log(learned / (1 - learned)) + seen)))
        values = np.column_stack([1 - positive, positive])
    rows = check(network_rows("network", "oof", folds, np.arange(subjects), truth, kind, values))
    cells = pd.DataFrame({"age": [f"{value:.1f}" for value in ages], "sex": sexes}, index=rows["case"].tolist())
    cells.loc[rng.random(subjects) < 0.1, "age"] = ""
    return rows, cells


def added_value(
    kind: str, metric: str, studies: int, *, image: float, age: float = 1.0, subjects: int = 100
) -> tuple[float, float]:
    """The shares of studies in which the joined model is shown to be better, or worse, than the covariates."""
    shown = []
    for seed in range(studies):
        rows, cells = with_covariates(np.random.default_rng(seed), kind, subjects, image, age)
        columns = {"age": "number", "sex": "category"}
        fitted = fit_covariates(rows, ["network"], cells, columns, {"label": (0.0, 10.0)})
        every = pd.concat([rows, fitted.rows], ignore_index=True)
        judgement = judge_of(every, ["no", "yes"] if kind != "regression" else None)
        compared = judgement.judge(every, Plan(500, seed=seed), whole=True).compare()
        gap, sign = compared.gap(metric, JOINED, COVARIATES), -1 if metric in ("mae", "log_loss") else 1
        assert gap
        low, high = sorted(sign * end for end in (gap.low or 0.0, gap.high or 0.0))
        shown.append((low > 0, high < 0))
    better, worse = np.mean(shown, axis=0).tolist()
    return better, worse


def added_values(studies: int) -> list[list[str]]:
    """For each outcome, without and with signal in the images: the shares of studies, for the page."""
    outcomes = {("regression", "mae"): "number, MAE", ("classification", "auroc"): "two classes, AUROC",
                ("classification", "log_loss"): "two classes, log loss"}  # fmt: skip
    return [
        [title, words, *(f"{share:.1%}" for share in added_value(kind, metric, studies, image=image))]
        for (kind, metric), title in outcomes.items()
        for image, words in ((0.0, "no"), (1.0, "yes"))
    ]


@dataclass(frozen=True)
class Members:
    """Networks that are combined: the distances of their outputs for the two classes, in standard deviations.

    Attributes:
        confidence: factors of the logits; 1 is calibrated.
        together: the correlation of the networks' errors.
    """

    title: str
    distances: tuple[float, ...]
    confidence: tuple[float, ...]
    together: float

    def draw(self, rng: np.random.Generator, cases: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,), and the probabilities (N, networks) of the second class."""
        truth, common = rng.integers(0, 2, cases), rng.normal(size=(cases, 1))
        own = rng.normal(size=(cases, len(self.distances)))
        outputs = np.outer(truth - 0.5, self.distances) + self.together**0.5 * common + (1 - self.together) ** 0.5 * own
        return truth, 1 / (1 + np.exp(-outputs * np.maximum(self.distances, 1.0) * self.confidence))


MEMBERS = [
    Members("alike", (1.6, 1.5, 1.5), (1, 1, 1), 0.5),
    Members("one worse", (1.6, 1.5, 1.0), (1, 1, 1), 0.5),
    Members("one poor and too confident", (2.0, 1.9, 0.9), (1, 1, 2.5), 0.4),
    Members("two poor, one of them too confident", (1.6, 1.5, 1.0, 0.7), (1, 1, 2.5, 0.3), 0.5),
    Members("one good, two at chance", (1.6, 0.0, 0.0), (1, 1.5, 1.5), 0.3),
    Members("all weak", (0.4, 0.3, 0.2), (1, 1.5, 2), 0.3),
]
NEW_CASES, TOLERANCE = 2000, 0.003


def behind_best(members: Members, studies: int, *, subjects: int, seed: int = 0) -> list[str]:
    """The weighted mean minus the best network on new cases: AUROC, the share of studies below, and log loss."""
    rng = np.random.default_rng([seed, MEMBERS.index(members), subjects])
    gains = []
    for _ in range(studies):
        tables = []
        for stage, count in (("oof", subjects), ("test", NEW_CASES)):
            truth, second = members.draw(rng, count)
            folds = np.arange(count) % 5 + 1 if stage == "oof" else np.ones(count, int)
            people = np.arange(count) + (stage == "test") * subjects
            for number, values in enumerate(second.T):
                both = np.stack([1 - values, values], axis=1)
                rows = [
                    network_rows(f"net{number}", stage, fold, people[own], truth[own].astype(float), KIND, both[own])
                    for fold in np.unique(folds)
                    for own in [folds == fold]
                ]
                tables += rows
        combined = stack(check(pd.concat(tables, ignore_index=True)), ["weighted"], ranges={"label": (0.0, 1.0)}).rows
        of_case = combined[combined["stage"] == "test"].set_index("case")["p1"]
        mean = of_case[[f"{number:03d}/0" for number in range(subjects, subjects + NEW_CASES)]].to_numpy()
        learners = [mean, *second.T]
        areas = [roc_auc_score(truth, values) for values in learners]
        losses = [log_loss(truth, values) for values in learners]
        gains.append((areas[0] - max(areas[1:]), losses[0] - min(losses[1:])))
    area, loss = np.array(gains).T
    return [f"{area.mean():+.3f}", f"{(area < -TOLERANCE).mean():.0%}", f"{loss.mean():+.3f}"]


def page(
    shares: dict[Design, dict[str, float]],
    better: dict[tuple[int, int], float],
    added: list[list[str]],
    behind: list[list[str]],
    studies: int,
) -> str:
    """The Markdown page."""
    learners = ["networks", *(s.learner for s in STACKERS.values()), "headline"]
    columns = [name for name in learners if any(name in of_design for of_design in shares.values())]
    error = 1.96 * np.sqrt(NOMINAL * (1 - NOMINAL) / studies)
    rows = [
        [design.title, *(f"{of_design[name]:.1%}" if name in of_design else "" for name in columns)]
        for design, of_design in shares.items()
    ]
    lines = [
        "# How often is signal found where there is none?",
        "",
        f"{studies:,} simulated studies of each design, without any relation of labels and images. Each cell is "
        "the share of studies in which the lower end of the 95 % interval of a learner lies above chance; `networks` "
        f"is the mean over the networks. The aim is at most {NOMINAL:.0%}, and chance moves a share of {NOMINAL:.0%} "
        f"by ± {error:.1%}. Without a test set, "
        "combinations with weights of either sign are not judged, so they have no cell; with one, all figures are "
        "those of the test set. The headline is the learner that the report is about. Out of fold, intervals take the "
        "trained networks as given, although the networks of all folds share most of their training cases: the shares "
        "may therefore lie above the 2.5 % of one side of an interval, for single networks as well.",
        "",
        *table(["design", *(COMBINED.get(name, name) for name in columns)], rows),
        "",
        "## One of equal networks called better",
        "",
        "Networks and two baselines with the same expected error: the share of studies in which the network with the "
        "best CCC is said to be better than the best baseline. Nominal: at most 2.5 %, because only one direction is "
        "counted.",
        "",
        *table(["subjects", "networks", "called better"], [[*size, f"{share:.1%}"] for size, share in better.items()]),
        "",
        "## Images that seem to add to age and sex",
        "",
        "100 subjects with two covariates, one of which has signal: the share of studies in which covariates and "
        "images together are shown to be better, or worse, than the covariates alone (95 % intervals by subject). "
        "Nominal, where images show nothing: at most 2.5 % better.",
        "",
        *table(["outcome and metric", "images show the outcome", "shown better", "shown worse"], added),
        "",
        "## The weighted mean beside its best member",
        "",
        f"Networks that find two classes, combined on the out-of-fold predictions of a study and judged on "
        f"{NEW_CASES:,} new cases: the weighted mean minus the network that is best on the new cases. Below: the share "
        f"of studies in which the AUROC of the mean is more than {TOLERANCE} lower.",
        "",
        *table(["networks", "subjects", "AUROC", "below", "log loss"], behind),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, print and write the page."""
    options = simulation_parser(__doc__, 250).parse_args()
    shares = {}
    for design in DESIGNS:
        shares[design] = found_signal(design, options.studies)
        print(design.title, {name: round(share, 3) for name, share in shares[design].items()}, flush=True)
    sizes = ((40, 5), (100, 5), (100, 29))
    better = {size: called_better(options.studies, subjects=size[0], networks=size[1]) for size in sizes}
    behind = [
        [members.title, str(subjects), *behind_best(members, options.studies // 5, subjects=subjects)]
        for members in MEMBERS
        for subjects in (60, 150, 300, 700)
    ]
    publish(page(shares, better, added_values(options.studies), behind, options.studies), options.output)


if __name__ == "__main__":
    main()
