"""The images of a new study, with what the table or the file names state about each of them, such as visits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from casewise.audit.hashes import in_parallel
from casewise.audit.sentences import fill
from casewise.audit.subjects import FOUND_PAIRS, STRANGERS
from casewise.cohort.altered_names import alterations
from casewise.cohort.checks import FOUND, STORED
from casewise.cohort.clinical_words import SITE
from casewise.cohort.companions import ARE_THESE_IMAGES, LEAVE_OUT, companions_text
from casewise.cohort.folder_layout import FIELDS, Pattern, are_batches
from casewise.cohort.number_columns import clear_decimals
from casewise.cohort.table import names_text, natural
from casewise.cohort.table_formats import NO_VALUE
from casewise.cohort.targets import plain
from casewise.console import Terminal
from casewise.errors import CasewiseError, ImageError, counted
from casewise.modalities.store.readers import read_image
from casewise.plugins.init import image_files
from casewise.plugins.init.columns import Column, Roles, columns_of_names, decimal
from casewise.plugins.init.doubts import offered_subjects
from casewise.plugins.init.guessed_subjects import HIGHEST_P, SIDE, guess_subjects, picture_features
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.image_rows import ROW_FIELDS, ImageRows
from casewise.plugins.init.joins.joined_rows import joined_rows
from casewise.plugins.init.named_files import (
    KEPT_ROWS,
    Missing,
    missing_doubts,
    named_files,
    unread_columns,
    with_single_files,
)
from casewise.plugins.init.new_study import films_state, table_bytes
from casewise.plugins.init.patterns import infer_pattern, read_all
from casewise.plugins.init.source import CENTRE, Source, key_columns, with_sites
from casewise.splits.file_numbers import are_numbered

# What `--subject` says instead of a column; without it, more pictures are not compared: these take a minute.
GUESS, MOST_UNASKED = "guess", 5_000
# The most visits, as a share of all, of several dates that are rather mistakes.
_FEW_VISITS = 0.1
STANDARD = (*STORED, "date", FOUND)


def rows_of_table(
    source: Source,
    images: ImageFiles,
    *,
    regions: Sequence[str] = (),
    stated: Pattern | None = None,
    subject: str = "",
    target: str = "",
) -> tuple[ImageRows, Source]:
    """The images of each row of a table, which columns name as files, or which paths with its subject and visit name.

    Also returns the table, in which columns of regions are rows where images are joined by their names.

    Raises:
        CasewiseError: no column names the images, or cells may name several of them.
    """
    source = with_single_files(source, images)
    of_subject = source.roles(subject).subject
    missing, lacking = list[Missing](), list[str]()
    files, noun = image_files.file_columns(source.cells, images, source.numbers, of_subject), images.noun
    if files:
        keys = key_columns(source, source.roles(subject))
        source = with_sites(source, keys) if keys.get("site") == CENTRE else source
        rows, missing = named_files(source, files, images)
        moved = [image_files.moved_beginning(column, source.cells[column.name], images.folder) for column in files]
        if any(moved):
            rows.doubts.append(
                f"PATHS OF ANOTHER FOLDER: {next(filter(None, moved))[:80]} of the table is read as {images.folder}. "
                f"Check that these are the same {noun}s."
            )
    else:
        rows, lacking, source = joined_rows(source, images, regions, stated, subject, target)
    rows.doubts += unread_columns(source, files, images)
    used, masks = set(filter(None, rows.paths)), image_files.mask_files(source.cells, images)
    if listed := [images.companions[path] for path in dict.fromkeys(rows.paths) if path in images.companions]:
        rows.doubts.append(f"{ARE_THESE_IMAGES} {companions_text(listed)}. {LEAVE_OUT}")
    unused = [path for path in images.paths if path not in used and path not in masks]
    rows.understood.append(
        f"Rows with an image: {len({rows.sources[i] for i in rows.present}):,} of {len(source.numbers):,}. Used "
        f"{noun}s of the folder: {len(used):,} of {len(images.paths):,}."
    )
    rows.changed |= bool(lacking or missing)
    rows.doubts += missing_doubts(rows, missing, source, images, unused, of_subject)
    if lacking:
        rows.doubts.append(
            f"Rows without {noun} in {images.folder.resolve().name}: {len(lacking):,} "
            f"({names_text([text[:60] for text in lacking], 3)}). {KEPT_ROWS}"
        )
    if unused:
        rows.doubts.append(
            f"{noun.capitalize()}s in no row of the table, which are not used: {len(unused):,} "
            f"({names_text(unused, 3)})."
        )
    return rows, source


def rows_of_names(images: ImageFiles, stated: Pattern | None) -> ImageRows:
    """The images of a folder with what their names state.

    Raises:
        CasewiseError: no name matches the stated pattern, or the names contain no classes.
    """
    pattern = stated or infer_pattern(images.paths)
    values, rest = read_all(pattern, images.paths)
    if not values:
        raise CasewiseError(
            f"--pattern {pattern.text!r} matches none of the {len(images.paths):,} {images.noun}s below "
            f"{images.folder}, such as {names_text(images.paths, 3)}."
        )
    if "label" not in pattern.fields:
        raise CasewiseError(
            f"The names of the {images.noun}s below {images.folder} contain no classes: they were read as "
            f"{pattern.text}, for example {names_text(images.paths, 3)}. Name the table of labels "
            "with --table, or say where the class stands with --pattern, such as '{label}/{subject}_{visit}.jpg'."
        )
    columns = {name: [of_path[name] for of_path in values.values()] for name in pattern.fields}
    restarting = _subjects_of_sites(columns)
    rows = ImageRows([], list(values), doubts=[*restarting, *pattern.doubts], changed=True)
    rows.fields = {name: column for name, column in columns.items() if name in ROW_FIELDS}
    rows.others = {name: column for name, column in columns.items() if name not in ROW_FIELDS}
    folders = pattern.text.rpartition("/")[0]
    rows.origins = {name: "the folder" if f"{{{name}}}" in folders else "file names" for name in columns}
    rows.stated_fields = pattern.fields if stated else []
    rows.understood = [f"Pattern ({'stated' if stated else 'inferred'}): {pattern.text}", *examples(values)]
    if stated and (several := [path for path in values if len(stated.readings(path)) > 1]):
        rows.doubts.append(
            f"The pattern can read {len(several):,} names in several ways: {several[0]} as "
            f"{'; or as '.join(stated.readings(several[0]))}. The first is used."
        )
    if are_batches(labels := set(columns["label"])):
        rows.doubts.append(
            f"Target: ARE THESE CLASSES? {names_text(sorted(labels), 3)} look like hospitals, batches or devices. A "
            "model of them would tell sources apart, not diseases. If so, give a table of labels with --table."
        )
    if rest:
        rows.doubts.append(
            f"{images.noun.capitalize()}s that do not match the pattern and are not used: {len(rest):,} of "
            f"{len(images.paths):,} ({names_text(rest, 3)})."
        )
    return rows


def _subjects_of_sites(columns: dict[str, list[str]]) -> list[str]:
    """Make subjects SITE-SUBJECT where a field names hospitals, and a subject is in several; a doubt on it."""
    site = next((name for name in columns if Column(name, ()).exactly(SITE)), "")
    if not site or "subject" not in columns:
        return []
    pairs = list(zip(columns[site], columns["subject"], strict=True))
    sites = defaultdict[str, dict[str, None]](dict)
    for hospital, name in pairs:
        sites[name][hospital] = None
    several = [name for name, places in sites.items() if len(places) > 1]
    if not several:
        return []
    columns["subject"] = [f"{hospital}-{name}" for hospital, name in pairs]
    return [
        f"ONE PERSON OR SEVERAL? {several[0]} is in {names_text(list(sites[several[0]]), 3)}: numbers start again in "
        f"each {site}, so that subjects are {site}-subject, such as {columns['subject'][0]}. If they are the same "
        "people, write another name into --pattern, such as {place}."
    ]


def examples(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The first, the middle and the last path, with what they state."""
    paths = list(values)
    shown = dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]])
    return [f"  {path}: {', '.join(f'{k} {v}' for k, v in values[path].items()) or 'nothing'}" for path in shown]


