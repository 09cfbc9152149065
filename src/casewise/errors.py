"""The one family of errors that casewise raises for a mistake a person can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CasewiseError(Exception):
    """A mistake in the input, told as a sentence for the person who can mend it (exit code 2)."""


class StudyError(CasewiseError):
    """The study file says something that cannot be."""


class CohortError(CasewiseError):
    """The cohort table has problems; all of them are in the message."""


class ImageError(CasewiseError):
    """An image file cannot be read as the image it should be."""


class SplitError(CasewiseError):
    """A split cannot be made, or lets a subject stand on both sides."""


class BothSidesError(SplitError):
    """A split that the table gives has subjects on several sides; the audit can still tell of it."""


class WeightsError(CasewiseError):
    """Pretrained weights are missing or belong to another network."""


class AuditError(CasewiseError):
    """The audit found what must not be trained on, and the study does not say why it may."""


class TrainingError(CasewiseError):
    """A network cannot be trained as the study says; the message names it and what to change."""


class RunError(CasewiseError):
    """A run folder is in use, belongs to another study, or cannot be written."""


def nearest(value: object, options: Iterable[str]) -> str:
    """Return a hint at the option most like `value`, or an empty string.

    >>> nearest("resnet43", ["resnet34", "alexnet"])
    " Did you mean 'resnet34'?"
    >>> nearest("qqq", ["resnet34"])
    ''
    """
    found = difflib.get_close_matches(str(value), list(options), n=1, cutoff=0.6)
    return f" Did you mean '{found[0]}'?" if found else ""
