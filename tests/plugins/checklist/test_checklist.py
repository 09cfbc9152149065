"""Checklists of reporting guidelines: every item once, facts that agree with the run, nothing claimed without one."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from casewise.errors import CasewiseError, RunError
from casewise.evaluation.figures import LEFT_OUT, Cell
from casewise.evaluation.results import PrimaryContrast
from casewise.plugins.checklist import data_facts, model_facts, result_facts
from casewise.plugins.checklist import filling as lists
from casewise.plugins.phantoms.chest import make_chest
from casewise.report.context import EXTERNAL, ReportContext, read_context
from casewise.report.formatting import plain
from casewise.report.sections import participants
from casewise.run import Run, run
from tests.chest_study import FAST, THREE, chest_study
from tests.kernel_context import WEIGHTED
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


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> ReportContext:
    """A run of grades without a test set, with two visits a subject in two rooms, gaps, and an external cohort."""
    folder = tmp_path_factory.mktemp("grades")
    tables = [make_chest(folder / name, subjects=24, size=(64, 64), seed=seed) for name, seed in (("a", 1), ("b", 8))]
    for table in tables:
        rows = pd.read_csv(table)
        rows["severity"] = rows["label"].map(THREE.index).astype(object)
        rows["subject"], rows["visit"] = [n // 2 for n in range(24)], [n % 2 for n in range(24)]
        rows["age"] = rows.groupby("subject")["age"].transform("first").astype(object)
        rows["room"], rows["view"] = ["red", "blue"] * 12, ["PA"] * 22 + ["AP"] * 2
        rows.loc[0, "severity"] = rows.loc[:1, "age"] = ""
        rows.to_csv(table, index=False)
    settings = {**FAST, "evaluation": {**FAST["evaluation"], "subgroups": ["room"], "counterfactual_cases": 4}}
    settings |= {"where": {"view": "PA"}, "external": {"cohort": tables[1], "name": "valley", "subjects": "distinct"}}
    settings["targets"] = {"severity": {"kind": "ordinal", "range": "0..2", "decision": "mean"}}
    study = chest_study(tables[0], **settings)
    return read_context(run(study, folder / "run").folder)


def facts_of(folder: Path, name: str) -> dict[str, lists.Item]:
    return {item.id: item for item in lists.filled(lists.read_checklist(name), read_context(folder)).items}


def test_filled_items_agree_with_the_run(alone: tuple[Path, Path]) -> None:
    finished = read_context(alone[0])
    main = finished.metrics.main
    entry = finished.class_figures(str(main.stage), str(main.learner))
    accuracy = sum(row[n] for n, row in enumerate(entry.confusion)) / 12
    assert f"{12 * accuracy:.0f} of 12 correct" in result_facts.cross_table(finished)
    assert all(", ".join(map(str, row)) in result_facts.cross_table(finished) for row in entry.confusion)
    assert all(
        f"{plain(name)} ({n})" in data_facts.flow(finished) for name, n in zip(entry.names, entry.support, strict=True)
    )
    assert data_facts.partition(finished).count("subjects 6, cases 6") == 2
    assert f"{finished.jobs[0]['parameters']:,} parameters" in model_facts.networks(finished)
    items, page = facts_of(alone[0], "claim"), (alone[0] / "report.html").read_text()
    assert f"Accuracy {100 * accuracy:.0f} %" in items["38"].text
    assert all(f'id="{item.section_id}"' in page for item in items.values() if item.section_id)
    assert {item.id for item in items.values() if item.text} < {item.id for item in items.values() if item.fact}


def test_where_folds_are_sources_no_pair_is_tested_first() -> None:
    context = classes(networks=2)
    first, second, *_ = context.learners
    primary = PrimaryContrast(first, second, "oof", "order")
    by_case = with_results(context, primary=primary)
    assert result_facts.uncertainty(by_case) != result_facts.uncertainty(context)
    source = {Cell("oof", first, context.outcome, LEFT_OUT, "nih"): {"accuracy": estimate(0.6, 0.5, 0.7)}}
    by_source = with_figures(context, source)
    assert result_facts.uncertainty(with_results(by_source, primary=primary)) == result_facts.uncertainty(by_source)


def test_what_the_run_lacks_is_left_open(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """Without an external cohort, explanations, readers or sites, their items are the author's."""
    folder, table = alone
    open_items = {"claim": ("18", "31", "33"), "stard-ai": ("29",), "tripod-ai": ("12d", "20c", "23b")}
    for name, ids in open_items.items():
        items = facts_of(folder, name)
        for number in ids:
            assert items[number].fact
            assert (items[number].by, items[number].text, items[number].section_id) == (lists.AUTHOR, "", "")
    other = make_chest(tmp_path / "there", subjects=6, size=(64, 64), seed=8)
    external = {"cohort": other, "name": "valley", "subjects": "distinct"}
    outside = run(chest_study(table, **SETTINGS, external=external), folder).folder
    figures = json.loads((outside / "metrics.json").read_text())["metrics"]["external"]
    text = result_facts.external_cohort(read_context(outside))
    assert "valley (6 images of 6 subjects" in text
    assert f"Accuracy {100 * figures['test_resnet']['label']['accuracy']['value']:.0f} %" in text
    read = read_context(outside)
    assert "valley (6 images of 6 subjects) is external: it is only evaluated." in data_facts.partition(read)
    assert "a case of valley by the networks of all folds together" in model_facts.prediction(read)
    item = facts_of(outside, "claim")["33"]
    assert (item.by, item.section_id) == (lists.RUN, "external")
    for name, number in (("stard-ai", "29"), ("tripod-ai", "20c")):  # of the data, not of the accuracy
        item = facts_of(outside, name)[number]
        assert (item.by, item.section_id) == (lists.RUN, "participants")
        assert "Subjects 12 / 6; Cases 12 / 6" in item.text
        assert "Accuracy" not in item.text


