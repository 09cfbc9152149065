"""Features of fixed random filters, for the audit where no pretrained network is at hand.

Convolutions with random filters, without any training, show most textures and marks to a linear model (Jarrett et al.,
2009; ROCKET: Dempster et al., 2020, whose share of positive values and maximum are taken here). The filters are the
same on every machine.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
# The side at which tiles are filtered, the weights across a filter, and the number of filters at each spacing of them.
_SIDE, _TAPS, _FILTERS, _SPACINGS = 128, 5, 16, (1, 2, 4)
_SEED = 20080912
# The radius of the area whose contrast divides the detail, and the least contrast in grey levels.
_WIDE, _FLOOR = 8.0, 4.0


@cache
def _filters() -> list[tuple[NDArray[np.float32], float]]:
    """Each filter, with weights of mean 0 and length 1 and zeros between them, and its threshold."""
    random, filters = np.random.default_rng(_SEED), []
    for spacing in _SPACINGS:
        for _ in range(_FILTERS):
            weights = random.integers(-100, 101, (_TAPS, _TAPS)).astype(np.float64)
            weights -= weights.mean()
            weights /= np.sqrt((weights**2).sum())
            spaced = np.zeros(((_TAPS - 1) * spacing + 1,) * 2, np.float32)
            spaced[::spacing, ::spacing] = weights
            filters.append((spaced, float(random.integers(0, 201)) / 100))
    return filters


def random_features(tiles: Bytes) -> NDArray[np.float32]:
    """(n, 240) features of tiles (n, C, H, W).

    Five of each filter: the share of the image above its threshold, the maximum, its place across and down, and the
    root of the mean square.

    >>> random_features(np.zeros((2, 1, 32, 32), np.uint8)).shape
    (2, 240)
    """
    features = np.empty((len(tiles), 5 * len(_filters())), np.float32)
    for number, tile in enumerate(tiles):
        picture = tile.mean(axis=0, dtype=np.float32)
        picture = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        detail = picture - cv2.GaussianBlur(picture, (0, 0), _WIDE)
        detail /= np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _WIDE)) + _FLOOR
        rows = []
        for weights, threshold in _filters():
            answer = cv2.filter2D(detail, cv2.CV_32F, weights, borderType=cv2.BORDER_REFLECT)
            down, across = divmod(int(answer.argmax()), _SIDE)
            rows.append(
                ((answer > threshold).mean(), answer.max(), across / _SIDE, down / _SIDE, np.sqrt((answer**2).mean()))
            )
        features[number] = np.ravel(rows)
    return features
