"""Classes and grades: every figure against scikit-learn or a closed form, honest intervals, nothing chosen on test."""

import itertools
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import Plan, draw
from casewise.evaluation.caveats import caveat
from casewise.evaluation.classification import classes_of, judge_classes, widen
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.metrics_file import decoded, encoded
from casewise.evaluation.results import Results
from casewise.evaluation.thresholds import choose_threshold
from casewise.metrics.calibration import fit_temperature, scaled
from casewise.metrics.classes import Classes, Samples, class_metrics
from casewise.metrics.registry import metric_of
from casewise.metrics.roc import curve
from casewise.targets import kind_named

OF_ALL = ("accuracy", "top2_accuracy", "log_loss", "brier", "recall[pneumonia]")
NAMES = ("covid", "none", "pneumonia", "other", "unclear")


def table(
    *,
    subjects: int = 60,
    test_subjects: int = 0,
    each: int = 1,
    k: int = 3,
    skill: dict[str, float] | None = None,
    kind: str = "classification",
    seed: int = 0,
) -> pd.DataFrame:
    """Learners of known merit, each too sure of itself; a subject's cases share their class and most of their noise."""
    rng, number = np.random.default_rng(seed), np.repeat(np.arange(subjects + test_subjects), each)
    truth = rng.permutation(np.arange(subjects + test_subjects) % k)[number]
    frame = pd.DataFrame({"subject": [f"s{n:04d}" for n in number], "visit": np.arange(len(number)).astype(str)})
    frame["case"] = frame["subject"] + "/" + frame["visit"]
    frame = frame.assign(y_true=truth.astype(float), target="dx", kind=kind, day=np.nan, region="", image="")
    frame = frame.assign(inner_fold=pd.NA, stage=np.where(number < subjects, "oof", "test"))
    frame["outer_fold"] = pd.array([n % 3 if n < subjects else None for n in number], dtype="Int64")
    parts = []
    for model, strength in (skill or {"good": 2.0, "fair": 1.0, "poor": 0.2}).items():
        own = rng.normal(size=(subjects + test_subjects, k))[number]
        logits = 2 * (own + 0.3 * rng.normal(size=own.shape) + strength * np.eye(k)[truth])
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        rows = frame.assign(model=model, y_pred=kind_named(kind).decide(p))
        parts.append(rows.assign(**{f"p{n}": p[:, n] for n in range(k)}))
    return pd.concat(parts, ignore_index=True)


def samples(k: int, seed: int, n: int = 150) -> tuple[Samples, np.ndarray]:
    """Probabilities with many ties, of two learners, and the number of each case's subject."""
    rng = np.random.default_rng(seed)
    truth, p = rng.integers(0, k, n), rng.multinomial(12, rng.dirichlet(np.ones(k), (n, 2))) / 12
    p[:, 1] = 0.5 * p[:, 1] + 0.5 * np.eye(k)[truth] * rng.integers(0, 2, (n, 1)) + 0.0
    p /= p.sum(axis=-1, keepdims=True)
    subject = rng.integers(0, 40, n)
    subject[:40] = np.arange(40)
    names = np.array([f"s{number:02d}" for number in subject])
    return Samples(truth, p.argmax(-1), p, scaled(p, np.full(p.shape[:2], 1.7)), names), subject


