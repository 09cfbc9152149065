"""What a client sends: the images of one subject at one or several visits, stored under neutral names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from casewise.cohort.folder_layout import ENDINGS

# The subject of every request; what the client calls the subject never reaches the prediction.
SUBJECT = "subject"
# Endings by which some readers recognise a file; the others are left out.
KEPT_ENDINGS = (".nii.gz", ".nii", *ENDINGS)
NEUTRAL = re.compile(r"upload-(\d+)")
# A stored file, with the folder of its series, and a series alone, in messages.
STORED = re.compile(r"(series-\d+/)?upload-(\d+)(?:\.[a-z]+)*")
# A case in the table of a request, whose visits have numbers.
CASE = re.compile(rf"{SUBJECT}/visit (\d+)")
SERIES = re.compile(r"series-(\d+)")


@dataclass(frozen=True)
class UploadedFile:
    """An image of a request.

    Attributes:
        name: as the client gave it, for messages (see `casewise.plugins.serve.settings.shown_name`).
        stored: its name in the folder of the request, which says nothing about the client's.
        slot: its region or sequence; empty where the model has neither.
        visit: the number of its visit, from 0.
    """

    name: str
    stored: str
    slot: str
    visit: int


@dataclass(frozen=True)
class Visit:
    """A visit: its name, and its day after the first one; None if the client does not say."""

    name: str
    day: float | None = None


@dataclass(frozen=True)
class Submission:
    """The images of one subject, and what is wanted.

    Attributes:
        target, learner: what is explained, and by which learner; empty for the defaults.
    """

    visits: Sequence[Visit]
    files: Sequence[UploadedFile]
    target: str = ""
    learner: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Submission:
        """The inverse of `as_json`."""
        visits = [Visit(**visit) for visit in values["visits"]]
        files = [UploadedFile(**file) for file in values["files"]]
        return cls(visits, files, values["target"], values["learner"], values["options"])

    def named(self, text: str, folder: Path | None = None) -> str:
        """A message in which the client's names stand in place of the neutral ones of files, in `folder` if stated."""

        def name(match: re.Match[str]) -> str:
            number = int(match[2])
            return self.files[number].name if number < len(self.files) else match[0]

        def scan(match: re.Match[str]) -> str:
            slot = self.scans[int(match[1])] if int(match[1]) < len(self.scans) else ""
            return f"the files of {slot}" if slot else "the scan"

        if folder is not None:
            text = text.replace(f"{folder}/", "").replace(str(folder), "the upload")
        text = text.replace(" out of the table", " out")
        text = CASE.sub(lambda match: self.visits[int(match[1]) - 1].name, text)
        return SERIES.sub(scan, STORED.sub(name, text))

    @property
    def scans(self) -> list[str]:
        """The slots of the series, in the order of their folders (see `series_name`)."""
        return [slot for _, slot in dict.fromkeys((file.visit, file.slot) for file in self.files)]

    def files_in(self, text: str) -> list[str]:
        """The client's names of the files that a message mentions by their neutral names."""
        numbers = dict.fromkeys(int(match[2]) for match in STORED.finditer(text))
        return [self.files[number].name for number in numbers if number < len(self.files)]


def series_name(number: int) -> str:
    """The name of the folder with the DICOM files of a series."""
    return f"series-{number}"


def neutral_name(number: int, name: str) -> str:
    """The name under which an uploaded file is stored; only an ending that readers know is kept.

    >>> neutral_name(2, "Jane Doe.JPG"), neutral_name(0, "scan.nii.gz"), neutral_name(1, "../a.php")
    ('upload-2.jpg', 'upload-0.nii.gz', 'upload-1')
    """
    ending = next((ending for ending in KEPT_ENDINGS if name.casefold().endswith(ending)), "")
    return f"upload-{number}{ending}"
