"""The report of studies with classes: curves, tables, the audit, the external cohort, and the page of results."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.audit.findings import Audit, Finding
from casewise.audit.metadata import SOURCES
from casewise.evaluation.results import evaluate
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.report.figures.classes import curves_of
from casewise.report.markdown.page import write_results
from casewise.report.page import render, write_report
from casewise.report.sections import audit, classes, external, learners, summary, summary_classes
from casewise.report.sections import high_confidence as confident
from casewise.report.sections import labels as labels
from casewise.report.sections import lr_finder as rates
from casewise.report.sections import terminology as words
from casewise.study.schema import Study
from tests.test_report import Page, check_page, films, jobs_of, splits_of

CLASSES = {
    "classification": ["covid", "no_finding", "pneumonia"],
    "binary": ["covid", "no_finding"],
    "ordinal": ["0", "1", "2", "3", "4"],
}
EIGHT = [
    "efficientnet_b4",
    "efficientnet_b7",
    "resnet101",
    "resnet152",
    "densenet169",
    "densenet201",
    "mobilenet_v2",
    "vgg19_bn",
]
REASON = "Both public collections are used as published; see the figures within one source."


def study_of(kind: str, **changes: Any) -> Study:
    """A study like the published one on chest radiographs, or of grades."""
    target: dict[str, Any] = {"kind": "ordinal" if kind == "ordinal" else "classification", "classes": CLASSES[kind]}
    values: dict[str, Any] = {
        "name": f"toy-{kind}",
        "title": "Diabetic retinopathy" if kind == "ordinal" else "COVID-19 on chest radiographs",
        "description": "Retinopathy by grade." if kind == "ordinal" else "Radiographs of two public collections.",
        "cohort": "cases.csv",
        "images": {"size": 64, "channels": "grey"},
        "targets": {"retinopathy" if kind == "ordinal" else "finding": target},
        "backbones": EIGHT[:3],
        "split": {"test": 0, "folds": 5},
        "recipe": {"lr": "find"},
        "external": {"cohort": "elsewhere.csv", "name": "St Elsewhere"},
    }
    return Study.model_validate(values | changes)


def predictions_of(study: Study, subjects: int, learners: list[str], *, test: int, outside: int) -> pd.DataFrame:
    """Predictions of every learner; one case a subject, some have two; class and source go together."""
    from casewise.targets import kind_named

    random, outcome = np.random.default_rng(7), study.primary_outcome
    names, kind = study.classes_of(outcome), study.kind_of(outcome)
    k = len(names)
    rows: list[dict[str, Any]] = []
    for stage, count, letter in (("in", subjects, "P"), ("external", outside, "E")):
        shares = np.array([1.0, 1.3, 1.2, 0.5, 0.4][:k]) / sum([1.0, 1.3, 1.2, 0.5, 0.4][:k])
        truths = random.choice(k, count, p=shares)
        truths[: 2 * k] = (np.arange(2 * k) % k)[:count]
        for s in range(count):
            for visit in range(1 + (s % 4 == 0)):
                common = {"subject": f"{letter}{s:03d}", "visit": str(visit + 1), "day": float("nan"), "region": ""}
                common |= {"case": f"{letter}{s:03d}/{visit + 1}", "image": "", "inner_fold": None, "target": outcome}
                hard = random.normal(0, 1, k)
                where = "external" if stage == "external" else "test" if s < test else "oof"
                before: list[np.ndarray] = []
                for i, learner in enumerate(learners):
                    logits = -1.1 * np.abs(np.arange(k) - truths[s]) if kind == "ordinal" else np.eye(k)[truths[s]] * 2
                    logits = (
                        logits + hard * (0.9 if where != "external" else 1.5) + random.normal(0, 0.45 + 0.07 * i, k)
                    )
                    p = np.exp(2.6 * logits)
                    p = p / p.sum()
                    p = np.mean(before, axis=0) if learner == "mean_of_learners" else p
                    before.append(p)
                    fold = None if where != "oof" else s % 5 + 1
                    said = float(kind_named(kind).decide(p[None])[0])
                    row = {**common, "model": learner, "stage": where, "outer_fold": fold, "kind": kind}
                    rows.append(
                        {**row, "y_true": float(truths[s]), "y_pred": said, **{f"p{j}": p[j] for j in range(k)}}
                    )
    return pd.DataFrame(rows).astype({"outer_fold": "Int64", "inner_fold": "Int64"})


def film(number: int, size: int = 64) -> np.ndarray:
    """A grey picture with two dark lungs."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    picture = 190 - 40 * np.abs(x - 0.5)
    for centre in (0.32, 0.68):
        picture = picture - 120 * np.exp(-((((x - centre) / 0.13) ** 2 + ((y - 0.5) / 0.28) ** 2) ** 2))
    spot = random.uniform(0.3, 0.7, 2)
    picture = picture + 60 * np.exp(-(((x - spot[0]) / 0.08) ** 2 + ((y - spot[1]) / 0.1) ** 2))
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)[None]


