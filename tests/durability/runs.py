"""Runs that are forked from a process with all libraries loaded, and end by themselves, a signal or a planned fault."""

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from tests.durability.tracing import EPOCHS, WATCHED, Tracer

ROOT = Path(__file__).resolve().parents[2]
HOOK = "from tests.durability.tracing import install_in_worker\n\ninstall_in_worker()\n"
# Seconds after which a run hangs.
PATIENCE = 900


@dataclass(frozen=True)
class Ending:
    """How a run ended: its code (negative for a signal), operations on files, seconds and what it printed."""

    code: int
    operations: int
    seconds: float
    output: str


@dataclass(frozen=True)
class Plan:
    """A fault: a signal after `seconds`, or `fault` at the operation `at` on a file; without either, none."""

    seconds: float = 0.0
    at: int = 0
    fault: str = "kill"


def load(modules: list[str]) -> None:
    """Load what runs need, once for all forks."""
    for name in modules:
        with suppress(Exception):  # a part of a library that the run reached in another way
            importlib.import_module(name)


def run(commands: list[list[str]], work: Path, plan: Plan | None = None, modules: str = "") -> Ending:
    """Give the commands one after another in a fork of this process, until one fails or the fault occurs.

    Args:
        modules: a file to which the names of all loaded modules are written at the end.
    """
    plan = plan or Plan()
    work.mkdir(parents=True, exist_ok=True)
    operations, output = RawValue("Q"), work.parent / f"{work.name}.log"
    output.write_bytes(b"")  # here already: a run may be killed before it prints
    sys.stdout.flush()
    start, child = time.monotonic(), os.fork()
    if child == 0:
        _as_child(commands, work, operations, plan, output, modules)
    status = _waited(child, start + plan.seconds if plan.seconds else 0.0, start + PATIENCE)
    seconds = time.monotonic() - start
    _wait_for_group(child)
    text = output.read_text(encoding="utf-8", errors="replace")
    return Ending(os.waitstatus_to_exitcode(status), operations.value, round(seconds, 2), text)


def _waited(child: int, kill_at: float, give_up_at: float) -> int:
    """The status of a run, after killing it at its moment."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if (kill_at and time.monotonic() >= kill_at) or time.monotonic() >= give_up_at:
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:  # it has not begun its group yet
                os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.005)


def _wait_for_group(group: int) -> None:
    """Wait until the workers of an ended run have ended, too."""
    for _ in range(600):
        if not any(_alive_in(path, group) for path in Path("/proc").glob("[0-9]*/stat")):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the workers of {group} do not end")


def _alive_in(stat: Path, group: int) -> bool:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[2]) == group


def _as_child(commands: list[list[str]], work: Path, operations: Any, plan: Plan, output: Path, modules: str) -> None:
    code = 1
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        epochs = str(work.parent / f"{work.name}.epochs")
        os.environ |= {WATCHED: str(work), EPOCHS: epochs}
        sys.addaudithook(Tracer(str(work), epochs, operations, plan.at, plan.fault))
        code = _given(commands)
        if modules:
            Path(modules).write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
    except BaseException:  # noqa: BLE001 (the process must end here, whatever happened)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _given(commands: list[list[str]]) -> int:
    from casewise.cli import main

    for command in commands:
        sys.argv = ["casewise", *command]
        try:
            main.main()
        except SystemExit as ended:
            if ended.code:
                return ended.code if isinstance(ended.code, int) else 1
    return 0


@contextmanager
def workers_watched(folder: Path) -> Iterator[None]:
    """Let the workers that runs start install the hook, too."""
    hook = folder / "hook"
    hook.mkdir(parents=True, exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    paths = [str(hook), str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["CASEWISE_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        shutil.rmtree(hook, ignore_errors=True)
