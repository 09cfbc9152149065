"""Small contexts of made-up studies, and readers of the page, for the tests of the report."""

from __future__ import annotations

import copy
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.audit.findings import Audit, Finding
from casewise.evaluation import FollowUp, Outcomes, Plan, evaluate
from casewise.evaluation.results import Drop, Estimate, Figures, Headline, ImageSplit, Results, as_stored, plain
from casewise.predictions.table import COLUMNS
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.run_folder import RunFolder
from casewise.study.schema import Study

BACKBONES = [f"net{i:02d}" for i in range(29)]
METAS = ["meta_learner", "meta_learner_w_intercept", "meta_learner_ridge", "meta_learner_ridge_w_intercept"]
TARGETS = {"erythema": (0, 4), "induration": (0, 4), "scaling": (0, 4), "area": (0, 6)}
WEIGHTS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4}
PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2}


def study_of_numbers(**changes: Any) -> Study:
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


def numbers(
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
    from casewise.cohort.targets import study_scores
    from casewise.predictions.scores import apply_scores

    study = study_of_numbers(backbones=BACKBONES[:learners], **changes)
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
    stackers = {
        meta: {
            n: {"weights": dict.fromkeys(study.backbones, 1 / learners), "intercept": -0.1 * ("intercept" in meta)}
            for n in TARGETS
        }
        for meta in METAS[:metas]
    }
    sides: dict[str, Any] = {s: "test" if i < test else i % 5 + 1 for i, s in enumerate(people)}
    for k, learner in enumerate(study.backbones):
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
    predictions = apply_scores(with_stackers(predictions, stackers), study_scores(study))
    metrics = evaluate(
        predictions,
        Outcomes(study.primary_outcome),
        Plan(resamples),
        bands=study.evaluation.bands or None,
        follow_up=FollowUp(),
    )
    metrics = with_sets(study, predictions, metrics)
    images_table, panels_table = pd.DataFrame(images), pd.DataFrame(panels)
    return ReportContext(
        study=study,
        cohort_images=images_table,
        panels=panels_table,
        cases=panels_table.drop_duplicates("case")[["case", "subject", "visit", "day"]].reset_index(drop=True),
        notes=["Two photographs could not be read and were left out.", *sentences(metrics.notes)],
        splits=splits_of(study, sides, panels_table),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        stackers=stackers,
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


def with_sets(study: Study, predictions: pd.DataFrame, results: Results) -> Results:
    """The results with prediction intervals and sets."""
    from casewise.evaluation.calibration import coverage
    from casewise.pipeline.evaluate import calibrated

    record, classes = calibrated(study, predictions), {name: study.classes_of(name) for name in study.targets}
    sets = coverage(predictions, str(results.main.learner), record, classes, Plan(50))
    return as_stored(dataclasses.replace(results, prediction_sets=sets))


def with_stackers(predictions: pd.DataFrame, stackers: dict[str, Any]) -> pd.DataFrame:
    """The predictions of networks, with those of stackers that have these weights and intercepts."""
    key = ["case", "region", "target"]
    first = predictions[predictions["model"] == predictions["model"].iloc[0]]
    tables = [predictions]
    for meta, by_target in stackers.items():
        weights = [by_target[row.target]["weights"][row.model] for row in predictions.itertuples()]
        sums = predictions.assign(y_pred=predictions["y_pred"] * weights).groupby(key)["y_pred"].sum()
        values = sums.reindex(pd.MultiIndex.from_frame(first[key])).to_numpy()
        values = values + [by_target[name]["intercept"] for name in first["target"]]
        tables.append(first.assign(model=meta, y_pred=np.clip(values, 0, [TARGETS[n][1] for n in first["target"]])))
    return pd.concat(tables, ignore_index=True)


def splits_of(study: Study, sides: dict[str, Any], panels: pd.DataFrame) -> dict[str, Any]:
    """A manifest as `casewise.splits.grouped.write_splits` leaves it, with the numbers of the cohort."""
    side_of = panels["subject"].map(sides).map(lambda side: side if side == "test" else f"fold {side}")
    n: dict[str, Any] = {}
    for name in ["test", *(f"fold {fold}" for fold in range(1, 6))]:
        own = panels[side_of == name]
        n[name] = {"subjects": own["subject"].nunique(), "cases": own["case"].nunique(), "panels": len(own)}
    tested = n["test"]["subjects"]
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
    study = study_of_numbers(**settings | changes)
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
    metrics = evaluate(predictions, Outcomes("brixia"), Plan(50), readers=pd.DataFrame(read))
    table = pd.DataFrame(panels)
    return ReportContext(
        study=study,
        cohort_images=pd.DataFrame(images),
        panels=table,
        cases=table[["case", "subject", "visit", "day", "brixia", "extent"]],
        notes=sentences(metrics.notes),
        splits=splits_of(study, sides, table),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        stackers={},
        tiles=lambda numbers: np.stack([tile(n, channels=1) for n in numbers]),
        photograph=lambda n: None if n % 7 == 0 else np.ascontiguousarray(tile(n, 120).transpose(1, 2, 0)),
        environment={"casewise": "0.1.0", "seconds": 400.0},
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


def study_of_classes(kind: str, **changes: Any) -> Study:
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
    probe |= {"subjects": images["subject"].nunique(), "subjects_of_smallest": 9}
    twins = {"pairs": 4, "images": 8, "subjects": 8, "bytes": 1, "pixels": 0, "near": 3, "mirrored": 1}
    source = {**probe, "evidence": "source", "value": 0.914, "by_class": {"covid": 0.97}}
    within = {**probe, "evidence": "image", "value": 0.97, "within": "no_finding"}
    found = [
        Finding(
            "shortcut-source",
            "error",
            "The column source alone predicts finding with AUROC 0.91 (chance 0.50, p = 0.001), and 0.97 for covid. A "
            "network can reach this by recognising source, without using the disease.",
            source,
            remedy="Cross-validate with `split: {leave_out: source}`, or restrict the study to one source (`where:`).",
        ),
        Finding(
            "source-predictable-no_finding",
            "warning",
            "Within finding no_finding, the image predicts source with AUROC 0.97 (chance 0.50, p = 0.001). Where "
            "source is associated with finding, a network can use it as a shortcut.",
            within,
            remedy="Report the result within each source.",
        ),
        Finding(
            "twins-across-labels",
            "warning",
            "4 pairs of images show the same picture with two values of finding (1 the same file, 3 near-identical): "
            "at least one value is wrong, or the picture does not determine it.",
            twins,
            list(zip(paths[:4], paths[10:14], strict=True)),
            "Correct finding in the table, or exclude both images with `where_not`.",
        ),
        Finding("twins-within-subject", "note", "1 pair of images shows the same picture of one subject twice.", twins),
    ]
    border = {**probe, "evidence": "border (its corners)", "value": 0.52, "p": 0.31, "p_adjusted": 0.4}
    asked = [source, border, within]
    seconds = {"twins": 23.1, "shortcuts": 9.7}
    return Audit(
        found,
        seconds,
        {
            "subjects": images["subject"].nunique(),
            "images": len(images),
            "tests": asked,
            "not_tested": ["finding from view"],
        },
    ).as_json(accepted)


def classes(
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
    study = study_of_classes(kind, **{"backbones": EIGHT[:networks]} | changes)
    outcome, names = study.primary_outcome, study.classes_of(study.primary_outcome)
    known = [*study.backbones, "mean_of_learners"] if networks > 1 else list(study.backbones)
    predictions = predictions_of(study, subjects, known, test=test, outside=outside)
    metrics = evaluate(
        predictions,
        Outcomes(
            outcome,
            classes={outcome: names},
            positive={outcome: first} if (first := study.positive_of(outcome)) else {},
        ),
        Plan(50),
        subjects_known=study.subjects_known,
    )
    metrics = with_sets(study, predictions, metrics)
    if outside:
        stage = "test" if test else "oof"
        drop = {name: drop_of(metrics, stage, name, outcome) for name in known}
        metrics = dataclasses.replace(metrics, external_drop=drop)
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
        notes=["Twelve rows of other classes were left out.", *sentences(metrics.notes)],
        splits=splits_of(study, sides, panels),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs,
        stackers={},
        tiles=lambda numbers: np.stack([film(n) for n in numbers]),
        photograph=lambda n: film(n, 160)[0],
        environment={"casewise": "0.1.0", "seconds": sum(job["seconds"] for job in jobs) + 300},
        audit=audit_of(images, {"shortcut-source": REASON} if accepted is None else accepted),
    )


def drop_of(results: Results, stage: str, learner: str, outcome: str) -> dict[str, Drop]:
    """The figures of the external cohort minus those of a stage, with intervals of a fixed width."""
    drops = {}
    for metric, internal in results.figures(stage, learner, outcome).items():
        external = results.figures("external", learner, outcome)[metric]
        if external.value is not None and internal.value is not None:
            d = external.value - internal.value
            drops[metric] = Drop(internal.value, external.value, d, d - 0.05, d + 0.05, stage, False)
    return drops


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


def in_phases(context: ReportContext, *, stop: str = "inner") -> ReportContext:
    """The context as it would be had its networks been trained in two phases."""
    study = context.study
    recipe = {**RECIPE, "early_stopping": {"monitor": stop}}
    study = type(study).model_validate({**study.model_dump(), "recipe": recipe})
    names = study.classes_of(study.primary_outcome)
    jobs = copy.deepcopy(context.jobs)
    for job in jobs:
        fold = job["fold"]
        each = [
            {
                "freeze": freeze,
                **SIZES[freeze],
                "way": "output of the frozen layers computed once per panel"
                if freeze == "all"
                else "all at every step",
                "epochs": 60 if freeze == "all" else 15,
                "rows": 400 + fold,
                "seconds": 10.0 * fold,
                "core_seconds": 20.0 * fold,
            }
            for freeze in FREEZE
        ]
        job |= {"seconds": sum(phase["seconds"] for phase in each) + 1.5}
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
    return dataclasses.replace(context, study=study, jobs=jobs)


def split_by_image(context: ReportContext, value: float, metric: str = "accuracy") -> ReportContext:
    """The context with what a split by image would have claimed of every learner."""
    outcome, stage = context.study.primary_outcome, context.stage
    changed = ("auroc", "sensitivity", "specificity", metric)
    figures: dict[str, dict[str, Figures]] = {}
    for learner in context.learners:
        figures[learner] = {
            outcome: {
                name: dataclasses.replace(figure, value=value, low=value - 0.02, high=value + 0.01)
                if figure.value is not None and name in changed
                else figure
                for name, figure in context.figures(stage, learner, outcome).items()
            }
        }
    images = context.cohort_images.groupby("subject").size()
    split = ImageSplit(
        metrics={stage: figures},
        main={"target": outcome, "stage": stage, "learner": context.learner, "kind": context.kind},
        subjects_on_both_sides=int((images > 1).sum()) - 2,
        subjects_with_several_images=int((images > 1).sum()),
        subjects=len(images),
        images=int(images.sum()),
    )
    return with_results(context, image_split=split)


def with_results(context: ReportContext, **changes: Any) -> ReportContext:
    """The context with some of its results changed."""
    return dataclasses.replace(context, metrics=dataclasses.replace(context.metrics, **changes))


def with_figure(context: ReportContext, metric: str, low: float, value: float, high: float) -> ReportContext:
    metrics = copy.deepcopy(context.metrics.metrics)
    figures = metrics[context.stage][context.learner][context.study.primary_outcome]
    figures[metric] = dataclasses.replace(figures[metric], low=low, value=value, high=high)
    return with_results(context, metrics=metrics)


def finished(context: ReportContext, folder: Path, **changes: Any) -> Path:
    """A run folder with what a Markdown page is made from; `changes` update a file by its name."""
    run = RunFolder(folder)
    contents = {
        "study": context.study.model_dump(mode="json"),
        "metrics": plain(context.metrics),
        "splits": {"folds": 5, **context.splits},
        "audit": context.audit,
    }
    for name, value in contents.items():
        if value is not None:
            getattr(run, name).write({**value, **changes.get(name, {})})
    for job in context.jobs:
        run.job(job["model"], int(job["fold"]) - 1).finish({"fingerprint": "", **job})
    run.predictions.write(context.predictions)
    run.cohort.write(context.cohort_images)
    if context.stackers:
        run.stackers.write(context.stackers)
    finish(run)
    return folder


def finish(run: RunFolder) -> None:
    """Let the run count as finished, with metrics of its present study and predictions."""
    run.fingerprint.write({"fingerprint": "", "decided": {}})
    run.metrics.write(run.metrics.read() | {"made_from": run.evaluated_files()})


class Outline(HTMLParser):
    """The words of a page line by line, with the identifiers of sections and the descriptions of figures."""

    BLOCKS = ("p", "li", "h1", "h2", "h3", "h4", "tr", "dt", "dd", "summary", "figcaption", "title")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = [""]
        self.hidden = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("style", "script", "svg"):
            self.hidden += 1
        if tag in ("svg", "img"):
            self.lines += [f"[{tag}: {values.get('aria-label') or values.get('alt')}]", ""]
        elif tag == "section":
            self.lines += [f"==== {values.get('id')}", ""]
        elif tag in self.BLOCKS:
            self.lines.append({"h2": "## ", "h3": "### ", "h4": "#### ", "li": "- "}.get(tag, ""))
        elif tag in ("td", "th"):
            self.lines[-1] += " | "

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script", "svg")
        if tag in self.BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.lines[-1] += data


def outline(text: str) -> str:
    """The page as plain text, up to the study file that it repeats."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in Outline(text).lines)
    return "\n".join(line for line in lines if line).partition("### Study file as run")[0]


def section_of(text: str, id: str) -> str:
    """The part of a page from the beginning of a section to its end."""
    return text.split(f'<section id="{id}"')[1].split("</section>")[0]


def codes(text: str) -> set[str]:
    """The codes of the sentences of a page."""
    return set(re.findall(r'data-code="([^"]+)"', text))


def nothing(context: ReportContext) -> Results:
    """The results of a run without a reference value."""
    return Results({}, {}, {}, {}, Headline(context.outcome, None, None, None, None, context.kind), [])


def estimate(
    value: float | None, low: float | None = None, high: float | None = None, *, subjects: int = 100, **changes: Any
) -> Estimate:
    """A figure of as many cases as subjects."""
    return dataclasses.replace(Estimate(value, low, high, subjects, subjects, rough=False), **changes)


def with_own(context: ReportContext, own: Figures | None = None, **entry: Any) -> ReportContext:
    """The context with other figures of the shown learner, or other fields of its classes."""
    stage, learner, outcome = context.stage, context.learner, context.outcome
    metrics, classes_ = copy.deepcopy(context.metrics.metrics), copy.deepcopy(context.metrics.classes)
    if own is not None:
        metrics[stage][learner][outcome] = own
    if entry:
        classes_[stage][learner][outcome] = dataclasses.replace(classes_[stage][learner][outcome], **entry)
    return with_results(context, metrics=metrics, classes=classes_)