def audit_of(images: pd.DataFrame, accepted: dict[str, str]) -> dict[str, Any]:
    """What an audit of the chest cohort may leave behind."""
    paths = images["path"].tolist()
    probe = {"target": "finding", "metric": "auroc", "p": 0.001, "p_adjusted": 0.001, "images": len(images)}
    twins = {"pairs": 4, "images": 8, "subjects": 8, "bytes": 1, "pixels": 0, "near": 3, "mirrored": 1}
    source = {**probe, "evidence": "source", "value": 0.914, "by_class": {"covid": 0.97}}
    within = {**probe, "evidence": "image", "value": 0.97, "within": "no_finding"}
    found = [
        Finding(
            "shortcut-source",
            "error",
            "source alone tells finding: AUROC .91 where .50 is chance, and .97 for covid (p = .001); a network can "
            "score that by recognising source, without looking at the disease.",
            source,
            remedy="Cross-validate with `split: {leave_out: source}`, or study within one source (`where:`).",
        ),
        Finding(
            "source-told-no_finding",
            "warning",
            "Within finding no_finding, the image tells source: AUROC .97 where .50 is chance (p = .001); where source "
            "goes with finding, a network can learn the one for the other.",
            within,
            remedy="Report the result within each source.",
        ),
        Finding(
            "twins-across-labels",
            "warning",
            "4 pairs of images show the same picture with two values of finding (1 the same file, 3 near-identical): "
            "at least one is wrong, or the picture does not tell it.",
            twins,
            list(zip(paths[:4], paths[10:14], strict=True)),
            "Correct finding in the table, or leave both images out with `where:`.",
        ),
        Finding("twins-within-subject", "note", "1 pair of images shows the same picture of one subject twice.", twins),
    ]
    border = {**probe, "evidence": "border (its corners)", "value": 0.52, "p": 0.31, "p_adjusted": 0.4}
    asked = [source, border, within]
    seconds = {"twins": 23.1, "shortcuts": 9.7}
    return Audit(
        found, seconds, {"subjects": 120, "images": len(images), "questions": asked, "not_asked": ["finding from view"]}
    ).as_json(accepted)


def toy(
    kind: str = "classification",
    *,
    subjects: int = 120,
    test: int = 0,
    outside: int = 0,
    networks: int = 3,
    accepted: dict[str, str] | None = None,
    **changes: Any,
) -> ReportContext:
    """Material of a made-up study of classes, `metrics.json` by the contract."""
    study = study_of(kind, **{"backbones": EIGHT[:networks]} | changes)
    outcome, names = study.primary_outcome, study.classes_of(study.primary_outcome)
    known = [*study.backbones, "mean_of_learners"] if networks > 1 else list(study.backbones)
    predictions = predictions_of(study, subjects, known, test=test, outside=outside)
    metrics = evaluate(
        predictions,
        main=outcome,
        resamples=50,
        baseline=None,
        classes={outcome: names},
        positive={outcome: first} if (first := study.positive_of(outcome)) else None,
        subjects_known=study.subjects_known,
    )
    if outside:
        inside = metrics["metrics"]["test" if test else "oof"]
        metrics["external_drop"] = {
            name: {
                metric: {"difference": d, "low": d - 0.05, "high": d + 0.05}
                for metric, told in inside[name][outcome].items()
                if (there := metrics["metrics"]["external"][name][outcome][metric]["value"]) is not None
                for d in [there - told["value"]]
            }
            for name in known
        }
    own = predictions[(predictions["model"] == known[0]) & (predictions["stage"] != "external")].reset_index(drop=True)
    images = own[["subject", "visit", "case", "day", "region"]].assign(
        image=range(len(own)), panel=range(len(own)), path=[f"images/film-{i:04d}.png" for i in range(len(own))]
    )
    images[outcome] = own["y_true"]
    images["source"] = np.where((own["y_true"] == 0) | (own.index % 25 == 0), "cohen", "nih")
    panels = images.assign(tiles=[[i] for i in range(len(own))])[
        ["panel", "case", "subject", "visit", "day", "region", "tiles", outcome]
    ]
    sides: dict[str, Any] = {f"P{i:03d}": "test" if i < test else i % 5 + 1 for i in range(subjects)}
    jobs = jobs_of(study)
    lr = np.geomspace(1e-7, 1, 60)
    for i, job in enumerate(jobs):
        loss = (
            1.1 - 0.6 / (1 + np.exp(-1.6 * (np.log10(lr) + 3.6))) + 0.04 * np.maximum(np.log10(lr) + 1.4, 0) ** 3 * 40
        )
        loss = loss + np.random.default_rng(i).normal(0, 0.05, len(lr))
        job["finder"] = {"rates": lr.tolist(), "losses": loss.tolist(), "chosen": 1e-4 if i % 2 else 2.4e-4}
        if job["model"] == study.backbones[-1]:
            job["stages"] = [
                {"unfrozen": g, "best_loss": 0.8 - 0.1 * g, "kept": True} for g in range(3 if i % 2 else 4)
            ]
    return ReportContext(
        study=study,
        cohort_images=images,
        panels=panels,
        cases=panels.drop_duplicates("case")[["case", "subject", "visit", "day", outcome]].reset_index(drop=True),
        notes=["Twelve rows of other classes were left out.", *sentences(metrics["notes"])],
        splits=splits_of(study, sides),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs,
        stackers={},
        tiles=lambda numbers: np.stack([film(n) for n in numbers]),
        photograph=lambda n: film(n, 160)[0],
        environment={"casewise": "0.1.0", "seconds": 1234.0},
        audit=audit_of(images, {"shortcut-source": REASON} if accepted is None else accepted),
    )


