"""How long a person waits for `casewise --help`, and a script for `import casewise`, as whole processes.

    python benchmarks/startup.py [--repeats 15]

The ways take turns, after one round that is thrown away, so that all files are in the page cache. `import casewise` is
told without what starting Python itself costs. Times are printed, never asserted.
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
    """`casewise --help` as a person calls it, or through the module where the command is not installed."""
    installed = Path(sys.executable).with_name("casewise")
    return [str(installed), "--help"] if installed.is_file() else [sys.executable, "-m", "casewise.cli.main", "--help"]


def seconds(command: list[str]) -> float:
    """The wall-clock time of one process from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def loaded(module: str) -> list[str]:
    """Which of the heavy packages importing `module` brings along."""
    code = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    asked = help_command()
    ways = {
        "casewise --help": asked,
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import casewise'": [sys.executable, "-c", "import casewise"],
    }
    for command in ways.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, command in ways.items():
            times[name].append(seconds(command))
    bare, imported = times["python -c pass"], times["python -c 'import casewise'"]
    # Each import against the bare start just before it, because whatever else the machine does then slows both.
    apart = statistics.median(with_it - without for with_it, without in zip(imported, bare, strict=True))
    rows = [
        (name, min(spent), statistics.median(spent), "aim: 0.3" if "help" in name else "")
        for name, spent in times.items()
    ]
    rows.append(("  the import alone", min(imported) - min(bare), apart, "aim: 0.15"))
    print(f"{repeats} processes each, in turn; {' '.join(asked)}")
    print(f"  {'seconds':<30}{'least':>8}{'median':>8}")
    for name, least, middle, aim in rows:
        print(f"  {name:<30}{least:>8.3f}{middle:>8.3f}   {aim}".rstrip())
    for module in ("casewise", "casewise.cli.main"):
        heavy = loaded(module)
        told = ", ".join(heavy) or f"none of {', '.join(HEAVY)}"
        print(f"  import {module} loads {told}{'' if 'torch' in heavy else ' (aim: no torch)'}")


if __name__ == "__main__":
    main()
