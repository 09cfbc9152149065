"""The tables of a sponsor as one: long ones become wide, columns of regions become rows, and several are joined."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from casewise.cohort.clinical_words import PART, RATER, REGION, SITE, VISIT, named_region, plain_words, region_phrases
from casewise.cohort.folder_layout import find_region, stem_of
from casewise.cohort.table import Problems, names_text, read_text_table, rows_text
from casewise.cohort.table_formats import sheet_headings
from casewise.errors import CasewiseError, cut
from casewise.names import one_form
from casewise.plugins.init.columns import Column, Roles, understand_columns
from casewise.plugins.init.joining import Words, check_letters, names_visit, readings, words

# Columns of long tables, as in ADaM and SDTM: the code of what was measured, its text, the value, the analysed record.
_CODE = ("paramcd", "qstestcd", "testcd", "param", "qstest", "parameter", "item", "test", "measure", "question")
_TEXT = ("param", "qstest", "parameter", "test")
_VALUE = ("aval", "qsstresn", "avalc", "qsstresc", "qsorres", "value", "result", "score", "rating", "response")
_ANALYSED = r"anl\d\dfl"
_PHOTO = r"photo(graph)?|image|picture|foto|bild|shot|view"
_IMAGE_NUMBER = (
    r"((photo(graph)?|image|picture|foto|bild|img|shot|file|view|aufnahme) ?)?(no|nr|num(ber)?|index|idx|n)|"
    rf"{_PHOTO}"
)
_TEETH = {10.0 * quadrant + tooth for quadrant in range(1, 9) for tooth in range(1, 9)}
_MOST_REGIONS, _MOST_RATERS = 20, 8
_IMAGE = r"(photo(graph)?|image|picture|foto|bild|img|file|path|datei|pfad|fichier|archivo|imagen)s?( ?name)?"
# Values of a column DTYPE: the record was not observed but carried from another visit, or computed.
_IMPUTED = (
    r"[lwbp]ocf|nocb|lvpd|m?mi|mmrm|(interp|extrap|imput|impute).*|average|mean|minimum|maximum|median|endpoint|phantom"
)


@dataclass(frozen=True)
class Source:
    """A table by column, with the number of each row for messages, and sentences on how it was made.

    `labels` describe columns that were codes, such as PARAMCD. `changed`: it is not the file any more.
    """

    path: Path
    cells: dict[str, list[str]]
    numbers: list[int]
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    changed: bool = False

    def roles(self, subject: str = "") -> Roles:
        return understand_columns(self.cells, subject=subject if subject in self.cells else "", numbers=self.numbers)


def stated_sheets(tables: Path | Sequence[Path] | None, sheets: str | Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of tables, and the sheet of each ('' is its first): `FILE.xlsx:SHEET`, or `sheets` in their order.

    Raises:
        CasewiseError: it is not clear which sheet is read from which table, or one is read twice.
    """
    files: list[Path] = []
    stated: list[str] = []
    for path in [tables] if isinstance(tables, Path) else tables or []:
        file, mark, name = str(path).rpartition(":")
        is_part = bool(mark and name) and not path.exists() and Path(file).is_file()
        files.append(Path(file) if is_part else path)
        stated.append(one_form(name) if is_part else "")
    sheets = [sheets] if isinstance(sheets, str) else list(sheets)
    sheets = [one_form(name) for name in sheets if name]
    open_books = [i for i, file in enumerate(files) if not stated[i] and (_is_book(file) or len(files) == 1)]
    each = "State one for each workbook in the order of --table, or write --table FILE.xlsx:SHEET."
    if len(sheets) == 1 and len(set(files)) == len(files):
        sheets *= max(1, len(open_books))
    if sheets and len(sheets) != len(open_books):
        raise CasewiseError(f"--sheet names {len(sheets):,} of the sheets of {len(open_books):,} workbooks. {each}")
    for position, name in zip(open_books, sheets, strict=False):
        stated[position] = name
    pairs = list(zip(files, stated, strict=True))
    if twice := next((pair for pair in pairs if pairs.count(pair) > 1), None):
        which = f"its sheet {cut(twice[1])} is" if twice[1] else "its first sheet is" if _is_book(twice[0]) else "it is"
        raise CasewiseError(f"--table: {twice[0]} is named twice, and {which} read twice. {each}")
    return files, stated