def fill_from_table(rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, *, scans: bool) -> None:
    """Subject, visit, date, sequence and split of the images, from the columns of the table."""
    for name in ("subject", "visit", "split", *(["sequence"] if scans else [])):
        if (column := getattr(roles, name)) and not rows.has(name):
            rows.state(name, rows.of(cells[column]), column)
    if roles.date:
        rows.state("date", rows.of(roles.dates), roles.date)
        rows.changed |= roles.dates != cells[roles.date]


def resolve_subjects(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, labels: Sequence[str], stated: Pattern | None = None
) -> None:
    """Subjects as stated of file names, else of the table, of people's names (as numbers), of file names, or images."""
    counts_images = rows.sources == [] and not rows.stated_fields and rows.subjects == len(rows.present)
    names_files = roles.subject in [column.name for column in rows.files] and rows.subjects == len(rows.present)
    if (stated or names_files) and _from_names(rows, labels, stated):
        roles.subject = ""
        return
    if rows.has("subject") and not counts_images:
        return
    rows.changed = True
    if people := roles.naming or columns_of_names(roles.people, cells):
        names = [" ".join(words).strip().casefold() for words in zip(*(rows.of(cells[n]) for n in people), strict=True)]
        # an empty cell is nobody's name, and is left for the person who knows whose it is
        numbers = {"": ""} | {name: f"S{i:04}" for i, name in enumerate(dict.fromkeys(filter(None, names)), 1)}
        origin = f"numbers for the values of {' and '.join(people)}"
        rows.state("subject", [numbers[name] for name in names], origin)
        rows.doubts.append(
            f"Subject: {'as stated, ' if roles.naming else 'only '}{' and '.join(map(repr, people))} tell people "
            "apart. Each value became a number (S0001, …), so that people of the same name are one subject; the values "
            "themselves are not in cohort.csv."
        )
        return
    if rows.sources and _from_names(rows, labels, None):
        return
    rows.subjects_known = False
    rows.origins.pop("subject", None)
    stems = [
        image_files.stem_of(image_files.file_name(path)) or f"row {row}"
        for row, path in zip(rows.sources or rows.paths, rows.paths, strict=True)
    ]
    unique = len({stem.casefold() for stem in stems}) == len(stems)
    rows.fields["subject"] = stems if unique else [f"image {number}" for number in range(1, len(stems) + 1)]
    others = [f"{{{name}}}" for name in rows.stated_fields if name not in FIELDS]
    reason = "No column and no part of the file names identifies people"
    if rows.stated_fields:
        reason = "The pattern has no {subject}"
        reason += f" (if {' or '.join(others)} identifies people, write {{subject}} for it)" if others else ""
    offered = offered_subjects(rows, len(set(labels) - {""}))
    rows.doubts.insert(
        0,
        f"WARNING: SUBJECTS ARE NOT KNOWN. {reason}, so every image counts as a person of its own (`subjects_known: "
        "false`). Images of one person may be on both sides of a split, and all results may be too optimistic. State "
        f"the person of each image in a column of the table.{offered}",
    )


