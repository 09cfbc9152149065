"""Patterns that are inferred from file names, such as `{label}/{subject}_{visit}.jpg`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from casewise.cohort.folder_layout import VISIT_WORDS, Pattern, are_batches, stem_of
from casewise.plugins.init.class_folders import check_beside, check_divided, levels_beside_classes
from casewise.plugins.init.joins.path_dates import PathDate, dates_in
from casewise.plugins.init.word_forms import (
    MIXED,
    MOST_CLASSES,
    SUBJECT_WORDS,
    are_classes,
    are_counted,
    are_splits,
    field_of,
    is_field,
)

_SEPARATORS = re.compile(r"([_\-. ]+)")


def read_all(pattern: Pattern, paths: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What each path states, and the paths that do not match."""
    values = {path: pattern.read(path) for path in paths}
    unread = [path for path, stated in values.items() if stated is None]
    return {path: stated for path, stated in values.items() if stated is not None}, unread


def infer_pattern(paths: Sequence[str], *, labels: Mapping[str, str] | None = None) -> Pattern:
    """The pattern that the paths of images follow, as far as it is unambiguous; every path matches it.

    `labels` are the classes of the paths where a table states them: no class is then searched in the names, and they
    show whether a number counts people or images.

    >>> infer_pattern([f"{c}/P{i:02}_{v}.jpg" for c in ("no", "yes") for i in range(5) for v in ("w0", "w4")]).text
    '{label}/{subject}_{visit}.jpg'
    >>> labels = {"ill/a.jpg": "1", "ill/b.jpg": "1", "well/c.jpg": "0"}
    >>> infer_pattern(list(labels), labels=labels).text
    '*/*.jpg'
    """
    dirs = [path.split("/")[:-1] for path in paths]
    levels = [[names[level] for names in dirs] for level in range(min(map(len, dirs)))]
    of_paths = [labels[path] for path in paths] if labels else None
    if not of_paths and (others := levels_beside_classes(levels)):
        pattern, inference = _inferred(paths, levels, None, others)
        subjects = inference.values.get("subject")
        if not subjects and "hospital" not in inference.values:
            check_beside(levels[others[-1]], pattern.text, others[-1])
        for level in reversed(others) if subjects and "hospital" not in inference.values else ():
            check_divided(subjects or [], levels[level], pattern.text, level)
        return pattern
    return _inferred(paths, levels, of_paths, [])[0]


def _inferred(
    paths: Sequence[str], levels: Sequence[list[str]], labels: list[str] | None, others: Sequence[int]
) -> tuple[Pattern, _Inference]:
    """The pattern of paths by the words of their folders (`levels`); `others` are levels without classes."""
    inference = _Inference(labels)
    folders = [
        inference.beside_classes(values) if level in others else inference.folder(values)
        for level, values in enumerate(levels)
    ]
    folders += ["**"] if any(path.count("/") > len(levels) for path in paths) else []
    # positions of even number are words, those between are separators, which must be the same in all names
    stems = [stem_of(path).split("/")[-1] for path in paths]
    dates = dates_in([[stem] for stem in stems])
    tokens = [_words_of(stem, own.get(-1, [])) for stem, own in zip(stems, dates, strict=True)]
    shortest = min(map(len, tokens))
    common = next((i for i in range(1, shortest, 2) if len({t[i] for t in tokens}) > 1), shortest)
    words = [[t[position] for t in tokens] for position in range(0, common, 2)]
    name, before = [], ""
    for values in words:
        name.append(inference.word(values, before))
        before = values[0] if len(set(values)) == 1 else ""
    if "subject" not in inference.values:
        name = inference.with_subject(name, words)
    text = name[0] + "".join(tokens[0][2 * i - 1] + name[i] for i in range(1, len(name)))
    if common < shortest or len({len(t) for t in tokens}) > 1:
        text += "*"
    text = re.sub(r"\*[_\-. ]*(?:\*[_\-. ]*)*\*", "*", text)
    ending = paths[0][len(stem_of(paths[0])) :].lower()
    pattern = Pattern("/".join([*folders, text]) + ending, inference.doubts)
    # else only the folders, which every path matches
    fits = all(pattern.read(path) is not None for path in paths)
    return (pattern if fits else Pattern("/".join([*folders, "*"]) + ending, inference.doubts)), inference


