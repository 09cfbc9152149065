"""The trackers, and sending what each of them lacks: a unit for each trained network, and one for the results.

Nothing in a unit identifies anybody.

TensorBoard reads event files in the run folder, one for each network and learner, each written in one step. MLflow has
a run for the study with its settings and metrics, and a run below it for each network.

`tracking.json` in the run folder records what a tracker has. What could not be sent is sent by the next run.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from casewise.errors import CasewiseError, RunError, StudyError, counted
from casewise.evaluation.figures import Figures
from casewise.evaluation.metrics_file import read_results
from casewise.files import json_hash, parsed_json, replacing, write_json
from casewise.pipeline.train import epochs_of, finished
from casewise.plugins.tracking.study_keys import without_secrets
from casewise.run_folder import RunFolder
from casewise.study.schema import Study


class TrackerError(CasewiseError):
    """A tracker could not take what it was sent; the run is not affected."""


class _Tracker(Protocol):
    """Takes units of one run.

    Attributes:
        address: where it keeps what it gets, for people.
    """

    address: str

    def send(self, unit: Unit) -> None:
        """Take a unit, replacing an earlier one of the same name; taking one twice has no effect.

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
    "gradient_norm": "gradient/norm",
    "limited_steps": "gradient/limited_steps",
}
FACTS = ("model", "parameters", "epochs", "best_epoch", "n_fitted", "n_stopped", "device", "precision", "threads")


@dataclass(frozen=True)
class Unit:
    """A unit that is sent at once: facts, and numbers with their step.

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
        """Compute the hash of the content, by which a tracker skips units that were already sent."""
        content = {name: value for name, value in asdict(self).items() if name != "sha256"}
        object.__setattr__(self, "sha256", json_hash(content))


def job_units(folder: RunFolder, study: Study) -> list[Unit]:
    """A unit for each finished network.

    Raises:
        RunError: a record is damaged.
    """
    return [_job_unit(fold, job.record.read()) for _, fold, job in finished(folder, study.learners)]


def _job_unit(fold: str, record: Mapping[str, Any]) -> Unit:
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
    figures = read_results(folder).figures.select(population="", contrast="") if folder.metrics.exists() else Figures()
    values = [
        (f"{cell.stage}/{cell.learner}/{cell.target}/{metric}{ending}", number, 0)
        for cell, by_metric in figures.cells.items()
        for metric, estimate in by_metric.items()
        for number, ending in ((estimate.value, ""), (estimate.low, ".low"), (estimate.high, ".high"))
        if "[" not in cell.target + metric and number is not None
    ]
    return Unit(RESULTS, parameters(study), values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def parameters(study: Study) -> dict[str, str]:
    """The settings that trackers get, by their path in the study file.

    The first weights are `pretrained`, `random` or `file`, never a path; the kinds of the targets are the kinds of the
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


