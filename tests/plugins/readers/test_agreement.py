"""The agreement of readers beside published examples, closed forms, and planted values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.bootstrap import by_subject
from casewise.evaluation.figures import Estimate
from casewise.plugins.readers.statistics.agreement import (
    FLEISS,
    ICC_AGREEMENT,
    ICC_CONSISTENCY,
    KRIPPENDORFF,
    agreement,
    agreements,
    between,
    leaving_out,
    pair,
    ratings_of,
    without_few,
)
from casewise.plugins.readers.statistics.coefficients import (
    fleiss,
    krippendorff,
    limits,
    mean_squares,
    readers_for,
    readers_for_half_width,
    reliability,
)

NAN = np.nan
# Shrout and Fleiss 1979, table 2: six subjects by four judges.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
# Krippendorff's twelve units by four observers, with missing values.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
# The example of Fleiss' kappa with ten subjects, fourteen raters and five categories: counts by category.
COUNTS = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]


def readings(
    values: np.ndarray, again: np.ndarray | None = None, *, visits: int = 1, target: str = "score"
) -> pd.DataFrame:
    """A readings table of values (N, R), and of repeated readings; several visits of a subject follow one another."""
    rows = []
    for occurrence, table in ((1, values), (2, again)):
        if table is None:
            continue
        for (case, reader), value in np.ndenumerate(table):
            row = {"case": f"c{case}", "subject": f"s{case // visits}", "image": "", "target": target}
            row |= {"region": "", "value": value}
            row |= {"session": "first", "kind": "blind", "reader": "ABCDEFGH"[reader], "occurrence": occurrence}
            rows.append(row | {"position": case + 1 + (occurrence - 1) * len(values), "reason": "", "seconds": 5.0})
    return pd.DataFrame(rows).assign(at="2030-01-01T00:00:00Z")


def study(seed: int, subjects: int = 40, *, bias: tuple[float, ...] = (1.0, 0.0, -1.0), noise: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    truth = rng.normal(10, 3, subjects)
    return truth[:, None] + np.array(bias) + noise * rng.normal(size=(subjects, len(bias)))


def names(n: int) -> np.ndarray:
    return np.array([f"s{i}" for i in range(n)])


# ----------------------------------------------------------------------------------------------------- coefficients


def test_icc_of_shrout_and_fleiss() -> None:
    squares = mean_squares(JUDGES)
    assert (squares.cases, squares.readers, squares.residual) == pytest.approx((11.2417, 32.4861, 1.0194), abs=1e-4)
    assert (squares.agreement, squares.consistency) == pytest.approx((0.2898, 0.7148), abs=1e-4)
    figures = between(JUDGES, names(6), "regression")
    assert figures[ICC_AGREEMENT].value == pytest.approx(0.2898, abs=1e-4)
    assert figures[ICC_CONSISTENCY].value == pytest.approx(0.7148, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "alpha"), [("classification", 0.743), ("ordinal", 0.815), ("regression", 0.849)], ids=str
)
def test_alpha_of_krippendorff(kind: str, alpha: float) -> None:
    assert krippendorff(OBSERVERS, kind) == pytest.approx(alpha, abs=5e-4)
    assert krippendorff(OBSERVERS * 10 + 1000, kind) == pytest.approx(alpha, abs=5e-4)


def test_kappa_of_fleiss() -> None:
    votes = np.array([np.repeat(np.arange(5), counts) for counts in COUNTS], dtype=float)
    assert fleiss(votes) == pytest.approx(0.210, abs=5e-4)
    # two readers: Scott's pi, whose chance agreement is that of the pooled shares
    two = np.array([[0, 0], [1, 1], [1, 0], [1, 1], [0, 0], [1, 1.0]])
    pooled = two.mean()
    chance = pooled**2 + (1 - pooled) ** 2
    assert fleiss(two) == pytest.approx((5 / 6 - chance) / (1 - chance))


def test_coefficients_of_equal_values_are_undefined() -> None:
    assert np.isnan(krippendorff(np.ones((4, 2)), "classification"))
    assert np.isnan(fleiss(np.ones((4, 2))))
    assert np.isnan(mean_squares(np.ones((4, 2))).agreement)
    assert np.isnan(krippendorff(np.full((4, 2), NAN), "regression"))


def test_limits_with_repeated_measures() -> None:
    differences, subjects = np.array([1.0, 2.0, 3.0, 6.0, 8.0]), np.array(list("aabbb"))
    bias, low, high = limits(differences, subjects)
    means = np.array([1.5, 17 / 3])
    between_subjects = 2 * (means[0] - 4) ** 2 + 3 * (means[1] - 4) ** 2
    within = (0.5 + ((np.array([3, 6, 8]) - means[1]) ** 2).sum()) / 3
    variance = (between_subjects - within) / ((25 - 13) / 5) + within
    assert bias == 4.0
    assert (low, high) == pytest.approx((4 - 1.96 * variance**0.5, 4 + 1.96 * variance**0.5))
    # one case of each subject: the standard deviation of the differences
    single = limits(differences, np.array(list("abcde")))
    assert single[2] == pytest.approx(4 + 1.96 * differences.std(ddof=1))
    # subjects that do not differ: the component between them is not negative
    assert limits(np.array([0.0, 2.0, 0.0, 2.0]), np.array(list("aabb")))[2] == pytest.approx(1 + 1.96 * 2**0.5)


def test_the_number_of_readers() -> None:
    assert reliability(0.5, 4) == pytest.approx(0.8)
    assert readers_for(0.5, 0.8) == 4
    for icc in (0.0, -0.25, -1.25):
        assert [reliability(icc, n) for n in (1, 2, 5)] == [0.0, 0.0, 0.0]
        assert readers_for(icc, 0.8) is None
    assert readers_for_half_width(0.5, 0.5) == 4
    # ICC(2,1) of Shrout and Fleiss: the mean of four judges has their ICC(2,4) of 0.62; one judge has an error of
    # (residual + (judges − residual) / 6) in variance
    means = agreement(readings(JUDGES), "regression").means
    assert [each.reliability.value for each in means] == pytest.approx([0.290, 0.449, 0.550, 0.620, 0.671], abs=5e-4)
    assert means[0].half_width == pytest.approx(1.96 * (1.0194 + (32.4861 - 1.0194) / 6) ** 0.5, abs=1e-3)
    assert means[0].half_width / means[3].half_width == pytest.approx(2)


# ---------------------------------------------------------------------------------------------------------- figures


def test_two_readers_have_the_figures_of_the_evaluation() -> None:
    values = study(1)[:, :2]
    subjects = np.repeat(names(20), 2)
    figures = pair(values[:, 0], values[:, 1], subjects, "regression")
    expected = by_subject(values[:, 0], {"second": values[:, 1]}, subjects)["second"]
    for name, other in ((ICC_AGREEMENT, "icc"), ("mae", "mae"), ("bias", "bias")):
        for end in ("value", "low", "high"):
            assert getattr(figures[name], end) == pytest.approx(getattr(expected[other], end))


def test_leaving_out_is_the_t_interval_of_a_mean() -> None:
    from scipy.stats import t

    x = np.random.default_rng(3).normal(size=30)
    figure = leaving_out(lambda rows: {"difference": x[rows].mean()}, names(30))["difference"]
    half = t.ppf(0.975, 29) * x.std(ddof=1) / 30**0.5
    assert figure.value == pytest.approx(x.mean())
    # the degrees of freedom are at most those of a normal sample
    assert x.mean() - figure.low >= half * (1 - 1e-9)
    assert x.mean() - figure.low == pytest.approx(half, rel=0.05)


def test_bias_and_drift_of_a_reader() -> None:
    values = np.tile(np.random.default_rng(5).normal(10, 3, 30)[:, None], (1, 3))
    values[:, 0] += 2
    values[:, 1] += 0.1 * np.arange(30)
    figures = agreement(readings(values), "regression").readers
    assert figures["A"].bias.value == pytest.approx(2 - 0.1 * 14.5 / 2)
    assert figures["B"].drift.value == pytest.approx(2.9)
    assert figures["C"].drift.value == pytest.approx(-1.45)


def test_repeated_readings_count_for_drift_and_for_agreement_with_oneself() -> None:
    values = study(7, 20)
    again = np.full_like(values, NAN)
    again[:10] = values[:10] + 0.5
    figures = agreement(readings(values, again), "regression").readers["A"]
    assert figures.again["bias"].value == pytest.approx(0.5)
    assert figures.again["mae"].value == pytest.approx(0.5)
    assert figures.again["mae"].n_cases == 10
    assert figures.again[ICC_CONSISTENCY].value == pytest.approx(1.0)
    assert figures.drift.n_cases == 30
    assert agreement(readings(values), "regression").readers["A"].again == {}


def test_grades_and_classes() -> None:
    from sklearn.metrics import cohen_kappa_score

    values = np.clip(np.rint(study(9, 50, bias=(0.5, 0.0), noise=1.5) / 4), 0, 4)
    grades = agreement(readings(values, visits=2), "ordinal", 5)
    kappa = cohen_kappa_score(*values.T, weights="quadratic")
    assert grades.pairs["A | B"]["kappa_quadratic"].value == pytest.approx(kappa)
    assert grades.between["agreement"].value == pytest.approx((values[:, 0] == values[:, 1]).mean())
    assert grades.between[FLEISS].value == pytest.approx(fleiss(values))
    assert grades.n_subjects == 25
    classes = agreement(readings(values), "classification", 5)
    assert classes.pairs["A | B"]["kappa"].value == pytest.approx(cohen_kappa_score(*values.T))
    assert set(classes.between) == {"agreement", KRIPPENDORFF, FLEISS}
    assert classes.readers["A"].bias.value is None
    assert classes.means == []


# ---------------------------------------------------------------------------------------- what cannot be computed


def why(figure: Estimate) -> bool:
    return figure.value is None and bool(figure.reason)


def test_one_reader() -> None:
    result = agreement(readings(study(0)[:, :1]), "regression")
    assert (result.between, result.pairs, result.means) == ({}, {}, [])
    assert why(result.readers["A"].bias)
    assert why(result.readers["A"].drift)


@pytest.mark.parametrize("kind", ["regression", "ordinal", "classification"])
def test_two_subjects(kind: str) -> None:
    result = agreement(readings(np.array([[1, 2], [0, 1], [1, 1], [2, 2.0]]), visits=2), kind, 3)
    assert all(map(why, result.between.values()))
    assert all(map(why, result.pairs["A | B"].values()))


def test_a_constant_reader() -> None:
    values = np.clip(np.rint(study(0) / 5), 0, 4)
    values[:, 1] = 2
    result = agreement(readings(values), "ordinal", 5)
    assert why(result.between[ICC_AGREEMENT])
    assert why(result.pairs["A | B"]["kappa_quadratic"])
    assert result.between["mae"].value is not None
    assert result.pairs["A | C"]["kappa_quadratic"].value is not None


def test_readers_of_different_cases() -> None:
    values = study(0)
    values[:20, 0] = NAN
    values[20:, 1] = NAN
    result = agreement(readings(values), "regression")
    assert why(result.between[ICC_AGREEMENT])
    assert result.between[KRIPPENDORFF].n_cases == 40
    assert why(result.pairs["A | B"]["mae"])
    assert result.pairs["A | C"]["mae"].n_cases == 20
    assert result.readers["A"].n_cases == 20
    assert result.readers["A"].unreadable == 20


def test_the_earliest_session_counts() -> None:
    early, late = readings(study(0)), readings(study(1)).assign(session="second", at="2031-01-01T00:00:00Z")
    assert ratings_of(pd.concat([late, early])).first == pytest.approx(study(0))
    # of a clock that was set back
    assert ratings_of(pd.concat([late.assign(entry=1), early.assign(entry=2)])).first == pytest.approx(study(1))


def test_keys_are_targets_and_regions() -> None:
    class Field:
        target, kind, options = "score", "regression", ()

    two = [readings(study(0)).assign(region="trunk"), readings(study(1)).assign(region="legs")]
    result: dict[str, Any] = agreements(pd.concat(two), [Field()])  # type: ignore[list-item]
    assert list(result) == ["score", "score[trunk]", "score[legs]"]
    assert result["score"].n_cases == 80
    assert result["score"].n_subjects == 40
    assert list(agreements(two[0], [Field()])) == ["score"]  # type: ignore[list-item]


# ------------------------------------------------------------------------------------------------------- simulation


def test_a_reader_of_one_case_leaves_the_figures_of_the_others() -> None:
    table = readings(np.arange(60.0).reshape(20, 3) % 7)
    alone = table[(table["reader"] == "A") & (table["case"] == table["case"].iloc[0])].assign(reader="Z")
    kept, few = without_few(pd.concat([table, alone]))
    assert len(kept) == len(table)
    assert list(few.values()) == [["Z"]]
    assert len(without_few(alone)[0]) == len(alone)


def test_positions_go_on_in_the_next_session() -> None:
    table = readings(np.arange(8.0).reshape(4, 2))
    first = table["case"].isin(table["case"].unique()[:2])
    position = table.groupby("reader").cumcount() % 2 + 1
    sessions = np.where(first, "a", "b")
    ratings = ratings_of(table.assign(session=sessions, position=position, entry=np.arange(len(table))))
    assert ratings.position[:, 0].tolist() == [1, 2, 3, 4]
