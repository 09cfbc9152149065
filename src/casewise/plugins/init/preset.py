"""A study from a preset: a commented study file and, from folders of images, the cohort table."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from casewise.cohort.cohort import read_cohort
from casewise.cohort.companions import companions_text
from casewise.cohort.folder_layout import Layout, are_batches, batches_text, read_layout, walk
from casewise.cohort.table import Problems, iso_day, names_text, read_text_table
from casewise.cohort.targets import target_columns
from casewise.errors import CohortError, counted
from casewise.modalities.base import Start
from casewise.modalities.registry import modality_of
from casewise.plugins.init.new_study import STUDY, TABLE, NewStudy, films_state, quoted, relative_path, table_bytes
from casewise.study.loading import preset_text, read_study
from casewise.study.schema import Study


def plan_preset(
    preset: str, *, table: Path | None = None, sheet: str = "", images: Path | None = None, folder: Path
) -> NewStudy:
    """Plan `study.yaml` and, from the folders of `images`, `cohort.csv` of a study; nothing is written.

    A `table` is read as it is, with paths from `images`; what the preset lacks in it is a doubt.

    Raises:
        CasewiseError: the layout of the folders is not supported, or the table cannot be read.
        StudyError: there is no such preset.
    """
    study, new, layout = _study_of(preset), NewStudy(folder), None
    modality = modality_of(study)
    start = modality.start(None if images is None else [], study)
    new.understood = [
        f"Write {TABLE} in the same folder: one row for each {start.row}, with the columns that {STUDY} lists."
    ]
    if table is not None:
        read_text_table(table, Problems(), sheet=sheet)
        next(walk(images or table.parent))
        new.understood = [f"{table} is read as it is: one row for each {start.row}, with the columns of {STUDY}."]
        try:
            read_cohort(study.model_copy(update={"cohort": table, "sheet": sheet, "root": images}))
        except CohortError as error:
            new.doubts = [f"`casewise validate` will refuse this table until it is corrected: {error}"]
    elif images is not None:
        classes = [target.equals for target in study.targets.values() if target.equals is not None]
        layout = read_layout(images, regions=study.regions, classes=classes)
        files = [images / image.path for image in layout.images]
        start = modality.start(files, study)
        new.files[TABLE] = table_bytes(*_table(layout, start.study, files))
        new.understood = [*_understood(layout, start.study), *start.notes]
        subjects = [image.subject for image in layout.images]
        if not layout.by_class and are_batches(subjects):
            new.doubts.append(f"Subject: ARE THESE PEOPLE? {batches_text(subjects)}. Correct the column `subject`.")
    home, stated = (table.parent, relative_path(table, folder)) if table else (folder, TABLE)
    lines = [f"cohort: {quoted(stated)}", *([f"sheet: {quoted(sheet)}"] if sheet else [])]
    if images is not None and images.resolve() != home.resolve():
        lines.append(f"root: {quoted(relative_path(images, folder))}  # paths in the table start here")
    new.files[STUDY] = _study_text(preset, start, lines, folder=folder, layout=layout).encode("utf-8")
    return new


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


def _table(layout: Layout, study: Study, files: list[Path]) -> tuple[list[str], list[list[str]]]:
    """The headings of the cohort table, and its rows; what DICOM films state on how they were taken comes last."""
    images, first, label = layout.images, layout.images[0], _label_column(study)
    columns = {"path": [i.path for i in images], "subject": [i.subject for i in images]}
    columns |= {"visit": [i.visit for i in images]} if first.visit else {}
    columns |= {"date": [i.visit for i in images]} if all(iso_day(i.visit) is not None for i in images) else {}
    columns |= {"region": [i.region for i in images]} if first.region else {}
    columns |= {"split": [i.side for i in images]} if _has_split(layout) else {}
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
        lines.append(f"{counted(len(lacking), 'case')} without every region: {shown}. See missing_regions.")
    if _has_split(layout):
        lines.append("The folders train and test are kept as the split (column split).")
    if layout.put_with_train:
        lines.append(f"The folder {layout.put_with_train} counts as train: folds are made within it.")
    label_column = _label_column(study) if layout.by_class else ""
    if empty := [column for column in _value_columns(study) if column != label_column]:
        lines.append(f"Fill in {', '.join(empty)} in {TABLE}; an empty cell is not scored.")
    return lines