# What MLflow takes at once, and the length of a value that every server takes.
METRICS, PARAMS, LENGTH = 1000, 100, 500
RUN, UNIT, CONTENT = "casewise.run", "casewise.unit", "casewise.content"
# MLflow refuses its file store unless this is set, and reports its use to its makers unless that is.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
# Without these a server that is down stops a run for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflow:
    """Sends units to a server or a store.

    Args:
        address: of the server or store; empty: MLFLOW_TRACKING_URI, else the folder `mlruns` next to the run folder.
        run: identifies the run, so that nothing is sent twice.
    """

    def __init__(self, address: str, folder: RunFolder, study: Study, run: str) -> None:
        for name, value in (SETTINGS | PATIENCE).items():
            os.environ.setdefault(name, value)
        default = (folder.path.resolve().parent / "mlruns").as_uri()
        uri = address or os.environ.get("MLFLOW_TRACKING_URI") or default
        self.address = without_secrets(uri)
        self._run, self._title = run, folder.path.resolve().name
        with _failures(self.address):
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(study.name)
            self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(study.name)

    def send(self, unit: Unit) -> None:
        """See `_Tracker.send`."""
        with _failures(self.address):
            if unit.name == RESULTS:
                self._log(self._study_run(), unit)
                return
            present = self._runs_of(unit.name)
            for run in present:
                complete = run.data.tags.get(CONTENT) == unit.sha256 and run.info.status == "FINISHED"
                if complete:
                    return
                self._client.delete_run(run.info.run_id)  # interrupted, or of a network that was trained again
            tags = {"mlflow.parentRunId": self._study_run(), CONTENT: unit.sha256}
            self._log(self._create_run(unit.name, unit.name, tags), unit)

    def _study_run(self) -> str:
        """The run of the study, which is created if there is none."""
        present = self._runs_of(RESULTS)
        tags = {"casewise.report": f"{self._title}/report.html"}
        return str(present[0].info.run_id) if present else self._create_run(RESULTS, self._title, tags)

    def _runs_of(self, unit: str) -> list[Any]:
        query = f"tags.`{RUN}` = '{self._run}' and tags.`{UNIT}` = '{unit}'"
        return list(self._client.search_runs([self._experiment], query))

    def _create_run(self, unit: str, title: str, tags: dict[str, str]) -> str:
        tags = {RUN: self._run, UNIT: unit, **tags}
        return str(self._client.create_run(self._experiment, tags=tags, run_name=title).info.run_id)

    def _log(self, run: str, unit: Unit) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        # MLflow refuses another value of a parameter; of a study that was extended, the tags have the present ones
        before = self._client.get_run(run).data.params
        facts = {_valid_name(name): value[:LENGTH] for name, value in unit.facts.items()}
        params = [Param(name, value) for name, value in facts.items() if name not in before]
        for name, value in facts.items():
            if before.get(name, value) != value:
                self._client.set_tag(run, name, value)
        metrics = [Metric(_valid_name(name), value, now, step) for name, value, step in unit.values]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(run, metrics=metrics[start : start + METRICS])
        self._client.set_terminated(run)


def _valid_name(name: str) -> str:
    """A name with signs that MLflow takes.

    >>> _valid_name("oof/timm:vit@late/size/mae")
    'oof/timm:vit_late/size/mae'
    """
    return re.sub(r"[^\w.:/ -]", "_", name)


@contextmanager
def _failures(address: str) -> Iterator[None]:
    """Turn what MLflow and the network raise into a `TrackerError` with the reason."""
    try:
        yield
    except Exception as error:  # errors of databases and their drivers have no base class in common
        reason = without_secrets(re.sub(r"\s+", " ", str(error)) or type(error).__name__)
        raise TrackerError(f"{address}: {reason[:300]}{'…' if len(reason) > 300 else ''}") from error


EVENTS = "events.out.tfevents.0.casewise"


