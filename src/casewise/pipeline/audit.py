"""The audit of a run: stored in the run folder with the reasons of the study, repeated if its inputs have changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from casewise.audit.findings import CODES, Audit, Finding, check_accepted, read_audit, with_noun, write_audit
from casewise.cohort.checks import closest
from casewise.errors import CohortError, RunError
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.splits.image_split import image_split_of, on_both_sides
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


# Evidence besides the columns of the table, by the names in findings.
PROBES = ("border", "thumbnail", "files", "file-size", "outside-anatomy")
# Settings of training and evaluation, which do not change the images and their labels.
NOT_AUDITED = (
    "accept",
    "compute",
    "recipe",
    "stack",
    "external",
    "evaluation",
    "test_time_augmentation",
    "title",
    "description",
)
IMAGE_SPLIT = "image-level-split"


def audit(study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits, folder: RunFolder, show: Show) -> Audit:
    """Search for one person under two names, for leaks of the split and for shortcuts.

    Raises:
        AuditError: naming the errors that the study does not accept; nothing was trained.
    """
    result = current_audit(study, cohort, tiles, splits, folder, show)
    show.line("audit", result.verdict_with(study.accept))
    for note in result.notes(study.accept):
        show.line("", note)
    result.gate(study.accept)
    return result


def current_audit(
    study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits | None, folder: RunFolder, show: Show
) -> Audit:
    """The stored audit of a study, repeated only if its inputs have changed.

    `splits` is None where the predefined split cannot be used; the audit then reports why.
    """
    from casewise.audit.run import audit as run_audit
    from casewise.models.embeddings import embedder

    modality, whole = modality_of(study), cohort
    cohort, tiles = modality.audited(PreparedCohort(study, cohort, folder.images(study.images.store), tiles), show)
    embed = embedder(study, tiles)
    inputs_hash = _inputs_hash(study, cohort, tiles, splits, embed.origin if embed else "")
    earlier = _earlier(folder)
    if earlier and earlier.facts.get("inputs_hash") == inputs_hash:
        write_audit(folder.audit, earlier, study.accept)  # the reasons may be new
        return earlier
    with show.bar("audit") as bar:
        result = run_audit(
            study,
            cohort,
            tiles,
            splits.side if splits else None,
            embed=embed,
            progress=lambda done, total, text="": bar(done, total, text),
        )
    if splits and study.split.by == "image":
        result = dataclasses.replace(result, findings=[*result.findings, image_split_finding(study, whole, splits)])
    if (noun := modality.noun(study).singular) != "image":
        result = with_noun(result, noun)
    origin = embed.origin if embed else "none: no pretrained weights at hand"
    result = dataclasses.replace(result, facts={**result.facts, "inputs_hash": inputs_hash, "embedding": origin})
    write_audit(folder.audit, result, study.accept)
    return result


def image_split_finding(study: Study, cohort: Cohort, splits: Splits) -> Finding:
    """The finding about a study that requests a comparison by image.

    Raises:
        CohortError, StudyError: as `image_split_of`.
    """
    counts = on_both_sides(cohort, image_split_of(study, cohort, splits))
    sentence = (
        f"For comparison only, the study is also trained with its images split as if each showed another subject: "
        f"{counts['subjects_on_both_sides']:,} of {counts['subjects']:,} subjects are then on both sides, and networks "
        "are tested on subjects they were trained on. The study's own figures are by subject and do not depend on it."
    )
    remedy = "Cite the figures by subject. Leave out `split: {by: image}` to do without the comparison."
    return Finding(IMAGE_SPLIT, "warning", sentence, {"where": "the comparison", **counts}, remedy=remedy)


def check_audit(study: Study, images: pd.DataFrame) -> None:
    """Check, before any image is read, the study's settings of the audit: its columns, its mask, what it accepts.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name a column that does not exist.
        AuditError: `accept` names no possible finding, or gives no reason.
    """
    from casewise.audit.metadata import audited_columns

    audited_columns(study, images)
    mask, columns = study.audit.mask, [str(column) for column in images.columns]
    if mask and mask not in columns:
        raise CohortError(f"audit.mask: {mask!r} is not a column.{closest(mask, columns)}")
    check_accepted(study.accept, possible_findings(study, columns))


def possible_findings(study: Study, columns: Sequence[str]) -> list[str]:
    """The names that findings can have in a study whose table has these columns."""
    own = [*study.targets, "image", "path", "subject", "case", "panel"]
    others = [column.removeprefix("table_") for column in columns if column not in own]
    shortcuts = ["shortcut-" + re.sub(r"\W+", "-", name) for name in [*others, *PROBES]]
    sources = [f"source-predictable-{label}" for name in study.outputs for label in study.classes_of(name)]
    plain = [*shortcuts, *sources]
    # Where several targets are predicted, a finding's name ends with the target.
    return list(dict.fromkeys([*CODES, *plain, *(f"{id}-{target}" for id in plain for target in study.outputs)]))


def _inputs_hash(study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits | None, network: str) -> str:
    """A hash of everything that the audit depends on."""
    from casewise.jobs.fingerprint import table_hash

    inputs = {
        "table": table_hash(cohort, study),
        "columns": cohort.images.astype(str).to_json(),
        "tiles": tiles.address,
        "split": splits.hash if splits else "",
        "study": study.model_dump(mode="json", exclude=set(NOT_AUDITED)),
        "network": network,
        "masks": _mask_files(study, cohort),
        "casewise": __version__,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _earlier(folder: RunFolder) -> Audit | None:
    """The stored audit; None if there is none, or if it cannot be read (for example from another version)."""
    if not folder.audit.intact():
        return None
    try:
        return read_audit(folder.audit)
    except RunError:
        return None


def _mask_files(study: Study, cohort: Cohort) -> list[tuple[str, int, int]]:
    """Which masks the audit reads, with size and time of change."""
    root = study.root or study.cohort.parent
    column = study.audit.mask
    names = cohort.images[column].astype(str) if column and column in cohort.images else pd.Series(dtype=str)
    files = [(name, (root / name).stat()) for name in names if name and (root / name).is_file()]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in files]
