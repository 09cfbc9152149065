"""Tables of other shapes with a row for each case or image: long ones, and columns of raters, regions and visits."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from casewise.cohort.clinical_words import (
    AFTER,
    BEFORE,
    PART,
    RATER,
    Words,
    named_region,
    plain_words,
    region_phrases,
    unaccented,
)
from casewise.cohort.folder_layout import stem_of
from casewise.cohort.table import names_text, rows_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import CasewiseError, cut
from casewise.plugins.init.columns import Column
from casewise.plugins.init.key_names import named_visit, names_visit, readings, words
from casewise.plugins.init.observations import ANALYSED
from casewise.plugins.init.source import PHOTO, Source, key_columns, names_of_rows, rows_repeat

# Columns of long tables, as in ADaM and SDTM: the code of what was measured, its text, the value, the analysed record.
_CODE = ("paramcd", "qstestcd", "testcd", "param", "qstest", "parameter", "item", "test", "measure", "question")
_TEXT = ("param", "qstest", "parameter", "test")
_VALUE = ("aval", "qsstresn", "avalc", "qsstresc", "qsorres", "value", "result", "score", "rating", "response")
_MOST_RATERS = 8
# The heading of what columns have that are named like a region or visit alone.
_VALUES = "value"
_IMAGE = r"(photo(graph)?|image|picture|foto|bild|img|file|path|datei|pfad|fichier|archivo|imagen)s?( ?name)?"


def wide(source: Source, subject: str) -> Source:
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
    if not keys or not rows_repeat(source, keys) or len(Column(code, source.cells[code]).counts) < 2:
        return source
    if rater := _rater(source, keys | {"code": code}):
        keys["rater"] = rater
    names, flags = names_of_rows(source, keys), [n for n in source.cells if Column(n, ()).exactly(ANALYSED)]
    rows, notes = list(range(len(names))), []
    if flags and rows_repeat(source, keys | {"code": code}):
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
    notes = [*source.notes, *notes]
    return replace(
        source,
        cells=cells,
        numbers=numbers,
        notes=notes,
        labels=described,
        became={code: code for code in codes},
        changed=True,
    )


def _rater(source: Source, keys: Mapping[str, str]) -> str:
    """The column that tells rows with the same keys apart by who rated them; '' if none does."""
    columns = [Column(name, values) for name, values in source.cells.items() if name not in keys.values()]
    named = [c.name for c in columns if c.exactly(RATER) and c.filled == 1 and 1 < len(c.counts) <= _MOST_RATERS]
    if not named or not rows_repeat(source, keys):
        return ""
    return next((name for name in named if not rows_repeat(source, {**keys, "rater": name})), "")


def by_rater(source: Source, subject: str) -> Source:
    """A column for each rater, such as `score_AB`, where several rated the same case; other tables as they are."""
    keys = key_columns(source, source.roles(subject))
    images = [name for name in source.cells if Column(name, ()).named(_IMAGE) and name not in keys.values()]
    options = [keys, *(keys | {"image": name} for name in images)] if keys else []
    keys, rater = next(((each, name) for each in options if (name := _rater(source, each))), ({}, ""))
    if not rater:
        return source
    groups: dict[tuple[Words, ...], list[int]] = defaultdict(list)
    for row, names in enumerate(names_of_rows(source, keys)):
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
    first = next((name for name in new if not Column(name, source.cells[name]).are_dates), next(iter(new)))
    doubt = (
        f"SEVERAL RATERS: rows of one case differ by {rater} ({names_text(raters, 4)}), and each rater became a "
        f"column, such as {names_text(new[first], 4)}. What one of them rated is predicted: state which one with "
        "--target, or add a column with what they agreed on. To compare them, write "
        f"`evaluation: {{readers: {{{new[first][0]}: {{{raters[1]}: {new[first][1]}}}}}}}`."
    )
    numbers = [source.numbers[rows[0]] for rows in groups.values()]
    return replace(source, cells=cells, numbers=numbers, doubts=[*source.doubts, doubt], changed=True)


def by_region(source: Source, keys: Mapping[str, str], regions: Sequence[str], of_paths: Iterable[str]) -> Source:
    """A row for each region where columns name it, such as `erythema_upper`; other tables as they are.

    Args:
        regions: the regions of the study; without any, words of the paths that all such columns share.
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
    parts = _parts_with_sides(source, keys, candidates) if not regions else {}
    sided = list(dict.fromkeys(region for columns in parts.values() for region in columns))
    for name in source.cells if not sided else ():
        if name in keys.values():
            continue
        for text in dict.fromkeys((source.labels.get(name, name), name)):
            region, rest = named_region(text, candidates)
            if region and (rest or _has_values(source, name)):
                parts.setdefault(rest, {}).setdefault(region, name)
                break
    candidates = sided or candidates
    sets = Counter(frozenset(columns) for columns in parts.values() if len(columns) > 1)
    if not sets:
        return source
    shared = sets.most_common(1)[0][0]
    if regions and len(shared) < len(regions):
        return source
    parts = {rest: columns for rest, columns in parts.items() if frozenset(columns) == shared}
    in_time = "visit" not in keys and not regions and {unaccented(word) for word in shared} <= BEFORE | AFTER
    words_of_rows = [word for word in candidates if word in shared]
    if in_time:
        return _with_rows(source, "visit", parts, sorted(words_of_rows, key=lambda word: unaccented(word) in AFTER))
    return _with_rows(source, "region", parts, words_of_rows)