def read_tables(paths: Sequence[Path], problems: Problems, *, sheets: Sequence[str] = (), subject: str = "") -> Source:
    """The tables as one, by the subject, or by subject and visit, of the one with the most rows.

    Args:
        sheets: the sheet of each table, as of `stated_sheets`.

    Raises:
        CasewiseError: a table cannot be read; rows or columns contradict each other.
    """
    sources: list[Source] = []
    visits: dict[Path, list[tuple[str, Source]]] = defaultdict(list)
    pairs = list(zip(paths, sheets or [""] * len(paths), strict=True))
    for path, sheet in itertools.chain.from_iterable(itertools.starmap(_with_visits, pairs)):
        frame, notes = read_text_table(path, problems, sheet=sheet)
        if len(paths) > 1 and problems.hint:
            another = f"{problems.hint} `--table {path.name}:SHEET` reads another."
            notes = [another if note.startswith(problems.hint) else note for note in notes]
        problems.raise_any(path)
        cells = {str(name): [str(value).strip() for value in frame[name]] for name in frame.columns}
        source = Source(path, cells, frame.index.tolist(), notes)
        if sheet and names_visit(sheet):
            visits[path].append((sheet, source))
        else:
            sources.append(_read_as_cases(source, subject))
    for of_sheets in visits.values():
        alike = {tuple(sorted(source.cells)) for _, source in of_sheets}
        stacked = [_stacked(of_sheets)] if len(of_sheets) > 1 and len(alike) == 1 else [s for _, s in of_sheets]
        sources += [_read_as_cases(source, subject) for source in stacked]
    if len(sources) == 1:
        return sources[0]
    main = max(sources, key=lambda source: (len(key_columns(source, source.roles(subject))), len(source.numbers)))
    for source in sources:
        if source is not main:
            main = _merged(main, source, subject)
    return main


def _read_as_cases(source: Source, subject: str) -> Source:
    """A table with a row for each case or image: without imputed rows, codes and raters in columns."""
    return _by_rater(_wide(_observed(source), subject), subject)


def _with_visits(path: Path, sheet: str) -> list[tuple[Path, str]]:
    """A table and its sheet, or all filled sheets of a workbook in which none is stated and each is named like a visit.

    Raises:
        CasewiseError: the sheets are named like visits, but have different headings.
    """
    headings = sheet_headings(path) if not sheet and _is_book(path) else {}
    headings = {name: sorted(heading) for name, heading in headings.items() if heading}
    if len(headings) < 2 or not all(map(names_visit, headings)):
        return [(path, sheet)]
    first, *others = headings
    if other := next((name for name in others if headings[name] != headings[first]), ""):
        differing = sorted(set(headings[first]) ^ set(headings[other]))
        raise CasewiseError(
            f"{path}: its sheets are named like visits, but only one of {cut(first)} and {cut(other)} has "
            f"{names_text(differing, 3)}. Give them the same columns, or name those that are meant, such as "
            f"--table {path.name}:{max(headings, key=lambda name: len(headings[name]))}."
        )
    return [(path, name) for name in headings]


def _stacked(sheets: Sequence[tuple[str, Source]]) -> Source:
    """The rows of sheets that are named like visits as one table, with the visit of each row."""
    path, names = sheets[0][1].path, [name for name, _ in sheets]
    cells = {name: [value for _, source in sheets for value in source.cells[name]] for name in sheets[0][1].cells}
    notes = list(dict.fromkeys(note for _, source in sheets for note in source.notes))
    if not any(Column(name, values).exactly(VISIT) for name, values in cells.items()):
        cells["visit"] = [name for name, source in sheets for _ in source.numbers]
        notes.append(f"Visits: the sheets of {path.name}, {names_text(names, 8)}; a row has the visit of its sheet.")
    else:
        notes.append(f"Sheets of {path.name} that were read as one table: {names_text(names, 8)}.")
    numbers = [number for _, source in sheets for number in source.numbers]
    return Source(path, cells, numbers, notes, changed=True)


def _is_book(path: Path) -> bool:
    return path.suffix.casefold() == ".xlsx"


