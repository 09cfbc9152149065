"""A study from a preset: a commented study file and, from folders of images, the cohort table."""

from __future__ import annotations

import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from casewise.cohort.checks import FOUND
from casewise.cohort.clinical_words import SIGNS, named_region, sign_of
from casewise.cohort.cohort import read_cohort
from casewise.cohort.companions import companions_text
from casewise.cohort.folder_layout import (
    Layout,
    are_batches,
    batches_text,
    find_region,
    read_layout,
    stated_pattern,
    walk,
)
from casewise.cohort.table import Problems, iso_day, names_text
from casewise.cohort.targets import names_one_region, target_columns
from casewise.errors import CasewiseError, CohortError, counted
from casewise.modalities.base import Start
from casewise.modalities.registry import modality_of
from casewise.names import stored_path
from casewise.plugins.init.columns import decimal
from casewise.plugins.init.doubts import doubt_counts, order_doubts
from casewise.plugins.init.image_files import find_images
from casewise.plugins.init.key_names import words
from casewise.plugins.init.new_study import (
    STUDY,
    TABLE,
    NewStudy,
    external_lines,
    films_state,
    quoted,
    relative_path,
    synthetic_lines,
    table_bytes,
)
from casewise.plugins.init.rows import check_names, cohort_table, fill_from_table, resolve_subjects, rows_of_table
from casewise.plugins.init.source import Source, key_columns
from casewise.plugins.init.tables import read_tables, stated_sheets
from casewise.study.loading import preset_text, read_study
from casewise.study.schema import Study

# The column of a table that says whether a visit has a photograph of every region.
EVERY_REGION = "every_region"
# A column such as INDURAT, which ADaM cuts after eight letters, is the target that begins so.
_FEWEST_LETTERS = 4


def plan_preset(
    preset: str,
    *,
    table: Path | Sequence[Path] | None = None,
    sheet: str | Sequence[str] = "",
    images: Path | None = None,
    pattern: str = "",
    folder: Path,
) -> NewStudy:
    """Plan `study.yaml` and, from the folders of `images`, `cohort.csv` of a study; nothing is written.

    A `table` with paths is read as it is, with paths from `images`; what the preset lacks in it is a doubt. The rows of
    a table without paths, or of several tables, are joined to photographs by subject, visit and region.

    Raises:
        CasewiseError: the layout of the folders is not supported, the table cannot be read, or no rows meet images.
        StudyError: there is no such preset.
    """
    images = images and stored_path(images)
    study, new, layout, further = _study_of(preset), NewStudy(folder), None, []
    modality = modality_of(study)
    start = modality.start(None if images is None else [], study)
    new.understood = [
        f"Write {TABLE} in the same folder: one row for each {start.row}, with the columns that {STUDY} lists."
    ]
    tables, sheets = stated_sheets(table, sheet)
    problems = Problems()
    source = read_tables(tables, problems, sheets=sheets) if tables else None
    column = study.columns.get("path", "path")
    has_paths = source is not None and any(source.cells.get(column, ()))
    joins = (
        source is not None
        and study.modality_name == "photographs"
        and (not has_paths or tables[1:] or _has_other_words(source, study))
    )
    if (pattern or tables[1:]) and not joins:
        raise CasewiseError(
            f"{preset}: --pattern and several tables are for photographs that a table does not name. Name one table "
            f"with the paths of the images in a column {column}."
        )
    written = None if joins or not tables else tables[0]
    if source is not None and joins:
        images = images or tables[0].parent
        source.doubts.extend(problems.doubts)
        further = _joined(source, study, images, pattern, new)
        start = modality.start(None, study)
    elif written is not None:
        next(walk(images or written.parent))
        new.understood = [f"{written} is read as it is: one row for each {start.row}, with the columns of {STUDY}."]
        try:
            read_cohort(study.model_copy(update={"cohort": written, "sheet": sheets[0], "root": images}))
        except CohortError as error:
            new.doubts = [f"`casewise validate` will refuse this table until it is corrected: {error}"]
    elif images is not None:
        classes = [target.equals for target in study.targets.values() if target.equals is not None]
        layout = read_layout(images, regions=study.regions, classes=classes)
        files = [images / image.path for image in layout.images]
        start = modality.start(files, study)
        sentence, complete = _incomplete([(i.subject, i.visit, i.region) for i in layout.images], start.study)
        if sentence and not layout.by_class:
            new.doubts.append(sentence)
            further = _where_line([EVERY_REGION])
        new.files[TABLE] = table_bytes(*_table(layout, start.study, files, complete if further else []))
        new.understood = [*_understood(layout, start.study), *start.notes]
        subjects = [image.subject for image in layout.images]
        visits = [image.visit for image in layout.images]
        new.doubts += [] if all(map(iso_day, visits)) else order_doubts(subjects, visits)
        if not layout.by_class and are_batches(subjects):
            new.doubts.append(f"Subject: ARE THESE PEOPLE? {batches_text(subjects)}. Correct the column `subject`.")
    home, stated = (written.parent, relative_path(written, folder)) if written else (folder, TABLE)
    lines = [f"cohort: {quoted(stated)}", *([f"sheet: {quoted(sheets[0])}"] if written and sheets[0] else [])]
    if images is not None and images.resolve() != home.resolve():
        lines.append(f"root: {quoted(relative_path(images, folder))}  # paths in the table start here")
    lines += further
    new.files[STUDY] = _study_text(preset, start, lines, folder=folder, layout=layout).encode("utf-8")
    return new


