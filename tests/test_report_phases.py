"""The report of networks trained in phases, and of a study that was split by image as well: tables, curves, words."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.report.context import ReportContext
from casewise.report.figures import learners as figures_learners
from casewise.report.markdown import training as results_training
from casewise.report.markdown.page import write_results
from casewise.report.page import render
from casewise.report.sections import image_split as claimed
from casewise.report.sections import phases
from tests import test_report as numbers
from tests.test_report import Page, check_page
from tests.test_report_classes import toy

FREEZE = ("all", "11 blocks")
SIZES = {
    "all": {"frozen": 2_223_872, "trainable": 1_281, "running_statistics": 34_112, "last_frozen": "body"},
    "11 blocks": {
        "frozen": 298_432,
        "trainable": 1_926_721,
        "running_statistics": 34_112,
        "last_frozen": "features.11",
    },
}
RECIPE = {
    "lr": 0.001,
    "schedule": "constant",
    "phases": [{"epochs": 60, "freeze": "all"}, {"epochs": 15, "freeze": "11 blocks", "lr": 1e-5}],
}


def history(fold: int, *, stop: bool) -> list[dict[str, Any]]:
    random, found = np.random.default_rng(fold), []
    for epoch in range(75):
        late = max(0, epoch - 59)
        loss = 0.15 + 0.5 * np.exp(-epoch / 20) - 0.1 * (1 - np.exp(-late / 4))
        entry = {"epoch": epoch, "train_loss": loss, "stop_loss": loss + 0.08, "lr": 0.001, "phase": int(epoch > 59)}
        entry |= {"train_accuracy": float(np.clip(1 - 0.6 * loss + random.normal(0, 0.01), 0, 1))}
        found.append(entry | ({"stop_accuracy": float(np.clip(0.95 - 0.6 * loss, 0, 1))} if stop else {}))
    return found


def in_phases(material: ReportContext, *, stop: str = "inner") -> ReportContext:
    """The material as it would be had its networks been trained in two phases."""
    study = material.study
    recipe = {**RECIPE, "early_stopping": {"monitor": stop}}
    study = type(study).model_validate({**study.model_dump(), "recipe": recipe})
    names = study.classes_of(study.primary_outcome)
    jobs = copy.deepcopy(material.jobs)
    for job in jobs:
        fold = job["fold"]
        each = [
            {
                "freeze": freeze,
                **SIZES[freeze],
                "way": "what frozen layers make of a panel computed once" if freeze == "all" else "all at every step",
                "epochs": 60 if freeze == "all" else 15,
                "rows": 400 + fold,
                "seconds": 10.0 * fold,
                "core_seconds": 20.0 * fold,
                "continued": freeze == "all" and fold == 2,
            }
            for freeze in FREEZE
        ]
        job |= {"phases": each, "history": history(fold, stop=stop != "none"), "epochs": 75, "best_epoch": 75}
        job |= {"stages": [], "finder": None, "stopped_on": stop}
        if names:
            right = np.eye(len(names), dtype=int) * 50
            right[0, 1] = fold
            n = int(right.sum())
            seen = {"accuracy": 50 * len(names) / n, "n": n, "confusion": right.tolist()}
            both = {"sensitivity": 50 / (50 + fold), "specificity": 1.0} if len(names) == 2 else {}
            job["on_training"] = {"sensitivity": None, "specificity": None, **seen, **both}
            if stop != "none":
                job["on_inner"] = {**job["on_training"], "accuracy": 0.8, "n": 20}
    return dataclasses.replace(material, study=study, jobs=jobs)


def split_by_image(material: ReportContext, value: float, metric: str = "accuracy") -> ReportContext:
    """The material with what a split by image would have claimed of every learner."""
    outcome, stage = material.study.primary_outcome, material.stage
    found: dict[str, Any] = {}
    for learner in material.learners:
        figures = copy.deepcopy(material.figures(stage, learner, outcome))
        for name, figure in figures.items():
            if figure.get("value") is not None and name in ("auroc", "sensitivity", "specificity", metric):
                figure |= {"value": value, "low": value - 0.02, "high": value + 0.01}
        found[learner] = {outcome: figures}
    told = {
        "metrics": {stage: found},
        "main": {"target": outcome, "stage": stage, "learner": material.learner, "kind": material.kind},
        "subjects_on_both_sides": 118,
        "subjects_with_several_images": 118,
        "subjects": 120,
        "images": 1888,
    }
    return dataclasses.replace(material, metrics={**material.metrics, "claimed": told})


def with_figure(material: ReportContext, metric: str, low: float, value: float, high: float) -> ReportContext:
    metrics = copy.deepcopy(material.metrics)
    metrics["metrics"][material.stage][material.learner][material.study.primary_outcome][metric] |= {
        "value": value,
        "low": low,
        "high": high,
    }
    return dataclasses.replace(material, metrics=metrics)


@pytest.fixture(scope="module")
def plain() -> ReportContext:
    return toy("binary", test=30, networks=2)


@pytest.fixture(scope="module")
def two(plain: ReportContext) -> ReportContext:
    return split_by_image(in_phases(plain), 0.985)


@pytest.fixture(scope="module")
def page(two: ReportContext) -> Page:
    return check_page(render(two))


def test_every_phase_has_its_sizes_and_its_cost(page: Page, two: ReportContext) -> None:
    found = phases.phases_of(two.jobs, two.study.recipe.model_dump(mode="json"))
    assert list(found) == two.study.backbones
    head, upper = found[two.study.backbones[0]]
    assert (head.total, head.frozen, head.trainable, head.running) == (2_259_265, 2_223_872, 1_281, 34_112)
    assert upper.frozen + upper.trainable == head.frozen + head.trainable
    assert (head.seconds, head.core_seconds, head.rows) == (30.0, 60.0, 403.0)  # means over five folds
    assert (head.rate, upper.rate) == ("0.001", "1e-5")
    assert (head.continued, upper.continued) == (1, 0)
    for text in ("1. head alone learns", "2. 11 blocks frozen", "to features.11", "2,259,265", "34,112", "60.0"):
        assert text in page.text
    assert "what frozen layers make of a panel computed once" in page.text
    assert "Running statistics are the means and variances" in page.text
    assert "Keras counts them among the parameters that are not trainable" in page.text
    assert "Up to 1 of the 5 networks of a kind were continued" in page.text
    assert "trained in phases, one after another" in page.text


def test_those_learned_from_stand_beside_others(page: Page, two: ReportContext) -> None:
    told = phases.beside(two)
    assert told is not None
    assert told["heads"] == ["Network", "Judged on", "n", "Accuracy", "Sensitivity", "Specificity"]
    rows = told["rows"][:4]
    network = rows[0].name
    assert [row.cells[0].text for row in rows] == [*phases.SEEN.values(), *phases.UNSEEN.values()]
    shares = [100 / (100 + fold) for fold in range(1, 6)]
    assert rows[0].cells[2].value == pytest.approx(np.mean(shares))
    assert rows[0].cells[2].small == f"[{100 * min(shares):.1f}, {100 * max(shares):.1f}]"
    test = two.figures("test", network, two.study.primary_outcome)["accuracy"]
    assert rows[3].cells[2].value == pytest.approx(test["value"])
    assert rows[3].cells[1].text == str(sum(two.classed("test", network)["support"]))
    caption = page.text[page.text.index("On what was learned from, and on others") :]
    caption = caption.removeprefix("On what was learned from, and on others").strip()
    assert caption.startswith("Figures on what was learned from say nothing about new patients")
    matrix = phases.seen(two.jobs)[network]["on_training"]["confusion"]
    assert matrix == [[250, 15], [0, 250]]


def test_more_classes_have_accuracy_alone() -> None:
    material = in_phases(toy(networks=1), stop="none")
    told = phases.beside(material)
    assert told is not None
    assert told["heads"][-1] == "Accuracy"
    assert [row.cells[0].text for row in told["rows"]] == ["what it learned from", "others, out of fold"]
    text = check_page(render(material)).text
    assert "the network of the last epoch is kept" in text
    assert "what it learned from" in text


def test_numbers_have_phases_and_no_accuracy() -> None:
    material = in_phases(numbers.films())
    for job in material.jobs:
        job["history"] = [{k: v for k, v in e.items() if "accuracy" not in k} for e in job["history"]]
    assert phases.section(material) is not None
    assert phases.beside(material) is None
    text = check_page(render(material)).text
    assert "Phases of training" in text
    assert "how often the class was right" not in text


def curve(material: ReportContext) -> str:
    jobs = [job for job in material.jobs if job["model"] == material.study.backbones[0]]
    return str(figures_learners.training("net", jobs, name="a", alt="x"))


def test_curves_mark_the_phases_and_show_accuracy(two: ReportContext, plain: ReportContext) -> None:
    with_both, before = curve(two), curve(plain)
    for text in (">loss<", ">accuracy<", ">head alone learns<", ">11 blocks frozen<", ">80 %<"):
        assert text in with_both
        assert text not in before
    assert with_both.count("stroke-dasharray") == 2  # one change of phase, in both panels
    assert "stroke-dasharray" not in before
    alone = curve(in_phases(plain, stop="none"))
    assert figures_learners.MODEL not in alone  # nobody decided when to stop
    assert figures_learners.ACCENT not in alone


def test_labels_of_many_phases_do_not_overlap(two: ReportContext) -> None:
    job = copy.deepcopy(two.jobs[0])
    for place, entry in enumerate(job["history"]):
        entry["phase"] = min(place // 4, 3)
    job["phases"] = [{"freeze": freeze} for freeze in ("all", "30%", "11 blocks", "none")]
    labels = figures_learners._phase_labels([job], (1.0, 75.0))
    assert [text for _, text, _ in labels] == [
        "head alone learns",
        "30% frozen",
        "11 blocks frozen",
        "nothing frozen",
    ]
    for line in {line for *_, line in labels}:
        own = sorted((at, at + 4.9 * len(text)) for at, text, where in labels if where == line)
        assert all(one[1] < other[0] for one, other in pairwise(own))
    figures_learners.training("net", [job], name="a", alt="x")


def test_the_claim_stands_beside_the_figures_by_subject(page: Page, two: ReportContext) -> None:
    text = page.text
    section = text[text.index("What the published way of splitting would have claimed") :]
    own = two.metric(two.stage, two.learner, "accuracy")
    assert own is not None
    assert f"Split by image, {two.learner} would have claimed an accuracy of 98 %" in section
    assert f"split by subject it is {100 * own['value']:.0f} %" in section
    assert "Which to believe. The figures by subject" in section
    assert "118 of 120 subjects stand on both sides" in section
    assert f"{100 * own['value']:.1f} %" in section
    assert "98.5 % [96.5, 99.5]" in section
    assert "Split by image" in text  # in the contents


def test_where_nothing_is_shown_for_new_patients_the_report_says_so(two: ReportContext) -> None:
    assert "not shown" not in claimed.believe(two)
    nothing = with_figure(two, "auroc", 0.36, 0.48, 0.61)
    told = claimed.believe(nothing)
    assert "the interval of the AUROC (0.36 to 0.61) covers what guessing gives (0.5)" in told
    assert "holds for a new patient is not shown" in told
    below = claimed.believe(with_figure(two, "auroc", 0.1, 0.25, 0.4))
    assert "the interval of the AUROC (0.10 to 0.40) does not exceed what guessing gives (0.5)" in below
    assert "holds for a new patient is not shown" in below
    assert "about the same" in claimed.believe(with_figure(two, "auroc", 0.9, 0.97, 0.99))
    assert "about the same" not in claimed.believe(with_figure(two, "auroc", 0.7, 0.8, 0.9))


def varied(material: ReportContext) -> ReportContext:
    """The material as it would be had one subject's visits differ in what was recorded."""
    rows = material.predictions.copy()
    case = rows.loc[rows["visit"] == "2", "case"].iloc[0]
    rows.loc[rows["case"] == case, "y_true"] = 1 - rows.loc[rows["case"] == case, "y_true"]
    return dataclasses.replace(material, predictions=rows)


