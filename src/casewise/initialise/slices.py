"""Slices of scans that are single image files: the column that numbers them within each case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from casewise.cohort.checks import number
from casewise.initialise.columns import NO_TEXT, Column, Roles
from casewise.initialise.image_files import ImageFiles
from casewise.initialise.rows import ImageRows

# Names that say that a column numbers slices, and names that may.
_SLICE = r"slices?|slice ?(no|nr|num|number|index|idx|id|position|pos)|schicht(en)?(nr|nummer)?|instance ?number|z"
_NUMBER = r"nr|no|num|number|nummer|index|idx|position|pos|instance|frame|level|order"
# A case of fewer images is no scan.
_FEWEST = 3


def slice_column(
    rows: ImageRows, images: ImageFiles, cells: Mapping[str, list[str]], roles: Roles, labels: Sequence[str]
) -> str:
    """The column that numbers the slices of each case; '' if the images are scans, or no slices.

    Doubts are added to the rows. Slices with labels of their own are images of their own.
    """
    if images.scans:
        return ""
    used = {roles.subject, roles.visit, roles.day, roles.date, *(column.name for column in rows.files)}
    columns = [Column(name, [value.strip() for value in values]) for name, values in cells.items() if name not in used]
    numbering = [c for c in columns if c.named(f"{_SLICE}|{_NUMBER}") and _numbers_slices(c, rows, cells, roles)]
    named = next((c for c in numbering if c.named(_SLICE)), None)
    if named is None:
        if numbering:
            rows.doubts.append(
                f"Slices: {numbering[0].name!r} numbers the images of each case. If they are slices of a scan, write "
                f"`volumes: {{sequences: [scan], slice_index: {numbering[0].name}}}` and add the column sequence."
            )
        return ""
    by_case: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row, label in zip(rows.rows, labels, strict=True):
        if label and label.casefold() not in NO_TEXT:
            by_case[row.subject, row.visit].add(label)
    if any(len(values) > 1 for values in by_case.values()):
        rows.doubts.append(
            f"Slices: {named.name!r} numbers slices, but slices of one scan have different values of the target. Every "
            "slice is therefore an image of its own."
        )
        return ""
    rows.doubts.append(
        f"Slices: {named.name!r} numbers the images of each case, so that they were read as slices of a scan, from the "
        "feet to the head. Write their true distances as `pixel_mm` and `slice_mm` under `volumes`. If they are "
        "separate pictures, delete `volumes` and `panels`."
    )
    return named.name


def _numbers_slices(column: Column, rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles) -> bool:
    """Whether the column has another number for every image of a case and sequence, and cases have several."""
    by_scan: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows.rows:
        if not row.path:
            continue
        position = number(column.cells[row.source])
        if position is None:
            return False
        sequence = cells[roles.sequence][row.source].strip() if roles.sequence else ""
        by_scan[row.subject, row.visit, sequence].append(position)
    unique = all(len(set(positions)) == len(positions) for positions in by_scan.values())
    return unique and median(map(len, by_scan.values())) >= _FEWEST
