"""The plan of the size of tiles and of how images become square, from their shapes alone: labels are never read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.modalities.store.pixels import content_box
from casewise.modalities.store.readers import image_shape

if TYPE_CHECKING:
    from casewise.modalities.store.store import ImageSource
    from casewise.study.images import Images

# Images are stretched to a square unless more than this share is longer than this number of times its width.
LONG_RATIO, MAX_LONG_SHARE = 2.0, 0.05
# Planned sides of a tile: the usual one, and a larger one for at most this many images of at least this long side.
SIZE, LARGE_SIZE, MOST_LARGE, LARGE_FROM = 224, 384, 1000, 448
# Planned sides are multiples of this, which is the coarsest stride of most networks.
STRIDE = 32


def needs_plan(images: Images) -> bool:
    """Whether the shapes of the images decide a setting that affects tiles."""
    return images.fit == "auto" or (images.fit == "pad" and images.padding == "auto")


def planned_size(sizes: Sequence[tuple[int, int]]) -> int:
    """The side of a tile for images of these widths and heights: 224 pixels, fewer for smaller images.

    For at most 1,000 images whose long sides have a median of 448 pixels or more it is 384, since more detail is there
    and the time for it as well.

    >>> [planned_size([size]) for size in ((4000, 3000), (320, 240), (100, 80))]
    [384, 224, 96]
    """
    long = float(np.median([max(size) for size in sizes])) if sizes else SIZE
    if long >= LARGE_FROM and len(sizes) <= MOST_LARGE:
        return LARGE_SIZE
    return max(STRIDE, min(SIZE, int(long) // STRIDE * STRIDE))


def planned(images: Images, sizes: Sequence[tuple[int, int]]) -> tuple[Images, str]:
    """The settings with `fit` and `padding` planned from widths and heights, and the reason in words.

    The reason is empty if all images have one shape.

    - All images fill the same box of the tile: `pad` on black, because bars that are always the same tell nothing.
    - Else `stretch`, which leaves no bars, if at least 95 % of the images are at most twice as long as wide.
    - Else `pad` by reflection, because stretching would distort the images much.

    >>> from casewise.study.images import Images
    >>> [planned(Images(), sizes)[0].fit for sizes in ([(40, 30), (80, 60)], [(40, 30), (40, 40)], [(9, 1), (1, 1)])]
    ['pad', 'stretch', 'pad']
    """
    boxes = {content_box(width, height, images.size, "pad") for width, height in sizes}
    long = float(np.mean([max(size) > LONG_RATIO * min(size) for size in sizes])) if sizes else 0.0
    one_box = len(boxes) <= 1
    fit = images.fit
    if fit == "auto":
        fit = "pad" if one_box or long > MAX_LONG_SHARE else "stretch"
    padding = images.padding
    if fit == "pad" and padding == "auto":
        padding = "black" if one_box else "reflect"
    unused = f"; no bars are left for `padding: {padding}`" if fit != "pad" and padding != "auto" else ""
    if unused:
        padding = "auto"
    reason = ""
    if not one_box:
        text = f"padded ({padding})" if fit == "pad" else "stretched to squares"
        extremes = f", and {long:.0%} are more than twice as long as wide" if long > MAX_LONG_SHARE else ""
        reason = f"images are {text}, because their shapes differ{extremes}{unused}"
    return images.model_copy(update={"fit": fit, "padding": padding}), reason


def shapes(sources: Sequence[ImageSource], side: int) -> list[tuple[int, int]]:
    """Upright width and height of every image that can be read; a region of a slide is a square of `side` pixels."""
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda source: image_shape(source) if isinstance(source, Path) else (side, side), sources)
        return [size for size in sizes if size]