def key_columns(
    source: Source, roles: Roles, *, regions: Sequence[str] = (), targets: Iterable[str] = ()
) -> dict[str, str]:
    """The columns that say which subject, visit, region and photograph a row is about; {} without a subject.

    A visit may be the same in all rows, and where no column names visits, a date is one.
    """
    if not roles.subject:
        return {}
    columns = [Column(name, values) for name, values in source.cells.items() if name not in {roles.subject, *targets}]
    keys = {"subject": roles.subject}
    visits = [c for c in columns if c.exactly(VISIT) and c.filled == 1 and (len(c.counts) > 1 or c.numbers is None)]
    texts = [c.name for c in visits if all(map(names_visit, c.counts))]
    if visit := next(iter([*texts, *([roles.visit] if roles.visit else []), *(c.name for c in visits)]), roles.date):
        keys["visit"] = visit
    texts_only = [c for c in columns if c.name != visit and c.filled == 1 and 1 <= len(c.counts) <= _MOST_REGIONS]
    texts_only = [c for c in texts_only if c.numbers is None]
    of_study = [c.name for c in texts_only if regions and all(find_region(v, list(regions)) for v in c.counts)]
    texts_only = [c for c in texts_only if not _names_hospitals(c)]
    named = [c.name for c in texts_only if c.exactly(REGION) and c.name not in roles.sources]
    region = next(iter([*of_study, *named, *(c.name for c in texts_only if c.exactly(REGION))]), "")
    if region and (of_study or _repeats(source, keys)):
        keys["region"] = region
    if site := next((c.name for c in columns if _names_hospitals(c) and _restarts(source, keys, c.name)), ""):
        keys = {"site": site, **keys}
    if _repeats(source, keys):
        numbers = [
            c.name for c in columns
            if (c.exactly(_IMAGE_NUMBER) or _numbers_parts(c)) and c.name not in keys.values() and c.filled == 1
        ]  # fmt: skip
        if number := next((name for name in numbers if not _repeats(source, keys | {"number": name})), ""):
            keys["number"] = number
    return keys


def _numbers_parts(column: Column) -> bool:
    """Whether a column numbers lesions or teeth; under such a heading, 0 and 1 say whether there is one."""
    numbers = column.numbers if column.exactly(rf"({PART})( ?(no|nr|num(ber)?|id|index))?") else None
    return numbers is not None and column.are_whole and (min(numbers) == 1 or set(numbers) <= _TEETH)


def _names_hospitals(column: Column) -> bool:
    """Whether a column has hospitals; under a heading such as `site`, texts without digits are sites of the body."""
    digits = all(any(letter.isdigit() for letter in value) for value in column.counts)
    named = column.exactly(SITE) and column.filled == 1 and len(column.counts) > 1
    return named and (digits or not column.exactly(REGION))


def _restarts(source: Source, keys: Mapping[str, str], site: str) -> bool:
    """Whether numbers of subjects start again at each site: rows of one subject and visit are of several."""
    return len(set(_names(source, {**keys, "site": site}))) > len(set(_names(source, keys)))


def with_sites(source: Source, keys: Mapping[str, str]) -> Source:
    """The table whose subjects are SITE-SUBJECT, where their numbers start again at each site (`site` in the keys)."""
    if "site" not in keys:
        return source
    pairs = list(zip(source.cells[keys["site"]], source.cells[keys["subject"]], strict=True))
    subjects = [f"{site}-{subject}" for site, subject in pairs]
    return replace(
        source,
        cells=source.cells | {keys["subject"]: subjects},
        doubts=[
            *source.doubts,
            f"Subjects: numbers of {keys['subject']} start again at each {keys['site']}, so that subjects are "
            f"{keys['site']}-{keys['subject']}, such as {names_text(list(dict.fromkeys(subjects)), 3)}. Check that the "
            "paths have both where it says so above.",
        ],
        changed=True,
    )


def _names(source: Source, keys: Mapping[str, str]) -> list[tuple[Words, ...]]:
    by_role = [[words(cell, role) for cell in source.cells[column]] for role, column in keys.items()]
    return list(zip(*by_role, strict=True))


def _repeats(source: Source, keys: Mapping[str, str]) -> bool:
    names = _names(source, keys)
    return len(set(names)) < len(names)


def check_subjects(source: Source, subject: str) -> None:
    """Refuse subjects of a table that are one name in another spelling.

    Raises:
        CasewiseError: there are some.
    """
    spellings: dict[Words, dict[str, int]] = defaultdict(dict)
    for row, cell in zip(source.numbers, source.cells[subject], strict=True):
        spellings[words(cell)].setdefault(cell, row)
    if several := next((rows for name, rows in spellings.items() if name and len(rows) > 1), None):
        shown = " and ".join(f"{cut(cell)} (row {row})" for cell, row in list(several.items())[:3])
        raise CasewiseError(
            f"{source.path}, column {subject}: {shown} may be one subject in two spellings, and are not joined. Write "
            "each subject in one way, or different subjects in clearly different ways."
        )


