"""Small contexts of made-up studies, and a reader of the page, for the tests of the report."""

import copy
import dataclasses
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.audit.findings import Audit, Finding
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import FollowUp, Outcomes, evaluate
from casewise.evaluation.figures import IMAGES, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.metrics_file import as_stored, encoded
from casewise.evaluation.results import Headline, ImageSplit, Results
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from casewise.study.sources import Origin
from casewise.study.weight_origins import as_records

BACKBONES = [f"net{i:02d}" for i in range(29)]
METAS = ["meta_learner", "meta_learner_w_intercept", "meta_learner_ridge", "meta_learner_ridge_w_intercept"]
TARGETS = {"erythema": (0, 4), "induration": (0, 4), "scaling": (0, 4), "area": (0, 6)}
WEIGHTS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4}
PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2}
DAYS = (0, 7, 28, 56, 84, 112, 140, 168)
CASE = ["case", "subject", "visit", "day"]
ENVIRONMENT = {"python": "3.11", "torch": "2", "processor": "a processor", "cores": 2, "date": "2026-01-01"}


def study_of_numbers(**changes: Any) -> Study:
    """A study like One-Step PASI."""
    pasi = "+".join(f"{weight}*composite[{region}]" for region, weight in WEIGHTS.items())
    composite = {"formula": "(erythema+induration+scaling)*area", "range": (0, 72), "level": "region"}
    values: dict[str, Any] = {
        "name": "toy",
        "title": "One-Step PASI",
        "cohort": "visits.csv",
        "synthetic": True,
        "regions": list(WEIGHTS),
        "images": {"size": 64},
        "panels": {"by": "region", "grid": "2x2", "shuffle": True},
        "targets": {name: {"range": scale, "integer": True} for name, scale in TARGETS.items()},
        "scores": {"composite": composite, "pasi": {"formula": pasi, "range": (0, 64.8)}},
        "backbones": BACKBONES[:3],
        "evaluation": {"bands": {"clear": 0, "mild": 1, "moderate-to-severe": 10}},
    }
    return Study.model_validate(values | changes)


def picture(number: int, size: int = 64, channels: int = 3) -> np.ndarray:
    """A picture (channels, size, size) of one colour."""
    return np.full((channels, size, size), 37 * number % 255, np.uint8)