def expected(truth: np.ndarray, given: np.ndarray, p: np.ndarray, w: np.ndarray, kind: str) -> dict[str, float]:
    """The figures by scikit-learn, the positive class of two being the first."""
    k, labels = p.shape[1], list(range(p.shape[1]))
    found = {
        "accuracy": sk.accuracy_score(truth, given, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, given, sample_weight=w),
        "kappa": sk.cohen_kappa_score(truth, given, labels=labels, sample_weight=w),
        "log_loss": sk.log_loss(truth, p, labels=labels, sample_weight=w),
        "brier": np.average(((p - np.eye(k)[truth]) ** 2).sum(axis=1), weights=w),
    }
    for average, keys in ((None, [f"[{name}]" for name in NAMES[:k]]), ("macro", [""])):
        told = sk.precision_recall_fscore_support(
            truth, given, labels=labels, average=average, sample_weight=w, zero_division=0
        )
        for name, values in zip(("precision", "recall", "f1"), told[:3], strict=True):
            found |= {name + key: value for key, value in zip(keys, np.atleast_1d(values), strict=True)}
    scores = p if k > 2 else np.stack([p[:, 0], -p[:, 0]], axis=1)
    for n in labels:
        found[f"auroc[{NAMES[n]}]"] = sk.roc_auc_score(truth == n, scores[:, n], sample_weight=w)
        found[f"auprc[{NAMES[n]}]"] = sk.average_precision_score(truth == n, scores[:, n], sample_weight=w)
    for name in ("auroc", "auprc"):
        found[name] = np.mean([found[f"{name}[{c}]"] for c in NAMES[:k]])
    if k > 2:
        found["auroc"] = sk.roc_auc_score(truth, p, multi_class="ovr", labels=labels, sample_weight=w)
    if k > 2 and kind == "classification":
        # scikit-learn lets the last of equals go before; here the first does, as it is the one decided for
        found["top2_accuracy"] = sk.top_k_accuracy_score(k - 1 - truth, p[:, ::-1], k=2, labels=labels, sample_weight=w)
    if k == 2:
        found["sensitivity"] = sk.recall_score(truth, given, pos_label=0, sample_weight=w)
        found["specificity"] = sk.recall_score(truth, given, pos_label=1, sample_weight=w)
        found["npv"] = sk.precision_score(truth, given, pos_label=1, sample_weight=w)
        # the second label is the positive one
        ratios = sk.class_likelihood_ratios(truth, given, labels=[1, 0], sample_weight=w)
        found["lr_positive"], found["lr_negative"] = ratios
    if kind == "ordinal":
        found["kappa_quadratic"] = sk.cohen_kappa_score(
            truth, given, labels=labels, weights="quadratic", sample_weight=w
        )
        found["mae"] = sk.mean_absolute_error(truth, given, sample_weight=w)
    edges, top, right = np.linspace(0, 1, 16), p.max(axis=1), p.argmax(axis=1) == truth
    found["ece"] = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (top > low + 1e-9) & (top <= high + 1e-9)
        if w[inside].sum():
            gap = np.average(right[inside], weights=w[inside]) - np.average(top[inside], weights=w[inside])
            found["ece"] += w[inside].sum() / w.sum() * abs(gap)
    return found


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
@pytest.mark.parametrize("k", [2, 5])
def test_every_figure_is_scikit_learns_also_weighted(k: int, kind: str) -> None:
    some, subject = samples(k, seed=k)
    classes = Classes(NAMES[:k], kind, 0 if k == 2 else None)  # type: ignore[arg-type]
    counts = np.concatenate([np.ones((1, 40)), draw(40, Plan(5, seed=k))])
    found = class_metrics(some, classes, counts)
    for resample, weights in enumerate(counts):
        w = weights[subject]
        there = w > 0  # scikit-learn counts classes of weight zero as there
        for learner in (0, 1):
            truth, given = some.truth[there], some.decided[there, learner]
            theirs = expected(truth, given, some.probabilities[there, learner], w[there], kind)
            for ending in ("brier", "ece", "log_loss"):
                scaled_p = some.calibrated[there, learner]
                theirs[f"{ending}_calibrated"] = expected(truth, given, scaled_p, w[there], kind)[ending]
            assert set(theirs) == set(found)
            for name, value in theirs.items():
                assert found[name][resample, learner] == pytest.approx(value, abs=1e-9), (name, resample, learner)


def judge(rows: pd.DataFrame, names: tuple[str, ...] | None = None, **plan: Any) -> dict[str, Any]:
    classes = classes_of(rows, names, None)
    wide = widen(rows, classes, {}, crossed=True)
    return judge_classes(wide, classes, Plan(**{"resamples": 300, **plan}), comparing=False)[0]


