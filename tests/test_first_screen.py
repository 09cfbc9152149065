"""The first screen: five questions, statements with their conditions, and one verdict for each pair."""

import copy
import dataclasses
import re

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import DESCRIPTIVE, Cell, Estimate, Figures
from casewise.evaluation.results import AlteredNumbers, Drift, Note, PrimaryContrast
from casewise.evaluation.robustness import drift
from casewise.report.caveats import SENTENCES
from casewise.report.context import EXTERNAL, ReportContext, read_context
from casewise.report.first_screen import Rival, rivals_line, screen
from casewise.report.guess import commonest
from casewise.report.page import render
from casewise.report.sections import calibration
from casewise.report.sections.learners import learner_table
from casewise.report.statements import KINDS, MARKS, Statement, statements, unlike_folds
from casewise.report.tables import VERDICTS
from casewise.run import Run
from casewise.study.learners import is_baseline, learner_name
from tests.report_contexts import classes, films, numbers, with_figures, with_own, with_results

QUESTIONS = ["Where does it fail?", "Does something simpler do as well?", "Can it be trusted?"]
QUESTIONS += ["What the model is, and how to use it"]


@pytest.fixture(params=["numbers", "classes", "two_classes", "grades"])
def context(request: pytest.FixtureRequest) -> ReportContext:
    return request.getfixturevalue(f"report_of_{request.param}")


def statement(context: ReportContext, id: str) -> Statement | None:
    """The statement of this kind; None where it does not hold."""
    return next((each for each in statements(context) if each.id == id), None)


def level(context: ReportContext, id: str) -> str:
    """The level of the statement of this kind; empty where it does not hold."""
    found = statement(context, id)
    return found.level if found else ""


def test_five_questions_in_the_same_order(context: ReportContext) -> None:
    page, first = render(context), "How far off is it?" if not context.classes else "How often is it right?"
    places = [page.index(f"<h3>{question}</h3>") for question in (first, *QUESTIONS)]
    assert places == sorted(places)
    summary = page.partition('id="summary"')[2].partition('<section id="')[0]
    assert len(re.sub(r"<[^>]*>", " ", summary).split()) < 350


def test_figures_are_those_of_the_results(context: ReportContext) -> None:
    shown, scale = screen(context), 100 if context.classes else 1
    figure = context.metric(context.stage, context.learner, "mae" if not context.classes else "accuracy")
    assert float(shown.sizes[-1].text.replace("−", "-")) == pytest.approx(scale * (figure.value or 0), abs=0.51)
    if entry := context.class_figures(context.stage, context.learner):
        found = [f"{entry.confusion[i][i]} of {total}" for i, total in enumerate(entry.support)]
        assert [row.cells[0].text.partition(" (")[0] for row in shown.failures.rows] == found
        counts = np.array(entry.confusion)
        precise = [row.cells[-1 - (len(counts) > 2)].text.partition(" (")[0] for row in shown.failures.rows]
        right = zip(np.diag(counts), counts.sum(axis=0), strict=True)
        assert precise == [f"{of_class} of {total}" if total else "no case" for of_class, total in right]
    else:
        assert sum(int(row.cells[0].text) for row in shown.failures.rows) == len(context.headline_rows)
        assert [row.mark for row in shown.failures.rows].count(True) <= 1


def test_flags_come_first_and_every_other_statement_has_a_mark(context: ReportContext) -> None:
    levels = [each.level for each in statements(context)]
    assert levels == sorted(levels, key=["flag", *MARKS].index)
    assert len(KINDS) + len(SENTENCES) <= 26


