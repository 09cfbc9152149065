"""Columns of hospitals, scanners and other sources: what the audit tests, and which ones can be left out in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from casewise.audit.columns import INTERNAL, STANDARD, further_columns
from casewise.audit.metadata import audited_columns, columns_in_use, is_usual
from casewise.cohort.table import names_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import counted, shortened
from casewise.initialise.rows import FOUND, ImageRows

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study


def unusual_sources(sources: Sequence[str]) -> list[str]:
    """The sources that the audit does not know by their names, so that the study must name them.

    >>> unusual_sources(["hospital", "Klinik"])
    ['Klinik']
    """
    return [name for name in sources if not is_usual(name)]


def left_out_in_turn(sources: Sequence[str], rows: ImageRows, cells: Mapping[str, list[str]]) -> tuple[str, list[str]]:
    """The first source that every image and person has exactly one of ('' if none), and why others are none."""
    reasons: list[str] = []
    for name in sources:
        lacking = 0
        of_subject: dict[str, set[str]] = defaultdict(set)
        for row in rows.rows:
            cell = cells[name][row.source].strip()
            if row.path and (not cell or cell.casefold() in NO_VALUE):
                lacking += 1
            elif row.path:
                of_subject[row.subject].add(cell)
        several = sum(len(values) > 1 for values in of_subject.values())
        if not lacking and not several and len(set().union(*of_subject.values())) > 1:
            return name, reasons
        defects = [f"{counted(lacking, 'image has', 'images have')} no value"] if lacking else []
        defects += [f"{counted(several, 'subject has', 'subjects have')} several"] if several else []
        reasons.append(f"{shortened(name)}: {' and '.join(defects) or 'all images have the same value'}")
    return "", reasons


def untested_columns(study: Study, cohort: Cohort) -> list[str]:
    """A comment for the study file that names the columns of the table that the audit does not test; [] if none."""
    images = cohort.images
    audited = audited_columns(study, images)
    tested = {*audited, *further_columns(study, images, audited)[0]}
    used = {*columns_in_use(study), *study.targets, *STANDARD, FOUND}
    untested = [
        name
        for name in map(str, images.columns)
        if name not in tested and not {name, name.removeprefix("table_")} & used and not name.startswith(INTERNAL)
    ]
    if not untested:
        return []
    return [
        f"# Columns that the audit does not test: {names_text(untested, 12)}. If one states where or how images were "
        "taken, name it under `audit: {columns: [...]}`."
    ]
