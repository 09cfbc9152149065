"""Outcomes of studies: the table, errors and calibration, and when they changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import ttest_1samp

from casewise.errors import CohortError
from casewise.plugins.node.monitoring.observation import Observation, identifier_hash
from casewise.plugins.node.monitoring.outcomes import (
    Outcome,
    Outcomes,
    OutcomeTable,
    Window,
    compared_outcomes,
    mean_interval,
    outcome_changes,
    read_outcomes,
    share_interval,
)
from casewise.plugins.node.monitoring.series import Kind, Quantity
from tests.plugins.node.observed import DAY, START

CALIBRATION = Quantity(Kind.CALIBRATION, "finding", "yes")
ERROR = Quantity(Kind.ERROR, "score")
Recorded = list[tuple[str, Observation]]


def label(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def recorded(count: int, seed: int = 0) -> Recorded:
    """Studies with the UID `1.2.<number>`, twenty a day, a probability of `yes` and a score."""
    rng = np.random.default_rng(seed)
    studies = []
    for number in range(count):
        p = float(expit(rng.normal(-1, 1.5)))
        predictions: dict[str, float | str] = {"finding": "yes" if p > 0.5 else "no", "score": float(rng.gamma(3, 2))}
        probabilities = {"finding": {"no": 1 - p, "yes": p}}
        at = START + DAY * number / 20
        studies.append((label(f"1.2.{number}"), Observation(at, predictions=predictions, probabilities=probabilities)))
    return studies


def outcomes_of(studies: Recorded, odds: float, error: float, seed: int = 1) -> list[Outcome]:
    """Outcomes whose odds are `odds` times those predicted, and scores with an error of this standard deviation."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for name, each in studies:
        p = each.probabilities["finding"]["yes"]
        value = "yes" if rng.random() < odds * p / (odds * p + 1 - p) else "no"
        outcomes.append(Outcome(name, "finding", value))
        outcomes.append(Outcome(name, "score", float(each.predictions["score"]) + error * rng.normal()))
    return outcomes


def compared(outcomes: list[Outcome], studies: Recorded, window: Window | None = None) -> Outcomes:
    return compared_outcomes(OutcomeTable(outcomes), studies, window=window)


class TestTable:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "outcomes.csv"
        path.write_text(text)
        return path

    def test_studies_are_named_by_uid_or_hash(self, tmp_path: Path) -> None:
        studies = recorded(3)
        path = self.write(
            tmp_path, f"study,target,value\n1.2.0,finding,yes\n{studies[2][0]},score,3.5\n1.2.0,score,-1\n"
        )
        assert read_outcomes(path, studies).outcomes == [
            Outcome(studies[0][0], "finding", "yes"),
            Outcome(studies[2][0], "score", 3.5),
            Outcome(studies[0][0], "score", -1.0),
        ]

    def test_studies_are_named_by_accession_number(self, tmp_path: Path) -> None:
        studies = recorded(3)
        path = self.write(tmp_path, "value;accession;target\nno;A-7;finding\n")
        own = {identifier_hash("salt", "A-7"): {studies[1][0]}}
        assert read_outcomes(path, studies, own, "salt").outcomes == [Outcome(studies[1][0], "finding", "no")]
        assert read_outcomes(path, studies, own, "other").outcomes == []

    def test_an_accession_number_of_several_studies_names_none_of_them(self, tmp_path: Path) -> None:
        studies = recorded(3)
        text = "study,accession,target,value\n,A-7,finding,yes\n1.2.1,A-7,finding,no\n,A-8,finding,no\n"
        own = {identifier_hash("salt", "A-7"): {studies[0][0], studies[1][0]}}
        own[identifier_hash("salt", "A-8")] = {"of a study without a prediction"}
        table = read_outcomes(self.write(tmp_path, text), studies, own, "salt")
        assert table.outcomes == [Outcome(studies[1][0], "finding", "no")]
        assert list(table.unused.values()) == [[2], [4]]

    def test_rows_that_fit_nothing_are_counted(self, tmp_path: Path) -> None:
        rows = ["1.2.9,finding,yes", "1.2.0,grade,yes", "1.2.0,finding,maybe", "1.2.0,score,high", "1.2.0,score,nan"]
        rows += ["1.2.0,score,", "1.2.8,finding,no", "1.2.3,finding,no", "1.2.4,score,1", "1.2.1,score,1"]
        path = self.write(tmp_path, "\n".join(["study,target,value", *rows]))
        studies = recorded(2)
        studies.append((label("1.2.3"), Observation(1.0, refused="unreadable")))
        studies.append((label("1.2.4"), Observation(1.0, predictions={"score": 1.0}, by_image=("score",))))
        table = read_outcomes(path, studies)
        assert table.outcomes == [Outcome(studies[1][0], "score", 1.0)]
        assert sorted(table.unused.values()) == [[2, 8], [3], [4], [5, 6, 7], [9], [10]]
        assert not any("1.2" in reason for reason in table.unused)

    def test_whole_numbers_name_classes(self, tmp_path: Path) -> None:
        studies = [(label("1.2.0"), Observation(1.0, predictions={"grade": "1"}))]
        path = self.write(tmp_path, "study,target,value\n1.2.0,grade,1.0\n")
        assert read_outcomes(path, studies).outcomes == [Outcome(studies[0][0], "grade", "1")]

    def test_two_values_of_a_study_are_an_error(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "study,target,value\n1.2.0,score,1\n1.2.0,score,2\n")
        with pytest.raises(CohortError, match="row 3"):
            read_outcomes(path, recorded(2))

    def test_a_repeated_row_counts_once(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "study,target,value\n1.2.0,score,1.0\n1.2.0,score,1\n")
        assert len(read_outcomes(path, recorded(1)).outcomes) == 1


