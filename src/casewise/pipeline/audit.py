"""The audit of a run: made once, kept in the run's folder with the study's reasons, made anew where inputs changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import casewise
from casewise.audit.findings import KNOWN, Audit, check_accepted, read_audit, write_audit
from casewise.audit.text import of_scans
from casewise.cohort.checks import closest
from casewise.errors import CohortError, RunError
from casewise.modalities.base import ImageFolder, ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline import image_split as claimed

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


# Evidence beside the table's columns, by the names that findings have.
PROBES = ("border", "thumbnail", "files", "file-size", "outside-anatomy")
# What says how networks are trained and judged, and nothing of the images and their labels.
NOT_LOOKED_AT = (
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


def examined(study: Study, cohort: Cohort, tiles: ImageStore, splits: Splits | None, folder: Path, show: Show) -> Audit:
    """The audit of a study, kept as `audit.json`; made anew only where something that it looked at has changed.

    `splits` is None where the split that the table gives cannot be used; the audit then tells why. Where slides are cut
    it looks at a small picture of each whole slide, not at tiles.
    """
    from casewise.audit.run import audit as examine
    from casewise.jobs.fingerprint import table_hash
    from casewise.models.embeddings import embedder

    modality, whole = modality_of(study), cohort
    cohort, tiles = modality.audited(PreparedCohort(study, cohort, ImageFolder.of_run(study, folder), tiles), show)
    embed = embedder(study, tiles)
    looked_at = {
        "table": table_hash(cohort, study),
        "columns": cohort.images.astype(str).to_json(),
        "tiles": tiles.address,
        "split": splits.hash if splits else "",
        "study": study.model_dump(mode="json", exclude=set(NOT_LOOKED_AT)),
        "network": embed.origin if embed else "",
        "masks": _mask_files(study, cohort),
        "casewise": casewise.__version__,
    }
    made_from = hashlib.sha256(json.dumps(looked_at, sort_keys=True).encode()).hexdigest()
    path = folder / "audit.json"
    if path.is_file():
        before = _kept(path)
        if before and before.facts.get("made_from") == made_from:
            write_audit(path, before, study.accept)  # the reasons may be new
            return before
    with show.bar("audit") as bar:
        found = examine(
            study,
            cohort,
            tiles,
            splits.side if splits else None,
            embed=embed,
            progress=lambda done, total, text="": bar(done, total, text),
        )
    if splits and study.split.by == "image":
        found = dataclasses.replace(found, findings=[*found.findings, claimed.finding(study, whole, splits)])
    if (noun := modality.noun(study).singular) != "image":
        found = of_scans(found, noun)
    seen = {"made_from": made_from, "embedding": embed.origin if embed else "none: no pretrained weights at hand"}
    found = dataclasses.replace(found, facts={**found.facts, **seen})
    write_audit(path, found, study.accept)
    return found


def check_audit(study: Study, images: pd.DataFrame) -> None:
    """Check, before any image is read, what the study says of the audit: its columns, its mask, what it accepts.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name what is not there.
        AuditError: `accept` names what no finding can be called, or gives no reason.
    """
    from casewise.audit.metadata import audited_columns

    audited_columns(study, images)
    mask, columns = study.audit.mask, [str(column) for column in images.columns]
    if mask and mask not in columns:
        raise CohortError(f"audit.mask: {mask!r} is no column.{closest(mask, columns)}")
    check_accepted(study.accept, possible_findings(study, columns))


def possible_findings(study: Study, columns: Sequence[str]) -> list[str]:
    """The names that findings can have in a study whose table has these columns."""
    own = [*study.targets, "image", "path", "subject", "case", "panel"]
    others = [column.removeprefix("table_") for column in columns if column not in own]
    shortcuts = ["shortcut-" + re.sub(r"\W+", "-", name) for name in [*others, *PROBES]]
    told = [f"source-told-{label}" for name in study.outputs for label in study.classes_of(name)]
    plain = [*shortcuts, *told]
    # Where several targets are predicted, a finding's name ends with the target.
    return list(dict.fromkeys([*KNOWN, *plain, *(f"{id}-{target}" for id in plain for target in study.outputs)]))


def _kept(path: Path) -> Audit | None:
    """The audit kept there; None where it cannot be read, as one of another version."""
    try:
        return read_audit(path)
    except RunError:
        return None


def _mask_files(study: Study, cohort: Cohort) -> list[tuple[str, int, int]]:
    """Which masks the audit reads, with size and time of change."""
    folder = study.root or study.cohort.parent
    column = study.audit.mask
    named = cohort.images[column].astype(str) if column and column in cohort.images else pd.Series(dtype=str)
    files = [(text, (folder / text).stat()) for text in named if text and (folder / text).is_file()]
    return [(text, told.st_size, told.st_mtime_ns) for text, told in files]
