"""Whether other processes use the processor, which makes measured times unreliable."""

from __future__ import annotations

import psutil

# Cores that a desktop uses when nothing is done.
BUSY = 0.3


def busy_cores(seconds: float = 1.0) -> float:
    """The cores that all processes use on average, while this one waits for so many seconds.

    The system's load average would still count what has ended in the last minutes.
    """
    return float(psutil.cpu_percent(seconds)) / 100 * (psutil.cpu_count() or 1)


def warning_if_busy() -> str | None:
    """The sentence for a table of times if other processes are running; None if the machine is quiet."""
    if (busy := busy_cores()) <= BUSY:
        return None
    cores = psutil.cpu_count()
    return f"Other processes use {busy:.1f} of {cores} cores, so these ratios are unreliable. Measure when idle."


def warn_if_busy() -> None:
    """Print that sentence."""
    if sentence := warning_if_busy():
        print(sentence, flush=True)
