"""Delivery of answers: into Orthanc, into folders, and by jobs of Orthanc to partners."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError
from casewise.files import checksum, storage_failures, write_atomic
from casewise.plugins.node.orthanc import Orthanc, OrthancError
from casewise.plugins.node.settings import ORTHANC
from casewise.plugins.node.worker import log

if TYPE_CHECKING:
    from casewise.plugins.node.records import Delivery
    from casewise.plugins.node.settings import NodeSettings, SendRule
    from casewise.plugins.node.state import NodeState

# A pass takes no longer, in seconds, so that studies that wait for the model are answered meanwhile.
LONGEST_PASS = 10


class _FinalError(CasewiseError):
    """An answer that cannot be delivered, however often it is tried."""


def deliver_due(state: NodeState, orthanc: Orthanc, settings: NodeSettings) -> bool:
    """Deliver the answers that are due; whether one was delivered.

    Raises:
        OrthancError: Orthanc takes no request now; its answers wait.
    """
    rules = {rule.name: rule for rule in settings.send}
    end, count = time.monotonic() + LONGEST_PASS, 0
    for delivery in state.deliveries(time.time()):
        if time.monotonic() > end:
            break
        label, name = delivery.study.label, delivery.answer.name
        try:
            if delivery.partner == ORTHANC:
                state.delivered(delivery, orthanc.store(_checked(delivery)))
            elif (rule := rules[delivery.partner]).folder:
                _copy(delivery, rule)
                state.delivered(delivery)
            elif not _forwarded(state, orthanc, delivery, rule, settings.orthanc.poll):
                continue
        except OrthancError as error:
            if error.is_away:
                raise
            is_final = delivery.partner == ORTHANC and error.status in (400, 409)
            state.not_delivered(delivery, str(error), final=is_final)
            log.warning("study %s: %s was not delivered to %s: %s", label, name, delivery.partner, error)
        except CasewiseError as error:
            state.not_delivered(delivery, str(error), final=isinstance(error, _FinalError))
            log.warning("study %s: %s was not delivered to %s: %s", label, name, delivery.partner, error)
        else:
            log.info("study %s: %s delivered to %s", label, name, delivery.partner)
            count += 1
    return count > 0


def _checked(delivery: Delivery) -> Path:
    """The file of an answer, which is as it was written.

    Raises:
        _FinalError: it is gone, or has changed.
    """
    answer = delivery.answer
    try:
        if checksum(answer.path) == answer.sha256:
            return answer.path
    except OSError as error:
        raise _FinalError(f"The answer {answer.name} cannot be read: {error.strerror}.") from error
    raise _FinalError(f"The answer {answer.name} has changed on the disk.")


def _copy(delivery: Delivery, rule: SendRule) -> None:
    """Copy an answer into the subfolder of its study, in place of those of a former version.

    Raises:
        CasewiseError: it is gone, or the folder cannot be written.
    """
    path, style = _checked(delivery), delivery.answer.format
    folder = Path(rule.partner) / path.parent.name
    write_atomic(folder / path.name, path.read_bytes())
    with storage_failures(folder):
        for other in folder.iterdir():
            # names are such as fhir.json and summary-sc-2.dcm; whatever else is there is not of the node
            if re.sub(r"-\d+$", "", other.stem) == style and not (path.parent / other.name).exists():
                other.unlink(missing_ok=True)


def _forwarded(state: NodeState, orthanc: Orthanc, delivery: Delivery, rule: SendRule, poll: float) -> bool:
    """Whether the job of Orthanc that sends an answer has succeeded; a job is begun if there is none.

    Raises:
        OrthancError: it failed; the next attempt is another job.
    """
    status, problem = orthanc.job(delivery.job) if delivery.job else ("", "")
    if status == "Failure":
        raise OrthancError(problem, 500)
    if status == "Success":
        state.delivered(delivery)
    else:
        job = delivery.job if status else orthanc.forward(rule.kind, rule.partner, delivery.instance)
        state.submitted(delivery, job, poll)
    return status == "Success"
