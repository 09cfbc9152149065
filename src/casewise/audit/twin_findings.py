"""Where twins do harm: one picture under two subjects, on two sides of a split, with two labels, or counted twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.audit.findings import Finding, Level
from casewise.audit.sentences import without

if TYPE_CHECKING:
    import pandas as pd

    from casewise.audit.twins import Kind, Twin

__all__ = ["twin_findings"]

KINDS: dict[Kind, str] = {"bytes": "the same file", "pixels": "the same pixels", "near": "near-identical"}


def twin_findings(
    twins: Sequence[Twin],
    images: pd.DataFrame,
    study_targets: Sequence[str],
    sides: Mapping[str, int] | None = None,
    *,
    column: str = "path",
    root: Path | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> list[Finding]:
    """Say of `find_twins`'s pairs what they do to the study: up to four findings, or none.

    `images` is `Cohort.images` with the targets as columns; `sides` the side of a split on which each subject stands.
    `column` and `root` are the table's column of paths and where they start: remedies name images as the table does.
    `classes` are the names behind a target's class numbers, where it has classes.
    """
    paths = images["path"].astype(str).tolist()

    def left_out(twins: Sequence[Twin], *, both: bool = False) -> str:
        rows = [row for twin in twins for row in ((twin.i, twin.j) if both else (twin.j,))]
        return without([paths[row] for row in rows], column=column, root=root)

    subjects = images["subject"].astype(str).tolist()
    across = [twin for twin in twins if subjects[twin.i] != subjects[twin.j]]
    found = [
        _finding(
            "twins-across-subjects",
            "error",
            across,
            images,
            "the same picture under two subjects",
            "one person under two names is trained on and tested",
            f"Give both images the same subject in the table, or leave one of them out with {left_out(across)}.",
        )
    ]
    if sides is not None:
        apart = [twin for twin in across if _apart(sides, subjects[twin.i], subjects[twin.j])]
        found.append(
            _finding(
                "twins-across-splits",
                "error",
                apart,
                images,
                "the same picture on two sides of the split",
                "what is tested there was trained on",
                f"Give both images the same subject and split again, or leave one of them out with {left_out(apart)}.",
            )
        )
    for target in study_targets:
        labelled = _labelled_apart(twins, images, target)
        names = (classes or {}).get(target, ())
        found.append(_label_finding(labelled, images, target, left_out(labelled, both=True), names))
    # sequences of one case show the same places; that one stands in for another is refused when they are prepared
    kinds = images["sequence"].astype(str).tolist() if "sequence" in images else [""] * len(images)
    within = [twin for twin in twins if subjects[twin.i] == subjects[twin.j] and kinds[twin.i] == kinds[twin.j]]
    found.append(
        _finding(
            "twins-within-subject",
            "note",
            within,
            images,
            "the same picture of one subject twice",
            "it counts once more than it should",
            f"Leave the copies out with {left_out(within)}.",
        )
    )
    return [finding for finding in found if finding is not None]


def _apart(sides: Mapping[str, int], one: str, two: str) -> bool:
    """Whether two subjects stand on different sides; one that stands on none is apart from no other."""
    return one in sides and two in sides and sides[one] != sides[two]


def _labels(images: pd.DataFrame, target: str) -> list[str]:
    """What is recorded of a target, image by image, as text."""
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in images[target].astype(object)]


def _labelled_apart(twins: Sequence[Twin], images: pd.DataFrame, target: str) -> list[Twin]:
    """Twins with different values of a target."""
    values, labels = images[target].astype(object), _labels(images, target)
    given = (values.notna() & (values != "")).tolist()
    return [twin for twin in twins if given[twin.i] and given[twin.j] and labels[twin.i] != labels[twin.j]]


def _named(label: str, names: Sequence[str]) -> str:
    """The class behind a class number; any other value as it is.

    >>> _named("1", ["normal", "ssc"]), _named("2.5", []), _named("x", ["normal"])
    ('ssc', '2.5', 'x')
    """
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else label


def _label_finding(
    apart: Sequence[Twin], images: pd.DataFrame, target: str, left_out: str, names: Sequence[str]
) -> Finding | None:
    """Twins with different values of a target: an error where they are identical."""
    identical = any(twin.kind != "near" for twin in apart)
    return _finding(
        "twins-across-labels",
        "error" if identical else "warning",
        apart,
        images,
        f"the same picture with two values of {target}",
        "at least one is wrong, or the picture does not tell it",
        f"Correct {target} in the table, or leave both images out with {left_out}.",
        [_named(label, names) for label in _labels(images, target)],
    )


def _finding(
    id: str,
    level: Level,
    twins: Sequence[Twin],
    images: pd.DataFrame,
    what: str,
    harm: str,
    remedy: str,
    labels: Sequence[str] | None = None,
) -> Finding | None:
    """Tell of `twins` by count, kind and example, surest first; None without any."""
    if not twins:
        return None
    twins = sorted(twins, key=lambda twin: (list(KINDS).index(twin.kind), -twin.likeness))
    paths, subjects = images["path"].astype(str).tolist(), images["subject"].astype(str).tolist()
    rows = {row for twin in twins for row in (twin.i, twin.j)}
    figures: dict[str, Any] = {
        "pairs": len(twins),
        "images": len(rows),
        "subjects": len({subjects[row] for row in rows}),
        **{kind: sum(twin.kind == kind for twin in twins) for kind in KINDS},
        "mirrored": sum(twin.flip != "none" for twin in twins),
        "blurred": sum(twin.blurred for twin in twins),
        "least_likeness": min(twin.likeness for twin in twins),
    }
    example = " and ".join(
        f"{Path(paths[row]).name} ({subjects[row]}{f', {labels[row]}' if labels else ''})"
        for row in (twins[0].i, twins[0].j)
    )
    count = "1 pair of images shows" if len(twins) == 1 else f"{len(twins):,} pairs of images show"
    sentence = f"{count} {what} ({_kinds(figures)}), such as {example}: {harm}."
    return Finding(id, level, sentence, figures, [(paths[twin.i], paths[twin.j]) for twin in twins], remedy)


def _kinds(figures: Mapping[str, Any]) -> str:
    """The counts by kind, in words."""
    told = [f"{figures[kind]:,} {words}" for kind, words in KINDS.items() if figures[kind]]
    told += [f"{figures['mirrored']:,} of them mirrored"] * bool(figures["mirrored"])
    told += [f"{figures['blurred']:,} of them seen only as small as a tile"] * bool(figures["blurred"])
    return ", ".join(told)
