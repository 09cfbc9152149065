"""The parts of the Markdown page on nested cross-validation: figures over the folds, and what was chosen in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from casewise.evaluation.fold_summary import WHY
from casewise.metrics.registry import columns, metric_of
from casewise.predictions.nested_cv import NESTED, chosen_networks
from casewise.report.formatting import counted, rate
from casewise.report.markdown import classes as results_classes
from casewise.report.sections import nested
from casewise.study.schema import network_names


def over_folds(target: str, material: Sequence[dict[str, Any]]) -> list[str]:
    """Mean ± sd over the folds, a line a learner of every run; nothing where folds are sources, or a single fold."""
    found = [part["metrics"].get("over_folds", {}).get(target) for part in material]
    if not found[0] or material[0]["metrics"].get("left_out"):
        return []
    kind = results_classes.kind_of(material[0]["study"], target)
    numbers, names = kind == "regression", columns("folds", kind)
    heads = " | ".join(metric_of(name).title for name in names)
    lines = ["", "### Mean ± standard deviation over the folds, out of fold", ""]
    rows: dict[str, str] = {}
    for number, (part, by_learner) in enumerate(zip(material, found, strict=True)):
        suffix = f" ({part['study']['name']})" if number else ""
        for learner, figures in (by_learner or {}).items():
            cells = [_spread(figures.get(name), 2 if numbers else 3) for name in names]
            folds = len(figures[names[0]]["folds"])
            rows[f"{learner}{suffix}"] = f"| {learner}{suffix} | {folds} | {' | '.join(cells)} |"
    for title, learners in nested.tables(list(rows)):
        lines += [f"{title}:", ""] if title else []
        lines += [f"| learner | folds | {heads} |", "|---" * (2 + len(names)) + "|"]
        lines += [*(rows[learner] for learner in learners), ""]
    macro = "" if numbers else " Precision and recall are plain means over the classes."
    return [*lines, "", f"{WHY}{macro}", ""]


def _spread(found: dict[str, Any] | None, digits: int) -> str:
    """
    >>> _spread({"mean": 0.5, "sd": 0.25, "folds": [0.5, None]}, 3), _spread(None, 3)
    ('0.500 ± 0.250 (1 of 2 folds)', '–')
    """
    if not found or found.get("mean") is None:
        return "–"
    known = sum(value is not None for value in found["folds"])
    sd = "–" if found["sd"] is None else f"{found['sd']:.{digits}f}"
    some = "" if known == len(found["folds"]) else f" ({known} of {len(found['folds'])} folds)"
    return f"{found['mean']:.{digits}f} ± {sd}{some}"


def tuned_inside(material: dict[str, Any]) -> list[str]:
    """What inner folds chose in each fold; nothing where nothing was tuned inside."""
    study = material["study"]
    order = network_names(study["backbones"], (study.get("volumes") or {}).get("fusion", []))
    networks = sorted({str(job["model"]) for job in material["jobs"]}, key=order.index)
    found = nested.chosen(material["jobs"], networks)
    if not found:
        return []
    among = any(NESTED in learners for learners in material["metrics"]["metrics"].values())
    picked = chosen_networks(material["jobs"], networks)
    lines = ["## Tuned inside", "", " ".join(nested.told(material["jobs"], material["study"])), ""]
    if among:
        lines += [
            f"`{NESTED}` predicts each fold by the network of the lowest inner loss there. {nested.ELSEWHERE}, "
            f"{picked['elsewhere']['network']}.",
            "",
        ]
    lines += [
        f"| fold | {' | '.join(networks)} |{' chosen |' if among else ''}",
        "|---" * (1 + len(networks) + among) + "|",
    ]
    for fold, by_network in found.items():
        cells = [
            f"{counted(one['epochs'], 'epoch')} at {rate(one['lr'])}, loss {one['loss']:.3f}" if one else "–"
            for one in (by_network.get(name) for name in networks)
        ]
        cells += [picked["folds"][fold]["network"]] if among else []
        lines.append(f"| {fold} | {' | '.join(cells)} |")
    return [*lines, ""]
