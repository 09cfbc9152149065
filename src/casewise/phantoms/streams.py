"""Random numbers that depend on a seed and a name only, never on the order of the drawing."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """Return the generator that belongs to `seed` and `key`.

    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S01", "light").random())
    True
    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S02", "light").random())
    False
    """
    digest = hashlib.blake2b("\0".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest, "little")]))
