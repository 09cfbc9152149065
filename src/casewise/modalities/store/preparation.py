"""The settings that determine the pixels of a tile, and the address of a store of tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from casewise.files import json_hash, text_hash

if TYPE_CHECKING:
    from casewise.study.images import Images

Channels = Literal["rgb", "grey"]
Fit = Literal["pad", "stretch"]
Padding = Literal["reflect", "black"]
# Left, top, right and bottom as shares of the width and the height of an image.
Box: TypeAlias = tuple[float, float, float, float]

# Increased whenever the reading rules change the pixels of tiles: older stores are then built again.
PIXEL_RULES = 2


@dataclass(frozen=True)
class Preparation:
    """Everything that determines a tile's pixels, apart from the image itself.

    `size` is the side of the square tile in pixels. `fit`: the longest side of the image becomes `size` and the rest of
    the square is filled (`pad`), or the image is stretched to the square (`stretch`). `padding` fills bars with the
    mirrored image (`reflect`) or black; it is `black` where there are none. `channels` is `rgb` (3) or `grey`
    (1). `masked` are boxes of the image that are filled with grey.

    >>> Preparation(size=64).shape
    (3, 64, 64)
    """

    size: int = 128
    fit: Fit = "pad"
    padding: Padding = "black"
    channels: Channels = "rgb"
    masked: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        """Without bars nothing fills them; boxes from JSON become tuples."""
        object.__setattr__(self, "masked", tuple(tuple(map(float, box)) for box in self.masked))
        if self.fit != "pad":
            object.__setattr__(self, "padding", "black")

    @classmethod
    def of(cls, images: Images) -> Preparation:
        """The preparation that the planned settings of a study state.

        Raises:
            StudyError: `fit`, or `padding` with `fit: pad`, is still to be planned.
        """
        masked = tuple(images.mask_overlays) if isinstance(images.mask_overlays, list) else ()
        return cls(images.size, images.fit, images.padding, images.channels, masked)  # type: ignore[arg-type]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one tile."""
        return (3 if self.channels == "rgb" else 1, self.size, self.size)

    def fingerprint(self) -> str:
        """A hash over these settings and the version of the reading rules."""
        settings = {name: value for name, value in asdict(self).items() if name != "masked" or value}
        return json_hash([settings, PIXEL_RULES])

    def address(self, sources: Iterable[str]) -> str:
        """The address of a store: a hash over these settings and the sources' hashes, in the order of its rows.

        >>> Preparation().address(["ab", "cd"]) == Preparation().address(["cd", "ab"])
        False
        """
        return text_hash("\n".join([self.fingerprint(), *sources]))