def test_a_class_that_nobody_has_is_never_nought() -> None:
    rows = table(k=3)
    told = judge(rows[rows["y_true"] != 2], NAMES[:3])["good"]
    for name in ("auroc", "auprc", "precision", "recall", "f1", "balanced_accuracy"):
        assert told[name].value is None
        assert told[name].reason == "no case is truly pneumonia"
    for name in ("auroc", "auprc", "precision", "recall", "f1"):
        assert told[f"{name}[pneumonia]"].value is None
        assert told[f"{name}[covid]"].low <= told[f"{name}[covid]"].value <= told[f"{name}[covid]"].high
    assert told["accuracy"].low is not None
    one = judge(rows[rows["y_true"] == 0].assign(y_pred=0.0), NAMES[:3])["good"]
    assert one["auroc[covid]"].reason == "every case is truly covid"
    assert one["auroc"].reason == "no case is truly none or pneumonia"
    assert one["kappa"].reason == "all cases are in one class, on both sides"
    assert one["log_loss_calibrated"].reason.startswith("no temperature")


@pytest.mark.parametrize("left", [1, 2, 3, 10])
def test_figures_that_rest_on_a_class_of_few_subjects(left: int) -> None:
    rows = table(k=3)
    few = rows.loc[rows["y_true"] == 2, "subject"].unique()[:left]
    told = judge(rows[(rows["y_true"] != 2) | rows["subject"].isin(few)], NAMES[:3])["good"]
    # all other subjects carry a kappa too, and two subjects of a class can be ranked against all others
    fewest = {"auroc": 2, "auroc[pneumonia]": 2, "kappa": 1, "recall[pneumonia]": 3, "balanced_accuracy": 3, "f1": 3}
    for name, least in fewest.items():
        assert told[name].value is not None
        assert told[name].rough == (left < 10)
        assert (told[name].low is None) == (left < least) == bool(told[name].reason)
    for name in ("auroc[covid]", "recall[covid]", "accuracy", "log_loss"):
        assert (told[name].rough, told[name].reason) == (False, None)


def test_without_skill_the_area_covers_a_half() -> None:
    covered = 0
    for seed in range(60):
        rows = table(subjects=60, each=2, k=2, skill={"net": 0.0}, seed=seed)
        told = judge(rows)["net"]["auroc"]
        covered += told.low <= 0.5 <= told.high
    assert 52 <= covered <= 60


def test_the_temperature_is_the_one_that_the_logits_were_multiplied_with() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (honest.cumsum(axis=1) < rng.random((len(honest), 1))).sum(axis=1)
    too_sure = scaled(honest, np.full(len(honest), 1 / 2.5))
    temperature = fit_temperature(too_sure, truth)
    assert temperature == pytest.approx(2.5, rel=0.05)
    grid = np.exp(np.linspace(np.log(temperature) - 0.1, np.log(temperature) + 0.1, 41))
    losses = [sk.log_loss(truth, scaled(too_sure, np.full(len(truth), t))) for t in grid]
    assert int(np.argmin(losses)) == 20
    assert scaled(too_sure, np.full(len(truth), 2.5)) == pytest.approx(honest)
    assert fit_temperature(np.full((5, 2), 0.5), np.array([0, 1, 0, 1, 0])) == 1.0


def test_thresholds_are_those_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(1)
    of_class = rng.random(200) < 0.4
    scores = np.round(rng.normal(size=200) + of_class, 1)
    fpr, tpr, thresholds = sk.roc_curve(of_class, scores, drop_intermediate=False)
    for ours, theirs in zip(curve(scores, of_class), (fpr, tpr, thresholds), strict=True):
        assert ours == pytest.approx(theirs[1:])
    youden = choose_threshold(scores, of_class, None)
    assert (tpr - fpr)[thresholds == youden] == pytest.approx((tpr - fpr).max())
    reached = choose_threshold(scores, of_class, 0.9)
    taken = scores >= reached
    assert sk.recall_score(of_class, taken) >= 0.9 > sk.recall_score(of_class, scores > reached)
    assert np.isnan(choose_threshold(scores, np.ones(200), None))


@pytest.fixture(scope="module")
def told() -> Results:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = Outcomes("dx", classes={"dx": NAMES[:3]}, sensitivities=(0.9, 0.5))
        return evaluate(table(subjects=90, test_subjects=30), outcomes, Plan(300))