# ------------------------------------------------------------------------------------------------------------- long


def _observed(source: Source) -> Source:
    """The table without rows whose DTYPE says that they were imputed, such as LOCF."""
    column = next((name for name in source.cells if Column(name, ()).header == "dtype"), "")
    values = source.cells.get(column, [])
    imputed = [row for row, value in enumerate(values) if re.fullmatch(_IMPUTED, value, re.IGNORECASE)]
    kept = sorted(set(range(len(values))) - set(imputed))
    if not imputed or not kept:
        return source
    doubt = (
        f"Imputed rows of {source.path.name} that were left out, because they are no visits: {len(imputed):,} "
        f"({column} {names_text(list(dict.fromkeys(values[row] for row in imputed)), 3)}; "
        f"{rows_text([source.numbers[row] for row in imputed], 3)})."
    )
    return replace(
        source,
        cells={name: [of_column[row] for row in kept] for name, of_column in source.cells.items()},
        numbers=[source.numbers[row] for row in kept],
        doubts=[*source.doubts, doubt],
        changed=True,
    )


def _wide(source: Source, subject: str) -> Source:
    """A long table with a row for each subject, visit and region, and a column for each code; others as they are.

    Raises:
        CasewiseError: a code occurs twice with different values.
    """
    by_header = {Column(name, ()).header: name for name in source.cells}
    code, value = (next((by_header[h] for h in names if h in by_header), "") for names in (_CODE, _VALUE))
    if not code or not value or code == value:
        return source
    texts = [by_header[header] for header in _TEXT if header in by_header and by_header[header] != code]
    facts = replace(source, cells={n: v for n, v in source.cells.items() if n not in {code, value, *texts}})
    keys = {role: name for role, name in key_columns(facts, facts.roles(subject)).items() if role != "number"}
    if not keys or not _repeats(source, keys) or len(Column(code, source.cells[code]).counts) < 2:
        return source
    if rater := _rater(source, keys | {"code": code}):
        keys["rater"] = rater
    names, flags = _names(source, keys), [n for n in source.cells if Column(n, ()).exactly(_ANALYSED)]
    rows, notes = list(range(len(names))), []
    if flags and _repeats(source, keys | {"code": code}):
        rows = [row for row in rows if source.cells[flags[0]][row].casefold() == "y"]
        notes.append(f"Only rows of {source.path.name} with {flags[0]} = Y are used: {len(rows):,} of {len(names):,}.")
    groups: dict[tuple[Words, ...], list[int]] = defaultdict(list)
    for row in rows:
        groups[names[row]].append(row)
    # a code for several regions, which only its text names
    for text in texts:
        by_code, by_text = ({(names[row], source.cells[c][row]) for row in rows} for c in (code, text))
        if len(by_code) < len(rows) == len(by_text):
            code, texts = text, []
            break
    codes = list(dict.fromkeys(source.cells[code][row] for row in rows))
    spare = next((by_header[h] for h in ("avalc", "qsstresc") if h in by_header and by_header[h] != value), "")
    values: dict[str, list[str]] = {name: [] for name in codes}
    for group in groups.values():
        of_group: dict[str, int] = {}
        for row in group:
            name, other = source.cells[code][row], of_group.setdefault(source.cells[code][row], row)
            if source.cells[value][other] != source.cells[value][row]:
                raise CasewiseError(
                    f"{source.path}, {rows_text([source.numbers[other], source.numbers[row]])}: {code} {cut(name)} of "
                    f"{' '.join(source.cells[column][row] for column in keys.values())} has two values, "
                    f"{cut(source.cells[value][other])} and {cut(source.cells[value][row])} ({value}). Keep one of the "
                    "rows, or mark those that are analysed with Y in a column ANL01FL."
                )
        for name in codes:
            row_of_code = of_group.get(name)
            cell = "" if row_of_code is None else source.cells[value][row_of_code]
            values[name].append(cell or ("" if row_of_code is None or not spare else source.cells[spare][row_of_code]))
    constant = [
        name for name in facts.cells
        if name != spare and all(len({source.cells[name][row] for row in group}) == 1 for group in groups.values())
    ]  # fmt: skip
    dropped = [name for name in source.cells if name not in {*constant, code, value}]
    if clash := [name for name in codes if name in constant]:
        raise CasewiseError(f"{source.path}: {names_text(clash)} is a column and a value of {code}. Rename the column.")
    cells = {name: [source.cells[name][group[0]] for group in groups.values()] for name in constant} | values
    described = {source.cells[code][row]: source.cells[text][row] for text in texts[:1] for row in reversed(rows)}
    notes.append(
        f"{source.path.name} is long: each {code} became a column ({names_text(codes, 8)}) with the values of {value}; "
        f"{len(rows):,} rows became {len(groups):,}."
        + (f" Left out, because they differ between codes: {names_text(dropped, 12)}." if dropped else "")
    )
    numbers = [source.numbers[group[0]] for group in groups.values()]
    return replace(source, cells=cells, numbers=numbers, notes=[*source.notes, *notes], labels=described, changed=True)