def test_items_say_who_was_studied_how_and_with_what(alone: tuple[Path, Path]) -> None:
    folder, table = alone
    rows, tripod, stard = pd.read_csv(table), facts_of(folder, "tripod-ai"), facts_of(folder, "stard-ai")
    sexes = rows["sex"].value_counts()
    assert all(f"{name} ({count} / " in tripod["20b"].text for name, count in sexes.items())
    assert all(f"{name}: {count}" in tripod["23a"].text for name, count in sexes.items())
    assert f"Age {rows['age'].mean():.1f} ({rows['age'].std():.1f}) / " in tripod["20b"].text
    assert re.search(r"Alpha \(4\b.*Beta \(8\b", stard["13"].text)
    assert stard["21"].text == stard["23"].text
    assert tripod["14"].text == ""
    assert stard["21"].text.startswith("By sex (")
    assert "Images are the only predictors" in tripod["12b"].text
    assert tripod["20b"].text == stard["25"].text == facts_of(folder, "claim")["36"].text
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


def test_flow_and_gaps_are_those_of_the_report(grades: ReportContext) -> None:
    entry = grades.metrics.participants
    assert entry is not None
    outcomes = entry.evaluated["oof"]
    shown = data_facts.flow(grades)
    for step in (*entry.flow["steps"], *entry.flow["external"]["steps"]):
        assert f"{step['left']['rows']} rows ({step['left']['subjects']} subjects)" in shown
    assert "where view is PA: 2 rows (1 subject) left out" in data_facts.exclusions(grades)
    assert f"{outcomes['cases_with_reference']} cases" in shown
    gaps = data_facts.missing_data(grades)
    assert f"out of fold {outcomes['cases'] - outcomes['cases_with_reference']} of {outcomes['cases']} cases" in gaps
    assert "age of 1 subject" in gaps
    step = {"code": "images", "cases": 3, "subjects": 2, "left": {"cases": 19, "subjects": 9}}
    fewer = dataclasses.replace(entry, flow={**entry.flow, "steps": [*entry.flow["steps"], step]})
    without_images = data_facts.missing_data(with_results(grades, participants=fewer))
    assert "3 cases (2 subjects) left out" in without_images
    assert participants.FLOW_NOTE in gaps
    assert participants.FLOW_NOTE not in without_images


