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
from casewise.report import audit, classes, confident, external, labels, learners, rates, summary, summary_classes, words
from casewise.report.figures_classes import curves_of
from casewise.report.material import Material
from casewise.report.page import render, write_report
from casewise.report.results_page import write_results
from casewise.study import Study
from tests.test_report import Page, check_page, jobs_of, splits_of

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


def estimate(value: float, n: int, wide: float = 1.0) -> dict[str, Any]:
    """A figure with a plausible interval."""
    half = 1.96 * wide * float(np.sqrt(max(value * (1 - value), 0.002) / n))
    low, high = max(value - half, -1.0), min(value + half, 1.0)
    return {"value": value, "low": low, "high": high, "n_subjects": n, "n_cases": n, "rough": n < 10}


def bins_of(p: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Fifteen equal bins of the highest probability."""
    top, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.clip(np.ceil(top * 15).astype(int) - 1, 0, 14)
    return [
        {
            "low": b / 15,
            "high": (b + 1) / 15,
            "n": int((place == b).sum()),
            "confidence": float(top[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
        }
        for b in np.unique(place)
    ]


def figures_of(rows: pd.DataFrame, study: Study, *, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of `metrics` and of `classes` for one learner and stage, as the contract has them."""
    from sklearn import metrics as sk

    outcome = study.outcome
    names, positive = study.classes_of(outcome), study.positive_of(outcome)
    truth, said, p = (
        rows["y_true"].to_numpy(int),
        rows["y_pred"].to_numpy(int),
        rows[[f"p{k}" for k in range(len(names))]].to_numpy(float),
    )
    n, all_classes = len(truth), range(len(names))
    soft = p**0.6 / (p**0.6).sum(axis=1, keepdims=True)
    each = sk.precision_recall_fscore_support(truth, said, labels=list(all_classes), zero_division=0)
    told: dict[str, Any] = {"accuracy": estimate(float((truth == said).mean()), n)}
    told["balanced_accuracy"] = estimate(float(each[1].mean()), n)
    if len(names) > 2 and study.kind_of(outcome) == "classification":
        told["top2_accuracy"] = estimate(float((np.argsort(-p, axis=1)[:, :2] == truth[:, None]).any(axis=1).mean()), n)
    by_class: dict[str, list[float]] = {"precision": each[0], "recall": each[1], "f1": each[2]}
    by_class["auroc"] = [sk.roc_auc_score(truth == k, p[:, k]) for k in all_classes]
    by_class["auprc"] = [sk.average_precision_score(truth == k, p[:, k]) for k in all_classes]
    for metric, values in by_class.items():
        told[metric] = estimate(float(np.mean(values)), n)
        for k, name in enumerate(names):
            told[f"{metric}[{name}]"] = estimate(float(values[k]), max(int((truth == k).sum()), 1))
    told["kappa"] = estimate(float(sk.cohen_kappa_score(truth, said)), n)
    if positive:
        at = names.index(positive)
        told["sensitivity"] = estimate(float(each[1][at]), int((truth == at).sum()))
        told["specificity"] = estimate(float(each[1][1 - at]), int((truth != at).sum()))
    if study.kind_of(outcome) == "ordinal":
        told["kappa_quadratic"] = estimate(float(sk.cohen_kappa_score(truth, said, weights="quadratic")), n)
        told["mae"] = estimate(float(np.abs(truth - said).mean()), n)
    for ending, q in (("", p), ("_calibrated", soft)):
        bins = bins_of(q, truth)
        told[f"ece{ending}"] = estimate(sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / n, n, 0.4)
        told[f"brier{ending}"] = estimate(float(((q - np.eye(len(names))[truth]) ** 2).sum(axis=1).mean()), n)
        told[f"log_loss{ending}"] = estimate(float(-np.log(np.maximum(q[range(n), truth], 1e-12)).mean()), n)
    curves, points = {}, []
    chosen_on = "the other folds" if stage == "oof" else "out of fold"
    for k, name in enumerate(names):
        if positive and name != positive:
            continue
        fpr, tpr, thresholds = sk.roc_curve(truth == k, p[:, k])
        kept = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), 200)).astype(int))
        curves[name] = {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()}
        for rule, place in (("youden", int((tpr - fpr).argmax())), ("sensitivity >= 0.9", int((tpr >= 0.9).argmax()))):
            share = float((truth == k).mean())
            found = tpr[place] * share / max(tpr[place] * share + fpr[place] * (1 - share), 1e-9)
            points.append(
                {
                    "class": name,
                    "rule": rule,
                    "threshold": float(min(thresholds[place], 1.0)),
                    "chosen_on": chosen_on,
                    "sensitivity": estimate(float(tpr[place]), n),
                    "specificity": estimate(float(1 - fpr[place]), n),
                    "precision": estimate(float(found), n),
                }
            )
    entry = {
        "names": names,
        "positive": positive,
        "support": [int((truth == k).sum()) for k in all_classes],
        "confusion": sk.confusion_matrix(truth, said, labels=list(all_classes)).tolist(),
        "temperature": 1.67,
        "temperature_fitted_on": chosen_on,
        "roc": curves,
        "reliability": bins_of(p, truth),
        "reliability_calibrated": bins_of(soft, truth),
        "operating": points,
    }
    return told, entry