def _joined(source: Source, study: Study, images: Path, pattern: str, new: NewStudy) -> list[str]:
    """Plan the table of photographs that meet the rows of a sponsor's table; return lines of the study file on it."""
    rows, source = rows_of_table(
        source, find_images(images), regions=study.regions, stated=stated_pattern(pattern) if pattern else None
    )
    named = _named_targets(study, source)
    cells, roles = source.cells, source.roles()
    region = key_columns(source, roles, regions=study.regions).get("region", "")
    if region and not rows.has("region"):
        rows.state("region", [find_region(cell, study.regions) or cell for cell in rows.of(cells[region])], region)
    fill_from_table(rows, cells, roles, scans=False)
    resolve_subjects(rows, cells, roles, [""] * len(rows.paths))
    check_names(rows, roles.subject, source.numbers)
    doubt_counts(rows, roles.subject)
    if not (roles.day or rows.has("day") or rows.has("date")):
        rows.doubts += order_doubts(*([rows[name][i] for i in rows.present] for name in ("subject", "visit")))
    results = {column: (name, rows.of(cells[column])) for column, name in named.items()}
    cases = len({(rows["subject"][i], rows["visit"][i]) for i in rows.present})
    counts = [counted(rows.subjects, "subject"), counted(cases, "visit"), counted(len(rows.present), "image")]
    if rows.has("region"):
        of_region = Counter(rows["region"][i] for i in rows.present)
        counts.append("regions " + ", ".join(f"{name} ({count:,})" for name, count in of_region.items()))
    renamed = [f"{column} is {name}" for column, name in named.items() if column != name]
    new.understood = [f"{', '.join(counts)}.", *source.notes, *rows.understood]
    new.understood += [f"Targets: {names_text(renamed, 8)}."] if renamed else []
    new.doubts = [*source.doubts, *rows.doubts, *roles.doubts]
    if roles.people:
        new.doubts.append(f"{names_text(roles.people)} look like names or dates of birth and are not in {TABLE}.")
    conditions = [] if all(rows.paths) else [FOUND]
    of_images = zip(rows["subject"], rows["visit"], rows["region"], rows.paths, strict=True)
    sentence, complete = _incomplete([(s, v, r if path else "") for s, v, r, path in of_images], study)
    if sentence and rows.has("region"):
        new.doubts.insert(0, sentence)
        conditions.append(EVERY_REGION)
        rows.others[EVERY_REGION] = complete
    new.files[TABLE] = cohort_table(rows, cells, roles, results)
    lines = [*synthetic_lines(cells), *_where_line(conditions)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, TABLE)
        file.write_bytes(new.files[TABLE])
        kept = {name: ["yes"] for name in conditions} or study.where
        try:
            read_cohort(study.model_copy(update={"cohort": file, "root": images.absolute(), "where": kept}))
        except CohortError as error:
            refused = str(error).replace(f"{file}: ", "")
            new.doubts.append(f"`casewise validate` will refuse {TABLE} until it is corrected: {refused}")
    comments = [f"# - {line}" for line in (*source.notes, *rows.understood, *new.doubts)]
    return [
        *lines,
        *external_lines(new.folder, images, lines[0].partition("  #")[0] if EVERY_REGION in conditions else ""),
        *(line for text in comments for line in textwrap.wrap(" ".join(text.split()), 100, subsequent_indent="#   ")),
    ]