def test_units_classes_and_sums_of_groups_are_named(grades: ReportContext) -> None:
    described = data_facts.characteristics(grades)
    assert "Room (by case)" in described
    entry = grades.class_figures(grades.stage, grades.learner)
    assert entry is not None
    for name, count in zip(entry.names, entry.support, strict=True):
        assert f"severity {name} ({count})" in data_facts.analyses(grades)
        assert f"severity {name}" in model_facts.output(grades)
        assert f"severity {name}: {', '.join(map(str, entry.confusion[int(name)]))}" in result_facts.cross_table(grades)
    groups = result_facts.performance_by_group(grades)
    assert grades.metrics.subgroups is not None
    apart = dataclasses.replace(grades.metrics.subgroups.columns[0], groups=[])
    subgroups = dataclasses.replace(grades.metrics.subgroups, columns=[apart])
    assert "several groups" in groups
    assert "several groups" not in result_facts.performance_by_group(with_results(grades, subgroups=subgroups))


def test_the_rule_of_a_grade_is_the_rule_of_the_study(grades: ReportContext) -> None:
    for write in (model_facts.output, model_facts.prediction):
        assert "the rounded mean" in write(grades)
        target = grades.study.targets["severity"].model_copy(update={"decision": "median"})
        study = grades.study.model_copy(update={"targets": {**grades.study.targets, "severity": target}})
        text = write(dataclasses.replace(grades, study=study))
        assert "the median" in text
        assert "the rounded mean" not in text


def test_without_a_test_set_none_is_disjoint(grades: ReportContext, chest_run: Run) -> None:
    tested = read_context(chest_run.folder)
    for write in (data_facts.partition, data_facts.disjointness):
        assert "no test set" in write(grades)
        assert "no test set" not in write(tested)
    assert "and test set are disjoint" in data_facts.disjointness(tested)


def test_both_confusion_matrices_name_their_cases(grades: ReportContext) -> None:
    text = result_facts.cross_table(grades)
    inside, outside = (grades.class_figures(stage, grades.learner) for stage in ("oof", EXTERNAL))
    assert inside is not None
    assert outside is not None
    first, second = text.index("Out of fold"), text.index("On the external cohort valley")
    assert first < text.index(f"of {sum(inside.support)} correct") < second
    assert all(f"severity {n}: {', '.join(map(str, row))}" in text[second:] for n, row in enumerate(outside.confusion))


def test_a_score_names_its_formula_its_bands_and_no_device(report_of_numbers: ReportContext) -> None:
    study, bands = report_of_numbers.study, report_of_numbers.metrics.bands
    assert all(score.formula in model_facts.prediction(report_of_numbers) for score in study.scores.values())
    assert bands is not None
    entry = bands.stages[report_of_numbers.stage][report_of_numbers.learner]
    for name, counts in zip(bands.lower_bounds, entry.confusion, strict=True):
        assert f"{name}: {', '.join(map(str, counts))}" in result_facts.cross_table(report_of_numbers)
    assert "Bias and limits of agreement" in result_facts.measures_and_plots(report_of_numbers)
    assert "No column that the run describes" in data_facts.devices(report_of_numbers)
    assert "without recalibration" in model_facts.imbalance(report_of_numbers)


def test_thresholds_stand_with_their_rules(report_of_classes: ReportContext) -> None:
    entry = report_of_classes.class_figures(report_of_classes.stage, report_of_classes.learner)
    assert entry is not None
    text = model_facts.output(report_of_classes)
    assert entry.operating
    assert text.count("largest Youden index") == sum(point.rule == "youden" for point in entry.operating)


