"""A study that a node answers: its state, its task, and its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.inference.drift import RecentCases

if TYPE_CHECKING:
    from casewise.plugins.node.monitoring.observation import Observation


# The folder of answers, in the folder of the node.
ANSWERS = "answers"
# Suffix of a folder of answers while they are written.
UNFINISHED = ".part"


class StudyState(StrEnum):
    """Where a study is on its way.

    `WAITING`: it is complete, and waits for the model. `FAILED`: its prediction failed, and will be repeated.
    `ANSWERED`: it has its answers. `REFUSED`: it has answers that say why there is no prediction. `QUARANTINED`: a
    person must decide. `DISCARDED`: it needs no answer.
    """

    WAITING = "waiting"
    FAILED = "failed"
    ANSWERED = "answered"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


@dataclass(frozen=True)
class NodeStudy:
    """A study in the state of the node.

    Attributes:
        id: in Orthanc; uid: its Study Instance UID.
        version: 1, and one more each time that its images changed.
        changed_at: the last change of state, in ISO 8601, UTC.
        reason: of a failure or quarantine; attempts: that failed; begun: predictions that did not end.
        unwritten: which formats of its answer could not be written, with the reasons.
    """

    id: str
    uid: str
    state: StudyState
    version: int
    images: int
    changed_at: str
    reason: str = ""
    attempts: int = 0
    begun: int = 0
    unwritten: str = ""

    @property
    def label(self) -> str:
        """The name of the study in logs."""
        return study_label(self.uid)


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
        partner: Orthanc, or the name of a rule of `send`.
        instance: of the answer in Orthanc; job: in Orthanc, that sends it; both empty without one.
        attempts: that failed.
    """

    id: int
    study: NodeStudy
    answer: Answer
    partner: str
    instance: str
    job: str
    attempts: int


@dataclass(frozen=True)
class StudyTask:
    """A study to be answered.

    Attributes:
        uid: its Study Instance UID.
        folder: where its answers go.
        content: a hash of the files, from which the UIDs of the answers follow; version: of the study.
        recent: the studies that the node answered before.
    """

    uid: str
    files: Sequence[Path]
    folder: Path
    content: str = ""
    version: int = 1
    recent: RecentCases = field(default_factory=RecentCases)


@dataclass(frozen=True)
class StudyAnswer:
    """The answers of a study, which lie durably at their paths, and what is recorded of it for monitoring.

    Attributes:
        accession: a hash of its accession number, by which outcomes may name it; empty without one.
        unwritten: by format the reason why it could not be written.
        recent: the study as a recent case (`new`), the `source` under which it was tested, and the `result`.
    """

    answers: tuple[Answer, ...]
    observation: Observation
    accession: str = ""
    unwritten: Mapping[str, str] = field(default_factory=dict)
    recent: Mapping[str, Any] = field(default_factory=dict)


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
