"""What a clinician reads first of a study with classes: a few plain sentences and four figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import class_name, counted
from casewise.report.sections import per_source as within
from casewise.report.sections.classes import calibration
from casewise.report.sections.measures import bounds, measure_cell, written
from casewise.report.sections.summary import choice
from casewise.report.sections.tables import Cell
from casewise.report.sections.terminology import Words, judged_on

FEWEST = 5
RATES = ("accuracy", "sensitivity", "specificity")


def sentences(material: ReportContext) -> list[tuple[str, str]]:
    """Plain words, each with a head: how often right, how well told, what is missed, what it claims, who is shown."""
    words = Words(material)
    apart = within.is_mixed(material)
    found = [
        (f"Within each {within.column(material)}.", within.sentence(material) if apart else ""),
        ("How often it is right.", _accuracy(material, words)),
        ("How well it tells the classes apart.", "" if apart else _separation(material, words)),
        ("How far off it is.", _grades(material)),
        ("What it misses.", missed(material)),
        ("What its probabilities are worth.", calibration(material)),
        ("Which model this is.", choice(material)),
    ]
    return [(head, text) for head, text in found if text]


def _accuracy(material: ReportContext, words: Words) -> str:
    rows = material.chosen
    if rows.empty:
        return "No prediction of the main outcome has a recorded class, so nothing can be judged."
    names = material.study.classes_of(material.study.primary_outcome)
    truth = rows["y_true"].to_numpy(int)
    found = material.metric(material.stage, material.learner, "accuracy")
    value = found["value"] if found else float((rows["y_pred"] == rows["y_true"]).mean())
    text = bounds("accuracy", found, digits=0, words=True)
    told = f" ({certain(material, 'accuracy', found) or f'{words.confidence} interval {text}'})" if text else ""
    counts = np.bincount(truth, minlength=len(names))
    commonest = class_name(material.study, material.study.primary_outcome, names[int(counts.argmax())])
    share = written("accuracy", counts.max() / counts.sum(), digits=0)
    sentence = (
        f"{judged_on(material, words, 'class')} the model names the recorded class in "
        f"{written('accuracy', value, digits=0)} of the {words.noun}s{told}. "
        f"Always naming the commonest class, {commonest}, would give {share}."
    )
    if only := material.classed(material.stage, material.learner).get("names_only"):
        sentence += f" It names every {words.noun} {class_name(material.study, material.study.primary_outcome, only)}."
    balanced = material.metric(material.stage, material.learner, "balanced_accuracy")
    if balanced and abs(balanced["value"] - value) > 0.03:
        even = written("accuracy", balanced["value"], digits=0)
        chance = written("accuracy", 1 / len(names), digits=0)
        sentence += f" Each class counted alike, whatever its size, it is {even}, where guessing gives {chance}."
    return sentence


def certain(material: ReportContext, metric: str, found: dict[str, Any] | None) -> str:
    """For a rate of all or none, whose resamples cannot vary, how far an exact interval would go; else empty.

    The interval is Clopper and Pearson's (1934), of the subjects with an image of the classes that the rate is about.
    """
    ends = [(found or {}).get(key) for key in ("value", "low", "high")]
    if metric not in RATES or len(set(ends)) != 1 or ends[0] not in (0.0, 1.0):
        return ""
    study, rows = material.study, material.chosen
    positive = study.positive_of(study.primary_outcome)
    if metric != "accuracy" and positive is None:
        return ""
    if positive is not None and metric != "accuracy":
        of_class = rows["y_true"] == study.classes_of(study.primary_outcome).index(positive)
        rows = rows[of_class if metric == "sensitivity" else ~of_class]
    return exact(int(rows["subject"].nunique()), study.evaluation.confidence, every=ends[0] == 1.0)


def exact(subjects: int, confidence: float, *, every: bool) -> str:
    """All or none of so many subjects, with the exact interval of that share.

    >>> exact(6, 0.95, every=True)
    'all 6 of 6 subjects: an exact interval would be 54 to 100 %'
    >>> exact(6, 0.95, every=False), exact(0, 0.95, every=True)
    ('0 of 6 subjects: an exact interval would be 0 to 46 %', '')
    """
    from scipy.stats import binomtest

    if not subjects:
        return ""
    right = subjects if every else 0
    ends = binomtest(right, subjects).proportion_ci(confidence_level=confidence, method="exact")
    text = bounds("accuracy", {"low": float(ends.low), "high": float(ends.high)}, digits=0, words=True)
    return f"{'all ' if every else ''}{right:,} of {counted(subjects, 'subject')}: an exact interval would be {text}"


def _separation(material: ReportContext, words: Words) -> str:
    """The AUROC in words, and for more than two classes which is told best and worst."""
    study, outcome = material.study, material.study.primary_outcome
    auroc = material.metric(material.stage, material.learner, "auroc")
    if not auroc:
        return ""
    text = bounds("auroc", auroc, digits=2, words=True)
    told = f"{written('auroc', auroc['value'], digits=2)}{f' ({words.confidence} interval {text})' if text else ''}"
    names = study.classes_of(outcome)
    if positive := study.positive_of(outcome):
        first, other = (class_name(study, outcome, n) for n in (positive, *(n for n in names if n != positive)))
        return (
            f"The AUROC is {told}: of one {words.noun} with {first} and one with {other}, the first is given the "
            f"higher probability of {first} in {written('accuracy', auroc['value'], digits=0)}; 50 % is chance."
        )
    figures = material.figures(material.stage, material.learner, outcome)
    known = {n: f["value"] for n in names if (f := figures.get(f"auroc[{n}]")) and is_number(f.get("value"))}
    each = ""
    if len(known) > 1:
        best, worst = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
        told_best, told_worst = (
            f"{class_name(study, outcome, n)} ({written('auroc', known[n], digits=2)})" for n in (best, worst)
        )
        each = f" Best told from the others is {told_best}, worst {told_worst}."
    return f"The AUROC, each class against the others and averaged, is {told}; 0.5 is chance, 1 is perfect.{each}"


def _two(material: ReportContext, words: Words) -> str:
    """Sensitivity and specificity of two classes, in words."""
    study, outcome = material.study, material.study.primary_outcome
    positive = study.positive_of(outcome)
    found = {
        metric: f
        for metric in ("sensitivity", "specificity")
        if (f := material.metric(material.stage, material.learner, metric))
    }
    if positive is None or len(found) < 2:
        return ""
    first, other = (
        class_name(study, outcome, n) for n in (positive, *(n for n in study.classes_of(outcome) if n != positive))
    )
    share = {metric: written(metric, f["value"], digits=0) for metric, f in found.items()}
    inner = {metric: f"{metric}{_interval(material, metric, f)}" for metric, f in found.items()}
    return (
        f"Of the {words.noun}s with {first} it finds {share['sensitivity']} ({inner['sensitivity']}); of those with "
        f"{other} it calls {share['specificity']} by that name ({inner['specificity']}) and the rest {first}."
    )


def _interval(material: ReportContext, metric: str, found: dict[str, Any]) -> str:
    """The interval of a rate behind its name, and the exact one where all or none are right."""
    text = bounds(metric, found, digits=0, words=True)
    return f", {certain(material, metric, found) or f'interval {text}'}" if text else ""


def _grades(material: ReportContext) -> str:
    """For grades: agreement weighted by distance, and how many are at most one grade off."""
    if material.kind != "ordinal" or material.chosen.empty:
        return ""
    kappa = material.metric(material.stage, material.learner, "kappa_quadratic")
    mae = material.metric(material.stage, material.learner, "mae")
    near = float(((material.chosen["y_pred"] - material.chosen["y_true"]).abs() <= 1).mean())
    parts = []
    if kappa:
        text = bounds("kappa_quadratic", kappa, digits=2, words=True)
        inner = f" (interval {text})" if text else ""
        value = written("kappa_quadratic", kappa["value"], digits=2)
        parts.append(
            f"The quadratically weighted kappa is {value}{inner}: agreement beyond chance, "
            "a miss by two grades weighing four times a miss by one; 1 is perfect."
        )
    mean = f", and the mean error is {written('mae', mae['value'])} grades" if mae else ""
    parts.append(f"{written('accuracy', near, digits=0)} are right or one grade off{mean}.")
    return " ".join(parts)


def missed(material: ReportContext) -> str:
    """The class that is missed most and what it is taken for; said to be so only as far as its interval goes."""
    told, study = material.classed(material.stage, material.learner), material.study
    if not told:
        return ""
    if len(told["names"]) == 2 and (both := _two(material, Words(material))):
        return both
    figures = material.figures(material.stage, material.learner, study.primary_outcome)
    names, counts = [str(name) for name in told["names"]], told["confusion"]
    enough = [i for i, row in enumerate(counts) if sum(row) >= FEWEST]
    if len(enough) < 2:
        return ""
    recall = {i: counts[i][i] / sum(counts[i]) for i in enough}
    worst = min(enough, key=lambda i: (recall[i], i))
    noun, title = (
        Words(material).noun,
        {i: class_name(study, study.primary_outcome, name) for i, name in enumerate(names)},
    )
    others = {j: n for j, n in enumerate(counts[worst]) if j != worst and n}
    total = sum(counts[worst])
    if not others:
        return f"No {noun} of the {len(enough)} classes was missed."
    taken, most = max(others.items(), key=lambda pair: pair[1])
    share = written("recall", 1 - recall[worst], digits=0)
    beginning = f"{title[worst][0].upper()}{title[worst][1:]} is missed most"
    if len(others) == 1:
        whom = f"all taken for {title[taken]}" if len(names) > 2 else f"taken for {title[taken]}"
    else:
        whom = f"most often taken for {title[taken]} ({counted(most, noun)})"
    sentence = f"{beginning}: {total - counts[worst][worst]} of {counted(total, noun)} ({share}), {whom}."
    ends: dict[int, dict[str, Any]] = {i: figures.get(f"recall[{names[i]}]") or {} for i in enough}
    high: Any = ends[worst].get("high")
    lows = [low for i in enough if i != worst and is_number(low := ends[i].get("low"))]
    if is_number(high) and any(high >= low for low in lows):
        sentence += " Its interval overlaps with that of other classes: which class is hardest is not certain."
    return sentence


def tiles(material: ReportContext) -> list[tuple[str, Cell, str]]:
    """Four figures to remember: name, figure, unit or remark."""
    names = material.study.classes_of(material.study.primary_outcome)
    if material.kind == "ordinal":
        wanted = [("kappa_quadratic", "Weighted kappa", "of 1"), ("accuracy", "Exactly right", "")]
    else:
        wanted = [("accuracy", "Accuracy", ""), ("auroc", "AUROC" if len(names) == 2 else "AUROC, mean", "of 1")]
    wanted += [("sensitivity", "Sensitivity", ""), ("specificity", "Specificity", "")] if len(names) == 2 else []
    wanted += [("auroc", "AUROC, mean", "of 1"), ("mae", "Mean error", "grades")] * (material.kind == "ordinal")
    wanted += [("f1", "F1, mean", "of 1"), ("ece", "Calibration error (ECE)", "")]
    found: list[tuple[str, Cell, str]] = []
    for metric, title, unit in wanted:
        figure: dict[str, Any] | None = material.metric(material.stage, material.learner, metric)
        if figure and len(found) < 4 and within.is_mixed(material) and (cell := within.tile(material, metric)):
            found.append((title, cell, unit))
        elif figure and len(found) < 4:
            cell = measure_cell(metric, figure, words=True)
            found.append((title, replace(cell, small=certain(material, metric, figure) or cell.small), unit))
    return found
