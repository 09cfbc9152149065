"""The start-up time of `casewise --help` and of `import casewise`, as whole processes.

    python benchmarks/startup.py [--repeats 15]

Commands run in turn, after one discarded round that fills the page cache. The time of `import casewise` is given
without the start of Python itself. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEAVY = ("torch", "torchvision", "timm", "lightning", "pandas", "numpy", "scipy", "sklearn", "PIL", "cv2", "matplotlib")


def help_command() -> list[str]:
    """`casewise --help`, or the module if the command is not installed."""
    installed = Path(sys.executable).with_name("casewise")
    return [str(installed), "--help"] if installed.is_file() else [sys.executable, "-m", "casewise.cli.main", "--help"]


def seconds(command: list[str]) -> float:
    """The wall-clock time of one process from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def loaded(module: str) -> list[str]:
    """The heavy packages that importing `module` loads."""
    code = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    packages: list[str] = json.loads(done.stdout)
    return packages


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    help_words = help_command()
    commands = {
        "casewise --help": help_words,
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import casewise'": [sys.executable, "-c", "import casewise"],
    }
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            times[name].append(seconds(command))
    bare, imported = times["python -c pass"], times["python -c 'import casewise'"]
    # each import minus the plain start just before it, because other load slows both
    difference = statistics.median(with_it - without for with_it, without in zip(imported, bare, strict=True))
    rows = [
        (name, min(spent), statistics.median(spent), "aim: 0.3" if "help" in name else "")
        for name, spent in times.items()
    ]
    rows.append(("  the import alone", min(imported) - min(bare), difference, "aim: 0.15"))
    print(f"{repeats} processes each, in turn; {' '.join(help_words)}")
    print(f"  {'seconds':<30}{'min':>8}{'median':>8}")
    for name, least, middle, aim in rows:
        print(f"  {name:<30}{least:>8.3f}{middle:>8.3f}   {aim}".rstrip())
    for module in ("casewise", "casewise.cli.main"):
        heavy = loaded(module)
        packages = ", ".join(heavy) or f"none of {', '.join(HEAVY)}"
        print(f"  import {module} loads {packages}{'' if 'torch' in heavy else ' (aim: no torch)'}")


if __name__ == "__main__":
    main()
