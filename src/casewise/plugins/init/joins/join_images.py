"""Rows of a table joined to images by what folders and file names state: subject, visit, region and number.

Names are compared in words without case and leading zeros, so that `S-01` is `s1` and `Week 4` is `W04`. Two subjects
of the table, or two spellings in the paths, are never read as one person.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date

from casewise.cohort.clinical_words import LETTERS_OF_VISITS, Words
from casewise.cohort.folder_layout import OF_FILES, Pattern
from casewise.errors import CasewiseError, cut
from casewise.plugins.init.joins.join_checks import (
    ENOUGH,
    check_counters,
    check_folders,
    check_letters,
    check_shifted,
    check_spellings,
    check_visits,
    unit_of,
)
from casewise.plugins.init.joins.path_dates import days_of_texts, table_days
from casewise.plugins.init.joins.path_pattern import Matched, read_stated, text_at
from casewise.plugins.init.joins.path_words import (
    MOST_WORDS,
    SAMPLE,
    PathWords,
    Place,
    Span,
    Spans,
    occurring,
    paths_in_words,
    taken_words,
    visits_beside,
)
from casewise.plugins.init.key_names import readings, words

# Places that are tried for each column.
_MOST_PLACES = 4
_RESTART = ", and numbers of subjects start again at each site, so that the paths must state both"


@dataclass
class Joined:
    """The images of each row of a table.

    Attributes:
        paths: by row, from 0, its images.
        columns: the columns that were compared, by what they state.
        stated: by path, what it states that the table does not, such as the visit.
        visits: by path, how it writes the visit.
        dates: by path, the ordinal days of the dates in it that are no name of its row.
        pattern: what the paths were read as.
        absent: by column, the values that no path has, if no rows meet images.
    """

    paths: dict[int, list[str]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    stated: dict[str, dict[str, str]] = field(default_factory=dict)
    visits: dict[str, str] = field(default_factory=dict)
    dates: dict[str, set[int]] = field(default_factory=dict)
    pattern: str = ""
    absent: dict[str, list[str]] = field(default_factory=dict)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


class _Keys:
    """The key of each row in names by role, and the rows of each part of a key."""

    def __init__(self, cells: Mapping[str, Sequence[str]], columns: Mapping[str, str]) -> None:
        self.names = {role: [words(cell, role) for cell in cells[column]] for role, column in columns.items()}
        self.count = len(next(iter(cells.values())))
        self._columns = columns
        self._cells = {role: cells[column] for role, column in columns.items()}
        self._indexes: dict[tuple[str, ...], dict[tuple[Words, ...], list[int]]] = {}

    def is_site(self, read: Mapping[str, Spans]) -> bool:
        """Whether what was read may be sites: a number only before the subject, because others count photographs."""
        first = next(iter(read.values()), None)
        coded = any(not word.isdecimal() for name in self.names["site"] for word in name)
        return coded or first is None or first["site"][1:3] < first["subject"][1:3]

    def spells(self, role: str, each: PathWords, read: Mapping[str, Spans], row: int) -> bool:
        """Whether a path writes a name of its row as the table does."""
        span = read[each.path].get(role) if role in self._cells else None
        cell = self._cells[role][row] if role in self._cells else ""
        if span is None:
            return False
        written = each.lettered(role, *span[1:])
        # a number alone may be of any kind of visit, unless the path has the unit of the column
        if role == "visit" and cell.isdecimal():
            return unit_of(written) == unit_of(self._columns[role]) != ""
        return written == cell

    def rows(self, key: Mapping[str, Words]) -> list[int]:
        roles = tuple(key)
        if roles not in self._indexes:
            index = self._indexes[roles] = defaultdict(list)
            for row, names in enumerate(zip(*(self.names[role] for role in roles), strict=True)):
                index[names].append(row)
        return self._indexes[roles].get(tuple(key.values()), [])


def join_images(
    cells: Mapping[str, Sequence[str]],
    paths: Sequence[str],
    columns: Mapping[str, str],
    *,
    regions: Sequence[str] = (),
    stated: Pattern | None = None,
) -> Joined:
    """Join the rows of a table to the images whose paths state their subject and, if they do, visit, region and number.

    Args:
        cells: the table by column.
        paths: of the images, with `/`.
        columns: the column of the subject, and those of visit, region and number if there are any.
        regions: of the study, which paths may name where the table does not.
        stated: the pattern of the paths; by default it is found from the names that occur in them.

    Raises:
        CasewiseError: the paths can be read in two ways, or two spellings would be one person.
    """
    keys = _Keys(cells, columns)
    days = table_days(cells)
    split_paths = paths_in_words(paths, days)
    best: dict[str, Spans] = {}
    for loose in (False, True):
        names_of = {role: readings(role, keys.names[role], loose=loose, regions=regions) for role in columns}
        if regions and "region" not in columns:
            names_of["region"] = readings("region", map(words, regions))
        read = (
            _by_pattern(split_paths, names_of, stated, days)
            if stated
            else _by_places(split_paths, names_of, keys, columns)
        )
        if len(_assigned(read, keys, columns)) > len(_assigned(best, keys, columns)):
            best = read
        assigned = _assigned(best, keys, columns)
        if len(set(assigned.values())) >= ENOUGH * keys.count or len(assigned) >= ENOUGH * len(paths):
            break
    joined = Joined(columns=dict(columns))
    for path, row in assigned.items():
        joined.paths.setdefault(row, []).append(path)
    if not assigned:
        for role, column in columns.items():
            in_paths = {span[0] for each in split_paths for span in occurring(each, role, names_of[role])}
            joined.absent[column] = [cell for cell in dict.fromkeys(cells[column]) if words(cell, role) not in in_paths]
        return joined
    joined.columns = {role: columns[role] for role in best[next(iter(assigned))] if role in columns}
    matched = Matched({each.path: each for each in split_paths}, best, assigned, cells, joined.columns, stated)
    joined.pattern = matched.pattern
    for path in assigned:
        taken = taken_words(best[path])
        joined.dates[path] = {day for at, day in matched.paths[path].dates().items() if at not in taken}
    # of fewer the join is not used
    used = len(joined.paths) >= ENOUGH * keys.count or len(assigned) >= ENOUGH * len(paths)
    if used and not stated:
        check_counters(matched, joined.pattern)
        check_visits(matched, keys.names.get("visit", ()))
        check_folders(matched)
    if used:
        check_shifted(matched, joined.pattern)
    understood, several = check_spellings(matched, joined.pattern)
    joined.understood += understood
    if used and several:
        raise several
    if used and not stated:
        pairs = []
        for path in assigned:
            spans = best[path]
            taken = taken_words({role: span for role, span in spans.items() if role != "subject"})
            pairs.append((matched.cell(path, "subject"), matched.paths[path].whole(spans["subject"], taken)))
        remedy = f"state the letters of the paths, such as --pattern {joined.pattern!r}"
        joined.doubts += check_letters(pairs, "the paths", remedy)
    _add_stated(joined, matched, regions)
    return joined


def met(joined: Joined, rows: int, images: int, *, both: bool = False) -> bool:
    """Whether enough of so many rows, or of the images, meet (or of both)."""
    shares = len(joined.paths) / rows, sum(map(len, joined.paths.values())) / images
    return (min if both else max)(shares) >= ENOUGH


def _assigned(read: Mapping[str, Spans], keys: _Keys, columns: Mapping[str, str]) -> dict[str, int]:
    """The row of each path whose names only one row has."""
    rows = {}
    for path, spans in read.items():
        matches = keys.rows({role: spans[role][0] for role in columns if role in spans})
        if len(matches) == 1:
            rows[path] = matches[0]
    return rows


def _name_in_pattern(text: str, role: str, names_of: Mapping[Words, Words]) -> Words:
    """The name that a field of a stated pattern means; a letter of a unit is read where it is known to be a visit."""
    named = words(text, role)
    if role == "visit" and named and named[0] in LETTERS_OF_VISITS:
        named = (LETTERS_OF_VISITS[named[0]], *named[1:]) if named not in names_of else named
    return names_of.get(named, ("", text))


def _by_pattern(
    paths: Sequence[PathWords], names_of: Mapping[str, Mapping[Words, Words]], stated: Pattern, days: Set[int]
) -> dict[str, Spans]:
    """The names of the paths that match a pattern the user states; fields that the table lacks are left out.

    Raises:
        CasewiseError: {date} is no date.
    """
    result: dict[str, Spans] = {}
    read = {each.path: values for each in paths if (values := read_stated(stated, each)) is not None}
    dates = days_of_texts((values["date"] for values in read.values()), days) if "date" in stated.fields else {}
    for path, values in read.items():
        if "date" in values and "visit" not in values:
            if not (day := dates.get(values["date"], 0)):
                why = "whose day and month cannot be told apart" if values["date"] in dates else "which is no date"
                raise CasewiseError(
                    f"--pattern {stated.text!r}: {{date}} is {cut(values['date'])} in {path}, {why}. "
                    "If this text is a visit or a number, name it {visit} or {n}."
                )
            values = values | {"visit": date.fromordinal(day).isoformat()}
        roles = {("number" if name in OF_FILES[:-1] else name): text for name, text in values.items()}
        spans: Spans = {
            role: (_name_in_pattern(text, role, names_of[role]), 0, 0, 0)
            for role, text in roles.items()
            if text and role in names_of
        }
        result[path] = spans
    return result


def _by_places(
    paths: Sequence[PathWords], names_of: Mapping[str, Mapping[Words, Words]], keys: _Keys, columns: Mapping[str, str]
) -> dict[str, Spans]:
    """The names of the paths at the places where most rows meet images, of all columns that occur in the paths.

    Raises:
        CasewiseError: two columns may stand at each other's place.
    """
    sample = paths[:: max(1, len(paths) // SAMPLE)]
    options = {role: _places(sample, role, spellings) for role, spellings in names_of.items()}
    ranked = []
    for chosen in itertools.product(*([*options[role], *([None] * (role != "subject"))] for role in names_of)):
        places = {role: place for role, place in zip(names_of, chosen, strict=True) if place is not None}
        if "subject" not in places:
            continue
        read = _read_at(sample, places, names_of)
        if "site" in places and not keys.is_site(read):
            continue
        if "visit" in places and any(_are_counters(sample, read, role) for role in ("visit", "subject")):
            continue
        if read and all(_divides_subject(each, read[each.path]) for each in sample if each.path in read):
            continue
        rows = _assigned(read, keys, columns)
        of_table = sum(role in columns for role in places)
        # numbers of sites and visits are few and small, so that one that is written as in the table comes first
        spelled = sum(
            keys.spells(role, each, read, rows[each.path])
            for each in sample
            for role in ("site", "visit")
            if each.path in rows
        )
        ranked.append(((len(set(rows.values())), of_table, len(rows), len(places), spelled), places, rows))
    if not ranked:
        return {}
    ranked.sort(key=lambda each: each[0], reverse=True)
    rank, places, rows = ranked[0]
    if other := next((p for r, p, other in ranked[1:] if r == rank and rank[2] and other != rows), None):
        first = sample[0]
        texts = [text_at(first, _read_at([first], each, names_of).get(first.path, {})) for each in (places, other)]
        raise CasewiseError(
            f"The paths of the images, such as {first.path}, can be read as {' or as '.join(dict.fromkeys(texts))}: "
            f"the same numbers occur in several columns{_RESTART * ('site' in columns)}. State what they mean with "
            "--pattern, such as '{subject}/{visit}_{region}_{n}.jpg'."
        )
    read = _read_at(paths, places, names_of)
    # a name that is longer than those of the table is another one: `S01-2` is not `S01`
    edges = Counter(each.around(*read[each.path]["subject"][1:]) for each in sample if each.path in rows)
    usual = edges.most_common(1)[0][0] if edges else ("", "")
    return {
        p.path: read[p.path]
        for p in paths
        if p.path in read
        and p.around(*read[p.path]["subject"][1:]) == usual
        and not ("visit" in places and p.goes_on(*read[p.path]["visit"][1:]))
    }


def _are_counters(paths: Iterable[PathWords], read: Mapping[str, Spans], role: str) -> bool:
    """Whether numbers of files that were read as visits, or subjects, count photographs.

    Most subjects with several folders, or dates in names of files, then have the same number in more than one, or
    several numbers on one date. A number that was read as a subject may be one, unless the table has letters in its
    name.
    """
    other = "subject" if role == "visit" else "visit"
    folders: dict[Words, dict[str, set[Words]]] = defaultdict(lambda: defaultdict(set))
    dated: dict[tuple[Words, frozenset[str]], list[Words]] = defaultdict(list)
    for each in paths:
        if (spans := read.get(each.path)) is None:
            continue
        name, segment, first, end = spans[role]
        bare = all(match[0].isdecimal() for match in each.matches(segment)[first:end])
        is_date = name[:1] == ("date",)
        if segment != -1 or not bare or is_date or (role == "subject" and all(word.isdecimal() for word in name)):
            return False
        taken = taken_words(spans)
        dates = {at: text for at, text in each.date_texts().items() if at not in taken}
        others = [
            match[0]
            for of in range(-len(each.segments), -1)
            for word, match in enumerate(each.matches(of))
            if (of, word) not in taken
        ]
        others += [text for (of, _), text in dates.items() if of == -1]
        folders[spans[other][0]][" ".join(others)].add(name)
        if dates:
            dated[spans[other][0], frozenset(dates.values())].append(name)
    several = [list(names.values()) for names in folders.values() if len(names) > 1]
    crossed = [own for own in several if len(set.union(*own)) < sum(map(len, own))]
    on_one_day = [names for names in dated.values() if len(names) > 1]
    counted_on_day = [names for names in on_one_day if len(set(names)) > 1]
    return 2 * len(crossed) > len(several) or (role == "visit" and 2 * len(counted_on_day) > len(on_one_day))


def _divides_subject(each: PathWords, spans: Spans) -> bool:
    """Whether another name than a site was read in words that begin the subject's own name, whose end was read.

    So 01 in `AB12-01-003`, or in `AB12-01/003`, is no visit of the subject AB12-01-003.
    """
    name, segment, first, end = spans["subject"]
    before = name[: -len(words(each.text(segment, first, end)))]
    places = [
        (level, at) for level in range(-len(each.segments), segment + 1)
        for at in range(first if level == segment else len(each.matches(level)))
    ]  # fmt: skip
    pairs = zip(reversed(places), reversed(before), strict=False)
    own = {(level, at) for (level, at), word in pairs if words(each.matches(level)[at][0]) == (word,)}
    return bool(own & taken_words({role: span for role, span in spans.items() if role not in ("subject", "site")}))


def _places(sample: Sequence[PathWords], role: str, names_of: Mapping[Words, Words]) -> list[Place]:
    """The places at which most paths have one of the names."""
    counts: Counter[Place] = Counter()
    distinct: dict[Place, set[Words]] = defaultdict(set)
    depth = max(len(each.segments) for each in sample)
    for segment in range(-1, -depth - 1, -1):
        most = min(MOST_WORDS, max(len(each.matches(segment)) for each in sample))
        for word, from_end in itertools.product(range(most), (False, True)):
            place = Place(segment, word, from_end)
            for each in sample:
                if span := each.read(role, place, names_of):
                    counts[place] += 1
                    distinct[place].add(span[0])
    order = sorted(counts, key=lambda place: (-counts[place], -len(distinct[place]), place.from_end))
    kept: dict[tuple[Span | None, ...], Place] = {}
    for place in order:
        kept.setdefault(tuple(each.read(role, place, names_of) for each in sample), place)
    return list(kept.values())[:_MOST_PLACES]


def _read_at(
    paths: Iterable[PathWords], places: Mapping[str, Place], names_of: Mapping[str, Mapping[Words, Words]]
) -> dict[str, Spans]:
    """The names at these places of the paths that have all of them, in different words."""
    result: dict[str, Spans] = {}
    for each in paths:
        spans: Spans = {}
        for role, place in places.items():
            if (span := each.read(role, place, names_of[role])) is None:
                break
            spans[role] = span
        taken = [(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)]
        if len(spans) == len(places) and len(set(taken)) == len(taken):
            result[each.path] = spans
    return result


def _add_stated(joined: Joined, matched: Matched, regions: Sequence[str]) -> None:
    """What the paths state beyond the table: the region of a study, the visit, and fields of a stated pattern."""
    names = {words(region): region for region in regions}
    for path in matched.rows:
        values, spans = dict(matched.values(path)), matched.read[path]
        if "region" in spans and "region" not in joined.columns:
            values["region"] = names[spans["region"][0]]
        if "visit" in joined.columns:
            joined.visits[path] = values.get("visit", "") if matched.stated else matched.text(path, "visit")
        joined.stated[path] = {name: text for name, text in values.items() if name not in joined.columns}
    if not matched.stated and "visit" not in joined.columns:
        taken = {path: taken_words(matched.read[path]) for path in matched.rows}
        for path, visit in visits_beside([matched.paths[path] for path in matched.rows], taken).items():
            joined.stated[path]["visit"] = visit