def test_a_study_of_classes_has_every_figure(told: Results) -> None:
    for stage, n in (("oof", 90), ("test", 30)):
        for learner in told.learners(stage):
            figures = told.figures.of(stage, learner, "dx")
            assert ("auroc_pooled" in figures) is (stage == "oof")
            for name, figure in figures.items():
                if metric_of(name).interval is None:
                    assert figure.low is figure.high is None
                else:
                    assert figure.low <= figure.value <= figure.high
                assert (figure.n_subjects, figure.n_cases) == (n, n)
                # of 30 test subjects 8 are of the first class
                assert figure.rough in ((False,) if stage == "oof" or name in OF_ALL else (False, True))
        block = told.classes[stage]["good"]["dx"]
        assert block["names"] == list(NAMES[:3])
        assert block.positive is None
        assert (block.support, np.sum(block.confusion)) == (np.sum(block.confusion, axis=1).tolist(), n)
        assert set(block.roc) == set(NAMES[:3])
        assert block.reliability
        assert block.reliability_calibrated
        rules = ["youden", "sensitivity >= 0.9", "sensitivity >= 0.5"]
        assert [(o.label, o.rule) for o in block.operating] == [(c, r) for c in NAMES[:3] for r in rules]
    compared = told.figures.contrasts("test", "dx").cells.values()
    assert {name for own in compared for name in own} == {"accuracy", "auroc", "f1", "log_loss"}
    found = told.figures.contrasts("oof", "dx")
    assert (found.best("auroc"), found.gap("auroc", "poor", "good").open) == ("good", False)
    assert found.gap("log_loss", "poor", found.best("log_loss")).low > 0
    main = told.main
    assert (main.kind, main.stage, main.learner, main.chosen_on) == ("classification", "test", "good", "oof")
    assert told.headline == told.figures.of("test", "good", "dx")
    assert decoded(json.loads(json.dumps(encoded(told), allow_nan=False))) == told


def test_nothing_is_chosen_on_the_cases_that_it_is_judged_on(told: Results) -> None:
    oof, test = (told.classes[stage]["good"]["dx"] for stage in ("oof", "test"))
    assert (oof["temperature_fitted_on"], test["temperature_fitted_on"]) == ("the other folds", "out of fold")
    rows = table(subjects=90, test_subjects=30)
    rows = rows[rows["model"] == "good"]
    out, new = rows[rows["stage"] == "oof"], rows[rows["stage"] == "test"]
    p, truth, folds = out[["p0", "p1", "p2"]].to_numpy(), out["y_true"].to_numpy(dtype=int), out["outer_fold"]
    assert test.temperature == pytest.approx(fit_temperature(p, truth), rel=1e-5)
    others = (folds != 1).to_numpy()
    assert oof["temperature_by_fold"]["1"] == pytest.approx(fit_temperature(p[others], truth[others]), rel=1e-5)
    figure = told.figures.of("test", "good", "dx")
    assert figure["log_loss_calibrated"].value < figure["log_loss"].value
    point = test.operating[1]
    assert point.threshold == choose_threshold(p[:, 0], truth == 0, 0.9)
    taken, is_covid = new["p0"].to_numpy() >= point.threshold, new["y_true"].to_numpy() == 0
    assert point.figures["sensitivity"].value == pytest.approx(taken[is_covid].mean(), rel=1e-5)
    assert point.figures["specificity"].value == pytest.approx(1 - taken[~is_covid].mean(), rel=1e-5)
    assert point.figures["precision"].value == pytest.approx(is_covid[taken].mean(), rel=1e-5)
    crossed = oof["operating"][1]
    by_row = np.array([crossed.threshold_by_fold[str(fold)] for fold in folds])
    assert crossed.threshold_by_fold["2"] == choose_threshold(
        p[(folds != 2).to_numpy(), 0], truth[(folds != 2).to_numpy()] == 0, 0.9
    )
    hit = (p[:, 0] >= by_row)[truth == 0].mean()
    assert crossed.figures["sensitivity"].value == pytest.approx(hit, rel=1e-5)


def test_of_two_classes_everything_is_about_the_positive_one() -> None:
    rows = table(subjects=90, k=2)
    found = evaluate(rows, Outcomes("dx", classes={"dx": ["covid", "none"]}, positive={"dx": "none"}), Plan(50))
    figure, block = found.figures.of("oof", "good", "dx"), found.classes["oof"]["good"]["dx"]
    assert (figure["sensitivity"], figure["specificity"]) == (figure["recall[none]"], figure["recall[covid]"])
    assert figure["auroc"].value == figure["auroc[covid]"].value == figure["auroc[none]"].value
    assert "top2_accuracy" not in figure
    assert (block.positive, list(block.roc)) == ("none", ["none"])
    assert {point.label for point in block.operating} == {"none"}


