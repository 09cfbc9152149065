"""All 145 networks of One-Step PASI to the end: 29 backbones on 5 folds, four stackers and the report.

    python benchmarks/sweep.py [--kills 3] [--backbones vgg11,resnet18] [--output docs/results/sweep.md]

A synthetic cohort is drawn, and `studies/sweep.yaml` is run as a user runs it, by `casewise run`. While networks are in
training the run is ended by SIGKILL with all its processes, as many times as `--kills` states and at random moments,
and the same command continues it. A run folder that exists is continued, so that this program can be stopped, too.
Where networks cannot be trained, `casewise run` ends with code 1 after it wrote the report; the page then names them.

The page states the wall-clock and CPU time of the whole, with everything that was repeated after a kill, and of each
backbone. CPU time is that of the jobs, which they record, and of everything else, which is measured on the processes.
Disk needed: about 40 GB, most of it for the weights of the VGG networks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from pages import page_parser, publish, table

from casewise.errors import CasewiseError
from casewise.files import checksum, write_json
from casewise.run_folder import RunFolder
from casewise.study.learners import learner_name
from casewise.study.loading import read_study
from casewise.study.schema import Study
from casewise.training.compute_plan import cpu_name

STUDY, COHORT = Path("studies/sweep.yaml"), Path("runs/sweep-cohort")
SUBJECTS, VISITS, SIZE, SEED = 24, 2, "160x106", 11


def main() -> None:
    arguments = page_parser(__doc__)
    arguments.add_argument("--kills", type=int, default=3, help="how many times the run is ended by SIGKILL")
    arguments.add_argument("--backbones", help="some of the 29, separated by commas; default: all of them")
    arguments.add_argument("--run", type=Path, default=Path("runs/sweep"), help="the run folder")
    options = arguments.parse_args()
    if not (COHORT / "visits.csv").exists():
        size = ["--subjects", str(SUBJECTS), "--visits", str(VISITS), "--size", SIZE, "--seed", str(SEED)]
        subprocess.run([*casewise(), "phantom", str(COHORT), *size], check=True)
    study = study_file(options.backbones, options.run)
    folder, costs = RunFolder(options.run), options.run.with_name(f"{options.run.name}-costs.json")
    record: dict[str, Any] = json.loads(costs.read_text()) if costs.exists() else {"stretches": []}
    draws = random.Random(SEED)
    while not record["stretches"] or not ended(folder, record["stretches"][-1]["code"]):
        kills = sum(stretch["code"] == -signal.SIGKILL for stretch in record["stretches"])
        record["stretches"].append(stretch(study, folder, draws if kills < options.kills else None))
        write_json(costs, record)
        code = record["stretches"][-1]["code"]
        if code != -signal.SIGKILL and not ended(folder, code):
            sys.exit(f"the run ended with code {code}")
    text = page(folder, read_study(study), record["stretches"])
    publish(text, options.output)


def casewise() -> list[str]:
    """The command."""
    return [sys.executable, "-m", "casewise.cli.main"]


def study_file(backbones: str | None, run: Path) -> Path:
    """The study, or one with some of its backbones."""
    if not backbones:
        return STUDY
    path = run.with_suffix(".yaml")
    path.write_text(f"extends: {STUDY.resolve()}\nname: {run.name}\nbackbones: [{backbones}]\n", encoding="utf-8")
    return path


def stretch(study: Path, folder: RunFolder, draws: random.Random | None) -> dict[str, Any]:
    """Run until the end, or with `draws` until a random moment of the training; return the costs of this stretch."""
    start = time.monotonic()
    process = subprocess.Popen([*casewise(), "run", str(study), "--output", str(folder.path)], start_new_session=True)
    cores: dict[tuple[int, float], float] = {}
    kill_at = len(finished(folder)) + draws.randint(10, 35) if draws else None
    while process.poll() is None:
        measure(process.pid, cores)
        if kill_at is not None and len(finished(folder)) >= kill_at:
            time.sleep(draws.uniform(0, 5) if draws else 0)
            measure(process.pid, cores)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(1)
    costs = {"seconds": time.monotonic() - start, "core_seconds": sum(cores.values())}
    return {"code": process.returncode, **costs, "finished": finished(folder)}


def ended(folder: RunFolder, code: int) -> bool:
    """Whether a run that ended with this code has its report: of all networks (0), or without those left out (1)."""
    if code != 1:
        return code == 0
    if not folder.left_out.exists():
        return False
    try:
        folder.check_reported()
        # a report of an earlier run may still contain a network that has been left out since
        return not set(folder.left_out.read()["networks"]) & set(folder.metrics.read()["metrics"]["oof"])
    except CasewiseError:
        return False


def measure(pid: int, cores: dict[tuple[int, float], float]) -> None:
    """Note the CPU seconds of a process and of all below it, by process."""
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                times = process.cpu_times()
                cores[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return


def finished(folder: RunFolder) -> dict[str, str]:
    """The checksum of the record of every finished job, by its folder."""
    jobs = folder.finished_jobs() if folder.path.exists() else []
    return {str(job.path.relative_to(folder.path)): checksum(job.record.path) for job in jobs}


def trained_again(folder: RunFolder, kills: Sequence[dict[str, Any]]) -> int:
    """The number of jobs that were finished at a kill and whose record has changed since."""
    now = finished(folder)
    return len({job for kill in kills for job, record in kill["finished"].items() if now.get(job) != record})


def page(folder: RunFolder, study: Study, stretches: Sequence[dict[str, Any]]) -> str:
    """The page with the costs of the run and of every backbone.

    Args:
        study: of the study file, with the networks that could not be trained.
    """
    records = folder.job_records(study.networks)
    metrics = folder.metrics.read()
    seconds, cores = sum(s["seconds"] for s in stretches), sum(s["core_seconds"] for s in stretches)
    of_jobs = sum(record["core_seconds"] for record in records)
    kills = [s for s in stretches if s["code"] == -signal.SIGKILL]
    resumed = sum(record["stretches"] > 1 for record in records)
    record = folder.left_out.read_if_exists()
    left_out: dict[str, dict[str, str]] = record["networks"] if record else {}
    planned, used = (len(names) * study.split.folds for names in (study.networks, set(study.networks) - set(left_out)))
    evaluated = dict.fromkeys(name for by_learner in metrics["metrics"].values() for name in by_learner)
    stacked = [learner_name(name) for name in evaluated if name not in study.learners]
    lines = [
        f"# The sweep: {planned} networks of One-Step PASI",
        "",
        "Synthetic photographs, the recipe of the preset for 12 epochs, random first weights: "
        "the page is about the engine, and its networks say nothing about patients.",
        "",
        f"- **{planned} networks** ({len(study.networks)} backbones × {study.split.folds} folds) in the study file; "
        f"{used} of them and {len(stacked)} combined learners ({', '.join(stacked)}) are evaluated in one report.",
        f"- Left out, on all folds, because a network could not be trained: {', '.join(left_out) or 'none'}.",
        *(
            f"    - {name}, fold {fold}: {' '.join(reason.split())}"
            for name, reasons in left_out.items()
            for fold, reason in reasons.items()
        ),
        f"- Wall-clock time: **{hours(seconds)}**; CPU time: **{hours(cores)}** on {os.cpu_count()} cores "
        f"({cpu_name()}). The jobs of the networks took {of_jobs / cores:.0%} of the CPU time.",
        f"- The run was ended by SIGKILL {len(kills)} times, after {listed([len(s['finished']) for s in kills])} "
        "finished jobs (networks and baselines), and continued by the same command. Finished jobs that were trained "
        f"again: {trained_again(folder, kills)}. Networks that were in training at a kill and went on afterwards: "
        f"{resumed}.",
        f"- The run folder has {size(folder.path):.1f} GB.",
    ]
    heads = ["backbone", "million weights", "training loss, first and last three epochs (mean of folds; 1: guessing)"]
    heads += ["folds where it fell", "seconds (mean of folds)", "CPU seconds", "precision", "peak memory (MB)"]
    rows, ends = [], []
    for name in study.networks:
        if own := [record for record in records if record["model"] == name]:
            memory = [record["peak_memory_mb"] for record in own if record.get("peak_memory_mb")]
            costs = [f"{fmean(record[cost] for record in own):.1f}" for cost in ("seconds", "core_seconds")]
            facts = [*costs, own[0]["precision"], f"{max(memory):,.0f}" if memory else "not recorded"]
            first, last, falls = fell(own)
            rows.append([name, f"{own[0]['parameters'] / 1e6:.1f}", f"{first:.2f}, {last:.2f}", falls, *facts])
            ends.append(round(last, 2) >= 1)
    lines.append(f"- {sum(ends)} of {len(ends)} backbones end at or above guessing: a training loss of at least 1.00.")
    return "\n".join([*lines, "", *table(heads, rows), ""])


def fell(records: Sequence[dict[str, Any]]) -> tuple[float, float, str]:
    """The mean training loss of the first and of the last three epochs, and in how many folds it fell."""
    losses = [[epoch["train_loss"] for epoch in record["history"]] for record in records]
    pairs = [(of_fold[0], sum(of_fold[-3:]) / len(of_fold[-3:])) for of_fold in losses]
    first, last = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return first, last, f"{sum(end < start for start, end in pairs)} of {len(pairs)}"


def hours(seconds: float) -> str:
    """A duration in hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def listed(values: Sequence[int]) -> str:
    """Numbers in a sentence."""
    return ", ".join(map(str, values)) or "no"


def size(folder: Path) -> float:
    """Gigabytes below a folder; files that have several names count once."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values()) / 1e9


if __name__ == "__main__":
    main()
