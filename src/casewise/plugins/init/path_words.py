"""Paths of images in words with their positions, names that are read in them, and the pattern that they follow."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TypeAlias

from casewise.cohort.clinical_words import WORD, Words
from casewise.cohort.folder_layout import Pattern, stem_of
from casewise.names import one_form
from casewise.plugins.init.key_names import is_visit, names_visit, words

# Paths that are looked at to find where the names stand, and words of a name.
SAMPLE, MOST_WORDS = 600, 8
_LETTERS = 3
# Of a date, such as 2024-1-3.
_FEWEST_DIGITS = 6
# A name with the segment in which it stands, its first word and the word behind it; several by what they state.
Span: TypeAlias = tuple[Words, int, int, int]
Spans: TypeAlias = dict[str, Span]


@dataclass(frozen=True)
class Place:
    """Where a name stands in all paths: in the folder or file counted from the end, and from which word or up to it."""

    segment: int
    word: int
    from_end: bool = False


class PathWords:
    """A path in its folders and its name, each in words with their positions."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.segments = one_form(stem_of(path)).split("/")
        self._words: dict[int, list[re.Match[str]]] = {}

    def matches(self, segment: int) -> list[re.Match[str]]:
        if segment not in self._words:
            inside = -len(self.segments) <= segment
            self._words[segment] = list(WORD.finditer(self.segments[segment])) if inside else []
        return self._words[segment]

    def read(self, role: str, place: Place, names_of: Mapping[Words, Words]) -> Span | None:
        """The name at a place, the longest one, with its segment, first word and the word behind it."""
        matches = self.matches(place.segment)
        edge = len(matches) - place.word if place.from_end else place.word
        for length in range(min(MOST_WORDS, len(matches)), 0, -1):
            first, end = (edge - length, edge) if place.from_end else (edge, edge + length)
            if first >= 0 and end <= len(matches):
                text = self.segments[place.segment][matches[first].start() : matches[end - 1].end()]
                if name := names_of.get(words(text, role)):
                    return name, place.segment, first, end
        return None

    def text(self, segment: int, first: int, end: int) -> str:
        matches = self.matches(segment)
        return self.segments[segment][matches[first].start() : matches[end - 1].end()]

    def lettered(self, role: str, segment: int, first: int, end: int) -> str:
        """The text of a name; of a visit with letters that touch its number, such as V of V1."""
        matches = self.matches(segment)
        while role == "visit" and first and matches[first - 1].end() == matches[first].start():
            first -= 1
        return self.text(segment, first, end)

    def whole(self, span: Span, taken: Set[tuple[int, int]]) -> str:
        """A subject with what stands before it: all words of a folder, of a file letters next to its number."""
        _, segment, first, end = span
        matches = self.matches(segment)
        while first and (segment, first - 1) not in taken:
            before, apart = matches[first - 1], matches[first].start() - matches[first - 1].end()
            letters = not before[0].isdecimal() and (apart == 0 or (apart == 1 and len(before[0]) <= _LETTERS))
            if not (letters if segment == -1 else apart <= 1):
                break
            first -= 1
        return self.text(segment, first, end)

    def dates(self) -> dict[tuple[int, int], int]:
        """The dates in the path as ordinal days, by the segment and the first word of each.

        >>> PathWords("S1/2024-01-31/a_20240201_2.jpg").dates()
        {(-2, 0): 738916, (-1, 1): 738917}
        """
        found: dict[tuple[int, int], int] = {}
        for segment in range(-len(self.segments), 0):
            matches = self.matches(segment)
            for first, match in enumerate(matches):
                if match[0].isdecimal():
                    texts = (self.text(segment, first, end) for end in range(min(first + 3, len(matches)), first, -1))
                    day = next(filter(None, map(_day, texts)), 0)
                    found |= {(segment, first): day} if day else {}
        return found

    def around(self, segment: int, first: int, end: int) -> tuple[str, str]:
        """The characters before and behind a name: '' at an end, `a` for a letter or digit."""
        text, matches = self.segments[segment], self.matches(segment)
        before, after = text[: matches[first].start()][-1:], text[matches[end - 1].end() :][:1]
        return ("a" if before.isalnum() else before, "a" if after.isalnum() else after)


@lru_cache(100_000)
def _day(text: str) -> int:
    """The ordinal day of a date; 0 for other texts, which are quickly told by their few digits."""
    if sum(map(str.isdecimal, text)) < _FEWEST_DIGITS:
        return 0
    name = words(text, "visit")
    return int(name[1]) if name[:1] == ("date",) else 0


@dataclass(frozen=True)
class Matched:
    """Paths in which names of a table were read, and the rows that they belong to.

    Attributes:
        paths: all paths, by their text.
        read: the names in each path that was read.
        rows: the row of each path whose names only one row has, from 0.
        cells: the table by column.
        columns: the columns that the paths of rows state, by what they state.
        stated: the pattern of the paths, if the user states it.
    """

    paths: Mapping[str, PathWords]
    read: Mapping[str, Spans]
    rows: Mapping[str, int]
    cells: Mapping[str, Sequence[str]]
    columns: Mapping[str, str]
    stated: Pattern | None = None

    def text(self, path: str, role: str) -> str:
        """A name as a path writes it."""
        return self.paths[path].text(*self.read[path][role][1:])

    def cell(self, path: str, role: str) -> str:
        """The cell of a path's row."""
        return self.cells[self.columns[role]][self.rows[path]]

    def values(self, path: str) -> Mapping[str, str]:
        """What a path states by a pattern of the user; {} without one."""
        return (self.stated.read(path) or {}) if self.stated else {}

    @property
    def pattern(self) -> str:
        """What the paths of rows were read as."""
        return self.stated.text if self.stated else pattern_text(self.paths, self.read, self.rows)