def _incomplete(images: Sequence[tuple[str, str, str]], study: Study) -> tuple[str, list[str]]:
    """A doubt on visits without a photograph of every region, and for each image whether its visit has all of them.

    They are left out: a score of a visit without a region would rest on the other regions.

    Args:
        images: subject, visit and region of each image; no region where a row of the table has no image.

    Returns:
        `''` and an empty list if all visits with an image have every region, or the study needs none.
    """
    regions: dict[tuple[str, str], set[str]] = {}
    for subject, visit, region in images:
        regions.setdefault((subject, visit), set()).update({region} - {""})
    lacking = {case: [r for r in study.regions if r not in those] for case, those in regions.items() if those}
    lacking = {case: names for case, names in lacking.items() if names}
    if not lacking or study.missing_regions == "allow":
        return "", []
    complete = {case for case, those in regions.items() if those} - lacking.keys()
    shown = names_text([f"{' '.join(filter(None, case))} ({', '.join(names)})" for case, names in lacking.items()], 5)
    sentence = (
        f"Missing regions: {counted(len(lacking), 'visit has', 'visits have')} no photograph of a region: {shown}. The "
        f"study leaves them out by `where: {{{EVERY_REGION}: ...}}`, and counts them, because their scores would rest "
        f"on the other regions. To train on their photographs, delete {EVERY_REGION} there and write `missing_regions: "
        "allow`: such visits are then predicted as the mean of their other regions, also new ones, and not evaluated."
    )
    return sentence, ["yes" if (subject, visit) in complete else "no" for subject, visit, _ in images]


def _where_line(conditions: Sequence[str]) -> list[str]:
    """The line of a study file that leaves out rows without an image, or without a region."""
    where = ", ".join(f'{name}: "yes"' for name in conditions)
    return [f"where: {{{where}}}  # rows without an image or a region are left out, and counted"] if where else []


def _has_other_words(source: Source, study: Study) -> bool:
    """Whether a table has all that the study reads, some of it in other words, such as those of another language."""
    targets, roles = _named_targets(study, source), source.roles()
    keys = key_columns(source, roles, regions=study.regions)
    needed = ["subject", *(["region"] if study.regions else [])]
    if not set(needed) <= {*keys, *source.cells} or set(targets.values()) != set(_value_columns(study)):
        return False
    others = set(source.cells.get("region", [])) - {"", *study.regions} if study.regions else set()
    spelled = bool(others) and all(named_region(cell, study.regions)[0] for cell in others)
    return spelled or not {*needed, *targets.values()} <= set(source.cells)


