"""What the queue of a node holds: studies with their states, images, answers and deliveries; and a study at work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from casewise.plugins.node.monitoring.observation import Observation


# The folders of images and of answers, in the folder of the node.
RECEIVED, ANSWERS = "received", "answers"
# How the name of a folder of answers ends that are being written.
UNFINISHED = ".part"


class StudyState(StrEnum):
    """Where a study is on its way.

    `RECEIVED`: images arrive. `COMPLETE`: it waits for its prediction. `PREDICTED`: answers are being delivered.
    `SENT`: every partner has its answers, but for formats that could not be written. `FAILED`: its prediction failed,
    and will be repeated. `QUARANTINED`: a person must decide. `DISCARDED`: a person decided that it needs no answer.
    """

    RECEIVED = "received"
    COMPLETE = "complete"
    PREDICTED = "predicted"
    SENT = "sent"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


@dataclass(frozen=True)
class QueuedStudy:
    """A study in the queue.

    Attributes:
        uid: its Study Instance UID; label: for logs (see `study_label`).
        instances: how many are stored; version: 1, and one more each time that images arrived after a prediction.
        changed_at: the last change of state, in ISO 8601, UTC.
        reason: of a failure or quarantine; attempts: that failed.
        lease: of the node that works on it; empty if none does.
        unwritten: which formats of its answer could not be written, with the reasons.
    """

    uid: str
    state: StudyState
    instances: int
    changed_at: str
    reason: str
    attempts: int
    version: int
    lease: str = ""
    unwritten: str = ""

    @property
    def label(self) -> str:
        """The name of the study in logs."""
        return study_label(self.uid)


@dataclass(frozen=True)
class StoredInstance:
    """An image of a study, as received."""

    path: Path
    instance: str
    sha256: str


@dataclass(frozen=True)
class Answer:
    """A file that states the result of a study.

    Attributes:
        name: within its study; format: of `casewise predict --also`.
    """

    name: str
    format: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Delivery:
    """An answer that a partner has not received yet.

    Attributes:
        attempts: that failed; version: of the study.
    """

    id: int
    study: str
    answer: Answer
    partner: str
    attempts: int
    version: int


@dataclass(frozen=True)
class StudyTask:
    """A study to be answered.

    Attributes:
        uid: its Study Instance UID.
        folder: where its answers go.
    """

    uid: str
    files: Sequence[StoredInstance]
    folder: Path


@dataclass(frozen=True)
class StudyAnswer:
    """The answers of a study, which lie durably at their paths, and what is recorded of it for monitoring.

    Attributes:
        accession: a hash of its accession number, by which outcomes may name it; empty without one.
        unwritten: by format the reason why it could not be written.
    """

    answers: tuple[Answer, ...]
    observation: Observation
    accession: str = ""
    unwritten: Mapping[str, str] = field(default_factory=dict)


def study_label(uid: str) -> str:
    """The name of a study in logs, metrics and the audit trail, from which its UID does not follow.

    >>> study_label("1.2.3")
    'c47f5b18b8a4'
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def study_folder(uid: str) -> str:
    """The name of the folder of a study: longer than its label, so that no two studies ever share one.

    >>> study_folder("1.2.3").startswith(study_label("1.2.3")), len(study_folder("1.2.3"))
    (True, 32)
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
