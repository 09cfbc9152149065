"""The commands of reader studies: score cases, compare readers, and plan how many cases are needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casewise.cli.run import Quiet, Settings, StudyFile

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.cohort.cohort import Cohort
    from casewise.plugins.readers.form import Form
    from casewise.plugins.readers.rating.readings import Readings
    from casewise.plugins.readers.rating.sessions import SessionRequest
    from casewise.plugins.readers.rating.store import ReadingStore
    from casewise.study.schema import Study

DOUBTFUL_CASES = 25
Folder = Annotated[
    Path | None, typer.Option("--output", help="The folder of the readings [default: runs/<study's name>-readings].")
]
Sessions = Annotated[
    list[str] | None,
    typer.Option("--session", help="A session by its name; may be repeated [default: all blind ones]."),
]


def rate(
    study: StudyFile,
    reader: Annotated[
        list[str] | None,
        typer.Option(help="The name of a reader; repeat for several, each of whom gets an address of his own."),
    ] = None,
    output: Folder = None,
    session: Annotated[str, typer.Option(help="The name of the session [default: its kind, such as blind].")] = "",
    aided: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="A second session that shows predictions of this run, for cases it did not learn."
        ),
    ] = None,
    adjudicate: Annotated[
        bool, typer.Option("--adjudicate", help="A session of the cases on which readers disagree, with their values.")
    ] = False,
    doubtful: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A blind session of cases whose label this run doubts, among as many others."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=0, help="--doubtful: how many doubtful cases [default: 25].", show_default=False)
    ] = 0,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the labels of all readers as a table (CSV), and end; with --doubtful the labels of its session "
            "and the number of changed labels.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; other computers need a reader's token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8100,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Score the cases of a study in the browser: blind, by keyboard, in an order of each reader's own."""
    from casewise.console import Silent, Terminal
    from casewise.errors import CasewiseError
    from casewise.plugins.readers.rating.store import ReadingStore, check_reader

    show = Silent() if quiet else Terminal()
    if sum(map(bool, (aided, adjudicate, doubtful))) > 1:
        raise CasewiseError("--aided, --adjudicate and --doubtful are different sessions; give one of them.")
    if count and not doubtful:
        raise CasewiseError("--count is the number of doubtful cases; state the run as well: --doubtful RUN.")
    count = count or DOUBTFUL_CASES
    if export and (aided or adjudicate):
        raise CasewiseError("--export writes what was read; leave out --aided and --adjudicate.")
    names = list(dict.fromkeys(check_reader(name, "--reader") for name in reader or []))
    if session:
        check_reader(session, "--session")
    with show.bar("rate"):
        opened = _opened(study, settings, output)
        store = ReadingStore(opened.folder, create=not (export or adjudicate))
    try:
        if export:
            sessions = [session or "doubtful"] if doubtful else [session] if session else []
            _export(opened, store, export, sessions, doubtful, count)
            return
        request = _request(opened, store, session, aided=aided, adjudicate=adjudicate, doubtful=doubtful, count=count)
        _serve(opened, store, request, names, host, port, quiet=quiet)
    finally:
        store.close()


