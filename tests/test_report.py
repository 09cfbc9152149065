"""The report: well-formed, self-contained, true to metrics.json, safe against names, the same for the same material."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.predictions.table import COLUMNS
from casewise.report import formatting as wording
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.report.figures import agreement as figures_agreement
from casewise.report.figures import cohort as figures_cohort
from casewise.report.figures import time as figures_time
from casewise.report.figures.drawing import canvas, svg
from casewise.report.figures.pictures import grid_picture
from casewise.report.markdown.page import _figure, write_results
from casewise.report.page import render, write_report
from casewise.report.sections import summary, tables
from casewise.report.sections import terminology as words
from casewise.report.sections.failures import failures, parts_of, weakest_region
from casewise.study.schema import EarlyStopping, Study

BACKBONES = [f"net{i:02d}" for i in range(29)]
METAS = ["meta_learner", "meta_learner_w_intercept", "meta_learner_ridge", "meta_learner_ridge_w_intercept"]
TARGETS = {"erythema": (0, 4), "induration": (0, 4), "scaling": (0, 4), "area": (0, 6)}
WEIGHTS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4}
PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2}


def study_of(**changes: Any) -> Study:
    """A study like One-Step PASI."""
    values: dict[str, Any] = {
        "name": "toy",
        "title": "One-Step PASI",
        "cohort": "visits.csv",
        "synthetic": True,
        "regions": list(WEIGHTS),
        "images": {"size": 64},
        "panels": {"by": "region", "grid": "2x2", "shuffle": True},
        "targets": {name: {"range": scale, "integer": True} for name, scale in TARGETS.items()},
        "scores": {
            "composite": {"formula": "(erythema+induration+scaling)*area", "range": (0, 72), "level": "region"},
            "pasi": {
                "formula": "0.2*composite[upper]+0.3*composite[trunk]+0.4*composite[lower]",
                "range": (0, 64.8),
            },
        },
        "backbones": BACKBONES[:3],
        "evaluation": {"bands": {"clear": 0, "mild": 1, "moderate-to-severe": 10}},
    }
    return Study.model_validate(values | changes)


def tile(number: int, size: int = 64, channels: int = 3) -> np.ndarray:
    """A skin-coloured tile with red blobs."""
    random = np.random.default_rng(number)
    yy, xx = np.mgrid[:size, :size] / size
    skin = np.array([222, 184, 158])[:, None, None] * (0.75 + 0.25 * np.exp(-(((xx - 0.5) / 0.35) ** 2)))
    for _ in range(4):
        x, y, r = random.uniform([0.2, 0.2, 0.04], [0.8, 0.8, 0.12])
        inside = (xx - x) ** 2 + (yy - y) ** 2 < r**2
        skin = np.where(inside, np.array([190, 84, 76])[:, None, None], skin)
    skin = skin + random.normal(0, 3, skin.shape)
    skin[:, :, : size // 6] = skin[:, :, -size // 6 :] = 0
    return np.clip(skin, 0, 255).astype(np.uint8)[:channels]


def toy(
    *,
    subjects: int = 12,
    visits: int = 6,
    learners: int = 3,
    metas: int = 0,
    test: int = 3,
    names: str = "S{:03d}",
    resamples: int = 50,
    **changes: Any,
) -> ReportContext:
    """Material of a made-up study: subjects improve over the visits, learners differ in noise."""
    from casewise.cohort.labels import study_scores
    from casewise.evaluation.results import evaluate
    from casewise.predictions.scores import apply_scores

    study = study_of(backbones=BACKBONES[:learners], **changes)
    random = np.random.default_rng(1)
    people = [names.format(i) for i in range(subjects)]
    rows, panels, images = [], [], []
    for p, subject in enumerate(people):
        start, speed = random.uniform(0.35, 1.0), random.uniform(0.1, 0.7)
        for v in range(visits):
            day = float([0, 7, 28, 56, 84, 112, 140, 168][v])
            case = f"{subject}/week {day / 7:g}"
            for region in study.regions:
                severity = float(np.clip(start * np.exp(-speed * v) + random.normal(0, 0.08), 0, 1))
                truth = {
                    n: float(np.clip(np.rint(severity * top + random.normal(0, 0.4)), 0, top))
                    for n, (_, top) in TARGETS.items()
                }
                tiles = []
                for _ in range(PHOTOGRAPHS[region]):
                    tiles.append(len(images))
                    images.append(
                        {
                            "image": len(images),
                            "path": f"{case}/{len(images)}.jpg",
                            "subject": subject,
                            "visit": f"week {day / 7:g}",
                            "case": case,
                            "day": day,
                            "region": region,
                            "panel": len(panels),
                        }
                    )
                panels.append(
                    {
                        "panel": len(panels),
                        "case": case,
                        "subject": subject,
                        "visit": f"week {day / 7:g}",
                        "day": day,
                        "region": region,
                        "tiles": tiles,
                        **truth,
                    }
                )
                rows.append((p, case, subject, f"week {day / 7:g}", day, region, truth))
    parts = []
    known = [*study.backbones, *METAS[:metas]]
    sides: dict[str, Any] = {s: "test" if i < test else i % 5 + 1 for i, s in enumerate(people)}
    for k, learner in enumerate(known):
        noise = 0.35 + 0.03 * ((k * 7) % 11)
        leaning = random.normal(0, 0.45, subjects)
        for p, case, subject, visit, day, region, truth in rows:
            for name, value in truth.items():
                top = TARGETS[name][1]
                guess = float(
                    np.clip(0.25 + 0.82 * value + leaning[p] * (0.3 + value / top) + random.normal(0, noise), 0, top)
                )
                fold = None if sides[subject] == "test" else sides[subject]
                parts.append(
                    (
                        case,
                        subject,
                        visit,
                        day,
                        region,
                        "",
                        learner,
                        "test" if fold is None else "oof",
                        fold,
                        None,
                        name,
                        value,
                        guess,
                        "regression",
                    )
                )
    predictions = pd.DataFrame(parts, columns=list(COLUMNS)).astype({"outer_fold": "Int64", "inner_fold": "Int64"})
    predictions = apply_scores(predictions, study_scores(study))
    metrics = evaluate(
        predictions, main=study.primary_outcome, resamples=resamples, bands=study.evaluation.bands or None
    )
    images_table, panels_table = pd.DataFrame(images), pd.DataFrame(panels)
    return ReportContext(
        study=study,
        cohort_images=images_table,
        panels=panels_table,
        cases=panels_table.drop_duplicates("case")[["case", "subject", "visit", "day"]].reset_index(drop=True),
        notes=["Two photographs could not be read and were left out.", *sentences(metrics["notes"])],
        splits=splits_of(study, sides),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        stackers={
            meta: {n: {"weights": dict.fromkeys(study.backbones, 0.25), "intercept": -0.5} for n in TARGETS}
            for meta in METAS[:metas]
        },
        tiles=lambda numbers: np.stack([tile(n) for n in numbers]),
        photograph=lambda n: np.ascontiguousarray(tile(n, 120).transpose(1, 2, 0)),
        environment={
            "casewise": "0.1.0",
            "python": "3.11",
            "torch": "2",
            "processor": "a processor",
            "cores": 2,
            "date": "2026-01-01",
            "command": "casewise run toy.yaml",
            "seconds": 4321.0,
        },
    )


def splits_of(study: Study, sides: dict[str, Any]) -> dict[str, Any]:
    """A manifest as `casewise.splits.grouped.write_splits` leaves it."""
    tested = [s for s, side in sides.items() if side == "test"]
    n = {"test": {"subjects": len(tested), "cases": 6 * len(tested), "panels": 18 * len(tested)}}
    n |= {
        f"fold {f}": {"subjects": sum(side == f for side in sides.values()), "cases": 9, "panels": 27}
        for f in range(1, 6)
    }
    shares = {name: 0.01 * (i + 1) for i, name in enumerate(study.targets)}
    return {
        "hash": "ab" * 32,
        "subjects": sides,
        "n": n,
        "balance": list(study.targets)[-1],
        "restarts": 1000,
        "imbalance": {"test": shares if tested else {}, "folds": shares},
        "settings": {},
    }


def jobs_of(study: Study) -> list[dict[str, Any]]:
    """Five networks a backbone, with losses that fall."""
    random = np.random.default_rng(2)
    jobs = []
    for model in study.backbones:
        for fold in range(1, 6):
            epochs = int(random.integers(20, 60))
            falls = np.exp(-np.arange(epochs) / 8)
            history = [
                {
                    "epoch": e,
                    "train_loss": float(0.02 + falls[e] * 0.5),
                    "stop_loss": float(0.08 + falls[e] * 0.6 + random.normal(0, 0.01)),
                    "lr": 0.01,
                }
                for e in range(epochs)
            ]
            best = int(np.argmin([h["stop_loss"] for h in history])) + 1
            jobs.append(
                {
                    "model": model,
                    "fold": fold,
                    "epochs": epochs,
                    "best_epoch": best,
                    "seconds": 61.5,
                    "weights": "torchvision, IMAGENET1K_V1",
                    "precision": "bf16",
                    "memory_format": "channels-last",
                    "parameters": 21_300_000,
                    "stopped_on": "inner",
                    "history": history,
                }
            )
    return jobs


def films(*, subjects: int = 40, test: int = 0, **changes: Any) -> ReportContext:
    """Material of a study without regions: one film a case, some subjects come twice, two readers, one learner."""
    from casewise.evaluation.results import evaluate

    settings: dict[str, Any] = {
        "title": "Severity of chest films",
        "description": "Extent, and the Brixia score (six zones).",
        "synthetic": False,
        "regions": [],
        "images": {"size": 64, "channels": "grey"},
        "panels": {"by": "case", "grid": "1x1"},
        "targets": {"brixia": {"range": (0, 18)}, "extent": {"range": (0, 8)}},
        "scores": {},
        "backbones": ["densenet121"],
        "split": {"test": 0, "folds": 5},
        "evaluation": {"readers": {"brixia": {"senior": "a", "junior": "b"}}, "response": False},
        "recipe": {"early_stopping": {"monitor": "fold"}},
    }
    study = study_of(**settings | changes)
    random = np.random.default_rng(5)
    rows, images, panels, read = [], [], [], []
    sides: dict[str, Any] = {f"P{p}": "test" if p < test else p % 5 + 1 for p in range(subjects)}
    for p in range(subjects):
        for v in range(1 + p % 3 % 2):
            subject, case = f"P{p}", f"P{p}/{v * 3}"
            true = float(random.uniform(0, 16))
            both = {name: float(np.clip(np.rint(true + random.normal(0, 1.3)), 0, 18)) for name in ("senior", "junior")}
            read += [
                {"case": case, "subject": subject, "target": "brixia", "reader": n, "value": x} for n, x in both.items()
            ]
            values = {"brixia": float(np.mean(list(both.values()))), "extent": true / 2 if p % 2 else float("nan")}
            common = {"subject": subject, "visit": str(v * 3), "case": case, "day": float("nan"), "region": ""}
            images.append({"image": len(images), "path": f"{case}.jpg", "panel": len(panels), **common, **values})
            panels.append({"panel": len(panels), "tiles": [len(images) - 1], **common, **values})
            fold = None if sides[subject] == "test" else sides[subject]
            for name, value in values.items():
                top = study.range_of(name)[1]
                guess = float(np.clip(0.2 * top + 0.6 * true * top / 18 + random.normal(0, 0.1 * top), 0, top))
                rows.append(
                    {
                        **common,
                        "image": "",
                        "model": "densenet121",
                        "stage": "test" if fold is None else "oof",
                        "outer_fold": fold,
                        "inner_fold": None,
                        "target": name,
                        "y_true": value,
                        "y_pred": guess,
                    }
                )
    predictions = pd.DataFrame(rows).astype({"outer_fold": "Int64", "inner_fold": "Int64"})
    metrics = evaluate(predictions, main="brixia", resamples=50, baseline=None, readers=pd.DataFrame(read))
    table = pd.DataFrame(panels)
    return ReportContext(
        study=study,
        cohort_images=pd.DataFrame(images),
        panels=table,
        cases=table[["case", "subject", "visit", "day", "brixia", "extent"]],
        notes=sentences(metrics["notes"]),
        splits=splits_of(study, sides),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        stackers={},
        tiles=lambda numbers: np.stack([tile(n, channels=1) for n in numbers]),
        photograph=lambda n: None if n % 7 == 0 else np.ascontiguousarray(tile(n, 120).transpose(1, 2, 0)),
        environment={"casewise": "0.1.0", "seconds": 100.0},
    )


VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Reads what matters: balanced tags, identifiers, anchors, headings, and everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str] = []
        self.svgs = 0
        self.words: list[str] = []
        self.headings: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.anchors.append(str(values["href"]).removeprefix("#"))
        elif "href" in values or "src" in values or "srcset" in values:
            self.loads.append(str(values.get("src") or values.get("href")))
        if tag in ("img", "svg"):
            self.alts.append(values.get("alt") or values.get("aria-label") or "")
            self.svgs += tag == "svg"
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def material() -> ReportContext:
    return toy(learners=3, metas=2)


@pytest.fixture(scope="module")
def text(material: ReportContext) -> str:
    return render(material)


def check_page(text: str) -> Page:
    """What must hold for every report."""
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)
    inside = [load for load in page.loads if load.startswith("#")]
    assert {load[1:] for load in inside} <= set(page.ids)
    assert all(load.startswith("data:") for load in page.loads if not load.startswith("#"))
    assert not re.search(r"url\((?!#|'?data:)|@import", text)
    assert all(page.alts)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert max(np.diff(page.headings)) <= 1
    assert not re.search(r"\bnan\b|None|Undefined|<NA>", page.text.split("The study as it was run")[0])
    return page


def test_page_is_whole_and_loads_nothing(text: str) -> None:
    page = check_page(text)
    assert page.svgs > 10
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    assert len(text) < 5_000_000


def test_page_shows_the_figures_of_the_metrics(material: ReportContext, text: str) -> None:
    page = Page(text)
    assert material.stage == "test"
    for learner in material.learners:
        for metric in ("mae", "ccc"):
            found = material.metrics["metrics"]["test"][learner]["pasi"][metric]
            digits = 1 if metric == "mae" else 2
            low, high = (wording.number(found[k], digits) for k in ("low", "high"))
            assert f"{wording.number(found['value'], digits)} [{low}, {high}]" in page.text
    band = material.metrics["bands"]["stages"]["test"][material.learner]
    assert f"{100 * band['agreement']['value']:.0f} % of the visits" in page.text
    assert material.splits["hash"] in page.text
    assert "resnet" not in page.text
    assert "meta_learner: coefficients. Network erythema induration scaling area net00 +0.250" in page.text
    for note in material.notes:
        assert note in page.text


def test_learner_is_chosen_out_of_fold_never_on_the_test_set(material: ReportContext) -> None:
    oof = {name: material.metric("oof", name, "ccc")["value"] for name in material.learners}  # type: ignore[index]
    assert material.learner == max(oof, key=oof.__getitem__)
    metrics = {"metrics": {**material.metrics["metrics"]}}
    other = next(name for name in material.learners if name != material.learner)
    metrics["metrics"]["test"] = {
        name: {"pasi": {"ccc": {"value": 1.0 if name == other else 0.0}}} for name in material.learners
    }
    assert dataclasses.replace(material, metrics=metrics).learner == material.learner


def test_no_winner_inside_the_noise(material: ReportContext) -> None:
    def told(alike: list[str], *, rough: bool = False) -> str:
        entry = {"best": "net00", "not_told_apart": ["net00", *alike], "differences": {"net01": {}, "net02": {}}}
        entry |= {"rough": rough}
        metrics = {**material.metrics, "comparisons": {"test": {"pasi": {"mae": entry}}}}
        return summary.comparison(dataclasses.replace(material, metrics=metrics), "test")

    assert "no learner is shown to be the best" in told(["net01", "net02"])
    assert "1 of 2 others cannot be told apart from it: net02" in told(["net02"])
    assert "the interval of its lead over every other learner leaves 0 out" in told([])
    assert "beyond chance" not in told([])
    assert "fewer than ten" not in told(["net01", "net02"])
    assert "told apart from it from fewer than ten subjects" in told(["net01", "net02"], rough=True)


def test_same_material_gives_the_same_bytes(material: ReportContext, text: str, tmp_path: Path) -> None:
    path = write_report(material, tmp_path / "runs" / "report.html")
    assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_names_cannot_break_the_page() -> None:
    evil = "<script>alert('x')</script>&\"$x_{{}}{:03d}-->"
    text = render(toy(test=3, learners=1, names=evil, title="<b>Trial</b> & more", name="a<i>", visits=4))
    assert "<b>Trial" not in text
    assert "a<i>" not in text
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    page = check_page(text)
    assert "<script>alert('x')</script>" in page.text


def test_without_a_test_set() -> None:
    material = toy(test=0, subjects=8)
    page = check_page(render(material))
    assert material.stage == "oof"
    assert "There is no test set; out of fold (48 visits of 8 subjects" in page.text
    assert "chosen on the same cases that it is judged on" in page.text
    assert "On the test set" not in page.text


def test_cases_without_regions_with_readers_and_one_learner() -> None:
    material = films()
    page = check_page(render(material))
    assert "One model was trained: densenet121, as 5 networks on different training parts." in page.text
    assert "junior and senior" in page.text
    assert "model and senior" in page.text
    assert "Out-of-fold figures are optimistic." in page.text
    assert "Brixia" in page.text
    assert "photograph" not in page.text.lower()


def test_the_page_says_once_that_no_allowance_is_made(text: str) -> None:
    assert Page(text).text.count("No allowance is made for the number of learners compared.") == 1


def test_stopping_on_the_fold_is_said_where_subjects_count_as_unseen() -> None:
    page = Page(render(films()))
    assert "never saw" not in page.text
    assert "each predicted by networks not fitted on the subject, but stopped at the epoch" in page.text
    assert "not fitted on its subjects, though it decided when their training stopped" in page.text
    inner = Page(render(films(recipe={"early_stopping": {"monitor": "inner"}})))
    assert inner.text.count("never saw") == 2


def test_the_stage_is_that_of_the_headline(material: ReportContext) -> None:
    main = {**material.metrics["main"], "stage": "oof"}
    unscored = dataclasses.replace(material, metrics={**material.metrics, "main": main})
    assert (unscored.stage, unscored.stages) == ("oof", ["oof", "test"])
    page = check_page(render(unscored))
    assert "The test set has no recorded value; out of fold (54 visits of 9 subjects" in page.text
    only_oof = material.predictions[material.predictions["stage"] == "oof"]
    assert dataclasses.replace(material, predictions=only_oof).stage == "oof"


def test_an_imported_split_claims_no_balancing(material: ReportContext, text: str) -> None:
    for claim in ("Balanced on", "best of 1,000 trials", "The split was made to keep"):
        assert claim in Page(text).text
    imported = dataclasses.replace(material, splits={**material.splits, "how": "column part", "folds": 7})
    page = check_page(render(imported))
    for claim in ("Balanced on", "trials", "The split was made to keep"):
        assert claim not in page.text
    assert "column part of the cohort table" in page.text
    assert "divided into 7 folds" in page.text
    assert not any(row.mark for row in tables.imbalance_rows(imported))


def finished(material: ReportContext, folder: Path, **changes: Any) -> Path:
    """A run folder with what the page of results is made from."""
    parts = {
        "study": material.study.model_dump(mode="json") | {"primary_outcome": material.study.primary_outcome},
        "metrics": material.metrics,
        "splits": {"folds": 5, **material.splits},
    }
    folder.mkdir()
    for name, value in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(value | changes.get(name, {})))
    return folder


def test_results_page_beside_a_run_without_the_stage(material: ReportContext, tmp_path: Path) -> None:
    run = finished(material, tmp_path / "run")
    oof = {"main": None, "metrics": {"oof": material.metrics["metrics"]["oof"]}}
    other = finished(material, tmp_path / "other", metrics=oof)
    empty = finished(material, tmp_path / "empty", metrics={"main": None, "metrics": {}, "comparisons": {}})
    with pytest.raises(RunError, match=r"other cannot stand beside .*run, .* the test set: it has figures from out of"):
        write_results(run, tmp_path / "page.md", beside=[other])
    with pytest.raises(RunError, match="nothing was judged there"):
        write_results(run, tmp_path / "page.md", beside=[empty])
    with pytest.raises(RunError, match="nothing was judged"):
        write_results(empty, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    assert "| net00 (toy) |" in write_results(run, tmp_path / "page.md", beside=[run]).read_text()


def test_results_page_says_what_limits_its_figures(material: ReportContext, tmp_path: Path) -> None:
    text = write_results(finished(material, tmp_path / "run"), tmp_path / "a.md").read_text()
    assert "never saw its subject" in text
    assert "not known" not in text
    assert "not told apart (fewer than ten subjects: rough)." in text
    assert text.count("No allowance is made for the number of learners compared.") == 1
    fold = material.study.recipe.model_copy(update={"early_stopping": EarlyStopping(monitor="fold")})
    study = {"subjects_known": False, "recipe": fold.model_dump(mode="json")}
    splits = {"how": "column part", "folds": 7}
    oof = {"main": None, "metrics": {"oof": material.metrics["metrics"]["oof"]}}
    loud = finished(material, tmp_path / "loud", study=study, splits=splits, metrics=oof)
    text = write_results(loud, tmp_path / "b.md").read_text()
    assert "7 folds by subject (taken from column part)" in text
    assert "It is not known which images show the same person" in text
    assert "never saw" not in text


def test_days_are_those_of_the_table() -> None:
    rows = pd.DataFrame({"subject": "a", "visit": ["0", "1"], "day": [5.0, 33.0], "y_true": [4.0, 2.0]})
    found = figures_time.tracks(rows.assign(y_pred=rows["y_true"]), baseline="first")
    assert found[0].days.tolist() == [5, 33]
    assert not figures_time.spaced_evenly(found)


def test_the_course_over_time_counts_no_days_from_the_first_visit(text: str) -> None:
    assert "since the first visit" not in text
    assert "<li>days" in text


def test_without_repeated_visits_there_is_no_course_over_time() -> None:
    page = check_page(render(toy(visits=1, subjects=20, test=5, learners=1)))
    assert "Course over time" not in page.text
    assert "20 subjects, beside" in page.text


def test_missing_parts_are_left_out_not_stumbled_over(material: ReportContext) -> None:
    bare = dataclasses.replace(
        material, metrics={}, jobs=[], stackers={}, splits={}, notes=[], environment={}, photograph=lambda n: None
    )
    page = check_page(render(bare))
    assert "All learners" not in page.text
    assert "Half of the visits" in page.text
    assert "photographs could not be shown" in page.text


def test_outcome_without_any_truth(material: ReportContext) -> None:
    table = material.predictions.copy()
    table["y_true"] = np.where(table["target"] == "pasi", np.nan, table["y_true"])
    page = check_page(render(dataclasses.replace(material, predictions=table, metrics={})))
    assert "nothing can be judged" in page.text


def test_banners_say_what_limits_the_figures(material: ReportContext) -> None:
    def heads(stage: str, **changes: Any) -> str:
        table = material.predictions[material.predictions["stage"] == stage]
        study = material.study.model_copy(update=changes)
        return " ".join(b.head for b in words.banners(dataclasses.replace(material, study=study, predictions=table)))

    fold = material.study.recipe.model_copy(update={"early_stopping": EarlyStopping(monitor="fold")})
    loud = heads("test", subjects_known=False, recipe=fold)
    for told in ("not patients", "same person", "optimistic", "Only 3 subjects in the test set"):
        assert told in loud
    assert heads("oof", synthetic=False) == "Only 9 subjects in the study."


def test_everything_that_grows_is_capped() -> None:
    material = toy(subjects=30, test=0, learners=14, visits=3)
    page = check_page(render(material))
    assert "24 of 30 subjects are shown" in page.text
    assert "12 of 14 backbones are shown" in page.text
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
    found = figures_time.tracks(rows, baseline="first")
    assert [track.subject for track in found] == ["a"]
    assert found[0].names == ["w0", "w4", "w8"]
    np.testing.assert_allclose(found[0].changes, [[0, -75, -100], [0, -50, -75]])
    assert found[0].error == pytest.approx(11 / 3)
    assert not figures_time.spaced_evenly(found)
    zero = figures_time.tracks(rows.assign(y_true=[5.0, 0.0, 1.0, 7.0]), baseline="first")
    assert np.isnan(zero[0].changes[0]).all()


def test_tracks_beyond_the_cap_are_taken_evenly_from_best_to_worst() -> None:
    def track(error: float) -> figures_time.Track:
        truth = np.array([4.0, 2.0])
        return figures_time.Track(
            f"s{error:g}", ["0", "1"], np.array([0.0, 7.0]), truth, truth + error, np.zeros((2, 2))
        )

    shown, capped = figures_time.chosen_tracks([track(e) for e in (5, 1, 3, 2, 4)], 3)
    assert capped
    assert [t.subject for t in shown] == ["s1", "s3", "s5"]


def test_parts_of_the_scale_hold_every_case(material: ReportContext) -> None:
    parts = parts_of(material)
    assert [part.name for part in parts] == ["clear", "mild", "moderate-to-severe"]
    assert sum(part.count for part in parts) == len(material.chosen)
    study = material.study.model_copy(update={"evaluation": material.study.evaluation.model_copy(update={"bands": {}})})
    thirds = parts_of(dataclasses.replace(material, study=study))
    assert sum(part.count for part in thirds) == len(material.chosen)
    assert len(thirds) == 3
    error = (material.chosen["y_pred"] - material.chosen["y_true"]).abs().mean()
    assert sum(p.error * p.count for p in thirds) / len(material.chosen) == pytest.approx(error)


def test_a_region_is_called_worst_only_beyond_the_intervals(material: ReportContext) -> None:
    def told(high: float, *, rough: bool = False, least: float = 0.4) -> str:
        figures = {"composite[upper]": (least, 0.3, high), "composite[trunk]": (0.9, 0.8, 0.95)}
        by_key = {
            key: {"ccc": {"value": v, "low": lo, "high": hi, "rough": rough}} for key, (v, lo, hi) in figures.items()
        }
        metrics = {
            "metrics": {"test": {material.learner: by_key}},
            "main": {"target": "pasi", "learner": material.learner},
        }
        return weakest_region(dataclasses.replace(material, metrics=metrics))

    assert "upper agrees least" in told(0.5)
    assert "fewer than ten subjects" in told(0.5, rough=True)
    assert "hardly any difference" in told(0.5, least=0.8999)
    assert "No region is shown to agree worse" in told(0.85)


def pulled(material: ReportContext, shift: float) -> ReportContext:
    """The same truth, predicted with one error of changing sign: low scores too high by `shift`, high ones too low."""
    table = material.predictions[material.predictions["target"] == "brixia"].copy()
    middle = table["y_true"].median()
    table["y_pred"] = table["y_true"] + np.where(table["y_true"] < middle, shift, -shift)
    return dataclasses.replace(material, predictions=table)


def test_a_pull_to_the_middle_is_named() -> None:
    material = films(evaluation={"response": False})
    for shift, low, high in ((2.0, "overrated", "underrated"), (-2.0, "underrated", "overrated")):
        told = failures(pulled(material, shift))
        assert f"low scores are {low} by 2.0 points on average, high ones {high} by 2.0" in told
    even = pulled(material, 2.0).predictions.assign(y_pred=lambda t: t["y_true"] + 2.0)
    assert "over the whole range of scores. The" in failures(dataclasses.replace(material, predictions=even))


def test_a_bias_within_its_interval_is_no_steady_difference() -> None:
    assert figures_agreement.describe(figures_agreement.Limits(-0.01, -2, 2), 1).startswith("No steady difference")
    wide = figures_agreement.Limits(-0.4, -2, 2, bias_interval=(-1.0, 0.2))
    assert figures_agreement.describe(wide, 1).startswith("No steady difference")
    sure = figures_agreement.Limits(-0.4, -2, 2, bias_interval=(-0.6, -0.2))
    assert figures_agreement.describe(sure, 1).startswith("The model scores 0.4 points lower on average")


def groups_told(material: ReportContext, *, bands: Any = None, response: Any = None, **more: Any) -> tuple[str, str]:
    """The head and the sentence on bands and response for these confusion counts."""
    kappa = {"agreement": {"value": 0.5}, "kappa": {"value": 0.0, "low": 0.0, "high": 0.0}}
    by_bands = {"confusion": bands, **kappa}
    metrics: dict[str, Any] = {**material.metrics, "bands": {}, "response": {}}
    if bands:
        lower = {"clear": 0, "mild": 1, "severe": 10}
        metrics["bands"] = {"lower_bounds": lower, "stages": {material.stage: {material.learner: by_bands}}}
    if response:
        told = {"responders": {"75": {"confusion": response, **kappa}}, **more}
        metrics["response"] = {material.stage: {material.learner: told}}
    found = summary.sentences(dataclasses.replace(material, metrics=metrics))
    return next(((head, text) for head, text in found if head.startswith(("Bands", "Response"))), ("", ""))


def test_what_bands_and_response_cannot_tell_is_said(material: ReportContext) -> None:
    assert groups_told(material) == ("", "")
    head, text = groups_told(material, bands=[[0, 2, 0], [0, 3, 0], [0, 1, 0]])
    assert head == "Bands."
    assert text.endswith("; the model puts all visits in one band (mild).")
    assert (
        "the physician’s are all in one band (clear)" in groups_told(material, bands=[[1, 2, 0], [0] * 3, [0] * 3])[1]
    )
    assert "kappa 0.00" in groups_told(material, bands=[[1, 2, 0], [2, 1, 0], [0, 1, 2]])[1]
    told = "No later visit had fallen by 75 %, by either; response cannot be judged here."
    assert groups_told(material, response=[[7, 0], [0, 0]]) == ("Response.", told)
    assert "none of them" in groups_told(material, response=[[5, 0], [2, 0]])[1]
    assert "fewer than ten" in groups_told(material, response=[[5, 1], [2, 3]], rough=True)[1]
    assert groups_told(material, bands=[[1, 2, 0], [2, 1, 0], [0, 1, 2]], response=[[5, 1], [2, 3]])[0] == (
        "Bands and response."
    )


def test_unknown_subjects_are_counted_nowhere_as_people() -> None:
    page = Page(render(films(subjects_known=False, test=10)))
    assert "whose they are is not known, so that the figures may be too good" in page.text
    assert "nobody stands on two sides" not in page.text
    assert "whole subjects" not in page.text.split("How to read this")[-1]
    known = Page(render(films()))
    assert "nobody stands on two sides" in known.text
    assert "Extent, and the Brixia score (six zones)." in known.text.split("In plain words")[0]


def test_results_page_has_no_minus_zero() -> None:
    assert _figure({"value": -0.001, "low": -0.004, "high": 0.09}) == "0.00 [0.00, 0.09]"


def test_bars_stand_at_each_value_of_a_stepped_scale() -> None:
    assert figures_cohort.binned(np.array([0, 0.5, 3.0]), (0, 3))[1] == ["0", "0.5", "1", "1.5", "2", "2.5", "3"]
    assert figures_cohort.binned(np.array([0.0, 0.3, 2.9]), (0, 3))[2] is False


def test_bars_hold_every_value() -> None:
    for values in (np.array([0.0, 4.0, 4.0]), np.array([0.2, 3.7]), np.array([9.0, 70.0]), np.zeros(3)):
        edges, names, _ = figures_cohort.binned(values, (0, 72) if values.max() > 4 else (0, 4))
        assert figures_cohort.shares(values, edges).sum() == pytest.approx(1)
        assert len(names) == len(edges) - 1


def test_grid_is_row_by_row_with_black_empty_slots() -> None:
    tiles = np.stack([np.full((1, 2, 2), value, np.uint8) for value in (10, 20, 30)])
    grid = grid_picture(tiles, rows=2, columns=2)
    assert grid[::2, ::2].tolist() == [[10, 20], [30, 0]]


def test_figures_keep_user_text_out_of_markup_and_digits_in_text() -> None:
    with canvas(100, 100) as (figure, axes):
        axes.set_title("$a <b> 0.12345")
        drawn = svg(figure, "one", 'an "alt" <text>')
    assert "$a &lt;b&gt; 0.12345" in drawn
    assert 'aria-label="an &#34;alt&#34; &lt;text&gt;"' in drawn
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert ids
    assert all(name.startswith("one-") for name in ids)


def test_display_name_takes_the_spelling_of_the_description() -> None:
    study = study_of(title="Trial", description="PASI without head.")
    assert wording.display_name(study, "pasi") == "PASI"
    assert wording.display_name(study, "some_target") == "some target"
    assert wording.display_name(study, "pas") == "pas"
    assert wording.display_name(study_of(description="Extent and the Brixia score."), "extent") == "extent"
    assert wording.display_name(study_of(description="Extent and the Brixia score."), "brixia") == "Brixia"


def test_band_limits_read_as_ranges(material: ReportContext) -> None:
    found = tables.confusion(material, "test")
    assert found is not None
    assert found.bounds == ["below 1", "1 to below 10", "10 or more"]
    assert sum(count for row in found.rows for count, _ in row) == len(material.chosen)


if __name__ == "__main__":  # to look at the variants: test_report.py FOLDER
    import sys

    folder = Path(sys.argv[1])
    write_report(toy(), folder / "small.html")
    write_report(toy(subjects=60, learners=29, metas=4, test=6), folder / "whole.html")
    write_report(toy(subjects=30, test=0, learners=8), folder / "without-test.html")
    write_report(films(), folder / "films.html")
