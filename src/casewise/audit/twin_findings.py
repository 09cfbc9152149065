"""Findings about twins: one picture under two subjects, with two labels, twice, or on two sides of a split or study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.audit.findings import Finding, Level
from casewise.audit.hashes import EXACT
from casewise.audit.sentences import as_in_table, exclusion, fill
from casewise.audit.twins import Kind, Twin, find_twins, shown_by
from casewise.cohort.cohort import Cohort
from casewise.errors import CohortError, counted
from casewise.modalities.store.store import TileStore
from casewise.splits.predefined import side_of
from casewise.study.schema import Study

# A cohort with its tiles.
Audited = tuple[Cohort, TileStore]
# Pairs that an error names.
SHOWN = 5
MIRRORED = ("left-right", "up-down", "transposed", "transposed both")
TURNED = ("both", "turned right", "turned left")
# From this angle in degrees on, a copy is called turned.
ANGLE = 2.0
# Pairs whose registration is recorded, for the page that shows them.
RECORDED = 100
ALTERED = {
    "mirrored": "mirrored",
    "turned": "turned",
    "negative": "negatives",
    "blurred": "compared only at the size of a tile",
}
KINDS: dict[Kind, str] = {"bytes": "the same file", "pixels": "the same pixels", "near": "near-identical"}


def twin_findings(
    twins: Sequence[Twin], images: pd.DataFrame, study: Study, sides: Mapping[str, int] | None = None
) -> list[Finding]:
    """The findings about pairs from `find_twins`: at most one for each kind of harm and target.

    Args:
        images: `Cohort.images` with the targets as columns.
        sides: the side of each subject in the split; None if it is impossible.
    """
    subjects, paths = (images[name].astype(str).tolist() for name in ("subject", "path"))
    column, root = study.columns.get("path", "path"), (study.root or study.cohort.parent).absolute()

    def finding(code: str, level: Level, twins: Sequence[Twin], target: str = "", labels: Sequence[str] = ()) -> None:
        if twins:
            # both images of a pair with two labels, else the second
            rows = [row for twin in twins for row in ((twin.i, twin.j) if target else (twin.j,))]
            unknown = " unknown" * (code == "twins-across-subjects" and not study.subjects_known)
            what = fill(f"{code}{unknown}", target=target)
            findings.append(_finding(code, level, twins, paths, subjects, labels, what=what, target=target))
            left_out.append((target, as_in_table([paths[row] for row in rows], root)))

    findings: list[Finding] = []
    left_out: list[tuple[str, list[str]]] = []
    # an image without a side is on the same side as all others; an impossible split has sides of images only
    side: list[object] = [(sides or {}).get(subject) for subject in subjects]
    if sides is None and study.split.column in images:
        side = [side_of(cell) or None for cell in images[study.split.column].astype(str)]
    across = [t for t in twins if subjects[t.i] != subjects[t.j]]
    separated = [t for t in twins if None not in (side[t.i], side[t.j]) and side[t.i] != side[t.j]]
    # each pair once, and an accepted likeness of subjects does not accept test images in the training data
    finding("twins-across-subjects", "error", [twin for twin in across if twin not in separated])
    finding("twins-across-splits", "error", separated)
    # two photographs of one subject at two visits may look alike and have two values
    visits = images["visit"].astype(str).tolist() if "visit" in images else [""] * len(images)
    of_one_time = [
        t for t in twins
        if t.kind != "near" or subjects[t.i] != subjects[t.j] or visits[t.i] == visits[t.j]
    ]  # fmt: skip
    targets_of: dict[tuple[tuple[int, int], ...], list[tuple[str, list[Twin], list[str]]]] = {}
    primary = study.parts_of(study.primary_outcome)
    for target in sorted((n for n in study.outputs if n in study.targets), key=lambda name: name not in primary):
        values = images[target].astype(object)
        recorded = (values.notna() & (values != "")).tolist()
        labels = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        differing = [t for t in of_one_time if recorded[t.i] and recorded[t.j] and labels[t.i] != labels[t.j]]
        names = dict(enumerate(study.classes_of(target)))
        named = [names.get(int(label), label) if label.isdecimal() else label for label in labels]
        targets_of.setdefault(tuple((t.i, t.j) for t in differing), []).append((target, differing, named))
    # the same pairs of several targets are one finding, with the values of the first
    for entries in targets_of.values():
        target, differing, named = entries[0]
        certain = any(twin.kind != "near" for twin in differing)
        finding(
            "twins-across-labels",
            "error" if certain else "warning",
            differing,
            ", ".join(name for name, *_ in entries),
            named,
        )
        if differing:
            findings[-1].figures.update(target=target, targets=[name for name, *_ in entries])
    # sequences of one case show the same places; a sequence stored under another name is refused at preparation
    sequences = images["sequence"].astype(str).tolist() if "sequence" in images else [""] * len(images)
    within = [t for t in twins if subjects[t.i] == subjects[t.j] and sequences[t.i] == sequences[t.j]]
    finding("twins-within-subject", "note", within)
    return [
        *_with_remedies(findings, left_out, study, column),
        *_limits(len(images) - len({twin.j for twin in twins if twin.kind != "near"})),
    ]


def _limits(images: int) -> list[Finding]:
    """A note where so many different images were not all compared with all."""
    sentence = fill("twins-limited", images=images)
    return [Finding("twins-limited", "note", sentence, {"images": images})] if images > EXACT else []


def _with_remedies(
    findings: Sequence[Finding], left_out: Sequence[tuple[str, list[str]]], study: Study, column: str
) -> list[Finding]:
    """The findings with their remedies: each lists what the study and the errors leave out, too.

    So one finding's list can replace another's in the study file.

    Args:
        left_out: for each finding its targets and the images that it would leave out, as the table names them.
    """
    stated = study.where_not.get(column, [])
    of_study = [stated] if isinstance(stated, str) else list(map(str, stated))
    stops = [finding.level == "error" and finding.id not in study.accept for finding in findings]
    of_errors = [path for (_, paths), stopping in zip(left_out, stops, strict=True) if stopping for path in paths]
    result = []
    for finding, (target, own), stopping in zip(findings, left_out, stops, strict=True):
        written = list(dict.fromkeys([*of_study, *of_errors, *own]))
        others = ["the study"] * bool(set(of_study) - set(own)) + ["the errors"] * bool(set(of_errors) - set(own))
        verb = "leaves" if others == ["the study"] else "leave"
        excluded = exclusion(written, column=column, by_command=stopping) + (
            f" (with what {' and '.join(others)} {verb} out: one list for all)" if others else ""
        )
        finding.figures["where_not"] = {column: written}
        text = fill(f"{finding.id} remedy", target=target, exclusion=excluded)
        result.append(dataclasses.replace(finding, remedy=text))
    return result


def _registrations(twins: Sequence[Twin]) -> list[dict[str, object]]:
    """How the first `RECORDED` pairs are registered, as plain values in the order of a finding's pairs."""
    names = ("kind", "likeness", "flip", "negative", "angle", "scale", "blurred", "warp")
    return [{name: getattr(twin, name) for name in names} for twin in twins[:RECORDED]]


