"""All benchmarks one after another, as `make bench` runs them: about an hour on two quiet cores.

    python benchmarks/all.py [--start serve.py]

Nothing else should run on the machine. A benchmark that fails is named at the end, and the others are still measured;
the exit code is then 1. The figures are printed by the benchmarks themselves, never asserted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = (
    "speed.py",
    "training.py --short",
    "serve.py --minutes 2",
    "coverage.py --studies 200",
    "multiplicity.py",
    "null.py",
)


def main() -> None:
    """Run the benchmarks, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [words.split()[0] for words in BENCHMARKS]
    parser.add_argument("--start", choices=names, default=names[0], metavar="NAME", help="leave out those before it")
    options = parser.parse_args()
    failed = []
    for words in BENCHMARKS[names.index(options.start) :]:
        script, *arguments = words.split()
        print(f"\n== {words}", flush=True)
        start = time.monotonic()
        completed = subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *arguments])
        failed += [words] if completed.returncode else []
        print(f"== {words}: {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
