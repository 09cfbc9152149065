"""Prediction intervals and sets: their coverage with several cases of a subject, and where there is none."""

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import coverage
from casewise.inference.output_table import OutputTable
from casewise.predictions.conformal import (
    fewest_subjects,
    fit,
    fit_target,
    members,
    set_names,
    subject_quantile,
    with_sets,
)
from tests.prediction_rows import prediction_rows

PLAN = Plan(100, 0.95, 0)
STUDIES = 40


def rows_of(kind: str, subjects: np.ndarray, truth: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """Rows of one learner: `values` (N,) are predicted numbers, (N, C) are probabilities."""
    folds = np.unique(subjects, return_inverse=True)[1] % 5 + 1
    return prediction_rows(subjects, truth, values, folds=folds, kind=kind)


def as_test(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(stage="test", outer_fold=pd.array([pd.NA] * len(rows), dtype="Int64"))


def drawn_numbers(random: np.random.Generator, n: int) -> pd.DataFrame:
    """Errors that the cases of a subject share in large part; subjects with many cases have larger ones."""
    counts = random.choice([1, 2, 12], n)
    subjects, scale = np.repeat(np.arange(n), counts), np.where(counts == 12, 2.0, 1.0)
    error = (scale * random.normal(0, 1, n))[subjects] + random.normal(0, 0.5, len(subjects))
    truth = random.normal(0, 3, len(subjects))
    return rows_of("regression", subjects, truth, truth + error)


def growing_errors(random: np.random.Generator, n: int, growth: float) -> pd.DataFrame:
    """Numbers from 0 to 72, one case a subject, whose errors have a standard deviation of 6, or grow with the value."""
    truth = np.clip(random.gamma(1.5, 8, n), 0, 72)
    predicted = np.clip(truth + random.normal(0, 1 + growth * truth if growth else np.full(n, 6.0)), 0, 72)
    return rows_of("regression", np.arange(n), truth, predicted)


def drawn_classes(random: np.random.Generator, n: int) -> pd.DataFrame:
    """Three classes, the last one rare and hard; the cases of a subject have one class and a shared difficulty."""
    of_subject = random.choice(3, n, p=[0.6, 0.25, 0.15])
    subjects = np.repeat(np.arange(n), random.choice([1, 2, 8], n))
    truth = of_subject[subjects]
    logits = random.normal(0, 1.0, (n, 3))[subjects] + random.normal(0, 0.4, (len(subjects), 3))
    logits[np.arange(len(subjects)), truth] += np.array([2.5, 1.5, 0.5])[truth]
    p = np.exp(logits)
    return rows_of("classification", subjects, truth, p / p.sum(axis=1, keepdims=True))


def mean_by_subject(values: np.ndarray, subjects: pd.Series) -> float:
    return float(pd.Series(values).groupby(subjects.to_numpy()).mean().mean())


def test_only_rows_out_of_fold_calibrate() -> None:
    rows = drawn_numbers(np.random.default_rng(0), 60)
    far = rows.assign(y_pred=rows["y_pred"] + 100)
    others = [as_test(far), far.assign(inner_fold=pd.array([1] * len(rows), dtype="Int64"))]
    assert fit(pd.concat([rows, *others], ignore_index=True), {"outcome": (-50, 50)}, 0.9) == fit(
        rows, {"outcome": (-50, 50)}, 0.9
    )


class TestCoverage:
    def test_of_numbers_with_several_cases_of_a_subject(self) -> None:
        shares, by_rows = [], []
        for seed in range(STUDIES):
            random = np.random.default_rng(seed)
            record = fit(drawn_numbers(random, 60), {"outcome": (-50, 50)}, 0.9)
            new = with_sets(as_test(drawn_numbers(random, 300)), record)
            right = ((new["y_true"] >= new["low"]) & (new["y_true"] <= new["high"])).to_numpy(dtype=float)
            shares.append(mean_by_subject(right, new["subject"]))
            by_rows.append(right.mean())
        assert np.mean(shares) >= 0.88
        # subjects with many cases have larger errors here, so that cases need a larger quantile than subjects
        assert 0.88 <= np.mean(by_rows) <= 0.92

    def test_of_every_class(self) -> None:
        shares: dict[int, list[float]] = {number: [] for number in range(3)}
        every = []
        for seed in range(STUDIES):
            random = np.random.default_rng(seed)
            record, new = fit(drawn_classes(random, 400), {}, 0.9), as_test(drawn_classes(random, 200))
            inside = members(new, record["learners"]["net"]["outcome"])
            right = inside[np.arange(len(new)), new["y_true"].astype(int)].astype(float)
            every.append(mean_by_subject(right, new["subject"]))
            for number, of_class in shares.items():
                mask = (new["y_true"] == number).to_numpy()
                of_class.append(mean_by_subject(right[mask], new["subject"][mask]))
        assert 0.88 <= np.mean(every) <= 0.94
        assert min(float(np.mean(of_class)) for of_class in shares.values()) >= 0.89

    def test_observed_in_the_test_set_and_across_folds(self) -> None:
        random = np.random.default_rng(0)
        own, new = drawn_numbers(random, 80), as_test(drawn_numbers(random, 200))
        record = fit(own, {"outcome": (-50, 50)}, 0.9)
        with_test = coverage(pd.concat([own, new]), "net", record, {}, PLAN)["targets"]["outcome"].stages
        assert set(with_test) == {"test"}
        sets = with_sets(new, record)
        right = ((sets["y_true"] >= sets["low"]) & (sets["y_true"] <= sets["high"])).to_numpy(dtype=float)
        figure = with_test["test"]["coverage"]
        assert figure.value == pytest.approx(mean_by_subject(right, sets["subject"]))
        assert figure.low < figure.value < figure.high
        assert (figure.n_subjects, figure.n_cases) == (200, len(new))
        alone = coverage(own, "net", record, {}, PLAN)["targets"]["outcome"].stages
        assert set(alone) == {"oof"}
        first, others = own[own["outer_fold"] == 1], fit(own[own["outer_fold"] != 1], {"outcome": (-50, 50)}, 0.9)
        assert others["learners"] != record["learners"]
        only = coverage(pd.concat([own[own["outer_fold"] != 1], as_test(first)]), "net", others, {}, PLAN)
        ends = with_sets(as_test(first), others)
        assert only["targets"]["outcome"].stages["test"]["width"].value == pytest.approx(
            mean_by_subject((ends["high"] - ends["low"]).to_numpy(), ends["subject"])
        )


class TestWidths:
    @pytest.mark.parametrize("growth", [0.0, 0.25])
    def test_suffice_in_each_band_of_the_reference_whether_errors_grow_or_not(self, growth: float) -> None:
        """Intervals of one width cover 75 % of the upper third where errors grow."""
        shares, widths = [], []
        for seed in range(STUDIES):
            random = np.random.default_rng(seed)
            record = fit(growing_errors(random, 60, growth), {"outcome": (0, 72)}, 0.9)
            new = with_sets(as_test(growing_errors(random, 400, growth)), record)
            right = ((new["y_true"] >= new["low"]) & (new["y_true"] <= new["high"])).to_numpy(dtype=float)
            thirds = np.digitize(new["y_true"], np.quantile(new["y_true"], [1 / 3, 2 / 3]))
            shares.append([right.mean(), *(right[thirds == third].mean() for third in range(3))])
            width, lower = (new["high"] - new["low"]).to_numpy(), new["y_pred"] < new["y_pred"].median()
            widths.append([width[lower].mean(), width[~lower].mean()])
        assert np.mean(shares, axis=0).min() >= 0.88
        assert np.mean(shares, axis=0)[0] <= 0.94
        below, above = np.mean(widths, axis=0)
        assert above > 1.7 * below or not growth

    def test_have_no_scale_by_chance_where_predictions_are_constant(self) -> None:
        constant = 0
        for seed in range(STUDIES):
            random = np.random.default_rng(seed)
            rows = growing_errors(random, 100, 0.0)
            mean = rows["y_true"].mean()
            for values in (mean, mean * (1 + 1e-7 * random.normal(size=100)), mean + rows["outer_fold"].astype(float)):
                entry = fit(rows.assign(y_pred=values), {"outcome": (0, 72)}, 0.9)["learners"]["net"]["outcome"]
                constant += "scale" in entry
        assert constant == 0

    def test_have_no_scale_with_two_folds_whose_coverage_is_of_the_same_rule(self) -> None:
        rows = growing_errors(np.random.default_rng(0), 90, 0.25)
        for folds in (2, 3):
            own = rows.assign(outer_fold=pd.array(np.arange(90) % folds + 1, dtype="Int64"))
            record = fit(own, {"outcome": (-500, 500)}, 0.9)
            assert ("scale" in record["learners"]["net"]["outcome"]) == (folds == 3)
            bounds = [band["upper"] for band in record["learners"]["net"]["outcome"]["bands"][:-1]]
            widths = []
            for fold in range(1, folds + 1):
                others = own[own["outer_fold"] != fold]
                entry = fit_target(others, (-500, 500), 0.9, bounds, fewest_folds=2)
                assert ("scale" in entry) == (folds == 3)
                ends = with_sets(
                    as_test(own[own["outer_fold"] == fold]), record | {"learners": {"net": {"outcome": entry}}}
                )
                widths += (ends["high"] - ends["low"]).tolist()
            observed = coverage(own, "net", record, {}, PLAN)["targets"]["outcome"].stages["oof"]["width"]
            assert observed.value == pytest.approx(np.mean(widths))

    def test_of_a_record_without_bands_are_constant_within_the_scale(self) -> None:
        entry = {"subjects": 20, "rows": 20, "quantile": 3.0, "range": [0.0, 72.0]}
        record = {"level": 0.9, "fewest": 9, "learners": {"net": {"outcome": entry}}}
        rows = as_test(rows_of("regression", np.arange(3), np.zeros(3), np.array([1.0, 30.0, 71.0])))
        new = with_sets(rows, record)
        assert (new["low"].tolist(), new["high"].tolist()) == ([0.0, 27.0, 68.0], [4.0, 33.0, 72.0])
        scale = {"predicted": [10.0, 50.0], "error": [1.0, 5.0]}
        bands = [{"upper": 20.0, "quantile": 2.0}, {"upper": None, "quantile": 4.0}]
        record["learners"]["net"]["outcome"] = entry | {"scale": scale, "bands": bands}
        new = with_sets(rows, record)
        # 30 is expected to be off by 3: by up to 6 in the lower band, which excludes it, and 12 in the upper one
        assert (new["low"].tolist(), new["high"].tolist()) == ([0.0, 20.0, 51.0], [3.0, 42.0, 72.0])

    def test_of_a_record_without_bands_are_constant_out_of_fold(self) -> None:
        rows = growing_errors(np.random.default_rng(0), 90, 0.25)
        entry = fit(rows, {"outcome": (-500, 500)}, 0.9)["learners"]["net"]["outcome"]
        constant = {name: value for name, value in entry.items() if name not in ("bands", "scale")}
        widths = []
        for own in (constant, entry):
            record = {"level": 0.9, "fewest": 9, "learners": {"net": {"outcome": own}}}
            bands = coverage(rows, "net", record, {}, PLAN)["targets"]["outcome"].stages["oof"].bands
            widths.append([band.width.value for band in bands])
        assert max(widths[0]) < 1.1 * min(widths[0])  # each fold has its own
        assert widths[1][2] > 2 * widths[1][0]

    def test_bands_of_too_few_subjects_are_joined(self) -> None:
        rows = growing_errors(np.random.default_rng(0), 60, 0.25)
        highest = np.sort(rows["y_true"])
        record = fit(rows, {"outcome": (0, 72)}, 0.9, {"outcome": [highest[3], highest[30], highest[-5]]})
        bands = record["learners"]["net"]["outcome"]["bands"]
        assert [band["upper"] for band in bands] == [highest[30], None]
        assert sum(band["subjects"] for band in bands) == 60
        (alone,) = fit(rows, {"outcome": (0, 72)}, 0.9, {"outcome": []})["learners"]["net"]["outcome"]["bands"]
        assert (alone["upper"], alone["subjects"]) == (None, 60)

    def test_coverage_by_band_is_of_the_cases_in_it(self) -> None:
        random = np.random.default_rng(0)
        rows = growing_errors(random, 90, 0.25)
        record = fit(rows, {"outcome": (0, 72)}, 0.9)
        new = as_test(growing_errors(random, 200, 0.25))
        stated = {"mild": 0.0, "severe": 12.0}
        by_name = coverage(pd.concat([rows, new]), "net", record, {}, PLAN, bands={"outcome": stated})
        bands = by_name["targets"]["outcome"].stages["test"].bands
        assert [(band.name, band.low, band.high) for band in bands] == [("mild", None, 12.0), ("severe", 12.0, None)]
        ends = with_sets(new, record)
        severe = ends[ends["y_true"] >= 12]
        right = (severe["y_true"] >= severe["low"]) & (severe["y_true"] <= severe["high"])
        assert bands[1].coverage.value == pytest.approx(right.mean())
        assert (bands[1].coverage.n_subjects, bands[1].coverage.n_cases) == (len(severe), len(severe))
        assert bands[1].width.value == pytest.approx((severe["high"] - severe["low"]).mean())
        thirds = coverage(rows, "net", record, {}, PLAN)["targets"]["outcome"].stages["oof"].bands
        assert [band.coverage.n_cases for band in thirds] == [30, 30, 30]


class TestQuantile:
    def test_many_easy_cases_of_a_subject_weigh_as_much_as_one(self) -> None:
        scores, subjects = np.arange(1.0, 20.0), np.arange(19)
        alone = subject_quantile(scores, subjects, 0.9)
        assert alone == 18.0
        repeated = subject_quantile(np.append(scores, np.full(50, 1.0)), np.append(subjects, np.zeros(50)), 0.9)
        assert repeated == alone
        assert subject_quantile(np.append(scores, np.full(50, 18.5)), np.append(subjects, np.zeros(50)), 0.9) == 18.5

    @pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
    def test_too_few_subjects_have_none(self, level: float) -> None:
        fewest = fewest_subjects(level)
        scores = np.linspace(0, 1, 3 * fewest)
        for subjects, exists in ((fewest, True), (fewest - 1, False)):
            own = np.arange(3 * fewest) % subjects
            assert (subject_quantile(scores, own, level) is not None) is exists


class TestSets:
    def test_a_class_of_too_few_subjects_is_in_every_set(self) -> None:
        rows = drawn_classes(np.random.default_rng(1), 60)
        rare = rows["y_true"] == 2
        kept = rows.loc[rare, "subject"].unique()[:3]
        rows = rows[~rare | rows["subject"].isin(kept)]
        record = fit(rows, {}, 0.9)
        quantiles = [part["quantile"] for part in record["learners"]["net"]["outcome"]["classes"]]
        assert [quantile is None for quantile in quantiles] == [False, False, True]
        new = with_sets(as_test(rows), record)
        assert all("2" in text.split() for text in new["set"])
        assert not all("1" in text.split() for text in new["set"])
        table = OutputTable({"outcome": ["well", "ill", "rare"]}, [], record)
        assert "rare (3 subjects" in table.interval_note("net", "outcome")
        assert "ill" not in table.interval_note("net", "outcome")

    def test_a_set_contains_the_prediction_and_grades_have_no_gaps(self) -> None:
        p, truth = np.tile([[0.05, 0.0, 0.9, 0.05], [0.9, 0.05, 0.0, 0.05]], (20, 1)), np.tile([2, 0], 20)
        rows = rows_of("ordinal", np.arange(40), truth, p)
        quantiles = {"classes": [{"quantile": q, "subjects": 20, "rows": 20} for q in (0.96, 0.1, 0.05, 0.1)]}
        record = {"level": 0.9, "fewest": 9, "learners": {"net": {"outcome": quantiles}}}
        new = with_sets(as_test(rows), record)
        assert new["set"].tolist()[:2] == ["0 1 2", "0"]
        assert with_sets(as_test(rows.assign(kind="classification")), record)["set"].tolist()[:2] == ["0 2", "0"]
        # the prediction belongs to the set although its own quantile would exclude it
        assert rows["y_pred"].tolist()[:2] == [2.0, 0.0]
        assert set_names("0 2", ["a", "b", "c"]) == "a | c"

    def test_a_case_that_no_class_fits_is_doubtful(self) -> None:
        rows = rows_of("classification", np.arange(20), np.zeros(20, int), np.tile([0.1, 0.6, 0.3], (20, 1)))
        classes = [{"quantile": q, "subjects": 20, "rows": 20} for q in (0.85, 0.1, 0.6)]
        record = {"level": 0.9, "fewest": 9, "learners": {"net": {"outcome": {"classes": classes}}}}
        # the two that come closest, and the prediction
        assert set(with_sets(as_test(rows), record)["set"]) == {"0 1 2"}
        record["learners"]["net"]["outcome"]["classes"][1]["quantile"] = 0.5  # fits
        assert set(with_sets(as_test(rows), record)["set"]) == {"1"}

    def test_a_case_without_a_finite_prediction_has_no_set(self) -> None:
        rows = drawn_classes(np.random.default_rng(1), 60)
        new = as_test(rows)
        new.loc[new.index[0], ["p0", "p1", "p2", "y_pred"]] = np.nan
        assert with_sets(new, fit(rows, {}, 0.9))["set"].iloc[0] == ""
