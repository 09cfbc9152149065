"""The commands of a node: check its file, run it, look at its studies, retry or discard them, and monitor it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casewise.cli.run import Quiet

if TYPE_CHECKING:
    from casewise.plugins.node.queue.study_queue import StudyQueue
    from casewise.plugins.node.settings import NodeSettings

NodeFile = Annotated[Path, typer.Argument(metavar="NODE", help="The file of the node, such as node.yaml.")]
node = typer.Typer(no_args_is_help=True, help="Receive studies in a hospital network, and answer them with a model.")


@node.command()
def check(
    file: NodeFile,
    partners: Annotated[
        bool, typer.Option("--partners", help="Also reach every partner, without sending anything.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check the file of a node and load its bundle; nothing is started.

    casewise node check node.yaml --partners

    Exit code 1: a partner cannot be reached.
    """
    from casewise.console import Silent, Terminal, print_error
    from casewise.errors import CasewiseError

    show = Silent() if quiet else Terminal()
    settings = _settings(file)
    with show.bar("check") as bar:
        bar(0, 0, "reading the settings")
        settings.check_files()
        _check_answers(settings)
        from casewise.plugins.node.send import partners as partners_of

        if settings.receive.dicom:
            import casewise.plugins.node.receive.dicom
        if settings.receive.web:
            import casewise.plugins.node.receive.web  # noqa: F401 (their packages may be missing)
        _check_ports(settings)
        receivers = partners_of(settings)
        bar(0, 0, "loading the model")
        from casewise.inference.model import load_bundle
        from casewise.plugins.node.predictor import StudyPredictor

        predictor = StudyPredictor(load_bundle(settings.bundle, trust=settings.trust), settings)
        description = predictor.description
        problems = {}
        for partner in receivers if partners else ():
            bar(0, 0, partner.name)
            try:
                partner.check()
            except CasewiseError as error:
                problems[partner.name] = str(error)
    signed = (
        f"signed with the key of {settings.trust}" if settings.trust else "its signature is not checked: no `trust`"
    )
    show.line("model", f"{description['title']}, checksum {description['checksum']}; {signed}")
    for partner in receivers:
        reached = "" if not partners else f": {problems.get(partner.name, 'reached')}"
        show.line("send", f"{', '.join(partner.formats)} to {partner.name}{reached}")
    if predictor.without_maps:
        print_error(f"Summary pages will show no saliency maps. {predictor.without_maps}")
    for remark in settings.remarks():
        print_error(remark)
    if problems:
        raise typer.Exit(1)
    show.line("node", f"{file} can be used")


@node.command()
def start(file: NodeFile, quiet: Quiet = False) -> None:
    """Receive studies, predict them and send the answers, until Ctrl-C or SIGTERM.

    Whatever ends it, even a power failure: the next start goes on where it was.
    """
    from casewise.console import Silent, Terminal

    settings = _settings(file)
    settings.check_files()
    _check_answers(settings)
    from casewise.plugins.node.service import run_node

    run_node(settings, Silent() if quiet else Terminal())


@node.command()
def status(
    file: NodeFile,
    uids: Annotated[
        bool, typer.Option("--uids", help="Name studies by their Study Instance UID, not by a hash of it.")
    ] = False,
) -> None:
    """Print how many studies are in each state, and those that wait, failed or need a person, with the reason.

    Exit code 1: a study is in quarantine or lacks a format of its answer, or the audit trail was changed.
    """
    from casewise.errors import counted
    from casewise.plugins.node.audit_trail import AuditTrail
    from casewise.plugins.node.queue.records import StudyState

    settings = _settings(file)
    queue = _queue(settings)
    trail = AuditTrail(queue)
    try:
        breaks, head = trail.verify(), trail.head()
        counts, deliveries = queue.counts(), queue.delivery_counts()
        unfinished = queue.studies(unfinished=True)
    finally:
        queue.close()
    if not _works(settings):
        print(f"no node works in this folder: `casewise node start {file}` begins one")
    print(", ".join(f"{count:,} {state}" for state, count in counts.items()))
    for (partner, state), count in deliveries.items():
        print(f"{partner}: {counted(count, 'answer')} {state}")
    for each in breaks:
        print(f"audit trail: line {each.line:,} {each.reason}")
    if not breaks:
        print(f"audit trail: unbroken, its last line has the SHA-256 {head}")
    for study in unfinished:
        images, tried = (
            counted(study.instances, "image"),
            f", {counted(study.attempts, 'attempt')}" * bool(study.attempts),
        )
        print(f"{study.uid if uids else study.label}  {study.state} since {study.changed_at}, {images}{tried}")
        if reason := study.reason or study.unwritten:
            print(f"    {reason}")
    if counts[StudyState.QUARANTINED] or breaks or any(study.unwritten for study in unfinished):
        raise typer.Exit(1)