def page_of(material: ReportContext) -> Page:
    return check_page(render(material))


@pytest.fixture(scope="module")
def three() -> ReportContext:
    return toy(test=30, outside=60, networks=3)


@pytest.fixture(scope="module")
def text(three: ReportContext) -> str:
    return render(three)


@pytest.fixture(scope="module")
def two() -> ReportContext:
    return toy("binary", networks=2)


@pytest.fixture(scope="module")
def grades() -> ReportContext:
    return toy("ordinal", subjects=100, networks=2)


def figures(material: ReportContext, stage: str = "") -> dict[str, Any]:
    """The figures of the shown learner."""
    return material.figures(stage or material.stage, material.learner, material.study.primary_outcome)


def test_page_is_whole_and_speaks_of_classes(three: ReportContext, text: str) -> None:
    page = check_page(text)
    assert page.svgs == 10
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    for strange in ("Model and physician", "Bland", "Largest errors", "Recorded scores", "Who responded", "CCC"):
        assert strange not in page.text.split("The study as it was run")[0]
    assert "Finding: covid, no finding or pneumonia, predicted from 150 images of 120 subjects" in page.text
    found = figures(three)
    for metric in ("accuracy", "top2_accuracy", "precision", "recall"):
        low, high = (f"{100 * found[metric][key]:.1f}" for key in ("low", "high"))
        assert f"{100 * found[metric]['value']:.1f} % [{low}, {high}]" in page.text
    for metric in ("auroc", "f1", "auroc[covid]", "f1[no_finding]"):
        low, high = (f"{found[metric][key]:.3f}" for key in ("low", "high"))
        assert f"{found[metric]['value']:.3f} [{low}, {high}]" in page.text


def test_plain_words_name_the_commonest_class_and_the_class_missed_most(three: ReportContext) -> None:
    told = dict(summary_classes.sentences(three))
    truth = three.chosen["y_true"].to_numpy(int)
    counts = np.bincount(truth)
    names = ["covid", "no finding", "pneumonia"]
    commonest = (
        f"Always naming the commonest class, {names[counts.argmax()]}, would give {counts.max() / len(truth):.0%}"
    )
    assert commonest.replace("%", " %") in told["How often it is right."]
    confusion = np.array(three.classed("test", three.learner)["confusion"])
    recall = np.diag(confusion) / confusion.sum(axis=1)
    worst = int(recall.argmin())
    assert told["What it misses."].lower().startswith(f"{names[worst]} is missed most: ")
    assert "test set took no part" in told["Which model this is."]
    assert "out-of-fold AUROC is the best" in told["Which model this is."]


def confused(material: ReportContext, confusion: list[list[int]], **ends: tuple[float, float]) -> ReportContext:
    """The same material with another confusion matrix, and intervals of recall where given."""
    stage, learner, outcome = material.stage, material.learner, material.study.primary_outcome
    told = {**material.classed(stage, learner), "confusion": confusion, "support": [sum(row) for row in confusion]}
    changed = {**figures(material)}
    for name, (low, high) in ends.items():
        changed[f"recall[{name}]"] = {"value": (low + high) / 2, "low": low, "high": high}
    metrics = {**material.metrics, "classes": {stage: {learner: {outcome: told}}}}
    metrics["metrics"] = {**material.metrics["metrics"], stage: {learner: {outcome: changed}}}
    return dataclasses.replace(material, metrics=metrics)


def test_a_class_is_called_hardest_only_as_far_as_intervals_go(three: ReportContext) -> None:
    apart = {"covid": (0.2, 0.4), "no_finding": (0.6, 0.8), "pneumonia": (0.7, 0.9)}
    counts = [[3, 1, 6], [1, 7, 2], [0, 2, 8]]
    told = summary_classes.missed(confused(three, counts, **apart))
    assert told == "Covid is missed most: 7 of 10 visits (70 %), most often taken for pneumonia (6 visits)."
    assert "not certain" in summary_classes.missed(confused(three, counts, **{**apart, "covid": (0.2, 0.65)}))
    one = summary_classes.missed(confused(three, [[3, 0, 7], [1, 7, 2], [0, 2, 8]], **apart))
    assert "(70 %), all taken for pneumonia." in one
    none = summary_classes.missed(confused(three, [[9, 0, 0], [0, 9, 0], [0, 0, 9]]))
    assert none == "No visit of the 3 classes was missed."
    assert summary_classes.missed(confused(three, [[9, 0, 0], [0, 2, 0], [0, 1, 1]])) == ""


def test_two_classes_speak_of_sensitivity_and_draw_one_curve(two: ReportContext) -> None:
    page = page_of(two)
    found = figures(two)
    told = dict(summary_classes.sentences(two))["What it misses."]
    for metric in ("sensitivity", "specificity"):
        assert f" {100 * found[metric]['value']:.0f} %" in told
        assert f"({metric}, interval " in told
    assert len(curves_of(two.classed("oof", two.learner), found)) == 1
    assert "ROC curve: covid." in page.text
    assert "Top-2 accuracy" not in page.text
    assert [title for title, *_ in summary_classes.tiles(two)] == ["Accuracy", "AUROC", "Sensitivity", "Specificity"]
    assert "There is no test set; out of fold (150 visits of 120 subjects" in page.text
    assert "each fold is judged with those of the others" in page.text


