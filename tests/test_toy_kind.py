"""What others add in one file: a kind of target that is counted, and a metric."""

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import matthews_corrcoef
from torch import Tensor
from torch.nn import functional

from casewise import targets
from casewise.inference.model import load_bundle
from casewise.jobs.backends import Registrations
from casewise.metrics import registry
from casewise.metrics.records import Metric
from casewise.metrics.registry import metric_of, register_metric
from casewise.models import outputs as network_outputs
from casewise.models.outputs import NETWORK_KINDS, NumberOutput, Output
from casewise.report import sections
from casewise.report.page import render
from casewise.report.results_page import write_results
from casewise.run import run
from casewise.study import sources
from casewise.study.evaluation import Evaluation
from casewise.study.loading import build_study
from casewise.study.recipe import Recipe
from casewise.study.schema import Study
from casewise.study.targets import Target
from casewise.targets import Number, kind_named, register_kind
from tests.report_contexts import classes as toy
from tests.report_contexts import finished


class Counts(Number):
    """Whole numbers from 0 on, judged as numbers are."""

    name = "counts"


class CountOutput(NumberOutput):
    """The logarithm of a rate."""

    standardised, last = False, False

    def decode(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def loss(self, batch: Sequence[network_outputs.Scored], recipe: Recipe) -> Tensor:
        total = batch[0].raw.new_zeros(())
        for target in batch:
            scored = ~target.truth.isnan()
            total = total + functional.poisson_nll_loss(target.raw[scored, 0], target.truth[scored])
        return total

    def guess_loss(self, fitted: Tensor, judged: Tensor, output: Output, recipe: Recipe) -> float:
        return float(functional.poisson_nll_loss(fitted.mean().log().expand_as(judged), judged))


@pytest.fixture
def counts() -> Iterator[None]:
    register_kind(Counts())
    NETWORK_KINDS["counts"] = CountOutput()
    yield
    targets._REGISTRY.pop("counts")
    del NETWORK_KINDS["counts"]


class Toys(sources.BackboneSource):
    name = "toys"
    prefix = "toy:"


@pytest.mark.usefixtures("counts")
def test_processes_that_train_know_what_the_user_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_REGISTERED", [*sources._REGISTERED])
    metric = register_metric(dataclasses.replace(metric_of("mae"), name="toy_error"))
    values = {"cohort": "c.csv", "name": "s", "backbones": ["cnn"]}
    study = Study.model_validate(values | {"targets": {"n": {"kind": "counts", "range": [0, 9]}}})
    sources.register_source(Toys())
    registrations = Registrations.of(study)
    sources._REGISTERED.clear()
    targets._REGISTRY.pop("counts")
    registry._REGISTRY.pop(metric.name)
    output = NETWORK_KINDS.pop("counts")
    for _ in range(2):  # importing the user's modules may have registered everything already
        registrations.register()
    assert kind_named("counts").name == "counts"
    assert NETWORK_KINDS["counts"] is output
    assert metric_of(metric.name) is metric
    assert isinstance(sources.source_of("toy:network"), Toys)
    registry._REGISTRY.pop(metric.name)


def write_photographs(folder: Path, subjects: int = 16) -> Path:
    """A table of photographs with as many bright squares as the subject has lesions."""
    rng, rows = np.random.default_rng(3), []
    for number in range(subjects):
        lesions, pixels = number % 4, rng.integers(0, 60, (32, 32, 3))
        for square in range(lesions):
            pixels[4:10, 2 + 8 * square : 8 + 8 * square] = 230
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"path": f"{number}.png", "subject": f"S{number:02}", "lesions": lesions})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.mark.usefixtures("counts")
def test_counts_go_from_the_table_to_the_report_and_to_new_cases(tmp_path: Path) -> None:
    table = write_photographs(tmp_path)
    values = {"name": "lesions", "cohort": str(table), "images": {"size": 32}, "audit": {"permutations": 99}}
    values |= {"targets": {"lesions": {"kind": "counts", "range": "0..9", "integer": True}}}
    values |= {"split": {"test": 0, "folds": 2, "restarts": 5}, "backbones": ["test_resnet", "test_byobnet"]}
    values |= {"recipe": {"epochs": 2, "batch_size": 4, "schedule": "cosine", "early_stopping": {"monitor": "none"}}}
    values |= {"evaluation": {"bootstrap_resamples": 100, "counterfactual_cases": 2}, "weights": "random"}
    values |= {"stack": ["mean", "weighted"]}
    values |= {"compute": {"jobs": 1, "precision": "fp32"}}
    finished = run(build_study(values, source="the toy kind", folder=tmp_path), tmp_path / "run")
    rows = finished.rows
    assert set(rows["kind"]) == {"counts"}
    networks, combined = {"test_resnet", "test_byobnet"}, {"mean_of_learners", "meta_learner_weighted"}
    assert set(rows["model"]) == {"linear_pixels", *networks, *combined}
    assert rows["y_pred"].between(0, 9).all()
    assert finished.results["main"]["kind"] == "counts"

    main = finished.results["main"]
    headline = finished.results.figures.of(main["stage"], main["learner"], main["target"])["mae"]
    error = rows[rows["model"] == finished.results["main"]["learner"]].eval("y_pred - y_true").abs().mean()
    assert headline["value"] == pytest.approx(error, abs=1e-4)
    page = finished.report.read_text()
    assert 'id="agreement"' in page
    assert f"{headline['value']:.2f}" in page
    assert f"{headline['value']:.2f}" in write_results(finished.folder, tmp_path / "page.md").read_text()

    new = load_bundle(finished.folder).predict(table)
    assert new["prediction"].between(0, 9).all()