def test_a_guess_is_beaten_only_beyond_the_interval_of_the_difference() -> None:
    context = numbers(learners=1)
    where = {"stage": context.stage, "target": context.outcome, "error": 5.0}
    cases = [(-3, -1, False, "better"), (-2, 1, False, "open"), (1, 3, False, "worse"), (1, 3, True, "open")]
    for low, high, rough, code in [*cases, (None, None, True, "untested")]:
        note = Note("guess_median", {**where, "gaps": {context.learner: [low, high, rough]}})
        guessed = with_results(context, notes=[note])
        row = next(row for row in screen(guessed).rivals if row.name.startswith("a guess"))
        assert row.verdict == code
        assert rivals_line(guessed).endswith(f"{row.name} ({row.text}): {row.verdict_text}")  # as on the terminal


def test_a_column_stands_beside_an_auroc(report_of_two_classes: ReportContext, report_of_grades: ReportContext) -> None:
    for context, shown in ((report_of_two_classes, True), (report_of_grades, False)):
        figures = {"target": context.outcome, "evidence": "site", "value": 0.9}
        found = {"id": "shortcut-site", "level": "error", "sentence": "", "remedy": "", "figures": figures, "pairs": []}
        figures["by_class"] = dict.fromkeys(context.classes, 0.9)
        audit = {"facts": {}, "findings": [found], "accepted": {}, "seconds": {}}
        rivals = screen(dataclasses.replace(context, audit=audit)).rivals
        assert any(row.name.startswith("column “site”") for row in rivals) == shown


def test_a_model_is_chosen_only_among_learners_with_a_figure_out_of_fold(report_of_classes: ReportContext) -> None:
    count = len(report_of_classes.candidates)
    assert f"among {count} out of fold" in getattr(statement(report_of_classes, "chosen"), "text", "")
    other = next(name for name in report_of_classes.candidates if name != report_of_classes.learner)
    fewer = with_figures(report_of_classes, {Cell("oof", other, report_of_classes.outcome): {}})
    assert f"among {count - 1} out of fold" in getattr(statement(fewer, "chosen"), "text", "")


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [(-0.1, 0.3, "not_worse"), (-0.1, 0.6, "unclear"), (0.1, 0.3, "slightly_worse"), (0.1, 0.6, "worse")],
)
def test_one_pair_has_one_verdict_with_its_margin(low: float, high: float, code: str) -> None:
    context = numbers(learners=3)
    own, simple, other = sorted(context.learners, key=lambda name: name != context.learner)
    at = Cell(context.stage, own, context.outcome, contrast=simple)
    gaps = {at: {"mae": Estimate(0.1, low, high, 20, rough=False)}}
    gaps[at._replace(learner=other)] = {"mae": Estimate(9.0, 8.0, 10.0, 20, rough=False, reason=DESCRIPTIVE)}
    gaps[at._replace(learner=simple)] = {"mae": Estimate(0.0, None, None, 20, rough=False)}
    primary = PrimaryContrast(own, simple, context.stage, "order", margin=0.5)
    own_figures = Figures({cell: own for cell, own in context.metrics.figures.cells.items() if not cell.contrast})
    context = with_results(context, figures=own_figures | Figures(gaps), primary=primary)
    row = next(row for row in screen(context).rivals if row.name == learner_name(simple))
    assert (row.verdict, row.margin) == (code, "0.5")
    table = learner_table(context, context.stage)
    cells = {line.name: line.cells[table.columns.index(f"Against {learner_name(simple)}") - 1] for line in table.rows}
    assert cells[learner_name(own)].text == row.verdict_text
    assert cells[learner_name(other)].text == VERDICTS["descriptive"]


def test_a_difference_stands_where_figures_are_written_alike() -> None:
    assert Rival("a", "0.90", "", "better", by="0.009").verdict_text == "better by 0.009"
    assert Rival("a", "0.90", "", "open", by="0.009").verdict_text == VERDICTS["open"]


