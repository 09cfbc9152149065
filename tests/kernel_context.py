"""A made-up planned study of two classes in which the model with a radial kernel is the best baseline."""

import dataclasses
from pathlib import Path
from typing import Any

from PIL import Image

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import evaluate
from casewise.evaluation.results import AlteredAnswers, ClassChange
from casewise.pipeline.evaluate import outcomes
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from tests.report_contexts import classes, estimate, predictions_of

# Predictions of later learners have more noise.
LEARNERS = ["linear_pixels", "linear_features", "kernel_features", "mobilenet_v2", "mean_of_learners"]
WEIGHTED = "meta_learner_weighted"


def altered(changed: int) -> AlteredAnswers:
    """Figures of an alteration that changes this many of 80 answers."""
    share = estimate(changed / 80, 0.05, 0.4, subjects=80)
    changes, before = [ClassChange("covid", "no_finding", changed)], {"covid": 40, "no_finding": 40}
    return AlteredAnswers(
        80, 80, 80, changed, share, changes, before, {"before": 70, "after": 70 - changed, "of": 80}, 0.0
    )


def kernel_study(folder: Path) -> ReportContext:
    """One network, three baselines and their weighted mean; predictions are averaged with the mirrored image.

    Args:
        folder: of the pictures of the explained case.
    """
    context = classes(
        "binary",
        backbones=["mobilenet_v2"],
        networks=1,
        stack=["weighted"],
        stack_baselines=True,
        test_time_augmentation=True,
        external=None,
        recipe={"auto": True, "phases": [{"epochs": 4, "freeze": "all"}, {"epochs": 6, "freeze": "none"}]},
    )
    study = context.study
    predictions = predictions_of(study, 120, LEARNERS, test=0, outside=0)
    predictions = predictions.replace({"model": {"mean_of_learners": WEIGHTED}})
    results = evaluate(predictions, outcomes(study, predictions), Plan(50))
    changed = {name: {"brighter": altered(20 if name == "kernel_features" else 8)} for name in LEARNERS[:-1]}
    metrics = dataclasses.replace(results, counterfactuals=changed)
    return dataclasses.replace(
        context,
        predictions=predictions,
        metrics=metrics,
        notes=sentences(metrics.notes),
        explanations=_explained(folder, study.primary_outcome),
        plan="made-up plan: 10 epochs",
    )


def _explained(folder: Path, target: str) -> dict[str, Any]:
    """Contributions of a linear model and of the model with a kernel for one case."""
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    total = {"output": 1.0, "average": 0.2, "placed": 0.6, "unplaced": 0.2}
    entry = {"method": "contributions", "file": "picture.png", "predicted": "covid", "probability": 0.9}
    maps = [{**entry, "network": name, "correct": True, "sum": total} for name in LEARNERS[1:3]]
    row = {"name": "", "input": "picture.png", "outlined": None, "reference": "covid", "maps": maps}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["contributions"], "rows": [row]}
    shown = {"rule": "cases named", "folder": str(folder), "target": target, "cells": 0, "cases": [case]}
    return {"shown": shown, "measured": None}