def numbers(
    *,
    subjects: int = 12,
    visits: int = 6,
    learners: int = 3,
    metas: int = 0,
    test: int = 3,
    names: str = "S{:03d}",
    **changes: Any,
) -> ReportContext:
    """Material of a made-up study: subjects improve over the visits, learners differ in noise."""
    from casewise.cohort.targets import study_scores
    from casewise.predictions.scores import apply_scores

    study, random = study_of_numbers(backbones=BACKBONES[:learners], **changes), np.random.default_rng(1)
    rows = []
    for number in range(subjects):
        start, speed = random.uniform(0.35, 1.0), random.uniform(0.1, 0.7)
        for v, day in enumerate(DAYS[:visits]):
            subject, visit = names.format(number), f"week {day / 7:g}"
            row = {"case": f"{subject}/{visit}", "subject": subject, "visit": visit, "day": float(day)}
            for region in WEIGHTS:
                severity = float(np.clip(start * np.exp(-speed * v) + random.normal(0, 0.08), 0, 1))
                drawn = {n: severity * top + random.normal(0, 0.4) for n, (_, top) in TARGETS.items()}
                truth = {n: float(np.clip(np.rint(value), 0, TARGETS[n][1])) for n, value in drawn.items()}
                rows.append({"panel": len(rows), "person": number, **row, "region": region, **truth})
    table = pd.DataFrame(rows)
    images = table.loc[table.index.repeat(table["region"].map(PHOTOGRAPHS))].reset_index(drop=True)
    images = images[[*CASE, "region", "panel", *TARGETS]].assign(image=range(len(images)))
    images["path"] = images["case"] + "/" + images["image"].astype(str) + ".jpg"
    panels = table.assign(tiles=images.groupby("panel")["image"].agg(list)).drop(columns="person")
    sides: dict[str, Any] = {names.format(i): "test" if i < test else i % 5 + 1 for i in range(subjects)}
    long = table.loc[table.index.repeat(len(TARGETS)), [*CASE, "region", "person"]].reset_index(drop=True)
    side = long["subject"].map(sides)
    long["outer_fold"] = side.where(side != "test").astype("Int64")
    long = long.assign(image="", inner_fold=pd.NA, stage=np.where(side == "test", "test", "oof"), kind="regression")
    long = long.assign(target=list(TARGETS) * len(table), y_true=table[list(TARGETS)].to_numpy().ravel())
    top, true = np.tile([high for _, high in TARGETS.values()], len(table)), long["y_true"].to_numpy()
    parts = []
    for k, learner in enumerate(study.backbones):
        leaning = random.normal(0, 0.45, subjects)[long["person"]]
        noise = random.normal(0, 0.35 + 0.03 * ((k * 7) % 11), len(long))
        guess = 0.25 + 0.82 * true + leaning * (0.3 + true / top) + noise
        parts.append(long.drop(columns="person").assign(model=learner, y_pred=np.clip(guess, 0, top)))
    weights = dict.fromkeys(study.backbones, 1 / learners)
    stackers = {
        meta: {name: {"weights": weights, "intercept": -0.1 * ("intercept" in meta)} for name in TARGETS}
        for meta in METAS[:metas]
    }
    predictions = with_stackers(pd.concat(parts, ignore_index=True).astype({"inner_fold": "Int64"}), stackers)
    predictions = apply_scores(predictions, study_scores(study))
    outcome, bands = Outcomes(study.primary_outcome), study.evaluation.bands or None
    metrics = evaluate(predictions, outcome, Plan(50), bands=bands, follow_up=FollowUp())
    metrics = with_sets(study, predictions, metrics)
    environment = {"casewise": "0.1.0", **ENVIRONMENT, "command": "casewise run toy.yaml", "seconds": 4321.0}
    return ReportContext(
        study=study,
        cohort_images=images,
        panels=panels,
        cases=panels.drop_duplicates("case")[CASE].reset_index(drop=True),
        notes=["Two photographs could not be read and were left out.", *sentences(metrics.notes)],
        splits=splits_of(study, sides, panels),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        stackers=stackers,
        tiles=lambda numbers: np.stack([picture(n) for n in numbers]),
        photograph=lambda n: picture(n, 120).transpose(1, 2, 0),
        environment=environment,
    )


def with_sets(study: Study, predictions: pd.DataFrame, results: Results) -> Results:
    """The results with calibration, prediction intervals and sets."""
    from casewise.evaluation.calibration import coverage
    from casewise.pipeline.evaluate import calibrated, with_calibration

    record, classes = calibrated(study, predictions), {name: study.classes_of(name) for name in study.targets}
    sets = coverage(predictions, str(results.main.learner), record, classes, Plan(50))
    results = with_calibration(study, predictions, results)
    return as_stored(dataclasses.replace(results, prediction_sets=sets))


def with_stackers(predictions: pd.DataFrame, stackers: Mapping[str, Any]) -> pd.DataFrame:
    """The predictions of networks, with those of stackers that have these weights and intercepts."""
    key = ["case", "region", "target"]
    first, tables = predictions[predictions["model"] == predictions["model"].iloc[0]], [predictions]
    for meta, by_target in stackers.items():
        weights = [by_target[row.target]["weights"][row.model] for row in predictions.itertuples()]
        sums = predictions.assign(y_pred=predictions["y_pred"] * weights).groupby(key)["y_pred"].sum()
        values = sums.reindex(pd.MultiIndex.from_frame(first[key])).to_numpy()
        values = values + [by_target[name]["intercept"] for name in first["target"]]
        tables.append(first.assign(model=meta, y_pred=np.clip(values, 0, [TARGETS[n][1] for n in first["target"]])))
    return pd.concat(tables, ignore_index=True)


def splits_of(study: Study, sides: Mapping[str, Any], panels: pd.DataFrame) -> dict[str, Any]:
    """A manifest as `casewise.splits.grouped.write_splits` leaves it, with the numbers of the cohort."""
    side_of, n = panels["subject"].map(sides), {}
    for side in ("test", 1, 2, 3, 4, 5):
        own = panels[side_of == side]
        counts = {"subjects": own["subject"].nunique(), "cases": own["case"].nunique(), "panels": len(own)}
        n["test" if side == "test" else f"fold {side}"] = counts
    record = {"hash": "ab" * 32, "subjects": sides, "n": n, "balance": list(study.targets)[-1], "restarts": 1000}
    shares = {name: 0.01 * (i + 1) for i, name in enumerate(study.targets)}
    return {**record, "imbalance": {"test": shares if n["test"]["subjects"] else {}, "folds": shares}, "settings": {}}