def test_a_level_that_is_not_reached_stands_beside_the_observed_share(
    report_of_classes: ReportContext, report_of_numbers: ReportContext
) -> None:
    for context in (report_of_classes, report_of_numbers):
        sets, stage = context.metrics.prediction_sets, context.stage
        entry = sets.targets[context.outcome]
        for value, shown in ((0.67, True), (0.93, False)):
            figures = entry.stages[stage]
            low = dataclasses.replace(figures.coverage, value=value)
            stages = {**entry.stages, stage: dataclasses.replace(figures, coverage=low)}
            record = dataclasses.replace(sets, targets={context.outcome: dataclasses.replace(entry, stages=stages)})
            assert (f"{100 * value:.0f} %" in screen(with_results(context, prediction_sets=record)).model) == shown


def test_sets_that_name_nearly_every_class_are_said_to_exclude_little(report_of_classes: ReportContext) -> None:
    sets, stage = report_of_classes.metrics.prediction_sets, report_of_classes.stage
    entry, count = sets.targets[report_of_classes.outcome], len(report_of_classes.classes)
    for share, little in ((0.9, True), (0.5, False)):
        size = dataclasses.replace(entry.stages[stage].size, value=share * count)
        # without the external cohort, whose coverage would stand there
        stages = {stage: dataclasses.replace(entry.stages[stage], size=size)}
        record = dataclasses.replace(
            sets, targets={report_of_classes.outcome: dataclasses.replace(entry, stages=stages)}
        )
        changed = with_results(report_of_classes, prediction_sets=record)
        assert ("exclude little" in screen(changed).model) == little


@pytest.mark.parametrize(
    ("low", "rough", "wide"), [(0.95, False, True), (0.89, False, False), (0.95, True, False), (None, False, False)]
)
def test_intervals_and_sets_above_their_level_are_called_too_wide(
    low: float | None, rough: bool, wide: bool, report_of_classes: ReportContext, report_of_numbers: ReportContext
) -> None:
    for context in (report_of_classes, report_of_numbers):
        sets, stage = context.metrics.prediction_sets, context.stage
        entry = sets.targets[context.outcome]
        figures = entry.stages[stage]
        above = dataclasses.replace(figures.coverage, value=0.99, low=low, high=1.0, rough=rough)
        stages = {**entry.stages, stage: dataclasses.replace(figures, coverage=above)}
        record = dataclasses.replace(sets, targets={context.outcome: dataclasses.replace(entry, stages=stages)})
        changed = with_results(context, prediction_sets=record)
        assert (bool(re.search("too wide .*in 99 %|in 99 %, so too wide", screen(changed).model))) == wide
        section = calibration.prediction_sets(changed)
        assert ("Too wide:" in str(section)) == wide


def test_a_class_or_band_that_misses_the_level_beyond_its_interval_is_named(
    report_of_classes: ReportContext, report_of_numbers: ReportContext
) -> None:
    for context in (report_of_classes, report_of_numbers):
        sets, stage = context.metrics.prediction_sets, context.stage
        entry, figures = sets.targets[context.outcome], sets.targets[context.outcome].stages[stage]

        def text(
            high: float, rough: bool, context=context, entry=entry, figures=figures, sets=sets, stage=stage
        ) -> str:
            figure = dataclasses.replace(figures.coverage, value=0.61, low=0.4, high=high, rough=rough)
            changed = {}
            if context.classes:
                changed["by_class"] = dict.fromkeys(figures.by_class, None) | {context.classes[0]: figure}
            else:
                changed["bands"] = [dataclasses.replace(figures.bands[-1], coverage=figure)]
            stages = {**entry.stages, stage: dataclasses.replace(figures, **changed)}
            record = dataclasses.replace(sets, targets={context.outcome: dataclasses.replace(entry, stages=stages)})
            return screen(with_results(context, prediction_sets=record)).model

        assert "61 %" in text(0.8, False)
        assert "all together" not in text(0.8, False)
        assert "61 %" not in text(0.92, False)
        assert "61 %" not in text(0.8, True)
        whole = dataclasses.replace(
            figures, coverage=dataclasses.replace(figures.coverage, value=0.7, high=0.8, rough=False)
        )
        stages = {**entry.stages, stage: whole}
        record = dataclasses.replace(sets, targets={context.outcome: dataclasses.replace(entry, stages=stages)})
        missed_all = with_results(context, prediction_sets=record)
        assert "aim missed: all together 70 %" in screen(missed_all).model
        assert screen(missed_all).model.count("70 %") == 1
        table = calibration.coverage(missed_all.study, missed_all.metrics)
        assert any("aim missed" in row.cells[1].small for row in table.rows)


