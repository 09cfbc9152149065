"""The part of the Markdown page on where networks looked, as `casewise explain --measure` found it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.report.sections.saliency import ALMOST, GROUPS, HIT, SHARE, sentence_of

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

HEADS = {
    "hit": "highest point in the lesion",
    "near": "within half a cell of it",
    "share_inside": "share of the map in the lesion",
}
_TITLES = {
    "random_weights": "random weights",
    "over_random_weights": "map less random weights",
    "prior": "centre",
    "over_prior": "map less centre",
    "chance_hit": "cells shuffled",
    "chance_near": "cells shuffled",
    "mask_share": "lesion's share of the image",
}


def explained(folder: RunFolder) -> list[str]:
    """Sentences and a table of each figure; nothing where nothing was measured."""
    told = (folder.explanations.read_or_none() or {}).get("measured")
    if not told or "made_of" not in told:
        return []
    networks = {name: one for name, one in told["networks"].items() if one.get("all")}
    lines = ["## Where networks looked", ""]
    lines += [f"- {sentence_of(name, one)}" for name, one in told["networks"].items()]
    outside = f" {told['outside_window']} more have theirs outside." if told["outside_window"] else ""
    lines += [
        "",
        f"Of {told['cases']:,} cases out of fold {told['with_lesion']:,} have a lesion on the slices looked at."
        f"{outside}",
    ]
    for name, one in networks.items():
        rows, columns = one["cells"]
        lines += [
            "",
            f"`{name}`: {one['method']}, {rows} × {columns} cells, weights drawn anew {one['draws']} times a fold.",
        ]
    for figures in (HIT, ALMOST, SHARE):
        lines += ["", *_table(networks, figures)]
    return [*lines, ""]


def _table(networks: dict[str, Any], figures: tuple[str, ...]) -> list[str]:
    own, *others = figures
    heads = [HEADS[own], *(_title(name) for name in others)]
    lines = [f"| network | cases | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, one in networks.items():
        for group, words in GROUPS.items():
            if part := one.get(group):
                cells = [_percent(part.get(key)) for key in figures]
                lines.append(f"| {name}, {words} | {part['hit']['n_cases']} | {' | '.join(cells)} |")
    return lines


def _title(name: str) -> str:
    """
    >>> _title("random_weights_hit"), _title("share_over_prior")
    ('random weights', 'map less centre')
    """
    kept = [key for key in _TITLES if key in name]
    return _TITLES[max(kept, key=len)]


def _percent(figure: dict[str, Any] | None) -> str:
    """
    >>> _percent({"value": 0.951, "low": 0.9, "high": 1.0}), _percent(None)
    ('95 [90, 100] %', '–')
    """
    if not figure or figure.get("value") is None:
        return "–"
    value, *ends = (None if figure.get(key) is None else round(100 * figure[key]) for key in ("value", "low", "high"))
    return f"{value} %" if None in ends else f"{value} [{ends[0]}, {ends[1]}] %"