def repeating_part(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The pattern whose {subject} has most values, several of them in more than one name, and the values; or ''.

    Unlike with `infer_pattern`, only a person can say whether it identifies people.

    >>> repeating_part([f"img_{name}_{k}.jpg" for name in ("ann", "bob", "eva", "jim") for k in (1, 2)])
    ('**/*_{subject}_*.jpg', ['ann', 'bob', 'eva', 'jim'])
    """
    ending = paths[0][len(stem_of(paths[0])) :].lower() if paths else ""
    marks = dict.fromkeys(_SEPARATORS.findall(stem_of(paths[0]).split("/")[-1])) if paths else {}
    words = [f"**/{text}" for mark in marks for text in (f"{{subject}}{mark}*", f"*{mark}{{subject}}{mark}*")]
    best: tuple[str, list[str]] = ("", [])
    for text in ["{subject}/**/*", *words, *(f"**/*{mark}{{subject}}" for mark in marks)]:
        stated, unread = read_all(Pattern(text + ending), paths)
        values = list(dict.fromkeys(of_path["subject"] for of_path in stated.values()))
        repeats = 4 <= len(values) < len(paths) and not any(map(is_field, values))
        if repeats and not unread and len(values) > len(best[1]):
            best = (text + ending, values)
    return best


def _words_of(stem: str, dates: Sequence[PathDate]) -> list[str]:
    """The words of a name and the separators between them, in turn; a date is one word.

    >>> _words_of("P1_2024-01-31", [PathDate(3, 13, 0)])
    ['P1', '_', '2024-01-31']
    """
    words, start = [""], 0
    for own in (*dates, PathDate(len(stem), len(stem), 0)):
        first, *rest = _SEPARATORS.split(stem[start : own.start])
        words = [*words[:-1], words[-1] + first, *rest]
        words[-1] += stem[own.start : own.end]
        start = own.end
    return words


class _Inference:
    """What the folders and words that were read so far mean: `values` by the field."""

    def __init__(self, labels: list[str] | None) -> None:
        self.doubts: list[str] = []
        self.values: dict[str, list[str]] = {}
        self.labels = labels
        self.needs_label = labels is None

    def _is(self, field_name: str, values: list[str]) -> str:
        self.values[field_name] = values
        if field_name == "label":
            self.labels = values
        return f"{{{field_name}}}"

    def _may_be_label(self) -> bool:
        return self.needs_label and "label" not in self.values

    def folder(self, values: list[str]) -> str:
        """The meaning of one level of folders: a field, or its name if there is one folder."""
        distinct = set(values)
        if len(distinct) == 1:
            return values[0].replace("{", "*").replace("}", "*")
        if are_splits(values) and "split" not in self.values:
            return self._is("split", values)
        if self._may_be_label() and are_classes(distinct):
            return self._is("label", values)
        if self._may_be_label() and are_counted(distinct) and len(values) >= 5 * len(distinct):
            self.doubts.append(
                f"The folders {', '.join(sorted(distinct)[:4])} … were read as classes, because each contains many "
                "images. If they are people, state --pattern '{subject}/*.jpg'."
            )
            return self._is("label", values)
        if self._repeats_labels(values):
            return "*"
        kind = next((k for k in (field_of(distinct), "subject", "visit") if k and k not in self.values), "")
        return self._is(kind, values) if kind else "*"

    def beside_classes(self, values: list[str]) -> str:
        """The meaning of a level of folders that are like classes and are none."""
        kind = "hospital" if are_batches(set(values)) else ""
        return self._is(kind, values) if kind else "*"

    def word(self, values: list[str], before: str) -> str:
        """The meaning of one word of the file names; `before` is the word before it if all names share that."""
        distinct = set(values)
        if len(distinct) == 1:
            return values[0].replace("{", "*").replace("}", "*")
        if same := next((name for name, others in self.values.items() if others == values), ""):
            return f"{{{same}}}"
        kind = field_of(distinct)
        for name, words in (("visit", VISIT_WORDS), ("subject", SUBJECT_WORDS)):
            if before and re.fullmatch(words, before, re.IGNORECASE):
                kind = name
        if kind == "subject" and self.needs_label and self._mixes(values):
            self.doubts.append(
                f"Names such as {values[0]!r} were read as subjects, and many of them occur in several classes. If "
                "they count images within a class, state --pattern without {subject}."
            )
        if kind and kind not in self.values:
            return self._is(kind, values)
        return self._is("label", values) if not kind and self._may_be_label() and are_classes(distinct) else "*"

    def with_subject(self, name: list[str], words: list[list[str]]) -> list[str]:
        """The words with the first one as the subject that groups several images; unchanged if none does."""
        for position, values in enumerate(words):
            distinct = set(values)
            grouped = 4 <= len(distinct) <= 0.9 * len(values) and all(re.search(r"\d", word) for word in distinct)
            if name[position] == "*" and grouped and not self._mixes(values):
                self.doubts.append(
                    f"The word {values[0]!r} of the file names was read as the subject, because it repeats. If it "
                    "counts images, state --pattern."
                )
                return [*name[:position], self._is("subject", values), *name[position + 1 :]]
        return name

    def _repeats_labels(self, values: list[str]) -> bool:
        """Whether folders are the classes that a table states: as subjects, each class would have one."""
        if self.needs_label or self.labels is None or not are_classes(set(values)):
            return False
        pairs = {(value, label) for value, label in zip(values, self.labels, strict=True) if label}
        return len(pairs) == len(set(values)) == len({label for _, label in pairs})

    def _mixes(self, values: list[str]) -> bool:
        """Whether many of the repeated values have images of several classes, as counters have."""
        if self.labels is None or len(set(self.labels)) > MOST_CLASSES:
            return False
        classes: dict[str, list[str]] = defaultdict(list)
        for value, label in zip(values, self.labels, strict=True):
            classes[value].append(label)
        repeated = [labels for labels in classes.values() if len(labels) > 1]
        return sum(len(set(labels)) > 1 for labels in repeated) > MIXED * len(repeated)