def _rater(source: Source, keys: Mapping[str, str]) -> str:
    """The column that tells rows with the same keys apart by who rated them; '' if none does."""
    columns = [Column(name, values) for name, values in source.cells.items() if name not in keys.values()]
    named = [c.name for c in columns if c.exactly(RATER) and c.filled == 1 and 1 < len(c.counts) <= _MOST_RATERS]
    if not named or not _repeats(source, keys):
        return ""
    return next((name for name in named if not _repeats(source, {**keys, "rater": name})), "")


def _by_rater(source: Source, subject: str) -> Source:
    """A column for each rater, such as `score_AB`, where several rated the same case; other tables as they are."""
    keys = key_columns(source, source.roles(subject))
    images = [name for name in source.cells if Column(name, ()).named(_IMAGE) and name not in keys.values()]
    options = [keys, *(keys | {"image": name} for name in images)] if keys else []
    keys, rater = next(((each, name) for each in options if (name := _rater(source, each))), ({}, ""))
    if not rater:
        return source
    groups: dict[tuple[Words, ...], list[int]] = defaultdict(list)
    for row, names in enumerate(_names(source, keys)):
        groups[names].append(row)
    raters = list(Column(rater, source.cells[rater]).counts)
    cells, new = dict[str, list[str]](), dict[str, list[str]]()
    for name, values in source.cells.items():
        if name in keys.values() or all(len({values[row] for row in rows}) == 1 for rows in groups.values()):
            cells[name] = [values[rows[0]] for rows in groups.values()]
        elif name != rater:
            by_rater = [{source.cells[rater][row]: values[row] for row in rows} for rows in groups.values()]
            new[name] = [f"{name}_{'_'.join(each.split())}" for each in raters]
            cells |= {
                column: [of_case.get(each, "") for of_case in by_rater]
                for column, each in zip(new[name], raters, strict=True)
            }
    if not new or set(source.cells).intersection(itertools.chain(*new.values())):
        return source
    first = next(iter(new))
    doubt = (
        f"SEVERAL RATERS: rows of one case differ by {rater} ({names_text(raters, 4)}), and each rater became a "
        f"column, such as {names_text(new[first], 4)}. What one of them rated is predicted: state which one with "
        "--target, or add a column with what they agreed on. To compare them, write "
        f"`evaluation: {{readers: {{{new[first][0]}: {{{raters[1]}: {new[first][1]}}}}}}}`."
    )
    numbers = [source.numbers[rows[0]] for rows in groups.values()]
    return replace(source, cells=cells, numbers=numbers, doubts=[*source.doubts, doubt], changed=True)


# ---------------------------------------------------------------------------------------------------------- regions