def test_a_class_is_bold_only_where_it_is_clearly_found_least_often() -> None:
    def bold(confusion: list[list[int]], **recalls: tuple[float, float, float]) -> list[bool]:
        context = classes("binary")
        figures = dict(context.figures(context.stage, context.learner))
        for name, (value, low, high) in recalls.items():
            figures[f"recall[{name}]"] = dataclasses.replace(figures["accuracy"], value=value, low=low, high=high)
        support = [sum(row) for row in confusion]
        shown = screen(with_own(context, figures, confusion=confusion, support=support))
        assert ("Bold" in shown.more_failures) == any(row.mark for row in shown.failures.rows)
        return [row.mark for row in shown.failures.rows]

    clear = {"covid": (0.5, 0.4, 0.6), "no_finding": (0.9, 0.8, 0.95)}
    assert bold([[50, 50], [10, 90]], **clear) == [True, False]
    assert bold([[80, 20], [10, 90]], covid=(0.8, 0.7, 0.9), no_finding=(0.9, 0.85, 0.95)) == [False, False]
    # of a class without cases nothing is known, and of one with one case hardly anything
    assert bold([[50, 50], [0, 0]], covid=(0.5, 0.4, 0.6)) == [False, False]
    assert bold([[50, 50], [0, 1]], covid=(0.5, 0.4, 0.6), no_finding=(1.0, 0.03, 1.0)) == [False, False]


def test_an_external_cohort_comes_first_and_every_figure_says_whose_it_is(report_of_classes: ReportContext) -> None:
    shown, context = screen(report_of_classes), report_of_classes
    name, outside = context.study.external_name, context.figures(EXTERNAL, context.learner)
    assert [size.cohort for size in shown.sizes] == [name, "internal"]
    assert float(shown.sizes[0].text) == pytest.approx(100 * outside["accuracy"].value, abs=0.51)
    assert shown.sizes[0].note == f"mean recall {100 * outside['recall'].value:.0f} %"
    assert [head.partition(", ")[2] for head in shown.failures.columns] == [
        "",
        "internal",
        name,
        "internal",
        "internal",
    ]
    assert shown.external.text.startswith(f"On {name} (75 visits of 60 subjects): AUROC {outside['auroc'].value:.2f}")
    page = render(context)
    assert page.index(shown.external.text[:30]) < page.index('data-code="evaluated"')
    assert shown.external not in (*shown.flags, *shown.trust)
    rows = context.rows(EXTERNAL, context.learner)
    guess = context.classes.index("no_finding")
    share = f"{100 * (rows['y_true'] == guess).mean():.0f} % of {name}"
    assert f"no finding: 39 % of visits, internal; {share}" in shown.guess


def test_external_cases_unlike_the_training_are_counted(report_of_classes: ReportContext) -> None:
    context = report_of_classes
    assert statement(context, "unlike_training") is None
    far = context.predictions["subject"].map(hash) % 3 == 0
    plan, rows = Plan(50), context.predictions.assign(distance=np.where(far, 1.5, 0.5))
    learners = drift(rows, context.outcome, plan)
    for known, level_, text in (
        (learners, "note", f"{learners[context.learner].outside.answers} of 75 visits"),
        ({}, "open", ""),
    ):
        found = statement(with_results(context, drift=Drift({}, known)), "unlike_training")
        assert found.level == level_
        assert found.text.startswith(text)


