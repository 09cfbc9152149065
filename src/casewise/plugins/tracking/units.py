"""What trackers get of a run: a unit for each trained network, and one for its results. Nothing identifies anybody."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from casewise.errors import CasewiseError
from casewise.evaluation.results import read_results
from casewise.pipeline.train import epochs_of, finished

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


class TrackerError(CasewiseError):
    """A tracker could not take what it was sent; the run is not affected."""


class Tracker(Protocol):
    """Takes units of one run.

    Attributes:
        address: where it keeps what it gets, for people.
    """

    address: str

    def send(self, unit: Unit) -> None:
        """Take a unit, in place of an earlier one of the same name; taking one twice has no effect.

        Raises:
            TrackerError: it could not.
        """
        ...


RESULTS = "results"
# Keys of the study that have neither paths nor names of subjects, columns or sites.
SECTIONS = (
    *("modality", "synthetic", "outputs", "primary_outcome", "backbones", "encoders", "panels", "recipe"),
    *("nested_cv", "test_time_augmentation", "stack", "stack_baselines", "final", "seed", "seeds"),
)
IMAGES = ("size", "fit", "padding", "channels")
# Figures of an epoch as trackers name them.
CURVES = {
    "train_loss": "loss/train",
    "stop_loss": "loss/stop",
    "train_accuracy": "accuracy/train",
    "stop_accuracy": "accuracy/stop",
    "lr": "lr",
}
FACTS = ("model", "parameters", "epochs", "best_epoch", "n_fitted", "n_stopped", "device", "precision", "threads")


@dataclass(frozen=True)
class Unit:
    """What is sent at once: facts, and numbers with their step.

    Attributes:
        name: `results`, or learner and fold of a network.
        values: name, value, and step (the epoch, or 0).
        seconds: how long the training took.
    """

    name: str
    facts: dict[str, str]
    values: list[tuple[str, float, int]]
    seconds: float = 0.0
    sha256: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Identify the content, by which a tracker's record tells what it has already."""
        content = {name: value for name, value in asdict(self).items() if name != "sha256"}
        text = json.dumps(content, sort_keys=True)
        object.__setattr__(self, "sha256", hashlib.sha256(text.encode()).hexdigest())


def job_units(folder: RunFolder, study: Study) -> list[Unit]:
    """A unit for each finished network.

    Raises:
        RunError: a record is damaged.
    """
    return [job_unit(fold, job.record.read()) for _, fold, job in finished(folder, study.learners)]


def job_unit(fold: str, record: Mapping[str, Any]) -> Unit:
    """The unit of one network from its record."""
    values = [
        (CURVES[name], float(row[name]), row["epoch"])
        for row in epochs_of(fold, record)
        for name in CURVES
        if _is_finite(row[name])
    ]
    facts = {name: str(record[name]) for name in FACTS if record.get(name) is not None} | {"fold": fold}
    return Unit(f"{record['model']}/fold-{fold}", facts, values, float(record.get("seconds") or 0.0))


def results_unit(folder: RunFolder, study: Study) -> Unit:
    """The unit of a run: its settings, and every metric of whole targets with the interval."""
    metrics = read_results(folder).metrics if folder.metrics.exists() else {}
    values = [
        (f"{stage}/{learner}/{target}/{metric}{ending}", number, 0)
        for stage, by_learner in metrics.items()
        for learner, by_target in by_learner.items()
        for target, by_metric in by_target.items()
        for metric, estimate in by_metric.items()
        for number, ending in ((estimate.value, ""), (estimate.low, ".low"), (estimate.high, ".high"))
        if "[" not in target + metric and number is not None
    ]
    return Unit(RESULTS, parameters(study), values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def parameters(study: Study) -> dict[str, str]:
    """The settings that trackers get, by their path in the study file.

    The first weights are `pretrained`, `random` or `file`, never a path; the kinds of the targets are those of the
    outputs.
    """
    plain = study.model_dump(mode="json")
    settings = dict(_flat({name: plain[name] for name in SECTIONS}))
    settings |= {f"images.{name}": str(plain["images"][name]) for name in IMAGES}
    named = {study.weights_of(network) for network in study.networks}
    settings["weights"] = ", ".join(sorted(w if w in ("pretrained", "random") else "file" for w in named))
    settings |= {f"kind.{name}": study.kind_of(name) for name in study.outputs}
    settings |= {f"split.{name}": str(plain["split"][name]) for name in ("folds", "test")}
    return settings


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        pairs = [_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
        return [pair for inner in pairs for pair in inner]
    if isinstance(value, list) and any(isinstance(inner, (Mapping, list)) for inner in value):
        return _flat({str(number): inner for number, inner in enumerate(value, start=1)}, name)
    return [(name, ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value))]
