"""What the words of folders and files look like: subjects, visits, views or classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from casewise.cohort.folder_layout import GRADE, VISIT_WORDS
from casewise.cohort.identity import alike
from casewise.plugins.init.joins.path_dates import days_of_texts
from casewise.splits.predefined import WORDS

SUBJECT_WORDS = r"p|pt|pat|patient|s|sub|subj|subject|case|pid|participant|proband|person"
_VIEW = r"l|r|left|right|od|os|ou|pa|ap|lat|lateral|frontal|front|back|top|side|cc|mlo|dorsal|ventral"
_SEQUENCE = r"t1|t1w|t1c|t1ce|t1gd|t1post|t1pre|t2|t2w|t2star|flair|dwi|adc|pd|swi|dce|ct|pet"
# What the words of a field look like, the first one that fits all of them.
FORMS = {
    "sequence": _SEQUENCE,
    "view": _VIEW,
    "visit": rf"({VISIT_WORDS})[-_ ]?\d*",
    "subject": rf"({SUBJECT_WORDS})[-_]?\d+[a-z]?",
}
MOST_CLASSES = 20
# The fraction of subjects with images of several classes above which a number counts images, not people.
MIXED = 1 / 3


def is_form(name: str, word: str) -> bool:
    return re.fullmatch(FORMS[name], word, re.IGNORECASE) is not None


def are_classes(names: set[str]) -> bool:
    """Whether names belong to classes, not to people: few words, or grades.

    >>> are_classes({"benign", "malignant"}), are_classes({"covid-19", "normal"}), are_classes({"P01", "P02"})
    (True, True, False)
    """
    if not 2 <= len(names) <= MOST_CLASSES:
        return False
    if all(GRADE.fullmatch(name) for name in names):
        return True
    if any(is_form("subject", name) or is_form("visit", name) for name in names):
        return False
    if all(is_form("view", name) or is_form("sequence", name) for name in names):
        return False
    letters = {re.sub(r"[\d\W_]", "", alike(name)) for name in names}
    return "" not in letters and len(letters) == len(names)


def are_splits(values: Sequence[str]) -> bool:
    return {value.casefold() for value in values} <= set(WORDS)


def is_field(word: str) -> bool:
    """Whether a word states a view, a visit, a sequence or a date.

    >>> is_field("left"), is_field("week4"), is_field("KA")
    (True, True, False)
    """
    return any(is_form(name, word) for name in ("view", "visit", "sequence")) or bool(days_of_texts([word]))


def field_of(words: set[str]) -> str:
    """The field, other than a label, that all of these words may be; '' if there is none."""
    if len(days_of_texts(words)) == len(words):
        return "date"
    return next((name for name in FORMS if all(is_form(name, word) for word in words)), "")


def are_counted(names: set[str]) -> bool:
    """Whether names are the numbers 0, 1, 2 …, as of grades."""
    return len(names) <= 10 and sorted(names) in ([str(i + k) for i in range(len(names))] for k in (0, 1))