class TestErrors:
    def test_errors_and_outcomes_are_series(self) -> None:
        studies = recorded(30)
        own = compared(outcomes_of(studies[:20], 1, 0.5), studies)
        assert len(own.studies) == 20
        assert set(own.studies.series) == {
            *(CALIBRATION, ERROR, Quantity(Kind.BIAS, "score"), Quantity(Kind.WRONG, "finding"))
        }
        assert np.allclose(np.abs(own.studies.series[Quantity(Kind.BIAS, "score")]), own.studies.series[ERROR])
        probabilities = [each.probabilities["finding"]["yes"] for _, each in studies[:20]]
        assert np.allclose(own.expected[CALIBRATION], np.clip(probabilities, 1e-3, 1 - 1e-3))

    def test_classes_without_probabilities_have_errors_only(self) -> None:
        studies = [(str(n), Observation(float(n), predictions={"grade": "12"[n % 2]})) for n in range(9)]
        own = compared([Outcome(name, "grade", "1") for name, _ in studies], studies)
        assert own.studies.series[Quantity(Kind.WRONG, "grade")].mean() == pytest.approx(4 / 9)
        assert own.expected == {}

    def test_intervals(self) -> None:
        values = np.random.default_rng(0).normal(3, 1, 25)
        ends = mean_interval(values)
        reference = ttest_1samp(values, 0).confidence_interval(0.95)
        assert ends is not None
        assert ends == pytest.approx((values.mean(), reference.low, reference.high))
        assert mean_interval(values[:4]) is None
        assert share_interval(np.zeros(0)) is None
        # Wilson's interval of 0 of 10 ends at z² / (10 + z²)
        assert share_interval(np.zeros(10)) == pytest.approx((0, 0, 1.96**2 / (10 + 1.96**2)), abs=1e-4)


class TestChanges:
    def test_a_calibrated_model_is_silent(self) -> None:
        alarms = 0
        for seed in range(10):
            studies = recorded(1500, seed)
            alarms += len(outcome_changes(compared(outcomes_of(studies, 1, 1, seed), studies)))
        # 75 days each, at most one false alarm in four years: 0.5 expected
        assert alarms <= 2

    @pytest.mark.parametrize("odds", [2.5, 0.3])
    def test_calibration_that_is_lost_is_noticed_and_reported_once(self, odds: float) -> None:
        studies = recorded(1500)
        outcomes = [*outcomes_of(studies[:700], 1, 1), *outcomes_of(studies[700:], odds, 1)]
        changed = [each for each in outcome_changes(compared(outcomes, studies)) if each.what == CALIBRATION]
        (change,) = changed
        assert (change.since - START) / DAY * 20 == pytest.approx(700, abs=80)
        assert change.before is not None
        assert change.after is not None
        assert (change.after > change.before) == (odds > 1)

    def test_a_model_that_was_never_calibrated_is_noticed_without_a_baseline(self) -> None:
        studies = recorded(300)
        changed = outcome_changes(compared(outcomes_of(studies, 4, 1), studies))
        (change,) = [each for each in changed if each.what == CALIBRATION]
        assert (change.since - START) / DAY * 20 < 40

    def test_outcomes_of_earlier_studies_are_left_out(self) -> None:
        studies = recorded(40)
        own = compared(outcomes_of(studies, 1, 1), studies, Window(START + DAY))
        assert len(own.studies) == 20

    @pytest.mark.parametrize("after", [0, 30])
    def test_outcomes_that_are_known_sooner_than_others_are_no_change(self, after: int) -> None:
        alarms = 0
        for seed in range(6):
            rng, studies = np.random.default_rng(seed), recorded(1200, seed)
            outcomes = [each for each in outcomes_of(studies, 1, 1, seed) if each.target == "finding"]
            days = dict(zip([name for name, _ in studies], np.arange(1200) / 20, strict=True))
            waits = rng.exponential([2.5 if each.value == "yes" else 10 for each in outcomes])
            noticed = False
            for night in range(10, 60, 5):
                rows = zip(outcomes, waits, strict=True)
                own = [each for each, wait in rows if days[each.study] + wait <= night]
                window = Window(0, START + night * DAY, after)
                noticed |= bool(outcome_changes(compared(own, studies, window)))
            alarms += noticed
        assert alarms == 0 if after else alarms >= 4

    def test_outcomes_of_young_studies_are_shown_and_not_tested(self) -> None:
        studies = recorded(400)
        own = compared(outcomes_of(studies, 4, 1)[:700], studies, Window(0, START + 20 * DAY, 15))
        assert len(own.studies) == 350
        assert own.tested.tested.sum() == own.predicted == 100
        assert own.why_untested == ""
        assert compared([], studies).why_untested
        assert compared(outcomes_of(studies, 4, 1), studies, Window(0, START + 20 * DAY, 20)).why_untested