def test_grades_speak_of_weighted_kappa_and_name_a_grade_with_its_target(grades: ReportContext) -> None:
    page = page_of(grades)
    assert grades.merit == "kappa_quadratic"
    best = max(grades.learners, key=lambda n: grades.metric("oof", n, "kappa_quadratic")["value"])  # type: ignore[index]
    assert grades.learner == best
    near = (grades.chosen["y_pred"] - grades.chosen["y_true"]).abs().le(1).mean()
    assert f"{100 * near:.0f} % are right or one grade off" in page.text
    assert "5 grades from 0 to 4" in page.text
    assert re.search(r"Retinopathy \d is missed most", page.text)
    assert summary_classes.tiles(grades)[0][0] == "Weighted kappa"
    assert "Weighted kappa" in learners.learners(grades)["heads"]  # type: ignore[index]


def test_the_learners_table_has_the_published_form(three: ReportContext) -> None:
    told = learners.learners(three)
    assert told is not None
    heads = ["Learner", "Kind", "Accuracy", "Top-2 accuracy", "AUROC", "Precision", "Recall", "F1"]
    assert told["heads"] == heads
    assert [stage for stage, _ in told["stages"]] == ["test", "oof"]
    values = [row.cells[3].value for row in told["stages"][0][1]]
    assert values == sorted(values, reverse=True)
    assert len(told["forests"]) == 2
    name, rows, found = told["reports"][0]
    assert name == three.learner
    assert [row.name for row in rows] == ["covid", "no finding", "pneumonia", "mean"]
    assert rows[0].cells[-1].value == found.rows[0][1]


def test_learner_is_chosen_out_of_fold(three: ReportContext) -> None:
    metrics = {k: v for k, v in three.metrics.items() if k != "main"}
    assert dataclasses.replace(three, metrics=metrics).learner == three.metrics["main"]["learner"]
    oof = {name: three.metric("oof", name, "auroc")["value"] for name in three.learners}  # type: ignore[index]
    assert three.learner == max(oof, key=oof.__getitem__)


def test_comparisons_of_losses_call_the_smallest_best(three: ReportContext) -> None:
    assert "smallest log loss" in summary.comparison(three, "test", "log_loss")
    assert "highest AUROC" in summary.comparison(three, "test")


def test_calibration_says_which_way_it_errs(three: ReportContext) -> None:
    def told(claimed: float, right: float, after: float, many: int = 1000) -> str:
        bins = [{"low": 0.6, "high": 0.7, "n": many, "confidence": claimed, "accuracy": right}]
        stage, learner, outcome = three.stage, three.learner, three.study.primary_outcome
        entry = {**three.classed(stage, learner), "reliability": bins}
        ece = {"ece": {"value": abs(claimed - right)}, "ece_calibrated": {"value": after}}
        metrics = {
            **three.metrics,
            "classes": {stage: {learner: {outcome: entry}}},
            "metrics": {stage: {learner: {outcome: ece}}},
        }
        return classes.calibration(dataclasses.replace(three, metrics=metrics))

    assert told(0.9, 0.7, 0.02).startswith("It is too sure of itself: on average it gives the likeliest class 90 %")
    assert told(0.9, 0.7, 0.02, many=10).startswith("On average its probabilities are what they claim (90 %")
    assert "brings it down to 0.020" in told(0.9, 0.7, 0.02)
    assert told(0.6, 0.8, 0.3).startswith("It is less sure of itself than it need be")
    assert "does not help (0.300)" in told(0.6, 0.8, 0.3)
    assert told(0.81, 0.8, 0.01).startswith(
        "On average its probabilities are what they claim (81 % claimed, 80 % right"
    )


def test_an_accepted_error_stands_on_the_first_screen_with_its_reason(three: ReportContext, text: str) -> None:
    screen = text.split("<h2>In plain words</h2>")[0]
    assert "Accepted:</em> " + REASON in screen
    assert "1 error and 2 warnings." in screen
    assert Page(screen).text.count("error Finding from the column source AUROC 0.91 Accepted:") == 1
    assert "source alone tells finding" not in screen
    told = audit.first_screen(three)
    assert told is not None
    assert told["warned"] == [
        "the source from the image, within no finding (AUROC 0.97)",
        "the same picture with two labels (4 pairs)",
    ]
    assert '<a href="#audit"><span class="level warning">2 warnings</span></a>' in screen
    assert "twice" not in screen.split('class="warned')[1]
    assert three.audit is not None
    assert three.audit["verdict"] in Page(text).text
    unaccepted = dataclasses.replace(three, audit=audit_of(three.cohort_images, {}))
    assert "Not accepted by the study." in render(unaccepted).split("<h2>In plain words</h2>")[0]


def test_every_accepted_error_has_one_line_and_its_reason_and_warnings_are_counted(three: ReportContext) -> None:
    figures = {"target": "finding", "metric": "auroc", "value": 0.8}
    names = ("source", "border", "files", "native_size", "native_mode")
    found = [Finding(f"shortcut-{name}", "error", "A long sentence. " * 20, figures) for name in names]
    found += [Finding(f"shortcut-{i}", "warning", "Another long sentence. " * 20, figures) for i in range(7)]
    told = Audit(found).as_json({f"shortcut-{name}": f"reason of {name}" for name in names})
    screen = render(dataclasses.replace(three, audit=told)).split("<h2>In plain words</h2>")[0]
    box = screen.split('class="warned')[1]
    assert box.count("<li>") == 5
    assert all(box.count(f"Accepted:</em> reason of {name}<") == 1 for name in names)
    assert "7 warnings</span>" in box
    assert "and 4 more" in box
    assert "long sentence" not in box


