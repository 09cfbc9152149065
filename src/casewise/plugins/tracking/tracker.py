"""The protocol of trackers; each is one file of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    from casewise.plugins.tracking.units import Unit


class TrackerError(CasewiseError):
    """A tracker could not take what it was sent; the run is not affected."""


class Tracker(Protocol):
    """Takes units of one run.

    Attributes:
        address: where it keeps what it gets, for people.
    """

    address: str

    def send(self, unit: Unit) -> None:
        """Take a unit, in place of an earlier one of the same name; taking one twice has no effect.

        Raises:
            TrackerError: it could not.
        """
        ...
