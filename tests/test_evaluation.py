"""All figures of a study together, as they stand in metrics.json."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.caveats import apart_on_test
from casewise.evaluation.evaluate import FollowUp, Outcomes, evaluate
from casewise.evaluation.figures import READERS, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.metrics_file import decoded, encoded
from casewise.evaluation.results import Results
from casewise.metrics.registry import metric_of, metrics_of
from casewise.predictions.scores import apply_scores
from casewise.predictions.table import check
from casewise.study.scores import Score
from tests.prediction_rows import metric_value


def codes(found: Results) -> set[str]:
    """The codes of the caveats."""
    return {note["code"] for note in found.notes}


NUMBER_METRICS = [metric.name for metric in metrics_of("regression")]

REGIONS = ("upper", "trunk", "lower")
SCORES = [
    Score("composite", "severity * area", "region", 0, 24),
    Score("pasi", "0.2*composite[upper] + 0.3*composite[trunk] + 0.4*composite[lower]", "case", 0, 24),
]
ERRORS = {"good": 0.3, "fair": 0.9, "poor": 2.0}


def study(*, subjects: int = 24, test_subjects: int = 6, seed: int = 0, errors: dict = ERRORS) -> pd.DataFrame:
    """Three learners of known merit; four visits that get better; the test rows come from two networks each."""
    rng, n = np.random.default_rng(seed), subjects + test_subjects
    frame = pd.MultiIndex.from_product(
        [range(n), range(4), REGIONS, ("severity", "area")], names=["number", "week", "region", "target"]
    ).to_frame(index=False)
    frame["subject"] = [f"s{number}" for number in frame["number"]]
    frame["visit"] = [f"week {4 * week}" for week in frame["week"]]
    frame["case"] = frame["subject"] + "/" + frame["visit"]
    frame["day"] = 28.0 * frame["week"]
    top, start = np.where(frame["target"] == "severity", 4, 6), rng.uniform(0.5, 1, n)[frame["number"]]
    frame["y_true"] = np.round(top * start * 0.5 ** frame["week"] * rng.uniform(0.8, 1, len(frame)))
    parts = []
    for model, error in errors.items():
        for fold in (0, 1):
            rows = frame.assign(model=model, outer_fold=fold, inner_fold=None, image="")
            rows["y_pred"] = np.clip(frame["y_true"] + rng.normal(0, error, len(frame)), 0, top)
            test = rows["number"] >= subjects
            parts.append(rows[test].assign(stage="test"))
            parts.append(rows[~test & (rows["number"] % 2 == fold)].assign(stage="oof"))
    table = check(pd.concat(parts, ignore_index=True).drop(columns=["number", "week"]))
    return apply_scores(table, SCORES)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return study()


@pytest.fixture(scope="module")
def told(table: pd.DataFrame) -> Results:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"bands": {"clear": 0, "mild": 1, "severe": 10}, "follow_up": FollowUp()}
        return evaluate(table, Outcomes("pasi"), Plan(300), **options)


def test_every_learner_and_key_has_every_metric_with_its_interval(told: Results) -> None:
    places = ("", "[upper]", "[trunk]", "[lower]")
    keys = [f"{target}{where}" for target in ("severity", "area", "composite") for where in places]
    for stage, n_subjects in (("oof", 24), ("test", 6)):
        assert set(told.learners(stage)) == set(ERRORS)
        for learner in ERRORS:
            assert told.figures.names("target", stage=stage, learner=learner) == [*keys, "pasi"]
            for key in (*keys, "pasi"):
                metrics = told.figures.of(stage, learner, key)
                regions = 1 if "[" in key or key == "pasi" else 3
                assert set(metrics) == set(NUMBER_METRICS)
                for name, figure in metrics.items():
                    assert figure.low <= figure.value <= figure.high
                    assert (figure.n_subjects, figure.n_cases) == (n_subjects, 4 * regions * n_subjects)
                    assert figure.rough == (n_subjects < metric_of(name).rough_below)
    assert decoded(json.loads(json.dumps(encoded(told), allow_nan=False))) == told


def test_the_figures_are_those_of_the_mean_of_the_networks(table: pd.DataFrame, told: Results) -> None:
    rows = table[(table["stage"] == "test") & (table["model"] == "fair")]
    for key, part in {
        "pasi": rows[rows["target"] == "pasi"],
        "area[trunk]": rows[(rows["target"] == "area") & (rows["region"] == "trunk")],
        "severity": rows[rows["target"] == "severity"],
    }.items():
        means = part.groupby(["case", "region"])[["y_true", "y_pred"]].mean()
        for name in NUMBER_METRICS:
            expected = metric_value(name, means["y_true"].to_numpy(), means["y_pred"].to_numpy())
            assert told.figures.of("test", "fair", key)[name].value == pytest.approx(expected, rel=1e-5)


def test_the_headline_is_chosen_out_of_fold(told: Results) -> None:
    main = told.main
    assert (main.target, main.stage, main.learner, main.chosen_on) == ("pasi", "test", "good", "oof")
    assert told.headline == told.figures.of("test", "good", "pasi")


def test_without_a_stage_to_choose_on_the_headline_is_not_chosen(table: pd.DataFrame) -> None:
    tested, out_of_fold = (table[table["stage"] == stage] for stage in ("test", "oof"))
    results, first = evaluate(tested, Outcomes("pasi"), Plan(50)), str(tested["model"].iloc[0])
    assert (results.main.learner, results.main.chosen_on) == (first, "stated")
    assert results.response == {}
    for rows in (out_of_fold, out_of_fold[::-1]):
        results = evaluate(rows, Outcomes("pasi"), Plan(50))
        assert results.main.learner == rows["model"].iloc[0]
    mean = out_of_fold[out_of_fold["model"] == "poor"].assign(model="mean_of_learners")
    weighted = mean.assign(model="meta_learner_weighted")
    for others, learner in (([mean], "mean_of_learners"), ([mean, weighted], "meta_learner_weighted")):
        results = evaluate(pd.concat([out_of_fold, *others]), Outcomes("pasi"), Plan(50))
        assert (results.main.learner, results.main.chosen_on) == (learner, "stated")


def test_bands_and_response(told: Results) -> None:
    assert told.bands.lower_bounds == {"clear": 0, "mild": 1, "severe": 10}
    band = told.bands.stages["oof"]
    assert np.sum(band["good"].confusion) == 96
    assert band["good"].kappa.value > band["poor"].kappa.value
    found = told.response["test"]["good"]
    assert (found.n_visits, set(found.responders)) == (18, {"50", "75", "90", "100"})
    assert list(found.by_visit) == ["week 4", "week 8", "week 12"]


def test_readers_stand_beside_the_learners(table: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    cases = table[table["target"] == "pasi"].drop_duplicates("case")[["case", "target", "y_true"]]
    readers = pd.concat(
        [cases.assign(reader=r, value=cases["y_true"] + rng.normal(0, 1, len(cases))) for r in ("senior", "junior")]
    ).drop(columns="y_true")
    found = evaluate(table, Outcomes("pasi"), Plan(50), readers=readers, follow_up=FollowUp()).figures
    for stage, count in (("all", 120), ("test", 24)):
        assert found.of(stage, "", "pasi", READERS, "junior | senior")["mae"].n_cases == count
    assert found.of("test", "good", "pasi", READERS, contrast="senior")["mae"].n_cases == 24
    # readers score cases, so that those of a target by region have no prediction to be compared with
    regional = evaluate(table, Outcomes("area"), Plan(50), readers=readers.assign(target="area"))
    assert set(regional.figures.names("learner", population=READERS)) <= {""}
    assert "readers_at_other_level" in codes(regional)


def test_one_subject_with_one_visit_is_no_failure(table: pd.DataFrame) -> None:
    alone = table[(table["case"] == "s0/week 0") & (table["stage"] == "oof")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(alone, Outcomes("pasi"), Plan(50), bands={"clear": 0, "mild": 1}, follow_up=FollowUp())
    mae = found.figures.of("oof", "good", "pasi")["mae"]
    assert mae.value is not None
    assert (mae.low, mae.high, mae.rough) == (None, None, True)
    assert found.figures.of("oof", "good", "pasi")["ccc"].reason == "1 values; 3 are needed"
    json.dumps(encoded(found), allow_nan=False)


def test_of_several_images_of_a_case_each_is_evaluated_and_bands_are_of_cases(table: pd.DataFrame) -> None:
    one = table[(table["target"] == "pasi") & (table["stage"] == "oof")]
    films = pd.concat([one.assign(image=f"film{n}", y_pred=one["y_pred"] + n) for n in (0, 1)])
    found = evaluate(films, Outcomes("pasi"), Plan(50), bands={"clear": 0, "mild": 1}, follow_up=FollowUp())
    assert found.figures.of("oof", "good", "pasi")["mae"].n_cases == 2 * 96
    assert np.sum(found.bands.stages["oof"]["good"].confusion) == 96
    assert found.response["oof"]["good"].n_visits == 72


def test_a_main_outcome_by_region_has_no_response(table: pd.DataFrame) -> None:
    found = evaluate(table, Outcomes("composite"), Plan(50), bands={"clear": 0, "mild": 1}, follow_up=FollowUp())
    assert found.response == {} == found.bands.stages
    named = evaluate(table, Outcomes("pasi", ["area"]), Plan(50)).figures.names("target", stage="oof")
    assert named == ["area", "area[upper]", "area[trunk]", "area[lower]", "pasi"]


def test_the_same_seed_gives_the_same_figures(table: pd.DataFrame) -> None:
    some = table
    first, again, others = (evaluate(some, Outcomes("pasi"), Plan(99, seed=n), follow_up=FollowUp()) for n in (1, 1, 2))
    assert first == again
    assert first.figures.contrasts("oof", "pasi") != others.figures.contrasts("oof", "pasi")
    # figures and their intervals need no random numbers
    assert all(one.figures.select(contrast="") == first.figures.select(contrast="") for one in (again, others))
    shuffled = some.sample(frac=1, random_state=0)
    mixed = evaluate(shuffled, Outcomes("pasi"), Plan(100, seed=1)).figures.of("test", "good", "pasi")["mae"]
    assert mixed == first.figures.of("test", "good", "pasi")["mae"]


@pytest.mark.parametrize(
    ("tested", "learners", "subjects", "told"),
    [(0.6, 1, 80, True), (0.8, 1, 80, False), (0.95, 1, 80, False), (0.6, 1, 9, False), (0.72, 33, 80, False)],
)
def test_a_fall_beyond_chance_is_told(tested: float, learners: int, subjects: int, told: bool) -> None:
    def figures(value: float, half: float, n: int) -> ByMetric:
        return {"kappa_quadratic": Estimate(value, value - half, value + half, n, n, False)}

    cells = {Cell("oof", f"m{n}", "grade"): figures(0.86, 0.08, 80) for n in range(learners)}
    cells[Cell("test", "m0", "grade")] = figures(tested, 0.1, subjects)
    found = apart_on_test(Figures(cells), "grade", "m0", "kappa_quadratic", worse=True)
    assert bool(found) is told
    if told:
        assert (found[0]["code"], found[0]["test"]["value"]) == ("test_below_oof", tested)
    assert apart_on_test(Figures(cells).select(stage="oof"), "grade", "m0", "kappa_quadratic", worse=True) == []


@pytest.mark.parametrize(
    ("metric", "tested", "worse", "better"),
    [
        ("accuracy", 0.95, False, True),
        ("accuracy", 0.5, True, False),
        ("mae", 0.95, True, False),
        ("mae", 0.5, False, True),
    ],
)
def test_a_test_set_beyond_the_folds_on_either_side_is_told(
    metric: str, tested: float, worse: bool, better: bool
) -> None:
    cells = {
        Cell(stage, "m", "t"): {metric: Estimate(value, value - 0.08, value + 0.08, 80, 80, False)}
        for stage, value in (("oof", 0.73), ("test", tested))
    }
    assert bool(apart_on_test(Figures(cells), "t", "m", metric, worse=True)) is worse
    assert bool(apart_on_test(Figures(cells), "t", "m", metric, worse=False)) is better


def test_without_a_difference_few_test_sets_are_called_apart() -> None:
    """Two correlated metrics, both ways, of a learner chosen among four: at most 5 % and its Monte Carlo error."""
    draw, error, told = np.random.default_rng(5), 0.05, 0
    for _ in range(2000):
        cells = {}
        for stage in ("oof", "test"):
            common = draw.normal(size=(4, 1)) * 0.8**0.5
            values = 0.8 + error * (common + draw.normal(size=(4, 2)) * 0.2**0.5)
            for n, own in enumerate(values):
                names = zip(("auroc", "accuracy"), own.tolist(), strict=True)
                half = 1.96 * error
                cells[Cell(stage, f"m{n}", "t")] = {
                    name: Estimate(value, value - half, value + half, 80, 80, False) for name, value in names
                }
        best = max(range(4), key=lambda n: cells[Cell("oof", f"m{n}", "t")]["auroc"].value or 0)
        told += any(
            apart_on_test(Figures(cells), "t", f"m{best}", name, worse=worse, n_metrics=2)
            for name in ("auroc", "accuracy")
            for worse in (True, False)
        )
    assert told / 2000 <= 0.05 + 0.01
