"""The settings that determine the pixels of a tile, and the address of a store of tiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from casewise.errors import StudyError, nearest

Channels = Literal["rgb", "grey"]

# Increased whenever the reading rules change the pixels of tiles: older stores are then built again.
PIXEL_RULES = 1
SMALLEST, LARGEST = 8, 4096


@dataclass(frozen=True)
class Preparation:
    """Everything that determines a tile's pixels, apart from the image itself.

    `size` is the side of the square tile in pixels. With `keep_ratio` the longest side of the image becomes `size` and
    the image is centred on black; otherwise it is stretched to the square. `channels` is `rgb` (3) or `grey` (1).

    Raises:
        StudyError: a value is not allowed.

    >>> Preparation(size=64).shape
    (3, 64, 64)
    >>> Preparation(channels="gray")
    Traceback (most recent call last):
    ...
    casewise.errors.StudyError: images: channels must be 'rgb' or 'grey', not 'gray'. Did you mean 'grey'?
    """

    size: int = 128
    keep_ratio: bool = True
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        """Refuse settings with which no tile can be made."""
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not SMALLEST <= self.size <= LARGEST:
            allowed = f"a whole number of pixels from {SMALLEST} to {LARGEST}"
            raise StudyError(f"images: size must be {allowed}, not {self.size!r}.")
        if not isinstance(self.keep_ratio, bool):
            raise StudyError(f"images: keep_ratio must be true or false, not {self.keep_ratio!r}.")
        if self.channels not in get_args(Channels):
            hint = nearest(self.channels, get_args(Channels))
            raise StudyError(f"images: channels must be 'rgb' or 'grey', not {self.channels!r}.{hint}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one tile."""
        return (3 if self.channels == "rgb" else 1, self.size, self.size)

    def fingerprint(self) -> str:
        """A hash over these settings and the version of the reading rules."""
        return hashlib.sha256(json.dumps([asdict(self), PIXEL_RULES], sort_keys=True).encode()).hexdigest()

    def address(self, sources: Iterable[str]) -> str:
        """The address of a store: a hash over these settings and the sources' hashes, in the order of its rows.

        >>> Preparation().address(["ab", "cd"]) == Preparation().address(["cd", "ab"])
        False
        """
        digest = hashlib.sha256(self.fingerprint().encode())
        for source in sources:
            digest.update(b"\n" + source.encode())
        return digest.hexdigest()
