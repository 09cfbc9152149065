"""Doubts about who is on an image and when it was taken, and what a person can do about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from casewise.cohort.clinical_words import STRONG_SUBJECT
from casewise.cohort.folder_layout import are_batches, batches_text
from casewise.cohort.table import names_text
from casewise.cohort.visit_order import unordered_visits
from casewise.errors import counted
from casewise.names import heading_words
from casewise.plugins.init import image_files
from casewise.plugins.init.image_rows import ImageRows
from casewise.plugins.init.key_names import words
from casewise.plugins.init.new_study import applying
from casewise.plugins.init.patterns import repeating_part
from casewise.plugins.init.word_forms import are_classes, is_field

# The share of the images above which one subject is doubted.
MOST_OF_ONE = 0.5
# Headings of people, and of their numbers; numbers with fewer digits may be anything.
_PEOPLE = re.compile(rf"\b({STRONG_SUBJECT})\b")
_NUMBERS, _LONG_NUMBER = re.compile(r"\b(id|ids|no|nr|num|number|code|nummer|numero|kennung)\b"), 3


def doubt_counts(rows: ImageRows, column: str) -> None:
    """Doubt subjects if each has one image, or one has most of them."""
    counts, images = Counter(rows["subject"][position] for position in rows.present), len(rows.present)
    name, most = counts.most_common(1)[0] if counts else ("", 0)
    lone = column and rows.subjects_known and most == 1 < images
    named = f"{column!r} has" if column else "the names of files and folders have"
    doubts: dict[str, object] = {
        f"Subject: each of the {images:,} images is of another person, by the column {column!r}. If the column numbers "
        "images and not people, state the column of people with --subject, or write `subjects_known: false`."
        f"{offered_subjects(rows) if lone else ''}": lone,
        f"Subject: {name[:60]!r} has {most:,} of {images:,} images ({named} {counted(len(counts), 'value')}). "
        "If it does not identify people, state another column with --subject.": most > max(MOST_OF_ONE * images, 4),
        f"Subject: ARE THESE PEOPLE? {batches_text(counts)}. State who is on each image with --subject or --pattern, "
        "or write `subjects_known: false`.": rows.subjects_known and are_batches(counts),
    }
    rows.doubts += applying(doubts)


def order_doubts(subjects: Iterable[str], visits: Iterable[str]) -> list[str]:
    """A doubt if the names of a subject's visits, which have no days, do not show their order in time."""
    by_subject: dict[str, list[str]] = defaultdict(list)
    for subject, visit in zip(subjects, visits, strict=True):
        by_subject[subject].append(visit)
    unclear = {subject: names for subject, named in by_subject.items() if (names := unordered_visits(named))}
    if not unclear:
        return []
    subject, names = next(iter(unclear.items()))
    return [
        f"Visits: WHICH COMES FIRST? The order in time of {names_text(names, 5)} of subject {subject} (of "
        f"{counted(len(unclear), 'subject')}) is not shown by days, dates, numbers or words such as screening, "
        "baseline and end of treatment. Add a column `day` or rename the visits before changes over time are computed."
    ]


def doubt_beginnings(rows: ImageRows, sources: Sequence[str]) -> None:
    """Doubt subjects who were found in file names that begin in different ways, such as with names of hospitals.

    If every subject begins in one way, the beginnings may be such names, unless the table has `sources`.
    """
    _offer_beginnings(rows, sources)
    if rows.stated_fields or not rows.subjects_known or (rows.files and rows.origins.get("subject") != "file names"):
        return
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for subject, path in zip(rows["subject"], rows.paths, strict=True):
        name = image_files.file_name(path).casefold()
        start = re.search(rf"(?<![^\W_]){re.escape(subject.casefold())}(?![^\W_])", name)
        before = image_files.words_of(name[: start.start()]) if start else []
        if start and not (before and is_field(before[-1])):
            names[subject].setdefault(" ".join(before), image_files.file_name(path))
    several = {subject: of_subject for subject, of_subject in names.items() if len(of_subject) > 1}
    if several:
        subject, first = next(iter(several.items()))
        rows.doubts.insert(
            0,
            f"ONE PERSON OR SEVERAL? The names of files of {counted(len(several), 'subject')} begin in different ways, "
            f"such as {names_text(list(first.values()), 3)} of subject {subject}. If these are several people, add a "
            "column with the names of the files and one with the people to the table.",
        )


def doubt_other_names(rows: ImageRows, cells: Mapping[str, Sequence[str]], column: str) -> None:
    """Doubt a column that names other subjects, such as the new number of a person who was screened again.

    Its heading is one of people or of numbers, and its values are no small numbers, which may mean anything.
    """
    subjects = {words(name): name for name in (rows["subject"][position] for position in rows.present)}
    for name, of_column in cells.items():
        if name == column or not column:
            continue
        by_image = zip(rows["subject"], rows.of(of_column), strict=True)
        pairs = [(subject, cell) for subject, cell in by_image if cell and words(cell) != words(subject)]
        named = {words(cell) for _, cell in pairs}
        plain = all(cell.isdecimal() and len(cell) < _LONG_NUMBER for _, cell in pairs)
        heading = heading_words(name)
        of_people = _PEOPLE.search(heading) or (not plain and _NUMBERS.search(heading))
        if not of_people or len(named & subjects.keys()) <= len(named) / 2:
            continue
        subject, cell = next(pair for pair in pairs if words(pair[1]) in subjects)
        rows.doubts.insert(
            0,
            f"ONE PERSON UNDER TWO NAMES? {name!r} names other subjects of the table, such as {cell} in a row of "
            f"{subject} ({counted(len(named & subjects.keys()), 'such subject')}). If they are the same person, or of "
            f"one family, write one name for both in {column!r}; otherwise both sides of a split may have them.",
        )


def _offer_beginnings(rows: ImageRows, sources: Sequence[str]) -> None:
    """Name what the names of subjects begin with, such as UKE-001 and CHA-001: it may be their hospital."""
    beginnings = Counter(
        match[1].upper() if (match := re.match(r"([^\W\d_]{2,8})[-_ .]?\d", subject)) else ""
        for subject in dict.fromkeys(rows["subject"][position] for position in rows.present)
    )
    if sources or "" in beginnings or not 2 <= len(beginnings) <= 20 or min(beginnings.values()) < 2:
        return
    if rows.subjects == len(rows.present) and set(beginnings) == {text.upper() for text in _repeating_part(rows)[1]}:
        return  # offered as people or hospitals
    shown = names_text([f"{name} ({count:,})" for name, count in beginnings.most_common()], 6)
    rows.doubts.append(
        f"Subject: the names begin with {shown}. If these are hospitals or devices, add a column `site` with them to "
        "the table and repeat `casewise init`: the audit then tests it, and `split: {leave_out: site}` tests on each."
    )


def offered_subjects(rows: ImageRows, classes: int = 0) -> str:
    """A part of the file names that may identify people, because it repeats; '' if there is none.

    Folders are not offered if there are as many as classes.
    """
    text, values = _repeating_part(rows)
    if text.startswith("{subject}/") and len(values) == classes and are_classes(set(values)):
        return ""
    people = f"{len(values):,} values {', '.join(values[:3])} …"
    offered = f"are people, repeat this with `--pattern '{text}'`; if they are hospitals, add a column `site`"
    return f" If the {people} in their names {offered} with them to the table." if text else ""


def _repeating_part(rows: ImageRows) -> tuple[str, list[str]]:
    return repeating_part([path for path in rows.paths if path]) if rows.sources else ("", [])