def test_to_know_a_subject_is_enough_only_where_nothing_varies_within(two: ReportContext, tmp_path: Path) -> None:
    for name, material, words in (("same", two, "is enough"), ("varied", varied(two), "helps")):
        assert f"to know a subject again {words} to be right" in claimed.believe(material)
        (tmp_path / name / "run").mkdir(parents=True)
        material.predictions.to_parquet(tmp_path / name / "run" / "predictions.parquet")
        assert f"to know a subject again {words} to be right" in written(material, tmp_path / name)
    assert "helps to be right" in written(two, tmp_path / "gone")  # nothing is there to say that it is enough


def test_the_page_says_what_is_judged_on_either_side(two: ReportContext, tmp_path: Path) -> None:
    told = "By subject a case is judged as a whole; by image each of 1,888 images is"
    assert told in written(two, tmp_path / "cases")
    outcome = two.study.primary_outcome
    targets = {outcome: two.study.targets[outcome].model_copy(update={"level": "image"})}
    single = dataclasses.replace(two, study=two.study.model_copy(update={"targets": targets}))
    assert "judged as a whole" not in written(single, tmp_path / "images")


def test_the_claim_of_numbers() -> None:
    material = split_by_image(numbers.films(), 0.4, "mae")
    section = claimed.section(material)
    assert section is not None
    assert section["heads"] == ["Learner", "Split by", "MAE", "CCC", "PCC"]
    assert [row.cells[0].text for row in section["rows"]] == ["subject", "image"]
    assert "would have claimed a mean error of 0.4 points" in section["claim"]
    assert "What the published way" in check_page(render(material)).text