def jobs_of(study: Study) -> list[dict[str, Any]]:
    """Five networks a backbone, with losses that fall."""
    random = np.random.default_rng(2)
    common = {"seconds": 61.5, "weights": "torchvision, IMAGENET1K_V1", "precision": "bf16", "stopped_on": "inner"}
    common |= {"memory_format": "channels-last", "parameters": 21_300_000}
    common |= {"origins": as_records([Origin("published", "torchvision", images="ImageNet")])}
    jobs = []
    for model in study.backbones:
        for fold in range(1, 6):
            epochs = int(random.integers(20, 60))
            falls = np.exp(-np.arange(epochs) / 8)
            train, stop = 0.02 + falls * 0.5, 0.08 + falls * 0.6 + random.normal(0, 0.01, epochs)
            losses = enumerate(zip(train.tolist(), stop.tolist(), strict=True))
            history = [{"epoch": e, "train_loss": t, "stop_loss": s, "lr": 0.01} for e, (t, s) in losses]
            own = {"model": model, "fold": fold, "epochs": epochs, "best_epoch": int(stop.argmin()) + 1}
            jobs.append({**own, "history": history, **common})
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
    study, random = study_of_numbers(**settings | changes), np.random.default_rng(5)
    rows, panels, read = [], [], []
    sides: dict[str, Any] = {f"P{p}": "test" if p < test else p % 5 + 1 for p in range(subjects)}
    for p, v in [(person, visit) for person in range(subjects) for visit in range(1 + person % 3 % 2)]:
        subject, true = f"P{p}", float(random.uniform(0, 16))
        case = {"case": f"P{p}/{v * 3}", "subject": subject}
        both = {name: float(np.clip(np.rint(true + random.normal(0, 1.3)), 0, 18)) for name in ("senior", "junior")}
        read += [{**case, "target": "brixia", "reader": n, "value": x} for n, x in both.items()]
        values = {"brixia": float(np.mean(list(both.values()))), "extent": true / 2 if p % 2 else float("nan")}
        common = {**case, "visit": str(v * 3), "day": float("nan"), "region": ""}
        panels.append({"panel": len(panels), "tiles": [len(panels)], **common, **values})
        fold = None if sides[subject] == "test" else sides[subject]
        common |= {"image": "", "model": "densenet121", "stage": "oof" if fold else "test", "outer_fold": fold}
        for name, value in values.items():
            top = study.range_of(name)[1]
            guess = float(np.clip(0.2 * top + 0.6 * true * top / 18 + random.normal(0, 0.1 * top), 0, top))
            rows.append({**common, "inner_fold": None, "target": name, "y_true": value, "y_pred": guess})
    predictions = pd.DataFrame(rows).astype({"outer_fold": "Int64", "inner_fold": "Int64"})
    metrics = evaluate(predictions, Outcomes("brixia"), Plan(50), readers=pd.DataFrame(read))
    table = pd.DataFrame(panels)
    return ReportContext(
        study=study,
        cohort_images=table.drop(columns="tiles").assign(image=table["panel"], path=table["case"] + ".jpg"),
        panels=table,
        cases=table[[*CASE, "brixia", "extent"]],
        notes=sentences(metrics.notes),
        splits=splits_of(study, sides, table),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs_of(study),
        tiles=lambda numbers: np.stack([picture(n, channels=1) for n in numbers]),
        photograph=lambda n: None if n % 7 == 0 else picture(n, 120).transpose(1, 2, 0),
        environment={"casewise": "0.1.0", "seconds": 400.0},
    )


VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """The words and elements of a page, which must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def every(self, name: str, *, links: bool | None = None) -> list[str]:
        """The values of an attribute; of links only, or of other elements only."""
        chosen = (values.get(name) for tag, values in self.elements if links is None or links == (tag == "a"))
        return [value for value in chosen if value]


def check_page(text: str) -> Page:
    """What must hold for every report."""
    page = Page(text)
    ids, tags = page.every("id"), [tag for tag, _ in page.elements]
    loads = [load for name in ("href", "src", "srcset") for load in page.every(name, links=False)]
    assert (page.open, len(ids)) == ([], len(set(ids)))
    assert {anchor.removeprefix("#") for anchor in page.every("href", links=True)} <= set(ids)
    assert all(load.startswith("data:") or load.removeprefix("#") in ids for load in loads)
    assert not re.search(r"url\((?!#|'?data:)|@import", text)
    assert all(values.get("alt") or values.get("aria-label") for tag, values in page.elements if tag in ("img", "svg"))
    headings = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert (headings[0], headings.count(1)) == (1, 1)
    assert max(np.diff(headings)) <= 1
    assert not re.search(r"\bnan\b|None|Undefined|<NA>", page.text.split("Study file as run")[0])
    return page


CLASSES = {
    "classification": ["covid", "no_finding", "pneumonia"],
    "binary": ["covid", "no_finding"],
    "ordinal": ["0", "1", "2", "3", "4"],
}
EIGHT = ["efficientnet_b4", "efficientnet_b7", "resnet101", "resnet152"]
EIGHT += ["densenet169", "densenet201", "mobilenet_v2", "vgg19_bn"]
REASON = "Both public collections are used as published; see the figures within one source."


def study_of_classes(kind: str, **changes: Any) -> Study:
    """A study like the published one on chest radiographs, or of grades."""
    grades = kind == "ordinal"
    target: dict[str, Any] = {"kind": "ordinal" if grades else "classification", "classes": CLASSES[kind]}
    values: dict[str, Any] = {
        "name": f"toy-{kind}",
        "title": "Diabetic retinopathy" if grades else "COVID-19 on chest radiographs",
        "description": "Retinopathy by grade." if grades else "Radiographs of two public collections.",
        "cohort": "cases.csv",
        "images": {"size": 64, "channels": "grey"},
        "targets": {"retinopathy" if grades else "finding": target},
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
    kind, k = study.kind_of(outcome), len(study.classes_of(outcome))
    rows: list[dict[str, Any]] = []
    for stage, count, letter in (("in", subjects, "P"), ("external", outside, "E")):
        shares = np.array([1.0, 1.3, 1.2, 0.5, 0.4][:k]) / sum([1.0, 1.3, 1.2, 0.5, 0.4][:k])
        truths = random.choice(k, count, p=shares)
        truths[: 2 * k] = (np.arange(2 * k) % k)[:count]
        for s, visit in [(person, visit) for person in range(count) for visit in range(1 + (person % 4 == 0))]:
            subject, where = f"{letter}{s:03d}", stage if stage == "external" else "test" if s < test else "oof"
            common = {"case": f"{subject}/{visit + 1}", "subject": subject, "visit": str(visit + 1), "day": np.nan}
            common |= {"region": "", "image": "", "inner_fold": None, "target": outcome, "stage": where, "kind": kind}
            common |= {"outer_fold": s % 5 + 1 if where == "oof" else None, "y_true": float(truths[s])}
            hard, before = random.normal(0, 1, k), []
            for i, learner in enumerate(learners):
                logits = -1.1 * np.abs(np.arange(k) - truths[s]) if kind == "ordinal" else np.eye(k)[truths[s]] * 2
                noise = random.normal(0, 0.45 + 0.07 * i, k)
                p = np.exp(2.6 * (logits + hard * (0.9 if where != "external" else 1.5) + noise))
                p = np.mean(before, axis=0) if learner == "mean_of_learners" else p / p.sum()
                before.append(p)
                said = float(kind_named(kind).decide(p[None])[0])
                rows.append({**common, "model": learner, "y_pred": said, **{f"p{j}": p[j] for j in range(k)}})
    return pd.DataFrame(rows).astype({"outer_fold": "Int64", "inner_fold": "Int64"})


def audit_of(images: pd.DataFrame, accepted: dict[str, str]) -> dict[str, Any]:
    """What an audit of the chest cohort may leave behind."""
    paths, subjects = images["path"].tolist(), images["subject"].nunique()
    probe = {"target": "finding", "metric": "auroc", "p": 0.001, "p_adjusted": 0.001, "images": len(images)}
    probe |= {"subjects": subjects, "subjects_of_smallest": 9}
    twins = {"pairs": 4, "images": 8, "subjects": 8, "bytes": 1, "pixels": 0, "near": 3, "mirrored": 1}
    source = {**probe, "evidence": "source", "value": 0.914, "by_class": {"covid": 0.97}}
    within = {**probe, "evidence": "image", "value": 0.97, "within": "no_finding"}
    within["by_class"] = {"cohen": 0.97, "nih": 0.97}
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
    border["by_class"] = {"covid": 0.52}
    facts = {"subjects": subjects, "images": len(images), "tests": [source, border, within]}
    seconds = {"twins": 23.1, "shortcuts": 9.7}
    return Audit(found, seconds, {**facts, "not_tested": ["finding from view"]}).as_json(accepted)


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
    positive = {outcome: first} if (first := study.positive_of(outcome)) else {}
    metrics = evaluate(predictions, Outcomes(outcome, classes={outcome: names}, positive=positive), Plan(50))
    metrics = with_sets(study, predictions, metrics)
    if outside:
        drop = {
            Cell("external", name, outcome, group=stage, contrast="internal"): drop_of(metrics, stage, name, outcome)
            for name in known
            for stage in ["test" if test else "oof"]
        }
        metrics = dataclasses.replace(metrics, figures=metrics.figures | Figures(drop))
    own = predictions[(predictions["model"] == known[0]) & (predictions["stage"] != "external")].reset_index(drop=True)
    paths = [f"images/film-{i:04d}.png" for i in range(len(own))]
    images = own[[*CASE, "region"]].assign(image=own.index, panel=own.index, path=paths)
    images[outcome] = own["y_true"]
    images["source"] = np.where((own["y_true"] == 0) | (own.index % 25 == 0), "cohen", "nih")
    panels = images.assign(tiles=[[i] for i in own.index])[["panel", *CASE, "region", "tiles", outcome]]
    sides: dict[str, Any] = {f"P{i:03d}": "test" if i < test else i % 5 + 1 for i in range(subjects)}
    jobs, lr = jobs_of(study), np.geomspace(1e-7, 1, 60)
    loss = 1.1 - 0.6 / (1 + np.exp(-1.6 * (np.log10(lr) + 3.6))) + 1.6 * np.maximum(np.log10(lr) + 1.4, 0) ** 3
    for i, job in enumerate(jobs):
        job["finder"] = {"rates": lr.tolist(), "losses": loss.tolist(), "chosen": 1e-4 if i % 2 else 2.4e-4}
        if job["model"] == study.backbones[-1]:
            groups = range(3 if i % 2 else 4)
            job["stages"] = [{"unfrozen": g, "best_loss": 0.8 - 0.1 * g, "kept": True} for g in groups]
    return ReportContext(
        study=study,
        cohort_images=images,
        panels=panels,
        cases=panels.drop_duplicates("case")[[*CASE, outcome]].reset_index(drop=True),
        notes=["Twelve rows of other classes were left out.", *sentences(metrics.notes)],
        splits=splits_of(study, sides, panels),
        predictions=predictions,
        metrics=metrics,
        jobs=jobs,
        tiles=lambda numbers: np.stack([picture(n, channels=1) for n in numbers]),
        photograph=lambda n: picture(n, 160, 1)[0],
        environment={"casewise": "0.1.0", "seconds": sum(job["seconds"] for job in jobs) + 300},
        audit=audit_of(images, {"shortcut-source": REASON} if accepted is None else accepted),
    )


def drop_of(results: Results, stage: str, learner: str, outcome: str) -> ByMetric:
    """The figures of the external cohort minus those of a stage, with intervals of a fixed width."""
    drops, outside = {}, results.figures.of("external", learner, outcome)
    for metric, internal in results.figures.of(stage, learner, outcome).items():
        if (there := outside[metric].value) is not None and internal.value is not None:
            d = there - internal.value
            drops[metric] = Estimate(d, d - 0.05, d + 0.05, rough=False)
    return drops


PHASES = [
    {"freeze": "all", "frozen": 2_223_872, "trainable": 1_281, "running_statistics": 34_112, "last_frozen": "body"},
    {"freeze": "11 blocks", "frozen": 298_432, "trainable": 1_926_721, "running_statistics": 34_112},
]
PHASES[0] |= {"way": "output of the frozen layers computed once per panel", "epochs": 60}
PHASES[1] |= {"last_frozen": "features.11", "way": "all at every step", "epochs": 15}


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
    stated = [{"epochs": 60, "freeze": "all"}, {"epochs": 15, "freeze": "11 blocks", "lr": 1e-5}]
    recipe = {"lr": 0.001, "schedule": "constant", "phases": stated, "early_stopping": {"monitor": stop}}
    study = Study.model_validate({**context.study.model_dump(), "recipe": recipe})
    names, jobs = study.classes_of(study.primary_outcome), copy.deepcopy(context.jobs)
    for job in jobs:
        fold = job["fold"]
        cost = {"rows": 400 + fold, "seconds": 10.0 * fold, "core_seconds": 20.0 * fold}
        job |= {"phases": [phase | cost for phase in PHASES], "seconds": 20.0 * fold + 1.5, "stopped_on": stop}
        job |= {"history": history(fold, stop=stop != "none"), "epochs": 75, "best_epoch": 75}
        job |= {"stages": [], "finder": None}
        if names:
            n, both = 50 * len(names) + fold, len(names) == 2
            rates = {"sensitivity": 50 / (50 + fold) if both else None, "specificity": 1.0 if both else None}
            job["on_training"] = {**rates, "accuracy": 50 * len(names) / n, "n": n}
            if stop != "none":
                job["on_inner"] = {**job["on_training"], "accuracy": 0.8, "n": 20}
    return dataclasses.replace(context, study=study, jobs=jobs)


def split_by_image(context: ReportContext, value: float) -> ReportContext:
    """The context with what a split by image would have claimed of every learner."""
    outcome, stage, ends = context.outcome, context.stage, {"value": value, "low": value - 0.02, "high": value + 0.01}
    changed = ("auroc", "sensitivity", "specificity", "accuracy")
    cells: dict[Cell, ByMetric] = {}
    for learner in context.learners:
        figures = dict(context.figures(stage, learner))
        new = {name: dataclasses.replace(f, **ends) for name, f in figures.items() if name in changed}
        cells[Cell(stage, learner, outcome, IMAGES)] = figures | new
    images = context.cohort_images.groupby("subject").size()
    several = int((images > 1).sum())
    main = {"target": outcome, "stage": stage, "learner": context.learner, "kind": context.kind}
    split = ImageSplit(main, several - 2, several, len(images), int(images.sum()))
    return with_figures(with_results(context, image_split=split), cells)


def with_results(context: ReportContext, **changes: Any) -> ReportContext:
    """The context with some of its results changed."""
    return dataclasses.replace(context, metrics=dataclasses.replace(context.metrics, **changes))


def without_truth(context: ReportContext) -> ReportContext:
    """The context had no case a reference value."""
    results = Results(Headline(context.outcome, None, None, None, context.kind))
    return dataclasses.replace(context, metrics=results, predictions=context.predictions.assign(y_true=np.nan))


def finished(context: ReportContext, folder: Path, **changes: Any) -> Path:
    """A run folder with what a Markdown page is made from; `changes` update a file by its name."""
    run = RunFolder(folder)
    contents = {
        "study": context.study.model_dump(mode="json"),
        "metrics": encoded(context.metrics),
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


def section_of(text: str, id: str) -> str:
    """The part of a page from the beginning of a section to its end."""
    return text.split(f'<section id="{id}"')[1].split("</section>")[0]


def estimate(
    value: float | None, low: float | None = None, high: float | None = None, *, subjects: int = 100, **changes: Any
) -> Estimate:
    """A figure of as many cases as subjects."""
    return dataclasses.replace(Estimate(value, low, high, subjects, subjects, rough=False), **changes)


def with_figures(context: ReportContext, cells: Mapping[Cell, ByMetric]) -> ReportContext:
    """The context with other figures in some cells; no figures remove a cell."""
    own = {cell: figures for cell, figures in (context.metrics.figures.cells | dict(cells)).items() if figures}
    return with_results(context, figures=Figures(own))


def with_own(context: ReportContext, own: ByMetric | None = None, **entry: Any) -> ReportContext:
    """The context with other figures of the shown learner, or other fields of its classes."""
    stage, learner, outcome = context.stage, context.learner, context.outcome
    classes_ = copy.deepcopy(context.metrics.classes)
    if entry:
        classes_[stage][learner][outcome] = dataclasses.replace(classes_[stage][learner][outcome], **entry)
    changed = {Cell(stage, learner, outcome): own} if own is not None else {}
    return with_figures(with_results(context, classes=classes_), changed)