def test_a_kind_that_nobody_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        Target(kind="counts", range="0..40")


DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture
def matthews() -> Iterator[Metric]:
    """Matthews' correlation of two classes."""

    def correlation(sums: object) -> np.ndarray:
        counts = sums.confusion  # type: ignore[attr-defined]
        a, b, c, d = (counts[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
        return np.asarray((a * d - b * c) / np.sqrt((a + b) * (c + d) * (a + c) * (b + d)))

    words = {"title": "Matthews r", "phrase": "Matthews correlation", "glossary": "Correlation of the classes."}
    yield register_metric(Metric("matthews", correlation, ("classification",), **words, n_classes=(2, 2)))
    registry._REGISTRY.pop("matthews")


def test_a_metric_is_one_record(matthews: Metric, tmp_path: Path) -> None:
    reported = Evaluation(references={"finding": {"someone": {"matthews": 0.5}}})
    assert reported.references["finding"]["someone"] == {"matthews": 0.5}

    material = toy("binary", networks=2)
    outcome, stage, learner = material.study.primary_outcome, material.stage, material.learner
    figure, rows = material.metrics.figures.of(stage, learner, outcome)["matthews"], material.predictions
    rows = rows[(rows["stage"] == stage) & (rows["model"] == learner) & rows["y_true"].notna()]
    assert figure["value"] == pytest.approx(matthews_corrcoef(rows["y_true"], rows["y_pred"]), abs=1e-5)
    assert figure["low"] < figure["value"] < figure["high"]

    assert matthews.title in render(material)
    page = write_results(finished(material, tmp_path / "run"), tmp_path / "page.md").read_text()
    assert matthews.title in page
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert f"\n- `matthews` ({matthews.title}): {matthews.glossary}\n" in build.metrics_page()


def test_a_name_is_registered_once(matthews: Metric) -> None:
    with pytest.raises(ValueError, match="registered"):
        register_metric(matthews)


def test_a_section_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_test.py").write_text(
        "from casewise.report.blocks import Section, Text\n\n\n"
        "def section(context):\n    return Section('of-a-test', 'Of a test', [Text(context.learner)])\n"
    )
    context = toy("binary", networks=2)
    before = re.findall(r'<section id="([^"]+)"', render(context))
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    after = re.findall(r'<section id="([^"]+)"', render(context))
    monkeypatch.delitem(sys.modules, f"{sections.__name__}.of_a_test")
    place = before.index("worst")
    assert after == [*before[:place], "of-a-test", *before[place:]]