def test_a_clean_audit_and_none_at_all(three: ReportContext) -> None:
    clean = Audit([], {"twins": 3.0}, {"subjects": 120, "images": 150}).as_json({})
    screen = render(dataclasses.replace(three, audit=clean)).split("<h2>In plain words</h2>")[0]
    assert "120 subjects and 150 images" in screen
    assert 'class="warned clean"' in screen
    without = page_of(dataclasses.replace(three, audit=None))
    assert "Is it the disease?" not in without.text
    assert "No audit was made." in without.text


def test_an_audit_that_asked_about_no_shortcut_is_not_green_and_says_so(three: ReportContext) -> None:
    facts = {"subjects": 12, "images": 24, "questions": [], "not_asked": ["finding from border"]}
    html = render(dataclasses.replace(three, audit=Audit([], {}, facts).as_json({})))
    screen, rest = html.split("<h2>In plain words</h2>")
    assert 'class="warned neutral"' in screen
    assert "No subject or twin problem was found among 12 subjects and 24 images; shortcuts were not asked" in screen
    assert "(20 are needed). What would have been asked: finding from border." in rest
    assert "can be told from what should not tell it" not in rest
    twins = Audit([Finding("twins-across-subjects", "error", "Two.")], {}, facts).as_json({})
    told = audit.first_screen(dataclasses.replace(three, audit=twins))
    assert told is not None
    assert (told["tone"], told["verdict"]) == ("error", "1 error")
    assert told["unasked"].startswith("Shortcuts were not tested: too few")


def test_rates_of_all_or_none_do_not_pretend_certainty(two: ReportContext) -> None:
    stage, learner, outcome = two.stage, two.learner, two.study.primary_outcome
    ones = {**two.figures(stage, learner, outcome), "sensitivity": {"value": 1.0, "low": 1.0, "high": 1.0}}
    sure = dataclasses.replace(two, metrics={**two.metrics, "metrics": {stage: {learner: {outcome: ones}}}})
    number = two.study.classes_of(outcome).index(str(two.study.positive_of(outcome)))
    n = two.chosen.loc[two.chosen["y_true"] == number, "subject"].nunique()
    low = 100 * 0.025 ** (1 / n)  # the closed form where all are right
    said = f"all {n} of {n} subjects: an exact interval would be {low:.0f} to 100 %"
    assert f"(sensitivity, {said})" in summary_classes.missed(sure)
    assert {title: cell.small for title, cell, _ in summary_classes.tiles(sure)}["Sensitivity"] == said
    assert "exact interval" not in summary_classes.missed(two)


def test_temperature_scaling_that_lowers_the_log_loss_alone_is_said_to() -> None:
    def told(ece: float, after: float, loss: float, then: float) -> str:
        pairs = {"ece": ece, "ece_calibrated": after, "log_loss": loss, "log_loss_calibrated": then}
        return classes._scaled({name: {"value": value} for name, value in pairs.items()})

    leaves = "leaves the calibration error at 0.059 and lowers the log loss from 0.430 to 0.400"
    assert told(0.058, 0.059, 0.43, 0.4) == leaves
    assert told(0.05, 0.09, 0.43, 0.4).startswith("raises the calibration error to 0.090 but lowers the log loss")
    assert told(0.09, 0.05, 0.4, 0.43) == "brings it down to 0.050 but raises the log loss from 0.400 to 0.430"
    assert told(0.05, 0.05, 0.4, 0.4) == "does not help (0.050)"


def test_the_audit_section_shows_the_evidence(three: ReportContext, text: str) -> None:
    told = audit.section(three)
    assert told is not None
    assert [one.level for one in told["findings"]] == ["error", "warning", "warning", "note"]
    assert (told["findings"][0].tried, told["findings"][0].figure, told["findings"][0].p) == (
        "finding from the column source",
        "0.91",
        "0.001",
    )
    assert told["findings"][1].tried == "the source from the image, within no finding"
    assert [row.name for row in told["asked"]][1] == "Finding from the border alone (its corners)"
    labels_apart = told["twins"][0]
    assert [cell.text for cell in labels_apart.row.cells] == ["4", "1", "0", "3", "1"]
    assert len(labels_apart.pairs) == 3
    page = Page(text)
    assert "film-0000.png" in page.text
    assert "120 subjects and 150 images were examined in 33 s" in page.text


def test_numbers_have_an_audit_too() -> None:
    found = [Finding("shortcut-site", "warning", "site alone tells brixia.", {"metric": "r", "value": 0.42, "p": 0.01})]
    page = page_of(dataclasses.replace(films(), audit=Audit(found, {"shortcuts": 2.0}).as_json({})))
    assert "Is it the disease?" in page.text
    assert "r = 0.42" in page.text
    assert "Model and physician" in page.text


def test_findings_cannot_break_the_page(three: ReportContext) -> None:
    evil = "<script>alert('x')</script>`<b>`"
    found = [Finding("shortcut-source", "error", evil, remedy=evil)]
    text = render(dataclasses.replace(three, audit=Audit(found).as_json({"shortcut-source": evil})))
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    check_page(text)


