"""Sentences of caveats: short, and none that the first screen or a table says."""

from __future__ import annotations

from typing import Any

import pytest

from casewise.report.caveats import NO_RESPONSE, SENTENCES, sentences
from casewise.report.statements import KINDS

FACTS: dict[str, Any] = {
    "stage": "external",
    "target": "label",
    "score": "pasi",
    "missing": 12,
    "total": 345,
    "cases": 12,
    "classes": ["pneumonia", "covid"],
    "subjects": ["S1", "S2"],
    "metric": "kappa_quadratic",
    "learner": "densenet121",
    "oof": {"value": 0.9},
    "test": {"value": 0.8},
    "within": 0.9,
    "pooled": 0.8,
}


@pytest.mark.parametrize("code", SENTENCES)
@pytest.mark.parametrize("reason", NO_RESPONSE)
def test_every_sentence_is_short(code: str, reason: str) -> None:
    (text,) = sentences([{"code": code, **FACTS, "reason": reason}])
    assert len(text) <= 120
    assert text[0].isupper()
    assert text.endswith(".")


def test_there_are_few_kinds_of_sentences_in_all() -> None:
    assert len(SENTENCES) + len(KINDS) <= 25
    assert not set(SENTENCES) & set(KINDS)
    assert sentences([{"code": "macro_means"}, "A note of the cohort."]) == ["A note of the cohort."]
