"""`casewise serve`: seconds from the upload of a case of eight large photographs to the answer, and fifty clients.

    python benchmarks/serve.py [--cases 10] [--minutes 0] [--clients 50] [--workers 1] [--folds 5] [--bundle BUNDLE]

Without `--bundle`, a study by the preset `onestep-pasi` with MobileNetV2 from random weights is trained for one epoch
on phantoms: one network for each fold, panels of 2 x 2 tiles. The photographs have 4928 x 3264 pixels. The time of a
case begins before the first byte is sent and ends when the JSON is complete; the body is put together before. The
server, started by the command line, and the client share the processor. Times are printed, never asserted.

With `--minutes`, so many `--clients` then each send a visit of eight photographs of 640 x 424 pixels, wait for the
answer and begin again; after a 503 they wait as long as the header Retry-After says, at most a second. Every twentieth
request is for saliency. Errors other than 503 end the benchmark with status 1, and so does memory of the server and its
workers that changes by more than 5 % between the first minute (the first fifth, if that is shorter) and the end.
"""

from __future__ import annotations

import collections
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
from pages import parser_of
from PIL import Image

WIDTH, HEIGHT = 4928, 3264
PHOTOGRAPHS = [
    (f"{region}-{number}.jpg", region, number)
    for region, count in (("upper", 4), ("trunk", 2), ("lower", 2))
    for number in range(1, count + 1)
]
AIM, SALIENCY_AIM = 1.5, 1.0
# Under load: the photographs, the largest change of memory, and the share of requests for saliency.
SMALL, FLAT, EXPLAINED = (640, 424), 0.05, 20
LONGEST_WAIT = 1.0
# HTTP statuses in words.
ANSWERS = {"200": "answered (200)", "503": "told to come back (503)"}
# Seconds between two measurements of the memory, and how many are averaged.
INTERVAL, AVERAGED = 2.0, 5
STUDY = """
extends: onestep-pasi
name: serve
synthetic: true
cohort: {table}
images: {{size: {side}}}
split: {{test: 0, folds: {folds}, restarts: 20}}
backbones: [mobilenet_v2]
weights: random
baselines: {{off: the benchmark measures networks}}
recipe: {{epochs: 1}}
stack: []
audit: {{permutations: 99}}
evaluation: {{bootstrap_resamples: 200, counterfactual_cases: 0}}
"""
BOUNDARY = "a-boundary-of-the-benchmark"


def made_bundle(folder: Path, folds: int, side: int) -> Path:
    """The bundle of a study of phantoms with so many networks, whose tiles have `side` pixels."""
    from casewise.plugins.phantoms.psoriasis import make_psoriasis
    from casewise.run import run
    from casewise.study.loading import read_study

    table = make_psoriasis(folder / "training", subjects=3 * folds, visits=2, size=(246, 164), seed=1)
    (folder / "study.yaml").write_text(STUDY.format(table=table, side=side, folds=folds))
    return run(read_study(folder / "study.yaml"), folder / "run", show=False).folder / "bundle"


