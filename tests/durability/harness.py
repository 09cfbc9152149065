"""Killed runs: a reference without interruption for each scenario, then runs that are ended and continued."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.durability import checks
from tests.durability.runs import Ending, Plan, load, run, workers_watched
from tests.durability.scenarios import SCENARIOS, Scenario

# How a full disk, a read-only one, one that is gone and one that fails answer.
FAULTS = ("ENOSPC", "EROFS", "ESTALE", "EIO")
# What a planned fault may cost at most: the epochs of a network that one interruption makes it compute again.
EPOCHS_AGAIN = 1
# Failures after which a scenario is given up.
FAILURES = 5
# What is loaded before the first run; what a run has loaded is loaded after it.
LOADED = ["casewise.cli.main", "casewise.run"]


@dataclass
class Tally:
    """What became of the runs of a scenario."""

    scenario: str
    kills: int = 0
    faults: int = 0
    completed: int = 0
    epochs_again: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: its results, seconds and operations on files."""

    study: Path
    results: dict[str, str]
    seconds: float
    operations: int


def reference(scenario: Scenario, folder: Path) -> Reference:
    """Draw the cohort and run the scenario without interruption.

    Raises:
        RuntimeError: it fails, or its own files do not pass the checks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    study, work = scenario.prepare(folder), folder / "work"
    modules = folder / "modules.txt"
    ending = run(scenario.commands(study, work), work, modules=str(modules))
    problems = checks.damage(work) + checks.leftovers(work) if ending.code == 0 else [ending.output[-2000:]]
    if problems:
        raise RuntimeError(f"{scenario.name}: the run without interruption fails: {problems}")
    load(modules.read_text(encoding="utf-8").split())
    return Reference(study, checks.results(work), ending.seconds, ending.operations)


def killed(scenario: Scenario, whole: Reference, folder: Path, kills: int, draw: Random, tally: Tally) -> None:
    """Kill runs of the scenario until `kills` have been killed, half of them at a moment, half at a file operation.

    Each is continued, and killed again, until it finishes; then its results are compared.
    """
    number = 0
    while tally.kills < kills and len(tally.failures) < FAILURES:
        number += 1
        with _work_in(folder / f"killed-{number}", tally) as work:
            _until_finished(scenario, whole, work, kills, draw, tally)


def _until_finished(scenario: Scenario, whole: Reference, work: Path, kills: int, draw: Random, tally: Tally) -> None:
    before: dict[str, str] = {}
    epochs: list[str] = []
    while True:
        plan = _drawn(whole, draw) if tally.kills < kills else Plan()
        ending = run(scenario.commands(whole.study, work), work, plan)
        finished, now = checks.finished_jobs(work), checks.epochs_of(work.with_name(f"{work.name}.epochs"))
        problems = [*_unexpected(ending), *checks.damage(work), *checks.lost(before, finished)]
        again = checks.epochs_again(epochs, now[len(epochs) :])
        tally.epochs_again += again.total()
        problems += [f"{job}: {count} epochs again" for job, count in again.items() if count > EPOCHS_AGAIN]
        before, epochs = finished, now
        tally.kills += ending.code == -9
        if ending.code != -9 and not problems:
            problems = _at_the_end(whole, work, tally)
        tally.failures += [f"{scenario.name}, {work.name}, {plan}: {problem}" for problem in problems]
        if ending.code != -9 or problems:
            return


def _at_the_end(whole: Reference, work: Path, tally: Tally) -> list[str]:
    """What is wrong with the files of a finished run."""
    tally.completed += 1
    return checks.differing(whole.results, checks.results(work)) + checks.leftovers(work)


@contextmanager
def _work_in(work: Path, tally: Tally) -> Iterator[Path]:
    """An empty folder for a run, which is kept where it fails."""
    shutil.rmtree(work, ignore_errors=True)
    work.with_name(f"{work.name}.epochs").unlink(missing_ok=True)
    failures = len(tally.failures)
    yield work
    if len(tally.failures) == failures:
        shutil.rmtree(work, ignore_errors=True)


def _unexpected(ending: Ending) -> list[str]:
    """What a run must not say: an error of its own, or that it found damaged files."""
    if ending.code not in (0, -9):
        return [f"exit code {ending.code}: {ending.output[-1500:]}"]
    words = ("Traceback", "damaged", "cannot be verified", "no recorded checksum")
    return [f"it says {word!r}: {ending.output[-1500:]}" for word in words if word in ending.output]


def _drawn(whole: Reference, draw: Random) -> Plan:
    # More often early: a continued run is shorter, and is killed several times before it finishes.
    share = draw.random() ** 3
    if draw.random() < 0.5:
        return Plan(seconds=max(0.01, share * whole.seconds))
    return Plan(at=1 + int(share * whole.operations))


def failed_disks(scenario: Scenario, whole: Reference, folder: Path, faults: int, draw: Random, tally: Tally) -> None:
    """Let the disk fail at file operations spread evenly over the run, and continue without the failure.

    The run must end with one sentence and exit code 2, and then continue to the same bits.
    """
    for number in range(faults):
        at = 1 + (number * whole.operations + draw.randrange(whole.operations)) // faults
        fault = FAULTS[number % len(FAULTS)]
        with _work_in(folder / f"failed-{number}", tally) as work:
            commands = scenario.commands(whole.study, work)
            problems = _not_a_sentence(run(commands, work, Plan(at=at, fault=fault)), work) + checks.damage(work)
            before, after = checks.finished_jobs(work), run(commands, work)
            if after.code == 0:
                problems += checks.damage(work) + checks.lost(before, checks.finished_jobs(work))
                problems += _at_the_end(whole, work, tally)
            else:
                problems.append(f"it cannot continue: {after.output[-1500:]}")
            tally.faults += 1
            where = f"{scenario.name}, {fault} at operation {at} of {whole.operations}"
            tally.failures += [f"{where}: {problem}" for problem in problems]


def _not_a_sentence(ending: Ending, work: Path) -> list[str]:
    """What is wrong with the end of a run whose disk failed."""
    if ending.code == 0:  # the failure came after the last operation that matters
        return []
    problems = []
    if ending.code != 2:
        problems.append(f"exit code {ending.code} in place of 2: {ending.output[-2500:]}")
    if "Traceback" in ending.output:
        problems.append(f"a traceback: {ending.output[-2500:]}")
    said = "".join(ending.output.partition("error:")[2].split())
    if ending.code == 2 and str(work).replace(" ", "") not in said:
        problems.append(f"the folder is not named: {ending.output[-1500:]}")
    return problems


def durability(folder: Path, *, kills: int, faults: int, seed: int, only: str = "") -> list[Tally]:
    """Kill `kills` runs in all, and let the disk fail in `faults`, shared evenly by the scenarios."""
    os.environ.update(LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    scenarios = [scenario for scenario in SCENARIOS if only in ("", scenario.name)]
    tallies = [Tally(scenario.name) for scenario in scenarios]
    with workers_watched(folder):
        load(LOADED)
        for number, (scenario, tally) in enumerate(zip(scenarios, tallies, strict=True)):
            place, draw = folder / scenario.name.replace(",", "").replace(" ", "-"), Random(f"{seed} {number}")
            # The first one twice: its libraries are loaded here after the first time, which would be in its seconds.
            for _ in range(1 if number else 2):
                whole = reference(scenario, place)
            own_kills, own_faults = ((count + number) // len(scenarios) for count in (kills, faults))
            killed(scenario, whole, place, own_kills, draw, tally)
            failed_disks(scenario, whole, place, own_faults, draw, tally)
    return tallies


def summary(tallies: list[Tally]) -> str:
    """The figures of all scenarios, and every failure."""
    lines = [
        f"{tally.scenario}: {tally.kills} kills, {tally.faults} failures of the disk, "
        f"{tally.completed} runs finished, {tally.epochs_again} epochs again, {len(tally.failures)} failures"
        for tally in tallies
    ]
    lines.append(f"{sum(t.kills for t in tallies)} kills, {sum(len(t.failures) for t in tallies)} failures")
    return "\n".join([*lines, *(failure for tally in tallies for failure in tally.failures)])
