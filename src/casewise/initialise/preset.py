"""A study from a preset: a commented study file and, from folders of images, the cohort table."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from casewise.cohort.classes import plain
from casewise.cohort.dates import iso_day, natural
from casewise.cohort.folder_layout import FolderImage, Layout, read_layout
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError
from casewise.files import guarded, write_atomic
from casewise.modalities.base import Start
from casewise.modalities.registry import modality_of
from casewise.modalities.store.film import film_columns
from casewise.study.loading import preset_text, read_study
from casewise.study.schema import Study

TABLE, STUDY = "cohort.csv", "study.yaml"


@dataclass(frozen=True)
class Initialised:
    """The written files, and sentences on how the folders were read and on the next steps."""

    files: list[Path]
    understood: list[str]


def initialise(preset: str, *, source: Path | None = None, folder: Path) -> Initialised:
    """Write `study.yaml` and, from the images below `source`, `cohort.csv` into `folder`.

    Raises:
        CasewiseError: a file exists already (nothing is overwritten), or the layout of the folders is not supported.
        StudyError: there is no such preset.
    """
    study = _study_of(preset)
    for name in [STUDY] if source is None else [TABLE, STUDY]:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise CasewiseError(
                f"{folder / name} exists already and is not overwritten. Move it, or name another folder."
            )
    modality = modality_of(study)
    if source is None:
        start = modality.start(None, study)
        file = write_atomic(folder / STUDY, _study_text(preset, start, folder=folder))
        return Initialised(
            [file],
            [f"Write {TABLE} in the same folder: one row for each {start.row}, with the columns that {STUDY} lists."],
        )
    modality.start([], study)
    classes = [target.equals for target in study.targets.values() if target.equals is not None]
    layout = read_layout(source, regions=study.regions, classes=classes)
    start = modality.start([source / image.path for image in layout.images], study)
    study = start.study
    text = _table_text(layout, study, _film_columns([source / image.path for image in layout.images]))
    # without the mark, spreadsheets read the file in their own code page
    table = write_atomic(folder / TABLE, text.encode("utf-8" if text.isascii() else "utf-8-sig"))
    written = _study_text(preset, start, folder=folder, source=source, layout=layout)
    file = write_atomic(folder / STUDY, written)
    return Initialised([table, file], [*_understood(layout, study), *start.notes])


def _study_of(preset: str) -> Study:
    preset_text(preset)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, STUDY)
        file.write_text(f"extends: {preset}\ncohort: {TABLE}\n", encoding="utf-8")
        return read_study(file)


def _value_columns(study: Study) -> list[str]:
    """The columns that targets are read from, each once."""
    columns: list[str] = []
    for name, target in study.targets.items():
        columns += [target.column or name] if not isinstance(target.column, list) else target.column
    return list(dict.fromkeys(columns))


def _label_column(study: Study) -> str:
    """The column for the class named by a folder: that of the preset's indicators, if they share one."""
    columns = {str(target.column or name) for name, target in study.targets.items() if target.equals is not None}
    return columns.pop() if len(columns) == 1 else "label"


def _folder_classes(layout: Layout, study: Study) -> tuple[str, dict[str, list[str]]] | None:
    """The target whose classes are the folders, with their names if they differ from the classes of the preset."""
    if not layout.by_class:
        return None
    column = _label_column(study)
    name = next((n for n, t in study.targets.items() if (t.column or n) == column and t.kind == "classification"), None)
    labels = sorted({image.label for image in layout.images}, key=natural)
    if name is None or len(labels) < 2 or all(set(s) <= set(labels) for s in study.targets[name].classes.values()):
        return None
    alike = {c: [x for x in labels if plain(x) in map(plain, s)] for c, s in study.targets[name].classes.items()}
    return name, alike if all(alike.values()) else {label: [label] for label in labels}


def _has_split(layout: Layout) -> bool:
    return {image.side for image in layout.images} == {"train", "test"}


