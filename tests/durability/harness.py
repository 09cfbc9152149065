"""Killed runs: a reference without interruption for each scenario, then runs that are ended and continued."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.durability import checks
from tests.durability.runs import Ending, Plan, load, mark_steps, run, workers_watched
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.tracing import Shared

# How a full disk, a read-only one, one that is gone and one that fails answer.
FAULTS = ("ENOSPC", "EROFS", "ESTALE", "EIO")
# What a planned fault may cost at most: the epochs of a network that one interruption makes it compute again.
EPOCHS_AGAIN = 1
# Failures after which a scenario is given up.
FAILURES = 5


@dataclass
class Tally:
    """What became of the runs of a scenario."""

    scenario: str
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    epochs_again: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally of the scenario."""
        self.kills += other.kills
        self.faults += other.faults
        self.completed += other.completed
        self.epochs_again += other.epochs_again
        self.failures += other.failures


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: its results, seconds and operations on files."""

    study: Path
    results: dict[str, str]
    seconds: float
    operations: int


def reference(scenario: Scenario, folder: Path, shared: Shared) -> Reference:
    """Draw the cohort and run the scenario without interruption.

    Raises:
        RuntimeError: it fails, or its own files do not pass the checks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    study, work = scenario.prepare(folder), folder / "work"
    modules = folder / "modules.txt"
    ending = run(scenario.commands(study, work), work, shared, modules=str(modules))
    problems = checks.damage(work) + checks.leftovers(work) if ending.code == 0 else [ending.output[-2000:]]
    if problems:
        raise RuntimeError(f"{scenario.name}: the run without interruption fails: {problems}")
    load(modules.read_text(encoding="utf-8").split())
    found = Reference(study, checks.results(work), ending.seconds, ending.operations)
    _discard(work)
    return found


def killed(
    scenario: Scenario, whole: Reference, folder: Path, kills: int, draw: random.Random, shared: Shared
) -> Tally:
    """Kill runs of the scenario until `kills` have been killed, half of them at a moment, half at a file operation.

    Each is continued, and killed again, until it finishes; then its results are compared.
    """
    tally, number = Tally(scenario.name), 0
    while sum(tally.kills.values()) < kills and len(tally.failures) < FAILURES:
        number += 1
        work = folder / f"killed-{number}"
        _until_finished(scenario, whole, work, kills, draw, shared, tally)
        _discard(work, keep=bool(tally.failures))
    return tally


def _until_finished(
    scenario: Scenario, whole: Reference, work: Path, kills: int, draw: random.Random, shared: Shared, tally: Tally
) -> None:
    study = _moved(whole.study, work)
    before: dict[str, str] = {}
    epochs: list[tuple[str, str]] = []
    while True:
        left = kills - sum(tally.kills.values())
        plan = _drawn(whole, draw) if left > 0 else Plan()
        ending = run(scenario.commands(study, work), work, shared, plan)
        problems = [*_unexpected(ending), *checks.damage(work), *checks.lost(before, checks.finished_jobs(work))]
        now = checks.epochs_of(work.parent / f"{work.name}.epochs")
        again = checks.epochs_again(epochs, now[len(epochs) :])
        tally.epochs_again += sum(again.values())
        problems += [f"{job}: {count} epochs again" for job, count in again.items() if count > EPOCHS_AGAIN]
        before, epochs = checks.finished_jobs(work), now
        where = f"{scenario.name}, {ending.step}, {work.name}, {plan}"
        if ending.code == -9:
            tally.kills[ending.step] += 1
        elif not problems:
            problems += checks.differing(whole.results, checks.results(work)) + checks.leftovers(work)
            tally.completed += 1
        tally.failures += [f"{where}: {problem}" for problem in problems]
        if ending.code != -9 or problems:
            return


def _unexpected(ending: Ending) -> list[str]:
    """What a run must not say: an error of its own, or that it found damaged files."""
    if ending.code not in (0, -9):
        return [f"exit code {ending.code}: {ending.output[-1500:]}"]
    words = ("Traceback", "damaged", "cannot be verified", "no recorded checksum")
    return [f"it says {word!r}: {ending.output[-1500:]}" for word in words if word in ending.output]


