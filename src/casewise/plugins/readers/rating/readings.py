"""The readings of a study as a table: the newest values of every reading, in the terms of the present form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.plugins.readers.form import COMMENT, Form, form_of
from casewise.plugins.readers.rating.sessions import Item, items_of
from casewise.plugins.readers.rating.store import Entry, ReadingStore

if TYPE_CHECKING:
    from casewise.study.schema import Study

COLUMNS = ["case", "image", "subject", "target", "region", "session", "kind", "reader", "occurrence", "position"]
COLUMNS += ["value", "reason", "comment", "seconds", "at", "entry"]
# The session of readings in the columns of a table.
OF_TABLE = "(table)"


@dataclass(frozen=True)
class Readings:
    """All readings of a study as a table."""

    form: Form
    items: Mapping[str, Item]
    store: ReadingStore

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each item, field, reader, occurrence and session that is complete or has a value.

        Columns: case, image ('' unless images have labels), subject, target, region ('' if none), session, kind,
        reader, occurrence (1, 2), position (1..), value (a number, or the code of a class or grade; NaN where the case
        cannot be judged), reason, comment, seconds (on the page), at (UTC), entry (the number of the first one of this
        reading, which grows with time).
        Values that the present form does not accept, and cases that are not in the table, are not in it: `left_out`.
        """
        kinds = self.store.sessions()
        newest: dict[tuple[str, str, str, int], dict[str, Entry]] = {}
        longest: dict[tuple[str, str, str, int], int] = {}
        begun: dict[tuple[str, str, str, int], int] = {}
        for entry in self.store.entries():
            key = (entry.session, entry.reader, entry.item, entry.occurrence)
            newest.setdefault(key, {})[entry.field] = entry
            longest[key] = max(longest.get(key, 0), entry.milliseconds)
            begun.setdefault(key, entry.id)
        rows: list[dict[str, object]] = []
        for key, entries in newest.items():
            session, reader, name, occurrence = key
            if (item := self.items.get(name)) is None:
                continue  # of a table with other cases
            texts = {field: entry.value for field, entry in entries.items() if entry.value is not None}
            reason = texts.get("", "")
            facts: dict[str, object] = {"case": item.case, "image": item.image, "subject": item.subject}
            facts |= {"session": session, "kind": kinds[session], "reader": reader, "occurrence": occurrence}
            facts |= {"reason": reason, "comment": texts.get(COMMENT, ""), "seconds": longest[key] / 1000}
            for field in self.form.fields:
                if not reason and field.key not in texts:
                    continue
                source = entries[""] if reason else entries[field.key]
                if not reason and not field.accepts(texts[field.key]):
                    continue
                value = np.nan if reason else field.code(field.checked(texts[field.key]))
                own = {"target": field.target, "region": field.region, "value": value, "at": source.at}
                rows.append(facts | own | {"position": source.position, "entry": begun[key]})
        return pd.DataFrame(rows, columns=COLUMNS)

    @property
    def left_out(self) -> int:
        """How many values are of cases that are not in the table, of fields that the form lacks, or not accepted."""
        keys = {field.key: field for field in self.form.fields}
        newest = {(e.session, e.reader, e.item, e.occurrence, e.field): e for e in self.store.entries()}
        values = [e for e in newest.values() if e.value is not None and e.field not in ("", COMMENT)]
        return sum(
            e.item not in self.items or e.field not in keys or not keys[e.field].accepts(str(e.value)) for e in values
        )


def readings_of(study: Study, cohort: Cohort, store: ReadingStore) -> Readings:
    """The readings of a study."""
    form = form_of(study)
    return Readings(form, items_of(study, cohort, form), store)