def predictions_of(study: Study, subjects: int, learners: list[str], *, test: int, outside: int) -> pd.DataFrame:
    """Predictions of every learner; one case a subject, some have two; class and source go together."""
    from casewise.predictions import decided

    random, outcome = np.random.default_rng(7), study.outcome
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
                    logits = logits + hard * (0.9 if where != "external" else 1.5) + random.normal(0, 0.45 + 0.07 * i, k)
                    p = np.exp(2.6 * logits)
                    p = p / p.sum()
                    p = np.mean(before, axis=0) if learner == "mean_of_learners" else p
                    before.append(p)
                    fold = None if where != "oof" else s % 5 + 1
                    said = float(decided(kind, p[None])[0])
                    row = {**common, "model": learner, "stage": where, "outer_fold": fold, "kind": kind}
                    rows.append({**row, "y_true": float(truths[s]), "y_pred": said, **{f"p{j}": p[j] for j in range(k)}})
    return pd.DataFrame(rows).astype({"outer_fold": "Int64", "inner_fold": "Int64"})


def compared(metrics: dict[str, Any], outcome: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Comparisons as evaluation gives them: those within three points of the best cannot be told apart."""
    found: dict[str, Any] = {outcome: {}}
    for metric in names:
        sign = -1 if metric == "log_loss" else 1
        values = {learner: sign * told[outcome][metric]["value"] for learner, told in metrics.items()}
        best = max(values, key=values.__getitem__)
        alike = [n for n, v in values.items() if values[best] - v < 0.03]
        differences = {n: {"value": sign * (v - values[best])} for n, v in values.items() if n != best}
        found[outcome][metric] = {"best": best, "not_told_apart": alike, "differences": differences, "rough": False}
    return found


def film(number: int, size: int = 64) -> np.ndarray:
    """A grey picture with two dark lungs."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    picture = 190 - 40 * np.abs(x - 0.5)
    for centre in (0.32, 0.68):
        picture = picture - 120 * np.exp(-(((x - centre) / 0.13) ** 2 + ((y - 0.5) / 0.28) ** 2) ** 2)
    spot = random.uniform(0.3, 0.7, 2)
    picture = picture + 60 * np.exp(-(((x - spot[0]) / 0.08) ** 2 + ((y - spot[1]) / 0.1) ** 2))
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)[None]


def audit_of(images: pd.DataFrame, accepted: dict[str, str]) -> dict[str, Any]:
    """What an audit of the chest cohort may leave behind."""
    paths = images["path"].tolist()
    p = {"p": 0.001, "permutations": 999}
    found = [
        Finding(
            "shortcut-source",
            "error",
            "The column source tells the finding with an AUROC of 0.91 (p 0.001) without looking at any image.",
            {"auroc": 0.91, **p},
            remedy="Judge within one source, or leave whole sources out: split: {leave_out: source}.",
        ),
        Finding(
            "source-told-no_finding",
            "warning",
            "Among the images with no finding, the image tells the source with an AUROC of 0.97 (p 0.001).",
            {"auroc": 0.97, **p},
        ),
        Finding(
            "twins-across-subjects",
            "warning",
            "4 pairs of images show the same picture under two subjects.",
            {"identical": 1, "altered": 3},
            list(zip(paths[:4], paths[10:14], strict=True)),
            "Give both the same subject in the column subject, or drop one.",
        ),
        Finding("shortcut-border", "note", "The border of the image tells the finding no better than chance.", {"auroc": 0.52, "p": 0.31}),
    ]
    seconds = {"hashes": 4.2, "embeddings": 18.9, "shortcuts": 9.7}
    return Audit(found, seconds, {"subjects": 120, "images": len(images)}).as_json(accepted)


