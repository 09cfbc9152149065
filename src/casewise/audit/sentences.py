"""What the audit says of a shortcut: a sentence with the figure for a clinician, and what to do about it."""

from __future__ import annotations

from casewise.audit.probes import Told

__all__ = ["decimal", "remedy", "sentence"]

_SUBJECTS = {
    "column": "{name} alone",
    "files": "How the files were made (size, mode, format, compression) alone",
    "border": "The border of the image alone",
    "thumbnail": "A thumbnail of 8 x 8 grey values alone",
    "outside-anatomy": "The image without the anatomy",
}
_MEANINGS = {
    "column": "a network can score that by recognising {name}, without looking at the disease",
    "files": "images of different classes come from different places, and a network can learn the place",
    "border": "a network can score that from markers, letters or the film's edge",
    "thumbnail": "brightness and outline do, which may be the disease, or how the image was taken",
    "outside-anatomy": "a network can score that without looking at the anatomy",
}
_REMEDIES = {
    "column": "Cross-validate with `split: {{leave_out: {name}}}`, or study within one {name} (`where:`)",
    "files": (
        "Compare within one source (`where:`), cross-validate with `split: {{leave_out: …}}` over the column that says "
        "where images come from, and save all images in one way"
    ),
    "border": (
        "Look at the borders for markers and letters, crop them off, cross-validate with `split: {{leave_out: …}}` "
        "over the column that says where images come from"
    ),
    "thumbnail": "Compare within one source (`where:`), and see in the heat maps whether networks look at the disease",
    "outside-anatomy": (
        "Cross-validate with `split: {{leave_out: …}}` over the column that says where images come from, crop to the "
        "anatomy of {mask}, or compare within one source (`where:`)"
    ),
    "source-from-image": (
        "Cross-validate with `split: {{leave_out: {name}}}`, or study within one {name} (`where:`), and report the "
        "result within each"
    ),
}


def decimal(value: float, places: int = 2) -> str:
    """A figure between −1 and 1 as medical journals print it.

    >>> decimal(0.934), decimal(1.0), decimal(-0.5), decimal(0.001, 3)
    ('.93', '1.00', '-.50', '.001')
    """
    text = f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def sentence(
    kind: str,
    name: str,
    target: str,
    told: Told,
    *,
    p: float,
    how: str = "",
    within: str = "",
    by_filling: bool = False,
    classes: int = 0,
) -> str:
    """One sentence with the figure.

    Args:
        name: the column that tells, or for the reverse the one that is told.
        p: adjusted for all questions.
        within: the class in which the source is told.
        by_filling: the column tells by whether it is filled in.
        classes: how many the target has; if fewer could be judged, they are named.

    >>> import numpy as np
    >>> sentence("column", "source", "label", Told(0.934, {}, np.zeros(0), np.zeros(0)), p=0.001)
    'source alone tells label: r = .93 (p = .001); a network can score that by recognising source, without looking at \
the disease.'
    """
    value = f"AUROC {decimal(told.value)} where .50 is chance" if told.by_class else f"r = {decimal(told.value)}"
    chance = f"p = {decimal(p, 3)}" if p >= 0.0005 else "p < .001"
    if kind == "source-from-image":
        return (
            f"Within {target} {within}, the image tells {name}: {value} ({chance}); where {name} goes with {target}, a "
            f"network can learn the one for the other."
        )
    who = _SUBJECTS[kind].format(name=name)
    if by_filling:
        who = f"Whether {name} is filled in"
    best = max(told.by_class, key=lambda each: told.by_class[each], default="")
    most = f", and {best} best, at {decimal(told.by_class[best])}" if len(told.by_class) > 2 else ""
    seen = f", {how}," if how else ""
    among = f" among {len(told.scores):,} images with a mask" if kind == "outside-anatomy" else ""
    if told.by_class and len(told.by_class) < classes:
        target = f"{target} ({' against '.join(told.by_class)})"
    return f"{who}{seen} tells {target}{most}: {value}{among} ({chance}); {_MEANINGS[kind].format(name=name)}."


def remedy(kind: str, name: str, mask: str | None) -> str:
    """What to do, naming the study's key or the table's column."""
    return f"{_REMEDIES[kind].format(name=name, mask=mask)}; or accept it with a reason."
