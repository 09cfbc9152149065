"""What tests share: small cohorts that exist only while a test runs, and where real data lies if it is here."""

from __future__ import annotations

import fcntl
import os
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pytest
from hypothesis import settings

from casewise import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from casewise.modalities.base import ImageStore
    from casewise.report.context import ReportContext
    from casewise.run import Run

os.environ.setdefault("MPLBACKEND", "Agg")
# One core for each process, this one and those that tests start: they run side by side, and threads that wait for each
# other on a busy machine cost more than they bring.
os.environ.update(LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="1")
# Waiting for the disk takes a third of the time, and no test switches the power off: it protects against nothing here.
os.fsync = lambda handle: None  # type: ignore[assignment]
# `make test` draws the same examples every time; `make fuzz` draws others and prints their seed.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("fixed")
Once: TypeAlias = "Callable[[str, Callable[[Path], object]], Path]"
SHARED = Path(__file__).resolve().parents[2] / "shared"

TINY = """
extends: onestep-pasi
name: tiny
synthetic: true
cohort: {cohort}
images: {{size: 32}}
split: {{test: 25%, folds: 2, restarts: 20}}
backbones: [test_resnet, test_efficientnet]
weights: random
baselines: {{off: tests of networks}}
recipe: {{epochs: 2, batch_size: 8, lr: 0.01, early_stopping: {{patience: 2, monitor: inner, val_fraction: 0.3}}}}
stack: [ridge+intercept]
audit: {{permutations: 99}}
evaluation: {{bootstrap_resamples: 200, counterfactual_cases: 0}}
compute: {{precision: fp32}}
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, files that share the contexts of reports, which one process keeps, are as one file."""
    from xdist.scheduler import LoadFileScheduling

    class Grouped(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "reports" if _reads_contexts(nodeid.partition("::")[0]) else super()._split_scope(nodeid)

    return Grouped(config, log) if config.getoption("dist") == "loadfile" else None


@cache
def _reads_contexts(file: str) -> bool:
    return "report_of_" in (Path(__file__).resolve().parents[1] / file).read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files and the tests of `thorough.txt`, which `make test` leaves out."""
    root = Path(__file__).parent
    thorough = {str((root / name).resolve()) for name in (root / "thorough.txt").read_text(encoding="utf-8").split()}
    for item in items:
        if thorough & {str(item.path), f"{item.path}::{getattr(item, 'originalname', '')}"}:
            item.add_marker("thorough")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a plugin whose folder was removed: `@pytest.mark.plugins("volumes")`."""
    from casewise.plugin import plugins

    names = {name for mark in item.iter_markers("plugins") for name in mark.args}
    if missing := names - {plugin.name for plugin in plugins()}:
        pytest.skip(f"the plugin {sorted(missing)[0]} is not there")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A folder that the first process of a session fills, for all of them; nothing changes it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with (root / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0, os.SEEK_END)
            if not lock.tell():
                (root / name).mkdir()
                make(root / name)
                lock.write("made")
        return root / name

    return folder


@pytest.fixture(scope="session")
def phantom(once: Once) -> Path:
    """The table of a small synthetic cohort: 8 subjects, 3 visits, 8 photographs each."""
    from casewise.plugins.phantoms.psoriasis import make_psoriasis

    draw = partial(make_psoriasis, subjects=8, visits=3, size=(96, 64), seed=3)
    return once("phantom", draw) / "visits.csv"


def absolute(table: Path) -> pd.DataFrame:
    """The rows of a cohort's table with absolute paths, so that a changed copy may lie elsewhere."""
    rows = pd.read_csv(table)
    return rows.assign(path=[str(table.parent / path) for path in rows["path"]])


@pytest.fixture(scope="session")
def chests(once: Once) -> Path:
    """The table of 24 chest phantoms, a subject each, of three classes."""
    from casewise.plugins.phantoms.chest import make_chest

    return once("chests", partial(make_chest, subjects=24, size=(64, 64), seed=1)) / "cases.csv"


@pytest.fixture(scope="session")
def baseline_run(once: Once) -> Run:
    """A run of baselines alone: `tests.baseline_run`."""
    from tests.baseline_run import run_baselines

    return open_run(once("baselines", run_baselines) / "run")


@pytest.fixture(scope="session")
def chest_run(once: Once, chests: Path) -> Run:
    """A run of one network on films of three classes, with a test set."""
    from casewise.run import run
    from tests.chest_study import chest_run_study

    return open_run(once("chest", lambda folder: run(chest_run_study(chests), folder / "run")) / "run")


@pytest.fixture(scope="session")
def photograph_run(once: Once) -> Run:
    """A run of photographs with a number, classes and grades, and stackers."""
    from tests.combinations import run_for_new_cases

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "casewise.training.linear_models.INNER_FOLDS", 2
            )  # which choose the penalties of its baseline
            run_for_new_cases(folder, "photographs")

    return open_run(once("photographs", make) / "run")


