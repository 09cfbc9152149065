"""The versions, the machine and the command of a run, for its report."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from casewise.version import __version__


def _command() -> str:
    """The command line, with the study file and options."""
    program, *words = sys.argv or [""]
    by_command = Path(program).stem in ("casewise", "cli", "__main__") and words[:1] == ["run"]
    return shlex.join(["casewise", *words]) if by_command else "casewise.run.run, from Python"


# Libraries whose versions can change what a run computes.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def machine() -> dict[str, Any]:
    """Versions, processor, system and cores: what may differ where a run is repeated."""
    from joblib import cpu_count

    from casewise.training.compute_plan import cpu_name

    return {
        "casewise": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "cores": cpu_count(),
    }


def environment(seconds: float) -> dict[str, Any]:
    """Versions, machine and time of a run, for the report."""
    from joblib import cpu_count

    from casewise.training.compute_plan import cpu_name

    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "scikit-learn")}
    return {
        "casewise": __version__,
        "python": platform.python_version(),
        **versions,
        "processor": cpu_name(),
        "cores": cpu_count(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _command(),
        "seconds": round(seconds, 1),
    }


@contextmanager
def unchanged_torch() -> Iterator[None]:
    """Give PyTorch's generators and its number of threads back as they are; networks draw, and jobs set the threads.

    In a process that has not loaded PyTorch there is nothing to give back.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
