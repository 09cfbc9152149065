"""The recent cases of a service: when their source is noticed to be another one, and when it is not."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from casewise.errors import CasewiseError
from casewise.inference.drift import FEWEST_CASES, FURTHER, RECENT, Drift, RecentCases, drift, quantiles_of

TRAINED = 60
NAMES = ("brightness", "contrast", "texture 1", "bytes")
TEXT = "A. Meyer, films compared"


def normal_training(seed: int) -> Any:
    """The test against a training of standard normal numbers."""
    values = np.random.default_rng(seed).normal(size=(TRAINED, len(NAMES)))
    subjects = np.arange(TRAINED)
    quantiles = {name: quantiles_of(column, subjects) for name, column in zip(NAMES, values.T, strict=True)}
    return lambda batch, repeats: drift(batch, quantiles, TRAINED, repeats)


def case(number: int, random: np.random.Generator, **about: Any) -> dict[str, Any]:
    """A case of its own subject, whose `shift` is added to the numbers that it `moves`."""
    shift, moves = about.pop("shift", 0.0), about.pop("moves", NAMES)
    values = {name: float(random.normal() + shift * (name in moves)) for name in NAMES}
    return {"case": f"{number}", "subject": f"S{number}", "source": "", "images": [values]} | about


def stream(recent: RecentCases, cases: Iterable[dict[str, Any]], test: Any) -> list[Drift]:
    """The tests of cases that come one by one."""
    results = []
    for each in cases:
        source, result = recent.tested([each], test)
        recent.record([each], source, result)
        results.append(result)
    return results


def test_sources_like_the_training_are_seldom_withheld() -> None:
    warned = 0
    for seed in range(40):
        recent, random = RecentCases(), np.random.default_rng(100 + seed)
        results = stream(recent, (case(number, random) for number in range(160)), normal_training(seed))
        assert [each.tested for each in results] == [False] * (FEWEST_CASES - 1) + [True] * (161 - FEWEST_CASES)
        assert len(recent.cases) == RECENT
        warned += bool(recent.warnings)
    assert warned <= 3


def test_a_warning_stands_from_the_first_test_on_and_over_restarts() -> None:
    recent, random, test = RecentCases(), np.random.default_rng(1), normal_training(1)
    results = stream(recent, (case(number, random, shift=3.0) for number in range(25)), test)
    assert [each.withholds for each in results] == [False] * (FEWEST_CASES - 1) + [True] * 6
    assert recent.warnings[""]["before"] == [str(number) for number in range(FEWEST_CASES - 1)]
    again = RecentCases(**json.loads(json.dumps(asdict(recent))))
    assert again == recent
    # also for cases like the training, until somebody confirms the source
    later = [case(number, random) for number in range(100, 250)]
    assert all(each.withholds for each in stream(again, later, test))
    assert again.warnings == recent.warnings
    again.confirm(TEXT)
    (result,) = stream(again, [case(300, random)], test)
    assert (result.withholds, result.confirmed["by"], bool(result.text)) == (False, "A. Meyer", True)
    entry = dict(again.confirmed)
    entry["*"]["at"] = "2026-01-01T00:00:00+00:00"
    again.confirm(TEXT)
    assert again.confirmed == entry
    again.confirm("")
    assert stream(again, [case(301, random)], test)[0].withholds
    with pytest.raises(CasewiseError):
        again.confirm("A. Meyer")


def test_a_later_change_is_found() -> None:
    recent, random, test = RecentCases(), np.random.default_rng(2), normal_training(2)
    assert not any(each.withholds for each in stream(recent, (case(n, random) for n in range(200)), test))
    results = stream(recent, (case(n, random, shift=3.0) for n in range(200, 300)), test)
    assert 5 < [each.withholds for each in results].index(True) <= RECENT - FURTHER


@pytest.mark.parametrize(
    "about",
    [
        {"subject": "S1"},
        {"case": "1", "subject": "S1"},
        {"moves": ("bytes",)},
    ],
    ids=["one subject", "the same images", "another format"],
)
def test_what_is_no_other_source(about: dict[str, Any]) -> None:
    recent, random = RecentCases(), np.random.default_rng(3)
    results = stream(recent, (case(n, random, shift=3.0, **about) for n in range(60)), normal_training(3))
    assert not any(each.withholds or each.text for each in results)


def test_visits_of_one_request_are_tested_together() -> None:
    recent, random, test = RecentCases(), np.random.default_rng(4), normal_training(4)
    withheld = []
    for request in range(12):
        new = [case(3 * request + visit, random, shift=3.0, subject=f"S{request}") for visit in range(3)]
        source, result = recent.tested(new, test)
        recent.record(new, source, result)
        withheld.append(result.withholds)
    # 10 subjects have 30 visits
    assert withheld == [False] * 9 + [True] * 3


def test_sources_are_tested_by_themselves_and_small_ones_together() -> None:
    recent, random, test = RecentCases(), np.random.default_rng(5), normal_training(5)
    own = [case(n, random, source="large") for n in range(40)]
    small = [case(100 + n, random, source=f"small {n // 2}", shift=3.0) for n in range(40)]
    mixed = [each for pair in zip(own, small, strict=True) for each in pair]
    results = dict(zip([each["case"] for each in mixed], stream(recent, mixed, test), strict=True))
    assert set(recent.warnings) == {""}
    assert not any(results[each["case"]].withholds for each in own[FEWEST_CASES:])
    assert all(results[each["case"]].withholds for each in small[FEWEST_CASES:])
    # a source that turns out to be like the training is answered with confidence
    grown = stream(recent, (case(200 + n, random, source="small 0") for n in range(60)), test)
    assert (grown[0].withholds, grown[-1].withholds) == (True, False)
    # each is confirmed by its name
    confirmed = recent.confirmation_of
    recent.confirm({"large": TEXT})
    assert (bool(confirmed("large")), bool(confirmed(""))) == (True, False)