def _finding(
    code: str,
    level: Level,
    twins: Sequence[Twin],
    paths: Sequence[str],
    subjects: Sequence[str],
    labels: Sequence[str],
    *,
    what: str,
    target: str,
) -> Finding:
    """A finding with the count, kinds and an example of `twins`, surest first; `what` a pair shows, in words."""
    twins = sorted(twins, key=lambda twin: (list(KINDS).index(twin.kind), -twin.likeness))
    rows = {row for twin in twins for row in (twin.i, twin.j)}
    kinds: dict[str, int] = {kind: sum(twin.kind == kind for twin in twins) for kind in KINDS}
    alterations = {
        "mirrored": sum(twin.flip in MIRRORED for twin in twins),
        "turned": sum(twin.flip in TURNED or abs(twin.angle) >= ANGLE for twin in twins),
        "negative": sum(twin.negative for twin in twins),
        "blurred": sum(twin.blurred for twin in twins),
    }
    counts = [f"{kinds[kind]:,} {words}" for kind, words in KINDS.items() if kinds[kind]]
    counts += [f"{count:,} of them {ALTERED[name]}" for name, count in alterations.items() if count]
    example = [
        f"{Path(paths[row]).name} ({subjects[row]}{f', {labels[row]}' if labels else ''})"
        for row in (twins[0].i, twins[0].j)
    ]
    sentence = fill(
        "twins",
        count="1 pair of images shows" if len(twins) == 1 else f"{len(twins):,} pairs of images show",
        what=what,
        kinds=", ".join(counts),
        example=" and ".join(example),
        harm=fill(f"{code} harm"),
    )
    figures: dict[str, object] = {
        "pairs": len(twins),
        "images": len(rows),
        "subjects": len({subjects[row] for row in rows}),
        **kinds,
        **alterations,
        "least_likeness": min(twin.likeness for twin in twins),
        "registrations": _registrations(twins),
        **({"target": target} if target else {}),
    }
    pairs = [(paths[twin.i], paths[twin.j]) for twin in twins]
    return Finding(code, level, sentence, figures, pairs)


