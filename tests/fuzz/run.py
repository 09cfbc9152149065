"""Reads mutated inputs in a process of their own, which is started again after a crash or a hang."""

import faulthandler
import json
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from casewise import errors
from tests.fuzz.readers import READERS, TURNS, AcceptedError, FuzzedReader, Work

ROOT = Path(__file__).resolve().parents[2]
# Seconds for one input: then Python code is interrupted, and a little later the process is ended.
PATIENCE, LAST_PATIENCE = 30, 60
ROOM = 3 * 2**30  # bytes that reading may take in addition to the loaded libraries
TYPED = {name for name in dir(errors) if name.endswith("Error")}
FINE = {"read"} | TYPED


class HangError(BaseException):
    """An input took longer than `PATIENCE`."""


@dataclass
class Tally:
    """What became of all inputs.

    Attributes:
        outcomes: by reader, how often each outcome occurred.
        failures: the inputs that were neither read nor refused with a typed error, with what is known of them.
        starts: how many processes were needed.
    """

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    starts: int = 0

    @property
    def count(self) -> int:
        """The number of inputs."""
        return sum(sum(counter.values()) for counter in self.outcomes.values())

    def add(self, result: dict[str, Any]) -> None:
        """Count one result."""
        self.outcomes.setdefault(result["reader"], Counter())[result["outcome"]] += 1
        if result["outcome"] not in FINE:
            self.failures.append(result)


def reader_of(number: int, only: str = "") -> FuzzedReader:
    """The reader of an input."""
    turns = [reader for reader in TURNS if not only or reader.name == only]
    return turns[number % len(turns)]


def read_one(reader: FuzzedReader, work: Work, seed: int, number: int) -> tuple[str, str]:
    """What became of an input: `read`, the name of a typed error, or what went wrong; and the message."""
    draw = random.Random(f"{seed}-{number}")
    signal.alarm(PATIENCE)
    try:
        reader.read(work, draw)
    except errors.CasewiseError as error:
        if isinstance(error, (errors.StudyError, errors.CohortError)) and len(str(error)) > errors.MESSAGE:
            return "long message", str(error)[:200]
        return (type(error).__name__, "") if str(error).strip() else ("no message", type(error).__name__)
    except HangError:
        return "hang", f"no answer within {PATIENCE} seconds\n{traceback.format_exc()[-1500:]}"
    except AcceptedError as error:
        return "accepted", str(error)
    except BaseException as error:  # noqa: BLE001 (what is counted)
        return f"untyped {type(error).__name__}", traceback.format_exc()[-1500:]
    finally:
        signal.alarm(0)
    return "read", ""


def read_all(seed: int, start: int, stop: int, only: str = "") -> Iterator[dict[str, Any]]:
    """Read the inputs from `start` to `stop` in this process; yield what became of each."""
    import casewise.inference.model  # the libraries are loaded before memory is limited

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, interrupt)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="casewise-fuzz-") as folder:
        work = Work(Path(folder))
        work.folders()
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
        for number in range(start, stop):
            reader = reader_of(number, only)
            outcome, message = read_one(reader, work, seed, number)
            yield {"number": number, "reader": reader.name, "outcome": outcome, "message": message}
    assert casewise.inference.model


def fuzz(count: int, seed: int, *, start: int = 0, only: str = "", progress: bool = False) -> Tally:
    """Read `count` inputs in other processes, one at a time."""
    tally, number, stop = Tally(), start, start + count
    while number < stop:
        command = [sys.executable, "-m", "tests.fuzz", "--child", "--seed", str(seed), "--start", str(number)]
        tally.starts += 1
        with tempfile.TemporaryFile() as log:
            command += ["--count", str(stop - number), "--only", only]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, bufsize=0)
            for result in _results(child):
                tally.add(result)
                number = result["number"] + 1
                if progress and result["outcome"] not in FINE:
                    print(_failure(result), file=sys.stderr, flush=True)
                if progress and number % 1000 == 0:
                    print(f"{number - start:,} inputs, {len(tally.failures)} failures", file=sys.stderr, flush=True)
            if number < stop:
                log.seek(0)
                ended = "hang" if child.returncode == -signal.SIGKILL else f"crash ({child.returncode})"
                message, reader = log.read()[-3000:].decode("utf-8", "replace"), reader_of(number, only).name
                tally.add({"number": number, "reader": reader, "outcome": ended, "message": message})
                number += 1
    return tally


def _results(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a child, which is ended if it gives none for too long."""
    assert child.stdout
    with child.stdout as lines:
        patience = 10 * LAST_PATIENCE  # it loads its libraries first
        while select.select([lines], [], [], patience)[0]:
            if not (line := lines.readline()):
                break
            yield json.loads(line)
            patience = LAST_PATIENCE
        else:
            child.kill()
    child.wait()


def as_child(seed: int, start: int, count: int, only: str) -> None:
    """Print what became of each input, one line of JSON each."""
    faulthandler.enable()
    for result in read_all(seed, start, start + count, only):
        print(json.dumps(result), flush=True)


def summary(tally: Tally) -> str:
    """A table by reader, and the failures."""
    lines = [f"{'reader':<28}{'inputs':>8}{'read':>8}{'refused':>9}{'failures':>10}"]
    for reader in READERS:
        counter = tally.outcomes.get(reader.name, Counter())
        total, good = sum(counter.values()), sum(counter[name] for name in FINE)
        lines.append(
            f"{reader.name:<28}{total:>8,}{counter['read']:>8,}{good - counter['read']:>9,}{total - good:>10,}"
        )
    lines.append(f"{tally.count:,} inputs, {len(tally.failures):,} failures, {tally.starts} processes")
    return "\n".join([*lines, *map(_failure, tally.failures[:40])])


def _failure(result: dict[str, Any]) -> str:
    return f"\ninput {result['number']}, {result['reader']}: {result['outcome']}\n{result['message']}"
