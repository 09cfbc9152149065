"""The visits and sequences of images: from the table, from file names, or counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from casewise.cohort.classes import plain
from casewise.cohort.dates import natural
from casewise.errors import counted
from casewise.plugins.init.columns import NO_TEXT, Column, decimal
from casewise.plugins.init.patterns import infer_pattern, read_all
from casewise.plugins.init.rows import ImageRows


def resolve_visits(rows: ImageRows, labels: Sequence[str], *, day: str = "", days: Sequence[str] = ()) -> None:
    """Visits from dates or days where no column states them; one for each image if a visit's images differ in labels.

    `days` are the cells of the column `day`, image by image.
    """
    for noun, times, origin in (("date", rows["date"], rows.origins.get("date", "")), ("day", days, day)):
        by_subject: dict[str, set[str]] = defaultdict(set)
        for subject, time in zip(rows["subject"], times, strict=False):
            by_subject[subject].add(time)
        if not rows.has("visit") and all(times) and any(len(of_subject) > 1 for of_subject in by_subject.values()):
            rows.state("visit", list(times), origin)
            rows.understood.append(f"Visits: every {noun} of a subject is a visit.")
    # spellings of one class are one value, as in the classes of the study
    read = decimal if Column("", labels).numbers is not None else plain
    values = [read(label) if label and label.casefold() not in NO_TEXT else None for label in labels]
    differing = [case for case, of_case in rows.by_case(values).items() if len(of_case - {None}) > 1]
    images = Counter(zip(rows["subject"], rows["visit"], rows["sequence"], strict=True))
    repeated = [(subject, visit) for (subject, visit, name), times in images.items() if name and times > 1]
    if differing or repeated:
        counts: Counter[tuple[str, str]] = Counter()
        visits = []
        for case in zip(rows["subject"], rows["visit"], strict=True):
            counts[case] += 1
            visits.append(f"{case[1]} {counts[case]}".strip())
        rows.state("visit", visits, "the images of a subject, counted")
        rows.changed = True
        reason = "images with different values of the target" if differing else "scans of one sequence"
        rows.doubts.append(
            f"Visits: {counted(len(differing or repeated), 'visit has', 'visits have')} several {reason}, such as "
            f"{' '.join((differing or repeated)[0]).strip()}. Every image therefore counts as a visit of its own; the "
            "split is still by subject."
        )
    elif any(len(dates) > 1 for dates in rows.by_case(rows["date"]).values()):
        rows.doubts.append(
            f"Date: {rows.origins.pop('date')!r} is not used, because images of one visit have different dates."
        )
        del rows.fields["date"]


def resolve_sequences(rows: ImageRows) -> list[str]:
    """The sequences of scans in natural order; without names of sequences all scans are of the sequence `scan`."""
    if not rows.has("sequence"):
        rows.changed = True
        names: dict[str, str] = {}
        if len(rows.files) > 1:
            names = {path: column.name for column in rows.files for path in column.paths}
        elif paths := [path for path in rows.paths if path]:
            values, _ = read_all(infer_pattern(paths, labels=dict.fromkeys(paths, "")), paths)
            names = {path: stated.get("sequence", "") for path, stated in values.items()}
        rows.fields["sequence"] = [(path and names.get(path)) or "scan" for path in rows.paths]
    return sorted({rows["sequence"][position] for position in rows.present}, key=natural)