def test_runs_of_before_have_none_of_it(plain: ReportContext, tmp_path: Path) -> None:
    text = check_page(render(plain)).text
    for strange in ("Phases of training", "On what was learned from", "published way of splitting", "next phase"):
        assert strange not in text
    assert claimed.section(plain) is None
    before = written(plain, tmp_path)
    for strange in ("## Phases", "## On what was learned", "published way"):
        assert strange not in before


def written(material: ReportContext, folder: Path) -> str:
    """The Markdown page of a run with this material."""
    run = folder / "run"
    for name, told in (
        ("study", material.study.model_dump(mode="json")),
        ("metrics", material.metrics),
        ("splits", material.splits),
    ):
        run.mkdir(parents=True, exist_ok=True)
        (run / f"{name}.json").write_text(json.dumps(told))
    for job in material.jobs:
        place = run / "jobs" / job["model"] / f"fold{job['fold']}"
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps(job))
    return write_results(run, folder / "page.md").read_text()


def test_the_page_of_results_has_the_same_tables(two: ReportContext, tmp_path: Path) -> None:
    text = written(two, tmp_path)
    network = two.study.backbones[0]
    assert f"| toy-binary | {network} | 1. head alone learns | 2,259,265 | 2,223,872 | 1,281 | 34,112 | 0.001 |" in text
    assert f"| {network} | what it learned from | 103 | 0.971 [0.952, 0.990] | 0.944" in text
    own = two.figures("test", network, two.study.primary_outcome)["accuracy"]["value"]
    assert f"| {network} | subject | {own:.3f} [" in text
    assert f"| {network} | image | 0.985 [0.965, 0.995] |" in text
    assert "Believe the figures by subject. In the split by image 118 of 120 subjects" in text
    assert "Training went through 2 phases" in text
    assert "Of networks continued after a stop" in text
    none = dataclasses.replace(in_phases(two, stop="none"))
    assert "trained for 75 epochs on all its training folds" in written(none, tmp_path / "none")
    assert results_training.of_phases([]) == []


def test_networks_never_asked_about_what_they_learned_from_are_named(two: ReportContext, tmp_path: Path) -> None:
    assert "Not worked out for" not in written(two, tmp_path)
    first, plain = tmp_path / "run", tmp_path / "plain"
    shutil.copytree(first, plain)
    study = json.loads((plain / "study.json").read_text())
    (plain / "study.json").write_text(json.dumps(study | {"name": "plain", "recipe": study["recipe"] | {"phases": []}}))
    for path in plain.glob("jobs/*/*/job.json"):
        job = json.loads(path.read_text())
        path.write_text(json.dumps({name: job[name] for name in job if not name.startswith(("on_", "phases"))}))
    text = write_results(first, tmp_path / "both.md", beside=[plain]).read_text()
    names = ", ".join(f"{name} (plain)" for name in sorted(two.study.backbones))
    assert f"Not worked out for {names}: only studies in phases look at what was learned from once more." in text
    assert "plain: training stopped" in text