def taken_words(spans: Spans) -> set[tuple[int, int]]:
    """The words, by their segment and number, that name something else."""
    return {(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)}


def occurring(each: PathWords, role: str, names_of: Mapping[Words, Words]) -> Iterator[Span]:
    """The names of a column anywhere in a path."""
    for segment in range(-len(each.segments), 0):
        for word in range(len(each.matches(segment))):
            if span := each.read(role, Place(segment, word), names_of):
                yield span


def text_at(each: PathWords, spans: Spans) -> str:
    """The path as a pattern: names as fields, other numbers as `*`."""
    segments = list(each.segments)
    by_segment: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for role, (_, segment, first, end) in spans.items():
        by_segment[segment].append((first, end, f"{{{'n' if role == 'number' else role}}}"))
    for segment in range(-1, -len(segments) - 1, -1):
        matches, text = each.matches(segment), segments[segment]
        taken = {word for first, end, _ in by_segment[segment] for word in range(first, end)}
        free = [(word, word + 1, "*") for word, m in enumerate(matches) if word not in taken and m[0].isdecimal()]
        for first, end, name in sorted([*by_segment[segment], *free], reverse=True):
            text = text[: matches[first].start()] + name + text[matches[end - 1].end() :]
        segments[segment] = text
    return "/".join(segments) + each.path[len(stem_of(each.path)) :].lower()


def pattern_text(by_path: Mapping[str, PathWords], read: Mapping[str, Spans], assigned: Mapping[str, int]) -> str:
    """The pattern of most paths; what differs between them, other than by fields, is `*`."""
    texts = Counter(text_at(by_path[path], read[path]) for path in itertools.islice(assigned, SAMPLE))
    usual = texts.most_common(1)[0][0].split("/")
    alike = [each for text in texts if len(each := text.split("/")) == len(usual)]
    return "/".join(_common_level(level, own) for level, own in zip(zip(*alike, strict=True), usual, strict=True))


def _common_level(level: Sequence[str], usual: str) -> str:
    """The pattern of a folder or file of all paths, in which texts between fields are `*` where they differ.

    >>> _common_level(["{visit}a.jpg", "{visit}b.jpg"], "{visit}a.jpg"), _common_level(["left.png", "up.png"], "up.png")
    ('{visit}*.jpg', '*.png')
    """
    parts = [re.split(r"(\{\w+\})", each) for each in dict.fromkeys(level)]
    parts = [each for each in parts if each[1::2] == re.split(r"(\{\w+\})", usual)[1::2]]
    columns = [list(dict.fromkeys(texts)) for texts in zip(*parts, strict=True)]
    return "".join(
        texts[0] if len(texts) == 1 else _common_text(texts, PurePosixPath(usual).suffix) for texts in columns
    )


def _common_text(texts: Sequence[str], ending: str) -> str:
    """`*`, between the signs with which all texts begin or end, such as `_`, and before the ending of the file."""
    ending = ending if all(text.endswith(ending) for text in texts) else ""
    texts = [text.removesuffix(ending) for text in texts]
    start, end = texts[0][:1], texts[0][-1:]
    start = start if all(text.startswith(start) for text in texts) and not start.isalnum() else ""
    end = end if all(len(text) > 1 and text.endswith(end) for text in texts) and not end.isalnum() else ""
    return f"{start}*{end}{ending}".replace("**", "*")


def visits_beside(
    paths: Sequence[PathWords], taken: Mapping[str, set[tuple[int, int]]], share: float = 1.0
) -> dict[str, str]:
    """The visit that each path states, where a share of them does at one place in words that are not `taken`; or {}."""
    first, most_without = paths[0], round((1 - share) * len(paths))
    for segment in range(-len(first.segments), 0):
        for word in range(len(first.matches(segment))):
            visits, without = {}, 0
            for each in paths:
                matches = each.matches(segment)
                texts = [
                    each.text(segment, word, end)
                    for end in range(min(len(matches), word + 3), word, -1)
                    if not taken[each.path] & {(segment, w) for w in range(word, end)}
                ]
                visit, without = next(filter(is_visit if share == 1 else names_visit, texts), ""), without + 1
                if visit:
                    visits[each.path], without = visit, without - 1
                elif without > most_without:
                    break
            if len(visits) >= max(1, len(paths) - most_without):
                return visits
    return {}


def visits_in_paths(paths: Sequence[str], share: float = 1.0) -> dict[str, str]:
    """The visit that each path states, if at least a share of them states one at the same place; else {}.

    >>> visits_in_paths(["S1/week0/upper.jpg", "S1/week4/upper.jpg"])
    {'S1/week0/upper.jpg': 'week0', 'S1/week4/upper.jpg': 'week4'}
    """
    return visits_beside([PathWords(path) for path in paths], {path: set() for path in paths}, share)
