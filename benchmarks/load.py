"""`casewise serve` under load: concurrent clients for some minutes, with latencies, errors and memory.

    python benchmarks/load.py [--minutes 5] [--clients 50] [--workers 1] [--bundle BUNDLE]

Without `--bundle`, the study of `benchmarks/serve.py` is trained first. Each client sends a visit of eight photographs
of 640 x 424 pixels, waits for the answer and begins again; after a 503 it waits as long as the header Retry-After says,
at most a second. Every twentieth request is for saliency. Errors other than 503 end the benchmark with status 1, and so
does memory of the server and its workers that changes by more than 5 % between the first minute (the first fifth, if
that is shorter) and the end. Latencies are printed, never asserted.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from serve import BOUNDARY, Server, made_bundle, multipart, photographs, served

SIZE = (640, 424)
FLAT, EXPLAINED = 0.05, 20
LONGEST_WAIT = 1.0
# Seconds between two measurements of the memory, and how many are averaged.
INTERVAL, AVERAGED = 2.0, 5


@dataclass
class Tally:
    """What all clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, status: str, seconds: float) -> None:
        """Add an answer; only those of 200 count for the latency."""
        with self.lock:
            self.statuses[status] += 1
            if status == "200":
                self.seconds[path].append(seconds)


def client(server: Server, body: bytes, number: int, end: float, tally: Tally) -> None:
    """Send requests until the end."""
    count = number
    while time.monotonic() < end:
        count += 1
        path = "/api/explain" if count % EXPLAINED == 0 else "/api/predict"
        start, wait = time.monotonic(), 0.0
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        try:
            connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            answer = connection.getresponse()
            answer.read()
            status = str(answer.status)
            wait = min(LONGEST_WAIT, float(answer.getheader("Retry-After") or 0))
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        finally:
            connection.close()
        tally.add(path, status, time.monotonic() - start)
        time.sleep(wait)


def memory_over_time(server: Server, end: float) -> list[tuple[float, int]]:
    """Seconds from the start, and bytes of the server and its workers."""
    start, values = time.monotonic(), []
    while time.monotonic() < end:
        values.append((time.monotonic() - start, server.memory()))
        time.sleep(INTERVAL)
    return values


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="a bundle of the regions upper, trunk and lower")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = arguments.bundle or made_bundle(folder, 5, 112)
        body = multipart(photographs(folder / "photographs", *SIZE), visit="week 0")
        tally = Tally()
        with served(bundle, "--workers", str(arguments.workers)) as server:
            server.post("/api/explain", body)
            end = time.monotonic() + 60 * arguments.minutes
            threads = [
                threading.Thread(target=client, args=(server, body, number, end, tally))
                for number in range(arguments.clients)
            ]
            for thread in threads:
                thread.start()
            memory = memory_over_time(server, end)
            for thread in threads:
                thread.join()
    settled = min(60.0, 60 * arguments.minutes / 5)
    first = statistics.mean([value for seconds, value in memory if seconds >= settled][:AVERAGED])
    last = statistics.mean([value for _, value in memory][-AVERAGED:])
    growth, errors = last / first - 1, sum(tally.statuses.values()) - tally.statuses["200"] - tally.statuses["503"]
    counts = ", ".join(f"{count:,} of {status}" for status, count in tally.statuses.most_common())
    print(f"{arguments.clients} clients, {arguments.workers} workers, {arguments.minutes:g} minutes: {counts}")
    for path, seconds in tally.seconds.items():
        middle, high = np.quantile(seconds, [0.5, 0.95])
        print(f"  {path:<14}{len(seconds):>6,} answers  p50 {middle:.2f} s  p95 {high:.2f} s")
    print(
        f"  memory {first / 2**20:,.0f} MiB after {settled:.0f} s, {last / 2**20:,.0f} MiB at the end ({growth:+.1%})"
    )
    if errors or abs(growth) > FLAT:
        sys.exit("There were errors, or the memory is not flat.")


if __name__ == "__main__":
    main()
