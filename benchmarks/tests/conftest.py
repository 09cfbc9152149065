"""The benchmarks, which are scripts and no package. No test asserts a time."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import chests, own_cache  # noqa: F401 (fixtures)

FOLDER = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], ModuleType]:
    """Load a benchmark by its name; a name of its own keeps it apart from packages such as `coverage`."""

    def load(name: str) -> ModuleType:
        own = f"benchmark_{name}"
        if own not in sys.modules:
            spec = importlib.util.spec_from_file_location(own, FOLDER / f"{name}.py")
            assert spec
            assert spec.loader
            module = sys.modules[own] = importlib.util.module_from_spec(spec)
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(str(FOLDER))
                spec.loader.exec_module(module)
        return sys.modules[own]

    return load