def guess_people(rows: ImageRows, files: image_files.ImageFiles, *, use: bool) -> None:
    """Compare the pictures of neighbouring file numbers, state what was seen, and `use` it: every image is a visit.

    Raises:
        CasewiseError: it is to be used, and there is nothing to guess from.
    """
    present = np.array([] if rows.subjects_known or files.scans else rows.present, int)
    paths, guess = [rows.paths[position] for position in present], None
    if paths and are_numbered(paths) and (use or len(paths) <= MOST_UNASKED):
        with Terminal().bar("patients") as bar:
            progress = partial(bar, total=1.0, text="comparing neighbouring pictures")
            pictures = in_parallel(partial(_picture, files.folder), paths, progress)
            features = np.concatenate(list(picture_features(pictures).values()), axis=1)
        guess = guess_subjects(paths, features)
    if guess is None or guess.p > HIGHEST_P:
        if use:
            raise CasewiseError(fill("guess refused"))
        return
    pairs = f"{guess.joined:,} of {counted(guess.neighbours, 'pair')}"
    likeness = fill("guess", pairs=pairs, chance=guess.by_chance, found=FOUND_PAIRS, strangers=STRANGERS)
    if not use:
        rows.doubts.insert(1, fill("guess offered", guess=likeness))
        return
    names, sizes = np.array(rows["subject"], object), np.bincount(guess.group)
    rows.state("visit", rows["subject"], "the images")
    names[present] = names[present[guess.group]]
    rows.fields["subject"] = names.tolist()
    groups = counted(int((sizes > 1).sum()), "group")
    images = int(sizes[sizes > 1].sum())
    rows.doubts[0] = fill("guess used", images=images, groups=groups, largest=sizes.max())
    rows.doubts.insert(1, likeness)