def _drawn(whole: Reference, draw: random.Random) -> Plan:
    # More often early: a continued run is shorter, and is killed several times before it finishes.
    share = draw.random() ** 3
    if draw.random() < 0.5:
        return Plan(seconds=max(0.01, share * whole.seconds))
    return Plan(at=1 + int(share * whole.operations))


def failed_disks(
    scenario: Scenario, whole: Reference, folder: Path, faults: int, draw: random.Random, shared: Shared
) -> Tally:
    """Let the disk fail at file operations spread evenly over the run, and continue without the failure.

    The run must end with one sentence and exit code 2, and then continue to the same bits.
    """
    tally = Tally(scenario.name)
    for number in range(faults):
        at = 1 + (number * whole.operations + draw.randrange(whole.operations)) // max(1, faults)
        fault, work = FAULTS[number % len(FAULTS)], folder / f"failed-{number}"
        study = _moved(whole.study, work)
        ending = run(scenario.commands(study, work), work, shared, Plan(at=at, fault=fault))
        where = f"{scenario.name}, {ending.step}, {fault} at operation {at} of {whole.operations}"
        problems = checks.damage(work) + _not_a_sentence(ending, work)
        before = checks.finished_jobs(work)
        after = run(scenario.commands(study, work), work, shared)
        if after.code == 0:
            problems += checks.damage(work) + checks.lost(before, checks.finished_jobs(work))
            problems += checks.differing(whole.results, checks.results(work)) + checks.leftovers(work)
            tally.completed += 1
        else:
            problems.append(f"it cannot continue: {after.output[-1500:]}")
        tally.faults[ending.step] += 1
        tally.failures += [f"{where}: {problem}" for problem in problems]
        _discard(work, keep=bool(problems))
    return tally


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


def _moved(study: Path, work: Path) -> Path:
    """The study file, which all runs share; older files of the run folder are removed."""
    shutil.rmtree(work, ignore_errors=True)
    work.with_name(f"{work.name}.epochs").unlink(missing_ok=True)
    return study


def _discard(work: Path, *, keep: bool = False) -> None:
    if not keep:
        shutil.rmtree(work, ignore_errors=True)


def durability(
    folder: Path, *, kills: int, faults: int, seed: int, only: str = "", progress: bool = False
) -> list[Tally]:
    """Kill `kills` runs in all, and let the disk fail in `faults`, shared evenly by the scenarios."""
    os.environ.update(LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    scenarios = [scenario for scenario in SCENARIOS if only in ("", scenario.name)]
    shared, tallies = Shared(), []
    with workers_watched(folder):
        load()
        mark_steps(shared)
        for number, scenario in enumerate(scenarios):
            place, draw = folder / scenario.name.replace(",", "").replace(" ", "-"), random.Random(f"{seed} {number}")
            # The first one twice: its libraries are loaded here after the first time, which would be in its seconds.
            for _ in range(1 if number else 2):
                whole = reference(scenario, place, shared)
            tally = killed(scenario, whole, place, _share(kills, number, len(scenarios)), draw, shared)
            tally.add(failed_disks(scenario, whole, place, _share(faults, number, len(scenarios)), draw, shared))
            tallies.append(tally)
            if progress:
                print("\n  ".join([summary_line(tally), *tally.failures]), flush=True)
    return tallies


def _share(count: int, number: int, of: int) -> int:
    return count // of + (number < count % of)


def summary_line(tally: Tally) -> str:
    """One scenario in a line."""
    return (
        f"{tally.scenario}: {sum(tally.kills.values())} kills, {sum(tally.faults.values())} failures of the disk, "
        f"{tally.completed} runs finished, {tally.epochs_again} epochs again, {len(tally.failures)} failures"
    )


def summary(tallies: list[Tally]) -> str:
    """The figures of all scenarios, and every failure."""
    lines = [summary_line(tally) for tally in tallies]
    for kind in ("kills", "faults"):
        steps: Counter[str] = sum((getattr(tally, kind) for tally in tallies), Counter())
        by_step = ", ".join(f"{step} {count}" for step, count in steps.most_common())
        lines.append(f"{'kills' if kind == 'kills' else 'failures of the disk'} by step: {by_step or 'none'}")
    failures = [failure for tally in tallies for failure in tally.failures]
    kills = sum(sum(tally.kills.values()) for tally in tallies)
    lines.append(f"{kills} kills, {sum(t.epochs_again for t in tallies)} epochs again, {len(failures)} failures")
    return "\n".join([*lines, *failures])
