"""Hashes in place of the names of subjects, by which a shared bundle can still be checked for leaks.

A pseudonym holds salted hashes of the texts by which `casewise.cohort.identity` compares names, so that names that
differ in spelling only are recognised as before. It hides names from a reader. It does not resist guessing: whoever
guesses a name can compute its hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from casewise.cohort.identity import REFUSE, Declared, alike, marks_of_same, own_marks, same_people

# How a pseudonym begins; the salt and the hashes follow.
PREFIX = "hashed:"
_DIGITS = 20


def pseudonym(name: str, salt: str) -> str:
    """The hashes of a subject's name; a pseudonym stays as it is.

    >>> pseudonym("P 01", "s").count(","), pseudonym("P01", "s") == pseudonym("P01", "t")
    (4, False)
    """
    if name.startswith(PREFIX):
        return name
    texts = [_exact(name), _spelled(name), *own_marks(name)]
    return f"{PREFIX}{salt}:{','.join(_hash(text, salt) for text in texts)}"


def same_subjects(names: Iterable[str], others: Iterable[str], declared: Declared = REFUSE) -> dict[str, str]:
    """`same_people`, where `others` may be pseudonyms; these have no spelling, so the name itself is given.

    >>> same_subjects(["001", "7"], [pseudonym("1", "s")])
    {'001': '001'}
    """
    names, others = list(names), list(others)
    hashed: dict[str, list[set[str]]] = {}
    for other in others:
        if other.startswith(PREFIX):
            salt, _, hashes = other.removeprefix(PREFIX).partition(":")
            hashed.setdefault(salt, []).append(set(hashes.split(",")))
    spellings = same_people(names, [other for other in others if not other.startswith(PREFIX)], declared)
    for name in names:
        if name not in spellings and any(_is_among(name, salt, people, declared) for salt, people in hashed.items()):
            spellings[name] = name
    return {name: spellings[name] for name in names if name in spellings}


def _is_among(name: str, salt: str, people: list[set[str]], declared: Declared) -> bool:
    """Whether a name may mean one of the people with these hashes."""
    as_written = declared == "as_written"
    marks = {_hash(text, salt) for text in ([_spelled(name)] if as_written else [_exact(name), *marks_of_same(name)])}
    groups = [] if isinstance(declared, str) else [[other.strip() for other in group] for group in declared]
    others = {other for group in groups if name.strip() in group for other in group} - {name.strip()}
    different = {_hash(_exact(other), salt) for other in others}
    return any(marks & person and not different & person for person in people)


def _exact(name: str) -> str:
    return f"exactly {name.strip()}"


def _spelled(name: str) -> str:
    return f"spelled {alike(name)}"


def _hash(text: str, salt: str) -> str:
    return hashlib.sha256(f"{salt} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
