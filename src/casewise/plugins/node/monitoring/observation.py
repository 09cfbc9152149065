"""What is recorded of a predicted study for monitoring: numbers without names, as one JSON object."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.errors import CasewiseError, shortened
from casewise.evaluation.record import from_json
from casewise.files import write_atomic
from casewise.inference.flag_reasons import reasons_of
from casewise.predictions.table import FAR

if TYPE_CHECKING:
    from casewise.inference.case_chunks import PredictedChunk

# In the folder of the node: that of pictures of studies that are unlike the training, the page of monitoring, and the
# secret with which identifiers are hashed.
PICTURES, PAGE, SALT = "pictures", "monitoring.html", ".salt"
# Why chosen images have no prediction.
NOT_PREDICTED = "No prediction follows from the images. The answer says why."


@dataclass(frozen=True)
class Observation:
    """A predicted study.

    Attributes:
        at: the time of the prediction in seconds (UTC).
        scanner: manufacturer and model, from the headers; may be empty.
        site: institution and station, from the headers; may be empty.
        images: of each image by name the numbers of `casewise.inference.drift`.
        distance: from the training features; 1 is exceeded by at most one in twenty held-out cases. None without one.
        flags: the reasons why the study is unlike the training cases.
        refused: why there is no prediction; empty if there is one.
        predictions: by target, with the region as `target[region]`: the value, or the name of the class; of the first
            image for targets in `by_image`.
        widths: of the prediction interval of a number, or the number of classes in the prediction set.
        probabilities: of each class, by target.
        subject: a salted hash of the patient ID; empty if it is not recorded.
        bundle: the checksum of the bundle that predicted.
        by_image: the targets that are predicted for each image.
        withheld: whether the answer has no confidence, because nobody has confirmed the source. The record has it, so
            that outcomes can show whether the model may be used.
    """

    at: float
    scanner: str = ""
    site: str = ""
    images: tuple[Mapping[str, float], ...] = ()
    distance: float | None = None
    flags: tuple[str, ...] = ()
    refused: str = ""
    predictions: Mapping[str, float | str] = field(default_factory=dict)
    widths: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    subject: str = ""
    bundle: str = ""
    by_image: tuple[str, ...] = ()
    withheld: bool = False

    @property
    def source(self) -> str:
        """The name of the scanner and site in status and settings, from which theirs do not follow; empty without any.

        >>> Observation(0.0, "Acme X1", "West R1").source, Observation(0.0).source
        ('84455705d19a', '')
        """
        names = json.dumps([self.site, self.scanner]).encode()
        return hashlib.sha256(names).hexdigest()[:12] if self.site or self.scanner else ""

    def as_recent(self, study: str) -> dict[str, Any]:
        """The study as one of `casewise.inference.drift.RecentCases`."""
        about = {"case": study, "subject": self.subject or study, "source": self.source}
        return about | {"images": [dict(image) for image in self.images]}

    @property
    def numbers(self) -> dict[str, float]:
        """By name of a number its mean over the images.

        >>> Observation(0.0, images=({"brightness": 0.25}, {"brightness": 0.75, "look": 1.0})).numbers
        {'brightness': 0.5, 'look': 1.0}
        """
        values: dict[str, list[float]] = {}
        for image in self.images:
            for name, value in image.items():
                values.setdefault(name, []).append(value)
        return {name: sum(own) / len(own) for name, own in values.items()}

    @property
    def is_unlike(self) -> bool:
        """Whether it is unlike the training cases: flagged, or far from them."""
        return bool(self.flags) or (self.distance or 0) > FAR

    def as_json(self) -> str:
        """One line of JSON; numbers that are not finite are left out.

        >>> Observation(0.0, images=({"brightness": 0.5, "look": float("nan")},)).as_json()[39:70]
        '"images": [{"brightness": 0.5}]'
        >>> observation = Observation(1.5, "A", flags=("upside down",), predictions={"grade": "2"})
        >>> Observation.from_json(observation.as_json()) == observation
        True
        """
        return json.dumps(_finite(asdict(self)), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Observation:
        """The observation of a line of JSON.

        Raises:
            CasewiseError: the line is damaged.
        """
        try:
            return from_json(cls, json.loads(text))
        except ValueError as error:
            raise CasewiseError(
                f"A recorded observation is damaged ({shortened(str(error))}). Restore the folder of the node."
            ) from error


def _finite(value: Any) -> Any:
    """JSON values without the entries that are not finite; None in place of a value."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items() if not _is_lost(each)}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if _is_lost(value) else value


def _is_lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def observed(chunk: PredictedChunk, *, refused: str = "", **about: Any) -> Observation:
    """What is recorded of the predictions of a study, without names.

    Args:
        refused: why no image was chosen. Other reasons may quote headers, so they are in the answer only.
        about: the fields `scanner`, `site`, `subject` and `bundle`.
    """
    images = pd.concat(chunk.batch).drop(columns=["case", "subject"]).to_dict("records") if chunk.batch else []
    predictions: dict[str, float | str] = {}
    widths: dict[str, float] = {}
    probabilities: dict[str, dict[str, float]] = {}
    rows = [row for row in chunk.table.to_dict("records") if not pd.isna(row["prediction"])]
    for row in reversed(rows):  # so that the first image of a target counts
        name = _target(row)
        own = {
            str(key).removeprefix("probability of "): float(value)
            for key, value in row.items()
            if str(key).startswith("probability of ") and not pd.isna(value)
        }
        value, members = row["prediction"], [text for text in str(row["prediction set"]).split(" | ") if text]
        width = len(members) if members else row["prediction high"] - row["prediction low"]
        predictions[name] = str(value) if own else float(value)
        if not pd.isna(width) and (members or not own):
            widths[name] = float(width)
        if own:
            probabilities[name] = own
    distances = pd.to_numeric(chunk.table["distance"]).dropna()
    flags = [reason.rpartition(": ")[2] for text in chunk.table["flags"] for reason in reasons_of(str(text))]
    if not refused and (chunk.table["problem"] != "").any():
        refused = NOT_PREDICTED
    return Observation(
        at=time.time(),
        images=tuple({str(name): float(value) for name, value in image.items()} for image in images),
        distance=float(distances.max()) if len(distances) else None,
        flags=tuple(dict.fromkeys(flags)),
        refused="" if predictions else refused,
        predictions=predictions,
        widths=widths,
        probabilities=probabilities,
        by_image=tuple(dict.fromkeys(_target(row) for row in rows if row["image"])),
        **about,
    )


def _target(row: Mapping[Any, Any]) -> str:
    return f"{row['target']}[{row['region']}]" if row["region"] else str(row["target"])


def salt_of(folder: Path) -> str:
    """The secret of a node, with which it hashes identifiers of patients; made at its first start."""
    path = folder / SALT
    if not path.exists():
        write_atomic(path, secrets.token_hex(32))
    path.chmod(0o600)
    return path.read_text()


def identifier_hash(salt: str, *identifiers: str) -> str:
    """A hash from which an identifier, such as an accession number, does not follow; empty if it or the salt is.

    >>> identifier_hash("secret", "A7"), identifier_hash("", "A7")
    ('0ac5c770848d3489', '')
    """
    text = "\\".join(identifiers).encode()
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:16] if salt and any(identifiers) else ""