def test_every_partition_has_its_figures_and_rough_ones_say_so(
    chest_run: Run, report_of_classes: ReportContext
) -> None:
    context = read_context(chest_run.folder)
    text = result_facts.performance_by_partition(context)
    assert context.metrics.participants is not None
    for stage in ("oof", "test"):
        counts = context.metrics.participants.evaluated[stage]
        value = context.metric(stage, context.learner, "accuracy")
        assert value is not None
        assert f"({counts['cases']} images of {counts['subjects']} subjects" in text
        assert f"Accuracy {context.write.text('accuracy', value.value, short=True)}" in text
    cell = Cell(EXTERNAL, report_of_classes.learner, report_of_classes.outcome)
    for rough in (True, False):
        changed = with_figures(report_of_classes, {cell: {"accuracy": estimate(0.6, 0.5, 0.7, rough=rough)}})
        outside = result_facts.external_cohort(changed).partition(". On the test set")[0]
        assert "60 % (50 to 70 %" in outside
        assert outside.endswith("rough)") is rough


def test_without_networks_only_models_are_mentioned(baseline_run: Run) -> None:
    context = read_context(baseline_run.folder)
    assert not context.study.trained
    for write in (
        model_facts.fitting,
        model_facts.ensembles,
        model_facts.prediction,
        result_facts.uncertainty,
        data_facts.analyses,
        model_facts.full_model,
    ):
        assert write(context)
        assert "networks" not in write(context)
    assert "linear model on image features" in model_facts.fitting(context)
    assert all(origin.name in model_facts.first_weights(context) for origin in context.origins if origin.kind == "file")


def test_weights_machine_and_altered_images_are_those_of_the_run(
    grades: ReportContext, report_of_a_kernel: ReportContext
) -> None:
    machine = json.loads((Path(grades.source) / "environment.json").read_text())
    assert all(f"{name} {machine[name]}" in data_facts.software(grades) for name in ("torch", "processor", "cores"))
    assert f"{grades.jobs[0]['device']}, {grades.jobs[0]['precision']}" in data_facts.software(grades)
    altered = (grades.metrics.counterfactuals or {})[grades.learner].values()
    assert altered
    assert all(f"{entry.changed} of {entry.answers}" in result_facts.robustness(grades) for entry in altered)
    outcome = report_of_a_kernel.outcome
    fit = {"weights": {"kernel_features": 0.75, "mobilenet_v2": 0.25}}
    combined = dataclasses.replace(report_of_a_kernel, stackers={WEIGHTED: {outcome: fit}})
    for write in (model_facts.prediction, model_facts.ensembles, model_facts.full_model):
        assert "kernel model on image features 0.75, mobilenet_v2 0.25" in write(combined)


def test_subjects_that_are_not_known_are_not_counted_as_people(grades: ReportContext) -> None:
    written = (data_facts.flow, data_facts.characteristics, data_facts.partition, data_facts.disjointness)
    for guessed in (True, False):
        study = grades.study.model_copy(update={"subjects_known": False, "subjects_guessed": guessed})
        unknown = dataclasses.replace(grades, study=study)
        for write in written:
            assert study.not_known in write(unknown)
            assert study.not_known not in write(grades)
    assert f"disjoint by {study.unit}" in data_facts.disjointness(unknown)
    assert "subject" not in data_facts.preparation(unknown)


def test_an_open_item_says_what_to_write(alone: tuple[Path, Path]) -> None:
    item = facts_of(alone[0], "claim")["30"]
    assert (item.by, item.text) == (lists.AUTHOR, "")
    rows = {row[0]: row for row in csv.reader(io.StringIO(lists.write_checklist(alone[0], "claim", "csv")))}
    assert item.to_write in rows["30"][4]
    assert item.to_write