def test_the_external_cohort_stands_beside_the_internal_one(three: ReportContext, text: str) -> None:
    told = external.external(three)
    assert told is not None
    page = Page(text)
    assert "Elsewhere: St Elsewhere" in page.text
    by_name = {row.name: row.cells for row in told["rows"]}
    inside, outside = (figures(three, stage)["accuracy"]["value"] for stage in ("test", "external"))
    assert by_name["Accuracy"][0].value == inside
    assert by_name["Accuracy"][2].value == pytest.approx(100 * (outside - inside))
    assert "points" in by_name["Accuracy"][2].text
    bare = dataclasses.replace(three, metrics={k: v for k, v in three.metrics.items() if k != "external_drop"})
    assert external.external(bare)["rows"][0].cells[2].small == ""  # type: ignore[index]
    assert three.stages == ["test", "oof"]


def test_a_drop_is_called_one_only_beyond_chance(three: ReportContext) -> None:
    def told(low: float, high: float, *, rough: bool = False) -> str:
        inside, outside = (figures(three, stage)["auroc"]["value"] for stage in ("test", "external"))
        drop = {three.learner: {"auroc": {"difference": outside - inside, "low": low, "high": high, "rough": rough}}}
        return external.sentence(dataclasses.replace(three, metrics={**three.metrics, "external_drop": drop}))

    assert figures(three)["auroc"]["value"] > figures(three, "external")["auroc"]["value"]
    assert "worse outside, and not by chance" in told(-0.2, -0.01)
    assert "a drop is not shown" in told(-0.2, 0.01)
    assert "fewer than ten subjects" in told(-0.2, -0.01, rough=True)