def _picture(folder: Path, path: str) -> np.ndarray:
    try:
        return read_image(folder / path, size=SIDE)
    except ImageError:
        return np.zeros((SIDE, SIDE, 3), np.uint8)  # a study with such a file is refused


def _from_names(rows: ImageRows, labels: Sequence[str], stated: Pattern | None) -> bool:
    """Whether the names of the files that a table lists give the subjects: as stated, or where a part repeats."""
    paths = [path for path in rows.paths if path]
    pattern = stated or infer_pattern(paths, labels=dict(zip(rows.paths, labels, strict=True)))
    values, rest = read_all(pattern, paths)
    if stated and rest:
        raise CasewiseError(
            f"--pattern {stated.text!r} does not match {counted(len(rest), 'file')} of the table, such as {rest[0]}."
        )
    # a word that differs in every name may number the images
    subjects = {of_path.get("subject", "") for of_path in values.values()}
    if "subject" not in pattern.fields or (len(subjects) == len(values) and not stated):
        return False
    rows.changed = True
    pairs = zip(rows.sources, rows.paths, strict=True)
    rows.state("subject", [values[path]["subject"] if path else f"row {row}" for row, path in pairs], "file names")
    rows.understood.append(f"Subjects: from the file names, read as {pattern.text}")
    rows.understood += examples({path: values[path] for path in dict.fromkeys(paths)})
    rows.doubts += pattern.doubts
    if "visit" in pattern.fields and not rows.has("visit"):
        rows.state("visit", [values[path]["visit"] if path else "none" for path in rows.paths], "file names")
    return True


def check_names(rows: ImageRows, column: str, numbers: Sequence[int]) -> list[str]:
    """Doubt subjects and visits that a spreadsheet may have altered; a sentence on those that `validate` refuses."""
    refused = []
    lines = [numbers[source] for source in rows.sources] or list(range(1, len(rows.paths) + 1))
    for role in ("subject", "visit") if rows.subjects_known else ():
        origin = rows.origins.get(role, "")
        for alteration in alterations(pd.Series(rows[role], index=lines, dtype="str"), role):
            sentence = alteration.sentence(origin or column or role)
            if alteration.certain and column and origin == (column if role == "subject" else origin):
                refused.append(sentence)
            else:
                rows.doubts.append(sentence)
    return refused


def add_film_columns(rows: ImageRows, cells: Mapping[str, list[str]], images: ImageFiles) -> None:
    """What DICOM films state on how they were taken, as further columns that the table does not have."""
    if images.scans:
        return
    stated = films_state([images.folder / path if path else None for path in rows.paths])
    names = dict.fromkeys(name for of_image in stated for name in of_image if name not in cells)
    rows.others = {name: [of_image.get(name, "") for of_image in stated] for name in names} | rows.others


def cohort_columns(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, results: Mapping[str, tuple[str, Sequence[str]]]
) -> dict[str, list[str]]:
    """The columns of the table of images: standard columns first, then `results`, then the other columns.

    Columns that name people are left out. Decimals are written so that they are read as they were here.

    Args:
        results: by column of the table, its heading and its values by image.
    """
    columns = {"path": rows.paths, "subject": rows["subject"]}
    columns |= {n: rows[n] for n in ("visit", "day", "date", "region", "sequence", "split") if rows.has(n)}
    if not all(rows.paths):
        columns[FOUND] = ["yes" if path else "no" for path in rows.paths]
    columns |= {heading: clear_decimals(list(values), NO_VALUE) for heading, values in results.values()}
    consumed = {*results, roles.subject, *roles.people, *(column.name for column in rows.files)}
    consumed |= {rows.origins.get(name, "") for name in ("visit", "date", "region", "split", "sequence")}
    others = {name: rows.of(values) for name, values in cells.items() if name not in consumed}
    day = roles.day if rows.day_used else ""
    for name, values in [*others.items(), *rows.others.items()]:
        heading = "day" if name == day and not rows.has("date") else name
        if heading != "day" or name != day:
            while heading in columns or heading in STANDARD:
                heading = f"table_{heading}"
        columns[heading] = clear_decimals(values, NO_VALUE)
    return columns