@pytest.fixture
def tiny(tmp_path: Path, phantom: Path) -> Path:
    """A study file on that cohort which trains in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(cohort=phantom))
    return path


@pytest.fixture
def lost_machine() -> Iterator[list[Any]]:
    """Another machine that does the first half of any work on images and is lost then; the items that it did."""
    from casewise.modalities.store.workers import SPREAD, Work

    items: list[Any] = []

    def half(work: Work, tell: Callable[[int], None]) -> bool:
        for part in work.parts[: len(work.parts) // 2]:
            work.function(part)
            items.extend(part)
            tell(len(items))
        return True

    token = SPREAD.set(half)
    yield items
    SPREAD.reset(token)


@pytest.fixture
def training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with their predictions, without audit, evaluation and report, for tests that compare networks only."""
    train_only(monkeypatch)


def train_only(patch: pytest.MonkeyPatch) -> None:
    """The same from now on, for fixtures of a module and for parts of a test."""
    import casewise.pipeline.further_trainings  # noqa: F401 (it keeps the function that it imports first)

    nothing = SimpleNamespace(main=SimpleNamespace(metrics={}), headline=None)
    patch.setattr("casewise.pipeline.evaluate.evaluate", lambda *given: nothing)
    for step in ("audit.audit", "image_checks.counterfactuals", "finished.report", "bundle.write_bundle"):
        patch.setattr(f"casewise.pipeline.{step}", lambda *given: None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of the machine made in tests stay in the test."""
    monkeypatch.setenv("CASEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)


@pytest.fixture(scope="session", autouse=True)
def quick_and_alike() -> Iterator[None]:
    """Audits search the same images for twins once, and planned runs have the most epochs, however busy the machine is.

    The tests of the search call it themselves, and those of the budget state a speed.
    """
    from casewise.audit import run
    from casewise.jobs.compute_plans import Pace

    search, found = run.find_twins, {}

    def find(
        store: ImageStore, images: pd.DataFrame, *, hashes: Any = None, embed: Any = None, progress: Any = None
    ) -> list[Any]:
        key = (store.address, images.to_json(default_handler=str))
        if embed or key not in found:
            found[key] = search(store, images, hashes=hashes, embed=embed, progress=progress)
        return list(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "find_twins", find)
        pace = Pace(0.0, 0.0, 1e-6, 0.0)
        for measure in ("measured_paces", "quick_paces"):
            patch.setattr(f"casewise.jobs.execution.{measure}", lambda jobs, *_: ({job.model: pace for job in jobs}, 1))
        patch.setattr("casewise.pipeline.budget.clock", lambda: 0.0)
        patch.setattr("casewise.pipeline.budget.slowness", lambda: 1.0)
        yield


@pytest.fixture
def shared() -> Path:
    """The folder of real data and weights; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"real data are not here ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def report_of_numbers() -> ReportContext:
    """What a report of a small study of numbers is made from; nothing changes it."""
    from tests.report_contexts import numbers

    return numbers(learners=3, metas=2)


@pytest.fixture(scope="session")
def report_of_classes() -> ReportContext:
    """The same of three classes, with a test set and an external cohort."""
    from tests.report_contexts import classes

    return classes(test=30, outside=60, networks=3)


@pytest.fixture(scope="session")
def report_of_two_classes() -> ReportContext:
    """The same of two classes, out of fold."""
    from tests.report_contexts import classes

    return classes("binary", networks=2)


@pytest.fixture(scope="session")
def report_of_grades() -> ReportContext:
    """The same of grades, out of fold."""
    from tests.report_contexts import classes

    return classes("ordinal", subjects=100, networks=2)


@pytest.fixture(scope="session")
def report_of_a_kernel(tmp_path_factory: pytest.TempPathFactory) -> ReportContext:
    """The same of a planned study of two classes, whose best baseline is the model with a radial kernel."""
    from tests.kernel_context import kernel_study

    return kernel_study(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="session")
def served_run(once: Once, phantom: Path) -> Path:
    """The folder of a run with scores, bands, visits and a response, whose headline is a linear model on pixels."""
    from casewise.run import run
    from casewise.study.loading import read_study

    text = TINY.format(cohort=phantom).replace("{off: tests of networks}", "{}")
    text = text.replace("[test_resnet, test_efficientnet]", "[test_resnet]").replace("epochs: 2", "epochs: 1")
    text = text.replace("stack: [ridge+intercept]", "stack: []")
    text = text.replace("evaluation: {", "evaluation: {prediction_coverage: 0.6, ")

    def make(folder: Path) -> None:
        (folder / "study.yaml").write_text(text)
        run(read_study(folder / "study.yaml"), folder / "run")

    return once("served", make) / "run"
