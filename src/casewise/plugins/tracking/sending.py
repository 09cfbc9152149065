"""The registry of trackers, and sending what each of them lacks.

`tracking.json` in the run folder records what a tracker has. What could not be sent is sent by the next run.
"""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import StudyError, counted
from casewise.files import parsed_json, write_json
from casewise.plugins.tracking.mlflow import MLflow
from casewise.plugins.tracking.study_keys import PACKAGES, without_secrets
from casewise.plugins.tracking.tensorboard import TensorBoard
from casewise.plugins.tracking.units import Tracker, TrackerError

if TYPE_CHECKING:
    from casewise.plugins.tracking.units import Unit
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

log = logging.getLogger("casewise")


def tensorboard_path(folder: RunFolder) -> Path:
    """The files of TensorBoard in a run folder."""
    return folder.path / "tensorboard"


def tracking_path(folder: RunFolder) -> Path:
    """What the study's trackers have got."""
    return folder.path / "tracking.json"


@dataclass(frozen=True)
class Kind:
    """How a tracker is opened: from its address in the study, the run folder, the study, and an identifier of the run.

    Attributes:
        local: whether it only writes files in the run folder, so that it is cheap while networks train.
    """

    open: Callable[[str, RunFolder, Study, str], Tracker]
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
    missing = [name for name in names if importlib.util.find_spec(PACKAGES[name]) is None]
    if missing:
        what = " and ".join(dict.fromkeys(PACKAGES[name] for name in missing))
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