def test_a_test_set_below_the_folds_is_against_the_model() -> None:
    context = films(test=10)
    assert context.stage == "test"
    sides = {"oof": {"value": 0.86}, "test": {"value": 0.65}}
    note = Note("test_below_oof", {"learner": context.learner, "metric": context.merit, **sides})
    found = statement(with_results(context, notes=[note]), "apart_on_test")
    assert (found and found.level) == "bad"
    assert found.text.endswith("is 0.65 on the test set and 0.86 out of fold: lower by more than chance explains.")
    above = Note("test_above_oof", {**note, "metric": "accuracy", "test": {"value": 0.97}})
    found = statement(with_results(context, notes=[above]), "apart_on_test")
    assert found.text.endswith("97 % on the test set and 86 % out of fold: higher by more than chance explains.")
    other = Note("test_below_oof", {"learner": "other", "metric": context.merit, **sides})
    assert not statement(with_results(context, notes=[other]), "apart_on_test")
    assert not statement(context, "apart_on_test")


def test_folds_with_equal_weights_are_counted_where_the_model_has_others(report_of_classes: ReportContext) -> None:
    equal, own = {"a": 0.5, "b": 0.5}, {"a": 0.25, "b": 0.75}
    texts = []
    for new, by_fold in ((own, {"1": equal, "2": own}), (own, {"1": own, "2": own}), (equal, {"1": own, "2": equal})):
        fits = {report_of_classes.learner: {report_of_classes.outcome: {"weights": new, "weights_by_fold": by_fold}}}
        texts.append(unlike_folds(dataclasses.replace(report_of_classes, stackers=fits)))
    third = {"a": 0.5, "b": 0.5, "c": 0.0}
    fits = {report_of_classes.learner: {report_of_classes.outcome: {"weights": equal, "weights_by_fold": {"1": third}}}}
    assert unlike_folds(dataclasses.replace(report_of_classes, stackers=fits)) == "", "equal but for one left out"
    unlike = "the weights of 1 of 2 folds are {}, unlike those for new cases"
    assert texts == [unlike.format("equal"), "", unlike.format("fitted")]


def test_what_a_study_lacks_is_said(report_of_two_classes: ReportContext) -> None:
    two = report_of_two_classes
    assert level(two, "external_cohort") == "bad"
    table = two.predictions
    for subjects, expected in ((8, "note"), (40, "")):
        few = table[table["subject"].isin(table["subject"].unique()[:subjects])]
        assert level(dataclasses.replace(two, predictions=few), "few_subjects") == expected
    known = table["subject"].isin(table["subject"].unique()[:8])
    partly = table.assign(y_true=table["y_true"].where(known))
    assert level(dataclasses.replace(two, predictions=partly), "few_subjects")
    for monitor, expected in (("inner", ""), ("fold", "bad")):
        assert level(films(recipe={"early_stopping": {"monitor": monitor}}), "stopped_on_fold") == expected


def test_constant_predictions_are_flagged(report_of_two_classes: ReportContext) -> None:
    table = report_of_two_classes.predictions.copy()
    table.loc[table["model"] == report_of_two_classes.learner, ["p0", "p1"]] = [0.6, 0.4]
    assert level(dataclasses.replace(report_of_two_classes, predictions=table), "nothing_learned") == "flag"