# ------------------------------------------------------------------------------------------------- two cohorts


def twins_between(
    own: Audited, other: Audited, *, other_people: bool = False, progress: Callable[[float], None] | None = None
) -> list[tuple[int, int]]:
    """The rows of the images of two cohorts, each with its tiles, that show the same picture under different subjects.

    Copies that were resized, recompressed, slightly cropped, flipped or brightened count as well. With `other_people`
    the cohorts share no people, and pairs with one name count as well.
    """
    own_images, other_images = (
        cohort.images[["path", "subject"]].astype(str).assign(slide_picture=shown_by(cohort.images))
        for cohort, _ in (own, other)
    )
    # two cohorts may use one name for two people; pairs within a subject need a higher likeness
    renamed = other_images.assign(subject="other: " + other_images["subject"]) if other_people else other_images
    images = pd.concat([own_images, renamed], ignore_index=True)
    cohorts = (np.arange(len(images)) >= len(own_images)).astype(int)
    twins = find_twins(_joined(own[1], other[1]), images, cohorts=cohorts, progress=progress)
    pairs = [(twin.i, twin.j - len(own_images)) for twin in twins]
    return [(i, j) for i, j in pairs if other_people or own_images["subject"].iat[i] != other_images["subject"].iat[j]]


def refuse_twins(pairs: Sequence[Sequence[str]], other: Study, file: Path, *, where: str, other_people: bool) -> None:
    """Stop if there are pairs of two cohorts, each the path and subject in the first and those in the second.

    The remedy leaves out all subjects that the pairs name in the second cohort, which the study `other` reads.

    Raises:
        CohortError: names the first pairs, the `file` with all, and the remedy.
    """
    if not pairs:
        return
    lines = ["\n  {} ({}) = {} ({})".format(*pair) for pair in pairs[:SHOWN]]
    more = f"\n  and {counted(len(pairs) - SHOWN, 'more pair')}; all are in {file}" if len(pairs) > SHOWN else ""
    role = "subject" if other.subjects_known else "path"
    names = [subject.removeprefix(f"{other.name}:") if role == "subject" else path for *_, path, subject in pairs]
    written = as_in_table(names, (other.root or other.cohort.parent).absolute())
    excluded = exclusion(written, column=other.columns.get(role, role), most=len(written))
    remedy = "E" if other_people else "Give both the same subject, or e"
    remedy += f"xclude all images of these people from one of the cohorts, such as from this one: {excluded}"
    under = "" if other_people else "under another subject "
    raise CohortError(f"The same picture occurs {under}{where}:{''.join(lines)}{more}\n{remedy}")


def _joined(first: TileStore, second: TileStore) -> TileStore:
    """One store with the tiles of two stores of the same preparation."""
    tiles: Any = np.concatenate([first.tiles, second.tiles])
    return dataclasses.replace(first, tiles=tiles, index=pd.concat([first.index, second.index], ignore_index=True))