def _parts_with_sides(source: Source, keys: Mapping[str, str], words: Sequence[str]) -> dict[Words, dict[str, str]]:
    """By further words, the column of each part of the body and side, such as `hand left`; {} if fewer than three."""
    sides = [word for word in words if {("left",), ("right",)}.intersection(region_phrases(word))]
    others = [word for word in words if word not in sides]
    parts: dict[Words, dict[str, str]] = defaultdict(dict)
    for name in source.cells:
        side, rest = named_region(name, sides)
        region, rest = named_region(" ".join(rest), others)
        if side and region and name not in keys.values() and (rest or _has_values(source, name)):
            parts[rest].setdefault(f"{region} {side}", name)
    return dict(parts) if max(map(len, parts.values()), default=0) > 2 else {}


def _has_values(source: Source, name: str) -> bool:
    """Whether a column that is named like a region or visit alone has values of the images, and no dates."""
    column = Column(name, source.cells[name])
    return column.numbers is not None and not column.are_dates


def by_visit(source: Source, keys: Mapping[str, str], visits: Iterable[str]) -> Source:
    """A row for each visit where columns name it, such as `PASI_week4`; other tables as they are.

    Columns of visits that no path states become rows as well.

    Args:
        visits: those that the paths state.
    """
    visit_named = {words(visit, "visit"): visit for visit in visits}
    if "visit" in keys or len(visit_named) < 2:
        return source
    meaning = readings("visit", visit_named)
    parts: dict[Words, dict[str, str]] = defaultdict(dict)
    for name in source.cells:
        headings = plain_words(name)
        for length in (2, 1):
            text = " ".join(headings[-length:])
            visit = visit_named.get(meaning.get(words(text, "visit"), ()), text if names_visit(text) else "")
            alone = len(headings) == length
            if visit and alone and not _has_values(source, name):
                break
            if visit and name not in keys.values() and len(headings) >= length:
                if visit in parts[headings[:-length]]:  # `baseline` and `week 0`
                    return source
                parts[headings[:-length]][visit] = name
                break
    parts = {rest: columns for rest, columns in parts.items() if len(columns) > 1}
    sets = {frozenset(columns) for columns in parts.values()}
    if len(sets) != 1 or len(next(iter(sets)).intersection(visit_named.values())) < 2:
        return source
    return _with_rows(source, "visit", parts, list(next(iter(parts.values()))))


def by_dated_visit(source: Source, keys: Mapping[str, str]) -> Source:
    """A row for each visit where columns date several, such as `Date V1` beside `mRSS V1`; other tables as they are.

    Visits without any value are left out.
    """
    if "subject" not in keys or rows_repeat(source, {"subject": keys["subject"]}):
        return source
    parts = _columns_of_visits(source, keys)
    dated = [rest for rest, own in parts.items() if all(Column(n, source.cells[n]).are_dates for n in own.values())]
    alike = len(set(map(frozenset, parts.values()))) == 1
    if len(dated) != 1 or len(parts) < 2 or not alike or {"visit", "date"} & set(source.cells):
        return source
    if keys.get("visit", "") not in ("", *parts[dated[0]].values()):
        return source
    parts = {("date",) if rest == dated[0] else rest: own for rest, own in parts.items()}
    by_row = _with_rows(source, "visit", parts, list(parts["date",]))
    values = [by_row.cells["_".join(rest) or _VALUES] for rest in parts]
    kept = [
        row for row, cells in enumerate(zip(*values, strict=True)) if {c.casefold() for c in cells} - {"", *NO_VALUE}
    ]
    if len(kept) < len(by_row.numbers):
        by_row.notes.append(f"Visits without any value, left out: {len(by_row.numbers) - len(kept):,}.")
    cells = {name: [column[row] for row in kept] for name, column in by_row.cells.items()}
    return replace(by_row, cells=cells, numbers=[by_row.numbers[row] for row in kept])


def _columns_of_visits(source: Source, keys: Mapping[str, str]) -> dict[Words, dict[str, str]]:
    """By the other words of their headings, the columns of several visits; {} if two are of the same visit."""
    texts, parts = dict[Words, str](), defaultdict[Words, dict[str, str]](dict)
    for name in source.cells:
        visit, rest = named_visit(plain_words(name))
        if visit and name not in {column for role, column in keys.items() if role != "visit"}:
            written = re.search(r"[\W_]*".join(map(re.escape, visit.split())), name, re.IGNORECASE)
            text = texts.setdefault(words(visit, "visit"), written[0] if written else visit)
            if parts[rest].setdefault(text, name) != name:
                return {}
    return {rest: columns for rest, columns in parts.items() if len(columns) > 1}


def _with_rows(source: Source, role: str, parts: Mapping[Words, Mapping[str, str]], order: Sequence[str]) -> Source:
    """The table with a row for each region or visit in place of each row.

    Args:
        parts: by the name of a new column, the column of each region or visit.
    """
    split = {name for columns in parts.values() for name in columns.values()}
    if () in parts and _VALUES in source.cells:
        return source
    count, cells = len(source.numbers), {}
    for name, values in source.cells.items():
        if name not in split:
            cells[name] = [value for value in values for _ in order]
    cells[role] = [name for _ in range(count) for name in order]
    for rest, columns in parts.items():
        cells["_".join(rest) or _VALUES] = [source.cells[columns[name]][row] for row in range(count) for name in order]
    first = next(iter(parts))
    return replace(
        source,
        cells=cells,
        numbers=[number for number in source.numbers for _ in order],
        notes=[
            *source.notes,
            f"Columns of {role}s became rows, {len(order)} for each: "
            f"{names_text([parts[first][name] for name in order], 4)} are "
            f"{'_'.join(first) or _VALUES} of {', '.join(order)}.",
        ],
        became=source.became
        | {name: "_".join(rest) or _VALUES for rest, columns in parts.items() for name in columns.values()},
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
                re.fullmatch(rf"{PART}|{PHOTO}", word)
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