def _has_dates(layout: Layout) -> bool:
    return all(iso_day(image.visit) is not None for image in layout.images)


def _film_columns(files: Sequence[Path]) -> dict[str, list[str]]:
    """What DICOM films state on how they were taken, as columns; those without any value are left out."""
    with ThreadPoolExecutor() as pool:
        stated = list(pool.map(film_columns, files))
    names = dict.fromkeys(name for values in stated for name in values)
    columns = {name: [values.get(name, "") for values in stated] for name in names}
    return {name: values for name, values in columns.items() if any(values)}


def _table_text(layout: Layout, study: Study, stated: Mapping[str, Sequence[str]]) -> str:
    columns = ["path", "subject"]
    columns += ["visit"] if layout.images[0].visit else []
    columns += ["date"] if _has_dates(layout) else []
    columns += ["region"] if layout.images[0].region else []
    columns += ["split"] if _has_split(layout) else []
    label = _label_column(study) if layout.by_class else ""
    columns += [label] if label else []
    columns += [column for column in _value_columns(study) if column not in columns]
    stated = {name: values for name, values in stated.items() if name not in columns}

    def cells(image: FolderImage) -> dict[str, str]:
        values = {name: getattr(image, name) for name in ("path", "subject", "visit", "region")}
        return {**values, "date": image.visit, "split": image.side, label: image.label}

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(guarded, [*columns, *stated]))
    for row, image in enumerate(layout.images):
        values = cells(image)
        line = [*(values.get(column, "") for column in columns), *(stated[name][row] for name in stated)]
        writer.writerow(map(guarded, line))
    return buffer.getvalue()


def _study_text(
    preset: str, start: Start, *, folder: Path, source: Path | None = None, layout: Layout | None = None
) -> str:
    """The study file: the active settings, the columns of the table, and the settings of the preset as comments."""
    study = start.study
    lines = [
        f"# A study with the preset {preset}. All settings of the preset apply; to change a setting, remove the '# '",
        "# of its line below and write another value.",
        f"extends: {preset}",
        f"name: {_quoted(folder.resolve().name or preset)}",
        f"cohort: {TABLE}",
    ]
    active = {"cohort", "name"}
    if source is not None and (root := _root(source, folder)):
        lines.append(f"root: {_quoted(root)}  # paths in the table start here")
        active.add("root")
    if layout is not None and layout.by_class:
        lines += [
            "# Subjects are NOT known: each image counts as a separate subject, one person may be on both sides of a",
            "# split, and all results may be too optimistic. Fill in `subject` in the table and delete the next line.",
            "subjects_known: false",
        ]
        active.add("subjects_known")
    if layout is not None and (folder_classes := _folder_classes(layout, study)):
        name, classes = folder_classes
        same = all(spellings == [label] for label, spellings in classes.items())
        written = json.dumps(list(classes) if same else classes, ensure_ascii=False)
        lines.append(f"targets: {{{_quoted(name)}: {{classes: {written}}}}}  # the names of the folders")
        active.add("targets")
    if layout is not None and _has_split(layout):
        lines.append("split: {column: split}  # train and test are the folders")
        active.add("split")
    lines += start.lines
    active |= {line.partition(":")[0] for line in start.lines if not line.startswith("#")}
    lines += ["", f"# {TABLE} has one row for each {start.row}. Its columns:", *_column_lines(study), ""]
    lines.append(f"# The protocol of {preset}, setting by setting (lines with ## are comments of the preset):")
    for line in preset_text(preset).splitlines():
        key = line.partition(":")[0]
        both = "  # (merge with the line above)" if key in active else ""
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
        for column in (
            [name] if target.column is None else [target.column] if isinstance(target.column, str) else target.column
        ):
            if target.equals is not None:
                meanings[column] = f"text; {name} is {target.equals!r}; empty = unknown"
                continue
            if target.classes:
                spellings_text = ", ".join(spelling for spellings in target.classes.values() for spelling in spellings)
                meanings[column] = (
                    f"one of {spellings_text}, one value for each {study.level_of(name)}; empty = unknown"
                )
                continue
            low, high = target.range
            kind = "whole, " if target.integer else ""
            meanings[column] = (
                f"{kind}{low:g} to {high:g}, one value for each {study.level_of(name)}; empty = not scored"
            )
    width = max(map(len, meanings))
    return [f"#   {column:{width}}  {text}" for column, text in meanings.items()]


