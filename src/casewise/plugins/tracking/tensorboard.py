"""TensorBoard: event files in the run folder, one for each network and learner, each written in one step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import RunError
from casewise.files import replacing
from casewise.plugins.tracking.units import RESULTS, TrackerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from casewise.plugins.tracking.units import Unit

EVENTS = "events.out.tfevents.0.casewise"


class TensorBoard:
    """Writes scalars by epoch; the time of an epoch is its share of the training's seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    def send(self, unit: Unit) -> None:
        """See `Tracker.send`."""
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
