"""The cost of a training: its time, summed over interruptions, and its memory, in MB of 2^20 bytes."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from casewise.files import write_json
from casewise.run_folder import JsonFile, TrainingFolder

MB = 2**20
# A limit above this many bytes is none: cgroups write a number near 2^63 then.
NO_LIMIT = 2**60
STATUS = Path("/proc/self/status")
# Whether freed memory is kept in this process.
_kept = False


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def keep_memory() -> None:
    """Make glibc keep freed memory for good, which would be returned and faulted in at every step.

    Only for processes of casewise: the command line, the workers of jobs, and measurements. To keep only blocks of up
    to 32 MB (the largest threshold of glibc) saves a ninth of the memory of mobilenet_v2 at 224 px, and costs 15 % of
    its speed (`benchmarks/speed.py memory`).
    """
    global _kept
    if libc := _glibc():
        libc.mallopt(ctypes.c_int(-4), ctypes.c_int(0))  # M_MMAP_MAX: never use mmap
        libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD: never return memory
    _kept = True


def memory_is_kept() -> bool:
    """Whether this process keeps freed memory."""
    return _kept


def give_memory_back() -> None:
    """Return free memory to the system, at the end of a job or a measurement, not of a step."""
    if libc := _glibc():
        libc.malloc_trim(ctypes.c_size_t(0))


class PeakMemory:
    """The largest resident memory of this process since the start of the block.

    The kernel keeps the peak, which is set back at the start (Linux). Where this is not allowed, it is that since the
    start of the process.

    >>> with PeakMemory() as memory:
    ...     _ = bytes(2**20)
    >>> memory.peak_mb > 1
    True
    """

    def __enter__(self) -> Self:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        """The peak so far can still be read."""

    @property
    def peak_mb(self) -> float:
        """The peak so far, with the pages of files that other processes may share."""
        if peak := _figures(STATUS).get("VmHWM"):
            return peak
        import resource  # not on every system

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB

    @property
    def own_mb(self) -> float:
        """The peak so far without pages of files, which the system can drop and processes share."""
        return self.peak_mb - _file_pages()

    @staticmethod
    def own_now() -> float:
        """The resident memory of this process without pages of files."""
        return float(psutil.Process().memory_info().rss) / MB - _file_pages()


def _file_pages() -> float:
    figures = _figures(STATUS)
    return figures.get("RssFile", 0.0) + figures.get("RssShmem", 0.0)


def _figures(path: Path) -> dict[str, float]:
    """Figures in kB of a file such as `/proc/meminfo`, in MB; none on other systems."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) / 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def available_mb(root: Path = Path("/")) -> float:
    """The memory that programs can still take: what the machine has available, and what every limit of a cgroup leaves.

    Files that the system keeps in memory to read them faster count as available.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    machine = _figures(root / "proc/meminfo").get("MemAvailable", psutil.virtual_memory().available / MB)
    return max(0.0, min([machine, *_left_by_cgroups(root)]))


def _left_by_cgroups(root: Path) -> Iterator[float]:
    """The memory that the limits of this process's cgroup and of those above it leave, for both versions of cgroups."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                top = root / "sys/fs/cgroup/memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # In a container the path may be the host's, and only its top is visible.
            levels = [level for level in path.split("/") if level and level != ".."]
            for depth in range(len(levels) + 1):
                yield from _left_in(top.joinpath(*levels[:depth]), *names)


def _left_in(folder: Path, limit_name: str, usage_name: str, dropped_name: str) -> Iterator[float]:
    with suppress(OSError, ValueError):  # without a limit it is `max`
        limit = int((folder / limit_name).read_text())
        dropped = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get(dropped_name, 0)
        if limit <= NO_LIMIT:
            yield (limit - int((folder / usage_name).read_text()) + int(dropped)) / MB


class Timer:
    """Wall-clock and CPU seconds, kept in a file of the training's folder; work lost by interruptions is included."""

    def __init__(self, folder: Path) -> None:
        self._path = TrainingFolder(folder).timing
        before = JsonFile(self._path).peek() or {}
        self._before = (before.get("seconds", 0.0), before.get("core_seconds", 0.0))
        self._stretches = before.get("stretches", 0) + 1
        # the CPU time of all threads, which does not depend on other processes
        self._start = (time.monotonic(), time.process_time())
        self.note()

    def cost(self) -> dict[str, float]:
        """`seconds`, `core_seconds`, and `stretches`: how many times the training was started or resumed."""
        reading = (time.monotonic(), time.process_time())
        seconds, cores = (b + n - s for b, n, s in zip(self._before, reading, self._start, strict=True))
        return {"seconds": round(seconds, 2), "core_seconds": round(cores, 2), "stretches": self._stretches}

    def note(self) -> None:
        """Write the cost so far."""
        write_json(self._path, self.cost(), durable=False)