def agreement(
    study: StudyFile,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A finished run, whose model is compared with the readers.")
    ] = None,
    output: Folder = None,
    session: Sessions = None,
    page: Annotated[
        Path | None, typer.Option(help="The page to write [default: agreement.html in the folder].")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Write how far readers agree, with themselves and each other, and how a model compares with them."""
    from casewise.analysis.run import Run
    from casewise.console import Silent, Terminal
    from casewise.plugins.readers.model_values import model_values
    from casewise.plugins.readers.statistics.agreement_page import write_agreement
    from casewise.run_folder.folder import check_page

    if page:
        check_page(page, ".html", "--page")
    show = Silent() if quiet else Terminal()
    with show.bar("agreement"):
        opened = _opened(study, settings, output)
        form, table = _readings(opened, session or [])
        finished = Run.open(run) if run else None
        values = model_values(finished, form, to_compare=True) if finished else None
        if finished:
            table = _without_other_runs(table, opened.folder, finished)
        path = write_agreement(table, form, page or opened.folder / "agreement.html", study=opened.study, model=values)
    if not quiet:
        print(f"wrote {path}")


def plan_size(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder: the pilot.")],
    width: Annotated[
        list[float] | None,
        typer.Option(help="A wanted width of the interval of the primary metric, such as 0.1; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The page to write [default: plan-size.html in the run].")] = None,
    quiet: Quiet = False,
) -> None:
    """Estimate how intervals and error would change with more subjects, from a finished run as a pilot."""
    from casewise.console import Silent, Terminal
    from casewise.plugins.readers.plan_size import plan_size as planned

    show = Silent() if quiet else Terminal()
    with show.bar("plan-size"):
        plan = planned(run_folder, output, width or (), show)
    if not quiet:
        print(plan.text)
        print(f"wrote {plan.page}")


@dataclass(frozen=True)
class _Opened:
    """A study, its cohort without labels, and the folder of its readings."""

    study: Study
    cohort: Cohort
    folder: Path

    def readings(self, store: ReadingStore) -> Readings:
        from casewise.plugins.readers.rating.readings import readings_of

        return readings_of(self.study, self.cohort, store)


def _opened(path: Path, settings: list[str] | None, output: Path | None) -> _Opened:
    from casewise.cohort.cohort import read_cohort
    from casewise.study.loading import read_study
    from casewise.study.scores import check_study_scores

    study = read_study(path, settings=settings or [])
    check_study_scores(study)
    cohort = read_cohort(study, to_learn=False, labelled=False)
    return _Opened(study, cohort, output or Path("runs") / f"{study.name}-readings")


def _readings(opened: _Opened, sessions: list[str]) -> tuple[Form, pd.DataFrame]:
    """The readings of sessions; without any, those in the columns of `evaluation.readers`.

    Raises:
        CasewiseError: there are none, or no session of this name.
    """
    from casewise.plugins.readers.rating.store import NAME, ReadingStore
    from casewise.plugins.readers.reader_columns import column_readings, columns_form, with_scores

    study = opened.study
    columns = study.evaluation.readers and not sessions
    if columns and not (opened.folder / NAME).exists():
        return columns_form(study), column_readings(study, opened.cohort)
    store = ReadingStore(opened.folder, create=False)
    try:
        if columns and not store.entries():
            return columns_form(study), column_readings(study, opened.cohort)
        _check_sessions(store, sessions)
        readings = opened.readings(store)
        _print_left_out(readings)
        chosen = readings.table["session"].isin(sessions or store.sessions())
        return with_scores(study, readings.form, readings.table[chosen])
    finally:
        store.close()


def _without_other_runs(table: pd.DataFrame, folder: Path, run: Run) -> pd.DataFrame:
    """The readings without sessions that showed predictions of another run."""
    from casewise.plugins.readers.model_values import source_of
    from casewise.plugins.readers.rating.store import NAME, ReadingStore

    if not (folder / NAME).exists():
        return table
    store = ReadingStore(folder, create=False)
    try:
        others = [n for n, k in store.sessions().items() if k == "aided" and store.source(n) != source_of(run)]
    finally:
        store.close()
    if (left_out := table["session"].isin(others)).any():
        print(f"left out, because they showed predictions of another run: {', '.join(others)}", file=sys.stderr)
    return table[~left_out]


def _check_sessions(store: ReadingStore, names: list[str]) -> None:
    from casewise.errors import CasewiseError, none_of

    for name in names:
        if name not in (sessions := store.sessions()):
            raise CasewiseError(f"--session: {none_of(name, list(sessions) or ['(no session yet)'])}")


def _print_left_out(readings: Readings) -> None:
    """Values that are not used."""
    if readings.left_out:
        print(
            f"{readings.left_out:,} values are not used: they are of cases that are not in the table any more, or not "
            "accepted by the form any more.",
            file=sys.stderr,
        )


def _export(
    opened: _Opened, store: ReadingStore, path: Path, sessions: list[str], doubtful: Path | None, count: int
) -> None:
    """Write the labels; of a second reading, cases that were not read again keep theirs."""
    from casewise.analysis.run import Run
    from casewise.errors import CasewiseError, counted
    from casewise.plugins.readers.model_values import source_of
    from casewise.plugins.readers.rating.export import check_export, labels_of, study_lines, write_labels
    from casewise.plugins.readers.second_reading import second_reading_lines

    check_export(path, opened.study.cohort)
    _check_sessions(store, sessions)
    study, readings = opened.study, opened.readings(store)
    if doubtful and store.source(sessions[0]) != source_of(Run.open(doubtful), count):
        raise CasewiseError(f"The session {sessions[0]} began with another run or --count: state these.")
    labels = labels_of(readings, study, opened.cohort, sessions, keep=doubtful is not None)
    table, every = write_labels(labels, readings, path)
    print(f"wrote {table}, and all readings with their comments to {every}")
    _print_left_out(readings)
    for name, rule in labels.rules.items():
        without = f"; {counted(labels.without[name], 'value')} without a label" if labels.without[name] else ""
        print(f"  {name}: {rule} of {', '.join(labels.readers[name])}{without}")
    if doubtful:
        print("\n".join(second_reading_lines(Run.open(doubtful), readings.form, count, labels)))
    print(f"for a study file:\n{study_lines(labels, study, path)}")


def _request(
    opened: _Opened,
    store: ReadingStore,
    name: str,
    *,
    aided: Path | None,
    adjudicate: bool,
    doubtful: Path | None,
    count: int,
) -> SessionRequest:
    """The session that the options ask for.

    Raises:
        CasewiseError: there is nothing to adjudicate, or the run has no predictions of these cases.
    """
    from casewise.analysis.run import Run
    from casewise.plugins.readers.rating.sessions import SessionRequest

    if not (aided or adjudicate or doubtful):
        return SessionRequest(name or "blind")
    readings = opened.readings(store)
    if aided:
        from casewise.plugins.readers.model_values import model_values, shown_values, source_of

        run = Run.open(aided)
        shown = shown_values(model_values(run, readings.form), readings.form, readings.items)
        return SessionRequest(name or "aided", "aided", shown, source_of(run))
    if adjudicate:
        from casewise.plugins.readers.rating.export import adjudication_items

        return SessionRequest(name or "adjudication", "adjudication", adjudication_items(readings, opened.study))
    from casewise.plugins.readers.doubtful import blinded_items
    from casewise.plugins.readers.model_values import source_of

    assert doubtful is not None
    run = Run.open(doubtful)
    items = blinded_items(run, readings.form, readings.items, count)
    return SessionRequest(name or "doubtful", "doubtful", items, source_of(run, count))


def _serve(
    opened: _Opened,
    store: ReadingStore,
    request: SessionRequest,
    readers: list[str],
    host: str,
    port: int,
    *,
    quiet: bool,
) -> None:
    from casewise.console import Silent, Terminal
    from casewise.errors import CasewiseError
    from casewise.plugins.readers.rating.sessions import open_session

    try:
        from casewise.plugins.readers.rating.server import RateSettings, run_rating
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette", "h11"):
            raise
        raise CasewiseError(
            "`casewise rate` needs an optional part of casewise: `pip install 'casewise[serve]'`."
        ) from error
    options = RateSettings(host=host, port=port, readers=tuple(readers or ["reader"]))
    options.check()
    session = open_session(opened.study, opened.cohort, store, request)
    store.check_names(options.readers)
    _print_left_out(opened.readings(store))
    run_rating(session, store, options, Silent() if quiet else Terminal())
