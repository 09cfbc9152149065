"""Hashes of subjects' names recognise exactly those names that would be recognised in plain text."""

from __future__ import annotations

from itertools import product

import pytest

from casewise.cohort.identity import REFUSE, marks_of_same, own_marks, pseudonym, same_people, same_subjects

NAMES = [
    *("1", "001", "1.0", "01", "2", "P1", "p-01", "P 001", "P10", "PI0", "Pl0", "NI-1", "NL-1", "N1-1"),
    *("123-4567", "12-34567", "1234567", "1,234,567", "С1", "C1", "José", "Jose", "Müller", "Muller", "a", "A "),
]
STATED = [["1", "001"], ["P1", "p-01"]]


@pytest.mark.parametrize("declared", [REFUSE, "as_written", STATED])
def test_hashed_names_match_as_plain_ones(declared: object) -> None:
    for name, other in product(NAMES, NAMES):
        plain = bool(same_people([name], [other], declared))  # type: ignore[arg-type]
        assert bool(same_subjects([name], [pseudonym(other, "salt")], declared)) == plain, (name, other)  # type: ignore[arg-type]


def test_marks_agree_with_the_comparison_of_names() -> None:
    for name, other in product(NAMES, NAMES):
        plain = bool(same_people([name], [other]))
        assert bool(set(marks_of_same(name)) & set(own_marks(other))) == plain, (name, other)


def test_a_pseudonym_contains_no_name_and_depends_on_its_salt() -> None:
    text = pseudonym("Margarete", "abc")
    assert "argaret" not in text
    assert text.split(":")[2] != pseudonym("Margarete", "abd").split(":")[2]
    assert pseudonym(text, "another") == text


def test_plain_and_hashed_subjects_may_be_mixed() -> None:
    subjects = ["P7", pseudonym("P8", "a"), pseudonym("P9", "b")]
    assert same_subjects(["p07", "P8", "p-9", "P10"], subjects) == {"p07": "P7", "P8": "P8", "p-9": "p-9"}
