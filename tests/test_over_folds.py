"""Figures within each fold: their mean and spread, and the AUROC beside the pooled one."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from sklearn.metrics import accuracy_score, precision_score, recall_score

from casewise.evaluation.bootstrap import Plan, draw, draw_within
from casewise.evaluation.caveats import POOLED_GAP
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.external import drop
from casewise.evaluation.figures import FOLD, Figures
from casewise.evaluation.judges import over_folds
from casewise.metrics.classes import Classes, Samples, class_metrics
from casewise.metrics.registry import metric_of
from casewise.metrics.roc import auroc_within, drawn_curve, ranking
from tests.prediction_rows import prediction_rows


def predicted(seed: int = 0, *, folds: int = 4, each: int = 20) -> pd.DataFrame:
    drawn, count = np.random.default_rng(seed), folds * each
    truth = np.concatenate([drawn.permutation(np.arange(each) % 3) for _ in range(folds)])
    subjects, folds_of = [f"s{n // 2}" for n in range(count)], np.repeat(np.arange(folds) + 1, each)
    options = {"folds": folds_of, "target": "label"}
    shares = {model: drawn.dirichlet([1, 1, 1], count) for model in ("net", "other")}
    rows = [prediction_rows(subjects, truth, p, model=model, **options) for model, p in shares.items()]
    return pd.concat(rows, ignore_index=True)


def by_fold(found: Figures, metric: str) -> list[float | None]:
    return [own[metric].value for own in found.select(contrast="").cells.values()]


def test_classes_as_scikit_learn_has_them() -> None:
    table = predicted()
    found = over_folds(table, ["label"], {"label": ["a", "b", "c"]})
    for model, rows in table.groupby("model"):
        for name, function in (
            ("accuracy", accuracy_score),
            ("precision", lambda t, p: precision_score(t, p, average="macro", zero_division=0)),
            ("recall", lambda t, p: recall_score(t, p, average="macro")),
        ):
            each = [function(part["y_true"], part["y_pred"]) for _, part in rows.groupby("outer_fold")]
            assert by_fold(found.select(learner=model), name) == pytest.approx(each)
            mean, sd = (found.of("oof", model, "label", FOLD, contrast=end)[name].value for end in ("mean", "sd"))
            assert (mean, sd) == pytest.approx((np.mean(each), np.std(each, ddof=1)))


def test_numbers() -> None:
    table = predicted().assign(kind="regression", p0=np.nan, p1=np.nan, p2=np.nan)
    table["y_pred"] += np.random.default_rng(1).normal(size=len(table))
    told = over_folds(table, ["label"]).select(learner="net")
    parts = [part for _, part in table[table["model"] == "net"].groupby("outer_fold")]
    errors = [(part["y_true"] - part["y_pred"]).abs().mean() for part in parts]
    assert by_fold(told, "mae") == pytest.approx(errors)
    correlations = [np.corrcoef(part["y_true"], part["y_pred"])[0, 1] for part in parts]
    assert by_fold(told, "pcc") == pytest.approx(correlations)


def test_test_rows_unscored_rows_and_single_folds_are_left_out() -> None:
    table = predicted()
    tested = table.head(5).assign(stage="test", outer_fold=pd.array([pd.NA] * 5, dtype="Int64"))
    unscored = table.head(5).assign(case="x", y_true=np.nan)
    more = pd.concat([table, tested, unscored], ignore_index=True)
    assert over_folds(more, ["label"]) == over_folds(table, ["label"])
    assert not over_folds(table[table["outer_fold"] == 1], ["label"])


FOLDS = 5


def rows(probability: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """Out-of-fold rows of two classes, one case a subject; `probability` is that of the positive class, the second."""
    subjects, values = [f"s{n:03d}" for n in range(len(truth))], np.stack([1 - probability, probability], axis=1)
    return prediction_rows(subjects, truth, values, folds=folds, target="dx", case=subjects)


def judged(table: pd.DataFrame, resamples: int = 300) -> dict[str, Any]:
    outcomes = Outcomes("dx", classes={"dx": ("without", "with")}, positive={"dx": "with"})
    return evaluate(table, outcomes, Plan(resamples))


def uncalibrated(shift: float, skill: float = 1.2, subjects: int = 100) -> pd.DataFrame:
    """Networks of five folds with the same skill, each shifted by its own amount."""
    rng = np.random.default_rng(0)
    folds, truth = np.arange(subjects) % FOLDS + 1, (np.arange(subjects) // FOLDS % 2).astype(int)
    logit = skill * truth + rng.normal(0, 1, subjects) + shift * (folds - 3)
    return rows(1 / (1 + np.exp(-logit)), truth, folds)


def test_a_constant_in_each_fold_is_chance() -> None:
    rng, folds = np.random.default_rng(1), np.arange(90) % FOLDS + 1
    truth = (rng.random(90) < 0.3).astype(int)
    # each network predicts the share of the class among its training subjects, which is high where its fold is low
    share = np.array([truth[folds != fold].mean() for fold in range(1, FOLDS + 1)])
    figures = judged(rows(share[folds - 1], truth, folds)).figures.of("oof", "net", "dx")
    assert (figures["auroc"].value, figures["auroc"].low, figures["auroc"].high) == (0.5, None, None)
    assert figures["auroc"].reason
    assert figures["auroc_pooled"].value < 0.45
    assert metric_of("auroc").chance == 0.5


def test_calibrations_of_the_folds_do_not_matter() -> None:
    plain, shifted = judged(uncalibrated(0)), judged(uncalibrated(1.5))
    of = [found.figures.of("oof", "net", "dx") for found in (plain, shifted)]
    assert of[0]["auroc"] == of[1]["auroc"]
    assert of[1]["auroc_pooled"].value < of[1]["auroc"].value - POOLED_GAP
    notes = [[note for note in found.notes if note["code"] == "auroc_parts"] for found in (plain, shifted)]
    assert (notes[0], notes[1][0]["learner"], notes[1][0]["within"]) == ([], "net", of[1]["auroc"].value)
    assert notes[1][0]["pooled"] == of[1]["auroc_pooled"].value


def test_it_is_the_mean_over_the_folds_by_their_pairs() -> None:
    rng = np.random.default_rng(2)
    folds, truth = rng.integers(0, 4, 80), rng.integers(0, 3, 80)
    truth[folds == 3] = 0  # a fold without pairs of the other classes among themselves
    p, names = rng.dirichlet(np.ones(3), 80)[:, None], np.array([f"s{n:02d}" for n in range(80)])
    some = Samples(truth, p.argmax(-1), p, np.full_like(p, np.nan), names, folds[:, None])
    weights, classes = rng.integers(0, 3, (6, 80)).astype(float), Classes(("a", "b", "c"))
    found = class_metrics(some, classes, weights)
    pooled = class_metrics(Samples(truth, p.argmax(-1), p, some.calibrated, names), classes, weights)
    for number, name in enumerate("abc"):
        for resample, w in enumerate(weights):
            areas, pairs = [], []
            for fold in range(4):
                there = (folds == fold) & (w > 0)
                of_class = truth[there] == number
                if of_class.any() and not of_class.all():
                    areas.append(sk.roc_auc_score(of_class, p[there, 0, number], sample_weight=w[there]))
                    pairs.append(w[there][of_class].sum() * w[there][~of_class].sum())
            assert found[f"auroc[{name}]"][resample, 0] == pytest.approx(np.average(areas, weights=pairs))
        assert np.array_equal(found[f"auroc_pooled[{name}]"], pooled[f"auroc[{name}]"])
    assert np.array_equal(found["auprc"], pooled["auprc"])
    assert "auroc_pooled" not in pooled


@pytest.mark.parametrize("ties", [False, True])
def test_the_drawn_curve_has_the_area_that_is_stated(ties: bool) -> None:
    rng = np.random.default_rng(3)
    folds, of_class = rng.integers(0, 4, 150), rng.random(150) < 0.3
    scores = rng.normal(0, 1, 150) + of_class + folds
    scores = np.round(scores, 0) if ties else scores
    curve = drawn_curve(scores, of_class, folds, most=10_000)
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(auroc_within(scores, of_class, np.arange(150), folds, np.ones((1, 150)))[0])
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    assert (np.diff(curve["fpr"]) >= 0).all()
    assert (np.diff(curve["tpr"]) >= -1e-12).all()
    one = drawn_curve(scores, of_class, np.zeros(150))
    assert one == drawn_curve(scores, of_class)
    assert np.trapezoid(one["tpr"], one["fpr"]) == pytest.approx(
        ranking(scores, of_class, np.arange(150), np.ones((1, 150))).auroc[0]
    )


def test_a_fold_without_the_class_does_not_count() -> None:
    table = uncalibrated(0.5)
    table.loc[table["outer_fold"] == 1, "y_true"] = 0.0
    figures = judged(table).figures.of("oof", "net", "dx")
    rest = judged(table[table["outer_fold"] != 1]).figures.of("oof", "net", "dx")
    assert figures["auroc"].value == rest["auroc"].value
    apart = table.assign(y_true=(table["outer_fold"] == 1).astype(float))
    undefined = judged(apart).figures.of("oof", "net", "dx")
    assert undefined["auroc"].value is None
    assert undefined["auroc"].reason.startswith("no fold has cases of a class")
    assert undefined["auroc_pooled"].value is not None


def test_folds_keep_their_numbers_of_subjects() -> None:
    folds = (0, 1, 1, 0, 2, 2, 2, 0)
    counts, factor = draw_within(folds, Plan(400))
    for fold in range(3):
        members = np.array(folds) == fold
        assert (counts[:, members].sum(axis=1) == members.sum()).all()
    assert factor == pytest.approx(np.sqrt(8 / 5))
    # with the factor, the mean of a fold varies as much as that of as many new subjects
    values = np.random.default_rng(4).normal(0, 1, 300)
    in_pairs, widening = draw_within(tuple(np.arange(300) // 2), Plan(4000))
    assert widening * (in_pairs @ values).std() / 300 == pytest.approx(values.std() / np.sqrt(300), rel=0.15)
    alone, none = draw_within((0, 1, 2), Plan(50))
    assert none == 1.0
    assert np.array_equal(alone, draw(3, Plan(50)))


def test_a_test_set_is_ranked_as_a_whole() -> None:
    inside = uncalibrated(1.5)
    outside = inside.assign(stage="test", outer_fold=pd.array([pd.NA] * len(inside), dtype="Int64"))
    outside["subject"] = outside["case"] = "t" + outside["subject"]
    figures = judged(pd.concat([inside, outside])).figures
    oof, test = (figures.of(stage, "net", "dx") for stage in ("oof", "test"))
    assert test["auroc"].value == oof["auroc_pooled"].value
    assert "auroc_pooled" not in test
    external = pd.concat([inside, outside.assign(stage="external")])
    lost = drop(external, "dx", classes=("without", "with"), positive="with", plan=Plan(100))
    (cell,) = lost.cells
    assert (cell.group, cell.contrast) == ("oof", "internal")
    assert lost.cells[cell]["auroc"].value == pytest.approx(test["auroc"].value - oof["auroc"].value, abs=1e-5)
