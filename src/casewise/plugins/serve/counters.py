"""Counters of the service in the text format of Prometheus; they say nothing about a subject."""

from __future__ import annotations

import threading
from collections import defaultdict

PREFIX = "casewise_"
HELP = {
    "requests_total": ("counter", "Answered requests by path and status."),
    "request_seconds_total": ("counter", "Time of these requests in seconds."),
    "uploaded_images_total": ("counter", "Images that were uploaded for predictions or saliency maps."),
    "uploaded_bytes_total": ("counter", "Bytes of these images."),
    "visits_total": ("counter", "Visits that were predicted."),
    "flagged_visits_total": ("counter", "Visits with a flag, such as images far from those of the training."),
    "refused_total": ("counter", "Requests that were refused because the queue was full."),
    "worker_restarts_total": ("counter", "Processes that ended during a request."),
    "requests_in_progress": ("gauge", "Requests that are answered or wait."),
    "workers": ("gauge", "Processes that predict."),
}


class Counters:
    """Named numbers with labels, which several threads may change.

    >>> counters = Counters()
    >>> counters.add("requests_total", path="/health", status="200")
    >>> [line for line in counters.text().splitlines() if line.startswith("casewise_requests_total")]
    ['casewise_requests_total{path="/health",status="200"} 1']
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        self._lock = threading.Lock()
        for name in ("refused_total", "worker_restarts_total", "requests_in_progress", "visits_total"):
            self._values[name][()] = 0.0

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter; values of labels come from the service, never from clients."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[name][key] = self._values[name].get(key, 0.0) + amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name][()] = value

    def text(self) -> str:
        """All numbers, one a line."""
        lines = []
        with self._lock:
            for name, (kind, description) in HELP.items():
                if not self._values.get(name):
                    continue
                lines += [f"# HELP {PREFIX}{name} {description}", f"# TYPE {PREFIX}{name} {kind}"]
                for labels, value in sorted(self._values[name].items()):
                    inner = ",".join(f'{label}="{text}"' for label, text in labels)
                    lines.append(f"{PREFIX}{name}{'{' + inner + '}' if inner else ''} {value:.6g}")
        return "\n".join(lines) + "\n"
