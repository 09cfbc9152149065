"""Findings about twins: one picture under two subjects, with two labels, twice, or on two sides of a split or study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.audit.findings import Finding, Level
from casewise.audit.sentences import exclusion, fill
from casewise.audit.twins import Kind, Twin, find_twins, shown_by
from casewise.errors import CohortError, counted

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore

# Pairs that an error names.
SHOWN = 5
MIRRORED = ("left-right", "up-down", "transposed", "transposed both")
TURNED = ("both", "turned right", "turned left")
# From this angle in degrees on, a copy is called turned.
ANGLE = 2.0
# Pairs whose registration is recorded, for the page that shows them.
RECORDED = 100
KINDS: dict[Kind, str] = {"bytes": "the same file", "pixels": "the same pixels", "near": "near-identical"}


@dataclass(frozen=True)
class ImageNaming:
    """How remedies name images: by the table's column of paths, relative to `root`."""

    images: pd.DataFrame
    column: str = "path"
    root: Path | None = None

    def exclusion(self, twins: Sequence[Twin], *, both: bool = False) -> str:
        """The study key that excludes the second, or both, images of each pair."""
        paths = self.images["path"].astype(str).tolist()
        rows = [row for twin in twins for row in ((twin.i, twin.j) if both else (twin.j,))]
        return exclusion([paths[row] for row in rows], column=self.column, root=self.root)


def twin_findings(
    twins: Sequence[Twin],
    images: pd.DataFrame,
    targets: Sequence[str],
    sides: Mapping[str, int] | None = None,
    *,
    naming: ImageNaming | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> list[Finding]:
    """The findings about pairs from `find_twins`: at most one for each kind of harm and target.

    Args:
        images: `Cohort.images` with the targets as columns.
        sides: the side of each subject in the split.
        classes: the class names of a target, if it has classes.
    """
    naming = naming or ImageNaming(images)
    subjects = images["subject"].astype(str).tolist()
    across = [twin for twin in twins if subjects[twin.i] != subjects[twin.j]]
    findings = [_finding("twins-across-subjects", "error", across, images, {"exclusion": naming.exclusion(across)})]
    if sides is not None:
        separated = [twin for twin in across if _on_different_sides(sides, subjects[twin.i], subjects[twin.j])]
        findings.append(
            _finding("twins-across-splits", "error", separated, images, {"exclusion": naming.exclusion(separated)})
        )
    for target in targets:
        differing = _with_different_labels(twins, images, target)
        level: Level = "error" if any(twin.kind != "near" for twin in differing) else "warning"
        values = {"target": target, "exclusion": naming.exclusion(differing, both=True)}
        names = (classes or {}).get(target, ())
        labels = [_class_name(label, names) for label in _labels(images, target)]
        findings.append(_finding("twins-across-labels", level, differing, images, values, labels))
    # sequences of one case show the same places; a sequence stored under another name is refused at preparation
    sequences = images["sequence"].astype(str).tolist() if "sequence" in images else [""] * len(images)
    within = [twin for twin in twins if subjects[twin.i] == subjects[twin.j] and sequences[twin.i] == sequences[twin.j]]
    findings.append(_finding("twins-within-subject", "note", within, images, {"exclusion": naming.exclusion(within)}))
    return [finding for finding in findings if finding is not None]


def registrations(twins: Sequence[Twin]) -> list[dict[str, Any]]:
    """How the first `RECORDED` pairs are registered, as plain values in the order of a finding's pairs."""
    names = ("kind", "likeness", "flip", "negative", "angle", "scale", "blurred", "warp")
    return [{name: getattr(twin, name) for name in names} for twin in twins[:RECORDED]]


def _on_different_sides(sides: Mapping[str, int], first: str, second: str) -> bool:
    """Whether two subjects are on different sides; a subject without a side differs from no other."""
    return first in sides and second in sides and sides[first] != sides[second]


def _labels(images: pd.DataFrame, target: str) -> list[str]:
    """The recorded values of a target as text."""
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in images[target].astype(object)]


def _with_different_labels(twins: Sequence[Twin], images: pd.DataFrame, target: str) -> list[Twin]:
    """Twins with different values of a target."""
    values, labels = images[target].astype(object), _labels(images, target)
    recorded = (values.notna() & (values != "")).tolist()
    return [twin for twin in twins if recorded[twin.i] and recorded[twin.j] and labels[twin.i] != labels[twin.j]]


def _class_name(label: str, names: Sequence[str]) -> str:
    """The name of a class index; any other value unchanged.

    >>> _class_name("1", ["normal", "ssc"]), _class_name("2.5", []), _class_name("x", ["normal"])
    ('ssc', '2.5', 'x')
    """
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else label