def by_region(source: Source, keys: Mapping[str, str], regions: Sequence[str], of_paths: Iterable[str]) -> Source:
    """A row for each region where columns name it, such as `erythema_upper`; other tables as they are.

    Args:
        regions: those of the study; without any, words of the paths that all such columns share.
        of_paths: words of the paths.
    """
    if "region" in keys:
        return source
    texts = [text for name in source.cells for text in (name, source.labels.get(name, ""))]
    headings = {word for text in texts for word in plain_words(text)}
    candidates = list(regions) or [
        word
        for word in dict.fromkeys(of_paths)
        if word.isalpha() and any(headings.issuperset(phrase) for phrase in region_phrases(word))
    ]
    if not regions:  # `eye` of `grade_eye_left` and `grade_eye_right` tells nothing apart
        of_word = {word: {text for text in texts if named_region(text, [word])[0]} for word in candidates}
        candidates = [
            word for word in candidates if not any(of_word[word] > other for other in of_word.values() if other)
        ]
    parts: dict[Words, dict[str, str]] = defaultdict(dict)
    for name in source.cells:
        if name in keys.values():
            continue
        for text in dict.fromkeys((source.labels.get(name, name), name)):
            region, rest = named_region(text, candidates)
            if region and rest:
                parts[rest].setdefault(region, name)
                break
    sets = Counter(frozenset(columns) for columns in parts.values() if len(columns) > 1)
    if not sets:
        return source
    shared = sets.most_common(1)[0][0]
    if regions and len(shared) < len(regions):
        return source
    parts = {rest: columns for rest, columns in parts.items() if frozenset(columns) == shared}
    return _with_rows(source, "region", parts, [region for region in candidates if region in shared])


def by_visit(source: Source, keys: Mapping[str, str], visits: Iterable[str]) -> Source:
    """A row for each visit where columns name it, such as `PASI_week4`; other tables as they are.

    Args:
        visits: those that the paths state.
    """
    visit_named = {words(visit, "visit"): visit for visit in visits}
    if "visit" in keys or len(visit_named) < 2:
        return source
    parts: dict[Words, dict[str, str]] = defaultdict(dict)
    for name in source.cells:
        headings = plain_words(name)
        for length in (2, 1):
            visit = words(" ".join(headings[-length:]), "visit")
            if len(headings) > length and visit in visit_named and name not in keys.values():
                parts[headings[:-length]].setdefault(visit_named[visit], name)
                break
    parts = {rest: columns for rest, columns in parts.items() if len(columns) > 1}
    if len({frozenset(columns) for columns in parts.values()}) != 1:
        return source
    return _with_rows(source, "visit", parts, list(next(iter(parts.values()))))


def _with_rows(source: Source, role: str, parts: Mapping[Words, Mapping[str, str]], order: Sequence[str]) -> Source:
    """The table with a row for each region or visit in place of each row.

    Args:
        parts: by the name of a new column, the column of each region or visit.
    """
    split = {name for columns in parts.values() for name in columns.values()}
    count, cells = len(source.numbers), {}
    for name, values in source.cells.items():
        if name not in split:
            cells[name] = [value for value in values for _ in order]
    cells[role] = [name for _ in range(count) for name in order]
    for rest, columns in parts.items():
        cells["_".join(rest)] = [source.cells[columns[name]][row] for row in range(count) for name in order]
    first = next(iter(parts))
    return replace(
        source,
        cells=cells,
        numbers=[number for number in source.numbers for _ in order],
        notes=[
            *source.notes,
            f"Columns of {role}s became rows, {len(order)} for each: "
            f"{names_text([parts[first][name] for name in order], 4)} are "
            f"{'_'.join(first)} of {', '.join(order)}.",
        ],
        changed=True,
    )


