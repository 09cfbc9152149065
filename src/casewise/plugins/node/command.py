"""The commands of a node: check its file, run it, look at its studies, retry or discard them, and monitor it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casewise.cli.run import Quiet

if TYPE_CHECKING:
    from casewise.plugins.node.settings import NodeSettings

NodeFile = Annotated[Path, typer.Argument(metavar="NODE", help="The file of the node, such as node.yaml.")]
node = typer.Typer(
    no_args_is_help=True, help="Answer studies in a hospital network with a model, beside Orthanc or in mercure."
)


@node.command()
def check(
    file: NodeFile,
    partners: Annotated[
        bool, typer.Option("--partners", help="Also reach Orthanc and every partner, without sending anything.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check the file of a node and load its bundle; nothing is started.

    casewise node check node.yaml --partners

    Exit code 1: Orthanc or a partner cannot be reached.
    """
    from casewise.console import Silent, Terminal, print_error
    from casewise.errors import CasewiseError

    show = Silent() if quiet else Terminal()
    settings = _settings(file)
    with show.bar("check") as bar:
        bar(0, 0, "loading the model")
        settings.check_files()
        from casewise.inference.model import load_bundle
        from casewise.plugins.node.orthanc import Orthanc
        from casewise.plugins.node.predictor import StudyPredictor

        predictor = StudyPredictor(load_bundle(settings.bundle, trust=settings.trust), settings)
        orthanc, problems = Orthanc(settings.orthanc), list[str]()
        tests = [("", ""), *((rule.kind, rule.partner) for rule in settings.send if not rule.folder)]
        for kind, name in tests if partners else []:
            try:
                orthanc.reach(kind, name)
            except CasewiseError as error:
                problems.append(f"{kind} {name}: {error}".lstrip(" :"))
    signed = (
        f"signed with the key of {settings.trust}" if settings.trust else "its signature is not checked: no `trust`"
    )
    show.line("model", f"{predictor.description['title']}, checksum {predictor.description['checksum']}; {signed}")
    for partner, formats in settings.routes().items():
        show.line("send", f"{', '.join(formats) or 'nothing'} to {partner}")
    if predictor.without_maps:
        print_error(f"Summary pages will show no saliency maps. {predictor.without_maps}")
    for line in (*settings.remarks(), *problems):
        print_error(line)
    if problems:
        raise typer.Exit(1)
    show.line("node", f"{file} can be used")


@node.command()
def run(file: NodeFile, quiet: Quiet = False) -> None:
    """Follow Orthanc, predict its studies and deliver the answers, until Ctrl-C or SIGTERM.

    Whatever ends it, even a power failure: the next start goes on where it was.
    """
    from casewise.console import Silent, Terminal

    settings = _settings(file)
    settings.check_files()
    from casewise.plugins.node.service import run_node

    run_node(settings, Silent() if quiet else Terminal())


@node.command()
def mercure(
    bundle: Annotated[
        Path | None, typer.Option(help="The model, where the settings of the module in mercure state no bundle.")
    ] = None,
) -> None:
    """Answer one task as a module of mercure: images in MERCURE_IN_DIR, answers into MERCURE_OUT_DIR.

    The settings of the module are bundle, trust, select and answer, as in the file of a node.

    Exit code 1: a study could not be answered; result.json says why.
    """
    from casewise.console import print_error
    from casewise.plugins.node.mercure import run_mercure

    problems = run_mercure(bundle)
    for problem in problems:
        print_error(problem)
    if problems:
        raise typer.Exit(1)


@node.command()
def health(file: NodeFile) -> None:
    """Print what a node that runs cannot do now, such as reach Orthanc.

    Exit code 1: it does not run, or something is wrong.
    """
    from casewise.plugins.node.service import works
    from casewise.plugins.node.state import state_of

    settings = _settings(file)
    state = state_of(settings.folder)
    problem = state.problem if works(settings.folder) else "the node does not run"
    state.close()
    print(problem or "ready")
    if problem:
        raise typer.Exit(1)


@node.command()
def status(
    file: NodeFile,
    uids: Annotated[
        bool, typer.Option("--uids", help="Name studies by their Study Instance UID, not by a hash of it.")
    ] = False,
) -> None:
    """Print how many studies are in each state, and those that wait, failed or need a person, with the reason.

    Exit code 1: a study is in quarantine or lacks an answer that was given up, nobody has confirmed a source that is
    unlike the training, or the audit trail was changed.
    """
    from casewise.errors import counted
    from casewise.plugins.node.records import StudyState
    from casewise.plugins.node.service import works
    from casewise.plugins.node.state import FEW_STUDIES, state_of

    settings = _settings(file)
    state = state_of(settings.folder)
    breaks, head = state.check_trail()
    counts, deliveries, unfinished = state.counts(), state.delivery_counts(), state.studies(unfinished=True)
    details = {study.id: state.undelivered(study) for study in unfinished}
    problem = state.problem if works(settings.folder) else f"no node works in this folder: `casewise node run {file}`"
    recent = state.recent(state.bundle, settings.monitor.since_seconds)
    state.close()
    if problem:
        print(problem)
    print(", ".join(f"{count:,} {each}" for each, count in counts.items()))
    for (partner, how), count in deliveries.items():
        print(f"{partner}: {counted(count, 'answer')} {how}")
    if breaks:
        print(f"audit trail: changed at event {breaks[0]:,}; restore {state.path} from a backup, and find out who did")
    else:
        print(f"audit trail: unbroken, its last event has the SHA-256 {head}")
    for source, warning in recent.warnings.items():
        by = recent.confirmation_of(source)
        confirmed = f"confirmed by {by['by']} ({by['at']}): {by['reason']}" if by else "answers have no confidence"
        print(f"source {source or FEW_STUDIES}: since {warning['at']}, {confirmed}")
        print(f"    {warning['drift']['text']}")
        print(f"    answered with confidence before: {', '.join(warning['before'])}")
    for study in unfinished:
        tried = f", {counted(study.attempts, 'attempt')}" * bool(study.attempts)
        name = study.uid if uids else study.label
        print(f"{name}  {study.state} since {study.changed_at}, {counted(study.images, 'image')}{tried}")
        for reason in filter(None, (study.reason, study.unwritten, *details[study.id])):
            print(f"    {reason}")
    given_up = any(how == "given up" for _, how in deliveries)
    unconfirmed = any(not recent.confirmation_of(source) for source in recent.warnings)
    lacking = any(study.unwritten for study in unfinished)
    if counts[StudyState.QUARANTINED] or breaks or given_up or lacking or unconfirmed:
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

    The answers of a study that has all are delivered once more.
    """
    from casewise.plugins.node.records import StudyState
    from casewise.plugins.node.state import state_of

    settings = _settings(file)
    state = state_of(settings.folder, settings.retry)
    names = [each.id for each in state.studies(unfinished=True) if everything and each.state != StudyState.WAITING]
    if not names and not studies and not everything:
        raise typer.BadParameter("State studies, or --all.")
    for name in [*names, *(studies or ())]:
        study = state.retry(name, settings.routes())
        print(f"{study.label} is {study.state}")
    state.close()


@node.command()
def discard(file: NodeFile, studies: Studies) -> None:
    """Dismiss studies that are in quarantine, failed, or wait for a partner: they need no answer.

    Nothing is removed from Orthanc. A study of which images arrive later is answered; `retry` puts it back.
    """
    from casewise.plugins.node.state import state_of

    if not studies:
        raise typer.BadParameter("State studies.")
    state = state_of(_settings(file).folder)
    for name in studies:
        print(f"{state.discard(name).label} is discarded")
    state.close()


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