@pytest.mark.parametrize(("found", "high", "named"), [(0.02, 0.17, True), (0.02, 0.3, False), (0.6, 0.7, False)])
def test_a_class_that_is_hardly_found_is_named(
    found: float, high: float, named: bool, report_of_grades: ReportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls = dict.fromkeys((f"recall[{name}]" for name in report_of_grades.classes), Estimate(0.6, 0.5, 0.7))
    recalls[f"recall[{report_of_grades.classes[-1]}]"] = Estimate(found, 0.0, high)
    real = ReportContext.metric
    monkeypatch.setattr(ReportContext, "metric", lambda own, *key: recalls.get(key[-1]) or real(own, *key))
    texts = [
        statement.text for statement in statements(report_of_grades) if statement.text.startswith("It hardly finds")
    ]
    assert len(texts) == named
    assert all(report_of_grades.classes[-1] in text and "(2 %)" in text for text in texts)


@pytest.mark.parametrize(("count", "named"), [(9, True), (2, False)])
def test_a_class_without_a_correct_prediction_outside_is_named(count: int, named: bool) -> None:
    context = classes("classification", test=40, outside=60, networks=3)
    (learner, outcome), name = (context.learner, context.outcome), context.classes[1]
    by_stage = copy.deepcopy(context.metrics.classes)
    entry = by_stage[EXTERNAL][learner][outcome]
    by_stage[EXTERNAL][learner][outcome] = dataclasses.replace(entry, support=[entry.support[0], count, 9])
    recalls = {f"recall[{name}]": Estimate(0.0, 0.0, 0.9, rough=True)}
    own = dict(context.figures(EXTERNAL, learner)) | recalls
    found = statement(
        with_figures(with_results(context, classes=by_stage), {Cell(EXTERNAL, learner, outcome): own}),
        "classes_not_found",
    )
    assert bool(found) is named
    if found:
        assert found.text.startswith(f"On {context.study.external_name} it finds none of {count} ")
        assert (found.level, found.link) == ("bad", "external")


def test_sensitivity_outside_is_rough_where_it_rests_on_few() -> None:
    context = classes("binary", test=40, outside=60)
    own, at = context.figures(EXTERNAL, context.learner), Cell(EXTERNAL, context.learner, context.outcome)
    positive = context.study.positive_of(context.outcome)
    for rough in (True, False):
        figure = Estimate(0.5, 0.2, 0.8, rough=rough)
        shown = screen(with_figures(context, {at: {**own, f"recall[{positive}]": figure, "sensitivity": figure}}))
        row = shown.failures.rows[context.classes.index(positive)]
        assert row.cells[1].text.endswith("rough)") is rough
        assert ("sensitivity 50 % (rough)" in shown.sizes[0].note) is rough


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Estimate(0.52, 0.40, 0.64), "bad"),
        (Estimate(0.52, 0.40, 0.64, rough=True), "open"),
        (Estimate(0.52, None, None, reason="one subject: no interval"), "open"),
        (Estimate(0.30, 0.20, 0.40), "bad"),
        (Estimate(0.62, 0.55, 0.70), ""),
    ],
)
def test_a_model_that_is_not_shown_to_beat_a_guess_says_so(
    own: Estimate, said: str, report_of_two_classes: ReportContext
) -> None:
    context = report_of_two_classes
    figures = dict(context.figures(context.stage, context.learner)) | {"auroc": own}
    assert level(with_own(context, figures), "nothing_learned") == said


def test_one_image_a_subject_is_said_with_what_was_compared(report_of_two_classes: ReportContext) -> None:
    context = report_of_two_classes
    images = context.cohort_images.assign(subject=[f"P{row}" for row in range(len(context.cohort_images))])
    single = dataclasses.replace(context, cohort_images=images)
    texts = {}
    for name, record in {"none": None, "clean": [], "copies": ["twins-across-subjects"]}.items():
        audit = None if record is None else {"findings": [{"id": code} for code in record]}
        found = KINDS["subjects_apart"](dataclasses.replace(single, audit=audit))
        texts[name] = found[1] if found else ""
    assert texts["none"].endswith("this was not tested.")
    assert texts["clean"].endswith("no two were found to show the same picture.")
    assert texts["copies"] == ""


def test_statements_have_public_names() -> None:
    assert all(name.isidentifier() and not name.startswith("_") for name in KINDS)