def toy(
    kind: str = "classification",
    *,
    subjects: int = 120,
    test: int = 0,
    outside: int = 0,
    networks: int = 3,
    accepted: dict[str, str] | None = None,
    **changes: Any,
) -> Material:
    """Material of a made-up study of classes, `metrics.json` by the contract."""
    study = study_of(kind, **{"backbones": EIGHT[:networks]} | changes)
    outcome, names = study.outcome, study.classes_of(study.outcome)
    known = [*study.backbones, "mean_of_learners"] if networks > 1 else list(study.backbones)
    predictions = predictions_of(study, subjects, known, test=test, outside=outside)
    stages = [s for s in ("oof", "test", "external") if (predictions["stage"] == s).any()]
    metrics: dict[str, Any] = {"metrics": {}, "classes": {}, "comparisons": {}, "response": {}, "bands": {}, "readers": {}}
    for stage in stages:
        both = {
            learner: figures_of(part, study, stage=stage)
            for learner, part in predictions[predictions["stage"] == stage].groupby("model", sort=False)
        }
        metrics["metrics"][stage] = {learner: {outcome: told} for learner, (told, _) in both.items()}
        metrics["classes"][stage] = {learner: {outcome: entry} for learner, (_, entry) in both.items()}
        order = ("accuracy", "auroc", "f1", "log_loss", *(("kappa_quadratic",) if kind == "ordinal" else ()))
        if networks > 1:
            metrics["comparisons"][stage] = compared(metrics["metrics"][stage], outcome, order)
    merit = "kappa_quadratic" if kind == "ordinal" else "auroc"
    learner = max(known, key=lambda n: metrics["metrics"]["oof"][n][outcome][merit]["value"])
    judged = metrics["metrics"]["test" if test else "oof"][learner][outcome]
    metrics["main"] = {
        "target": outcome,
        "stage": "test" if test else "oof",
        "learner": learner,
        "chosen_on": "oof",
        "metrics": judged,
        "kind": study.kind_of(outcome),
    }
    metrics["notes"] = ["Intervals are 95 % percentile intervals from 2,000 resamples of whole subjects (seed 0)."]
    if outside:
        inside = metrics["metrics"]["test" if test else "oof"]
        metrics["external_drop"] = {
            name: {
                metric: {"difference": d, "low": d - 0.05, "high": d + 0.05}
                for metric in inside[name][outcome]
                if (d := metrics["metrics"]["external"][name][outcome][metric]["value"] - inside[name][outcome][metric]["value"])
                is not None
            }
            for name in known
        }
    own = predictions[(predictions["model"] == known[0]) & (predictions["stage"] != "external")].reset_index(drop=True)
    images = own[["subject", "visit", "case", "day", "region"]].assign(
        image=range(len(own)), panel=range(len(own)), path=[f"images/film-{i:04d}.png" for i in range(len(own))]
    )
    images[outcome] = own["y_true"]
    images["source"] = np.where((own["y_true"] == 0) | (own.index % 25 == 0), "cohen", "nih")
    panels = images.assign(tiles=[[i] for i in range(len(own))])[["panel", "case", "subject", "visit", "day", "region", "tiles", outcome]]
    sides: dict[str, Any] = {f"P{i:03d}": "test" if i < test else i % 5 + 1 for i in range(subjects)}
    jobs = jobs_of(study)
    lr = np.geomspace(1e-7, 1, 60)
    for i, job in enumerate(jobs):
        loss = 1.1 - 0.6 / (1 + np.exp(-1.6 * (np.log10(lr) + 3.6))) + 0.04 * np.maximum(np.log10(lr) + 1.4, 0) ** 3 * 40
        loss = loss + np.random.default_rng(i).normal(0, 0.05, len(lr))
        job["finder"] = {"rates": lr.tolist(), "losses": loss.tolist(), "chosen": 1e-4 if i % 2 else 2.4e-4}
        if job["model"] == study.backbones[-1]:
            job["stages"] = [{"unfrozen": g, "best_loss": 0.8 - 0.1 * g, "kept": True} for g in range(3 if i % 2 else 4)]
    return Material(
        study=study,
        cohort_images=images,
        panels=panels,
        cases=panels.drop_duplicates("case")[["case", "subject", "visit", "day", outcome]].reset_index(drop=True),
        notes=["Twelve rows of other classes were left out.", *metrics["notes"]],
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


if __name__ == "__main__":  # to look at the variants: python -m tests.test_report_classes FOLDER
    import sys

    folder = Path(sys.argv[1])
    write_report(toy(test=30, outside=60, networks=8, synthetic=True), folder / "three.html")
    write_report(toy("binary", networks=2), folder / "two.html")
    write_report(toy("ordinal", test=25, networks=3, subjects_known=False), folder / "grades.html")
