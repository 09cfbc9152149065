"""The report of numbers: self-contained, true to metrics.json, safe against names, the same for the same context."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.evaluation.figures import Difference
from casewise.evaluation.results import Comparison
from casewise.report import formatting, terms
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.report.figures import cohort as draw_cohort
from casewise.report.figures import time as draw_time
from casewise.report.figures.drawing import canvas, svg
from casewise.report.figures.pictures import grid_picture
from casewise.report.first_screen import evaluated, screen
from casewise.report.markdown.page import write_results
from casewise.report.markdown.target_tables import figure
from casewise.report.page import render, write_report
from casewise.report.sections import agreement, labels, learners
from casewise.report.statements import statements
from casewise.report.templating import sentence
from casewise.study.schema import Study
from tests.report_contexts import (
    Page,
    check_page,
    estimate,
    films,
    finished,
    nothing,
    numbers,
    section_of,
    study_of_numbers,
    with_figure,
    with_results,
)


@pytest.fixture(scope="module")
def text(report_of_numbers: ReportContext) -> str:
    return render(report_of_numbers)


def test_page_is_whole_and_loads_nothing(text: str) -> None:
    page = check_page(text)
    assert page.svgs > 10
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    assert len(text) < 5_000_000
    sections = {"summary", "agreement", "time", "targets", "learners", "labels", "preparation", "worst", "training"}
    assert sections < set(page.ids)
    assert not {"classes", "external", "image-split", "nested", "audit"} & set(page.ids)


def test_page_shows_the_figures_of_the_metrics(report_of_numbers: ReportContext, text: str) -> None:
    page, context = Page(text), report_of_numbers
    assert context.stage == "test"
    for learner in context.learners:
        for metric in ("mae", "ccc"):
            entry = context.metrics["metrics"]["test"][learner]["pasi"][metric]
            digits = 1 if metric == "mae" else 2
            low, high = (formatting.number(entry[k], digits) for k in ("low", "high"))
            assert f"{formatting.number(entry['value'], digits)} [{low}, {high}]" in page.text
    assert context.splits["hash"] in page.text
    assert "net00 +0.333" in page.text
    assert all(note in page.text for note in context.notes)


def test_learner_is_chosen_out_of_fold_never_on_the_test_set(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    oof = {name: context.metric("oof", name, "ccc")["value"] for name in context.learners}  # type: ignore[index]
    assert context.learner == max(oof, key=oof.__getitem__)
    other = next(name for name in context.learners if name != context.learner)
    test = {name: {"pasi": {"ccc": estimate(float(name == other))}} for name in context.learners}
    metrics = {**context.metrics.metrics, "test": test}
    assert with_results(context, metrics=metrics, main=nothing(context).main).learner == context.learner


def compared(
    context: ReportContext, metric: str, differences: dict[str, Difference], *, best: str, rough: bool = False
) -> ReportContext:
    """The context with these differences from the best learner at its stage."""
    alike = [name for name, entry in differences.items() if entry.indistinguishable]
    entry = Comparison(best, [best, *alike], 20, rough, differences, {})
    return with_results(context, comparisons={context.stage: {context.outcome: {metric: entry}}})


@pytest.mark.parametrize(
    ("alike", "code"), [(["net01", "net02"], "none_differs"), (["net02"], "some_alike"), ([], "ahead")]
)
def test_no_winner_inside_the_noise(report_of_numbers: ReportContext, alike: list[str], code: str) -> None:
    differences = {name: Difference(0.5, None, None, name in alike) for name in ("net01", "net02")}
    context = compared(report_of_numbers, "mae", differences, best="net00", rough=True)
    found = learners.comparison(context, "test")
    assert found is not None
    assert (found["code"], found["alike"], found["others"], found["rough"]) == (code, alike, 2, True)
    # these differences have no interval
    assert found["without"] == bool(alike)


@pytest.mark.parametrize(
    ("difference", "alike", "words", "pair"),
    [
        (
            0.0,
            ["net01"],
            "net00 and net01 have the smallest mean absolute error, the same value.",
            "net00 and 1 of the 2",
        ),
        (0.5, ["net01"], "net00 has the smallest mean absolute error.", "it and 1 of the 2"),
        (
            0.0,
            ["net01", "net02"],
            "net00 and net01 have the smallest",
            "between net00 and each of the 2 others includes 0",
        ),
        (0.5, ["net01", "net02"], "net00 has the smallest", "Compared with each of the 2 other learners"),
    ],
)
def test_learners_with_the_same_best_value_are_named_together(
    difference: float, alike: list[str], words: str, pair: str, report_of_numbers: ReportContext
) -> None:
    values = {"net01": difference, "net02": 1.0}
    differences = {name: Difference(value, -1.0, 1.5, name in alike) for name, value in values.items()}
    context = compared(report_of_numbers, "mae", differences, best="net00")
    text = sentence("comparison", learners.comparison(context, "test"), "case")
    assert text.startswith(f"On the test set, {words}")
    assert pair in text


def test_comparisons_of_errors_call_the_smallest_best(
    report_of_numbers: ReportContext, report_of_classes: ReportContext
) -> None:
    assert learners.comparison(report_of_numbers, "test")["smallest"]  # type: ignore[index]
    assert not learners.comparison(report_of_classes, "test")["smallest"]  # type: ignore[index]


def test_of_equal_learners_each_that_predicts_one_class_is_named(report_of_grades: ReportContext) -> None:
    context, names = report_of_grades, [f"net0{number}" for number in range(9)]
    entry = dataclasses.replace(context.class_entry("oof", context.learner), constant_class="mild")  # type: ignore[type-var]
    differences = {name: Difference(0.0, None, None, indistinguishable=True) for name in names[1:]}
    context = compared(context, "kappa_quadratic", differences, best=names[0])
    context = with_results(context, classes={"oof": {name: {context.outcome: entry} for name in names[1:3]}})
    text = sentence("comparison", learners.comparison(context, "oof"), "case")
    assert "net06 and 2 more have the highest quadratic weighted kappa, the same value" in text
    assert "(net01 predicts mild for every case; net02 predicts mild for every case)." in text


def test_combined_learners_with_fitted_weights_are_named(report_of_numbers: ReportContext) -> None:
    shown = learners.section(report_of_numbers)
    assert shown is not None
    assert shown["combined"]
    assert set(shown["combined"]) == {name for name in report_of_numbers.learners if name.startswith("meta_learner")}


def test_same_context_gives_the_same_bytes(report_of_numbers: ReportContext, text: str, tmp_path: Path) -> None:
    path = write_report(report_of_numbers, tmp_path / "runs" / "report.html")
    assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_names_cannot_break_the_page() -> None:
    evil = "<script>alert('x')</script>&\"$x_{{}}{:03d}-->"
    text = render(numbers(test=3, learners=1, names=evil, title="<b>Trial</b> & more", name="a<i>", visits=4))
    assert "<b>Trial" not in text
    assert "a<i>" not in text
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    assert "<script>alert('x')</script>" in check_page(text).text


def test_without_a_test_set() -> None:
    context = numbers(test=0, subjects=8)
    check_page(render(context))
    assert evaluated(context).startswith("48 visits of 8 subjects")


def test_cases_without_regions_with_readers_and_one_learner() -> None:
    context = films()
    page = check_page(render(context))
    (rows,) = agreement.reader_rows(context, "oof").values()
    assert sorted((model, names) for names, model, _ in rows) == [
        (False, ["junior", "senior"]),
        (True, ["junior"]),
        (True, ["senior"]),
    ]
    assert "stopped_on_fold" in {statement.id for statement in statements(context)}
    assert "photograph" not in page.text.lower()


def test_stopping_on_inner_subjects_needs_no_statement() -> None:
    inner = films(recipe={"early_stopping": {"monitor": "inner"}})
    assert "stopped_on_fold" not in {statement.id for statement in statements(inner)}


def test_the_stage_is_that_of_the_headline(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    unscored = with_results(context, main=dataclasses.replace(context.metrics.main, stage="oof"))
    assert (unscored.stage, unscored.stages) == ("oof", ["oof", "test"])
    assert "test set" not in evaluated(unscored)
    check_page(render(unscored))
    only_oof = context.predictions[context.predictions["stage"] == "oof"]
    assert dataclasses.replace(context, predictions=only_oof).stage == "oof"


def test_an_imported_split_claims_no_balancing(report_of_numbers: ReportContext) -> None:
    assert any(row.mark for row in labels.imbalance_rows(report_of_numbers))
    splits = {**report_of_numbers.splits, "how": "column part", "folds": 7}
    imported = dataclasses.replace(report_of_numbers, splits=splits)
    assert labels.imported_from(imported) == "column part"
    assert not any(row.mark for row in labels.imbalance_rows(imported))
    text = section_of(render(imported), "training")
    assert "column part" in text
    assert "1,000" not in text.split("<pre")[0]


def test_one_subject_has_no_intervals_and_no_bands(report_of_numbers: ReportContext) -> None:
    context = numbers(test=1)
    assert agreement.agreement(context)["edges"] == ["", "", ""]  # type: ignore[index]
    text = render(context)
    assert "Shaded bands" in section_of(render(report_of_numbers), "agreement")
    assert "Shaded bands" not in section_of(text, "agreement")
    assert "rough" not in section_of(text, "summary")
    (caveat,) = sentences([{"code": "few_subjects", "stage": "test", "subjects": 1}])
    assert "rough" not in caveat
    assert caveat in Page(text).text


def test_results_page_beside_a_run_without_the_stage(report_of_numbers: ReportContext, tmp_path: Path) -> None:
    context = report_of_numbers
    run = finished(context, tmp_path / "run")
    results = nothing(context)
    oof = dataclasses.replace(results, metrics={"oof": context.metrics.metrics["oof"]})
    other = finished(dataclasses.replace(context, metrics=oof), tmp_path / "other")
    empty = finished(dataclasses.replace(context, metrics=results), tmp_path / "empty")
    for folder in (other, empty):
        with pytest.raises(RunError, match=str(folder)):
            write_results(run, tmp_path / "page.md", beside=[folder])
    with pytest.raises(RunError, match=str(empty)):
        write_results(empty, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    assert "| net00 (toy) |" in write_results(run, tmp_path / "page.md", beside=[run]).read_text()


def test_days_are_those_of_the_table() -> None:
    rows = pd.DataFrame({"subject": "a", "visit": ["0", "1"], "day": [5.0, 33.0], "y_true": [4.0, 2.0]})
    tracks = draw_time.tracks(rows.assign(y_pred=rows["y_true"]), baseline="first")
    assert tracks[0].days.tolist() == [5, 33]
    assert not draw_time.spaced_evenly(tracks)


def test_visits_without_days_are_no_change_over_time() -> None:
    """Visits may be counted (1, 2, 3), so that the order of their names is not one in time."""
    context = numbers(visits=3, subjects=20, test=5, learners=1)
    undated = dataclasses.replace(context, predictions=context.predictions.assign(day=np.nan))
    with_days, without_days = render(context), render(undated)
    assert "<h2>Change over time</h2>" in with_days
    assert 'id="time"' in without_days
    assert "Change over time" not in without_days
    assert "which may not be their order in time" in without_days
    assert "which may not be their order in time" not in with_days


def test_without_repeated_visits_there_is_no_change_over_time() -> None:
    context = numbers(visits=1, subjects=20, test=5, learners=1)
    assert agreement.over_time(context) is None
    assert 'id="time"' not in render(context)


def test_missing_artefacts_are_left_out(report_of_numbers: ReportContext) -> None:
    bare = dataclasses.replace(
        report_of_numbers,
        metrics=nothing(report_of_numbers),
        jobs=[],
        stackers={},
        splits={},
        notes=[],
        environment={},
        photograph=lambda n: None,
    )
    page = check_page(render(bare))
    assert "learners" not in page.ids
    assert screen(bare).sizes == []


def test_outcome_without_any_truth(report_of_numbers: ReportContext) -> None:
    table = report_of_numbers.predictions.copy()
    table["y_true"] = np.where(table["target"] == "pasi", np.nan, table["y_true"])
    context = dataclasses.replace(report_of_numbers, predictions=table, metrics=nothing(report_of_numbers))
    assert "nothing can be evaluated" in check_page(render(context)).text


def test_everything_that_grows_is_capped() -> None:
    context = numbers(subjects=30, test=0, learners=14, visits=3)
    page = check_page(render(context))
    time = agreement.over_time(context)
    assert time is not None
    assert (len(time["figures"]), time["total"], time["capped"]) == (24, 30, True)
    assert page.svgs < 70


def test_tracks_start_at_the_baseline_and_follow_the_days() -> None:
    rows = pd.DataFrame(
        {
            "subject": ["a"] * 3 + ["b"],
            "visit": ["w4", "w0", "w8", "w0"],
            "day": [28.0, 0.0, 56.0, 0.0],
            "y_true": [5.0, 20.0, 0.0, 7.0],
            "y_pred": [8.0, 16.0, 4.0, 7.0],
        }
    )
    tracks = draw_time.tracks(rows, baseline="first")
    assert [track.subject for track in tracks] == ["a"]
    assert tracks[0].names == ["w0", "w4", "w8"]
    np.testing.assert_allclose(tracks[0].changes, [[0, -75, -100], [0, -50, -75]])
    assert tracks[0].error == pytest.approx(11 / 3)
    assert not draw_time.spaced_evenly(tracks)
    zero = draw_time.tracks(rows.assign(y_true=[5.0, 0.0, 1.0, 7.0]), baseline="first")
    assert np.isnan(zero[0].changes[0]).all()


def test_tracks_beyond_the_cap_are_taken_evenly_from_best_to_worst() -> None:
    def track(error: float) -> draw_time.Track:
        truth, days = np.array([4.0, 2.0]), np.array([0.0, 7.0])
        return draw_time.Track(f"s{error:g}", ["0", "1"], days, truth, truth + error, np.zeros((2, 2)))

    shown, capped = draw_time.chosen_tracks([track(e) for e in (5, 1, 3, 2, 4)], 3)
    assert capped
    assert [t.subject for t in shown] == ["s1", "s3", "s5"]


def test_ranges_of_the_scale_hold_every_case(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    ranges = agreement.score_ranges(context)
    assert [part.name for part in ranges] == ["clear", "mild", "moderate-to-severe"]
    assert sum(part.count for part in ranges) == len(context.headline_rows)
    study = context.study.model_copy(update={"evaluation": context.study.evaluation.model_copy(update={"bands": {}})})
    thirds = agreement.score_ranges(dataclasses.replace(context, study=study))
    assert sum(part.count for part in thirds) == len(context.headline_rows)
    assert len(thirds) == 3
    error = (context.headline_rows["y_pred"] - context.headline_rows["y_true"]).abs().mean()
    assert sum(p.error * p.count for p in thirds) / len(context.headline_rows) == pytest.approx(error)


def test_ranges_state_their_subjects_and_intervals(report_of_numbers: ReportContext) -> None:
    found = agreement.range_rows(report_of_numbers)
    for part, row in zip(agreement.score_ranges(report_of_numbers), found, strict=True):
        assert [row.cells[0].text, row.cells[1].text] == [str(part.subjects), str(part.count)]
        assert part.subjects <= 3
        assert part.rough
        assert "rough" in row.cells[2].small or "no interval" in row.cells[2].small


@pytest.mark.parametrize(
    ("value", "low", "high", "code"),
    [(-0.4, -1.0, 0.2, "none"), (-0.4, -0.6, -0.2, "lower"), (3.0, 1.0, 5.0, "higher")],
)
def test_a_bias_within_its_interval_is_not_systematic(
    report_of_numbers: ReportContext, value: float, low: float, high: float, code: str
) -> None:
    changed = with_figure(report_of_numbers, "bias", low, value, high)
    assert agreement.agreement(changed)["bias"] == code  # type: ignore[index]
    check_page(render(changed))


def test_unknown_subjects_are_counted_nowhere_as_people() -> None:
    context = films(subjects_known=False, test=10)
    assert "subject" not in evaluated(context)
    assert next(each for each in statements(context) if each.id == "subjects_apart").level == "bad"
    assert terms.subject_matter(context)["subjects"] == 0
    check_page(render(context))


def test_results_page_has_no_minus_zero() -> None:
    assert figure({"value": -0.001, "low": -0.004, "high": 0.09}, 2) == "0.00 [0.00, 0.09]"


def test_bars_stand_at_each_value_of_a_stepped_scale() -> None:
    assert draw_cohort.binned(np.array([0, 0.5, 3.0]), (0, 3))[1] == ["0", "0.5", "1", "1.5", "2", "2.5", "3"]
    assert draw_cohort.binned(np.array([0.0, 0.3, 2.9]), (0, 3))[2] is False


def test_bars_hold_every_value() -> None:
    for values in (np.array([0.0, 4.0, 4.0]), np.array([0.2, 3.7]), np.array([9.0, 70.0]), np.zeros(3)):
        edges, names, _ = draw_cohort.binned(values, (0, 72) if values.max() > 4 else (0, 4))
        assert draw_cohort.shares(values, edges).sum() == pytest.approx(1)
        assert len(names) == len(edges) - 1


def test_grid_is_row_by_row_with_black_empty_slots() -> None:
    tiles = np.stack([np.full((1, 2, 2), value, np.uint8) for value in (10, 20, 30)])
    grid = grid_picture(tiles, rows=2, columns=2)
    assert grid[::2, ::2].tolist() == [[10, 20], [30, 0]]


def test_figures_keep_user_text_out_of_markup_and_digits_in_text() -> None:
    with canvas(100, 100) as (figure_, axes):
        axes.set_title("$a <b> 0.12345")
        drawn = svg(figure_, "one").svg('an "alt" <text>')
    assert "$a &lt;b&gt; 0.12345" in drawn
    assert 'aria-label="an &#34;alt&#34; &lt;text&gt;"' in drawn
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert ids
    assert all(name.startswith("one-") for name in ids)


def test_display_name_takes_the_spelling_of_the_description() -> None:
    study = study_of_numbers(title="Trial", description="PASI without head.")
    assert formatting.display_name(study, "pasi") == "PASI"
    assert formatting.display_name(study, "some_target") == "some target"
    assert formatting.display_name(study, "pas") == "pas"
    values = {"name": "a", "cohort": "a.csv", "targets": {"Befund_0_8": {"range": "0..8", "column": "Befund (0-8)"}}}
    headed = Study.model_validate(values | {"title": "befund 0 8"})
    assert formatting.display_name(headed, "Befund_0_8") == "Befund (0-8)"
    other = Study.model_validate({**values, "targets": {"extent": {"range": "0..8", "column": "x_0 (8)"}}})
    assert formatting.display_name(other, "extent") == "extent"
    assert formatting.own_heading(study, "pasi") == ""
    described = study_of_numbers(description="Extent and the Brixia score.")
    assert formatting.display_name(described, "extent") == "extent"
    assert formatting.display_name(described, "brixia") == "Brixia"


def test_band_limits_read_as_ranges(report_of_numbers: ReportContext) -> None:
    found = agreement.confusion(report_of_numbers, "test")
    assert found is not None
    assert found.bounds == ["below 1", "1 to below 10", "10 or more"]
    assert sum(count for row in found.rows for count, _ in row) == len(report_of_numbers.headline_rows)
