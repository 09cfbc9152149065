"""The command: `python -m tests.fuzz --count 20000 --seed 1`."""

import argparse
import os
import sys

from tests.fuzz.readers import READERS
from tests.fuzz.run import as_child, fuzz, summary


def main() -> int:
    """Read the inputs and print what became of them; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Reads mutated inputs with every reader.")
    parser.add_argument("--count", type=int, default=20_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=1, help="other seeds give other inputs")
    parser.add_argument("--start", type=int, default=0, help="the first input, to repeat one of a report")
    parser.add_argument("--only", default="", choices=["", *(reader.name for reader in READERS)], help="one reader")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        as_child(options.seed, options.start, options.count, options.only)
        return 0
    tally = fuzz(options.count, options.seed, start=options.start, only=options.only, progress=True)
    print(summary(tally))
    return 1 if tally.failures or tally.count < options.count else 0


if __name__ == "__main__":
    os.environ.update(LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="1")
    sys.exit(main())
