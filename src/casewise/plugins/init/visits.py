"""The visits, sequences and slices of images: from the table, from file names, or counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from casewise.cohort.checks import number
from casewise.cohort.classes import plain
from casewise.cohort.dates import natural
from casewise.errors import counted
from casewise.plugins.init.columns import NO_TEXT, Column, Roles, decimal
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.patterns import infer_pattern, read_all
from casewise.plugins.init.rows import ImageRows


def resolve_visits(
    rows: ImageRows, labels: Sequence[str], *, sliced: bool = False, day: str = "", days: Sequence[str] = ()
) -> None:
    """Visits from dates or days where no column states them; one for each image if a visit's images differ in labels.

    `days` are the cells of the column `day`. `sliced`: the images are slices; a visit has several of one sequence.
    """
    if not rows.has("visit") and rows.has("date"):
        _visits_of(rows, [row.date for row in rows.rows], rows.origins["date"], "date")
    if not rows.has("visit") and days:
        _visits_of(rows, [days[row.source].strip() for row in rows.rows], day, "day")
    # spellings of one class are one value, as in the classes of the study
    read = decimal if Column("", list(labels)).numbers is not None else plain
    values = [read(label) if label and label.casefold() not in NO_TEXT else None for label in labels]
    differing = [case for case, of_case in rows.by_case(values).items() if len(of_case - {None}) > 1]
    twice = Counter((row.subject, row.visit, row.sequence) for row in rows.rows if row.sequence)
    repeated = [key for key, times in twice.items() if times > 1 and not sliced]
    if differing or repeated:
        counts: Counter[tuple[str, str]] = Counter()
        visits = []
        for row in rows.rows:
            counts[row.subject, row.visit] += 1
            visits.append(f"{row.visit} {counts[row.subject, row.visit]}".strip())
        rows.set(visit=visits)
        rows.origins["visit"] = "the images of a subject, counted"
        rows.changed = True
        case = " ".join((differing or [key[:2] for key in repeated])[0]).strip()
        why = "images with different values of the target" if differing else "scans of one sequence"
        rows.doubts.append(
            f"Visits: {counted(len(differing or repeated), 'visit has', 'visits have')} several {why}, such as {case}. "
            "Every image therefore counts as a visit of its own; the split is still by subject."
        )
        return
    if any(len(dates) > 1 for dates in rows.by_case(row.date for row in rows.rows).values()):
        rows.doubts.append(
            f"Date: {rows.origins['date']!r} is not used, because images of one visit have different dates."
        )
        rows.set(date=[""] * len(rows.rows))
        del rows.origins["date"]


def _visits_of(rows: ImageRows, times: Sequence[str], origin: str, noun: str) -> None:
    """Set visits from the date or day of each row, if every row has one and they differ within a subject."""
    by_subject: dict[str, set[str]] = defaultdict(set)
    for row, time in zip(rows.rows, times, strict=True):
        by_subject[row.subject].add(time)
    if all(times) and any(len(of_subject) > 1 for of_subject in by_subject.values()):
        rows.set(visit=times)
        rows.origins["visit"] = origin
        rows.understood.append(f"Visits: every {noun} of a subject is a visit.")


def resolve_sequences(rows: ImageRows, images: ImageFiles) -> list[str]:
    """The sequences of scans in natural order; without names of sequences all scans are of the sequence `scan`."""
    if not rows.has("sequence"):
        rows.changed = True
        names = [""] * len(rows.rows)
        if len(rows.files) > 1:
            by_path = {path: column.name for column in rows.files for path in column.paths if path}
            names = [by_path.get(row.path, "") for row in rows.rows]
        elif paths := [row.path for row in rows.rows if row.path]:
            pattern = infer_pattern(paths, labels=dict.fromkeys(paths, ""))
            values, _ = read_all(pattern, paths)
            names = [values[row.path].get("sequence", "") if row.path else "" for row in rows.rows]
        rows.set(sequence=[name or "scan" for name in names])
    return sorted({row.sequence for row in rows.rows if row.path}, key=natural)


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
    stated = [label if label and label.casefold() not in NO_TEXT else "" for label in labels]
    if any(len(values - {""}) > 1 for values in rows.by_case(stated).values()):
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