def _finding(
    code: str,
    level: Level,
    twins: Sequence[Twin],
    images: pd.DataFrame,
    values: Mapping[str, str],
    labels: Sequence[str] | None = None,
) -> Finding | None:
    """A finding with the count, kinds and an example of `twins`, surest first; None if there are none."""
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
        "mirrored": sum(twin.flip in MIRRORED for twin in twins),
        "turned": sum(twin.flip in TURNED or abs(twin.angle) >= ANGLE for twin in twins),
        "negative": sum(twin.negative for twin in twins),
        "blurred": sum(twin.blurred for twin in twins),
        "least_likeness": min(twin.likeness for twin in twins),
        "registrations": registrations(twins),
    }
    example = " and ".join(
        f"{Path(paths[row]).name} ({subjects[row]}{f', {labels[row]}' if labels else ''})"
        for row in (twins[0].i, twins[0].j)
    )
    sentence = fill(
        "twins",
        count="1 pair of images shows" if len(twins) == 1 else f"{len(twins):,} pairs of images show",
        what=fill(code, **values),
        kinds=_kinds(figures),
        example=example,
        harm=fill(f"{code} harm"),
    )
    pairs = [(paths[twin.i], paths[twin.j]) for twin in twins]
    return Finding(code, level, sentence, figures, pairs, fill(f"{code} remedy", **values))


def _kinds(figures: Mapping[str, Any]) -> str:
    """The counts by kind, as text."""
    counts = [f"{figures[kind]:,} {words}" for kind, words in KINDS.items() if figures[kind]]
    counts += [f"{figures['mirrored']:,} of them mirrored"] * bool(figures["mirrored"])
    counts += [f"{figures['turned']:,} of them turned"] * bool(figures["turned"])
    counts += [f"{figures['negative']:,} of them negatives"] * bool(figures["negative"])
    counts += [f"{figures['blurred']:,} of them compared only at the size of a tile"] * bool(figures["blurred"])
    return ", ".join(counts)


# ------------------------------------------------------------------------------------------------- two cohorts


def twins_between(
    cohort: Cohort, store: TileStore, other: Cohort, other_store: TileStore, *, other_people: bool = False
) -> list[tuple[int, int]]:
    """The rows of the images of two cohorts that show the same picture under different subjects.

    Copies that were resized, recompressed, slightly cropped, flipped or brightened count as well. With `other_people`
    the cohorts share no people, and pairs with one name count as well.
    """
    own_images, other_images = (
        table[["path", "subject"]].astype(str).assign(slide_picture=shown_by(table))
        for table in (cohort.images, other.images)
    )
    # two cohorts may use one name for two people; pairs within a subject need a higher likeness
    renamed = other_images.assign(subject="other: " + other_images["subject"]) if other_people else other_images
    pairs = [
        (twin.i, twin.j - len(own_images))
        for twin in find_twins(_joined(store, other_store), pd.concat([own_images, renamed], ignore_index=True))
        if twin.i < len(own_images) <= twin.j
    ]
    own_subjects, other_subjects = own_images["subject"].tolist(), other_images["subject"].tolist()
    return [(i, j) for i, j in pairs if other_people or own_subjects[i] != other_subjects[j]]


def refuse_twins(
    pairs: Sequence[Sequence[int]], cohort: Cohort, other: Cohort, *, where: str, other_people: bool
) -> None:
    """Stop if there are pairs of `twins_between`.

    Raises:
        CohortError: names the pairs.
    """
    if not pairs:
        return
    own_names, other_names = (
        [f"{path} ({subject})" for path, subject in zip(images["path"], images["subject"], strict=True)]
        for images in (cohort.images, other.images)
    )
    lines = [f"\n  {own_names[i]} = {other_names[j]}" for i, j in pairs[:SHOWN]]
    more = f"\n  and {counted(len(pairs) - SHOWN, 'more pair')}" if len(pairs) > SHOWN else ""
    remedy = (
        "Exclude all images of these people from one of the cohorts (`where_not`)."
        if other_people
        else "Give both the same subject, or exclude all images of one of them (`where_not`)."
    )
    under = "" if other_people else "under another subject "
    raise CohortError(f"The same picture occurs {under}{where}:{''.join(lines)}{more}\n{remedy}")


def _joined(first: TileStore, second: TileStore) -> TileStore:
    """One store with the tiles of two stores of the same preparation."""
    tiles: Any = np.concatenate([first.tiles, second.tiles])
    return dataclasses.replace(first, tiles=tiles, index=pd.concat([first.index, second.index], ignore_index=True))
