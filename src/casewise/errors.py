"""The errors that casewise raises for a mistake that a person can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CasewiseError(Exception):
    """A mistake in the input; the message is a sentence for the person who can correct it (exit code 2)."""


class StudyError(CasewiseError):
    """The study file states something impossible."""


class CohortError(CasewiseError):
    """The cohort table has problems; all of them are in the message."""


class ImageError(CasewiseError):
    """An image file cannot be read as the image it should be."""


class SplitError(CasewiseError):
    """A split cannot be made, or has a subject on both sides."""


class BothSidesError(SplitError):
    """A predefined split has subjects on several sides; the audit can still report it."""


class WeightsError(CasewiseError):
    """Pretrained weights are missing or belong to another network."""


class AuditError(CasewiseError):
    """The audit found an error that the study does not accept with a reason."""


class TrainingError(CasewiseError):
    """A network cannot be trained as the study states; the message names the network and what to change."""


class RunError(CasewiseError):
    """A run folder is in use, belongs to another study, or cannot be written."""


class DamagedError(RunError):
    """A file of a run folder is not what was written."""


def nearest(value: object, options: Iterable[str]) -> str:
    """Return a hint at the option most similar to `value`, or an empty string.

    >>> nearest("resnet43", ["resnet34", "alexnet"])
    " Did you mean 'resnet34'?"
    >>> nearest("qqq", ["resnet34"])
    ''
    """
    matches = difflib.get_close_matches(str(value), list(options), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""