def test_thresholds_of_grades_are_of_a_grade_or_a_higher_one() -> None:
    rows = table(subjects=90, test_subjects=30, k=4, kind="ordinal")
    found = evaluate(rows, Outcomes("dx"), Plan(50)).classes["test"]["good"]["dx"].operating
    rows = rows[rows["model"] == "good"]
    out, new = rows[rows["stage"] == "oof"], rows[rows["stage"] == "test"]
    assert [point.label for point in found[::2]] == ["1 or higher", "2 or higher", "3"]
    for grade, point in enumerate(found[1::2], start=1):
        above = [f"p{n}" for n in range(grade, 4)]
        least = choose_threshold(out[above].sum(axis=1).to_numpy(), (out["y_true"] >= grade).to_numpy(), 0.9)
        taken, higher = (new[above].sum(axis=1) >= least).to_numpy(), (new["y_true"] >= grade).to_numpy()
        assert point.threshold == pytest.approx(least)
        assert point.figures["sensitivity"].value == pytest.approx(taken[higher].mean(), rel=1e-5)
        assert point.figures["specificity"].value == pytest.approx(1 - taken[~higher].mean(), rel=1e-5)


def test_grades_are_judged_by_their_distance() -> None:
    rows = table(subjects=90, k=5, kind="ordinal")
    found = evaluate(rows, Outcomes("dx"), Plan(50))
    figure = found.figures.of("oof", "good", "dx")
    assert "top2_accuracy" not in figure
    assert figure["mae"].value > 0
    assert found.figures.contrasts("oof", "dx").best("kappa_quadratic")
    assert found.main.kind == "ordinal"
    kappas = {name: found.figures.of("oof", name, "dx")["kappa_quadratic"].value for name in found.learners("oof")}
    assert found.main.learner == max(kappas, key=lambda name: kappas[name])


def test_a_missing_class_and_a_single_subject_are_said_and_no_failure() -> None:
    rows = table(test_subjects=12)
    gone = rows[(rows["stage"] == "oof") | (rows["y_true"] != 2)]
    found = evaluate(gone, Outcomes("dx", classes={"dx": NAMES[:3]}), Plan(50))
    assert caveat("class_missing", stage="test", target="dx", classes=["pneumonia"]) in found.notes
    assert "pneumonia" not in found.classes["test"]["good"]["dx"].roc
    assert found.classes["test"]["good"]["dx"].support[2] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = evaluate(rows[rows["subject"] == "s0001"], Outcomes("dx"), Plan(50))
    json.dumps([encoded(found), encoded(alone)], allow_nan=False)
    unknown = evaluate(rows.assign(y_true=np.nan), Outcomes("dx"), Plan(50))
    assert (unknown.stages, unknown.main.learner, unknown.main.kind) == ([], None, "classification")


def test_learners_are_compared_on_the_cases_that_all_predicted() -> None:
    rows = table(subjects=60)
    gaps = rows[~((rows["model"] == "poor") & (rows["subject"] < "s0006"))]
    found = evaluate(gaps, Outcomes("dx"), Plan(50))
    assert found.figures.of("oof", "poor", "dx")["auroc"].n_cases == 54
    assert found.figures.of("oof", "good", "dx")["auroc"].n_cases == 60
    of_all = found.figures.contrasts("oof", "dx")
    assert of_all.gap("auroc", "poor", of_all.best("auroc")).n_subjects == 54
    both = evaluate(rows[rows["subject"] >= "s0006"], Outcomes("dx"), Plan(50))
    assert of_all == both.figures.contrasts("oof", "dx")


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CasewiseError, match="2 classes"):
        evaluate(table(), Outcomes("dx", classes={"dx": ["covid", "none"]}))
    with pytest.raises(CasewiseError, match="'covd' is not one of two classes"):
        evaluate(table(k=2), Outcomes("dx", classes={"dx": ["covid", "none"]}, positive={"dx": "covd"}))
