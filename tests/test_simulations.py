"""The simulations of `benchmarks`: intervals contain the true value, equal learners are equal, noise is no signal."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import casewise

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], ModuleType]:
    """Load a benchmark by its name; a name of its own keeps it apart from packages such as `coverage`."""

    def load(name: str) -> ModuleType:
        own = f"benchmark_{name}"
        if own not in sys.modules:
            spec = importlib.util.spec_from_file_location(own, SCRIPTS / f"{name}.py")
            module = sys.modules[own] = importlib.util.module_from_spec(spec)
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(str(SCRIPTS))
                spec.loader.exec_module(module)
        return sys.modules[own]

    return load


@pytest.fixture(scope="module")
def coverage(benchmark: Any) -> Any:
    return benchmark("coverage")


@pytest.fixture(scope="module")
def multiplicity(benchmark: Any) -> Any:
    return benchmark("multiplicity")


def test_intervals_of_numbers_contain_the_true_value(coverage: Any) -> None:
    for model in coverage.NUMBERS[:2]:
        table, _ = coverage.coverage(model, (10, 30), 400)
        for name, cells in table.items():
            for cell in cells:
                old, new = cell.shares
                assert 89.5 <= new <= 98.5, (model.title, name)
                assert cell.new == cell.studies == 400
                assert new >= old - 1.5, (model.title, name)
        # what a statistician found
        assert table["loa_low"][0].shares[0] < 88
        assert table["ccc"][0].shares[0] < 90


def test_intervals_of_classes_contain_the_true_value(coverage: Any) -> None:
    model = coverage.CLASSES[1]
    by_all, by_rest = coverage.coverage(model, (30,), 400)
    names = [name for name in by_rest if coverage.shown(name) and name != "ece"]
    assert {"accuracy", "auroc", "sensitivity", "kappa", "log_loss", "brier"} <= set(names)
    for name in names:
        assert 90 <= by_all[name][0].shares[1] <= 98.5, name
        assert by_all[name][0].shares[1] >= by_all[name][0].shares[0], name
        # ten subjects of the class or more
        assert sum(cell.new for cell in by_rest[name][2:]) > 100, name


def test_equal_learners_are_seldom_called_worse(multiplicity: Any) -> None:
    rates = multiplicity.family_wise_error(20, 12)
    for metric in multiplicity.METRICS:
        # 72, 48 and 12 comparisons: at 5 %, more than 8, 6 and 3 happen in less than 2 % of seeds
        assert rates[metric, 3][0] <= 8 / 72
        assert rates[metric, 7][0] <= 6 / 48
        assert rates[metric, 33][0] <= 3 / 12
    # one interval for each learner, as before: nearly every study of 33 equal learners has one that is called worse
    assert rates["mae", 33][1] > 0.9
    assert rates["mae", 7][1] > 0.3


def test_the_test_set_seldom_raises_a_false_alarm(multiplicity: Any) -> None:
    few = multiplicity.false_alarms(3, 5)
    assert {stated for stated, _ in few.values()} == {0.0}
    assert few["ccc", 3][1] > 0.2
    ten = multiplicity.false_alarms(10, 8)
    assert ten["ccc", 3][0] <= 6 / 48


def test_no_combination_finds_signal_where_there_is_none(benchmark: Any) -> None:
    # with weights fitted without caution the headline found signal in half of the studies of this design
    null = benchmark("null")
    shares = null.found_signal(null.DESIGNS[2], studies=12)
    assert shares["headline"] <= 1 / 12


def version_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_pages_of_results_state_version_commit_and_command(benchmark: Callable[[str], ModuleType]) -> None:
    evidence = benchmark("evidence")
    pages = {entry.page: entry for entry in evidence.read_evidence()}
    assert {path.stem for path in evidence.RESULTS.glob("*.md")} == {*pages, "index"}
    for name, entry in pages.items():
        stamp = evidence.STAMP.search(entry.text())
        assert stamp, name
        assert version_of(stamp[1]) <= version_of(casewise.__version__), name
        assert stamp[4] == entry.commands[-1], name
        assert entry.figure_text(), name
        assert "earlier version" not in entry.text(), name
    assert evidence.INDEX.read_text() == evidence.index(list(pages.values()))