def cohort_table(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, results: Mapping[str, tuple[str, Sequence[str]]]
) -> bytes:
    """The table of a new study, with the columns of `cohort_columns`."""
    columns = cohort_columns(rows, cells, roles, results)
    return table_bytes(list(columns), zip(*columns.values(), strict=True))


def resolve_visits(
    rows: ImageRows, labels: Sequence[str], *, single: Callable[[], bool], day: str = "", days: Sequence[str] = ()
) -> None:
    """Visits from dates or days where no column states them; whether each image is predicted by itself.

    Each is if photographs of a visit differ in labels; scans and slides that do are visits of their own.

    Args:
        single: whether single images can be predicted, which scans and slides cannot.
        days: the cells of the column `day`, image by image.
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
    no_text = Column("", labels).no_text
    values = [read(label) if label and label.casefold() not in no_text else None for label in labels]
    differing = [case for case, of_case in rows.by_case(values).items() if len(of_case - {None}) > 1]
    images = Counter(zip(rows["subject"], rows["visit"], rows["sequence"], strict=True))
    repeated = [(subject, visit) for (subject, visit, name), times in images.items() if name and times > 1]
    dates = {case: sorted(of_case - {""}) for case, of_case in rows.by_case(rows["date"]).items()}
    dated = {case: of_case for case, of_case in dates.items() if len(of_case) > 1}
    # few visits of several dates are wrong names of visits rather than another meaning of the column
    mistaken = dated if rows.has("visit") and len(dated) <= _FEW_VISITS * len(dates) else {}
    shown = names_text([f"{' '.join(case)} ({', '.join(dated[case])})" for case in mistaken], 3)
    if differing and mistaken and set(differing) <= set(mistaken):
        raise CasewiseError(
            f"TWO VISITS UNDER ONE NAME? {counted(len(mistaken), 'visit has', 'visits have')} images of several dates "
            f"with different values of the target, and {len(dates) - len(mistaken):,} have one date: {shown}. Correct "
            f"the visit in {rows.origins['visit']!r}, or the date in {rows.origins['date']!r}."
        )
    if mistaken:
        rows.doubts.insert(
            0,
            f"TWO VISITS UNDER ONE NAME? Images of several dates are one visit: {shown}. Correct the visit or the date "
            "if they are several.",
        )
    rows.by_image = bool(differing) and single()
    if rows.by_image:
        unit = "visit" if rows.has("visit") else "subject"
        rows.doubts.append(
            f"Images: {counted(len(differing), f'{unit} has', f'{unit}s have')} images with different values of the "
            f"target, such as {' '.join(differing[0]).strip()}. Every image is therefore predicted by itself "
            "(`panels: {by: image}`); the split is still by subject."
        )
    elif differing or repeated:
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
    together = rows.by_image or not (differing or repeated)
    unused = "is not used, because images of one visit differ in it."
    if together and dated:
        rows.doubts.append(f"Date: {rows.origins.pop('date')!r} {unused}")
        del rows.fields["date"]
    numbers = [decimal(cell) if cell else None for cell in days]
    if together and days and any(len(of_case - {None}) > 1 for of_case in rows.by_case(numbers).values()):
        empty = f" It is empty for {counted(days.count(''), 'image')}, so it states no visits."
        empty = empty if "" in days and not rows.has("visit") else ""
        rows.doubts.append(f"Day: {day!r} {unused}{empty}")
        rows.day_used = False


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
        # the column that names a scan which was not found
        views = rows.others.get("view") or [""] * len(rows.paths)
        found = [names.get(path, "") if path else view for path, view in zip(rows.paths, views, strict=True)]
        rows.fields["sequence"] = [name or "scan" for name in found]
    return sorted({rows["sequence"][position] for position in rows.present}, key=natural)
