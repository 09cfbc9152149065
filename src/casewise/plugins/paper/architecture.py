"""The networks of a run as tables: their layers with shapes and parameters, and what each phase trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.errors import CasewiseError
from casewise.plugins.paper.contents import Line
from casewise.report.blocks import Table
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.analysis.run import Run

Job = Mapping[str, Any]


def summary(run: Run) -> Table:
    """The parameters of every network, and of these the trained ones in each phase, as the run recorded them.

    Raises:
        CasewiseError: the run trained no network.
    """
    lines = []
    for network, job in first_jobs(run).items():
        whole = {"network": network, "parameters": job["parameters"]}
        phases = job.get("phases") or []
        if not phases:
            lines.append({**whole, "phase": "", "frozen": None, "trainable": None, "running_statistics": None})
        for number, phase in enumerate(phases, 1):
            sizes = {name: phase.get(name) for name in ("frozen", "trainable", "running_statistics")}
            lines.append({**whole, "phase": str(number), **sizes, "epochs": phase.get("epochs")})
    return Table.of(_whole(pd.DataFrame(lines)), "Parameters of the networks and of their phases.")


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    for name in set(table) - {"network", "phase"}:
        table[name] = table[name].astype("Int64")
    return table


def first_jobs(run: Run) -> dict[str, Job]:
    """The first record of each network.

    Raises:
        CasewiseError: the run trained no network.
    """
    jobs: dict[str, Job] = {}
    for job in run.finished.jobs:
        jobs.setdefault(str(job["model"]), job)
    if not jobs:
        raise CasewiseError("the run trained no network")
    return jobs


def layers(run: Run, network: str, job: Job) -> Table:
    """The layers of a network in the order in which an image passes them, with the shape of each one's output.

    Raises:
        CasewiseError: the network that this version builds differs from the run's network.
    """
    import torch

    from casewise.models.build_model import network_of
    from casewise.models.freezing import freeze, parameter_counts

    study = run.study
    built = network_of(study.of_learner(network), network)
    count = parameter_counts(built).weights
    if count != job["parameters"]:
        raise CasewiseError(f"{network} has {count:,} parameters here, and {job['parameters']:,} in the run")
    panels, size = study.panels, study.images.size
    shape = (1, built.channels, panels.rows * size, panels.columns * size)
    bags = (1, 1, *shape[1:]) if panels.bags else shape
    passed: list[tuple[str, torch.nn.Module, str]] = []
    handles = []
    for name, module in built.named_modules():
        if name and not list(module.children()) and not isinstance(module, torch.nn.Identity):
            handles.append(module.register_forward_hook(_recorder(name, passed)))
    built.eval()
    with torch.no_grad():
        built(torch.zeros(bags))
    for handle in handles:
        handle.remove()
    phases = study.recipe.phases
    trained: list[dict[int, bool]] = []
    for phase in phases:
        freeze(built, phase.freeze)
        trained.append({id(p): p.requires_grad for p in built.parameters()})
    lines: list[Line] = []
    counted: set[int] = set()
    for name, module, output in passed:
        parameters = [p for p in module.parameters() if id(p) not in counted]
        counted |= {id(p) for p in parameters}
        line: Line = {"layer": name, "kind": type(module).__name__, "output": output}
        line["parameters"] = sum(p.numel() for p in parameters)
        for number, of_phase in enumerate(trained, 1):
            line[f"trainable_phase_{number}"] = sum(p.numel() for p in parameters if of_phase[id(p)])
        lines.append(line)
    if not lines:
        raise CasewiseError(f"the layers of {network} cannot be listed")
    others = sum(p.numel() for p in built.parameters() if id(p) not in counted)
    if others:
        rest: Line = {
            f"trainable_phase_{n}": sum(p.numel() for p in built.parameters() if id(p) not in counted and t[id(p)])
            for n, t in enumerate(trained, 1)
        }
        lines.append({"layer": "other parameters", "kind": "", "output": "", "parameters": others, **rest})
    caption = f"Layers of {learner_name(network)}; an input has the shape {' x '.join(map(str, shape[1:]))}."
    return Table.of(pd.DataFrame(lines), caption)


def _recorder(name: str, passed: list[tuple[str, Any, str]]) -> Any:
    def record(module: Any, _: Any, output: Any) -> None:
        if hasattr(output, "shape"):
            passed.append((name, module, " x ".join(map(str, output.shape[1:]))))

    return record
