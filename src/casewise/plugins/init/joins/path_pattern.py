"""Paths in which names of a table were read, and the pattern that they follow."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from casewise.cohort.folder_layout import Pattern, stem_of
from casewise.plugins.init.joins.path_words import SAMPLE, PathWords, Spans


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
        return self.paths[path].text(*self.read[path][role][1:], as_written=role != "visit")

    def cell(self, path: str, role: str) -> str:
        """The cell of a path's row."""
        return self.cells[self.columns[role]][self.rows[path]]

    def values(self, path: str) -> Mapping[str, str]:
        """What a path states by a pattern of the user; {} without one."""
        return (read_stated(self.stated, self.paths[path]) or {}) if self.stated else {}

    @property
    def pattern(self) -> str:
        """What the paths of rows were read as."""
        return self.stated.text if self.stated else pattern_text(self.paths, self.read, self.rows)


def read_stated(stated: Pattern, path: PathWords) -> dict[str, str] | None:
    """What a path states by a pattern of the user, with dates as 2024-01-31; None if it does not match."""
    return stated.read(path.dated if "date" in stated.fields else path.path)


def text_at(each: PathWords, spans: Spans) -> str:
    """The path as a pattern: names as fields, other numbers as `*`."""
    segments = list(each.segments)
    by_segment: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for role, (_, segment, first, end) in spans.items():
        by_segment[segment].append((first, end, f"{{{'n' if role == 'number' else role}}}"))
    for segment in range(-1, -len(segments) - 1, -1):
        matches, text = each.matches(segment), segments[segment]
        taken = {word for first, end, _ in by_segment[segment] for word in range(first, end)}
        free = [(first, end, "*") for first, end, _ in each.words_of_dates(segment) if first not in taken]
        taken |= {word for first, end, _ in free for word in range(first, end)}
        free += [(word, word + 1, "*") for word, m in enumerate(matches) if word not in taken and m[0].isdecimal()]
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