def test_each_source_left_out_has_its_line(three: ReportContext, tmp_path: Path) -> None:
    undefined = {"value": None, "low": None, "high": None, "n_cases": 40, "reason": "no case is truly covid"}
    by_source = {
        "cohen": {three.learner: {"accuracy": {"value": 0.61, "low": 0.5, "high": 0.7, "n_cases": 45}}},
        "nih": {
            three.learner: {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n_cases": 40}, "auroc": undefined}
        },
    }
    material = dataclasses.replace(three, metrics={**three.metrics, "left_out": by_source})
    page = page_of(material)
    assert "Each source left out" in page.text
    assert "nih 40 70.0 % [60.0, 80.0] – no case is truly covid" in page.text
    text = write_results(finished(material, tmp_path / "run"), tmp_path / "page.md").read_text()
    assert f"| cohen | {three.learner} | 45 | 0.610 [0.500, 0.700] |" in text


def test_the_external_test_stands_in_plain_words_and_among_the_tiles(
    three: ReportContext, two: ReportContext, text: str
) -> None:
    inside, outside = (figures(three, stage)["auroc"]["value"] for stage in ("test", "external"))
    plain = Page(text.split("<h2>In plain words</h2>")[1].split("</section>")[0]).text
    assert "Elsewhere. On St Elsewhere (" in plain
    assert f"from which nothing was learned) the AUROC is {outside:.2f}, against {inside:.2f} on the test set" in plain
    assert "interval" in external.plain_words(three)[0][1]
    assert f"External {outside:.3f} AUROC" in plain
    assert external.plain_words(two) == [] == external.tiles(two)


def test_external_without_truth_says_so(three: ReportContext) -> None:
    metrics = {**three.metrics, "metrics": {s: m for s, m in three.metrics["metrics"].items() if s != "external"}}
    page = page_of(dataclasses.replace(three, metrics={**metrics, "external_drop": {}}))
    assert "nothing recorded there lets its predictions be judged" in page.text
    assert "Elsewhere. Nothing recorded on St Elsewhere lets its predictions be judged." in page.text
    assert "External 0" not in page.text


def test_confident_errors_are_wrong_and_the_surest_first(three: ReportContext) -> None:
    told = confident.confident_errors(three)
    assert told is not None
    rows = three.chosen
    wrong = rows[rows["y_true"] != rows["y_pred"]]
    assert told["wrong"] == len(wrong)
    surest = max(row[f"p{int(row['y_pred'])}"] for _, row in wrong.iterrows())
    assert told["cases"][0].probability in (f"{100 * surest:.0f} %", "> 99 %")
    assert all(case.truth != case.named and case.panels for case in told["cases"])
    right = dataclasses.replace(three, predictions=three.predictions.assign(y_pred=lambda t: t["y_true"]))
    assert confident.confident_errors(right) is None
    assert "Confident errors" not in page_of(right).text


def test_recorded_classes_are_counted_by_side_and_source(three: ReportContext) -> None:
    told = labels.counted_classes(three)
    assert told["sides"].names == ["covid", "no finding", "pneumonia"]
    assert [row[0] for row in told["sides"].rows] == [*(f"fold {i}" for i in range(1, 6)), "test", "all"]
    assert sum(row[1] for row in told["sides"].rows[:-1]) == told["sides"].rows[-1][1] == 150
    counts = three.cohort_images.groupby(["source", "finding"]).size()
    assert told["sources"].rows[0][2][0][0] == counts[("cohen", 0.0)]
    assert "all of covid comes from cohen" in told["told"]
    held_out = dataclasses.replace(three, splits={**three.splits, "left_out": list("vwxyz")})
    assert labels.counted_classes(held_out)["sides"].rows[0][0] == "fold 1 (v)"
    for name in (*SOURCES, "Data Set"):
        renamed = dataclasses.replace(three, cohort_images=three.cohort_images.rename(columns={"source": name}))
        assert labels.source_column(renamed) == name
    plain = dataclasses.replace(three, cohort_images=three.cohort_images.drop(columns=["source", "finding"]))
    assert labels.counted_classes(plain)["sources"] is None
    assert labels.counted_classes(plain)["sides"].rows[-1][1] == 150


def test_the_finder_and_the_stages_are_told(three: ReportContext) -> None:
    told = rates.finders(three)
    assert told is not None
    assert len(told["figures"]) == 3
    assert dict(told["chosen"])["resnet101"] == "1e-4 to 2.4e-4"
    assert all(figure.count("1e-") >= 2 for figure in told["figures"])
    (sentence,) = rates.stages(three)
    assert sentence == (
        "resnet101: the stopping loss reached 0.800 with the head alone, 0.700 with 1 group, 0.600 with 2 groups and "
        "0.500 with 3 groups (3 of 5 networks)."
    )
    given = dataclasses.replace(three, jobs=[{**job, "finder": None, "stages": []} for job in three.jobs])
    assert rates.finders(given) is None
    assert rates.stages(given) == []
    assert "How the learning rate was found" not in page_of(given).text


def test_a_finder_that_diverges_is_drawn(three: ReportContext) -> None:
    jobs = [
        {**job, "finder": {**job["finder"], "losses": [*job["finder"]["losses"][:-2], None, 1e12]}}
        for job in three.jobs
    ]
    assert rates.finders(dataclasses.replace(three, jobs=jobs)) is not None


def test_missing_parts_are_left_out_not_stumbled_over(three: ReportContext, grades: ReportContext) -> None:
    for material in (three, grades):
        bare = dataclasses.replace(
            material, metrics={}, jobs=[], splits={}, notes=[], environment={}, audit=None, photograph=lambda n: None
        )
        page = page_of(bare)
        assert "All learners" not in page.text
        assert "the model names the recorded class in" in page.text


def test_undefined_figures_say_why(three: ReportContext) -> None:
    changed = {**figures(three)}
    changed["auroc[covid]"] = {"value": None, "low": None, "high": None, "reason": "no case is truly covid"}
    stage, learner, outcome = three.stage, three.learner, three.study.primary_outcome
    others = {**three.metrics["metrics"][stage], learner: {outcome: changed}}
    metrics = {**three.metrics, "metrics": {**three.metrics["metrics"], stage: others}}
    assert "no case is truly covid" in page_of(dataclasses.replace(three, metrics=metrics)).text


def test_outcome_without_any_truth(three: ReportContext) -> None:
    page = page_of(dataclasses.replace(three, predictions=three.predictions.assign(y_true=np.nan), metrics={}))
    assert "nothing can be judged" in page.text


def test_names_cannot_break_the_page() -> None:
    target = {"kind": "classification", "classes": ["<i>a</i>", 'b"&{{x}}', "c$_1"]}
    text = render(toy(subjects=40, networks=1, targets={"<b>what</b>": target}))
    assert "<i>a</i>" not in text
    assert "<b>what" not in text
    check_page(text)


def test_same_material_gives_the_same_bytes(three: ReportContext, text: str, tmp_path: Path) -> None:
    assert write_report(three, tmp_path / "report.html").read_text() == text


def test_few_subjects_and_unknown_subjects_are_said_first() -> None:
    material = toy(subjects=60, test=6, networks=1, subjects_known=False)
    heads = " ".join(banner.head for banner in words.banners(material))
    assert "It is not known which images belong to the same person" in heads
    assert "Only 6 subjects in the test set" in heads
    assert "whose they are is not known" in page_of(material).text


def finished(material: ReportContext, folder: Path, **changes: Any) -> Path:
    """A run folder with what the page of results is made from."""
    folder.mkdir()
    parts: dict[str, Any] = {
        "study": material.study.model_dump(mode="json"),
        "metrics": material.metrics,
        "splits": {"folds": 5, **material.splits},
        "audit": material.audit,
    }
    for name, value in parts.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps({**value, **changes.get(name, {})}))
    for job in material.jobs:
        place = folder / "jobs" / job["model"] / f"fold{job['fold']}"
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps(job))
    return folder


def test_results_page_of_classes(three: ReportContext, tmp_path: Path) -> None:
    reference = {"finding": {"published, other mixtures": {"accuracy": 0.9032, "auroc": 0.9966, "precision": 0.9}}}
    evaluation = three.study.evaluation.model_copy(update={"references": reference})
    run = finished(
        dataclasses.replace(three, study=three.study.model_copy(update={"evaluation": evaluation})), tmp_path / "a"
    )
    text = write_results(run, tmp_path / "a.md").read_text()
    head = "| learner | cases | accuracy | balanced accuracy | AUROC | AUPRC | F1 | precision | log loss | ECE |"
    assert head in text
    assert "| *published, other mixtures* | – | 0.903 | – | 0.997 | – | – | 0.900 | – | – |" in text
    found = figures(three)
    entry = found["auroc"]
    assert f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in text
    row = three.classed("test", three.learner)["confusion"][0]
    assert f"| covid | {row[0]} ({row[0] / sum(row):.0%})" in text
    assert f"### {three.learner}: class by class" in text
    assert "## Audit\n\n1 error and 2 warnings:" in text
    assert f"*Accepted by the study:* {REASON}" in text
    assert "## Elsewhere: St Elsewhere" in text
    assert "Thresholds were chosen out of fold." in text
    assert "All parameters were trained; nothing was done about classes of different size." in text
    assert "| torchvision, IMAGENET1K_V1 | 1e-4 to 2.4e-4 |" in text
    assert all(line.count("|") == head.count("|") for line in text.splitlines() if line.startswith("| *published"))


