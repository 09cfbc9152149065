"""A new metric is one record, a new section one file: they are accepted, computed, shown with no other change."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from casewise.metrics import registry
from casewise.metrics.records import Metric
from casewise.metrics.registry import register_metric
from casewise.report import sections
from casewise.report.page import render
from casewise.report.results_page import write_results
from casewise.study.evaluation import Evaluation
from tests.report_contexts import classes as toy
from tests.report_contexts import finished

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
    figure = material.metrics["metrics"][stage][learner][outcome]["matthews"]
    rows = material.predictions
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