def _named_targets(study: Study, source: Source) -> dict[str, str]:
    """The columns of a table with the targets of a study, each with the target's column, by name, beginning, text or
    a synonym of the field. A column of one region is not a target of all regions."""
    result: dict[str, str] = {}
    columns = [c for c in source.cells if not names_one_region(c, study)]
    for target in _value_columns(study):
        named = words(target)
        matches: list[list[str]] = [[], [], [], []]
        for column in columns:
            own, text = words(column), words(source.labels.get(column, ""))
            begins = len(own) == 1 and len(own[0]) >= _FEWEST_LETTERS and "".join(named).startswith(own[0])
            matches[0] += [column] * (own == named)
            matches[1] += [column] * (begins or set(named) <= set(own))
            matches[2] += [column] * (set(named) <= set(text))
            synonym = target in SIGNS and target in (sign_of(own), sign_of(text))
            matches[3] += [column] * (synonym and _in_range(source.cells[column], study, target))
        if column := next((of_rank[0] for of_rank in matches if len(of_rank) == 1), ""):
            result.setdefault(column, target)
    return result


def _in_range(cells: Sequence[str], study: Study, target: str) -> bool:
    """Whether a column has values, and all are numbers in the range of a target."""
    values, (low, high) = [decimal(cell) for cell in cells if cell], study.range_of(target)
    return bool(values) and all(value is not None and low <= value <= high for value in values)


def _study_of(preset: str) -> Study:
    preset_text(preset)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, STUDY)
        file.write_text(f"extends: {preset}\ncohort: {TABLE}\n", encoding="utf-8")
        return read_study(file)


def _value_columns(study: Study) -> list[str]:
    """The columns that targets are read from, each once."""
    return list(dict.fromkeys(column for name in study.targets for column in target_columns(name, study)))


def _label_column(study: Study) -> str:
    """The column for the class named by a folder: the column of the preset's indicators, if they share one."""
    columns = {str(target.column or name) for name, target in study.targets.items() if target.equals is not None}
    return columns.pop() if len(columns) == 1 else "label"


def _has_split(layout: Layout) -> bool:
    return {image.side for image in layout.images} == {"train", "test"}