def test_a_combined_model_is_compared_with_a_part_of_each_kind(report_of_classes: ReportContext) -> None:
    context = report_of_classes
    network, other = [name for name in context.study.networks if name in context.learners][:2]
    shares = {network: 0.25, other: 0.75}
    stackers = {context.learner: {context.outcome: {"weights": shares, "weights_by_fold": {"1": shares}}}}
    jobs = [{**job, "epochs": 7} for job in context.jobs]
    plan = "planned: 7 epochs, as many as fit into the budget"
    rows = {
        row.name: row for row in screen(dataclasses.replace(context, stackers=stackers, jobs=jobs, plan=plan)).rivals
    }
    # the part with the larger weight, unless the other one is better on these cases
    assert [rows[name].note for name in (learner_name(network), learner_name(other)) if name in rows]
    first = next(rows[name] for name in map(learner_name, (other, network)) if name in rows)
    assert "weight 0." in first.note
    assert ("7 epochs" in first.note) == ("its best" not in first.note)


def test_a_simple_model_that_is_reported_is_compared_with_the_best_other_one(baseline_run: Run) -> None:
    context = read_context(baseline_run.folder)
    simple = next(name for name in context.learners if is_baseline(name))
    reported = dataclasses.replace(context.metrics.main, learner=simple)
    context = with_results(context, main=reported, primary=None)
    assert context.learner == simple
    others = [name for name in context.learners if is_baseline(name) and name != context.learner]
    names = {row.name: row.note for row in screen(context).rivals}
    assert [names[learner_name(name)] for name in others if learner_name(name) in names] == [
        "the best other simple model on these cases"
    ]


def test_a_model_that_is_right_as_often_as_the_commonest_class_says_so(report_of_classes: ReportContext) -> None:
    share = commonest(report_of_classes).share
    cell = Cell(report_of_classes.stage, report_of_classes.learner, report_of_classes.outcome)
    for low, said in ((share - 0.05, True), (share + 0.05, False)):
        figure = Estimate(share + 0.1, low, share + 0.2, rough=False)
        context = with_figures(report_of_classes, {cell: {"accuracy": figure}})
        found = [statement.text for statement in statements(context) if "always naming" in statement.text]
        assert bool(found) is said
        assert all(f"against {100 * share:.0f} %" in text for text in found)


def test_a_crop_that_changes_the_shape_alone_says_so_and_one_way_is_a_rise(report_of_numbers: ReportContext) -> None:
    def moved(by: float, shift: float) -> AlteredNumbers:
        own = Estimate(by, by / 2, 2 * by, rough=False)
        return AlteredNumbers(
            30, 20, 30, moved=own, shift=dataclasses.replace(own, value=shift), mae=2.0, relative=by / 2.0
        )

    learner = report_of_numbers.learner
    for shift, back, said in (
        (9.0, 0.5, "its predictions rise by 9.0 points on average; by 0.5 where the image keeps its shape."),
        (-9.0, 8.0, "its predictions fall by 9.0 points on average."),
        (1.0, 8.0, "its predictions move by 9.0 points on average."),
    ):
        entries = {"cropped_rows": moved(9.0, shift), "cropped_rows_stretched": moved(back, back)}
        context = with_results(report_of_numbers, counterfactuals={learner: entries})
        text = next(statement.text for statement in statements(context) if statement.id == "altered")
        assert said in text


def test_response_and_bands_stand_on_the_first_screen(report_of_numbers: ReportContext) -> None:
    shown = screen(report_of_numbers)
    assert re.search(r"PASI\d+: \d+ of \d+ responders found, \d+ of \d+ others called so", shown.spread)
    assert shown.failures is not None
    bands = report_of_numbers.metrics.bands
    assert bands is not None
    entry = bands.stages[report_of_numbers.stage][report_of_numbers.learner]
    at = shown.failures.columns.index("Right band") - 1
    right = {row.name: row.cells[at].text for row in shown.failures.rows}
    for n, (name, counts) in enumerate(zip(bands.lower_bounds, entry.confusion, strict=True)):
        if sum(counts):
            assert right[name] == f"{counts[n]} of {sum(counts)}"
