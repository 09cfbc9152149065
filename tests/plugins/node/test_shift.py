"""Tests of a change: their parts against references, silence without a change, and planted changes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, kstest, norm

from casewise.errors import CasewiseError
from casewise.inference.case_chunks import PredictedChunk
from casewise.inference.drift import quantiles_of
from casewise.inference.input_checks import Limits
from casewise.plugins.node.monitoring.comparison import (
    compared,
    compared_classes,
    stability_index,
)
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.observation import observed as observe
from casewise.plugins.node.monitoring.sequential import (
    ALTERNATIVES,
    FEWEST_BEFORE,
    ODDS,
    evidence,
    full_scores,
    mixture,
    odds_ratios,
    score_ratios,
    sequential_scores,
    share_ratios,
    split,
    start_of_change,
    threshold,
)
from casewise.plugins.node.monitoring.series import DAYS_BETWEEN, Kind, Quantity, Studies, studies_of
from casewise.plugins.node.monitoring.shift import (
    NEW,
    Change,
    Scope,
    against_training,
    changes,
    evidence_of,
    why_untested,
)
from casewise.plugins.node.monitoring.summary import groups
from tests.plugins.node.observed import DAY, START, Node, limits, observed

BRIGHTNESS = Quantity(Kind.NUMBER, "brightness")


def series_of(values: np.ndarray, quantity: Quantity, per_day: int = 20, scanners: np.ndarray | None = None) -> Studies:
    n = len(values)
    at = START + DAY * np.arange(n) / per_day
    names = scanners if scanners is not None else np.full(n, "A")
    return Studies(
        np.arange(n).astype(str), at, names, np.full(n, "S"), np.ones(n, dtype=bool), {quantity: values.astype(float)}
    )


def found_in(node: Node, seed: int = 0, baseline: int = 200) -> list[Change]:
    return changes(studies_of(observed(node, seed)), baseline)


class TestObservation:
    @pytest.mark.parametrize("text", ["", "[]", '{"scanner": "A"}', '{"at": "late"}', '{"at": 1, "flags": 3}'])
    def test_a_damaged_line_is_an_error(self, text: str) -> None:
        with pytest.raises(CasewiseError):
            Observation.from_json(text)

    def test_a_target_of_images_is_named_and_every_image_is_recorded(self) -> None:
        rows = [
            {"target": "age", "region": "", "image": f"{number}.dcm", "prediction": value, "distance": 0.5 + number}
            for number, value in enumerate((1.0, 9.0))
        ]
        rows.append({"target": "sex", "region": "left", "image": "", "prediction": 2.0, "distance": 0.1})
        table = pd.DataFrame(rows).assign(flags="", problem="")
        table = table.assign(**{"prediction low": 0.0, "prediction high": 10.0, "prediction set": ""})
        batch = [pd.DataFrame({"case": "c", "subject": "s", "brightness": [0.25, 0.75]})]
        own = observe(PredictedChunk(table, {}, False, batch), scanner="A", bundle="ab")
        assert (own.predictions, own.by_image) == ({"age": 1.0, "sex[left]": 2.0}, ("age",))
        assert own.images == ({"brightness": 0.25}, {"brightness": 0.75})
        assert (own.numbers, own.distance, own.is_unlike) == ({"brightness": 0.5}, 1.5, True)
        assert (own.scanner, own.bundle) == ("A", "ab")


class TestSeries:
    def test_studies_are_in_the_order_of_time_and_the_last_record_of_one_counts(self) -> None:
        records = [("b", Observation(20.0)), ("a", Observation(30.0)), ("b", Observation(10.0))]
        studies = studies_of(records)
        assert studies.names.tolist() == ["b", "a"]
        assert studies.at.tolist() == [10, 30]
        assert studies_of(records, since=15).names.tolist() == ["a"]

    def test_a_subject_counts_once_in_a_while(self) -> None:
        days = [0, DAYS_BETWEEN / 2, DAYS_BETWEEN - 1, DAYS_BETWEEN + 1, DAYS_BETWEEN + 2]
        records = [(str(day), Observation(day * DAY, subject="x")) for day in days]
        assert studies_of(records).tested.tolist() == [True, False, False, True, False]
        anonymous = [(name, replace(each, subject="")) for name, each in records]
        assert studies_of(anonymous).tested.all()

    def test_classes_are_series_of_probabilities_or_of_shares(self) -> None:
        both = set(studies_of(observed(Node(1, 5))).series)
        assert {Quantity(Kind.PROBABILITY, "finding", "yes"), Quantity(Kind.PREDICTION, "score[left]")} < both
        grades = [(str(n), Observation(n, predictions={"grade": str(n % 3)})) for n in range(6)]
        series = studies_of(grades).series
        shares = {quantity.detail: values.mean() for quantity, values in series.items() if quantity.kind is Kind.CLASS}
        assert shares == {"0": pytest.approx(1 / 3), "1": pytest.approx(1 / 3), "2": pytest.approx(1 / 3)}


class TestSequential:
    @pytest.mark.parametrize("draw", ["normal", "exponential", "tied"])
    def test_scores_are_normal_whatever_the_distribution(self, draw: str) -> None:
        rng = np.random.default_rng(3)
        values = {
            "normal": rng.normal(size=4000),
            "exponential": rng.exponential(size=4000) ** 3,
            "tied": rng.integers(0, 3, 4000).astype(float),
        }[draw]
        scores = sequential_scores(values, np.arange(4000) % 2, rng.random(4000))
        assert np.isnan(scores[: 2 * FEWEST_BEFORE]).all()
        scores = scores[2 * FEWEST_BEFORE :]
        assert kstest(scores, norm.cdf).pvalue > 0.01
        assert abs(np.corrcoef(scores[1:], scores[:-1])[0, 1]) < 0.05

    def test_ranks_are_those_among_the_studies_before(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.integers(0, 50, 77).astype(float)
        scores = sequential_scores(values, np.zeros(77, dtype=int), np.random.default_rng(1).random(77))
        for row in range(FEWEST_BEFORE, 77):
            below, equal = (values[:row] < values[row]).sum(), (values[:row] == values[row]).sum()
            assert below / (row + 1) <= norm.cdf(scores[row]) <= (below + equal + 1) / (row + 1)

    def test_ratios_are_likelihood_ratios(self) -> None:
        z = np.array([-2.0, 0.3, 1.7])
        expected = [norm.logpdf(z, mean, std) - norm.logpdf(z) for mean, std in ALTERNATIVES]
        assert np.allclose(score_ratios(z), np.array(expected).T)
        odds = 0.2 / 0.8 * ODDS
        yes, no = odds_ratios(np.array([1.0, 0.0]), np.array([0.2, 0.2]))
        assert np.allclose(yes, np.log(odds / (1 + odds) / 0.2))
        assert np.allclose(no, np.log(1 / (1 + odds) / 0.8))
        # the expectation is 1 for the expected share
        assert np.allclose(0.2 * np.exp(yes) + 0.8 * np.exp(no), 1)

    def test_shares_are_compared_with_those_before(self) -> None:
        yes = (np.arange(60) % 4 == 0).astype(float)
        ratios = share_ratios(yes, np.zeros(60, dtype=int))
        assert (ratios[:FEWEST_BEFORE] == 0).all()
        assert np.allclose(ratios[40], odds_ratios(yes[40:41], np.array([(10 + 0.5) / 41]))[0])

    def test_evidence_is_that_of_every_possible_start(self) -> None:
        rng = np.random.default_rng(1)
        ratios, days = rng.normal(-0.1, 1, (30, 4)), np.sort(rng.integers(0, 9, 30))
        last, grown = evidence(ratios, days)
        starts = [int(np.flatnonzero(days == day)[0]) for day in np.unique(days)]
        for end, own in zip(last, grown, strict=True):
            sums = [np.exp(ratios[start : end + 1].sum(axis=0)) for start in starts if start <= end]
            assert np.allclose(np.exp(own), np.sum(sums, axis=0))
        assert np.allclose(mixture(grown), np.log(np.exp(grown).mean(axis=1)))

    def test_without_a_change_its_expectation_is_the_number_of_days(self) -> None:
        rng = np.random.default_rng(2)
        days, weak = np.repeat(np.arange(10), 5), [3]
        ends = [np.exp(evidence(score_ratios(rng.normal(size=50))[:, weak], days)[1][-1, 0]) for _ in range(4000)]
        assert np.mean(ends) == pytest.approx(10, abs=5 * np.std(ends) / np.sqrt(4000))

    def test_alarms_are_as_rare_as_allowed(self) -> None:
        rng, level = np.random.default_rng(4), threshold(1, alarms_a_year=0.4)
        days, nodes = np.repeat(np.arange(365), 4), 400
        raised = [
            (mixture(evidence(score_ratios(rng.normal(size=len(days))), days)[1]) > level).any() for _ in range(nodes)
        ]
        allowed = 365 / 365.25 * 0.4 * nodes
        # a bound that is not far away: a quarter of the evidence would exceed it
        assert allowed / 8 < sum(raised) <= allowed

    def test_the_start_of_a_change_is_estimated(self) -> None:
        scores = np.concatenate(
            [norm.ppf(np.arange(1, 51) / 51)[np.random.default_rng(0).permutation(50)], np.full(20, 1.5)]
        )
        start, alternative = start_of_change(score_ratios(scores), 52)
        assert start == 50
        assert ALTERNATIVES[alternative].tolist() == [1.5, 1]

    @pytest.mark.parametrize("change", ["mean", "variance", "share"])
    def test_a_split_is_where_the_likelihood_is_largest(self, change: str) -> None:
        rng = np.random.default_rng(1)
        later = np.arange(300) >= 200
        values = {
            "mean": rng.normal(size=300) + 1.5 * later,
            "variance": rng.normal(size=300) * np.where(later, 3, 1),
            "share": (rng.random(300) < np.where(later, 0.5, 0.05)).astype(float),
        }[change]
        sample = values if change == "share" else full_scores(values, np.zeros(300, dtype=int))
        assert split(sample, 50, 260, share=change == "share") == pytest.approx(200, abs=8)
        assert split(sample, 50, 150, share=change == "share") <= 150


class TestComparisons:
    def test_the_stability_index_of_equal_samples_is_as_large_as_by_chance(self) -> None:
        rng = np.random.default_rng(1)
        exceeded = []
        for _ in range(400):
            both = compared(rng.normal(size=500), rng.normal(size=500))
            assert both is not None
            exceeded.append(both.psi > both.by_chance)
        assert 0.01 < np.mean(exceeded) < 0.09
        assert stability_index(np.array([5.0, 0.0]), np.array([0.0, 5.0])) < math.inf

    def test_classes(self) -> None:
        first, second = {"a": 30, "b": 60, "c": 10}, {"a": 40, "b": 20}
        both = compared_classes(first, second)
        assert both is not None
        reference = chi2_contingency([[30, 60, 10], [40, 20, 0]], lambda_="log-likelihood").pvalue
        assert both.p == pytest.approx(reference)
        assert compared_classes(first, {}) is None
        same = compared_classes({"a": 3}, {"a": 5})
        assert same is not None
        assert (same.psi, same.p) == (0, None)


class TestChanges:
    def test_no_change_is_reported_without_one(self) -> None:
        # 20 nodes of 50 weeks: a bound of 15 alarms in 19 years
        count = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            n = 350 * 10
            series = {Quantity(Kind.NUMBER, f"texture {k}"): rng.normal(size=n) ** 3 for k in range(8)}
            series[Quantity(Kind.FLAGGED)] = (rng.random(n) < 0.05).astype(float)
            series[Quantity(Kind.DISTANCE)] = rng.integers(0, 4, n).astype(float)
            own = series_of(rng.normal(size=n), BRIGHTNESS, 10, rng.choice(["A", "B"], n))
            count += len(groups(changes(replace(own, series=series | dict(own.series)), 200)))
        assert count <= 9

    def test_other_images_of_a_week_are_noticed(self) -> None:
        changed = found_in(Node(7, 100, change=4, lighter=1.0))
        assert [(each.what, each.scope) for each in changed] == [(BRIGHTNESS, Scope())]
        change = changed[0]
        assert change.since == pytest.approx(START + 4 * DAY, abs=DAY / 4)
        assert change.detected is not None
        assert change.detected - START < 5 * DAY
        assert change.after is not None
        assert change.before is not None
        assert change.after - change.before == pytest.approx(0.06, abs=0.015)
        assert 0.3 < change.size < 0.6

    def test_a_change_of_one_scanner_is_one_of_that_scanner(self) -> None:
        changed = found_in(Node(20, 60, change=10, lighter=1.2, scanners=("Brand Q",)))
        assert [(each.what, each.scope) for each in changed] == [(BRIGHTNESS, Scope("Brand Q"))]

    def test_a_new_scanner_is_a_change_from_its_first_studies_on(self) -> None:
        changed = found_in(Node(8, 60, change=6, lighter=1.5, scanner="New Z9"))
        assert [each.what for each in changed] == [None]
        assert changed[0].since == pytest.approx(START + 6 * DAY, abs=DAY / 10)
        assert "lighter" in changed[0].text
        few = observed(Node(8, 60))[: 6 * 60 + NEW - 1]
        few = few[:-NEW] + [(name, replace(each, scanner="New Z9")) for name, each in few[-NEW:]]
        assert len(changes(studies_of(few), 200)) == 1
        assert len(changes(studies_of(few[:-1]), 200)) == 0

    def test_another_mix_of_scanners_is_no_change_of_the_images(self) -> None:
        rng = np.random.default_rng(5)
        scanners = np.where(rng.random(2000) < np.where(np.arange(2000) < 1000, 0.2, 0.8), "A", "B")
        values = rng.normal(size=2000) + 2 * (scanners == "A")
        assert changes(series_of(values, BRIGHTNESS, scanners=scanners), 200) == []

    @pytest.mark.parametrize("probability", [1.2, -2.0])
    def test_other_probabilities_are_noticed(self, probability: float) -> None:
        changed = found_in(Node(30, 60, change=15, probability=probability))
        quantities = {each.what for each in changed}
        assert Quantity(Kind.PROBABILITY, "finding", "yes") in quantities
        assert BRIGHTNESS not in quantities

    def test_more_flags_are_noticed_and_fewer(self) -> None:
        rng = np.random.default_rng(7)
        share = np.repeat([0.04, 0.15, 0.03], 800)
        changed = changes(series_of(rng.random(2400) < share, Quantity(Kind.FLAGGED)), 200)
        assert len(changed) == 2
        rises = [float(each.after or 0) - float(each.before or 0) for each in changed]
        assert rises[0] > 0.05 > -0.05 > rises[1]
        rows = [round((each.since - START) / DAY * 20) for each in changed]
        assert rows == [pytest.approx(800, abs=120), pytest.approx(1600, abs=120)]

    def test_what_was_reported_stays_in_every_later_page(self) -> None:
        quantity, n = Quantity(Kind.SET_SIZE, "finding"), 1400
        numbers = np.arange(n)
        for seed in range(3):
            share = np.where(numbers < 400, 0.2, np.where(numbers < 1000, 0.5, 0.68))
            own = series_of(1.0 + (np.random.default_rng(seed).random(n) < share), quantity)
            noticed: list[float | None] = []
            for end in range(400, n + 1, 20):
                later = [each.detected for each in changes(own.subset(numbers < end), 200)]
                assert later[: len(noticed)] == noticed
                noticed = later
            assert noticed

    def test_a_change_of_all_is_not_one_of_the_largest_scanner(self) -> None:
        places = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            scanners = np.where(rng.random(1000) < 0.95, "Big", "Small")
            values = rng.normal(size=1000) + 0.75 * (np.arange(1000) >= 600)
            places += [each.scope for each in changes(series_of(values, BRIGHTNESS, 40, scanners), 200)]
        assert len(places) >= 20
        assert np.mean([place == Scope() for place in places]) >= 0.9

    @pytest.mark.parametrize(
        ("change", "evidence"),
        [
            ({}, 200),
            ({"subject": "x"}, 0),
            ({"scanner": "S{}", "site": ""}, 0),
        ],
    )
    def test_studies_that_are_no_evidence_are_counted(self, change: dict[str, str], evidence: int) -> None:
        own = [
            (name, replace(each, **{key: text.format(number % 30) for key, text in change.items()}))
            for number, (name, each) in enumerate(observed(Node(10, 40)))
        ]
        studies = studies_of(own)
        assert evidence_of(studies, 200).sum() == evidence
        assert bool(why_untested(studies, 200)) is (evidence == 0)
        assert bool(why_untested(studies.subset(np.arange(201)), 200))

    def test_repeated_studies_of_a_subject_are_no_evidence(self) -> None:
        records = observed(Node(10, 40))
        repeats = [
            (f"{number:x}x", replace(records[0][1], at=START + 8 * DAY + number * 60, subject="x"))
            for number in range(300)
        ]
        repeats = [(name, replace(each, images=(each.numbers | {"brightness": 0.9},))) for name, each in repeats]
        assert changes(studies_of([*records, *repeats]), 200) == []


class TestTraining:
    def differences(self, observations: list[tuple[str, Observation]], own: Limits | None = None) -> list[Change]:
        return against_training(studies_of(observations), dict(observations), own or limits(), 200)

    def test_an_equal_node_is_like_the_training(self) -> None:
        assert self.differences(observed(Node())) == []

    def test_another_node_differs_from_its_first_study_on(self) -> None:
        observations = observed(Node(change=0, lighter=1.5))
        (difference,) = self.differences(observations)
        assert difference.what == BRIGHTNESS
        assert difference.from_start
        assert difference.since == observations[0][1].at
        assert changes(studies_of(observations), 200) == []

    @pytest.mark.parametrize("lighter", [0.0, 0.15])
    def test_images_are_compared_with_images_not_their_means(self, lighter: float) -> None:
        rng, subjects = np.random.default_rng(0), np.tile(np.arange(400), 2)
        views = np.concatenate([rng.normal(mean, 0.05, 400) for mean in (0.3, 0.6)])
        own = Limits(800, 400, 0.25, {}, quantiles={"brightness": quantiles_of(views, subjects)})
        studies = [
            (
                str(n),
                Observation(n, images=tuple({"brightness": rng.normal(mean + lighter, 0.05)} for mean in (0.3, 0.6))),
            )
            for n in range(300)
        ]
        assert [each.what for each in self.differences(studies, own)] == [BRIGHTNESS] * bool(lighter)

    def test_too_many_flags_and_large_distances(self) -> None:
        own = [
            (name, replace(each, distance=3.0 if number % 5 == 0 else 0.5, flags=("x",) if number % 8 == 0 else ()))
            for number, (name, each) in enumerate(observed(Node()))
        ]
        assert {each.what: each.after for each in self.differences(own) if each.what} == {
            Quantity(Kind.FLAGGED): pytest.approx(0.125),
            Quantity(Kind.DISTANCE): pytest.approx(0.2),
        }