def _table(
    layout: Layout, study: Study, files: list[Path], complete: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The headings of the cohort table, and its rows; what DICOM films state on how they were taken comes last."""
    images, first, label = layout.images, layout.images[0], _label_column(study)
    columns = {"path": [i.path for i in images], "subject": [i.subject for i in images]}
    columns |= {"visit": [i.visit for i in images]} if first.visit else {}
    columns |= {"date": [i.visit for i in images]} if all(iso_day(i.visit) is not None for i in images) else {}
    columns |= {"region": [i.region for i in images]} if first.region else {}
    columns |= {"split": [i.side for i in images]} if _has_split(layout) else {}
    columns |= {EVERY_REGION: list(complete)} if complete else {}
    columns |= {label: [i.label for i in images]} if layout.by_class else {}
    columns |= {name: [""] * len(images) for name in _value_columns(study) if name not in columns}
    stated = films_state(files)
    for name in dict.fromkeys(name for of_film in stated for name in of_film):
        if name not in columns and any(of_film.get(name) for of_film in stated):
            columns[name] = [of_film.get(name, "") for of_film in stated]
    return list(columns), list(map(list, zip(*columns.values(), strict=True)))


def _study_text(preset: str, start: Start, cohort: list[str], *, folder: Path, layout: Layout | None) -> str:
    """The study file: the active settings, the columns of the table, and the settings of the preset as comments.

    `cohort` are the lines on the table.
    """
    study = start.study
    lines = [
        f"# A study with the preset {preset}. All settings of the preset apply; to change a setting, remove the '# '",
        "# of its line below and write another value.",
        f"extends: {preset}",
        f"name: {quoted(folder.resolve().name or preset)}",
        *cohort,
    ]
    if layout is not None and layout.by_class:
        lines += [
            "# Subjects are NOT known: each image counts as a separate subject, one person may be on both sides of a",
            "# split, and all results may be too optimistic. Fill in `subject` in the table and delete the next line.",
            "subjects_known: false",
        ]
    if layout is not None and _has_split(layout):
        lines.append("split: {column: split}  # train and test are the folders")
    lines += start.lines
    active = {line.partition(":")[0] for line in lines if not line.startswith(("#", "extends"))}
    lines += ["", f"# The table has one row for each {start.row}. Its columns:", *_column_lines(study), ""]
    lines.append(f"# The protocol of {preset}, setting by setting (lines with ## are comments of the preset):")
    for line in preset_text(preset).splitlines():
        both = "  # (merge with the line above)" if line.partition(":")[0] in active else ""
        lines.append(f"#{line}" if line.lstrip().startswith("#") else f"# {line}{both}".rstrip())
    return "\n".join(lines) + "\n"


def _column_lines(study: Study) -> list[str]:
    meanings = {
        "path": "the image file, relative to `root` if stated, else to the table's folder",
        "subject": "the name of the person, the same in all rows",
        "visit": "the visit's name, such as week2; without this column every subject is one case",
        "day": "the day as a number (or a column `date` such as 2020-01-31); may be empty",
    }
    meanings |= modality_of(study).columns(study)
    if study.regions:
        meanings["region"] = f"one of {', '.join(study.regions)}"
    for name, target in study.targets.items():
        low, high = target.range
        text = f"{'whole, ' if target.integer else ''}{low:g} to {high:g}"
        if target.classes:
            text = f"one of {', '.join(spelling for spellings in target.classes.values() for spelling in spellings)}"
        text += f", one value for each {study.level_of(name)}; empty = {'unknown' if target.classes else 'not scored'}"
        if target.equals is not None:
            text = f"text; {name} is {target.equals!r}; empty = unknown"
        meanings |= dict.fromkeys(target_columns(name, study), text)
    width = max(map(len, meanings))
    return [f"#   {column:{width}}  {text}" for column, text in meanings.items()]


def _understood(layout: Layout, study: Study) -> list[str]:
    images, first = layout.images, layout.images[0]
    cases: dict[tuple[str, str], set[str]] = {}
    for image in images:
        cases.setdefault((image.subject, image.visit), set()).add(image.region)
    counts = [] if layout.by_class else [counted(len({image.subject for image in images}), "subject")]
    counts += [counted(len(cases), "visit")] if first.visit else []
    counts.append(counted(len(images), "image"))
    for noun, count in (("regions", Counter(i.region for i in images)), ("classes", Counter(i.label for i in images))):
        order = [region for region in study.regions if region in count] or sorted(count)
        counts += [f"{noun} " + ", ".join(f"{value} ({count[value]:,})" for value in order)] if any(count) else []
    skipped = list(dict.fromkeys(path.rpartition("/")[2] for path in layout.skipped))
    named = ", ".join(skipped[:3]) + (" …" if len(skipped) > 3 else "")
    belonging = companions_text(layout.companions)
    tail = f"; left out, because they belong to other images: {belonging}" if belonging else ""
    tail += f"; {counted(len(layout.skipped), 'file')} skipped ({named})" if skipped else ""
    facts = {"subject": first.subject, "visit": first.visit, "region": first.region, "class": first.label}
    meaning = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    lines = [f"{', '.join(counts)}{tail}.", f"Read as {layout.shape}: {first.path} is {meaning}."]
    if layout.by_class:
        lines.append(
            "WARNING: subjects are not known. Each image counts as a separate subject (subjects_known: false): images "
            "of one person may be on both sides of a split, and all results may be too optimistic."
        )
    lacking = {case: set(study.regions) - present for case, present in cases.items() if set(study.regions) - present}
    if lacking and not layout.by_class:
        shown = names_text([f"{'/'.join(filter(None, c))} ({', '.join(sorted(r))})" for c, r in lacking.items()], 5)
        lines.append(f"{counted(len(lacking), 'case')} without every region: {shown}.")
    if _has_split(layout):
        lines.append("The folders train and test are kept as the split (column split).")
    if layout.put_with_train:
        lines.append(f"The folder {layout.put_with_train} counts as train: folds are made within it.")
    label_column = _label_column(study) if layout.by_class else ""
    if empty := [column for column in _value_columns(study) if column != label_column]:
        lines.append(f"Fill in {', '.join(empty)} in {TABLE}; an empty cell is not scored.")
    return lines