def photographs(folder: Path, width: int = WIDTH, height: int = HEIGHT) -> list[Path]:
    """The eight photographs of a phantom's visit, drawn small, enlarged, and with the noise of a camera."""
    from casewise.plugins.phantoms.psoriasis import draw_photograph

    random = np.random.default_rng(4)
    folder.mkdir()
    paths = []
    for name, region, number in PHOTOGRAPHS:
        drawn = draw_photograph(3, 0, region, number, size=(max(24, width // 4), max(24, height // 4))).picture
        large = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC)
        noise = random.standard_normal((height, width, 1), dtype=np.float32) * 5
        noisy = np.clip(large + noise, 0, 255).astype(np.uint8)
        paths.append(folder / name)
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def multipart(paths: Sequence[Path], **fields: str) -> bytes:
    """The body of a request for one visit."""
    body = io.BytesIO()
    for name, text in fields.items():
        body.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode())
    for path in paths:
        head = f'Content-Disposition: form-data; name="{path.stem.partition("-")[0]}"; filename="{path.name}"'
        body.write(f"--{BOUNDARY}\r\n{head}\r\nContent-Type: image/jpeg\r\n\r\n".encode())
        body.write(path.read_bytes() + b"\r\n")
    body.write(f"--{BOUNDARY}--\r\n".encode())
    return body.getvalue()


class Server:
    """The running command."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def post(self, path: str, body: bytes) -> tuple[int, float, Any]:
        """The status, the seconds after which to ask again, and the JSON of the answer, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            answer = connection.getresponse()
            return answer.status, float(answer.getheader("Retry-After") or 0), json.loads(answer.read())
        finally:
            connection.close()

    def processes(self) -> list[psutil.Process]:
        """The server and its workers."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Of all processes since they began."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(each.user + each.system for each in times)

    def memory(self) -> int:
        """Bytes of all processes, without what they share with others."""
        return sum(process.memory_full_info().uss for process in self.processes())


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[Server]:
    """The command `casewise serve` on a free port."""
    words = [sys.executable, "-m", "casewise.cli.main", "serve", str(bundle), "--port", "0", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            address = next((word for line in lines for word in line.split() if word.startswith("http://")), "")
            if not address:
                raise SystemExit("casewise serve ended; start it by hand to read why")
            yield Server(process, int(address.rstrip("/").rpartition(":")[2]))
        finally:
            process.terminate()


def predicted(bundle: Path, paths: Sequence[Path]) -> dict[tuple[str, str], float]:
    """The predictions of `casewise predict` by target and region."""
    from casewise.inference.model import load_bundle

    rows = [{"path": str(p), "subject": "s", "visit": "v", "region": p.stem.partition("-")[0]} for p in paths]
    table = load_bundle(bundle).predict(pd.DataFrame(rows), learner="headline")
    return {(row.target, row.region): float(row.prediction) for row in table.itertuples()}


def timed(server: Server, path: str, body: bytes, count: int) -> tuple[list[float], list[float], Any]:
    """Seconds and seconds of CPU of each of some equal requests, and the last answer; one more before is not timed."""
    seconds, cpu, answer = [], [], None
    for number in range(count + 1):
        before, start = server.cpu_seconds(), time.perf_counter()
        status, _, answer = server.post(path, body)
        if status != 200:
            raise SystemExit(f"{path}: status {status}, {answer}")
        if number:
            seconds.append(time.perf_counter() - start)
            cpu.append(server.cpu_seconds() - before)
    return seconds, cpu, answer


def line(name: str, seconds: Sequence[float], cpu: Sequence[float], about: str) -> str:
    """Median and 90th percentile."""
    high = float(np.quantile(seconds, 0.9))
    return (
        f"  {name:<22}{statistics.median(seconds):>6.2f} s  p90 {high:.2f} s  "
        f"{statistics.median(cpu):.2f} s of CPU in the server  ({about})"
    )


@dataclass
class Tally:
    """Seconds by path of the answers with status 200, and the number of answers by status."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, status: str, seconds: float) -> None:
        """Add an answer."""
        with self.lock:
            self.statuses[status] += 1
            if status == "200":
                self.seconds[path].append(seconds)


def client(server: Server, body: bytes, number: int, end: float, tally: Tally) -> None:
    """Send requests until the end."""
    while time.monotonic() < end:
        number += 1
        path = "/api/explain" if number % EXPLAINED == 0 else "/api/predict"
        start, wait = time.monotonic(), 0.0
        try:
            code, wait, _ = server.post(path, body)
            status = str(code)
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        tally.add(path, status, time.monotonic() - start)
        time.sleep(min(LONGEST_WAIT, wait))


def under_load(server: Server, body: bytes, clients: int, minutes: float, *, settled: float) -> bool:
    """Print latencies, statuses and memory; whether there was no error and memory is flat after `settled` seconds."""
    server.post("/api/explain", body)
    start, tally, memory = time.monotonic(), Tally(), []
    end = start + 60 * minutes
    threads = [threading.Thread(target=client, args=(server, body, n, end, tally)) for n in range(clients)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        memory.append((time.monotonic() - start, server.memory()))
        time.sleep(INTERVAL)
    for thread in threads:
        thread.join()
    first = statistics.mean([value for seconds, value in memory if seconds >= settled][:AVERAGED])
    last = statistics.mean([value for _, value in memory][-AVERAGED:])
    growth, errors = last / first - 1, sum(tally.statuses.values()) - tally.statuses["200"] - tally.statuses["503"]
    counts = ", ".join(f"{count:,} {ANSWERS.get(status, status)}" for status, count in tally.statuses.most_common())
    print(f"{clients} clients, {minutes:g} minutes: {counts}")
    for path, seconds in tally.seconds.items():
        middle, high = np.quantile(seconds, [0.5, 0.95])
        print(f"  {path:<14}{len(seconds):>6,} answers  p50 {middle:.2f} s  p95 {high:.2f} s")
    mib = f"{first / 2**20:,.0f} MiB after {settled:.0f} s, {last / 2**20:,.0f} MiB at the end"
    print(f"  memory {mib} ({growth:+.1%})")
    return not errors and abs(growth) <= FLAT


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=0.0, help="under load; 0: not measured")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5, help="networks")
    parser.add_argument("--side", type=int, default=112, help="pixels of a tile; a panel has 2 x 2")
    parser.add_argument("--bundle", type=Path, help="a bundle of the regions upper, trunk and lower")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = arguments.bundle or made_bundle(folder, arguments.folds, arguments.side)
        paths = photographs(folder / "photographs")
        body = multipart(paths, visit="week 0")
        with served(bundle, "--workers", str(arguments.workers)) as server:
            seconds, cpu, answer = timed(server, "/api/predict", body, arguments.cases)
            map_seconds, map_cpu, _ = timed(server, "/api/explain", body, arguments.cases)
            small = multipart(photographs(folder / "small", *SMALL), visit="week 0")
            minutes, settled = arguments.minutes, min(60.0, 60 * arguments.minutes / 5)
            flat = not minutes or under_load(server, small, arguments.clients, minutes, settled=settled)
        results = {(r["target"], r["region"]): r["prediction"] for r in answer["visits"][0]["results"]}
        expected = predicted(bundle, paths)
    difference = max(abs(results[key] - expected[key]) for key in expected)
    print(
        f"{len(paths)} photographs of {WIDTH} x {HEIGHT} pixels, {len(body) / 1e6:.0f} MB; {os.cpu_count()} cores, "
        f"load before {os.getloadavg()[2]:.1f}; {arguments.workers} workers"
    )
    print(line("upload to answer", seconds, cpu, f"aim: {AIM:g} s"))
    print(line("saliency", map_seconds, map_cpu, f"aim: {SALIENCY_AIM:g} s"))
    print(f"  largest difference from predict: {difference:.1e}")
    if not flat:
        sys.exit("There were errors, or the memory is not flat.")


if __name__ == "__main__":
    main()
