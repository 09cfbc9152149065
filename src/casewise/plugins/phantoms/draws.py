"""Random draws that depend only on a seed and a name, not on the order of drawing; and smooth curves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator


def stream(seed: int, *key: str | int) -> Random:
    """Return the generator that belongs to `seed` and `key`.

    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S01", "light").random())
    True
    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S02", "light").random())
    False
    """
    digest = hashlib.blake2b("\0".join(str(name) for name in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest, "little")]))


def balanced_class(seed: int, key: str, number: int, block: Sequence[str]) -> str:
    """Return the class of subject `number`: each block of `len(block)` subjects has the classes of `block`.

    >>> sorted(balanced_class(7, "classes", number, ("covid", "no_finding")) for number in (2, 3))
    ['covid', 'no_finding']
    """
    turn, position = divmod(number, len(block))
    return block[int(stream(seed, key, len(block), turn).permutation(len(block))[position])]


def shuffled_labels(seed: int, classes: Sequence[str]) -> list[str]:
    """Return the classes in another order, in which subjects of one class receive all labels in equal shares.

    A plain permutation can leave an association by chance; this one leaves none. The classes come in
    balanced blocks, as `balanced_class` gives them.

    >>> sorted(shuffled_labels(0, ["a", "b", "a", "b"])[::2])
    ['a', 'b']
    """
    labels = list(classes)
    order = stream(seed, "shuffled labels", len(labels)).permutation(len(labels))
    for position, number in enumerate(sorted(order, key=lambda number: classes[number])):
        labels[number] = classes[position]
    return labels


def extended(points: NDArray[Any]) -> NDArray[Any]:
    """Return points `(N, …)` with one more at either end, in line with the last two."""
    return np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])


def catmull_rom(a: Any, b: Any, c: Any, d: Any, t: Any) -> Any:
    """Return the smooth curve from `b` (t = 0) to `c` (t = 1) through four successive points.

    >>> catmull_rom(0.0, 1.0, 2.0, 3.0, 0.5)
    1.5
    """
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