def by_part(source: Source, keys: Mapping[str, str]) -> Source:
    """A row for each lesion, tooth or photograph where columns number them (`lesion1_size`); others as they are."""
    if "number" in keys:
        return source
    parts: dict[str, dict[Words, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in source.cells:
        headings = plain_words(name)
        for first, (word, number) in enumerate(itertools.pairwise(headings)):
            if (
                re.fullmatch(rf"{PART}|{_PHOTO}", word)
                and number.isdecimal()
                and len(headings) > 2
                and name not in keys.values()
            ):
                parts[word][headings[:first] + headings[first + 2 :]].setdefault(number, name)
    for word, columns in parts.items():
        several = {rest: own for rest, own in columns.items() if len(own) > 1}
        if len({frozenset(own) for own in several.values()}) == 1:
            return _with_rows(source, word, several, list(next(iter(several.values()))))
    return source


def check_several_columns(source: Source, keys: Mapping[str, str], target: str, paths: Iterable[str]) -> None:
    """Refuse columns for sides or times, such as `grade_OD` and `grade_OS`, that the paths do not tell apart.

    Args:
        target: the stated one: if it is another column, or no two `paths` name two times, all images have its value.

    Raises:
        CasewiseError: there are such columns of numbers.
    """
    parts: dict[Words, list[str]] = defaultdict(list)
    for name, values in source.cells.items():
        headings = plain_words(name)
        if name in keys.values() or Column(name, values).numbers is None:
            continue
        for start, length in itertools.product(range(len(headings)), (1, 2)):
            phrase = " ".join(headings[start : start + length])
            is_side = length == 1 and len(region_phrases(phrase)) > 1
            is_time = "visit" not in keys and start + length <= len(headings) and names_visit(phrase)
            if is_side or is_time:
                parts[*headings[:start], "", *headings[start + length :]].append(name)
    several = [own for own in parts.values() if len(own) > 1]
    if target and several:
        several = [own for own in several if target in own and _names_times(paths)]
    if several:
        raise CasewiseError(
            f"{source.path}: {' and '.join(several[0][:3])} have values of several images of a row, and the paths do "
            "not all say which image belongs to which. Write a row for each of them, with a column that names it as "
            "the paths do, or delete the columns that are not meant. If all images of a row have the value of another "
            "column, say so with --target."
        )


def _names_times(paths: Iterable[str]) -> bool:
    """Whether the paths name two visits or more, wherever they do."""
    visits: set[str] = set()
    for path in paths:
        named = plain_words(stem_of(path))
        phrases = {" ".join(named[start : start + length]) for start in range(len(named)) for length in (1, 2)}
        visits |= set(filter(names_visit, phrases))
        if len(visits) > 1:
            return True
    return False


def check_numbered(source: Source, target: str, of_rows: Iterable[Sequence[str]]) -> None:
    """Refuse a target such as `score_1` beside `score_2` where the images of a row have the same numbers.

    Args:
        of_rows: the paths of each row.

    Raises:
        CasewiseError: they have.
    """
    numbered: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in source.cells:
        heading = plain_words(name)
        for position, word in enumerate(heading):
            if word.isdecimal():
                numbered[(*heading[:position], "", *heading[position + 1 :])].setdefault(word, name)
    for columns in numbered.values():
        if target not in columns.values() or len(columns) < 2:
            continue
        for paths in of_rows:
            last = [plain_words(stem_of(path).rpartition("/")[2])[-1:] for path in paths]
            if set(itertools.chain(*last)) == set(columns):
                names, shown = names_text(list(columns.values()), 3), names_text(paths, 3)
                raise CasewiseError(
                    f"{source.path}: {names} have the numbers of the images of a row, such as {shown}. If each column "
                    "is about its image, write a row for each image, with a column `image` that has its "
                    f"number. If all images have the value of one column, say so with --target {target}."
                )


# ----------------------------------------------------------------------------------------------------------- several


def _merged(main: Source, other: Source, subject: str) -> Source:
    """A table with the columns of another one that has a row for each subject, or each subject and visit.

    Raises:
        CasewiseError: the other one has several rows of a case, or has columns of the same names with other values.
    """
    of_main, of_other = (key_columns(each, each.roles(subject)) for each in (main, other))
    for each, keys in ((main, of_main), (other, of_other)):
        if not keys:
            raise CasewiseError(
                f"{each.path}: no column identifies the subjects, by which tables are joined; there are "
                f"{names_text(list(each.cells), 8)}. Name it `subject`, or state it with --subject."
            )
        check_subjects(each, keys["subject"])
    if sites := {of_main.get("site"), of_other.get("site")} - {None}:
        site = sites.pop()
        without = next((each for each in (main, other) if site not in each.cells), None)
        if sites or without is not None:
            raise CasewiseError(
                f"{(without or other).path}: numbers of subjects start again at each {site} of "
                f"{(main if 'site' in of_main else other).path.name}, and this table has no column {site}. Add it."
            )
        of_main, of_other = ({**keys, "site": str(site)} for keys in (of_main, of_other))
    start = ["subject", "site"] if "site" in of_main else ["subject"]
    shared = [start] + [[*start, "visit"]] * ("visit" in of_main and "visit" in of_other)
    shared += [[*start, "visit", "region"]] * (len(shared) > 1 and "region" in of_main and "region" in of_other)
    roles = next((each for each in shared if not _repeats(other, {role: of_other[role] for role in each})), [])
    if not roles:
        column = of_other["subject"]
        twice = next(name for name, count in Counter(other.cells[column]).items() if count > 1)
        rows = [n for n, cell in zip(other.numbers, other.cells[column], strict=True) if cell == twice]
        raise CasewiseError(
            f"{other.path}, {rows_text(rows, 3)}, {column}: {cut(twice)} has several rows. A further table has one "
            f"row for each subject{', or each subject and visit' * (len(shared) > 1)}, so that it can be joined to "
            f"{main.path.name}."
        )
    own = {
        role: dict(zip(_names(other, {role: of_other[role]}), other.cells[of_other[role]], strict=True))
        for role in roles
    }
    meaning = {role: readings(role, [name for (name,) in own[role]]) for role in roles}
    mine = _names(main, {role: of_main[role] for role in roles})
    by_end = not any(name[0] in meaning["subject"] for name in mine)
    if by_end:
        meaning["subject"] = _ends({name[0] for name in mine}, [name for (name,) in own["subject"]])
    index = {key: row for row, key in enumerate(_names(other, {role: of_other[role] for role in roles}))}
    row_of = [
        index.get(tuple(meaning[role].get(name, ()) for role, name in zip(roles, key, strict=True))) for key in mine
    ]
    columns = [name for name in other.cells if name not in {of_other[role] for role in roles}]
    cells, same = dict(main.cells), []
    for name in columns:
        joined = ["" if row is None else other.cells[name][row] for row in row_of]
        if name not in cells:
            cells[name] = joined
            continue
        differ = [i for i, row in enumerate(row_of) if row is not None and joined[i] != cells[name][i]]
        if differ:
            first = differ[0]
            clashing = [n for n in columns if n in main.cells]
            raise CasewiseError(
                f"{main.path.name} and {other.path.name} both have {names_text(clashing, 8)}, and {name} differs: "
                f"{cut(cells[name][first])} in row {main.numbers[first]} of the first, {cut(joined[first])} in row "
                f"{other.numbers[row_of[first] or 0]} of the second. Rename or remove one of the columns."
            )
        same.append(name)
    lacking = list(dict.fromkeys(main.cells[of_main["subject"]][i] for i, row in enumerate(row_of) if row is None))
    unused = [
        " ".join(other.cells[of_other[role]][row] for role in roles)
        for row in range(len(other.numbers)) if row not in set(row_of)
    ]  # fmt: skip
    pairs = [
        (main.cells[of_main["subject"]][i], other.cells[of_other["subject"]][row])
        for i, row in enumerate(row_of) if by_end and row is not None
    ]  # fmt: skip
    doubts = check_letters(pairs, other.path.name, f"write the subjects of {other.path.name} as {main.path.name} does")
    if lacking:
        doubts.append(
            f"Without a row in {other.path.name}: {len(lacking):,} subjects ({names_text(lacking, 3)}). Their cells of "
            f"{names_text(columns, 4)} are empty."
        )
    if unused:
        doubts.append(
            f"Rows of {other.path.name} that meet no row of {main.path.name}, which are not used: {len(unused):,} "
            f"({names_text(unused, 3)})."
        )
    spelled = {
        (main.cells[of_main[role]][i], other.cells[of_other[role]][row])
        for role in roles for i, row in enumerate(row_of)
        if row is not None and main.cells[of_main[role]][i] != other.cells[of_other[role]][row]
    }  # fmt: skip
    notes = [f"{other.path.name} was joined by {' and '.join(roles)}: {names_text(columns, 8)}."]
    if spelled:
        shown = names_text([f"{b} is {a}" for a, b in sorted(spelled)], 3)
        notes.append(f"Spellings that differ between {main.path.name} and {other.path.name}: {shown}.")
    if same:
        notes.append(f"Columns of both tables with the same values: {names_text(same, 8)}.")
    return replace(
        main,
        cells=cells,
        notes=[*main.notes, *other.notes, *notes],
        doubts=[*main.doubts, *other.doubts, *doubts],
        labels=main.labels | other.labels,
        changed=True,
    )


def _ends(mine: Iterable[Words], names: Sequence[Words]) -> dict[Words, Words]:
    """The names that end as others do, each with the only one: `CW-01-007` and `007`; {} if an end is not clear."""
    pairs = {(a, b) for a in mine for b in names if a and b and (a[-len(b) :] == b or b[-len(a) :] == a)}
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    return dict(pairs) if max([*left.values(), *right.values()], default=2) == 1 else {}
