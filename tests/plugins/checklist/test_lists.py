"""The lists of reporting guidelines: every item once."""

import re

import pytest

from casewise.plugins.checklist import filling as lists

PARTS = {"tripod-ai": 52, "claim": 44, "stard-ai": 48}


@pytest.mark.parametrize("name", lists.names())
def test_every_item_stands_once_and_in_order(name: str) -> None:
    checklist = lists.read_checklist(name)
    ids = [item.id for item in checklist.items]
    numbers = [int(re.sub(r"[a-z]$", "", item)) for item in ids]
    assert len(ids) == len(set(ids)) == PARTS[name]
    assert ids == sorted(ids, key=lambda item: (numbers[ids.index(item)], item))
    assert sorted(set(numbers)) == list(range(1, checklist.main_items + 1))
    assert all(item.topic and item.section and item.by == lists.AUTHOR for item in checklist.items)
    assert {item.fact for item in checklist.items} <= {None, *lists.FACTS}