class TensorBoard:
    """Writes scalars by epoch; the time of an epoch is its share of the training's seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    def send(self, unit: Unit) -> None:
        """See `_Tracker.send`."""
        try:
            if unit.name != RESULTS:
                steps = max((step for _, _, step in unit.values), default=1)
                self._write(unit.name, [_scalar(*value, unit.seconds / steps) for value in unit.values])
                return
            by_learner: dict[str, list[Any]] = {}
            for name, value, step in unit.values:
                stage, learner, rest = name.split("/", 2)
                by_learner.setdefault(learner, []).append(_scalar(f"{stage}/{rest}", value, step, 0.0))
            for learner, events in by_learner.items():
                self._write(f"{learner}/{RESULTS}", events)
            rows = "\n".join(f"| {name} | {value} |" for name, value in unit.facts.items())
            self._write("study", [_text("study", f"| setting | value |\n|---|---|\n{rows}")])
        except RunError as error:
            raise TrackerError(str(error)) from error

    def _write(self, name: str, events: Iterable[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        # learners such as timm:vit have signs that some systems allow in no file name
        parts = [re.sub(r"[^\w.@+-]", "_", folder_name) for folder_name in name.split("/")]
        with replacing(self.folder.joinpath(*parts, EVENTS)) as temporary, temporary.open("wb") as file:
            writer = RecordWriter(file)
            for event in [Event(wall_time=0.0, file_version="brain.Event:2"), *events]:
                writer.write(event.SerializeToString())
            writer.flush()


def _scalar(name: str, value: float, step: int, seconds: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
    return Event(wall_time=step * seconds, step=step, summary=summary)


def _text(name: str, text: str) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    value = Summary.Value(tag=f"{name}/text_summary", metadata=metadata, tensor=tensor)
    return Event(wall_time=0.0, step=0, summary=Summary(value=[value]))


log = logging.getLogger("casewise")


def tensorboard_path(folder: RunFolder) -> Path:
    """The files of TensorBoard in a run folder."""
    return folder.path / "tensorboard"


def tracking_path(folder: RunFolder) -> Path:
    """The file that lists the units that the study's trackers already have."""
    return folder.path / "tracking.json"


@dataclass(frozen=True)
class Kind:
    """How a tracker is opened: from its address in the study, the run folder, the study, and an identifier of the run.

    Attributes:
        local: whether it only writes files in the run folder, so that it is cheap while networks train.
    """

    open: Callable[[str, RunFolder, Study, str], _Tracker]
    local: bool = False


TRACKERS = {
    "tensorboard": Kind(lambda address, folder, study, run: TensorBoard(tensorboard_path(folder)), local=True),
    "mlflow": Kind(lambda address, folder, study, run: MLflow(address, folder, study, run)),
}


def check_packages(study: Study) -> None:
    """Check that the packages of the study's trackers are installed.

    Raises:
        StudyError: naming the extra that is missing.
    """
    names = [text.partition(":")[0] for text in study.key("track")]
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        what = " and ".join(dict.fromkeys(missing))
        raise StudyError(f"track: {', '.join(missing)} needs {what}: pip install 'casewise[track]'. Or leave it out.")


def send_missing(study: Study, folder: RunFolder, units: Sequence[Unit], *, local: bool = False) -> list[str]:
    """Send to each tracker of the study the units that it lacks; a tracker that fails is reported as a warning.

    Args:
        local: only to those that write into the run folder.

    Returns:
        a sentence for each tracker that got something.
    """
    record, lines = _read(folder), []
    for text in study.key("track"):
        sent: dict[str, str] = record["sent"].setdefault(text, {})
        lacking = [unit for unit in units if sent.get(unit.name) != unit.sha256]
        name, _, address = text.partition(":")
        if not lacking or (local and not TRACKERS[name].local):
            continue
        count, tracker = 0, None
        try:
            tracker = TRACKERS[name].open(address, folder, study, record["run"])
            write_json(tracking_path(folder), record)  # the identifier of the run, before anything has it
            for unit in lacking:
                tracker.send(unit)
                sent[unit.name] = unit.sha256
                count += 1
        except TrackerError as error:
            log.warning(
                "track: %s did not get %s: %s The run is not affected; `casewise run` sends what is missing.",
                without_secrets(text),
                f"{len(lacking) - count} of {counted(len(units), 'part')}",
                error,
            )
        if count and tracker:
            write_json(tracking_path(folder), record)
            lines.append(f"{name}: {counted(count, 'part')} sent to {tracker.address}")
    return lines


def _read(folder: RunFolder) -> dict[str, Any]:
    """The record of what trackers have; a new one if there is none, or a damaged one."""
    try:
        record = parsed_json(tracking_path(folder).read_text(encoding="utf-8"))
        if isinstance(record["run"], str) and all(isinstance(sent, dict) for sent in record["sent"].values()):
            return dict(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {"run": secrets.token_hex(8), "sent": {}}
