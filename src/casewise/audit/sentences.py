"""What the audit says of a shortcut: a sentence with the figure for a clinician, and what to do about it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casewise.audit.probes import ProbeResult

__all__ = ["Lone", "decimal", "remedy", "sentence", "without"]

PATHS_SHOWN = 3

_SUBJECTS = {
    "column": "{name} alone",
    "files": "How the files were made (width, height, mode, format, compression) alone",
    "file-size": "The number of bytes a pixel alone",
    "border": "The border of the image alone",
    "thumbnail": "A thumbnail of 8 x 8 grey values alone",
    "outside-anatomy": "The image without the anatomy",
}
_MEANINGS = {
    "column": "a network can score that by recognising {name}, without looking at the disease",
    "files": "images of different classes come from different places, and a network can learn the place",
    "file-size": "files are larger where pictures are busier, which may be the disease, or how they were saved",
    "border": "a network can score that from markers, letters or the film's edge",
    "thumbnail": "brightness and outline do, which may be the disease, or how the image was taken",
    "outside-anatomy": "a network can score that without looking at the anatomy",
}
_COLUMN_REMEDIES = {
    "levels": "Cross-validate with `split: {{leave_out: {name}}}`, or study within one {name} (`where:`)",
    "dates": "Study classes from the same time (`where:`), or match them in {name}",
    "numbers": "Match the classes in {name}, and report results at each {name}",
    "sizes": "Compare within one {name} (`where:`)",
}
_REMEDIES = {
    "files": "Compare within one source (`where:`), {leave_out}, and save all images in one way",
    "file-size": "Look whether images were saved in different ways; if so, save all in one way",
    "border": (
        "Look at the borders: crop off markers and letters, {leave_out}; a border of the same tissue as the rest, as "
        "in windows of a biopsy, is no frame: accept the finding with that reason"
    ),
    "thumbnail": "Compare within one source (`where:`), {leave_out}, and see whether networks look at the disease",
    "outside-anatomy": "Crop to the anatomy of {mask}, {leave_out}, or compare within one source (`where:`)",
    "source-from-image": "Report the result within each {source}, or {leave_out}",
}


def decimal(value: float, places: int = 2) -> str:
    """A figure between −1 and 1 as medical journals print it.

    >>> decimal(0.934), decimal(1.0), decimal(-0.5), decimal(0.001, 3)
    ('.93', '1.00', '-.50', '.001')
    """
    text = f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


@dataclass(frozen=True)
class Lone:
    """A class of a target that stands in one source only; `among` are a source that has several classes, and those."""

    target: str
    label: str
    only: str
    among: tuple[str, list[str]] | None = None


def _for_lone(kind: str, source: str, lone: Lone, mask: str | None) -> str:
    """What to do where a class comes from one source only: a source that is left out would take the class with it."""
    why = f"all {lone.label} comes from {source} {lone.only}, so that `split.leave_out` cannot judge it"
    if lone.among:
        value, classes = lone.among
        within = f"`where: {{{source}: {value}}}` and `targets: {{{lone.target}: [{', '.join(classes)}]}}`"
        text = f"Compare within one {source}, such as {within} ({why}), or add {lone.label} from another {source}."
    else:
        text = f"Add classes from the same {source}: no {source} has two, and {why}."
    first = {
        "outside-anatomy": f"Crop to the anatomy of {mask}. ",
        "border": "Look at the borders for markers and letters and crop them off. ",
    }
    return first.get(kind, "") + text


def without(paths: Sequence[str], *, column: str = "path", root: Path | None = None) -> str:
    """The line that leaves images out, with paths as the table writes them: from `root`, where they lie below it.

    >>> without(["/data/a.png", "/data/b/c d.png", "/data/a.png"], root=Path("/data"))
    '`where_not: {path: [a.png, "b/c d.png"]}`'
    """
    named = list(dict.fromkeys(paths))
    written = [os.path.relpath(path, root) if root and Path(path).is_relative_to(root) else path for path in named]
    plain = [text if re.fullmatch(r"[^\W\d][\w./-]*|/[\w./-]+", text) else json.dumps(text) for text in written]
    more = f" with the others ({len(plain):,} in all; audit.json lists the pairs)" if len(plain) > PATHS_SHOWN else ""
    return f"`where_not: {{{column}: [{', '.join(plain[:PATHS_SHOWN])}]}}`{more}"


def sentence(
    kind: str,
    name: str,
    target: str,
    told: ProbeResult,
    *,
    p: float,
    how: str = "",
    within: str = "",
    source: str = "",
    by_filling: bool = False,
    marks_source: bool = False,
    classes: int = 0,
) -> str:
    """One sentence with the figure.

    Args:
        name: the column that tells.
        p: adjusted for all questions.
        within: the class in which the column `source` is told.
        by_filling: the column tells by whether it is filled in; `marks_source`: and `source` tells as much.
        classes: how many the target has; if fewer could be judged, they are named.

    >>> import numpy as np
    >>> sentence("column", "source", "label", Told(0.934, {}, np.zeros(0), np.zeros(0)), p=0.001)
    'source alone tells label: r = .93 (p = .001); a network can score that by recognising source, without looking at \
the disease.'
    """
    value = f"AUROC {decimal(told.value)} where .50 is chance" if told.by_class else f"r = {decimal(told.value)}"
    if len(told.by_class) > 2:
        best = max(told.by_class, key=lambda each: told.by_class[each])
        grade = f"{target} {best}" if best.isdecimal() else best
        value += f", and {decimal(told.by_class[best])} for {grade}"
    chance = f"p = {decimal(p, 3)}" if p >= 0.0005 else "p < .001"
    if kind == "source-from-image":
        goes = f"where {source} goes with {target}, a network can learn the one for the other"
        return f"Within {target} {within}, the image tells {source}: {value} ({chance}); {goes}."
    who = f"Whether {name} is filled in" if by_filling else _SUBJECTS[kind].format(name=name)
    seen = f" ({how})" if how else ""
    among = f" among {len(told.scores):,} images with a mask" if kind == "outside-anatomy" else ""
    if told.by_class and len(told.by_class) < classes:
        target = f"{target} ({' against '.join(told.by_class)})"
    meaning = f"{source} tells as much" if marks_source else _MEANINGS[kind].format(name=name)
    return f"{who}{seen} tells {target}: {value}{among} ({chance}); {meaning}."


def remedy(
    kind: str,
    name: str,
    *,
    reading: str = "levels",
    source: str | None = None,
    mask: str | None = None,
    lone: Lone | None = None,
) -> str:
    """What to do, naming the study's key or the table's column.

    Args:
        lone: a class that stands in one source only, so that no source can be left out and judged.

    >>> remedy("column", "site")
    'Cross-validate with `split: {leave_out: site}`, or study within one site (`where:`).'
    """
    if lone and (reading == "levels" or kind != "column"):
        return _for_lone(kind, source or name, lone, mask)
    where = f"`split: {{leave_out: {source}}}`" if source else "`split.leave_out` over the column that tells the source"
    leave_out = f"cross-validate with {where}"
    text = _COLUMN_REMEDIES[reading] if kind == "column" else _REMEDIES[kind]
    return f"{text.format(name=name, mask=mask, source=source, leave_out=leave_out)}."