Studies = Annotated[
    list[str] | None,
    typer.Argument(metavar="STUDY", help="Study Instance UIDs, or the names of the studies in `status`."),
]


@node.command()
def retry(
    file: NodeFile,
    studies: Studies = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All studies that failed, are in quarantine, or wait for a partner.")
    ] = False,
) -> None:
    """Put studies back to work that failed, are in quarantine, lack a format, wait for a partner, or were discarded.

    The answers of a study that was sent are sent once more.
    """
    from casewise.plugins.node.queue.records import StudyState

    queue, states = _queue(_settings(file)), (StudyState.FAILED, StudyState.QUARANTINED, StudyState.PREDICTED)
    try:
        names = [study.uid for study in queue.studies(unfinished=True) if study.state in states] if everything else []
        if not names and not studies and not everything:
            raise typer.BadParameter("State studies, or --all.")
        for name in [*names, *(studies or ())]:
            study = queue.retry(name)
            print(f"{study.label} is {study.state}")
    finally:
        queue.close()


@node.command()
def discard(file: NodeFile, studies: Studies) -> None:
    """Dismiss studies that are in quarantine, failed, or wait for a partner: they need no answer.

    A study of which images arrive later begins anew with these; `retry` puts it back as it was.
    """
    if not studies:
        raise typer.BadParameter("State studies.")
    queue = _queue(_settings(file))
    try:
        for name in studies or ():
            print(f"{queue.discard(name).label} is discarded")
    finally:
        queue.close()


def monitor(
    file: NodeFile,
    page: Annotated[
        Path | None, typer.Option(help="The page to write [default: monitoring.html in the folder of the node].")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write whether studies, predictions and outcomes of a node have changed, and since when."""
    from casewise.console import Silent, Terminal

    settings = _settings(file)
    with (Silent() if quiet else Terminal()).bar("monitor"):
        from casewise.plugins.node.monitoring.of_node import monitor_node

        written = monitor_node(settings, page)
    print(written.sentence)
    if not quiet:
        print(f"wrote {written.page}")


def _settings(file: Path) -> NodeSettings:
    from casewise.plugins.node.settings import read_settings

    return read_settings(file)


def _check_answers(settings: NodeSettings) -> None:
    """Check that the bundle is there, and that every format can be written; no model is loaded.

    Raises:
        CasewiseError: it is not; a format is unknown, or a package is missing.
    """
    from casewise.errors import CasewiseError
    from casewise.plugins.node.send import check_formats
    from casewise.run_folder.bundle_folder import public_key

    if not settings.bundle.exists():
        raise CasewiseError(f"bundle: there is no {settings.bundle}. `casewise bundle` writes one.")
    if settings.trust:
        public_key(settings.trust)
    check_formats(settings.answer.formats)


def _works(settings: NodeSettings) -> bool:
    """Whether a node works in the folder."""
    from filelock import FileLock, Timeout

    from casewise.plugins.node.service import LOCK

    if not settings.folder.exists():
        return False
    try:
        with FileLock(settings.folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _check_ports(settings: NodeSettings) -> None:
    """Try the ports on which the node is going to listen, unless it does so now.

    Raises:
        CasewiseError: one cannot be used; the message names the key.
    """
    from contextlib import ExitStack

    from casewise.web.server import bound

    if _works(settings):
        from casewise.console import print_error

        print_error("A node works in this folder, so its ports were not tried.")
        return
    with ExitStack() as stack:
        for key, receiver in {"receive.dicom": settings.receive.dicom, "receive.web": settings.receive.web}.items():
            if receiver:
                stack.enter_context(bound(receiver.host, receiver.port, key))


def _queue(settings: NodeSettings) -> StudyQueue:
    """The queue of a node, which may be running.

    Raises:
        CasewiseError: it never ran.
    """
    from casewise.errors import CasewiseError
    from casewise.plugins.node.queue.study_queue import StudyQueue

    if not (settings.folder / "queue.sqlite").exists():
        raise CasewiseError(
            f"{settings.folder} has no queue: the node has not run. Start it: `casewise node start NODE`."
        )
    return StudyQueue(settings.folder)
