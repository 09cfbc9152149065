"""The duel of readers and model, by closed forms and where something is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.figures import Estimate
from casewise.plugins.readers.statistics.agreement import ratings_of
from casewise.plugins.readers.statistics.duel import (
    ModelPredictions,
    against_reference,
    aligned,
    duel,
    duels,
    errors,
    verdict,
)
from tests.plugins.readers.test_agreement import NAN, readings, study


def predicted(values: Any, target: str = "score") -> pd.DataFrame:
    cases = [f"c{n}" for n in range(len(values))]
    return pd.DataFrame({"case": cases, "region": "", "target": target, "value": values, "truth": NAN})


def test_nobody_is_compared_with_himself() -> None:
    values = study(0)
    model = values.mean(axis=1) + 0.3
    result = duel(readings(values), predicted(model), "regression")
    against = (values[:, 1] + values[:, 2]) / 2
    reader = result.readers["A"]
    assert reader.reader.value == pytest.approx(np.abs(values[:, 0] - against).mean())
    assert reader.model.value == pytest.approx(np.abs(model - against).mean())
    assert reader.difference.value == pytest.approx(reader.model.value - reader.reader.value)
    differences = [each.difference.value for each in result.readers.values()]
    assert result.mean.difference.value == pytest.approx(np.mean(differences))


def test_two_readers_are_equally_far_from_each_other() -> None:
    values = study(1)[:, :2]
    result = duel(readings(values), predicted(values[:, 0]), "regression")
    assert result.readers["A"].reader.value == pytest.approx(result.readers["B"].reader.value)
    assert result.readers["A"].difference.value == pytest.approx(0.0)
    assert result.readers["B"].model.value == pytest.approx(0.0)


def test_classes_are_compared_with_each_of_the_others() -> None:
    values, model = np.array([[0, 1, 1], [2, 2, NAN], [NAN, 0, NAN]]), np.array([1.0, 0.0, 0.0])
    of_readers, of_model = errors(values, model, "classification")
    assert of_readers[0].tolist() == [1.0, 0.5, 0.5]
    assert of_model[0].tolist() == [0.0, 0.5, 0.5]
    assert of_readers[1, :2].tolist() == [0.0, 0.0]
    assert of_model[1, :2].tolist() == [1.0, 1.0]
    assert np.isnan(of_readers[1, 2])
    assert np.isnan(of_readers[2]).all()


@pytest.mark.parametrize(
    ("high", "margin", "answer"),
    [
        *((-0.1, 0.5, "better"), (-0.1, None, "better"), (0.4, 0.5, "not worse"), (0.4, None, "not shown")),
        *((0.6, 0.5, "not shown"), (0.5, 0.5, "not shown"), (None, 0.5, "not shown")),
    ],
)
def test_verdicts(high: float | None, margin: float | None, answer: str) -> None:
    assert verdict(Estimate(-1.0, -2.0, high, 20, 20, False), margin) == answer


def test_the_truth_itself_is_better_than_noisy_readers() -> None:
    truth = np.random.default_rng(3).normal(10, 3, 60)
    values = truth[:, None] + 2 * np.random.default_rng(4).normal(size=(60, 3))
    assert duel(readings(values), predicted(truth), "regression", margin=0.5).mean.verdict == "better"
    assert duel(readings(values), predicted(truth + 3), "regression", margin=0.5).mean.verdict == "not shown"
    noisy = truth + 2 * np.random.default_rng(5).normal(size=60)
    assert duel(readings(values), predicted(noisy), "regression", margin=1.0).mean.verdict == "not worse"


def test_intervals_contain_the_planted_difference() -> None:
    """Normal errors: the mean absolute error is the standard deviation times the square root of 2 / pi."""
    noise, of_model = 1.0, 0.6
    planted = np.sqrt(2 / np.pi) * (np.sqrt(of_model**2 + noise**2 / 2) - np.sqrt(noise**2 * 3 / 2))
    outside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = np.repeat(rng.normal(10, 3, 20), 2)
        values, model = (truth[:, None] + scale * rng.normal(size=(40, n)) for scale, n in ((noise, 3), (of_model, 1)))
        difference = duel(readings(values, visits=2), predicted(model[:, 0]), "regression").mean.difference
        assert difference.low is not None
        assert difference.high is not None
        outside += not difference.low <= planted <= difference.high
    assert outside <= 8


def test_one_reader_or_no_prediction() -> None:
    alone = duel(readings(study(0)[:, :1]), predicted(np.ones(40)), "regression")
    assert (alone.mean.difference.value, alone.mean.verdict) == (None, "not shown")
    missing = duel(readings(study(0)), predicted(np.full(40, NAN)), "regression")
    assert missing.readers["B"].difference.value is None
    values = study(0)
    values[:, 2] = NAN
    two = duel(readings(values), predicted(np.ones(40)), "regression")
    assert two.readers["C"].difference.value is None
    assert two.mean.difference.value is not None


def test_regions_are_matched() -> None:
    class Field:
        target, kind, options = "score", "regression", ()

    tables = [readings(study(seed)).assign(region=region) for seed, region in enumerate(("trunk", "legs"))]
    rows = [predicted(study(seed).mean(axis=1)).assign(region=region) for seed, region in ((1, "legs"), (0, "trunk"))]
    model = ModelPredictions("net", "out of fold", pd.concat(rows))
    result = duels(pd.concat(tables), [Field()], model, {"score": 0.5})  # type: ignore[list-item]
    assert list(result) == ["score", "score[trunk]", "score[legs]"]
    assert all(each.mean.verdict == "better" for each in result.values())
    assert result["score"].mean.difference.n_cases == 80


def test_predictions_of_images_are_averaged() -> None:
    units = ratings_of(readings(study(0, 2))).units
    rows = pd.concat([predicted([1.0, 2.0]).assign(image="x"), predicted([3.0, 2.0]).assign(image="y")])
    assert aligned(units, rows, "value", "regression").tolist() == [2.0, 2.0]
    assert aligned(units, pd.concat([rows, rows.iloc[:1]]), "value", "classification").tolist() == [1.0, 2.0]


def test_images_are_matched_by_path_and_by_name_only_where_it_is_unique() -> None:
    values = study(0, 2)
    sides = {"right": [3.0, 4.0], "left": [1.0, 2.0]}
    read = pd.concat([readings(values).assign(image=f"{side}/1.png") for side in ("left", "right")])
    rows = pd.concat([predicted(each).assign(image=f"{side}/1.png") for side, each in sides.items()])
    units = ratings_of(read).units
    expected = [sides[image.split("/")[0]][int(case[1])] for case, image, *_ in units]
    assert aligned(units, rows, "value", "regression").tolist() == expected
    # elsewhere, names tell only single images apart
    moved = rows.assign(image="other/" + rows["image"])
    assert np.isnan(aligned(units, moved, "value", "regression")).all()
    left = ratings_of(read[read["image"] == "left/1.png"]).units
    assert np.isnan(aligned(left, moved, "value", "regression")).all()
    assert aligned(left, moved[moved["image"].str.contains("left")], "value", "regression").tolist() == [1.0, 2.0]


def test_readers_with_the_model_against_a_reference() -> None:
    class Field:
        target, kind, options = "score", "classification", ("no", "yes")

    truth = (np.arange(40) % 2).astype(float)
    rng = np.random.default_rng(0)
    blind, aided = (np.where(rng.random((40, 3)) < right, truth[:, None], 1 - truth[:, None]) for right in (0.7, 0.95))
    with_model = readings(aided).assign(kind="aided", session="second")
    table = pd.concat([readings(blind), with_model[with_model["reader"] != "C"]])
    rows = predicted(truth).assign(truth=truth)
    fields: Any = [Field()]
    result = against_reference(table, fields, ModelPredictions("net", "out of fold", rows, "biopsy"))["score"]
    areas, sensitivity, specificity = result.model
    assert sensitivity.first[0].value == specificity.first[0].value == 1.0
    assert sensitivity.difference.value == pytest.approx(1 - blind[truth == 1].mean())
    assert areas.difference.value == pytest.approx(1 - (blind == truth[:, None]).mean())
    assert [len(each.first) for each in result.aided or []] == [2, 2, 2]
    assert result.aided[1].difference.value == pytest.approx((aided[truth == 1] - blind[truth == 1])[:, :2].mean())
    switched = ModelPredictions("net", "out of fold", rows, "biopsy", {"score": 0})
    assert against_reference(table, fields, switched)["score"].model[2].difference == sensitivity.difference
    assert against_reference(table, fields, ModelPredictions("net", "out of fold", rows)) == {}