def test_results_page_of_two_classes_of_grades_and_without_audit(
    two: ReportContext, grades: ReportContext, tmp_path: Path
) -> None:
    text = write_results(
        finished(dataclasses.replace(two, audit=None), tmp_path / "two"), tmp_path / "two.md"
    ).read_text()
    assert "| F1 | sensitivity | specificity | log loss | ECE |" in text
    assert "## Audit" not in text
    assert "## Elsewhere" not in text
    assert "| class | cases |" in text
    study = two.study.model_dump(mode="json")
    by_image = {name: told | {"level": "image"} for name, told in study["targets"].items()}
    single = finished(two, tmp_path / "single", study={"targets": by_image, "name": "single"})
    page = write_results(single, tmp_path / "single.md").read_text()
    assert "| class | images |" in page
    assert "| learner | images |" in page
    page = write_results(single, tmp_path / "both.md", beside=[tmp_path / "two"]).read_text()
    judged = sum(two.classed(two.stage, two.learner)["support"])
    assert "| learner | judged |" in page
    assert f"| {two.learner} | {judged} images |" in page
    assert f"| {two.learner} ({two.study.name}) | {judged} cases |" in page
    splits = {"how": "leave out source", "folds": 2}
    text = write_results(finished(grades, tmp_path / "g", splits=splits), tmp_path / "g.md").read_text()
    assert "| F1 | weighted kappa | log loss | ECE |" in text
    assert "2 folds, each one source held out" in text
    assert "never saw any of its source" in text
    assert "| retinopathy" not in text
    assert "## retinopathy" in text


if __name__ == "__main__":  # to look at the variants: python -m tests.test_report_classes FOLDER
    import sys

    folder = Path(sys.argv[1])
    write_report(toy(test=30, outside=60, networks=8, synthetic=True), folder / "three.html")
    write_report(toy("binary", networks=2), folder / "two.html")
    write_report(toy("ordinal", test=25, networks=3, subjects_known=False), folder / "grades.html")


def guessing(material: ReportContext, bad: list[str], *, folds: int = 5) -> ReportContext:
    """The same run, but the networks of these backbones (of the first folds) never beat guessing."""
    jobs = [
        job | ({"guess_loss": 0.01} if job["model"] in bad and job["fold"] <= folds else {"guess_loss": 2.0})
        for job in material.jobs
    ]
    return dataclasses.replace(material, jobs=jobs)


def test_networks_that_learned_nothing_are_said_first_and_mark_the_figures(three: ReportContext) -> None:
    alone = toy(networks=1)
    hopeless = guessing(alone, [alone.learner])
    after = render(hopeless).split("<h2>In plain words</h2>")[1].lstrip()
    assert after.startswith(
        f'<p class="unlearned" role="note">5 of 5 networks of {alone.learner}, the model shown here, never'
    )
    assert after.count('<dd class="mark">learned nothing</dd>') == 4
    check_page(render(hopeless))
    some = words.unlearned(guessing(alone, [alone.learner], folds=3))
    assert some is not None
    assert some.mark == "3 of 5 networks learned nothing"
    assert words.unlearned(guessing(alone, [alone.learner], folds=2)) is None
    assert words.unlearned(guessing(alone, [])) is None
    assert "unlearned" not in render(guessing(alone, [])).split("</style>")[1]


def test_a_combined_learner_learned_nothing_where_most_networks_did_not(three: ReportContext) -> None:
    shown = dataclasses.replace(
        three, metrics=three.metrics | {"main": three.metrics["main"] | {"learner": "mean_of_learners"}}
    )
    told = words.unlearned(guessing(shown, list(shown.study.backbones[:2])))
    assert told is not None
    assert told.sentence.startswith("10 of 15 networks, of which mean_of_learners is made, never did better")
    assert told.mark == "10 of 15 networks learned nothing"
    assert words.unlearned(guessing(shown, shown.study.backbones[:1])) is None
    single = dataclasses.replace(
        three, metrics=three.metrics | {"main": three.metrics["main"] | {"learner": three.study.backbones[0]}}
    )
    told = words.unlearned(guessing(single, list(three.study.backbones[1:])))
    assert told is not None
    assert told.mark == ""


def test_single_images_are_shown_in_one_grid(three: ReportContext) -> None:
    text = render(three)
    seen = text.split('id="preparation"')[1].split("</section>")[0]
    assert 'class="pairs"' in seen
    assert 'class="prepared"' not in seen
    assert seen.count("<figure>") == seen.count('alt="Tile') == seen.count('alt="Image')


def test_without_a_description_the_title_is_followed_by_what_was_predicted() -> None:
    header = render(toy(networks=1, description="")).split("<header>")[1].split("</header>")[0]
    assert header.count('<p class="lead">') == 1
    assert re.search(r"</h1>\s*<p class=\"lead\">\S", header)
