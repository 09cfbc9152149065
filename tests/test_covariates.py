"""Covariates: read and checked with the cohort, fitted without the cases that they judge, and used for new cases."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from casewise.cohort.cohort import read_cohort
from casewise.errors import CasewiseError, CohortError
from casewise.pipeline.evaluate import added_value
from casewise.predictions.covariates import (
    CATEGORY,
    NUMBER,
    CovariateFit,
    Encoding,
    _spline,
    fit_covariates,
    image_model,
    with_covariates,
    without_gaps,
)
from casewise.predictions.table import check
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.learners import COVARIATES, JOINED
from tests.conftest import absolute
from tests.test_simulations import benchmark  # noqa: F401

CELLS = ["31", "", "52", "60", "44", "77", "", "58"]
SEXES = ["f", "m", "f", "", "m", "f", "m", "f"]
KINDS = {"age": NUMBER, "sex": CATEGORY}


def cohort(kind: str, classes: int = 0, *, subjects: int = 45, image: float = 1.0, seed: int = 0) -> Any:
    """Out-of-fold and test rows of one network, and the covariates of their cases."""
    rng = np.random.default_rng(seed)
    ages, sexes, seen = rng.normal(60, 10, subjects), rng.choice(["f", "m"], subjects), rng.normal(size=subjects)
    score = (ages - 60) / 10 + image * seen + rng.normal(0, 0.5, subjects)
    truth = np.clip(score + 5, 0, 10)
    if classes:
        truth = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)).astype(float)
    names, test = [f"s{number}/1" for number in range(subjects)], np.arange(subjects) >= 0.8 * subjects
    rows = pd.DataFrame({"case": names, "subject": names, "visit": "1", "day": 0.0, "region": "", "image": ""})
    rows = rows.assign(model="network", stage=np.where(test, "test", "oof"), inner_fold=None, target="outcome")
    rows = rows.assign(outer_fold=[None if t else n % 3 for n, t in enumerate(test)], y_true=truth, kind=kind)
    rows["y_pred"] = np.clip(5 + seen, 0, 10)
    if classes:
        weights = np.exp(np.outer(seen, np.arange(classes)))
        shares = weights / weights.sum(axis=1, keepdims=True)
        rows = rows.assign(y_pred=shares.argmax(axis=1), **{f"p{k}": shares[:, k] for k in range(classes)})
    cells = pd.DataFrame({"age": [f"{age:.1f}" for age in ages], "sex": sexes}, index=names)
    cells.loc[cells.index[::7], "age"] = ""
    return check(rows), cells


def fitted(rows: pd.DataFrame, cells: pd.DataFrame) -> CovariateFit:
    return fit_covariates(rows, ["network"], cells, KINDS, {"outcome": (0.0, 10.0)})


def of(rows: pd.DataFrame, learner: str, stage: str = "oof") -> pd.DataFrame:
    return rows[(rows["model"] == learner) & (rows["stage"] == stage)].set_index("case")


def test_encoded_as_a_pipeline_of_scikit_learn_does() -> None:
    frame = pd.DataFrame({"age": [float(cell) if cell else np.nan for cell in CELLS], "sex": SEXES})
    imputed = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    reference = make_column_transformer((imputed, ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["sex"]))
    expected = reference.fit_transform(frame)
    age, sex = Encoding.fit("age", NUMBER, CELLS), Encoding.fit("sex", CATEGORY, SEXES)
    assert (age.fill, age.encode(CELLS)[:, 0]) == (55.0, pytest.approx(expected[:, 0]))
    assert age.encode(CELLS)[:, -1] + age.centre[-1] == pytest.approx([float(cell == "") for cell in CELLS])
    assert sex.encode(SEXES) + sex.centre == pytest.approx(expected[:, 1:])
    # what the training rows lack counts as their mean, and is stated
    assert sex.encode(["x"]).tolist() == [[0.0, 0.0, 0.0]]
    assert age.encode(["old"])[0, 0] == age.encode(["55"])[0, 0]
    assert age.encode(["500"]) == pytest.approx(age.encode(["77"]))
    assert [bool(age.flag(cell)) for cell in ("500", "30.9", "31", "1e999")] == [True, True, False, True]
    flagged = [bool(each.flag(cell)) for each, cell in ((sex, "x"), (sex, "m"), (age, "old"), (age, "70"), (age, ""))]
    assert flagged == [True, False, True, False, True]
    # a restricted cubic spline is linear outside its knots, and has no constant and no linear part below them
    values = _spline(np.array([-5.0, 0.0, 3.0, 4.0, 5.0]), [0.0, 1.0, 2.0])
    assert (values[:2].tolist(), np.diff(values[2:], 2)) == ([0.0, 0.0], pytest.approx([0.0]))


def test_coefficients_are_those_of_scikit_learn() -> None:
    rows, cells = cohort("regression")
    entry, own = fitted(rows, cells).record["models"][COVARIATES]["outcome"], rows[rows["stage"] == "oof"]
    encodings = [Encoding(**each) for each in entry["columns"]]
    features = np.hstack([each.encode(cells.loc[own["case"], each.name].tolist()) for each in encodings])
    model = Ridge(alpha=entry["penalties"][0] * len(own)).fit(features, own["y_true"])
    assert entry["coefficients"][0] == pytest.approx(model.coef_.tolist())
    rows, cells = cohort("classification", 2)
    entry, own = fitted(rows, cells).record["models"][JOINED]["outcome"], rows[rows["stage"] == "oof"]
    logits = np.log(own["p1"] / own["p0"]).to_numpy()
    features = np.hstack([each.encode(cells.loc[own["case"], each.name].tolist()) for each in encodings])
    features = np.column_stack([features, (logits - logits.mean()) / logits.std()])
    model = LogisticRegression(C=1 / (entry["penalties"][0] * len(own)), tol=1e-10).fit(features, own["y_true"])
    assert entry["coefficients"][0] == pytest.approx(model.coef_[0].tolist(), abs=1e-3)


@pytest.mark.parametrize(("kind", "classes"), [("regression", 0), ("classification", 3), ("ordinal", 3)])
def test_a_fold_has_no_part_in_its_own_predictions(kind: str, classes: int) -> None:
    rows, cells = cohort(kind, classes)
    before = fitted(rows, cells)
    check(before.rows)
    first = (rows["stage"] == "oof") & (rows["outer_fold"] == 0)
    changed = rows.assign(y_true=rows["y_true"].where(~first, rows["y_true"].max() - rows["y_true"]))
    after, columns = fitted(changed, cells), [name for name in ("y_pred", "p0", "p1", "p2") if name in before.rows]
    for learner in (COVARIATES, JOINED):
        one, other = of(before.rows, learner), of(after.rows, learner)
        own = one.index.isin(rows.loc[first, "case"])
        assert np.array_equal(one.loc[own, columns], other.loc[own, columns])
        assert not np.allclose(one.loc[~own, columns], other.loc[~own, columns])
    # neither have cases of the test set, nor do their covariates
    test = rows.loc[rows["stage"] == "test", "case"]
    without = fitted(rows[rows["stage"] == "oof"], cells.drop(test))
    assert without.record == before.record
    # the record predicts the test set as the fit did
    new = rows[rows["stage"] == "test"].assign(distance=np.nan)
    again = with_covariates(new, before.record, cells)
    assert np.array_equal(of(again, JOINED, "test")[columns], of(before.rows, JOINED, "test")[columns])


def test_the_image_model_is_stated_before_any_result_and_never_inverted(tiny_study: Any) -> None:
    rows, cells = cohort("regression")
    worse = rows.assign(y_pred=10 - rows["y_pred"])
    entry = fitted(worse, cells).record["models"][JOINED]["outcome"]
    assert entry["coefficients"][0][-1] == 0.0
    assert of(fitted(worse, cells).rows, JOINED)["y_pred"].equals(of(fitted(worse, cells).rows, COVARIATES)["y_pred"])
    networks = rows.assign(model="test_resnet")
    assert image_model(tiny_study, networks) == ["test_resnet"]
    assert image_model(tiny_study, pd.concat([networks, networks.assign(model="meta_learner_weighted")])) == [
        "meta_learner_weighted"
    ]
    with pytest.raises(CasewiseError, match="fewer than two folds"):
        fitted(rows[(rows["outer_fold"] == 0).fillna(False)], cells)


def test_drawn_values_do_not_show_which_were_missing() -> None:
    rows, cells = cohort("classification", 2, subjects=120, seed=3)
    rng = np.random.default_rng(1)
    cells = cells.assign(age=[f"{age:.1f}" for age in rng.normal(60, 10, len(cells))], sex=rng.choice(["f", "m"], 120))
    ill = rows.drop_duplicates("case").set_index("case")["y_true"].reindex(cells.index).to_numpy() > 0
    for name in ("age", "sex"):
        gaps = cells.assign(**{name: cells[name].where(~ill, "")})
        areas = []
        for read in (gaps, without_gaps(gaps, seed=0)):
            own = of(fit_covariates(rows, ["network"], read, KINDS, {"outcome": (0.0, 1.0)}).rows, COVARIATES)
            areas.append(roc_auc_score(own["y_true"], own["p1"]))
        assert areas[0] > 0.95
        assert areas[1] < 0.65
    assert without_gaps(cells, seed=0).equals(cells)
    assert without_gaps(cells.assign(age=""), seed=0)["age"].eq("").all()


@pytest.fixture
def tiny_study(tiny: Path) -> Any:
    from casewise.study.loading import read_study

    return read_study(tiny)


def test_noise_seldom_adds_and_signal_does(benchmark: Any) -> None:  # noqa: F811
    added_value = benchmark("null").added_value
    assert added_value("regression", "mae", 5, image=0.0, subjects=60)[0] <= 1 / 5
    assert added_value("regression", "mae", 3, image=1.0, subjects=60)[0] >= 2 / 3


# ------------------------------------------------------------------------------------------------------------ cohorts


def chest_values(table: Path, folder: Path, **columns: Any) -> dict[str, Any]:
    """The settings of a study of the table with these columns."""
    from tests.chest_study import SMALL

    rows = absolute(table).assign(**columns)
    rows.to_csv(folder / "cohort.csv", index=False)
    values = {key: value for key, value in SMALL.items() if key not in ("baselines", "recipe")}
    values |= {"cohort": folder / "cohort.csv", "backbones": [], "targets": {"label": ["no_finding", "covid"]}}
    return values | {"where": {"label": ["no_finding", "covid"]}, "covariates": ["age", "sex"]}


def study_of(values: dict[str, Any], **changes: Any) -> Any:
    from casewise.study.loading import build_study

    return build_study(values | changes, source="the test's study", folder=values["cohort"].parent)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"copy": lambda t: t["label"].map({"covid": "B", "no_finding": "a"}).fillna("c")}, "copy of the target label"),
        ({"copy": "same"}, "1 value"),
        ({"copy": lambda t: t["subject"] + "x"}, "identifies people"),
        ({"copy": lambda t: [*map(str, range(23)), "12y"]}, "'12y'"),
        (
            {"subject": lambda t: ["A", "A", *t["subject"][2:]], "copy": lambda t: t["age"].astype(str)},
            "row.* 2-3.*A/1",
        ),
    ],
)
def test_a_column_that_is_no_covariate_is_refused(chests: Path, tmp_path: Path, columns: Any, named: str) -> None:
    values = chest_values(chests, tmp_path, **columns)
    values["where"] = {}
    values["targets"] = {"label": ["no_finding", "covid", "pneumonia"]}
    with pytest.raises(CohortError, match=named):
        read_cohort(study_of(values, covariates=["copy"]))


def test_an_unknown_column_is_refused(chests: Path, tmp_path: Path) -> None:
    values = chest_values(chests, tmp_path)
    for name in ("agee", "subject"):
        with pytest.raises(CohortError, match=f"covariates: '{name}'"):
            read_cohort(study_of(values, covariates=[name]))


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def covariate_run(chests: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("covariates")
    values = chest_values(chests, folder)
    values["evaluation"] = {**values["evaluation"], "decision_thresholds": [0.3]}
    return run(study_of(values), folder / "run")


def test_a_run_compares_the_models_and_reports_the_images(covariate_run: Run) -> None:
    results = covariate_run.finished.results
    assert {COVARIATES, JOINED, "linear_pixels"} == set(results.learners("oof"))
    assert results.main.learner == "linear_pixels"
    entry = results.added_value
    assert (entry.images, entry.columns) == (["linear_pixels"], {"age": NUMBER, "sex": CATEGORY})
    gap = results.figures.contrasts("oof", "label").gap("auroc", JOINED, COVARIATES)
    figures = [results.figures.of("oof", name, "label")["auroc"].value for name in (JOINED, COVARIATES)]
    assert gap.value == pytest.approx(figures[0] - figures[1], abs=1e-5)
    assert entry.without_gaps is None
    declared = [point for point in entry.decision_curves[JOINED] if point.declared]
    assert [point.threshold for point in declared] == [0.3]
    assert declared[0].over_other is not None
    page = covariate_run.finished.files.report.path.read_text()
    assert 'id="covariates"' in page


def test_models_without_gaps_are_judged_where_a_value_is_missing(covariate_run: Run, tmp_path: Path) -> None:
    finished = covariate_run.finished
    folder = RunFolder(Path(shutil.copytree(finished.files.path, tmp_path / "run")))
    images = folder.cohort.read()
    folder.cohort.write(images.assign(age=images["age"].astype(str).where(images["label"] != 1, "")))
    main = finished.results.main
    without = added_value(finished.study, finished.predictions, main, folder).without_gaps
    gap, both, alone = (without[name]["auroc"].value for name in ("difference", "joined", "covariates"))
    assert gap == pytest.approx(both - alone)
    # all covid films lack an age, which nothing shows any more
    assert alone < 0.9


def test_new_cases_need_the_columns(covariate_run: Run, chests: Path, tmp_path: Path) -> None:
    from casewise import load_bundle

    finished = covariate_run.finished
    model = load_bundle(finished.files.bundle.path)
    own = finished.final[(finished.final["model"] == JOINED) & (finished.final["stage"] == "test")].set_index("case")
    table = absolute(chests)
    table = table[(table["subject"] + "/1").isin(own.index)].astype({"age": object})
    new = model.predict(table, learner=JOINED).set_index("case")
    assert new["probability of covid"].to_numpy() == pytest.approx(own.loc[new.index, "p1"].to_numpy(), abs=1e-6)
    first = table.index[0]
    table.loc[first, ["age", "sex"]] = ["", "unknown sex"]
    changed = model.predict(table, learner=JOINED).set_index("case")
    assert changed["problem"].eq("").all()
    reasons = changed["flags"].str.contains("sex|age")
    assert reasons.tolist() == [case == f"{table.loc[first, 'subject']}/1" for case in changed.index]
    assert not model.predict(table)["flags"].str.contains("sex").any()
    with pytest.raises(CohortError, match="sex"):
        model.predict(table.drop(columns="sex"), learner=JOINED)
    assert len(model.predict(table.drop(columns="sex"), learner="headline")) == len(table)
    copy = shutil.copy(table["path"].iloc[0], tmp_path)
    several = pd.concat([table, table.iloc[[1]].assign(sex="other", path=copy)])
    problems = model.predict(several, learner=JOINED)["problem"]
    assert problems.str.contains("sex").sum() == 1


@pytest.mark.plugins("serve")
def test_the_page_asks_for_covariates_and_refuses_bad_ones(covariate_run: Run, chests: Path) -> None:
    import httpx

    from casewise import load_bundle
    from casewise.plugins.serve.settings import ServiceSettings
    from tests.plugins.serve.serving import running

    bundle, row = covariate_run.finished.files.bundle.path, absolute(chests).iloc[[0]].assign(age=41, sex="f")
    expected = load_bundle(bundle).predict(row, learner=JOINED).iloc[0]
    with running(ServiceSettings(bundle, learner=JOINED)) as service:

        def answer(**fields: str) -> httpx.Response:
            image = {"image": ("film.png", Path(row["path"].iloc[0]).read_bytes())}
            return httpx.post(f"{service.url}/api/predict", files=image, data=fields, timeout=300)

        age, sex = httpx.get(f"{service.url}/api/model").json()["covariates"]
        assert (age["name"], age["levels"], sex["name"], sex["levels"]) == ("age", [], "sex", ["f", "m"])
        assert (age["optional"], sex["optional"], sex["range"]) == (False, False, None)
        (visit,) = answer(age=" 41,0", sex="F").json()["visits"]
        assert visit["covariates"] == {"age": "41", "sex": "f"}
        assert visit["results"][0]["probabilities"]["covid"] == pytest.approx(expected["probability of covid"])
        (visit,) = answer(age=f"{age['range'][1] + 1}", sex="f").json()["visits"]
        assert any("age" in flag for flag in visit["results"][0]["flags"])
        bad = {"bad_covariate": [("old", "f"), ("41", "x"), ("1,000", "f")]}
        bad["covariate_missing"] = [("", "f"), ("41", "")]
        for code, pairs in bad.items():
            for given in pairs:
                error = answer(age=given[0], sex=given[1]).json()["error"]
                assert error["code"] == code, error
        assert "sex" in answer(age="41", sexx="f").json()["error"]["message"]
