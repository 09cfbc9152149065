"""Checklists of reporting guidelines: every item once, facts that agree with the run, nothing claimed without one."""

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from casewise.errors import CasewiseError, RunError
from casewise.evaluation.figures import LEFT_OUT, Cell
from casewise.evaluation.results import PrimaryContrast
from casewise.plugins.checklist import filling as lists
from casewise.plugins.phantoms.chest import make_chest
from casewise.report.context import read_context
from casewise.run import run
from tests.chest_study import FAST, chest_study
from tests.plugins.checklist.test_lists import PARTS
from tests.report_contexts import classes, estimate, with_figures, with_results

SETTINGS = {**FAST, "evaluation": {**FAST["evaluation"], "subgroups": ["sex"], "decision_thresholds": [0.2]}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run of films without an external cohort, and its table."""
    folder = tmp_path_factory.mktemp("checklist")
    table = make_chest(folder / "here", subjects=12, size=(64, 64), seed=1)
    rows = pd.read_csv(table)
    rows.assign(device=["Alpha", "Beta", "Beta"] * 4).to_csv(table, index=False)
    return run(chest_study(table, **SETTINGS), folder / "run").folder, table


def facts_of(folder: Path, name: str) -> dict[str, lists.Item]:
    return {item.id: item for item in lists.filled(lists.read_checklist(name), read_context(folder)).items}


def test_filled_items_agree_with_the_run(alone: tuple[Path, Path]) -> None:
    finished = read_context(alone[0])
    main = finished.metrics.main
    entry = finished.class_figures(str(main.stage), str(main.learner))
    accuracy = sum(row[n] for n, row in enumerate(entry.confusion)) / 12
    assert f"{12 * accuracy:.0f} of 12 correct" in lists.confusion(finished)
    assert all(", ".join(map(str, row)) in lists.confusion(finished) for row in entry.confusion)
    people = lists.participants(finished)
    assert people.startswith("12 subjects, 12 cases, 12 images in the split.")
    assert ", ".join(f"{name} {count}" for name, count in zip(entry.names, entry.support, strict=True)) in people
    assert lists.partition(finished) == "12 subjects: none in the test set, the others in 2 folds of 6 and 6."
    assert lists.missing_reference(finished).startswith("Out of fold, 0 of 12 predictions")
    assert f"{finished.jobs[0]['parameters']:,} parameters" in lists.networks(finished)
    items, page = facts_of(alone[0], "claim"), (alone[0] / "report.html").read_text()
    assert f"Accuracy {100 * accuracy:.0f} %" in items["38"].text
    assert all(f'id="{item.section_id}"' in page for item in items.values() if item.section_id)
    assert {item.id for item in items.values() if item.text} < {item.id for item in items.values() if item.fact}


def test_where_folds_are_sources_no_pair_is_tested_first() -> None:
    context = classes(networks=2)
    first, second, *_ = context.learners
    primary = PrimaryContrast(first, second, "oof", "order")
    by_case = with_results(context, primary=primary)
    assert lists.uncertainty(by_case) != lists.uncertainty(context)
    source = {Cell("oof", first, context.outcome, LEFT_OUT, "nih"): {"accuracy": estimate(0.6, 0.5, 0.7)}}
    by_source = with_figures(context, source)
    assert lists.uncertainty(with_results(by_source, primary=primary)) == lists.uncertainty(by_source)


def test_what_the_run_lacks_is_left_open(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """Without an external cohort, explanations, readers or sites, their items are the author's."""
    folder, table = alone
    open_items = {"claim": ("18", "31", "33"), "stard-ai": ("21", "29"), "tripod-ai": ("12d", "20c", "23b")}
    for name, ids in open_items.items():
        items = facts_of(folder, name)
        for number in ids:
            assert items[number].fact
            assert (items[number].by, items[number].text, items[number].section_id) == (lists.AUTHOR, "", "")
    other = make_chest(tmp_path / "there", subjects=6, size=(64, 64), seed=8)
    external = {"cohort": other, "name": "valley", "subjects": "distinct"}
    outside = run(chest_study(table, **SETTINGS, external=external), folder).folder
    figures = json.loads((outside / "metrics.json").read_text())["metrics"]["external"]
    text = lists.external_cohort(read_context(outside))
    assert text.startswith("valley: 6 images of 6 subjects (")
    assert f"Accuracy {100 * figures['test_resnet']['label']['accuracy']['value']:.0f} %" in text
    item = facts_of(outside, "claim")["33"]
    assert (item.by, item.section_id) == (lists.RUN, "external")
    for name, number in (("stard-ai", "29"), ("tripod-ai", "20c")):  # of the data, not of the accuracy
        item = facts_of(outside, name)[number]
        assert (item.by, item.section_id) == (lists.RUN, "participants")
        assert item.text.startswith("Here and in valley: 12 subjects, 12 cases against 6 subjects, 6 cases; ")
        assert "Accuracy" not in item.text


def test_items_say_who_was_studied_how_and_with_what(alone: tuple[Path, Path]) -> None:
    folder, table = alone
    rows, tripod, stard = pd.read_csv(table), facts_of(folder, "tripod-ai"), facts_of(folder, "stard-ai")
    sexes = rows["sex"].value_counts()
    for text in (tripod["20b"].text, tripod["23a"].text):
        assert all(f"{name} {count}" in text for name, count in sexes.items())
    assert f"age: mean {rows['age'].mean():.3g}, SD {rows['age'].std():.3g}" in tripod["20b"].text
    assert stard["13"].text.startswith("device: Alpha 4, Beta 8. casewise ")
    assert "Calibration: slope" in tripod["12e"].text
    assert "20 %" in tripod["12e"].text
    assert "is the only learner" in tripod["12c"].text
    assert tripod["12c"].text.startswith(facts_of(folder, "claim")["25"].text)


def test_the_three_formats_hold_the_same_items(alone: tuple[Path, Path]) -> None:
    rows = list(csv.reader(io.StringIO(lists.write_checklist(alone[0], "stard-ai", "csv"))))
    assert len(rows) == 1 + PARTS["stard-ai"]
    page = lists.write_checklist(alone[0], "stard-ai", "html")
    assert re.findall(r'<th scope="row" data-value="(\w+)"', page) == [row[0] for row in rows[1:]]
    text = lists.write_checklist(alone[0], "stard-ai", "md")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + PARTS["stard-ai"]
    assert text.count("| author |") == sum(row[3] == lists.AUTHOR for row in rows[1:])


def test_unknown_names_are_refused(alone: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match="Did you mean 'tripod-ai'"):
        lists.write_checklist(alone[0], "tripod")
    with pytest.raises(CasewiseError, match="docx"):
        lists.write_checklist(alone[0], "claim", "docx")
    with pytest.raises(RunError):
        lists.write_checklist(tmp_path, "claim")
