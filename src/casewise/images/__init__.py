"""Reading photographs and the tile store: every source image is decoded once and never again.

The names below are imported when they are first used, so that `import casewise.images` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from casewise.images.preparation import Preparation
    from casewise.images.readers import fit, image_facts, read_image
    from casewise.images.store import TileStore, open_store, prepare

__all__ = ["Preparation", "TileStore", "fit", "image_facts", "open_store", "prepare", "read_image"]

_HOMES = {"Preparation": "preparation", "TileStore": "store", "open_store": "store", "prepare": "store"}


def __getattr__(name: str) -> object:
    """Import one of the public names from the module it lives in."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'readers')}"), name)