def _root(source: Path, folder: Path) -> str:
    """The folder of the paths: relative if it is below the folder of the study, '' if it is the same."""
    start, home = source.resolve(), folder.resolve()
    if start == home:
        return ""
    return start.relative_to(home).as_posix() if start.is_relative_to(home) else str(start)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _understood(layout: Layout, study: Study) -> list[str]:
    images = layout.images
    cases: dict[tuple[str, str], set[str]] = {}
    for image in images:
        cases.setdefault((image.subject, image.visit), set()).add(image.region)
    counted = [] if layout.by_class else [_count(len({image.subject for image in images}), "subject")]
    counted += [_count(len(cases), "visit")] if images[0].visit else []
    counted.append(_count(len(images), "image"))
    for noun, values in (("regions", [i.region for i in images]), ("classes", [i.label for i in images])):
        counts = Counter(values)
        order = [region for region in study.regions if region in counts] or sorted(counts)
        if any(values):
            counted.append(f"{noun} " + ", ".join(f"{value} ({counts[value]:,})" for value in order))
    skipped = list(dict.fromkeys(path.rpartition("/")[2] for path in layout.skipped))
    named = ", ".join(skipped[:3]) + (" …" if len(skipped) > 3 else "")
    tail = f"; {_count(len(layout.skipped), 'file')} skipped ({named})" if skipped else ""
    lines = [f"{', '.join(counted)}{tail}.", _example(layout)]
    if layout.by_class:
        lines.append(
            "WARNING: subjects are not known. Each image counts as a separate subject (subjects_known: false): images "
            "of one person may be on both sides of a split, and all results may be too optimistic."
        )
    if folder_classes := _folder_classes(layout, study):
        name, classes = folder_classes
        line = f"The classes of {name} in {STUDY} are those of the folders: {', '.join(classes)}"
        if list(classes) != study.classes_of(name):
            line += (
                f" (the preset has {', '.join(study.classes_of(name))}). If the folders are hospitals or sources "
                f"instead, delete `targets` in {STUDY}, rename the column {name} of {TABLE} to source, and add a "
                f"column {name} with one of the preset's classes in each row"
            )
        lines.append(f"{line}.")
    lacking = {case: set(study.regions) - present for case, present in cases.items() if set(study.regions) - present}
    if lacking and not layout.by_class:
        shown = names_text([f"{'/'.join(filter(None, c))} ({', '.join(sorted(r))})" for c, r in lacking.items()], 5)
        lines.append(f"{_count(len(lacking), 'case')} without every region: {shown}. See missing_regions.")
    if _has_split(layout):
        lines.append("The folders train and test are kept as the split (column split).")
    if layout.put_with_train:
        lines.append(f"The folder {layout.put_with_train} counts as train: folds are made within it.")
    label_column = _label_column(study) if layout.by_class else ""
    if empty := [column for column in _value_columns(study) if column != label_column]:
        lines.append(f"Fill in {', '.join(empty)} in {TABLE}; an empty cell is not scored.")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _example(layout: Layout) -> str:
    image = layout.images[0]
    values = {"subject": image.subject, "visit": image.visit, "region": image.region, "class": image.label}
    meaning = ", ".join(f"{name} {value}" for name, value in values.items() if value)
    return f"Read as {layout.shape}: {image.path} is {meaning}."
