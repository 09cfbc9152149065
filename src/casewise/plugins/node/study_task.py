"""What the process with the model gets of a study, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.queue_records import Answer, StoredInstance

# In the folder of the node: that of pictures of studies that are unlike the training, and the page of monitoring.
PICTURES, PAGE = "pictures", "monitoring.html"


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
