"""The command: `python -m tests.durability --kills 200 --seed 1`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.durability.harness import durability, summary
from tests.durability.scenarios import SCENARIOS


def main() -> int:
    """Kill runs and continue them; 1 if anything was lost, damaged or different."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability", description="Kills runs and continues them.")
    parser.add_argument("--kills", type=int, default=200, help="how many runs are killed in all")
    parser.add_argument("--faults", type=int, default=0, help="in how many runs the disk fails")
    parser.add_argument("--seed", type=int, default=1, help="other seeds give other moments")
    parser.add_argument("--only", default="", choices=["", *(s.name for s in SCENARIOS)], help="one scenario")
    parser.add_argument("--folder", type=Path, help="where the runs are kept [default: a temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durability-") as temporary:
        given = {"folder": Path(temporary)} | {key: value for key, value in vars(options).items() if value is not None}
        tallies = durability(**given)
    print(summary(tallies))
    return int(any(tally.failures for tally in tallies) or sum(tally.kills for tally in tallies) < options.kills)


if __name__ == "__main__":
    sys.exit(main())
