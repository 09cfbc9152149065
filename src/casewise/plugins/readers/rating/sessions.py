"""The items of a reading session, in a separate order for each reader, some of them twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from casewise.cohort.cohort import Cohort
from casewise.errors import CasewiseError, counted, cut
from casewise.plugins.readers.form import Form, form_of
from casewise.plugins.readers.rating.store import Entry, ReadingStore, SessionFacts
from casewise.plugins.readers.settings import Reading

if TYPE_CHECKING:
    from casewise.study.schema import Study

SessionKind: TypeAlias = Literal["blind", "aided", "adjudication", "doubtful"]
# Lines shown next to the images, by the keys of the form, with a model's prediction or values of other readers.
Shown: TypeAlias = dict[str, list[str]]
# Between two readings of a case are at least so many others, or half of the cases of a shorter session.
FEWEST_BETWEEN = 10


@dataclass(frozen=True)
class ItemImage:
    """An image of an item."""

    path: Path
    region: str


@dataclass(frozen=True)
class Item:
    """An item that gets one set of values: a case, or a single image if images have labels of their own.

    Attributes:
        key: the case; for an image also its path from the folder of the table.
        image: the path in the cohort of the single image; empty for a case.
        order: of the subject's visits.
    """

    key: str
    case: str
    subject: str
    order: int
    images: tuple[ItemImage, ...]
    image: str = ""


@dataclass(frozen=True)
class Presented:
    """An item at its position, from 1, in the order of a reader; `occurrence` 2 where it is read again."""

    position: int
    item: Item
    occurrence: int = 1


def items_of(study: Study, cohort: Cohort, form: Form) -> dict[str, Item]:
    """The items of a cohort by their keys, in the order of the cohort.

    Raises:
        CasewiseError: some targets have one value an image, others one a case.
    """
    levels = {study.level_of(field.target) for field in form.fields}
    if "image" in levels and len(levels) > 1:
        raise CasewiseError(
            "reading.targets: targets of single images and targets of cases cannot be read in one session. Name "
            "targets of one level, and read the others with another study file."
        )
    orders = cohort.cases.groupby("subject", sort=False).cumcount()
    order = dict(zip(cohort.cases["case"], orders, strict=True))
    items: dict[str, Item] = {}
    for case, rows in cohort.images.groupby("case", sort=False):
        images = [ItemImage(Path(p), r) for p, r in zip(rows["path"], rows["region"], strict=True)]
        subject = str(rows["subject"].iloc[0])
        if "image" not in levels:
            items[str(case)] = Item(str(case), str(case), subject, order[case], tuple(images))
            continue
        for image in images:
            key = f"{case} {Path(os.path.relpath(image.path, study.cohort.parent)).as_posix()}"
            items[key] = Item(key, str(case), subject, order[case], (image,), str(image.path))
    return items


@dataclass(frozen=True)
class Session:
    """A session: the items to read, and the lines shown next to their images.

    Attributes:
        batches: the keys of items that were added together, in the order in which they were added.
        shown: by item, the lines next to the images; empty in a blind session.
        seed: of the orders; repeat: the share of items that is read twice, as far as enough others lie between.
    """

    name: str
    kind: SessionKind
    form: Form
    items: Mapping[str, Item]
    batches: Sequence[Sequence[str]]
    shown: Mapping[str, Shown]
    seed: int
    repeat: float
    longitudinal: bool

    def order_for(self, reader: str) -> list[Presented]:
        """The items in a random order of the reader's own, the same each time.

        Items that were added later come later. A share is read twice, not soon again. In a longitudinal session the
        visits of a subject follow each other in their order, and none is read twice. Cases to adjudicate stay in their
        order, the largest disagreement first.
        """
        presented: list[tuple[str, int]] = []
        for number, keys in enumerate(self.batches):
            text = f"{self.seed} {self.name} {reader} {number}"
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
            if self.kind == "adjudication":
                presented += [(key, 1) for key in keys]
            elif self.longitudinal:
                subjects = list(dict.fromkeys(self.items[key].subject for key in keys))
                rank = dict(zip(rng.permutation(subjects).tolist(), range(len(subjects)), strict=True))
                by_visit = sorted(keys, key=lambda key: (rank[self.items[key].subject], self.items[key].order))
                presented += [(key, 1) for key in by_visit]
            else:
                presented += _with_repeats([str(key) for key in rng.permutation(keys)], self.repeat, rng)
        return [Presented(n, self.items[key], again) for n, (key, again) in enumerate(presented, 1)]

    def earlier(self, item: Item) -> list[Item]:
        """The items of earlier visits of the subject, where the session shows them."""
        if not self.longitudinal:
            return []
        same = [other for other in self.items.values() if other.subject == item.subject and other.order < item.order]
        return sorted(same, key=lambda other: other.order)

    def is_complete(self, values: Mapping[str, Entry]) -> bool:
        """Whether every field has a value, or a reason why the item cannot be judged."""
        texts = {key: entry.value for key, entry in values.items() if entry.value is not None}
        return "" in texts or all(f.key in texts and f.accepts(texts[f.key]) for f in self.form.fields)


def _with_repeats(keys: list[str], share: float, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Keys in order, some a second time, after a quarter of all keys, or ten if that is more, or half of few keys."""
    count = min(int(np.ceil(share * len(keys) - 1e-9)), len(keys) - 1)
    presented = [(key, 1) for key in keys]
    if count <= 0:
        return presented
    between = max(len(keys) // 4, min(FEWEST_BETWEEN, len(keys) // 2))
    eligible = keys[: len(keys) - between]  # items with enough others after them
    for key in rng.choice(eligible, min(count, len(eligible)), replace=False):
        first = presented.index((str(key), 1))
        at = int(rng.integers(min(first + between + 1, len(presented)), len(presented) + 1))
        presented.insert(at, (str(key), 2))
    return presented


@dataclass(frozen=True)
class SessionRequest:
    """The session to open.

    Attributes:
        items: the keys of its items with what is shown next to the images; None: all of the cohort, blind.
        source: what its items follow from, such as the checksum of a run; a session keeps its first source.
    """

    name: str
    kind: SessionKind = "blind"
    items: Mapping[str, Shown | None] | None = None
    source: str = ""


def open_session(study: Study, cohort: Cohort, store: ReadingStore, request: SessionRequest) -> Session:
    """Begin or continue a session; items that are new in the table are added at its end.

    Raises:
        CasewiseError: the session is of another kind, or items that it has are missing in the cohort.
    """
    form, reading = form_of(study), _reading(study)
    items = items_of(study, cohort, form)
    wanted: Mapping[str, Shown | None] = dict.fromkeys(items) if request.items is None else request.items
    recorded = store.session(request.name)
    if not wanted and not recorded:
        nobody = "No case was read by two readers who differ by more than `reading.disagreement`. "
        raise CasewiseError(
            f"{nobody if request.kind == 'adjudication' else ''}The session {request.name} would have no cases."
        )
    if recorded and recorded[0] != request.kind:
        raise CasewiseError(
            f"--session: {request.name} is a session of another kind ({recorded[0]}). State another name for this one."
        )
    facts = SessionFacts(study.seed, reading.repeat, reading.longitudinal, request.source)
    store.begin(request.name, request.kind, facts)
    facts = (store.session(request.name) or ("", facts))[1]
    if facts.source != request.source:
        raise CasewiseError(
            f"The session {request.name} began with another run or --count. State these, or another --session."
        )
    store.add_form(form.version, form.as_json())
    stored = store.items(request.name)
    missing = [key for _, key, _ in stored if key not in items]
    if missing:
        is_not = "is not" if len(missing) == 1 else "are not"
        raise CasewiseError(
            f"{counted(len(missing), 'case')} of the session {request.name} {is_not} in {study.cohort}, such as "
            f"{cut(missing[0])}. Use the table with which it began, or begin another one with --session."
        )
    old = {key for _, key, _ in stored}
    new = [key for key in wanted if key not in old]
    if new:
        store.add_items(request.name, new, [wanted[key] for key in new])
        stored = store.items(request.name)
    batches = [[key for number, key, _ in stored if number == batch] for batch in sorted({n for n, _, _ in stored})]
    shown = {key: values for _, key, values in stored if values is not None}
    return Session(
        request.name,
        request.kind,
        form,
        items,
        batches,
        shown,
        facts.seed,
        facts.repeat,
        facts.longitudinal,
    )


def _reading(study: Study) -> Reading:
    reading: Reading = study.key("reading")
    return reading
