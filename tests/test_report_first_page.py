"""The top of the report: four figures, one sentence and what a guess reaches; folded parts, titles of points."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from casewise.evaluation.bootstrap import Plan, by_subject
from casewise.evaluation.calibration import number_calibration
from casewise.evaluation.results import Note, Results, from_json, plain
from casewise.metrics.roc import drawn_precision_recall
from casewise.report.context import ReportContext
from casewise.report.figures.agreement import Limits, bland_altman
from casewise.report.markdown.target_tables import figure
from casewise.report.page import render
from casewise.report.sections import agreement, participants, summary, summary_classes, tiles
from casewise.report.sections import audit as audit_sections
from casewise.report.sections import classes as class_sections
from casewise.report.tables import MetricFormat
from casewise.report.terms import report_title
from tests import report_contexts
from tests.report_contexts import check_page, classes, numbers, section_of, study_of_numbers, with_results


@pytest.fixture(scope="module")
def of_numbers() -> ReportContext:
    return numbers(subjects=24, test=12)


@pytest.fixture(scope="module")
def of_classes() -> ReportContext:
    return classes()


def with_guess(context: ReportContext, **guess: Any) -> ReportContext:
    code, facts = guess.pop("code"), {"stage": context.stage, "target": context.outcome, **guess}
    return with_results(context, notes=[Note(code, facts)])


def shrunk(context: ReportContext, share: float) -> ReportContext:
    """The context whose predictions are drawn towards 10 points, to this share of the distance."""
    table = context.predictions.copy()
    rows = table["target"].eq(context.outcome)
    jitter = np.random.default_rng(1).normal(0, 0.01, int(rows.sum()))
    table.loc[rows, "y_pred"] = 10 + share * (table.loc[rows, "y_true"] - 10) + jitter
    return judged_again(dataclasses.replace(context, predictions=table))


def judged_again(context: ReportContext) -> ReportContext:
    """The context with the figures of its predictions for the shown learner."""
    rows = context.headline_rows
    truth, predicted, subjects = (rows[name].to_numpy() for name in ("y_true", "y_pred", "subject"))
    figures = by_subject(truth, {"shown": predicted}, subjects, Plan())["shown"]
    of_learner = context.metrics["metrics"][context.stage][context.learner]
    kept = {**of_learner, context.outcome: figures}
    by_learner = {**context.metrics["metrics"][context.stage], context.learner: kept}
    return with_results(context, metrics={**context.metrics.metrics, context.stage: by_learner})


# ---------------------------------------------------------------------------------------- figures and one sentence


@pytest.mark.parametrize(
    ("low", "high", "not_shown"), [(1.4, 2.3, True), (1.4, 2.0, False), (2.2, 2.6, False), (None, None, False)]
)
def test_an_interval_that_includes_the_guess_shows_no_model_better_than_it(
    low: float | None, high: float | None, not_shown: bool, of_numbers: ReportContext, of_classes: ReportContext
) -> None:
    """The tile and the headline say so for the error and for the accuracy, and nothing without an interval."""
    for context, metric in ((of_numbers, "mae"), (of_classes, "accuracy")):
        context = with_guess(context, code="guess_mean", error=2.07)
        guess = tiles.naive(context)
        assert guess is not None
        shift = guess["value"] - 2.07
        ends = [None if end is None else end + shift for end in (low, high)]
        context = report_contexts.with_figure(context, metric, ends[0], 1.8 + shift, ends[1])  # type: ignore[arg-type]
        guess = tiles.naive(context)
        assert guess is not None
        assert guess["not_shown"] is not_shown
        tile = next(tile for tile in tiles.tiles(context) if tile["code"] == metric)
        assert tile["beside"]["not_shown"] is not_shown
        sentence = re.search(r'data-code="headline">(.*?)</p>', section_of(render(context), "summary"), re.DOTALL)
        assert sentence is not None
        assert ("not shown" in sentence[1]) is not_shown


def test_contents_and_page_have_one_order(of_numbers: ReportContext, of_classes: ReportContext) -> None:
    for context in (of_numbers, of_classes):
        page = render(context)
        contents = re.findall(r'<li><a href="#([\w-]+)">', page[: page.index("</nav>")])
        assert contents == re.findall(r'<section id="([\w-]+)"', page)
        assert len(contents) > 5


def test_the_first_warning_of_the_audit_is_named(of_classes: ReportContext) -> None:
    assert of_classes.audit is not None
    warned = [finding for finding in of_classes.audit["findings"] if finding["level"] == "warning"]
    context = dataclasses.replace(of_classes, audit={**of_classes.audit, "findings": warned})
    first = audit_sections.first_screen(context)["warnings"][0]["subject"]  # type: ignore[index]
    box = re.search(r'<div class="warned warning">.*?</div>', section_of(render(context), "summary"), re.DOTALL)
    assert box is not None
    assert first["name"] in box[0]


def test_figures_and_one_sentence_stand_before_all_else(of_numbers: ReportContext, of_classes: ReportContext) -> None:
    for context in (of_numbers, of_classes):
        text = section_of(render(context), "summary")
        order = ['class="tiles', 'data-code="headline"', 'class="banners"', "In plain words", "<details"]
        places = [text.index(part) for part in order if part in text]
        assert places == sorted(places)
        assert text.count('data-code="headline"') == 1
        assert text.count("data-metric=") == 4
        assert text.count("<svg") == 1
        assert text.index("<svg") < text.index("In plain words")
        assert set(re.findall(r'data-code="(choice|judged|comparison)"', text)) >= {"choice", "judged"}


def test_a_guess_stands_beside_the_error(of_numbers: ReportContext) -> None:
    assert tiles.naive(with_results(of_numbers, notes=[])) is None
    context = with_guess(of_numbers, code="guess_mean", error=12.34)
    assert tiles.naive(context) == {"code": "mean", "name": "", "value": 12.34, "not_shown": False}
    beside = {tile["code"]: tile["beside"] for tile in tiles.tiles(context)}
    assert beside["mae"]["value"] == "12.3"
    assert (beside["ccc"]["code"], beside["ccc"]["value"]) == ("chance", "0.00")
    text = section_of(render(context), "summary")
    sentence = re.search(r'data-code="headline">(.*?)</p>', text, re.DOTALL)
    assert sentence is not None
    assert "12.3 points" in sentence[1]
    assert tiles.naive(with_guess(of_numbers, code="guess_mean", error=1.0, stage="oof")) is None


def test_the_commonest_class_and_chance_stand_beside_accuracy_and_auroc(of_classes: ReportContext) -> None:
    rows = of_classes.headline_rows
    share = rows["y_true"].value_counts(normalize=True).max()
    guess = tiles.naive(of_classes)
    assert guess is not None
    assert (guess["code"], guess["value"]) == ("commonest", pytest.approx(share))
    beside = {tile["code"]: tile["beside"] for tile in tiles.tiles(of_classes)}
    assert beside["accuracy"]["value"] == f"{100 * share:.1f} %"
    assert beside["auroc"]["value"] == "0.50"


def test_classes_are_ordered_by_auroc_only_as_far_as_intervals_go(of_classes: ReportContext) -> None:
    def order(low: float | None, rough: bool = False) -> str:
        metrics = plain(of_classes.metrics)
        figures = metrics["metrics"][of_classes.stage][of_classes.learner][of_classes.outcome]
        figures["auroc[covid]"] |= {"value": 0.99, "low": low, "high": 1.0, "rough": rough}
        figures["auroc[pneumonia]"] |= {"value": 0.6, "low": 0.5, "high": 0.7, "rough": False}
        values = summary_classes.discrimination(dataclasses.replace(of_classes, metrics=from_json(Results, metrics)))
        assert values is not None
        return str(values["order"])

    assert [order(0.8), order(0.65), order(None), order(0.8, rough=True)] == ["apart", "overlap", "unknown", "unknown"]


def test_long_parts_are_folded_and_say_what_they_hold(of_numbers: ReportContext, of_classes: ReportContext) -> None:
    for context in (of_numbers, of_classes):
        text = render(context)
        check_page(text)
        folds = re.findall(r"<details([^>]*)>\s*<summary>(.*?)</summary>", text, re.DOTALL)
        assert len(folds) == text.count("<details") > 8
        assert all(len(title.strip()) > 5 and "open" not in attributes for attributes, title in folds)
        visible = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
        assert visible.count("<table") < text.count("<table") / 3
        assert "details::details-content" in text  # printing shows what is folded


# ------------------------------------------------------------------------------------------------ proportional bias


def test_the_slope_of_the_differences_is_that_of_least_squares() -> None:
    random = np.random.default_rng(3)
    truth = random.uniform(0, 40, 80)
    noisy = truth + random.normal(0, 1, 80)
    subjects = np.repeat(np.arange(20), 4).astype(str)
    learners = {"shrunk": 8 + 0.6 * truth + random.normal(0, 2, 80), "noisy": noisy}
    slopes = {name: figures["proportional_bias"] for name, figures in by_subject(truth, learners, subjects).items()}
    for name, predicted in learners.items():
        expected = np.polyfit((truth + predicted) / 2, predicted - truth, 1)[0]
        assert slopes[name].value == pytest.approx(expected)
        assert slopes[name].low < slopes[name].value < slopes[name].high
    assert slopes["shrunk"].high < 0
    assert slopes["noisy"].low < 0 < slopes["noisy"].high
    flat = by_subject(np.ones(4), {"flat": np.ones(4)}, np.array(list("abcd")))["flat"]["proportional_bias"]
    assert (flat.value, bool(flat.reason)) == (None, True)


def test_proportional_bias_is_named_only_where_it_is_shown(of_numbers: ReportContext) -> None:
    pulled = shrunk(of_numbers, 0.5)
    values = agreement.agreement(pulled)
    assert values is not None
    assert values["slope"]["value"] == pytest.approx(-2 / 3, abs=0.01)
    assert 'data-code="proportional-bias"' in render(pulled)
    few = pulled.predictions[pulled.predictions["subject"].isin(pulled.headline_rows["subject"].unique()[:9])]
    assert agreement.slope_of_differences(judged_again(dataclasses.replace(pulled, predictions=few))) is None
    same = shrunk(of_numbers, 1.0)
    assert agreement.slope_of_differences(same) is None
    assert 'data-code="proportional-bias"' not in render(same)


def test_wide_intervals_do_not_flatten_the_points(of_numbers: ReportContext) -> None:
    rows = of_numbers.headline_rows
    for wide in (30.0, 3000.0):
        limits = Limits(0.0, -10.0, 10.0, (-wide, -5.0), (-1.0, 1.0), (5.0, wide))
        drawing = bland_altman(rows, limits, digits=1, label="PASI")
        assert drawing.figure is not None
        bottom, top = drawing.figure.axes[0].get_ylim()
        assert top - bottom < 200


# ------------------------------------------------------------------------------------------------ chance and titles


def with_figure(context: ReportContext, name: str, **changes: Any) -> ReportContext:
    """The context with another figure of the shown learner."""
    metrics = plain(context.metrics)
    figure = metrics["metrics"][context.stage][context.learner][context.outcome].setdefault(name, {})
    figure |= {"n_subjects": 30, "n_cases": 60, "rough": False} | changes
    return dataclasses.replace(context, metrics=from_json(Results, metrics))


def test_agreement_that_includes_chance_is_said_not_to_be_shown() -> None:
    graded = classes(kind="ordinal", test=0)
    for low, expected in ((-0.1, True), (0.2, False)):
        context = with_figure(graded, "kappa_quadratic", value=0.3, low=low, high=0.6)
        beside = tiles.beside(context, "kappa_quadratic")
        assert beside is not None
        assert beside["not_shown"] is expected
        distance = section_of(render(context), "summary").partition('data-code="distance"')[2].partition("</p>")[0]
        assert ("includes chance" in distance) is expected


@pytest.mark.parametrize(
    ("entry", "figure"), [("bands", "kappa"), ("response", "kappa"), ("agreement", "ccc")], ids=str
)
def test_agreement_of_numbers_beside_chance(of_numbers: ReportContext, entry: str, figure: str) -> None:
    doubtful = {"value": 0.2, "low": -0.3, "high": 0.6, "n_subjects": 12, "n_cases": 60, "rough": False}
    context = with_figure(of_numbers, "ccc", **(doubtful if entry == "agreement" else {"low": 0.5, "value": 0.8}))
    metrics = plain(context.metrics)
    if entry == "bands":
        metrics["bands"]["stages"][context.stage][context.learner]["kappa"] = doubtful
    if entry == "response":
        for responders in metrics["response"][context.stage][context.learner]["responders"].values():
            responders["kappa"] = doubtful
    text = section_of(render(dataclasses.replace(context, metrics=from_json(Results, metrics))), "summary")
    paragraph = re.search(rf'data-code="{entry}[a-z-]*">(.*?)</p>', text, re.DOTALL)
    assert paragraph is not None
    assert "includes chance" in paragraph[1]


def test_a_study_without_a_title_says_what_it_predicts() -> None:
    titles = {
        name: report_title(study_of_numbers(name=name, title=""))
        for name in ("A", "study", "chest_films", "hand-films")
    }
    assert all("pasi" in title.lower() and "photographs" in title for title in titles.values())
    assert titles["A"] == titles["study"]
    assert titles["chest_films"].startswith("Chest films")
    assert report_title(study_of_numbers(title="Ours")) == "Ours"


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        ([{"n": 40, "confidence": 0.7, "accuracy": 0.575}, {"n": 12, "confidence": 0.9, "accuracy": 1.0}], (40, 23)),
        ([{"n": 9, "confidence": 0.7, "accuracy": 1.0}], None),
        ([{"n": 0, "confidence": None, "accuracy": None}], None),
        ([], None),
    ],
)
def test_calibration_is_shown_on_the_fullest_bin(bins: list[dict[str, Any]], expected: tuple[int, int] | None) -> None:
    example = class_sections.example(bins)
    assert (example and (example["n"], example["right"])) == expected


def test_an_example_of_wrong_probabilities_is_wrong_in_the_same_way() -> None:
    bins = [
        {"n": 27, "confidence": 0.51, "accuracy": 14 / 27},
        {"n": 20, "confidence": 0.63, "accuracy": 0.4},
        {"n": 12, "confidence": 0.8, "accuracy": 1.0},
    ]
    found = {code: class_sections.example(bins, code) for code in ("good", "over", "under", "mean_only")}
    assert {code: shown and shown["n"] for code, shown in found.items()} == {
        "good": 27,
        "over": 20,
        "under": 12,
        "mean_only": 20,
    }
    assert class_sections.example(bins[:1], "over") is None


# ------------------------------------------------------------------------------------------- curves, titles, plots


def test_the_precision_recall_curve_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    truth = random.uniform(size=150) < 0.3
    scores = np.round(random.normal(truth, 1.0), 1)
    drawn = drawn_precision_recall(scores, truth, most=10_000)
    assert drawn is not None
    precision, recall, _ = precision_recall_curve(truth, scores)
    # scikit-learn begins at the lowest threshold, and adds the point (0, 1) at the end
    assert drawn["recall"] == pytest.approx(recall[:-1][::-1].tolist())
    assert drawn["precision"] == pytest.approx(precision[:-1][::-1].tolist())
    area = np.sum(np.diff(drawn["recall"], prepend=0.0) * np.array(drawn["precision"]))
    assert area == pytest.approx(average_precision_score(truth, scores))
    assert drawn_precision_recall(scores, np.zeros(150, bool)) is None
    fewer = drawn_precision_recall(scores, truth, most=20)
    assert fewer is not None
    assert len(fewer["recall"]) <= 20
    assert fewer["recall"][-1] == 1.0


def test_every_class_has_a_precision_recall_curve_with_its_share(of_classes: ReportContext) -> None:
    values = class_sections.section(of_classes)
    assert values is not None
    truth = of_classes.headline_rows["y_true"]
    shares = [pytest.approx((truth == i).mean()) for i in range(3)]
    assert [share for _, _, share in values["recalls"]] == shares
    bare = of_classes.predictions.drop(columns=["p0", "p1", "p2"])
    values = class_sections.section(dataclasses.replace(of_classes, predictions=bare))
    assert values is not None
    assert values["precision_recall"] is None


def test_points_name_their_case(of_numbers: ReportContext) -> None:
    values = agreement.agreement(of_numbers)
    assert values is not None
    rows = of_numbers.headline_rows
    for drawing in (values["scatter"], values["bland_altman"]):
        titles = re.findall(r"<use [^>]*><title>([^<]+)</title></use>", drawing.body)
        assert len(titles) == len(rows)
        assert len(set(titles)) == len(rows)
        assert all(str(subject) in title for subject, title in zip(rows["subject"], titles, strict=True))


# -------------------------------------------------------------------------------------- predictions that hardly vary


def test_a_line_through_predictions_that_hardly_vary_has_no_slope() -> None:
    random = np.random.default_rng(2)
    truth = random.uniform(0, 40, 60)
    rows = pd.DataFrame(
        {
            "subject": np.repeat(np.arange(20), 3).astype(str),
            "case": np.arange(60).astype(str),
            "y_true": truth,
            "y_pred": 12 + 1e-3 * truth,
            "outer_fold": np.tile([0, 1, 2], 20),
        }
    )
    entry = number_calibration(rows, Plan(50))
    assert (entry["slope"]["value"], entry["intercept"]["value"], entry["curve"]) == (None, None, [])
    assert entry["slope"]["reason"]
    assert set(entry["slope_by_fold"].values()) == {None}
    entry = number_calibration(rows.assign(y_pred=12 + 0.1 * truth), Plan(50))
    assert entry["slope"]["value"] == pytest.approx(10)


def test_the_concordance_of_a_constant_has_no_interval() -> None:
    write = MetricFormat(points=1)
    flat = {"value": 0.0, "low": 0.0, "high": 0.0}
    cell = write.cell("ccc", flat)
    assert cell.text == "0.00"
    assert "[" not in cell.small
    assert cell.small
    assert write.bounds("ccc", flat, words=True) == ""
    assert write.cell("ccc", {"value": 0.0, "low": -0.1, "high": 0.1}).small == "[−0.10, 0.10]"
    assert write.cell("mae", flat).small == "[0.0, 0.0]"
    assert "[" not in figure(flat, metric="ccc")
    assert figure(flat, metric="mae") == "0.000 [0.000, 0.000]"


def test_a_half_width_of_nothing_is_no_precision(of_numbers: ReportContext) -> None:
    figures = {"mae": {"half_width": 1.2, "rough": False}, "ccc": {"half_width": 0.0, "rough": False}}
    entry = {"target": of_numbers.outcome, "figures": figures, "subjects_by_class": {}}
    values = participants.precision(of_numbers.study, entry)
    assert values is not None
    assert [text for _, text in values["halves"]] == ["1.2"]
    assert len(values["without"]) == 1


def test_a_learner_that_hardly_varies_is_not_called_best(of_numbers: ReportContext) -> None:
    assert not summary.choice(of_numbers)["flat"]
    metrics = plain(of_numbers.metrics)
    figures = metrics["metrics"]["oof"][of_numbers.learner][of_numbers.outcome]
    figures["ccc"] |= {"value": 0.0, "low": 0.0, "high": 0.0}
    assert summary.choice(dataclasses.replace(of_numbers, metrics=from_json(Results, metrics)))["flat"]
