"""What is recorded of a predicted study for monitoring: numbers without names, as one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from casewise.errors import CasewiseError, shortened
from casewise.evaluation.results import from_json

# In the folder of the node: that of pictures of studies that are unlike the training, and the page of monitoring.
PICTURES, PAGE = "pictures", "monitoring.html"


@dataclass(frozen=True)
class Observation:
    """A predicted study.

    Attributes:
        at: the time of the prediction in seconds (UTC).
        scanner: manufacturer and model, from the headers; may be empty.
        site: institution and station, from the headers; may be empty.
        numbers: by name those of `casewise.inference.drift`, the mean over the images.
        distance: from the training features; 1 is exceeded by one in twenty held-out cases. None without one.
        flags: the reasons why the study is unlike the training cases.
        refused: why there is no prediction; empty if there is one.
        predictions: by target, with the region as `target[region]`: the value, or the name of the class.
        widths: of the prediction interval of a number, or the number of classes in the prediction set.
        probabilities: by target, that of each class.
        subject: a salted hash of the patient ID; empty if it is not recorded.
    """

    at: float
    scanner: str = ""
    site: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    distance: float | None = None
    flags: tuple[str, ...] = ()
    refused: str = ""
    predictions: Mapping[str, float | str] = field(default_factory=dict)
    widths: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    subject: str = ""

    def as_json(self) -> str:
        """One line of JSON; numbers that are not finite are left out.

        >>> Observation(0.0, numbers={"brightness": 0.5, "look": float("nan")}).as_json()[:60]
        '{"at": 0.0, "scanner": "", "site": "", "numbers": {"brightne'
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
    return None if _is_lost(value) else value


def _is_lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
