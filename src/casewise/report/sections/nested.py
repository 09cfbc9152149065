"""Nested cross-validation: what inner folds chose in each fold, and figures as mean ± standard deviation over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casewise.cohort.natural_sort import natural
from casewise.evaluation.fold_summary import WHY
from casewise.metrics.registry import columns
from casewise.predictions.nested_cv import NESTED, chosen_networks
from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import MISSING, counted, digits_for, listed, number, rate
from casewise.report.sections.measures import measure_cell, measure_of, written
from casewise.report.sections.tables import TITLES, Cell, Row, figure_cell

MOST_NETWORKS = 12
ELSEWHERE = "For patients outside the folds it is the network of the lowest mean inner loss over the folds"


def chosen(jobs: Sequence[Mapping[str, Any]], networks: Sequence[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """What inner folds chose, [fold][network] = {lr, epochs, loss}; empty where nothing was tuned inside."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    order = {name: place for place, name in enumerate(networks)}
    tuned = [job for job in jobs if job.get("inner") and job["model"] in order]
    for job in sorted(tuned, key=lambda job: (natural(job["fold"]), order[job["model"]])):
        found.setdefault(str(job["fold"]), {})[str(job["model"])] = job["inner"]["chosen"]
    return found


def told(jobs: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> list[str]:
    """In sentences, of a study as `study.json` has it: how it was chosen, and where the choice reached its limit."""
    inner = [job["inner"] for job in jobs if job.get("inner")]
    if not inner:
        return []
    tune, epochs = study["nested_cv"], int(study["recipe"]["epochs"])
    rates = [one["lr"] for one in inner[0]["rates"]]
    what = ["the number of epochs"] if tune["epochs"] else []
    what += [f"the learning rate (of {listed([rate(r) for r in rates], 'or')})"] if len(rates) > 1 else []
    way = (
        f"the training subjects of each fold were divided once more, into {inner[0]['folds']} inner folds, and the "
        "network trained on all of these but one at a time; what had the lowest loss on those left out, a mean over "
        "the inner folds, was taken. Then the network was trained anew on all training subjects of the fold. Nothing "
        "of the fold's own subjects had a part in it."
    )
    sentences = [f"To choose {' and '.join(what) or 'among networks'}, {way}"]
    last = sum(one["chosen"]["epochs"] >= epochs for one in inner)
    if tune["epochs"] and last:
        sentences.append(
            f"In {last} of {counted(len(inner), 'choice')} it was the last epoch that was tried ({epochs}): more "
            "epochs might have been better."
        )
    edge = sum(one["chosen"]["lr"] in (min(rates), max(rates)) for one in inner)
    if len(rates) > 2 and edge:
        sentences.append(f"In {edge} of {len(inner)} it was the lowest or the highest rate that was tried.")
    failed = sum("failed" in training for one in inner for training in one["trainings"])
    if failed:
        sentences.append(f"{counted(failed, 'inner training')} ended in a loss that is no number; such a rate is out.")
    return sentences


def section(material: ReportContext) -> dict[str, Any] | None:
    """The table of what was chosen in each fold; None where nothing was tuned inside."""
    study = material.study
    found = chosen(material.jobs, study.networks)
    if not found or not study.nested_cv:
        return None
    among = NESTED in material.learners
    picked = chosen_networks(material.jobs, study.networks)
    networks = study.networks[:MOST_NETWORKS]
    rows = []
    for fold, by_network in found.items():
        cells = [_cell(by_network.get(name)) for name in networks]
        cells += [Cell(picked["folds"][fold]["network"])] if among else []
        rows.append(Row(f"Fold {fold}", cells))
    if among:
        means = picked["elsewhere"]["losses"]
        cells = [Cell(number(means.get(name), 3), "mean loss") for name in networks]
        rows.append(Row("All folds", [*cells, Cell(picked["elsewhere"]["network"])]))
    return {
        "sentences": told(material.jobs, study.model_dump(mode="json")),
        "rows": rows,
        "heads": ["", *networks, *(["Chosen"] if among else [])],
        "more": len(study.networks) - len(networks),
        "among": among,
        "elsewhere": f"{ELSEWHERE}, {picked['elsewhere']['network']}." if among else "",
        "name": NESTED,
    }


def _cell(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return Cell(MISSING)
    epochs = counted(int(found["epochs"]), "epoch")
    return Cell(epochs, f"rate {rate(found['lr'])}, loss {number(found['loss'], 3)}", float(found["loss"]))


def tables(learners: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Learners in the tables that one reads them in, each with its title: what differs in one thing stands together.

    Where backbones and fusions both differ that is a table for each fusion of several backbones, and one for each
    backbone of several fusions; what stands in neither, stackers too, comes last. Else one table without a title.

    >>> tables(["vit@early", "alexnet@early", "vit@late"])
    [('Fusion early', ['vit@early', 'alexnet@early']), ('Backbone vit', ['vit@early', 'vit@late'])]
    >>> tables(["vit", "mean"])
    [('', ['vit', 'mean'])]
    """
    pairs = {name: name.partition("@")[::2] for name in learners if "@" in name}
    found = []
    for place, what in ((1, "Fusion"), (0, "Backbone")):
        for common in dict.fromkeys(pair[place] for pair in pairs.values()):
            names = [name for name, pair in pairs.items() if pair[place] == common]
            found += [(f"{what} {common}", names)] if len(names) > 1 else []
    if len(found) < 2:
        return [("", list(learners))]
    rest = [name for name in learners if not any(name in names for _, names in found)]
    return [*found, *([("Others", rest)] if rest else [])]


def over_folds(material: ReportContext) -> dict[str, Any] | None:
    """Mean ± sd over folds beside the pooled figures with their intervals, of the main outcome.

    None where fewer than two folds were judged, and where folds are sources, which have a section of their own.
    """
    outcome = material.study.primary_outcome
    by_learner = material.metrics.get("over_folds", {}).get(outcome)
    if not by_learner or material.metrics.get("left_out"):
        return None
    numbers = material.kind == "regression"
    names = columns("folds", material.kind, len(material.study.classes_of(outcome)) or None)
    rows = []
    for learner in (name for name in material.learners if name in by_learner):
        pooled, cells = material.figures("oof", learner, outcome), []
        for name in names:
            digits = digits_for(material.study, name, outcome) if numbers else None
            cells.append(spread(name, by_learner[learner].get(name), digits))
            cells.append(
                figure_cell(pooled.get(name), digits) if digits is not None else measure_cell(name, pooled.get(name))
            )
        rows.append(Row(learner, cells, mark=learner == material.learner))
    titles = [TITLES[name] if numbers else measure_of(name).title for name in names]
    folds = len(next(iter(by_learner[material.learners[0]].values()))["folds"]) if rows else 0
    by_name = {row.name: row for row in rows}
    return {
        "tables": [(title, [by_name[name] for name in names]) for title, names in tables(list(by_name))],
        "heads": ["Learner", *(head for title in titles for head in (f"{title}, {folds} folds", "pooled"))],
        "why": WHY,
        "macro": not numbers,
    }


def spread(metric: str, found: Mapping[str, Any] | None, digits: int | None = None) -> Cell:
    """Mean ± sd as a cell, and of how many folds where some have no figure.

    >>> spread("accuracy", {"mean": 0.712, "sd": 0.0834, "folds": [0.6, 0.8]}).text
    '71.2 ± 8.3 %'
    """
    if not found or not is_number(found.get("mean")):
        return Cell(MISSING)
    known = sum(is_number(value) for value in found["folds"])
    small = "" if known == len(found["folds"]) else f"{known} of {len(found['folds'])} folds"
    if digits is not None:
        return Cell(f"{number(found['mean'], digits)} ± {number(found['sd'], digits)}", small, float(found["mean"]))
    text = f"{written(metric, found['mean'], unit=False)} ± {written(metric, found['sd'])}"
    return Cell(text, small, float(found["mean"]))
